"""Chapter 2, what may stand beside a learner's code: prompts, stubs and cases."""

from collections.abc import Callable
from typing import Any

import torch

from ..positional import sinusoidal_encoding
from .runner import by_position
from .task import Case, Inputs, Task

# ---------------------------------------------------------------------------------- sinusoidal-encoding


def _table(max_len: int, d_model: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {"max_len": max_len, "d_model": d_model}


_SINUSOIDAL_ENCODING = Task(
    id="sinusoidal-encoding",
    chapter=2,
    title="A clock with many hands",
    prompt="""\
Write `sinusoidal_encoding(max_len, d_model)`: the table that gives each position its own vector. Columns come in
pairs. Pair `i`, counted from 0, is a clock hand that turns by `10000^(−2i / d_model)` radians from one position to the
next: its sine stands in column `2i`, its cosine in column `2i + 1`.

- `max_len` and `d_model` are integers. Return a float32 tensor `(max_len, d_model)`; its rows are the positions
  `0, 1, …, max_len − 1`.
- An odd `d_model` works the same way: its last column is the sine of a pair whose cosine has no room left.
- Every number is right to `1e-5`, also at position 5000. Mind how exactly a large angle can be stored.
""",
    stub='''\
def sinusoidal_encoding(max_len, d_model):
    """The table of sines and cosines, one row for each position.

    returns float32 (max_len, d_model): even columns sine, odd columns cosine
    """
    ...  # your code here
''',
    returns=("table",),
    cases=(
        Case("4 positions, width 4", _table(4, 4), twice=True),
        Case("7 positions, width 2", _table(7, 2)),
        Case("one position", _table(1, 6)),
        Case("5 positions, width 5", _table(5, 5)),
        Case("11 positions, width 7", _table(11, 7)),
        Case("width 1", _table(3, 1)),
        Case("width 3", _table(2, 3)),
        Case("as wide as long", _table(16, 16)),
        Case("wider than long", _table(3, 32)),
        Case("200 positions, width 64", _table(200, 64), within=1e-5),
        Case("positions up to 5000", _table(5001, 14), within=1e-5),
        Case("positions up to 5000, odd width", _table(5001, 5), within=1e-5),
    ),
)

# ----------------------------------------------------------------------------------------- shift-matrix

_PLACES = (0, 1, 2, 7, 40)


def _shift(k: int, d_model: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {"k": k, "d_model": d_model}


def _move(candidate: Any, inputs: Inputs, leaves: dict[str, torch.Tensor]) -> Any:
    """The matrix is judged by what it does: its entries show in the kind of tensor that it is, and nowhere else.

    Slow hands hardly move, so a matrix that was fitted to the table may have other entries and be right.
    """
    matrix = candidate(*inputs.values())
    width = inputs["d_model"]
    if matrix is None or matrix is ...:
        return matrix
    if (
        not isinstance(matrix, torch.Tensor)
        or not matrix.is_floating_point()
        or matrix.shape != (width, width)
    ):
        return matrix, None
    encodings = sinusoidal_encoding(max(_PLACES) + 1, width)[list(_PLACES)]
    return matrix * 0, encodings.to(matrix.dtype) @ matrix.T


_SHIFT_MATRIX = Task(
    id="shift-matrix",
    chapter=2,
    title="Moving on by turning",
    prompt="""\
Write `shift_matrix(k, d_model)`: the one matrix `M` that moves every sinusoidal encoding on by `k` positions,
`M @ pe[p] == pe[p + k]` for every `p`. It depends on `k` and not on `p`.

- `pe` is the table of `sinusoidal_encoding`: pair `i` has its sine in column `2i`, its cosine in column `2i + 1`, and
  turns by `10000^(−2i / d_model)` radians for each position. Each pair is turned by itself.
- `k` is an integer; below 0 it moves back. `d_model` is even.
- Return a float32 tensor `(d_model, d_model)`.
""",
    stub='''\
def shift_matrix(k, d_model):
    """The matrix M with M @ pe[p] == pe[p + k] for every position p.

    returns float32 (d_model, d_model), for an even d_model
    """
    ...  # your code here
''',
    returns=("M", "M @ pe[p]"),
    cases=(
        Case("one pair", _shift(1, 2), twice=True),
        Case("one pair, two on", _shift(2, 2)),
        Case("two pairs", _shift(1, 4)),
        Case("two pairs, three on", _shift(3, 4)),
        Case("not at all", _shift(0, 6)),
        Case("back", _shift(-2, 6)),
        Case("as far as wide", _shift(8, 8)),
        Case("far", _shift(17, 6), terms=64),
        Case("far back", _shift(-23, 8), terms=64),
        Case("four pairs", _shift(5, 8), terms=64),
    ),
    act=_move,
)

# -------------------------------------------------------------------------------------- rotary-embedding


def _rotary(
    *shape: int, positions: tuple[int, ...] | None = None, start: int = 0, base: float | None = None
) -> Callable[[torch.Generator], Inputs]:
    """``positions`` where given, else consecutive ones from ``start``."""

    def make(g: torch.Generator) -> Inputs:
        n = shape[-2]
        places = torch.tensor(positions) if positions is not None else torch.arange(start, start + n)
        inputs: Inputs = {"x": torch.randn(*shape, generator=g), "positions": places}
        return inputs if base is None else {**inputs, "base": base}

    return make


def _tiny_rotary(g: torch.Generator) -> Inputs:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 1.0]])
    return {"x": x, "positions": torch.tensor([0, 1, 2])}


def _two_pairs(g: torch.Generator) -> Inputs:
    return {
        "x": torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]]),
        "positions": torch.tensor([0, 3]),
    }


