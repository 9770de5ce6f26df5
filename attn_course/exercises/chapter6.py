"""Chapter 6, what may stand beside a learner's code: prompts, stubs and cases."""

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from .runner import by_position
from .task import Case, Inputs, Task

# ------------------------------------------------------------------------------------------- making inputs


def _draw(g: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=g).clamp(-2.5, 2.5)


def _integer(g: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=g))


# ------------------------------------------------------------------------------------------ window-mask


def _band(n: int, window: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {"n": n, "window": window}


_WINDOW_MASK = Task(
    id="window-mask",
    chapter=6,
    title="Neighbours only",
    prompt="""\
Write `sliding_window_mask(n, window)`: which keys may each query see, if nobody may look farther than `window` places?

`window` is the reach on *each* side: with a window of 2, a token in the middle sees the two before it, itself, and the
two after it. At both ends of the sequence there are fewer.

- Return a bool tensor `(n, n)`: row = query, column = key.
- True where `|query − key| ≤ window`.
- `window` may be 0, and it may be larger than the whole sequence.
""",
    stub='''\
def sliding_window_mask(n, window):
    """The mask of a sequence in which every token sees its neighbourhood only.

    returns bool (n, n): row = query, column = key, True where the query may attend
    """
    ...  # your code here
''',
    returns=("mask",),
    cases=(
        Case("five tokens, window 1", _band(5, 1)),
        Case("six tokens, window 2", _band(6, 2)),
        Case("window 0", _band(4, 0)),
        Case("one token short of everything", _band(4, 2)),
        Case("everything, just", _band(4, 3)),
        Case("window as long as the sequence", _band(3, 3)),
        Case("window far beyond the sequence", _band(3, 8)),
        Case("one token", _band(1, 0)),
        Case("one token, wide window", _band(1, 2)),
        Case("two tokens, window 1", _band(2, 1)),
        Case("even length, odd window", _band(8, 3)),
        Case("odd window", _band(13, 5), twice=True),
        Case("longer", _band(29, 4)),
        Case("any", lambda g: {"n": _integer(g, 17, 40), "window": _integer(g, 1, 9)}),
    ),
)

# ------------------------------------------------------------------------------------- window-attention


def _windowed(
    lead: tuple[int, ...], n: int, d: int, window: int, spread: float = 2.0
) -> Callable[[torch.Generator], Inputs]:
    def make(g: torch.Generator) -> Inputs:
        q, k, v = (_draw(g, *lead, n, d) for _ in range(3))
        return {"q": spread * q, "k": k, "v": v, "window": window}

    return make


def _five_tokens(g: torch.Generator) -> Inputs:
    """Small whole numbers: a learner can follow each of them."""
    return {
        "q": torch.tensor([[1.0, 0], [0, 2], [1, 1], [2, 0], [0, 1]]),
        "k": torch.tensor([[0.0, 1], [1, 0], [2, 1], [0, -1], [1, 2]]),
        "v": torch.tensor([[1.0, 0], [0, 1], [3, -1], [-2, 4], [5, 2]]),
        "window": 1,
    }


class _Meter(TorchDispatchMode):
    """Counts what torch does: bytes that live at the peak (to a tenth), and the arithmetic of attention.

    Arithmetic is what multiplies or exponentiates floating-point numbers. Copies, comparisons and masks are not
    counted: a right answer may have its own way with them.
    """

    _PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "mv", "dot", "addmv")
    _EACH = ("mul", "mul_", "exp", "exp_", "exp2", "_softmax", "_safe_softmax", "logsumexp", "convolution")

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor)]
        self.given = {tensor.untyped_storage()._cdata for tensor in tensors}
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.held = self.peak_bytes = self.work = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, tuple | list) else (result,)
        made = [x for x in results if isinstance(x, torch.Tensor) and x.layout == torch.strided]
        self.work += self._count(func.overloadpacket.__name__, args, made)
        for tensor in made:
            self._hold(tensor)
        if self.held > 1.1 * self.peak_bytes:
            self.look()
        return result

    def _count(self, name: str, args: Any, made: list[torch.Tensor]) -> int:
        given = [x for x in args if isinstance(x, torch.Tensor) and x.is_floating_point()]
        if not given or not made or not made[0].is_floating_point():
            return 0
        if name.startswith("_scaled_dot_product"):
            return 2 * made[0].numel() * given[1].shape[-2]
        if name in self._PRODUCTS:
            return made[0].numel() * given[-1].shape[max(-2, -given[-1].ndim)]
        return max(x.numel() for x in (*given, made[0])) if name in self._EACH else 0

    def _hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        known = self.live.get(key)
        if key in self.given or (known is not None and not known[0].expired()):
            return
        self.held += size - (known[1] if known is not None else 0)
        self.live[key] = StorageWeakRef(storage), size

    def look(self) -> None:
        """Forget what no longer lives."""
        self.live = {key: pair for key, pair in self.live.items() if not pair[0].expired()}
        self.held = sum(size for _, size in self.live.values())
        self.peak_bytes = max(self.peak_bytes, self.held)


