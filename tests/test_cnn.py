"""Attention in CNNs, against the usual code of `textbook.py` and against what the docstrings promise."""

import copy
import inspect
import io
import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from attn_course import cnn, textbook


class SqueezeExcitation(nn.Module):
    """The definition, one call after the other."""

    def __init__(self, in_channels, reduction_ratio=16):
        super().__init__()
        hidden = max(1, in_channels // reduction_ratio)
        self.fc = nn.Sequential(nn.Linear(in_channels, hidden), nn.ReLU(), nn.Linear(hidden, in_channels))

    def forward(self, x):
        return x * torch.sigmoid(self.fc(x.flatten(2).mean(2)))[..., None, None]


class EfficientChannelAttention(nn.Module):
    """The definition as a product with a band matrix, which shares one kernel among its rows."""

    def __init__(self, in_channels, kernel_size=None):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size or 3, bias=False)

    def forward(self, x):
        kernel = self.conv.weight.flatten()
        channels = x.shape[1]
        places = torch.arange(channels)
        offset = places - places[:, None] + len(kernel) // 2  # which number of the kernel, if any
        band = sum(w * (offset == i).to(x.dtype) for i, w in enumerate(kernel))
        return x * torch.sigmoid(x.mean((2, 3)) @ band.T)[..., None, None]


# Where the document has no such module, the definition above stands in its place.
PEERS = SimpleNamespace(
    **{name: getattr(textbook, name) for name in textbook.__dict__ if not name.startswith("_")}
    | {"SqueezeExcitation": SqueezeExcitation, "EfficientChannelAttention": EfficientChannelAttention}
)

# name -> (how to build it, the shape of its input); sizes are different primes wherever the module allows it.
CASES = {
    "ChannelAttention": (lambda m: m.ChannelAttention(19, 3), (2, 19, 5, 7)),
    "SqueezeExcitation": (lambda m: m.SqueezeExcitation(19, 3), (2, 19, 5, 7)),
    "EfficientChannelAttention": (lambda m: m.EfficientChannelAttention(19, 5), (2, 19, 5, 7)),
    "SpatialAttention": (lambda m: m.SpatialAttention(3), (2, 11, 5, 7)),
    "CBAM": (lambda m: m.CBAM(19, 3, 5), (2, 19, 5, 7)),
    "SelfAttention2D": (lambda m: m.SelfAttention2D(17), (3, 17, 5, 7)),
    "AttentionCNN": (lambda m: m.AttentionCNN(3), (2, 3, 8, 11)),
}
BLOCKS = [name for name in CASES if name != "AttentionCNN"]
every_module = pytest.mark.parametrize("name", CASES)
every_block = pytest.mark.parametrize("name", BLOCKS)


@pytest.fixture
def by_hand(monkeypatch):
    """The paths for large maps, taken by small ones too: pieces of few rows, backward passes written by hand."""
    monkeypatch.setattr(cnn, "_PIECE_BYTES", 2000)
    monkeypatch.setattr(cnn, "_KEEP_BYTES", 0)
    monkeypatch.setattr(cnn, "_FUSE_ELEMENTS", 0)


@pytest.fixture(params=["as it comes", "by hand"])
def both_paths(request):
    if request.param == "by hand":
        request.getfixturevalue("by_hand")


def build(name, dtype=torch.float64, seed=0):
    """(ours, the textbook's, an input): same weights, gamma switched on."""
    torch.manual_seed(seed)
    make, shape = CASES[name]
    theirs = make(PEERS).to(dtype)
    for key, parameter in theirs.named_parameters():
        if key.endswith("gamma"):
            nn.init.constant_(parameter, 0.7)
    ours = make(cnn).to(dtype)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs, torch.randn(shape, dtype=dtype)


def gradients(module, x, out_grad_seed=1):
    x = x.detach().clone().requires_grad_()
    output = module(x)
    torch.manual_seed(out_grad_seed)
    inputs = [x, *module.parameters()]
    return output, torch.autograd.grad(output, inputs, torch.randn(output.shape, dtype=output.dtype))


