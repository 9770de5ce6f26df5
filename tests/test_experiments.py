import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from attn_course import data
from attn_course.analysis import attention_on_mask
from attn_course.cnn import CBAM, EfficientChannelAttention, SqueezeExcitation
from attn_course.complexity import cost
from attn_course.experiments import chapter1, chapter2, chapter3, chapter6, core
from attn_course.experiments.__main__ import main
from attn_course.training import seeded


def experiment(log: list[int], **changes) -> core.Experiment:
    def run(seed, **settings):
        log.append(seed)
        return {"square": seed**2, **settings}, nn.Linear(2, 1) if seed == 0 else None

    return replace(core.Experiment("squares", "Squares grow.", run, {"size": 3}), **changes)


def test_every_seed_is_recorded_with_machine_and_versions(tmp_path):
    record = core.run(experiment([]), folder=tmp_path, say=lambda line: None)
    assert record.values("square") == [0, 1, 4] and record.values("size") == [3, 3, 3]
    found = core.load("squares", folder=tmp_path)
    assert found == record and found.machine and found.versions["torch"]


def test_a_recorded_seed_is_not_run_again(tmp_path):
    log: list[int] = []
    core.run(experiment(log, seeds=(0, 1)), folder=tmp_path, say=lambda line: None)
    core.run(experiment(log, seeds=(0, 1, 2)), folder=tmp_path, say=lambda line: None)
    assert log == [0, 1, 2]


def test_an_interrupt_loses_the_seed_in_progress_alone(tmp_path):
    def run(seed, **settings):
        if seed == 1:
            raise KeyboardInterrupt
        return {"square": seed**2}, None

    with pytest.raises(KeyboardInterrupt):
        core.run(experiment([], run=run), folder=tmp_path, say=lambda line: None)
    assert core.load("squares", folder=tmp_path).values("seed") == [0]
    assert [path.name for path in (tmp_path / "experiments").iterdir()] == ["squares.json"]


def test_other_settings_are_refused_and_the_record_stays(tmp_path):
    core.run(experiment([]), folder=tmp_path, say=lambda line: None)
    path = tmp_path / "experiments" / "squares.json"
    before = path.read_bytes()
    with pytest.raises(ValueError, match="'size': 5"):
        core.run(experiment([], settings={"size": 5}), folder=tmp_path, say=lambda line: None)
    assert path.read_bytes() == before
    record = core.run(
        experiment([], settings={"size": 5}), folder=tmp_path, restart=True, say=lambda line: None
    )
    assert record.values("size") == [5, 5, 5]


def test_a_record_begun_elsewhere_is_not_continued_here(tmp_path):
    core.run(experiment([], seeds=(0,)), folder=tmp_path, say=lambda line: None)
    path = tmp_path / "experiments" / "squares.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "machine": "another"}))
    with pytest.raises(ValueError, match="begun on another"):
        core.run(experiment([]), folder=tmp_path, say=lambda line: None)


def test_the_first_seeds_model_comes_back(tmp_path):
    kept = {}

    def run(seed, **settings):
        model = nn.Linear(2, 1)
        kept[seed] = model.weight.clone()
        return {}, model

    core.run(experiment([], run=run), folder=tmp_path, say=lambda line: None)
    model = core.load_model("squares", nn.Linear(2, 1), folder=tmp_path)
    assert model.weight.equal(kept[0]) and not model.training


def test_a_file_that_is_no_record_is_told_and_a_missing_one_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="make experiments"):
        core.load("squares", folder=tmp_path)
    path = tmp_path / "experiments" / "squares.json"
    path.parent.mkdir()
    path.write_text('{"experiment": "squares"')
    with pytest.raises(ValueError, match="not the record"):
        core.load("squares", folder=tmp_path)


def test_an_unknown_name_lists_what_there_is(capsys):
    assert main(["run", "no-such-experiment"]) == 2
    assert "language-model" in capsys.readouterr().err


def test_every_experiment_is_recorded_for_all_its_seeds_with_its_present_settings():
    for name, known in core.catalog().items():
        record = core.load(name)
        assert tuple(record.values("seed")) == known.seeds
        assert record.settings == json.loads(json.dumps(known.settings))


def test_the_kept_model_is_the_one_of_the_record():
    record = core.load("language-model")
    model = core.load_model("language-model", chapter1.CharacterModel())
    text = data.standard_library()
    if text.sha256 != record.runs[0]["text_sha256"]:  # another Python has another text, and other bits
        return
    inputs, targets = chapter1.test_windows(text.test, record.settings["length"])
    with torch.no_grad():
        assert chapter1.bits_per_character(model, inputs, targets) == pytest.approx(
            record.runs[0]["bits"], abs=0.01
        )


def test_the_innermost_open_bracket_is_found():
    inside = chapter1.opening_brackets(data.encode("a(b(c)d)e)("))
    #          a   (  b  (  c  )  d  )   e   )   (
    expected = [-1, -1, 1, 1, 3, 1, 1, -1, -1, -1, -1]
    assert inside.tolist() == expected


