import hashlib
import http.server
import io
import re
import sys
import tarfile
import threading

import pytest
import torch

from attn_course import data


def test_encoding_and_decoding_give_the_text_back():
    text = "def f(x):\n    return x ** 2  # ~\n"
    assert data.decode(data.encode(text)) == text


def test_a_character_outside_the_alphabet_becomes_the_unknown_token():
    tokens = data.encode("aé\t")
    assert tokens.tolist()[1:] == [data.UNKNOWN, data.UNKNOWN]
    assert tokens.max() < data.VOCABULARY_SIZE


def test_the_standard_library_is_split_by_module_without_overlap():
    assert not set(data.TRAIN_MODULES) & set(data.TEST_MODULES)
    text = data.standard_library()
    assert len(text.train) > 5 * len(text.test) > 0
    assert int(text.train.max()) < data.VOCABULARY_SIZE


def test_another_text_than_the_recorded_one_is_said(monkeypatch):
    same = sys.version_info[:3] == tuple(int(part) for part in data.RECORDED_PYTHON.split("."))
    assert ("the same text" in data.standard_library().note) == same
    monkeypatch.setattr(data, "TEST_MODULES", ("cmd", "no_such_module"))
    note = data.standard_library().note
    assert "differs" in note and "no_such_module" in note


def test_a_python_without_its_sources_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(data.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="argparse"):
        data.standard_library()


def test_tokens_are_integers():
    assert data.encode("x").dtype == torch.long


# --- Images -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clutter():
    return data.cluttered_digits(train_count=211, test_count=53)


def test_the_digits_are_split_once_and_for_all_without_overlap():
    parts = data.digits()
    assert (len(parts.train_images), len(parts.test_images)) == (1347, 450)
    assert parts.train_images.shape[1:] == (1, 8, 8) and parts.train_images.dtype == torch.float32
    assert parts.train_images.min() == 0 and parts.train_images.max() == 1
    shown = [{tuple(image.flatten().tolist()) for image in images} for images in parts_images(parts)]
    assert not shown[0] & shown[1]
    shares = parts.test_labels.bincount() / (parts.test_labels.bincount() + parts.train_labels.bincount())
    assert shares.min() > 0.24 and shares.max() < 0.26  # a quarter of each class
    again = data.digits()
    assert torch.equal(again.test_labels, parts.test_labels)


def parts_images(parts):
    return parts.train_images, parts.test_images


def test_the_recorded_scenes_are_the_same_everywhere():
    scenes = data.cluttered_digits()
    assert (len(scenes.train.images), len(scenes.test.images)) == (4000, 1000)
    for part, grey, ink, labels, corner in (
        (scenes.train, 2_876_290_975, 461_216, 17_964, 74_385),
        (scenes.test, 728_209_172, 116_404, 4_479, 18_377),
    ):
        levels = (256 * part.images).long()
        assert torch.equal(levels.float() / 256, part.images)  # whole 256ths: no rounding, on no machine
        found = int(part.masks.sum()), int(part.labels.sum()), int(part.boxes[:, :2].sum())
        assert (int((levels * torch.arange(1, 33)).sum()), *found) == (grey, ink, labels, corner)


def test_the_mask_is_the_ink_of_the_digit_that_is_named(clutter):
    bare = data.cluttered_digits(train_count=211, test_count=53, fragments=0)
    for with_clutter, alone in ((clutter.train, bare.train), (clutter.test, bare.test)):
        assert torch.equal(with_clutter.masks, alone.masks) and torch.equal(with_clutter.labels, alone.labels)
        assert torch.equal(alone.masks, alone.images[:, 0] >= 0.25)
        assert (with_clutter.images >= alone.images).all()  # fragments are laid over, nothing is wiped out
        assert (with_clutter.images > alone.images).any()


def test_a_box_is_the_smallest_that_holds_the_mask(clutter):
    for mask, (top, left, bottom, right) in zip(clutter.test.masks, clutter.test.boxes.tolist(), strict=True):
        inside = torch.zeros_like(mask)
        inside[top:bottom, left:right] = True
        assert not (mask & ~inside).any()
        edges = mask[top, :], mask[bottom - 1, :], mask[:, left], mask[:, right - 1]
        assert all(edge.any() for edge in edges)


