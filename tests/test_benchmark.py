"""The measuring machinery on fake clocks and known allocations, and what the textbook form gets wrong."""

import json
import math
import os
import random
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from attn_course import MultiHeadAttention, benchmark, complexity, memory_comparison, textbook
from attn_course.benchmark import Case, PerformanceBenchmark, measure, peak_bytes, ratio, run_case, summary


class FakeMachine:
    """A clock, and functions that take as long as they are told."""

    def __init__(self):
        self.now = 0.0
        self.slowness = 1.0  # of the machine, for all alike
        self.log = []

    def clock(self):
        return self.now

    def task(self, name, seconds):
        """`seconds`: how long a call takes, a number or a function of the number of calls before it."""
        calls = []

        def run():
            self.log.append(name)
            self.now += self.slowness * (seconds(len(calls)) if callable(seconds) else seconds)
            calls.append(name)

        return run


@pytest.fixture
def fake():
    return FakeMachine()


# --- measure -----------------------------------------------------------------------------------------------


def test_peers_take_turns_and_every_round_starts_with_another(fake):
    peers = {name: fake.task(name, 1.0) for name in "abc"}
    measure(peers, warmup=1, rounds=4, clock=fake.clock)
    assert "".join(fake.log) == "abc" + "abc" + "bca" + "cab" + "abc"


def test_a_sample_is_the_time_of_one_call_and_warmup_is_not_recorded(fake):
    slow_at_first = fake.task("a", lambda call: 100.0 if call < 2 else 1.0 + call)
    samples = measure({"a": slow_at_first, "b": fake.task("b", 7.0)}, warmup=2, rounds=3, clock=fake.clock)
    assert samples == {"a": [3.0, 4.0, 5.0], "b": [7.0, 7.0, 7.0]}


def test_the_control_is_the_same_function_entered_twice(fake):
    peers = {"a": fake.task("a", 2.0), "b": fake.task("b", 3.0)}
    samples = measure(peers, control="b", warmup=0, rounds=5, clock=fake.clock)
    assert list(samples) == ["a", "b", "b (control)"]
    assert fake.log.count("b") == 2 * fake.log.count("a") == 10
    assert ratio(samples["b (control)"], samples["b"]).median == 1


def test_a_machine_that_becomes_slower_and_slower_does_not_move_the_ratio(fake):
    def slowing(seconds):
        def run(call):
            fake.slowness *= 1.5 if call < 30 else 1
            return seconds

        return run

    peers = {"once": fake.task("once", slowing(1.0)), "twice": fake.task("twice", slowing(2.0))}
    samples = measure(peers, warmup=0, rounds=30, clock=fake.clock)
    one_after_the_other = sum(samples["twice"][15:]) / sum(samples["once"][:15])
    assert one_after_the_other > 100
    assert ratio(samples["twice"], samples["once"]).median == pytest.approx(2, rel=0.35)


def test_time_ends_the_rounds_but_not_before_five(fake):
    assert len(measure({"a": fake.task("a", 10.0)}, seconds=1, clock=fake.clock)["a"]) == 5
    assert len(measure({"a": fake.task("a", 1.0)}, seconds=8, clock=fake.clock)["a"]) == 8
    assert len(measure({"a": fake.task("a", 1.0)}, seconds=8, rounds=6, clock=fake.clock)["a"]) == 6


def test_without_a_clock_the_machines_own_is_read():
    samples = measure({"a": lambda: sum(range(1000))}, rounds=3)["a"]
    assert len(samples) == 3
    assert all(0 < seconds < 60 for seconds in samples)


@pytest.mark.parametrize("bad", [{"rounds": 0}, {"warmup": -1}, {"control": "b"}])
def test_measure_refuses_what_it_cannot_run(bad):
    with pytest.raises(ValueError, match=r"need peers, rounds >= 1|control must be one of a, got 'b'"):
        measure({"a": lambda: None}, **bad)
    with pytest.raises(ValueError, match="got 0 peers"):
        measure({})


