"""Chapter 6: right answers in many hands, and wrong ones as learners write them.

The package keeps a bank of wrong answers too, for diagnosis; these are written independently of it.
"""

import functools
import heapq
import math
import operator

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import attn_course

# ----------------------------------------------------------------------------------------- window-mask


def mask_loops(n, window):
    mask = torch.zeros(n, n, dtype=torch.bool)
    for query in range(n):
        for key in range(n):
            mask[query, key] = abs(query - key) <= window
    return mask


def mask_rows(n, window):
    mask = torch.zeros((n, n)).bool()
    for i in range(n):
        mask[i, max(0, i - window) : i + window + 1] = True
    return mask


def mask_triangles(n, window):
    return torch.ones(n, n).tril(window).triu(-window).bool()


def mask_difference_of_triangles(n, window):
    ones = torch.ones(n, n, dtype=torch.bool)
    return ones.tril(window) & ~ones.tril(-window - 1)


def mask_two_sides(n, window):
    i = torch.arange(n).unsqueeze(1)
    j = torch.arange(n).unsqueeze(0)
    return (j >= i - window) & (j <= i + window)


def mask_squares(n, window):
    at = torch.arange(n)
    return (at[:, None] - at[None, :]) ** 2 <= window**2


def mask_meshgrid(n, window):
    rows, columns = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    return torch.abs(rows - columns).le(window)


def mask_numpy(n, window):
    at = np.arange(n)
    return torch.from_numpy(np.abs(np.subtract.outer(at, at)) <= window)


def mask_diagonals(n, window):
    mask = torch.zeros(n, n)
    for step in range(-min(window, n - 1), min(window, n - 1) + 1):
        mask += torch.diag(torch.ones(n - abs(step)), step)
    return mask > 0


def mask_lists(n, window):
    return torch.tensor([[abs(i - j) <= window for j in range(n)] for i in range(n)])


def mask_distances(n, window):
    at = torch.arange(float(n)).unsqueeze(-1)
    return torch.cdist(at, at, p=1) < window + 0.5


def mask_of_the_package(n, window):
    return attn_course.sliding_window_mask(n, window)


def mask_powers(n, window):
    """Who is reached by `window` steps to a neighbour."""
    step = torch.ones(n, n).tril(1).triu(-1)
    seen = torch.eye(n)
    for _ in range(min(window, n)):
        seen = (seen @ step).clamp(max=1)
    return seen != 0


class Band:
    def __call__(self, n, window):
        return mask_two_sides(n, window)


def mask_range(n, window):
    """The keys from the first to before the last, of a `range`."""
    mask = torch.zeros(n, n).bool()
    for i in range(n):
        for j in range(max(0, i - window), min(n, i + window)):
            mask[i, j] = True
    return mask


def mask_negative_start(n, window):
    mask = torch.zeros(n, n).bool()
    for i in range(n):
        mask[i, i - window : i + window + 1] = True
    return mask


# ------------------------------------------------------------------------------------ window-attention


def window_loop(q, k, v, window):
    rows = []
    for i in range(q.size(-2)):
        near = slice(max(0, i - window), i + window + 1)
        s = q[..., i : i + 1, :] @ k[..., near, :].transpose(-1, -2) / math.sqrt(q.size(-1))
        rows.append(s.softmax(-1) @ v[..., near, :])
    return torch.cat(rows, dim=-2)


def window_loop_written_into(q, k, v, window):
    out = torch.zeros_like(v)
    for i in range(q.shape[-2]):
        lo, hi = max(i - window, 0), min(i + window, q.shape[-2] - 1)
        keys, values = k[..., lo : hi + 1, :], v[..., lo : hi + 1, :]
        scores = torch.einsum("...d,...kd->...k", q[..., i, :], keys) * q.shape[-1] ** -0.5
        out[..., i, :] = torch.einsum("...k,...kd->...d", scores.softmax(-1), values)
    return out


def window_pairs(q, k, v, window):
    """One pair at a time."""
    n, d = q.shape[-2:]
    out = []
    for i in range(n):
        top, below = 0, 0
        for j in range(max(0, i - window), min(n, i + window + 1)):
            e = torch.exp((q[..., i, :] * k[..., j, :]).sum(-1, keepdim=True) / d**0.5)
            top, below = top + e * v[..., j, :], below + e
        out.append(top / below)
    return torch.stack(out, -2)


def window_boolean(q, k, v, window):
    """The keys of each query are picked out by a row of True and False."""
    at, rows = torch.arange(q.shape[-2]), []
    for i in range(q.shape[-2]):
        near = (at - i).abs() <= window
        keys, values = k[..., near, :], v[..., near, :]
        rows.append((q[..., i : i + 1, :] @ keys.mT / q.shape[-1] ** 0.5).softmax(-1) @ values)
    return torch.cat(rows, -2)


def window_blocks(q, k, v, window, block=16):
    n, d = q.shape[-2:]
    at, parts = torch.arange(n), []
    for a in range(0, n, block):
        b = min(n, a + block)
        lo, hi = max(0, a - window), min(n, b + window)
        s = q[..., a:b, :] @ k[..., lo:hi, :].mT / math.sqrt(d)
        outside = (at[a:b].unsqueeze(1) - at[lo:hi].unsqueeze(0)).abs() > window
        parts.append(torch.softmax(s.masked_fill(outside, float("-inf")), -1) @ v[..., lo:hi, :])
    return torch.cat(parts, -2)


