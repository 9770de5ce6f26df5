"""Chapter 5, what must not stand beside a submission: solutions, hints and known wrong answers."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from .judge import Answer, Mistake

Tensor = torch.Tensor
Times = list[float]

# --------------------------------------------------------------------------------------------- time-it


def time_it(fn, synchronize, clock, warmup=3, repeats=10):
    for _ in range(warmup):
        fn()
    synchronize()  # or the first timed call would wait for the warm-up's work
    times = []
    for _ in range(repeats):
        start = clock()
        fn()
        synchronize()  # or the clock would stop when the work is launched
        times.append(clock() - start)
    times.sort()
    return (times[(repeats - 1) // 2] + times[repeats // 2]) / 2


_median = statistics.median


def _timing(
    result: Callable[[Times], Any] = _median,
    sync_warmup: bool = True,  # between warm-up and timing
    order: str = "cfsc",  # of clock, fn and synchronize in a timed call
    warm: Callable[[int, int], int] = lambda warmup, repeats: warmup,
    timed: Callable[[int, int], int] = lambda warmup, repeats: repeats,
) -> Callable[..., Any]:
    """A stopwatch with one thing wrong. The first and the last reading of the clock in ``order`` count."""

    def measure(fn: Any, synchronize: Any, clock: Any, warmup: int = 3, repeats: int = 10) -> Any:
        for _ in range(warm(warmup, repeats)):
            fn()
        if sync_warmup:
            synchronize()
        times = []
        for _ in range(timed(warmup, repeats)):
            readings = []
            for step in order:
                if step == "c":
                    readings.append(clock())
                else:
                    (fn if step == "f" else synchronize)()
            times.append(readings[-1] - readings[0])
        return result(times)

    return measure


def _around_all(
    result: Callable[[float, int], float], inside: bool = False, warmup_too: bool = False, after: bool = True
) -> Callable[..., Any]:
    """One pair of readings around all calls. ``inside``: each of them is waited for; ``after``: the last one is."""

    def measure(fn: Any, synchronize: Any, clock: Any, warmup: int = 3, repeats: int = 10) -> Any:
        start = clock()
        for _ in range(warmup):
            fn()
        synchronize()
        start = start if warmup_too else clock()
        for _ in range(repeats):
            fn()
            if inside:
                synchronize()
        if after:
            synchronize()
        return result(clock() - start, repeats + (warmup if warmup_too else 0))

    return measure


def _start_read_once(fn: Any, synchronize: Any, clock: Any, warmup: int = 3, repeats: int = 10) -> float:
    for _ in range(warmup):
        fn()
    synchronize()
    start, times = clock(), []
    for _ in range(repeats):
        fn()
        synchronize()
        times.append(clock() - start)
    return statistics.median(times)


def _another_clock(fn: Any, synchronize: Any, clock: Any, warmup: int = 3, repeats: int = 10) -> float:
    return time_it(fn, synchronize, time.perf_counter, warmup, repeats)


def _never_called(fn: Any, synchronize: Any, clock: Any, warmup: int = 3, repeats: int = 10) -> float:
    return time_it(lambda: None, synchronize, clock, warmup, repeats)


def _only_warmed_up(fn: Any, synchronize: Any, clock: Any, warmup: int = 3, repeats: int = 10) -> float:
    for _ in range(warmup):
        fn()
    return time_it(lambda: None, synchronize, clock, 0, repeats)


def _all_launched_first(fn: Any, synchronize: Any, clock: Any, warmup: int = 3, repeats: int = 10) -> float:
    """Every call has a start of its own, and all of them are waited for together."""
    for _ in range(warmup):
        fn()
    synchronize()
    starts = []
    for _ in range(repeats):
        starts.append(clock())
        fn()
    synchronize()
    end = clock()
    return statistics.median(end - start for start in starts)


def _trimmed(times: Times) -> float:
    inner = sorted(times)[1:-1] or times
    return sum(inner) / len(inner)


_MIDDLE = "Sort the times 1, 2, 4, 9 in your mind: what is their median?"
_DONE = "Which call says that the work is done, and where does it belong?"

_TIME_IT = Answer(
    id="time-it",
    solution=time_it,
    why="A clock on the host sees launches, not work, so the device is waited for on both sides: before the first "
    "reading, so that nothing old is in the queue, and before the second, so that nothing of this call is. After the "
    "first timed call the queue is empty, so one wait at the beginning is enough. The two middle indices are the same "
    "one for an odd number of times.",
    hints=(
        "There are two loops: `warmup` calls that nobody looks at, and `repeats` calls with one time each, kept in a "
        "list.",
        "A call of `fn` is over before its work is. So the clock may be read a second time only when something else "
        "has returned. What?",
        "What is still in the queue when the first timed call is launched? It would have to wait for that, and be "
        "charged for it.",
        "In the second loop: read the clock, call `fn`, wait, read the clock, keep the difference. Between the loops: "
        "wait. What is left is the median; `statistics.median` knows what to do with an even number.",
    ),
    mistakes=(
        Mistake("launch-only", "The clock stopped when the work had been launched, not when it was done. "
                f"{_DONE} (And is it *called*, with its parentheses?)",
                _timing(order="cfc"), _timing(order="cfc", sync_warmup=False), _timing(order="scfc")),
        Mistake("warm-up-leaks", "The first timed call is charged for the warm-up's work, which was still in the queue "
                "when it began. What has to happen between the two loops?",
                _timing(sync_warmup=False), _timing(sync_warmup=False, order="csfsc")),
        Mistake("waits-for-the-call-before", "The wait stands before the launch, and the clock is read after it: so "
                f"each time is that of the work of the call *before*. {_DONE}",
                _timing(order="csfc", sync_warmup=False), _timing(order="csfc")),
        Mistake("launch-not-timed", "The clock was started when the work had been launched already. A call begins with "
                "its launch.", _timing(order="fcsc"), _timing(order="fcsc", sync_warmup=False)),
        Mistake("all-launched-first", "All calls were launched before the first one was waited for: each has waited "
                "for "
                "those before it, or was measured to the end of all.", _all_launched_first),
        Mistake("mean", "That is the mean. One call that was disturbed moves it as far as it likes; the median hardly.",
                _timing(statistics.mean), _around_all(lambda total, n: total / n, inside=True)),
        Mistake("one-pair-of-readings", "The clock was read once before all calls and once after them. What is left "
                "then "
                "is a mean, and launches hide behind work: time each call by itself.",
                _around_all(lambda total, n: total / n),
                _around_all(lambda total, n: total / n, warmup_too=True),
                _around_all(lambda total, n: total / n, warmup_too=True, inside=True)),
        Mistake("total-not-divided", "That is the time of all calls together. Wanted is that of one.",
                _timing(sum), _around_all(lambda total, n: total)),
        Mistake("start-read-once", "The clock was started once, so each time includes all calls before it.",
                _start_read_once),
        Mistake("smallest", "That is the smallest time, which is what the device can do when nothing gets in its way. "
                "Wanted is the median.", _timing(min)),
        Mistake("largest", "That is the largest time. Wanted is the median.", _timing(max)),
        Mistake("lower-middle", f"Of an even number of times the lower one of the two in the middle was taken. "
                f"{_MIDDLE} "
                "(`torch.median` does so too.)", _timing(statistics.median_low)),
        Mistake("upper-middle", f"Of an even number of times the upper one of the two in the middle was taken. "
                f"{_MIDDLE}",
                _timing(statistics.median_high)),
        Mistake("not-sorted", "The one in the middle was taken in the order of the calls. The median is the middle of "
                "the *sorted* times.", _timing(lambda t: t[len(t) // 2]),
                _timing(lambda t: (t[len(t) // 2] + t[(len(t) - 1) // 2]) / 2),
                _timing(lambda t: t[(len(t) - 1) // 2])),
        Mistake("last-only", "That is the time of the last call. One time is no median: keep them all.",
                _timing(lambda t: t[-1])),
        Mistake("first-only", "That is the time of the first call. One time is no median: keep them all.",
                _timing(lambda t: t[0])),
        Mistake("mean-of-two-outer", "That is the middle between the smallest and the largest time, so the largest "
                "counts as much as all others.", _timing(lambda t: (min(t) + max(t)) / 2)),
        Mistake("trimmed-mean", "The outermost times were left out, and the others averaged: that is no median either.",
                _timing(_trimmed)),
        Mistake("warm-up-timed", "The warm-up calls were timed with the others. They are there so as not to count.",
                _timing(warm=lambda w, r: 0, timed=lambda w, r: w + r, sync_warmup=False),
                _timing(statistics.mean, warm=lambda w, r: 0, timed=lambda w, r: w + r)),
        Mistake("no-warm-up", "There was no warm-up: `fn` was called `repeats` times alone.",
                _timing(warm=lambda w, r: 0)),
        Mistake("counted-as-repeats", "The warm-up calls were taken out of the `repeats`. They come on top.",
                _timing(timed=lambda w, r: r - w),
                _timing(lambda t: _median(t[-1:]), warm=lambda w, r: min(w, r), timed=lambda w, r: max(r - w, 0) or 1)),
        Mistake("warm-up-once", "There was one warm-up call, whatever `warmup` says.", _timing(warm=lambda w, r: 1)),
        Mistake("one-warm-up-call-more", "`fn` was called once more than it should be before the timing begins.",
                _timing(warm=lambda w, r: w + 1)),
        Mistake("one-warm-up-call-less", "There was one warm-up call too few. Where does `range` begin, and where does "
                "it end?", _timing(warm=lambda w, r: max(0, w - 1))),
        Mistake("one-repeat-more", "One call more than `repeats` was timed. Where does `range` begin, and where "
                "does it "
                "end?", _timing(timed=lambda w, r: r + 1)),
        Mistake("one-repeat-less", "One call fewer than `repeats` was timed. Where does `range` begin, and where does "
                "it end?", _timing(timed=lambda w, r: r - 1)),
        Mistake("counts-exchanged", "`warmup` and `repeats` have changed places.",
                _timing(warm=lambda w, r: r, timed=lambda w, r: w)),
        Mistake("called-twice", "Between two readings of the clock, `fn` is called twice.", _timing(order="cffsc"),
                _timing(order="cfsfsc"), _timing(order="fcfsc"), _timing(order="fscfsc")),
        Mistake("never-called", "`fn` was not called where it is timed. (Is it called, with its parentheses?)",
                _never_called, _only_warmed_up, _timing(order="csc")),
        Mistake("another-clock", "The clock that was handed in was not read. Whatever else you read has no part in "
                "this: "
                "the device's seconds are those of `clock`.", _another_clock),
        Mistake("milliseconds", "That is not in seconds, but in thousandths of them, or in still smaller ones.",
                _timing(lambda t: 1e3 * _median(t)), _timing(lambda t: 1e6 * _median(t)),
                _timing(lambda t: 1e9 * _median(t))),
        Mistake("divided-once-more", "A time of one call was divided by the number of calls. Each was timed by itself "
                "already.", _timing(lambda t: _median(t) / len(t))),
        Mistake("calls-per-second", "That is how many calls there are in a second: one over what is wanted.",
                _timing(lambda t: 1 / _median(t))),
        Mistake("sign", "The time is below 0: which reading comes off which?", _timing(lambda t: -_median(t))),
        Mistake("rounded", "The time was rounded. It may be much shorter than the last place that was kept.",
                _timing(lambda t: round(_median(t), 3)), _timing(lambda t: round(_median(t), 4)),
                _timing(lambda t: round(_median(t), 2)), _timing(lambda t: round(_median(t)))),
        Mistake("spread", "That is how much the times differ, not how long they are.",
                _timing(lambda t: statistics.pstdev(t)), _timing(lambda t: max(t) - min(t))),
        Mistake("returns-all-times", "All times came back, or several numbers. Wanted is one: their median.",
                _timing(lambda t: t), _timing(sorted), _timing(lambda t: (_median(t), t)),
                _timing(lambda t: (_median(t), statistics.pstdev(t)))),
        Mistake("returns-a-tensor", "A tensor came back; wanted is a Python number. (In float32 it has lost digits, "
                "and "
                "`torch.median` takes the lower one of two in the middle.)",
                _timing(lambda t: torch.tensor(t).median()), _timing(lambda t: torch.tensor(t).quantile(0.5)),
                _timing(lambda t: torch.tensor(t).mean())),
    ),
)  # fmt: skip

# -------------------------------------------------------------------------------------------- roofline


def roofline_time(flops, bytes_moved, peak_flops, bandwidth):
    compute_s = flops / peak_flops
    traffic_s = bytes_moved / bandwidth
    return max(compute_s, traffic_s)


def _sides(join: Callable[[float, float], Any]) -> Callable[..., Any]:
    """The right two times, put together in another way."""
    return lambda flops, moved, peak, bandwidth: join(flops / peak, moved / bandwidth)


_BOTH_AT_ONCE = "Both go on at the same time. When the shorter one is over, what is the step waiting for?"
_UNITS = "Follow the units: operations over operations per second are seconds."

_ROOFLINE = Answer(
    id="roofline",
    solution=roofline_time,
    why="Each of the two is a lower bound by itself: no step is over before its operations are done, nor before its "
    "bytes have moved. They overlap at best, so the larger one is all that can be said. Where both are alike lies the "
    "ridge of the roofline, at an intensity of peak_flops / bandwidth operations per byte.",
    hints=(
        "Begin with a machine whose memory is infinitely fast: how long does the step take then? And with one that "
        "computes infinitely fast?",
        f"{_UNITS} And bytes, over what?",
        "You have two times. One may hide behind the other, as computing and moving go on at once. Which of the two "
        "cannot be hidden?",
    ),
    mistakes=(
        Mistake("sum", f"The two times were added, as if nothing moved during the arithmetic. {_BOTH_AT_ONCE}",
                _sides(lambda c, m: c + m)),
        Mistake("shorter-side", f"The shorter one of the two times was taken. {_BOTH_AT_ONCE}", _sides(min)),
        Mistake("arithmetic-only", "Only the arithmetic counts, and bytes take no time. What about a step that moves "
                "much and computes little?", _sides(lambda c, m: c)),
        Mistake("traffic-only", "Only the bytes count, and arithmetic takes no time. What about a step that computes "
                "much with few bytes?", _sides(lambda c, m: m)),
        Mistake("machine-exchanged", f"Operations were divided by bytes per second, and bytes by operations per "
                f"second. "
                f"{_UNITS}", lambda f, b, p, w: max(f / w, b / p), lambda f, b, p, w: f / w + b / p,
                lambda f, b, p, w: min(f / w, b / p)),
        Mistake("turned-over", f"A rate was divided by an amount, and not the other way round. {_UNITS}",
                lambda f, b, p, w: max(p / f, w / b), lambda f, b, p, w: min(p / f, w / b),
                lambda f, b, p, w: p / f + w / b),
        Mistake("multiplied", f"An amount was multiplied by a rate. {_UNITS}", lambda f, b, p, w: max(f * p, b * w),
                lambda f, b, p, w: min(f * p, b * w), lambda f, b, p, w: f * p + b * w),
        Mistake("mean-of-both", f"That is a mean of the two times. {_BOTH_AT_ONCE}", _sides(lambda c, m: (c + m) / 2),
                _sides(lambda c, m: math.sqrt(c * m)), _sides(lambda c, m: 2 * c * m / (c + m))),
        Mistake("smooth", "That is more than the larger of the two times: a root of squares lies above it. What is "
                "asked for is a bound, not a guess.", _sides(math.hypot)),
        Mistake("product-of-both", "The two times were multiplied.", _sides(lambda c, m: c * m)),
        Mistake("difference", "One time was subtracted from the other. The shorter one hides; it is not given back.",
                _sides(lambda c, m: abs(c - m)), _sides(lambda c, m: c - m), _sides(lambda c, m: m - c)),
        Mistake("ratio-of-both", "One time was divided by the other: that says which side binds, not for how long.",
                _sides(lambda c, m: c / m), _sides(lambda c, m: m / c)),
        Mistake("chosen-by-the-amounts", "The side was chosen by whether there are more operations or more bytes. That "
                "depends on how fast the machine is at each of them, too.",
                lambda f, b, p, w: f / p if f > b else b / w),
        Mistake("chosen-by-the-rates", "The side was chosen by what the machine does more of in a second. That depends "
                "on how much of each there is to do, too.",
                lambda f, b, p, w: f / p if p < w else b / w, lambda f, b, p, w: f / p if p > w else b / w),
        Mistake("balance-turned-over", "The intensity, operations per byte, was compared with bytes per operation.",
                lambda f, b, p, w: f / p if f / b > w / p else b / w),
        Mistake("milliseconds", "That is not in seconds, but in thousandths of them, or in still smaller ones.",
                _sides(lambda c, m: 1e3 * max(c, m)), _sides(lambda c, m: 1e6 * max(c, m)),
                _sides(lambda c, m: 1e9 * max(c, m))),
        Mistake("in-billions", "An amount was counted in billions, but its rate was not, or the other way round. All "
                "four come in plain units.", _sides(lambda c, m: max(c, m) / 1e9),
                _sides(lambda c, m: max(c, m) / 1e12),
                _sides(lambda c, m: max(c / 1e12, m / 1e9)), _sides(lambda c, m: max(c * 1e12, m * 1e9))),
        Mistake("bits", "There is a factor 8 in it: the bandwidth is in bytes, as the amount is.",
                _sides(lambda c, m: max(c, 8 * m)), _sides(lambda c, m: max(c, m / 8))),
        Mistake("numbers-for-bytes", "There is a factor for the bytes of a number in it. `bytes_moved` are bytes "
                "already.", _sides(lambda c, m: max(c, 4 * m)), _sides(lambda c, m: max(c, m / 4)),
                _sides(lambda c, m: max(c, 2 * m)), _sides(lambda c, m: max(c, m / 2))),
        Mistake("multiply-adds", "There is a factor 2 at the operations. They are counted as FLOPs already, and so is "
                "the peak.", _sides(lambda c, m: max(c / 2, m)), _sides(lambda c, m: max(2 * c, m))),
        Mistake("rate", "That is how many operations the step does in a second at best, not how long it takes.",
                lambda f, b, p, w: min(p, f / b * w), lambda f, b, p, w: min(p, w), lambda f, b, p,
                w: max(p, f / b * w)),
        Mistake("intensity", "That is the step's intensity, operations per byte. It says which side binds, not for how "
                "long.", lambda f, b, p, w: f / b),
        Mistake("balance", "That is the machine's balance, operations per byte. It has nothing of the step in it.",
                lambda f, b, p, w: p / w),
        Mistake("whole-seconds", "That is rounded to whole seconds, or to few places. `/` divides without rounding.",
                lambda f, b, p, w: max(f // p, b // w), _sides(lambda c, m: int(max(c, m))),
                _sides(lambda c, m: math.ceil(max(c, m))), _sides(lambda c, m: round(max(c, m))),
                _sides(lambda c, m: round(max(c, m), 3))),
        Mistake("returns-both", "Two things came back. Wanted is one number, the larger of the two times.",
                _sides(lambda c, m: (c, m)), _sides(lambda c, m: (max(c, m), "compute" if c > m else "bandwidth")),
                _sides(lambda c, m: [c, m])),
        Mistake("returns-a-word", "A word came back. Wanted is the time, in seconds.",
                _sides(lambda c, m: "compute" if c > m else "bandwidth"),
                _sides(lambda c, m: "compute" if c > m else "memory")),
        Mistake("returns-a-comparison", "Whether one side is the longer came back. Wanted is how long it is.",
                _sides(lambda c, m: c > m), _sides(lambda c, m: m > c)),
        Mistake("returns-a-tensor", "A tensor came back; wanted is a Python number. Its `item()` is one.",
                _sides(lambda c, m: torch.maximum(torch.tensor(c), torch.tensor(m))),
                _sides(lambda c, m: torch.tensor([c, m]).max())),
    ),
)  # fmt: skip

# ---------------------------------------------------------------------------------- streaming-attention


def streaming_attention(q, k, v, block_size):
    q = q / math.sqrt(q.shape[-1])
    largest = torch.full_like(q[..., :1], -torch.inf)  # (…, n_q, 1), as the next one
    total = torch.zeros_like(q[..., :1])
    output = 0
    for start in range(0, k.shape[-2], block_size):
        block = slice(start, start + block_size)
        scores = q @ k[..., block, :].mT  # (…, n_q, block)
        new = torch.maximum(largest, scores.amax(dim=-1, keepdim=True))
        old_to_new = torch.exp(largest - new)  # 0 at first
        weights = torch.exp(scores - new)
        total = total * old_to_new + weights.sum(dim=-1, keepdim=True)
        output = output * old_to_new + weights @ v[..., block, :]
        largest = new
    return output / total


def _scale(q: Tensor, k: Tensor, v: Tensor, block: int) -> float:
    return q.shape[-1] ** -0.5


def _blocks(n_k: int, block: int) -> list[slice]:
    return [slice(i, i + block) for i in range(0, n_k, block)]


def _running(m: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The new maximum, and the factors of what was summed before and of what is added now."""
    new = torch.maximum(m, scores.amax(-1, keepdim=True))
    return new, (m - new).exp(), (scores - new).exp()


