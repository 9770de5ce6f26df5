"""The suite: every mechanism among its peers, at several sizes, and how one case of it is run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from attn_course import complexity
from attn_course.benchmark import peers as peers_of
from attn_course.benchmark.clock import measure, ratio, summary
from attn_course.benchmark.memory import peak_bytes
from attn_course.benchmark.peers import COMPILED, FLEX, LOCAL, OURS, PLAIN, SDPA, TEXTBOOK, TIMM, TORCH, Peers

__all__ = [
    "BARS",
    "OURS",
    "PRESETS",
    "PRESET_SETTINGS",
    "Bar",
    "Case",
    "bars",
    "cases",
    "ceilings",
    "predicted",
    "run_case",
]

PRESETS = ("smoke", "course", "full")
PRESET_SETTINGS = {"smoke": (0.3, 9), "course": (6.0, 60), "full": (20.0, 200)}
"""Seconds that a case's rounds may take, and the most rounds."""

CONTROL = f"{OURS} (control)"
_BLOCK_S = 0.005
_LEAST_ROUNDS = 9  # from here on the interval leaves the extremes out


@dataclass(frozen=True)
class Case:
    """A mechanism at one size, among its peers.

    Attributes:
        mechanism: its name in `complexity.mechanisms()`.
        mode: `"forward"`, in inference, or `"training"`, forward and backward.
        sizes: what `complexity.cost` takes.
        baseline: the peer whose results are taken as right.
        note: what the mechanism's name leaves open.
        dtype: of inputs and parameters.
        allocator: `"default"`, or `"huge pages"` (`THP_MEM_ALLOC_ENABLE=1`, Linux on a CPU).
        compiled: whether peers take part that `torch.compile` makes, which takes some ten seconds each.
        build: makes the peers; `peers.build` unless given.
    """

    mechanism: str
    mode: str
    sizes: dict[str, int]
    baseline: str
    note: str = ""
    dtype: str = "float32"
    allocator: str = "default"
    compiled: bool = True
    build: Callable[[Case, torch.device], Peers] = peers_of.build

    @property
    def name(self) -> str:
        """Mechanism, note, mode, sizes, and what is not as usual, in one line."""
        sizes = ", ".join(f"{key}={value}" for key, value in self.sizes.items())
        dtype = "" if self.dtype == "float32" else self.dtype
        allocator = "" if self.allocator == "default" else self.allocator
        parts = (self.mechanism, self.note, self.mode, sizes, dtype, allocator)
        return ", ".join(part for part in parts if part)


# --- Which cases -------------------------------------------------------------------------------------------

_TOKENS = ("batch", "n_q", "d_model", "num_heads")
_HEADS = ("batch", "num_heads", "n", "d_k", "window")
_IMAGE = ("batch", "channels", "height", "width")
_BLOCK = ("batch", "n", "d_model", "num_heads", "d_ff")
_CONVOLUTION = ("batch", "in_channels", "out_channels", "height", "width", "kernel_size")
_BOTH = ("forward", "training")


