"""The measuring machinery on fake clocks and known allocations, and what the textbook form gets wrong."""

import math
import os
import random
import subprocess
import sys

import pytest
import torch
from torch import nn

from attn_course import MultiHeadAttention, benchmark, complexity, memory_comparison, textbook
from attn_course.benchmark import (
    PerformanceBenchmark,
    comparison,
    free_bytes,
    measure,
    memory,
    peak_bytes,
    ratio,
    summary,
)


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
        home, clock = (comparison, benchmark.clock) if module is benchmark else (module, module)
        for kind in ("MultiHeadAttention", "CBAM"):
            monkeypatch.setattr(home, kind, type(kind, (Module,), {"kind": kind}))
        monkeypatch.setattr(clock.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(clock.time, "time", lambda: self.now)


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


# --- blocks of calls ---------------------------------------------------------------------------------------


def test_a_block_is_as_many_calls_as_fit_after_two_that_are_not_counted(fake):
    peers = {"a": fake.task("a", 1.0), "b": fake.task("b", 4.0)}
    samples = measure(peers, warmup=1, rounds=2, clock=fake.clock, block_s=8.0)
    assert samples == {"a": [1.0, 1.0], "b": [4.0, 4.0]}
    # Warm-up, one call each to see how long it takes, then blocks of 8 and of 2 calls, turning.
    sizing = "ab" + "a" + "b"
    a, b = "aa" + "a" * 8, "bb" + "b" * 2
    assert "".join(fake.log) == sizing + a + b + b + a


def test_a_sample_is_the_mean_of_its_block_and_a_long_call_is_a_block_of_its_own(fake):
    # Calls 0 and 1 warm up and size the block, 2 and 3 warm the caches, 4 … 7 count.
    uneven = fake.task("a", lambda call: 1.0 if call < 4 else float(call))
    samples = measure(
        {"a": uneven, "b": fake.task("b", 100.0)}, warmup=1, rounds=1, clock=fake.clock, block_s=4.0
    )
    assert samples == {"a": [(4 + 5 + 6 + 7) / 4], "b": [100.0]}


def test_a_call_that_takes_ten_blocks_is_warmed_up_by_one_call_only(fake):
    peers = {"long": fake.task("long", 10.0), "shorter": fake.task("shorter", 9.0)}
    samples = measure(peers, warmup=0, rounds=3, clock=fake.clock, block_s=1.0)
    assert samples == {"long": [10.0] * 3, "shorter": [9.0] * 3}
    assert fake.log.count("long") == 1 + 3 * (1 + 1)
    assert fake.log.count("shorter") == 1 + 3 * (2 + 1)


def test_a_call_that_once_took_long_and_then_takes_no_time_ends_all_the_same(fake):
    peer = fake.task("a", lambda call: 100.0 if call < 1 else 0.0)
    assert measure({"a": peer}, warmup=0, rounds=2, clock=fake.clock, block_s=1.0)["a"] == [1e-9, 1e-9]


def test_blocks_keep_the_threads_that_are_set(fake):
    before, seen = torch.get_num_threads(), set()

    def task():
        seen.add(torch.get_num_threads())
        fake.now += 1.0

    try:
        torch.set_num_threads(2)
        measure({"a": task}, rounds=3, clock=fake.clock, block_s=3.0)
    finally:
        torch.set_num_threads(before)
    assert seen == {2}


# --- free memory -------------------------------------------------------------------------------------------


def test_free_memory_is_what_the_system_or_the_container_leaves_whichever_is_less(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  100 kB\nMemAvailable:   70 kB\n")
    assert memory._available(meminfo) == 70 * 1024
    assert memory._available(tmp_path / "none") is None
    assert memory._container(tmp_path) is None
    (tmp_path / "memory.current").write_text("300\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._container(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory._container(tmp_path) == 700
    (tmp_path / "memory.max").write_text("200\n")
    assert memory._container(tmp_path) == 0
    free = free_bytes("cpu")
    assert free is None or free > 2**20