def _stream(
    scale: Callable[[Tensor, Tensor, Tensor, int], float] = _scale,
    blocks: Callable[[int, int], list[slice]] = _blocks,
    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] = _running,
    sum_factor: Callable[[Tensor], Any] = lambda factor: factor,
    output_factor: Callable[[Tensor], Any] = lambda factor: factor,
    row_sum: Callable[[Tensor], Tensor] = lambda weights: weights.sum(-1, keepdim=True),
    values: Callable[[Tensor, slice], Tensor] = lambda v, block: v[..., block, :],
    start: float = -torch.inf,
    first_sum: float = 0.0,
    result: Callable[[Tensor, Tensor, Tensor], Any] = lambda output, total, m: output / total,
    each: Callable[[Tensor], Tensor] = lambda x: x,  # what happens to both sums after a block
) -> Callable[..., Any]:
    """Streaming attention with one thing wrong."""

    def attend(q: Tensor, k: Tensor, v: Tensor, block_size: int) -> Any:
        factor = scale(q, k, v, block_size)
        m = torch.full_like(q[..., :1], start)
        total, output = torch.full_like(m, first_sum), q.new_zeros(*q.shape[:-1], v.shape[-1])
        for block in blocks(k.shape[-2], block_size):
            m, old, weights = step(m, q @ k[..., block, :].mT * factor)
            total = each(total * sum_factor(old) + row_sum(weights))
            output = each(output * output_factor(old) + weights @ values(v, block))
        return result(output, total, m)

    return attend