def test_nothing_of_a_test_digit_is_seen_in_training(monkeypatch):
    """With the training digits erased, the test scenes stay as they are, and the other way round."""
    source = data.digits()
    before = data.cluttered_digits(train_count=31, test_count=29)
    blank = torch.zeros_like(source.train_images)
    monkeypatch.setattr(
        data,
        "digits",
        lambda: data.Digits(blank, source.train_labels, source.test_images, source.test_labels),
    )
    after = data.cluttered_digits(train_count=31, test_count=29)
    assert torch.equal(after.test.images, before.test.images) and after.train.images.sum() == 0


def test_every_digit_is_shown_nearly_as_often_as_any_other():
    labels = data.cluttered_digits(train_count=2 * 1347, test_count=1).train.labels
    assert torch.equal(labels.bincount(), 2 * data.digits().train_labels.bincount())


def test_another_seed_gives_other_scenes_and_the_same_seed_the_same():
    first, again, other = (data.cluttered_digits(train_count=7, test_count=5, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.train.images, again.train.images)
    assert not torch.equal(first.train.images, other.train.images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 15}, "size = 15"),
        ({"enlarge": 3}, "enlarge = 3"),
        ({"fragment_size": 17}, "fragment_size = 17"),
        ({"fragments": -1}, "fragments = -1"),
        ({"train_count": 0}, "got 0 and 1000"),
    ],
)
def test_scenes_that_cannot_be_made_are_refused_with_their_numbers(settings, message):
    with pytest.raises(ValueError, match=message):
        data.cluttered_digits(**settings)


def test_the_photographs_come_whole_or_cut_to_size():
    whole, cut = data.photographs(), data.photographs((30, 20))
    assert set(whole) == set(cut) == {"china", "flower"}
    for name in whole:
        assert whole[name].shape == (3, 427, 640) and cut[name].shape == (3, 30, 20)
        assert 0 <= cut[name].min() < cut[name].max() <= 1
        middle = whole[name][:, :, 178:462]  # 427 x 284 is the largest piece of 30 x 20
        assert (cut[name].mean((1, 2)) - middle.mean((1, 2))).abs().max() < 0.01
    with pytest.raises(ValueError, match=r"got \(0, 5\)"):
        data.photographs((0, 5))


# --- CIFAR-10, from a server on this machine ------------------------------------------------------------------


def _record(label, red):
    return bytes([label]) + bytes([red]) * 1024 + bytes([0]) * 1024 + bytes([255]) * 1024


