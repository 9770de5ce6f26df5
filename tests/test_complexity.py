"""Predicted costs against torch's own counter, the modules' parameters, and measured memory."""

import ast
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from attn_course import attention_complexity_comparison, complexity, textbook
from attn_course import cnn as cnn_module
from attn_course import window as window_module
from attn_course.benchmark import peak_bytes
from attn_course.cnn import (
    CBAM,
    AttentionCNN,
    ChannelAttention,
    EfficientChannelAttention,
    SelfAttention2D,
    SpatialAttention,
    SqueezeExcitation,
)
from attn_course.hybrid import HybridAttentionModel
from attn_course.positional import (
    LearnedPositionalEncoding,
    PositionalEncoding,
    RotaryEmbedding,
    alibi_bias,
)
from attn_course.transformer import (
    KeyValueCache,
    MultiHeadAttention,
    TransformerBlock,
    scaled_dot_product_attention,
)
from attn_course.window import sliding_window_attention, sliding_window_mask

modest = settings(max_examples=20, derandomize=True, deadline=None)
small = st.integers(1, 7)
length = st.integers(1, 40)
image = {"batch": small, "channels": st.integers(1, 40), "height": length, "width": length}


def drawn(**sizes):
    """Sizes, in which `d_model` comes as a number of channels per head."""

    def widen(chosen):
        if "d_model" in chosen:
            chosen["d_model"] *= chosen["num_heads"]
        return chosen

    return st.fixed_dictionaries(sizes).map(widen)


def meta(*shape):
    return torch.empty(*shape, device="meta")


def attention(batch, n_q, n_k, d_model, num_heads, num_kv_heads=None):
    keys = meta(batch, n_k, d_model)
    module = MultiHeadAttention(d_model, num_heads, dropout=0.0, num_kv_heads=num_kv_heads)
    return module, (meta(batch, n_q, d_model), keys, keys)


def block(batch, n, d_model, num_heads, d_ff):
    return TransformerBlock(d_model, num_heads, d_ff, dropout=0.0), (meta(batch, n, d_model),)


def convolution(
    batch,
    in_channels,
    out_channels,
    height,
    width,
    kernel_size,
    stride=1,
    padding=None,
    bias=True,
    dtype=None,
):
    padding = kernel_size // 2 if padding is None else padding
    module = nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
    return module, (meta(batch, in_channels, height, width),)


def network(batch, height, width, num_classes=10):
    return AttentionCNN(num_classes), (meta(batch, 3, height, width),)


def hybrid(batch, channels, height, width, num_classes, **sizes):
    options = {
        "positions": sizes.get("positions", True),
        "width": sizes.get("embed_dim", 256),
        "depth": sizes.get("depth", 3),
        "num_heads": sizes.get("num_heads", 8),
        "grid": (sizes.get("grid_height", 8), sizes.get("grid_width", 8)),
    }
    module = HybridAttentionModel((channels, height, width), num_classes, **options)
    return module, (meta(batch, channels, height, width),)


def channel(batch, channels, height, width, reduction):
    return ChannelAttention(channels, reduction), (meta(batch, channels, height, width),)


def squeeze(batch, channels, height, width, reduction):
    return SqueezeExcitation(channels, reduction), (meta(batch, channels, height, width),)


def efficient(batch, channels, height, width, kernel_size):
    return EfficientChannelAttention(channels, kernel_size), (meta(batch, channels, height, width),)


def spatial(batch, channels, height, width, kernel_size):
    return SpatialAttention(kernel_size), (meta(batch, channels, height, width),)


def cbam(batch, channels, height, width, reduction, kernel_size):
    return CBAM(channels, reduction, kernel_size), (meta(batch, channels, height, width),)


def self_attention(batch, channels, height, width):
    return SelfAttention2D(channels), (meta(batch, channels, height, width),)


def sinusoidal(batch, n, d_model, max_len):
    return PositionalEncoding(d_model, max_len), (meta(batch, n, d_model),)


def learned(batch, n, d_model, max_len):
    return LearnedPositionalEncoding(d_model, max_len), (meta(batch, n, d_model),)


