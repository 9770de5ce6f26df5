"""Positions: sinusoidal, learned, rotary, ALiBi."""

from __future__ import annotations

from .core import DTYPE_BYTES, Cost, check_heads, in_bytes

_TABLE_BYTES = DTYPE_BYTES["float32"]  # tables and caches are kept in float32, whatever the tokens are


def sinusoidal_encoding(
    *, batch: int, n: int, d_model: int, max_len: int | None = None, dtype: str = "float32"
) -> Cost:
    """`PositionalEncoding`: its float32 table has `max_len` rows, `n` unless given."""
    max_len = _check_max_len(n, max_len)
    return Cost(
        mechanism="sinusoidal-encoding",
        sizes={"batch": batch, "n": n, "d_model": d_model, "max_len": max_len, "dtype": dtype},
        terms={},
        elementwise_terms={"add": batch * n * d_model},
        parameters=0,
        moved_terms={"add": 2 * batch * n * d_model * DTYPE_BYTES[dtype] + n * d_model * _TABLE_BYTES},
        table_bytes=max_len * d_model * _TABLE_BYTES,
    )


def learned_encoding(
    *, batch: int, n: int, d_model: int, max_len: int | None = None, dtype: str = "float32"
) -> Cost:
    """`LearnedPositionalEncoding`: the rows of its table are parameters, `max_len` (`n` unless given)."""
    max_len = _check_max_len(n, max_len)
    return Cost(
        mechanism="learned-encoding",
        sizes={"batch": batch, "n": n, "d_model": d_model, "max_len": max_len, "dtype": dtype},
        terms={},
        elementwise_terms={"add": batch * n * d_model},
        parameters=max_len * d_model,
        moved_terms=in_bytes({"add": (2 * batch + 1) * n * d_model}, dtype),
    )


def rotary_embedding(*, batch: int, n: int, d_model: int, num_heads: int, dtype: str = "float32") -> Cost:
    """`RotaryEmbedding` in one attention layer: all queries and all keys; a float32 cache of `n` positions."""
    check_heads(d_model, num_heads)
    d_k = d_model // num_heads
    if d_k % 2:
        raise ValueError(
            f"d_k = d_model / num_heads must be even, got d_model = {d_model} and num_heads = {num_heads}"
        )
    cache = 2 * n * (d_k // 2) * _TABLE_BYTES
    tokens = batch * n * d_model
    return Cost(
        mechanism="rotary-embedding",
        sizes={"batch": batch, "n": n, "d_model": d_model, "num_heads": num_heads, "dtype": dtype},
        terms={},
        # An entry is multiplied by a cosine, its partner by a sine, and the two are added.
        elementwise_terms={"queries": 3 * tokens, "keys": 3 * tokens},
        parameters=0,
        moved_terms={step: 2 * tokens * DTYPE_BYTES[dtype] + cache for step in ("queries", "keys")},
        table_bytes=cache,
    )


def alibi_bias(*, batch: int, n: int, num_heads: int, dtype: str = "float32") -> Cost:
    """`alibi_bias` and its addition to the scores of one attention layer; float32, shared by the sequences."""
    pairs, distances = num_heads * n * n, n * n
    return Cost(
        mechanism="alibi-bias",
        sizes={"batch": batch, "n": n, "num_heads": num_heads, "dtype": dtype},
        terms={},
        elementwise_terms={
            "distances": 3 * distances,  # subtract, absolute value, negate
            "slopes": pairs,
            "add": batch * pairs,
        },
        parameters=0,
        moved_terms={
            "distances": (2 * n + 5 * distances) * _TABLE_BYTES,
            "slopes": (num_heads + distances + pairs) * _TABLE_BYTES,
            "add": 2 * batch * pairs * DTYPE_BYTES[dtype] + pairs * _TABLE_BYTES,
        },
        table_bytes=pairs * _TABLE_BYTES,
    )


def _check_max_len(n: int, max_len: int | None) -> int:
    if max_len is not None and n > max_len:
        raise ValueError(f"n must be at most max_len = {max_len}, got {n}")
    return n if max_len is None else max_len