def cases(preset: str, device: torch.device | str = "cpu") -> list[Case]:
    """The cases of a preset, in the order in which they run.

    `smoke` has every mechanism once, small, in both modes; `course` the sizes that the book shows and the bars;
    `full` those of both, larger ones, and bfloat16 on a GPU.

    Raises:
        ValueError: for an unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    device = torch.device(device)
    if preset == "smoke":
        return [replace(case, compiled=False) for case in _smoke()]
    found = list(_course())
    if device.type == "cpu":
        found += [replace(case, allocator="huge pages") for case in found if case.name in _bar_cases()]
    if preset == "full":
        found += list(_full(device))
    return found


def _case(
    mechanism: str,
    names: Sequence[str],
    size: Sequence[int],
    mode: str,
    baseline: str = TEXTBOOK,
    note: str = "",
) -> Case:
    return Case(mechanism, mode, dict(zip(names, size, strict=True)), baseline, note)


def _smoke() -> Iterator[Case]:
    yield from _every_mechanism(
        tokens=(2, 128, 128, 4),
        heads=(1, 2, 512, 32, 32),
        image=(2, 32, 16, 16),
        block=(2, 64, 128, 4, 256),
        convolution=(2, 16, 16, 16, 16, 3),
        small=(2, 16, 16),
        classes=10,
    )
    yield _decoding(1, 256, 128, 4)


def _course() -> Iterator[Case]:
    # The bars first.
    for mode in _BOTH:
        yield _case("cbam", _IMAGE, (32, 256, 56, 56), mode)
        yield _case("sliding-window-attention", _HEADS, (1, 8, 4096, 64, 128), mode, f"{SDPA}, band mask")
        yield _case("multi-head-attention", _TOKENS, (1, 2048, 512, 8), mode, note="without weights")
        yield _case("self-attention-2d", _IMAGE, (1, 64, 64, 64), mode)
    yield _case("self-attention-2d", _IMAGE, (1, 64, 96, 96), "forward")
    yield _two_lengths(16384)
    yield from _every_mechanism(
        tokens=(8, 512, 512, 8),
        heads=(1, 8, 2048, 64, 64),
        image=(32, 128, 28, 28),
        block=(8, 256, 512, 8, 2048),
        convolution=(32, 128, 128, 28, 28, 3),
        small=(32, 32, 32),
        classes=10,
    )
    for kv_heads in (8, 2):
        yield _decoding(8, 2048, 512, 8, kv_heads)
    for n in (256, 512, 1024, 2048, 4096, 8192):
        yield _lengths(1, 8, n, 64, 128)


def _full(device: torch.device) -> Iterator[Case]:
    yield from _smoke()
    more = list(
        _every_mechanism(
            tokens=(4, 1024, 768, 12),
            heads=(4, 8, 4096, 64, 256),
            image=(32, 256, 32, 32),
            block=(4, 1024, 768, 12, 3072),
            convolution=(32, 256, 256, 32, 32, 3),
            small=(32, 64, 64),
            classes=100,
        )
    )
    more += [_lengths(1, 8, n, 64, 128) for n in (16384, 32768)]
    more += [_case("multi-head-attention", _TOKENS, (8, n, 1024, 16), mode, note="without weights")
             for n in (1024, 4096) for mode in _BOTH]  # fmt: skip
    more += [_case("transformer-block", _BLOCK, (8, 1024, 1024, 16, 4096), mode) for mode in _BOTH]
    more += [_case("cbam", _IMAGE, (64, 512, 28, 28), mode) for mode in _BOTH]
    more += [_decoding(16, 8192, 1024, 16, kv_heads) for kv_heads in (16, 4, 1)]
    yield from more
    if device.type == "cuda":
        for case in [*_course(), *more]:
            if case.mechanism in ("multi-head-attention", "transformer-block", "sliding-window-attention"):
                yield replace(case, dtype="bfloat16")


def _every_mechanism(
    *,
    tokens: Sequence[int],
    heads: Sequence[int],
    image: Sequence[int],
    block: Sequence[int],
    convolution: Sequence[int],
    small: tuple[int, int, int],
    classes: int,
) -> Iterator[Case]:
    batch, height, width = small
    for mode in _BOTH:
        for note in ("without weights", "with weights"):
            yield _case("multi-head-attention", _TOKENS, tokens, mode, note=note)
        yield _case("transformer-block", _BLOCK, block, mode)
        yield _case("sliding-window-attention", _HEADS, heads, mode, f"{SDPA}, band mask")
        for gate in ("channel-attention", "spatial-attention", "cbam"):
            yield _case(gate, _IMAGE, image, mode)
        for gate in ("squeeze-and-excitation", "efficient-channel-attention"):
            yield _case(gate, _IMAGE, image, mode, PLAIN)
        yield _case("self-attention-2d", _IMAGE, (image[0] // 2, *image[1:]), mode)
        yield _case("convolution", _CONVOLUTION, convolution, mode, PLAIN)
        yield _case("attention-cnn", ("batch", "height", "width"), small, mode)
        sizes = {"batch": batch, "channels": 3, "height": height, "width": width, "num_classes": classes}
        yield Case("hybrid", mode, {**sizes, "positions": False}, TEXTBOOK)


def _decoding(batch: int, n: int, d_model: int, num_heads: int, num_kv_heads: int | None = None) -> Case:
    sizes = {"batch": batch, "n_q": 1, "n_k": n, "cached": n - 1, "d_model": d_model, "num_heads": num_heads}
    if num_kv_heads is not None:
        sizes["num_kv_heads"] = num_kv_heads
    return Case("multi-head-attention", "forward", sizes, PLAIN, "decoding")


def _lengths(*size: int) -> Case:
    return _case("sliding-window-attention", _HEADS, size, "forward", SDPA, "beside full attention")


def _two_lengths(n: int) -> Case:
    baseline = f"{OURS}, n = 2048, {n // 2048} times"
    return _case("sliding-window-attention", _HEADS, (1, 8, n, 64, 128), "forward", baseline, "two lengths")


# --- What is promised --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """A promise: one peer's time or peak over ours, in one case.

    Attributes:
        label: in words.
        case: the name of the case, without its allocator.
        peer: whose time or peak stands above the line; ours stands below.
        at_least: what the ratio must reach.
        what: `"time"` or `"peak"`.
        ours: who stands below the line.
    """

    label: str
    case: str
    peer: str
    at_least: float
    what: str = "time"
    ours: str = OURS


def _bars() -> tuple[Bar, ...]:
    window = {
        mode: _case("sliding-window-attention", _HEADS, (1, 8, 4096, 64, 128), mode, SDPA).name
        for mode in _BOTH
    }
    cbam = {mode: _case("cbam", _IMAGE, (32, 256, 56, 56), mode).name for mode in _BOTH}
    small = _case("self-attention-2d", _IMAGE, (1, 64, 64, 64), "training").name
    large = _case("self-attention-2d", _IMAGE, (1, 64, 96, 96), "forward").name
    attention = _case(
        "multi-head-attention", _TOKENS, (1, 2048, 512, 8), "forward", note="without weights"
    ).name
    forward, training = window.values()
    return (
        Bar("windows: SDPA with a band mask / ours", forward, f"{SDPA}, band mask", 6),
        Bar("windows: local-attention / ours", forward, LOCAL, 1.5),
        Bar("windows: compiled FlexAttention / ours", forward, FLEX, 1),
        Bar("windows: twice inputs and output / our peak", forward, "inputs and output, twice", 1, "peak"),
        Bar(
            "windows: a token at 2,048 / at 16,384",
            _two_lengths(16384).name,
            _two_lengths(16384).baseline,
            1 / 1.15,
        ),
        Bar("windows, training: SDPA with a band mask / ours", training, f"{SDPA}, band mask", 6),
        Bar("windows, training: local-attention / ours", training, LOCAL, 1.5),
        Bar("CBAM: textbook / ours", cbam["forward"], TEXTBOOK, 1.8),
        Bar("CBAM: textbook / ours, compiled", cbam["forward"], TEXTBOOK, 2.2, ours=COMPILED),
        Bar("CBAM, training: textbook / ours", cbam["training"], TEXTBOOK, 1),
        Bar("CBAM, training: timm / ours", cbam["training"], TIMM, 1),
        Bar("CBAM, training: timm's peak / ours", cbam["training"], TIMM, 1, "peak"),
        Bar("self-attention, 96 × 96: textbook / ours", large, TEXTBOOK, 2),
        Bar("self-attention, 96 × 96: textbook's peak / ours", large, TEXTBOOK, 30, "peak"),
        Bar("self-attention, 64 × 64, training: textbook / ours", small, TEXTBOOK, 1 / 1.3),
        Bar("self-attention, 64 × 64, training: textbook's peak / ours", small, TEXTBOOK, 4, "peak"),
        Bar("attention without weights: textbook / ours", attention, TEXTBOOK, 2.4),
        Bar("attention without weights: timm / ours", attention, TIMM, 1),
        Bar("attention without weights: nn.MultiheadAttention / ours", attention, TORCH, 1.15),
    )


BARS = _bars()


def _bar_cases() -> set[str]:
    return {bar.case for bar in BARS}


def bars(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each bar in each allocator setting that the rows have: what came out, and whether that reaches it.

    A bar in time counts as reached when the ratio's interval includes it; whether the ratio itself does is in `value`.
    A ratio of peaks has no noise.

    Returns:
        Dictionaries of `label`, `case`, `allocator`, `what`, `bound`, `value`, `low`, `high`, `control` (low and high
        of the same code against itself) and `reached`; the last five are None where it was not measured.
    """
    found = []
    for bar in BARS:
        fitting = [row for row in rows if _without_allocator(row) == bar.case]
        found += [_held(bar, row) for row in fitting] or [_held(bar, None)]
    return found