def window_blocks_finite(q, k, v, window):
    """A very low score for −∞, and blocks as wide as the window."""
    n, block, parts = q.shape[-2], max(1, window), []
    for a in range(0, n, block):
        lo = max(0, a - window)
        keys, values = k[..., lo : a + block + window, :], v[..., lo : a + block + window, :]
        s = q[..., a : a + block, :] @ keys.mT * q.shape[-1] ** -0.5
        i = torch.arange(a, a + s.shape[-2])[:, None]
        j = torch.arange(lo, lo + s.shape[-1])
        s = torch.where((i - j).abs() <= window, s, torch.tensor(-1e9))
        parts.append(F.softmax(s, dim=-1) @ values)
    return torch.cat(parts, -2)


def window_sdpa(q, k, v, window):
    n, parts = q.shape[-2], []
    for a in range(0, n, 32):
        rows, reach = slice(a, min(n, a + 32)), slice(max(0, a - window), min(n, a + 32 + window))
        near = (torch.arange(n)[rows, None] - torch.arange(n)[reach]).abs() <= window
        keys, values = k[..., reach, :], v[..., reach, :]
        parts.append(F.scaled_dot_product_attention(q[..., rows, :], keys, values, attn_mask=near))
    return torch.cat(parts, -2)


def window_gather(q, k, v, window):
    n = q.shape[-2]
    where = torch.arange(n)[:, None] + torch.arange(-window, window + 1)
    beyond = (where < 0) | (where >= n)
    where = where.clamp(0, n - 1)
    s = torch.einsum("...nd,...nkd->...nk", q, k[..., where, :]) / q.shape[-1] ** 0.5
    return torch.einsum(
        "...nk,...nkd->...nd", s.masked_fill(beyond, -torch.inf).softmax(-1), v[..., where, :]
    )


def window_unfold(q, k, v, window):
    """Zeros at both ends, and all windows as one view."""
    n, size = q.shape[-2], 2 * window + 1
    kw, vw = (F.pad(x, (0, 0, window, window)).unfold(-2, size, 1) for x in (k, v))  # (…, n, d, size)
    real = F.pad(torch.ones(n, dtype=torch.bool), (window, window)).unfold(0, size, 1)
    s = (q.unsqueeze(-2) @ kw).squeeze(-2) / math.sqrt(q.shape[-1])
    return (s.masked_fill(~real, -torch.inf).softmax(-1).unsqueeze(-2) @ vw.mT).squeeze(-2)


def window_chunks(q, k, v, window):
    """As in Longformer: chunks of `window` queries meet three chunks of keys, all at once."""
    *lead, n, d = q.shape
    c = max(1, window)
    m = math.ceil(n / c)
    pad = lambda x, before, after: F.pad(x, (0, 0, before, after))  # noqa: E731
    qc = pad(q, 0, m * c - n).reshape(*lead, m, c, d)
    kc, vc = (pad(x, c, m * c - n + c).unfold(-2, 3 * c, c).mT for x in (k, v))
    i = torch.arange(m * c).reshape(m, c, 1)
    j = torch.arange(-c, (m + 1) * c).unfold(0, 3 * c, c)[:, None]
    near = ((i - j).abs() <= window) & (j >= 0) & (j < n) | ((i >= n) & (i == j))
    w = (qc @ kc.mT / math.sqrt(d)).masked_fill(~near, -torch.inf).softmax(-1)
    return (w @ vc).reshape(*lead, m * c, d)[..., :n, :]


def window_offsets(q, k, v, window):
    """One distance at a time, for all queries."""
    n, d = q.shape[-2:]
    scores = q.new_full((*q.shape[:-1], 2 * window + 1), -math.inf)
    for step in range(-min(window, n - 1), min(window, n - 1) + 1):
        a, b = max(0, -step), min(n, n - step)  # the queries that have a key there
        scores[..., a:b, step + window] = (q[..., a:b, :] * k[..., a + step : b + step, :]).sum(-1) / d**0.5
    weights, out = scores.softmax(-1), torch.zeros_like(v)
    for step in range(-min(window, n - 1), min(window, n - 1) + 1):
        a, b = max(0, -step), min(n, n - step)
        out[..., a:b, :] += weights[..., a:b, step + window, None] * v[..., a + step : b + step, :]
    return out


def window_rolled(q, k, v, window):
    """`roll`, with what came round the corner masked."""
    n, at = q.shape[-2], torch.arange(q.shape[-2])
    steps = range(-window, window + 1)
    s = torch.stack([(q * k.roll(-i, -2)).sum(-1) for i in steps], -1) / q.shape[-1] ** 0.5
    real = torch.stack([(at + i >= 0) & (at + i < n) for i in steps], -1)
    w = s.masked_fill(~real, -torch.inf).softmax(-1)
    return sum(w[..., i + window, None] * v.roll(-i, -2) for i in steps)


def window_exponentials(q, k, v, window):
    """No maximum, and a mask that multiplies: small scores allow it."""
    n, parts = q.shape[-2], []
    for a in range(0, n, 8):
        lo = max(0, a - window)
        e = torch.exp(q[..., a : a + 8, :] @ k[..., lo : a + 8 + window, :].mT / q.shape[-1] ** 0.5)
        i, j = torch.arange(a, a + e.shape[-2])[:, None], torch.arange(lo, lo + e.shape[-1])
        e = e * ((i - j).abs() <= window)
        parts.append(e @ v[..., lo : a + 8 + window, :] / e.sum(-1, keepdim=True))
    return torch.cat(parts, -2)


def window_halves(q, k, v, window, first=0, last=None):
    """The queries in two halves, until they are few."""
    last = q.shape[-2] if last is None else last
    if last - first > 8:
        middle = (first + last) // 2
        halves = (first, middle), (middle, last)
        return torch.cat([window_halves(q, k, v, window, *half) for half in halves], -2)
    lo, hi = max(0, first - window), min(q.shape[-2], last + window)
    s = q[..., first:last, :] @ k[..., lo:hi, :].mT / math.sqrt(q.shape[-1])
    far = (torch.arange(first, last)[:, None] - torch.arange(lo, hi)).abs() > window
    return s.masked_fill(far, -torch.inf).softmax(-1) @ v[..., lo:hi, :]