def test_habits_of_hand_made_heads_are_exact():
    tokens = data.encode("f(abcd)").repeat(2, 1)
    n = tokens.shape[1]
    previous = torch.zeros(2, n, n)
    previous[:, torch.arange(n), (torch.arange(n) - 1).clamp_min(0)] = 1
    bracket = torch.zeros(2, n, n)
    bracket[:, torch.arange(n), torch.tensor([0, 0, 1, 1, 1, 1, 1])] = 1
    first, second = chapter1.head_habits([torch.stack([previous, bracket], dim=1)], tokens)
    assert (first["previous_weight"], first["previous_top"], first["bracket_weight"]) == (1, 1, 0)
    assert (second["bracket_weight"], second["bracket_top"]) == (1, 1)
    assert second["bracket_queries"] == 2 * 3  # b, c and d stand at least two places after the bracket
    assert first["previous_even"] == pytest.approx(sum(1 / k for k in range(2, n + 1)) / (n - 1))


def test_counting_finds_the_entropy_of_what_was_counted():
    text = data.encode("ab" * 500 + "\n")
    inputs, targets = text[None, :1000], text[None, 1:1001]
    bits = chapter1.baselines(text, inputs, targets)
    assert bits["bigram"] < 0.3 < bits["unigram"] < 1.5


def test_the_model_never_looks_ahead():
    model = chapter1.CharacterModel(d_model=8, num_heads=2, num_layers=2).eval()
    tokens = torch.arange(11)[None]
    changed = tokens.clone()
    changed[0, 7:] += 5
    a, b = model(tokens)[0], model(changed)[0]
    torch.testing.assert_close(a[:, :7], b[:, :7])
    assert not a[:, 7:].allclose(b[:, 7:])


# --- Chapter 2 ------------------------------------------------------------------------------------------


def test_five_back_asks_for_the_letter_five_places_before():
    tokens, targets, asked = chapter2.five_back(3, 13, torch.Generator().manual_seed(0))
    assert tokens.unique().tolist() == list(range(chapter2.LETTERS))
    assert asked.equal((torch.arange(13) >= 5).expand(3, 13))
    assert targets[:, 5:].equal(tokens[:, :8]) and not targets[:, :5].any()
    assert chapter2.five_back_source(tokens)[1].tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]


def test_flip_flop_asks_each_read_for_the_bit_written_last():
    write_0, write_1, ignore_0, ignore_1, read = range(5)
    story = [write_1, ignore_0, read, ignore_0, write_0, ignore_1, read, read, write_1, write_1, read]
    source = chapter2.flip_flop_source(torch.tensor([story, story[4:] + [read] * 4]))
    assert source.tolist() == [[0, 0, 0, 0, 4, 4, 4, 4, 8, 9, 9], [0, 0, 0, 0, 4, 5, 5, 5, 5, 5, 5]]

    tokens, targets, asked = chapter2.flip_flop(31, 97, torch.Generator().manual_seed(0))
    assert asked.equal(tokens == read) and (tokens[:, 0] <= write_1).all()
    for row, answers, questions in zip(tokens.tolist(), targets.tolist(), asked.tolist(), strict=True):
        memory = None
        for token, answer, question in zip(row, answers, questions, strict=True):
            memory = token if token <= write_1 else memory
            assert answer == (memory if question else 0)
    often = tokens[:, 1:].flatten().bincount(minlength=5) / tokens[:, 1:].numel()
    assert often[:2].sum().item() == pytest.approx(chapter2.WRITE, abs=0.02)
    assert often[read].item() == pytest.approx(chapter2.READ, abs=0.03)


@pytest.mark.parametrize("encoding", chapter2.ENCODINGS)
def test_a_tagging_model_answers_everywhere_and_never_looks_ahead(encoding):
    torch.manual_seed(0)
    model = chapter2.TaggingModel(7, 3, encoding=encoding, d_model=24, num_heads=2, max_len=19).eval()
    tokens = torch.randint(7, (2, 17), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:, 11:] = (changed[:, 11:] + 1) % 7
    logits, none = model(tokens)
    weighed, weights = model(tokens, need_weights=True)
    assert logits.shape == (2, 17, 3) and none == []
    assert [w.shape for w in weights] == [(2, 2, 17, 17)] * 2
    torch.testing.assert_close(logits, weighed)
    after = model(changed)[0]
    torch.testing.assert_close(logits[:, :11], after[:, :11])
    assert not logits[:, 11:].allclose(after[:, 11:])
    torch.testing.assert_close(logits[:, :5], model(tokens[:, :5])[0])  # a cut sequence is a shorter sequence


@pytest.mark.parametrize("encoding", chapter2.ENCODINGS)
def test_only_a_table_notices_where_the_sequence_starts(encoding):
    torch.manual_seed(0)
    model = chapter2.TaggingModel(7, 3, encoding=encoding, d_model=24, num_heads=2, max_len=19).eval()
    tokens = torch.randint(7, (2, 11), generator=torch.Generator().manual_seed(1))
    moved = model(tokens, start=8)[0].allclose(model(tokens)[0], rtol=0, atol=1e-6)
    assert moved == (encoding not in ("sinusoidal", "learned"))