class _Growing:
    """Sequences that double in length. ``formula`` is what a learner is shown."""

    LENGTHS = (192, 384, 768, 1536, 3072)
    formula = "192, 384 and more"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def sequences(self, n: int) -> list[torch.Tensor]:
        g = torch.Generator().manual_seed(self.seed)
        return [_draw(g, n, 2) for _ in range(3)]


# Twice the length takes twice the memory and the work, or four times. Blocks of √n queries take 2.8 times.
_SQUARE = 3.0


def growth_words(memory: bool, work: bool) -> str:
    """What is observed: whether memory grows with the square of the length, and whether work does."""
    return f"memory like n{'²' * memory}, work like n{'²' * work}"


KNOWN_GROWTH: dict[Any, str] = {}
"""What comes out for the course's own wrong answers, which a diagnosis calls again and again: known, not measured.

Their file fills it in; it is empty beside a submission.
"""


def growth(candidate: Any, growing: _Growing, window: int) -> str:
    """How memory and work grow when the length doubles: the next doubling is looked at only if one looks square.

    A right answer may work in blocks of 1,000 queries, say, and so have the whole map up to that length: memory and
    work look square together. Work that looks so alone, twice in a row, is.
    """
    before: tuple[int, int] | None = None
    square = (False, False)
    for n in growing.LENGTHS:
        q, k, v = growing.sequences(n)
        inputs = {"q": q, "k": k, "v": v, "window": window}
        meter = _Meter(inputs)
        with meter:
            by_position(candidate, inputs, ())
        meter.look()
        now = meter.peak_bytes, meter.work
        if before is not None:
            was, square = square, (now[0] > _SQUARE * before[0], now[1] > _SQUARE * before[1])
            if not any(square) or square == was == (False, True):
                break
        before = now
    return growth_words(*square)


def _attend(candidate: Any, inputs: Inputs, leaves: dict[str, torch.Tensor]) -> Any:
    """The output; of growing sequences, how memory and work grow."""
    growing = inputs.get("n")
    if growing is not None:
        known = KNOWN_GROWTH.get(candidate) if KNOWN_GROWTH else None
        return None, known or growth(candidate, growing, inputs["window"])
    output = by_position(candidate, inputs, ())
    return output if output is None or output is ... else (output, "")


