"""The suite: which cases there are, what a row holds, what is never timed, and when a promise counts as kept."""

import importlib.util
import json
import math
import re
import sys
from dataclasses import replace

import pytest
import torch

from attn_course import complexity
from attn_course.benchmark import Case, bars, cases, ceilings, peak_bytes, peers, run_case, suite
from attn_course.benchmark.peers import OURS, TEXTBOOK, Absent, Peers

SIZES = {"batch": 1, "channels": 3, "height": 5, "width": 7}
CEILINGS = {"matrix_product": {"flops_per_s": 1e9}, "copy": {"bytes_per_s": 1e8}}


def case_of(references=None, **calls):
    """A case whose peers are given."""
    build = lambda case, device: Peers(dict(calls), references=references or {})  # noqa: E731
    return Case("cbam", "forward", SIZES, TEXTBOOK, "made up", build=build)


def returns(*values):
    return lambda: tuple(torch.tensor(value) for value in values)


def fails(error):
    def call():
        raise error

    return call


# --- a row -------------------------------------------------------------------------------------------------


def test_a_row_holds_samples_ratios_memory_rates_and_the_control():
    case = case_of(textbook=returns([1.0, 2.0]), attn_course=returns([1.0, 2.0002]))
    row = run_case(case, rounds=7, seconds=60, ceilings=CEILINGS)
    assert row["case"] == "cbam, made up, forward, batch=1, channels=3, height=5, width=7"
    assert row["status"] == "measured" and "message" not in row
    assert list(row["peers"]) == ["textbook", "attn_course", "attn_course (control)"]
    price = complexity.cost("cbam", **SIZES)
    assert row["predicted"]["flops"] == price.flops
    assert row["predicted"]["bytes_moved"] == price.bytes_moved
    for peer in row["peers"].values():
        assert peer["runs"] == len(peer["samples_s"]) == 7
        assert peer["first_quartile_s"] <= peer["median_s"] <= peer["third_quartile_s"]
        assert peer["time_ratio"]["low"] <= peer["time_ratio"]["median"] <= peer["time_ratio"]["high"]
        assert peer["peak_bytes"] == 8
        assert peer["flops_per_s"] * peer["median_s"] == pytest.approx(price.flops)
        assert peer["flops_share"] == pytest.approx(peer["flops_per_s"] / 1e9)
        assert peer["bytes_share"] == pytest.approx(peer["bytes_per_s"] / 1e8)
    assert row["peers"]["attn_course"]["time_ratio"] == {"median": 1, "low": 1, "high": 1}
    assert row["peers"]["attn_course"]["relative_error"] == pytest.approx(1e-4, rel=0.01)
    assert json.loads(json.dumps(row)) == row


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (returns([1.0, 2.1]), r"attn_course differs from textbook by 0\.05, allowed 0\.001"),
        (returns([1.0, math.nan]), r"attn_course differs from textbook by nan"),
        (returns([[1.0, 2.0]]), r"attn_course returns \(1, 2\), textbook \(2,\)"),
    ],
)
def test_a_peer_that_is_wrong_is_never_timed(theirs, message):
    def clock():
        raise AssertionError("the clock was read")

    row = run_case(case_of(textbook=returns([1.0, 2.0]), attn_course=theirs), clock=clock)
    assert row["status"] == "wrong" and row["peers"] == {}
    assert re.search(message, row["message"])


def test_a_peer_that_does_other_work_is_held_against_its_own_reference():
    calls = {"textbook": returns([1.0]), "attn_course": returns([5.0])}
    assert run_case(case_of(**calls), rounds=1)["status"] == "wrong"
    assert run_case(case_of({OURS: returns([5.0])}, **calls), rounds=1)["status"] == "measured"
    assert run_case(case_of({OURS: returns([6.0])}, **calls), rounds=1)["status"] == "wrong"


def test_want_of_memory_is_a_row_and_other_errors_are_too():
    def greedy():
        return (torch.empty(2**60),)

    row = run_case(case_of(textbook=greedy, attn_course=greedy))
    assert row["status"] == "out of memory" and row["message"].startswith("RuntimeError")
    row = run_case(case_of(textbook=returns([1.0]), attn_course=fails(RuntimeError("no such kernel"))))
    assert (row["status"], row["message"]) == ("failed", "RuntimeError: no such kernel")


