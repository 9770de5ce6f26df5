"""Data for the experiments: real, and there without a download.

* Text: the source code of Python's own standard library, which every reader has. It is read where it is installed
  (it stays under the Python licence) and is not part of this repository.
* Images: scikit-learn's handwritten digits and its two photographs, which come with that package; and *cluttered
  digits*, made from the former.
* Where there is a network: CIFAR-10. ``image_data`` is the one switch between the two.
"""

import hashlib
import http.client
import os
import sys
import sysconfig
import tarfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SENTENCE = ("dog", "bites", "man")
"""The short sentence that runs through the book."""

ALPHABET = "\n" + "".join(chr(code) for code in range(32, 127))
"""The characters that a model of text knows: line end and printable ASCII."""

UNKNOWN = len(ALPHABET)
"""The token of every other character."""

VOCABULARY_SIZE = len(ALPHABET) + 1

# The modules that are read, in this order, and what they hold in the Python that made the book's records.
TRAIN_MODULES = (
    "argparse", "calendar", "codecs", "configparser", "contextlib", "copy", "csv", "dataclasses", "difflib", "dis",
    "doctest", "enum", "fractions", "functools", "gettext", "gzip", "heapq", "inspect", "ipaddress", "locale",
    "mailbox", "optparse", "os", "pdb", "pickle", "platform", "plistlib", "pprint", "random", "shlex", "shutil",
    "smtplib", "socket", "statistics", "subprocess", "tarfile", "threading", "trace", "typing", "weakref",
)  # fmt: skip
TEST_MODULES = (
    "cmd",
    "fileinput",
    "mimetypes",
    "selectors",
    "socketserver",
    "tempfile",
    "textwrap",
    "traceback",
    "uuid",
)
RECORDED_PYTHON = "3.11.7"
RECORDED_SHA256 = {
    "train": "b7d22c021e119975b004607c98ab1aaae19368432f3f0708541432b0764807c7",
    "test": "468bb7a6627ac93adffcbd98f7c5525120b4398ccf521657fbed8fad067046d2",
}


@dataclass(frozen=True)
class Text:
    """Text as tokens, split by module, and a note on where it comes from.

    ``train`` and ``test`` are int64 tensors of shape ``(characters,)``. ``sha256`` maps each part to the hash of its
    text; ``note`` is a sentence that says which Python was read and whether it is the text of the book's records.
    """

    train: Tensor
    test: Tensor
    sha256: dict[str, str]
    note: str


def encode(text: str) -> Tensor:
    """Characters to tokens, ``(len(text),)`` int64; what is not in ``ALPHABET`` becomes ``UNKNOWN``."""
    index = {character: token for token, character in enumerate(ALPHABET)}
    return torch.tensor([index.get(character, UNKNOWN) for character in text], dtype=torch.long)


def decode(tokens: Tensor) -> str:
    """Tokens ``(n,)`` back to characters; ``UNKNOWN`` shows as ``�``."""
    return "".join((ALPHABET + "�")[token] for token in tokens.tolist())