def window_short_ones_in_full(q, k, v, window):
    """The whole map where it is small."""
    n = q.shape[-2]
    if n > 500:
        return window_blocks(q, k, v, window)
    far = (torch.arange(n)[:, None] - torch.arange(n)).abs() > window
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(far, -torch.inf).softmax(-1) @ v


def window_in_double(q, k, v, window):
    return window_blocks(q.double(), k.double(), v.double(), window).to(q.dtype)


def window_checkpointed(q, k, v, window):
    return checkpoint(window_gather, q, k, v, window, use_reentrant=False)


def window_head_after_head(q, k, v, window):
    if q.ndim > 2:
        return torch.stack([window_head_after_head(*head, window) for head in zip(q, k, v, strict=True)])
    return window_loop(q, k, v, window)


def window_mapped(q, k, v, window):
    """`vmap` over the queries, with padded keys."""
    n, size, d = q.shape[-2], 2 * window + 1, q.shape[-1]
    kp, vp = (F.pad(x, (0, 0, window, window)) for x in (k, v))

    def one(query, start):
        where = start + torch.arange(size)
        near = (where >= window) & (where < n + window)
        s = (kp.index_select(-2, where) * query.unsqueeze(-2)).sum(-1) / math.sqrt(d)
        w = s.masked_fill(~near, -torch.inf).softmax(-1)
        return (w.unsqueeze(-1) * vp.index_select(-2, where)).sum(-2)

    return torch.vmap(one, in_dims=(-2, 0), out_dims=-2)(q, torch.arange(n))


def window_running(q, k, v, window):
    """A running maximum and sums, over distances."""
    n = q.shape[-2]
    m, total, out = torch.full_like(q[..., :1], -torch.inf), 0, 0
    kp, vp = (F.pad(x, (0, 0, window, window)) for x in (k, v))
    at = torch.arange(n)[:, None]
    own_first = [window, *range(window), *range(window + 1, 2 * window + 1)]  # m is finite from then on
    for i in own_first:
        s = (q * kp[..., i : i + n, :]).sum(-1, keepdim=True) / q.shape[-1] ** 0.5
        real = (at + i >= window) & (at + i < n + window)
        s = s.masked_fill(~real, -torch.inf)
        new = torch.maximum(m, s)
        fade, e = (m - new).exp(), (s - new).exp()
        total, out, m = total * fade + e, out * fade + e * vp[..., i : i + n, :], new
    return out / total


@torch.jit.script
def window_scripted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    rows: list[torch.Tensor] = []
    for i in range(q.size(-2)):
        lo = max(0, i - window)
        s = torch.matmul(q[..., i : i + 1, :], k[..., lo : i + window + 1, :].transpose(-1, -2))
        s = s / float(q.size(-1)) ** 0.5
        rows.append(torch.matmul(torch.softmax(s, -1), v[..., lo : i + window + 1, :]))
    return torch.cat(rows, -2)


class Windowed(torch.nn.Module):
    def forward(self, q, k, v, window):
        return window_unfold(q, k, v, window)


def full_map(q, k, v, window):
    n = q.shape[-2]
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    mask = (torch.arange(n)[:, None] - torch.arange(n)[None, :]).abs() <= window
    return F.softmax(scores.masked_fill(mask == 0, float("-inf")), dim=-1) @ v


def full_map_of_torch(q, k, v, window):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask_two_sides(q.shape[-2], window))


def full_map_band_alone(q, k, v, window):
    """The band is taken out of the full map before the softmax: what was saved was paid for already."""
    n = q.shape[-2]
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    where = torch.arange(n)[:, None] + torch.arange(-window, window + 1)
    real = (where >= 0) & (where < n)
    where = where.clamp(0, n - 1)
    s = scores.gather(-1, where.expand(*scores.shape[:-1], -1))
    return (s.masked_fill(~real, -torch.inf).softmax(-1)[..., None] * v[..., where, :]).sum(-2)


def full_map_by_multiplication(q, k, v, window):
    e = torch.exp(q @ k.mT / math.sqrt(q.shape[-1])) * mask_triangles(q.shape[-2], window)
    return e @ v / e.sum(-1, keepdim=True)


def row_of_all_keys(q, k, v, window):
    """Query by query, and each meets every key."""
    rows, at = [], torch.arange(q.shape[-2])
    for i in range(q.shape[-2]):
        s = q[..., i : i + 1, :] @ k.mT / q.shape[-1] ** 0.5
        rows.append(s.masked_fill((at - i).abs() > window, -torch.inf).softmax(-1) @ v)
    return torch.cat(rows, -2)


def chunk_of_all_keys(q, k, v, window):
    at = torch.arange(q.shape[-2])
    parts = []
    for rows in at.split(64):
        near = (rows[:, None] - at).abs() <= window
        parts.append(F.scaled_dot_product_attention(q[..., rows, :], k, v, attn_mask=near))
    return torch.cat(parts, -2)


def mask_in_advance(q, k, v, window):
    """Blocks, with their mask cut out of a large one."""
    n = q.shape[-2]
    mask = torch.ones(n, n, dtype=torch.bool).triu(-window).tril(window)
    parts = []
    for a in range(0, n, 32):
        lo, hi = max(0, a - window), min(n, a + 32 + window)
        part = F.scaled_dot_product_attention(
            q[..., a : a + 32, :], k[..., lo:hi, :], v[..., lo:hi, :], attn_mask=mask[a : a + 32, lo:hi]
        )
        parts.append(part)
    return torch.cat(parts, -2)


