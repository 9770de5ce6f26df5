"""What a mechanism costs, counted exactly from its sizes. Imports no torch: predict first, then measure.

One multiply-add is 2 FLOPs, and FLOPs are those of matrix products and convolutions in one forward pass, as
`torch.utils.flop_counter` counts them. Everything else is elementwise work, counted apart, one operation
for each addition, multiplication, comparison or exponential on one element:

    bias, scale, gate, residual, ReLU   1
    average or maximum                  1 for each element that enters
    sigmoid                             4 negate, exponential, add, divide
    softmax                             5 maximum, subtract, exponential, sum, divide
    layer normalisation                 7 mean, subtract, square, mean, divide, scale, shift
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Cost", "attention_complexity_comparison", "cost", "mechanisms", "score_bytes", "window_pairs"]

_DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_SIGMOID, _SOFTMAX, _LAYER_NORM = 4, 5, 7


@dataclass(frozen=True)
class Cost:
    """The price of one forward pass, as `cost` returns it.

    Attributes:
        mechanism: its name, one of `mechanisms()`.
        sizes: the sizes that it was counted for, defaults filled in.
        terms: FLOPs by step; they add up to `flops`.
        elementwise_terms: elementwise operations by step; they add up to `elementwise`.
        parameters: how many numbers are learnt.
        peak_bytes: most bytes alive at one moment in inference, on top of the inputs and the parameters, what
            is returned included; None for a mechanism whose memory is not modelled.
        table_bytes: bytes of what is kept or made beside parameters, inputs and output: tables, caches, a bias.
    """

    mechanism: str
    sizes: dict[str, int | str | bool]
    terms: dict[str, int]
    elementwise_terms: dict[str, int]
    parameters: int
    peak_bytes: int | None = None
    table_bytes: int = 0
    flops: int = field(init=False)
    elementwise: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "flops", sum(self.terms.values()))
        object.__setattr__(self, "elementwise", sum(self.elementwise_terms.values()))


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
        _check_size(name, value, optional=parameters[name].default is None)
    return _MECHANISMS[mechanism](**sizes)


def mechanisms() -> dict[str, inspect.Signature]:
    """The names that `cost` knows, each with the signature of its sizes."""
    return {name: inspect.signature(count, eval_str=True) for name, count in _MECHANISMS.items()}


def score_bytes(batch: int, num_heads: int, n_q: int, n_k: int, dtype: str = "float32") -> int:
    """Bytes of one score matrix: `batch · num_heads · n_q · n_k` elements."""
    sizes = {"batch": batch, "num_heads": num_heads, "n_q": n_q, "n_k": n_k, "dtype": dtype}
    for name, value in sizes.items():
        _check_size(name, value)
    return batch * num_heads * n_q * n_k * _DTYPE_BYTES[dtype]


def window_pairs(n: int, window: int, *, is_causal: bool = False) -> int:
    """How many pairs lie within a window: `|query - key| ≤ window`, and `key ≤ query` if causal."""
    for name, value in {"n": n, "window": window, "is_causal": is_causal}.items():
        _check_size(name, value)
    reach = min(window, n - 1)
    one_side = (
        n * reach - reach * (reach + 1) // 2
    )  # pairs with key < query: n - 1, n - 2, … for each distance
    return n + one_side if is_causal else n + 2 * one_side


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


# --- One function for each mechanism: its keyword arguments are its sizes ----------------------------------


def _multi_head_attention(
    *,
    batch: int,
    n_q: int,
    n_k: int | None = None,
    d_model: int,
    num_heads: int,
    dtype: str = "float32",
    fused: bool = False,
) -> Cost:
    """`MultiHeadAttention`. `n_k` is `n_q` unless given; `fused` keeps no weights: less memory."""
    n_k = n_q if n_k is None else n_k
    _check_heads(d_model, num_heads)
    pairs = batch * num_heads * n_q * n_k
    queries, keys = batch * n_q * d_model, batch * n_k * d_model  # elements of Q; of K, and of V
    return Cost(
        mechanism="multi-head-attention",
        sizes={
            "batch": batch,
            "n_q": n_q,
            "n_k": n_k,
            "d_model": d_model,
            "num_heads": num_heads,
            "dtype": dtype,
            "fused": fused,
        },
        terms={
            "projections": 4 * batch * (n_q + n_k) * d_model**2,
            "scores": 2 * batch * n_q * n_k * d_model,
            "weighted sum": 2 * batch * n_q * n_k * d_model,
        },
        elementwise_terms={"biases": 2 * (queries + keys), "scale": queries, "softmax": _SOFTMAX * pairs},
        parameters=4 * (d_model**2 + d_model),
        peak_bytes=_attention_peak(queries, keys, pairs, batch, num_heads, dtype, fused)
        * _DTYPE_BYTES[dtype],
    )


def _attention_peak(
    queries: int, keys: int, pairs: int, batch: int, num_heads: int, dtype: str, fused: bool
) -> int:
    """Elements alive at the worst moment of `MultiHeadAttention` in inference, without a mask.

    Q, K and V are there throughout. The heads of several sequences do not lie at equal steps in memory, so a
    batched matrix product copies them first (in bfloat16, on a CPU, those of a single one too); merging heads
    is a copy as well.
    """
    projected = queries + 2 * keys
    if fused:
        return projected + 2 * queries  # what the heads give, and the last projection of it
    copies = num_heads > 1 and (batch > 1 or dtype == "bfloat16")
    merged = num_heads > 1
    return max(
        projected + queries + copies * (queries + keys) + pairs,  # scores, from scaled queries
        projected + 2 * pairs + copies * keys + queries,  # output, from weights; the scores are still there
        projected + pairs + (2 + merged) * queries,  # last projection
    )


def _transformer_block(*, batch: int, n: int, d_model: int, num_heads: int, d_ff: int) -> Cost:
    """`TransformerBlock`, pre-norm or post-norm."""
    attention = _multi_head_attention(batch=batch, n_q=n, d_model=d_model, num_heads=num_heads)
    tokens = batch * n * d_model
    return Cost(
        mechanism="transformer-block",
        sizes={"batch": batch, "n": n, "d_model": d_model, "num_heads": num_heads, "d_ff": d_ff},
        terms={**attention.terms, "feed-forward": 4 * batch * n * d_model * d_ff},
        elementwise_terms={
            "attention": attention.elementwise,
            "feed-forward biases": batch * n * (d_ff + d_model),
            "ReLU": batch * n * d_ff,
            "residuals": 2 * tokens,
            "layer norms": 2 * _LAYER_NORM * tokens,
        },
        parameters=attention.parameters + 2 * d_model * d_ff + d_ff + d_model + 2 * 2 * d_model,
    )


def _channel_attention(*, batch: int, channels: int, height: int, width: int, reduction: int = 16) -> Cost:
    """`ChannelAttention`: two poolings, one MLP for both, one gate for each channel."""
    hidden = max(1, channels // reduction)
    elements = batch * channels * height * width
    return Cost(
        mechanism="channel-attention",
        sizes={
            "batch": batch,
            "channels": channels,
            "height": height,
            "width": width,
            "reduction": reduction,
        },
        terms={"MLP": 2 * 2 * (2 * batch * channels * hidden)},  # 2 poolings, 2 layers
        elementwise_terms={
            "pooling": 2 * elements,
            "ReLU": 2 * batch * hidden,
            "sum and sigmoid": (1 + _SIGMOID) * batch * channels,
            "gate": elements,
        },
        parameters=2 * channels * hidden,
    )


def _squeeze_and_excitation(
    *, batch: int, channels: int, height: int, width: int, reduction: int = 16
) -> Cost:
    """`SqueezeExcitation`: one pooling, an MLP with biases, one gate for each channel."""
    hidden = max(1, channels // reduction)
    elements = batch * channels * height * width
    image = {"batch": batch, "channels": channels, "height": height, "width": width}
    return Cost(
        mechanism="squeeze-and-excitation",
        sizes={**image, "reduction": reduction},
        terms={"MLP": 2 * (2 * batch * channels * hidden)},
        elementwise_terms={
            "pooling": elements,
            "biases": batch * (hidden + channels),
            "ReLU": batch * hidden,
            "sigmoid": _SIGMOID * batch * channels,
            "gate": elements,
        },
        parameters=2 * channels * hidden + hidden + channels,
    )


def _efficient_channel_attention(
    *, batch: int, channels: int, height: int, width: int, kernel_size: int | None = None
) -> Cost:
    """`EfficientChannelAttention`: one pooling, a convolution along the channels; the paper's size if None."""
    if kernel_size is None:
        kernel_size = int((math.log2(channels) + 1) / 2)
        kernel_size += 1 - kernel_size % 2
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}")
    elements = batch * channels * height * width
    image = {"batch": batch, "channels": channels, "height": height, "width": width}
    return Cost(
        mechanism="efficient-channel-attention",
        sizes={**image, "kernel_size": kernel_size},
        terms={"convolution": 2 * batch * channels * kernel_size},
        elementwise_terms={
            "pooling": elements,
            "sigmoid": _SIGMOID * batch * channels,
            "gate": elements,
        },
        parameters=kernel_size,
    )


