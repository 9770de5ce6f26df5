"""Chapter 4: right answers in many hands, and wrong ones as learners write them.

The package keeps a bank of wrong answers too, for diagnosis; these are written independently of it.
"""

import functools
import math
import operator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import attn_course
from attn_course import complexity

# -------------------------------------------------------------------------------------- attention-flops


def flops_step_by_step(batch, n_q, n_k, d_model):
    q = 2 * batch * n_q * d_model * d_model
    k = 2 * batch * n_k * d_model * d_model
    v = k
    scores = 2 * batch * n_q * n_k * d_model
    output = q
    return q + k + v + scores + scores + output


def flops_factored(batch, n_q, n_k, d_model):
    return 4 * batch * d_model * (d_model * (n_q + n_k) + n_q * n_k)


def flops_by_shapes(batch, n_q, n_k, d_model):
    shapes = [
        (n_q, d_model, d_model),
        (n_k, d_model, d_model),
        (n_k, d_model, d_model),
        (n_q, d_model, n_k),
        (n_q, n_k, d_model),
        (n_q, d_model, d_model),
    ]
    return sum(2 * batch * math.prod(shape) for shape in shapes)


def flops_by_heads(batch, n_q, n_k, d_model):
    """With heads, which leave the sum again."""
    h = 8
    d_k = d_model // h
    in_heads = sum(2 * n_q * d_k * n_k + 2 * n_q * n_k * d_k for _ in range(h))
    return batch * (4 * (n_q + n_k) * d_model**2 + in_heads)


def flops_by_sequences(batch, n_q, n_k, d_model):
    total = 0
    for _ in range(batch):
        for rows, inner, columns in ((n_q, d_model, d_model),) * 2 + ((n_k, d_model, d_model),) * 2:
            total += 2 * rows * inner * columns
        total += 2 * n_q * d_model * n_k
        total += 2 * n_q * n_k * d_model
    return total


