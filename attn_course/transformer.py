"""Transformer attention: scaled dot product, masks, heads, and the block that is built from them.

Shapes: `B` batch, `n_q` queries, `n_k` keys, `d_model` width, `h` heads, `d_k = d_model / h`; `h_kv` heads of keys
and values, fewer than `h` in grouped-query attention.
A mask is True (or non-zero) where attention is allowed; a bias is added to the scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "KeyValueCache",
    "MultiHeadAttention",
    "TransformerBlock",
    "causal_mask",
    "masked_softmax",
    "merge_heads",
    "padding_mask",
    "scaled_dot_product_attention",
    "split_heads",
    "transformer_example",
]


def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    need_weights: bool = True,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Look every query up among the keys and return the mean of the values, weighted by the match.

    `softmax(q kᵀ / √d_k + bias) v`, where masked keys get the weight 0, exactly.

    A query that may attend nowhere gets zeros: weights, output and gradients.

    Args:
        q: `(…, n_q, d_k)`.
        k: `(…, n_k, d_k)`, with the leading dimensions of `q`.
        v: `(…, n_k, d_v)`, likewise.
        mask: True (or 1) where a query may attend; broadcasts to `(…, n_q, n_k)`. Two dimensions mean
            `(n_q, n_k)`; padding is `(B, 1, 1, n_k)`, see `padding_mask`.
        bias: added to the scores; broadcasts likewise. A key with the bias -inf is masked.
        dropout_p: share of the weights that is dropped at random. Applied in every call, as in `F.dropout`;
            the returned weights are those before dropout.
        is_causal: the last query sees every key, the one before it all but the last key, and so on. With
            `n_q == n_k` that is `causal_mask(n)`; with fewer queries than keys, the queries are the last
            ones of the sequence, as in generation with a cache. (`F.scaled_dot_product_attention` counts
            from the first query instead.)
        need_weights: False computes the same output with the fused kernel, which keeps no weights.
        enable_gqa: grouped-query attention: `k` and `v` may have fewer heads than `q`, in dimension -3, of which
            each serves `h / h_kv` neighbouring heads of queries. As if the keys and values were repeated by
            `repeat_interleave(h // h_kv, dim=-3)`, which is not done.

    Returns:
        The output `(…, n_q, d_v)`, and the weights `(…, n_q, n_k)` or None.

    Cost: `2·n_q·n_k·(d_k + d_v)` FLOPs per head, and `n_q·n_k` weights in memory when they are needed.

    Raises:
        ValueError: for shapes that do not fit each other, a float mask that is not 0 and 1, a bool bias,
            or a dropout outside [0, 1).

    Vaswani et al., Attention Is All You Need, 2017 (arXiv:1706.03762), section 3.2.1; groups: Ainslie et al.,
    GQA, 2023 (arXiv:2305.13245).
    """
    _check_qkv(q, k, v, enable_gqa)
    _check_dropout(dropout_p)
    n_q, n_k = q.shape[-2], k.shape[-2]
    if mask is not None:
        mask = _as_mask(mask, (*q.shape[:-1], n_k))
    if bias is not None:
        bias = _as_bias(bias, (*q.shape[:-1], n_k)).to(q.dtype)

    if not need_weights:
        return _fused_attention(q, k, v, mask, bias, dropout_p, is_causal), None

    if is_causal:
        causal = _causal_mask(n_q, n_k, q.device)
        mask = causal if mask is None else mask & causal
    if bias is not None:
        allowed = bias != -math.inf
        mask = allowed if mask is None else mask & allowed

    scores = _group_product(q / math.sqrt(q.shape[-1]), k.transpose(-2, -1))
    if bias is not None:
        scores = scores + bias
    weights = masked_softmax(scores, mask)
    output = _group_product(F.dropout(weights, dropout_p) if dropout_p > 0 else weights, v)
    return output, weights


def _group_rows(x: Tensor, num_kv_heads: int) -> Tensor:
    """`(…, h, n, d)` → `(…, h_kv, h / h_kv · n, d)`: the rows of the heads that share their keys, in one table."""
    return x.reshape(*x.shape[:-3], num_kv_heads, -1, x.shape[-1])


