"""Time and memory, measured: peers that take turns, medians with an interval, and a control."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_course import complexity, textbook
from attn_course import machine as this_machine
from attn_course.cnn import CBAM, EfficientChannelAttention, SelfAttention2D, SqueezeExcitation
from attn_course.transformer import MultiHeadAttention, merge_heads, split_heads

__all__ = [
    "Case",
    "PerformanceBenchmark",
    "Ratio",
    "conditions",
    "measure",
    "memory_comparison",
    "peak_bytes",
    "ratio",
    "record_speed",
    "run_case",
    "speed_cases",
    "speed_table",
    "summary",
]

# --- Time --------------------------------------------------------------------------------------------------


def measure(
    peers: Mapping[str, Callable[[], object]],
    *,
    control: str | None = None,
    warmup: int = 2,
    rounds: int = 20,
    seconds: float | None = None,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Time functions side by side: each round runs every peer once, starting with another one each time.

    What slows the machine down for a while meets all peers alike, and their ratios, taken round by round, do
    not see it. What a peer returns is gone before the next one starts.

    Args:
        peers: what to time, by name. One call is one sample, so it should take a millisecond at least.
        control: the peer that is entered once more, as `"<name> (control)"`. The ratio of the two is 1 but
            for noise, so no other ratio means more than the distance of this one from 1.
        warmup: rounds that are not recorded.
        rounds: the most rounds that are recorded.
        seconds: no further round starts after this time, once there are five.
        device: where the peers run. On a GPU a sample is the time between two events on the device.
        clock: returns seconds; the machine's own unless given.

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
    samples: dict[str, list[float]] = {name: [] for name in names}
    start = now()
    for done in range(rounds):
        if seconds is not None and done >= 5 and now() - start >= seconds:
            break
        first = done % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(timed(entries[name]))
    return samples


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


# --- Memory ------------------------------------------------------------------------------------------------


def peak_bytes(fn: Callable[[], object], *, device: torch.device | str = "cpu") -> int:
    """Most bytes alive at one moment of `fn()`, on top of what was there before; its result counts.

    On a CPU: the largest running sum of the allocations and releases that torch's profiler records. That
    holds every tensor, those inside a kernel too, and is the same on every run; it does not hold what a
    library takes by its own means (the scratch memory of oneDNN) nor what an allocator keeps back. On a GPU:
    the peak that the caching allocator reports for a second call, the first one having made the libraries'
    workspaces.

    Raises:
        ValueError: for a device that is neither.
    """
    device = torch.device(device)
    if device.type == "cuda":
        fn()
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        fn()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        raise ValueError(f"peak memory is measured on cpu and cuda, got {device}")
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with _quiet_profiler(), torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        result = fn()
    del result
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    alive = peak = 0
    for _, change in changes:
        alive += change
        peak = max(peak, alive)
    return peak


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Keep the profiler's own messages, with the time of day, out of what a notebook stores."""
    name = "KINETO_LOG_LEVEL"
    added = name not in os.environ
    os.environ.setdefault(name, "99")
    try:
        yield
    finally:
        if added:
            os.environ.pop(name, None)


def memory_comparison(
    *,
    batch_size: int = 32,
    seq_len: int = 512,
    d_model: int = 512,
    num_heads: int = 8,
    channels: int = 256,
    height: int = 56,
    width: int = 56,
) -> dict[str, float]:
    """Print and return the peak memory of a forward pass of `MultiHeadAttention` and of one of `CBAM`.

    In eval mode and without autograd, weights returned; inputs and parameters are not counted. The two have
    different inputs: this says what each takes at these sizes, not which mechanism takes less.

    Returns:
        `transformer_memory` and `cnn_memory`, in MiB; see `peak_bytes`.
    """

    def peak_mib(module: nn.Module, *inputs: Tensor) -> float:
        module = module.to(device).eval()
        inputs = tuple(x.to(device) for x in inputs)
        with torch.no_grad():
            return peak_bytes(lambda: module(*inputs), device=device) / 2**20

    device = _default_device()
    tokens = torch.randn(batch_size, seq_len, d_model)
    transformer = peak_mib(MultiHeadAttention(d_model, num_heads), tokens, tokens, tokens)
    cnn = peak_mib(CBAM(channels), torch.randn(batch_size, channels, height, width))
    print(f"Transformer attention memory: {transformer:.2f} MiB at its peak")
    print(f"CNN attention memory: {cnn:.2f} MiB at its peak")
    return {"transformer_memory": transformer, "cnn_memory": cnn}