def test_a_guest_that_cannot_run_is_absent_with_its_reason_and_the_others_are_timed():
    guest = fails(RuntimeError("no compiler\nand much more"))
    row = run_case(case_of(textbook=returns([1.0]), attn_course=returns([1.0]), guest=guest), rounds=1)
    assert row["status"] == "measured" and "guest" not in row["peers"]
    assert row["absent"] == {"guest": "RuntimeError: no compiler"}


def test_a_run_leaves_the_random_state_as_it_was():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    run_case(cases("smoke")[0], rounds=1, seconds=0)
    assert torch.equal(torch.rand(3), expected)


# --- the cases ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("smoke"), ids=lambda case: case.name)
def test_the_peers_of_every_case_agree_and_run(case):
    row = run_case(case, rounds=1, seconds=0)
    assert row["status"] == "measured", row
    assert OURS in row["peers"] and case.baseline in row["peers"]
    assert max(peer["relative_error"] for peer in row["peers"].values()) < 1e-3
    assert row["predicted"]["bytes_moved"] > 0


@pytest.mark.parametrize("case", [suite._lengths(1, 2, 512, 8, 16)], ids=lambda case: case.name)
def test_windows_beside_full_attention_are_right_though_they_differ(case):
    row = run_case(case, rounds=1, seconds=0)
    assert row["status"] == "measured" and {TEXTBOOK, "SDPA", OURS} <= row["peers"].keys()


def test_a_long_sequence_and_several_short_ones_hold_as_many_tokens():
    row = run_case(suite._two_lengths(4096), rounds=1, seconds=0)
    assert row["status"] == "measured"
    assert "attn_course, n = 2048, 2 times" in row["peers"]


def test_every_mechanism_that_has_a_price_beside_positions_is_in_every_preset_in_both_modes():
    positions = {"sinusoidal-encoding", "learned-encoding", "rotary-embedding", "alibi-bias"}
    for preset in suite.PRESETS:
        for mode in ("forward", "training"):
            held = {case.mechanism for case in cases(preset) if case.mode == mode}
            assert held == complexity.mechanisms().keys() - positions


def test_the_full_preset_has_the_cases_of_both_others_and_every_mechanism_at_several_sizes():
    full = {case.name for case in cases("full")}
    assert {case.name for case in cases("smoke")} <= full
    assert {case.name for case in cases("course")} <= full
    for mechanism in {case.mechanism for case in cases("full")}:
        for mode in ("forward", "training"):
            same = [case for case in cases("full") if (case.mechanism, case.mode) == (mechanism, mode)]
            assert len({tuple(case.sizes.items()) for case in same}) >= 3, mechanism


