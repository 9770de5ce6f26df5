"""`MultiHeadAttention`, `TransformerBlock` and the cache of keys and values."""

from __future__ import annotations

from typing import Any

from .core import (
    DTYPE_BYTES,
    FUSED_ATTENTION,
    LAYER_NORM,
    SOFTMAX,
    Cost,
    check_heads,
    check_size,
    in_bytes,
)
from .memory import Memory, Storage, Table, peaks


def multi_head_attention(
    *,
    batch: int,
    n_q: int,
    n_k: int | None = None,
    d_model: int,
    num_heads: int,
    dtype: str = "float32",
    fused: bool = False,
    num_kv_heads: int | None = None,
    cached: int = 0,
) -> Cost:
    """`MultiHeadAttention`. `n_k` is `n_q` unless given, and `cached` more; `fused` keeps no weights.

    With `n_k` keys of which `cached` come from a cache, the other `n_k - cached` are projected.
    """
    n_k = n_q + cached if n_k is None else n_k
    num_kv_heads = check_heads(d_model, num_heads, num_kv_heads)
    if cached >= n_k:
        raise ValueError(f"cached must be below n_k = {n_k}, got {cached}")
    new = n_k - cached
    d_kv = d_model // num_heads * num_kv_heads
    pairs = batch * num_heads * n_q * n_k
    queries, keys = batch * n_q * d_model, batch * n_k * d_kv  # elements of Q; of K, and of V
    sizes: dict[str, Any] = {
        "batch": batch,
        "n_q": n_q,
        "n_k": n_k,
        "d_model": d_model,
        "num_heads": num_heads,
        "dtype": dtype,
        "fused": fused,
        "num_kv_heads": num_kv_heads,
        "cached": cached,
    }
    weights = 2 * (d_model**2 + d_model) + 2 * (d_model * d_kv + d_kv)
    projected = batch * new * d_kv
    moved = {"projections": 4 * queries + 2 * (batch * new * d_model + projected) + weights}
    if fused:
        moved[FUSED_ATTENTION] = 2 * queries + 2 * keys
    else:
        moved["scale"] = 2 * queries
        moved["scores"] = queries + keys + pairs
        moved["softmax"] = 2 * pairs
        moved["weighted sum"] = pairs + keys + queries
    other_input = [] if new == n_q else [batch * new * d_model]

    def steps(memory: Memory, queries: Table, *keys: Table) -> tuple[Table, ...]:
        return attention_steps(memory, queries, *(keys or [queries]), **sizes)

    product = 2 * batch * n_q * n_k * d_model
    projections = 4 * batch * d_model * (n_q * d_model + new * d_kv)
    # The fused kernel keeps no weights: its backward pass computes the scores again, five products for two.
    backward = 2 * projections + (5 if fused else 4) * product
    return Cost(
        mechanism="multi-head-attention",
        sizes=sizes,
        terms={"projections": projections, "scores": product, "weighted sum": product},
        elementwise_terms={
            "biases": 2 * (queries + projected),
            "scale": queries,
            "softmax": SOFTMAX * pairs,
        },
        parameters=weights,
        moved_terms=in_bytes(moved, dtype),
        **peaks(dtype, steps, queries, *other_input, training=not cached),
        training_flops=projections + 2 * product + backward,
    )