def rotary(batch, n, d_model, num_heads):
    return RotaryEmbedding(d_model // num_heads), (meta(batch, num_heads, n, d_model // num_heads),)


class _Alibi(torch.nn.Module):
    def forward(self, scores):
        return scores + alibi_bias(*scores.shape[1:], device=scores.device)


def alibi(batch, n, num_heads):
    return _Alibi(), (meta(batch, num_heads, n, n),)


table = {"batch": small, "n": length, "d_model": small, "max_len": st.integers(40, 50)}
pairs_of_entries = drawn(batch=small, n=length, d_model=st.sampled_from([2, 4, 6, 10]), num_heads=small)

# Every mechanism that is a module: what draws its sizes, and what makes it and its inputs.
MODULES = {
    "multi-head-attention": (
        drawn(batch=small, n_q=length, n_k=length, d_model=small, num_heads=small),
        attention,
    ),
    "transformer-block": (drawn(batch=small, n=length, d_model=small, num_heads=small, d_ff=length), block),
    "convolution": (
        drawn(
            batch=small,
            in_channels=small,
            out_channels=small,
            height=st.integers(7, 23),
            width=st.integers(7, 23),
            kernel_size=st.sampled_from([1, 3, 5, 7]),
            stride=st.integers(1, 3),
            padding=st.sampled_from([None, 0, 1, 4]),
            bias=st.booleans(),
        ),
        convolution,
    ),
    "attention-cnn": (
        drawn(batch=small, height=st.integers(8, 40), width=st.integers(8, 40), num_classes=small),
        network,
    ),
    "hybrid": (
        drawn(
            batch=small,
            channels=small,
            height=st.integers(4, 40),
            width=st.integers(4, 40),
            num_classes=small,
            positions=st.booleans(),
            embed_dim=st.sampled_from([12, 24, 256]),
            depth=st.integers(1, 3),
            num_heads=st.sampled_from([1, 2, 4]),
            grid_height=st.integers(1, 9),
            grid_width=st.integers(1, 9),
        ),
        hybrid,
    ),
    "channel-attention": (drawn(**image, reduction=st.integers(1, 20)), channel),
    "squeeze-and-excitation": (drawn(**image, reduction=st.integers(1, 20)), squeeze),
    "efficient-channel-attention": (
        drawn(**image, kernel_size=st.sampled_from([None, 1, 3, 5, 9])),
        efficient,
    ),
    "spatial-attention": (drawn(**image, kernel_size=st.sampled_from([1, 3, 5, 7])), spatial),
    "cbam": (drawn(**image, reduction=st.integers(1, 20), kernel_size=st.sampled_from([1, 3, 7])), cbam),
    "self-attention-2d": (drawn(**image), self_attention),
    "sinusoidal-encoding": (st.fixed_dictionaries(table), sinusoidal),
    "learned-encoding": (st.fixed_dictionaries(table), learned),
    "rotary-embedding": (pairs_of_entries, rotary),
    "alibi-bias": (st.fixed_dictionaries({"batch": small, "n": length, "num_heads": small}), alibi),
}


def _as(known):
    """The formula by which torch's counter counts another operation, with the same arguments."""
    formula = flop_counter.flop_registry[known]

    def count(*args, **kwargs):
        return formula(*args, **kwargs)

    count._get_raw = True
    return count


# What torch's counter leaves out on a CPU: products that are added in place, and the fused kernel.
ATEN = torch.ops.aten
LEFT_OUT = {
    ATEN.baddbmm_: _as(ATEN.baddbmm),
    ATEN._scaled_dot_product_flash_attention_for_cpu: _as(ATEN._scaled_dot_product_flash_attention),
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _as(
        ATEN._scaled_dot_product_flash_attention_backward
    ),
}


def counted(fn):
    with FlopCounterMode(display=False, custom_mapping=LEFT_OUT) as counter:
        fn()
    return counter.get_total_flops()


def trained(module, *inputs):
    """FLOPs of one forward and backward pass, with gradients of inputs and parameters."""
    inputs = [x.detach().requires_grad_() for x in inputs]

    def step():
        results = module(*inputs)
        output = results[0] if isinstance(results, tuple) else results
        output.backward(torch.empty_like(output))

    return counted(step)


def test_every_mechanism_is_checked_against_the_counter():
    assert {*MODULES, "sliding-window-attention"} == set(complexity.mechanisms())


@pytest.mark.parametrize("mechanism", MODULES)
def test_flops_and_parameters_are_those_that_torch_counts(mechanism):
    sizes, build = MODULES[mechanism]
    examples = 8 if mechanism in ("attention-cnn", "hybrid") else 20  # many layers, all the same way

    @settings(modest, max_examples=examples)
    @given(sizes)
    def holds(sizes):
        module, inputs = build(**sizes)
        price = complexity.cost(mechanism, **sizes)
        assert price.parameters == sum(parameter.numel() for parameter in module.parameters())
        module = module.to("meta")
        assert price.flops == counted(lambda: module(*inputs))
        with torch.no_grad():
            assert price.flops == counted(lambda: module.eval()(*inputs))
        assert price.training_flops == (trained(module.train(), *inputs) if price.flops else 0)

    holds()


@modest
@given(st.integers(1, 3), st.integers(1, 12), st.integers(30, 75), st.integers(30, 75))
def test_a_map_that_is_not_kept_is_paid_for_twice(batch, channels, height, width):
    sizes = {"batch": batch, "channels": channels, "height": height, "width": width}
    module, inputs = self_attention(**sizes)
    price = complexity.cost("self-attention-2d", **sizes)
    assert price.training_flops == trained(module.to("meta"), *inputs)
    scores = complexity.score_bytes(batch, 1, height * width, height * width)
    again = price.terms["scores"] if scores > cnn_module._KEEP_BYTES else 0
    assert price.training_flops == 3 * price.flops + again


@modest
@given(drawn(batch=small, n_q=length, n_k=length, d_model=small, num_heads=small), st.booleans())
def test_heads_that_share_their_keys_cost_what_torch_counts(sizes, fused):
    num_kv_heads, sizes["num_heads"] = sizes["num_heads"], 2 * sizes["num_heads"]
    sizes = {**sizes, "d_model": 2 * sizes["d_model"], "num_kv_heads": num_kv_heads}
    module, inputs = attention(**sizes)
    price = complexity.cost("multi-head-attention", **sizes, fused=fused)
    assert price.parameters == sum(parameter.numel() for parameter in module.parameters())
    inputs = [torch.ones_like(x, device="cpu") for x in inputs]
    assert price.flops == counted(lambda: module(*inputs, need_weights=not fused))
    assert price.training_flops == trained(lambda *x: module(*x, need_weights=not fused), *inputs)


@modest
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 30), st.sampled_from([1, 2, 4]), st.booleans())
def test_a_cache_spares_the_projections_of_the_keys_that_it_holds(batch, new, cached, num_kv_heads, fused):
    module = MultiHeadAttention(24, 4, num_kv_heads=num_kv_heads).eval()
    cache = KeyValueCache(batch, num_kv_heads, 50, 6)
    x = torch.ones(batch, cached + new, 24)
    with torch.no_grad():
        module(x[:, :cached], x[:, :cached], x[:, :cached], cache=cache)
        tokens = x[:, cached:]
        flops = counted(lambda: module(tokens, tokens, tokens, cache=cache, need_weights=not fused))
    sizes = {"batch": batch, "d_model": 24, "num_heads": 4, "num_kv_heads": num_kv_heads, "fused": fused}
    assert complexity.cost("multi-head-attention", n_q=new, cached=cached, **sizes).flops == flops
    filled = {"n": cached + new, "d_model": 24, "num_heads": 4, "num_kv_heads": num_kv_heads, "batch": batch}
    assert complexity.key_value_cache_bytes(layers=3, **filled) * 50 == 3 * cache.nbytes * (cached + new)