@pytest.mark.parametrize("preset", suite.PRESETS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_names_tell_cases_apart_and_every_case_has_a_price(preset, device):
    found = cases(preset, device)
    assert len({case.name for case in found}) == len(found)
    for case in found:
        assert suite.predicted(case)["flops"] > 0


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown preset 'quick'; known: smoke, course, full"):
        cases("quick")


def test_training_is_predicted_as_training():
    forward, training = (
        next(case for case in cases("smoke") if case.mechanism == "cbam" and case.mode == mode)
        for mode in ("forward", "training")
    )
    for count in ("flops", "bytes_moved", "peak_bytes"):
        assert suite.predicted(training)[count] > suite.predicted(forward)[count]
    price = complexity.cost("cbam", **training.sizes)
    assert suite.predicted(training)["bytes_moved"] == price.bytes_moved_training


@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize(
    "case",
    [
        suite._case("transformer-block", suite._BLOCK, (3, 509, 64, 4, 128), "forward"),
        suite._case("multi-head-attention", suite._TOKENS, (3, 509, 64, 4), "forward", note="with weights"),
        suite._case(
            "multi-head-attention", suite._TOKENS, (3, 509, 64, 4), "forward", note="without weights"
        ),
    ],
    ids=lambda case: f"{case.mechanism} {case.note}",
)
def test_what_is_priced_is_what_is_run_with_the_maps_or_without(case, mode):
    """A map here is 12 MiB: whether there is one decides the peak."""
    case = replace(case, mode=mode)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seen = peak_bytes(case.build(case, torch.device("cpu")).calls[OURS])
    finally:
        torch.set_num_threads(threads)
    assert suite.predicted(case)["peak_bytes"] == pytest.approx(seen, rel=0.15)


@pytest.mark.parametrize("mode", ["forward", "training"])
def test_a_case_in_bfloat16_is_run_in_bfloat16_by_all(mode):
    for case in cases("smoke"):
        if case.mode == mode:
            case = replace(case, dtype="bfloat16")
            found = case.build(case, torch.device("cpu"))
            for name, call in found.calls.items():
                assert {tensor.dtype for tensor in call()} == {torch.bfloat16}, (case.name, name)


def test_a_share_is_of_the_product_in_the_same_dtype_or_unknown():
    ceilings = {**CEILINGS, "matrix_product_bfloat16": {"flops_per_s": 8e9}}
    price = {"flops": 2e9, "bytes_moved": 1e8}
    assert suite._rates(price, 1.0, ceilings, "float32")["flops_share"] == 2
    assert suite._rates(price, 1.0, ceilings, "bfloat16")["flops_share"] == 0.25
    assert suite._rates(price, 1.0, CEILINGS, "bfloat16")["flops_share"] is None
    assert suite._rates(price, 1.0, CEILINGS, "bfloat16")["bytes_share"] == 1
    assert suite._rates(price, 1.0, None, "float32")["flops_share"] is None


def test_gradients_are_part_of_what_is_compared_in_training():
    case = next(case for case in cases("smoke") if case.mode == "training")
    output, gradient = case.build(case, torch.device("cpu")).calls[OURS]()
    assert output.shape == gradient.shape and not output.requires_grad


def test_attention_over_places_is_timed_away_from_its_start_where_it_is_the_identity():
    case = next(case for case in cases("smoke") if case.mechanism == "self-attention-2d")
    n = case.sizes["height"] * case.sizes["width"]
    ours = case.build(case, torch.device("cpu")).calls[OURS]
    assert peak_bytes(ours) > complexity.score_bytes(1, 1, n, n)


def test_decoding_appends_one_token_again_and_again_and_never_fills_the_cache():
    case = next(case for case in cases("smoke") if case.note == "decoding")
    calls = case.build(case, torch.device("cpu")).calls
    first = calls[OURS]()[0]
    assert torch.equal(calls[OURS]()[0], first)
    torch.testing.assert_close(first, calls[case.baseline]()[0])


def test_compiling_peers_stay_out_of_the_preset_that_is_to_be_short():
    case = next(case for case in cases("smoke") if case.mechanism == "cbam")
    absent = case.build(case, torch.device("cpu")).absent
    assert "compiling takes longer" in absent[peers.COMPILED]


def test_a_peer_is_compiled_from_nothing_as_torch_gives_up_after_eight_sizes(monkeypatch):
    done = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: done.append("reset"))
    monkeypatch.setattr(torch, "compile", lambda module, **_: done.append("compile") or module)
    case = replace(next(case for case in cases("smoke") if case.mechanism == "cbam"), compiled=True)
    assert peers.COMPILED in case.build(case, torch.device("cpu")).calls
    assert done == ["reset", "compile"]


# --- guests ------------------------------------------------------------------------------------------------


def test_a_package_that_is_not_installed_is_absent_by_name(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else real(name))
    monkeypatch.setitem(sys.modules, "local_attention", None)  # as if it were missing
    peers.timm_layers.cache_clear()
    try:
        with pytest.raises(Absent, match="timm is not installed"):
            peers.timm_layers()
        with pytest.raises(Absent, match="local-attention is not installed"):
            peers._local_attention(2, (torch.ones(1, 1, 4, 2),))
        case = next(case for case in cases("smoke") if case.mechanism == "cbam")
        assert case.build(case, torch.device("cpu")).absent[peers.TIMM] == "timm is not installed"
    finally:
        peers.timm_layers.cache_clear()