def _lines(source, names, *changes):
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    names = {"torch": torch, "math": math, "F": F, **names}
    exec(source, names)
    return names["wrong"]


def _row_lines(*changes):
    """The loop over queries, with lines replaced."""
    return _lines(
        """
def wrong(q, k, v, window):
    n, d = q.shape[-2], q.shape[-1]
    rows = []
    for i in range(n):
        lo = max(0, i - window)
        hi = i + window + 1
        s = q[..., i : i + 1, :] @ k[..., lo:hi, :].mT / math.sqrt(d)
        p = s.softmax(-1)
        rows.append(p @ v[..., lo:hi, :])
    return torch.cat(rows, -2)
""",
        {},
        *changes,
    )


def _block_lines(*changes):
    """Blocks, with lines replaced."""
    return _lines(
        """
def wrong(q, k, v, window):
    n, d = q.shape[-2], q.shape[-1]
    b = 2 * window + 1
    out = torch.zeros_like(q)
    for a in range(0, n, b):
        lo = max(0, a - window)
        hi = min(n, a + b + window)
        s = q[..., a : a + b, :] @ k[..., lo:hi, :].mT / math.sqrt(d)
        i = torch.arange(a, min(n, a + b))[:, None]
        j = torch.arange(lo, hi)[None, :]
        s = s.masked_fill((i - j).abs() > window, -torch.inf)
        p = s.softmax(-1)
        out[..., a : a + b, :] = p @ v[..., lo:hi, :]
    return out
""",
        {},
        *changes,
    )


def _padded_lines(*changes):
    """Padding and unfolding, with lines replaced."""
    return _lines(
        """
def wrong(q, k, v, window):
    n, size = q.shape[-2], 2 * window + 1
    kw = F.pad(k, (0, 0, window, window)).unfold(-2, size, 1)
    vw = F.pad(v, (0, 0, window, window)).unfold(-2, size, 1)
    real = F.pad(torch.ones(n), (window, window)).unfold(0, size, 1) > 0
    s = (q[..., None, :] @ kw)[..., 0, :] * q.shape[-1] ** -0.5
    s = s.masked_fill(~real, -torch.inf)
    p = s.softmax(-1)
    return (p[..., None, :] @ vw.mT)[..., 0, :]
""",
        {},
        *changes,
    )


def zero_keys_take_weight(q, k, v, window):
    kp, vp = (F.pad(x, (0, 0, window, window)) for x in (k, v))
    rows = []
    for i in range(q.shape[-2]):
        keys, values = kp[..., i : i + 2 * window + 1, :], vp[..., i : i + 2 * window + 1, :]
        rows.append(F.softmax(q[..., i : i + 1, :] @ keys.mT / math.sqrt(q.shape[-1]), -1) @ values)
    return torch.cat(rows, -2)


def rolled_round_the_corner(q, k, v, window):
    steps = range(-window, window + 1)
    s = torch.stack([(q * k.roll(i, -2)).sum(-1) / q.shape[-1] ** 0.5 for i in steps], -1).softmax(-1)
    return sum(s[..., i + window, None] * v.roll(i, -2) for i in steps)


def repeated_ends(q, k, v, window):
    at = torch.arange(q.shape[-2])[:, None] + torch.arange(-window, window + 1)[None]
    at = at.clamp(0, q.shape[-2] - 1)
    p = torch.einsum("...nd,...nkd->...nk", q, k[..., at, :]).div(q.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("...nk,...nkd->...nd", p, v[..., at, :])


def own_chunk(q, k, v, window):
    parts = zip(*(x.split(2 * window + 1, -2) for x in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts], -2)


def three_chunks_whole(q, k, v, window):
    b, parts = max(1, window), []
    for a in range(0, q.shape[-2], b):
        keys, values = k[..., max(0, a - b) : a + 2 * b, :], v[..., max(0, a - b) : a + 2 * b, :]
        parts.append(F.scaled_dot_product_attention(q[..., a : a + b, :], keys, values))
    return torch.cat(parts, -2)


def pushed_inwards(q, k, v, window):
    n, rows = q.shape[-2], []
    for i in range(n):
        lo = max(0, min(i - window, n - 2 * window - 1))
        keys, values = k[..., lo : lo + 2 * window + 1, :], v[..., lo : lo + 2 * window + 1, :]
        rows.append(F.scaled_dot_product_attention(q[..., i : i + 1, :], keys, values))
    return torch.cat(rows, -2)


def masked_by_zeros(q, k, v, window):
    s = q @ k.mT / math.sqrt(q.shape[-1])
    return (s * mask_two_sides(q.shape[-2], window)).softmax(-1) @ v


def masked_too_late(q, k, v, window):
    weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)
    return weights.masked_fill(~mask_two_sides(q.shape[-2], window), 0) @ v


def masked_the_other_way(q, k, v, window):
    s = q @ k.mT / math.sqrt(q.shape[-1])
    return s.masked_fill(mask_two_sides(q.shape[-2], window), -1e9).softmax(-1) @ v


def no_window_at_all(q, k, v, window):
    return F.scaled_dot_product_attention(q, k, v)


def with_weights(q, k, v, window):
    n = q.shape[-2]
    s = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask_two_sides(n, window), -torch.inf)
    return s.softmax(-1) @ v, s.softmax(-1)


def by_numpy(q, k, v, window):
    return torch.from_numpy(window_loop(*(x.detach() for x in (q, k, v)), window).numpy())


def under_no_grad(q, k, v, window):
    with torch.no_grad():
        return window_gather(q, k, v, window)


def keys_without_gradient(q, k, v, window):
    return window_gather(q, k.detach(), v, window)