def standard_library() -> Text:
    """The source code of a fixed list of standard-library modules, as characters.

    The split is by module, so that no line of a test module has been trained on. Another version of Python holds
    another text: that is said in ``note``, and figures then differ from the book's.

    Raises:
        FileNotFoundError: this Python was installed without its sources.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    parts, missing = {}, []
    for name, modules in {"train": TRAIN_MODULES, "test": TEST_MODULES}.items():
        files = [folder / f"{module}.py" for module in modules]
        missing += [file.stem for file in files if not file.is_file()]
        parts[name] = "\n".join(file.read_text("utf-8") for file in files if file.is_file())
    if not parts["train"] or not parts["test"]:
        raise FileNotFoundError(
            f"no sources of the standard library in {folder}; missing: {', '.join(missing)}"
        )

    sha256 = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in parts.items()}
    version = ".".join(map(str, sys.version_info[:3]))
    size = f"{len(parts['train']):,} characters to train on, {len(parts['test']):,} to test on"
    if sha256 == RECORDED_SHA256:
        note = f"The standard library of Python {version}: {size}, the same text as in the book's records."
    else:
        note = (
            f"The standard library of Python {version}: {size}. The book's records were made with "
            f"Python {RECORDED_PYTHON}, whose text differs, so figures will differ a little too."
        )
    if missing:
        note += f" Not found here: {', '.join(missing)}."
    return Text(encode(parts["train"]), encode(parts["test"]), sha256, note)


# --- Handwritten digits -------------------------------------------------------------------------------------

# Every draw below comes from NumPy's RandomState, whose numbers are the same on every platform and, by NumPy's promise
# (NEP 19), in every version; grey values are sums of 1/256, which float32 holds exactly. So the images are the same
# everywhere, to the last bit.
_SPLIT_SEED = 1797
_TEST_SHARE = 0.25
_INK = 0.25  # from this grey value on, a pixel of a digit is ink


@dataclass(frozen=True)
class Digits:
    """Images ``(N, 1, 8, 8)``, float32 from 0 (paper) to 1 (ink), and labels ``(N,)``, int64, in two parts."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits() -> Digits:
    """scikit-learn's 1,797 handwritten digits, split once and for all: 1,347 to train on, 450 to test on.

    A quarter of each class, drawn with a fixed seed, is the test part.

    Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (CC BY 4.0),
    https://doi.org/10.24432/C50P49.
    """
    from sklearn.datasets import load_digits  # here: it takes longer to import than all the rest

    source = load_digits()
    labels = source.target.astype(np.int64)
    random = np.random.RandomState(_SPLIT_SEED)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        members = random.permutation(np.flatnonzero(labels == label))
        is_test[members[: round(_TEST_SHARE * len(members))]] = True
    images = torch.from_numpy(source.images).float()[:, None] / 16
    tests = torch.from_numpy(is_test)
    everything = torch.from_numpy(labels)
    return Digits(images[~tests], everything[~tests], images[tests], everything[tests])


def held_out(source: Digits) -> Digits:
    """The training digits alone, parted again: every fourth to choose settings by, the others to train on.

    What is chosen with them (a learning rate) has not seen a test digit.
    """
    is_held = torch.arange(len(source.train_labels)) % 4 == 3
    images, labels = source.train_images, source.train_labels
    return Digits(images[~is_held], labels[~is_held], images[is_held], labels[is_held])


@dataclass(frozen=True)
class Strips:
    """Digits in a row: images ``(N, 1, 8, 8·places)``, float32 from 0 to 1, and labels ``(N, places)``, int64."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class StripTask:
    """Strips to train on and to test on; no digit is in both."""

    train: Strips
    test: Strips


def digit_strips(
    *,
    places: int = 6,
    train_count: int = 4000,
    test_count: int = 1000,
    seed: int = 0,
    source: Digits | None = None,
) -> StripTask:
    """Strips of handwritten digits, each drawn by itself, so that nothing in a strip foretells its neighbour.

    Args:
        places: digits in a strip.
        train_count: how many training strips, made from the training digits.
        test_count: how many test strips, made from the test digits.
        seed: another seed gives other strips of the same digits.
        source: where the digits come from; `digits()` unless given.

    Raises:
        ValueError: a number below 1.
    """
    if min(places, train_count, test_count) < 1:
        raise ValueError(
            f"expected at least 1 place and 1 strip in each part, got {places} places, {train_count} training and "
            f"{test_count} test strips"
        )
    source = source or digits()
    parts = []
    for images, labels, count, part in (
        (source.train_images, source.train_labels, train_count, 0),
        (source.test_images, source.test_labels, test_count, 1),
    ):
        random = np.random.RandomState([seed, part, places])
        shown = torch.from_numpy(random.randint(0, len(labels), size=(count, places), dtype=np.int64))
        rows = images[shown][:, :, 0].transpose(1, 2)  # (N, places, 8, 8) → (N, 8, places, 8)
        parts.append(Strips(rows.reshape(count, 1, 8, 8 * places), labels[shown]))
    return StripTask(*parts)


@dataclass(frozen=True)
class Scenes:
    """Images with one digit each, and where it is.

    ``images (N, 1, size, size)`` float32 from 0 to 1; ``labels (N,)`` int64; ``masks (N, size, size)`` bool, True on
    the digit's ink; ``boxes (N, 4)`` int64, the ink's ``top, left, bottom, right``, the last two exclusive.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Clutter:
    """Cluttered digits to train on and to test on; no digit and no fragment is in both."""

    train: Scenes
    test: Scenes