def test_the_summary_holds_median_quartiles_and_the_samples():
    assert summary([4.0, 1.0, 2.0, 100.0, 3.0]) == {
        "median_s": 3.0,
        "first_quartile_s": 2.0,
        "third_quartile_s": 4.0,
        "runs": 5,
        "samples_s": [4.0, 1.0, 2.0, 100.0, 3.0],
    }
    assert summary([1.0, 2.0])["median_s"] == 1.5
    assert summary([2.0])["third_quartile_s"] == 2.0
    with pytest.raises(ValueError, match="at least one sample"):
        summary([])


# --- ratio -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (15, 4), (20, 6), (100, 40)])
def test_the_interval_lies_between_the_ranks_of_the_sign_test(n, k):
    values = [float(i + 1) for i in range(n)]  # (the ranks are in every table of the sign test)
    random.Random(0).shuffle(values)
    found = ratio(values, [1.0] * n)
    assert (found.low, found.high) == (k, n + 1 - k)
    assert found.median == (n + 1) / 2


def test_the_interval_holds_the_true_median_nineteen_times_in_twenty():
    generator = random.Random(1)
    held = 0
    for _ in range(1000):
        times = [
            math.exp(generator.gauss(0, 0.3)) * (10 if generator.random() < 0.05 else 1) for _ in range(12)
        ]
        found = ratio(times, [1.0] * 12)
        # the true median of this mixture, where a twentieth is ten times slower
        held += found.low <= 1.0202 <= found.high
    assert 930 <= held <= 1000


def test_ratios_are_taken_round_by_round():
    found = ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)
    assert str(found) == "2.00 [2.00, 2.00]"


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([], [])])
def test_a_ratio_needs_the_same_rounds(a, b):
    with pytest.raises(ValueError, match=f"one sample each per round, got {len(a)} and {len(b)}"):
        ratio(a, b)


# --- memory ------------------------------------------------------------------------------------------------


def test_peak_bytes_is_the_most_that_lives_at_once():
    def steps():
        a = torch.empty(1000)
        b = torch.empty(3000)  # 4000 floats
        del a, b
        c = torch.empty(2000)
        return c, torch.empty(1500)

    assert peak_bytes(steps) == 4 * 4000


def test_the_result_counts_and_what_was_there_before_does_not():
    before = torch.empty(10**6)
    assert peak_bytes(lambda: before.new_empty(3000)) == 4 * 3000
    assert peak_bytes(lambda: before.add_(1.0)) < 100  # the number 1.0 as a tensor
    assert peak_bytes(lambda: None) == 0


def test_a_temporary_inside_an_operator_is_seen():
    x = torch.ones(1000, 999)
    assert peak_bytes(lambda: x.t().reshape(-1).sum()) >= 4 * 1000 * 999


def test_peak_bytes_is_the_same_every_time_and_knows_cpu_and_cuda_only():
    attention = MultiHeadAttention(64, 4).eval()
    x = torch.randn(2, 37, 64)
    assert len({peak_bytes(lambda: attention(x, x, x)) for _ in range(3)}) == 1
    with pytest.raises(ValueError, match="cpu and cuda, got meta"):
        peak_bytes(lambda: None, device="meta")


def test_measuring_memory_prints_nothing_and_leaves_the_environment_alone():
    code = (
        "import os, torch\n"
        "from attn_course.benchmark import peak_bytes\n"
        "before = dict(os.environ)\n"
        "assert peak_bytes(lambda: torch.empty(10)) == 40\n"
        "assert dict(os.environ) == before"
    )
    quiet = {name: value for name, value in os.environ.items() if name != "KINETO_LOG_LEVEL"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=quiet)
    assert (ran.stdout, ran.stderr) == ("", "")


SIZES = {"batch_size": 3, "seq_len": 97, "d_model": 64}