def test_the_five_encodings_tell_order_apart_where_nothing_else_can():
    # With the last token's neighbours swapped, one layer without positions gives it the same answer.
    tokens = torch.tensor([[0, 1, 2, 3, 4]])
    for encoding in chapter2.ENCODINGS:
        torch.manual_seed(0)
        model = chapter2.TaggingModel(5, 3, encoding=encoding, d_model=24, num_heads=2, num_layers=1).eval()
        blind = model(tokens)[0][:, -1].allclose(model(tokens[:, [2, 0, 3, 1, 4]])[0][:, -1], atol=1e-5)
        assert blind == (encoding == "none")


def test_an_unknown_encoding_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"none, sinusoidal, learned, rotary, alibi, got 'rotery'"):
        chapter2.TaggingModel(5, 3, encoding="rotery")


def test_a_random_start_trains_rows_beyond_the_training_length():
    def moved(random_start):
        with seeded(0):
            fresh = chapter2.TaggingModel(8, 8, encoding="learned", max_len=64).positions.weight.clone()
        model, _ = chapter2.train_tagging_model(
            "five-back", "learned", 0, learning_rate=0.01, steps=5, batch_size=2, length=8, max_len=64,
            random_start=random_start,
        )  # fmt: skip
        # weight decay alone shrinks an untrained row without turning it
        return 1 - torch.cosine_similarity(model.positions.weight, fresh) > 1e-4

    assert moved(False).nonzero().flatten().tolist() == list(range(8))
    assert moved(True)[8:].any()


def test_where_hand_made_heads_look_is_exact():
    n, trained = 24, 6
    tokens = torch.zeros(2, n, dtype=torch.long)
    source = chapter2.five_back_source(tokens)
    asked = torch.arange(n).expand(2, n) >= 5
    right = torch.eye(n)[source].clone()
    first = torch.zeros(2, n, n)
    first[..., 0] = 1
    five, start = chapter2.head_habits(
        [torch.stack([right, first], dim=1)], source, asked, trained=trained, near=7
    )
    assert (five["layer"], five["head"], start["head"]) == (0, 0, 1)
    assert (five["source_weight"], five["far_weight"], five["by_distance"]) == (1, 0, [0, 0, 0, 0, 0, 1, 0])
    assert (start["source_weight"], start["far_weight"], start["by_distance"]) == (0, 1, [0] * 7)


class Oracle(nn.Module):
    """Knows five back up to a position, and flip-flop up to a distance; says 0, or the other bit, beyond."""

    def __init__(self, task, *, position=256, distance=256):
        super().__init__()
        self.task, self.position, self.distance = chapter2.TASKS[task], position, distance
        self.anywhere = nn.Parameter(torch.zeros(()))

    def forward(self, tokens, *, need_weights=False):
        at = torch.arange(tokens.shape[1])
        source = self.task.source(tokens)
        there = tokens.gather(1, source)
        guess = torch.where(at - source < self.distance, there, 1 - there) * (at < self.position)
        weights = nn.functional.one_hot(source, len(at)).float()[:, None]
        return nn.functional.one_hot(guess, 8).float(), [weights] if need_weights else []


def test_an_oracle_is_always_right_and_a_blind_one_is_at_chance():
    found = chapter2.examine(Oracle("five-back"), "five-back", [32, 64])
    assert found["accuracy"] == found["accuracy_end"] == [1, 1] and found["by_position"] == [1] * 8
    assert found["by_distance"] == [1, None, None, None, None]
    assert found["look"]["source_weight"] == [1, 1] and found["look"]["by_distance"][1][5] == 1

    found = chapter2.examine(Oracle("five-back", position=32), "five-back", [32, 64])
    assert found["accuracy_end"] == [1, pytest.approx(1 / 8, abs=0.02)]
    assert found["accuracy"][1] == pytest.approx((27 + 32 / 8) / 59, abs=0.02)
    assert found["by_position"][:4] == [1] * 4 and max(found["by_position"][4:]) < 0.2


def test_a_model_that_forgets_after_sixteen_places_is_seen_to_do_so():
    found = chapter2.examine(Oracle("flip-flop", distance=16), "flip-flop", [32, 128])
    assert found["by_distance"] == [1, 1, 0, 0, 0]


def small(name: str, **changes) -> dict:
    return {
        **core.get(name).settings,
        "length": 8,
        "lengths": [8, 16],
        "steps": 2,
        "batch_size": 2,
        **changes,
    }


