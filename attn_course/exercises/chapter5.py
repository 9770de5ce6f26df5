"""Chapter 5, what may stand beside a learner's code: prompts, stubs and cases."""

from collections.abc import Callable
from typing import Any

import torch

from .runner import by_position
from .task import Case, Inputs, Task

# ------------------------------------------------------------------------------------------- making inputs


def _draw(g: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=g).clamp(-2.5, 2.5)


def _number(g: torch.Generator) -> int:
    return int(torch.randint(1 << 30, (), generator=g))


# --------------------------------------------------------------------------------------------- time-it


class _Launches:
    """A function that launches work on a simulated device, and counts how often it was called."""

    def __init__(self, device: Any, works_ms: tuple[float, ...], nature: str) -> None:
        self.device, self.works_ms, self.calls = device, works_ms, 0
        parts = " and ".join(f"{work:g} ms" for work in works_ms)
        self.formula = f"a launch of {parts} of work{nature}"  # shown to the learner

    def __call__(self) -> None:
        self.calls += 1
        for work in self.works_ms:
            self.device.launch(work / 1000)


class _Clock:
    def __init__(self, device: Any) -> None:
        self.device, self.reads = device, 0

    def __call__(self) -> float:
        self.reads += 1
        return self.device.clock()


_NATURE = {"slow_first": "slower at first", "jitter": "with jitter", "outliers": "with outliers"}


def _timed(
    works_ms: tuple[float, ...], *counts: int, launch_ms: float = 0.02, **device: Any
) -> Callable[[torch.Generator], Inputs]:
    """``counts``: warm-up calls, and repeats. One alone is the warm-up: nothing depends on names."""
    nature = "".join(f", {text}" for name, text in _NATURE.items() if name in device)

    def make(g: torch.Generator) -> Inputs:
        from attn_course.benchmark.simulated import SimulatedDevice  # late: the catalogue does without it

        made = SimulatedDevice(launch_s=launch_ms / 1000, seed=_number(g), start_s=12.5, **device)
        return {
            "fn": _Launches(made, works_ms, nature),
            "synchronize": made.synchronize,
            "clock": _Clock(made),
            **dict(zip(("warmup", "repeats"), counts, strict=False)),
        }

    return make


def _number_of_python(value: Any) -> Any:
    """A number as a float: an integer, or numpy's float64, which is a float too, is as right."""
    kind = type(value)
    return float(value) if kind is int or issubclass(kind, float) else value


def _measure(candidate: Any, inputs: Inputs, leaves: dict[str, torch.Tensor]) -> Any:
    """What came back, and what was done with the three functions."""
    seconds = by_position(candidate, inputs, ("warmup", "repeats"))
    if seconds is None or seconds is ...:
        return seconds
    read = inputs["clock"].reads > 0
    # A number that is not of this clock is another one each time; it is wrong whatever it is.
    return read, inputs["fn"].calls, _number_of_python(seconds) if read else 0.0


_NOISY: dict[str, Any] = {"jitter": 0.4}
_COLD = (30.0, 6.0, 2.0)

