"""Chapter 1: right answers in many hands, and wrong ones as learners write them.

The package keeps a bank of wrong answers too, for diagnosis; these are written independently of it.
"""

import collections
import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import attn_course

# ---------------------------------------------------------------------------------- scaled-dot-product


def plain(q, k, v, mask=None):
    scores = torch.matmul(q, k.mT) / np.sqrt(k.size(-1))
    if mask is not None:
        scores = torch.where(mask.bool(), scores, torch.tensor(-torch.inf))
    weights = F.softmax(scores, -1)
    return torch.matmul(weights, v), weights


def finite_fill(queries, keys, values, allowed=None):
    s = queries @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5
    if allowed is not None:
        s = s.masked_fill(allowed == 0, -1e9)
    w = s.softmax(dim=-1)
    return w @ values, w


def with_einsum(q, k, v, mask=None):
    s = torch.einsum("...qd,...kd->...qk", q, k) / math.sqrt(q.shape[-1])
    if mask is not None:
        s = s.masked_fill(mask.logical_not(), torch.finfo(s.dtype).min)
    w = torch.softmax(s, -1)
    return torch.einsum("...qk,...kv->...qv", w, v), w


def with_sdpa(q, k, v, mask=None):
    allowed = None if mask is None else mask.to(torch.bool)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    with torch.no_grad():
        eye = torch.eye(k.shape[-2]).expand(*k.shape[:-1], k.shape[-2])
        weights = F.scaled_dot_product_attention(q, k, eye, attn_mask=allowed)
    return out, weights


def with_loops(q, k, v, mask=None):
    lead, n_q, n_k, d_v = q.shape[:-2], q.shape[-2], k.shape[-2], v.shape[-1]
    if mask is None:
        mask = torch.ones(n_q, n_k)
    mask = mask.expand(*lead, n_q, n_k).reshape(-1, n_q, n_k)
    q2, k2, v2 = (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v))
    out, weights = torch.zeros(len(q2), n_q, d_v), torch.zeros(len(q2), n_q, n_k)
    for b in range(len(q2)):
        for i in range(n_q):
            keys = [j for j in range(n_k) if mask[b, i, j]]
            scores = torch.stack([(q2[b, i] * k2[b, j]).sum() for j in keys]) / q.shape[-1] ** 0.5
            powers = torch.exp(scores - scores.max())
            for share, j in zip(powers / powers.sum(), keys, strict=True):
                weights[b, i, j] = share
                out[b, i] = out[b, i] + share * v2[b, j]
    return out.reshape(*lead, n_q, d_v), weights.reshape(*lead, n_q, n_k)


def renormalised(q, k, v, mask=None):
    w = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
    if mask is not None:
        w = w * mask.float()
        w = w / w.sum(-1, keepdim=True)
    return w @ v, w


def renormalised_by_hand(q, k, v, mask=None):
    s = q @ k.mT / q.shape[-1] ** 0.5
    e = (s - s.amax(-1, keepdim=True)).exp()
    e = e if mask is None else e * mask.to(e.dtype)
    w = e / e.sum(-1, keepdim=True)
    return w @ v, w


def lowest_fill(q, k, v, mask=None):
    s = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        s = s + (~mask.bool()) * torch.finfo(s.dtype).min
    w = s.softmax(-1)
    return w @ v, w


def masked_with_arithmetic(q, k, v, mask=None):
    s = q @ k.mT / q.shape[-1] ** 0.5
    w = torch.softmax(s if mask is None else s + (1 - mask) * -1e9, -1)
    return w @ v, w


def cleared_by_product(q, k, v, mask=None):
    s = q @ k.mT / q.shape[-1] ** 0.5
    w = s.softmax(-1) if mask is None else s.masked_fill(mask == 0, -1e9).softmax(-1) * mask
    return w @ v, w


def log_mask(q, k, v, mask=None):
    s = (q * q.shape[-1] ** -0.25) @ (k * q.shape[-1] ** -0.25).mT
    if mask is not None:
        s = s + mask.float().log()
    s = s - s.amax(-1, keepdim=True).detach()
    w = s.exp() / s.exp().sum(-1, keepdim=True)
    return [w @ v, w]


def in_float64(q, k, v, mask=None):
    out, w = plain(q.double(), k.double(), v.double(), mask)
    return out.float(), w.float()


def seeds_and_prints(q, k, v, mask=None):
    torch.manual_seed(0)
    np.random.seed(1)
    print("shapes:", q.shape, k.shape)
    return finite_fill(q, k, v, mask)


def keyword_mask(q, k, v, *, mask=None):
    return plain(q, k, v, mask)