def _spatial_attention(*, batch: int, channels: int, height: int, width: int, kernel_size: int = 7) -> Cost:
    """`SpatialAttention`: two poolings over the channels, one convolution, one gate for each place."""
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}")
    places = batch * height * width
    return Cost(
        mechanism="spatial-attention",
        sizes={
            "batch": batch,
            "channels": channels,
            "height": height,
            "width": width,
            "kernel_size": kernel_size,
        },
        terms={"convolution": 2 * places * 2 * kernel_size**2},  # products with the padding's zeros included
        elementwise_terms={
            "pooling": 2 * places * channels,
            "sigmoid": _SIGMOID * places,
            "gate": places * channels,
        },
        parameters=2 * kernel_size**2,
    )


def _cbam(
    *, batch: int, channels: int, height: int, width: int, reduction: int = 16, kernel_size: int = 7
) -> Cost:
    """`CBAM`: channel attention, then spatial attention of what it returns."""
    image = {"batch": batch, "channels": channels, "height": height, "width": width}
    channel = _channel_attention(**image, reduction=reduction)
    spatial = _spatial_attention(**image, kernel_size=kernel_size)
    return Cost(
        mechanism="cbam",
        sizes={**image, "reduction": reduction, "kernel_size": kernel_size},
        terms={**channel.terms, **spatial.terms},
        elementwise_terms={
            "channel attention": channel.elementwise,
            "spatial attention": spatial.elementwise,
        },
        parameters=channel.parameters + spatial.parameters,
    )