def _held(bar: Bar, row: Mapping[str, Any] | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "label": bar.label
        if row is None or row["allocator"] == "default"
        else f"{bar.label} ({row['allocator']})",
        "case": bar.case,
        "allocator": None if row is None else row["allocator"],
        "what": bar.what,
        "bound": bar.at_least,
        **dict.fromkeys(("value", "low", "high", "control", "reached")),
    }
    if row is None or row["status"] != "measured" or bar.ours not in row["peers"]:
        return entry
    peers = row["peers"]
    if bar.what == "peak":
        above = _inputs_and_output(row) if bar.peer not in peers else peers[bar.peer]["peak_bytes"]
        value = above / peers[bar.ours]["peak_bytes"]
        return {**entry, "value": value, "low": value, "high": value, "reached": value >= bar.at_least}
    if bar.peer not in peers:
        return entry
    found = ratio(peers[bar.peer]["samples_s"], peers[bar.ours]["samples_s"])
    control = ratio(peers[CONTROL]["samples_s"], peers[OURS]["samples_s"])
    return {
        **entry,
        "value": found.median,
        "low": found.low,
        "high": found.high,
        "control": [control.low, control.high],
        "reached": found.high >= bar.at_least,
    }


def _without_allocator(row: Mapping[str, Any]) -> str:
    return row["case"].removesuffix(f", {row['allocator']}")


