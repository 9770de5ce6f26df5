"""Chapter 1, what must not stand beside a submission: solutions, hints and known wrong answers."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .judge import Answer, Mistake

Tensor = torch.Tensor

# ---------------------------------------------------------------------------------- scaled-dot-product


def scaled_dot_product_attention(q, k, v, mask=None):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(mask == 0, float("-inf"))
    weights = torch.softmax(scores, dim=-1)
    return weights @ v, weights


def _attention(
    scale: Callable[..., float] = lambda q, k, v: q.shape[-1] ** -0.5,
    softmax: Callable[[Tensor], Tensor] = lambda s: s.softmax(-1),
    masked: Callable[[Tensor, Tensor], Tensor] = lambda s, m: s.masked_fill(m == 0, -math.inf),
    after: Callable[[Tensor, Tensor | None], Tensor] = lambda w, m: w,
    result: Callable[..., Any] = lambda w, v, s: (w @ v, w),
    turned: Callable[[Tensor], Tensor] = lambda k: k.transpose(-2, -1),
) -> Callable[..., Any]:
    """Attention with one of its steps done differently."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Any:
        scores = q @ turned(k) * scale(q, k, v)
        if mask is not None:
            scores = masked(scores, mask)
        weights = after(softmax(scores), mask)
        return result(weights, v, scores)

    return attend


def _across_the_batch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Any:
    """Every query attends to the keys of the whole batch; the weights shown are those of its own."""
    if q.ndim == 2:
        return scaled_dot_product_attention(q, k, v, mask)
    weights = torch.softmax(q.flatten(0, -2) @ k.flatten(0, -2).T / math.sqrt(q.shape[-1]), dim=-1)
    return (weights @ v.flatten(0, -2)).reshape(*q.shape[:-1], v.shape[-1]), weights


def _weights_scaled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Any:
    _, weights = _attention(scale=lambda q, k, v: 1.0)(q, k, v, mask)
    weights = weights / math.sqrt(q.shape[-1])
    return weights @ v, weights


def _over_dim_1(scores: Tensor) -> Tensor:
    return scores.softmax(1)


def _bool_only(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, -math.inf)


_SCALE = "Work out the variance of a sum of products again: which number of products is summed in one score?"

