"""Chapter 2: right answers in many hands, and wrong ones as learners write them.

The package keeps a bank of wrong answers too, for diagnosis; these are written independently of it.
"""

import functools
import math

import numpy as np
import torch
from torch import nn

import attn_course

# ---------------------------------------------------------------------------------- sinusoidal-encoding


def table_slices(max_len, d_model):
    """The usual form, in float64, with the cosines cut."""
    pe = torch.zeros(max_len, d_model, dtype=torch.float64)
    position = torch.arange(0, max_len, dtype=torch.float64).unsqueeze(1)
    div_term = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64) * (-math.log(10000.0) / d_model))
    pe[:, 0::2] = torch.sin(position * div_term)
    pe[:, 1::2] = torch.cos(position * div_term)[:, : d_model // 2]
    return pe.to(torch.float32)


def table_loops(max_len, d_model):
    rows = []
    for p in range(max_len):
        row = []
        for j in range(d_model):
            angle = p / 10000 ** (2 * (j // 2) / d_model)
            row.append(math.cos(angle) if j % 2 else math.sin(angle))
        rows.append(row)
    return torch.tensor(rows)


def table_numpy(max_len, d_model):
    angle = np.arange(max_len)[:, None] / np.power(10000, 2 * (np.arange(d_model) // 2) / d_model)
    angle[:, 0::2] = np.sin(angle[:, 0::2])
    angle[:, 1::2] = np.cos(angle[:, 1::2])
    return torch.from_numpy(angle).float()


def table_where(max_len, d_model):
    column = torch.arange(d_model)
    rate = 10000.0 ** (-2 * (column // 2).double() / d_model)
    angle = torch.outer(torch.arange(max_len).double(), rate)
    return torch.where(column % 2 == 0, torch.sin(angle), torch.cos(angle)).float()


def table_complex(max_len, d_model):
    pairs = -(-d_model // 2)
    rate = torch.exp(-math.log(10000) * 2 * torch.arange(pairs, dtype=torch.float64) / d_model)
    angle = torch.arange(max_len, dtype=torch.float64)[:, None] * rate
    turned = torch.view_as_real(torch.polar(torch.ones_like(angle), angle))  # cosine, sine
    return turned.flip(-1).reshape(max_len, 2 * pairs)[:, :d_model].to(torch.float32)


def table_shifted_sine(max_len, d_model):
    """A cosine is a sine a quarter turn ahead."""
    column = torch.arange(d_model, dtype=torch.float64)
    angle = torch.arange(max_len).double()[:, None] / 10000 ** ((column - column % 2) / d_model)
    return torch.sin(angle + column % 2 * math.pi / 2).float()


def table_einsum(max_len, d_model):
    rate = 1 / 10000 ** (torch.arange(0, d_model, 2, dtype=torch.double) / d_model)
    angle = torch.einsum("p,i->pi", torch.arange(max_len, dtype=torch.double), rate)
    out = torch.empty(max_len, d_model)
    out[:, ::2] = angle.sin()
    out[:, 1::2] = angle.cos()[:, : out[:, 1::2].shape[1]]
    return out


def table_of_the_package(max_len, d_model):
    return attn_course.PositionalEncoding(d_model, max_len).pe[0]


def table_float32(max_len, d_model):
    pe = torch.zeros(max_len, d_model)
    position = torch.arange(0, max_len).unsqueeze(1).float()
    div_term = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(10000.0) / d_model))
    pe[:, 0::2] = torch.sin(position * div_term)
    pe[:, 1::2] = torch.cos(position * div_term)[:, : d_model // 2]
    return pe


def table_as_usual(max_len, d_model):
    """As in most tutorials: fails for odd widths, and rounds the angles."""
    pe = torch.zeros(max_len, d_model)
    position = torch.arange(0, max_len).unsqueeze(1).float()
    div_term = torch.exp(torch.arange(0, d_model, 2).float() * -(math.log(10000.0) / d_model))
    pe[:, 0::2] = torch.sin(position * div_term)
    pe[:, 1::2] = torch.cos(position * div_term)
    return pe


def table_of_angles(angle, d_model):
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :d_model].float()


def table_float32_rates(max_len, d_model):
    """Positions in float64, and rates that were rounded before they met them."""
    rate = 10000 ** (-torch.arange(0, d_model, 2) / d_model)
    return table_of_angles(torch.arange(max_len, dtype=torch.float64)[:, None] * rate, d_model)


def table_numpy_as_usual(max_len, d_model):
    pe, position = np.zeros((max_len, d_model)), np.arange(max_len)[:, np.newaxis]
    div_term = np.exp(np.arange(0, d_model, 2) * -(np.log(10000.0) / d_model))
    pe[:, 0::2] = np.sin(position * div_term)
    pe[:, 1::2] = np.cos(position * div_term)
    return torch.tensor(pe, dtype=torch.float32)


def table_loops_as_usual(max_len, d_model):
    pe = torch.zeros(max_len, d_model)
    for p in range(max_len):
        for i in range(0, d_model, 2):
            pe[p, i] = math.sin(p / 10000 ** (i / d_model))
            pe[p, i + 1] = math.cos(p / 10000 ** (i / d_model))
    return pe


def table_loops_with(angle, odd=math.cos, even=math.sin, first=0):
    def encode(max_len, d_model):
        return torch.tensor(
            [
                [(odd if j % 2 else even)(angle(p + first, j, d_model)) for j in range(d_model)]
                for p in range(max_len)
            ]
        )

    return encode


def usual_angle(p, j, d):
    return p / 10000 ** (2 * (j // 2) / d)


def table_two_blocks(max_len, d_model):
    half = -(-d_model // 2)
    angle = torch.arange(max_len).double()[:, None] / 10000 ** (torch.arange(half) * 2 / d_model)
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :d_model].float()


# ----------------------------------------------------------------------------------------- shift-matrix


def shift_loops(k, d_model):
    m = torch.zeros(d_model, d_model)
    for i in range(d_model // 2):
        angle = k / 10000 ** (2 * i / d_model)
        m[2 * i, 2 * i] = m[2 * i + 1, 2 * i + 1] = math.cos(angle)
        m[2 * i, 2 * i + 1] = math.sin(angle)
        m[2 * i + 1, 2 * i] = -math.sin(angle)
    return m


def shift_diagonals(k, d_model):
    rate = 10000 ** (-torch.arange(0, d_model, 2) / d_model)
    cosine = (k * rate).cos().repeat_interleave(2)
    sine = torch.stack([(k * rate).sin(), torch.zeros(d_model // 2)], 1).flatten()[:-1]
    return torch.diag(cosine) + torch.diag(sine, 1) - torch.diag(sine, -1)


def shift_exponential(k, d_model):
    """The matrix exponential of k times the generator of the rotation."""
    rate = 10000.0 ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    one_step = torch.block_diag(*[torch.tensor([[0.0, w], [-w, 0.0]], dtype=torch.float64) for w in rate])
    return torch.linalg.matrix_exp(k * one_step).float()


def shift_power(k, d_model):
    one = shift_loops(1, d_model).double()
    return torch.linalg.matrix_power(one, k).float()


def shift_fitted(k, d_model):
    """Least squares on the table itself, positions on both sides of 0."""
    p = np.arange(-300, 300)[:, None]
    rate = 10000.0 ** (-np.arange(0, d_model, 2) / d_model)

    def table(p):
        return np.stack([np.sin(p * rate), np.cos(p * rate)], -1).reshape(len(p), d_model)

    moved, *_ = np.linalg.lstsq(table(p), table(p + k), rcond=None)
    return torch.tensor(moved.T, dtype=torch.float32)


def shift_kronecker(k, d_model):
    angle = torch.tensor([k / 10000 ** (2 * i / d_model) for i in range(d_model // 2)])
    even, odd = torch.eye(2), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    return torch.kron(angle.cos().diag(), even) + torch.kron(angle.sin().diag(), odd)


def shift_of_the_package(k, d_model):
    return attn_course.positional.shift_matrix(k, d_model)


def shift_with(block, rate=lambda i, d: 10000 ** (-2 * i / d), steps=lambda k: k):
    def shift(k, d_model):
        m = torch.zeros(d_model, d_model)
        for i in range(d_model // 2):
            a = steps(k) * rate(i, d_model)
            m[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor(block(math.sin(a), math.cos(a)))
        return m

    return shift


def turning(s, c):
    return [[c, s], [-s, c]]


# -------------------------------------------------------------------------------------- rotary-embedding


def rotary_halves(x, positions, base=10000.0):
    """As in many published models."""
    d = x.shape[-1]
    inv_freq = 1.0 / (base ** (torch.arange(0, d, 2).float() / d))
    emb = torch.outer(positions.float(), inv_freq)
    emb = torch.cat((emb, emb), dim=-1)
    x1, x2 = x[..., : d // 2], x[..., d // 2 :]
    return x * emb.cos() + torch.cat((-x2, x1), dim=-1) * emb.sin()


def rotary_neighbours(x, positions, base=10000.0):
    inv_freq = base ** -(torch.arange(0, x.size(-1), 2) / x.size(-1))
    angle = (positions.unsqueeze(-1) * inv_freq).repeat_interleave(2, -1)
    rotated = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * torch.cos(angle) + rotated * torch.sin(angle)


def rotary_complex(x, positions, base=10000.0):
    z = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    rate = base ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    angle = torch.outer(positions.to(rate.dtype), rate)
    return torch.view_as_real(z * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def rotary_float64(x, positions, base=10000.0):
    d = x.shape[-1]
    angle = positions.double()[:, None] * base ** (-torch.arange(0, d, 2, dtype=torch.double) / d)
    a, b = x.double().chunk(2, dim=-1)
    out = torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)
    return out.to(x.dtype)


def rotary_loops(x, positions, base=10000.0):
    columns = [None] * x.shape[-1]
    for i in range(x.shape[-1] // 2):
        angle = torch.tensor([p * base ** (-2 * i / x.shape[-1]) for p in positions.tolist()])
        a, b = x[..., 2 * i], x[..., 2 * i + 1]
        columns[2 * i] = a * angle.cos() - b * angle.sin()
        columns[2 * i + 1] = a * angle.sin() + b * angle.cos()
    return torch.stack(columns, dim=-1)


def rotary_matrices(x, positions, base=10000.0):
    """One rotation matrix for each position, and a product."""
    d = x.shape[-1]
    turns = []
    for p in positions.tolist():
        blocks = []
        for i in range(d // 2):
            c, s = math.cos(p * base ** (-2 * i / d)), math.sin(p * base ** (-2 * i / d))
            blocks.append(torch.tensor([[c, -s], [s, c]]))
        turns.append(torch.block_diag(*blocks))
    return torch.einsum("nij,...nj->...ni", torch.stack(turns), x)


def rotary_written(x, positions, base=10000.0):
    out = torch.empty_like(x)
    angle = positions[:, None] * torch.exp(-math.log(base) * torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    c, s = angle.cos(), angle.sin()
    out[..., ::2] = c * x[..., ::2] - s * x[..., 1::2]
    out[..., 1::2] = s * x[..., ::2] + c * x[..., 1::2]
    return out


def rotary_table(x, positions, base=10000.0):
    """Cosines and sines of every position kept in a table, looked up by position."""
    d = x.shape[-1]
    every = torch.outer(torch.arange(2048.0), base ** (-torch.arange(0, d, 2) / d))
    cos, sin = every.cos()[positions], every.sin()[positions]
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def rotary_of_the_package(x, positions, base=10000.0):
    return attn_course.positional.apply_rotary(x, positions, base, pairing="halves")


def rotary_neighbours_with(angle, turn=lambda a, b, c, s: (a * c - b * s, a * s + b * c)):
    def rotate(x, positions, base=10000.0):
        i = torch.arange(x.shape[-1] // 2)
        phase = angle(positions[:, None], i, x.shape[-1], base)
        a, b = turn(x[..., ::2], x[..., 1::2], phase.cos(), phase.sin())
        return torch.stack((a, b), -1).reshape(x.shape)

    return rotate


def rotary_halves_with(angle, turn=lambda a, b, c, s: (a * c - b * s, a * s + b * c)):
    def rotate(x, positions, base=10000.0):
        half = x.shape[-1] // 2
        phase = angle(positions[:, None], torch.arange(half), x.shape[-1], base)
        return torch.cat(turn(x[..., :half], x[..., half:], phase.cos(), phase.sin()), -1)

    return rotate


def phase(p, i, d, base):
    return p * base ** (-2 * i / d)


def rotary_interleaved_angles(x, positions, base=10000.0):
    """Angles for neighbours, partners for halves."""
    d = x.shape[-1]
    angle = (positions[:, None] * base ** (-torch.arange(0, d, 2) / d)).repeat_interleave(2, dim=-1)
    a, b = x.chunk(2, -1)
    return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()


def rotary_in_place(x, positions, base=10000.0):
    with torch.no_grad():
        x.copy_(rotary_halves(x, positions, base))
    return x


def rotary_sinusoid(x, positions, base=10000.0):
    angle = positions[:, None] * base ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    return x + torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


def rotary_written_over(x, positions, base=10000.0):
    out = x.clone()
    angle = positions[:, None] * base ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    a, b = out[..., ::2], out[..., 1::2]
    a = a * angle.cos() - b * angle.sin()
    return torch.stack([a, a * angle.sin() + b * angle.cos()], -1).flatten(-2)


def rotary_four_dimensions(x, positions, base=10000.0):
    batch, heads, n, d = x.shape
    return rotary_halves(x, positions, base).view(batch, heads, n, d)


def rotary_three_dimensions(x, positions, base=10000.0):
    batch, n, d = x.shape
    return rotary_neighbours(x, positions, base).view(batch, n, d)


def rotary_heads_last(x, positions, base=10000.0):
    """As in models that keep their heads behind the sequence: (B, n, h, d)."""
    angle = torch.outer(positions, base ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])).unsqueeze(1)
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)


def rotary_left_complex(x, positions, base=10000.0):
    angle = torch.outer(positions, base ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1]))
    return torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angle), angle)


def rotary_counted(x, positions, base=10000.0):
    return rotary_neighbours(x, torch.arange(x.shape[-2]), base)


# -------------------------------------------------------------------------------------------- alibi-bias


def bias_loops(num_heads, n):
    out = torch.zeros(num_heads, n, n)
    for i in range(1, num_heads + 1):
        for q in range(n):
            for k in range(n):
                out[i - 1, q, k] = -(2 ** (-8 * i / num_heads)) * abs(q - k)
    return out


def bias_geometric(num_heads, n):
    """The first slope is also the factor from one to the next."""
    start = 2 ** (-8 / num_heads)
    slopes = torch.tensor([start * start**i for i in range(num_heads)])
    place = torch.arange(n)
    return -(place - place.unsqueeze(1)).abs() * slopes.view(-1, 1, 1)


def bias_einsum(num_heads, n):
    slopes = 0.5 ** (8 / num_heads * torch.arange(1, num_heads + 1))
    distance = torch.cdist(torch.arange(n).float()[:, None], torch.arange(n).float()[:, None], p=1)
    return torch.einsum("h,qk->hqk", -slopes, distance)


def bias_numpy(num_heads, n):
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    slopes = np.logspace(-8 / num_heads, -8, num_heads, base=2)
    return torch.tensor(-slopes[:, None, None] * distance, dtype=torch.float32)


def bias_minimum(num_heads, n):
    r = torch.arange(n, dtype=torch.float32)
    both = torch.minimum(r[None] - r[:, None], r[:, None] - r[None])
    slopes = torch.pow(2.0, -torch.arange(1, num_heads + 1) * 8.0 / num_heads)
    return both.expand(num_heads, n, n) * slopes.reshape(num_heads, 1, 1)


def bias_triangles(num_heads, n):
    back = torch.ones(n, n).tril().cumsum(0) - torch.ones(n, n).tril()
    slopes = torch.exp2(-8 * torch.arange(1, num_heads + 1) / num_heads)
    return torch.stack([-slope * (back.tril() + back.tril().T) for slope in slopes])


def bias_of_the_package(num_heads, n):
    return attn_course.positional.alibi_bias(num_heads, n)


def bias_with(slope, distance=lambda q, k: abs(q - k), sign=-1.0):
    def make(num_heads, n):
        return torch.tensor(
            [
                [[sign * slope(i, num_heads) * distance(q, k) for k in range(n)] for q in range(n)]
                for i in range(1, num_heads + 1)
            ]
        )

    return make


def paper_slope(i, h):
    return 2 ** (-8 * i / h)


class Table(nn.Module):
    def forward(self, max_len, d_model):
        return table_slices(max_len, d_model)


RIGHT = {
    "sinusoidal-encoding": {
        "slices": table_slices,
        "loops": table_loops,
        "numpy": table_numpy,
        "where": table_where,
        "complex": table_complex,
        "shifted sine": table_shifted_sine,
        "einsum": table_einsum,
        "package": table_of_the_package,
        "partial": functools.partial(table_slices),
        "module": Table(),
    },
    "shift-matrix": {
        "loops": shift_loops,
        "diagonals": shift_diagonals,
        "exponential": shift_exponential,
        "power": shift_power,
        "fitted": shift_fitted,
        "kronecker": shift_kronecker,
        "package": shift_of_the_package,
        "lambda": lambda steps, width: shift_loops(steps, width),
    },
    "rotary-embedding": {
        "halves": rotary_halves,
        "neighbours": rotary_neighbours,
        "complex": rotary_complex,
        "float64": rotary_float64,
        "pair by pair": rotary_loops,
        "matrices": rotary_matrices,
        "written": rotary_written,
        "table": rotary_table,
        "package": rotary_of_the_package,
        "base by name only": lambda x, positions, *, base=10000.0: rotary_halves(x, positions, base),
        "base in another place": lambda x, p, scale=1.0, base=10000.0: rotary_neighbours(x, p, base),
        "renamed": lambda vectors, places, b=10000.0: rotary_halves(vectors, places, b),
    },
    "alibi-bias": {
        "loops": bias_loops,
        "geometric": bias_geometric,
        "einsum": bias_einsum,
        "numpy": bias_numpy,
        "minimum": bias_minimum,
        "triangles": bias_triangles,
        "package": bias_of_the_package,
    },
}

WRONG = {
    "sinusoidal-encoding": {
        "odd-width: as usual": table_as_usual,
        "float32-angles": table_float32,
        "float32-angles: divided": lambda n, d: torch.where(
            torch.arange(d) % 2 == 0,
            (torch.arange(n)[:, None] / 10000 ** (torch.arange(d) // 2 * 2 / d)).sin(),
            (torch.arange(n)[:, None] / 10000 ** (torch.arange(d) // 2 * 2 / d)).cos(),
        ),
        "float32-angles: rates alone": table_float32_rates,
        "float32-angles: by the reciprocal": lambda n, d: table_of_angles(
            torch.arange(n)[:, None] * (1 / torch.pow(10000, torch.arange(0, d, 2) / d)), d
        ),
        "float32-angles: numpy": lambda n, d: table_of_angles(
            torch.from_numpy(
                np.arange(n, dtype=np.float32)[:, None]
                / np.power(np.float32(10000), np.arange(0, d, 2, dtype=np.float32) / np.float32(d))
            ),
            d,
        ),
        "wrong-value: half precision": lambda n, d: table_slices(n, d).half().float(),
        "odd-width: numpy": table_numpy_as_usual,
        "odd-width: loops": table_loops_as_usual,
        "base-of-e": table_loops_with(lambda p, j, d: p * math.exp(-2 * (j // 2) / d)),
        "cosine-first": table_loops_with(usual_angle, odd=math.sin, even=math.cos),
        "sines-then-cosines": table_two_blocks,
        "a-rate-for-each-column": table_loops_with(lambda p, j, d: p / 10000 ** (j / d)),
        "exponent-without-2": table_loops_with(lambda p, j, d: p / 10000 ** ((j // 2) / d)),
        "positions-from-1": table_loops_with(usual_angle, first=1),
        "one-rate": table_loops_with(lambda p, j, d: p),
        "only-sines": table_loops_with(usual_angle, odd=math.sin),
        "transposed": lambda n, d: table_loops(n, d).T,
        "batch-dimension": lambda n, d: table_loops(n, d).unsqueeze(0),
        "a-column-too-many": lambda n, d: table_loops_with(lambda p, j, _: usual_angle(p, j, d))(
            n, d + d % 2
        ),
        "wrong-dtype": lambda n, d: table_slices(n, d).double(),
        "returns-none": lambda n, d: print(table_slices(n, d).shape),
    },
    "shift-matrix": {
        "moves-back": shift_with(lambda s, c: [[c, -s], [s, c]]),
        "moves-back: transposed": lambda k, d: shift_loops(k, d).T.contiguous(),
        "only-forward": shift_with(turning, steps=abs),
        "one-rate": shift_with(turning, rate=lambda i, d: 1.0),
        "exponent-without-2": shift_with(turning, rate=lambda i, d: 10000 ** (-i / d)),
        "exponent-positive": shift_with(turning, rate=lambda i, d: 10000 ** (2 * i / d)),
        "no-minus": shift_with(lambda s, c: [[c, s], [s, c]]),
        "diagonal-only": shift_with(lambda s, c: [[c, 0.0], [0.0, c]]),
        "rows-rolled": lambda k, d: torch.roll(torch.eye(d), k, dims=0),
        "does-nothing": lambda k, d: torch.eye(d),
        "wrong-dtype": lambda k, d: shift_loops(k, d).double(),
        "wrong-shape": lambda k, d: shift_loops(k, d)[None],
        "wrong-type": lambda k, d: shift_loops(k, d).tolist(),
        "k-ignored": shift_with(turning, steps=lambda k: 1),
        "blocks-not-joined": lambda k, d: torch.stack(
            [shift_loops(k, d)[i : i + 2, i : i + 2] for i in range(0, d, 2)]
        ),
        "encoding-on-the-diagonal": lambda k, d: torch.diag(shift_loops(k, d)[:, 1::2].sum(1)),
        "right-for-one-position": lambda k, d: (
            shift_loops(k, d)[:, 1::2].sum(1, keepdim=True) * (torch.arange(d) % 2) / (d // 2)
        ),
        "returns-none": lambda k, d: print(shift_loops(k, d)),
        "one-too-far": shift_with(turning, steps=lambda k: k + 1),
    },
    "rotary-embedding": {
        "turned-backwards": rotary_neighbours_with(phase, lambda a, b, c, s: (a * c + b * s, b * c - a * s)),
        "turned-backwards: halves": rotary_halves_with(
            phase, lambda a, b, c, s: (a * c + b * s, b * c - a * s)
        ),
        "pairings-mixed": rotary_interleaved_angles,
        "one-rate": rotary_neighbours_with(lambda p, i, d, base: p * torch.ones(d // 2)),
        "one-rate: halves": rotary_halves_with(lambda p, i, d, base: p * torch.ones(d // 2)),
        "exponent-without-2": rotary_neighbours_with(lambda p, i, d, base: p * base ** (-i / d)),
        "exponent-without-2: halves": rotary_halves_with(lambda p, i, d, base: p * base ** (-i / d)),
        "base-ignored": rotary_halves_with(lambda p, i, d, base: phase(p, i, d, 10000.0)),
        "positions-ignored": rotary_counted,
        "positions-from-1": rotary_halves_with(lambda p, i, d, base: phase(p + 1, i, d, base)),
        "updated-too-early": rotary_written_over,
        "added": rotary_sinusoid,
        "order-changed": lambda x, p, base=10000.0: torch.cat(
            [rotary_neighbours(x, p, base)[..., ::2], rotary_neighbours(x, p, base)[..., 1::2]], -1
        ),
        "changes-input": rotary_in_place,
        "leading-dimensions": rotary_four_dimensions,
        "leading-dimensions: three": rotary_three_dimensions,
        "along-the-heads": rotary_heads_last,
        "complex": rotary_left_complex,
        "pairs-not-joined": lambda x, p, base=10000.0: torch.view_as_real(rotary_left_complex(x, p, base)),
        "degrees": rotary_halves_with(lambda p, i, d, base: phase(p, i, d, base) * math.pi / 180),
        "cuts-gradient": lambda x, p, base=10000.0: rotary_halves(x.detach(), p, base),
    },
    "alibi-bias": {
        "sign": bias_with(paper_slope, sign=1.0),
        "no-distance": bias_with(paper_slope, distance=lambda q, k: q - k),
        "slopes-from-0": bias_with(lambda i, h: paper_slope(i - 1, h)),
        "slopes-in-reverse": bias_with(lambda i, h: paper_slope(h + 1 - i, h)),
        "slopes-whatever-the-number": bias_with(lambda i, h: 2.0**-i),
        "squared": bias_with(paper_slope, distance=lambda q, k: (q - k) ** 2),
        "causal": lambda h, n: bias_loops(h, n).tril(),
        "heads-last": lambda h, n: bias_loops(h, n).movedim(0, -1),
        "no-slope": bias_with(lambda i, h: 1.0),
        "slope-exponent-positive": bias_with(lambda i, h: 2.0 ** (8 * i / h)),
        "one-map": lambda h, n: bias_loops(h, n)[0],
        "exponent-rounded": bias_with(lambda i, h: 2.0 ** -(8 * i // h)),
        "exponent-upside-down": bias_with(lambda i, h: 2 ** (-8 / i)),
        "divided-by-length": lambda h, n: bias_loops(h, n) / n,
        "slopes-alone": lambda h, n: torch.tensor([-paper_slope(i, h) for i in range(1, h + 1)]),
        "last-query-alone": lambda h, n: bias_loops(h, n)[:, -1:],
        "wrong-dtype": lambda h, n: bias_loops(h, n).double(),
    },
}
