"""Chapter 2, what must not stand beside a submission: solutions, hints and known wrong answers."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .judge import Answer, Mistake

Tensor = torch.Tensor

# ---------------------------------------------------------------------------------- sinusoidal-encoding


def sinusoidal_encoding(max_len, d_model):
    position = torch.arange(max_len, dtype=torch.float64)[:, None]
    rate = 10000.0 ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    angle = position * rate
    table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # sine, cosine, sine, cosine, …
    return table[:, :d_model].float()


def _pairs(d_model: int) -> Tensor:
    return torch.arange(0, d_model, 2, dtype=torch.float64)


def _rates(d_model: int) -> Tensor:
    return 10000.0 ** (-_pairs(d_model) / d_model)


def _interleave(sine: Tensor, cosine: Tensor, d_model: int) -> Tensor:
    return torch.stack([sine, cosine], dim=-1).flatten(1)[:, :d_model]


def _sinusoids(
    rates: Callable[[int], Tensor] = _rates,
    positions: Callable[[int], Tensor] = lambda n: torch.arange(n, dtype=torch.float64),
    lay_out: Callable[[Tensor, Tensor, int], Tensor] = _interleave,
    result: Callable[[Tensor], Tensor] = lambda table: table,
) -> Callable[..., Any]:
    """The table with one of its steps done differently."""

    def encode(max_len: int, d_model: int) -> Tensor:
        angle = positions(max_len)[:, None] * rates(d_model)
        return result(lay_out(angle.sin(), angle.cos(), d_model).float())

    return encode


def _by_slices(
    cosines: Callable[[Tensor, int], Tensor], dtype: torch.dtype = torch.float64
) -> Callable[..., Any]:
    """The columns written into a table of zeros, as it is usually done."""

    def encode(max_len: int, d_model: int) -> Tensor:
        table = torch.zeros(max_len, d_model)
        position = torch.arange(max_len, dtype=dtype)[:, None]
        rate = torch.exp(torch.arange(0, d_model, 2, dtype=dtype) * (-math.log(10000.0) / d_model))
        table[:, 0::2] = torch.sin(position * rate).float()
        table[:, 1::2] = cosines(position * rate, d_model).float()
        return table

    return encode


def _every_cosine(angle: Tensor, d_model: int) -> Tensor:
    return angle.cos()


def _cosines_that_fit(angle: Tensor, d_model: int) -> Tensor:
    return angle.cos()[:, : d_model // 2]


def _by_columns(max_len: int, d_model: int) -> Tensor:
    """Two columns at a time, also where only one is left."""
    table, position = torch.zeros(max_len, d_model), torch.arange(max_len, dtype=torch.float64)
    for column, rate in zip(range(0, d_model, 2), _rates(d_model), strict=True):
        table[:, column] = torch.sin(position * rate)
        table[:, column + 1] = torch.cos(position * rate)
    return table


def _in_numpy(max_len: int, d_model: int) -> Tensor:
    table, angle = np.zeros((max_len, d_model)), np.arange(max_len)[:, None] * _rates(d_model).numpy()
    table[:, 0::2] = np.sin(angle)
    table[:, 1::2] = np.cos(angle)
    return torch.from_numpy(table).float()


def _in_float32(angles: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[..., Any]:
    """``angles`` of the positions ``(n, 1)``, twice the pairs' numbers, and the width, all in float32."""

    def encode(max_len: int, d_model: int) -> Tensor:
        position = torch.arange(max_len, dtype=torch.float32)[:, None]
        angle = angles(position, torch.arange(0, d_model, 2, dtype=torch.float32), d_model)
        return _interleave(angle.sin(), angle.cos(), d_model)

    return encode


def _each_column_its_own(max_len: int, d_model: int) -> Tensor:
    column = torch.arange(d_model, dtype=torch.float64)
    angle = torch.arange(max_len, dtype=torch.float64)[:, None] * 10000.0 ** (-column / d_model)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


_RATE = "Write down the angle of pair 1 at position 1, and compare it with yours."
_ROUNDING = (
    "The angles are float32. At position 5000 neighbouring float32 numbers lie 5e-4 apart, so the angle itself is "
    "off by as much, whatever the sine does with it. In which dtype is there room for it?"
)