def transformer_block(
    *,
    batch: int,
    n: int,
    d_model: int,
    num_heads: int,
    d_ff: int,
    dtype: str = "float32",
    fused: bool = False,
    num_kv_heads: int | None = None,
    cached: int = 0,
) -> Cost:
    """`TransformerBlock`, pre-norm or post-norm (peak memory: post-norm). `n` new tokens, `cached` before them."""
    attention = multi_head_attention(
        batch=batch,
        n_q=n,
        d_model=d_model,
        num_heads=num_heads,
        dtype=dtype,
        fused=fused,
        num_kv_heads=num_kv_heads,
        cached=cached,
    )
    tokens, hidden = batch * n * d_model, batch * n * d_ff
    weights = 2 * d_model * d_ff + d_ff + d_model
    norms = 4 * d_model
    feed_forward = 4 * batch * n * d_model * d_ff
    sizes: dict[str, Any] = {
        "batch": batch,
        "n": n,
        "d_model": d_model,
        "num_heads": num_heads,
        "d_ff": d_ff,
        "dtype": dtype,
        "fused": fused,
        "num_kv_heads": attention.sizes["num_kv_heads"],
        "cached": cached,
    }

    def steps(memory: Memory, x: Table) -> tuple[Table, ...]:
        return block_steps(memory, x, **sizes)

    return Cost(
        mechanism="transformer-block",
        sizes=sizes,
        terms={**attention.terms, "feed-forward": feed_forward},
        elementwise_terms={
            "attention": attention.elementwise,
            "feed-forward biases": hidden + tokens,
            "ReLU": hidden,
            "residuals": 2 * tokens,
            "layer norms": 2 * LAYER_NORM * tokens,
        },
        parameters=attention.parameters + weights + norms,
        moved_terms={
            **attention.moved_terms,
            **in_bytes(
                {
                    "feed-forward": 2 * (tokens + hidden) + weights,
                    "ReLU": 2 * hidden,
                    "residuals": 6 * tokens,
                    "layer norms": 4 * tokens + norms,
                },
                dtype,
            ),
        },
        **peaks(dtype, steps, tokens, training=not cached),
        training_flops=attention.training_flops + 3 * feed_forward,
    )