def general(temperature, q, k, v, mask=None):
    return plain(q * temperature, k, v, mask)


Pair = collections.namedtuple("Pair", "output weights")


class Attend(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.0)

    def forward(self, q, k, v, mask=None):
        out, w = plain(q, k, v, mask)
        return Pair(out, self.dropout(w))


class Object:
    def __call__(self, *args):
        return with_einsum(*args)


@torch.jit.script
def scripted(q, k, v, mask: torch.Tensor | None = None):
    s = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.size(-1))
    if mask is not None:
        s = s.masked_fill(mask == 0, float("-inf"))
    w = torch.softmax(s, -1)
    return torch.matmul(w, v), w


ATTENTION_RIGHT = {
    "plain": plain,
    "finite fill": finite_fill,
    "einsum": with_einsum,
    "sdpa": with_sdpa,
    "loops": with_loops,
    "lowest number added": lowest_fill,
    "renormalised": renormalised,
    "renormalised by hand": renormalised_by_hand,
    "mask in another place": lambda q, k, v, scale=None, mask=None: plain(q, k, v, mask),
    "mask by name only": lambda q, k, v, *rest, mask=None: plain(q, k, v, mask),
    "log of the mask": log_mask,
    "float64 inside": in_float64,
    "seeds, prints": seeds_and_prints,
    "keyword-only mask": keyword_mask,
    "partial": functools.partial(general, 1.0),
    "lambda": lambda a, b, c, m=None: plain(a, b, c, m),
    "star": lambda *args, **kwargs: plain(*args, **kwargs),
    "module": Attend(),
    "object": Object(),
    "scripted": scripted,
    "compiled": torch.compile(finite_fill, backend="eager", fullgraph=True),
    "cached": functools.wraps(plain)(lambda *args: plain(*args)),
    "package": attn_course.scaled_dot_product_attention,
}


def _attention(scale=lambda q, k, v: q.shape[-1] ** 0.5, mask_with=None, dim=-1, before=None):
    def attend(q, k, v, mask=None):
        s = torch.einsum("...id,...jd->...ij", q, k) / scale(q, k, v)
        if mask is not None and mask_with is not None:
            s = mask_with(s, mask)
        e = torch.exp(s - s.amax(dim, keepdim=True))
        w = e / e.sum(dim, keepdim=True)
        return torch.einsum("...ij,...jd->...id", w, v), w

    return attend


def _right_mask(s, m):
    return s.masked_fill(~m.bool(), -1e30)


def _transpose_wrong(q, k, v, mask=None):
    s = q @ k.transpose(1, 2) / math.sqrt(q.size(2))
    w = s.masked_fill(mask == 0, -1e9).softmax(2) if mask is not None else s.softmax(2)
    return w @ v, w


def _reshape_keys(q, k, v, mask=None):
    s = q @ k.reshape(k.shape[:-2] + (k.shape[-1], k.shape[-2])) / math.sqrt(q.shape[-1])
    w = (s if mask is None else _right_mask(s, mask)).softmax(-1)
    return w @ v, w


def _dropped(q, k, v, mask=None):
    w = nn.Dropout(0.3)(plain(q, k, v, mask)[1])
    return w @ v, w


def _times_mask_before(q, k, v, mask=None):
    s = q @ k.mT / math.sqrt(q.shape[-1])
    w = torch.softmax(s if mask is None else s * mask, -1)
    return w.to(v.dtype) @ v, w.to(v.dtype)


def _masked_after(q, k, v, mask=None):
    w = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)
    w = w if mask is None else torch.where(mask.bool(), w, torch.zeros(()))
    return w @ v, w


def _masked_after_huge(q, k, v, mask=None):
    w = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)
    w = w if mask is None else torch.where(mask.bool(), w, torch.tensor(-1e9))
    return w @ v, w