def _archive(**files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


class _Server:
    """Gives the answers in turn, the last one again and again: bytes, or a number for an error."""

    def __init__(self):
        self.answers, self.asked = [], 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                answer = outer.answers[min(outer.asked, len(outer.answers) - 1)]
                outer.asked += 1
                if isinstance(answer, int):
                    self.send_error(answer)
                    return
                content, promised = answer if isinstance(answer, tuple) else (answer, len(answer))
                self.send_response(200)
                self.send_header("Content-Length", str(promised))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/pictures.tar.gz"


@pytest.fixture
def server():
    server = _Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


RAMP = [i % 251 for i in range(3 * 32 * 32)]
GOOD = _archive(
    data_batch_2=_record(7, 51),
    data_batch_1=_record(3, 255) + _record(9, 0),
    test_batch=bytes([5, *RAMP]),
)


def fetch(server, folder, content=GOOD, **options):
    md5 = hashlib.md5(content).hexdigest()
    return data.cifar10(folder, url=server.url, md5=md5, wait_s=0.0, **options)


def test_cifar_is_downloaded_once_and_read_without_unpickling(server, tmp_path):
    server.answers = [GOOD]
    for _ in range(2):
        pictures = fetch(server, tmp_path / "new" / "folder")
    assert server.asked == 1
    assert pictures.train.labels.tolist() == [3, 9, 7] and pictures.test.labels.tolist() == [5]
    assert pictures.train.images.shape == (3, 3, 32, 32) and pictures.train.images.dtype == torch.float32
    assert pictures.train.images[:, :, 13, 29].tolist() == [[1, 0, 1], [0, 0, 1], [pytest.approx(0.2), 0, 1]]
    ramp = torch.tensor(RAMP).view(1, 3, 32, 32)  # colour by colour, row by row
    torch.testing.assert_close(255 * pictures.test.images, ramp.float())
    assert "3 to train on" in pictures.note


def test_a_server_that_fails_or_breaks_off_is_asked_again(server, tmp_path):
    server.answers = [503, (GOOD[:200], len(GOOD)), GOOD]
    assert len(fetch(server, tmp_path).train.images) == 3
    assert server.asked == 3 and [path.name for path in tmp_path.iterdir()] == ["pictures.tar.gz"]


def test_a_download_that_never_succeeds_says_where_from_and_why_and_leaves_nothing(server, tmp_path):
    server.answers = [404]
    with pytest.raises(ConnectionError, match=rf"{re.escape(server.url)} .* 2 attempts: .*404"):
        fetch(server, tmp_path, attempts=2)
    assert server.asked == 2 and not list(tmp_path.iterdir())


def test_another_checksum_is_refused_with_both_and_leaves_nothing(server, tmp_path):
    server.answers = [GOOD + b"x"]
    with pytest.raises(ValueError, match=hashlib.md5(GOOD).hexdigest()):
        fetch(server, tmp_path, attempts=2)
    assert not list(tmp_path.iterdir())


def test_an_archive_that_was_damaged_on_the_disk_is_fetched_anew(server, tmp_path):
    server.answers = [GOOD]
    (tmp_path / "pictures.tar.gz").write_bytes(GOOD[:100])
    assert len(fetch(server, tmp_path).test.images) == 1


def test_an_archive_without_pictures_is_refused(server, tmp_path):
    other = _archive(readme=b"nothing here")
    server.answers = [other]
    with pytest.raises(ValueError, match="holds no pictures"):
        fetch(server, tmp_path, other)


def test_without_a_network_cluttered_digits_take_their_place_and_it_is_said(monkeypatch, tmp_path):
    def refused(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(data.urllib.request, "urlopen", refused)
    monkeypatch.setattr(data.time, "sleep", lambda seconds: None)
    pictures = data.image_data("cifar-10", folder=tmp_path)
    assert pictures.train.images.shape == (4000, 1, 32, 32)
    assert "CIFAR-10 is not to be had" in pictures.note and "no route to host" in pictures.note
    assert "not to be had" not in data.image_data().note


def test_the_folder_can_be_named_by_the_environment(monkeypatch, server, tmp_path):
    server.answers = [GOOD]
    monkeypatch.setenv("ATTN_COURSE_DATA", str(tmp_path / "named"))
    fetch(server, None)
    assert (tmp_path / "named" / "pictures.tar.gz").is_file()


def test_unknown_pictures_are_refused_and_the_known_ones_listed():
    with pytest.raises(ValueError, match="'mnist'; known: cluttered-digits, cifar-10"):
        data.image_data("mnist")


def test_strips_hold_the_digits_that_their_labels_name_in_order():
    task = data.digit_strips(places=5, train_count=23, test_count=11, seed=3)
    source = data.digits()
    assert task.train.images.shape == (23, 1, 8, 40) and task.test.labels.shape == (11, 5)
    for part, images, labels in (
        (task.train, source.train_images, source.train_labels),
        (task.test, source.test_images, source.test_labels),
    ):
        for strip, named in zip(part.images, part.labels, strict=True):
            for place, label in enumerate(named):
                piece = strip[:, :, 8 * place : 8 * place + 8]
                assert label in labels[(images == piece).flatten(1).all(dim=1)]


def test_strips_follow_their_seed_and_refuse_numbers_below_one():
    first, same, other = (data.digit_strips(train_count=7, test_count=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.train.images, same.train.images)
    assert not torch.equal(first.train.images, other.train.images)
    with pytest.raises(ValueError, match="got 0 places, 5 training and 3 test strips"):
        data.digit_strips(places=0, train_count=5, test_count=3)


def test_held_out_digits_are_training_digits_in_two_parts_that_do_not_meet():
    source = data.digits()
    parted = data.held_out(source)
    assert len(parted.train_labels) + len(parted.test_labels) == len(source.train_labels)
    assert len(parted.test_labels) == len(source.train_labels) // 4
    together = torch.cat([parted.train_images, parted.test_images]).flatten(1)
    assert torch.equal(together.unique(dim=0), source.train_images.flatten(1).unique(dim=0))
    scenes = data.cluttered_digits(train_count=9, test_count=5, source=parted)
    assert not torch.equal(scenes.test.images, data.cluttered_digits(train_count=9, test_count=5).test.images)
