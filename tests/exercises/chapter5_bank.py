"""Chapter 5: right answers in many hands, and wrong ones as learners write them.

The package keeps a bank of wrong answers too, for diagnosis; these are written independently of it.
"""

import bisect
import contextlib
import functools
import heapq
import itertools
import math
import statistics
import time
from decimal import Decimal
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F

from attn_course import complexity
from attn_course.benchmark import measure

# --------------------------------------------------------------------------------------------- time-it


def time_statistics(fn, synchronize, clock, warmup=3, repeats=10):
    for _ in range(warmup):
        fn()
    synchronize()
    samples = []
    for _ in range(repeats):
        begin = clock()
        fn()
        synchronize()
        samples.append(clock() - begin)
    return statistics.median(samples)


def time_numpy(fn, synchronize, clock, warmup=3, repeats=10):
    """`np.median` gives a float64 of numpy, which is a float."""
    for _ in range(warmup):
        fn()
    synchronize()
    samples = np.empty(repeats)
    for i in range(repeats):
        begin = clock()
        fn()
        synchronize()
        samples[i] = clock() - begin
    return np.median(samples)


def time_synchronized_everywhere(fn, synchronize, clock, warmup=3, repeats=10):
    synchronize()
    for _ in range(warmup):
        fn()
        synchronize()
    samples = []
    for _ in range(repeats):
        synchronize()
        begin = clock()
        fn()
        synchronize()
        synchronize()
        end = clock()
        samples += [end - begin]
    return np.percentile(samples, 50)


def time_stamps(fn, synchronize, clock, warmup=3, repeats=10):
    """The end of one call is the start of the next."""
    for _ in range(warmup):
        fn()
    synchronize()
    stamps = [clock()]
    for _ in range(repeats):
        fn()
        synchronize()
        stamps.append(clock())
    return statistics.median(b - a for a, b in itertools.pairwise(stamps))


def time_one_loop(fn, synchronize, clock, warmup=3, repeats=10):
    """Warm-up calls are timed like the others, and their times thrown away."""
    samples = []
    for call in range(-warmup, repeats):
        begin = clock()
        fn()
        synchronize()
        if call >= 0:
            samples.append(clock() - begin)
    samples.sort()
    half, odd = divmod(repeats, 2)
    return samples[half] if odd else (samples[half - 1] + samples[half]) / 2


def time_sliced(fn, synchronize, clock, warmup=3, repeats=10):
    def once():
        begin = clock()
        fn()
        synchronize()
        return clock() - begin

    return statistics.median([once() for _ in range(warmup + repeats)][warmup:])