def test_two_steps_of_every_experiment_return_the_recorded_keys():
    def keys(outcome):
        return {k: keys(v) for k, v in outcome.items()} if isinstance(outcome, dict) else None

    rates = {"learning_rates": [0.01], "d_model": 8, "num_heads": 2, "num_layers": 1}
    remedies = {
        name: {**remedy, "changes": {key: min(value, 2) for key, value in remedy["changes"].items()}}
        for name, remedy in chapter2.REMEDIES.items()
    }
    for name, changes in (
        ("length-generalisation", {}),
        ("length-generalisation-rates", rates),
        ("length-generalisation-remedies", {"remedies": remedies}),
    ):
        outcome, model = core.get(name).run(3, **small(name, **changes))
        assert model is None and json.loads(json.dumps(outcome)) == outcome
        recorded = {k: v for k, v in core.load(name).runs[0].items() if k not in ("seed", "seconds")}
        assert keys(outcome) == keys(recorded)


def test_a_run_is_the_same_again_from_its_seed():
    settings = small("length-generalisation", learning_rates={"flip-flop": {"rotary": 0.01}})
    first, second, other = (chapter2.run_length_generalisation(seed, **settings)[0] for seed in (3, 3, 4))
    for outcome in (first, second, other):
        del outcome["flip-flop"]["rotary"]["seconds"]
    assert first == second != other


def test_the_best_rate_is_the_one_with_the_best_mean_over_lengths_and_the_larger_of_equals():
    rates = [0.1, 0.2, 0.3]
    clear = [[1.0, 0.2], [0.9, 0.6], [1.0, 0.1]]
    tied = [[1.0, 0.5], [0.9999, 0.5], [0.7, 0.5]]
    run = {
        task: {encoding: tied if encoding == "rotary" else clear for encoding in chapter2.ENCODINGS}
        for task in chapter2.TASKS
    }
    best = chapter2.best_rates(core.Record("", {"learning_rates": rates}, "", {}, 1, [run, run]))
    assert best["flip-flop"] == {encoding: 0.2 for encoding in chapter2.ENCODINGS}
    best = chapter2.best_rates(core.Record("", {"learning_rates": rates[::-1]}, "", {}, 1, [run]))
    assert best["five-back"]["rotary"] == 0.3 and best["five-back"]["alibi"] == 0.2


def test_the_rates_in_use_are_the_best_of_the_recorded_search():
    search = core.load("length-generalisation-rates")
    assert chapter2.best_rates(search) == chapter2.LEARNING_RATES
    used = core.get("length-generalisation").seeds + core.get("length-generalisation-remedies").seeds
    assert not set(used) & set(search.values("seed"))


def test_the_records_of_chapter_2_hold_every_length():
    record = core.load("length-generalisation")
    lengths = record.settings["lengths"]
    for run in record.runs:
        for task in chapter2.TASKS:
            assert tuple(run[task]) == chapter2.ENCODINGS
            for found in run[task].values():
                assert len(found["accuracy"]) == len(found["accuracy_end"]) == len(lengths)
                assert len(found["look"]["far_weight"]) == len(found["look"]["source_weight"]) == len(lengths)
                assert len(found["by_position"]) == lengths[-1] // 8
                assert found["accuracy"][0] == found["accuracy_end"][0]
                assert found["curve"][-1][0] == found["steps"] == record.settings["steps"]


# --- Chapter 3 ----------------------------------------------------------------------------------------------


def few_scenes() -> data.Clutter:
    return data.cluttered_digits(train_count=47, test_count=23)


@pytest.mark.parametrize("name", [*chapter3.VARIANTS, "plain, no norm", "attention-cnn"])
def test_every_network_of_chapter_3_gives_logits_and_its_maps(name):
    model = chapter3.build(name, widths=(5, 7, 11), num_classes=3).eval()
    images = torch.rand(2, 1, 24, 32)
    x = chapter3.prepared(model, images, like=images)
    logits, weights = model(x, need_weights=True)
    assert logits.shape == (2, 3)
    torch.testing.assert_close(model(x), logits)
    stages = {"plain": [], "plain, no norm": [], "self-attention": [2]}.get(name, [0, 1, 2])
    assert len(weights) == len(stages)
    maps = chapter3.attention_maps(model, x, torch.tensor([0, 2]))
    assert {tuple(values.shape) for values in maps.values()} == {(2, 24, 32)}
    assert ("attention received" in maps) == (name in ("self-attention", "attention-cnn"))
    assert ("spatial gate, stage 2" in maps) == (name in ("cbam", "attention-cnn"))


def test_a_network_of_chapter_3_refuses_what_it_cannot_take():
    with pytest.raises(ValueError, match="se, eca, cbam, self-attention"):
        chapter3.SmallCNN("vision")
    with pytest.raises(ValueError, match=r"\(3, 5\)"):
        chapter3.SmallCNN(widths=(3, 5))
    with pytest.raises(ValueError, match=r"\(2, 1, 7, 9\)"):
        chapter3.SmallCNN()(torch.rand(2, 1, 7, 9))
    with pytest.raises(ValueError, match="cannot be brought to 1 FLOPs"):
        chapter3.widths_for("plain", 1, (1, 32, 32))