def scaled_in_place(q, k, v, window):
    q.data.div_(math.sqrt(q.shape[-1]))
    return _row_lines((" / math.sqrt(d)", ""))(q, k, v, window)


def in_half(q, k, v, window):
    return window_blocks(q.half(), k.half(), v.half(), window).float()


def in_two_dimensions_only(q, k, v, window):
    n, d = q.shape
    return torch.stack([
        (q[i] @ k[max(0, i - window) : i + window + 1].T / d**0.5).softmax(-1) @ v[max(0, i - window) : i + window + 1]
        for i in range(n)
    ])  # fmt: skip


# ------------------------------------------------------------------------------------ select-mechanism


def select_loop(candidates, memory_budget):
    best = None
    for name, (seconds, size) in candidates.items():
        if size > memory_budget:
            continue
        if best is None or (seconds, size) < candidates[best]:
            best = name
    if best is None:
        raise ValueError("out of memory, whatever you take")
    return best


def select_sorted(candidates, memory_budget):
    ranked = sorted((s, b, name) for name, (s, b) in candidates.items() if b <= memory_budget)
    if not ranked:
        raise ValueError
    return ranked[0][2]


def select_min(candidates, memory_budget):
    """`min` of nothing is a ValueError by itself."""
    return min((pair, name) for name, pair in candidates.items() if pair[1] <= memory_budget)[1]


def select_filtered(candidates, memory_budget):
    names = list(filter(lambda name: memory_budget >= candidates[name][1], candidates))
    if len(names) == 0:
        raise ValueError(f"none of {list(candidates)} fits into {memory_budget}")
    return min(names, key=candidates.__getitem__)


def select_two_steps(candidates, memory_budget):
    """First the smallest time, then the smallest of that time."""
    fitting = {n: p for n, p in candidates.items() if not p[1] > memory_budget}
    if not fitting:
        raise ValueError("too small a budget")
    fastest = min(p[0] for p in fitting.values())
    return min((n for n in fitting if fitting[n][0] == fastest), key=lambda n: fitting[n][1])


def select_stable(candidates, memory_budget):
    """Sorted twice: a sort keeps the order of equals."""
    rows = sorted(candidates.items(), key=lambda row: row[1][1])
    rows.sort(key=lambda row: row[1][0])
    for name, (_, size) in rows:
        if size <= memory_budget:
            return name
    raise ValueError("nothing")


def select_heap(candidates, memory_budget):
    heap = [(s, b, n) for n, (s, b) in candidates.items()]
    heapq.heapify(heap)
    while heap:
        _, size, name = heapq.heappop(heap)
        if size <= memory_budget:
            return name
    raise ValueError(memory_budget)


def select_numpy(candidates, memory_budget):
    names = np.array(list(candidates), dtype=object)
    seconds, sizes = (
        np.array([p[0] for p in candidates.values()]),
        np.array([p[1] for p in candidates.values()]),
    )
    order = np.lexsort((sizes, seconds))
    order = order[sizes[order] <= memory_budget]
    if not order.size:
        raise ValueError("nothing fits")
    return names[order[0]]


def select_infinite(candidates, memory_budget):
    """What does not fit takes for ever."""
    cost = {n: (s if b <= memory_budget else math.inf, b) for n, (s, b) in candidates.items()}
    name = min(cost, key=cost.get)
    if cost[name][0] == math.inf:
        raise ValueError("all of them would take for ever")
    return name


def select_reduced(candidates, memory_budget):
    names = [n for n in candidates if candidates[n][1] <= memory_budget]
    if names == []:
        raise ValueError("no name")
    return functools.reduce(lambda a, b: a if candidates[a] <= candidates[b] else b, names)


def select_next(candidates, memory_budget):
    ranked = iter(sorted(candidates, key=candidates.get))
    try:
        return next(name for name in ranked if candidates[name][1] <= memory_budget)
    except StopIteration:
        raise ValueError("the budget is too small") from None


def select_another_error(candidates, memory_budget):
    """An error of its own, which is a ValueError too."""

    class DoesNotFit(ValueError):
        pass

    fitting = [n for n, (_, b) in candidates.items() if operator.le(b, memory_budget)]
    if not fitting:
        raise DoesNotFit(memory_budget)
    return min(fitting, key=lambda n: (candidates[n][0], candidates[n][1]))


def select_recursive(candidates, memory_budget):
    if not candidates:
        raise ValueError("nothing is left")
    name = min(candidates, key=lambda n: candidates[n])
    if candidates[name][1] <= memory_budget:
        return name
    return select_recursive({n: p for n, p in candidates.items() if n != name}, memory_budget)


def select_matched(candidates, memory_budget):
    best, best_pair = "", (math.inf, math.inf)
    for name in candidates:
        pair = tuple(candidates[name])
        if pair[1] <= memory_budget and pair < best_pair:
            best, best_pair = name, pair
    if best == "":
        raise ValueError("no mechanism fits")
    return best


class Selector:
    def __call__(self, candidates, memory_budget):
        return select_loop(candidates, memory_budget)


def _select_lines(*changes):
    return _lines(
        """
def wrong(candidates, memory_budget):
    fitting = {}
    for name, (seconds, size) in candidates.items():
        if size <= memory_budget:
            fitting[name] = (seconds, size)
    if not fitting:
        raise ValueError("nothing fits")
    return min(fitting, key=lambda name: (fitting[name][0], fitting[name][1]))
""",
        {},
        *changes,
    )


_KEY = "(fitting[name][0], fitting[name][1])"
_RETURN = "return min(fitting, key=lambda name: (fitting[name][0], fitting[name][1]))"
_RAISE = 'raise ValueError("nothing fits")'


def select_first(candidates, memory_budget):
    for name, (_, size) in candidates.items():
        if size <= memory_budget:
            return name
    raise ValueError("nothing fits")


