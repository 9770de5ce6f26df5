"""What a mechanism costs, counted exactly from its sizes. Imports no torch: predict first, then measure.

One multiply-add is 2 FLOPs, and FLOPs are those of matrix products and convolutions in one forward pass, as
`torch.utils.flop_counter` counts them. Everything else is elementwise work, counted apart, one operation
for each addition, multiplication, comparison or exponential on one element:

    bias, scale, gate, residual, ReLU   1
    average or maximum                  1 for each element that enters
    sigmoid                             4 negate, exponential, add, divide
    softmax                             5 maximum, subtract, exponential, sum, divide
    layer normalisation                 7 mean, subtract, square, mean, divide, scale, shift

Bytes moved are the least that a step can do with: each operand read once, each result written once, nothing left in a
cache from one step to the next, biases added on the way. Peak memory is that of the package's modules on a CPU, as
the allocation events of torch's profiler show it (`benchmark.peak_bytes`): tables, copies and scratch memory that
torch allocates, with one thread; not what libraries take by their own means. A GPU's kernels take other scratch memory.

One file holds one family, a function for each mechanism; `memory` follows what is alive.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from . import cnn, hybrid, positional, transformer, window
from .core import DTYPE_BYTES, Cost, Hardware, Roofline, check_size
from .transformer import key_value_cache_bytes
from .window import window_pairs

__all__ = [
    "Cost",
    "Hardware",
    "Roofline",
    "attention_complexity_comparison",
    "cost",
    "key_value_cache_bytes",
    "mechanisms",
    "score_bytes",
    "window_pairs",
]

# A new mechanism adds one line here; its sizes are the keyword arguments of its function.
_MECHANISMS: dict[str, Callable[..., Cost]] = {
    "multi-head-attention": transformer.multi_head_attention,
    "transformer-block": transformer.transformer_block,
    "convolution": cnn.convolution,
    "channel-attention": cnn.channel_attention,
    "squeeze-and-excitation": cnn.squeeze_and_excitation,
    "efficient-channel-attention": cnn.efficient_channel_attention,
    "spatial-attention": cnn.spatial_attention,
    "cbam": cnn.cbam,
    "self-attention-2d": cnn.self_attention_2d,
    "attention-cnn": cnn.attention_cnn,
    "hybrid": hybrid.hybrid,
    "sliding-window-attention": window.sliding_window_attention,
    "sinusoidal-encoding": positional.sinusoidal_encoding,
    "learned-encoding": positional.learned_encoding,
    "rotary-embedding": positional.rotary_embedding,
    "alibi-bias": positional.alibi_bias,
}


def cost(mechanism: str, **sizes: int | str | bool) -> Cost:
    """Count what one forward pass of a mechanism costs.

        >>> attention = cost("multi-head-attention", batch=1, n_q=512, d_model=512, num_heads=8)
        >>> attention.flops, attention.terms["scores"]
        (1610612736, 268435456)

    Args:
        mechanism: one of `mechanisms()`.
        sizes: what that mechanism asks for, by name; `mechanisms()` shows names and defaults.

    Raises:
        ValueError: for an unknown mechanism or size (the message lists the known ones), for a size that is
            missing, and for one that is out of range.
    """
    if mechanism not in _MECHANISMS:
        raise ValueError(f"unknown mechanism {mechanism!r}; known: {', '.join(_MECHANISMS)}")
    parameters = mechanisms()[mechanism].parameters
    known = ", ".join(str(parameter) for parameter in parameters.values())
    unknown = [name for name in sizes if name not in parameters]
    if unknown:
        raise ValueError(f"{mechanism} has no size {', '.join(unknown)}; it has {known}")
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    missing = [name for name in required if name not in sizes]
    if missing:
        raise ValueError(f"{mechanism} needs {', '.join(missing)} as well; it has {known}")
    for name, value in sizes.items():
        check_size(name, value, optional=parameters[name].default is None)
    return _MECHANISMS[mechanism](**sizes)


def mechanisms() -> dict[str, inspect.Signature]:
    """The names that `cost` knows, each with the signature of its sizes."""
    return {name: inspect.signature(count, eval_str=True) for name, count in _MECHANISMS.items()}


def score_bytes(batch: int, num_heads: int, n_q: int, n_k: int, dtype: str = "float32") -> int:
    """Bytes of one score matrix: `batch · num_heads · n_q · n_k` elements."""
    sizes = {"batch": batch, "num_heads": num_heads, "n_q": n_q, "n_k": n_k, "dtype": dtype}
    for name, value in sizes.items():
        check_size(name, value)
    return batch * num_heads * n_q * n_k * DTYPE_BYTES[dtype]


def attention_complexity_comparison() -> dict[str, int]:
    """Print and return the leading terms that big-O tables show, and beside them what the work really is.

    Returns:
        `transformer`, `spatial` and `channel`: the leading terms `n²·d_model`, `H·W` and `C`. They are not
        comparable, as each leaves out another factor: 12, 196 and 128 here. With `_flops` added to the name:
        the exact FLOPs of one forward pass. With `_elementwise`: the operations that FLOPs leave out, which
        are most of the work in CNN attention.
    """
    n, d_model = 512, 512
    height, width, channels = 224, 224, 256
    leading = {"transformer": n * n * d_model, "spatial": height * width, "channel": channels}
    image: dict[str, int | str | bool] = {"batch": 1, "channels": channels, "height": height, "width": width}
    exact = {
        "transformer": cost("multi-head-attention", batch=1, n_q=n, d_model=d_model, num_heads=8),
        "spatial": cost("spatial-attention", **image),
        "channel": cost("channel-attention", **image),
    }

    print("Leading terms, which cannot be compared with each other, and exact counts beside them")
    print(f"(n = {n}, d_model = {d_model}; H x W = {height} x {width}, C = {channels}, r = 16, k = 7):")
    print(f"{'':12}{'leading term':>15}{'FLOPs':>16}{'FLOPs / term':>14}{'elementwise':>14}")
    result = dict(leading)
    for name, price in exact.items():
        factor = price.flops // leading[name]
        print(f"{name:12}{leading[name]:>15,}{price.flops:>16,}{factor:>14,}{price.elementwise:>14,}")
        result[f"{name}_flops"] = price.flops
        result[f"{name}_elementwise"] = price.elementwise
    return result
