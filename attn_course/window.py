"""Sliding-window attention: every position sees its neighbourhood only, and the cost grows with n, not n²."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attn_course.cnn import _grad_needed, _traced
from attn_course.transformer import scaled_dot_product_attention

__all__ = ["sliding_window_attention", "sliding_window_mask"]

# Queries share their keys in blocks of so many. Smaller blocks meet fewer keys in vain (`block + 2·window` each), but
# products of very small matrices are slow. Measured on two CPU cores with windows from 16 to 512.
_BLOCK = 32
# Rows that are taken at a time at both ends of the sequence, and in the backward pass.
_ROWS = 64


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
    positions, and each block meets the `b + 2·window` keys that its queries can reach, no others. The blocks of keys
    are overlapping views, not copies.

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

    Cost: `2·n·(2·window + 1)·(d_k + d_v)` FLOPs per head that count; those that are done are more by
    `(b + 2·window) / (2·window + 1)`, with `b = 32` on a CPU. Memory for the output, twice, when `d_v = d_k`; a
    backward pass adds the gradients. Where torch has no fused kernel, `n·(b + 2·window)` scores come on top.

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
    if q.shape[-1] < 1:
        raise ValueError(f"q and k must have a width d_k of at least 1, got {shapes}")
    ahead = 0 if is_causal else window
    block = _BLOCK if q.device.type == "cpu" else max(window, _BLOCK)
    if n < window + block + ahead:  # one block would reach everything anyway
        mask = sliding_window_mask(n, window, is_causal=is_causal, device=q.device)
        return scaled_dot_product_attention(q, k, v, mask, need_weights=False)[0]

    shape = (*q.shape[:-1], v.shape[-1])
    q, k, v = (x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:]) for x in (q, k, v))
    if q.device.type == "cpu" and _grad_needed(q, k, v) and not _traced():
        return _WindowAttention.apply(q, k, v, window, ahead, block).view(shape)
    return _by_blocks(q, k, v, window, ahead, block).view(shape)


def _by_blocks(q: Tensor, k: Tensor, v: Tensor, window: int, ahead: int, block: int) -> Tensor:
    """`(L, n, d)` → `(L, n, d_v)`: all blocks whose keys lie inside the sequence at once, then both of its ends."""
    n, size = q.shape[1], window + block + ahead
    n_blocks = (n - window - ahead) // block
    end = window + n_blocks * block  # the blocks' queries begin at `window`, whose first key is 0
    queries = q[:, window:end].unflatten(1, (n_blocks, block))
    keys, values = (x.unfold(1, size, block).transpose(-2, -1) for x in (k, v))
    mask = _band(slice(window, window + block), slice(0, size), window, ahead, q.device)

    output = v.new_empty(*q.shape[:2], v.shape[-1])
    output[:, window:end].unflatten(1, (n_blocks, block)).copy_(
        F.scaled_dot_product_attention(queries, keys, values, mask)
    )
    for first, last in ((0, window), (end, n)):
        for rows, reach in _rows(first, last, n, window, ahead):
            mask = _band(rows, reach, window, ahead, q.device)
            output[:, rows] = F.scaled_dot_product_attention(q[:, rows], k[:, reach], v[:, reach], mask)
    return output


class _WindowAttention(torch.autograd.Function):
    """`_by_blocks`; the backward pass computes the weights again, a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int, ahead: int, block: int) -> Tensor:
        output = _by_blocks(q, k, v, window, ahead, block)
        ctx.save_for_backward(q, k, v, output)
        ctx.reach = window, ahead
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, output = ctx.saved_tensors
        (grad,) = grads
        window, ahead = ctx.reach
        scale = 1 / math.sqrt(q.shape[-1])
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for rows, reach in _rows(0, q.shape[1], q.shape[1], window, ahead):
            mask = _band(rows, reach, window, ahead, q.device)
            scores = scale * torch.bmm(q[:, rows], k[:, reach].transpose(1, 2))
            weights = scores.masked_fill_(~mask, -math.inf).softmax(-1)
            grad_weights = torch.bmm(grad[:, rows], v[:, reach].transpose(1, 2))
            # Softmax: d_scores = weights * (d_weights - sum of weights * d_weights); that sum is output . grad.
            mean = (output[:, rows] * grad[:, rows]).sum(-1, keepdim=True)
            grad_scores = scale * weights * (grad_weights - mean)
            grad_q[:, rows] = torch.bmm(grad_scores, k[:, reach])
            grad_k[:, reach].baddbmm_(grad_scores.transpose(1, 2), q[:, rows])
            grad_v[:, reach].baddbmm_(weights.transpose(1, 2), grad[:, rows])
        return grad_q, grad_k, grad_v, None, None, None


def _rows(first: int, last: int, n: int, window: int, ahead: int) -> Iterator[tuple[slice, slice]]:
    """The queries from `first` to `last`, a few at a time, and the keys that they reach."""
    for start in range(first, last, _ROWS):
        end = min(start + _ROWS, last)
        yield slice(start, end), slice(max(0, start - window), min(n, end + ahead))


def _band(rows: slice, reach: slice, window: int, ahead: int, device: torch.device) -> Tensor:
    """The mask of the band, for these queries and these keys."""
    query = torch.arange(rows.start, rows.stop, device=device)[:, None]
    key = torch.arange(reach.start, reach.stop, device=device)
    return (key >= query - window) & (key <= query + ahead)


def _check_window(window: int) -> None:
    if window < 0:
        raise ValueError(f"window must be at least 0, got {window}")