_WINDOW_ATTENTION = Task(
    id="window-attention",
    chapter=6,
    title="Attention that stays near",
    prompt="""\
Write `sliding_window_attention(q, k, v, window)`: attention in which every query sees the `window` keys on each side of
it, and the one at its own place.

The result is that of full attention under the mask of the window: `softmax(q kᵀ / √d) v` with `−∞` in place of the
scores that are not allowed. But a mask only throws away what was paid for. Here, scores that nobody may see are not
even computed, so that a sequence twice as long takes twice the work and twice the memory, not four times.

- `q`, `k` and `v` are `(…, n, d)`, in float32, with any number of leading dimensions, the same for all three.
- Scores are divided by `√d`. Return the output, `(…, n, d)`, alone.
- `n` need not be a multiple of anything. `window` may be 0, and larger than `n`.
- For a fixed window, memory and work grow with `n`, not `n²`: no map of all scores, no mask of `n × n`. Whole blocks of
  queries may share the keys that they reach, and pay for some pairs in vain.
- Gradients have to reach `q`, `k` and `v`.
""",
    stub='''\
def sliding_window_attention(q, k, v, window):
    """Attention of every query to the keys at most window places away.

    q, k, v (..., n, d)
    returns output (..., n, d)
    """
    ...  # your code here
''',
    returns=("output", "growth with n"),
    cases=(
        Case("five tokens", _five_tokens),
        Case("window 0", _windowed((), 4, 3, 0), terms=32),
        Case("window 2", _windowed((), 7, 5, 2), terms=32, twice=True),
        Case("one key short of everything", _windowed((), 5, 3, 3), terms=32),
        Case("everything, just", _windowed((), 4, 3, 3), terms=32),
        Case("window as long as the sequence", _windowed((), 3, 5, 3), terms=32),
        Case("window far beyond the sequence", _windowed((), 3, 2, 11), terms=32),
        Case("one token", _windowed((), 1, 3, 0), terms=32),
        Case("one token, wide window", _windowed((2,), 1, 3, 2), terms=32),
        Case("two tokens", _windowed((), 2, 3, 1), terms=32),
        Case("length a multiple of the window", _windowed((), 12, 5, 3), terms=32),
        Case("one token more", _windowed((), 13, 5, 3), terms=32),
        Case("one token less", _windowed((), 11, 5, 3), terms=32),
        Case("length a multiple of all keys of a query", _windowed((), 15, 7, 2), terms=32),
        Case("heads", _windowed((3,), 17, 7, 4), terms=32),
        Case("batch and heads", _windowed((2, 3), 13, 5, 2), terms=32),
        Case("three leading dimensions", _windowed((2, 1, 3), 11, 5, 3), terms=32),
        Case("all sizes 4", _windowed((4, 4), 4, 4, 1), terms=32),
        Case("window larger than half the sequence", _windowed((2,), 19, 3, 13), terms=32),
        Case("longer", _windowed((2,), 71, 5, 6), terms=32),
        Case("longer than usual blocks", _windowed((), 163, 3, 9), terms=32),
        Case("gradients", _windowed((2, 3), 11, 5, 2), terms=64, gradients=True),
        Case("gradients in two dimensions", _windowed((), 5, 3, 1, 1.0), terms=64, gradients=True),
        Case("growth", lambda g: {"n": _Growing(_integer(g, 0, 1 << 30)), "window": 3}),
    ),
    act=_attend,
)

# ------------------------------------------------------------------------------------- select-mechanism


class _Candidates(dict[str, tuple[float, int]]):
    """Name -> (seconds, bytes), which a learner is shown where there are few."""

    def __hash__(self) -> int:  # type: ignore[override]  # for a function under `lru_cache`
        return id(self)

    @property
    def formula(self) -> str:
        return str(dict(self)) if len(self) <= 6 else f"{len(self)} mechanisms"


def _choice(memory_budget: int, **candidates: tuple[float, int]) -> Callable[[torch.Generator], Inputs]:
    """Underscores stand for spaces."""
    return lambda g: {
        "candidates": _Candidates({name.replace("_", " "): pair for name, pair in candidates.items()}),
        "memory_budget": memory_budget,
    }


_NAMES = ("full", "fused", "window", "linear", "channel", "spatial", "pooled", "strided", "hybrid", "ring")


def _any_choice(g: torch.Generator) -> Inputs:
    """Ten mechanisms, in any order, no two of one time; half of them fit."""
    order = torch.randperm(len(_NAMES), generator=g).tolist()
    seconds = [(1 + 2 * i) / 64 for i in torch.randperm(len(_NAMES), generator=g).tolist()]
    sizes = [(3 + 7 * i) << 20 for i in torch.randperm(len(_NAMES), generator=g).tolist()]
    names = [_NAMES[i] for i in order]
    candidates = _Candidates(zip(names, zip(seconds, sizes, strict=True), strict=True))
    return {"candidates": candidates, "memory_budget": 34 << 20}