@modest
@given(drawn(batch=small, n_q=length, n_k=length, d_model=small, num_heads=small))
def test_the_fused_kernel_does_as_many_flops(sizes):
    module, (q, k, v) = attention(**sizes)
    flops = counted(lambda: module.to("meta")(q, k, v, need_weights=False))
    assert complexity.cost("multi-head-attention", **sizes, fused=True).flops == flops


@modest
@given(st.integers(1, 60), st.integers(0, 70), st.booleans())
def test_the_pairs_of_a_window_are_the_ones_in_its_mask(n, window, is_causal):
    mask = sliding_window_mask(n, window, is_causal=is_causal)
    assert complexity.window_pairs(n, window, is_causal=is_causal) == mask.sum()


@modest
@given(st.integers(1, 300), st.integers(0, 120), st.booleans())
def test_a_window_counts_the_pairs_that_matter_and_padding_comes_on_top(n, window, is_causal):
    sizes = {"batch": 2, "num_heads": 3, "n": n, "d_k": 5, "window": window, "is_causal": is_causal}
    price = complexity.cost("sliding-window-attention", **sizes)
    q = torch.ones(2, 3, n, 5)

    def attend(q, k, v):
        return sliding_window_attention(q, k, v, window, is_causal=is_causal)

    with sdpa_kernel(SDPBackend.MATH):
        assert price.done_flops == counted(lambda: attend(q, q, q))
    pairs = sliding_window_mask(n, window, is_causal=is_causal).sum()
    assert price.flops == 4 * 2 * 3 * 5 * pairs <= price.done_flops
    assert 2 * price.training_flops == 7 * price.flops