def cluttered_digits(
    *,
    size: int = 32,
    enlarge: int = 2,
    fragments: int = 8,
    fragment_size: int = 6,
    train_count: int = 4000,
    test_count: int = 1000,
    seed: int = 0,
    source: Digits | None = None,
) -> Clutter:
    """A whole digit at a random place on a larger canvas, among fragments of other digits: what is it?

    Digits are enlarged from 8 x 8 to ``8 * enlarge`` pixels (bilinear). A fragment is a square crop of an enlarged
    digit other than the one to be found, drawn from the same part of the split: nothing of a test digit is ever
    seen in training. Where pieces overlap, the darker ink shows (their maximum). The mask is the digit's own ink
    (a grey value of at least 1/4), also at the pixels where a fragment lies over it and is darker.

    Args:
        size: side of the canvas, in pixels.
        enlarge: how many times a digit is enlarged: 1 or 2.
        fragments: how many fragments there are on each canvas.
        fragment_size: side of a fragment, in pixels.
        train_count: how many training images, made from the training digits.
        test_count: how many test images, made from the test digits.
        seed: another seed gives other scenes of the same digits.
        source: where the digits come from; `digits()` unless given.

    Raises:
        ValueError: a size or a number that is out of range.

    After the cluttered MNIST of Mnih et al., Recurrent Models of Visual Attention, 2014,
    https://arxiv.org/abs/1406.6247, section 4.1.
    """
    side = 8 * enlarge
    if enlarge not in (1, 2) or not side <= size or not 1 <= fragment_size <= side or fragments < 0:
        raise ValueError(
            f"expected enlarge 1 or 2, size >= 8 * enlarge, 1 <= fragment_size <= 8 * enlarge and fragments >= 0, got "
            f"enlarge = {enlarge}, size = {size}, fragment_size = {fragment_size}, fragments = {fragments}"
        )
    if train_count < 1 or test_count < 1:
        raise ValueError(f"expected at least 1 image in each part, got {train_count} and {test_count}")
    source = source or digits()
    parts = []
    for images, labels, count, part in (
        (source.train_images, source.train_labels, train_count, 0),
        (source.test_images, source.test_labels, test_count, 1),
    ):
        random = np.random.RandomState([seed, part])
        if enlarge == 2:
            images = F.interpolate(images, scale_factor=2.0, mode="bilinear")
        parts.append(_scenes(images[:, 0], labels, count, random, size, fragments, fragment_size))
    return Clutter(*parts)