def key_value_cache_bytes(
    *,
    layers: int,
    n: int,
    d_model: int,
    num_heads: int,
    num_kv_heads: int | None = None,
    batch: int = 1,
    dtype: str = "float32",
) -> int:
    """Bytes of the keys and values of `n` tokens: `2 · layers · batch · n · num_kv_heads · d_k` numbers.

    Raises:
        ValueError: for a size out of range, heads that do not divide, or an unknown dtype.
    """
    sizes = {
        "layers": layers,
        "n": n,
        "d_model": d_model,
        "num_heads": num_heads,
        "batch": batch,
        "dtype": dtype,
    }
    for name, value in sizes.items():
        check_size(name, value)
    check_size("num_kv_heads", num_kv_heads, optional=True)
    num_kv_heads = check_heads(d_model, num_heads, num_kv_heads)
    return 2 * layers * batch * n * num_kv_heads * (d_model // num_heads) * DTYPE_BYTES[dtype]


# --- Peak memory --------------------------------------------------------------------------------------------


def attention_steps(
    memory: Memory,
    queries: Table,
    keys: Table,
    *,
    batch: int,
    n_q: int,
    n_k: int,
    d_model: int,
    num_heads: int,
    num_kv_heads: int,
    fused: bool,
    cached: int = 0,
    dropout: bool = False,
    strided: bool = False,
    dtype: str = "",
) -> tuple[Table, ...]:
    """`MultiHeadAttention.forward`: keys and values come from one table, which is that of the queries or another.

    `strided`: the tokens do not lie in order, and are copied for every projection.
    """

    def entering(x: Table) -> Table:
        return memory.clone(x) if strided else x

    d_k = d_model // num_heads
    new, d_kv = n_k - cached, d_k * num_kv_heads
    heads_apart = num_heads > 1 and n_q > 1  # a head's rows do not lie one behind the other
    plain = not fused
    Q = memory.linear(entering(queries), batch * n_q, d_model, d_model, strided=plain and heads_apart)
    K = memory.linear(entering(keys), batch * new, d_model, d_kv, strided=plain and batch > 1)
    V = memory.linear(
        entering(keys), batch * new, d_model, d_kv, strided=plain and num_kv_heads > 1 and new > 1
    )
    if cached:
        all_keys = all_values = memory.given(batch * n_k * d_kv)
    else:
        all_keys, all_values = K, V
    shape = (batch, n_q, n_k, num_heads, num_kv_heads, d_k)
    weights = None
    if fused and dropout and memory.training:  # torch's kernel for a CPU has no dropout
        heads, _ = _plain_steps(memory, Q, all_keys, all_values, shape, bool(cached), dropout, by_torch=True)
        in_order = not heads_apart
    elif fused:
        heads = _fused_steps(memory, Q, all_keys, all_values, shape)
        in_order = num_kv_heads == num_heads or n_q == 1  # the kernel writes as the queries lie
    else:
        heads, weights = _plain_steps(memory, Q, all_keys, all_values, shape, bool(cached), dropout)
        in_order = not heads_apart
    merged = heads if in_order else memory.clone(heads)
    output = memory.linear(merged, batch * n_q, d_model, d_model)
    return (output,) if weights is None else (output, weights)


def _plain_steps(
    memory: Memory,
    Q: Table,
    K: Table,
    V: Table,
    shape: tuple[int, ...],
    cached: bool,
    dropout: bool,
    *,
    by_torch: bool = False,
) -> tuple[Table, Table]:
    """`scaled_dot_product_attention` with weights, ours or torch's own plain formula.

    The heads of several sequences do not lie at equal steps in memory, so that a batched product copies them first (in
    bfloat16, on a CPU, those of a single one too). Those of a cache do.
    """
    batch, n_q, n_k, num_heads, num_kv_heads, _ = shape
    several = batch > 1 or memory.dtype == "bfloat16"
    strided = several and num_heads > 1 and n_q > 1
    copies_q = (
        n_q > 1 if num_kv_heads < num_heads else strided
    )  # heads that share keys become rows of one table
    copies_k = several and num_kv_heads > 1 and n_k > 1 and not cached
    scaled = memory.scaled(Q)
    scaled_keys = memory.scaled(K) if by_torch else K
    scores = _product(memory, scaled, scaled_keys, batch * num_heads * n_q * n_k, copies_q, copies_k)
    del scaled, scaled_keys
    weights = memory.from_output(scores)
    if by_torch:
        del scores
    dropped = memory.dropout(weights) if dropout else weights
    heads = _product(memory, dropped, V, Q.elements, False, copies_k, strided)
    return heads, weights


def _product(
    memory: Memory, a: Table, b: Table, elements: int, copies_a: bool, copies_b: bool, strided: bool = False
) -> Table:
    a = memory.clone(a) if copies_a else a
    b = memory.clone(b) if copies_b else b
    return memory.product(a, b, elements, strided=strided)


def _fused_steps(memory: Memory, Q: Table, K: Table, V: Table, shape: tuple[int, ...]) -> Table:
    """torch's fused kernel on a CPU: a block of scores at a time, and the logarithm of each row's sum is kept."""
    batch, n_q, n_k, num_heads, num_kv_heads, d_k = shape
    grouped = num_kv_heads < num_heads and n_q > 1
    if grouped:  # heads that share their keys become rows of one table
        Q = memory.clone(Q)
    rows = n_q * (num_heads // num_kv_heads)
    block_q = min(rows, 256 if rows >= 768 else 64 if rows >= 192 else 32)
    block_k = min(n_k, 512)
    itemsize = max(4, memory.itemsize)  # the kernel adds up in float32 at least
    output, sums = memory.take(Q.elements), memory.take(batch * num_heads * n_q, itemsize)
    memory.take(block_q * (block_k + 2 + d_k), itemsize)  # let go at once
    of_q, of_k = Q.elements, K.elements

    def backward(grads: list[Storage | None]) -> list[Storage]:
        results = [memory.take(of_q), memory.take(of_k), memory.take(of_k)]
        _ordered = memory.take(of_q if grouped and num_kv_heads > 1 else 0)
        memory.take(2 * block_q * block_k, itemsize)
        return results

    saved = [Q.storage, K.storage, V.storage, output, sums]
    return memory.made(output, of_q, [Q, K, V], backward, saved)


def block_steps(
    memory: Memory,
    x: Table,
    *,
    batch: int,
    n: int,
    d_model: int,
    num_heads: int,
    d_ff: int,
    num_kv_heads: int,
    fused: bool,
    cached: int = 0,
    dropout: bool = False,
    strided: bool = False,
    dtype: str = "",
) -> tuple[Table, ...]:
    """`TransformerBlock.forward`, post-norm."""

    def dropped(x: Table) -> Table:
        return memory.dropout(x) if dropout else x

    attended, *weights = attention_steps(
        memory,
        x,
        x,
        batch=batch,
        n_q=n,
        n_k=n + cached,
        d_model=d_model,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        fused=fused,
        cached=cached,
        dropout=dropout,
        strided=strided,
    )
    x = memory.add(x, dropped(attended))
    x = memory.layer_norm(x, d_model)
    hidden = memory.linear(x, batch * n, d_model, d_ff)
    hidden = memory.from_output(hidden)
    hidden = dropped(hidden)
    hidden = memory.linear(hidden, batch * n, d_ff, d_model)
    hidden = dropped(hidden)
    total = memory.add(x, hidden)
    del hidden
    return memory.layer_norm(total, d_model), *weights