def sees_memory_on_a_cpu(comparison):
    found = comparison(**SIZES, channels=32)
    predicted = complexity.cost("multi-head-attention", batch=3, n_q=97, d_model=64, num_heads=8).peak_bytes
    return found.keys() == {"transformer_memory", "cnn_memory"} and (
        found["transformer_memory"] == pytest.approx(predicted / 2**20, rel=0.02) and found["cnn_memory"] > 0
    )


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_memory_on_a_cpu_is_measured_where_the_textbook_form_says_zero(without_gpu, capsys):
    assert sees_memory_on_a_cpu(memory_comparison)
    assert capsys.readouterr().out.count("MiB at its peak") == 2
    assert not sees_memory_on_a_cpu(textbook.memory_comparison)


def test_memory_of_cbam_is_about_one_feature_map(without_gpu):
    found = memory_comparison(**SIZES, channels=256, height=13, width=17)
    feature_map = 3 * 256 * 13 * 17 * 4 / 2**20
    assert feature_map <= found["cnn_memory"] < 1.3 * feature_map


@pytest.mark.gpu
def test_on_a_gpu_events_time_and_the_allocator_gives_the_peak():
    x = torch.randn(2048, 2048, device="cuda")
    assert peak_bytes(lambda: x @ x, device="cuda") == x.nbytes
    assert peak_bytes(lambda: (x + 1).sum(), device="cuda") >= x.nbytes
    samples = measure({"one": lambda: x @ x, "ten": lambda: [x @ x for _ in range(10)]}, device="cuda")
    assert 3 < ratio(samples["ten"], samples["one"]).median < 30
    assert memory_comparison()["transformer_memory"] > 100


# --- PerformanceBenchmark ----------------------------------------------------------------------------------


class Recorder:
    """Stands in for the modules, and for the clock, of `benchmark` or `textbook`."""

    def __init__(self, monkeypatch, module):
        self.now, self.calls = 0.0, []
        recorder = self

        class Module(nn.Module):
            def __init__(self, *arguments):
                super().__init__()
                self.arguments = arguments

            def forward(self, *inputs, **options):
                recorder.calls.append((self.training, torch.is_grad_enabled(), inputs, self.kind))
                stall = 1000.0 if len(recorder.calls) == recorder.stalls_at else 0.0
                recorder.now += 1.0 + stall
                return inputs[0], None

        self.stalls_at = None
        for kind in ("MultiHeadAttention", "CBAM"):
            monkeypatch.setattr(module, kind, type(kind, (Module,), {"kind": kind}))
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(module.time, "time", lambda: self.now)


FORMS = pytest.mark.parametrize(
    ("module", "is_right"), [(benchmark, True), (textbook, False)], ids=["ours", "textbook"]
)


@FORMS
def test_models_are_timed_in_eval_mode_without_autograd(monkeypatch, module, is_right):
    recorder = Recorder(monkeypatch, module)
    bench = module.PerformanceBenchmark()
    bench.benchmark_transformer_attention(2, 5, 8, 2)
    bench.benchmark_cnn_attention(2, 3, 5, 7)
    assert {kind for *_, kind in recorder.calls} == {"MultiHeadAttention", "CBAM"}
    assert all(not training and not grad for training, grad, *_ in recorder.calls) is is_right


@FORMS
def test_one_stall_does_not_move_the_result(monkeypatch, module, is_right):
    recorder = Recorder(monkeypatch, module)
    recorder.stalls_at = 15
    seconds = module.PerformanceBenchmark().benchmark_cnn_attention(2, 3, 5, 7)
    assert len(recorder.calls) > 15
    assert (seconds == 1.0) is is_right


@FORMS
def test_both_families_are_given_the_same_feature_map(monkeypatch, module, is_right):
    recorder = Recorder(monkeypatch, module)
    module.PerformanceBenchmark().run_comparison()
    tokens = next(inputs[0] for *_, inputs, kind in recorder.calls if kind == "MultiHeadAttention")
    image = next(inputs[0] for *_, inputs, kind in recorder.calls if kind == "CBAM")
    same = tokens.numel() == image.numel() and torch.equal(tokens, image.flatten(2).transpose(1, 2))
    assert same is is_right