def _group_product(x: Tensor, y: Tensor) -> Tensor:
    """`x @ y`, where each head of `y` may serve several of `x`; nothing of `y` is repeated."""
    if x.shape[:-2] == y.shape[:-2]:
        return x @ y
    return (_group_rows(x, y.shape[-3]) @ y).reshape(*x.shape[:-1], y.shape[-1])


def _fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    dropout_p: float,
    is_causal: bool,
) -> Tensor:
    """The output of `scaled_dot_product_attention` from torch's kernel.

    Kernels disagree on two things, so neither is left to them: a causal mask together with another one or
    with `n_q != n_k` (made here), and rows without any key (they attend everywhere, and are zeroed after).

    A bias costs one copy of itself, whatever mask comes with it. On a CPU, torch falls back to the plain
    formula, with all its memory, for a bias that needs a gradient, and for dropout.

    Heads that share their keys become rows of one table where nothing tells them apart, and are left to the
    kernel's own way otherwise. (One query on 2048 keys, 8 heads on 2, two cores: 0.7 of that way's time.)
    """
    n_q, n_k = q.shape[-2], k.shape[-2]
    if n_q == 1:
        is_causal = False  # the last query sees every key
    if is_causal and (mask is not None or bias is not None or n_q != n_k):
        causal = _causal_mask(n_q, n_k, q.device)
        mask = causal if mask is None else mask & causal
        is_causal = False

    shape = (*q.shape[:-1], v.shape[-1])
    q, k, v = _at_least_4d(q), _at_least_4d(k), _at_least_4d(v)  # fewer dimensions miss the fast kernels
    attn_mask = row_sees = None
    if bias is not None:
        attn_mask, row_sees = _mask_in_bias(bias, mask)
    elif mask is not None:
        row_sees = mask.any(dim=-1, keepdim=True)
        attn_mask = mask | ~row_sees
    if attn_mask is not None:
        attn_mask = _at_least_4d(attn_mask)
    options: dict[str, bool] = {}
    if k.shape[-3] != q.shape[-3]:
        if not is_causal and (attn_mask is None or attn_mask.shape[-3:-1] == (1, 1)):
            q = _group_rows(q, k.shape[-3])
        else:
            options["enable_gqa"] = True
    output = F.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p, is_causal, **options)
    output = output.reshape(shape)
    return output if row_sees is None else output * row_sees