_SCALED_DOT_PRODUCT = Answer(
    id="scaled-dot-product",
    solution=scaled_dot_product_attention,
    why="A score sums d_k products of numbers of size one, so it has the size √d_k; divided by that, the softmax "
    "keeps a gradient. The mask acts before the softmax, so that each row still sums to 1, and `mask == 0` reads "
    "bool and 0/1 alike. Counting dimensions from the end leaves any leading ones alone.",
    hints=(
        "Three steps: compare (scores), normalise (weights), mix (output). Write the shape of each beside it "
        "first.",
        "All that is yours to choose are the last two dimensions; count them from the end, and the leading "
        "ones take care of themselves. Which one of `k` has to change places for `q @ …` to be `(…, n_q, n_k)`?",
        "A forbidden score has to become a number whose exponential is 0, *before* the softmax. `mask == 0` is "
        "True where attention is forbidden, whatever the dtype of the mask.",
        "`scores = q @ k.transpose(-2, -1) / math.sqrt(…)`, then `scores.masked_fill(mask == 0, …)`, then a "
        "softmax over the keys. What is under the root, and which dimension holds the keys?",
    ),
    mistakes=(
        Mistake("no-scale", "The scores are not scaled: they grow with the width, and the softmax hardens. How "
                "large is a sum of d_k products of numbers of size one?", _attention(scale=lambda q, k, v: 1.0)),
        Mistake("scale-without-root", "The scores are divided by too much: by the width itself. The *variance* of "
                "the sum grows like that; what does its size grow like?",
                _attention(scale=lambda q, k, v: 1 / q.shape[-1])),
        Mistake("scale-multiplied", "The scores are scaled the wrong way round: they get larger with the width, "
                "not smaller.", _attention(scale=lambda q, k, v: q.shape[-1] ** 0.5)),
        Mistake("scale-by-value-width", f"The scores are scaled by the width of the values. {_SCALE}",
                _attention(scale=lambda q, k, v: v.shape[-1] ** -0.5)),
        Mistake("scale-by-key-count", f"The scores are scaled by the number of keys. {_SCALE}",
                _attention(scale=lambda q, k, v: k.shape[-2] ** -0.5)),
        Mistake("scale-by-query-count", f"The scores are scaled by the number of queries. {_SCALE}",
                _attention(scale=lambda q, k, v: q.shape[-2] ** -0.5)),
        Mistake("scale-by-full-width", f"The scores are scaled by the width of all heads together. {_SCALE}",
                _attention(scale=lambda q, k, v: (q.shape[-1] * (q.shape[-3] if q.ndim > 2 else 1)) ** -0.5)),
        Mistake("scale-after-softmax", "The weights are scaled, not the scores: the rows no longer sum to 1, and "
                "the softmax saw the raw scores.",
                _weights_scaled),
        Mistake("softmax-over-queries", "The softmax runs over the queries: the columns sum to 1, not the rows. "
                "Who shares out the attention, a query or a key?", _attention(softmax=lambda s: s.softmax(-2))),
        Mistake("softmax-over-dim-1", "The softmax runs over dimension 1, which is the keys only when there is no "
                "batch. Which end should dimensions be counted from?", _attention(softmax=_over_dim_1)),
        Mistake("softmax-over-dim-0", "The softmax runs over dimension 0. Which dimension holds the keys?",
                _attention(softmax=lambda s: s.softmax(0))),
        Mistake("softmax-over-everything", "All scores of a query and of the other queries share one softmax. Each "
                "query has a whole 1 to give away.",
                _attention(softmax=lambda s: s.flatten(-2).softmax(-1).reshape(s.shape))),
        Mistake("no-softmax", "The scores were never turned into weights: no softmax makes their rows sum to 1.",
                _attention(softmax=lambda s: s, masked=lambda s, m: s * (m != 0))),
        Mistake("mask-inverted", "The mask is read the wrong way round: the allowed keys are hidden, the hidden "
                "ones attended to. What does True mean in this course?",
                _attention(masked=lambda s, m: s.masked_fill(m != 0, -math.inf))),
        Mistake("mask-ignored", "The mask changes nothing: forbidden keys still get weight.",
                _attention(masked=lambda s, m: s)),
        Mistake("mask-tiny-fill", "Masked scores became a number close to 0 (as 1e-9 is), and the exponential of "
                "0 is 1: those keys still get weight. Which scores have an exponential of 0?",
                _attention(masked=lambda s, m: s.masked_fill(m == 0, 1e-9))),
        Mistake("mask-after-softmax", "The mask came after the softmax: forbidden keys get 0, but the rows no "
                "longer sum to 1. Who took part in the sum below the fraction?",
                _attention(masked=lambda s, m: s, after=lambda w, m: w if m is None else w * (m != 0))),
        Mistake("mask-numbers-only", "It works for a mask of 0 and 1, and fails for a bool one. (`~` alone would "
                "fail the other way round.) Ask the mask a question whose answer is bool, whatever its dtype.",
                _attention(masked=lambda s, m: s + (1 - m) * -1e9)),
        Mistake("mask-after-softmax-fill", "The masked entries were filled with a huge negative number *after* the "
                "softmax: those are the weights now.",
                _attention(masked=lambda s, m: s,
                           after=lambda w, m: w if m is None else w.masked_fill(m == 0, -1e9))),
        Mistake("mask-added", "The mask is added to the scores as it is: an allowed key gets 1 more, a forbidden "
                "one stays. What has to be added to make an exponential vanish?",
                _attention(masked=lambda s, m: s + m)),
        Mistake("mask-subtracted-one", "The forbidden scores are only 1 lower than before. What has to be added to "
                "make an exponential vanish?", _attention(masked=lambda s, m: s - (m == 0).float())),
        Mistake("mask-bool-only", "It works for a bool mask, and fails or goes wrong for one of 0 and 1. Ask the "
                "mask a question whose answer is bool, whatever its dtype.", _attention(masked=_bool_only),
                _attention(after=lambda w, m: w if m is None else w * m)),
        Mistake("mask-where-bool-only", "It works for a bool mask, and fails or goes wrong for one of 0 and 1. Ask "
                "the mask a question whose answer is bool, whatever its dtype.",
                _attention(masked=lambda s, m: torch.where(m, s, -math.inf))),
        Mistake("keys-turned-from-the-front", "The keys are turned by swapping dimensions 0 and 1, which are the "
                "right two only without a batch. Which end should dimensions be counted from?",
                _attention(turned=lambda k: k.transpose(0, 1))),
        Mistake("keys-turned-in-3d", "The keys are turned by swapping dimensions 1 and 2, which are the right "
                "two only with one leading dimension. Which end should dimensions be counted from?",
                _attention(turned=lambda k: k.transpose(1, 2))),
        Mistake("keys-turned-whole", "`.T` or `.mT` of everything turns all dimensions, the batch included; only "
                "the last two should change "
                "places.", _attention(turned=lambda k: k.permute(*reversed(range(k.ndim))))),
        Mistake("keys-reshaped", "The keys were given the right shape by a reshape, which keeps the numbers in "
                "their order in memory: a column of the result is no key at all. Which operation moves the "
                "numbers along?",
                _attention(turned=lambda k: k.reshape(*k.shape[:-2], k.shape[-1], k.shape[-2]))),
        Mistake("across-the-batch", "Queries attend to keys of other sequences in the batch: the leading "
                "dimensions were flattened away.", _across_the_batch),
        Mistake("dropout-left-on", "The same call gives another result each time: something in it is random, dropout "
                "or a layer made afresh. This function has neither.",
                _attention(after=lambda w, m: F.dropout(w, 0.1))),
        Mistake("returns-scores", "The second result is the scores: weights are what the softmax made of them.",
                _attention(result=lambda w, v, s: (w @ v, s))),
        Mistake("order-of-results", "The two results are in the wrong order: the output comes first, then the "
                "weights.",
                _attention(result=lambda w, v, s: (w, w @ v))),
        Mistake("output-only", "Only the output is returned; the weights are wanted too.",
                _attention(result=lambda w, v, s: w @ v)),
        Mistake("mean-of-values", "The output is the same for every query: the weights took no part in it.",
                _attention(result=lambda w, v, s: (v.mean(-2, keepdim=True).expand(*w.shape[:-1], v.shape[-1]), w))),
    ),
)  # fmt: skip

# -------------------------------------------------------------------------------------- masked-softmax


def masked_softmax(scores, mask):
    lowest = torch.finfo(scores.dtype).min
    weights = torch.softmax(scores.masked_fill(~mask, lowest), dim=-1)
    return weights.masked_fill(~mask, 0)


def _in_float32(scores: Tensor, mask: Tensor) -> Tensor:
    return masked_softmax(scores.float(), mask)


def _naive(scores: Tensor, mask: Tensor) -> Tensor:
    powers = torch.exp(scores).masked_fill(~mask, 0)
    return powers / powers.sum(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)


def _naive_product(scores: Tensor, mask: Tensor) -> Tensor:
    powers = torch.exp(scores) * mask
    return powers / powers.sum(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)


def _flat(scores: Tensor, mask: Tensor) -> Tensor:
    lowest = torch.finfo(scores.dtype).min
    filled = scores.masked_fill(~mask, lowest).flatten(-2).softmax(-1).reshape(scores.shape)
    return filled.masked_fill(~mask, 0)


def _fill_then(dim: int, value: float, zero: bool = True) -> Callable[[Tensor, Tensor], Tensor]:
    def softmax(scores: Tensor, mask: Tensor) -> Tensor:
        weights = scores.masked_fill(~mask, value).softmax(dim)
        return weights.masked_fill(~mask, 0) if zero else weights

    return softmax


def _zero_or_minus_infinity(scores: Tensor, mask: Tensor) -> Tensor:
    return torch.zeros_like(scores).masked_fill(~mask, -math.inf)


def _lowest(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)