def test_the_comparison_returns_the_documents_keys_with_work_and_noise_beside_them(capsys):
    found = PerformanceBenchmark(warmup=1, repeats=5, device="cpu").run_comparison(
        batch_size=2, channels=24, height=5, width=7, num_heads=3
    )
    assert {"transformer_time", "cnn_time", "speedup"} <= found.keys()
    assert all(value > 0 for value in found.values())
    sizes = {"batch": 2, "n_q": 35, "d_model": 24, "num_heads": 3}
    assert found["transformer_flops"] == complexity.cost("multi-head-attention", **sizes).flops
    assert found["cnn_flops"] == complexity.cost("cbam", batch=2, channels=24, height=5, width=7).flops
    printed = capsys.readouterr().out
    assert "The same feature map, 2 x 24 x 5 x 7, on cpu" in printed
    assert "the noise" in printed


def test_speedup_is_the_ratio_of_one_round_after_the_other(monkeypatch):
    recorder = Recorder(monkeypatch, benchmark)
    recorder.stalls_at = 20
    found = PerformanceBenchmark(repeats=11, device="cpu").run_comparison(batch_size=1, channels=8)
    assert found["speedup"] == found["control"] == found["transformer_time"] == 1.0


def test_the_real_modules_are_timed():
    bench = PerformanceBenchmark(warmup=0, repeats=2, device="cpu")
    assert bench.benchmark_transformer_attention(2, 5, 8, 2) > 0
    assert bench.benchmark_cnn_attention(2, 3, 5, 7) > 0


@pytest.mark.parametrize("bad", [{"warmup": -1}, {"repeats": 0}])
def test_a_benchmark_without_runs_is_refused(bad):
    with pytest.raises(ValueError, match="need warmup >= 0 and repeats >= 1"):
        PerformanceBenchmark(**bad)


# --- the suite ---------------------------------------------------------------------------------------------


def case_of(**peers):
    """A case whose peers are given."""
    sizes = {"batch": 1, "channels": 3, "height": 5, "width": 7}
    return Case("cbam", "forward", sizes, benchmark.TEXTBOOK, lambda case, device: peers, note="made up")


def returns(*values):
    return lambda: tuple(torch.tensor(value) for value in values)


def test_a_row_holds_samples_ratios_memory_and_the_control():
    row = run_case(
        case_of(textbook=returns([1.0, 2.0]), attn_course=returns([1.0, 2.0002])), rounds=7, seconds=60
    )
    assert row["case"] == "cbam, made up, forward, batch=1, channels=3, height=5, width=7"
    assert row["forward_flops"] == complexity.cost("cbam", **row["sizes"]).flops
    assert list(row["peers"]) == ["textbook", "attn_course", "attn_course (control)"]
    for peer in row["peers"].values():
        assert peer["runs"] == len(peer["samples_s"]) == 7
        assert peer["first_quartile_s"] <= peer["median_s"] <= peer["third_quartile_s"]
        assert peer["time_ratio"]["low"] <= peer["time_ratio"]["median"] <= peer["time_ratio"]["high"]
        assert peer["peak_bytes"] == 8
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
    assert "peers" not in row
    assert re.search(message, row["failed"])


def test_want_of_memory_is_a_row():
    def greedy():
        return (torch.empty(2**60),)

    row = run_case(case_of(textbook=greedy, attn_course=greedy))
    assert row["failed"].startswith("RuntimeError")
    assert "not run: RuntimeError" in benchmark.speed_table([row])