def test_looking_for_timm_leaves_no_stand_in_behind(tmp_path, monkeypatch):
    """With a package of that name which needs torchvision, as the real one does."""
    layers = tmp_path / "timm" / "layers"
    layers.mkdir(parents=True)
    (tmp_path / "timm" / "__init__.py").write_text("import torchvision.datasets\n")
    (layers / "__init__.py").write_text("from torchvision.ops.misc import FrozenBatchNorm2d\n")
    (layers / "attention.py").write_text("class Attention: pass\n")
    (layers / "cbam.py").write_text("class CbamModule: pass\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    peers.timm_layers.cache_clear()
    try:
        cbam, attention = peers.timm_layers()
        assert (cbam.__name__, attention.__name__) == ("CbamModule", "Attention")
        assert "timm" not in sys.modules
        assert "torchvision" not in sys.modules or importlib.util.find_spec("torchvision") is not None
    finally:
        peers.timm_layers.cache_clear()
        for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
            del sys.modules[name]


# --- ceilings and bars -------------------------------------------------------------------------------------


def test_ceilings_are_rates_of_a_large_product_and_a_large_copy(monkeypatch):
    seconds = {"float32": [3.0, 2.0, 4.0], "copy": [0.5, 0.25, 1.0]}
    monkeypatch.setattr(suite, "measure", lambda peers, **options: seconds)
    found = ceilings("cpu")
    n, copied = found["matrix_product"]["n"], found["copy"]["bytes"]
    assert found["matrix_product"]["flops_per_s"] == 2 * n**3 / 2.0
    assert found["matrix_product"]["median_flops_per_s"] == 2 * n**3 / 3.0
    assert found["copy"]["bytes_per_s"] == copied / 0.25
    assert copied == 2 * 4 * 2**25  # read once, written once


def row_for(bar, factor, control=1.0, peak=1.0):
    """A row of a bar's case, in which the peer takes `factor` times as long as ours."""
    ours = [1.0 + 1e-3 * i for i in range(9)]
    samples = {
        OURS: ours,
        suite.CONTROL: [control * value for value in ours],
        peers.COMPILED: ours,
        bar.peer: [factor * value for value in ours],
    }
    entries = {name: {"samples_s": values, "peak_bytes": 1000} for name, values in samples.items()}
    entries[bar.peer]["peak_bytes"] = round(1000 * peak)
    sizes = {"batch": 1, "num_heads": 2, "n": 3, "d_k": 5}
    return {"case": bar.case, "allocator": "default", "status": "measured", "peers": entries, "sizes": sizes}


def verdict(bar, row):
    return next(entry for entry in bars([row]) if entry["label"] == bar.label)


@pytest.mark.parametrize("bar", [bar for bar in suite.BARS if bar.what == "time"], ids=lambda bar: bar.label)
def test_a_bar_in_time_is_reached_above_it_or_if_the_interval_includes_it(bar):
    assert verdict(bar, row_for(bar, 1.05 * bar.at_least))["reached"]
    low = row_for(bar, 0.95 * bar.at_least, control=1.2)
    found = verdict(bar, low)
    assert not found["reached"] and found["control"] == [pytest.approx(1.2)] * 2
    slow = low["peers"][bar.peer]["samples_s"]
    low["peers"][bar.peer]["samples_s"] = [
        1.1 * value if i % 3 == 0 else value for i, value in enumerate(slow)
    ]
    found = verdict(bar, low)
    assert found["reached"] and found["value"] < bar.at_least < found["high"]
    assert verdict(bar, row_for(bar, 2.0))["value"] == pytest.approx(2.0)


@pytest.mark.parametrize("bar", [bar for bar in suite.BARS if bar.what == "peak"], ids=lambda bar: bar.label)
def test_a_bar_in_memory_knows_no_noise(bar):
    if bar.peer in ("textbook", "timm"):
        assert verdict(bar, row_for(bar, 1.0, peak=bar.at_least))["reached"]
        assert not verdict(bar, row_for(bar, 1.0, control=2.0, peak=0.99 * bar.at_least))["reached"]
    else:
        row = row_for(bar, 1.0)
        del row["peers"][bar.peer]
        assert verdict(bar, row)["value"] == pytest.approx(2 * 4 * (2 * 3 * 5 * 4) / 1000)


def test_every_bar_stands_on_a_case_of_the_course_in_both_allocator_settings():
    found = {case.name: case for case in cases("course", "cpu")}
    for bar in suite.BARS:
        assert {bar.case, f"{bar.case}, huge pages"} <= found.keys()
        assert found[bar.case].allocator == "default"
        assert found[f"{bar.case}, huge pages"].allocator == "huge pages"


def test_a_bar_that_was_not_measured_is_neither_reached_nor_missed():
    bar = suite.BARS[0]
    assert verdict(bar, {**row_for(bar, 9.0), "case": "another"})["reached"] is None
    assert verdict(bar, {**row_for(bar, 9.0), "status": "killed", "peers": {}})["reached"] is None
    row = row_for(bar, 9.0)
    del row["peers"][bar.peer]
    assert verdict(bar, row)["reached"] is None


def test_a_row_of_huge_pages_is_told_from_the_other():
    bar = suite.BARS[0]
    row = {**row_for(bar, 9.0), "case": f"{bar.case}, huge pages", "allocator": "huge pages"}
    found = [entry for entry in bars([row_for(bar, 9.0), row]) if entry["case"] == bar.case]
    labels = [entry["label"] for entry in found if entry["label"].startswith(bar.label)]
    assert labels == [bar.label, f"{bar.label} (huge pages)"]