def _inputs_and_output(row: Mapping[str, Any]) -> int:
    """Twice the bytes of q, k, v and the output."""
    sizes = row["sizes"]
    return 2 * 4 * sizes["batch"] * sizes["num_heads"] * sizes["n"] * sizes["d_k"] * 4


# --- One case ----------------------------------------------------------------------------------------------


def predicted(case: Case) -> dict[str, Any]:
    """What `complexity.cost` says of a case: FLOPs, bytes moved, peak, in its mode.

    Peers run without dropout, so that they agree; the cost of training the hybrid is that with its dropout, and above
    what its row measures.
    """
    sizes: dict[str, Any] = {**case.sizes, "dtype": case.dtype}
    if case.mechanism in ("multi-head-attention", "transformer-block"):
        sizes["fused"] = case.note != "with weights"
    price = complexity.cost(case.mechanism, **sizes)
    training = case.mode == "training"
    return {
        "flops": price.training_flops if training else price.flops,
        "elementwise": price.elementwise,
        "bytes_moved": price.bytes_moved_training if training else price.bytes_moved,
        "peak_bytes": price.peak_bytes_training if training else price.peak_bytes,
        "parameters": price.parameters,
    }


def ceilings(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What this machine reaches: FLOP/s in a large matrix product, bytes/s in a large copy.

    The best of the samples: a ceiling is what can be reached, and whatever else goes on can only lower it.

    Returns:
        `matrix_product`, in float32; `copy`; and on a GPU, which has units of its own for it,
        `matrix_product_bfloat16`.
    """
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    n, elements = (8192, 2**28) if on_gpu else (2048, 2**25)
    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)
    tasks: dict[str, Callable[[], object]] = {"copy": lambda: target.copy_(source)}
    for dtype in ("float32", "bfloat16") if on_gpu else ("float32",):
        a, b = (torch.randn(n, n, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
        tasks[dtype] = partial(torch.mm, a, b, out=torch.empty_like(a))
    samples = measure(tasks, warmup=1, rounds=9, device=device)
    found: dict[str, Any] = {}
    for dtype, times in samples.items():
        if dtype == "copy":
            continue
        name = "matrix_product" if dtype == "float32" else f"matrix_product_{dtype}"
        found[name] = {"n": n, "dtype": dtype, "flops_per_s": 2 * n**3 / min(times),
                       "median_flops_per_s": 2 * n**3 / statistics.median(times)}  # fmt: skip
    copied, times = 2 * source.nbytes, samples["copy"]
    found["copy"] = {"bytes": copied, "bytes_per_s": copied / min(times),
                     "median_bytes_per_s": copied / statistics.median(times)}  # fmt: skip
    return found


class Wrong(RuntimeError):
    """A peer's results differ from what they should be."""


def run_case(
    case: Case,
    *,
    seconds: float = 6.0,
    rounds: int = 60,
    device: torch.device | str = "cpu",
    ceilings: Mapping[str, Any] | None = None,
    clock: Callable[[], float] | None = None,
) -> dict[str, Any]:
    """Check that all peers of a case agree, then time them, then take their peak memory.

    Args:
        case: what to run.
        seconds: time for the rounds that count; see `measure`.
        rounds: the most rounds.
        device: where to run.
        ceilings: of this machine, for the shares; see `ceilings`.
        clock: as in `measure`.

    Returns:
        A row of the results file; `schema.json` says what it holds. A peer that cannot run is listed under `absent`.
        A case that cannot be run has its reason as `status` (`"out of memory"`, `"wrong"` or `"failed"`) and
        `message`, and no peers.
    """
    device = torch.device(device)
    row: dict[str, Any] = {
        "case": case.name,
        "mechanism": case.mechanism,
        "mode": case.mode,
        "note": case.note,
        "sizes": dict(case.sizes),
        "dtype": case.dtype,
        "allocator": case.allocator,
        "status": "measured",
        "predicted": predicted(case),
        "ours": OURS,
        "baseline": case.baseline,
        "peers": {},
        "absent": {},
    }
    state = torch.random.get_rng_state()
    try:
        peers = case.build(case, device)
        row["absent"] = peers.absent
        errors = _gate(peers, case)
        samples = measure(
            peers.calls,
            control=OURS,
            warmup=1,
            rounds=rounds,
            seconds=seconds,
            device=device,
            clock=clock,
            block_s=_BLOCK_S,
            least=_LEAST_ROUNDS,
        )
        peaks = {name: peak_bytes(fn, device=device) for name, fn in peers.calls.items()}
    except (RuntimeError, MemoryError) as error:  # torch's lack of memory is a RuntimeError
        return {**row, "status": _status(error), "message": f"{type(error).__name__}: {_first_line(error)}"}
    finally:
        torch.random.set_rng_state(state)
    for name, times in samples.items():
        entered_as = name.removesuffix(" (control)")
        row["peers"][name] = {
            **summary(times),
            "time_ratio": asdict(ratio(times, samples[OURS])),
            "peak_bytes": peaks[entered_as],
            "relative_error": errors[entered_as],
            **_rates(row["predicted"], statistics.median(times), ceilings, case.dtype),
        }
    return row


def _rates(
    predicted: Mapping[str, Any], median: float, ceilings: Mapping[str, Any] | None, dtype: str
) -> dict[str, float | None]:
    """What was reached of the mechanism's own work: a peer that does more gets no credit for it."""
    rates = {"flops": predicted["flops"] / median, "bytes": predicted["bytes_moved"] / median}
    most: dict[str, float | None] = {"flops": None, "bytes": None}
    if ceilings is not None:
        product = "matrix_product" if dtype == "float32" else f"matrix_product_{dtype}"
        most["flops"] = ceilings[product]["flops_per_s"] if product in ceilings else None
        most["bytes"] = ceilings["copy"]["bytes_per_s"]
    found: dict[str, float | None] = {}
    for name, rate in rates.items():
        ceiling = most[name]
        found[f"{name}_per_s"] = rate
        found[f"{name}_share"] = None if ceiling is None else rate / ceiling
    return found


def _gate(peers: Peers, case: Case) -> dict[str, float]:
    """The error of each peer, as a share of the largest value that is right; `Wrong` if it is too large.

    An optional peer that raises (no compiler, no kernel for this device) is moved to `absent`.
    """
    tolerance = 1e-3 if case.dtype == "float32" else 0.05
    right: dict[Callable[..., Any], tuple[torch.Tensor, ...]] = {}
    errors = {}
    for name in list(peers.calls):
        reference = peers.references.get(name, peers.calls[case.baseline])
        if reference not in right:
            right[reference] = reference()
        try:
            seen = peers.calls[name]()
        except Exception as error:
            if name in (OURS, case.baseline) or isinstance(error, MemoryError | torch.OutOfMemoryError):
                raise
            del peers.calls[name]
            peers.absent[name] = f"{type(error).__name__}: {_first_line(error)}"
            continue
        errors[name] = _error(name, seen, right[reference], case.baseline, tolerance)
    return errors


def _error(
    name: str, seen: Sequence[torch.Tensor], right: Sequence[torch.Tensor], baseline: str, tolerance: float
) -> float:
    worst = 0.0
    for a, b in zip(seen, right, strict=True):
        if a.shape != b.shape:
            raise Wrong(f"{name} returns {tuple(a.shape)}, {baseline} {tuple(b.shape)}")
        error = float((a - b).abs().max() / b.abs().max())
        if not error <= tolerance:  # NaN too
            raise Wrong(f"{name} differs from {baseline} by {error:.2g}, allowed {tolerance:g}")
        worst = max(worst, error)
    return worst


def _status(error: BaseException) -> str:
    if isinstance(error, Wrong):
        return "wrong"
    words = ("not enough memory", "can't allocate memory", "Storage size calculation overflowed")
    lacking = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in str(error) for w in words)
    return "out of memory" if lacking else "failed"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
