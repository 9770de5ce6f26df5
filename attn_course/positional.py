"""Positional encodings: what tells attention, which is blind to order, where each token stands.

Two are added to the tokens (`PositionalEncoding`, `LearnedPositionalEncoding`), one turns queries and keys
(`RotaryEmbedding`), one is a bias on the scores (`alibi_bias`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = [
    "LearnedPositionalEncoding",
    "PositionalEncoding",
    "RotaryEmbedding",
    "alibi_bias",
    "alibi_slopes",
    "apply_rotary",
    "convert_rotary_pairing",
    "shift_matrix",
    "sinusoidal_encoding",
]

Pairing = Literal["neighbours", "halves"]
_PAIRINGS = ("neighbours", "halves")


# --- Added to the tokens --------------------------------------------------------------------------------


def sinusoidal_encoding(max_len: int, d_model: int) -> Tensor:
    """The table of sines and cosines that `PositionalEncoding` adds: a clock with many hands for each position.

    `pe[p, 2i] = sin(p / 10000^(2i / d_model))`, `pe[p, 2i + 1] = cos(p / 10000^(2i / d_model))`.

    An odd width ends in a sine. The angles are float64: in float32, neighbouring numbers near 5000 radians lie 5e-4
    apart.

    Args:
        max_len: number of positions, the first of which is 0.
        d_model: width, odd or even.

    Returns:
        float32 `(max_len, d_model)`.

    Raises:
        ValueError: if `d_model` or `max_len` is below 1.

    Vaswani et al., Attention Is All You Need, 2017 (arXiv:1706.03762), section 3.5.
    """
    _check_table(d_model, max_len)
    return _sinusoids(max_len, d_model).to(torch.float32).to(torch.get_default_device())


def shift_matrix(k: int, d_model: int) -> Tensor:
    """The matrix that moves every sinusoidal encoding on by `k` positions: `M_k @ pe[p] = pe[p + k]` for all `p`.

    Blocks on the diagonal, one for each pair of columns: `[[cos kω, sin kω], [-sin kω, cos kω]]` with
    `ω = 10000^(-2i / d_model)`. It is a rotation: `M_k M_l = M_(k + l)`, and `M_(-k)` is its transpose.

    Args:
        k: how far; negative moves back.
        d_model: width, even: the last sine of an odd width has no cosine to turn into.

    Returns:
        float32 `(d_model, d_model)`.

    Raises:
        ValueError: if `d_model` is odd or below 2.

    Vaswani et al., 2017 (arXiv:1706.03762), section 3.5, say that such a matrix exists.
    """
    if d_model < 2 or d_model % 2 != 0:
        raise ValueError(f"d_model must be even and at least 2, got {d_model}")
    angle = k * _rates(d_model)
    matrix = torch.zeros(d_model, d_model, dtype=torch.float64, device="cpu")
    sine, cosine = torch.arange(0, d_model, 2, device="cpu"), torch.arange(1, d_model, 2, device="cpu")
    matrix[sine, sine] = matrix[cosine, cosine] = angle.cos()
    matrix[sine, cosine] = angle.sin()
    matrix[cosine, sine] = -angle.sin()
    return matrix.to(torch.float32).to(torch.get_default_device())


class PositionalEncoding(nn.Module):
    """Adds a fixed pattern of sines and cosines to the tokens, another one for every position.

    `pe[p, 2i] = sin(p / 10000^(2i / d_model))`, `pe[p, 2i + 1] = cos(p / 10000^(2i / d_model))`.

    The table is computed in float64 and kept in float32 (in float64 after `.double()`), also after `.half()`;
    the sum is cast to the dtype of the tokens. In a `state_dict` the table is `pe`, `(1, max_len, d_model)`.
    One that is loaded is checked for its width and left aside: the module keeps its own and its `max_len`.

    Args:
        d_model: width of the tokens, odd or even.
        max_len: the longest sequence.

    Cost: `B·n·d_model` additions, and a table of `max_len·d_model` numbers; nothing is learnt.

    Raises:
        ValueError: if `d_model` or `max_len` is below 1.

    Vaswani et al., Attention Is All You Need, 2017 (arXiv:1706.03762), section 3.5.
    """

    pe: Tensor

    def __init__(self, d_model: int, max_len: int = 5000) -> None:
        super().__init__()
        _check_table(d_model, max_len)
        self.d_model = d_model
        self.max_len = max_len
        self.register_buffer("pe", self._table(torch.float32, torch.get_default_device()))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x + pe[:n]`, in the dtype of `x`.

        Args:
            x: `(B, n, d_model)`.

        Raises:
            ValueError: for another rank or width, or a sequence longer than `max_len`.
        """
        _check_tokens(x, self.d_model)
        if x.shape[1] > self.max_len:
            raise ValueError(
                f"a sequence of {x.shape[1]} positions is longer than max_len = {self.max_len}: "
                f"make PositionalEncoding({self.d_model}, max_len={x.shape[1]}) or longer"
            )
        return (x + self.pe[:, : x.shape[1]]).to(x.dtype)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, max_len={self.max_len}"

    def _table(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        return _sinusoids(self.max_len, self.d_model)[None].to(dtype).to(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PositionalEncoding:
        # `.half()` rounds every buffer, and `.to_empty()` leaves it unset: make the table anew.
        super()._apply(fn, recurse)
        dtype = torch.float64 if self.pe.dtype == torch.float64 else torch.float32
        self.pe = self._table(dtype, self.pe.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        key = prefix + "pe"
        if key in state_dict:
            incoming = state_dict[key]
            if incoming.ndim == 0 or incoming.shape[-1] != self.d_model:
                error_msgs: list[str] = args[-1]
                error_msgs.append(
                    f"{key} has the shape {tuple(incoming.shape)}, its width must be d_model = {self.d_model}"
                )
            # A model on the meta device that is given its tensors (assign=True) is to get this one too.
            own = self._table(torch.float32, incoming.device) if self.pe.is_meta else self.pe
            state_dict = {**state_dict, key: own}
        super()._load_from_state_dict(state_dict, prefix, *args)


class LearnedPositionalEncoding(nn.Module):
    """Adds a learnt vector to the tokens, another one for every position.

    `x + weight[:n]`, where the `weight` starts from a normal distribution with standard deviation 0.02.

    A row is trained only if a training sequence reaches it; what lies beyond keeps its random start.

    Args:
        d_model: width of the tokens.
        max_len: the longest sequence. There is no row for a later position, and none can be computed.

    Cost: `B·n·d_model` additions, and `max_len·d_model` parameters.

    Raises:
        ValueError: if `d_model` or `max_len` is below 1.

    Gehring et al., Convolutional Sequence to Sequence Learning, 2017 (arXiv:1705.03122), section 3.1.
    """

    def __init__(self, d_model: int, max_len: int) -> None:
        super().__init__()
        _check_table(d_model, max_len)
        self.d_model = d_model
        self.max_len = max_len
        self.weight = nn.Parameter(torch.empty(max_len, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x + weight[:n]`, in the dtype of `x`.

        Args:
            x: `(B, n, d_model)`.

        Raises:
            ValueError: for another rank or width, or a sequence longer than `max_len`.
        """
        _check_tokens(x, self.d_model)
        if x.shape[1] > self.max_len:
            raise ValueError(
                f"a sequence of {x.shape[1]} positions is longer than max_len = {self.max_len}, and a learned "
                f"encoding has no vector for the later ones: it must be trained with "
                f"LearnedPositionalEncoding({self.d_model}, max_len={x.shape[1]}) or longer"
            )
        return (x + self.weight[: x.shape[1]]).to(x.dtype)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, max_len={self.max_len}"


# --- Turning queries and keys ---------------------------------------------------------------------------


def apply_rotary(
    x: Tensor, positions: Tensor, base: float = 10000.0, *, pairing: Pairing = "neighbours"
) -> Tensor:
    """Turn every vector, pair by pair of its entries, by an angle that grows with its position.

    Pair `i`, `(a, b)`, becomes `(a cos θ - b sin θ, a sin θ + b cos θ)` with `θ = position · base^(-2i / d_k)`.

    Lengths stay, and the product of a query with a key depends on how far apart they are, not on where.
    This is the definition; a model uses `RotaryEmbedding`, which keeps the cosines and sines.

    Args:
        x: `(…, n, d_k)`, even `d_k`.
        positions: `(n,)`, whole or not, negative or not.
        base: `1 / base` is about the slowest rate, in radians per position; the fastest is 1.
        pairing: which entries are pair `i`: "neighbours" `2i` and `2i + 1`, as in the paper, or "halves" `i` and
            `i + d_k / 2`, as in many published models. Weights trained with one do not fit the other, see
            `convert_rotary_pairing`.

    Returns:
        As `x`, shape and dtype.

    Raises:
        ValueError: for an odd `d_k`, another number of positions than `n`, an `x` that is not floating point,
            a base that is not above 0 or an unknown pairing.

    Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021 (arXiv:2104.09864).
    """
    _check_pairing(pairing)
    _check_rotary_input(x)
    _check_rotary(x.shape[-1], base)
    if positions.shape != (x.shape[-2],):
        raise ValueError(
            f"positions must have the shape (n,) = ({x.shape[-2]},) for x {tuple(x.shape)}, "
            f"got {tuple(positions.shape)}"
        )
    device = "cpu" if positions.device.type == "mps" else positions.device  # where there is no float64
    angle = positions.to(device, torch.float64)[:, None] * _rates(x.shape[-1], base, device)
    cosines, sines = (turn.to(_wide(x.dtype)).to(x.device) for turn in (angle.cos(), angle.sin()))
    return _turn(x, cosines, sines, pairing)


class RotaryEmbedding(nn.Module):
    """Turns queries and keys by their positions, as `apply_rotary` does, with cosines and sines from a cache.

    The cache is made for the first sequence and at least doubled when a longer one comes, so a sequence that grows
    token by token costs few renewals. Its angles are float64, its entries float32 (float64 for such an `x`);
    float16 and bfloat16 are turned in float32 and rounded once. It follows its input to another device, and is
    no part of a `state_dict`: a model without `RotaryEmbedding` loads into one with it.

    A compiled graph uses the cache if it is long enough, and otherwise computes the angles in the graph, at every
    call: `reserve` the longest length before. An exported program always computes them, for any length.

    Args:
        d_k: width of a head, even.
        base: as in `apply_rotary`.
        pairing: as in `apply_rotary`.

    Cost: 3 operations for each entry that is turned, and a cache of `n·d_k` numbers; nothing is learnt.

    Raises:
        ValueError: if `d_k` is odd or below 2, the base not above 0, or the pairing unknown.

    Su et al., RoFormer, 2021 (arXiv:2104.09864), section 3.4.2.
    """

    cache: Tensor

    def __init__(self, d_k: int, *, base: float = 10000.0, pairing: Pairing = "neighbours") -> None:
        super().__init__()
        _check_pairing(pairing)
        _check_rotary(d_k, base)
        self.d_k = d_k
        self.base = base
        self.pairing: Pairing = pairing
        self.register_buffer("cache", torch.empty(2, 0, d_k // 2, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor, *, offset: int = 0) -> Tensor:
        """Return `x` turned, in its dtype.

        Args:
            x: `(…, n, d_k)`, at the positions `offset … offset + n - 1`.
            offset: position of the first token: with a cache of keys and values, how many came before.

        Raises:
            ValueError: for another width, fewer than two dimensions, a dtype that is not floating point, or a
                negative offset.
        """
        _check_rotary_input(x)
        if x.shape[-1] != self.d_k:
            raise ValueError(f"x must have the shape (…, n, d_k = {self.d_k}), got {tuple(x.shape)}")
        if offset < 0:
            raise ValueError(f"offset must be at least 0, got {offset}")
        cosines, sines = self._cosines_and_sines(offset, offset + x.shape[-2], x)
        return _turn(x, cosines, sines, self.pairing)

    def reserve(self, length: int) -> None:
        """Make the cache long enough for `length` positions."""
        if length > self.cache.shape[1]:
            self._renew(length, self.cache.dtype, self.cache.device)

    def extra_repr(self) -> str:
        return f"d_k={self.d_k}, base={self.base:g}, pairing={self.pairing!r}"

    def _cosines_and_sines(self, start: int, end: int, x: Tensor) -> Tensor:
        """`(2, end - start, d_k / 2)`, from the cache where it reaches."""
        dtype, device = _wide(x.dtype), x.device
        if _is_exporting() or type(x) not in (Tensor, nn.Parameter):  # fake tensors have no values to keep
            return self._table(start, end, dtype, device)
        length = self.cache.shape[1]
        if end > length or self.cache.dtype != dtype or self.cache.device != device:
            if torch.compiler.is_compiling():  # a graph must not change the module
                return self._table(start, end, dtype, device)
            self._renew(length if end <= length else max(end, 2 * length), dtype, device)
        return self.cache[:, start:end]

    def _renew(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        with torch.inference_mode(False):  # or training could not use what an inference pass has made
            self.cache = self._table(0, length, dtype, device)

    def _table(self, start: int, end: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        position = torch.arange(start, end, dtype=torch.float64, device="cpu")
        angle = position[:, None] * _rates(self.d_k, self.base)
        return torch.stack((angle.cos(), angle.sin())).to(dtype).to(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RotaryEmbedding:
        # `.half()` rounds every buffer, and `.to_empty()` leaves it unset: make the cache anew.
        super()._apply(fn, recurse)
        self._renew(self.cache.shape[1], _wide(self.cache.dtype), self.cache.device)
        return self


def convert_rotary_pairing(weight: Tensor, num_heads: int, *, source: Pairing, target: Pairing) -> Tensor:
    """Reorder a query or key projection, so that a model trained with one pairing gives its scores with the other.

    In each head, the row of the `source` pair's first or second entry moves to where the `target` pairing
    expects it. Convert queries and keys alike; values and the output projection stay.

    Args:
        weight: `(h·d_k, …)`, the weight `(h·d_k, d_model)` of a projection or its bias `(h·d_k,)`.
        num_heads: `h`, the heads of this projection (keys may have fewer than queries).
        source: the pairing that the weight was trained with.
        target: the pairing that it is to be used with.

    Returns:
        A reordered copy.

    Raises:
        ValueError: for an unknown pairing, or if the rows are not `h` heads of an even width.

    Su et al., RoFormer, 2021 (arXiv:2104.09864), pair neighbours; "halves" is the order of GPT-NeoX and its heirs.
    """
    _check_pairing(source)
    _check_pairing(target)
    rows = weight.shape[0] if weight.ndim else 0
    if num_heads < 1 or rows == 0 or rows % (2 * num_heads) != 0:
        raise ValueError(
            f"the first dimension of weight must be num_heads = {num_heads} heads of an even width, "
            f"got {tuple(weight.shape)}"
        )
    order = torch.arange(rows, device=weight.device).view(num_heads, -1)
    if source == "neighbours" and target == "halves":
        order = torch.cat((order[:, 0::2], order[:, 1::2]), dim=1)
    elif source == "halves" and target == "neighbours":
        order = torch.stack(order.chunk(2, dim=1), dim=-1)
    return weight[order.flatten()]


# --- A bias on the scores -------------------------------------------------------------------------------


def alibi_slopes(num_heads: int, *, device: torch.device | str | None = None) -> Tensor:
    """How steeply each head's bias falls with the distance.

    `slope_i = 2^(-8i / h)`, `i = 1 … h`, for a power of two `h`. Otherwise, as the paper's code does it: the slopes
    for the next lower power of two `p`, then every second slope for `2p`, beginning with the first, until
    there are `h`.

    Args:
        num_heads: `h`.
        device: where to make them; the default device if None.

    Returns:
        float32 `(h,)`.

    Raises:
        ValueError: if `num_heads` is below 1.

    Press et al., Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation, 2022
    (arXiv:2108.12409), section 3.
    """
    if num_heads < 1:
        raise ValueError(f"num_heads must be at least 1, got {num_heads}")
    power = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * i / power) for i in range(1, power + 1)]
    slopes += [2.0 ** (-8 * i / (2 * power)) for i in range(1, 2 * power + 1, 2)]
    return torch.tensor(slopes[:num_heads], dtype=torch.float32, device=device)


def alibi_bias(
    num_heads: int, n_q: int, n_k: int | None = None, *, device: torch.device | str | None = None
) -> Tensor:
    """The bias that makes far keys count less: it falls linearly with the distance, in each head at its own slope.

    `bias[i, query, key] = -slope_i · |query - key|`, to be given to attention as `bias=`.

    With fewer queries than keys, the queries are the last ones of the sequence, as in generation with a cache, and
    as `is_causal` takes them: row 0 is position `n_k - n_q`. The paper's models are causal; there only the
    lower triangle counts.

    Args:
        num_heads: `h`.
        n_q: number of queries.
        n_k: number of keys; `n_q` if None.
        device: where to make it; the default device if None.

    Returns:
        float32 `(h, n_q, n_k)`.

    Cost: `4·h·n_q·n_k` bytes, one multiplication for each entry; nothing is learnt.

    Raises:
        ValueError: if `num_heads` is below 1 or a length below 0.

    Press et al., ALiBi, 2022 (arXiv:2108.12409), section 3.
    """
    n_k = n_q if n_k is None else n_k
    if n_q < 0 or n_k < 0:
        raise ValueError(f"n_q and n_k must be at least 0, got {n_q} and {n_k}")
    slopes = alibi_slopes(num_heads, device=device)
    query = torch.arange(n_k - n_q, n_k, device=device)
    key = torch.arange(n_k, device=device)
    return slopes[:, None, None] * -(query[:, None] - key).abs()


# --- Helpers --------------------------------------------------------------------------------------------


def _rates(width: int, base: float = 10000.0, device: torch.device | str = "cpu") -> Tensor:
    """`base^(-2i / width)`, radians per position, float64 `(ceil(width / 2),)`."""
    return base ** -(torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)


def _sinusoids(n: int, d_model: int) -> Tensor:
    # Angles grow to n radians, where float32 is good to 4e-4 only. Some devices have no float64: made on the CPU.
    angle = torch.arange(n, dtype=torch.float64, device="cpu")[:, None] * _rates(d_model)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, :d_model]


def _turn(x: Tensor, cosines: Tensor, sines: Tensor, pairing: Pairing) -> Tensor:
    """Turn the pairs of `x (…, n, d_k)`; `cosines` and `sines` are `(n, d_k / 2)`, one angle for each pair."""
    wide = x.to(cosines.dtype)
    if pairing == "neighbours":
        first, second = wide[..., 0::2], wide[..., 1::2]
    else:
        first, second = wide.chunk(2, dim=-1)
    turned = (first * cosines - second * sines, first * sines + second * cosines)
    if pairing == "neighbours":
        return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)
    return torch.cat(turned, dim=-1).to(x.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What numbers of this dtype are turned in: float64 stays, everything else is float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _is_exporting() -> bool:
    return getattr(torch.compiler, "is_exporting", lambda: False)()  # new in torch 2.7


def _check_table(d_model: int, max_len: int) -> None:
    if d_model < 1 or max_len < 1:
        raise ValueError(f"d_model and max_len must be at least 1, got {d_model} and {max_len}")


def _check_tokens(x: Tensor, d_model: int) -> None:
    if x.ndim != 3 or x.shape[-1] != d_model:
        raise ValueError(f"x must have the shape (B, n, d_model = {d_model}), got {tuple(x.shape)}")


def _check_pairing(pairing: str) -> None:
    if pairing not in _PAIRINGS:
        raise ValueError(f"a pairing must be one of {', '.join(_PAIRINGS)}, got {pairing!r}")


def _check_rotary(d_k: int, base: float) -> None:
    if d_k < 2 or d_k % 2 != 0:
        raise ValueError(f"d_k must be even and at least 2, since entries turn in pairs, got {d_k}")
    if not base > 0:
        raise ValueError(f"base must be above 0, got {base}")


def _check_rotary_input(x: Tensor) -> None:
    if x.ndim < 2:
        raise ValueError(f"x must have the shape (…, n, d_k), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")
