"""Predicted costs against torch's own counter, the modules' parameters, and measured memory."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from attn_course import attention_complexity_comparison, complexity, textbook
from attn_course.benchmark import peak_bytes
from attn_course.cnn import (
    CBAM,
    ChannelAttention,
    EfficientChannelAttention,
    SelfAttention2D,
    SpatialAttention,
    SqueezeExcitation,
)
from attn_course.positional import (
    LearnedPositionalEncoding,
    PositionalEncoding,
    RotaryEmbedding,
    alibi_bias,
)
from attn_course.transformer import MultiHeadAttention, TransformerBlock, scaled_dot_product_attention
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


def attention(batch, n_q, n_k, d_model, num_heads):
    keys = meta(batch, n_k, d_model)
    return MultiHeadAttention(d_model, num_heads), (meta(batch, n_q, d_model), keys, keys)


def block(batch, n, d_model, num_heads, d_ff):
    return TransformerBlock(d_model, num_heads, d_ff), (meta(batch, n, d_model),)


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


def counted(fn):
    with FlopCounterMode(display=False) as counter:
        fn()
    return counter.get_total_flops()


def test_every_mechanism_is_checked_against_the_counter():
    assert {*MODULES, "sliding-window-attention"} == set(complexity.mechanisms())


@pytest.mark.parametrize("mechanism", MODULES)
def test_flops_and_parameters_are_those_that_torch_counts(mechanism):
    sizes, build = MODULES[mechanism]

    @modest
    @given(sizes)
    def holds(sizes):
        module, inputs = build(**sizes)
        price = complexity.cost(mechanism, **sizes)
        assert price.parameters == sum(parameter.numel() for parameter in module.parameters())
        module = module.to("meta")
        assert price.flops == counted(lambda: module(*inputs))
        with torch.no_grad():
            assert price.flops == counted(lambda: module.eval()(*inputs))

    holds()


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


@pytest.mark.parametrize(("n", "window"), [(500, 7), (131, 60), (11, 13)])
def test_a_window_counts_the_pairs_that_matter_and_padding_comes_on_top(n, window):
    q = meta(2, 3, n, 5)
    flops = complexity.cost("sliding-window-attention", batch=2, num_heads=3, n=n, d_k=5, window=window).flops
    done = counted(lambda: sliding_window_attention(q, q, q, window))
    full = 4 * 2 * 3 * n * n * 5
    assert flops == done == full if window >= n else flops < done < 1.2 * full


@pytest.mark.parametrize("mechanism", complexity.mechanisms())
def test_terms_add_up_and_every_size_stands_in_the_cost(mechanism):
    special = {"d_model": 12}  # two channels for each of six heads
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


@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 2, "n_q": 700, "n_k": 700, "d_model": 252, "num_heads": 4},
        {"batch": 1, "n_q": 900, "n_k": 1300, "d_model": 256, "num_heads": 8},
        {"batch": 3, "n_q": 1300, "n_k": 700, "d_model": 64, "num_heads": 1},
        {"batch": 2, "n_q": 300, "n_k": 310, "d_model": 2048, "num_heads": 2},
        {"batch": 5, "n_q": 7, "n_k": 1500, "d_model": 256, "num_heads": 2},
        {"batch": 1, "n_q": 1500, "n_k": 7, "d_model": 1022, "num_heads": 2},
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fused", [False, True])
def test_peak_memory_of_attention_is_the_measured_one(sizes, dtype, fused):
    batch, d_model = sizes["batch"], sizes["d_model"]
    module = MultiHeadAttention(d_model, sizes["num_heads"]).eval().to(getattr(torch, dtype))
    q = torch.randn(batch, sizes["n_q"], d_model, dtype=getattr(torch, dtype))
    k = torch.randn(batch, sizes["n_k"], d_model, dtype=getattr(torch, dtype))
    with torch.no_grad():
        measured = peak_bytes(lambda: module(q, k, k, need_weights=not fused))
    predicted = complexity.cost("multi-head-attention", **sizes, dtype=dtype, fused=fused).peak_bytes
    # The fused kernel's working memory does not grow with the length; it shows in what is small.
    assert measured == pytest.approx(predicted, rel=0.02, abs=2**18)


def test_peak_memory_in_bfloat16_is_the_measured_one():
    sizes = {"batch": 3, "n_q": 900, "n_k": 1100, "d_model": 256, "num_heads": 4}
    module = MultiHeadAttention(256, 4).eval().to(torch.bfloat16)
    q, k = torch.randn(3, 900, 256).bfloat16(), torch.randn(3, 1100, 256).bfloat16()
    with torch.no_grad():
        measured = peak_bytes(lambda: module(q, k, k))
    predicted = complexity.cost("multi-head-attention", **sizes, dtype="bfloat16").peak_bytes
    assert predicted > 2**24
    assert measured == pytest.approx(predicted, rel=0.02)


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
    ],
)
def test_attention_refuses_what_the_module_would_refuse(sizes, message):
    with pytest.raises(ValueError, match=message):
        complexity.cost("multi-head-attention", batch=1, n_q=5, d_model=8, **sizes)


def test_complexity_imports_no_torch_and_nothing_of_the_package():
    code = (
        "import sys, attn_course.complexity as c; "
        "c.cost('cbam', batch=1, channels=3, height=5, width=7); "
        "print([m for m in sys.modules if m in ('torch', 'numpy') or m.startswith('attn_course.')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "['attn_course.complexity']"
