"""Sliding-window attention."""

from __future__ import annotations

from collections.abc import Iterator

from .core import FUSED_ATTENTION, SOFTMAX, Cost, check_size, in_bytes
from .memory import Memory, Storage, Table, peaks

# Those of attn_course/window.py on a CPU; a test holds them to be the same.
BLOCK = 32
ROWS = 64


def window_pairs(n: int, window: int, *, is_causal: bool = False) -> int:
    """How many pairs lie within a window: `|query - key| ≤ window`, and `key ≤ query` if causal."""
    for name, value in {"n": n, "window": window, "is_causal": is_causal}.items():
        check_size(name, value)
    reach = min(window, n - 1)
    one_side = (
        n * reach - reach * (reach + 1) // 2
    )  # pairs with key < query: n - 1, n - 2, … for each distance
    return n + one_side if is_causal else n + 2 * one_side


def sliding_window_attention(
    *,
    batch: int,
    num_heads: int,
    n: int,
    d_k: int,
    window: int,
    is_causal: bool = False,
    dtype: str = "float32",
) -> Cost:
    """`sliding_window_attention`: the pairs within the window, not what an implementation pads them to."""
    pairs = batch * num_heads * window_pairs(n, window, is_causal=is_causal)
    sequences = batch * num_heads
    rows = sequences * n * d_k
    ahead = 0 if is_causal else window

    def steps(memory: Memory, q: Table, k: Table, v: Table) -> tuple[Table, ...]:
        if n < window + BLOCK + ahead:
            return (_dense_steps(memory, q, k, v, sequences, n),)
        return (_block_steps(memory, q, k, v, sequences, n, window, ahead),)

    return Cost(
        mechanism="sliding-window-attention",
        sizes={
            "batch": batch,
            "num_heads": num_heads,
            "n": n,
            "d_k": d_k,
            "window": window,
            "is_causal": is_causal,
            "dtype": dtype,
        },
        terms={"scores": 2 * pairs * d_k, "weighted sum": 2 * pairs * d_k},
        elementwise_terms={"scale": rows, "softmax": SOFTMAX * pairs},
        parameters=0,
        moved_terms=in_bytes({FUSED_ATTENTION: 4 * rows}, dtype),
        **peaks(dtype, steps, rows, rows, rows),
        training_flops=14 * pairs * d_k,  # the scores once more, and two products for each of the two
        done_flops=4 * sequences * _done_pairs(n, window, ahead) * d_k,
    )


def _done_pairs(n: int, window: int, ahead: int) -> int:
    """The pairs that `sliding_window_attention` computes on a CPU, those that it masks included."""
    if n < window + BLOCK + ahead:
        return n * n
    blocks = (n - window - ahead) // BLOCK
    inside = blocks * BLOCK * (window + BLOCK + ahead)
    return inside + sum(rows * reach for rows, reach in _ends(n, window, ahead))


def _ends(n: int, window: int, ahead: int) -> Iterator[tuple[int, int]]:
    """Queries and keys of each step at both ends of the sequence, where the blocks do not fit."""
    end = window + (n - window - ahead) // BLOCK * BLOCK
    for first, last in ((0, window), (end, n)):
        for start in range(first, last, ROWS):
            stop = min(start + ROWS, last)
            yield stop - start, min(n, stop + ahead) - max(0, start - window)


# --- Peak memory --------------------------------------------------------------------------------------------


def _dense_steps(memory: Memory, q: Table, k: Table, v: Table, sequences: int, n: int) -> Table:
    """One block would reach everything: torch's kernel under the mask of the band."""
    elements = q.elements
    _masks = [memory.take(n * n, 1), memory.take(n * n, 1)]
    output = _kernel(memory, sequences, n, n, elements // (sequences * n))

    def backward(grads: list[Storage | None]) -> list[Storage]:
        grads[0] = memory.take(elements)
        results = [memory.take(elements) for _ in range(3)]
        _ordered = memory.take(elements)
        memory.take(2 * min(n, 256 if n >= 768 else 64) * min(n, 512))
        return results

    saved = [q.storage, k.storage, v.storage, *output, *_masks[1:]]
    return memory.made(memory.take(elements), elements, [q, k, v], backward, saved)


def _kernel(memory: Memory, sequences: int, n_q: int, n_k: int, d_k: int) -> list[Storage]:
    """torch's fused kernel: the output, the logarithms of the sums, the mask as numbers; scratch, let go at once."""
    itemsize = max(4, memory.itemsize)
    block_q = min(n_q, 256 if n_q >= 768 else 64 if n_q >= 192 else 32)
    kept = [
        memory.take(n_q * n_k),
        memory.take(sequences * n_q * d_k),
        memory.take(sequences * n_q, itemsize),
    ]
    memory.take(block_q * (min(n_k, 512) + 2 + d_k), itemsize)
    return kept


def _block_steps(
    memory: Memory, q: Table, k: Table, v: Table, sequences: int, n: int, window: int, ahead: int
) -> Table:
    """`_by_blocks`, and the backward pass of `_WindowAttention`, some rows at a time."""
    elements, d_k = q.elements, q.elements // (sequences * n)
    blocks, size = (n - window - ahead) // BLOCK, window + BLOCK + ahead
    output = memory.take(elements)
    working = [memory.take(BLOCK * size, 1)]
    working += _kernel(memory, sequences * blocks, BLOCK, size, d_k)
    working.clear()

    scores = sequences * min(ROWS, n) * min(n, ROWS + window + ahead)

    def backward(grads: list[Storage | None]) -> list[Storage]:
        results = [memory.take(elements) for _ in range(3)]
        _working = [memory.take(scores) for _ in range(7)]
        memory.take(sequences * min(ROWS, n))
        return results

    for rows, reach in _ends(n, window, ahead):  # by torch's plain formula
        pairs = sequences * rows * reach
        _scaled, keys = memory.take(sequences * rows * d_k), memory.take(sequences * reach * d_k)
        products = memory.take(pairs)
        del keys
        _weights, _empty_rows = memory.take(pairs), memory.take(pairs, 1)
        del _scaled, products, _weights, _empty_rows
    return memory.made(output, elements, [q, k, v], backward, [q.storage, k.storage, v.storage, output])