def peak_bytes(call):
    """The most bytes that were alive at one time among those that `call` allocated."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    del result
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


# --- The same module as the usual one -----------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CASES])
def test_the_signature_keeps_the_documents_arguments_and_defaults_and_adds_keywords_only(name):
    def parameters(function):
        return list(inspect.signature(function).parameters.values())

    for method in ("__init__", "forward"):
        ours = parameters(getattr(getattr(cnn, name), method))
        theirs = parameters(getattr(getattr(PEERS, name), method))
        assert [(p.name, p.default, p.kind) for p in ours[: len(theirs)]] == [
            (p.name, p.default, p.kind) for p in theirs
        ]
        assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


@pytest.mark.parametrize(
    "make",
    [
        lambda m: m.ChannelAttention(32),
        lambda m: m.SpatialAttention(),
        lambda m: m.CBAM(32),
        lambda m: m.SelfAttention2D(16),
        lambda m: m.AttentionCNN(),
    ],
)
def test_state_dicts_load_strictly_in_both_directions(make):
    ours, theirs = make(cnn), make(textbook)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(make(cnn).state_dict(), strict=True)


@every_module
def test_inference_gives_the_same_numbers_as_the_usual_code(name, both_paths):
    ours, theirs, x = build(name)
    ours.eval(), theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


@every_module
def test_training_gives_the_same_numbers_and_gradients_as_the_usual_code(name, both_paths):
    ours, theirs, x = build(name)
    output, grads = gradients(ours, x)
    expected_output, expected_grads = gradients(theirs, x)
    torch.testing.assert_close(output, expected_output, rtol=1e-12, atol=1e-12)
    for got, expected in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["ChannelAttention", "SpatialAttention", "CBAM"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_at_ties_of_the_maximum_the_gradient_goes_where_the_usual_code_sends_it(name, layout, both_paths):
    ours, theirs, x = build(name)
    tied = (
        x.round().clamp(-1, 1).contiguous(memory_format=layout)
    )  # three values: ties in every row and column
    assert ((tied == tied.amax((2, 3), keepdim=True)).sum((2, 3)) > 1).all()
    for got, expected in zip(gradients(ours, tied)[1], gradients(theirs, tied)[1], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


@every_block
def test_gradients_agree_with_finite_differences(name, by_hand):
    ours, _, x = build(name)
    x = x[:2, :, :3, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(ours, x, fast_mode=True)


@every_block
def test_second_derivatives_agree_with_finite_differences(name, by_hand):
    ours, _, x = build(name)
    x = x[:2, :, :3, :4].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(ours, x, fast_mode=True)


@every_module
def test_a_module_used_twice_in_one_graph_adds_both_gradients(name, both_paths):
    ours, theirs, x = build(name)

    def twice(module):
        return lambda x: module(x) + module(2 * x)

    first, second = twice(ours), twice(theirs)
    first.parameters, second.parameters = ours.parameters, theirs.parameters
    for got, expected in zip(gradients(first, x)[1], gradients(second, x)[1], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@every_block
def test_a_loss_on_the_weights_alone_has_the_gradient_of_the_plain_formula(name, by_hand, monkeypatch):
    ours, _, x = build(name)

    def grads():
        leaf = x.clone().requires_grad_()
        weights = ours(leaf, need_weights=True)[1]
        weights = weights if isinstance(weights, tuple) else (weights,)
        return torch.autograd.grad(sum(w.square().sum() for w in weights), leaf)[0]

    fused = grads()
    monkeypatch.setattr(cnn, "_FUSE_ELEMENTS", 10**9)
    monkeypatch.setattr(cnn, "_KEEP_BYTES", 10**9)
    torch.testing.assert_close(fused, grads(), rtol=1e-11, atol=1e-12)


@every_block
@pytest.mark.parametrize("trained", ["input", "one parameter"])
def test_partly_frozen_modules_have_the_usual_gradients(name, trained, both_paths):
    ours, theirs, x = build(name)
    results = []
    for module in (ours, theirs):
        module.requires_grad_(False)
        leaf = x.clone()
        wanted = leaf if trained == "input" else next(module.parameters())
        wanted.requires_grad_()
        results.append(torch.autograd.grad(module(leaf).square().sum(), wanted)[0])
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)


def test_the_example_prints_its_shapes_and_returns_the_logits(capsys, monkeypatch):
    monkeypatch.setattr(
        torch, "randn", lambda *shape: torch.zeros(1).expand(*shape)
    )  # no need to be random here
    output = cnn.cnn_attention_example()
    assert output.shape == (4, 1000)
    assert capsys.readouterr().out == (
        "Input shape: torch.Size([4, 3, 224, 224])\nOutput shape: torch.Size([4, 1000])\n"
    )


# --- The maps, taken out ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ChannelAttention", "SqueezeExcitation", "EfficientChannelAttention"])
def test_channel_weights_are_what_the_channels_were_multiplied_by(name, both_paths):
    ours, _, x = build(name)
    output, weights = ours(x, need_weights=True)
    assert weights.shape == (2, 19, 1, 1)
    torch.testing.assert_close(output, x * weights)
    torch.testing.assert_close(output, ours(x))


def test_spatial_weights_are_what_the_pixels_were_multiplied_by(both_paths):
    ours, _, x = build("SpatialAttention")
    output, weights = ours(x, need_weights=True)
    assert weights.shape == (2, 1, 5, 7)
    torch.testing.assert_close(output, x * weights)
    torch.testing.assert_close(output, ours(x))


@pytest.mark.parametrize("grad", [True, False])
def test_cbam_returns_both_weights_and_the_spatial_ones_belong_to_the_refined_map(grad, both_paths):
    ours, _, x = build("CBAM")
    with torch.set_grad_enabled(grad):
        output, (channel, spatial) = ours(x, need_weights=True)
    assert channel.shape == (2, 19, 1, 1) and spatial.shape == (2, 1, 5, 7)
    torch.testing.assert_close(output, x * channel * spatial)
    torch.testing.assert_close(spatial, ours.spatial_attention(x * channel, need_weights=True)[1])
    torch.testing.assert_close(output, ours(x))


@pytest.mark.parametrize("grad", [True, False])
def test_self_attention_weights_mix_the_values_of_all_pixels(grad, both_paths):
    ours, _, x = build("SelfAttention2D")
    with torch.set_grad_enabled(grad):
        output, weights = ours(x, need_weights=True)
    assert weights.shape == (3, 35, 35)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 35, dtype=x.dtype))
    mixed = torch.einsum("bqk,bck->bcq", weights, ours.value_conv(x).flatten(2)).view_as(x)
    torch.testing.assert_close(output, x + 0.7 * mixed)
    torch.testing.assert_close(output, ours(x))


def test_the_network_returns_the_weights_of_each_of_its_attention_modules():
    ours, theirs, x = build("AttentionCNN")
    logits, weights = ours(x, need_weights=True)
    assert list(weights) == ["cbam1", "cbam2", "self_attention"]
    assert [w.shape for w in weights["cbam1"]] == [(2, 64, 1, 1), (2, 1, 8, 11)]
    assert [w.shape for w in weights["cbam2"]] == [(2, 128, 1, 1), (2, 1, 4, 5)]
    assert weights["self_attention"].shape == (2, 4, 4)
    torch.testing.assert_close(logits, theirs(x))


# --- What the usual code gets wrong: one check, passed by the package and failed by the textbook -------------


def check_a_narrow_channel_attention_looks_at_its_input(module):
    torch.manual_seed(0)
    attention = module.ChannelAttention(8)
    x = torch.randn(2, 8, 5, 7)
    gates = attention(x) / x
    assert not torch.allclose(gates, torch.full_like(gates, 0.5))


def check_a_narrow_self_attention_can_be_built_and_run(module):
    assert module.SelfAttention2D(4)(torch.randn(2, 4, 5, 7)).shape == (2, 4, 5, 7)


def check_an_even_kernel_is_refused_at_once_with_its_number(module):
    with pytest.raises(ValueError, match=r"kernel_size must be odd.*got 4, take 3 or 5"):
        module.SpatialAttention(4)


def check_a_fresh_self_attention_does_not_pay_for_the_whole_map(module):
    attention, x = module.SelfAttention2D(8).eval(), torch.randn(1, 8, 53, 59)
    map_bytes = 4 * (53 * 59) ** 2
    with torch.no_grad():
        assert peak_bytes(lambda: attention(x)) < map_bytes / 10


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    "check",
    [
        check_a_narrow_channel_attention_looks_at_its_input,
        check_a_narrow_self_attention_can_be_built_and_run,
        check_an_even_kernel_is_refused_at_once_with_its_number,
        check_a_fresh_self_attention_does_not_pay_for_the_whole_map,
    ],
)
def test_an_error_of_the_usual_code_is_mended_and_the_check_fails_on_the_usual_code(check):
    check(cnn)
    with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception)):
        check(textbook)


# --- Bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cnn.ChannelAttention(0), "in_channels must be at least 1, got 0"),
        (lambda: cnn.ChannelAttention(8, 0), "reduction_ratio must be at least 1, got 0"),
        (lambda: cnn.CBAM(8, -2), "reduction_ratio must be at least 1, got -2"),
        (lambda: cnn.CBAM(8, 2, 6), "got 6, take 5 or 7"),
        (lambda: cnn.SpatialAttention(0), "kernel_size must be at least 1, got 0"),
        (lambda: cnn.SpatialAttention(-3), "kernel_size must be at least 1, got -3"),
        (lambda: cnn.SelfAttention2D(0), "in_channels must be at least 1, got 0"),
        (lambda: cnn.AttentionCNN(0), "num_classes must be at least 1, got 0"),
    ],
)
def test_a_bad_size_is_refused_at_construction_with_its_number(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@every_module
@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (2, 3, 5, 7, 2)])
def test_an_input_of_the_wrong_rank_is_refused_with_its_shape(name, shape):
    with pytest.raises(ValueError, match=rf"{len(shape)} dimensions: .*{shape[-1]}\)"):
        build(name, torch.float32)[0](torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("ChannelAttention", 19),
        ("SqueezeExcitation", 19),
        ("EfficientChannelAttention", 19),
        ("CBAM", 19),
        ("SelfAttention2D", 17),
        ("AttentionCNN", 3),
    ],
)
def test_an_input_of_the_wrong_width_is_refused_with_both_widths(name, channels):
    with pytest.raises(ValueError, match=rf"built for {channels} channels: expected .*got \(2, 13, 11, 23\)"):
        build(name, torch.float32)[0](torch.zeros(2, 13, 11, 23))


@every_module
def test_an_empty_feature_map_is_refused_and_an_empty_batch_is_not(name):
    module, _, x = build(name, torch.float32)
    with pytest.raises(ValueError, match="H and W of at least"):
        module(x[:, :, :0])
    with torch.no_grad():
        assert module(x[:0]).shape[0] == 0


def test_spatial_attention_refuses_a_map_without_channels():
    with pytest.raises(ValueError, match="at least 1 channel"):
        cnn.SpatialAttention()(torch.zeros(2, 0, 5, 7))


def test_the_network_refuses_an_image_too_small_for_its_three_halvings():
    with pytest.raises(ValueError, match="at least 8, got 7 x 11"):
        cnn.AttentionCNN()(torch.zeros(2, 3, 7, 11))


# --- Nobody's tensors are touched ---------------------------------------------------------------------------


@every_module
@pytest.mark.parametrize("grad", [True, False])
def test_the_input_is_not_written_to_and_the_output_is_another_tensor(name, grad, both_paths):
    ours, _, x = build(name)
    before = x.clone()
    with torch.set_grad_enabled(grad):
        output = ours(x)
        kept = output.detach().clone()
        x.add_(1)
    torch.testing.assert_close(x, before + 1, rtol=0, atol=0)
    torch.testing.assert_close(output.detach(), kept, rtol=0, atol=0)


def test_a_self_attention_that_is_the_identity_returns_a_copy_and_skips_the_map_only_in_inference():
    attention, x = cnn.SelfAttention2D(16), torch.randn(2, 16, 5, 7)
    with torch.no_grad():
        output = attention(x)
    assert torch.equal(output, x) and output.data_ptr() != x.data_ptr()
    (grad,) = torch.autograd.grad(attention(x).square().sum(), attention.gamma)
    assert grad.item() != 0  # in training the map is what moves gamma off zero
    attention.requires_grad_(False)
    (grad,) = torch.autograd.grad(attention(x.requires_grad_()).sum(), x)
    assert torch.equal(grad, torch.ones_like(x))
    attention.double()
    assert attention(x.detach().double()).dtype == torch.float64


def test_a_hook_inside_cbam_keeps_what_it_saw():
    ours, _, x = build("CBAM")
    seen = {}
    ours.channel_attention.register_forward_hook(lambda module, args, output: seen.update(refined=output))
    with torch.no_grad():
        ours(x)
        torch.testing.assert_close(seen["refined"], ours.channel_attention(x), rtol=0, atol=0)


def test_cbam_with_a_step_taken_out_does_not_write_into_its_input():
    ours, _, x = build("CBAM")
    before = x.clone()
    ours.channel_attention = nn.Identity()
    with torch.no_grad():
        output = ours(x)
    assert torch.equal(x, before)
    torch.testing.assert_close(output, ours.spatial_attention(x))


def test_spatial_attention_writes_in_place_only_when_told_and_only_without_gradients():
    ours, _, x = build("SpatialAttention")
    expected = ours(x).detach()
    output = ours(x, inplace=True)  # its parameters need a gradient, so the permission is not used
    assert output.data_ptr() != x.data_ptr()
    with torch.no_grad():
        output = ours(x, inplace=True)
    assert output.data_ptr() == x.data_ptr()
    torch.testing.assert_close(x, expected)


# --- Inference is when no gradient is needed, however that came about ----------------------------------------


@pytest.mark.parametrize("how", ["no_grad", "inference_mode", "frozen"])
def test_cbam_allocates_one_feature_map_when_no_gradient_is_needed(how):
    ours, theirs, x = cnn.CBAM(64), textbook.CBAM(64), torch.randn(3, 64, 29, 31)
    if how == "frozen":
        ours.requires_grad_(False), theirs.requires_grad_(False)
    context = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "frozen": torch.enable_grad}[
        how
    ]
    with context():
        assert not ours(x).requires_grad
        assert peak_bytes(lambda: ours(x)) < 1.5 * x.nbytes
        assert peak_bytes(lambda: theirs(x)) > 2 * x.nbytes


@pytest.mark.parametrize("name", ["ChannelAttention", "SpatialAttention", "CBAM"])
def test_inference_does_not_look_for_where_the_maximum_was(name):
    ours, theirs, x = build(name)

    def operations(module):
        with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as profiler:
            module(x)
        return {event.name for event in profiler.events()}

    tracking = {"aten::max", "aten::adaptive_max_pool2d"}
    assert not operations(ours) & tracking
    assert operations(theirs) & tracking


def test_cbam_in_training_has_a_lower_peak_than_the_usual_code(by_hand):
    x, upstream = torch.randn(3, 64, 29, 31, requires_grad=True), torch.ones(3, 64, 29, 31)

    def step(module):
        return peak_bytes(lambda: torch.autograd.grad(module(x), x, upstream))

    assert step(cnn.CBAM(64)) < 0.8 * step(textbook.CBAM(64))


@pytest.fixture(scope="module")
def usual_peak_of_self_attention():
    module, x = textbook.SelfAttention2D(64), torch.randn(1, 64, 96, 96)
    with torch.no_grad():
        return peak_bytes(lambda: module(x))


@pytest.mark.parametrize("how", ["no_grad", "inference_mode", "frozen"])
def test_self_attention_in_inference_peaks_at_less_than_a_thirtieth_of_the_usual_code(
    how, usual_peak_of_self_attention
):
    module, x = cnn.SelfAttention2D(64), torch.randn(1, 64, 96, 96)
    nn.init.constant_(module.gamma, 0.7)
    module.requires_grad_(how != "frozen")
    context = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "frozen": torch.enable_grad}[
        how
    ]
    with context():
        assert peak_bytes(lambda: module(x)) <= usual_peak_of_self_attention / 30


def test_self_attention_in_training_holds_a_large_map_in_pieces():
    x = torch.randn(1, 8, 71, 73, requires_grad=True)  # a map of 107 MB

    def step(module):
        return peak_bytes(lambda: torch.autograd.grad(module(x).sum(), [x, *module.parameters()]))

    assert step(cnn.SelfAttention2D(8)) <= 0.05 * step(textbook.SelfAttention2D(8))


# --- Any data type, layout, device; copies; compilers --------------------------------------------------------


@every_module
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_data_type_comes_back_with_the_values_of_the_float64_module(name, dtype, both_paths):
    ours, _, x = build(name)
    low = copy.deepcopy(ours).to(dtype)
    tolerance = 30 * torch.finfo(dtype).eps
    with torch.no_grad():
        output = low(x.to(dtype))
        assert output.dtype == dtype
        torch.testing.assert_close(output.double(), ours(x), rtol=tolerance, atol=tolerance)
    trained = low(x.to(dtype).requires_grad_())
    assert trained.dtype == dtype
    torch.testing.assert_close(trained.double(), ours(x), rtol=tolerance, atol=tolerance)


def distance(first, second):
    return math.sqrt(
        sum((a.double() - b.double()).square().sum().item() for a, b in zip(first, second, strict=True))
    )


@every_module
def test_bfloat16_gradients_are_as_close_to_those_in_float64_as_the_usual_codes(name, both_paths):
    exact, theirs, x = build(name, torch.bfloat16)
    ours, exact = copy.deepcopy(exact), exact.double()

    def grads(module, dtype):
        leaf = x.to(dtype).requires_grad_()
        output = module(leaf)
        return torch.autograd.grad(output.square().sum(), [leaf, *module.parameters()])

    expected, usual, got = grads(exact, torch.float64), grads(theirs, x.dtype), grads(ours, x.dtype)
    assert all(g.dtype == torch.bfloat16 for g in got)
    scale = math.sqrt(sum(g.square().sum().item() for g in expected))
    assert distance(got, expected) <= 1.2 * distance(usual, expected) + 0.002 * scale


@every_module
@pytest.mark.parametrize("grad", [True, False])
def test_autocast_gives_the_data_types_and_numbers_of_the_usual_code(name, grad, both_paths):
    ours, theirs, x = build(name, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(grad):
        output, expected = ours(x), theirs(x)
    assert output.dtype == expected.dtype
    torch.testing.assert_close(output, expected, rtol=0.05, atol=0.05)
    if grad:
        exact, _, _ = build(name)
        exact_grads = torch.autograd.grad(exact(x.double()).square().sum(), list(exact.parameters()))
        got = torch.autograd.grad(output.square().sum(), list(ours.parameters()))
        usual = torch.autograd.grad(expected.square().sum(), list(theirs.parameters()))
        assert all(g.dtype == torch.float32 for g in got)
        scale = math.sqrt(sum(g.square().sum().item() for g in exact_grads))
        assert distance(got, exact_grads) <= 1.2 * distance(usual, exact_grads) + 0.002 * scale


@every_block
def test_channels_last_input_gives_the_same_numbers_and_stays_channels_last(name, both_paths):
    ours, theirs, x = build(name)
    last = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        output = ours(last)
    torch.testing.assert_close(output, ours(x), rtol=1e-11, atol=1e-12)
    if name != "SelfAttention2D":
        assert output.is_contiguous(memory_format=torch.channels_last)
    for got, expected in zip(gradients(ours, last)[1], gradients(theirs, last)[1], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


@every_block
def test_non_contiguous_input_gives_the_same_numbers_and_gradients(name, both_paths):
    ours, _, x = build(name)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    strided = torch.stack([x, -x], dim=-1)[..., 0]
    output, grads = gradients(ours, x)
    for odd in (turned, strided):
        assert not odd.is_contiguous()
        leaf = odd.detach().requires_grad_()
        with torch.no_grad():
            torch.testing.assert_close(ours(odd), output, rtol=1e-11, atol=1e-12)
        torch.manual_seed(1)
        (got,) = torch.autograd.grad(ours(leaf), leaf, torch.randn(output.shape, dtype=x.dtype))
        torch.testing.assert_close(got, grads[0], rtol=1e-11, atol=1e-12)


@every_module
@pytest.mark.parametrize("grad", [True, False])
def test_the_meta_device_gives_shapes(name, grad, both_paths):
    module = CASES[name][0](cnn).to("meta")
    x = torch.empty(CASES[name][1], device="meta", requires_grad=grad)
    with torch.set_grad_enabled(grad):
        output = module(x)
    assert output.device.type == "meta"
    assert output.shape == ((2, 3) if name == "AttentionCNN" else x.shape)
    if grad:
        output.sum().backward()
        assert x.grad.shape == x.shape


@every_module
def test_pickled_and_copied_modules_give_the_same_numbers(name):
    ours, _, x = build(name)
    stream = io.BytesIO()
    torch.save(ours, stream)
    stream.seek(0)
    copies = [pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours), torch.load(stream, weights_only=False)]
    for duplicate in copies:
        assert torch.equal(duplicate(x), ours(x))


@every_block
def test_compiled_modules_are_one_graph_and_give_the_same_numbers(name, both_paths):
    ours, theirs, x = build(name)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), theirs(x), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(compiled(x, need_weights=True)[0], theirs(x), rtol=1e-11, atol=1e-12)
    tied = x.round()
    for got, expected in zip(gradients(compiled, tied)[1], gradients(theirs, tied)[1], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


def test_the_compiled_network_is_one_graph_and_gives_the_same_numbers():
    ours, theirs, x = build("AttentionCNN")
    torch._dynamo.reset()
    with torch.no_grad():
        output = torch.compile(ours, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(output, theirs(x), rtol=1e-11, atol=1e-12)


@every_module
def test_exported_modules_take_other_batches_and_image_sizes(name):
    ours, theirs, x = build(name)
    # From 16 on: below, the network's last pooling is 1 x 1, which the exporter takes for another graph.
    batch, height, width = torch.export.Dim("B", max=64), *(torch.export.Dim(d, min=16, max=64) for d in "HW")
    example = torch.randn(2, x.shape[1], 19, 23, dtype=x.dtype)
    program = torch.export.export(
        ours.eval(), (example,), dynamic_shapes={"x": {0: batch, 2: height, 3: width}}
    )
    other = torch.randn(5, x.shape[1], 29, 17, dtype=x.dtype)
    torch.testing.assert_close(program.module()(other), theirs(other), rtol=1e-11, atol=1e-12)


@every_block
def test_gradients_of_each_sample_by_torch_func_add_up_to_the_gradient(name, by_hand):
    ours, _, x = build(name)
    parameters = dict(ours.named_parameters())

    def loss(parameters, sample):
        return torch.func.functional_call(ours, parameters, (sample.unsqueeze(0),)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    whole = torch.autograd.grad(ours(x).square().sum(), list(parameters.values()))
    for key, expected in zip(parameters, whole, strict=True):
        torch.testing.assert_close(each[key].sum(0), expected, rtol=1e-10, atol=1e-10)


@every_block
def test_a_network_made_of_the_usual_code_learns_the_same_with_ours(name, both_paths):
    ours, theirs, x = build(name)
    losses = []
    for module in (ours, theirs):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            loss = (module(x) - x.flip(0)).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert math.isclose(*losses, rel_tol=1e-11)


# --- The simpler relatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "kernel_size"), [(1, 1), (2, 1), (8, 3), (64, 3), (128, 5), (256, 5), (512, 5), (2048, 7)]
)
def test_the_kernel_along_the_channels_has_the_papers_size(channels, kernel_size):
    """Half of `log2(C) + 1`, cut to a whole number, and one more where that is even."""
    assert cnn.EfficientChannelAttention(channels).conv.weight.numel() == kernel_size


def test_squeeze_and_excitation_has_a_hidden_unit_at_any_width():
    for channels in (1, 2, 8, 15):
        assert cnn.SqueezeExcitation(channels).fc[0].out_features == 1


def test_a_channel_is_weighted_by_its_neighbours_in_the_list_and_by_no_other():
    module = cnn.EfficientChannelAttention(11, 3).double()
    x = torch.randn(1, 11, 3, 5, dtype=torch.float64)
    changed = x.clone()
    changed[:, 4] += 1
    before, after = (module(y, need_weights=True)[1].flatten() for y in (x, changed))
    assert (before != after).nonzero().flatten().tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cnn.SqueezeExcitation(0), "in_channels must be at least 1, got 0"),
        (lambda: cnn.SqueezeExcitation(8, 0), "reduction_ratio must be at least 1, got 0"),
        (lambda: cnn.EfficientChannelAttention(0), "in_channels must be at least 1, got 0"),
        (lambda: cnn.EfficientChannelAttention(8, 0), "kernel_size must be at least 1, got 0"),
        (lambda: cnn.EfficientChannelAttention(8, 4), "kernel_size must be odd.*got 4, take 3 or 5"),
    ],
)
def test_sizes_that_make_no_relative_are_refused_with_their_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["SqueezeExcitation", "EfficientChannelAttention"])
def test_a_relative_in_training_takes_no_more_memory_than_its_formula(name, both_paths):
    x, upstream = torch.randn(3, 64, 29, 31, requires_grad=True), torch.ones(3, 64, 29, 31)

    def step(module):
        module = getattr(module, name)(64)
        return peak_bytes(lambda: torch.autograd.grad(module(x), [x, *module.parameters()], upstream))

    assert step(cnn) <= 1.01 * step(PEERS)