def _step(
    new: Callable[[Tensor, Tensor], Tensor] = lambda m, s: torch.maximum(m, s.amax(-1, keepdim=True)),
    old: Callable[[Tensor, Tensor], Tensor] = lambda m, new: (m - new).exp(),
    weights: Callable[[Tensor, Tensor], Tensor] = lambda s, new: (s - new).exp(),
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    def step(m: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        after = new(m, scores)
        return after, old(m, after), weights(scores, after)

    return step


def _own_maximum(scores: Tensor) -> Tensor:
    return scores.amax(-1, keepdim=True)


def _new_block_late(m: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The block's exponentials are taken against its own maximum and not brought to the running one."""
    own = _own_maximum(scores)
    new = torch.maximum(m, own)
    return new, (m - new).exp(), (scores - own).exp()


def _against_the_old(m: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The block's exponentials are taken against the maximum before it."""
    new = torch.maximum(m, _own_maximum(scores))
    reference = torch.where(m.isinf(), new, m)
    return new, (m - new).exp(), (scores - reference).exp()


def _both_rescaled(m: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    new, old, weights = _running(m, scores)
    return new, old, weights * torch.where(m.isinf(), 1.0, old)


def _per_block(join: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """A softmax of each block by itself, and what becomes of the blocks' outputs."""

    def attend(q: Tensor, k: Tensor, v: Tensor, block_size: int) -> Tensor:
        outputs = []
        for block in _blocks(k.shape[-2], block_size):
            scores = q @ k[..., block, :].mT * q.shape[-1] ** -0.5
            outputs.append(scores.softmax(-1) @ v[..., block, :])
        return join(torch.stack(outputs))

    return attend


def _padded_with_zeros(q: Tensor, k: Tensor, v: Tensor, block_size: int) -> Tensor:
    more = -k.shape[-2] % block_size
    pad = torch.nn.functional.pad
    return streaming_attention(q, pad(k, (0, 0, 0, more)), pad(v, (0, 0, 0, more)), block_size)


def _block_of_its_own(q: Tensor, k: Tensor, v: Tensor, block_size: int) -> Tensor:
    """Each block of queries sees the block of keys at the same place, or the last one."""
    outputs, last = [], _blocks(k.shape[-2], block_size)[-1]
    for block in _blocks(q.shape[-2], block_size):
        keys = block if block.start < k.shape[-2] else last
        scores = q[..., block, :] @ k[..., keys, :].mT * q.shape[-1] ** -0.5
        outputs.append(scores.softmax(-1) @ v[..., keys, :])
    return torch.cat(outputs, -2)


def _causal(q: Tensor, k: Tensor, v: Tensor, block_size: int) -> Tensor:
    scores = q @ k.mT * q.shape[-1] ** -0.5
    later = torch.ones(scores.shape[-2:]).triu(1) > 0
    return scores.masked_fill(later, -torch.inf).softmax(-1) @ v


def _of_exponentials(q: Tensor, k: Tensor, v: Tensor, block_size: int) -> Tensor:
    """No maximum at all."""
    factor, total, output = q.shape[-1] ** -0.5, torch.zeros(()), torch.zeros(())
    for block in _blocks(k.shape[-2], block_size):
        weights = (q @ k[..., block, :].mT * factor).exp()
        total, output = total + weights.sum(-1, keepdim=True), output + weights @ v[..., block, :]
    return output / total


def _divided_each_time(keep: bool) -> Callable[..., Any]:
    """The output is divided by the sum after each block; ``keep``: and not at the end once more."""

    def attend(q: Tensor, k: Tensor, v: Tensor, block_size: int) -> Tensor:
        m, factor = torch.full_like(q[..., :1], -torch.inf), q.shape[-1] ** -0.5
        total, output = torch.zeros_like(m), q.new_zeros(*q.shape[:-1], v.shape[-1])
        for block in _blocks(k.shape[-2], block_size):
            m, old, weights = _running(m, q @ k[..., block, :].mT * factor)
            total = total * old + weights.sum(-1, keepdim=True)
            output = (output * old + weights @ v[..., block, :]) / total
        return output if keep else output / total

    return attend


def _last_sum_alone(q: Tensor, k: Tensor, v: Tensor, block_size: int) -> Tensor:
    """Only the last block's sum is divided by."""
    return _stream(sum_factor=lambda factor: 0.0)(q, k, v, block_size)


def _low(dtype: torch.dtype) -> Callable[..., Any]:
    def attend(q: Tensor, k: Tensor, v: Tensor, block_size: int) -> Tensor:
        return streaming_attention(q.to(dtype), k.to(dtype), v.to(dtype), block_size).to(q.dtype)

    return attend


def _without_the_rest(n_k: int, block: int) -> list[slice]:
    return [slice(i, i + block) for i in range(0, n_k - block + 1, block)]


def _root(
    size: Callable[[Tensor, Tensor, Tensor, int], int],
) -> Callable[[Tensor, Tensor, Tensor, int], float]:
    return lambda q, k, v, block: size(q, k, v, block) ** -0.5


_ONE = lambda factor: 1.0  # noqa: E731
_OUT_OF_DATE = (
    "When the maximum rises from `a` to `b`, every exponential taken so far is `e` to the power of `score − a`. What "
    "turns it into that of `score − b`?"
)

_STREAMING_ATTENTION = Answer(
    id="streaming-attention",
    solution=streaming_attention,
    why="exp(s - new) = exp(s - old) · exp(old - new): one factor for each query brings both sums from the old maximum "
    "to the new one. It is never above 1, so nothing overflows; for the first block it is exp(-inf) = 0, and what it "
    "multiplies is 0 as well. The largest score of all adds exp(0) = 1, so the sum that is divided by is never "
        "below 1.",
    hints=(
        "Write it for one block first: scores, their maximum in each row, exponentials, their sum, their product with "
        "the values, one division. That is a softmax with its parts laid open.",
        "Now a loop over `range(0, n_k, block_size)`. A slice that reaches beyond the end simply ends there, so the "
                "last "
        "block needs no care. What has to be kept from block to block, and of which shapes?",
        f"{_OUT_OF_DATE} It is one factor for each query, and both sums need it.",
        "Begin with a maximum of −∞ and sums of 0. In each block: the new maximum is the larger one of the old maximum "
        "and the block's; the factor is `torch.exp(old − new)`; then both sums become themselves times the factor, "
        "plus what the block brings. Keep the maximum as `(…, n_q, 1)`, so that it broadcasts.",
    ),
    mistakes=(
        Mistake("nothing-rescaled", "The sums are added up over blocks whose exponentials were taken against different "
                f"maxima. {_OUT_OF_DATE}", _stream(sum_factor=_ONE, output_factor=_ONE),
                _stream(step=_step(new=lambda m, s: _own_maximum(s)), sum_factor=_ONE, output_factor=_ONE)),
        Mistake("sum-not-rescaled", "The sum of the exponentials is not brought to the new maximum; the other sum is. "
                f"{_OUT_OF_DATE}", _stream(sum_factor=_ONE)),
        Mistake("output-not-rescaled", "The sum of the values is not brought to the new maximum; the other sum is. "
                f"{_OUT_OF_DATE}", _stream(output_factor=_ONE)),
        Mistake("rescaled-the-wrong-way", "The old sums are rescaled the wrong way round: a larger maximum makes old "
                f"exponentials smaller. {_OUT_OF_DATE}",
                _stream(step=_step(old=lambda m, new: (new - m).exp())),
                _stream(step=_step(old=lambda m, new: (new - m).exp()), start=-1e9),
                _stream(step=_step(old=lambda m, new: torch.where(m.isinf(), 0.0, (new - m).exp())))),
        Mistake("rescaled-without-exp", "The old sums are multiplied by a difference, or a ratio, of the maxima. "
                f"{_OUT_OF_DATE}", _stream(step=_step(old=lambda m, new: m - new), start=-1e9),
                _stream(step=_step(old=lambda m, new: torch.where(m.isinf(), 0.0, m / new)))),
        Mistake("new-block-not-rescaled", "The exponentials of a block are taken against its own maximum, and added to "
                "sums that are measured against the largest so far.", _stream(step=_new_block_late)),
        Mistake("old-maximum-for-the-block", "The exponentials of a block are taken against the maximum *before* it, "
                "and added to sums that were brought to the maximum after it.", _stream(step=_against_the_old)),
        Mistake("new-block-rescaled", "The factor that brings the old sums to the new maximum was applied to the new "
                "block too: it was taken against the new maximum already.",
                _stream(step=_both_rescaled)),
        Mistake("maximum-falls", "The maximum is that of the block, not the largest so far. In exact numbers that "
                "would "
                "do; but when it falls from block to block, the factor of the old sums overflows.",
                _stream(step=_step(new=lambda m, s: _own_maximum(s)))),
        Mistake("one-maximum-for-all", "There is one maximum for all queries. A query whose own scores lie far below "
                "it is left with exponentials of 0, and a sum of 0.",
                _stream(step=_step(new=lambda m, s: torch.maximum(m, s.max())))),
        Mistake("maximum-of-the-keys", "The maximum runs over the queries: there is one for each key. Each *query* has "
                "a maximum of its own.",
                _stream(step=_step(new=lambda m, s: torch.maximum(m, s.amax(-2, keepdim=True)[..., :1]))),
                _stream(step=_step(new=lambda m, s: s.amax(-2, keepdim=True)), sum_factor=_ONE, output_factor=_ONE)),
        Mistake("maximum-starts-too-high", "The search for the maximum begins with a number that all scores of a query "
                "may lie below: it then stays the maximum, and its sum is 0. With what does it begin?",
                _stream(start=0.0), _stream(start=-1.0), _stream(start=-100.0),
                _stream(start=torch.finfo(torch.float32).tiny)),
        Mistake("no-maximum", "No maximum is taken away. What is `exp(10000)`, in float32 or in float64?",
                _of_exponentials),
        Mistake("no-scale", "The scores are not divided by `√d_k`.", _stream(scale=lambda q, k, v, b: 1.0)),
        Mistake("scale-without-root", "The scores are divided by `d_k`, not by its root, or twice by the root.",
                _stream(scale=lambda q, k, v, b: 1 / q.shape[-1])),
        Mistake("scale-multiplied", "The scores are multiplied by `√d_k`; they should be divided by it.",
                _stream(scale=lambda q, k, v, b: q.shape[-1] ** 0.5)),
        Mistake("scale-of-another-size", "The scores are divided by the root of another size. Which one is the length "
                "of the vectors that the dot product sums over?",
                _stream(scale=_root(lambda q, k, v, b: v.shape[-1])),
                _stream(scale=_root(lambda q, k, v, b: k.shape[-2])),
                _stream(scale=_root(lambda q, k, v, b: q.shape[-2])), _stream(scale=_root(lambda q, k, v, b: b)),
                _stream(scale=_root(lambda q, k, v, b: min(b, k.shape[-2]))),
                _stream(scale=_root(lambda q, k, v, b: q.shape[0]))),
        Mistake("last-block-dropped", "The keys that do not fill a block are left out. How many blocks do 11 keys "
                "make, "
                "4 at a time?", _stream(blocks=_without_the_rest),
                _stream(blocks=lambda n, b: _without_the_rest(n, b) or [slice(0, n)]),
                _stream(blocks=lambda n, b: _without_the_rest(n, b) or [slice(0, 1)])),
        Mistake("last-block-always-dropped", "The last block is left out even where it is full. Where does `range` "
                "end?",
                _stream(blocks=lambda n, b: _blocks(n, b)[:-1]),
                _stream(blocks=lambda n, b: _blocks(n, b)[:-1] or [slice(0, n)]),
                _stream(blocks=lambda n, b: _blocks(n - 1, b)),
                _stream(blocks=lambda n, b: [slice(i, i + b) for i in range(0, n - b, b)])),
        Mistake("first-block-dropped", "The first block is left out. Where does `range` begin?",
                _stream(blocks=lambda n, b: _blocks(n, b)[1:]),
                _stream(blocks=lambda n, b: _blocks(n, b)[1:] or _blocks(n, b))),
        Mistake("first-block-only", "Only the first block is in the result. Does the loop end too early, with a "
                "`return` "
                "in it?", _stream(blocks=lambda n, b: _blocks(n, b)[:1])),
        Mistake("last-block-only", "Only the last block is in the result: what the blocks before it brought is gone.",
                _stream(sum_factor=lambda factor: 0.0, output_factor=lambda factor: 0.0)),
        Mistake("blocks-overlap", "A key is in two blocks at once: a slice ends before its second number.",
                _stream(blocks=lambda n, b: [slice(i, i + b + 1) for i in range(0, n, b)])),
        Mistake("keys-left-out", "Between two blocks a key is left out: a slice ends before its second number, which "
                "needs no 1 taken off.", _stream(blocks=lambda n, b: [slice(i, i + b - 1) for i in range(0, n, b)]),
                _stream(blocks=lambda n, b: [slice(i, i + b) for i in range(0, n, b + 1)])),
        Mistake("one-step-at-a-time", "The blocks begin at every key, so that most keys are met several times.",
                _stream(blocks=lambda n, b: [slice(i, i + b) for i in range(n)]),
                _stream(blocks=lambda n, b: [slice(i, i + b) for i in range(max(1, n - b + 1))])),
        Mistake("values-of-the-first-block", "The values are those of the first block, whichever block of keys it is.",
                _stream(values=lambda v, block: v[..., : len(range(*block.indices(v.shape[-2]))), :])),
        Mistake("softmax-of-each-block-averaged", "Each block had a softmax of its own, and their outputs were "
                "averaged, "
                "as if every block held the same share of the weight.", _per_block(lambda o: o.mean(0))),
        Mistake("softmax-of-each-block-added", "Each block had a softmax of its own, and their outputs were added: "
                "every block then counts in full. The weights of a query add up to 1 over *all* its keys.",
                _per_block(lambda o: o.sum(0))),
        Mistake("divided-in-every-block", "The output was divided by the sum in every block. What was divided once is "
                "divided again. When is the sum complete?", _divided_each_time(True), _divided_each_time(False)),
        Mistake("not-divided", "The division by the sum of the exponentials is missing.",
                _stream(result=lambda output, total, m: output)),
        Mistake("divided-by-the-last-sum", "The sum that is divided by is that of the last block alone.",
                _last_sum_alone, _stream(sum_factor=lambda factor: 0.0, step=_step(lambda m, s: _own_maximum(s)),
                                         output_factor=_ONE)),
        Mistake("multiplied-by-the-sum", "The output was multiplied by the sum; it should be divided by it.",
                _stream(result=lambda output, total, m: output * total)),
        Mistake("sum-starts-at-one", "The sum of the exponentials has something in it that is no key: it begins "
                "with 0.",
                _stream(first_sum=1.0, start=0.0), _stream(first_sum=1.0, sum_factor=_ONE),
                _stream(result=lambda output, total, m: output / (total + 1))),
        Mistake("mean-of-the-exponentials", "The exponentials of a block are averaged, not added: a block that is not "
                "full then counts too much, and all of them too little.",
                _stream(row_sum=lambda weights: weights.mean(-1, keepdim=True))),
        Mistake("sum-over-the-queries", "The exponentials are added up over the queries. Each query has a sum of its "
                "own, over keys.", _stream(row_sum=lambda weights: weights.sum(-2, keepdim=True)[..., :1])),
        Mistake("one-sum-for-all", "There is one sum for all queries. Each has a sum of its own.",
                _stream(row_sum=lambda weights: weights.sum())),
        Mistake("padding-counts", "The last block was filled up with zeros, and those count as keys with a score of 0.",
                _padded_with_zeros),
        Mistake("own-block-only", "Each block of queries met one block of keys only. Every query meets every key.",
                _block_of_its_own),
        Mistake("causal", "Later keys were left out. There is no mask in this one: every query meets every key.",
                _causal),
        Mistake("base-two", "That is a softmax with powers of 2 where `e` is meant.",
                _stream(step=_step(old=lambda m, new: (m - new).exp2(), weights=lambda s, new: (s - new).exp2()))),
        Mistake("maximum-added", "The maximum was added to the scores, not taken away.",
                _stream(step=_step(weights=lambda s, new: (s + new).exp()))),
        Mistake("low-precision", "The result is near, but too coarse: were the sums kept in bfloat16 or float16?",
                _low(torch.bfloat16), _stream(each=lambda x: x.bfloat16().float()), _low(torch.float16),
                _stream(each=lambda x: x.half().float())),
        Mistake("returns-more", "More than the output came back. Wanted is the output alone.",
                _stream(result=lambda output, total, m: (output / total, m)),
                _stream(result=lambda output, total, m: (output / total, total)),
                _stream(result=lambda output, total, m: (output / total, m + total.log())),
                _stream(result=lambda output, total, m: (output / total, (m + total.log()).squeeze(-1))),
                _stream(result=lambda output, total, m: (output / total, m, total))),
        Mistake("returns-the-logarithm", "The logarithm of the sum came back, not the output.",
                _stream(result=lambda output, total, m: m + total.log())),
    ),
)  # fmt: skip

ANSWERS = (
    _TIME_IT,
    _ROOFLINE,
    _STREAMING_ATTENTION,
)