def _any_tie(g: torch.Generator) -> Inputs:
    """Ten mechanisms, two or three of each time, no two of one size; the smaller ones fit."""
    order = torch.randperm(len(_NAMES), generator=g).tolist()
    sizes = [5 + 2 * i for i in torch.randperm(len(_NAMES), generator=g).tolist()]
    pairs = [(0.25 * (1 + i // 3), size) for i, size in zip(order, sizes, strict=True)]
    candidates = _Candidates(zip((_NAMES[i] for i in order), pairs, strict=True))
    return {"candidates": candidates, "memory_budget": 17}


_SELECT_MECHANISM = Task(
    id="select-mechanism",
    chapter=6,
    title="The fastest that fits",
    prompt="""\
Write `select_mechanism(candidates, memory_budget)`: which mechanism to take, when time and memory of each are known.

`candidates` is a dictionary: the name of a mechanism → `(seconds, bytes)`, what one call of it takes. What does not fit
into the memory cannot run, however fast it would be. Of what fits, take the fastest.

- A mechanism fits if its bytes are at most `memory_budget`.
- Return its name.
- If the fastest time belongs to several that fit, take the one of them that needs the fewest bytes. (No two agree in
  both.)
- Raise a `ValueError` if nothing fits: better no answer than one that cannot run. (`raise ValueError("…")`, and the
  text may say what would have helped.)
""",
    stub='''\
def select_mechanism(candidates, memory_budget):
    """The name of the fastest mechanism that fits.

    candidates: name -> (seconds, bytes)
    memory_budget: bytes
    raises ValueError when nothing fits
    """
    ...  # your code here
''',
    returns=("name",),
    cases=(
        Case("the fastest fits", _choice(50, window=(30.0, 4), full=(7.0, 5), linear=(20.0, 60))),
        Case("the fastest does not fit", _choice(100, full=(0.5, 400), window=(2.0, 90), linear=(3.0, 40))),
        Case("all fit", _choice(500, window=(2.0, 90), full=(0.5, 400), linear=(3.0, 40))),
        Case("just fits", _choice(90, linear=(3.0, 40), window=(2.0, 90), full=(0.5, 400))),
        Case("one byte short", _choice(89, full=(0.5, 400), window=(2.0, 90), linear=(3.0, 40))),
        Case("equal times, the smaller later", _choice(64, fused=(0.25, 60), window=(0.25, 30), full=(0.75, 10))),
        Case("equal times, the smaller first", _choice(64, window=(0.25, 30), full=(0.75, 10), fused=(0.25, 60))),
        Case("equal times, one does not fit", _choice(50, full=(0.25, 60), window=(0.25, 45), spatial=(0.5, 20))),
        Case("three of one time", _choice(99, spatial=(1.5, 70), channel=(1.5, 20), fused=(1.5, 40), full=(2.5, 5))),
        Case("nothing fits", _choice(39, full=(0.5, 400), window=(2.0, 90), linear=(3.0, 40))),
        Case("one mechanism", _choice(8, window=(4.0, 7))),
        Case("one mechanism, too large", _choice(6, window=(4.0, 7))),
        Case("more seconds than bytes", _choice(50, full=(40.0, 3), window=(9.0, 60), linear=(90.0, 1))),
        Case("names with a space", _choice(30, full_attention=(2.0, 31), sliding_window=(3.5, 30), CBAM=(4.0, 2))),
        Case("far apart", _choice(10**10, full=(3e-3, 2 * 10**10), window=(4e-6, 10**10), linear=(5e-6, 10**3))),
        Case("near each other", _choice(1000, a=(0.50001, 1000), b=(0.5, 999), c=(0.49999, 1001))),
        Case("any", _any_choice),
        Case("any, with equal times", _any_tie),
    ),
)  # fmt: skip

TASKS = (
    _WINDOW_MASK,
    _WINDOW_ATTENTION,
    _SELECT_MECHANISM,
)
