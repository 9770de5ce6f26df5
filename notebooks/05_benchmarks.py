# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   attn_course:
#     alone: true
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Benchmarks: how do you know that it is faster?
#
# **After this chapter you can** recognise seven ways in which a time lies, write a stopwatch that does not, say with an interval and a control whether
# one thing is faster than another, hold a measurement against what a machine can do at all, build the idea inside FlashAttention, and measure your own machine with one command.
#
# **You need** the counts of [chapter 4](04_complexity.ipynb). **It takes** about 75
# minutes with its three exercises, 35 without. The symbols are explained on the page [Notation](../book/notation.md).

# %% tags=["setup", "nbval-ignore-output"]
# Set-up. In Colab this installs the course and leaves torch and numpy as they are; elsewhere it changes nothing.
try:
    import attn_course
except ImportError:
    import subprocess
    import sys

    repository = "https://github.com/attn-course/attn-course"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    subprocess.run([*pip, f"git+{repository}"], check=True)
    import attn_course
from attn_course import machine

device = machine.introduce()
assert attn_course.__version__

# %%
import math

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch.nn import functional as F

from attn_course import benchmark, complexity, plots, textbook
from attn_course.benchmark import SimulatedDevice
from attn_course.exercises import get
from attn_course.prose import glue, say

torch.manual_seed(0)
plots.use_house_style()

# %% [markdown]
# ## The trouble: a speedup for every wish
#
# The comparison this course grew from times attention of a transformer, times CBAM, and calls the quotient a **speedup**. Each
# has sizes of its own: so many tokens here, such feature maps there.
#
# > **Predict.** With which sizes is the transformer's attention slower? With which is CBAM?

# %% tags=["nbval-ignore-output"]
bench = textbook.PerformanceBenchmark()
often = {"batch_size": 2, "warmup": 1, "repeats": 3}
cbam_s = bench.benchmark_cnn_attention(channels=64, **often)
speedup = {
    (n, d): bench.benchmark_transformer_attention(seq_len=n, d_model=d, **often)
    / cbam_s
    for n, d in ((512, 512), (32, 64))
}
large, small = speedup.values()
assert small < large
for (n, d), ratio in speedup.items():
    print(f'{n} tokens of width {d}, CBAM on 56 x 56: "speedup" {ratio:.2f}')

# %% tags=["remove-input", "nbval-ignore-output"]
assert small < large
glue("wish_large", f"{large:.1f}")
glue("wish_small", f"{small:.2f}")
say(
    "Ask for {large:.1f}, or ask for {small:.2f}: both are what the clock said, and neither says anything of CBAM or of attention. The "
    "two workloads are unlike, so their quotient is a property of the sizes that somebody chose. ",
    large=large, small=small,
)  # fmt: skip

# %% [markdown]
# Memory is no better. The document asks the GPU's allocator what is still alive after the call: not the most that was alive in between, and on a CPU nothing at all.
# And it leaves autograd on, so that everything is kept for a backward pass that never comes. We measure the true peak of the same module,
# as the document runs it, and as one runs inference.

# %% tags=["nbval-ignore-output"]
by_document = textbook.memory_comparison(
    batch_size=1, seq_len=256, d_model=256, channels=64
)
module = textbook.MultiHeadAttention(512, 8).to(device)
x = torch.randn(2, 512, 512, device=device)
as_it_is = benchmark.peak_bytes(lambda: module(x, x, x), device=device)
module.eval()
with torch.no_grad():
    inference = benchmark.peak_bytes(lambda: module(x, x, x), device=device)
assert inference < as_it_is
if device.type == "cpu":
    assert by_document == {"transformer_memory": 0, "cnn_memory": 0}
print("by the document:", by_document)
print(f"peak: {as_it_is / 2**20:.0f} MiB, in inference {inference / 2**20:.0f} MiB")

# %% tags=["remove-input"]
glue("autograd_peak", f"{as_it_is / inference:.2f}")
say(
    "By the document CBAM takes {cnn:.1f} MiB here. The true peak of the transformer's attention is {left_on:.0f} MiB as the document runs it and {off:.0f} MiB in "
    "inference: {ratio:.2f} times as much, for nothing. A benchmark is a program like any other, and has bugs like any other. The difference is that nothing crashes.",
    cnn=by_document["cnn_memory"], left_on=as_it_is / 2**20, off=inference / 2**20, ratio=as_it_is / inference,
)  # fmt: skip

# %% [markdown]
# ## How a time lies
#
# A GPU works **asynchronously**: a call hands the work over and returns at once. To see every lie on any machine, we take a simulated device. It has a
# time of its own, `launch` queues work, `synchronize` waits for it, and nobody really waits. The true answer is known: each
# step is 2 ms of work.
#
# > **Predict.** Its launches take 20 µs. What does a clock show that is read before the call and after it?

# %%
TRUE = 2e-3


def new_device(seed=0):
    habits = {"slow_first": (30, 6, 2), "jitter": 0.05, "outliers": 0.08}
    return SimulatedDevice(launch_s=2e-5, outlier_factor=20, seed=seed, **habits)


gpu = new_device()
start = gpu.clock()
gpu.launch(TRUE)
unsynchronised = gpu.clock() - start
print(f"no synchronisation: {unsynchronised * 1e3:.2f} ms")

# %% [markdown]
# That is the time of handing over. It is the same for a step of 2 ms and for one of 2 s, and this makes it easy to find out: *if twice the
# work takes the same time, the clock does not see the work*.
#
# Second: the first calls compile, allocate, and fill caches.


# %%
def one_step(gpu):
    """Seconds of one step, waited for."""
    gpu.synchronize()
    start = gpu.clock()
    gpu.launch(TRUE)
    gpu.synchronize()
    return gpu.clock() - start


gpu = new_device()
times = [one_step(gpu) for _ in range(103)]
cold, warm = times[:10], times[3:]
print("the first calls:", [f"{t * 1e3:.1f} ms" for t in times[:6]])
print(f"no warm-up, mean of ten: {sum(cold) / 10 * 1e3:.1f} ms")

# %% [markdown]
# Third: now and then something else gets in the way. A mean adds it to the bill. The median does not care, as long as it hits less than half of the calls.
# Fourth: a single run is whatever it happens to be.

# %%
ordered = sorted(warm)
mean, median = sum(warm) / 100, (ordered[49] + ordered[50]) / 2
single = warm[:20]
print(f"mean of 100: {mean * 1e3:.2f} ms, median: {median * 1e3:.2f} ms")
print(f"single runs: {min(single) * 1e3:.2f} to {max(single) * 1e3:.2f} ms")

# %% mystnb={"figure": {"name": "fig-lies", "caption": "One step of 2 ms on the simulated device, timed in five ways. Dashed: the truth. Logarithmic."}, "image": {"classes": "wide", "alt": "Dots on a logarithmic time axis. Without synchronisation the dot lies a hundred times too low; without warm-up several times too high; the mean is more than twice the truth; single runs scatter from 2 to 40 ms; the median lies on the dashed line."}}
readings = {
    "no synchronisation": [unsynchronised],
    "no warm-up, mean": [sum(cold) / 10],
    "mean": [mean],
    "one run (20 of them)": single,
    "median, warm, synchronised": [median],
}
assert unsynchronised < TRUE / 50 and abs(median / TRUE - 1) < 0.1
assert mean > 1.5 * median and sum(cold) / 10 > 3 * median
plots.readings(readings, TRUE, "Five readings of one truth")
plt.show()