def flops_counted(batch, n_q, n_k, d_model):
    """Attention itself, under torch's counter."""
    x, y = torch.zeros(batch, n_q, d_model), torch.zeros(batch, n_k, d_model)
    w = torch.zeros(d_model, d_model)
    with FlopCounterMode(display=False) as counter:
        q, k, v = (t.view(*t.shape[:2], 4, d_model // 4).transpose(1, 2) for t in (x @ w, y @ w, y @ w))
        out = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        out.transpose(1, 2).reshape(batch, n_q, d_model) @ w
    return counter.get_total_flops()


def flops_on_meta(batch, n_q, n_k, d_model):
    with torch.device("meta"):
        module = attn_course.MultiHeadAttention(d_model, 8)
        x, y = torch.empty(batch, n_q, d_model), torch.empty(batch, n_k, d_model)
    with FlopCounterMode(display=False) as counter:
        module(x, y, y)
    return counter.get_total_flops()


def flops_of_the_package(batch, n_q, n_k, d_model):
    sizes = {"batch": batch, "n_q": n_q, "n_k": n_k, "d_model": d_model, "num_heads": 1}
    return complexity.cost("multi-head-attention", **sizes).flops


def flops_of_operations(*sizes):
    b, q, k, d = sizes
    product = functools.partial(functools.reduce, operator.mul)
    return 4 * (product((b, q, k, d)) + product((b, q, d, d)) + product((b, k, d, d)))


def flops_in_numpy(batch, n_q, n_k, d_model):
    lengths = np.array([n_q, n_k, n_k, n_q], dtype=np.int64)
    return int((2 * batch * d_model * d_model * lengths).sum() + 4 * batch * n_q * n_k * d_model)


def flops_in_tensors(b, n, m, d):
    rows = torch.tensor([n, m, m, n])
    return (2 * b * rows * d**2).sum().item() + 2 * 2 * b * n * m * d


def flops_in_floats(b, n, m, d):
    """Exact as long as they are below 2 ** 53."""
    return round(4.0 * b * d * (n * d + m * d + n * m))


class Flops:
    def __call__(self, batch, queries, keys, width):
        linear = sum(self.linear(batch * rows, width, width) for rows in (queries, queries, keys, keys))
        return linear + 2 * self.linear(batch * queries, width, keys)

    @staticmethod
    def linear(rows, inner, columns):
        return rows * columns * (inner + inner)


FLOPS_RIGHT = {
    "step by step": flops_step_by_step,
    "factored": flops_factored,
    "shapes": flops_by_shapes,
    "heads": flops_by_heads,
    "sequence by sequence": flops_by_sequences,
    "counted": flops_counted,
    "counted on meta": flops_on_meta,
    "package": flops_of_the_package,
    "reduce": flops_of_operations,
    "numpy": flops_in_numpy,
    "tensors": flops_in_tensors,
    "floats": flops_in_floats,
    "object": Flops(),
    "cached": functools.lru_cache(flops_factored),
    "lambda": lambda b, q, k, d: (4 * d * q + 4 * d * k + 4 * q * k) * b * d,
    "partial": functools.partial(lambda two, b, q, k, d: two * b * (2 * (q + k) * d * d + 2 * q * k * d), 2),
}


def _flops(q=1, k=1, v=1, o=1, scores=1, mix=1, per=2, batch=lambda b: b):
    """Attention's FLOPs; a factor for each of the six products."""

    def count(B, n_q, n_k, d):
        projections = (q + o) * n_q * d**2 + (k + v) * n_k * d**2
        return per * batch(B) * (projections + (scores + mix) * n_q * n_k * d)

    return count


FLOPS_WRONG = {
    "multiply-adds-once": _flops(per=1),
    "multiply-adds-once: and one score product": _flops(per=1, mix=0),
    "counted-twice": _flops(per=4),
    "batch-forgotten": _flops(batch=lambda b: 1),
    "batch-squared": _flops(batch=lambda b: b * b),
    "batch-on-the-products-alone": lambda B, q, k, d: 4 * d * d * (q + k) + 4 * B * q * k * d,
    "batch-on-the-projections-alone": lambda B, q, k, d: 4 * B * d * d * (q + k) + 4 * q * k * d,
    "output-projection-missing": _flops(o=0),
    "key-or-value-projection-missing": _flops(v=0),
    "projections-once": _flops(o=0, v=0),
    "projections-once: queries' only": _flops(k=0, v=0, o=0),
    "projections-missing": _flops(0, 0, 0, 0),
    "keys-and-values-of-length-n-q": lambda B, q, k, d: 8 * B * q * d * d + 4 * B * q * k * d,
    "all-projections-of-length-n-k": lambda B, q, k, d: 8 * B * k * d * d + 4 * B * q * k * d,
    "output-of-length-n-k": lambda B, q, k, d: 2 * B * d * (d * (q + 3 * k) + 2 * q * k),
    "three-projections-of-length-n-q": lambda B, q, k, d: 2 * B * (3 * q * d * d + 2 * q * k * d),
    "fused-projection-of-both-lengths": lambda B, q, k, d: 2 * B * (q + k) * d * 4 * d + 4 * B * q * k * d,
    "lengths-multiplied-in-the-projections": lambda B, q, k, d: 8 * B * q * k * d * d + 4 * B * q * k * d,
    "one-score-product": _flops(mix=0),
    "one-score-product: scores": _flops(scores=0),
    "score-products-missing": _flops(scores=0, mix=0),
    "score-products-of-n-q-squared": lambda B, q, k, d: 4 * B * d * d * (q + k) + 4 * B * q**2 * d,
    "score-products-of-n-k-squared": lambda B, q, k, d: 4 * B * d * d * (q + k) + 4 * B * k**2 * d,
    "one-length-for-both": lambda B, q, k, d: 8 * B * q * d * d + 4 * B * q * q * d,
    "lengths-added-in-the-products": lambda B, q, k, d: 4 * B * d * d * (q + k) + 4 * B * (q + k) * d,
    "width-missing-in-the-products": lambda B, q, k, d: 4 * B * d * d * (q + k) + 4 * B * q * k,
    "width-squared-in-the-products": lambda B, q, k, d: 4 * B * d * d * (q + k + q * k),
    "width-once-in-the-projections": lambda B, q, k, d: 4 * B * d * (q + k) + 4 * B * q * k * d,
    "heads-multiplied-in": lambda B, q, k, d: 4 * B * d * d * (q + k) + 4 * B * 8 * q * k * d,
    "one-head-only": lambda B, q, k, d: 4 * B * d * d * (q + k) + 4 * B * q * k * (d // 8),
    "softmax-counted": lambda B, q, k, d: flops_factored(B, q, k, d) + 5 * B * q * k,
    "softmax-counted: the scale": lambda B, q, k, d: flops_factored(B, q, k, d) + B * q * k,
    "biases-counted": lambda B, q, k, d: flops_factored(B, q, k, d) + 2 * B * (q + k) * d,
    "feed-forward-counted": lambda B, q, k, d: flops_factored(B, q, k, d) + 2 * B * q * d * 4 * d * 2,
    "backward-counted": _flops(per=6),
    "leading-term": lambda B, q, k, d: B * q * k * d,
    "parameters-counted": lambda B, q, k, d: 4 * d**2,
    "returns-a-float": lambda B, q, k, d: 4.0 * B * d * (d * (q + k) + q * k),
    "returns-no-python-number": lambda *sizes: (
        np.array([4, *sizes[:1]]).prod() * flops_factored(1, *sizes[1:]) // 4
    ),
    "returns-no-python-number: a tensor": lambda *sizes: torch.as_tensor(flops_factored(*sizes)),
    "returns-a-text": lambda *sizes: f"{flops_factored(*sizes):,}",
}

# ------------------------------------------------------------------------------------- crossover-length


def crossover_by_counting(d_model):
    n = 1
    while 4 * n * n * d_model < 8 * n * d_model * d_model:
        n += 1
    return n


def crossover_by_halving(d_model):
    low, high = 1, 8 * d_model
    while low < high:
        n = (low + high) // 2
        low, high = (n + 1, high) if 2 * n * n < 4 * n * d_model else (low, n)
    return low


def crossover_of_flops(d_model):
    """Of its own count: where the quadratic part is half of all."""
    return next(
        n
        for n in range(1, 10 * d_model)
        if 2 * (flops_factored(1, n, n, d_model) - 8 * n * d_model**2) == flops_factored(1, n, n, d_model)
    )


def crossover_by_terms(d_model):
    terms = [
        complexity.cost("multi-head-attention", batch=1, n_q=n, d_model=d_model, num_heads=1).terms
        for n in (1, 2)
    ]
    first = {name: term for name, term in terms[0].items() if terms[1][name] == 2 * term}
    second = {name: term for name, term in terms[0].items() if terms[1][name] == 4 * term}
    return sum(first.values()) // sum(second.values())


CROSSOVER_RIGHT = {
    "doubled": lambda d: 2 * d,
    "added": lambda width: width + width,
    "shifted": lambda d: d << 1,
    "counting": crossover_by_counting,
    "halving": crossover_by_halving,
    "of flops": crossover_of_flops,
    "terms of the package": crossover_by_terms,
    "divided": lambda d: (4 * 2 * d**2) // (2 * 2 * d),
    "of a float": lambda d: int(8 * d**2 / (4 * d)),
    "rounded": lambda d: round(d / 0.5),
    "a length": lambda d: len(range(2 * d)),
    "sum": lambda d: sum((d, d)),
    "solved": lambda d: int(np.roots([4 * d, -8 * d * d, 0]).max().round()),
    "a tensor's item": lambda d: (torch.tensor(d) * 2).item(),
    "partial": functools.partial(operator.mul, 2),
    "keyword": lambda d_model, *, products=2, projections=4: projections * d_model // products,
}
CROSSOVER_WRONG = {
    "half-of-it": lambda d: d,
    "half-of-it: with a division": lambda d: 4 * d * d / (4 * d),
    "twice-of-it": lambda d: 4 * d,
    "one-projection": lambda d: d // 2,
    "one-projection: as a float": lambda d: 2 * d**2 / (4 * d),
    "three-projections": lambda d: 3 * d // 2,
    "three-projections: and one product": lambda d: 3 * d,
    "one-projection-and-one-product": lambda d: d // 4,
    "four-times": lambda d: 8 * d,
    "the-whole-block": lambda d: 24 * d * d // (4 * d),
    "width-of-a-head": lambda d: 2 * (d // 8),
    "width-of-a-head: alone": lambda d: d // 8,
    "heads-multiplied-in": lambda d: 16 * d,
    "one-more": lambda d: next(n for n in range(1, 9 * d) if 4 * n * n * d > 8 * n * d * d),
    "one-less": lambda d: 2 * d - 1,
    "width-squared": lambda d: 2 * d**2,
    "width-squared: not doubled": lambda d: d**2,
    "root-of-the-width": math.isqrt,
    "width-left-out": lambda d: 2,
    "width-left-out: 1024": lambda d: 1024,
    "flops-returned": lambda d: 8 * (2 * d) * d * d,
    "returns-a-float": lambda d: 8 * d * d / (4 * d),
    "returns-no-python-number": lambda d: np.int64(2) * d,
    "returns-no-python-number: a tensor": lambda d: 2 * torch.tensor(d),
    "returns-a-text": lambda d: f"n = {2 * d}"[4:],
    "wrong-value": lambda d: 2 * d + 7,
}

# -------------------------------------------------------------------------------------------- cbam-flops


def cbam_step_by_step(batch, channels, height, width, reduction=16, kernel_size=7):
    hidden = channels // reduction
    down = 2 * batch * channels * hidden
    up = 2 * batch * hidden * channels
    conv = 2 * batch * 1 * 2 * height * width * kernel_size * kernel_size
    return 2 * (down + up) + conv


def cbam_short(b, c, h, w, r=16, k=7):
    return 4 * b * (2 * c * c // r + h * w * k * k)


def cbam_by_shapes(batch, channels, height, width, reduction=16, kernel_size=7):
    hidden = max(1, channels // reduction)
    products = [(2 * batch, channels, hidden), (2 * batch, hidden, channels)]
    products.append((batch * height * width, 2 * kernel_size**2, 1))
    return 2 * sum(map(math.prod, products))


def cbam_counted(batch, channels, height, width, reduction=16, kernel_size=7):
    """Run under torch's counter, on the meta device."""
    with torch.device("meta"):
        x = torch.empty(batch, channels, height, width)
        mlp = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels, bias=False),
        )
        conv = nn.Conv2d(2, 1, kernel_size, padding="same", bias=False)
    with FlopCounterMode(display=False) as counter:
        gate = torch.sigmoid(mlp(x.mean((2, 3))) + mlp(x.amax((2, 3))))[..., None, None]
        x = x * gate
        x * torch.sigmoid(conv(torch.stack([x.mean(1), x.amax(1)], 1)))
    return counter.get_total_flops()


def cbam_of_the_package(batch, channels, height, width, reduction=16, kernel_size=7):
    sizes = {"batch": batch, "channels": channels, "height": height, "width": width, "reduction": reduction}
    return complexity.cost("cbam", **sizes, kernel_size=kernel_size).flops


def cbam_of_two(batch, channels, height, width, reduction=16, kernel_size=7):
    image = {"batch": batch, "channels": channels, "height": height, "width": width}
    channel = complexity.cost("channel-attention", **image, reduction=reduction)
    return channel.flops + complexity.cost("spatial-attention", **image, kernel_size=kernel_size).flops


def cbam_pixel_by_pixel(batch, channels, height, width, reduction=16, kernel_size=7):
    flops = 0
    for _ in range(batch):
        for _pooling in ("average", "max"):
            flops += 2 * (channels // reduction) * channels + 2 * channels * (channels // reduction)
        flops += sum(2 * 2 * kernel_size**2 for _ in range(height) for _ in range(width))
    return flops


def cbam_by_keyword(batch, channels, height, width, *, kernel_size=7, reduction=16):
    return cbam_short(batch, channels, height, width, reduction, kernel_size)


def cbam_in_floats(batch, channels, height, width, reduction=16, kernel_size=7):
    hidden = int(channels / reduction)
    return int(8.0 * batch * channels * hidden + 4.0 * batch * height * width * kernel_size**2)


def cbam_options(*sizes, **options):
    return cbam_short(*sizes, *(options[name] for name in ("reduction", "kernel_size") if name in options))


def cbam_in_numpy(b, c, h, w, reduction=16, kernel_size=7):
    kernel = np.ones((1, 2, kernel_size, kernel_size), dtype=int)
    w1 = np.ones((c // reduction, c), dtype=int)
    return int(2 * b * (2 * w1.sum() + 2 * w1.T.sum() + h * w * kernel.sum()))


def cbam_of_parameters(b, c, h, w, reduction=16, kernel_size=7):
    mlp = nn.Sequential(
        nn.Conv2d(c, c // reduction, 1, bias=False), nn.Conv2d(c // reduction, c, 1, bias=False)
    )
    conv = nn.Conv2d(2, 1, kernel_size, bias=False)
    uses = {mlp: 2, conv: h * w}
    return 2 * b * sum(times * sum(p.numel() for p in part.parameters()) for part, times in uses.items())


CBAM_RIGHT = {
    "step by step": cbam_step_by_step,
    "short": cbam_short,
    "shapes": cbam_by_shapes,
    "counted": cbam_counted,
    "package": cbam_of_the_package,
    "package, two parts": cbam_of_two,
    "pixel by pixel": cbam_pixel_by_pixel,
    "keyword only": cbam_by_keyword,
    "floats": cbam_in_floats,
    "options": cbam_options,
    "numpy": cbam_in_numpy,
    "parameters times uses": cbam_of_parameters,
    "partial": functools.partial(cbam_short),
    "lambda": lambda B, C, H, W, reduction=16, kernel_size=7: (
        8 * B * C * (C // reduction) + 4 * B * H * W * kernel_size * kernel_size
    ),
    "hidden rounded up": lambda b, c, h, w, r=16, k=7: 8 * b * c * -(-c // r) + 4 * b * h * w * k**2,
}


def _cbam(mlp=lambda C, hidden: 4 * C * hidden, conv=lambda H, W, k: 2 * H * W * k**2, per=2, extra=None):
    """CBAM's FLOPs with one thing wrong, in the words of a learner."""

    def count(batch, channels, height, width, reduction=16, kernel_size=7):
        total = per * (mlp(channels, channels // reduction) + conv(height, width, kernel_size))
        total += extra(channels, height, width) if extra else 0
        return batch * total

    return count


CBAM_WRONG = {
    "half-of-the-mlp": _cbam(mlp=lambda C, hidden: 2 * C * hidden),
    "quarter-of-the-mlp": _cbam(mlp=lambda C, hidden: C * hidden),
    "mlp-twice-too-often": _cbam(mlp=lambda C, hidden: 8 * C * hidden),
    "mlp-missing": _cbam(mlp=lambda C, hidden: 0),
    "mlp-at-every-pixel": lambda b, c, h, w, r=16, k=7: 4 * b * h * w * (2 * c * (c // r) + k**2),
    "reduction-ignored": _cbam(mlp=lambda C, hidden: 4 * C * C),
    "reduction-default-always": lambda b, c, h, w, r=16, k=7: 8 * b * c * (c // 16) + 4 * b * h * w * k * k,
    "reduction-as-the-width": lambda b, c, h, w, r=16, k=7: 8 * b * c * r + 4 * b * h * w * k * k,
    "reduction-squared": lambda b, c, h, w, r=16, k=7: 8 * b * (c // r) ** 2 + 4 * b * h * w * k * k,
    "channels-once": _cbam(mlp=lambda C, hidden: 4 * C),
    "one-input-map": _cbam(conv=lambda H, W, k: H * W * k**2),
    "all-channels-convolved": lambda b, c, h, w, r=16, k=7: 8 * b * c * (c // r) + 2 * b * h * w * c * k * k,
    "two-output-maps": _cbam(conv=lambda H, W, k: 4 * H * W * k**2),
    "kernel-not-squared": _cbam(conv=lambda H, W, k: 2 * H * W * k),
    "kernel-missing": _cbam(conv=lambda H, W, k: 2 * H * W),
    "kernel-default-always": _cbam(conv=lambda H, W, k: 2 * H * W * 7 * 7),
    "valid-padding": _cbam(conv=lambda H, W, k: 2 * (H - k + 1) * (W - k + 1) * k**2),
    "padded-map-convolved": _cbam(conv=lambda H, W, k: 2 * (H + 2 * (k // 2)) * (W + 2 * (k // 2)) * k**2),
    "map-not-there": _cbam(conv=lambda H, W, k: 2 * k**2),
    "sides-added": _cbam(conv=lambda H, W, k: 2 * (H + W) * k**2),
    "square-map": _cbam(conv=lambda H, W, k: 2 * H * H * k**2),
    "convolution-missing": _cbam(conv=lambda H, W, k: 0),
    "multiply-adds-once": _cbam(per=1),
    "multiply-adds-once: and one pass": _cbam(mlp=lambda C, hidden: 2 * C * hidden, per=1),
    "counted-twice": _cbam(per=4),
    "batch-forgotten": lambda b, *rest, **named: cbam_short(1, *rest),
    "batch-on-the-convolution-alone": lambda b, c, h, w, r=16, k=7: 8 * c * (c // r) + 4 * b * h * w * k * k,
    "batch-on-the-mlp-alone": lambda b, c, h, w, r=16, k=7: 8 * b * c * (c // r) + 4 * h * w * k * k,
    "pooling-or-gates-counted": _cbam(extra=lambda C, H, W: 2 * C * H * W + 2 * C * H * W),
    "pooling-or-gates-counted: gates": _cbam(extra=lambda C, H, W: 2 * C * H * W),
    "sigmoids-counted": _cbam(extra=lambda C, H, W: C + H * W),
    "biases-counted": _cbam(extra=lambda C, H, W: H * W),
    "backward-counted": _cbam(per=6),
    "leading-term": lambda b, c, h, w, *options: b * (c + h * w),
    "parameters-counted": lambda b, c, h, w, r=16, k=7: c * (c // r) * 2 + 2 * k * k,
    "returns-a-float": lambda b, c, h, w, r=16, k=7: 8 * b * c * (c / r) + 4 * b * h * w * k * k,
    "returns-no-python-number": lambda *sizes: np.int64(cbam_short(*sizes)),
    "raises": lambda b, c, h, w: cbam_short(b, c, h, w),
}

# ------------------------------------------------------------------------------------------ score-memory


def memory_of_a_tensor(batch, num_heads, n_q, n_k, dtype):
    return torch.empty(batch, num_heads, n_q, n_k, dtype=dtype, device="meta").nbytes


def memory_of_elements(batch, num_heads, n_q, n_k, dtype):
    scores = torch.zeros(batch, num_heads, n_q, n_k, dtype=dtype)
    return scores.numel() * scores.element_size()


def memory_of_a_product(batch, num_heads, n_q, n_k, dtype):
    query, key = torch.ones(batch, num_heads, n_q, 1), torch.ones(batch, num_heads, n_k, 1)
    return (query @ key.mT).to(dtype).untyped_storage().nbytes()


def memory_by_a_table(batch, num_heads, n_q, n_k, dtype):
    size = {torch.float64: 8, torch.float32: 4, torch.float16: 2, torch.bfloat16: 2}
    return batch * num_heads * n_q * n_k * size[dtype]


def memory_by_name(batch, num_heads, n_q, n_k, dtype):
    bits = int("".join(c for c in str(dtype) if c.isdigit()))
    return math.prod((batch, num_heads, n_q, n_k, bits)) // 8


def memory_map_by_map(batch, num_heads, n_q, n_k, dtype):
    total = 0
    for _sequence in range(batch):
        for _head in range(num_heads):
            total += n_q * n_k * dtype.itemsize
    return total


def memory_by_cases(b, h, q, k, dtype):
    if dtype in (torch.float16, torch.bfloat16):
        width = 2
    elif dtype == torch.float64:
        width = 8
    else:
        width = 4
    return width * b * h * q * k


MEMORY_RIGHT = {
    "itemsize": lambda b, h, q, k, dtype: dtype.itemsize * b * h * q * k,
    "element size": lambda b, h, q, k, dtype: b * h * q * k * torch.tensor([], dtype=dtype).element_size(),
    "finfo": lambda b, h, q, k, dtype: b * h * q * k * torch.finfo(dtype).bits // 8,
    "meta tensor": memory_of_a_tensor,
    "tensor": memory_of_elements,
    "product": memory_of_a_product,
    "table": memory_by_a_table,
    "name": memory_by_name,
    "map by map": memory_map_by_map,
    "cases": memory_by_cases,
    "package": lambda *sizes: complexity.score_bytes(*sizes[:4], dtype=str(sizes[4]).removeprefix("torch.")),
    "size": lambda b, h, q, k, t: torch.Size((b, h, q, k)).numel() * t.itemsize,
    "numpy": lambda b, h, q, k, t: int(np.prod((b, h, q, k))) * t.itemsize,
    "float": lambda b, h, q, k, t: int(b * h * q * k * torch.finfo(t).bits / 8),
    "partial": functools.partial(memory_by_a_table),
}


def _memory(
    elements=lambda b, h, q, k: b * h * q * k, each=lambda dtype: dtype.itemsize, end=lambda total: total
):
    def count(batch, num_heads, n_q, n_k, dtype):
        return end(elements(batch, num_heads, n_q, n_k) * each(dtype))

    return count


MEMORY_WRONG = {
    "bits": _memory(each=lambda dtype: torch.finfo(dtype).bits),
    "elements": _memory(each=lambda dtype: 1),
    "float32-always": _memory(each=lambda dtype: 4),
    "float32-always: the default": _memory(each=lambda dtype: torch.empty(1).element_size()),
    "two-bytes-always": _memory(each=lambda dtype: 2),
    "eight-bytes-always": _memory(each=lambda dtype: 8),
    "only-one-half-precision": _memory(each=lambda t: {torch.float64: 8, torch.float16: 2}.get(t, 4)),
    "double-taken-for-single": _memory(each=lambda t: 4 if t in (torch.float32, torch.float64) else 2),
    "heads-forgotten": _memory(lambda b, h, q, k: b * q * k),
    "batch-forgotten": _memory(lambda b, h, q, k: h * q * k),
    "one-map": _memory(lambda b, h, q, k: q * k),
    "n-q-squared": _memory(lambda b, h, q, k: b * h * q**2),
    "n-k-squared": _memory(lambda b, h, q, k: b * h * k**2),
    "lengths-added": _memory(lambda b, h, q, k: b * h * (q + k)),
    "heads-added": _memory(lambda b, h, q, k: (b + h) * q * k),
    "one-length-missing": _memory(lambda b, h, q, k: b * h * q),
    "weights-too": _memory(end=lambda total: total + total),
    "three-copies": _memory(end=lambda total: 3 * total),
    "mask-too": lambda b, h, q, k, t: b * h * q * k * t.itemsize + q * k,
    "causal-half": _memory(lambda b, h, q, k: b * h * (q * (q + 1) // 2)),
    "kilobytes-or-megabytes": _memory(end=lambda total: total / 2**20),
    "kilobytes-or-megabytes: whole": _memory(end=lambda total: total // 1024),
    "heads-divided": _memory(lambda b, h, q, k: b * q * k // h),
    "returns-a-float": _memory(each=lambda dtype: torch.finfo(dtype).bits / 8),
    "returns-no-python-number": lambda b, h, q, k, t: np.prod((b, h, q, k)) * t.itemsize,
    "returns-no-python-number: a tensor": lambda b, h, q, k, t: torch.tensor([b, h, q, k, t.itemsize]).prod(),
    "returns-a-text": lambda b, h, q, k, t: f"{b * h * q * k * t.itemsize}",
    "raises": lambda b, h, q, k, t: b * h * q * k * t.itemsize(),
}

# ------------------------------------------------------------------------------------- attention-entropy


def entropy_where(weights):
    logs = torch.where(weights > 0, weights, torch.ones_like(weights)).log()
    return -(weights * logs).sum(-1)


def entropy_masked(weights):
    return -(weights * weights.log().masked_fill(weights == 0, 0.0)).sum(dim=-1)


def entropy_einsum(weights):
    return torch.einsum("...k,...k->...", weights, -weights.clamp(min=1e-30).log())


def entropy_loops(weights):
    rows = []
    for row in weights.reshape(-1, weights.shape[-1]):
        total = torch.zeros((), dtype=weights.dtype)
        for w in row:
            if w > 0:
                total = total - w * w.log()
        rows.append(total)
    return torch.stack(rows).reshape(weights.shape[:-1])


def entropy_of_logits(weights):
    return torch.distributions.Categorical(logits=weights.log()).entropy()


def entropy_base_two(weights):
    return -(weights * torch.log2(weights.clamp_min(1e-30))).sum(-1) * math.log(2)


def entropy_product(weights):
    """A row times a column."""
    logs = weights.clamp_min(torch.finfo(torch.float32).tiny).log()
    return -(weights.unsqueeze(-2) @ logs.unsqueeze(-1)).flatten(-2).squeeze(-1)


def entropy_nan_to_num(weights):
    terms = weights * weights.log()
    return -torch.nan_to_num(terms).sum(-1)


def entropy_vmapped(weights):
    one = lambda row: torch.special.entr(row).sum()  # noqa: E731
    return torch.vmap(one)(weights.reshape(-1, weights.shape[-1])).view(weights.shape[:-1])


class Entropy(nn.Module):
    def forward(self, maps):
        return torch.sum(torch.special.entr(maps), dim=maps.dim() - 1)


@torch.jit.script
def entropy_scripted(weights):
    return -(weights * torch.clamp_min(weights, 1e-38).log()).sum(-1)


def entropy_normalising(weights):
    """Takes care that rows add up to 1: at the weights themselves its gradient is another."""
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.special.entr(weights).sum(-1)


ENTROPY_RIGHT = {
    "where": entropy_where,
    "masked logarithm": entropy_masked,
    "entr": lambda w: torch.special.entr(w).sum(-1),
    "xlogy": lambda w: -torch.xlogy(w, w).sum(-1),
    "einsum": entropy_einsum,
    "loops": entropy_loops,
    "categorical": entropy_of_logits,
    "base two": entropy_base_two,
    "row times column": entropy_product,
    "nan to num": entropy_nan_to_num,
    "nansum": lambda w: -(w * w.log()).nansum(-1),
    "clamp at 1e-9": lambda w: -(w * w.clamp(min=1e-9).log()).sum(-1),
    "added tiny": lambda w: -(w * (w + torch.finfo(w.dtype).tiny).log()).sum(-1),
    "vmap": entropy_vmapped,
    "module": Entropy(),
    "scripted": entropy_scripted,
    "normalising": entropy_normalising,
    "in float32": lambda w: torch.special.entr(w.float()).sum(-1),
    "in float64": lambda w: torch.special.entr(w.double()).sum(-1).to(w.dtype),
    "lambda": lambda p: sum(torch.special.entr(k) for k in p.unbind(-1)),
    "compiled": torch.compile(entropy_where, backend="eager", fullgraph=True),
    "package": attn_course.attention_entropy,
}


def _plain(w):
    return w * torch.where(w == 0, 1.0, w).log()


ENTROPY_WRONG = {
    "nan-at-zero": lambda w: -(w * torch.log(w)).sum(-1),
    "nan-swept-away": lambda w: torch.nan_to_num(-(w * torch.log(w)).sum(-1), nan=0.0),
    "nearly-zero": lambda w: -torch.sum(w * torch.log(w + 1e-8), dim=-1),  # as the document has it
    "nearly-zero: 1e-6": lambda w: -(w * (w + 1e-6).log()).sum(-1),
    "nearly-zero: 1e-12": lambda w: -((w + 1e-12) * (w + 1e-12).log()).sum(-1),
    "nearly-zero: 1e-5": lambda w: -(w * (w + 1e-5).log()).sum(-1),
    "nearly-zero: all weights clamped": lambda w: -(w.clamp(1e-9) * w.clamp(1e-9).log()).sum(-1),
    "nearly-zero: categorical": lambda w: torch.distributions.Categorical(probs=w).entropy(),
    "bits": lambda w: -torch.where(w > 0, w * w.log2(), 0.0).sum(-1),
    "base-ten": lambda w: -torch.where(w > 0, w * w.log10(), 0.0).sum(-1),
    "normalised": lambda w: -_plain(w).sum(-1) / math.log(w.shape[-1] + (w.shape[-1] == 1)),
    "normalised: one key is NaN": lambda w: -_plain(w).sum(-1) / torch.tensor(w.shape[-1]).log(),
    "sign": lambda w: _plain(w).sum(-1),
    "distance-from-uniform": lambda w: math.log(w.shape[-1]) + _plain(w).sum(-1),
    "mean-over-keys": lambda w: -_plain(w).mean(-1),
    "sum-over-queries": lambda w: -_plain(w).sum(-2),
    "not-summed": lambda w: -_plain(w),
    "queries-averaged": lambda w: -_plain(w).sum(-1).mean(-1),
    "everything-averaged": lambda w: -_plain(w).sum(-1).mean(),
    "heads-averaged": lambda w: -_plain(w.mean(dim=1)).sum(-1),
    "heads-averaged: afterwards": lambda w: -_plain(w).sum(-1).mean(1),
    "batch-averaged": lambda w: -_plain(w.mean(0) if w.dim() > 2 else w).sum(-1),
    "queries-averaged-before": lambda w: -_plain(w.mean(-2)).sum(-1),
    "dimension-kept": lambda w: -_plain(w).sum(-1, keepdim=True),
    "four-dimensions-only": lambda w: -_plain(w).sum(3),
    "softmax-again": lambda w: -_plain(F.softmax(w, -1)).sum(-1),
    "weights-of-a-softmax-missing": lambda w: -(w * F.log_softmax(w, dim=-1)).sum(-1),
    "not-weighted": lambda w: -w.log().sum(-1),
    "log-of-one-plus": lambda w: -(w * torch.log1p(w)).sum(-1),
    "perplexity": lambda w: torch.exp(-_plain(w).sum(-1)),
    "sum-of-squares": lambda w: 1 - (w**2).sum(-1),
    "surest-weight-only": lambda w: -torch.log(w.max(-1).values),
    "spread-of-the-weights": lambda w: w.var(dim=-1),
    "cuts-gradient": lambda w: -_plain(w.detach()).sum(-1),
    "raises": lambda w: torch.tensor(-_plain(w).numpy().sum(-1)),
    "wrong-type": lambda w: (-_plain(w).sum(-1)).tolist(),
}

# ------------------------------------------------------------------------------------ attention-distance


def _table(n):
    places = torch.arange(n)
    return (places.unsqueeze(1) - places.unsqueeze(0)).abs()


def distance_einsum(weights):
    n = weights.size(-1)
    return torch.einsum("...qk,qk->...", weights, _table(n).float()) / n


def distance_loops(weights):
    n = weights.shape[-1]
    total = 0
    for q in range(n):
        for k in range(n):
            total = total + weights[..., q, k] * abs(q - k)
    return total / n


def distance_by_diagonals(weights):
    """All pairs of one distance at a time."""
    n = weights.shape[-1]
    total = torch.zeros(weights.shape[:-2])
    for apart in range(1, n):
        for offset in (apart, -apart):
            total = total + apart * torch.diagonal(weights, offset, -2, -1).sum(-1)
    return total / n


def distance_flat(weights):
    n = weights.shape[-1]
    return weights.flatten(-2) @ _table(n).float().flatten() / n


def distance_by_queries(weights):
    n = weights.shape[-1]
    rows = [weights[..., q, :] @ (torch.arange(n) - q).abs().to(weights) for q in range(n)]
    return torch.stack(rows, -1).mean(-1)


def distance_both_sides(weights):
    place = torch.arange(weights.shape[-1], dtype=weights.dtype)
    back = (place[:, None] - place).relu()
    ahead = (place - place[:, None]).relu()
    return ((weights * back).sum(-1) + (weights * ahead).sum(-1)).mean(-1)


def distance_cdist(weights):
    place = torch.arange(weights.shape[-1], dtype=torch.float32)[:, None]
    return (weights * torch.cdist(place, place, p=1)).sum((-2, -1)) / len(place)


def distance_root(weights):
    p = torch.arange(weights.shape[-1]).float()
    return (weights * ((p[:, None] - p) ** 2).sqrt()).sum(-1).mean(-1)


def distance_toeplitz(weights):
    n = weights.shape[-1]
    table = torch.tensor([[max(q, k) - min(q, k) for k in range(n)] for q in range(n)])
    return (weights * table).mean((-2, -1)) * n


def distance_trace(weights):
    """Σ w · d is the trace of w dᵀ."""
    product = weights @ _table(weights.shape[-1]).to(weights.dtype)
    return product.diagonal(dim1=-2, dim2=-1).mean(-1)


class Distance(nn.Module):
    def forward(self, maps):
        return distance_flat(maps)


@torch.jit.script
def distance_scripted(weights):
    place = torch.arange(weights.size(-1))
    return (weights * (place[:, None] - place[None, :]).abs()).sum(-1).mean(-1)


def distance_cumulative(weights):
    """|q − k| counts the borders that lie between the two."""
    after = 1 - weights.cumsum(-1)  # weight beyond key j
    n = weights.shape[-1]
    border, query = torch.arange(n), torch.arange(n)[:, None]
    crossed = torch.where(border >= query, after, 1 - after)[..., : n - 1]
    return crossed.sum(-1).mean(-1)


DISTANCE_RIGHT = {
    "broadcast": lambda w: (w * _table(w.shape[-1])).sum(-1).mean(-1),
    "einsum": distance_einsum,
    "loops": distance_loops,
    "diagonals": distance_by_diagonals,
    "flat": distance_flat,
    "query by query": distance_by_queries,
    "both sides": distance_both_sides,
    "cdist": distance_cdist,
    "root of the square": distance_root,
    "list of lists": distance_toeplitz,
    "trace": distance_trace,
    "module": Distance(),
    "scripted": distance_scripted,
    "cumulative": distance_cumulative,
    "vmap": lambda w: torch.vmap(distance_root)(w.reshape(-1, *w.shape[-2:])).view(w.shape[:-2]),
    "transposed": lambda w: (w.mT * _table(w.shape[-1])).sum((-2, -1)) / w.shape[-1],
    "normalising": lambda w: distance_flat(w / w.sum(-1, keepdim=True)),
    "in float64": lambda w: distance_flat(w).double().float(),
    "partial": functools.partial(lambda table, w: (w * table(w.shape[-1])).sum(-1).mean(-1), _table),
    "compiled": torch.compile(distance_root, backend="eager", fullgraph=True),
    "package": attn_course.mean_attention_distance,
}


def _looks(table=_table, keys=lambda t: t.sum(-1), queries=lambda e: e.mean(-1), before=lambda w: w):
    """The distance with one thing wrong, in the words of a learner."""

    def measure(weights):
        weights = before(weights)
        return queries(keys(weights * table(weights.shape[-1])))

    return measure


def _signed(n):
    return torch.arange(n)[:, None] - torch.arange(n)[None, :]


def _argmax(w):
    return (w.argmax(-1) - torch.arange(w.shape[-1])).abs().float().mean(-1)


DISTANCE_WRONG = {
    "signed": _looks(_signed),
    "signed: key minus query": _looks(lambda n: -_signed(n)),
    "sign-lost-too-late": _looks(_signed, keys=lambda t: t.sum(-1).abs()),
    "sign-lost-too-late: at the end": _looks(_signed, queries=lambda e: e.mean(-1).abs()),
    "sign-lost-too-late: mean place": lambda w: (
        (w @ torch.arange(w.shape[-1]).float() - torch.arange(w.shape[-1])).abs().mean(-1)
    ),
    "squared": _looks(lambda n: _signed(n) ** 2),
    "root-mean-square": _looks(lambda n: _signed(n) ** 2, queries=lambda e: e.mean(-1) ** 0.5),
    "root": _looks(lambda n: _table(n) ** 0.5),
    "most-looked-at-key-only": _argmax,
    "farthest-key-only": _looks(keys=lambda t: t.max(-1).values),
    "queries-summed": _looks(queries=lambda e: e.sum(-1)),
    "queries-left-apart": _looks(queries=lambda e: e),
    "mean-over-keys": _looks(keys=lambda t: t.mean(-1)),
    "relative-distance": _looks(queries=lambda e: e.mean(-1) / (e.shape[-1] - 1 or 1)),
    "everything-averaged": _looks(queries=lambda e: e.mean()),
    "everything-added": _looks(queries=lambda e: e.sum()),
    "heads-averaged": _looks(before=lambda w: w.mean(1)),
    "batch-averaged": _looks(before=lambda w: w.mean(0) if w.ndim > 2 else w),
    "python-number": lambda w: distance_flat(w).mean().item(),
    "python-number: a list": lambda w: distance_flat(w).tolist(),
    "one-number-in-a-dimension": lambda w: torch.atleast_1d(distance_flat(w)),
    "four-dimensions-only": lambda w: (w * _table(w.shape[-1])).sum(3).mean(2),
    "place-of-the-key": lambda w: (w @ torch.arange(w.shape[-1]).float()).mean(-1),
    "place-of-the-query": lambda w: (w * torch.arange(w.shape[-1])[:, None]).sum(-1).mean(-1),
    "counted-from-1": _looks(lambda n: _table(n) + 1),
    "share-of-others": lambda w: 1 - w.diagonal(dim1=-2, dim2=-1).mean(-1),
    "itself-left-out": _looks(before=lambda w: F.normalize(w * ~torch.eye(w.shape[-1], dtype=bool), 1, -1)),
    "round-the-corner": _looks(lambda n: torch.minimum(_table(n), n - _table(n))),
    "only-back": _looks(before=torch.tril),
    "only-back: ahead": _looks(lambda n: _signed(n).clamp(max=0).abs()),
    "weights-ignored": lambda w: _table(w.shape[-1]).float().mean().expand(w.shape[:-2]),
    "softmax-again": _looks(before=lambda w: w.softmax(-1)),
    "halved": lambda w: distance_flat(w) / 2,
    "cuts-gradient": lambda w: distance_flat(w.data),
    "wrong-dtype": lambda w: distance_flat(w).double(),
    "wrong-value": lambda w: distance_flat(w) * 1.1,
}

RIGHT = {
    "attention-flops": FLOPS_RIGHT,
    "crossover-length": CROSSOVER_RIGHT,
    "cbam-flops": CBAM_RIGHT,
    "score-memory": MEMORY_RIGHT,
    "attention-entropy": ENTROPY_RIGHT,
    "attention-distance": DISTANCE_RIGHT,
}
WRONG = {
    "attention-flops": FLOPS_WRONG,
    "crossover-length": CROSSOVER_WRONG,
    "cbam-flops": CBAM_WRONG,
    "score-memory": MEMORY_WRONG,
    "attention-entropy": ENTROPY_WRONG,
    "attention-distance": DISTANCE_WRONG,
}