def time_generator(fn, synchronize, clock, warmup=3, repeats=10):
    def samples():
        for _ in itertools.repeat(None, repeats):
            begin = clock()
            fn()
            synchronize()
            yield clock() - begin

    for _ in itertools.repeat(None, warmup):
        fn()
        synchronize()
    ordered = sorted(samples())
    return (ordered[repeats // 2] + ordered[~(repeats // 2)]) / 2


def time_other_names(work, wait, now, n_before=3, n=10):
    i = 0
    while i < n_before:
        work()
        i += 1
    wait()
    kept = []
    while len(kept) < n:
        t = -now()
        work()
        wait()
        t += now()
        bisect.insort(kept, t)
    return 0.5 * (kept[(n - 1) // 2] + kept[n // 2])


def time_options_by_name(fn, synchronize, clock, *, repeats=10, warmup=3):
    """Optional arguments in another order, by name alone."""
    return time_statistics(fn, synchronize, clock, warmup, repeats)


def time_of_the_package(fn, synchronize, clock, warmup=3, repeats=10):
    """`measure` on a CPU waits for nothing, so the call it times waits itself."""

    def call():
        fn()
        synchronize()

    return statistics.median(measure({"f": call}, warmup=warmup, rounds=repeats, clock=clock)["f"])


def time_context(fn, synchronize, clock, warmup=3, repeats=10):
    samples = []

    @contextlib.contextmanager
    def stopwatch():
        synchronize()
        begin = clock()
        yield
        synchronize()
        samples.append(clock() - begin)

    for _ in range(warmup):
        fn()
    for _ in range(repeats):
        with stopwatch():
            fn()
    low, high = statistics.median_low(samples), statistics.median_high(samples)
    return low + (high - low) / 2


def time_heap(fn, synchronize, clock, warmup=3, repeats=10):
    [fn() for _ in range(warmup)]
    synchronize()
    heap = []
    for _ in range(repeats):
        begin = clock()
        fn(), synchronize()
        heapq.heappush(heap, clock() - begin)
    for _ in range((repeats - 1) // 2):
        heapq.heappop(heap)
    first = heapq.heappop(heap)
    return first if repeats % 2 else (first + heap[0]) / 2


def time_quantiles(fn, synchronize, clock, warmup=3, repeats=10):
    samples = [time_sliced(fn, synchronize, clock, warmup, 1)]
    samples += [time_sliced(fn, synchronize, clock, 0, 1) for _ in range(repeats - 1)]
    return statistics.quantiles(samples * 2, n=2, method="inclusive")[0]


def time_tensor(fn, synchronize, clock, warmup=3, repeats=10):
    """In float64, and the quantile lies halfway."""
    for _ in range(warmup):
        fn()
    synchronize()
    samples = torch.zeros(repeats, dtype=torch.float64)
    for i in range(repeats):
        begin = clock()
        fn()
        synchronize()
        samples[i] = clock() - begin
    return samples.quantile(0.5).item()


class Stopwatch:
    def __init__(self):
        self.samples = []

    def __call__(self, fn, synchronize, clock, warmup=3, repeats=10):
        self.samples.clear()
        for _ in range(warmup):
            fn()
        for _ in range(repeats):
            synchronize()
            self.samples.append(-clock())
            fn()
            synchronize()
            self.samples[-1] += clock()
        return float(statistics.median(self.samples))


def time_recursive(fn, synchronize, clock, warmup=3, repeats=10):
    def collect(left):
        if left == 0:
            return []
        begin = clock()
        fn()
        synchronize()
        return [clock() - begin, *collect(left - 1)]

    for _ in range(warmup):
        fn()
    synchronize()
    return statistics.median(collect(repeats))


def time_exact(fn, synchronize, clock, warmup=3, repeats=10):
    """Sums in fractions, which round once."""
    for _ in range(warmup):
        fn()
    synchronize()
    samples = []
    for _ in range(repeats):
        begin = Fraction(clock())
        fn()
        synchronize()
        samples.append(Fraction(clock()) - begin)
    return float(statistics.median(samples))


def _with(line_before="", inner="t=clock();fn();synchronize();samples.append(clock()-t)", result="median(samples)",
          warm="range(warmup)", timed="range(repeats)", between="synchronize()"):  # fmt: skip
    """A wrong stopwatch, from its lines."""
    source = f"""
def wrong(fn, synchronize, clock, warmup=3, repeats=10):
    samples = []
    for _ in {warm}:
        fn()
    {between}
    {line_before}
    for _ in {timed}:
        {inner}
    return {result}
"""
    names = {"median": statistics.median, "mean": statistics.mean, "np": np, "torch": torch, "time": time,
             "statistics": statistics}  # fmt: skip
    exec(source, names)
    return names["wrong"]


def time_nothing_awaited(fn, synchronize, clock, warmup=3, repeats=10):
    for _ in range(warmup):
        fn()
    samples = []
    for _ in range(repeats):
        start = clock()
        fn()
        samples.append(clock() - start)
    return statistics.median(samples)


def time_awaited_at_the_end(fn, synchronize, clock, warmup=3, repeats=10):
    for _ in range(warmup):
        fn()
    synchronize()
    samples = []
    for _ in range(repeats):
        start = clock()
        fn()
        end = clock()
        samples.append(end - start)
    synchronize()
    return np.median(samples)


def time_awaited_after_the_clock(fn, synchronize, clock, warmup=3, repeats=10):
    for _ in range(warmup):
        fn()
        synchronize()
    samples = []
    for _ in range(repeats):
        start = clock()
        fn()
        stop = clock()
        synchronize()
        samples.append(stop - start)
    samples.sort()
    mid = len(samples) // 2
    return samples[mid] if len(samples) % 2 else (samples[mid - 1] + samples[mid]) / 2


def time_without_parentheses(fn, synchronize, clock, warmup=3, repeats=10):
    for _ in range(warmup):
        fn()
    synchronize()
    samples = []
    for _ in range(repeats):
        start = clock()
        fn()
        synchronize  # noqa: B018
        samples.append(clock() - start)
    return statistics.median(samples)


def time_leaking(fn, synchronize, clock, warmup=3, repeats=10):
    for _ in range(warmup):
        fn()
    times = [0.0] * repeats
    for i in range(repeats):
        t0 = clock()
        fn()
        synchronize()
        times[i] = clock() - t0
    return np.median(times)


def time_around_all(fn, synchronize, clock, warmup=3, repeats=10):
    for _ in range(warmup):
        fn()
    synchronize()
    start = clock()
    for _ in range(repeats):
        fn()
    synchronize()
    return (clock() - start) / repeats


def time_total(fn, synchronize, clock, warmup=3, repeats=10):
    for _ in range(warmup):
        fn()
    synchronize()
    total = 0
    for _ in range(repeats):
        start = clock()
        fn()
        synchronize()
        total += clock() - start
    return total


def time_mean(fn, synchronize, clock, warmup=3, repeats=10):
    return time_total(fn, synchronize, clock, warmup, repeats) / repeats


def time_everything(fn, synchronize, clock, warmup=3, repeats=10):
    times = []
    for _ in range(warmup + repeats):
        start = clock()
        fn()
        synchronize()
        times.append(clock() - start)
    return statistics.median(times)


def time_perf_counter(fn, synchronize, clock, warmup=3, repeats=10):
    for _ in range(warmup):
        fn()
    synchronize()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        fn()
        synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def time_monotonic_mean(fn, synchronize, clock, warmup=3, repeats=10):
    for _ in range(warmup):
        fn()
    synchronize()
    start = time.monotonic()
    for _ in range(repeats):
        fn()
    synchronize()
    return (time.monotonic() - start) / repeats


def time_prints(fn, synchronize, clock, warmup=3, repeats=10):
    print(f"{time_statistics(fn, synchronize, clock, warmup, repeats):.6f} s")


def time_as_text(fn, synchronize, clock, warmup=3, repeats=10):
    return f"{time_statistics(fn, synchronize, clock, warmup, repeats):.6f} s"


# -------------------------------------------------------------------------------------------- roofline


def roof_if(flops, bytes_moved, peak_flops, bandwidth):
    compute = flops / peak_flops
    memory = bytes_moved / bandwidth
    if compute > memory:
        return compute
    return memory


def roof_intensity(flops, bytes_moved, peak_flops, bandwidth):
    """By the intensity and the balance."""
    if flops / bytes_moved >= peak_flops / bandwidth:
        return flops / peak_flops
    return bytes_moved / bandwidth


def roof_attainable(flops, bytes_moved, peak_flops, bandwidth):
    """As the roofline is drawn: the rate that can be reached, and how long it takes at that."""
    return flops / min(peak_flops, flops / bytes_moved * bandwidth)


def roof_sorted(flops, bytes_moved, peak_flops, bandwidth):
    return sorted([flops / peak_flops, bytes_moved / bandwidth])[-1]


def roof_crossed(flops, bytes_moved, peak_flops, bandwidth):
    """No division before the sides are compared."""
    moving = bytes_moved * peak_flops > flops * bandwidth
    return bytes_moved / bandwidth if moving else flops / peak_flops


def roof_absolute(flops, bytes_moved, peak_flops, bandwidth):
    a, b = flops * peak_flops**-1, bytes_moved * bandwidth**-1
    return (a + b + abs(a - b)) / 2


def roof_numpy(flops, bytes_moved, peak_flops, bandwidth):
    return np.maximum(flops / peak_flops, bytes_moved / bandwidth)


def roof_array(flops, bytes_moved, peak_flops, bandwidth):
    return (np.array([flops, bytes_moved]) / np.array([peak_flops, bandwidth])).max()


def roof_tensor(flops, bytes_moved, peak_flops, bandwidth):
    amounts = torch.tensor([flops, bytes_moved], dtype=torch.float64)
    return (amounts / torch.tensor([peak_flops, bandwidth], dtype=torch.float64)).max().item()


def roof_float32(flops, bytes_moved, peak_flops, bandwidth):
    return torch.max(torch.tensor(flops / peak_flops), torch.tensor(bytes_moved / bandwidth)).item()


def roof_exact(flops, bytes_moved, peak_flops, bandwidth):
    return float(max(Fraction(flops) / Fraction(peak_flops), Fraction(bytes_moved) / Fraction(bandwidth)))


def roof_decimal(flops, bytes_moved, peak_flops, bandwidth):
    sides = (Decimal(flops) / Decimal(peak_flops), Decimal(bytes_moved) / Decimal(bandwidth))
    return float(max(sides))


def roof_generator(flops, bytes_moved, peak_flops, bandwidth):
    return max(a / r for a, r in zip((flops, bytes_moved), (peak_flops, bandwidth), strict=True))


def roof_whole(flops, bytes_moved, peak_flops, bandwidth):
    """A whole number of seconds as an int."""
    seconds = max(flops / peak_flops, bytes_moved / bandwidth)
    return int(seconds) if seconds == int(seconds) else seconds


def roof_logarithms(flops, bytes_moved, peak_flops, bandwidth):
    return math.exp(max(math.log(flops) - math.log(peak_flops), math.log(bytes_moved) - math.log(bandwidth)))


def roof_of_the_package(flops, bytes_moved, peak_flops, bandwidth):
    """What the course's cost model says, where it has a roofline already."""
    side = getattr(complexity, "Roofline", None)
    if side is None:
        return roof_if(flops, bytes_moved, peak_flops, bandwidth)
    sides = flops / peak_flops, bytes_moved / bandwidth
    return side(max(sides), "compute", *sides).seconds


def roof_unlike_units(flops, bytes_moved, peak_flops, bandwidth):
    tera, giga = 1e12, 1e9
    return max((flops / tera) / (peak_flops / tera), (bytes_moved / giga) / (bandwidth / giga))


# ---------------------------------------------------------------------------------- streaming-attention


def stream_plain(q, k, v, block_size):
    d = q.size(-1)
    m = q.new_full((*q.shape[:-1], 1), float("-inf"))
    l = q.new_zeros((*q.shape[:-1], 1))  # noqa: E741
    acc = q.new_zeros((*q.shape[:-1], v.size(-1)))
    for i in range(0, k.size(-2), block_size):
        kb, vb = k[..., i : i + block_size, :], v[..., i : i + block_size, :]
        s = q @ kb.transpose(-2, -1) / math.sqrt(d)
        m_new = torch.maximum(m, s.max(dim=-1, keepdim=True).values)
        p = torch.exp(s - m_new)
        alpha = torch.exp(m - m_new)
        l = alpha * l + p.sum(dim=-1, keepdim=True)  # noqa: E741
        acc = alpha * acc + p @ vb
        m = m_new
    return acc / l


def stream_einsum(q, k, v, block_size):
    top = torch.full(q.shape[:-1], -1e30)
    total, out = torch.zeros(q.shape[:-1]), torch.zeros(*q.shape[:-1], v.shape[-1])
    for keys, values in zip(k.split(block_size, -2), v.split(block_size, -2), strict=True):
        scores = torch.einsum("...qd,...kd->...qk", q, keys) * q.shape[-1] ** -0.5
        higher = torch.maximum(top, scores.amax(-1))
        fade, weights = (top - higher).exp(), (scores - higher.unsqueeze(-1)).exp()
        total = total * fade + weights.sum(-1)
        out = out * fade[..., None] + torch.einsum("...qk,...kd->...qd", weights, values)
        top = higher
    return out / total[..., None]


def stream_logarithms(q, k, v, block_size):
    """Softmaxes of blocks, merged by the logarithms of their sums."""
    out, lse = None, None
    for keys, values in zip(k.split(block_size, -2), v.split(block_size, -2), strict=True):
        scores = q @ keys.mT / q.shape[-1] ** 0.5
        part, weight = scores.softmax(-1) @ values, scores.logsumexp(-1, keepdim=True)
        if out is None:
            out, lse = part, weight
            continue
        both = torch.logaddexp(lse, weight)
        out, lse = out * (lse - both).exp() + part * (weight - both).exp(), both
    return out


def stream_sdpa(q, k, v, block_size):
    """Torch's own attention for each block, merged by a sigmoid of the logarithms' difference."""
    out = torch.zeros(*q.shape[:-1], v.shape[-1])
    lse = torch.full((*q.shape[:-1], 1), -torch.inf)
    for i in range(0, k.shape[-2], block_size):
        keys, values = k[..., i : i + block_size, :], v[..., i : i + block_size, :]
        part = F.scaled_dot_product_attention(q, keys, values)
        weight = torch.logsumexp(q @ keys.mT / math.sqrt(q.shape[-1]), -1, keepdim=True)
        out = out + torch.sigmoid(weight - lse) * (part - out)
        lse = torch.logaddexp(lse, weight)
    return out


def stream_stacked(q, k, v, block_size):
    """Each block for itself, all of them put together at the end (as decoding with split keys does)."""
    outs, lses = [], []
    for i in range(0, k.shape[-2], block_size):
        s = q @ k[..., i : i + block_size, :].mT * q.shape[-1] ** -0.5
        outs.append(s.softmax(-1) @ v[..., i : i + block_size, :])
        lses.append(s.logsumexp(-1))
    share = torch.stack(lses, -1).softmax(-1)
    return (torch.stack(outs, -1) * share.unsqueeze(-2)).sum(-1)


def stream_two_passes(q, k, v, block_size):
    """Maximum and sum first, output after; scores are made twice, and never kept."""
    q = q * q.shape[-1] ** -0.5
    parts = [slice(i, i + block_size) for i in range(0, k.shape[-2], block_size)]
    lse = torch.full((*q.shape[:-1], 1), -torch.inf)
    for part in parts:
        lse = torch.logaddexp(lse, (q @ k[..., part, :].mT).logsumexp(-1, keepdim=True))
    top = torch.stack([(q @ k[..., p, :].mT).amax(-1) for p in parts]).amax(0)[..., None]
    total = sum((q @ k[..., p, :].mT - top).exp().sum(-1, keepdim=True) for p in parts)
    assert lse.shape == total.shape
    return sum((q @ k[..., p, :].mT - top).exp() @ v[..., p, :] for p in parts) / total


def stream_in_place(q, k, v, block_size):
    """In-place where autograd does not mind: a product and a sum need none of what is written over."""
    scale = 1 / math.sqrt(q.shape[-1])
    m = torch.full_like(q[..., :1], -math.inf)
    l = torch.zeros_like(m)  # noqa: E741
    o = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for i in range(0, k.shape[-2], block_size):
        s = torch.matmul(q, k[..., i : i + block_size, :].transpose(-1, -2)).mul_(scale)
        new = torch.maximum(m, s.detach().amax(-1, keepdim=True))
        p = s.sub_(new).exp_()
        fade = (m - new).exp_()
        l = l.mul_(fade).add_(p.sum(-1, keepdim=True))  # noqa: E741
        o = o.mul_(fade).add_(p @ v[..., i : i + block_size, :])
        m = new
    return o / l


def stream_query_blocks(q, k, v, block_size):
    """Queries in blocks too, as the kernels do."""
    rows = [stream_plain(part, k, v, block_size) for part in q.split(block_size, dim=-2)]
    return torch.cat(rows, dim=-2)


def stream_loops(q, k, v, block_size):
    """One query at a time, one head at a time."""
    lead = q.shape[:-2]
    q, k, v = (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v))
    heads = []
    for qh, kh, vh in zip(q, k, v, strict=True):
        rows = []
        for query in qh:
            m, l, o = torch.tensor(-torch.inf), torch.tensor(0.0), torch.zeros(vh.shape[-1])  # noqa: E741
            for i in range(0, len(kh), block_size):
                s = kh[i : i + block_size] @ query / len(query) ** 0.5
                new = torch.max(m, s.max())
                w, fade = torch.exp(s - new), torch.exp(m - new)
                m, l, o = new, l * fade + w.sum(), o * fade + w @ vh[i : i + block_size]  # noqa: E741
            rows.append(o / l)
        heads.append(torch.stack(rows))
    return torch.stack(heads).reshape(*lead, *heads[0].shape)


def stream_always_normalised(q, k, v, block_size):
    """The output is the right one for the keys so far, after every block."""
    d_k = q.shape[-1]
    keys, values = torch.split(k, block_size, dim=-2), torch.split(v, block_size, dim=-2)
    scores = q @ keys[0].mT / d_k**0.5
    m = scores.amax(-1, keepdim=True)
    l = (scores - m).exp().sum(-1, keepdim=True)  # noqa: E741
    o = torch.softmax(scores, -1) @ values[0]
    for kb, vb in zip(keys[1:], values[1:], strict=True):
        scores = q @ kb.mT / d_k**0.5
        new = torch.maximum(m, scores.amax(-1, keepdim=True))
        p, old = (scores - new).exp(), l * (m - new).exp()
        l = old + p.sum(-1, keepdim=True)  # noqa: E741
        o = (o * old + p @ vb) / l
        m = new
    return o


def stream_padded(q, k, v, block_size):
    """The last block is filled up, and what was filled in is masked."""
    n_k = k.shape[-2]
    more = -n_k % block_size
    k, v = F.pad(k, (0, 0, 0, more)), F.pad(v, (0, 0, 0, more))
    k = k.unflatten(-2, (-1, block_size)).movedim(-3, 0)
    v = v.unflatten(-2, (-1, block_size)).movedim(-3, 0)
    there = (torch.arange(n_k + more) < n_k).view(-1, block_size)
    state = torch.full_like(q[..., :1], torch.finfo(q.dtype).min), 0.0, 0.0

    def step(state, block):
        (m, l, o), (kb, vb, mask) = state, block  # noqa: E741
        s = (q @ kb.mT / kb.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
        new = torch.maximum(m, s.amax(-1, keepdim=True))
        p = torch.exp(s - new)
        fade = torch.exp(m - new)
        return new, l * fade + p.sum(-1, keepdim=True), o * fade + p @ vb

    _, total, out = functools.reduce(step, zip(k, v, there, strict=True), state)
    return out / total


def stream_powers_of_two(q, k, v, block_size):
    """As the kernels do: `e` to the power of x is 2 to the power of x / log 2."""
    q = q * (math.log2(math.e) / math.sqrt(q.shape[-1]))
    m, l, o = torch.full_like(q[..., :1], -torch.inf), 0, 0  # noqa: E741
    for kb, vb in zip(k.split(block_size, -2), v.split(block_size, -2), strict=True):
        s = q @ kb.mT
        new = torch.maximum(m, s.amax(-1, keepdim=True))
        p, fade = torch.exp2(s - new), torch.exp2(m - new)
        m, l, o = new, l * fade + p.sum(-1, keepdim=True), o * fade + p @ vb  # noqa: E741
    return o / l


def stream_in_double(q, k, v, block_size):
    return stream_plain(q.double(), k.double(), v.double(), block_size).to(q.dtype)


def stream_backwards(q, k, v, block_size):
    """From the last key to the first, with a column of ones among the values, so that one product gives both sums."""
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    m, sums = torch.tensor(-torch.inf), torch.tensor(0.0)
    for end in range(k.shape[-2], 0, -block_size):
        begin = max(0, end - block_size)
        s = torch.matmul(q, k[..., begin:end, :].swapaxes(-1, -2)) / q.shape[-1] ** 0.5
        new = torch.maximum(m, s.max(-1, keepdim=True)[0])
        sums = sums * (m - new).exp() + (s - new).exp() @ v[..., begin:end, :]
        m = new
    return sums[..., :-1] / sums[..., -1:]


def stream_products(q, k, v, block_size):
    """No matrix product: numbers times numbers, summed."""
    root = q.shape[-1] ** 0.25
    q, k = q / root, k / root
    m = torch.full(q.shape[:-1], -torch.inf).unsqueeze(-1)
    l, o = torch.zeros_like(m), 0.0  # noqa: E741
    for i in range(0, k.shape[-2], block_size):
        s = (q.unsqueeze(-2) * k[..., None, i : i + block_size, :]).sum(-1)
        old, m = m, torch.cat([m, s], -1).amax(-1, keepdim=True)
        p = (s - m).exp()
        l = l * (old - m).exp() + p.sum(-1, True)  # noqa: E741
        o = o * (old - m).exp() + (p.unsqueeze(-1) * v[..., None, i : i + block_size, :]).sum(-2)
    return o / l


def stream_halves(q, k, v, block_size):
    """Divide and merge: a sum of two halves, each against a maximum of its own."""

    def part(k, v):
        if k.shape[-2] <= block_size:
            s = q @ k.mT / q.shape[-1] ** 0.5
            m = s.amax(-1, keepdim=True)
            p = (s - m).exp()
            return m, p.sum(-1, keepdim=True), p @ v
        half = k.shape[-2] // 2
        (ma, la, oa), (mb, lb, ob) = (
            part(k[..., :half, :], v[..., :half, :]),
            part(k[..., half:, :], v[..., half:, :]),
        )
        m = torch.maximum(ma, mb)
        a, b = (ma - m).exp(), (mb - m).exp()
        return m, la * a + lb * b, oa * a + ob * b

    _, total, out = part(k, v)
    return out / total


class Flash(torch.autograd.Function):
    """The backward pass makes the weights again, block by block."""

    @staticmethod
    def forward(ctx, q, k, v, block_size):
        scale = q.shape[-1] ** -0.5
        m = torch.full_like(q[..., :1], -torch.inf)
        l, o = torch.zeros_like(m), q.new_zeros(*q.shape[:-1], v.shape[-1])  # noqa: E741
        for i in range(0, k.shape[-2], block_size):
            s = scale * q @ k[..., i : i + block_size, :].mT
            new = torch.maximum(m, s.amax(-1, keepdim=True))
            p, fade = (s - new).exp_(), (m - new).exp_()
            l, o = l * fade + p.sum(-1, keepdim=True), o.mul_(fade) + p @ v[..., i : i + block_size, :]  # noqa: E741
            m = new
        ctx.save_for_backward(q, k, v, o / l, m + l.log())
        ctx.block_size = block_size
        return o / l

    @staticmethod
    def backward(ctx, grad):
        q, k, v, o, lse = ctx.saved_tensors
        scale, d = q.shape[-1] ** -0.5, (grad * o).sum(-1, keepdim=True)
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for i in range(0, k.shape[-2], ctx.block_size):
            part = slice(i, i + ctx.block_size)
            p = (scale * q @ k[..., part, :].mT - lse).exp()
            ds = p * (grad @ v[..., part, :].mT - d) * scale
            dq += ds @ k[..., part, :]
            dk[..., part, :] = ds.mT @ q
            dv[..., part, :] = p.mT @ grad
        return dq, dk, dv, None


def stream_function(q, k, v, block_size):
    return Flash.apply(q, k, v, block_size)


def stream_mapped(q, k, v, block_size):
    """Written for two dimensions, and mapped over the others."""
    attend = functools.partial(stream_plain, block_size=block_size)
    for _ in range(q.ndim - 2):
        attend = torch.vmap(attend)
    return attend(q, k, v)


def stream_checkpointed(q, k, v, block_size):
    from torch.utils.checkpoint import checkpoint

    def step(m, l, o, kb, vb):  # noqa: E741
        s = q @ kb.mT / q.shape[-1] ** 0.5
        new = torch.maximum(m, s.amax(-1, keepdim=True))
        p, fade = (s - new).exp(), (m - new).exp()
        return new, l * fade + p.sum(-1, keepdim=True), o * fade + p @ vb

    state = (
        torch.full_like(q[..., :1], -torch.inf),
        torch.zeros_like(q[..., :1]),
        q.new_zeros(*q.shape[:-1], v.shape[-1]),
    )
    for kb, vb in zip(k.split(block_size, -2), v.split(block_size, -2), strict=True):
        state = checkpoint(step, *state, kb, vb, use_reentrant=False)
    return state[2] / state[1]


def stream_flat(q, k, v, block_size):
    """Leading dimensions become one, for `bmm`; the first block apart; products into sums."""
    lead, scale = q.shape[:-2], q.size(-1) ** -0.5
    q, k, v = (x.reshape(math.prod(lead), *x.shape[-2:]) for x in (q, k, v))
    m = l = o = None  # noqa: E741
    for i in range(0, k.size(1), block_size):
        kb, vb = k[:, i : i + block_size], v[:, i : i + block_size]
        s = torch.bmm(q, kb.transpose(1, 2)) * scale
        if m is None:
            m = s.max(2, keepdim=True).values
            p = torch.exp(s - m)
            l, o = p.sum(2, keepdim=True), torch.bmm(p, vb)  # noqa: E741
        else:
            new = torch.where(s.amax(2, keepdim=True) > m, s.amax(2, keepdim=True), m)
            fade, p = torch.exp(m - new), torch.exp(s - new)
            l, o = l * fade + p.sum(2, keepdim=True), torch.baddbmm(o * fade, p, vb)  # noqa: E741
            m = new
    return (o / l).reshape(*lead, *o.shape[1:])


@torch.jit.script
def stream_scripted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block_size: int) -> torch.Tensor:
    m = torch.full_like(q[..., :1], -float("inf"))
    l = torch.zeros_like(m)  # noqa: E741
    o = torch.zeros_like(v[..., :1, :])
    for i in range(0, k.size(-2), block_size):
        s = torch.matmul(q, k[..., i : i + block_size, :].transpose(-1, -2)) / float(q.size(-1)) ** 0.5
        new = torch.maximum(m, s.amax(-1, keepdim=True))
        p = torch.exp(s - new)
        l = l * torch.exp(m - new) + p.sum(-1, keepdim=True)  # noqa: E741
        o = o * torch.exp(m - new) + torch.matmul(p, v[..., i : i + block_size, :])
        m = new
    return o / l


class Streamer(torch.nn.Module):
    def forward(self, queries, keys, values, size):
        return stream_einsum(queries, keys, values, size)


# Wrong ones. Most are `stream_wrong` with one of its lines put wrong.


def _stream_lines(*changes):
    """The plain answer, with lines replaced."""
    source = """
def wrong(q, k, v, block_size):
    scale = q.shape[-1] ** -0.5
    m = torch.full_like(q[..., :1], -torch.inf)
    l = torch.zeros_like(m)
    acc = torch.zeros(*q.shape[:-1], v.shape[-1])
    for i in range(0, k.shape[-2], block_size):
        kb, vb = k[..., i : i + block_size, :], v[..., i : i + block_size, :]
        s = q @ kb.mT * scale
        m_new = torch.maximum(m, s.amax(-1, keepdim=True))
        alpha = torch.exp(m - m_new)
        p = torch.exp(s - m_new)
        l = l * alpha + p.sum(-1, keepdim=True)
        acc = acc * alpha + p @ vb
        m = m_new
    return acc / l
"""
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    names = {"torch": torch, "math": math, "F": F}
    exec(source, names)
    return names["wrong"]


def naive(q, k, v, block_size):
    return torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1) @ v


def scores_in_blocks_put_together(q, k, v, block_size):
    scores = [q @ kb.mT / q.shape[-1] ** 0.5 for kb in k.split(block_size, -2)]
    return torch.cat(scores, -1).softmax(-1) @ v


def scores_written_into_a_table(q, k, v, block_size):
    table = torch.empty(*q.shape[:-1], k.shape[-2])
    for i in range(0, k.shape[-2], block_size):
        table[..., i : i + block_size] = q @ k[..., i : i + block_size, :].mT
    return (table * q.shape[-1] ** -0.5).softmax(-1) @ v


def scores_kept_in_a_list(q, k, v, block_size):
    """No tensor is large, but all of them are there at once."""
    scores = [q @ kb.mT / q.shape[-1] ** 0.5 for kb in k.split(block_size, -2)]
    top = functools.reduce(torch.maximum, [s.amax(-1, keepdim=True) for s in scores])
    weights = [(s - top).exp() for s in scores]
    total = sum(w.sum(-1, keepdim=True) for w in weights)
    return sum(w @ vb for w, vb in zip(weights, v.split(block_size, -2), strict=True)) / total


def all_blocks_at_once(q, k, v, block_size):
    """Exact, by blocks, and the map is there with another shape."""
    n_k, more = k.shape[-2], -k.shape[-2] % block_size
    k, v = (F.pad(x, (0, 0, 0, more)).unflatten(-2, (-1, block_size)) for x in (k, v))
    s = (q.unsqueeze(-3) @ k.mT) / q.shape[-1] ** 0.5
    there = (torch.arange(n_k + more) < n_k).view(-1, 1, block_size)
    s = s.masked_fill(~there, -torch.inf)
    m = s.amax(-1, keepdim=True)
    top = m.amax(-3, keepdim=True)
    p = (s - top).exp()
    return (p @ v).sum(-3) / p.sum(-1, keepdim=True).sum(-3)


def head_after_head(q, k, v, block_size):
    """One head's map at a time."""
    if q.ndim == 2:
        return stream_plain(q, k, v, block_size)
    return torch.stack([head_after_head(*h, block_size) if h[0].ndim > 2 else naive(*h, block_size)
                        for h in zip(q, k, v, strict=True)])  # fmt: skip


def by_numpy(q, k, v, block_size):
    out = stream_plain(*(x.detach() for x in (q, k, v)), block_size)
    return torch.from_numpy(out.numpy())


def under_no_grad(q, k, v, block_size):
    with torch.no_grad():
        return stream_plain(q, k, v, block_size)


def weights_without_gradient(q, k, v, block_size):
    return stream_plain(q.detach(), k, v, block_size)


def exponentials_written_over(q, k, v, block_size):
    """`exp` keeps its result for the backward pass."""
    m, l, o = torch.full_like(q[..., :1], -torch.inf), 0, 0  # noqa: E741
    for kb, vb in zip(k.split(block_size, -2), v.split(block_size, -2), strict=True):
        s = q @ kb.mT / q.shape[-1] ** 0.5
        new = torch.maximum(m, s.amax(-1, keepdim=True))
        p = torch.exp(s - new)
        fade = torch.exp(m - new)
        l = l * fade + p.sum(-1, keepdim=True)  # noqa: E741
        o = o * fade + p @ vb
        p.zero_()
        m = new
    return o / l


def queries_scaled_in_place(q, k, v, block_size):
    q.data /= q.shape[-1] ** 0.5
    return _stream_lines(("* scale", ""))(q, k, v, block_size)


def divides_each_time(q, k, v, block_size):
    m, l, o = torch.full_like(q[..., :1], -torch.inf), 0, 0  # noqa: E741
    for kb, vb in zip(k.split(block_size, -2), v.split(block_size, -2), strict=True):
        s = q @ kb.mT / q.shape[-1] ** 0.5
        new = torch.maximum(m, s.amax(-1, keepdim=True))
        p, fade = torch.exp(s - new), torch.exp(m - new)
        l = l * fade + p.sum(-1, keepdim=True)  # noqa: E741
        o = (o * fade + p @ vb) / l
        m = new
    return o


def average_of_softmaxes(q, k, v, block_size):
    outs = [
        naive(q, kb, vb, 0) for kb, vb in zip(k.split(block_size, -2), v.split(block_size, -2), strict=True)
    ]
    return torch.stack(outs).mean(0)


def sum_of_softmaxes(q, k, v, block_size):
    out = torch.zeros(*q.shape[:-1], v.shape[-1])
    for i in range(0, k.shape[-2], block_size):
        weights = F.softmax(q @ k[..., i : i + block_size, :].mT / math.sqrt(q.shape[-1]), dim=-1)
        out = out + weights @ v[..., i : i + block_size, :]
    return out


def without_maximum(q, k, v, block_size):
    num = den = 0
    for i in range(0, k.shape[-2], block_size):
        p = torch.exp(q @ k[..., i : i + block_size, :].mT / q.shape[-1] ** 0.5)
        num, den = num + p @ v[..., i : i + block_size, :], den + p.sum(-1, keepdim=True)
    return num / den


def whole_blocks_only(q, k, v, block_size):
    blocks = k.shape[-2] // block_size
    if blocks == 0:
        return naive(q, k, v, block_size)
    n = blocks * block_size
    return stream_plain(q, k[..., :n, :], v[..., :n, :], block_size)


def zeros_as_keys(q, k, v, block_size):
    rest = k.shape[-2] % block_size
    if rest:
        k = F.pad(k, (0, 0, 0, block_size - rest))
        v = F.pad(v, (0, 0, 0, block_size - rest))
    return stream_plain(q, k, v, block_size)


def in_half(q, k, v, block_size):
    return stream_plain(q.half(), k.half(), v.half(), block_size).float()


def in_bfloat16(q, k, v, block_size):
    return stream_plain(q.bfloat16(), k.bfloat16(), v.bfloat16(), block_size).float()


def returns_half(q, k, v, block_size):
    return stream_plain(q, k, v, block_size).half()


def with_its_logarithm(q, k, v, block_size):
    lse = torch.stack(
        [(q @ kb.mT / q.shape[-1] ** 0.5).logsumexp(-1) for kb in k.split(block_size, -2)]
    ).logsumexp(0)
    return stream_plain(q, k, v, block_size), lse


RIGHT = {
    "time-it": {
        "statistics": time_statistics,
        "numpy": time_numpy,
        "synchronized everywhere": time_synchronized_everywhere,
        "stamps": time_stamps,
        "one loop": time_one_loop,
        "sliced": time_sliced,
        "generator": time_generator,
        "other names": time_other_names,
        "options by name": time_options_by_name,
        "of the package": time_of_the_package,
        "context": time_context,
        "heap": time_heap,
        "quantiles": time_quantiles,
        "tensor": time_tensor,
        "object": Stopwatch(),
        "method": Stopwatch().__call__,
        "recursive": time_recursive,
        "exact": time_exact,
        "lambda": lambda fn, wait, clock, warmup=3, repeats=10: time_heap(fn, wait, clock, warmup, repeats),
        "any arguments": lambda *args, **options: time_statistics(*args, **options),
        "partial": functools.partial(time_statistics),
    },
    "roofline": {
        "if": roof_if,
        "intensity": roof_intensity,
        "attainable": roof_attainable,
        "sorted": roof_sorted,
        "crossed": roof_crossed,
        "absolute": roof_absolute,
        "numpy": roof_numpy,
        "array": roof_array,
        "tensor": roof_tensor,
        "float32": roof_float32,
        "exact": roof_exact,
        "decimal": roof_decimal,
        "generator": roof_generator,
        "whole": roof_whole,
        "logarithms": roof_logarithms,
        "of the package": roof_of_the_package,
        "unlike units": roof_unlike_units,
        "lambda": lambda f, b, p, w: max(f / p, b / w),
        "chosen": lambda f, b, p, w: (f / p, b / w)[f * w < b * p],
        "partial": functools.partial(roof_sorted),
    },
    "streaming-attention": {
        "plain": stream_plain,
        "einsum": stream_einsum,
        "logarithms": stream_logarithms,
        "sdpa": stream_sdpa,
        "stacked": stream_stacked,
        "two passes": stream_two_passes,
        "in place": stream_in_place,
        "query blocks": stream_query_blocks,
        "loops": stream_loops,
        "always normalised": stream_always_normalised,
        "padded": stream_padded,
        "powers of two": stream_powers_of_two,
        "in double": stream_in_double,
        "backwards": stream_backwards,
        "products": stream_products,
        "halves": stream_halves,
        "function": stream_function,
        "mapped": stream_mapped,
        "checkpointed": stream_checkpointed,
        "flat": stream_flat,
        "scripted": stream_scripted,
        "module": Streamer(),
        "keywords": lambda *args: stream_plain(**dict(zip(("q", "k", "v", "block_size"), args, strict=True))),
    },
}

WRONG = {
    "time-it": {
        "launch-only": time_nothing_awaited,
        "launch-only:at the end": time_awaited_at_the_end,
        "launch-only:after the clock": time_awaited_after_the_clock,
        "launch-only:without parentheses": time_without_parentheses,
        "launch-only:waits before": _with(inner="synchronize();t=clock();fn();samples.append(clock()-t)"),
        "warm-up-leaks": time_leaking,
        "warm-up-leaks:waits inside": _with(
            inner="t=clock();synchronize();fn();synchronize();samples.append(clock()-t)", between="pass"
        ),
        "waits-for-the-call-before": _with(inner="t=clock();synchronize();fn();samples.append(clock()-t)"),
        "waits-for-the-call-before:leaking": _with(
            inner="t=clock();synchronize();fn();samples.append(clock()-t)", between="pass"
        ),
        "launch-not-timed": _with(inner="fn();t=clock();synchronize();samples.append(clock()-t)"),
        "mean": time_mean,
        "mean:of numpy": _with(result="np.mean(samples)"),
        "mean:each awaited": _with("t=clock()", "fn();synchronize()", "(clock()-t)/repeats"),
        "one-pair-of-readings": time_around_all,
        "total-not-divided": time_total,
        "start-read-once": _with("t=clock()", "fn();synchronize();samples.append(clock()-t)"),
        "smallest": _with(result="min(samples)"),
        "largest": _with(result="sorted(samples)[-1]"),
        "lower-middle": _with(result="torch.tensor(samples,dtype=torch.float64).median().item()"),
        "lower-middle:sorted": _with(result="sorted(samples)[(len(samples)-1)//2]"),
        "upper-middle": _with(result="sorted(samples)[len(samples)//2]"),
        "not-sorted": _with(result="samples[len(samples)//2]"),
        "last-only": _with(inner="t=clock();fn();synchronize();last=clock()-t", result="last"),
        "first-only": _with(result="samples[0]"),
        "warm-up-timed": time_everything,
        "no-warm-up": _with(warm="()"),
        "warm-up-once": _with(warm="range(1)"),
        "one-warm-up-call-more": _with(warm="range(warmup+1)"),
        "one-warm-up-call-less": _with(warm="range(1,warmup)"),
        "one-repeat-more": _with(timed="range(repeats+1)"),
        "one-repeat-less": _with(timed="range(1,repeats)"),
        "counts-exchanged": _with(warm="range(repeats)", timed="range(warmup)"),
        "called-twice": _with(inner="t=clock();fn();fn();synchronize();samples.append(clock()-t)"),
        "never-called": _with(inner="t=clock();fn;synchronize();samples.append(clock()-t)", warm="()"),
        "another-clock": time_perf_counter,
        "another-clock:of time": _with(inner="t=time.time();fn();synchronize();samples.append(time.time()-t)"),
        "another-clock:mean": time_monotonic_mean,
        "milliseconds": _with(result="median(samples)*1000"),
        "divided-once-more": _with(result="median(samples)/repeats"),
        "calls-per-second": _with(result="1/median(samples)"),
        "sign": _with(inner="t=clock();fn();synchronize();samples.append(t-clock())"),
        "rounded": _with(result="round(median(samples),3)"),
        "returns-all-times": _with(result="samples"),
        "returns-all-times:two numbers": _with(result="median(samples), statistics.pstdev(samples)"),
        "returns-a-tensor": _with(result="torch.tensor(samples).median()"),
        "returns-none": time_prints,
        "wrong-type:text": time_as_text,
        "raises": _with(inner="t=clock;fn();synchronize();samples.append(clock-t)"),
    },
    "roofline": {
        "sum": lambda f, b, p, w: f / p + b / w,
        "shorter-side": lambda f, b, p, w: min(f / p, b / w),
        "shorter-side:if": lambda f, b, p, w: f / p if f / p < b / w else b / w,
        "shorter-side:by the intensity": lambda f, b, p, w: f / p if f / b < p / w else b / w,
        "arithmetic-only": lambda f, b, p, w: f / p,
        "traffic-only": lambda f, b, p, w: b / w,
        "machine-exchanged": lambda f, b, p, w: max(f / w, b / p),
        "turned-over": lambda f, b, p, w: max(p / f, w / b),
        "multiplied": lambda f, b, p, w: max(f * p, b * w),
        "mean-of-both": lambda f, b, p, w: np.mean([f / p, b / w]),
        "mean-of-both:of the roots": lambda f, b, p, w: (f / p * b / w) ** 0.5,
        "smooth": lambda f, b, p, w: ((f / p) ** 2 + (b / w) ** 2) ** 0.5,
        "product-of-both": lambda f, b, p, w: f / p * b / w,
        "difference": lambda f, b, p, w: abs(f / p - b / w),
        "ratio-of-both": lambda f, b, p, w: (f / p) / (b / w),
        "chosen-by-the-amounts": lambda f, b, p, w: f / p if f >= b else b / w,
        "chosen-by-the-rates": lambda f, b, p, w: f / p if p < w else b / w,
        "balance-turned-over": lambda f, b, p, w: f / p if f / b > w / p else b / w,
        "milliseconds": lambda f, b, p, w: 1000 * max(f / p, b / w),
        "milliseconds:micro": lambda f, b, p, w: max(f / p * 1e6, b / w * 1e6),
        "in-billions": lambda f, b, p, w: max(f / (p * 1e12), b / (w * 1e9)),
        "bits": lambda f, b, p, w: max(f / p, b * 8 / w),
        "numbers-for-bytes": lambda f, b, p, w: max(f / p, 4 * b / w),
        "multiply-adds": lambda f, b, p, w: max(2 * f / p, b / w),
        "rate": lambda f, b, p, w: min(p, w * f / b),
        "intensity": lambda f, b, p, w: f / b,
        "balance": lambda f, b, p, w: p / w,
        "whole-seconds": lambda f, b, p, w: max(f // p, b // w),
        "whole-seconds:int": lambda f, b, p, w: int(max(f / p, b / w)),
        "returns-both": lambda f, b, p, w: (f / p, b / w),
        "returns-both:and a word": lambda f, b, p, w: (f / p, "compute") if f / p > b / w else (b / w, "bandwidth"),
        "returns-a-word": lambda f, b, p, w: "compute" if f / p > b / w else "bandwidth",
        "returns-a-comparison": lambda f, b, p, w: f / p > b / w,
        "returns-a-tensor": lambda f, b, p, w: torch.tensor([f / p, b / w]).amax(),
        "returns-none": lambda f, b, p, w: print(max(f / p, b / w)),
        "raises": lambda f, b, p, w: max(f / p, b / bandwidth),  # noqa: F821
    },
    "streaming-attention": {
        "nothing-rescaled": _stream_lines(("l * alpha", "l"), ("acc * alpha", "acc")),
        "nothing-rescaled:own maximum": _stream_lines(
            ("torch.maximum(m, s.amax(-1, keepdim=True))", "s.max(-1, keepdim=True).values"),
            ("l * alpha", "l"), ("acc * alpha", "acc"),
        ),
        "sum-not-rescaled": _stream_lines(("l * alpha", "l")),
        "output-not-rescaled": _stream_lines(("acc * alpha", "acc")),
        "rescaled-the-wrong-way": _stream_lines(("torch.exp(m - m_new)", "torch.exp(m_new - m)")),
        "rescaled-the-wrong-way:finite": _stream_lines(
            ("torch.exp(m - m_new)", "torch.exp(m_new - m)"), ("-torch.inf", "-1e9")
        ),
        "new-block-not-rescaled": _stream_lines(("torch.exp(s - m_new)", "torch.exp(s - s.amax(-1, keepdim=True))")),
        "new-block-rescaled": _stream_lines(
            ("l * alpha + p", "l * alpha + (alpha if i else 1) * p"), ("p @ vb", "(alpha if i else 1) * p @ vb")
        ),
        "maximum-falls": _stream_lines(("torch.maximum(m, s.amax(-1, keepdim=True))", "s.amax(-1, keepdim=True)")),
        "one-maximum-for-all": _stream_lines(("s.amax(-1, keepdim=True)", "s.max()")),
        "maximum-starts-too-high": _stream_lines(("torch.full_like(q[..., :1], -torch.inf)", "0 * q[..., :1]")),
        "maximum-starts-too-high:-1000": _stream_lines(("-torch.inf", "-1000.0")),
        "no-maximum": without_maximum,
        "no-scale": _stream_lines((" * scale", "")),
        "scale-without-root": _stream_lines(("-0.5", "-1")),
        "scale-without-root:twice": _stream_lines(("q @ kb", "q * scale @ kb")),
        "scale-multiplied": _stream_lines(("-0.5", "0.5")),
        "scale-of-another-size": _stream_lines(("q.shape[-1] **", "v.shape[-1] **")),
        "scale-of-another-size:keys": _stream_lines(("q.shape[-1] **", "k.shape[-2] **")),
        "last-block-dropped": _stream_lines(("k.shape[-2], block_size", "k.shape[-2] - block_size + 1, block_size")),
        "last-block-dropped:counted": whole_blocks_only,
        "last-block-always-dropped": _stream_lines(("range(0, k.shape[-2],", "range(0, k.shape[-2] - block_size,")),
        "first-block-dropped": _stream_lines(("range(0, k.shape[-2],", "range(block_size, k.shape[-2],")),
        "first-block-only": _stream_lines(("        m = m_new\n    return", "        return")),
        "last-block-only": _stream_lines(("l * alpha +", ""), ("acc * alpha +", "")),
        "blocks-overlap": _stream_lines(
            ("k[..., i : i + block_size,", "k[..., i : i + block_size + 1,"),
            ("v[..., i : i + block_size,", "v[..., i : i + block_size + 1,"),
        ),
        "keys-left-out": _stream_lines(("-2], block_size)", "-2], block_size + 1)")),
        "one-step-at-a-time": _stream_lines(("-2], block_size)", "-2])")),
        "softmax-of-each-block-averaged": average_of_softmaxes,
        "softmax-of-each-block-added": sum_of_softmaxes,
        "divided-in-every-block": divides_each_time,
        "divided-in-every-block:and at the end": _stream_lines(("+ p @ vb", "+ p @ vb\n        acc = acc / l")),
        "not-divided": _stream_lines(("acc / l", "acc")),
        "divided-by-the-last-sum": _stream_lines(("l * alpha + p.sum", "p.sum")),
        "multiplied-by-the-sum": _stream_lines(("acc / l", "acc * l")),
        "mean-of-the-exponentials": _stream_lines(("p.sum(", "p.mean(")),
        "one-sum-for-all": _stream_lines(("p.sum(-1, keepdim=True)", "p.sum()")),
        "padding-counts": zeros_as_keys,
        "maximum-added": _stream_lines(("s - m_new", "s + m_new")),
        "base-two": _stream_lines(("torch.exp(m", "torch.exp2(m"), ("torch.exp(s", "torch.exp2(s")),
        "low-precision": in_bfloat16,
        "low-precision:half": in_half,
        "wrong-dtype": returns_half,
        "returns-more": with_its_logarithm,
        "too-much-memory": naive,
        "too-much-memory:put together": scores_in_blocks_put_together,
        "too-much-memory:table": scores_written_into_a_table,
        "too-much-memory:list": scores_kept_in_a_list,
        "too-much-memory:all blocks at once": all_blocks_at_once,
        "too-much-memory:head after head": head_after_head,
        "cuts-gradient": by_numpy,
        "cuts-gradient:no_grad": under_no_grad,
        "cuts-gradient:of the queries": weights_without_gradient,
        "breaks-autograd": exponentials_written_over,
        "changes-input": queries_scaled_in_place,
        "raises": _stream_lines(("kb.mT", "kb")),
    },
}  # fmt: skip