ATTENTION_WRONG = {
    "no-scale": _attention(lambda q, k, v: 1, _right_mask),
    "scale-without-root": _attention(lambda q, k, v: q.size(-1), _right_mask),
    "scale-by-value-width": _attention(lambda q, k, v: math.sqrt(v.size(-1)), _right_mask),
    "scale-by-key-count": _attention(lambda q, k, v: math.sqrt(k.size(-2)), _right_mask),
    "scale-by-full-width": _attention(
        lambda q, k, v: math.sqrt(q.size(-1) * (q.size(-3) if q.ndim > 2 else 1)), _right_mask
    ),
    "softmax-over-queries": _attention(mask_with=_right_mask, dim=-2),
    "softmax-over-dim-1": _attention(mask_with=_right_mask, dim=1),
    "mask-ignored": _attention(),
    "mask-inverted": _attention(mask_with=lambda s, m: s.masked_fill(m.bool(), -1e30)),
    "mask-tiny-fill": _attention(mask_with=lambda s, m: s.masked_fill(m == 0, 1e-9)),
    "mask-added": _attention(mask_with=lambda s, m: m + s),
    "mask-bool-only": _attention(mask_with=lambda s, m: s.masked_fill(~m, -1e30)),
    "mask-after-softmax": _masked_after,
    "mask-after-softmax-fill": _masked_after_huge,
    "mask-numbers-only": masked_with_arithmetic,
    "mask-bool-only: product": cleared_by_product,
    "no-softmax": lambda q, k, v, mask=None: (lambda s: (s @ v, s))(
        q @ k.mT / math.sqrt(q.shape[-1]) * (1 if mask is None else mask.float())
    ),
    "keys-turned-in-3d": _transpose_wrong,
    "keys-reshaped": _reshape_keys,
    "dropout-left-on": _dropped,
    "output-only": lambda q, k, v, mask=None: F.scaled_dot_product_attention(
        q, k, v, attn_mask=None if mask is None else mask.bool()
    ),
    "order-of-results": lambda *a: plain(*a)[::-1],
}

# -------------------------------------------------------------------------------------- masked-softmax


def softmax_any(scores, mask):
    mask = mask.expand_as(scores)
    some = mask.any(-1, keepdim=True)
    return scores.masked_fill(~mask & some, -torch.inf).softmax(-1) * mask


def softmax_by_hand(scores, mask):
    lowest = torch.finfo(scores.dtype).min
    top = torch.where(mask, scores, lowest).amax(-1, keepdim=True)
    powers = torch.where(mask, torch.exp((scores - top).clamp(max=0)), 0.0)
    total = powers.sum(-1, keepdim=True)
    return powers / torch.where(total > 0, total, 1.0)


def softmax_in_float32(x, m):
    return (x.float().masked_fill(~m, -1e9).softmax(-1) * m).to(x.dtype)


def softmax_wiped(scores, mask):
    return torch.nan_to_num(torch.softmax(torch.where(mask, scores, float("-inf")), dim=-1))


def softmax_renormalised(scores, mask):
    w = scores.softmax(-1) * mask
    total = w.sum(-1, keepdim=True)
    return w / torch.where(total == 0, torch.ones_like(total), total)


def softmax_added(scores, mask):
    bias = torch.zeros_like(scores).masked_fill(~mask, torch.finfo(scores.dtype).min)
    return (scores + bias).softmax(-1) * mask


def softmax_in_float64(scores, mask):
    w = scores.double().softmax(-1) * mask
    total = w.sum(-1, keepdim=True)
    return (w / torch.where(total == 0, 1, total)).to(scores.dtype)


def softmax_by_hand_and(total, top_of_allowed=False):
    def softmax(scores, mask):
        top = (scores.masked_fill(~mask, -torch.inf) if top_of_allowed else scores).amax(-1, keepdim=True)
        e = (scores - top).exp() * mask
        return e / total(e.sum(-1, keepdim=True))

    return softmax


def softmax_wiped_in_place(scores, mask):
    w = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    w[w.isnan()] = 0
    return w


def softmax_first_and(total):
    def softmax(scores, mask):
        w = scores.softmax(-1) * mask
        return w / total(w.sum(-1, keepdim=True))

    return softmax


def softmax_safe_epsilon(scores, mask):
    w = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1) * mask
    return w / (w.sum(-1, keepdim=True) + 1e-9)


def softmax_loops(scores, mask):
    flat, allowed = scores.reshape(-1, scores.shape[-1]), mask.expand_as(scores).reshape(-1, scores.shape[-1])
    rows = []
    for row, keep in zip(flat, allowed, strict=True):
        out = torch.zeros_like(row)
        if keep.any():
            out = out.masked_scatter(keep, torch.softmax(row[keep], 0))
        rows.append(out)
    return torch.stack(rows).reshape(scores.shape)


def softmax_small_fill(scores, mask):
    return torch.softmax(scores.masked_fill(mask == 0, -1e4), dim=-1).masked_fill(mask == 0, 0.0)