def _default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# --- Two families of attention -----------------------------------------------------------------------------


class PerformanceBenchmark:
    """Time attention of transformers and of CNNs: eval mode, no autograd, warmed up, medians.

    Args:
        warmup: calls that are not counted.
        repeats: calls that are.
        device: where to run; a GPU unless there is none.

    Raises:
        ValueError: for a negative `warmup` or a `repeats` below 1.
    """

    def __init__(
        self, *, warmup: int = 3, repeats: int = 20, device: torch.device | str | None = None
    ) -> None:
        if warmup < 0 or repeats < 1:
            raise ValueError(f"need warmup >= 0 and repeats >= 1, got {warmup} and {repeats}")
        self.warmup = warmup
        self.repeats = repeats
        self.device = _default_device() if device is None else torch.device(device)

    def benchmark_transformer_attention(
        self, batch_size: int = 32, seq_len: int = 512, d_model: int = 512, num_heads: int = 8
    ) -> float:
        """Median seconds, forward, of `MultiHeadAttention`, weights returned, over `(B, n, d_model)`."""
        model = MultiHeadAttention(d_model, num_heads).to(self.device).eval()
        x = torch.randn(batch_size, seq_len, d_model, device=self.device)
        return self._median_seconds(lambda: model(x, x, x))

    def benchmark_cnn_attention(
        self, batch_size: int = 32, channels: int = 256, height: int = 56, width: int = 56
    ) -> float:
        """Median seconds of a forward pass of `CBAM` over `(B, C, H, W)`."""
        model = CBAM(channels).to(self.device).eval()
        x = torch.randn(batch_size, channels, height, width, device=self.device)
        return self._median_seconds(lambda: model(x))

    def _median_seconds(self, fn: Callable[[], object]) -> float:
        with torch.no_grad():
            samples = measure({"it": fn}, warmup=self.warmup, rounds=self.repeats, device=self.device)
        return summary(samples["it"])["median_s"]

    def run_comparison(
        self,
        *,
        batch_size: int = 8,
        channels: int = 256,
        height: int = 28,
        width: int = 28,
        num_heads: int = 8,
    ) -> dict[str, float]:
        """Give both families the same feature map, and print and return what they take for it.

        `CBAM` reads it as it is, `MultiHeadAttention` (without weights) as `H·W` tokens of width `C`. Both
        return as many numbers as they got. They take turns, round by round.

        Returns:
            A dictionary:

            - `transformer_time`, `cnn_time`: median seconds;
            - `speedup`: how many times as long the transformer's attention takes as CBAM, for this one input.
              It says nothing of other sizes, nor of what the two do, which is unlike;
            - `transformer_flops`, `cnn_flops`: the work of each, without pooling and softmax;
            - `control`: CBAM's time over its own, measured in the same rounds: 1 but for noise.
        """
        image = torch.randn(batch_size, channels, height, width, device=self.device)
        tokens = image.flatten(2).transpose(1, 2).contiguous()
        attention = MultiHeadAttention(channels, num_heads).to(self.device).eval()
        cbam = CBAM(channels).to(self.device).eval()
        with torch.no_grad():
            samples = measure(
                {
                    "transformer": lambda: attention(tokens, tokens, tokens, need_weights=False),
                    "cnn": lambda: cbam(image),
                },
                control="cnn",
                warmup=self.warmup,
                rounds=self.repeats,
                device=self.device,
            )
        n = height * width
        result = {
            "transformer_time": summary(samples["transformer"])["median_s"],
            "cnn_time": summary(samples["cnn"])["median_s"],
            "speedup": ratio(samples["transformer"], samples["cnn"]).median,
            "transformer_flops": complexity.cost(
                "multi-head-attention", batch=batch_size, n_q=n, d_model=channels, num_heads=num_heads
            ).flops,
            "cnn_flops": complexity.cost(
                "cbam", batch=batch_size, channels=channels, height=height, width=width
            ).flops,
            "control": ratio(samples["cnn (control)"], samples["cnn"]).median,
        }
        print(f"The same feature map, {batch_size} x {channels} x {height} x {width}, on {self.device}")
        for kind in ("transformer", "cnn"):
            seconds, flops = result[f"{kind}_time"], result[f"{kind}_flops"]
            print(f"{kind:12}{seconds:.4f}s{flops:>18,} FLOPs")
        print(f"transformer / cnn: {result['speedup']:.2f}; cnn / cnn, the noise: {result['control']:.2f}")
        return result