_SINUSOIDAL_ENCODING = Answer(
    id="sinusoidal-encoding",
    solution=sinusoidal_encoding,
    why="Sine and cosine are stacked as a last dimension and flattened, so they alternate, and the cut to d_model "
    "takes care of odd widths. The angles are float64, because near 5000 radians float32 has steps of 5e-4; only "
    "the finished sines and cosines, which are at most 1, are rounded to float32.",
    hints=(
        "Make all angles first, as a table of positions by pairs: a column of positions times a row of rates.",
        "How many pairs are there when `d_model` is odd? `torch.arange(0, d_model, 2)` holds the numbers `2i`, one "
        "for each of them. The sines go into columns 0, 2, 4, …",
        "Two ways to let them alternate: write into `table[:, 0::2]` and `table[:, 1::2]` (and cut the cosines to "
        "the columns that are there), or stack both in a new last dimension and flatten it.",
        "`angle = torch.arange(max_len, dtype=torch.float64)[:, None] * rate`, where `rate` is float64 too. After "
        "the sine and the cosine `.float()` loses nothing that matters. Which columns are left to fill?",
    ),
    mistakes=(
        Mistake("cosine-first", "Sine and cosine have changed places. What should position 0 look like, where every "
                "angle is 0?", _sinusoids(lay_out=lambda s, c, d: _interleave(c, s, d))),
        Mistake("sines-then-cosines", "All sines stand first and all cosines behind them. Here a pair stands "
                "together: which columns are pair 0?",
                _sinusoids(lay_out=lambda s, c, d: torch.cat([s, c], 1)[:, :d]),
                _sinusoids(lay_out=lambda s, c, d: torch.cat([s, c[:, : d // 2]], 1))),
        Mistake("only-sines", "Every column is a sine. A hand of a clock has two coordinates.",
                _sinusoids(lay_out=lambda s, c, d: _interleave(s, s, d))),
        Mistake("a-rate-for-each-column", "Each column turns at a rate of its own, but the two of a pair are the "
                f"sine and the cosine of *one* angle. {_RATE}", _each_column_its_own),
        Mistake("exponent-without-2", f"The rates fall too slowly: the exponent grows by too little from pair to pair. "
                f"{_RATE}", _sinusoids(lambda d: 10000.0 ** (-_pairs(d) / 2 / d))),
        Mistake("exponent-too-large", f"The rates fall too fast: is the 2 counted twice in the exponent? {_RATE}",
                _sinusoids(lambda d: 10000.0 ** (-2 * _pairs(d) / d))),
        Mistake("exponent-not-divided", f"The exponent is not divided by the width. {_RATE}",
                _sinusoids(lambda d: 10000.0 ** (-_pairs(d)))),
        Mistake("exponent-positive", "The later pairs turn faster and faster. Is the power multiplied or divided by?",
                _sinusoids(lambda d: 10000.0 ** (_pairs(d) / d))),
        Mistake("exponent-ends-at-1", "The exponents run from 0 to 1, ends included. Here they are `2i / d_model`, "
                "which never gets to 1.",
                _sinusoids(lambda d: 10000.0 ** (-(_pairs(d) / 2) / max(math.ceil(d / 2) - 1, 1)))),
        Mistake("one-rate", "All pairs turn at the same rate. A clock needs hands that differ.",
                _sinusoids(lambda d: torch.ones_like(_pairs(d)))),
        Mistake("base-1000", f"The base is not the one of the formula. {_RATE}",
                _sinusoids(lambda d: 1000.0 ** (-_pairs(d) / d))),
        Mistake("base-of-e", f"The base has become e: is a logarithm missing in the exponential? {_RATE}",
                _sinusoids(lambda d: torch.exp(-_pairs(d) / d))),
        Mistake("positions-from-1", "The first row is position 1. From where are positions counted here?",
                _sinusoids(positions=lambda n: torch.arange(1, n + 1, dtype=torch.float64))),
        Mistake("positions-as-fractions", "The positions were divided by the length, so the same position gets "
                "another vector in a longer table.",
                _sinusoids(positions=lambda n: torch.arange(n, dtype=torch.float64) / n)),
        Mistake("two-pi", "The angles are whole turns: a factor 2π that the formula does not have.",
                _sinusoids(lambda d: 2 * math.pi * _rates(d))),
        Mistake("transposed", "Rows and columns have changed places. Which of them is a position?",
                _sinusoids(result=lambda t: t.T)),
        Mistake("batch-dimension", "There is one dimension too many in front: the table alone is asked for.",
                _sinusoids(result=lambda t: t[None]), _sinusoids(result=lambda t: t[:, None])),
        Mistake("odd-width", "An odd width fails: there are more sines than columns for cosines. Count both for "
                "width 5.",
                _by_slices(_every_cosine), _by_slices(_every_cosine, torch.float32), _by_columns, _in_numpy),
        Mistake("a-column-too-many", "An odd width got one column more. Count the columns for width 5.",
                _sinusoids(lay_out=lambda s, c, d: torch.stack([s, c], -1).flatten(1)),
                _sinusoids(lay_out=lambda s, c, d: torch.cat([s, c], 1))),
        Mistake("a-column-missing", "An odd width lost its last column. What belongs there?",
                _sinusoids(lambda d: 10000.0 ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d))),
        Mistake("last-column-empty", "The last column of an odd width was left at 0. What belongs there?",
                _sinusoids(lay_out=lambda s, c, d: torch.cat(
                    [_interleave(s, c, d - d % 2), torch.zeros(len(s), d % 2)], 1))),
        Mistake("float32-angles", _ROUNDING,
                _in_float32(lambda p, two_i, d: p / 10000.0 ** (two_i / d)), loose=2e-3),
    ),
)  # fmt: skip

# ----------------------------------------------------------------------------------------- shift-matrix


def shift_matrix(k, d_model):
    rate = 10000.0 ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    cosine, sine = torch.cos(k * rate), torch.sin(k * rate)
    blocks = [torch.tensor([[c, s], [-s, c]]) for c, s in zip(cosine, sine, strict=True)]
    return torch.block_diag(*blocks).float()


def _blocks(
    angle: Callable[[Tensor, int, int], Tensor] = lambda rate, k, d: k * rate,
    block: Callable[[Any, Any], list[list[Any]]] = lambda c, s: [[c, s], [-s, c]],
    result: Callable[[Tensor], Tensor] = lambda m: m,
    rates: Callable[[int], Tensor] = _rates,
) -> Callable[..., Any]:
    """The matrix with one of its steps done differently."""

    def shift(k: int, d_model: int) -> Tensor:
        turns = angle(rates(d_model), k, d_model)
        blocks = [torch.tensor(block(math.cos(turn), math.sin(turn))) for turn in turns.tolist()]
        return result(torch.block_diag(*blocks)).float()

    return shift


def _as_halves(matrix: Tensor) -> Tensor:
    """The same matrix for a table that has all sines first."""
    order = torch.cat([torch.arange(0, len(matrix), 2), torch.arange(1, len(matrix), 2)])
    return matrix[order][:, order]


def _first_pair_only(rate: Tensor, k: int, d: int) -> Tensor:
    return k * rate * (torch.arange(len(rate)) == 0)


def _stacked_blocks(k: int, d_model: int) -> Tensor:
    angle = k * _rates(d_model)
    rows = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], dim=-1)
    return rows.reshape(-1, 2, 2).float()


def _encoding(position: int, d_model: int) -> Tensor:
    angle = (position * _rates(d_model))[None]
    return _interleave(angle.sin(), angle.cos(), d_model)[0].float()


_ADDITION = (
    "Write sin((p + k)ω) and cos((p + k)ω) with the addition formulas: what stands before sin pω, and what before "
    "cos pω?"
)

_SHIFT_MATRIX = Answer(
    id="shift-matrix",
    solution=shift_matrix,
    why="By the addition formulas, sin((p + k)ω) = cos kω · sin pω + sin kω · cos pω and cos((p + k)ω) = − sin kω "
    "· sin pω + cos kω · cos pω: each pair is multiplied by a 2 × 2 block in which p does not appear. The blocks "
    "lie along the diagonal, and everything else is 0, because no pair needs another.",
    hints=(
        "Begin with `d_model = 2`: one pair, one 2 × 2 matrix. The vector it acts on is `(sin pω, cos pω)`.",
        _ADDITION,
        "The first row of a block makes the new sine, the second the new cosine. Each pair has its own rate, so its "
        "own block; `torch.block_diag` lines blocks up along the diagonal.",
        "With `c = cos(kω)` and `s = sin(kω)`, the first row of a block is `[c, s]`. Which sign has `s` in the "
        "second?",
    ),
    mistakes=(
        Mistake("moves-back", "It moves the wrong way: to position p − k. Is the block the right way up for a vector "
                f"that holds the sine *first*? {_ADDITION}", _blocks(block=lambda c, s: [[c, -s], [s, c]])),
        Mistake("only-forward", "It moves forward also where `k` is below 0.",
                _blocks(lambda rate, k, d: abs(k) * rate)),
        Mistake("k-ignored", "It always moves by one position, whatever `k` is.", _blocks(lambda rate, k, d: rate)),
        Mistake("one-too-far", "It moves by one position too many.", _blocks(lambda rate, k, d: (k + 1) * rate)),
        Mistake("one-too-few", "It moves by one position too few.", _blocks(lambda rate, k, d: (k - 1) * rate)),
        Mistake("one-rate", "Every pair is turned by the same angle, but each hand of the clock has its own rate.",
                _blocks(lambda rate, k, d: k * torch.ones_like(rate))),
        Mistake("exponent-without-2", "The rates are not those of the table: the exponent grows by too little from "
                "pair to pair.", _blocks(rates=lambda d: 10000.0 ** (-_pairs(d) / 2 / d))),
        Mistake("exponent-too-large", "The rates are not those of the table: is the 2 counted twice in the exponent?",
                _blocks(rates=lambda d: 10000.0 ** (-2 * _pairs(d) / d))),
        Mistake("exponent-positive", "The later pairs are turned farther and farther: the rates are upside down.",
                _blocks(rates=lambda d: 10000.0 ** (_pairs(d) / d))),
        Mistake("halves", "The blocks belong to a table that has all sines first. Here a pair stands together, in "
                "columns 2i and 2i + 1.", _blocks(result=_as_halves)),
        Mistake("halves-back", "The blocks belong to a table that has all sines first, and they move the wrong way.",
                _blocks(block=lambda c, s: [[c, -s], [s, c]], result=_as_halves)),
        Mistake("mirrors", "A block mirrors instead of turning: shifting by 0 should change nothing.",
                _blocks(block=lambda c, s: [[c, s], [s, -c]]), _blocks(block=lambda c, s: [[-c, s], [s, c]])),
        Mistake("no-minus", f"Both sines of a block have the same sign. {_ADDITION}",
                _blocks(block=lambda c, s: [[c, s], [s, c]])),
        Mistake("sine-and-cosine-swapped", "In a block the sines stand on the diagonal. What should a shift by 0 be?",
                _blocks(block=lambda c, s: [[s, c], [c, -s]]), _blocks(block=lambda c, s: [[s, c], [-c, s]])),
        Mistake("diagonal-only", "Only the diagonal is filled: the new sine needs the old cosine too.",
                _blocks(block=lambda c, s: [[c, 0.0], [0.0, c]])),
        Mistake("first-pair-only", "Only the first pair is turned; the others stay where they were.",
                _blocks(_first_pair_only)),
        Mistake("rows-rolled", "It moves the entries of a vector, not the position that the vector stands for.",
                lambda k, d_model: torch.eye(d_model).roll(k, 0), lambda k, d_model: torch.eye(d_model).roll(k, 1)),
        Mistake("blocks-not-joined", "The blocks are stacked, one matrix for each pair. How do they stand in one "
                "matrix that acts on a whole vector, and leaves each pair to itself?", _stacked_blocks),
        Mistake("encoding-on-the-diagonal", "Each number is multiplied by one of position k. A new sine is made of the "
                f"old sine and the old cosine. {_ADDITION}", lambda k, d_model: torch.diag(_encoding(k, d_model))),
        Mistake("right-for-one-position", "It moves position 0 to k, and no other position as it should: position p "
                "has no place in the matrix.",
                lambda k, d_model: torch.outer(_encoding(k, d_model), _encoding(0, d_model)) / (d_model / 2)),
        Mistake("does-nothing", "It changes nothing: every vector stays what it was.",
                lambda k, d_model: torch.eye(d_model)),
    ),
)  # fmt: skip

# -------------------------------------------------------------------------------------- rotary-embedding


def apply_rotary(x, positions, base=10000.0):
    d = x.shape[-1]
    rate = base ** (-torch.arange(0, d, 2) / d)
    angle = positions[:, None] * rate  # (n, d / 2)
    first, second = x[..., 0::2], x[..., 1::2]
    turned_first = first * angle.cos() - second * angle.sin()
    turned_second = first * angle.sin() + second * angle.cos()
    return torch.stack([turned_first, turned_second], dim=-1).flatten(-2)


def _base_rates(d: int, base: float) -> Tensor:
    return base ** (-torch.arange(0, d, 2) / d)


def _product(positions: Tensor, rate: Tensor) -> Tensor:
    return positions[:, None] * rate


def _neighbours(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 0::2], x[..., 1::2]


def _stacked(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([first, second], dim=-1).flatten(-2)


def _rotated(a: Tensor, b: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    return a * cosine - b * sine, a * sine + b * cosine


def _rotation(
    rates: Callable[[int, float], Tensor] = _base_rates,
    angles: Callable[[Tensor, Tensor], Tensor] = _product,
    pairs: Callable[[Tensor], tuple[Tensor, Tensor]] = _neighbours,
    turn: Callable[..., tuple[Tensor, Tensor]] = _rotated,
    join: Callable[[Tensor, Tensor], Tensor] = _stacked,
) -> Callable[..., Any]:
    """The rotation with one of its steps done differently."""

    def rotate(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
        angle = angles(positions, rates(x.shape[-1], base))
        return join(*turn(*pairs(x), angle.cos(), angle.sin()))

    return rotate


def _mixed(repeat: Callable[[Tensor], Tensor], partner: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """``x cos + partner sin`` with angles laid out one way and partners another."""

    def rotate(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
        angle = repeat(_product(positions, _base_rates(x.shape[-1], base)))
        return x * angle.cos() + partner(x) * angle.sin()

    return rotate


def _twice_each(angle: Tensor) -> Tensor:
    return angle.repeat_interleave(2, dim=-1)


def _twice_all(angle: Tensor) -> Tensor:
    return torch.cat([angle, angle], dim=-1)


def _partner_halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def _partner_neighbours(x: Tensor) -> Tensor:
    return _stacked(-x[..., 1::2], x[..., 0::2])


def _places(positions: Tensor) -> Tensor:
    return torch.arange(len(positions), device=positions.device)


def _added(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    angle = _product(positions, _base_rates(x.shape[-1], base))
    return x + _stacked(angle.sin(), angle.cos())


def _times_cosine(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    return x * _twice_each(_product(positions, _base_rates(x.shape[-1], base))).cos()


def _joined_turned(a: Tensor, b: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    a = a * cosine - b * sine
    return a, a * sine + b * cosine


def _halved(x: Tensor) -> tuple[Tensor, Tensor]:
    first, second = x.chunk(2, dim=-1)
    return first, second


def _chained(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first, second], dim=-1)


def _pairs_last(x: Tensor, positions: Tensor, base: float) -> Tensor:
    return apply_rotary(x, positions, base).unflatten(-1, (-1, 2))


def _only_for(rank: int) -> Callable[..., Any]:
    """Takes the shape apart into ``rank`` names."""

    def rotate(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
        if rank == 4:
            _batch, _heads, _n, _d = x.shape
        elif rank == 3:
            _batch, _n, _d = x.shape
        else:
            _n, _d = x.shape
        return apply_rotary(x, positions, base)

    return rotate


_ANGLE = "Write down the angle of pair 1 at position 1, and compare it with yours."
_MIXED = (
    "The angles are laid out for one pairing and the partners for the other, so two numbers that should turn "
    "together turn by different angles. Which number is the partner of number 0, and which angle do both get?"
)

_ROTARY_EMBEDDING = Answer(
    id="rotary-embedding",
    solution=apply_rotary,
    why="Turning by an angle keeps the length, and turning a query by pω and a key by qω leaves between them only "
    "the difference (p − q)ω, so the score depends on the offset alone. Counting dimensions from the end leaves "
    "the leading ones alone, and the angles (n, d / 2) broadcast over them. Halves as pairs are as good: only "
    "the two lines that take the pairs apart and put them together again would differ.",
    hints=(
        "First the angles, a table of positions by pairs, `(n, d / 2)`. Then think of one pair `(a, b)` that turns "
        "by one angle.",
        "Choose your pairs: `x[..., 0::2]` and `x[..., 1::2]` are neighbours, `x.chunk(2, dim=-1)` are halves. "
        "Whichever you take, put the numbers back to where they came from.",
        "`(1, 0)` has to become `(cos, sin)`, and `(0, 1)` becomes `(−sin, cos)`. What becomes of `(a, b)`, which is "
        "`a` times the first plus `b` times the second?",
        "`new_a = a * cos − b * sin`; the other one uses the *old* `a`. For neighbours, stack both in a new last "
        "dimension and flatten it; for halves, `torch.cat`.",
    ),
    mistakes=(
        Mistake("turned-backwards", "The pairs turn the wrong way: from the second member towards the first. What "
                "should `(1, 0)` become at a small angle?",
                _rotation(turn=lambda a, b, c, s: (a * c + b * s, b * c - a * s))),
        Mistake("pairings-mixed", _MIXED, _mixed(_twice_each, _partner_halves),
                _mixed(_twice_all, _partner_neighbours)),
        Mistake("order-changed", "The pairs were taken apart one way and put together another: at position 0, where "
                "nothing turns, the numbers should stay where they are.",
                _rotation(join=_chained), _rotation(pairs=_halved)),
        Mistake("one-rate", f"All pairs turn at the same rate. {_ANGLE}",
                _rotation(lambda d, base: torch.ones(d // 2))),
        Mistake("exponent-without-2", f"The rates fall too slowly from pair to pair. {_ANGLE}",
                _rotation(lambda d, base: base ** (-torch.arange(0, d // 2) / d))),
        Mistake("exponent-too-large", f"The rates fall too fast: is the 2 counted twice in the exponent? {_ANGLE}",
                _rotation(lambda d, base: base ** (-2 * torch.arange(0, d, 2) / d))),
        Mistake("exponent-positive", "The later pairs turn faster and faster: the rates are upside down.",
                _rotation(lambda d, base: base ** (torch.arange(0, d, 2) / d))),
        Mistake("rates-in-reverse", "The last pair has the rate of the first one, and the first that of the last.",
                _rotation(lambda d, base: _base_rates(d, base).flip(0))),
        Mistake("base-ignored", "The base is always 10000, whatever is passed.",
                _rotation(lambda d, base: _base_rates(d, 10000.0))),
        Mistake("positions-ignored", "The positions are not used: the tokens are counted instead. A token that "
                "stands at position 13 has to turn by 13 steps, wherever it is in `x`.",
                _rotation(angles=lambda p, r: _product(_places(p), r))),
        Mistake("positions-from-1", "Position 0 is turned by one step; it should stay as it is.",
                _rotation(angles=lambda p, r: _product(p + 1, r))),
        Mistake("two-pi", "The angles are whole turns: a factor 2π that the formula does not have.",
                _rotation(angles=lambda p, r: 2 * math.pi * _product(p, r))),
        Mistake("angles-transposed", "Positions and rates have changed places in the table of angles: positions go "
                "down its rows, pairs along its columns.", _rotation(angles=lambda p, r: _product(p, r).T)),
        Mistake("updated-too-early", "The second number of a pair was made from the *turned* first one. Both need "
                "the old pair.", _rotation(turn=_joined_turned)),
        Mistake("no-minus", "Both sines have the same sign, so the length of a vector is not kept. What does `(0, "
                "1)` become when it turns?", _rotation(turn=lambda a, b, c, s: (a * c + b * s, a * s + b * c))),
        Mistake("mirrors", "A pair is mirrored instead of turned: at position 0 its second number changes its sign.",
                _rotation(turn=lambda a, b, c, s: (a * c + b * s, a * s - b * c))),
        Mistake("sine-and-cosine-swapped", "Sine and cosine have changed places: at position 0, where the angle is "
                "0, a vector should stay as it is.",
                _rotation(turn=lambda a, b, c, s: (a * s - b * c, a * c + b * s)),
                _rotation(turn=lambda a, b, c, s: (a * s + b * c, a * c - b * s))),
        Mistake("added", "The sines and cosines were added, as in the sinusoidal encoding. Here nothing is added: "
                "each pair is turned.", _added),
        Mistake("cosine-only", "Every number is multiplied by a cosine, and its partner has no part in it: the "
                "length is not kept.", _times_cosine),
        Mistake("degrees", "The angles were converted as if they were degrees: they are radians already.",
                _rotation(angles=lambda p, r: torch.deg2rad(_product(p, r)))),
        Mistake("leading-dimensions", "It works for one number of dimensions of `x` alone. Count dimensions from the "
                "end, and any number in front of them takes care of itself.",
                _only_for(4), _only_for(3), _only_for(2)),
        Mistake("along-the-heads", "The angles go along the dimension before the positions. In `(…, n, d)` the "
                "positions are the last dimension but one: does the table of angles need another dimension at all?",
                _rotation(angles=lambda p, r: _product(p, r)[:, None])),
        Mistake("complex", "The result is complex, one number for each pair. How does it become `d` real numbers "
                "again?",
                lambda x, positions, base=10000.0: torch.view_as_complex(_pairs_last(x, positions, base))),
        Mistake("pairs-not-joined", "The pairs are right, and lie in a dimension of their own. How do they become one "
                "vector again?", lambda x, positions, base=10000.0: _pairs_last(x, positions, base)),
        Mistake("first-with-last", "The pairs are made from the outside in, the first number with the last. "
                "Neighbours or halves are what is asked for.",
                _rotation(pairs=lambda x: (x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :].flip(-1)),
                          join=lambda a, b: torch.cat([a, b.flip(-1)], -1))),
    ),
)  # fmt: skip

# -------------------------------------------------------------------------------------------- alibi-bias


def alibi_bias(num_heads, n):
    slope = 2.0 ** (-8.0 * torch.arange(1, num_heads + 1) / num_heads)
    place = torch.arange(n)
    distance = (place[:, None] - place).abs()
    return -slope[:, None, None] * distance


def _count(h: int) -> Tensor:
    return torch.arange(1.0, h + 1)


def _slopes(h: int) -> Tensor:
    return 2.0 ** (-8.0 * _count(h) / h)


def _distance(query: Tensor, key: Tensor) -> Tensor:
    return (query - key).abs()


def _bias(
    slopes: Callable[[int], Tensor] = _slopes,
    distance: Callable[[Tensor, Tensor], Tensor] = _distance,
    result: Callable[[Tensor], Any] = lambda bias: bias,
) -> Callable[..., Any]:
    """The bias with one of its steps done differently."""

    def make(num_heads: int, n: int) -> Any:
        place = torch.arange(float(n))
        return result(-slopes(num_heads)[:, None, None] * distance(place[:, None], place))

    return make


def _above(value: float) -> Callable[[Tensor], Tensor]:
    return lambda bias: bias.masked_fill(torch.ones_like(bias, dtype=torch.bool).triu(1), value)


_SLOPE = "Write the slopes of two heads down by hand: 2^(−4) and 2^(−8)."

_ALIBI_BIAS = Answer(
    id="alibi-bias",
    solution=alibi_bias,
    why="The distance is a table `(n, n)`, one for all heads; the slopes get two dimensions of size 1, so that "
    "their product is `(h, n, n)`. The slopes halve, or fall by another fixed factor, from head to head: the "
    "first heads look nearby, the last ones almost everywhere. No position beyond training is ever new, only a "
    "distance can be.",
    hints=(
        "Two small tables make it: the distances `(n, n)`, the same for all heads, and the slopes `(h,)`.",
        "`place[:, None] - place` is the table of all differences. What makes a distance of a difference?",
        "The heads are counted from 1: for eight heads the slopes are 1/2, 1/4, …, 1/256. Two heads have 1/16 and "
        "1/256.",
        "`slope[:, None, None]` is `(h, 1, 1)` and broadcasts against `(n, n)`. Which sign makes far keys count "
        "less?",
    ),
    mistakes=(
        Mistake("sign", "The bias grows with the distance: far keys would count more.", _bias(result=lambda b: -b)),
        Mistake("no-distance", "The difference has a sign, so keys on one side are favoured the farther away they "
                "are. How far apart are query 0 and key 2?",
                _bias(distance=lambda q, k: q - k), _bias(distance=lambda q, k: k - q)),
        Mistake("key-index", "The bias depends on the key alone. It should be 0 where query and key are the same "
                "place.",
                _bias(distance=lambda q, k: -k + 0 * q), _bias(distance=lambda q, k: k + 0 * q)),
        Mistake("distance-from-1", "The distance of a place to itself is 1. What should it be?",
                _bias(distance=lambda q, k: (q - k).abs() + 1)),
        Mistake("squared", "The distance is squared: the bias should fall along a straight line.",
                _bias(distance=lambda q, k: (q - k) ** 2)),
        Mistake("causal", "Keys behind the query get no bias. Here it falls on both sides; who must not look ahead "
                "is the business of a mask.", _bias(result=_above(0.0)), _bias(result=_above(-math.inf))),
        Mistake("slopes-from-0", f"The heads are counted from 0, so the first slope is 1. {_SLOPE}",
                _bias(lambda h: 2.0 ** (-8.0 * (_count(h) - 1) / h))),
        Mistake("slopes-in-reverse", f"The slopes are in the wrong order: the first head's is the steepest. {_SLOPE}",
                _bias(lambda h: _slopes(h).flip(0))),
        Mistake("slopes-whatever-the-number", f"The slopes do not depend on the number of heads. {_SLOPE}",
                _bias(lambda h: 2.0 ** -_count(h))),
        Mistake("slope-exponent-positive", f"The slopes are above 1 and grow: the exponent has lost its sign. {_SLOPE}",
                _bias(lambda h: 2.0 ** (8.0 * _count(h) / h))),
        Mistake("slopes-without-8", f"The factor 8 is missing in the exponent. {_SLOPE}",
                _bias(lambda h: 2.0 ** (-_count(h) / h))),
        Mistake("slopes-not-a-power", f"The slopes fall by a fixed amount, not by a fixed factor. {_SLOPE}",
                _bias(lambda h: 8.0 * _count(h) / h), _bias(lambda h: _count(h) / h), _bias(lambda h: 1 / _count(h))),
        Mistake("slopes-of-e", f"The slopes are powers of e, not of 2. {_SLOPE}",
                _bias(lambda h: torch.exp(-8.0 * _count(h) / h))),
        Mistake("one-slope", "All heads have the same slope.", _bias(lambda h: torch.full((h,), 2.0 ** (-8.0 / h)))),
        Mistake("no-slope", "The distances are not multiplied by a slope.", _bias(lambda h: torch.ones(h))),
        Mistake("exponent-rounded", f"The exponent was rounded to a whole number. {_SLOPE} Sixteen heads begin with "
                "2^(−1/2).",
                _bias(lambda h: 2.0 ** -(8 * _count(h) // h)), _bias(lambda h: 2.0 ** (-8 * _count(h) // h)),
                _bias(lambda h: 2.0 ** -(8 // h * _count(h)))),
        Mistake("exponent-upside-down", f"The exponent grows where it should fall: what is above and what below the "
                f"fraction? {_SLOPE}",
                _bias(lambda h: 2.0 ** (-8 / _count(h))), _bias(lambda h: 2.0 ** (-8 * h / _count(h))),
                _bias(lambda h: 2.0 ** (-h * _count(h) / 8))),
        Mistake("divided-by-length", "The distances were divided by the length: the same two places get another bias "
                "in a longer sequence.",
                lambda h, n: alibi_bias(h, n) / n, lambda h, n: alibi_bias(h, n) / max(n - 1, 1)),
        Mistake("slopes-alone", "These are the slopes. What is each of them multiplied with?",
                lambda h, n: -_slopes(h), lambda h, n: _slopes(h), lambda h, n: -_slopes(h)[:, None, None]),
        Mistake("last-query-alone", "This is the row of one query, the last. The others have distances of their own.",
                _bias(result=lambda b: b[:, -1:])),
        Mistake("heads-last", "The heads are the last dimension; they should be the first.",
                _bias(result=lambda b: b.permute(1, 2, 0))),
        Mistake("one-map", "There is one map for all heads. Each head has its own.",
                _bias(result=lambda b: b[0]), _bias(result=lambda b: b.sum(0)), _bias(result=lambda b: b.mean(0))),
        Mistake("batch-dimension", "There is one dimension too many in front.", _bias(result=lambda b: b[None])),
    ),
)  # fmt: skip

ANSWERS = (
    _SINUSOIDAL_ENCODING,
    _SHIFT_MATRIX,
    _ROTARY_EMBEDDING,
    _ALIBI_BIAS,
)