def select_replacing(candidates, memory_budget):
    best = None
    for name, (_, size) in candidates.items():
        if size <= memory_budget:
            best = name
    if best is None:
        raise ValueError("nothing fits")
    return best


def select_fastest_only(candidates, memory_budget):
    name = min(candidates, key=candidates.get)
    if candidates[name][1] > memory_budget:
        raise ValueError(f"{name} does not fit")
    return name


def select_second(candidates, memory_budget):
    """The next best, whatever it needs."""
    ranked = sorted(candidates, key=candidates.get)
    if candidates[ranked[0]][1] <= memory_budget or len(ranked) == 1:
        return ranked[0]
    return ranked[1]


def select_side_by_side(candidates, memory_budget):
    """The budget shrinks from one to the next."""
    chosen = None
    for name in sorted(candidates, key=candidates.get):
        if candidates[name][1] <= memory_budget:
            memory_budget -= candidates[name][1]
            chosen = name
    if chosen is None:
        raise ValueError("nothing fits")
    return chosen


def select_forgets_to_raise(candidates, memory_budget):
    best = None
    for name, pair in candidates.items():
        if pair[1] <= memory_budget and (best is None or pair < candidates[best]):
            best = name
    return best


def select_later_of_equals(candidates, memory_budget):
    best, least = None, math.inf
    for name, (seconds, size) in candidates.items():
        if size <= memory_budget and seconds <= least:
            best, least = name, seconds
    if best is None:
        raise ValueError("nothing fits")
    return best


def select_throws_out(candidates, memory_budget):
    for name in list(candidates):
        if candidates[name][1] > memory_budget:
            del candidates[name]
    return min(candidates, key=candidates.get)


def select_prints(candidates, memory_budget):
    print(select_loop(candidates, memory_budget))


RIGHT = {
    "window-mask": {
        "loops of Python": mask_loops,
        "rows": mask_rows,
        "triangles": mask_triangles,
        "difference of triangles": mask_difference_of_triangles,
        "two sides": mask_two_sides,
        "squares": mask_squares,
        "meshgrid": mask_meshgrid,
        "numpy": mask_numpy,
        "diagonals": mask_diagonals,
        "lists": mask_lists,
        "distances": mask_distances,
        "powers": mask_powers,
        "of the package": mask_of_the_package,
        "object": Band(),
        "lambda": lambda length, reach: (
            (torch.arange(length)[:, None] - torch.arange(length)).abs() < reach + 1
        ),
        "partial": functools.partial(mask_two_sides),
        "keywords": lambda *sizes: mask_two_sides(n=sizes[0], window=sizes[1]),
    },
    "window-attention": {
        "loop": window_loop,
        "loop written into": window_loop_written_into,
        "pairs": window_pairs,
        "boolean": window_boolean,
        "blocks": window_blocks,
        "blocks of one": functools.partial(window_blocks, block=1),
        "blocks of 7": functools.partial(window_blocks, block=7),
        "blocks of 100": functools.partial(window_blocks, block=100),
        "blocks of 512": functools.partial(window_blocks, block=512),
        "blocks of 1,000": functools.partial(window_blocks, block=1000),
        "blocks of 2,048": functools.partial(window_blocks, block=2048),
        "blocks of the window": window_blocks_finite,
        "sdpa": window_sdpa,
        "gather": window_gather,
        "unfold": window_unfold,
        "chunks": window_chunks,
        "offsets": window_offsets,
        "rolled": window_rolled,
        "exponentials": window_exponentials,
        "halves": window_halves,
        "short ones in full": window_short_ones_in_full,
        "in double": window_in_double,
        "checkpointed": window_checkpointed,
        "head after head": window_head_after_head,
        "mapped": window_mapped,
        "running": window_running,
        "scripted": window_scripted,
        "of the package": lambda q, k, v, w: attn_course.sliding_window_attention(q, k, v, w),
        "module": Windowed(),
        "keywords": lambda *args: window_gather(**dict(zip(("q", "k", "v", "window"), args, strict=True))),
    },
    "select-mechanism": {
        "loop": select_loop,
        "sorted": select_sorted,
        "min": select_min,
        "filtered": select_filtered,
        "two steps": select_two_steps,
        "stable": select_stable,
        "heap": select_heap,
        "numpy": select_numpy,
        "infinite": select_infinite,
        "reduced": select_reduced,
        "next": select_next,
        "an error of its own": select_another_error,
        "recursive": select_recursive,
        "matched": select_matched,
        "object": Selector(),
        "lambda": lambda table, most: min((s, b, n) for n, (s, b) in table.items() if b <= most)[-1],
        "partial": functools.partial(select_sorted),
    },
}