@pytest.mark.parametrize("case", benchmark.speed_cases(quick=True), ids=lambda case: f"{case.name}")
def test_the_peers_of_every_case_agree_and_run(case):
    row = run_case(case, rounds=1, seconds=0)
    assert "failed" not in row, row
    assert benchmark.OURS in row["peers"] and case.baseline in row["peers"]
    assert max(peer["relative_error"] for peer in row["peers"].values()) < 1e-3


def test_the_standard_suite_holds_the_cases_that_are_promised():
    cases = benchmark.speed_cases()
    held = {(case.mechanism, case.note, case.mode, tuple(case.sizes.values())) for case in cases}
    assert len(held) == len(cases)
    for mode in ("forward", "training"):
        for size in [(8, 512, 512, 8), (1, 4096, 512, 8)]:
            assert ("multi-head-attention", "without weights", mode, size) in held
        for gate in ("cbam", "squeeze-and-excitation", "efficient-channel-attention"):
            assert (gate, "", mode, (32, 256, 56, 56)) in held
    assert ("self-attention-2d", "", "forward", (1, 64, 96, 96)) in held


def test_gradients_are_part_of_what_is_compared_in_training():
    case = next(case for case in benchmark.speed_cases(quick=True) if case.mode == "training")
    output, gradient = case.build(case, torch.device("cpu"))[benchmark.OURS]()
    assert output.shape == gradient.shape and not output.requires_grad


def test_attention_over_places_is_timed_away_from_its_start_where_it_is_the_identity():
    case = next(case for case in benchmark.speed_cases(quick=True) if case.mechanism == "self-attention-2d")
    n = case.sizes["height"] * case.sizes["width"]
    ours = case.build(case, torch.device("cpu"))[benchmark.OURS]
    assert peak_bytes(ours) > complexity.score_bytes(1, 1, n, n)


def good_case():
    return case_of(textbook=returns([1.0]), attn_course=returns([1.0]))


def test_the_record_is_json_with_conditions_and_rows_and_the_partial_file_is_gone(tmp_path):
    out, said = tmp_path / "new" / "record.json", []
    record = benchmark.record_speed(out, seconds=0, cases=[good_case()] * 2, device="cpu", say=said.append)
    assert json.loads(out.read_text()) == record
    assert [path.name for path in out.parent.iterdir()] == ["record.json"]
    assert record["schema"] == "attn-course/speed/1"
    assert record["conditions"]["threads"] == torch.get_num_threads()
    assert record["conditions"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record["conditions"]["device"] == "cpu"
    assert "THP_MEM_ALLOC_ENABLE" in record["conditions"]
    assert len(record["rows"]) == len(said) == 2
    assert "attn_course (control)" in said[0]


def test_the_allocators_setting_is_recorded(monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    assert benchmark.conditions("cpu")["THP_MEM_ALLOC_ENABLE"] == "1"
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    assert benchmark.conditions("cpu")["THP_MEM_ALLOC_ENABLE"] is None


def test_a_row_is_on_disk_before_the_next_case_starts(tmp_path):
    out, seen = tmp_path / "record.json", []

    def interrupted(case, device):
        seen.extend(json.loads(line) for line in (tmp_path / "record.json.partial").read_text().splitlines())
        raise KeyboardInterrupt

    second = Case("cbam", "forward", good_case().sizes, benchmark.TEXTBOOK, interrupted)
    with pytest.raises(KeyboardInterrupt):
        benchmark.record_speed(out, seconds=0, cases=[good_case(), second], say=lambda text: None)
    assert [entry.get("schema", entry.get("case")) for entry in seen] == [
        "attn-course/speed/1",
        good_case().name,
    ]
    assert not out.exists()
    with pytest.raises(FileExistsError, match=r"record\.json\.partial is there and is not overwritten"):
        benchmark.record_speed(out, cases=[])


def test_a_record_is_never_overwritten(tmp_path):
    out = tmp_path / "record.json"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match=r"record\.json is there and is not overwritten"):
        benchmark.record_speed(out, cases=[])
    assert out.read_text() == "mine"