_TIME_IT = Task(
    id="time-it",
    chapter=5,
    title="An honest stopwatch",
    prompt="""\
Write `time_it(fn, synchronize, clock, warmup=3, repeats=10)`: the median time of one call of `fn`, in seconds, work
included.

`fn()` only *launches* work on a device and returns at once, while the device begins to work. What was launched earlier
is done first. `synchronize()` waits until everything that was launched is done. `clock()` returns the time now, in
seconds.

- First come `warmup` calls of `fn` that are not timed. Their work is over before the first timed call begins.
- Then come `repeats` calls, each timed by itself: from before its launch to the end of its work. In all, `fn` is called
  `warmup + repeats` times.
- The median is the middle one of the sorted times; of an even number of them it is the mean of the two in the middle.
- `warmup` may be 0, `repeats` is at least 1. Return a Python number. There is no other clock than `clock`: a second of
  the device need not be one of yours.
""",
    stub='''\
def time_it(fn, synchronize, clock, warmup=3, repeats=10):
    """The median time of one call of fn, in seconds.

    fn() launches work, synchronize() waits for all of it, clock() returns seconds
    """
    ...  # your code here
''',
    returns=("whether `clock` was read", "the number of calls of `fn`", "seconds"),
    cases=(
        Case("three calls", _timed((4,), 2, 3)),
        Case("one call after another", _timed((5,), 1, 1)),
        Case("slow at first", _timed((3,), 3, 1, slow_first=_COLD)),
        Case("slow at first, two calls", _timed((3,), 3, 2, slow_first=_COLD)),
        Case("one call", _timed((5,), 0, 1)),
        Case("an odd number", _timed((8,), 2, 5, **_NOISY)),
        Case("an even number", _timed((8,), 1, 4, **_NOISY)),
        Case("as it is by default", _timed((2,), slow_first=_COLD, **_NOISY)),
        Case("five to warm up", _timed((6,), 5, slow_first=_COLD, **_NOISY)),
        Case("outliers", _timed((4,), 3, 7, outliers=0.25, outlier_factor=20.0, **_NOISY)),
        Case("no warm-up", _timed((5,), 0, 6, slow_first=_COLD, **_NOISY)),
        Case("two launches in a call", _timed((3, 1), 2, 4, **_NOISY)),
        Case("work as short as its launch", _timed((0.5,), 3, 5, launch_ms=0.4, **_NOISY)),
        Case("long warm-up", _timed((7,), 8, 2, slow_first=_COLD, **_NOISY)),
    ),
    act=_measure,
)

# -------------------------------------------------------------------------------------------- roofline


def _bounded(
    flops: int, bytes_moved: int, peak_flops: float, bandwidth: float
) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {
        "flops": flops,
        "bytes_moved": bytes_moved,
        "peak_flops": peak_flops,
        "bandwidth": bandwidth,
    }


def _any_work(over: float) -> Callable[[torch.Generator], Inputs]:
    """Work whose arithmetic takes ``over`` times as long as its traffic."""

    def make(g: torch.Generator) -> Inputs:
        peak, bandwidth = (float(10 ** (3 * torch.rand((), generator=g))) for _ in range(2))
        bytes_moved = 10**9 + _number(g)
        flops = int(over * bytes_moved / (bandwidth * 1e9) * (peak * 1e11))
        return {
            "flops": flops,
            "bytes_moved": bytes_moved,
            "peak_flops": peak * 1e11,
            "bandwidth": bandwidth * 1e9,
        }

    return make


def _lower_bound(candidate: Any, inputs: Inputs, leaves: dict[str, torch.Tensor]) -> Any:
    return _number_of_python(by_position(candidate, inputs, ()))


_ROOFLINE = Task(
    id="roofline",
    chapter=5,
    title="No faster than this",
    prompt="""\
Write `roofline_time(flops, bytes_moved, peak_flops, bandwidth)`: the time in seconds that a step takes at least on some
machine.

The step does `flops` operations and moves `bytes_moved` bytes between memory and processor. The machine does at most
`peak_flops` operations in a second, and moves at most `bandwidth` bytes in a second. In the best case it does both at
once, all the time: the bytes of one part are on their way while it computes another.

All four are Python numbers above 0; return one.
""",
    stub='''\
def roofline_time(flops, bytes_moved, peak_flops, bandwidth):
    """The lower bound of a step's time, in seconds.

    flops: operations, bytes_moved: bytes, peak_flops: operations per second, bandwidth: bytes per second
    """
    ...  # your code here
''',
    returns=("seconds",),
    cases=(
        Case("computes for long", _bounded(600, 20, 100.0, 10.0)),
        Case("moves for long", _bounded(100, 80, 50.0, 16.0)),
        Case("both alike", _bounded(300, 60, 100.0, 20.0)),
        Case("less than a second", _bounded(8, 3, 64.0, 32.0)),
        Case("more bytes than operations, and still computing", _bounded(40, 50, 4.0, 100.0)),
        Case("slower at computing, and still moving", _bounded(30, 700, 10.0, 20.0)),
        Case("faster at computing, and moving", _bounded(3, 700, 20.0, 10.0)),
        Case("a large matrix product", _bounded(2 * 4096**3, 3 * 4 * 4096**2, 19.5e12, 1.555e12)),
        Case("a softmax", _bounded(5 * 4096**2, 2 * 4 * 4096**2, 19.5e12, 1.555e12)),
        Case("any step, computing", _any_work(3.7)),
        Case("any step, moving", _any_work(0.23)),
        Case("any step, nearly alike", _any_work(1.1)),
    ),
    act=_lower_bound,
)

