"""Time, measured: peers that take turns, medians with an interval, and a control."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from timeit import default_timer
from typing import Any

import torch
from torch.utils.benchmark import Timer

__all__ = ["Ratio", "default_device", "measure", "ratio", "summary"]


def default_device() -> torch.device:
    """A GPU that torch can use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measure(
    peers: Mapping[str, Callable[[], object]],
    *,
    control: str | None = None,
    warmup: int = 2,
    rounds: int = 20,
    seconds: float | None = None,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] | None = None,
    block_s: float | None = None,
    least: int = 5,
) -> dict[str, list[float]]:
    """Time functions side by side: each round runs every peer once, starting with another one each time.

    What slows the machine down for a while meets all peers alike, and their ratios, taken round by round, do
    not see it. What a peer returns is gone before the next one starts.

    Args:
        peers: what to time, by name. Unless `block_s` is given, one call is one sample, so it should take a
            millisecond at least.
        control: the peer that is entered once more, as `"<name> (control)"`. The ratio of the two is 1 but
            for noise, so no other ratio means more than the distance of this one from 1.
        warmup: rounds that are not recorded.
        rounds: the most rounds that are recorded.
        seconds: no further round starts after this time, once there are `least` rounds.
        device: where the peers run. On a GPU a sample is the time between two events on the device.
        clock: returns seconds; the machine's own unless given.
        block_s: a sample is the mean of as many calls as fit into this time, at least one, after two that warm the
            caches again which the peer before has filled (one, if a call takes ten times `block_s`):
            `torch.utils.benchmark.Timer`, with torch's threads as they are set. On a GPU, the calls between two
            events.
        least: rounds that are made however long they take.

    Returns:
        The samples in seconds, round by round, by name.

    Raises:
        ValueError: without peers or rounds, or for a control that is none of the peers.
    """
    if not peers or rounds < 1 or warmup < 0:
        raise ValueError(
            f"need peers, rounds >= 1 and warmup >= 0, got {len(peers)} peers, {rounds} and {warmup}"
        )
    if control is not None and control not in peers:
        raise ValueError(f"control must be one of {', '.join(peers)}, got {control!r}")
    entries = dict(peers)
    if control is not None:
        entries[f"{control} (control)"] = peers[control]
    names = list(entries)
    now = clock or time.perf_counter
    timed = _timer(torch.device(device), clock)

    for _ in range(warmup):
        for name in names:
            entries[name]()
    sample: dict[str, Callable[[], float]] = {name: partial(timed, fn) for name, fn in entries.items()}
    if block_s is not None:
        blocks = {name: _Block(fn, block_s, torch.device(device), clock) for name, fn in entries.items()}
        sample = {name: block.sample for name, block in blocks.items()}
    samples: dict[str, list[float]] = {name: [] for name in names}
    start = now()
    for done in range(rounds):
        if seconds is not None and done >= least and now() - start >= seconds:
            break
        first = done % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(sample[name]())
    return samples


_LONG = 10


class _Block:
    """Several calls of a function as one sample."""

    def __init__(
        self,
        fn: Callable[[], object],
        block_s: float,
        device: torch.device,
        clock: Callable[[], float] | None,
    ) -> None:
        once = _timer(device, clock)(fn)
        self.number = max(1, min(10_000, int(block_s / once))) if once > 0 else 1
        self._long = once >= _LONG * block_s
        self._repeated = partial(_repeat, fn, self.number)
        self._events = _timer(device, clock) if device.type != "cpu" else None
        self._timer = Timer(
            "fn()", globals={"fn": fn}, num_threads=torch.get_num_threads(), timer=clock or default_timer
        )

    def sample(self) -> float:
        """Seconds of one call, the mean of a block."""
        if self._events is not None:
            return self._events(self._repeated) / self.number
        if self._long:  # one call before the one that counts; `timeit` makes two
            return self._timer.blocked_autorange(min_run_time=0).mean
        return self._timer.timeit(self.number).mean


def _repeat(fn: Callable[[], object], number: int) -> None:
    for _ in range(number):
        fn()


def _timer(
    device: torch.device, clock: Callable[[], float] | None
) -> Callable[[Callable[[], object]], float]:
    """What runs a function once, to its end, and returns the seconds that it took."""
    if device.type == "cuda" and clock is None:

        def by_events(fn: Callable[[], object]) -> float:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize(device)
            start.record()
            fn()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1000

        return by_events

    now = clock or time.perf_counter

    def by_clock(fn: Callable[[], object]) -> float:
        _synchronize(device)
        start = now()
        fn()
        _synchronize(device)
        return now() - start

    return by_clock


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and number of the samples, and the samples themselves, in seconds."""
    if not samples:
        raise ValueError("need at least one sample, got none")
    first, middle, third = samples[0], samples[0], samples[0]
    if len(samples) > 1:
        first, middle, third = statistics.quantiles(samples, n=4, method="inclusive")
    return {
        "median_s": middle,
        "first_quartile_s": first,
        "third_quartile_s": third,
        "runs": len(samples),
        "samples_s": list(samples),
    }


@dataclass(frozen=True)
class Ratio:
    """A ratio of times: the median over the rounds, and an interval that holds the true median at 95 %."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """How many times as long the one takes as the other: the median of the ratios of each round.

    The interval goes from the `k`-th smallest to the `k`-th largest of the `n` ratios, and assumes nothing
    about their distribution: the true median lies outside as often as `n` coins show fewer than `k` heads or
    fewer than `k` tails, and `k` is the largest that keeps this at 5 % or less. Below 6 rounds no `k` does:
    then it is the whole range, and less sure.

    Raises:
        ValueError: if the two do not have one sample each for every round.
    """
    if len(numerator) != len(denominator) or not numerator:
        raise ValueError(f"need one sample each per round, got {len(numerator)} and {len(denominator)}")
    ratios = sorted(a / b for a, b in zip(numerator, denominator, strict=True))
    n, k = len(ratios), 1
    outside = 2 / 2**n
    while outside + 2 * math.comb(n, k) / 2**n <= 0.05:
        outside += 2 * math.comb(n, k) / 2**n
        k += 1
    return Ratio(statistics.median(ratios), ratios[k - 1], ratios[n - k])