# %% tags=["remove-input"]
glue("lie_unsynchronised", f"{TRUE / unsynchronised:.0f}")
glue("lie_mean", f"{mean / median:.1f}")
say(
    "The same step seems {fast:.0f} times faster than it is, or {cold:.0f} times slower, or {mean:.1f} times slower. Whoever may choose among them has the "
    "speedup that he wishes. The median of synchronised warm calls is {right:.2f} ms; what it has above 2 ms is the launch and the jitter, which are real.",
    fast=TRUE / unsynchronised, cold=sum(cold) / 10 / TRUE, mean=mean / TRUE, right=median * 1e3,
)  # fmt: skip

# %% [markdown]
# Now on what is really here. On a GPU the first lie is as above, and this cell shows it. On a CPU a call returns when it is done, and the two agree.

# %% tags=["nbval-ignore-output"]
import time


def wait():
    if device.type == "cuda":
        torch.cuda.synchronize()


a = torch.randn(1024, 1024, device=device)
seen = {}
for name, until in (("no synchronisation", lambda: None), ("synchronised", wait)):
    for _ in range(3):
        a @ a
    wait()
    start = time.perf_counter()
    a @ a
    until()
    seen[name] = time.perf_counter() - start
    wait()
assert device.type != "cuda" or seen["no synchronisation"] < seen["synchronised"]
for name, seconds in seen.items():
    print(f"{device.type}, {name:18}: {seconds * 1e3:8.3f} ms")

# %% [markdown]
# The fifth lie costs time on every machine: **autograd left on**, and dropout with it. Small work shows it best, for which
# the bookkeeping is no trifle. The two take turns, and the second enters twice, as its own control. (The sixth lie, unlike workloads, opened the chapter.)

# %% tags=["nbval-ignore-output"]
layer = attn_course.MultiHeadAttention(64, 4, dropout=0.1).to(device)
x = torch.randn(1, 64, 64, device=device)


def left_on():
    return layer.train()(x, x, x)


def off():
    with torch.no_grad():
        return layer.eval()(x, x, x)


samples = benchmark.measure(
    {"left on": left_on, "off": off}, control="off", rounds=60, device=device
)
autograd = benchmark.ratio(samples["left on"], samples["off"])
noise = benchmark.ratio(samples["off (control)"], samples["off"])
assert autograd.high > 1
print(f"left on / off: {autograd}; the same code twice: {noise}")

# %% [markdown]
# > **Predict.** In your stopwatch, where does the waiting go? There are two places, and one of them is easily forgotten.

# %% [markdown]
# > **Exercise.** Write `time_it(fn, synchronize, clock, warmup=3, repeats=10)`: the median time of one call of `fn`, in seconds, work
# > included.
# >
# > `fn()` only *launches* work on a device and returns at once, while the device begins to work. What was launched earlier
# > is done first. `synchronize()` waits until everything that was launched is done. `clock()` returns the time now, in
# > seconds.
# >
# > - First come `warmup` calls of `fn` that are not timed. Their work is over before the first timed call begins.
# > - Then come `repeats` calls, each timed by itself: from before its launch to the end of its work. In all, `fn` is called
# >   `warmup + repeats` times.
# > - The median is the middle one of the sorted times; of an even number of them it is the mean of the two in the middle.
# > - `warmup` may be 0, `repeats` is at least 1. Return a Python number. There is no other clock than `clock`: a second of
# >   the device need not be one of yours.


# %%
def time_it(fn, synchronize, clock, warmup=3, repeats=10):
    """The median time of one call of fn, in seconds.

    fn() launches work, synchronize() waits for all of it, clock() returns seconds
    """
    ...  # your code here


# %%
get("time-it").check(time_it)

# %% [markdown]
# Folded: the definition, held against what the simulated device is known to take, and against its own worst habit.