SOFTMAX_RIGHT = {
    "rows that allow something": softmax_any,
    "by hand": softmax_by_hand,
    "in float32": softmax_in_float32,
    "wiped": softmax_wiped,
    "lowest number added": softmax_added,
    "renormalised in float64": softmax_in_float64,
    "renormalised": softmax_renormalised,
    "fill of -100, cleared": lambda s, m: s.masked_fill(~m, -100).softmax(-1) * m,
    "loops": softmax_loops,
    "small fill": softmax_small_fill,
    "lambda": lambda s, m: s.masked_fill(~m, torch.finfo(s.dtype).min).softmax(-1) * m,
    "package": attn_course.masked_softmax,
}
SOFTMAX_WRONG = {
    "mask-ignored": lambda s, m: F.softmax(s, -1),
    "mask-inverted": lambda s, m: softmax_any(s, ~m),
    "mask-inverted: too large for half": lambda s, m: s.masked_fill(m, -1e9).softmax(-1),
    "mask-inverted: cleared": lambda s, m: s.masked_fill(m, torch.finfo(s.dtype).min).softmax(-1) * m,
    "maximum-over-everything": softmax_by_hand_and(lambda t: t.clamp_min(1e-6)),
    "maximum-over-everything: epsilon": softmax_by_hand_and(lambda t: t + 1e-9),
    "softmax-before-the-mask": softmax_first_and(lambda t: t + 1e-9),
    "zero-over-zero": softmax_first_and(lambda t: t),
    "zero-over-zero: by hand": softmax_by_hand_and(lambda t: t),
    "zero-over-zero: maximum of the allowed": softmax_by_hand_and(lambda t: t, top_of_allowed=True),
    "epsilon-vanishes-in-half": softmax_safe_epsilon,
    "fill-not-low-enough": lambda s, m: (s + ~m * -20.0).softmax(-1) * m,
    "breaks-autograd": softmax_wiped_in_place,
    "mask-after-softmax": lambda s, m: F.softmax(s, -1) * m,
    "mask-zero-fill": lambda s, m: F.softmax(s.masked_fill(~m, 1e-9), -1),
    "mask-zero-fill-cleared": lambda s, m: F.softmax(s * m, -1) * m,
    "empty-row-nan": lambda s, m: torch.where(m, s, -torch.inf).softmax(-1),
    "empty-row-even": lambda s, m: torch.where(m, s, -3e4).softmax(-1),
    "fill-too-large-for-half": lambda s, m: s.masked_fill(~m, -1e20).softmax(-1) * m,
    "fill-too-large-and-even": lambda s, m: s.masked_fill(m == 0, -1e9).softmax(-1),
    "softmax-over-queries": lambda s, m: s.masked_fill(~m, -3e4).softmax(-2) * m,
    "softmax-over-dim-1": lambda s, m: s.masked_fill(~m, -3e4).softmax(1) * m,
    "returns-float32": lambda s, m: softmax_any(s.float(), m),
    "exponential-overflows": lambda s, m: (
        s.exp() * m / (s.exp() * m).sum(-1, keepdim=True).clamp_min(torch.finfo(s.dtype).tiny)
    ),
}

# ------------------------------------------------------------------------------------------- two masks


def causal_loops(n):
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        mask[i, : i + 1] = True
    return mask


CAUSAL_RIGHT = {
    "compare": lambda n: torch.arange(n)[:, None] >= torch.arange(n),
    "tril": lambda size: torch.tril(torch.ones((size, size))).bool(),
    "not triu": lambda n: ~torch.triu(torch.ones(n, n, dtype=torch.bool), diagonal=1),
    "loops": causal_loops,
    "lists": lambda n: torch.tensor([[j <= i for j in range(n)] for i in range(n)]),
    "numpy": lambda n: torch.from_numpy(np.tri(n, dtype=bool)),
    "infinity": lambda n: torch.full((n, n), -torch.inf).triu(1) == 0,
    "package": attn_course.causal_mask,
}
CAUSAL_WRONG = {
    "transposed": lambda n: torch.arange(n)[:, None] <= torch.arange(n),
    "inverted": lambda n: torch.arange(n)[:, None] < torch.arange(n),
    "without-diagonal": lambda n: torch.arange(n)[:, None] > torch.arange(n),
    "one-too-far": lambda n: torch.arange(n)[:, None] >= torch.arange(n) - 1,
    "everything-allowed": lambda n: torch.full((n, n), True),
    "not-bool": lambda n: torch.tril(torch.ones(n, n)),
    "not-bool-integer": lambda n: causal_loops(n).to(torch.int64),
    "additive": lambda n: torch.zeros(n, n).masked_fill(~causal_loops(n), float("-inf")),
    "batch-dimensions": lambda n: causal_loops(n)[None, None],
}


def padding_loops(lengths, n):
    mask = torch.zeros(len(lengths), 1, 1, n, dtype=torch.bool)
    for i, length in enumerate(lengths):
        mask[i, :, :, :length] = True
    return mask


