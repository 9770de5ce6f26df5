"""Sliding-window attention: every position sees its neighbourhood only, and the cost grows with n, not n²."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attn_course.transformer import scaled_dot_product_attention

__all__ = ["sliding_window_attention", "sliding_window_mask"]

# Queries share their keys in blocks of at least this many, as products of very small matrices are slow.
_MIN_BLOCK = 32


def sliding_window_mask(
    n: int, window: int, *, is_causal: bool = False, device: torch.device | str | None = None
) -> Tensor:
    """The mask of a band: True where `|query - key| ≤ window`.

    Args:
        n: length of the sequence.
        window: reach on each side; `2·window + 1` keys a query, itself included.
        is_causal: only the keys up to the query itself, `window + 1` of them.
        device: where to make the mask; the default device if None.

    Returns:
        Bool `(n, n)`, row = query, column = key.

    Raises:
        ValueError: for a negative `n` or `window`.
    """
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    _check_window(window)
    band = torch.ones(n, n, dtype=torch.bool, device=device).triu(-window)
    return band.tril(0 if is_causal else window)


def sliding_window_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int, *, is_causal: bool = False, need_weights: bool = False
) -> Any:
    """Attention in which every query sees the `window` positions on each side, and itself.

    `softmax(q kᵀ / √d_k) v` under `sliding_window_mask(n, window)`. The queries are taken in blocks of `b`
    positions, and each block meets the `b + 2·window` keys that its queries can reach, no others.

    Args:
        q: `(…, n, d_k)`.
        k: `(…, n, d_k)`.
        v: `(…, n, d_v)`.
        window: reach on each side; any size from 0, also beyond `n`.
        is_causal: only the keys up to the query itself.
        need_weights: True returns the weights as well, as the whole map, which takes the time and the memory of
            full attention: it is for looking at.

    Returns:
        The output `(…, n, d_v)`, or `(output, weights (…, n, n))` with `need_weights=True`.

    Cost: `2·n·(2·window + 1)·(d_k + d_v)` FLOPs per head that count, about 1.5 times as many that are done;
    memory of `n·window` elements at most.

    Raises:
        ValueError: for a negative window, or shapes that do not fit each other.

    Beltagy et al., Longformer, 2020 (arXiv:2004.05150), section 3.1.
    """
    _check_window(window)
    shapes = [tuple(x.shape) for x in (q, k, v)]
    if any(x.ndim < 2 for x in (q, k, v)) or not q.shape[:-1] == k.shape[:-1] == v.shape[:-1]:
        raise ValueError(
            f"q, k and v must be (…, n, d) with equal leading dimensions and length n, got {shapes}"
        )
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q and k must have one width d_k, got {shapes}")

    n = q.shape[-2]
    if need_weights:
        mask = sliding_window_mask(n, window, is_causal=is_causal, device=q.device)
        return scaled_dot_product_attention(q, k, v, mask)
    ahead = 0 if is_causal else window
    block = max(window, _MIN_BLOCK)
    if n <= block + window + ahead:  # one block would reach everything anyway
        mask = sliding_window_mask(n, window, is_causal=is_causal, device=q.device)
        return scaled_dot_product_attention(q, k, v, mask, need_weights=False)[0]

    n_blocks = -(-n // block)
    rest = n_blocks * block - n
    size = window + block + ahead
    queries = _pieces(q, block, block, 0, rest)
    keys = _pieces(k, size, block, window, ahead + rest)
    values = _pieces(v, size, block, window, ahead + rest)

    # In the block that starts at s, row i is the query s + i, and column j is the key s - window + j.
    row = torch.arange(block, device=q.device)[:, None]
    column = torch.arange(size, device=q.device)
    band = (column >= row) & (column <= row + window + ahead)
    key = torch.arange(n_blocks, device=q.device)[:, None, None] * block - window + column
    mask = band & (key >= 0) & (key < n)

    output = scaled_dot_product_attention(queries, keys, values, mask, need_weights=False)[0]
    return output.flatten(1, 2)[:, :n].reshape(*q.shape[:-1], v.shape[-1])


def _pieces(x: Tensor, size: int, step: int, before: int, after: int) -> Tensor:
    """`(…, n, d)` → `(L, n_blocks, size, d)`: pieces of the padded sequence, overlapping, not copied."""
    padded = F.pad(x, (0, 0, before, after))
    flat = padded.reshape(math.prod(x.shape[:-2]), *padded.shape[-2:])
    return flat.unfold(1, size, step).transpose(-2, -1)


def _check_window(window: int) -> None:
    if window < 0:
        raise ValueError(f"window must be at least 0, got {window}")