def _scenes(
    digits: Tensor, labels: Tensor, count: int, random: Any, size: int, fragments: int, fragment_size: int
) -> Scenes:
    """``count`` scenes from ``digits (M, side, side)``; each digit is shown as often as any other, but for one."""
    total, side = digits.shape[:2]
    canvas = torch.zeros(count, size, size)

    def draw(end: int) -> Tensor:
        return torch.from_numpy(random.randint(0, end, size=count, dtype=np.int64))

    rounds = [random.permutation(total) for _ in range(-(-count // total))]
    shown = torch.from_numpy(np.concatenate(rounds)[:count].astype(np.int64))
    top, left = draw(size - side + 1), draw(size - side + 1)
    _paste(canvas, digits[shown], top, left)
    masks = canvas >= _INK

    for _ in range(fragments):
        other = (shown + 1 + draw(total - 1)) % total  # any digit but the one shown
        crop_top, crop_left = draw(side - fragment_size + 1), draw(side - fragment_size + 1)
        image, row, column = _pixels(other, crop_top, crop_left, fragment_size)
        pieces = digits[image, row, column]
        _paste(canvas, pieces, draw(size - fragment_size + 1), draw(size - fragment_size + 1))

    rows, columns = masks.any(dim=2).int(), masks.any(dim=1).int()
    first = [rows.argmax(dim=1), columns.argmax(dim=1)]
    end = [size - line.flip(1).argmax(dim=1) for line in (rows, columns)]
    return Scenes(canvas[:, None], labels[shown], masks, torch.stack([*first, *end], dim=1))


def _pixels(image: Tensor, top: Tensor, left: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of one square in each image: ``(N, 1, 1)``, ``(N, side, 1)`` and ``(N, 1, side)``."""
    step = torch.arange(side)
    return image[:, None, None], (top[:, None] + step)[:, :, None], (left[:, None] + step)[:, None]


def _paste(canvas: Tensor, pieces: Tensor, top: Tensor, left: Tensor) -> None:
    """Lay ``pieces (N, side, side)`` onto ``canvas (N, size, size)``; the darker ink shows."""
    place = _pixels(torch.arange(len(canvas)), top, left, pieces.shape[-1])
    canvas[place] = torch.maximum(canvas[place], pieces)


# --- Photographs --------------------------------------------------------------------------------------------


def photographs(size: tuple[int, int] | None = None) -> dict[str, Tensor]:
    """scikit-learn's two photographs, ``{"china", "flower"}``: ``(3, H, W)``, float32 from 0 to 1.

    As they come, 427 x 640; with ``size = (H, W)`` the largest piece of that shape is cut from the middle and resized
    (bilinear, with anti-aliasing).

    Both are licensed CC BY 2.0: "china" is by danielbuechele
    (https://www.flickr.com/photos/danielbuechele/6061409035), "flower" by vultilion
    (https://www.flickr.com/photos/vultilion/6056698931).

    Raises:
        ImportError: Pillow, which reads them, is not installed (it comes with matplotlib).
        ValueError: a size below 1.
    """
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size must be (H, W), both at least 1, got {size}")
    from sklearn.datasets import load_sample_image

    images = {}
    for name in ("china", "flower"):
        image = torch.from_numpy(load_sample_image(f"{name}.jpg").copy()).permute(2, 0, 1).float() / 255
        images[name] = (image if size is None else _fit(image, *size)).contiguous()
    return images


def _fit(image: Tensor, height: int, width: int) -> Tensor:
    """The largest piece of ``image (3, H, W)`` with the aspect of ``height x width``, from the middle, resized."""
    full_height, full_width = image.shape[1:]
    shrink = min(full_height / height, full_width / width)
    piece_height, piece_width = max(1, round(height * shrink)), max(1, round(width * shrink))
    top, left = (full_height - piece_height) // 2, (full_width - piece_width) // 2
    piece = image[None, :, top : top + piece_height, left : left + piece_width]
    resized = F.interpolate(piece, (height, width), mode="bilinear", antialias=True)[0]
    return resized.clamp(0, 1)


# --- Larger images, where there is a network ------------------------------------------------------------------

CIFAR_10 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
"""Where its authors keep CIFAR-10."""

_CIFAR_10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # as its authors publish it
_SIDE = 32


@dataclass(frozen=True)
class Labelled:
    """``images (N, C, H, W)``, float32 from 0 to 1, and ``labels (N,)``, int64."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Pictures:
    """Pictures to train on and to test on, each with ``images`` and ``labels``, and a sentence on what they are."""

    train: Labelled | Scenes
    test: Labelled | Scenes
    note: str


def image_data(name: str = "cluttered-digits", *, folder: str | Path | None = None) -> Pictures:
    """The one switch between the images that are always there and larger ones: "cluttered-digits" or "cifar-10".

    Where CIFAR-10 can neither be read nor downloaded, cluttered digits take its place, and ``note`` says so and why.

    Args:
        name: which pictures.
        folder: see ``cifar10``.

    Raises:
        ValueError: another name.
    """
    if name not in ("cluttered-digits", "cifar-10"):
        raise ValueError(f"unknown pictures {name!r}; known: cluttered-digits, cifar-10")
    missing = ""
    if name == "cifar-10":
        try:
            return cifar10(folder)
        except (OSError, ValueError) as error:
            missing = f"CIFAR-10 is not to be had ({error}). Used instead: "
    scenes = cluttered_digits()
    counts = f"{len(scenes.train.images):,} to train on, {len(scenes.test.images):,} to test on"
    return Pictures(scenes.train, scenes.test, f"{missing}cluttered digits, {counts}.")


def cifar10(
    folder: str | Path | None = None, *, url: str = CIFAR_10, md5: str = _CIFAR_10_MD5, attempts: int = 3,
    wait_s: float = 1.0,
) -> Pictures:  # fmt: skip
    """CIFAR-10: 50,000 and 10,000 colour pictures ``(3, 32, 32)`` of ten kinds of things, downloaded once (170 MB).

    The archive is kept in ``folder``, else in the folder that the environment variable ``ATTN_COURSE_DATA`` names,
    else in ``~/.cache/attn_course``. It gets its name only when it is whole and its checksum is right.

    Args:
        folder: where the archive is, or is to be.
        url: where it is fetched from.
        md5: its checksum.
        attempts: how often a download is tried.
        wait_s: seconds between the first two attempts; twice as many each time after.

    Raises:
        ConnectionError: it could not be downloaded; the message holds the address and the last reason.
        ValueError: what was downloaded has another checksum, or no pictures in it.

    Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, https://www.cs.toronto.edu/~kriz/cifar.html
    """
    kept = Path(folder or os.environ.get("ATTN_COURSE_DATA") or Path.home() / ".cache" / "attn_course")
    archive = kept / url.rsplit("/", 1)[-1]
    if not archive.is_file() or _md5(archive) != md5:
        _download(url, archive, md5, attempts, wait_s)
    parts: dict[str, list[Tensor]] = {"data_batch": [], "test_batch": []}
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            kind = Path(member.name).name.rpartition(".bin")[0].rstrip("_12345")
            content = tar.extractfile(member) if kind in parts else None
            if content is not None:
                parts[kind].append(torch.frombuffer(bytearray(content.read()), dtype=torch.uint8))
    if not all(parts.values()):
        raise ValueError(f"{archive} holds no pictures: expected data_batch_1.bin to 5 and test_batch.bin")
    train, test = (_labelled(torch.cat(parts[kind])) for kind in ("data_batch", "test_batch"))
    counts = f"{len(train.images):,} to train on, {len(test.images):,} to test on"
    return Pictures(train, test, f"CIFAR-10, {counts}, from {archive}.")


def _labelled(content: Tensor) -> Labelled:
    """Records of one byte for the label, then the pixels: red, green, blue, row by row."""
    records = content.view(-1, 1 + 3 * _SIDE * _SIDE)
    return Labelled(records[:, 1:].reshape(-1, 3, _SIDE, _SIDE).float() / 255, records[:, 0].long())


def _download(url: str, archive: Path, md5: str, attempts: int, wait_s: float) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f"{archive.name}.{os.getpid()}.part")
    reason: Exception | None = None
    try:
        for attempt in range(attempts):
            if attempt:
                time.sleep(wait_s * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(url, timeout=20) as source, part.open("wb") as target:
                    while block := source.read(2**20):
                        target.write(block)
            except (OSError, http.client.HTTPException) as error:
                reason = error
                continue
            if (found := _md5(part)) == md5:
                part.replace(archive)
                return
            reason = ValueError(f"{url} has the checksum {found}, expected {md5}")
    finally:
        part.unlink(missing_ok=True)
    if isinstance(reason, ValueError):
        raise reason
    raise ConnectionError(f"{url} could not be downloaded in {attempts} attempts: {reason}") from reason


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