PADDING_RIGHT = {
    "compare": lambda lengths, n: (torch.arange(n) < lengths.unsqueeze(1)).unsqueeze(1).unsqueeze(2),
    "view": lambda lengths, n: torch.arange(n).view(1, 1, 1, -1) < lengths.view(-1, 1, 1, 1),
    "loops": padding_loops,
    "lists": lambda le, n: torch.tensor([[[[True] * x + [False] * (n - x)]] for x in le.tolist()]),
    "one-hot": lambda le, n: (F.one_hot(le - 1, n).flip(-1).cumsum(-1).flip(-1) > 0)[:, None, None],
    "stack": lambda le, n: torch.stack([torch.arange(n) < x for x in le]).reshape(len(le), 1, 1, n),
    "package": attn_course.padding_mask,
}
PADDING_WRONG = {
    "inverted": lambda le, n: torch.arange(n).view(1, 1, 1, -1) >= le.view(-1, 1, 1, 1),
    "off-by-one": lambda le, n: torch.arange(n).view(1, 1, 1, -1) <= le.view(-1, 1, 1, 1),
    "no-column": lambda le, n: torch.arange(n) < le,
    "two-dimensions": lambda le, n: padding_loops(le, n).squeeze(1).squeeze(1),
    "three-dimensions": lambda le, n: padding_loops(le, n)[:, 0],
    "masks-queries": lambda le, n: padding_loops(le, n).mT,
    "padding-at-the-front": lambda le, n: torch.arange(n).view(1, 1, 1, -1) >= n - le.view(-1, 1, 1, 1),
    "width-from-lengths": lambda le, n: torch.arange(le.max()).view(1, 1, 1, -1) < le.view(-1, 1, 1, 1),
    "not-bool": lambda le, n: padding_loops(le, n) * 1.0,
    "not-bool-integer": lambda le, n: padding_loops(le, n) * 1,
}

# ----------------------------------------------------------------------------------------------- heads