@pytest.mark.parametrize("mechanism", complexity.mechanisms())
def test_terms_add_up_and_every_size_stands_in_the_cost(mechanism):
    special = {
        "d_model": 12,
        "height": 12,
        "width": 12,
        "kernel_size": 5,
    }  # two channels for each of six heads
    sizes = {
        name: special.get(name, 6) if parameter.default is parameter.empty else parameter.default
        for name, parameter in complexity.mechanisms()[mechanism].parameters.items()
    }
    price = complexity.cost(mechanism, **sizes)
    assert price.mechanism == mechanism
    given = {name: size for name, size in sizes.items() if size is not None}
    assert price.sizes.keys() == sizes.keys() and given.items() <= price.sizes.items()
    assert None not in price.sizes.values()
    assert price.flops == sum(price.terms.values()) and all(price.terms.values())
    assert price.elementwise == sum(price.elementwise_terms.values()) and all(
        price.elementwise_terms.values()
    )
    assert price.bytes_moved == sum(price.moved_terms.values()) and all(price.moved_terms.values())
    in_kernel = {name for name in price.terms if name.endswith(("scores", "weighted sum"))}
    assert price.terms.keys() - in_kernel <= price.moved_terms.keys()
    assert price.bytes_moved < price.bytes_moved_training <= 3 * price.bytes_moved
    half = complexity.cost(mechanism, **{**sizes, "dtype": "bfloat16"})
    assert half.flops == price.flops and half.bytes_moved < price.bytes_moved <= 2 * half.bytes_moved
    assert complexity.cost(mechanism, **price.sizes) == price
    assert type(price.flops) is type(price.elementwise) is type(price.parameters) is int
    with pytest.raises(AttributeError):
        price.flops = 0


def test_elementwise_work_by_hand():
    # 2 sequences of 3 tokens, width 4, 2 heads: 4 projections with a bias each, 24 scaled queries, 36 scores.
    price = complexity.cost("multi-head-attention", batch=2, n_q=3, d_model=4, num_heads=2)
    assert price.elementwise == 4 * 24 + 24 + 5 * 36
    # 2 maps of 3 channels and 20 places, 1 hidden unit.
    price = complexity.cost("cbam", batch=2, channels=3, height=4, width=5)
    assert price.elementwise == (2 * 120 + 2 * 2 + 5 * 6 + 120) + (2 * 120 + 4 * 40 + 120)
    # The relatives pool once: a hidden unit and 3 channels with biases; 3 channels without.
    image = {"batch": 2, "channels": 3, "height": 4, "width": 5}
    squeeze = complexity.cost("squeeze-and-excitation", **image)
    assert squeeze.elementwise == 120 + 2 * (1 + 3) + 2 * 1 + 4 * 6 + 120
    efficient = complexity.cost("efficient-channel-attention", **image)
    assert efficient.elementwise == 120 + 4 * 6 + 120 and efficient.sizes["kernel_size"] == 1


def test_the_price_of_efficient_channel_attention_assumes_the_kernel_that_the_module_takes():
    image = {"batch": 1, "height": 1, "width": 1}
    for channels in (1, 2, 3, 4, 7, 8, 31, 32, 127, 128, 2047, 2048):
        price = complexity.cost("efficient-channel-attention", channels=channels, **image)
        assert price.sizes["kernel_size"] == EfficientChannelAttention(channels).conv.kernel_size[0]


@pytest.mark.parametrize("mechanism", ["cbam", "spatial-attention", "efficient-channel-attention"])
def test_an_even_kernel_has_no_price(mechanism):
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        complexity.cost(mechanism, batch=1, channels=8, height=5, width=7, kernel_size=4)


class _Arithmetic(TorchDispatchMode):
    """Counts the elements that additions, multiplications and the like give."""

    NAMES = ("add", "sub", "mul", "div", "neg", "abs")

    def __init__(self, *names):
        super().__init__()
        self.names = names or self.NAMES
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__.rstrip("_") in self.names:
            self.elements += out.numel()
        return out


@pytest.mark.parametrize(
    ("mechanism", "times"),
    [("sinusoidal-encoding", 1), ("learned-encoding", 1), ("rotary-embedding", 2), ("alibi-bias", 1)],
)
def test_elementwise_work_of_positions_is_what_the_modules_do(mechanism, times):
    sizes, build = MODULES[mechanism]

    @modest
    @given(sizes)
    def holds(sizes):
        module, inputs = build(**sizes)
        module, inputs = module.to("cpu"), [torch.ones_like(x, device="cpu") for x in inputs]
        module(*inputs)  # fills the cache
        with _Arithmetic() as arithmetic:
            for _ in range(times):  # rotary turns queries and keys
                module(*inputs)
        assert complexity.cost(mechanism, **sizes).elementwise == arithmetic.elements

    holds()


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_adds_a_bias_to_the_scores_once(need_weights):
    q = torch.ones(3, 2, 11, 5)

    def added(bias):
        with _Arithmetic("add") as arithmetic:
            scaled_dot_product_attention(q, q, q, bias=bias, need_weights=need_weights)
        return arithmetic.elements

    price = complexity.cost("alibi-bias", batch=3, n=11, num_heads=2)
    expected = price.elementwise_terms["add"] if need_weights else 0  # the kernel's own work is not seen
    assert added(alibi_bias(2, 11)) - added(None) == expected