WRONG = {
    "window-mask": {
        "one-too-narrow": lambda n, w: torch.ones(n, n).tril(w - 1).triu(1 - w).bool(),
        "one-too-narrow:less than": lambda n, w: (torch.arange(n)[:, None] - torch.arange(n)).abs() < w,
        "one-too-wide": lambda n, w: torch.ones(n, n).tril(w + 1).triu(-w - 1).bool(),
        "one-side-narrow": mask_range,
        "one-side-narrow:before": lambda n, w: torch.ones(n, n).tril(w).triu(1 - w).bool(),
        "one-side-wide": lambda n, w: torch.ones(n, n).tril(w + 1).triu(-w).bool(),
        "one-side-wide:before": lambda n, w: torch.ones(n, n).tril(w).triu(-w - 1).bool(),
        "past-only": lambda n, w: torch.ones(n, n).tril().triu(-w).bool(),
        "future-only": lambda n, w: torch.ones(n, n).triu().tril(w).bool(),
        "past-without-end": lambda n, w: torch.arange(n)[None] - torch.arange(n)[:, None] <= w,
        "future-without-end": lambda n, w: torch.arange(n)[:, None] - torch.arange(n)[None] <= w,
        "whole-width": lambda n, w: mask_two_sides(n, w // 2),
        "twice-as-wide": lambda n, w: mask_two_sides(n, 2 * w),
        "inverted": lambda n, w: (torch.arange(n)[:, None] - torch.arange(n)).abs() > w,
        "edge-only": lambda n, w: (torch.arange(n)[:, None] - torch.arange(n)).abs() == w,
        "without-itself": lambda n, w: mask_two_sides(n, w) & ~torch.eye(n).bool(),
        "itself-only": lambda n, w: torch.eye(n, dtype=torch.bool),
        "dilated": lambda n, w: (d := (torch.arange(n)[:, None] - torch.arange(n)).abs()).le(w) & (d % 2 == 0),
        "strided": lambda n, w: (torch.arange(n)[:, None] - torch.arange(n)) % (w + 1) == 0,
        "blocks": lambda n, w: torch.arange(n)[:, None] // (w + 1) == torch.arange(n) // (w + 1),
        "wraps-around": lambda n, w: sum(torch.eye(n).roll(i, 1) for i in range(-w, w + 1)) > 0,
        "turned-over": lambda n, w: (torch.arange(n)[:, None] + torch.arange(n) - n + 1).abs() <= w,
        "everything-allowed": lambda n, w: torch.ones(n, n, dtype=torch.bool),
        "distances": lambda n, w: (torch.arange(n)[:, None] - torch.arange(n)).abs(),
        "not-bool": lambda n, w: torch.ones(n, n).tril(w).triu(-w),
        "not-bool:integers": lambda n, w: mask_two_sides(n, w).long(),
        "additive": lambda n, w: torch.where(mask_two_sides(n, w), 0.0, -torch.inf),
        "additive:finite": lambda n, w: torch.where(mask_two_sides(n, w), 0.0, -1e9),
        "batch-dimensions": lambda n, w: mask_two_sides(n, w).unsqueeze(0).unsqueeze(0),
        "wrong-value:a start below zero": mask_negative_start,
        "wrong-type": lambda n, w: mask_two_sides(n, w).tolist(),
        "wrong-type:numpy": lambda n, w: mask_two_sides(n, w).numpy(),
        "returns-none": lambda n, w: print(mask_two_sides(n, w)),
        "raises": lambda n, w: torch.ones(n, n).tril(w).triu(-W),  # noqa: F821
    },
    "window-attention": {
        "full-map": full_map,
        "full-map:of torch": full_map_of_torch,
        "full-map:band alone": full_map_band_alone,
        "full-map:by multiplication": full_map_by_multiplication,
        "all-keys-met": row_of_all_keys,
        "all-keys-met:in chunks": chunk_of_all_keys,
        "whole-mask": mask_in_advance,
        "no-window": no_window_at_all,
        "one-too-narrow": _block_lines(("> window", ">= max(1, window)")),
        "last-key-missing": _row_lines(("i + window + 1", "i + window")),
        "first-key-missing": _row_lines(("i - window)", "i - window + 1)")),
        "one-too-wide": _row_lines(("i - window)", "i - window - 1)"), ("i + window + 1", "i + window + 2")),
        "one-key-more-after": _row_lines(("i + window + 1", "i + window + 2")),
        "one-key-more-before": _row_lines(("i - window)", "i - window - 1)")),
        "past-only": _row_lines(("i + window + 1", "i + 1")),
        "past-only:in blocks": _block_lines(("(i - j).abs() > window", "(i - j > window) | (j > i)")),
        "future-only": _row_lines(("max(0, i - window)", "i")),
        "whole-width": _row_lines(("n, d =", "window = window // 2; n, d =")),
        "twice-as-wide": _row_lines(("n, d =", "window = window * 2; n, d =")),
        "dilated": _padded_lines(("~real", "~(real & (torch.arange(-window, window + 1) % 2 == 0))")),
        "without-itself": _block_lines(
            ("(i - j).abs() > window", "((i - j).abs() > window) | (i == j)")
        ),
        "itself-only": lambda q, k, v, w: _row_lines()(q, k, v, 0),
        "shifted": _row_lines(("i - window)", "i - window + 1)"), ("i + window + 1", "i + window + 2")),
        "start-below-zero": _row_lines(("max(0, i - window)", "i - window")),
        "padding-counts": zero_keys_take_weight,
        "padding-counts:unfolded": _padded_lines(("    s = s.masked_fill(~real, -torch.inf)\n", "")),
        "padding-counts:as zeros": _padded_lines(("-torch.inf", "0.0")),
        "ends-repeated": repeated_ends,
        "wraps-around": rolled_round_the_corner,
        "pushed-inwards": pushed_inwards,
        "own-block-only": own_chunk,
        "own-block-only:under the mask": _block_lines(("a - window", "a"), ("a + b + window", "a + b")),
        "neighbouring-blocks-whole": three_chunks_whole,
        "block-without-mask": _block_lines(("(i - j).abs() > window", "(i - j).abs() > n")),
        "block-ends-too-early": _block_lines(("min(n, a + b + window)", "min(n, a + b)")),
        "block-begins-too-late": _block_lines(("max(0, a - window)", "a")),
        "last-block-dropped": _block_lines(("range(0, n, b)", "range(0, n - b + 1, b)")),
        "masked-to-zero": masked_by_zeros,
        "masked-after-softmax": masked_too_late,
        "inverted": masked_the_other_way,
        "no-scale": _row_lines((" / math.sqrt(d)", "")),
        "scale-without-root": _row_lines(("math.sqrt(d)", "d")),
        "scale-multiplied": _block_lines(("/ math.sqrt(d)", "* math.sqrt(d)")),
        "scale-of-another-size": _padded_lines(("q.shape[-1] **", "size **")),
        "scale-of-another-size:the length": _row_lines(("math.sqrt(d)", "math.sqrt(n)")),
        "not-divided": _padded_lines(("s.softmax(-1)", "s.exp()")),
        "sigmoid": _padded_lines(("s.softmax(-1)", "s.sigmoid()")),
        "no-softmax": _row_lines(("s.softmax(-1)", "s")),
        "mean-of-the-window": _row_lines(("s.softmax(-1)", "(0 * s).softmax(-1)")),
        "largest-alone": _row_lines(("s.softmax(-1)", "F.one_hot(s.argmax(-1), s.shape[-1]).float()")),
        "sums-the-keys": _row_lines(("p @ v[", "p @ k[")),
        "queries-and-keys-exchanged": lambda q, k, v, w: window_gather(k, q, v, w),
        "keys-and-values-exchanged": lambda q, k, v, w: window_gather(q, v, k, w),
        "returns-more": with_weights,
        "returns-more:and None": lambda q, k, v, w: (window_gather(q, k, v, w), None),
        "low-precision": in_half,
        "wrong-dtype": lambda q, k, v, w: window_gather(q, k, v, w).half(),
        "wrong-shape": lambda q, k, v, w: window_gather(q, k, v, w).mT,
        "wrong-type": lambda q, k, v, w: window_gather(q, k, v, w).tolist(),
        "returns-none": _block_lines(("    return out\n", "")),
        "returns-none:rows": _row_lines(("    return torch.cat(rows, -2)\n", "    rows = torch.cat(rows, -2)\n")),
        "cuts-gradient": by_numpy,
        "cuts-gradient:no_grad": under_no_grad,
        "cuts-gradient:of the keys": keys_without_gradient,
        "changes-input": scaled_in_place,
        "raises": in_two_dimensions_only,
        "raises:a name": _row_lines(("lo:hi, :].mT", "lo:high, :].mT")),
    },
    "select-mechanism": {
        "ignores-the-budget": lambda c, m: min(c, key=c.get),
        "less-than": _select_lines(("size <=", "size <")),
        "takes-what-does-not-fit": _select_lines(("size <=", "size >=")),
        "takes-what-does-not-fit:more": _select_lines(("size <=", "size >")),
        "smallest": _select_lines((_KEY, "(fitting[name][1], fitting[name][0])")),
        "largest-that-fits": _select_lines((_KEY, "-fitting[name][1]")),
        "slowest": _select_lines(("return min", "return max"), (_KEY, "(fitting[name][0], -fitting[name][1])")),
        "slowest:sorted": _select_lines((_RETURN, "return sorted(fitting, key=fitting.get)[-1]")),
        "tie-to-the-larger": _select_lines((_KEY, "(fitting[name][0], -fitting[name][1])")),
        "tie-to-the-first": _select_lines((_KEY, "fitting[name][0]")),
        "tie-to-the-last": select_later_of_equals,
        "tie-by-name": _select_lines((_KEY, "(fitting[name][0], name)")),
        "first-that-fits": select_first,
        "last-that-fits": select_replacing,
        "first-name": _select_lines((_RETURN, "return min(fitting)")),
        "last-name": _select_lines((_RETURN, "return max(fitting)")),
        "shortest-name": _select_lines((_RETURN, "return min(fitting, key=len)")),
        "seconds-for-bytes": _select_lines(("(seconds, size) in", "(size, seconds) in"), (_KEY, "fitting[name]")),
        "product": _select_lines((_KEY, "fitting[name][0] * fitting[name][1]")),
        "sum": _select_lines((_KEY, "sum(fitting[name])")),
        "only-two-tried": select_second,
        "budget-used-up": select_side_by_side,
        "rounded-times": _select_lines((_KEY, "(round(fitting[name][0], 2), fitting[name][1])")),
        "twice-the-budget": _select_lines(("size <=", "size / 2 <=")),
        "seconds-per-byte": _select_lines((_KEY, "fitting[name][0] / fitting[name][1]")),
        "none-when-nothing-fits": select_forgets_to_raise,
        "none-when-nothing-fits:returned": _select_lines((_RAISE, "return None")),
        "a-name-when-nothing-fits": _select_lines((_RAISE, "return min(candidates, key=lambda n: candidates[n][1])")),
        "a-word-when-nothing-fits": _select_lines((_RAISE, 'return "ValueError"')),
        "a-word-when-nothing-fits:nothing": _select_lines((_RAISE, 'return ""')),
        "error-returned": _select_lines((_RAISE, "return ValueError()")),
        "wrong-error": _select_lines((_RAISE, 'raise MemoryError("nothing fits")')),
        "wrong-error:of a list": _select_lines((_RAISE, "return list(fitting)[0]")),
        "wrong-error:assert": _select_lines(("if not fitting:\n        " + _RAISE, "assert fitting")),
        "returns-the-seconds": _select_lines((_RETURN, "return min(s for s, _ in fitting.values())")),
        "returns-the-pair": _select_lines((_RETURN, "return min(fitting.values())")),
        "returns-name-and-pair": _select_lines((_RETURN, "return min(fitting.items(), key=lambda item: item[1])")),
        "returns-a-list": _select_lines((_RETURN, "return sorted(fitting, key=fitting.get)")),
        "returns-a-place": _select_lines((_RETURN, "return list(candidates).index(" + _RETURN[7:] + ")")),
        "changes-input": select_throws_out,
        "returns-none": select_prints,
        "raises": _select_lines(("candidates.items()", "candidates")),
        "raises:only the fastest tried": select_fastest_only,
    },
}  # fmt: skip