def split_loops(x, num_heads):
    batch, n, d = x.shape
    out = torch.empty(batch, num_heads, n, d // num_heads)
    for i in range(num_heads):
        out[:, i] = x[:, :, i * (d // num_heads) : (i + 1) * (d // num_heads)]
    return out


SPLIT_RIGHT = {
    "view": lambda x, h: x.view(x.size(0), x.size(1), h, -1).permute(0, 2, 1, 3),
    "reshape": lambda x, h: x.reshape(*x.shape[:-1], h, -1).transpose(-3, -2),
    "stack": lambda x, h: torch.stack(x.chunk(h, dim=-1), dim=1),
    "unflatten": lambda x, h: x.unflatten(-1, (h, x.shape[-1] // h)).swapaxes(1, 2).contiguous(),
    "loops": split_loops,
    "einsum": lambda x, h: torch.einsum("bnhk->bhnk", x.view(*x.shape[:2], h, x.shape[2] // h)),
    "turned": lambda x, h: x.reshape(*x.shape[:-1], h, -1).mT.permute(0, 3, 1, 2),
    "package": attn_course.split_heads,
}
SPLIT_WRONG = {
    "reshape-for-transpose": lambda x, h: x.view(x.size(0), h, x.size(1), x.size(2) // h),
    "interleaved": lambda x, h: torch.stack([x[..., i::h] for i in range(h)], 1),
    "not-transposed": lambda x, h: x.unflatten(-1, (h, -1)),
    "tokens-last": lambda x, h: torch.stack(x.chunk(h, dim=-1), dim=1).mT,
    "heads-in-batch": lambda x, h: torch.cat([torch.stack(b.chunk(h, -1)) for b in x]),
    "heads-first": lambda x, h: torch.stack(x.chunk(h, dim=-1)),
    "transposed-too-early": lambda x, h: x.mT.reshape(x.size(0), h, x.size(1), x.size(2) // h),
    "width-is-a-float": lambda x, h: x.view(x.size(0), x.size(1), h, x.size(2) / h).transpose(1, 2),
    "width-is-a-float: reshape": lambda x, h: x.reshape(x.size(0), x.size(1), h, x.size(2) / h).mT,
    "heads-for-width": lambda x, h: x.unflatten(-1, (-1, h)).transpose(1, 2),
}

MERGE_RIGHT = {
    "reshape": lambda x: x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1),
    "contiguous": lambda x: (
        x.permute(0, 2, 1, 3).contiguous().view(x.size(0), x.size(2), x.size(1) * x.size(3))
    ),
    "cat": lambda x: torch.cat(tuple(x.unbind(1)), dim=-1),
    "flatten": lambda x: x.swapaxes(1, 2).flatten(2),
    "loops": lambda x: torch.stack(
        [torch.cat([x[b, i] for i in range(x.shape[1])], -1) for b in range(len(x))]
    ),
    "package": attn_course.merge_heads,
}
MERGE_WRONG = {
    "reshape-for-transpose": lambda x: x.reshape(x.size(0), x.size(2), x.size(1) * x.size(3)),
    "view-without-order": lambda x: x.transpose(1, 2).view(x.size(0), x.size(2), x.size(1) * x.size(3)),
    "interleaved": lambda x: torch.stack(tuple(x.unbind(1)), -1).flatten(2),
    "not-joined": lambda x: x.permute(0, 2, 1, 3),
    "heads-summed": lambda x: sum(x.unbind(1)),
    "heads-averaged": lambda x: torch.mean(x, dim=1),
    "joined-with-tokens": lambda x: x.reshape(x.shape[0], -1, x.shape[3]),
}

# ------------------------------------------------------------------------------------------- multi-head


class Given(nn.Module):
    """What the stub gives."""

    def __init__(self, d_model, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.w_q = nn.Linear(d_model, d_model)
        self.w_k = nn.Linear(d_model, d_model)
        self.w_v = nn.Linear(d_model, d_model)
        self.w_o = nn.Linear(d_model, d_model)


class Composed(Given):
    def forward(self, query, key, value, mask=None):
        q, k, v = (
            SPLIT_RIGHT["view"](w(x), self.num_heads)
            for w, x in ((self.w_q, query), (self.w_k, key), (self.w_v, value))
        )
        out, weights = finite_fill(q, k, v, mask)
        return self.w_o(MERGE_RIGHT["contiguous"](out)), weights


class ByHead(Given):
    def forward(self, a, b, c, m=None):
        outs, maps = [], []
        q, k, v = self.w_q(a), self.w_k(b), self.w_v(c)
        for i, (qi, ki, vi) in enumerate(zip(*(x.chunk(self.num_heads, -1) for x in (q, k, v)), strict=True)):
            allowed = m
            if m is not None and m.ndim == 4:
                allowed = m[:, min(i, m.shape[1] - 1)]
            out, w = plain(qi, ki, vi, allowed)
            outs.append(out)
            maps.append(w)
        return self.w_o(torch.cat(outs, -1)), torch.stack(maps, 1)


class Fused(Given):
    def forward(self, query, key, value, mask=None):
        heads = [
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x in (self.w_q(query), self.w_k(key), self.w_v(value))
        ]
        out, weights = with_sdpa(*heads, mask)
        return self.w_o(out.transpose(1, 2).flatten(2)), weights


class WithEinsum(Given):
    def forward(self, query, key, value, mask=None):
        h = self.num_heads
        q, k, v = (
            w(x).view(*x.shape[:2], h, -1) for w, x in ((self.w_q, query), (self.w_k, key), (self.w_v, value))
        )
        s = torch.einsum("bqhd,bkhd->bhqk", q, k).div(q.shape[-1] ** 0.5)
        if mask is not None:
            s = s.masked_fill(~mask, -torch.inf)
        w = s.softmax(-1)
        return self.w_o(torch.einsum("bhqk,bkhd->bqhd", w, v).flatten(2)), w


class WithoutKeyBias(Composed):
    """The bias of the keys adds the same number to all scores of a query, and so changes nothing."""

    def forward(self, query, key, value, mask=None):
        q, k, v = (
            SPLIT_RIGHT["view"](x, self.num_heads)
            for x in (self.w_q(query), key @ self.w_k.weight.T, self.w_v(value))
        )
        out, weights = plain(q, k, v, mask)
        return self.w_o(MERGE_RIGHT["cat"](out)), weights


class WithExtras(Composed):
    """Keeps the given ``__init__`` and adds to it: dropout of zero, a buffer, another module."""

    def __init__(self, d_model, num_heads, dropout=0.0):
        super().__init__(d_model, num_heads)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("scale", torch.tensor(math.sqrt(d_model // num_heads)))
        self.unused = nn.LayerNorm(d_model)
        self.eval()

    def forward(self, *inputs):
        output, weights = super().forward(*inputs)
        return self.dropout(output), weights


class DropsOutput(Composed):
    """Drops some of its output while it trains, as the package's does."""

    def __init__(self, d_model, num_heads):
        super().__init__(d_model, num_heads)
        self.dropout = nn.Dropout(0.1)

    def forward(self, *inputs):
        output, weights = super().forward(*inputs)
        return self.dropout(output), weights


class NotAModule:
    """Everything that the stub gives, without ``nn.Module``."""

    def __init__(self, d_model, num_heads):
        self.inner = Composed(d_model, num_heads)
        self.w_q, self.w_k, self.w_v, self.w_o = (
            getattr(self.inner, n) for n in ("w_q", "w_k", "w_v", "w_o")
        )

    def forward(self, query, key, value, mask=None):
        return self.inner(query, key, value, mask)


class Functional(Given):
    """torch's own multi-head attention, with these weights."""

    def forward(self, query, key, value, mask=None):
        batch, n_q, d = query.shape
        n_k, h = key.shape[1], self.num_heads
        if mask is not None:
            mask = (~mask).expand(batch, h, n_q, n_k).reshape(batch * h, n_q, n_k)
        output, weights = F.multi_head_attention_forward(
            query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1), d, h,
            None, torch.cat([w.bias for w in (self.w_q, self.w_k, self.w_v)]), None, None, False, 0.0,
            self.w_o.weight, self.w_o.bias, training=False, attn_mask=mask, use_separate_proj_weight=True,
            q_proj_weight=self.w_q.weight, k_proj_weight=self.w_k.weight, v_proj_weight=self.w_v.weight,
            average_attn_weights=False,
        )  # fmt: skip
        return output.transpose(0, 1), weights


MULTI_HEAD_RIGHT = {
    "composed": Composed,
    "by head": ByHead,
    "fused": Fused,
    "einsum": WithEinsum,
    "extras": WithExtras,
    "partial": functools.partial(WithExtras, dropout=0.0),
    "no bias of the keys": WithoutKeyBias,
    "drops its output": DropsOutput,
    "no module": NotAModule,
    "functional": Functional,
    "factory": lambda d, h: Composed(d, h),
    "package": attn_course.MultiHeadAttention,
    "package without dropout": functools.partial(attn_course.MultiHeadAttention, dropout=0.0),
}


def _multi_head(**changes):
    """A class whose forward has one thing wrong, in the words of a learner."""
    steps = {
        "inputs": lambda self, q, k, v: (self.w_q(q), self.w_k(k), self.w_v(v)),
        "split": lambda x, h: torch.stack(x.chunk(h, -1), 1),
        "scale": lambda q, k, d: math.sqrt(q.shape[-1]),
        "mask": lambda s, m: s.masked_fill(m == 0, -1e9),
        "softmax": lambda s: torch.softmax(s, -1),
        "drop": lambda w, training: w,
        "merge": lambda x: torch.cat(x.unbind(1), -1),
        "end": lambda self, out, w: (self.w_o(out), w),
        **changes,
    }

    class Learners(Given):
        def forward(self, query, key, value, mask=None):
            parts = [steps["split"](x, self.num_heads) for x in steps["inputs"](self, query, key, value)]
            q, k, v = parts
            s = torch.einsum("bhid,bhjd->bhij", q, k) / steps["scale"](q, k, query.shape[-1])
            if mask is not None:
                s = steps["mask"](s, mask)
            w = steps["drop"](steps["softmax"](s), self.training)
            return steps["end"](self, steps["merge"](w @ v), w)

    return Learners


class NeverSplit(Given):
    def forward(self, query, key, value, mask=None):
        q, k, v = self.w_q(query), self.w_k(key), self.w_v(value)
        scores = torch.bmm(q, k.mT) / math.sqrt(q.size(-1))
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = F.softmax(scores, dim=2)
        return self.w_o(weights @ v), weights


def _textbook_lengths(self, q, k, v):
    batch, n, d = q.shape
    return tuple(w(x).view(batch, n, d) for w, x in ((self.w_q, q), (self.w_k, k), (self.w_v, v)))


MULTI_HEAD_WRONG = {
    "scale-by-model-width": _multi_head(scale=lambda q, k, d: math.sqrt(d)),
    "no-scale": _multi_head(scale=lambda q, k, d: 1),
    "split-by-reshape": _multi_head(split=lambda x, h: x.view(x.size(0), h, x.size(1), -1)),
    "merge-by-reshape": _multi_head(merge=lambda x: x.reshape(x.size(0), x.size(2), -1)),
    "split-and-merge-by-reshape": _multi_head(
        split=lambda x, h: x.view(x.size(0), h, x.size(1), -1),
        merge=lambda x: x.reshape(x.size(0), x.size(2), -1),
    ),
    "no-output-projection": _multi_head(end=lambda self, out, w: (out, w)),
    "ignores-key": _multi_head(inputs=lambda self, q, k, v: (self.w_q(q), self.w_k(q), self.w_v(q))),
    "values-from-key": _multi_head(inputs=lambda self, q, k, v: (self.w_q(q), self.w_k(k), self.w_v(k))),
    "length-of-query-for-keys": _multi_head(inputs=_textbook_lengths),
    "mask-ignored": _multi_head(mask=lambda s, m: s),
    "mask-inverted": _multi_head(mask=lambda s, m: s.masked_fill(m, -torch.inf)),
    "mask-tiny-fill": _multi_head(mask=lambda s, m: s.masked_fill(~m, 1e-9)),
    "softmax-over-heads": _multi_head(softmax=lambda s: s.softmax(1)),
    "weights-averaged": _multi_head(end=lambda self, out, w: (self.w_o(out), w.mean(dim=1))),
    "dropout-left-on": _multi_head(drop=lambda w, training: F.dropout(w, 0.2)),
    "weights-after-dropout": _multi_head(drop=lambda w, training: F.dropout(w, 0.1, training)),
    "output-only": _multi_head(end=lambda self, out, w: self.w_o(out)),
    "no-head-dimension": NeverSplit,
}

# ------------------------------------------------------------------------------------------ the block


def block_steps(stream, attention, feed_forward, norm1, norm2):
    for layer, norm in ((attention, norm1), (feed_forward, norm2)):
        normed = norm(stream)
        stream = torch.add(stream, layer(normed))
    return stream


def block_of_sequentials(x, attention, feed_forward, norm1, norm2):
    first, second = nn.Sequential(norm1, attention), nn.Sequential(norm2, feed_forward)
    y = x + first(x)
    return y + second(y)


class Block(nn.Module):
    def forward(self, x, *four):
        return block_steps(x, *four)


BLOCK_RIGHT = {
    "steps": block_steps,
    "sequential": block_of_sequentials,
    "module": Block(),
    "lambda": lambda x, a, f, n, m: (lambda y: y + f(m(y)))(x + a(n(x))),
    "partial": functools.partial(lambda flag, *args: block_steps(*args), True),
    "addition in another order": lambda x, a, f, n, m: f(m(a(n(x)) + x)) + a(n(x)) + x,
}


def _post_norm(x, attention, feed_forward, norm1, norm2):
    x = norm1(x + attention(x))
    return norm2(x + feed_forward(x))


def _normalises_the_stream(x, attention, feed_forward, norm1, norm2):
    x = norm1(x)
    x = x + attention(x)
    x = norm2(x)
    return x + feed_forward(x)


BLOCK_WRONG = {
    "post-norm": _post_norm,
    "stream-normalised": _normalises_the_stream,
    "norm-of-result": lambda x, a, f, n, m: (lambda y: y + m(f(y)))(x + n(a(x))),
    "norm-of-result-feed-forward": lambda x, a, f, n, m: (lambda y: y + m(f(y)))(x + a(n(x))),
    "stream-added-twice": lambda x, a, f, n, m: (lambda y: y + y + f(m(y)))(x + a(n(x))),
    "stream-added-twice: input": lambda x, a, f, n, m: (lambda y: x + y + f(m(y)))(x + a(n(x))),
    "no-residual": lambda x, a, f, n, m: f(m(a(n(x)))),
    "no-norm": lambda x, a, f, n, m: (lambda y: y + f(y))(x + a(x)),
    "residual-from-the-start": lambda x, a, f, n, m: x + f(m(x + a(n(x)))),
    "parallel": lambda x, a, f, n, m: x + a(n(x)) + f(m(x)),
    "norms-exchanged": lambda x, a, f, n, m: block_steps(x, a, f, m, n),
    "one-norm-twice": lambda x, a, f, n, m: block_steps(x, a, f, n, n),
    "feed-forward-first": lambda x, a, f, n, m: block_steps(x, f, a, m, n),
}

RIGHT = {
    "scaled-dot-product": ATTENTION_RIGHT,
    "masked-softmax": SOFTMAX_RIGHT,
    "causal-mask": CAUSAL_RIGHT,
    "padding-mask": PADDING_RIGHT,
    "split-heads": SPLIT_RIGHT,
    "merge-heads": MERGE_RIGHT,
    "multi-head-attention": MULTI_HEAD_RIGHT,
    "pre-norm-block": BLOCK_RIGHT,
}
WRONG = {
    "scaled-dot-product": ATTENTION_WRONG,
    "masked-softmax": SOFTMAX_WRONG,
    "causal-mask": CAUSAL_WRONG,
    "padding-mask": PADDING_WRONG,
    "split-heads": SPLIT_WRONG,
    "merge-heads": MERGE_WRONG,
    "multi-head-attention": MULTI_HEAD_WRONG,
    "pre-norm-block": BLOCK_WRONG,
}