def _turns_halves(candidate: Any, width: int) -> bool:
    """Whether a vector's first number turns together with the first of the second half, not with its neighbour."""
    probe = torch.zeros(1, width)
    probe[0, 0] = 1.0
    try:
        with torch.no_grad():
            turned = candidate(probe, torch.tensor([1]))
        others = turned.reshape(width)[1:].abs()
        return int(others.argmax()) + 1 == width // 2 and bool(others.max() > 0)
    except Exception:
        return False  # the call that counts will show it


def _turn(candidate: Any, inputs: Inputs, leaves: dict[str, torch.Tensor]) -> Any:
    """Both pairings are right: one of halves is shown, and gives back, its pairs in the order of neighbours."""
    x = inputs["x"]
    width = x.shape[-1]
    if width == 2 or not _turns_halves(candidate, width):
        return by_position(candidate, inputs, ("base",))
    to_halves = torch.arange(width).reshape(-1, 2).T.flatten()
    given = x[..., to_halves]
    before = given.detach().clone()
    result = by_position(candidate, {**inputs, "x": given}, ("base",))
    if not torch.equal(given.detach(), before):  # it wrote into what it was given: let that be seen
        with torch.no_grad():
            x[..., to_halves] = given
    if not isinstance(result, torch.Tensor) or result.shape != x.shape:
        return result
    return result[..., to_halves.argsort()]


_ROTARY_EMBEDDING = Task(
    id="rotary-embedding",
    chapter=2,
    title="Turn by position",
    prompt="""\
Write `apply_rotary(x, positions, base=10000.0)`: turn each vector of `x` by an angle that grows with its position, so
that the dot product of a turned query and a turned key depends on how far apart they are, and not on where they stand.

The `d` numbers of a vector form `d / 2` pairs. At position `p` pair `i`, counted from 0, turns by `p · base^(−2i / d)`
radians, from its first member towards its second: `(1, 0)` becomes `(cos, sin)`.

- `x` is `(…, n, d)`, float32, with an even `d` and any number of leading dimensions. `positions` is an integer tensor
  `(n,)`: any positions in any order, the same for all leading dimensions.
- You choose which numbers form pair `i`: neighbours, `2i` and `2i + 1`, or halves, `i` and `i + d / 2`. Both are right.
- Return a new tensor of the shape of `x`: each pair stays where it was, and every vector keeps its length.
""",
    stub='''\
def apply_rotary(x, positions, base=10000.0):
    """Turn each vector by an angle that grows with its position.

    x (..., n, d) with an even d, positions (n,)
    returns (..., n, d)
    """
    ...  # your code here
''',
    returns=("output with neighbours as pairs",),
    cases=(
        Case("one pair", _tiny_rotary),
        Case("two pairs", _two_pairs, terms=32),
        Case("three pairs", _rotary(5, 6), terms=32, twice=True),
        Case("one token", _rotary(1, 8, positions=(7,)), terms=32),
        Case("one leading dimension", _rotary(3, 5, 14), terms=32),
        Case("two leading dimensions", _rotary(2, 3, 5, 14), terms=32),
        Case("not from 0", _rotary(2, 7, 10, start=13), terms=32),
        Case("in any order", _rotary(2, 5, 6, positions=(9, 0, 64, 3, 31)), terms=32),
        Case("one position twice", _rotary(4, 10, positions=(2, 2, 0, 5)), terms=32),
        Case("position 0 alone", _rotary(2, 1, 6), terms=32),
        Case("positions up to 64", _rotary(65, 26), terms=32),
        Case("another base", _rotary(2, 5, 6, base=100.0), terms=32),
        Case("another base, wider", _rotary(7, 22, base=500.0, start=3), terms=32),
        Case("all sizes 4", _rotary(4, 4, 4, 4), terms=32),
        Case("n = d / 2", _rotary(2, 5, 10), terms=32),
        Case("gradients", _rotary(2, 3, 10, start=4), terms=32, gradients=True),
    ),
    act=_turn,
)

# -------------------------------------------------------------------------------------------- alibi-bias


def _heads(num_heads: int, n: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {"num_heads": num_heads, "n": n}


_ALIBI_BIAS = Task(
    id="alibi-bias",
    chapter=2,
    title="The farther, the less",
    prompt="""\
Write `alibi_bias(num_heads, n)`: what is added to the scores so that far keys count less. The bias falls in proportion
to the distance between query and key, in each head at its own slope.

- With `h = num_heads`, a power of two, the slopes are `2^(−8i / h)` for `i = 1, 2, …, h`, the first head's first.
- The bias of head `i` at query `q` and key `k` is `−slope_i · |q − k|`: it falls on both sides.
- Return a float32 tensor `(h, n, n)`: head, query, key.
""",
    stub='''\
def alibi_bias(num_heads, n):
    """The bias that falls with the distance between query and key.

    returns float32 (num_heads, n, n): head, query, key
    """
    ...  # your code here
''',
    returns=("bias",),
    cases=(
        Case("two heads", _heads(2, 3), twice=True),
        Case("one head", _heads(1, 5)),
        Case("four heads", _heads(4, 3)),
        Case("eight heads", _heads(8, 7)),
        Case("sixteen heads", _heads(16, 5)),
        Case("one token", _heads(4, 1)),
        Case("as many heads as tokens", _heads(4, 4)),
        Case("more tokens", _heads(2, 33)),
    ),
)

TASKS = (
    _SINUSOIDAL_ENCODING,
    _SHIFT_MATRIX,
    _ROTARY_EMBEDDING,
    _ALIBI_BIAS,
)
