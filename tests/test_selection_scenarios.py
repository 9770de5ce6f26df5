"""The selector held against measurement: what is run, recorded, resumed, and what is made of it."""

import json

import pytest
import torch

from attn_course import selection
from attn_course.machine import results_folder
from attn_course.selection import SCENARIOS, Scenario, agreement, comparisons, run_scenarios, scenarios
from attn_course.selection.candidates import candidates

QUESTIONS = (
    Scenario({"data_type": "sequential", "sequence_length": 13, "width": 64, "reach": 3}),
    Scenario({"data_type": "spatial", "spatial_dims": (5, 7), "width": 16, "reach": 3, "training": True}),
    Scenario({"data_type": "mixed", "spatial_dims": (11, 13), "reach": 3}),
)


def small_calibration():
    sizes = {
        "length": 11,
        "height": 5,
        "width": 3,
        "channels": 64,
        "batch": 1,
        "generation": False,
        "reach": 2,
    }
    for training in (False, True):
        for kind in ("sequential", "spatial"):
            yield f"small {kind}", training, candidates(kind, training=training, **sizes)


@pytest.fixture
def clocked(monkeypatch):
    """Times that follow from the names alone, and a machine with round ceilings."""
    monkeypatch.setattr(scenarios, "_calibration", small_calibration)
    ceilings = {"matrix_product": {"flops_per_s": 1e11}, "copy": {"bytes_per_s": 1e10}}
    monkeypatch.setattr(scenarios, "measured_ceilings", lambda device: ceilings)

    def timing(peers):
        for call in peers.values():
            call()
        return {name: [len(name) * 1e-4, len(name) * 1e-4, 1.0] for name in peers}

    return timing


def run(out, timing, **options):
    return run_scenarios(
        out, device="cpu", scenarios=QUESTIONS, timing=timing, say=lambda line: None, **options
    )


def test_what_meets_the_demands_is_measured_and_what_does_not_is_not(tmp_path, clocked):
    record = run(tmp_path / "m.json", clocked)
    assert record["finished"] and [row["scenario"] for row in record["rows"]] == [q.name for q in QUESTIONS]
    for row, question in zip(record["rows"], QUESTIONS, strict=True):
        asked = selection.AttentionSelector.consider(**question.arguments)
        assert len(row["candidates"]) == len(asked)
        for candidate in row["candidates"]:
            assert ("median_s" in candidate) == (not candidate["out"]) == ("peak_bytes" in candidate)
            if "median_s" in candidate:
                assert candidate["median_s"] == pytest.approx(len(candidate["candidate"]) * 1e-4)
                assert candidate["peak_bytes"] > 0
    assert any(candidate["out"] for row in record["rows"] for candidate in row["candidates"])
    assert json.loads((tmp_path / "m.json").read_text()) == record


def test_the_predictions_rest_on_the_calibration_of_the_same_run(tmp_path, clocked):
    record = run(tmp_path / "m.json", clocked)
    known = {row["name"] for row in record["calibration"]}
    named = {
        source["row"] for row in record["rows"] for candidate in row["candidates"]
        for source in candidate["evidence"] if source["file"] == "scenarios/m.json"
    }  # fmt: skip
    assert named and named <= known


@pytest.mark.parametrize("steps", [0, 2, 5, 6])
def test_a_run_that_is_stopped_and_resumed_equals_one_that_was_not(tmp_path, clocked, steps):
    whole = run(tmp_path / "m.json", clocked)
    (tmp_path / "other").mkdir()
    out, left = tmp_path / "other" / "m.json", steps

    def stops(peers):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return clocked(peers)

    with pytest.raises(KeyboardInterrupt):
        run(out, stops)
    begun = json.loads(out.read_text())
    assert not begun["finished"] and len(begun["rows"]) == max(0, steps - 4)
    assert run(out, clocked, resume=True) == whole


def test_a_file_that_is_there_is_not_touched_without_resume_nor_when_it_is_another_machines(
    tmp_path, clocked
):
    out = tmp_path / "m.json"
    record = run(out, clocked)
    with pytest.raises(FileExistsError, match="--resume"):
        run(out, clocked)
    out.write_text(json.dumps({**record, "threads": 77, "finished": False}))
    before = out.read_text()
    with pytest.raises(FileExistsError, match="threads: 77 there"):
        run(out, clocked, resume=True)
    assert out.read_text() == before


def test_a_run_leaves_torchs_generator_as_it_was(tmp_path, clocked):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    run(tmp_path / "m.json", clocked)
    assert torch.equal(torch.random.get_rng_state(), state)


# --- reading


def candidate(name, predicted, measured, flops=1, **more):
    price = {"seconds": predicted, "flops": flops, "bytes_moved": 1, "peak_bytes": 1}
    found = {"candidate": name, "predicted": price, "out": "", **more}
    return found if measured is None else {**found, "median_s": measured}