def test_table_bytes_are_those_of_the_tensors():
    def of(mechanism, **sizes):
        return complexity.cost(mechanism, **sizes).table_bytes

    sinusoids = PositionalEncoding(13, max_len=31)
    assert of("sinusoidal-encoding", batch=2, n=7, d_model=13, max_len=31) == sinusoids.pe.nbytes
    assert of("sinusoidal-encoding", batch=2, n=7, d_model=13) == PositionalEncoding(13, 7).pe.nbytes
    assert of("learned-encoding", batch=2, n=7, d_model=13, max_len=31) == 0
    turn = RotaryEmbedding(10)
    turn(torch.zeros(2, 3, 7, 10))
    assert of("rotary-embedding", batch=2, n=7, d_model=30, num_heads=3) == turn.cache.nbytes
    assert of("alibi-bias", batch=2, n=7, num_heads=3) == alibi_bias(3, 7).nbytes
    assert of("multi-head-attention", batch=2, n_q=7, d_model=30, num_heads=3) == 0


@pytest.mark.parametrize(
    ("mechanism", "sizes", "message"),
    [
        ("sinusoidal-encoding", {"d_model": 6, "max_len": 4}, "n must be at most max_len = 4, got 5"),
        ("learned-encoding", {"d_model": 6, "max_len": 4}, "n must be at most max_len = 4, got 5"),
        ("rotary-embedding", {"d_model": 6, "num_heads": 2}, "even, got d_model = 6 and num_heads = 2"),
        ("rotary-embedding", {"d_model": 6, "num_heads": 4}, "num_heads must divide d_model"),
    ],
)
def test_positions_refuse_what_the_modules_would_refuse(mechanism, sizes, message):
    with pytest.raises(ValueError, match=message):
        complexity.cost(mechanism, batch=1, n=5, **sizes)


# --- Peak memory, against the allocation events of torch's profiler ------------------------------------------


def image_sizes(*sizes, names=("batch", "channels", "height", "width")):
    return [dict(zip(names, size, strict=True)) for size in sizes]


TOKENS = ("batch", "n_q", "n_k", "d_model", "num_heads", "num_kv_heads")
CONVOLUTION = ("batch", "in_channels", "out_channels", "height", "width", "kernel_size")
# Sizes on both sides of every threshold: of the modules, of torch's kernels, of oneDNN's.
PEAKS = {
    "multi-head-attention": image_sizes(
        (2, 700, 700, 256, 4, 4),
        (1, 900, 1300, 256, 8, 8),
        (3, 1300, 700, 128, 1, 1),
        (2, 300, 300, 1024, 2, 2),
        (4, 600, 600, 256, 8, 2),
        (1, 1000, 1000, 256, 8, 1),
        (5, 7, 1500, 512, 2, 2),
        (1, 3100, 7, 510, 2, 2),
        names=TOKENS,
    ),
    "transformer-block": image_sizes(
        (2, 500, 256, 4, 1024, 4),
        (3, 300, 512, 8, 700, 2),
        names=("batch", "n", "d_model", "num_heads", "d_ff", "num_kv_heads"),
    ),
    "convolution": [
        *image_sizes(
            (4, 3, 64, 120, 120, 3),
            (1, 64, 96, 170, 150, 3),
            (8, 60, 100, 60, 50, 3),
            (8, 17, 33, 90, 110, 5),
            (20, 64, 64, 40, 50, 1),
            (9, 64, 64, 90, 90, 1),
            (6, 15, 20, 150, 150, 3),
            (2, 2, 1, 600, 300, 7),
            (1, 256, 512, 60, 40, 3),
            names=CONVOLUTION,
        ),
        {**image_sizes((8, 48, 64, 91, 93, 3), names=CONVOLUTION)[0], "stride": 2, "bias": False},
        {**image_sizes((4, 13, 64, 110, 90, 5), names=CONVOLUTION)[0], "padding": 0},
        {**image_sizes((4, 32, 64, 80, 80, 3), names=CONVOLUTION)[0], "dtype": "float64"},
    ],
    "channel-attention": image_sizes((8, 256, 53, 51), (61, 1024, 11, 11)),
    "spatial-attention": image_sizes((8, 256, 53, 51), (4, 8, 256, 250)),
    "cbam": image_sizes((8, 256, 53, 51), (4, 8, 256, 250), (61, 1024, 11, 11)),
    "self-attention-2d": image_sizes((40, 64, 13, 15), (8, 128, 40, 40), (2, 256, 48, 62), (97, 64, 23, 13)),
    "attention-cnn": image_sizes(
        (8, 33, 47), (1, 150, 130), (1, 224, 224), names=("batch", "height", "width")
    ),
    "hybrid": [
        *({**sizes, "num_classes": 10} for sizes in image_sizes((3, 3, 31, 33), (1, 5, 150, 130))),
        {**image_sizes((1, 3, 224, 224))[0], "num_classes": 7, "positions": False},
        {
            **image_sizes((61, 1, 40, 56))[0],
            "num_classes": 7,
            "embed_dim": 64,
            "depth": 2,
            "num_heads": 4,
            "grid_height": 5,
            "grid_width": 7,
        },
    ],
    "sliding-window-attention": image_sizes(
        (1, 8, 4096, 64, 128),
        (4, 8, 1000, 64, 300),
        (24, 8, 200, 64, 100),
        (1, 8, 8192, 64, 7),
        names=("batch", "num_heads", "n", "d_k", "window"),
    ),
}