def _by_hand(
    top: Callable[[Tensor, Tensor], Tensor], total: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """The softmax in steps: take ``top`` away, exponentiate, multiply by the mask, divide by ``total`` of the sum."""

    def softmax(scores: Tensor, mask: Tensor) -> Tensor:
        powers = (scores - top(scores, mask)).exp() * mask
        return powers / total(powers.sum(-1, keepdim=True))

    return softmax


def _top_of_all(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.amax(-1, keepdim=True)


def _top_infinite(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask, -math.inf).amax(-1, keepdim=True)


def _softmax_first(total: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def softmax(scores: Tensor, mask: Tensor) -> Tensor:
        weights = scores.softmax(-1) * mask
        return weights / total(weights.sum(-1, keepdim=True))

    return softmax


def _with_epsilon(scores: Tensor, mask: Tensor) -> Tensor:
    weights = masked_softmax(scores, mask)
    return weights / (weights.sum(-1, keepdim=True) + 1e-9)


_LEAST = (1e-6, 1e-9)


def _plus(least: float) -> Callable[[Tensor], Tensor]:
    return lambda total: total + least


_INVERTED = "The mask is read the wrong way round: the allowed entries are hidden. What does True mean in this course?"
_EMPTY = "A row that allows nothing has nothing to share out: what should its weights be?"

_MASKED_SOFTMAX = Answer(
    id="masked-softmax",
    solution=masked_softmax,
    why="The lowest finite number of the scores' own dtype can be filled into any of them, and no row becomes "
    "infinity minus infinity, so no NaN arises, forward or backward. Filling the weights with 0 afterwards makes "
    "the zeros exact and empties the rows that allow nothing; in the other rows it changes nothing.",
    hints=(
        "Two things have to be true at once: a masked score must have no part in the sum below the fraction, and "
        "a row that is masked as a whole must not become 0/0.",
        "−∞ is right for every row but the empty one, where the softmax computes ∞ − ∞. −1e9 does not fit into "
        "float16. Which number is lowest, yet finite, in *each* dtype?",
        "`torch.finfo(scores.dtype).min` is that number. With it, an empty row comes out as an even share: "
        "one more step, after the softmax, makes it zeros.",
    ),
    mistakes=(
        Mistake("mask-inverted", _INVERTED, lambda s, m: masked_softmax(s, ~m), lambda s, m: _lowest(s, ~m),
                lambda s, m: _lowest(s, ~m) * m, lambda s, m: s.masked_fill(m, -1e9).softmax(-1),
                lambda s, m: s.masked_fill(m, -1e9).softmax(-1) * m),
        Mistake("mask-inverted-infinite", _INVERTED, lambda s, m: s.masked_fill(m, -math.inf).softmax(-1)),
        Mistake("mask-ignored", "The mask changes nothing: forbidden entries still get weight.",
                lambda s, m: s.softmax(-1)),
        Mistake("mask-after-softmax", "The mask came after the softmax alone: forbidden entries are 0, but the "
                "rows no longer sum to 1. Who took part in the sum below the fraction?",
                lambda s, m: s.softmax(-1).masked_fill(~m, 0)),
        Mistake("mask-zero-fill", "Masked scores became 0, or a number close to it such as 1e-9, and the "
                "exponential of 0 is 1: they still take part. Which scores have an exponential of "
                "0?", _fill_then(-1, 0.0, False)),
        Mistake("mask-zero-fill-cleared", "Masked scores became 0, or close to it, before the softmax: their "
                "exponential is 1, and it is still in the sum that the others are divided "
                "by.", _fill_then(-1, 0.0)),
        Mistake("mask-added", "The mask is added to the scores as it is: an allowed score gets 1 more, a "
                "forbidden one stays.", lambda s, m: (s + m).softmax(-1)),
        Mistake("maximum-over-everything", "The maximum that is taken away is that of all scores. Where a masked "
                "one is far larger than the allowed ones, their exponentials vanish, or fall below what keeps the "
                "fraction from 0/0: the maximum must be among the allowed.",
                _by_hand(_top_of_all, lambda t: t.clamp_min(1e-6)),
                *(_by_hand(_top_of_all, _plus(least)) for least in _LEAST)),
        Mistake("softmax-before-the-mask", "The softmax (or the maximum that it takes away) saw the masked scores: "
                "where one of them is far larger than the allowed ones, nothing is left of those, and dividing by "
                "what is left does not bring them back. Where does the mask have to act?",
                _softmax_first(lambda t: t.clamp_min(1e-6)),
                *(_softmax_first(_plus(least)) for least in _LEAST)),
        Mistake("zero-over-zero", "NaN comes of a row that allows nothing, and also of a masked score far larger than "
                "the allowed ones: 0/0 where their exponentials vanish beside it, ∞ · 0 where its own overflows. "
                f"Should a masked score get as far as an exponential? {_EMPTY}",
                _softmax_first(lambda t: t), _by_hand(_top_infinite, lambda t: t)),
        Mistake("epsilon-vanishes-in-half", "The small number that is added below the fraction is 0 in float16, "
                "which knows nothing between 0 and 6e-8: a row that allows nothing is 0/0 there.", _with_epsilon),
        Mistake("empty-row-nan", "A row that allows nothing comes out as NaN: −∞ everywhere makes a softmax "
                "compute ∞ − ∞; by hand, it is ∞ · 0 or 0/0. "
                f"{_EMPTY}", _fill_then(-1, -math.inf, False)),
        Mistake("empty-row-nan-gradient", "The zeros of an empty row are right, but the NaN that was wiped away "
                "on the way forward comes back on the way backward. It must not arise at all.",
                lambda s, m: (s + _zero_or_minus_infinity(s, m)).softmax(-1).nan_to_num(0.0)),
        Mistake("empty-row-even", f"A row that allows nothing attends to everything alike, masked or not. {_EMPTY}",
                _lowest),
        Mistake("fill-too-large-for-half", "The number that is filled in is too large for float16, where nothing "
                "is lower than −65504. Ask the dtype itself for its lowest number.", _fill_then(-1, -1e9)),
        Mistake("fill-too-large-and-even", "The number that is filled in is too large for float16, and a row that "
                f"allows nothing attends to everything alike. {_EMPTY}", _fill_then(-1, -1e9, False)),
        Mistake("fill-not-low-enough", "The fill is not low enough: masked entries keep some weight, or, where the "
                "allowed scores are lower still, take it all. Which number is below every score?",
                _fill_then(-1, -20.0, False), lambda s, m: (s - 20.0 * ~m).softmax(-1) * m),
        Mistake("softmax-over-queries", "The softmax runs over the queries: the columns sum to 1, not the rows.",
                _fill_then(-2, -1e4)),
        Mistake("softmax-over-dim-1", "The softmax runs over dimension 1, which is the last only in two "
                "dimensions. Which end should dimensions be counted from?", _fill_then(1, -1e4)),
        Mistake("softmax-over-dim-0", "The softmax runs over dimension 0; it should run over the last.",
                _fill_then(0, -1e4)),
        Mistake("softmax-over-everything", "All rows share one softmax. Each row has a whole 1 to give "
                "away.", _flat),
        Mistake("exponential-overflows", "The exponentials overflow for large scores. A softmax does not change "
                "when the same number is taken from every score of a row. The maximum keeps exponentials small, but "
                "it must be among the allowed: a masked score may be far larger.", _naive, _naive_product),
        Mistake("returns-float32", "The numbers are right, but half-precision scores come back as float32. "
                "Computing in float32 is fine; the result has the dtype of the scores.", _in_float32),
        Mistake("logarithms", "These are logarithms of weights.",
                lambda s, m: s.masked_fill(~m, torch.finfo(s.dtype).min).log_softmax(-1)),
    ),
)  # fmt: skip

# ------------------------------------------------------------------------------------------- two masks


def causal_mask(n):
    return torch.ones(n, n, dtype=torch.bool).tril()


_ones = torch.ones

_CAUSAL_MASK = Answer(
    id="causal-mask",
    solution=causal_mask,
    why="Row = query, column = key: a key is not later than the query on the diagonal and below it, and `tril` "
    "keeps just that.",
    hints=(
        "Draw it for three tokens. Which keys may the first query see? And the last?",
        "Either compare two ranges, one as a column, one as a row, or cut a triangle from a square of True.",
        "`torch.tril` keeps what is on and below the diagonal. What goes in, and of which dtype?",
    ),
    mistakes=(
        Mistake("transposed", "The triangle is on the wrong side: each query sees itself and what comes *after* "
                "it. Which of rows and columns are the queries?", lambda n: _ones(n, n).bool().triu()),
        Mistake("inverted", "True and False are exchanged: this marks what is *forbidden*. What does True mean "
                "in this course?", lambda n: _ones(n, n).bool().triu(1)),
        Mistake("without-diagonal", "A token does not see itself, and the first one sees nothing at all.",
                lambda n: _ones(n, n).bool().tril(-1)),
        Mistake("one-too-far", "Every query sees one token of the future.", lambda n: _ones(n, n).bool().tril(1)),
        Mistake("diagonal-only", "Every token sees itself alone: what about the past?",
                lambda n: torch.eye(n).bool()),
        Mistake("everything-allowed", "Everything is allowed, the future too.", lambda n: _ones(n, n).bool()),
        Mistake("turned-triangle", "The triangle is turned: its edge runs along the other diagonal.",
                lambda n: _ones(n, n).bool().tril().flip(-1)),
        Mistake("not-bool", "The ones and zeros are in the right places, but the mask is not bool.",
                lambda n: _ones(n, n).tril()),
        Mistake("not-bool-integer", "The ones and zeros are in the right places, but the mask is of integers, not "
                "bool.", lambda n: _ones(n, n).tril().long()),
        Mistake("additive", "This is a mask to be *added* to the scores (0 and −∞); wanted is one that says True "
                "or False.", lambda n: torch.full((n, n), -math.inf).triu(1)),
        Mistake("additive-finite", "This is a mask to be *added* to the scores; wanted is one that says True or "
                "False.",
                lambda n: torch.full((n, n), -1e9).triu(1)),
        Mistake("batch-dimensions", "The triangle is right, but it has leading dimensions that nobody asked for: "
                "they come by broadcasting.", lambda n: _ones(1, 1, n, n).bool().tril()),
        Mistake("one-batch-dimension", "The triangle is right, but it has a leading dimension that nobody asked "
                "for: it comes by broadcasting.", lambda n: _ones(1, n, n).bool().tril()),
    ),
)  # fmt: skip


def padding_mask(lengths, n):
    positions = torch.arange(n, device=lengths.device)
    return (positions < lengths[:, None])[:, None, None, :]


def _real(lengths: Tensor, n: int) -> Tensor:
    return torch.arange(n) < lengths[:, None]


_PADDING_MASK = Answer(
    id="padding-mask",
    solution=padding_mask,
    why="A position is real when it is smaller than the length of its sequence: a row of positions against a "
    "column of lengths gives (B, n). The two dimensions of size 1 stand for heads and queries, which share the "
    "mask.",
    hints=(
        "Leave the four dimensions for the end. For *one* sequence of length 3, filled up to 5: which positions, "
        "counted from 0, are real?",
        "Compare `torch.arange(n)` with the lengths, all at once: one of the two has to be a column.",
        "`torch.arange(n) < lengths[:, None]` is `(B, n)`. Where do the two dimensions of size 1 belong, so that "
        "it broadcasts to `(B, h, n_q, n_k)`?",
    ),
    mistakes=(
        Mistake("inverted", "True and False are exchanged: this marks the padding. What does True mean in this "
                "course?",
                lambda le, n: ~_real(le, n)[:, None, None]),
        Mistake("off-by-one", "One token too many counts as real: positions are counted from 0.",
                lambda le, n: (torch.arange(n) <= le[:, None])[:, None, None]),
        Mistake("one-too-few", "One token too few counts as real: how far does a sequence of length 1 reach?",
                lambda le, n: (torch.arange(n) < le[:, None] - 1)[:, None, None]),
        Mistake("no-column", "A row of `n` positions is compared with a row of `B` lengths: that fails, or, where B "
                "= n, compares each position with another sequence's length. One of the two has to be a column.",
                lambda le, n: torch.arange(n) < le, lambda le, n: (torch.arange(n) < le)[None, None, None]),
        Mistake("two-dimensions", "The mask is `(B, n)`: against `(B, h, n_q, n_k)` its rows would be taken for "
                "queries, silently where B = n_q. Where do sizes of 1 belong?", _real),
        Mistake("three-dimensions", "The mask is `(B, 1, n)`: against `(B, h, n_q, n_k)` its first dimension "
                "would be taken for heads. One dimension is missing.", lambda le, n: _real(le, n)[:, None]),
        Mistake("masks-queries", "The mask is `(B, 1, n, 1)`: it hides queries, not keys. Which dimension holds "
                "the keys?", lambda le, n: _real(le, n)[:, None, :, None]),
        Mistake("batch-in-the-wrong-place", "The mask is `(1, 1, B, n)`: the batch stands where the queries "
                "belong.",
                lambda le, n: _real(le, n)[None, None]),
        Mistake("padding-at-the-front", "The real tokens are at the end of each row: here the padding comes last.",
                lambda le, n: _real(le, n).flip(-1)[:, None, None]),
        Mistake("width-from-lengths", "The mask is as wide as the longest sequence; it should be `n` wide, "
                "whatever the lengths are.", lambda le, n: _real(le, int(le.max()))[:, None, None]),
        Mistake("one-length-for-all", "All sequences got the same mask, of the first one's length.",
                lambda le, n: _real(le[:1].expand(len(le)), n)[:, None, None]),
        Mistake("everything-real", "Nothing is masked.", lambda le, n: torch.ones(len(le), 1, 1, n).bool()),
        Mistake("not-bool", "The ones and zeros are in the right places, but the mask is not bool.",
                lambda le, n: _real(le, n)[:, None, None].float()),
        Mistake("not-bool-integer", "The ones and zeros are in the right places, but the mask is of integers, not "
                "bool.", lambda le, n: _real(le, n)[:, None, None].long()),
        Mistake("square", "This is `(B, 1, n, n)`, with padded queries masked too: a padded query would be left "
                "with nothing to attend to.",
                lambda le, n: (_real(le, n)[:, :, None] & _real(le, n)[:, None])[:, None]),
    ),
)  # fmt: skip

# ----------------------------------------------------------------------------------------------- heads


def split_heads(x, num_heads):
    batch, n, d_model = x.shape
    return x.reshape(batch, n, num_heads, d_model // num_heads).transpose(1, 2)


_SPLIT_HEADS = Answer(
    id="split-heads",
    solution=split_heads,
    why="The reshape cuts the channels, which lie side by side in memory, without moving a number; the transpose "
    "then puts the heads before the tokens. A reshape straight to the final shape would cut across tokens.",
    hints=(
        "Take one token alone: its `d` channels become `num_heads` rows of `d_k`. Which shape has the whole "
        "batch then?",
        "First `(B, n, num_heads, d_k)`, which cuts the last dimension and nothing else. Then two dimensions "
        "change places.",
        "`x.reshape(B, n, num_heads, d_k)`, then `.transpose(…, …)`. Which two dimensions?",
    ),
    mistakes=(
        Mistake("reshape-for-transpose", "The shape is right and the numbers are in the wrong places: a reshape "
                "straight to it cuts across tokens, so that a head holds whole tokens. Which operation moves the "
                "numbers along?",
                lambda x, h: x.reshape(x.shape[0], h, x.shape[1], x.shape[2] // h)),
        Mistake("interleaved", "The heads take turns with the channels: head i got channels i, i + h, i + 2h, … It "
                "should get d_k neighbours.",
                lambda x, h: x.reshape(*x.shape[:2], x.shape[2] // h, h).permute(0, 3, 1, 2)),
        Mistake("not-transposed", "The channels are cut, but the heads still stand behind the tokens.",
                lambda x, h: x.reshape(*x.shape[:2], h, x.shape[2] // h)),
        Mistake("tokens-last", "Tokens and channels of a head changed places: the last dimension should be d_k.",
                lambda x, h: split_heads(x, h).transpose(2, 3)),
        Mistake("heads-in-batch", "Heads and batch are one dimension: they should be two.",
                lambda x, h: split_heads(x, h).flatten(0, 1)),
        Mistake("heads-first", "The heads stand before the batch.", lambda x, h: split_heads(x, h).transpose(0, 1)),
        Mistake("heads-reversed", "The heads are in reverse order: head 0 holds the first channels.",
                lambda x, h: split_heads(x, h).flip(1)),
        Mistake("heads-for-width", "`num_heads` was taken for the width of a head: there are d / num_heads heads "
                "now.",
                lambda x, h: split_heads(x, x.shape[-1] // h)),
        Mistake("batch-and-heads-mixed", "The batch is mixed up with the heads: a reshape from `(B, n, h, d_k)` "
                "keeps the numbers in their order in memory.",
                lambda x, h: x.reshape(h, x.shape[0], x.shape[1], -1).transpose(0, 1)),
        Mistake("copied-to-every-head", "Every head holds the same channels.",
                lambda x, h: x[..., : x.shape[2] // h].unsqueeze(1).expand(-1, h, -1, -1)),
        Mistake("transposed-too-early", "Tokens and channels changed places before the channels were cut, and the "
                "reshape to the final shape cuts across what is now in a row. Cut first; what changes places then?",
                lambda x, h: x.transpose(1, 2).reshape(x.shape[0], h, x.shape[1], -1)),
        Mistake("width-is-a-float", "The width of a head is a float: `/` gives a float, even where it divides "
                "evenly, and `//` an integer. A size has to be an integer.",
                lambda x, h: x.view(*x.shape[:2], h, x.shape[2] / h),
                lambda x, h: x.reshape(*x.shape[:2], h, x.shape[2] / h)),
        Mistake("chunked-tokens", "The tokens were shared out among the heads, not the channels: every head "
                "should see all tokens.", lambda x, h: torch.stack(x.tensor_split(h, 1), 1)),
    ),
)  # fmt: skip


def merge_heads(x):
    batch, num_heads, n, d_k = x.shape
    return x.transpose(1, 2).reshape(batch, n, num_heads * d_k)


_MERGE_HEADS = Answer(
    id="merge-heads",
    solution=merge_heads,
    why="The transpose brings a token's heads together, the reshape joins them. After a transpose the numbers no "
    "longer lie in order, so `view` may fail; `reshape` copies where it has to.",
    hints=(
        "Walk through `split_heads` backwards: what was its last step?",
        "First bring the heads of one token side by side: `(B, n, h, d_k)`. Then join the last two dimensions.",
        "`x.transpose(1, 2)`, then a reshape to three dimensions. (`view` wants numbers that lie in order in "
        "memory.)",
    ),
    mistakes=(
        Mistake("reshape-for-transpose", "The shape is right and the numbers are in the wrong places: a reshape "
                "straight to it glues tokens of one head together. What has to change places first?",
                lambda x: x.reshape(x.shape[0], x.shape[2], -1)),
        Mistake("view-without-order", "`view` needs numbers that lie in order in memory, and after a transpose "
                "they often do not. Which operation copies where it has to?",
                lambda x: x.transpose(1, 2).view(x.shape[0], x.shape[2], -1)),
        Mistake("view-for-transpose", "`view` straight to the shape: it glues tokens of one head together, and it "
                "fails when the numbers do not lie in order. What has to change places first?",
                lambda x: x.view(x.shape[0], x.shape[2], -1)),
        Mistake("interleaved", "The heads take turns: channel 0 of each head, then channel 1 … Each head's d_k "
                "channels should stay together.", lambda x: x.permute(0, 2, 3, 1).flatten(2)),
        Mistake("not-joined", "The heads stand beside their token, but are not joined: the result has four "
                "dimensions.",
                lambda x: x.transpose(1, 2)),
        Mistake("heads-summed", "The heads were added up: they should stand side by side.", lambda x: x.sum(1)),
        Mistake("heads-averaged", "The heads were averaged: they should stand side by side.", lambda x: x.mean(1)),
        Mistake("heads-reversed", "The heads are in reverse order: head 0 comes first.",
                lambda x: merge_heads(x.flip(1))),
        Mistake("joined-with-tokens", "The heads were joined with the tokens: the result is a longer sequence, "
                "not a wider one.", lambda x: x.flatten(1, 2)),
        Mistake("channels-first", "Tokens and channels changed places: the result should be `(B, n, d)`.",
                lambda x: merge_heads(x).transpose(1, 2)),
        Mistake("wrong-pair-swapped", "The wrong two dimensions changed places before the reshape: tokens and "
                "channels instead of heads and tokens.",
                lambda x: x.transpose(2, 3).reshape(x.shape[0], x.shape[2], -1)),
        Mistake("first-head-only", "Only one head is left.", lambda x: x[:, 0]),
    ),
)  # fmt: skip

# ------------------------------------------------------------------------------------------- multi-head


class MultiHeadAttention(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.w_q = nn.Linear(d_model, d_model)
        self.w_k = nn.Linear(d_model, d_model)
        self.w_v = nn.Linear(d_model, d_model)
        self.w_o = nn.Linear(d_model, d_model)

    def forward(self, query, key, value, mask=None):
        def split(x):
            batch, n, d_model = x.shape
            return x.reshape(batch, n, self.num_heads, d_model // self.num_heads).transpose(1, 2)

        q, k, v = split(self.w_q(query)), split(self.w_k(key)), split(self.w_v(value))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(mask == 0, float("-inf"))
        weights = torch.softmax(scores, dim=-1)
        heads = (weights @ v).transpose(1, 2)
        return self.w_o(heads.reshape(query.shape)), weights


class _Varied(MultiHeadAttention):
    """Multi-head attention in steps, for mistakes that differ in one of them."""

    def split(self, x: Tensor) -> Tensor:
        return split_heads(x, self.num_heads)

    def merge(self, x: Tensor) -> Tensor:
        return merge_heads(x)

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.w_q(query), self.w_k(key), self.w_v(value)

    def scale(self, q: Tensor, k: Tensor) -> float:
        return q.shape[-1] ** -0.5

    def fill(self, scores: Tensor, mask: Tensor) -> Tensor:
        return scores.masked_fill(mask == 0, -math.inf)

    def normalise(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)

    def drop(self, weights: Tensor, mask: Tensor | None) -> Tensor:
        return weights

    def finish(self, output: Tensor, weights: Tensor) -> Any:
        return self.w_o(output), weights

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
        q, k, v = (self.split(x) for x in self.project(query, key, value))
        scores = q @ k.transpose(-2, -1) * self.scale(q, k)
        if mask is not None:
            scores = self.fill(scores, mask)
        weights = self.drop(self.normalise(scores), mask)
        return self.finish(self.merge(weights @ v), weights)


def _varied(**steps: Callable[..., Any]) -> type[nn.Module]:
    return type("MultiHeadAttention", (_Varied,), steps)


def _length_of_query(
    self: _Varied, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As in the textbook: keys and values viewed with the length of the queries."""
    batch, n = query.shape[:2]
    return self.w_q(query), self.w_k(key).view(batch, n, -1), self.w_v(value).view(batch, n, -1)


class _DroppedWeights(_Varied):
    """As in the textbook: dropout on the weights, and the weights that are returned are what is left."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__(d_model, num_heads)
        self.dropout = nn.Dropout(0.1)

    def drop(self, weights: Tensor, mask: Tensor | None) -> Tensor:
        return self.dropout(weights)


_MULTI_HEAD = Answer(
    id="multi-head-attention",
    solution=MultiHeadAttention,
    why="Each of the three inputs is projected and split by its own length, so that keys may be longer or "
    "shorter than queries; the scale is that of one head, whose width is what a score sums over; w_o mixes the "
    "merged heads.",
    hints=(
        "The parts are the exercises before this one: split the heads, attend, merge the heads. Write the shapes "
        "that pass between them.",
        "Five steps: project the three inputs, split each, attend, merge, project. `query` and `key` may differ in "
        "length, so take no length from the one for the other.",
        "With `split` for the view and the transpose of split-heads: `q = split(self.w_q(query))`, and so on for `k` "
        "and `v`; attention over the last "
        "two dimensions works for all heads at once. What is left to do with its output before it is returned?",
    ),
    mistakes=(
        Mistake("scale-by-model-width", "The scores are scaled by the width of the model. A score of one head sums "
                "over that head's channels only.",
                _varied(scale=lambda self, q, k: (q.shape[-1] * q.shape[1]) ** -0.5)),
        Mistake("no-scale", "The scores are not scaled: they grow with the width of a head, and the softmax "
                "hardens.",
                _varied(scale=lambda self, q, k: 1.0)),
        Mistake("scale-without-root", "The scores are divided by too much: by the width of a head itself. What "
                "does the size of a sum of d_k products grow "
                "like?", _varied(scale=lambda self, q, k: 1 / q.shape[-1])),
        Mistake("scale-by-key-count", "The scores are scaled by the number of keys. What does a score sum over?",
                _varied(scale=lambda self, q, k: k.shape[-2] ** -0.5)),
        Mistake("scale-by-head-count", "The scores are scaled by the number of heads. What does a score sum over?",
                _varied(scale=lambda self, q, k: q.shape[1] ** -0.5)),
        Mistake("split-by-reshape", "The heads were split by a reshape straight to their shape, which cuts across "
                "tokens. The exercise split-heads is about that.",
                _varied(split=lambda self, x: x.reshape(x.shape[0], self.num_heads, x.shape[1], -1))),
        Mistake("split-and-merge-by-reshape", "The heads were split by a reshape straight to `(B, h, n, d_k)`, and "
                "merged the same way: a head then holds whole tokens, not a share of each. Which operation moves "
                "the numbers along?",
                _varied(split=lambda self, x: x.reshape(x.shape[0], self.num_heads, x.shape[1], -1),
                        merge=lambda self, x: x.reshape(x.shape[0], x.shape[2], -1))),
        Mistake("split-interleaved", "The heads take turns with the channels; each should get d_k neighbours.",
                _varied(split=lambda self, x: x.reshape(*x.shape[:2], -1, self.num_heads).permute(0, 3, 1, 2),
                        merge=lambda self, x: x.permute(0, 2, 3, 1).flatten(2))),
        Mistake("merge-by-reshape", "The heads were merged by a reshape straight to `(B, n, d)`, which glues "
                "tokens of one head together. The exercise merge-heads is about that.",
                _varied(merge=lambda self, x: x.reshape(x.shape[0], x.shape[2], -1))),
        Mistake("no-output-projection", "The merged heads are returned as they are: one of the four projections "
                "has done nothing.", _varied(finish=lambda self, output, weights: (output, weights))),
        Mistake("heads-not-split", "There is one head of the full width: the inputs were projected but never "
                "split.",
                _varied(split=lambda self, x: x.unsqueeze(1))),
        Mistake("no-head-dimension", "Where are the heads? The inputs were projected but never split: the weights have "
                "no dimension of heads.",
                _varied(split=lambda self, x: x, merge=lambda self, x: x)),
        Mistake("ignores-key", "Keys and values come from the query: in cross-attention they are another sequence.",
                _varied(project=lambda self, q, k, v: (self.w_q(q), self.w_k(q), self.w_v(q)))),
        Mistake("values-from-key", "The values are made of `key`; `value` has no part in the result.",
                _varied(project=lambda self, q, k, v: (self.w_q(q), self.w_k(k), self.w_v(k)))),
        Mistake("one-projection", "Queries, keys and values all go through the same projection.",
                _varied(project=lambda self, q, k, v: (self.w_q(q), self.w_q(k), self.w_q(v)))),
        Mistake("projections-mixed-up", "The projections of keys and values are exchanged.",
                _varied(project=lambda self, q, k, v: (self.w_q(q), self.w_v(k), self.w_k(v)))),
        Mistake("no-projection", "The inputs were not projected before they were split.",
                _varied(project=lambda self, q, k, v: (q, k, v))),
        Mistake("length-of-query-for-keys", "Keys and values are cut to the length of the query. In "
                "cross-attention they have a length of their own.", _varied(project=_length_of_query)),
        Mistake("mask-ignored", "The mask changes nothing: forbidden keys still get weight.",
                _varied(fill=lambda self, s, m: s)),
        Mistake("mask-inverted", "The mask is read the wrong way round. What does True mean in this course?",
                _varied(fill=lambda self, s, m: s.masked_fill(m != 0, -math.inf))),
        Mistake("mask-tiny-fill", "Masked scores became a number close to 0 (as 1e-9 is), and the exponential of "
                "0 is 1. Which scores have an exponential of 0?",
                _varied(fill=lambda self, s, m: s.masked_fill(m == 0, 1e-9))),
        Mistake("mask-after-softmax", "The mask came after the softmax: the rows no longer sum to 1.",
                _varied(fill=lambda self, s, m: s, drop=lambda self, w, m: w if m is None else w * m)),
        Mistake("mask-added", "The mask is added to the scores as it is: an allowed key gets 1 more.",
                _varied(fill=lambda self, s, m: s + m)),
        Mistake("softmax-over-queries", "The softmax runs over the queries: the columns sum to 1, not the rows.",
                _varied(normalise=lambda self, s: s.softmax(-2))),
        Mistake("softmax-over-heads", "The softmax runs over the heads: dimension 1 holds the heads now. Over "
                "which does a query share out its attention?", _varied(normalise=lambda self, s: s.softmax(1))),
        Mistake("weights-averaged", "The weights were averaged over the heads; wanted is the map of each, `(B, h, "
                "n_q, n_k)`.", _varied(finish=lambda self, output, weights: (self.w_o(output), weights.mean(1)))),
        Mistake("output-only", "Only the output is returned; the weights are wanted too.",
                _varied(finish=lambda self, output, weights: self.w_o(output))),
        Mistake("order-of-results", "The two results are in the wrong order: the output comes first.",
                _varied(finish=lambda self, output, weights: (weights, self.w_o(output)))),
        Mistake("dropout-left-on", "The same call gives another result each time, even in evaluation mode: dropout "
                "that is always on, or a layer that is made afresh inside `forward`?",
                _varied(drop=lambda self, w, m: F.dropout(w, 0.1))),
        Mistake("weights-after-dropout", "The weights that are returned are what dropout left of them: while the "
                "module trains, their rows do not sum to 1. Return what the softmax gave.", _DroppedWeights),
    ),
)  # fmt: skip

# ------------------------------------------------------------------------------------------ the block


def pre_norm_block(x, attention, feed_forward, norm1, norm2):
    x = x + attention(norm1(x))
    return x + feed_forward(norm2(x))


def _two(
    first: Callable[..., Tensor], second: Callable[..., Tensor]
) -> Callable[[Tensor, Any, Any, Any, Any], Tensor]:
    """A block of two steps: ``first(x, attention, norm1)``, then ``second(x, feed_forward, norm2)``."""
    return lambda x, a, f, n1, n2: second(first(x, a, n1), f, n2)


def _pre(x: Tensor, sublayer: Any, norm: Any) -> Tensor:
    return x + sublayer(norm(x))


def _post(x: Tensor, sublayer: Any, norm: Any) -> Tensor:
    return norm(x + sublayer(x))


def _from_normalised(x: Tensor, sublayer: Any, norm: Any) -> Tensor:
    x = norm(x)
    return x + sublayer(x)


def _norm_of_result(x: Tensor, sublayer: Any, norm: Any) -> Tensor:
    return x + norm(sublayer(x))


def _no_residual(x: Tensor, sublayer: Any, norm: Any) -> Tensor:
    return sublayer(norm(x))


def _no_norm(x: Tensor, sublayer: Any, norm: Any) -> Tensor:
    return x + sublayer(x)


def _doubled(x: Tensor, sublayer: Any, norm: Any) -> Tensor:
    return x + x + sublayer(norm(x))


def _input_again(x: Tensor, a: Any, f: Any, n1: Any, n2: Any) -> Tensor:
    return x + pre_norm_block(x, a, f, n1, n2)


def _late_residual(x: Tensor, a: Any, f: Any, n1: Any, n2: Any) -> Tensor:
    return x + f(n2(x + a(n1(x))))


_PRE_NORM_BLOCK = Answer(
    id="pre-norm-block",
    solution=pre_norm_block,
    why="The stream runs from the input to the output through additions alone, so a gradient comes back along it "
    "unchanged; the norms act on the copies that the sublayers read.",
    hints=(
        "Draw the stream as one straight line from input to output. What may touch it? Where do the norms stand "
        "then?",
        "One sublayer: take a copy of the stream, normalise the copy, send it through the sublayer, add the "
        "result to the stream. The second does the same with what the first left.",
        "`x = x + attention(…)`, with a normalised copy in the brackets; then the same once more. Mind which `x` "
        "the second one reads.",
    ),
    mistakes=(
        Mistake("post-norm", "This is a post-norm block: the norm stands on the stream, after each addition. "
                "Where does it stand when the stream is never normalised?", _two(_post, _post)),
        Mistake("stream-normalised", "The stream itself was normalised before each sublayer, so the addition "
                "starts from the normalised copy. To what should a sublayer's result be added?",
                _two(_from_normalised, _from_normalised)),
        Mistake("stream-normalised-first", "The stream was normalised before attention, and the addition starts "
                "from the normalised copy.", _two(_from_normalised, _pre)),
        Mistake("stream-normalised-second", "The stream was normalised before the feed-forward network, and the "
                "addition starts from the normalised copy.", _two(_pre, _from_normalised)),
        Mistake("norm-of-result", "What the sublayers return is normalised, not what they read.",
                _two(_norm_of_result, _norm_of_result)),
        Mistake("norm-of-result-attention", "What attention returns is normalised, not what it reads.",
                _two(_norm_of_result, _pre)),
        Mistake("norm-of-result-feed-forward", "What the feed-forward network returns is normalised, not what it "
                "reads.", _two(_pre, _norm_of_result)),
        Mistake("stream-added-twice", "The stream is added more than once: each sublayer adds its result to the "
                "stream, and the stream so far is already in there.",
                _two(_pre, _doubled), _two(_doubled, _pre), _two(_doubled, _doubled), _input_again),
        Mistake("no-residual", "Nothing is added: each sublayer replaces the "
                "stream.", _two(_no_residual, _no_residual)),
        Mistake("no-residual-attention", "Attention replaces the stream: its result should be added to it.",
                _two(_no_residual, _pre)),
        Mistake("no-residual-feed-forward", "The feed-forward network replaces the stream: its result should be "
                "added to it.", _two(_pre, _no_residual)),
        Mistake("no-norm", "Neither sublayer reads a normalised copy.", _two(_no_norm, _no_norm)),
        Mistake("no-norm-attention", "Attention reads the stream as it is: its copy should be normalised.",
                _two(_no_norm, _pre)),
        Mistake("no-norm-feed-forward", "The feed-forward network reads the stream as it is: its copy should be "
                "normalised.", _two(_pre, _no_norm)),
        Mistake("residual-from-the-start", "The last addition starts from the block's input again: what "
                "attention added to the stream is lost.", _late_residual),
        Mistake("parallel", "Both sublayers read the block's input. The second should read the stream after the "
                "first has added to it.", lambda x, a, f, n1, n2: x + a(n1(x)) + f(n2(x))),
        Mistake("norms-exchanged", "The two norms are exchanged.",
                lambda x, a, f, n1, n2: pre_norm_block(x, a, f, n2, n1)),
        Mistake("one-norm-twice", "The first norm is used for both sublayers.",
                lambda x, a, f, n1, n2: pre_norm_block(x, a, f, n1, n1)),
        Mistake("feed-forward-first", "The feed-forward network comes first: attention should.",
                lambda x, a, f, n1, n2: pre_norm_block(x, f, a, n2, n1)),
        Mistake("normalised-at-the-end", "The result is normalised once more at the end, and the stream with it.",
                lambda x, a, f, n1, n2: n2(pre_norm_block(x, a, f, n1, n2))),
        Mistake("attention-only", "The feed-forward network has no part in "
                "it.", lambda x, a, f, n1, n2: _pre(x, a, n1)),
        Mistake("feed-forward-only", "Attention has no part in it.", lambda x, a, f, n1, n2: _pre(x, f, n2)),
    ),
)  # fmt: skip

ANSWERS = (
    _SCALED_DOT_PRODUCT,
    _MASKED_SOFTMAX,
    _CAUSAL_MASK,
    _PADDING_MASK,
    _SPLIT_HEADS,
    _MERGE_HEADS,
    _MULTI_HEAD,
    _PRE_NORM_BLOCK,
)