# --- The suite behind `attn-course bench speed` ------------------------------------------------------------


SCHEMA = "attn-course/speed/1"
OURS, TEXTBOOK, BARE, PLAIN = "attn_course", "textbook", "bare Linear + SDPA", "plain formula"
Peers = dict[str, Callable[[], tuple[Tensor, ...]]]


@dataclass(frozen=True)
class Case:
    """A mechanism at one size, among its peers.

    Attributes:
        mechanism: its name in `complexity.mechanisms()`.
        mode: `"forward"`, in inference, or `"training"`, forward and backward.
        sizes: what `complexity.cost` takes.
        baseline: the peer whose results are taken as right.
        build: makes the peers for a case and a device; each returns the tensors that are compared.
        note: what the mechanism's name leaves open.
    """

    mechanism: str
    mode: str
    sizes: dict[str, int]
    baseline: str
    build: Callable[[Case, torch.device], Peers]
    note: str = ""

    @property
    def name(self) -> str:
        """Mechanism, note, mode and sizes in one line."""
        sizes = ", ".join(f"{key}={value}" for key, value in self.sizes.items())
        return ", ".join(part for part in (self.mechanism, self.note, self.mode, sizes) if part)


def speed_cases(*, quick: bool = False, compiled: bool = False) -> list[Case]:
    """The cases of `attn-course bench speed`; `quick` takes small ones, `compiled` adds a compiled CBAM."""
    tokens = ("batch", "n_q", "d_model", "num_heads")
    image = ("batch", "channels", "height", "width")
    if quick:
        fused, weighted, cbam, maps = (
            [(2, 256, 256, 4)],
            [(2, 256, 256, 4)],
            [(4, 64, 28, 28)],
            [(1, 64, 32, 32)],
        )
    else:
        fused = [(8, 512, 512, 8), (1, 4096, 512, 8)]
        weighted = [(8, 512, 512, 8), (1, 2048, 512, 8)]
        cbam = [(32, 256, 56, 56)]
        maps = [(8, 256, 14, 14), (1, 64, 32, 32), (1, 64, 64, 64), (1, 64, 96, 96)]

    cases = []
    for mode in ("forward", "training"):
        for size in fused:
            sizes = dict(zip(tokens, size, strict=True))
            cases.append(Case("multi-head-attention", mode, sizes, BARE, _fused_peers, "without weights"))
        for size in weighted:
            sizes = dict(zip(tokens, size, strict=True))
            cases.append(Case("multi-head-attention", mode, sizes, TEXTBOOK, _weighted_peers, "with weights"))
        for size in cbam:
            sizes = dict(zip(image, size, strict=True))
            cases.append(Case("cbam", mode, sizes, TEXTBOOK, partial(_cbam_peers, compiled=compiled)))
            for gate in ("squeeze-and-excitation", "efficient-channel-attention"):
                cases.append(Case(gate, mode, sizes, PLAIN, _channel_gate_peers))
    for size in maps:
        sizes = dict(zip(image, size, strict=True))
        cases.append(Case("self-attention-2d", "forward", sizes, TEXTBOOK, _self_attention_2d_peers))
    return cases