def _self_attention_2d(*, batch: int, channels: int, height: int, width: int) -> Cost:
    """`SelfAttention2D`: `n = H·W` places; queries and keys have an eighth of the channels."""
    n = height * width
    inner = max(1, channels // 8)
    return Cost(
        mechanism="self-attention-2d",
        sizes={"batch": batch, "channels": channels, "height": height, "width": width},
        terms={
            "projections": 2 * batch * n * channels * (2 * inner + channels),
            "scores": 2 * batch * n * n * inner,
            "weighted sum": 2 * batch * n * n * channels,
        },
        elementwise_terms={
            "biases": batch * n * (2 * inner + channels),
            "softmax": _SOFTMAX * batch * n * n,
            "gamma": batch * n * channels,
            "residual": batch * n * channels,
        },
        parameters=(channels + 1) * (2 * inner + channels) + 1,
    )


def _sliding_window_attention(
    *, batch: int, num_heads: int, n: int, d_k: int, window: int, is_causal: bool = False
) -> Cost:
    """`sliding_window_attention`: the pairs within the window, not what an implementation pads them to."""
    pairs = batch * num_heads * window_pairs(n, window, is_causal=is_causal)
    return Cost(
        mechanism="sliding-window-attention",
        sizes={
            "batch": batch,
            "num_heads": num_heads,
            "n": n,
            "d_k": d_k,
            "window": window,
            "is_causal": is_causal,
        },
        terms={"scores": 2 * pairs * d_k, "weighted sum": 2 * pairs * d_k},
        elementwise_terms={"scale": batch * num_heads * n * d_k, "softmax": _SOFTMAX * pairs},
        parameters=0,
    )


def _sinusoidal_encoding(*, batch: int, n: int, d_model: int, max_len: int | None = None) -> Cost:
    """`PositionalEncoding`: its float32 table has `max_len` rows, `n` unless given."""
    max_len = _check_max_len(n, max_len)
    return Cost(
        mechanism="sinusoidal-encoding",
        sizes={"batch": batch, "n": n, "d_model": d_model, "max_len": max_len},
        terms={},
        elementwise_terms={"add": batch * n * d_model},
        parameters=0,
        table_bytes=max_len * d_model * _DTYPE_BYTES["float32"],
    )


def _learned_encoding(*, batch: int, n: int, d_model: int, max_len: int | None = None) -> Cost:
    """`LearnedPositionalEncoding`: the rows of its table are parameters, `max_len` (`n` unless given)."""
    max_len = _check_max_len(n, max_len)
    return Cost(
        mechanism="learned-encoding",
        sizes={"batch": batch, "n": n, "d_model": d_model, "max_len": max_len},
        terms={},
        elementwise_terms={"add": batch * n * d_model},
        parameters=max_len * d_model,
    )


def _rotary_embedding(*, batch: int, n: int, d_model: int, num_heads: int) -> Cost:
    """`RotaryEmbedding` in one attention layer: all queries and all keys; a float32 cache of `n` positions."""
    _check_heads(d_model, num_heads)
    d_k = d_model // num_heads
    if d_k % 2:
        raise ValueError(
            f"d_k = d_model / num_heads must be even, got d_model = {d_model} and num_heads = {num_heads}"
        )
    return Cost(
        mechanism="rotary-embedding",
        sizes={"batch": batch, "n": n, "d_model": d_model, "num_heads": num_heads},
        terms={},
        # An entry is multiplied by a cosine, its partner by a sine, and the two are added.
        elementwise_terms={"queries": 3 * batch * n * d_model, "keys": 3 * batch * n * d_model},
        parameters=0,
        table_bytes=2 * n * (d_k // 2) * _DTYPE_BYTES["float32"],
    )


def _alibi_bias(*, batch: int, n: int, num_heads: int) -> Cost:
    """`alibi_bias` and its addition to the scores of one attention layer; float32, shared by the sequences."""
    return Cost(
        mechanism="alibi-bias",
        sizes={"batch": batch, "n": n, "num_heads": num_heads},
        terms={},
        elementwise_terms={
            "distances": 3 * n * n,  # subtract, absolute value, negate
            "slopes": num_heads * n * n,
            "add": batch * num_heads * n * n,
        },
        parameters=0,
        table_bytes=num_heads * n * n * _DTYPE_BYTES["float32"],
    )


# A new mechanism adds one line here; its sizes are the keyword arguments of its function.
_MECHANISMS: dict[str, Callable[..., Cost]] = {
    "multi-head-attention": _multi_head_attention,
    "transformer-block": _transformer_block,
    "channel-attention": _channel_attention,
    "squeeze-and-excitation": _squeeze_and_excitation,
    "efficient-channel-attention": _efficient_channel_attention,
    "spatial-attention": _spatial_attention,
    "cbam": _cbam,
    "self-attention-2d": _self_attention_2d,
    "sliding-window-attention": _sliding_window_attention,
    "sinusoidal-encoding": _sinusoidal_encoding,
    "learned-encoding": _learned_encoding,
    "rotary-embedding": _rotary_embedding,
    "alibi-bias": _alibi_bias,
}


def _check_heads(d_model: int, num_heads: int) -> None:
    if d_model % num_heads:
        raise ValueError(
            f"num_heads must divide d_model, got d_model = {d_model} and num_heads = {num_heads}"
        )


def _check_max_len(n: int, max_len: int | None) -> int:
    if max_len is not None and n > max_len:
        raise ValueError(f"n must be at most max_len = {max_len}, got {n}")
    return n if max_len is None else max_len


def _check_size(name: str, value: object, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if name == "dtype":
        if value not in _DTYPE_BYTES:
            raise ValueError(f"unknown dtype {value!r}; known: {', '.join(_DTYPE_BYTES)}")
    elif name in ("fused", "is_causal"):
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")
    else:
        least = 0 if name == "window" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