def test_flops_of_a_network_are_those_of_its_convolutions_and_its_attention():
    plain = sum(18 * i * o * n for i, o, n in [(1, 5, 768), (5, 7, 192), (7, 11, 48)]) + 2 * 11 * 10
    shape = (1, 24, 32)
    assert chapter3.forward_flops(chapter3.build("plain", widths=(5, 7, 11)), shape) == plain
    attention = cost("self-attention-2d", batch=1, channels=11, height=6, width=8).flops
    found = chapter3.forward_flops(chapter3.build("self-attention", widths=(5, 7, 11)), shape)
    assert found == plain + attention


@pytest.mark.parametrize("name", chapter3.VARIANTS)
def test_widths_at_equal_flops_come_within_two_percent(name):
    shape = (1, 32, 32)
    budget = chapter3.forward_flops(chapter3.build("self-attention"), shape)
    widths = chapter3.widths_for(name, budget, shape)
    assert chapter3.forward_flops(chapter3.build(name, widths=widths), shape) == pytest.approx(
        budget, rel=0.02
    )


@pytest.mark.parametrize("count", [1, 3])
def test_images_are_prepared_with_the_training_images_mean_and_spread(count):
    images = torch.rand(13, count, 8, 8) * torch.arange(1, count + 1)[:, None, None] + 3
    seen = chapter3.prepared(chapter3.SmallCNN(in_channels=count), images, like=images)
    torch.testing.assert_close(seen.mean(dim=(0, 2, 3)), torch.zeros(count), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std(dim=(0, 2, 3)), torch.ones(count))
    assert chapter3.prepared(chapter3.build("attention-cnn"), images, like=images).shape == (13, 3, 8, 8)


def test_networks_that_start_from_one_seed_see_the_same_batches():
    scenes = few_scenes()
    seen: list[list[torch.Tensor]] = []

    class Watching(chapter3.SmallCNN):
        def forward(self, x, **options):
            if self.training:
                seen[-1].append(x)
            return super().forward(x, **options)

    for attention in (None, "cbam"):
        seen.append([])
        network = partial(Watching, attention)
        chapter3.train_classifier(network, 5, scenes, steps=2, batch_size=3, learning_rate=0.01)
    assert len(seen[0]) == 2 and all(a.equal(b) for a, b in zip(*seen, strict=True))


def test_both_poolings_channel_first_are_cbam():
    gates, cbam = chapter3.Gates(7, "both", "channel first", reduction=3), CBAM(7, 3)
    cbam.channel_attention.fc.load_state_dict(gates.fc.state_dict())
    cbam.spatial_attention.conv.load_state_dict(gates.conv.state_dict())
    x = torch.randn(2, 7, 11, 5)
    (output, weights), (expected, expected_weights) = (m(x, need_weights=True) for m in (gates, cbam))
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(weights, expected_weights)


def test_the_second_gate_sees_what_the_first_lets_through_and_parallel_gates_see_the_input():
    with seeded(0):  # gates whose hidden layer is not silent
        x = torch.randn(2, 7, 11, 5)
        gates = chapter3.Gates(7, "both", "parallel", reduction=3)
    found = {}
    for order in chapter3.ORDERS:
        gates.order = order
        output, (channel, spatial) = gates(x, need_weights=True)
        found[order] = (channel, spatial)
        torch.testing.assert_close(output, x * channel * (1 if spatial is None else spatial))
    assert found["channel only"][1] is None
    assert found["parallel"][0].equal(found["channel first"][0])
    assert found["parallel"][1].equal(found["spatial first"][1])
    assert not found["parallel"][1].allclose(found["channel first"][1])
    assert not found["parallel"][0].allclose(found["spatial first"][0])


@pytest.mark.parametrize("pooling", chapter3.POOLINGS)
def test_a_gate_reads_the_summary_that_it_is_named_after(pooling):
    x = torch.zeros(1, 2, 4, 4)
    gates = chapter3.Gates(2, pooling, "channel first")
    a, b = gates._summaries(x.flatten(2), dim=2), gates._summaries((x + torch.eye(4)).flatten(2), dim=2)
    change = [(after - before).unique().tolist() for before, after in zip(a, b, strict=True)]
    assert change == {"average": [[0.25]], "max": [[1]], "both": [[0.25], [1]]}[pooling]


def test_the_mark_says_which_digit_counts():
    task = chapter3.cued_digits(101, 53, noise=0.01)
    for part in (task.train, task.test):
        at_mark = part.images[torch.arange(len(part.marks)), 2, part.marks[:, 0], part.marks[:, 1]]
        assert (at_mark > 0.7).equal(part.cues)
        blue = (part.images[:, 2] > 0.7).sum(dim=(1, 2))
        assert blue.equal(4 * part.cues.long())  # nothing else is blue
    same = chapter3.cued_digits(101, 53, noise=0.01)
    assert same.train.images.equal(task.train.images) and same.test.labels.equal(task.test.labels)
    equal_counts = chapter3.cued_digits(53, 53)
    assert not equal_counts.train.marks.equal(equal_counts.test.marks)