RECORD = {
    "name": "m",
    "rows": [
        {"scenario": "right", "candidates": [candidate("a", 1.0, 1.14, flops=9), candidate("b", 2.0, 1.0, flops=3)]},
        {
            "scenario": "wrong",
            "candidates": [candidate("a", 1.0, 1.3), candidate("b", 2.0, 1.0), candidate("c", 3.0, 5.0)],
        },
        {"scenario": "no choice", "candidates": [candidate("a", 1.0, 1.0), candidate("b", 2.0, None)]},
    ],
}  # fmt: skip


def test_agreement_counts_first_choices_within_15_percent_and_pairs_that_differ_by_20():
    found = agreement(RECORD)
    assert (found["scenarios"], found["first_within"], found["first_share"]) == (2, 1, 0.5)
    # right: a and b differ by 14 %: no pair. wrong: a/b, c/a, c/b.
    assert (found["pairs"], found["pairs_in_order"], found["pair_share"]) == (3, 2, pytest.approx(2 / 3))
    (miss,) = found["misses"]
    assert (miss["scenario"], miss["chosen"], miss["best"], miss["ratio"]) == ("wrong", "a", "b", 1.3)
    (pair,) = found["wrong_pairs"]
    assert (pair["scenario"], pair["slower"], pair["faster"]) == ("wrong", "a", "b")
    assert found["candidates"] == 2.5


def test_simple_rules_are_judged_on_the_same_rows():
    assert comparisons(RECORD, "fewest FLOPs")[0]["chosen"] == "b"
    assert agreement(RECORD, "fewest FLOPs")["scenarios"] == 2


def test_a_record_without_a_choice_is_an_error():
    with pytest.raises(ValueError, match="no scenario of m has two candidates"):
        agreement({"name": "m", "rows": RECORD["rows"][2:]})


def test_what_is_no_record_of_scenarios_is_refused(tmp_path):
    for text in ("{", "[]", '{"schema": "attn-course/bench/1"}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"x\.json"):
            selection.load_scenarios(tmp_path / "x.json")


# --- the questions, and the stored record


def test_there_are_many_questions_of_both_kinds_small_and_large_in_inference_and_training():
    assert len(SCENARIOS) >= 60 and len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    for key in ("sequential", "spatial", "mixed"):
        for training in (False, True):
            fitting = [
                q for q in SCENARIOS
                if q.arguments["data_type"] == key and q.arguments.get("training", False) is training
            ]  # fmt: skip
            assert len(fitting) >= 5
    assert any("accuracy" in q.arguments for q in SCENARIOS) and any(
        "memory_bytes" in q.arguments for q in SCENARIOS
    )


def test_no_question_has_a_price_that_the_calibration_measured():
    known = {
        (c.kind, c.price.flops, c.price.bytes_moved)
        for _, _, choice in scenarios._calibration()
        for c in choice
    }
    for scenario in SCENARIOS:
        asked = {k: v for k, v in scenario.arguments.items() if k not in scenarios._DEMANDS}
        for c in selection.selector.choice_of(**asked):
            assert (c.kind, c.price.flops, c.price.bytes_moved) not in known


STORED = sorted((results_folder() / "scenarios").glob("*.json"))


def test_there_is_a_record_and_it_answers_every_question():
    assert STORED
    for path in STORED:
        record = selection.load_scenarios(path)
        assert record["finished"] and record["name"] == path.stem
        assert {row["scenario"] for row in record["rows"]} == {scenario.name for scenario in SCENARIOS}
        for row in record["rows"]:
            for candidate in row["candidates"]:
                if "samples_s" in candidate:
                    assert min(candidate["samples_s"]) <= candidate["median_s"] <= max(candidate["samples_s"])


def test_stored_predictions_are_those_that_the_stored_calibration_gives():
    for path in STORED:
        record = selection.load_scenarios(path)
        known = scenarios._learnt(path.stem, record)
        for row in record["rows"][::7]:
            entries = selection.AttentionSelector.consider(**row["arguments"], machine=known)
            assert [scenarios._name(entry) for entry in entries] == [
                c["candidate"] for c in row["candidates"]
            ]
            for entry, candidate in zip(entries, row["candidates"], strict=True):
                assert entry["seconds"] == pytest.approx(candidate["predicted"]["seconds"], rel=1e-6)


def test_measured_peaks_are_the_predicted_ones():
    for path in STORED:
        rows = selection.load_scenarios(path)["rows"]
        measured = [c for row in rows for c in row["candidates"] if c.get("peak_bytes", 0) > 2**22]
        ratios = sorted(c["peak_bytes"] / c["predicted"]["peak_bytes"] for c in measured)
        assert len(ratios) > 100 and ratios[-1] < 1.1  # what is said to fit does fit
        near = sum(0.97 < ratio < 1.03 for ratio in ratios)
        assert near > 0.75 * len(ratios)