# ---------------------------------------------------------------------------------- streaming-attention


def _attention(
    lead: tuple[int, ...], n_q: int, n_k: int, d_k: int, d_v: int, block_size: int, spread: float = 2.0
) -> Callable[[torch.Generator], Inputs]:
    """Scores of size ``spread``: a softmax that takes no maximum away does not overflow yet."""

    def make(g: torch.Generator) -> Inputs:
        return {
            "q": spread * _draw(g, *lead, n_q, d_k),
            "k": _draw(g, *lead, n_k, d_k),
            "v": _draw(g, *lead, n_k, d_v),
            "block_size": block_size,
        }

    return make


def _rising(g: torch.Generator) -> Inputs:
    """One query: the second block has the largest score, the last key is alone in its block."""
    return {
        "q": torch.tensor([[2.0, 0.0, 0.0, 0.0]]),
        "k": torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 1], [2, 0, 1, 0], [-1, 0, 0, 0], [1, 1, 0, 0]]),
        "v": torch.tensor([[1.0, 0], [0, 1], [2, -1], [3, 5], [-4, 2]]),
        "block_size": 2,
    }


def _steep(lead: tuple[int, ...], n_k: int, block_size: int) -> Callable[[torch.Generator], Inputs]:
    """Scores from -9984 to 9984, whole numbers all the way, so that no order of operations rounds them.

    The largest may be there twice, in two blocks; all that differ are 64 apart, so that an exponential is either 1
    or nothing. For some queries the largest score comes first, for others last; for the last two all scores lie far
    below 0, or far above.
    """

    def make(g: torch.Generator) -> Inputs:
        n_q, d_k = 5, 16
        steps = torch.randint(-39, 40, (*lead, n_k, 1), generator=g).float()
        steps[..., 1, 0] = steps[..., n_k // 2, 0] = 39
        rising = torch.randint(-39, 40, (*lead, n_k, 1), generator=g).float().sort(-2).values
        k = torch.cat([steps, rising, torch.ones_like(steps), torch.zeros(*lead, n_k, d_k - 3)], -1)
        # Its products with (steps, rising, 1), divided by √16 = 4, are 256 · steps and so on.
        rows = torch.tensor([[1024.0, 0, 0], [-1024, 0, 0], [0, 1024, 0], [256, 0, -29952], [0, 256, 29952]])
        q = torch.cat([rows.expand(*lead, n_q, 3), torch.zeros(*lead, n_q, d_k - 3)], -1)
        v = _draw(g, *lead, n_k, 3)
        return {"q": q.contiguous(), "k": k.contiguous(), "v": v, "block_size": block_size}

    return make


# Blocks may be merged by the logarithms of their sums, and those are rounded to a thousandth where scores are large.
_STEEP = 0.01
# With a sixteenth of the keys in a block, a right answer takes a quarter of what all scores would take, and four
# fifths of it with its inputs in float64; who keeps all scores and their exponentials takes twice as much.
_N_Q, _N_K, _BLOCK = 48, 256, 16
_LONG = Case(
    "long",
    _attention((2,), _N_Q, _N_K, 3, 2, _BLOCK),
    terms=_N_K,
    memory=True,
    most_elements=_N_Q * _N_K,  # of one head
    most_bytes=6 * 2 * _N_Q * _N_K,  # of both, one and a half times
)

_STREAMING_ATTENTION = Task(
    id="streaming-attention",
    chapter=5,
    title="Attention without the map",
    prompt="""\
Write `streaming_attention(q, k, v, block_size)`: the output of attention, `softmax(q kᵀ / √d_k) v`, exactly, without
ever making the map of all `n_q × n_k` scores.

Go through keys and values `block_size` at a time. For each query, keep three things of the keys met so far: the largest
score; the sum of the exponentials; and the sum of the values, each times its exponential. An exponential is always that
of a score *minus the largest score so far*. So when a block brings a larger score, the two sums are out of date, and
have to be brought to the new maximum before anything is added. One division at the very end gives the output.

- `q` is `(…, n_q, d_k)`, `k` is `(…, n_k, d_k)` and `v` is `(…, n_k, d_v)`, in float32. There may be any number of
  leading dimensions, the same for all three.
- The last block may hold fewer than `block_size` keys, and `block_size` may be larger than `n_k`.
- Scores may be as large as 10,000, or as low as −10,000: no exponential may overflow, no sum be 0.
- With small blocks, no tensor may have `n_q · n_k` numbers, nor may many small ones together keep all the scores.
- Return the output, `(…, n_q, d_v)`. Gradients have to reach `q`, `k` and `v`.
""",
    stub='''\
def streaming_attention(q, k, v, block_size):
    """Attention over blocks of keys, with a running maximum and running sums.

    q (..., n_q, d_k), k (..., n_k, d_k), v (..., n_k, d_v)
    returns output (..., n_q, d_v)
    """
    ...  # your code here
''',
    returns=("output",),
    cases=(
        Case("one query, five keys", _rising),
        Case("one block", _attention((), 3, 5, 4, 2, 5), terms=32),
        Case("two full blocks", _attention((), 3, 6, 4, 2, 3), terms=32),
        Case("last block not full", _attention((), 5, 11, 7, 3, 4), terms=32, twice=True),
        Case("last block of one key", _attention((), 2, 7, 3, 5, 3), terms=32),
        Case("block larger than all keys", _attention((), 3, 5, 2, 7, 13), terms=32),
        Case("one key at a time", _attention((), 7, 3, 5, 2, 1), terms=32),
        Case("one key", _attention((2,), 3, 1, 5, 7, 2), terms=32),
        Case("heads", _attention((3,), 5, 11, 7, 2, 4), terms=32),
        Case("batch and heads", _attention((2, 3), 5, 13, 11, 7, 4), terms=32),
        Case("three leading dimensions", _attention((2, 1, 3), 2, 7, 5, 3, 2), terms=32),
        Case("more queries than keys", _attention((2,), 13, 5, 3, 2, 2), terms=32),
        Case("all sizes 4", _attention((4, 4), 4, 4, 4, 4, 4), terms=32),
        Case("block of 2, all other sizes 4", _attention((4, 4), 4, 4, 4, 4, 2), terms=32),
        Case("scores up to 10,000", _steep((), 11, 3), within=_STEEP),
        Case("scores up to 10,000, with heads", _steep((2, 3), 16, 4), within=_STEEP),
        Case("gradients", _attention((2, 3), 5, 11, 7, 3, 4), terms=64, gradients=True),
        Case("gradients in two dimensions", _attention((), 3, 5, 4, 4, 2, 1.0), terms=64, gradients=True),
        _LONG,
    ),
)  # fmt: skip

TASKS = (
    _TIME_IT,
    _ROOFLINE,
    _STREAMING_ATTENTION,
)