def test_a_digit_that_counts_is_the_red_one_unless_the_mark_is_there():
    source = data.digits()
    task = chapter3.cued_digits(211, 3, noise=0.0)
    digit = torch.nn.functional.interpolate(source.train_images, scale_factor=2.0, mode="bilinear")[:, 0]
    ink = digit.sum(dim=(1, 2))
    for i in range(29):
        channel = int(task.train.cues[i])
        total = (task.train.images[i, channel] - 0.15).sum() / 0.85
        candidates = source.train_labels[(ink - total).abs() < 1e-2]
        assert task.train.labels[i] in candidates


def test_overlap_with_the_masks_is_the_mean_of_what_analysis_says_of_own_and_shuffled_masks():
    masks = torch.rand(17, 5, 7, generator=torch.Generator().manual_seed(1)) > 0.7
    maps = torch.rand(17, 5, 7, generator=torch.Generator().manual_seed(2)).round(decimals=1)  # with ties
    found = chapter3.on_mask(maps, masks)
    own = attention_on_mask(maps, masks)
    shuffled = [attention_on_mask(maps, masks.roll(shift, dims=0)) for shift in range(1, 11)]
    for ours, theirs in (("share", "share"), ("hits", "hit"), ("above", "above")):
        assert found[ours] == pytest.approx(own[theirs].mean().item(), rel=1e-5)
        chance = torch.stack([entry[theirs].mean() for entry in shuffled]).mean().item()
        assert found[f"{ours}_shuffled"] == pytest.approx(chance, rel=1e-5)
    assert found["lift"] == found["share"] / found["share_shuffled"]


def test_a_map_that_is_the_same_for_every_image_has_no_lift():
    scenes = few_scenes()
    controls = chapter3.looks_of_controls(scenes)
    assert controls["centre prior"]["lift"] == pytest.approx(1, abs=0.05)  # ten rolls of 23 masks
    assert controls["uniform"]["above"] == 0.5
    assert controls["the mask in cells"]["hits"] > 0.9 and controls["the mask in cells"]["lift"] > 2