def _mask_in_bias(bias: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The bias with -inf where masked and 0 in rows that see no key, and which rows see one."""
    masked = bias.clone() if mask is None else bias.masked_fill(~mask, -math.inf)
    if masked.shape[-1] == 0:
        return masked, masked.new_zeros((*masked.shape[:-1], 1), dtype=torch.bool)
    row_sees = masked.detach().amax(dim=-1, keepdim=True) != -math.inf
    return masked.masked_fill_(~row_sees, 0.0), row_sees


def masked_softmax(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over the last dimension among the allowed entries; exactly 0 elsewhere.

    `exp(scores_j) / Σ exp(scores_l)`, the sum running over the `l` with `mask_l` True. A row with nothing
    allowed is all zeros, with zero gradients, in every dtype.

    Args:
        scores: `(…, n_q, n_k)`.
        mask: True (or 1) where allowed; broadcasts to the shape of `scores`.

    Returns:
        The weights, in the shape of `scores`.

    Raises:
        ValueError: for a mask that does not broadcast to `scores`, or a float mask that is not 0 and 1.
    """
    if mask is None:
        return F.softmax(scores, dim=-1)
    mask = _as_mask(mask, scores.shape)
    # exp(-inf) is 0 in every dtype, but a row of nothing else would become NaN: a row with nothing allowed
    # is therefore filled with 0, and its weights are cleared afterwards.
    row_sees = mask.any(dim=-1, keepdim=True)
    fill = torch.zeros_like(row_sees, dtype=scores.dtype).masked_fill(row_sees, -math.inf)
    return F.softmax(torch.where(mask, scores, fill), dim=-1) * row_sees


def causal_mask(n: int, *, device: torch.device | str | None = None) -> Tensor:
    """The mask under which no position sees a later one: True on and below the diagonal.

    Args:
        n: length of the sequence.
        device: where to make the mask; the default device if None.

    Returns:
        Bool `(n, n)`, row = query, column = key.

    Raises:
        ValueError: for a negative `n`.
    """
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    return _causal_mask(n, n, device)


def padding_mask(lengths: Tensor, n: int) -> Tensor:
    """The mask that hides the padding at the end of each sequence of a batch.

    Args:
        lengths: int `(B,)`, the number of real tokens of each sequence.
        n: the length to which the sequences are padded.

    Returns:
        Bool `(B, 1, 1, n)`, True for real tokens: one row of keys per sequence, for all heads and queries.

    Raises:
        ValueError: for lengths that are not a vector of integers between 0 and `n`.
    """
    if lengths.ndim != 1:
        raise ValueError(f"lengths must have the shape (B,), got {tuple(lengths.shape)}")
    if lengths.dtype == torch.bool or lengths.is_floating_point() or lengths.is_complex():
        raise ValueError(f"lengths must be integers, got {lengths.dtype}")
    if lengths.numel() > 0 and _has_values(lengths):
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > n:
            raise ValueError(f"lengths must lie between 0 and n = {n}, got values from {low} to {high}")
    return torch.arange(n, device=lengths.device) < lengths[:, None, None, None]


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Cut the width into heads: head `i` gets the channels `i·d_k … (i+1)·d_k - 1`. A view, no copy.

    Args:
        x: `(B, n, d_model)`.
        num_heads: `h`, a divisor of `d_model`.

    Returns:
        `(B, h, n, d_k)`.

    Raises:
        ValueError: if `x` has another rank, or `h` does not divide the width.
    """
    if x.ndim != 3:
        raise ValueError(f"x must have the shape (B, n, d_model), got {tuple(x.shape)}")
    _check_heads(x.shape[-1], num_heads)
    return x.unflatten(-1, (num_heads, x.shape[-1] // num_heads)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Put the heads side by side again: the inverse of `split_heads`.

    Args:
        x: `(B, h, n, d_k)`, contiguous or not.

    Returns:
        `(B, n, h·d_k)`.

    Raises:
        ValueError: if `x` has another rank.
    """
    if x.ndim != 4:
        raise ValueError(f"x must have the shape (B, h, n, d_k), got {tuple(x.shape)}")
    return x.transpose(1, 2).flatten(2)


class KeyValueCache:
    """The keys and values of the tokens so far, for generation: each is computed once and kept.

    The memory for `max_len` tokens is taken at once, and tokens are written behind the last one, so that nothing
    is copied when the sequence grows. `length` says how many there are; set it lower to forget the last ones.

    Args:
        batch: `B`, number of sequences.
        num_kv_heads: `h_kv`, heads of keys and values: those of the `MultiHeadAttention` that it is for.
        max_len: the longest sequence that it can hold.
        d_k: width of a head.
        dtype: of keys and values; the default dtype if None.
        device: where to keep them; the default device if None.

    Cost: `2·h_kv·d_k` numbers for each token of each sequence, in every layer, and all of them are read for every
    token that is generated.

    Raises:
        ValueError: for a size below 1.

    Shazeer, Fast Transformer Decoding: One Write-Head is All You Need, 2019 (arXiv:1911.02150).
    """

    def __init__(
        self,
        batch: int,
        num_kv_heads: int,
        max_len: int,
        d_k: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        sizes = {"batch": batch, "num_kv_heads": num_kv_heads, "max_len": max_len, "d_k": d_k}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        shape = (batch, num_kv_heads, max_len, d_k)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.max_len = max_len
        self.length = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the whole cache, filled or not: `bytes_per_token · B · max_len`."""
        return self.keys.nbytes + self.values.nbytes

    @property
    def bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token of one sequence: `2·h_kv·d_k` numbers."""
        return 2 * self.keys.shape[1] * self.keys.shape[3] * self.keys.element_size()

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values of new tokens behind the others, and return all of them.

        Args:
            k: `(B, h_kv, n_new, d_k)`.
            v: likewise.

        Returns:
            Keys and values of all tokens so far, `(B, h_kv, length, d_k)`: views, not copies.

        Raises:
            ValueError: for another shape, dtype or device than the cache has, for more than `max_len` tokens, and
                for keys or values that need a gradient, which a cache that is written over cannot keep.
        """
        self._check(k, v)
        start, self.length = self.length, self.length + k.shape[2]
        self.keys[:, :, start : self.length] = k
        self.values[:, :, start : self.length] = v
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def _check(self, k: Tensor, v: Tensor) -> None:
        batch, num_kv_heads, _, d_k = self.keys.shape
        for name, x in (("k", k), ("v", v)):
            if x.ndim != 4 or (x.shape[0], x.shape[1], x.shape[3]) != (batch, num_kv_heads, d_k):
                raise ValueError(
                    f"{name} must have the shape (B = {batch}, h_kv = {num_kv_heads}, n_new, d_k = {d_k}) of the "
                    f"cache, got {tuple(x.shape)}"
                )
            if x.dtype != self.keys.dtype or x.device != self.keys.device:
                raise ValueError(
                    f"{name} is {x.dtype} on {x.device}, but the cache holds {self.keys.dtype} on {self.keys.device}"
                )
            if torch.is_grad_enabled() and x.requires_grad:
                raise ValueError(
                    f"{name} needs a gradient, and a cache keeps none: call under torch.no_grad()"
                )
        if k.shape[2] != v.shape[2]:
            raise ValueError(f"k and v must have one length n_new, got {k.shape[2]} and {v.shape[2]}")
        if self.length < 0:
            raise ValueError(f"length must lie between 0 and max_len = {self.max_len}, got {self.length}")
        if self.length + k.shape[2] > self.max_len:
            raise ValueError(
                f"the cache has room for max_len = {self.max_len} tokens: it holds {self.length}, and "
                f"{k.shape[2]} more do not fit"
            )

    def __repr__(self) -> str:
        batch, num_kv_heads, max_len, d_k = self.keys.shape
        return (
            f"KeyValueCache(batch={batch}, num_kv_heads={num_kv_heads}, max_len={max_len}, d_k={d_k}, "
            f"dtype={self.keys.dtype}, length={self.length})"
        )


class MultiHeadAttention(nn.Module):
    """Attention in `h` heads, each with its own queries, keys and values of width `d_k = d_model / h`.

    `concat(head_1, …, head_h) W_o`, where `head_i = attention(query W_q,i, key W_k,i, value W_v,i)`.

    With `num_kv_heads` below `h` (grouped-query attention), each head of keys and values serves `h / h_kv`
    neighbouring heads of queries: their projections and a cache of them shrink by that factor. `num_kv_heads=1`
    is multi-query attention.

    Args:
        d_model: width of the tokens.
        num_heads: `h`, a divisor of `d_model`.
        dropout: share of the weights that is dropped in training.
        num_kv_heads: `h_kv`, a divisor of `h`; `h` if None.

    Cost, forward: `4·B·n_q·d_model² + 4·B·n_k·d_model·h_kv·d_k` FLOPs for the four projections and
    `4·B·n_q·n_k·d_model` for the two products; `B·h·n_q·n_k` weights in memory when they are needed.

    Raises:
        ValueError: if `num_heads` is below 1 or does not divide `d_model`, `num_kv_heads` is below 1 or does not
            divide `num_heads`, or for a dropout outside [0, 1).

    Vaswani et al., Attention Is All You Need, 2017 (arXiv:1706.03762), section 3.2.2; grouped-query attention:
    Ainslie et al., GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints, 2023
    (arXiv:2305.13245); multi-query attention: Shazeer, 2019 (arXiv:1911.02150).
    """

    def __init__(
        self, d_model: int, num_heads: int, dropout: float = 0.1, *, num_kv_heads: int | None = None
    ) -> None:
        super().__init__()
        _check_heads(d_model, num_heads)
        _check_dropout(dropout)
        self.d_model = d_model
        self.num_heads = num_heads
        self.num_kv_heads = _checked_kv_heads(num_heads, num_kv_heads)
        self.d_k = d_model // num_heads
        self.w_q = nn.Linear(d_model, d_model)
        self.w_k = nn.Linear(d_model, self.num_kv_heads * self.d_k)
        self.w_v = nn.Linear(d_model, self.num_kv_heads * self.d_k)
        self.w_o = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def scaled_dot_product_attention(
        self,
        Q: Tensor,
        K: Tensor,
        V: Tensor,
        mask: Tensor | None = None,
        *,
        bias: Tensor | None = None,
        is_causal: bool = False,
        need_weights: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """`scaled_dot_product_attention` on split heads, with this module's dropout.

        `Q` is `(B, h, n_q, d_k)`; `K` and `V` are `(B, h_kv, n_k, d_k)`.
        """
        if mask is not None and mask.ndim == 3 and mask.shape[0] != 1:
            raise ValueError(
                f"a mask of shape {tuple(mask.shape)} could mean one mask per sequence or one per head: "
                f"write mask[:, None] for (B, 1, n_q, n_k), or mask[None] for (1, h, n_q, n_k)"
            )
        return scaled_dot_product_attention(
            Q,
            K,
            V,
            mask,
            bias=bias,
            dropout_p=self.dropout.p if self.dropout.training else 0.0,
            is_causal=is_causal,
            need_weights=need_weights,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        *,
        bias: Tensor | None = None,
        rotary: Callable[..., Tensor] | None = None,
        is_causal: bool = False,
        need_weights: bool = True,
        cache: KeyValueCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Let every query attend to every key it may.

        Args:
            query: `(B, n_q, d_model)`.
            key: `(B, n_k, d_model)`.
            value: `(B, n_k, d_model)`.
            mask: True (or 1) where a query may attend; broadcasts to `(B, h, n_q, n_k)`. Two dimensions mean
                `(n_q, n_k)`. A padding mask `(B, n_k)` is written `mask[:, None, None, :]`: left as it is,
                it is an error, except when `B = n_q`, where the two cannot be told apart and it is taken
                for `(n_q, n_k)`. Three dimensions are refused, as they could be per sequence or per head.
            bias: added to the scores; broadcasts likewise, `(h, n_q, n_k)` included.
            rotary: turns the heads of queries and keys `(B, h, n, d_k)` by their positions, such as a
                `RotaryEmbedding`. Both count from 0; with `is_causal` and fewer queries than keys, the queries
                are the last ones here too, and it is called with `offset=n_k - n_q`.
            is_causal: no query sees a later key; the last query sees every key.
            need_weights: False takes the fused kernel, which is faster and keeps no weights.
            cache: the keys and values of the tokens before these ones, for generation without gradients. The
                inputs are the new tokens only, of one length; their keys and values are added to the cache, and
                `n_k` is then its new length, also for `mask` and `bias`. With `is_causal` a query sees the cached
                keys and the new ones up to its own; `rotary` gets `offset=cache.length`. The outputs are those that
                the whole sequence would give at once.

        Returns:
            The output `(B, n_q, d_model)`, and the weights before dropout `(B, h, n_q, n_k)` or None.
            A query that may attend nowhere gets zero weights, hence the bias of `w_o` as its output.

        Raises:
            ValueError: for inputs or masks whose shapes do not fit.
        """
        self._check_inputs(query, key, value)
        if cache is not None and query.shape[1] != key.shape[1]:
            raise ValueError(
                f"with a cache, query and key are the new tokens and must have one length, "
                f"got {query.shape[1]} and {key.shape[1]}"
            )
        Q = split_heads(self.w_q(query), self.num_heads)
        K = split_heads(self.w_k(key), self.num_kv_heads)
        V = split_heads(self.w_v(value), self.num_kv_heads)
        if rotary is not None:
            Q, K = _turn_heads(rotary, Q, K, is_causal, 0 if cache is None else cache.length)
        if cache is not None:
            K, V = cache.append(K, V)
        heads, weights = self.scaled_dot_product_attention(
            Q, K, V, mask, bias=bias, is_causal=is_causal, need_weights=need_weights
        )
        return self.w_o(merge_heads(heads)), weights

    def _check_inputs(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        for name, x in (("query", query), ("key", key), ("value", value)):
            if x.ndim != 3 or x.shape[-1] != self.d_model:
                raise ValueError(
                    f"{name} must have the shape (B, n, d_model = {self.d_model}), got {tuple(x.shape)}"
                )
        if key.shape[0] != query.shape[0] or value.shape[0] != query.shape[0]:
            raise ValueError(
                f"query, key and value must have one batch size, got "
                f"{query.shape[0]}, {key.shape[0]} and {value.shape[0]}"
            )
        if key.shape[1] != value.shape[1]:
            raise ValueError(
                f"key and value must have one length n_k, got {key.shape[1]} and {value.shape[1]}"
            )

    def extra_repr(self) -> str:
        groups = "" if self.num_kv_heads == self.num_heads else f", num_kv_heads={self.num_kv_heads}"
        return f"d_model={self.d_model}, num_heads={self.num_heads}{groups}"


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward network, each with a residual connection and layer normalisation.

    Post-norm (the default): `x ← norm1(x + attention(x))`, `x ← norm2(x + feed_forward(x))`.
    Pre-norm: `x ← x + attention(norm1(x))`, `x ← x + feed_forward(norm2(x))`.

    Args:
        d_model: width of the tokens.
        num_heads: `h`, a divisor of `d_model`.
        d_ff: hidden width of the feed-forward network.
        dropout: share of the weights, of the hidden units and of both branches that is dropped in training.
        norm_first: pre-norm, where the residual stream itself is never normalised.
        num_kv_heads: as in `MultiHeadAttention`.

    Cost, forward: that of `MultiHeadAttention`, and `4·B·n·d_model·d_ff` FLOPs.

    Raises:
        ValueError: as `MultiHeadAttention`, and for a `d_ff` below 1.

    Vaswani et al., 2017 (arXiv:1706.03762); pre-norm: Xiong et al., On Layer Normalization in the
    Transformer Architecture, 2020 (arXiv:2002.04745).
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int,
        dropout: float = 0.1,
        *,
        norm_first: bool = False,
        num_kv_heads: int | None = None,
    ) -> None:
        super().__init__()
        if d_ff < 1:
            raise ValueError(f"d_ff must be at least 1, got {d_ff}")
        self.attention = MultiHeadAttention(d_model, num_heads, dropout, num_kv_heads=num_kv_heads)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, d_ff), nn.ReLU(), nn.Dropout(dropout), nn.Linear(d_ff, d_model)
        )
        self.dropout = nn.Dropout(dropout)
        self.norm_first = norm_first

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        bias: Tensor | None = None,
        rotary: Callable[..., Tensor] | None = None,
        is_causal: bool = False,
        need_weights: bool = True,
        cache: KeyValueCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the new tokens `(B, n, d_model)`, and the weights `(B, h, n, n)` or None.

        `x` is `(B, n, d_model)`; everything else is as in `MultiHeadAttention.forward`. Every block needs a `cache`
        of its own.
        """
        tokens = self.norm1(x) if self.norm_first else x
        attended, weights = self.attention(
            tokens,
            tokens,
            tokens,
            mask,
            bias=bias,
            rotary=rotary,
            is_causal=is_causal,
            need_weights=need_weights,
            cache=cache,
        )
        x = x + self.dropout(attended)
        if self.norm_first:
            return x + self.dropout(self.feed_forward(self.norm2(x))), weights
        x = self.norm1(x)
        return self.norm2(x + self.dropout(self.feed_forward(x))), weights


def transformer_example() -> tuple[Tensor, Tensor]:
    """Send random tokens through one block, print the shapes, and return output and weights."""
    batch_size, seq_len, d_model = 2, 10, 512
    num_heads, d_ff = 8, 2048

    x = torch.randn(batch_size, seq_len, d_model)
    transformer = TransformerBlock(d_model, num_heads, d_ff)
    output, attention_weights = transformer(x)

    print(f"Input shape: {x.shape}")
    print(f"Output shape: {output.shape}")
    print(f"Attention weights shape: {attention_weights.shape}")
    return output, attention_weights


def _causal_mask(n_q: int, n_k: int, device: torch.device | str | None) -> Tensor:
    return torch.ones(n_q, n_k, dtype=torch.bool, device=device).tril(n_k - n_q)


def _turn_heads(
    rotary: Callable[..., Tensor], Q: Tensor, K: Tensor, is_causal: bool, cached: int
) -> tuple[Tensor, Tensor]:
    before = K.shape[-2] - Q.shape[-2] if is_causal else 0  # keys before the first query
    first_q, first_k = cached + max(before, 0), cached + max(-before, 0)
    turned_q = rotary(Q, offset=first_q) if first_q > 0 else rotary(Q)
    turned_k = rotary(K, offset=first_k) if first_k > 0 else rotary(K)
    for name, turned, heads in (("queries", turned_q, Q), ("keys", turned_k, K)):
        if turned.shape != heads.shape:
            raise ValueError(
                f"rotary must keep the shape of the {name} {tuple(heads.shape)}, got {tuple(turned.shape)}"
            )
    return turned_q, turned_k


def _at_least_4d(x: Tensor) -> Tensor:
    return x[(None,) * (4 - x.ndim)] if x.ndim < 4 else x


def _has_values(x: Tensor) -> bool:
    """Whether the values of `x` can be looked at: not on the meta device, in a fake tensor, or in a compiler."""
    return type(x) is Tensor and not x.is_meta and not torch.compiler.is_compiling()


def _check_heads(d_model: int, num_heads: int) -> None:
    if num_heads < 1:
        raise ValueError(f"num_heads must be at least 1, got {num_heads}")
    if d_model < 1:
        raise ValueError(f"d_model must be at least 1, got {d_model}")
    if d_model % num_heads != 0:
        raise ValueError(f"num_heads must divide d_model, got num_heads = {num_heads}, d_model = {d_model}")


def _checked_kv_heads(num_heads: int, num_kv_heads: int | None) -> int:
    if num_kv_heads is None:
        return num_heads
    if num_kv_heads < 1 or num_heads % num_kv_heads != 0:
        raise ValueError(
            f"num_kv_heads must be at least 1 and divide num_heads, got num_kv_heads = {num_kv_heads}, "
            f"num_heads = {num_heads}"
        )
    return num_kv_heads


def _check_dropout(p: float) -> None:
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout must lie in [0, 1), got {p}")


def _check_qkv(q: Tensor, k: Tensor, v: Tensor, enable_gqa: bool) -> None:
    lead, but = tuple(q.shape[:-2]), ""
    if enable_gqa:
        but = ", but for heads of k and v that divide those of q"
        if q.ndim == k.ndim >= 3 and k.shape[-3] > 0 and q.shape[-3] % k.shape[-3] == 0:
            lead = (*lead[:-1], k.shape[-3])
    if q.ndim < 2 or k.ndim < 2 or v.ndim < 2:
        problem = "q, k and v must be (…, n, d)"
    elif tuple(k.shape[:-2]) != lead or tuple(v.shape[:-2]) != lead:
        problem = f"q, k and v must have equal leading dimensions{but}"
    elif q.shape[-1] != k.shape[-1] or q.shape[-1] < 1:
        problem = "q and k must have one width d_k of at least 1"
    elif k.shape[-2] != v.shape[-2]:
        problem = "k and v must have one length n_k"
    else:
        return
    raise ValueError(f"{problem}, got q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}")


def _as_mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask as bool, checked to broadcast to `shape = (…, n_q, n_k)`."""
    if not _broadcasts_to(mask.shape, shape):
        raise ValueError(_shape_message("mask", mask.shape, shape))
    if mask.dtype == torch.bool:
        return mask
    if mask.is_floating_point() and _has_values(mask) and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"a float mask must hold 0 and 1 only (1 = may attend), got values from {mask.min().item():g} "
            f"to {mask.max().item():g}: what is to be added to the scores goes to bias="
        )
    return mask != 0


def _as_bias(bias: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The bias, checked to broadcast to `shape = (…, n_q, n_k)`."""
    if bias.dtype == torch.bool:
        raise ValueError("bias is added to the scores, got torch.bool: who may attend is said by mask=")
    if not _broadcasts_to(bias.shape, shape):
        raise ValueError(_shape_message("bias", bias.shape, shape))
    return bias


def _broadcasts_to(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    if len(shape) > len(target):
        return False
    return all(size in (1, goal) for size, goal in zip(reversed(shape), reversed(target), strict=False))


def _shape_message(name: str, shape: tuple[int, ...], target: tuple[int, ...]) -> str:
    message = f"{name} of shape {tuple(shape)} does not broadcast to (…, n_q, n_k) = {tuple(target)}"
    if len(shape) == 2 and len(target) > 2 and tuple(shape) == (target[0], target[-1]):
        nones = "None, " * (len(target) - 2)
        message += f": two dimensions mean (n_q, n_k), a (B, n_k) {name} is written {name}[:, {nones}:]"
    elif len(shape) == 3 and len(target) == 4 and tuple(shape) == (target[0], *target[2:]):
        message += f": a (B, n_q, n_k) {name} is written {name}[:, None]"
    return message