def _fused_peers(case: Case, device: torch.device) -> Peers:
    ours, x = _attention_and_input(case, device)
    theirs = _torch_attention(ours)

    def bare(x: Tensor) -> Tensor:
        q, k, v = (split_heads(w(x), ours.num_heads) for w in (ours.w_q, ours.w_k, ours.w_v))
        return ours.w_o(merge_heads(F.scaled_dot_product_attention(q, k, v)))

    return _peers(
        case.mode,
        x,
        [ours, theirs],
        {
            BARE: bare,
            OURS: lambda x: ours(x, x, x, need_weights=False)[0],
            "nn.MultiheadAttention": lambda x: theirs(x, x, x, need_weights=False)[0],
        },
    )


def _weighted_peers(case: Case, device: torch.device) -> Peers:
    ours, x = _attention_and_input(case, device)
    usual = textbook.MultiHeadAttention(ours.d_model, ours.num_heads, dropout=0.0).to(device)
    usual.load_state_dict(ours.state_dict())
    theirs = _torch_attention(ours)
    return _peers(
        case.mode,
        x,
        [ours, usual, theirs],
        {
            TEXTBOOK: lambda x: usual(x, x, x)[0],
            OURS: lambda x: ours(x, x, x)[0],
            "nn.MultiheadAttention": lambda x: theirs(x, x, x, average_attn_weights=False)[0],
        },
    )


def _attention_and_input(case: Case, device: torch.device) -> tuple[MultiHeadAttention, Tensor]:
    """Without dropout, so that peers agree, and as SDPA on a CPU is fused without it only."""
    batch, n, d_model, num_heads = case.sizes.values()
    ours = MultiHeadAttention(d_model, num_heads, dropout=0.0).to(device)
    return ours, torch.randn(batch, n, d_model, device=device)


def _torch_attention(source: MultiHeadAttention) -> nn.MultiheadAttention:
    """`nn.MultiheadAttention` with the parameters of ours."""
    other = nn.MultiheadAttention(source.d_model, source.num_heads, batch_first=True)
    projections = (source.w_q, source.w_k, source.w_v)
    state = {
        "in_proj_weight": torch.cat([w.weight for w in projections]),
        "in_proj_bias": torch.cat([w.bias for w in projections]),
        "out_proj.weight": source.w_o.weight,
        "out_proj.bias": source.w_o.bias,
    }
    other.load_state_dict(state)
    return other.to(source.w_o.weight.device)


def _cbam_peers(case: Case, device: torch.device, *, compiled: bool = False) -> Peers:
    x = torch.randn(*case.sizes.values(), device=device)
    ours = CBAM(x.shape[1]).to(device)
    usual = textbook.CBAM(x.shape[1]).to(device)
    usual.load_state_dict(ours.state_dict())
    calls: dict[str, Callable[[Tensor], Tensor]] = {TEXTBOOK: usual, OURS: ours}
    if compiled:
        calls[f"{OURS}, compiled"] = torch.compile(ours)
    return _peers(case.mode, x, [ours, usual], calls)


def _channel_gate_peers(case: Case, device: torch.device) -> Peers:
    """Gates that the textbook lacks, against their formulas, written as in their papers' own code."""
    x = torch.randn(*case.sizes.values(), device=device)
    kind = SqueezeExcitation if case.mechanism == "squeeze-and-excitation" else EfficientChannelAttention
    ours = kind(x.shape[1]).to(device)

    def plain(x: Tensor) -> Tensor:
        mean = F.adaptive_avg_pool2d(x, 1).flatten(1)
        scores = ours.fc(mean) if isinstance(ours, SqueezeExcitation) else ours.conv(mean[:, None])[:, 0]
        return x * torch.sigmoid(scores)[:, :, None, None].expand_as(x)

    return _peers(case.mode, x, [ours], {PLAIN: plain, OURS: ours})