def peak_case(mechanism, *, fused=False, dtype="float32", **sizes):
    """What runs a mechanism on its inputs, whose modules, and the inputs."""
    if mechanism == "sliding-window-attention":
        window = sizes["window"]
        q = torch.randn(sizes["batch"], sizes["num_heads"], sizes["n"], sizes["d_k"])
        return (
            nn.Module(),
            lambda q, k, v: sliding_window_attention(q, k, v, window),
            [q, q.clone(), q.clone()],
        )
    if mechanism == "transformer-block":
        module = TransformerBlock(
            sizes["d_model"],
            sizes["num_heads"],
            sizes["d_ff"],
            dropout=0.0,
            num_kv_heads=sizes["num_kv_heads"],
        )
        shapes, run = (
            [(sizes["batch"], sizes["n"], sizes["d_model"])],
            lambda x: module(x, need_weights=not fused),
        )
    elif mechanism == "multi-head-attention":
        module, (queries, keys, _) = attention(**sizes)
        shapes = [queries.shape] if queries.shape == keys.shape else [queries.shape, keys.shape]

        def run(q, k=None):
            k = q if k is None else k
            return module(q, k, k, need_weights=not fused)

    else:
        defaults = {"reduction": 16, "kernel_size": 7}
        wanted = {
            "channel-attention": ("reduction",),
            "spatial-attention": ("kernel_size",),
            "cbam": tuple(defaults),
        }
        chosen = {name: defaults[name] for name in wanted.get(mechanism, ())}
        module, inputs = MODULES[mechanism][1](**sizes, **chosen)
        shapes, run = [x.shape for x in inputs], lambda x: module(x)
        for part in module.modules():
            if isinstance(part, SelfAttention2D):
                nn.init.constant_(part.gamma, 0.5)
    kind = getattr(torch, dtype)
    return module.to(kind), run, [torch.randn(*shape, dtype=kind) for shape in shapes]


def measured_peaks(mechanism, **sizes):
    """Peak bytes in inference and in training."""
    module, run, inputs = peak_case(mechanism, **sizes)

    def inference():
        with torch.no_grad():
            return run(*inputs)

    def training():
        entries = [x.detach().requires_grad_() for x in inputs]
        results = run(*entries)
        output = results[0] if isinstance(results, tuple) else results
        del results
        output.backward(gradient)
        gradients = [parameter.grad for parameter in module.parameters()]
        module.zero_grad(set_to_none=True)
        return output, entries, gradients

    module.eval()
    results = inference()
    gradient = torch.ones_like(results[0] if isinstance(results, tuple) else results)
    del results
    found = peak_bytes(inference)
    module.train()
    return found, peak_bytes(training)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


WITH_KERNEL = ("multi-head-attention", "transformer-block")
PEAK_CASES = [(mechanism, sizes) for mechanism, cases in PEAKS.items() for sizes in cases]
PEAK_CASES += [
    (mechanism, {**sizes, "fused": True}) for mechanism, sizes in PEAK_CASES if mechanism in WITH_KERNEL
]


@pytest.mark.parametrize(("mechanism", "sizes"), PEAK_CASES)
def test_peak_memory_is_the_measured_one(mechanism, sizes, one_thread):
    price = complexity.cost(mechanism, **sizes)
    inference, training = measured_peaks(mechanism, **sizes)
    assert price.peak_bytes == pytest.approx(inference, rel=0.02, abs=2**16)
    assert price.peak_bytes_training == pytest.approx(training, rel=0.02, abs=2**16)
    assert price.peak_bytes_training > 2**24 or "fused" in sizes