# %% tags=["hide-input"]
def time_it_by_definition(fn, synchronize, clock, warmup=3, repeats=10):
    for _ in range(warmup):
        fn()
    synchronize()  # or the first timed call would wait for the warm-up's work
    times = []
    for _ in range(repeats):
        start = clock()
        fn()
        synchronize()  # or the clock would stop when the work is handed over
        times.append(clock() - start)
    times.sort()
    return (times[(repeats - 1) // 2] + times[repeats // 2]) / 2


gpu = SimulatedDevice(launch_s=2e-5, slow_first=(30, 6, 2))
known = 2e-5 + TRUE
by_definition = time_it_by_definition(
    lambda: gpu.launch(TRUE), gpu.synchronize, gpu.clock
)
assert abs(by_definition - known) < 1e-12
stopwatch = get("time-it").use(time_it)
seconds = stopwatch(lambda: gpu.launch(TRUE), gpu.synchronize, gpu.clock)
print(f"known {known * 1e3:.3f} ms, measured {seconds * 1e3:.3f} ms")

# %% [markdown]
# ### One after the other, or in turns?
#
# A good stopwatch is not yet a good comparison. Machines get warm, other programs come and go. Here the device becomes slower all the time, by half over 200 calls, and we
# compare a step with *itself*: an **A/A** comparison. The right answer is 1.


# %%
def drifting_step(gpu):
    start = gpu.clock()
    gpu.launch(TRUE * (1 + gpu.launches / 400))
    gpu.synchronize()
    return gpu.clock() - start


gpu = SimulatedDevice(jitter=0.02)
one_by_one = {name: [drifting_step(gpu) for _ in range(100)] for name in "AB"}
gpu = SimulatedDevice(jitter=0.02)
pairs = [(drifting_step(gpu), drifting_step(gpu)) for _ in range(100)]
in_turns = dict(zip("AB", map(list, zip(*pairs, strict=True)), strict=True))
apart = benchmark.ratio(one_by_one["B"], one_by_one["A"])
turns = benchmark.ratio(in_turns["B"], in_turns["A"])

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-turns", "caption": "The same step twice, as A and as B, on a device that becomes slower: first all of A, then all of B; and in turns."}, "image": {"classes": "wide", "alt": "Two scatter plots of time over call. Left: A on the lower half of a rising line, B on the upper half. Right: A and B lie on the same rising line together."}}
assert apart.low > 1.1 and abs(turns.median - 1) < 0.02
plots.one_by_one_and_in_turns(
    one_by_one, in_turns, [f"one by one: B / A {apart}", f"in turns: B / A {turns}"]
)
plt.show()

# %% tags=["remove-input"]
glue("drift_apart", f"{apart.median:.2f}")
glue("drift_turns", f"{turns.median:.2f}")
say(
    "One by one, B is {apart} times A, with an interval that looks sure of itself: it knows nothing of the drift. In turns it is {turns}. So `benchmark.measure` "
    "takes turns, compares round by round, and enters one peer twice. **The control's interval is what no other ratio of that run may claim to see.**",
    apart=apart, turns=turns,
)  # fmt: skip

# %% [markdown]
# Now an honest number, of real code: attention over 256 tokens as the document writes it, and torch's kernel.

# %% tags=["nbval-ignore-output"]
q, k, v = torch.randn(3, 1, 8, 256, 64, device=device)


def naive():
    scores = q @ k.transpose(-2, -1) / math.sqrt(64)
    return scores.softmax(dim=-1) @ v


peers = {"naive": naive, "fused": lambda: F.scaled_dot_product_attention(q, k, v)}
torch.testing.assert_close(peers["naive"](), peers["fused"](), rtol=1e-3, atol=1e-4)
samples = benchmark.measure(peers, control="fused", rounds=60, device=device)
honest = benchmark.ratio(samples["naive"], samples["fused"])
control = benchmark.ratio(samples["fused (control)"], samples["fused"])
assert 0.2 < control.median < 5
print(f"naive / fused: {honest}, control {control}")

# %% tags=["remove-input", "nbval-ignore-output"]
assert honest.low <= honest.median <= honest.high
told = honest.low > max(1, control.high) or honest.high < min(1, control.low)
glue("honest_ratio", str(honest))
glue("honest_control", str(control))
say(
    "At 256 tokens the naive form takes {honest} times as long as the fused one, and the fused one {control} times as long as itself. "
    + ("So the difference is real on this machine. " if told else "So this run tells no difference, and saying so is the result. ")
    + "Note what came first in the cell: both must give *the same output*. A fast wrong answer is the seventh lie.",
    honest=honest, control=control,
)  # fmt: skip

# %% [markdown]
# ## How fast could it be at all?
#
# A ratio says which of two is faster. It does not say whether either is any good. For that we need what the machine can do, its **ceilings**: the best that it reaches in a
# large matrix product, $P$ FLOP/s, and in a large copy, $\beta$ bytes/s.

# %% tags=["nbval-ignore-output"]
ceilings = benchmark.ceilings(device)
here = complexity.Hardware(
    "here",
    peak_flops=ceilings["matrix_product"]["flops_per_s"],
    bandwidth=ceilings["copy"]["bytes_per_s"],
)
assert min(here.peak_flops, here.bandwidth) > 0
print(f"{here.peak_flops / 1e9:,.0f} GFLOP/s and {here.bandwidth / 1e9:,.1f} GB/s")

# %% [markdown]
# > **Predict.** A step has 1 GFLOP to do and 1 GB to move, on a machine with 100 GFLOP/s and 10 GB/s. Does it take at least 10 ms, 100 ms or 110 ms?

# %% [markdown]
# > **Exercise.** Write `roofline_time(flops, bytes_moved, peak_flops, bandwidth)`: the time in seconds that a step takes at least on some
# > machine.
# >
# > The step does `flops` operations and moves `bytes_moved` bytes between memory and processor. The machine does at most
# > `peak_flops` operations in a second, and moves at most `bandwidth` bytes in a second. In the best case it does both at
# > once, all the time: the bytes of one part are on their way while it computes another.
# >
# > All four are Python numbers above 0; return one.


# %%
def roofline_time(flops, bytes_moved, peak_flops, bandwidth):
    """The lower bound of a step's time, in seconds.

    flops: operations, bytes_moved: bytes, peak_flops: operations per second, bandwidth: bytes per second
    """
    ...  # your code here


# %%
get("roofline").check(roofline_time)

# %% [markdown]
# Folded: the larger of two times, held against the package's cost model on both sides of the ridge.


# %% tags=["hide-input"]
def roofline_by_definition(flops, bytes_moved, peak_flops, bandwidth):
    return max(flops / peak_flops, bytes_moved / bandwidth)


machine_speeds = {"peak_flops": 1e11, "bandwidth": 1e10}
some_machine = complexity.Hardware("some machine", **machine_speeds)
for n in (16, 4096):
    price = complexity.cost(
        "multi-head-attention", batch=1, n_q=n, d_model=64, num_heads=4
    )
    bound = roofline_by_definition(price.flops, price.bytes_moved, **machine_speeds)
    assert math.isclose(bound, price.roofline(some_machine).seconds)
lower_bound = get("roofline").use(roofline_time)
print(
    "definition and package agree; the prediction:", lower_bound(1e9, 1e9, 1e11, 1e10)
)

# %% [markdown]
# Both attentions of above do the same $4 n^2 d_k h$ FLOPs. The fused one has to move $Q$, $K$, $V$ and the output. The naive one writes the scores, reads them, writes the weights and
# reads those: four times the map.

# %% tags=["nbval-ignore-output"]
n, heads, width = 256, 8, 64
flops = 4 * heads * n * n * width
moved = {"fused": 4 * 4 * heads * n * width}
moved["naive"] = moved["fused"] + 4 * 4 * heads * n * n
for name in moved:
    least = lower_bound(flops, moved[name], here.peak_flops, here.bandwidth)
    median = benchmark.summary(samples[name])["median_s"]
    assert least > 0
    print(f"{name}: at least {least * 1e3:.2f} ms, took {median * 1e3:.2f} ms")
    print(f"    {median / least:.1f} times the bound", end="; ")
    print(f"bytes alone: {moved[name] / here.bandwidth * 1e3:.2f} ms")

# %% [markdown]
# ## Naive, fused, windowed: how do they grow?
#
# Three forms for 8 heads of width 64: **naive** (the document's, with the map), **fused** (torch's kernel: all pairs, no map) and **windowed** (our sliding window of 128 to each side: fewer
# pairs).
#
# On two logarithmic axes a power of $n$ is a straight line, and its slope is the power. For windows we count the FLOPs that are done (`done_flops`): our code works in
# whole blocks, and computes their padding too. The exact window of chapter 4 is cheaper than the map from one token beyond its reach on.
#
# > **Predict.** The three slopes. And the length from which windows win, from FLOPs alone.


# %%
def full_flops(n):
    return 4 * heads * n * n * width


def windowed_flops(n):
    sizes = {"batch": 1, "num_heads": heads, "d_k": width, "window": 128}
    return complexity.cost("sliding-window-attention", n=n, **sizes).done_flops


crossing = next(n for n in range(1, 4096) if windowed_flops(n) < full_flops(n))
print("by FLOPs, the padding of whole blocks included, windows win from n =", crossing)

# %% [markdown]
# Short lengths run here and now, with the same function that `attn-course bench` runs. Before it times anything, it compares all peers' outputs.


# %% tags=["nbval-ignore-output"]
def lengths_of(rows, **more):
    known = {"textbook": "naive", "SDPA": "fused", "attn_course": "windowed"}
    return [
        {"n": row["sizes"]["n"], "form": known[name], "s": peer["median_s"], **more}
        for row in rows
        for name, peer in row["peers"].items()
        if name in known
    ]


def length_case(n):
    sizes = {"batch": 1, "num_heads": heads, "n": n, "d_k": width, "window": 128}
    names = ("sliding-window-attention", "forward", sizes, "SDPA")
    return benchmark.Case(*names, "beside full attention")


live_rows = [
    benchmark.run_case(length_case(n), seconds=1.0, rounds=9, device=device)
    for n in (256, 512, 1024)
]
assert all(row["status"] == "measured" for row in live_rows)
live = lengths_of(live_rows, live=True)
print(len(live), "medians")

# %% [markdown]
# Longer ones come from the records of `results/`, which the same command made.

# %%
records = benchmark.machines()
recorded = {}
for name, record in records.items():
    print(f"{name}: {record['conditions']['machine']}, preset {record['preset']}")
    rows = [row for row in record["rows"] if row["note"] == "beside full attention"]
    rows = [
        row for row in rows if (row["status"], row["dtype"]) == ("measured", "float32")
    ]
    if rows:
        recorded[name] = pd.DataFrame(lengths_of(rows, live=False))
    else:
        print("    without long sequences: this preset has none")
like_here = [
    name for name in recorded if records[name]["conditions"]["device"] == device.type
]
whose = like_here[0] if like_here else None

# %% [markdown]
# For each machine we fit a straight line to the logarithms. The slopes come from its longer sequences, within a factor of eight of the longest; the lines that
# cross, from all.

# %%
import statistics


def fitted(table):
    """Slope and intercept of log seconds over log n, for each form."""
    return {
        form: statistics.linear_regression(
            rows["n"].map(math.log), rows["s"].map(math.log)
        )
        for form, rows in table.groupby("form")
    }


def growth(table):
    """The slope of each form, and where windowed crosses fused."""
    slopes = fitted(table[table["n"] >= table["n"].max() / 8])
    lines = fitted(table)
    gap = lines["windowed"].intercept - lines["fused"].intercept
    met = math.exp(gap / (lines["fused"].slope - lines["windowed"].slope))
    return {form: line.slope for form, line in slopes.items()}, met


for name, table in recorded.items():
    slopes, met = growth(table)
    said = ", ".join(f"{form} {slope:.2f}" for form, slope in slopes.items())
    print(f"{name}: {said}; windows win from {met:,.0f}")
if not recorded:
    print("no record has long sequences: the run here and now has to do")

# %% [markdown]
# The figure has the record of a machine like this one, and beside it what ran here. Other threads and other programs move the dots of a run, and not all forms alike: compare slopes, not heights.

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-lengths", "caption": "Seconds of three forms of attention over the length, 8 heads of width 64, window 128. Filled: run here and now; hollow: from the record. Dashed: where windows should win by FLOPs; dotted: where the fitted lines cross."}, "image": {"classes": "wide", "alt": "Three rising lines on logarithmic axes. All three begin near each other at 256. Naive rises most steeply and lies above fused on the right; windowed rises about half as steeply as fused and crosses it near the left end."}}
table = recorded[whose] if whose else pd.DataFrame(live)
slopes, met = growth(table)
lengths = pd.concat([recorded[whose], pd.DataFrame(live)]) if whose else table
assert slopes["windowed"] < slopes["fused"]
plots.log_log_lines(
    lengths, x="n", y="s", hue="form", title="A square, a square, and a line",
    mark={"crossing by FLOPs": crossing, "crossing, fitted": met},
)  # fmt: skip
plt.show()

# %% tags=["remove-input"]
wide = table.pivot_table(index="n", columns="form", values="s")
longest = wide.dropna().index.max()
for form, slope in slopes.items():
    glue(f"slope_{form}", f"{slope:.2f}")
glue("crossing_predicted", str(crossing))
glue("crossing_fitted", f"{met:,.0f}")
say(
    "Fitted from {start:,} tokens on, time grows as $n$ to the power of {naive:.2f} (naive), {fused:.2f} (fused) and {windowed:.2f} (windowed)"
    + (" on *{whose}*. " if whose else " in this run: no record has longer ones, and over so few lengths the powers are rough. ")
    + (f"A power above 2 has no place in the FLOPs: the map has {complexity.score_bytes(1, heads, 1024, 1024) / 2**20:.0f} MiB at 1,024 tokens and {complexity.score_bytes(1, heads, 2048, 2048) / 2**20:.0f} at 2,048, and bytes that leave the caches begin to count. " if slopes["naive"] > 2.2 else "")
    + "FLOPs let windows win from {predicted:,} tokens; the lines cross at {met:,.0f}. "
    + ("The clock agrees to a factor of two. " if 0.5 < met / crossing < 2 else "That is far off: FLOPs say nothing of how well each form uses the machine. ")
    + "At {longest:,} tokens the naive form takes {saved:.1f} times as long as the fused one *for the same FLOPs*, and the windows are {times:.1f} times as fast as the fused one because they do fewer.",
    start=int(table[table["n"] >= table["n"].max() / 8]["n"].min()), **slopes, whose=whose, predicted=crossing, met=met, longest=longest,
    saved=wide.loc[longest, "naive"] / wide.loc[longest, "fused"],
    times=wide.loc[longest, "fused"] / wide.loc[longest, "windowed"],
)  # fmt: skip

# %% [markdown]
# ## Attention without the map
#
# How can a kernel attend to all pairs and never have the map? The softmax of a query needs the largest score, and the sum of all exponentials,
# before it may divide. So it seems that all scores must be there.
#
# They need not. Let $m$ be the largest score so far, $\ell$ the sum of $e^{s - m}$ and $o$ the sum of the values, each times its $e^{s - m}$. A new block of keys brings a new maximum $m'$. Then
#
# <a id="eq-streaming"></a>
# $$
# \ell' = e^{m - m'}\, \ell + \sum_{j} e^{s_j - m'}, \qquad
# o' = e^{m - m'}\, o + \sum_{j} e^{s_j - m'}\, v_j
# $$
#
# and at the very end the output is $o / \ell$ ([Milakov and Gimelshein, 2018](https://arxiv.org/abs/1805.02867);
# [Rabe and Staats, 2021](https://arxiv.org/abs/2112.05682)).

# %% [markdown]
# **By hand.** One query, scores 1, 3, 2 and values 10, 20, 30, one key at a time. After the first: $m = 1$, $\ell = 1$, $o = 10$.
#
# > **Predict.** The second key has score 3. What becomes of $\ell$ and $o$ before anything is added?

# %%
m, total, output = -math.inf, 0.0, 0.0
for score, value in ((1.0, 10.0), (3.0, 20.0), (2.0, 30.0)):
    largest = max(m, score)
    rescale = math.exp(m - largest)
    weight = math.exp(score - largest)
    total, output = rescale * total + weight, rescale * output + weight * value
    m = largest
    print(
        f"m = {m:.0f}, rescaled by {rescale:.3f}, sum {total:.3f}, output {output:.3f}"
    )
at_once = torch.tensor([1.0, 3.0, 2.0]).softmax(0) @ torch.tensor([10.0, 20.0, 30.0])
assert math.isclose(output / total, at_once.item(), rel_tol=1e-6)
print(f"{output / total:.4f}, and all at once {at_once.item():.4f}")

# %% [markdown]
# > **Exercise.** Write `streaming_attention(q, k, v, block_size)`: the output of attention, `softmax(q kᵀ / √d_k) v`, exactly, without
# > ever making the map of all `n_q × n_k` scores.
# >
# > Go through keys and values `block_size` at a time. For each query, keep three things of the keys met so far: the largest
# > score; the sum of the exponentials; and the sum of the values, each times its exponential. An exponential is always that
# > of a score *minus the largest score so far*. So when a block brings a larger score, the two sums are out of date, and
# > have to be brought to the new maximum before anything is added. One division at the very end gives the output.
# >
# > - `q` is `(…, n_q, d_k)`, `k` is `(…, n_k, d_k)` and `v` is `(…, n_k, d_v)`, in float32. There may be any number of
# >   leading dimensions, the same for all three.
# > - The last block may hold fewer than `block_size` keys, and `block_size` may be larger than `n_k`.
# > - Scores may be as large as 10,000, or as low as −10,000: no exponential may overflow, no sum be 0.
# > - With small blocks, no tensor may have `n_q · n_k` numbers, nor may many small ones together keep all the scores.
# > - Return the output, `(…, n_q, d_v)`. Gradients have to reach `q`, `k` and `v`.


# %%
def streaming_attention(q, k, v, block_size):
    """Attention over blocks of keys, with a running maximum and running sums.

    q (..., n_q, d_k), k (..., n_k, d_k), v (..., n_k, d_v)
    returns output (..., n_q, d_v)
    """
    ...  # your code here


# %%
get("streaming-attention").check(streaming_attention)

# %% [markdown]
# Folded: the definition, compared with torch's kernel, for blocks that divide the keys and for blocks that do not.


# %% tags=["hide-input"]
def streaming_by_definition(q, k, v, block_size):
    q = q / math.sqrt(q.shape[-1])
    largest = torch.full_like(q[..., :1], -torch.inf)
    total, output = torch.zeros_like(largest), 0.0
    for start in range(0, k.shape[-2], block_size):
        block = slice(start, start + block_size)
        scores = q @ k[..., block, :].mT
        new = torch.maximum(largest, scores.amax(dim=-1, keepdim=True))
        old_to_new, weights = (largest - new).exp(), (scores - new).exp()
        total = total * old_to_new + weights.sum(dim=-1, keepdim=True)
        output = output * old_to_new + weights @ v[..., block, :]
        largest = new
    return output / total


right = F.scaled_dot_product_attention(q, k, v)
for block_size in (64, 100, 1000):
    found = streaming_by_definition(q, k, v, block_size)
    torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-4)
stream = get("streaming-attention").use(streaming_attention)
torch.testing.assert_close(stream(q, k, v, 64), right, rtol=1e-3, atol=1e-4)
print("definition and torch agree, for blocks of 64, 100 and 1000 keys")

# %% [markdown]
# What does it save? The peak of three forms over the length, one head of width 64, blocks of 128 keys.
#
# > **Predict.** The slope of each, on logarithmic axes.


# %%
def peaks(n):
    parts = torch.randn(3, 1, 1, n, 64, device=device)
    forms = {
        "naive": lambda: (parts[0] @ parts[1].mT / 8).softmax(-1) @ parts[2],
        "streaming, yours": lambda: stream(*parts, 128),
        "fused": lambda: F.scaled_dot_product_attention(*parts),
    }
    with torch.no_grad():
        return [
            {
                "n": n,
                "form": form,
                "MiB": benchmark.peak_bytes(fn, device=device) / 2**20,
            }
            for form, fn in forms.items()
        ]


space = pd.DataFrame([row for n in (256, 512, 1024, 2048) for row in peaks(n)])

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-streaming", "caption": "Peak memory of three forms of attention over the length, one head of width 64. Blocks of 128 keys."}, "image": {"classes": "wide", "alt": "Three lines on logarithmic axes. The naive one rises four-fold with each doubling of the length; the streaming and the fused one two-fold, and lie far below it at 2048."}}
held = space.pivot(index="n", columns="form", values="MiB")
growth = held.loc[2048] / held.loc[1024]
assert growth["naive"] > 3 and growth["streaming, yours"] < 2.5
plots.log_log_lines(space, x="n", y="MiB", hue="form", title="The map is never there")
plt.show()

# %% tags=["remove-input"]
glue(
    "stream_saves",
    f"{held.loc[2048, 'naive'] / held.loc[2048, 'streaming, yours']:.0f}",
)
say(
    "Twice the length takes {naive:.1f} times the memory in the naive form and {stream:.1f} times with your stream. At 2,048 tokens the naive form needs {whole:.1f} MiB, which is two maps of {one:.1f}, the stream {mine:.1f}, torch's kernel {fused:.1f}. "
    "The result is *exact*: nothing was left out, only never kept at the same time.",
    naive=growth["naive"], stream=growth["streaming, yours"], whole=held.loc[2048, "naive"], one=complexity.score_bytes(1, 1, 2048, 2048) / 2**20,
    mine=held.loc[2048, "streaming, yours"], fused=held.loc[2048, "fused"],
)  # fmt: skip

# %% [markdown]
# This is the idea inside **FlashAttention** ([Dao et al., 2022](https://arxiv.org/abs/2205.14135)), and half of its profit. The other half is *where* a block's scores live: in
# the fast memory beside the arithmetic, so that they never travel. A loop in Python cannot decide that. It saves the memory; does it save time?

# %% tags=["nbval-ignore-output"]
q, k, v = torch.randn(3, 1, 8, 1024, 64, device=device)
peers = {
    "naive": naive,
    "stream": lambda: stream(q, k, v, 128),
    "fused": lambda: F.scaled_dot_product_attention(q, k, v),
}
with torch.no_grad():
    samples = benchmark.measure(peers, control="fused", rounds=15, device=device)
to_fused = {name: benchmark.ratio(s, samples["fused"]) for name, s in samples.items()}
assert all(found.median > 0 for found in to_fused.values())
for name, found in to_fused.items():
    print(f"{name:16} / fused: {found}")

# %% tags=["remove-input", "nbval-ignore-output"]
assert to_fused["stream"].low <= to_fused["stream"].high
glue("stream_time", str(to_fused["stream"]))
say(
    "At 1,024 tokens your stream takes {stream} times as long as the fused kernel, and the naive form {naive} (control {control}). An algorithm is an idea; a kernel is an idea "
    "that knows where its numbers lie.",
    stream=to_fused["stream"], naive=to_fused["naive"], control=to_fused["fused (control)"],
)  # fmt: skip

# %% [markdown]
# ## Predicted against measured, on every machine
#
# Chapter 4 counts; `results/` holds what was measured. Each record has the ceilings of its machine, each row the FLOPs and bytes of the cost model. So every row has a lower bound,
# your `roofline_time`, and a median.


# %%
def bounds(record):
    product, copy = record["ceilings"]["matrix_product"], record["ceilings"]["copy"]
    speeds = product["flops_per_s"], copy["bytes_per_s"]
    found = []
    for row in record["rows"]:
        counts = row["predicted"]
        if row["status"] != "measured" or row["dtype"] != "float32":
            continue
        work = counts["flops"], counts["bytes_moved"]
        least = lower_bound(*work, *speeds)
        arithmetic = work[0] / speeds[0] >= work[1] / speeds[1]
        found.append({
            "case": row["case"], "allocator": row["allocator"],
            "alike": row["case"].removesuffix(f", {row['allocator']}"), "mechanism": row["mechanism"], "mode": row["mode"],
            "bound": least, "measured": row["peers"][row["ours"]]["median_s"],
            "binds": "arithmetic" if arithmetic else "bytes",
            "elementwise per byte": counts["elementwise"] / max(work[1], 1),
        })  # fmt: skip
    table = pd.DataFrame(found)
    return table.assign(times=table["measured"] / table["bound"]) if found else table


machines = {name: bounds(record) for name, record in records.items()}
machines = {name: table for name, table in machines.items() if len(table)}
for name, table in machines.items():
    print(
        f"{name}: {len(table)} rows, median {table['times'].median():.1f} times the bound"
    )

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-machines", "caption": "Every float32 row of every record in results/: the lower bound by the ceilings of its machine, and the measured median of the package's own code. Solid: as fast as the bound; dashed: ten times as long."}, "image": {"classes": "wide", "alt": "For each machine a cloud of dots over several decades. Most lie between the solid and the dashed line; those with the shortest bounds lie furthest above."}}
if machines:
    plots.bound_and_measured(machines)
    plt.show()
else:
    print("No record yet: attn-course bench run --preset smoke")

# %% [markdown]
# The figure below puts the same rows under the roof of chapter 4: a dot for each forward one (*Training* has the others), at its FLOPs per byte and the rate that it reached. A ring is what a mechanism
# could reach at best, at the size of the slider: 32 maps of 28 × 28 with 128 channels, as several rows have it. Move the side, point out a row, or take *Costs
# over size* and *Least time*, where dots are measured times: over their lines, if the bound holds. (The roof is the record's, with its threads; the ceilings above were
# measured here, on one.)
#
# > **Predict.** Can a dot lie above the roof? And whose ring moves when the map has four times the pixels: spatial attention's, channel attention's, the convolution's?

# %% tags=["nbval-ignore-output", "hide-input"]
from attn_course import widgets

roofs = widgets.CostExplorer(
    view="roofline", family="maps", side=28, images=32, quantity="time"
)
above = {}
for name, table in machines.items():
    (seen,) = roofs.tables(machine=name)[1]["rows"]
    times = table.loc[table["mode"] == "forward", "times"]
    assert len(times) == seen[4] and (times < 1).sum() == seen[6]
    rows = roofs.tables(machine=name)[2]["rows"]
    above[name] = [row[0] for row in rows if row[-1] < 1]
small, large = (
    {row[0]: row[6] for row in roofs.tables(side=side)[0]["rows"]} for side in (28, 56)
)
moved = {name: large[name] / small[name] for name in small}
assert all(
    abs(moved[name] - 1) < 0.05 for name in ("Spatial attention", "Convolution, 3 × 3")
)
assert abs(moved["Channel attention"] - 1 / 4) < 0.01
roofs

# %% tags=["remove-input"]
for name, found in above.items():
    say(
        "*{name}*: {count} of its forward rows above the roof{which}.",
        name=name, count=len(found), which=f" ({'; '.join(found)})" if found else "",
    )  # fmt: skip
say(
    "From 28 × 28 to 56 × 56 the ring of channel attention moves to {channel:.2f} of its FLOPs per byte: its two small products see pooled channels, however many pixels there were, "
    "and the bytes grow with the pixels. Spatial attention ({spatial:.2f}) and the convolution ({convolution:.2f}) do the same for each pixel, and stay where they are.",
    channel=moved["Channel attention"], spatial=moved["Spatial attention"], convolution=moved["Convolution, 3 × 3"],
)  # fmt: skip

# %% [markdown]
# Which rows lie far off, and why? First those that took longest for their bound, then those that lie nearest to it, or below.


# %%
def outliers(table, count=3):
    ordered = table.sort_values("times", ascending=False)
    return pd.concat([ordered.head(count), ordered.tail(count)])


for name, table in machines.items():
    print(name)
    for row in outliers(table).itertuples():
        print(f"{row.times:8.2f} times {row.bound * 1e3:9.4f} ms  {row.case[:58]}")


# %% tags=["hide-input"]
def of_small_and_large(table):
    short, rest = table[table["bound"] < 1e-4], table[table["bound"] >= 1e-4]
    if not len(short) or not len(rest):
        return ""
    few, many = short["times"].median(), rest["times"].median()
    text = f"{len(short)} rows have a bound below 0.1 ms and take {few:.1f} times as long (median), the other {len(rest)} take {many:.1f} times"
    return text + (": small work pays for calls. " if few > many else ". ")


def of_modes(rest):
    if set(rest["mode"]) != {"forward", "training"}:
        return ""
    times = rest.groupby("mode")["times"].median()
    return f"Among the larger, forward takes {times['forward']:.1f} and training {times['training']:.1f} times the bound, which takes the traffic of a backward pass at its least. "


# %% [markdown]
# Both sentences say what the table shows. The next ones say what the bound leaves out.


# %% tags=["hide-input"]
def of_the_furthest(rest):
    far = rest.loc[rest["times"].idxmax()]
    return (
        f"Of them {far['mechanism']} ({far['mode']}) lies furthest above, {far['times']:.1f} times: its bound comes from its {far['binds']}, "
        f"and leaves out {far['elementwise per byte']:.2f} elementwise operations for each byte"
        + (", too few to explain it. " if far["elementwise per byte"] < 1 else ". ")
    )


def of_those_below(table):
    below = table[table["times"] < 1]
    if not len(below):
        return "None lies below its bound. "
    lowest, by_bytes = (
        below.loc[below["times"].idxmin()],
        (below["binds"] == "bytes").sum(),
    )
    text = f"{len(below)} lie below the bound, the lowest {lowest['mechanism']} at {lowest['times']:.2f}. "
    if by_bytes:
        text += f"{by_bytes} of these should wait for bytes, but numbers that stay in a cache never come from memory. "
    if by_bytes < len(below):
        text += f"{len(below) - by_bytes} of these beat the arithmetic: done with fewer multiplications than defined, or the ceiling is too low. "
    return text


# %% tags=["remove-input"]
for name, table in machines.items():
    large = table[table["bound"] >= 1e-4]
    text = f"**{name}.** {of_small_and_large(table)}"
    if len(large):
        text += of_modes(large) + of_the_furthest(large)
    say("{text}", text=text + of_those_below(table))
    glue(f"bound_median_{name}", f"{table['times'].median():.1f}")
if not machines:
    say("There is no record here, so there is nothing to explain.")

# %% [markdown]
# "Or" is not an explanation. Two experiments tell the reasons apart. First: memory that a program gets from the system has to be handed out page by page, and large
# pages need fewer hand-outs. The record has some cases in both settings: the same code, the same numbers.

# %%
pages = {}
for name, table in machines.items():
    both = table[table["allocator"] == "huge pages"].merge(table, on="alike")
    both = both[both["allocator_y"] == "default"]
    if len(both):
        pages[name] = both.assign(gain=both["measured_y"] / both["measured_x"])
        print(name)
        for row in pages[name].sort_values("gain", ascending=False)[:4].itertuples():
            print(f"{row.gain:6.2f} times as long with usual pages: {row.alike[:52]}")
if not pages:
    print("no record has both settings")

# %% [markdown]
# Second: how can a convolution beat its arithmetic? A 3 × 3 kernel can be had with fewer multiplications than its definition has ([Lavin and Gray, 2016](https://arxiv.org/abs/1509.09308)); a 1 × 1 kernel cannot.
#
# > **Predict.** Both below do the same FLOPs by definition, and both are bound by arithmetic. Which of them takes longer, if the trick is used?

# %% tags=["nbval-ignore-output"]
maps, wide_maps = (torch.randn(8, c, 28, 28, device=device) for c in (128, 1152))
kernel = torch.randn(128, 128, 3, 3, device=device)
point = torch.randn(128, 1152, 1, 1, device=device)
peers = {
    "3 x 3": lambda: F.conv2d(maps, kernel, padding=1),
    "1 x 1": lambda: F.conv2d(wide_maps, point),
}
samples = benchmark.measure(peers, control="3 x 3", rounds=15, device=device)
trick = benchmark.ratio(samples["1 x 1"], samples["3 x 3"])
noise = benchmark.ratio(samples["3 x 3 (control)"], samples["3 x 3"])
assert kernel.numel() == point.numel() and trick.median > 0
rate = 2 * 8 * 28 * 28 * kernel.numel() / 1e9
for name, taken in samples.items():
    print(f"{name:16} {rate / benchmark.summary(taken)['median_s']:6.0f} GFLOP/s")

# %% tags=["remove-input", "nbval-ignore-output"]
assert trick.low <= trick.median <= trick.high
glue("convolution_trick", str(trick))
by_pages = [table.loc[table["gain"].idxmax()] for table in pages.values()]
text = "".join(
    f"On *{name}* usual pages cost {row['mechanism_x']} ({row['mode_x']}) {row['gain']:.1f} times the time: what looked like slow code was the system, handing out memory. "
    for name, row in zip(pages, by_pages, strict=True)
)
say(
    "{text}The 1 × 1 convolution takes {trick} times as long as the 3 × 3 one (control {noise})"
    + (", for the same FLOPs by definition: it looks as if the 3 × 3 kernel did fewer than are counted. " if trick.low > max(1, noise.high) else ": here the trick does not show. ")
    + "A lower bound is only as good as its count and its ceiling; where it is beaten, one of the two is wrong, and that is how one finds out.",
    text=text, trick=trick, noise=noise,
)  # fmt: skip

# %% [markdown]
# ## What this course promises, measured
#
# The package claims to be as fast as the best that can be had, or faster, and each claim is a **bar**: a ratio of one peer's time or peak to ours in one case, with
# the least it must be. A bar counts as reached if the ratio's interval includes it. The table says *in the noise* unless all of the interval lies above the bar, and the control's interval does not
# reach so far: this chapter's rule, held against ourselves. (`SDPA` is torch's `scaled_dot_product_attention`, `FlexAttention` its compiled kernel for masks; `timm` and `local-attention` are libraries of layers; *Hybrid* is the network of chapter 7.)


# %%
def bars_of(record):
    found = [bar for bar in benchmark.bars(record["rows"]) if bar["value"] is not None]
    return pd.DataFrame(
        {
            "bar": bar["label"],
            "ratio": f"{bar['value']:.2f}",
            "interval": f"{bar['low']:.2f} to {bar['high']:.2f}",
            "control": "{:.2f} to {:.2f}".format(*bar["control"])
            if bar["control"]
            else "",
            "at least": f"{bar['bound']:.2f}",
            "reached": verdict(bar),
        }
        for bar in found
    )


def verdict(bar):
    if not bar["reached"]:
        return "no"
    noise = max(1, *bar["control"]) if bar["control"] else 1
    sure = bar["low"] >= bar["bound"] and bar["value"] >= bar["bound"] * noise
    return "yes" if sure else "in the noise"


held_bars = {name: bars_of(record) for name, record in records.items()}
held_bars = {name: table for name, table in held_bars.items() if len(table)}
pd.set_option("display.max_colwidth", None, "display.max_rows", None)
tables = list(held_bars.values())
if len(tables) > 1:
    tables = [table.assign(machine=name) for name, table in held_bars.items()]
index = "machine" if len(tables) > 1 else "bar"
pd.concat(tables).set_index(index) if tables else "no record has the bars"

# %% tags=["remove-input"]
counts = {name: (table["reached"] != "no").sum() for name, table in held_bars.items()}
for name, table in held_bars.items():
    failed = table.loc[table["reached"] == "no", "bar"].tolist()
    say(
        "On *{name}* {reached} of {all} are reached: {sure} for certain, {near} in the noise. " + ("Not reached: {failed}. A bar that is missed stays in the table." if failed else ""),
        name=name, reached=counts[name], all=len(table), failed="; ".join(failed), near=(table["reached"] == "in the noise").sum(),
        sure=(table["reached"] == "yes").sum(),
    )  # fmt: skip
    sure = (table["reached"] == "yes").sum()
    glue(f"bars_reached_{name}", f"{counts[name]} of {len(table)} ({sure} for certain)")
if not held_bars:
    say(
        "Only the preset *course* has the cases of the bars, and no record here was made with it."
    )

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-bars", "caption": "The cases of the bars on the first machine of results/ that has them: each peer's time over ours with its interval. Grey: the control."}, "image": {"classes": "wide", "alt": "A line for each case with marks for the peers, most of them right of 1, where ours is faster, on a logarithmic axis; a narrow grey bar around 1."}}
wanted = {bar.case for bar in benchmark.BARS}
if held_bars:
    record = records[next(iter(held_bars))]
    rows = [row for row in record["rows"] if row["case"] in wanted]
    plots.benchmark_ratios({**record, "rows": rows})
    plt.show()
else:
    print("nothing to draw")

# %% [markdown]
# ### On your own machine
#
# One command, and there is a column more: in a clone, `make bench` (it fetches the peers first); with the package installed:
#
# ```
# attn-course doctor
# attn-course bench run --preset course --out results/my-machine.json --resume
# attn-course bench show results/my-machine.json
# attn-course bench compare results/amd-epyc-2-cores.json results/my-machine.json
# ```
#
# `doctor` says what will run here; `run` may be stopped at any moment and goes on where it was; a case that does not fit is a row that says so. `compare` calls nothing a difference that
# the controls of both files do not allow. The figures above show every file of `results/`, yours too, when this page runs again.

# %% [markdown]
# ## What others report
#
# On data-centre GPUs the ceiling is the tensor cores' in half precision: 989 TFLOP/s by the data sheet of an H100 SXM or H200. How near does attention come? Read from the sources, not measured by us:
# [FlashAttention-2](https://arxiv.org/abs/2307.08691) and the standard form, from [FlashAttention's repository](https://github.com/Dao-AILab/flash-attention) (figure `flash3_fp16_fwd.png`), with [FlashAttention-3](https://arxiv.org/abs/2407.08608) and cuDNN
# beside them on an H100; and cuDNN 9.19 on an H200, from [NVIDIA's repository](https://github.com/NVIDIA/cudnn-frontend).
#
# With the backward pass, no mask, at 8,192 tokens on an H100: the standard form 167, FlashAttention 137, FlashAttention-2 335 (same repository, `flash2_h100_fwd_bwd_benchmark.png`). On the H200, cuDNN's backward pass alone: 594.
#
# > **Predict.** The standard form reaches 139 TFLOP/s at 8,192 tokens. What does it reach at 16,384?

# %%
names = (512, 1024, 2048, 4096, 8192, 16384)
reported = {
    "cuDNN 9.19, H200": dict(
        zip((*names[2:], 32768), (633, 671, 691, 702, 693), strict=True)
    ),
    "FlashAttention-3, H100": dict(
        zip(names, (467, 565, 625, 638, 646, 648), strict=True)
    ),
    "cuDNN, H100": dict(zip(names[1:], (574, 617, 609, 600, 595), strict=True)),
    "FlashAttention-2, H100": dict(
        zip(names, (309, 350, 362, 368, 370, 370), strict=True)
    ),
    "standard, H100": dict(zip(names[:-1], (74, 100, 119, 133, 139), strict=True)),
}
peak = 989  # dense half precision, by the data sheet
best = {name: max(rates.values()) for name, rates in reported.items()}
for name, rate in best.items():
    print(f"{name:24} {rate} TFLOP/s, {rate / peak:.0%} of the ceiling")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-literature", "caption": "Reported rates of attention, forward, half precision, head width 128, no mask. H100: figure in the repository of FlashAttention, FP16; the first value of cuDNN is hidden there. H200: NVIDIA's table, bfloat16, 64 heads of queries on 8 of keys. Dashed: the data sheet's peak."}, "image": {"classes": "wide", "alt": "Five lines of TFLOP/s over lengths 512 to 32768. cuDNN on the H200 and FlashAttention-3 lie highest, between 600 and 700; FlashAttention-2 near 370; the standard form from 74 to 139, and it ends at 8192."}}
plots.rates_by_length(
    reported, peak, "TFLOP/s", "Three generations of the same arithmetic"
)
plt.show()

# %% tags=["remove-input"]
gain = reported["FlashAttention-3, H100"][8192] / reported["standard, H100"][8192]
say(
    "At 16,384 tokens the standard form reaches nothing: out of memory. At 8,192 FlashAttention-3 does {gain:.1f} times its rate. The FLOPs are the same in all rows, "
    "$4 n^2 d_k h$; what differs is where numbers lie and whether loads and products overlap. The paper of FlashAttention-3 reports 1.5 to 2.0 times the speed of "
    "FlashAttention-2, and up to 740 TFLOP/s. These are their machines, lengths and stopwatches: unlike workloads, to hold beside ours only as shares of a ceiling.",
    gain=gain,
)  # fmt: skip

# %% [markdown]
# ## Where it breaks
#
# - Ceilings are *this* program's: threads, dtype, other users of the machine. The A/A control sees noise within a run, not a machine that is slow all day.
# - A median of ten calls in a loop has warm caches. In a model, other layers were there before.
# - A lower bound counts neither elementwise operations nor calls. It can be missed by a factor of ten without a fault of anyone.
#
# And the stopwatch has an edge of its own: it refuses to measure nothing.

# %%
try:
    benchmark.measure({"nothing": lambda: None}, rounds=0)
except ValueError as error:
    print(error)

# %% [markdown]
# ## When to take which number
#
# | Question | Take |
# |---|---|
# | Is A faster than B? | the ratio in turns, with interval and control |
# | Is A good? | its time over the lower bound |
# | Will it fit? | the peak, with autograd as it will run |
# | Is it faster *elsewhere*? | a run there: `make bench` |
#
# > **Predict.** A colleague reports 1.04 times the speed, median of 20 runs, one version after the other. What do you ask first?

# %%
answer = (
    f"For the control. One after the other, a drift made a step {apart.median:.2f} times"
    f" itself; in turns it was {turns.median:.2f}."
)
print(answer)

# %% [markdown]
# ## Questions
#
# Decide before you open a choice: each one says what is right in it, or what is not. By keyboard, Tab goes to the
# next choice, or to a link in an open one, and Enter opens it and closes the one before.

# %% [markdown]
# **Question 1.** On a GPU, the product of two 4,096 × 4,096 matrices takes 0.03 ms by your clock, and that of two
# 8,192 × 8,192 matrices takes 0.03 ms as well. What is most likely wrong?
#
# <details name="chapter-5-question-1"><summary>A. The warm-up is missing</summary>
#
# **Not quite.** First calls are too *long*, and differ from each other. They do not make eight times the work look
# like the same.
#
# </details>
#
# <details name="chapter-5-question-1"><summary>B. One run was taken where a median is needed</summary>
#
# **Not quite.** A single run scatters, mostly upwards. It will not bring two products of unlike size to the same
# short time.
#
# </details>
#
# <details name="chapter-5-question-1"><summary>C. Nothing waits for the device before the clock is read</summary>
#
# **Right.** Eight times the work in the same time: the clock does not see the work. And $2 \cdot 4096^3$ FLOPs
# in 0.03 ms would be over 4,500 TFLOP/s, far above the data sheet of any card in this chapter.
#
# </details>

# %% [markdown]
# **Question 2.** After some keys a query has the maximum $m = 2$, the sum $\ell = 3$ and the output $o = 12$. The
# last key has the score $2 + \ln 3$ and the value 8. What is the query's output?
#
# <details name="chapter-5-question-2"><summary>A. 5</summary>
#
# **Not quite.** That is $(12 + 8)/(3 + 1)$: the new key was added to sums that still belong to the old maximum. Both
# have to be multiplied by $e^{-\ln 3} = 1/3$ first.
#
# </details>
#
# <details name="chapter-5-question-2"><summary>B. 6</summary>
#
# **Right.** The maximum rises by $\ln 3$, so both sums shrink to a third: $\ell = 1$ and $o = 4$. With the new key
# they are 2 and 12, and $12/2 = 6$ (section *Attention without the map*).
#
# </details>
#
# <details name="chapter-5-question-2"><summary>C. 10</summary>
#
# **Not quite.** That is $(12 + 8)/2$: the sum of exponentials was brought to the new maximum, the output was not.
# Both are sums of the same exponentials.
#
# </details>

# %% [markdown]
# **Question 3.** A change takes 0.97 [0.96, 0.98] times as long as the old code. In the same run the control, the old
# code against itself, took 0.99 [0.95, 1.03]. Is the change faster?
#
# <details name="chapter-5-question-3"><summary>A. This run cannot tell</summary>
#
# **Right.** The same code differed from itself by as much. The control's interval is what no other ratio of the run
# may claim to see; more rounds on a quieter machine may narrow it (section *One after the other, or in turns?*).
#
# </details>
#
# <details name="chapter-5-question-3"><summary>B. Yes: its interval does not contain 1</summary>
#
# **Not quite.** An interval knows the scatter that it was made from, and nothing of the noise that the control shows.
# It has to lie outside the control's as well.
#
# </details>
#
# <details name="chapter-5-question-3"><summary>C. Yes, by 2 %: 0.97 divided by 0.99</summary>
#
# **Not quite.** The control is no factor to divide by. What it tells is its width: how far from 1 a ratio comes in
# this run when nothing has changed.
#
# </details>
#
# <details name="chapter-5-question-3"><summary>D. No: the two are equally fast</summary>
#
# **Not quite.** That was not shown either. Between *faster* and *equal* lies *not to be seen with this run*, which is
# the honest answer.
#
# </details>

# %% [markdown]
# **Question 4.** A 5 × 5 convolution is bound by arithmetic, and takes 0.6 times its lower bound. The stopwatch is in
# order, the output is right. What can explain it?
#
# <details name="chapter-5-question-4"><summary>A. Its operands came from a cache, so fewer bytes were moved</summary>
#
# **Not quite.** That shortens the time for bytes, which does not bind here. The bound is the longer of two times, and
# the arithmetic is the same.
#
# </details>
#
# <details name="chapter-5-question-4"><summary>B. It computed and moved numbers at the same time</summary>
#
# **Not quite.** The bound already allows that: it takes the longer of the two times, not their sum. So it cannot be
# beaten in this way.
#
# </details>
#
# <details name="chapter-5-question-4"><summary>C. It does fewer multiplications than are counted, or the ceiling is too low</summary>
#
# **Right.** One of the two numbers in the bound is wrong: the count, if the kernel knows a trick, or the rate of the
# matrix product that gave the ceiling. Another experiment has to say which.
#
# </details>

# %% [markdown]
# ## What we know now

# %% tags=["remove-input"]
say(
    "A stopwatch lied by {fast:.0f} times one way and {slow:.0f} the other, without a bug that anything would report. Synchronised, warm, in turns, by medians, with a control, on like work: then a number may be believed, "
    "as far as the control. The price: warm-up calls, one peer entered twice, and patience. Naive and fused attention do the same FLOPs, and grew as $n^{{{naive:.2f}}}$ and $n^{{{fused:.2f}}}$; windows grew as $n^{{{windowed:.2f}}}$ and should win from {crossing} tokens, and did from {met:,.0f}. "
    "A running maximum and two running sums replace the map: {saves:.0f} times less memory at 2,048 tokens, exactly the same output. And a lower bound says what no ratio can: how much there is left to win.",
    fast=TRUE / unsynchronised, slow=sum(cold) / 10 / TRUE, **slopes, crossing=crossing, met=met,
    saves=held.loc[2048, "naive"] / held.loc[2048, "streaming, yours"],
)  # fmt: skip

# %% [markdown]
# **Further reading.** [Dao et al., 2022](https://arxiv.org/abs/2205.14135), for bytes as the thing to save; [Dao, 2023](https://arxiv.org/abs/2307.08691) and
# [Shah et al., 2024](https://arxiv.org/abs/2407.08608), for how the rest of the ceiling is reached;
# [Williams et al., 2009](https://doi.org/10.1145/1498765.1498785), for the roofline;
# [Hoefler and Belli, 2015](https://doi.org/10.1145/2807591.2807644), for twelve ways to report a performance well.
#
# **The next question.** Each mechanism has its price now, and each machine its ceilings. What happens when one model uses several of them, and which
# should it be for a given task? That is chapter 6.
#
# Something wrong or unclear? [Report it](https://github.com/attn-course/attn-course/issues).

# %% tags=["remove-cell"]
print("Chapter 5 is complete.")