def test_attention_received_is_where_the_keys_are_looked_at():
    model = chapter3.build("self-attention", widths=(2, 3, 8)).eval()
    attention = model.attentions["2"]
    images = torch.rand(1, 1, 16, 32)
    features = {}
    attention.register_forward_pre_hook(lambda module, inputs: features.update(x=inputs[0]))
    maps = chapter3.attention_maps(model, images, torch.tensor([0]))
    weights = attention(features["x"], need_weights=True)[1]
    received = weights.mean(dim=1).view(1, 1, 4, 8)
    expected = torch.nn.functional.interpolate(received, (16, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(maps["attention received"], expected.detach())


def test_the_gradient_is_that_of_the_right_class():
    with seeded(0):
        model, images = chapter3.build("plain").eval(), torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        model.classifier.weight[3] = 0
    gradient = chapter3.attention_maps(model, images, torch.tensor([3, 4]))["gradient"]
    assert gradient[0].max() == 0 < gradient[1].max()


@pytest.mark.parametrize("name", [*chapter3.ATTENTIONS, "attention-cnn"])
def test_attention_that_is_the_same_for_every_image_is_not_missed_when_fixed(name):
    scenes = few_scenes()
    model = chapter3.build(name, widths=(5, 7, 11)).eval()
    with torch.no_grad():
        # Gates of one half, whatever comes in; self-attention adds nothing at its start.
        for module in model.modules():
            if isinstance(module, CBAM | SqueezeExcitation | EfficientChannelAttention):
                for parameter in module.parameters():
                    parameter.zero_()
    before = chapter3.predictions(model, chapter3.prepared(model, scenes.test.images, scenes.train.images))
    scenes.test.labels.copy_(before)
    assert chapter3.fixed_accuracy(model, scenes) == 1
    after = chapter3.predictions(model, chapter3.prepared(model, scenes.test.images, scenes.train.images))
    assert after.equal(before)


def test_a_fixed_gate_is_the_mean_over_training_images():
    scenes = few_scenes()
    model = chapter3.build("cbam", widths=(5, 7, 11)).eval()
    images = chapter3.prepared(model, scenes.train.images, scenes.train.images)
    gate = chapter3._mean_gates(model, model.attentions["1"], images)
    _, weights = model(images, need_weights=True)
    channel, spatial = weights[1]
    torch.testing.assert_close(gate, (channel * spatial).mean(dim=0))
    with seeded(0):  # a network whose answers depend on its attention
        whole = chapter3.build("self-attention", widths=(5, 7, 16)).eval()
    torch.nn.init.constant_(whole.attentions["2"].gamma, 50.0)
    x = chapter3.prepared(whole, scenes.test.images, scenes.train.images)
    scenes.test.labels.copy_(chapter3.predictions(whole, x))
    with_attention = chapter3.fixed_accuracy(whole, scenes)
    assert chapter3.predictions(whole, x).equal(scenes.test.labels)  # no hook is left behind
    torch.nn.init.zeros_(whole.attentions["2"].gamma)
    same = (chapter3.predictions(whole, x) == scenes.test.labels).float().mean().item()
    assert with_attention == same < 1


OUTCOME = {"accuracy", "curve", "loss", "learning_rate", "parameters", "flops", "widths", "training_seconds"}


def test_a_short_run_of_each_experiment_of_chapter_3_returns_what_is_recorded(monkeypatch):
    monkeypatch.setattr(chapter3, "cluttered_digits", few_scenes)
    cued = chapter3.cued_digits
    monkeypatch.setattr(chapter3, "cued_digits", lambda **options: cued(31, 13, **options))
    short = {"steps": 2, "batch_size": 3}

    digits, models = chapter3.run_cluttered_digits(0, **{**chapter3.SMALL_SETTINGS, **short})
    assert (
        set(digits["equal_training"]) == set(digits["equal_flops"]) == set(models) == set(chapter3.VARIANTS)
    )
    assert set(digits["equal_training"]["cbam"]) == OUTCOME | {"fixed_accuracy"}
    assert set(digits["equal_flops"]["cbam"]) == OUTCOME
    for entry in digits["equal_flops"].values():
        assert entry["flops"] == pytest.approx(digits["flops_budget"], rel=0.02)
    assert digits["looks"]["se"].keys() == {"feature energy", "gradient"}

    wide, _ = chapter3.run_attention_cnn(0, **{**chapter3.WIDE_SETTINGS, **short})
    assert set(wide["networks"]) == set(wide["looks"]) == set(chapter3.WIDE_SETTINGS["learning_rates"])
    flops = [entry["flops"] for entry in wide["networks"].values()]
    assert max(flops) == pytest.approx(min(flops), rel=0.02)
    longer, model = chapter3.run_attention_cnn_longer(0, **{**chapter3.LONGER_SETTINGS, **short})
    assert (
        set(longer) == OUTCOME | {"looks", "fixed_accuracy", "gamma"}
        and model.conv1.weight.dtype == torch.float16
    )

    gates = [["none", "none"], ["max", "parallel"]]
    pooled, _ = chapter3.run_pooling_and_order(0, **{**chapter3.CUE_SETTINGS, **short, "gates": gates})
    assert [[entry["pooling"], entry["order"]] for entry in pooled["networks"]] == gates
    assert set(pooled["networks"][1]) == OUTCOME | {"pooling", "order", "right", "other"}

    small_rates, _ = chapter3.run_small_rates(0, **short, rates=[0.01], widths=[3, 4, 5], reduction=2)
    wide_rates, _ = chapter3.run_wide_rates(0, **short, rates={"plain, no norm": [0.01, 0.02]})
    cue_rates, _ = chapter3.run_cue_rates(
        0, **short, rates=[0.01], gates=gates, size=32, noise=0.1, reduction=4
    )
    tried = [[entry["network"] for entry in run["tried"]] for run in (small_rates, wide_rates, cue_rates)]
    assert tried == [list(chapter3.VARIANTS), ["plain, no norm"] * 2, ["none, none", "max, parallel"]]
    json.dumps([digits, wide, longer, pooled, small_rates, wide_rates, cue_rates])


def test_each_learning_rate_is_the_best_of_those_tried():
    for name in ("cluttered-digits", "attention-cnn"):
        tried = core.load(f"{name}-rates").runs[0]["tried"]
        for network, rate in core.get(name).settings["learning_rates"].items():
            entries = [entry for entry in tried if entry["network"] == network]
            assert rate == max(entries, key=lambda entry: entry["accuracy"])["learning_rate"]


def test_the_kept_networks_of_chapter_3_are_those_of_the_records():
    scenes = data.cluttered_digits()
    kept = {name: chapter3.build(name) for name in chapter3.VARIANTS}
    core.load_model("cluttered-digits", nn.ModuleDict(kept))
    expected = dict(core.load("cluttered-digits").runs[0]["equal_training"])
    kept["attention-cnn"] = core.load_model("attention-cnn-longer", chapter3.build("attention-cnn"))
    expected["attention-cnn"] = core.load("attention-cnn-longer").runs[0]
    for name, model in kept.items():
        named = chapter3.predictions(model, chapter3.prepared(model, scenes.test.images, scenes.train.images))
        accuracy = (named == scenes.test.labels).float().mean().item()
        assert accuracy == pytest.approx(expected[name]["accuracy"], abs=0.01)


# --- Chapter 6 ----------------------------------------------------------------------------------------------


def test_one_letter_is_marked_and_it_is_the_answer():
    generator = torch.Generator().manual_seed(0)
    tokens, letter, place = chapter6.marked_letter(53, 17, generator)
    assert tokens.shape == (53, 17) and len(set(place.tolist())) > 10
    marked = tokens >= chapter6.LETTERS
    assert (marked.sum(dim=1) == 1).all() and torch.equal(marked.int().argmax(dim=1), place)
    assert torch.equal(tokens[marked] - chapter6.LETTERS, letter) and letter.max() < chapter6.LETTERS
    wished = torch.arange(53) % 17
    tokens, _, place = chapter6.marked_letter(53, 17, generator, place=wished)
    assert torch.equal((tokens >= chapter6.LETTERS).int().argmax(dim=1), wished) and place is wished


def test_letters_back_asks_each_position_for_the_letter_so_many_places_before():
    tokens, targets = chapter6.letters_back(3, 17, torch.Generator().manual_seed(0), back=5)
    assert torch.equal(targets[:, 5:], tokens[:, :-5]) and tokens.max() < chapter6.LETTERS


@pytest.mark.parametrize(("window", "layers"), [(None, 1), (3, 1), (3, 2), (2, 3), (0, 2)])
def test_a_network_of_windows_hears_of_a_token_from_layers_times_reach_places_and_no_farther(window, layers):
    length, at = 19, 9
    with seeded(0):
        model = chapter6.WindowTagger(window, layers, d_model=12, num_heads=3, max_len=length)
    tokens = torch.randint(2 * chapter6.LETTERS, (1, length), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[0, at] = (tokens[0, at] + 1) % chapter6.LETTERS
    with torch.no_grad():
        moved = (model(tokens) - model(changed)).abs().amax(dim=-1)[0]
    heard = (torch.arange(length) - at).abs() <= chapter6.reach(window, layers, length)
    assert moved[heard].min() > 0 and not moved[~heard].any()
    assert heard.all() == (window is None)


def test_reach_and_names_of_window_networks():
    assert [chapter6.reach(w, 3, 64) for w in (None, 8, 21, 22)] == [63, 24, 63, 63]
    assert chapter6.model_name(None, 1) == "full attention, 1 layer"
    assert chapter6.model_name(8, 2) == "window 8, 2 layers"


class NamesTheMarkedLetter(nn.Module):
    """Right up to a distance, and wrong beyond."""

    def __init__(self, distance: int) -> None:
        super().__init__()
        self.distance, self.nothing = distance, nn.Parameter(torch.zeros(()))

    def forward(self, tokens):
        letter, place = tokens.max(dim=1)
        letter = (letter - chapter6.LETTERS)[:, None]
        near = (torch.arange(tokens.shape[1]) - place[:, None]).abs() <= self.distance
        return nn.functional.one_hot(torch.where(near, letter, (letter + 1) % 8), 8).float()


class NamesTheLetterBack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, tokens):
        right = tokens.roll(5, 1)
        return nn.functional.one_hot(torch.where(torch.arange(tokens.shape[1]) < 11, right, 0), 8).float()


def test_accuracy_by_distance_is_that_of_an_oracle_whose_reach_is_known():
    found = chapter6.accuracy_by_distance(NamesTheMarkedLetter(6), 23, count=46)
    assert found == {str(d): float(d <= 6) for d in range(23)}
    found = chapter6.accuracy_back(NamesTheLetterBack(), 17, back=5)  # from position 11 on it says 0
    assert found == pytest.approx((6 + 6 / 8) / 12, abs=0.03)


TINY = {"length": 7, "batch_size": 2, "learning_rate": 0.01, "d_model": 8, "num_heads": 2}


def test_two_steps_of_far_token_return_what_is_recorded():
    settings = {**core.get("far-token").settings, **TINY, "back": 3, "steps": 2, "back_steps": 2}
    outcome, model = core.get("far-token").run(3, **settings)
    recorded = {k: v for k, v in core.load("far-token").runs[0].items() if k not in ("seed", "seconds")}
    assert model is None and json.loads(json.dumps(outcome)) == outcome
    for key, by_name in recorded.items():
        assert outcome[key].keys() == by_name.keys(), key
    assert list(outcome["accuracy"]["window 4, 2 layers"]) == [str(d) for d in range(7)]
    assert set(outcome["accuracy_back"]) >= {"window 8, 1 layer", "full attention, 1 layer"}


def test_the_live_part_is_the_same_again_from_its_seed_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    one, two, other = (
        chapter6.far_token_live(seed, steps=2, models=[[None, 1], [2, 2]], **TINY) for seed in (3, 3, 4)
    )
    assert one == two != other and torch.equal(torch.get_rng_state(), before)
    assert list(one) == ["full attention, 1 layer", "window 2, 2 layers"]
    assert set(chapter6.LIVE) <= {*core.get("far-token").settings}


def test_the_record_of_far_token_holds_every_model_and_every_distance():
    record = core.load("far-token")
    length = record.settings["length"]
    models = [chapter6.model_name(*pair) for pair in record.settings["models"]]
    for run in record.runs:
        assert list(run["accuracy"]) == models
        assert all(list(found) == [str(d) for d in range(length)] for found in run["accuracy"].values())
        assert list(run["accuracy_back"]) == [
            chapter6.model_name(*pair) for pair in record.settings["back_models"]
        ]
        for window, layers in record.settings["models"]:  # what no window lets through cannot be known
            found = run["accuracy"][chapter6.model_name(window, layers)]
            beyond = [found[str(d)] for d in range(chapter6.reach(window, layers, length) + 1, length)]
            assert not beyond or sum(beyond) / len(beyond) < 2 / chapter6.LETTERS