def test_peak_memory_in_bfloat16_is_the_measured_one(one_thread):
    sizes = {"batch": 3, "n_q": 900, "n_k": 1100, "d_model": 256, "num_heads": 4, "num_kv_heads": 4}
    measured, _ = measured_peaks("multi-head-attention", **sizes, dtype="bfloat16")
    predicted = complexity.cost("multi-head-attention", **sizes, dtype="bfloat16").peak_bytes
    assert predicted > 2**24
    assert measured == pytest.approx(predicted, rel=0.02)


def test_the_cost_model_knows_the_thresholds_of_the_modules():
    from attn_course.complexity import cnn, window

    assert (cnn.PIECE_BYTES, cnn.KEEP_BYTES) == (cnn_module._PIECE_BYTES, cnn_module._KEEP_BYTES)
    assert cnn.FUSE_ELEMENTS == cnn_module._FUSE_ELEMENTS
    assert (window.BLOCK, window.ROWS) == (window_module._BLOCK, window_module._ROWS)


# --- Traffic and the roofline --------------------------------------------------------------------------------


def test_traffic_by_hand():
    # 2 sequences of 3 tokens, width 4, 2 heads: 24 elements a table, 36 pairs, 4 projections of 20 parameters.
    sizes = {"batch": 2, "n_q": 3, "d_model": 4, "num_heads": 2}
    moved = complexity.cost("multi-head-attention", **sizes).moved_terms
    assert moved == {
        "projections": 4 * 4 * (24 + 20 + 24),
        "scale": 4 * (24 + 24),
        "scores": 4 * (24 + 24 + 36),
        "softmax": 4 * (36 + 36),
        "weighted sum": 4 * (36 + 24 + 24),
    }
    fused = complexity.cost("multi-head-attention", **sizes, fused=True, dtype="float16")
    assert fused.moved_terms == {"projections": 2 * 4 * (24 + 20 + 24), "fused attention": 2 * 4 * 24}
    assert fused.bytes_moved_training == 3 * fused.bytes_moved
    # 6 tokens of a cache of 7: one is projected, all are read, 2 heads on 1.
    cached = complexity.cost(
        "multi-head-attention", batch=1, n_q=1, cached=6, d_model=4, num_heads=2, num_kv_heads=1
    )
    assert cached.moved_terms["projections"] == 4 * (4 * 4 + 2 * (4 + 2) + 2 * 20 + 2 * 10)
    assert cached.moved_terms["scores"] == 4 * (4 + 7 * 2 + 2 * 7)
    # An image of 2 channels and 5 x 7 places to 3 channels.
    image = {"batch": 1, "in_channels": 2, "out_channels": 3, "height": 5, "width": 7, "kernel_size": 3}
    assert complexity.cost("convolution", **image).bytes_moved == 4 * (70 + 3 * 18 + 3 + 105)


@pytest.mark.parametrize("training", [False, True])
def test_the_roofline_is_the_slower_of_arithmetic_and_memory(training):
    machine = complexity.Hardware("a machine", peak_flops=2e9, bandwidth=5e8)
    sizes = {"batch": 1, "d_model": 64, "num_heads": 4, "fused": True}
    prefill = complexity.cost("multi-head-attention", n_q=256, **sizes)
    decoding = complexity.cost("multi-head-attention", n_q=1, cached=255, **sizes)
    for price, bound in ((prefill, "compute"), (decoding, "bandwidth")):
        roof = price.roofline(machine, training=training)
        assert roof.bound == bound
        assert roof.compute_s == (price.training_flops if training else price.flops) / 2e9
        assert roof.bandwidth_s == (price.bytes_moved_training if training else price.bytes_moved) / 5e8
        assert roof.seconds == max(roof.compute_s, roof.bandwidth_s)
        assert (price.intensity > 2e9 / 5e8) == (bound == "compute")
    with pytest.raises(ValueError, match="bandwidth must be above 0, got 0"):
        complexity.Hardware("nothing", 1.0, 0)


def test_the_cache_of_a_known_model_by_hand():
    # 80 layers, 64 heads on 8, width 128: 2 * 80 * 8 * 128 numbers of 2 bytes for each token.
    sizes = {"layers": 80, "d_model": 8192, "num_heads": 64, "num_kv_heads": 8, "dtype": "bfloat16"}
    assert complexity.key_value_cache_bytes(n=1, **sizes) == 327_680
    assert complexity.key_value_cache_bytes(n=4096, batch=3, **sizes) == 3 * 4096 * 327_680
    with pytest.raises(
        ValueError, match="num_kv_heads must divide num_heads, got num_heads = 64 and num_kv_heads = 5"
    ):
        complexity.key_value_cache_bytes(n=1, **{**sizes, "num_kv_heads": 5})