def _self_attention_2d_peers(case: Case, device: torch.device) -> Peers:
    x = torch.randn(*case.sizes.values(), device=device)
    ours = SelfAttention2D(x.shape[1]).to(device)
    nn.init.constant_(ours.gamma, 0.5)  # at its start, 0, the mechanism is the identity
    usual = textbook.SelfAttention2D(x.shape[1]).to(device)
    usual.load_state_dict(ours.state_dict())
    return _peers(case.mode, x, [ours, usual], {TEXTBOOK: usual, OURS: ours})


def _peers(
    mode: str, x: Tensor, modules: Sequence[nn.Module], calls: Mapping[str, Callable[[Tensor], Tensor]]
) -> Peers:
    """What runs each call on `x` in inference, or forward and backward."""
    output_gradient = torch.randn_like(x)
    for module in modules:
        module.train(mode == "training")

    def forward(call: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (call(x),)

    def training(call: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        entry = x.detach().requires_grad_()
        output = call(entry)
        output.backward(output_gradient)
        for module in modules:
            module.zero_grad()
        assert entry.grad is not None
        return output.detach(), entry.grad

    run = training if mode == "training" else forward
    return {name: partial(run, call) for name, call in calls.items()}


def run_case(
    case: Case,
    *,
    seconds: float = 15.0,
    rounds: int = 100,
    device: torch.device | str = "cpu",
    tolerance: float = 1e-3,
    clock: Callable[[], float] | None = None,
) -> dict[str, Any]:
    """Check that all peers of a case agree, then time them, then take their peak memory.

    Args:
        case: what to run.
        seconds: time for the rounds that count; see `measure`.
        rounds: the most rounds.
        device: where to run.
        tolerance: largest error against the baseline, as a share of its largest value, that is let through.
        clock: as in `measure`.

    Returns:
        A row of the results file: the case, and under `peers`, for each one and for the control, the summary
        of its samples, `time_ratio` (its time over ours), its peak memory and its error. A case that could
        not be run, for want of memory or as a peer is wrong, has `failed`, a message, in place of `peers`.
    """
    device = torch.device(device)
    row: dict[str, Any] = {
        "case": case.name,
        "mechanism": case.mechanism,
        "mode": case.mode,
        "note": case.note,
        "sizes": case.sizes,
        "dtype": "float32",
        "forward_flops": complexity.cost(case.mechanism, **case.sizes).flops,
        "ours": OURS,
        "baseline": case.baseline,
    }
    try:
        peers = case.build(case, device)
        errors = _gate(peers, case.baseline, tolerance)
        samples = measure(
            peers, control=OURS, warmup=1, rounds=rounds, seconds=seconds, device=device, clock=clock
        )
        peaks = {name: peak_bytes(fn, device=device) for name, fn in peers.items()}
    except (RuntimeError, MemoryError) as error:  # torch's lack of memory is a RuntimeError
        return {**row, "failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
    row["peers"] = {}
    for name, times in samples.items():
        entered_as = name.removesuffix(" (control)")
        row["peers"][name] = {
            **summary(times),
            "time_ratio": asdict(ratio(times, samples[OURS])),
            "peak_bytes": peaks[entered_as],
            "relative_error": errors[entered_as],
        }
    return row


def _gate(peers: Peers, baseline: str, tolerance: float) -> dict[str, float]:
    """The error of each peer, as a share of the baseline's largest value; RuntimeError if it is too large."""
    expected = peers[baseline]()
    errors = {}
    for name, fn in peers.items():
        errors[name] = 0.0
        for seen, right in zip(fn(), expected, strict=True):
            if seen.shape != right.shape:
                raise RuntimeError(f"{name} returns {tuple(seen.shape)}, {baseline} {tuple(right.shape)}")
            error = float((seen - right).abs().max() / right.abs().max())
            if not error <= tolerance:  # NaN too
                raise RuntimeError(f"{name} differs from {baseline} by {error:.2g}, allowed {tolerance:g}")
            errors[name] = max(errors[name], error)
    return errors


def record_speed(
    out: Path | str,
    *,
    quick: bool = False,
    compiled: bool = False,
    seconds: float | None = None,
    device: torch.device | str | None = None,
    cases: Sequence[Case] | None = None,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Run the speed suite, say each row as it is done, and record it as JSON.

    A finished row is on disk at once, as a line of `<out>.partial`; at the end the rows become `out`:
    `{"schema", "preset", "conditions", "rows"}`.

    Args:
        out: the file to write.
        quick: small sizes and two seconds a case; see `speed_cases`.
        compiled: `torch.compile` as one more peer of CBAM.
        seconds: time for each case.
        device: where to run; a GPU unless there is none.
        cases: other cases than `speed_cases`.
        say: gets each row as text.

    Returns:
        What the file holds.

    Raises:
        FileExistsError: if either file is there: nothing is overwritten.
    """
    out = Path(out)
    partial_out = out.with_name(f"{out.name}.partial")
    for path in (out, partial_out):
        if path.exists():
            raise FileExistsError(
                f"{path} is there and is not overwritten: take another name or move it away"
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    device = _default_device() if device is None else torch.device(device)
    seconds = (2.0 if quick else 15.0) if seconds is None else seconds
    cases = speed_cases(quick=quick, compiled=compiled) if cases is None else cases

    head = {"schema": SCHEMA, "preset": "quick" if quick else "standard", "conditions": conditions(device)}
    rows = []
    with partial_out.open("x", encoding="utf-8") as lines:
        _append(lines, head)
        for case in cases:
            rows.append(run_case(case, seconds=seconds, device=device))
            _append(lines, rows[-1])
            say(speed_table(rows[-1:]))
    record = {**head, "rows": rows}
    with out.open("x", encoding="utf-8") as file:
        file.write(json.dumps(record, indent=1) + "\n")
    partial_out.unlink()
    return record


def _append(lines: TextIO, entry: dict[str, Any]) -> None:
    lines.write(json.dumps(entry) + "\n")
    lines.flush()
    os.fsync(lines.fileno())


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as text: each peer's median, its time over ours with the interval, and its peak, likewise."""
    lines = []
    for row in rows:
        lines.append(row["case"])
        if "failed" in row:
            lines.append(f"  not run: {row['failed']}")
            continue
        ours = row["peers"][row["ours"]]
        rounds = f"{ours['runs']} rounds"
        lines.append(f"  {rounds:30}{'median':>12}{'time / ours':>22}{'peak':>13}{'peak / ours':>13}")
        for name, peer in row["peers"].items():
            median, mib = f"{peer['median_s'] * 1000:.2f} ms", f"{peer['peak_bytes'] / 2**20:.1f} MiB"
            share = f"{peer['peak_bytes'] / ours['peak_bytes']:.2f}" if ours["peak_bytes"] else ""
            lines.append(f"  {name:30}{median:>12}{Ratio(**peer['time_ratio'])!s:>22}{mib:>13}{share:>13}")
    return "\n".join(lines)


def conditions(device: torch.device | str | None = None) -> dict[str, Any]:
    """What a timing depends on: machine, device, threads, versions, the allocator's setting, and the date."""
    from attn_course import __version__

    device = _default_device() if device is None else torch.device(device)
    return {
        "machine": this_machine.describe(),
        "device": str(device),
        "cores": this_machine.cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": this_machine.memory_bytes(),
        "THP_MEM_ALLOC_ENABLE": os.environ.get("THP_MEM_ALLOC_ENABLE"),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "versions": {**this_machine.versions(), "attn_course": __version__},
        "date": time.strftime("%Y-%m-%d"),
    }