def test_score_bytes_at_the_size_that_does_not_fit():
    assert complexity.score_bytes(1, 1, 224 * 224, 224 * 224) == 4 * 50176**2
    assert complexity.score_bytes(2, 3, 5, 7, "bfloat16") == 2 * 2 * 3 * 5 * 7
    with pytest.raises(ValueError, match="n_q must be a whole number of at least 1, got 0"):
        complexity.score_bytes(2, 3, 0, 7)


def puts_exact_counts_beside_the_leading_terms(comparison):
    found = comparison()
    assert (found["transformer"], found["spatial"], found["channel"]) == (134_217_728, 50_176, 256)
    exact = {"transformer_flops": 1_610_612_736, "spatial_flops": 9_834_496, "channel_flops": 32_768}
    return exact.items() <= found.items()


def test_the_comparison_keeps_its_keys_and_adds_exact_counts_unlike_the_textbook_form(capsys):
    assert puts_exact_counts_beside_the_leading_terms(attention_complexity_comparison)
    printed = capsys.readouterr().out
    assert "Leading terms, which cannot be compared" in printed
    for number in ("134,217,728", "50,176", "1,610,612,736", "9,834,496", "32,768"):
        assert number in printed
    assert not puts_exact_counts_beside_the_leading_terms(textbook.attention_complexity_comparison)


def test_elementwise_work_stands_apart_and_is_most_of_cnn_attention():
    found = attention_complexity_comparison()
    assert found["transformer_elementwise"] < found["transformer_flops"] / 100
    assert found["spatial_elementwise"] > found["spatial_flops"]
    assert found["channel_elementwise"] > 1000 * found["channel_flops"]


def test_an_unknown_mechanism_is_answered_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"unknown mechanism .attention.; known: multi-head-attention, .*cbam"
    ):
        complexity.cost("attention")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch": 1, "channel": 2}, "cbam has no size channel; it has batch: int, channels: int, height"),
        ({"batch": 1, "width": 2}, "cbam needs channels, height as well; it has batch"),
        ({"batch": 0, "channels": 1, "height": 1, "width": 1}, "batch must be .* at least 1, got 0"),
        ({"batch": 1.0, "channels": 1, "height": 1, "width": 1}, "batch must be a whole number"),
        ({"batch": True, "channels": 1, "height": 1, "width": 1}, "batch must be a whole number"),
        ({"batch": None, "channels": 1, "height": 1, "width": 1}, "batch must be a whole number"),
        (
            {"batch": 1, "channels": 1, "height": 1, "width": 1, "kernel_size": 4},
            "kernel_size must be odd, got 4",
        ),
    ],
)
def test_a_wrong_size_is_named_with_what_is_expected(sizes, message):
    with pytest.raises(ValueError, match=message):
        complexity.cost("cbam", **sizes)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_heads": 3}, "num_heads must divide d_model, got d_model = 8 and num_heads = 3"),
        ({"num_heads": 2, "dtype": "int8"}, "unknown dtype 'int8'; known: float64, float32"),
        ({"num_heads": 2, "fused": 1}, "fused must be True or False, got 1"),
        ({"num_heads": 2, "n_k": 0}, "n_k must be a whole number"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads must divide num_heads, got num_heads = 4"),
        ({"num_heads": 2, "n_k": 7, "cached": 7}, "cached must be below n_k = 7, got 7"),
    ],
)
def test_attention_refuses_what_the_module_would_refuse(sizes, message):
    with pytest.raises(ValueError, match=message):
        complexity.cost("multi-head-attention", batch=1, n_q=5, d_model=8, **sizes)


@pytest.mark.parametrize(
    ("mechanism", "sizes", "message"),
    [
        ("convolution", {"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ("convolution", {"kernel_size": 9, "padding": 0}, "at most height and width .* got 9 for 5 x 7"),
        ("convolution", {"kernel_size": 3, "padding": -1}, "padding must be a whole number of at least 0"),
        ("attention-cnn", {}, "height and width must be at least 8, got 5 x 7"),
    ],
)
def test_what_a_network_would_refuse_has_no_price(mechanism, sizes, message):
    channels = {"in_channels": 2, "out_channels": 3} if mechanism == "convolution" else {}
    with pytest.raises(ValueError, match=message):
        complexity.cost(mechanism, batch=1, height=5, width=7, **channels, **sizes)


def test_complexity_imports_no_torch_and_nothing_of_the_package():
    code = (
        "import sys, attn_course.complexity as c; "
        "c.cost('cbam', batch=1, channels=3, height=5, width=7); "
        "print([m for m in sys.modules if m in ('torch', 'numpy') or m.startswith('attn_course.')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = ast.literal_eval(ran.stdout)
    assert found and all(name.split(".")[:2] == ["attn_course", "complexity"] for name in found)
