"""What holds for every size: properties of the CNN mechanisms, over drawn shapes, seeds and data types."""

import contextlib
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attn_course import cnn

settings.register_profile("course", max_examples=15, derandomize=True, deadline=None)
settings.load_profile("course")

side = st.integers(1, 7)
channels = st.integers(1, 20)
seeds = st.integers(0, 2**16)


@contextlib.contextmanager
def limits(**values):
    """The sizes at which `cnn` changes its way of computing, for the length of a block."""
    before = {name: getattr(cnn, name) for name in values}
    for name, value in values.items():
        setattr(cnn, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(cnn, name, value)


def by_hand(piece_bytes=600):
    return limits(_PIECE_BYTES=piece_bytes, _KEEP_BYTES=0, _FUSE_ELEMENTS=0)


@st.composite
def problems(draw, batch=None):
    """(one module of each kind, an input that fits all of them), in float64, gamma switched on."""
    torch.manual_seed(draw(seeds))
    c, shape = draw(channels), (batch or draw(st.integers(1, 4)), draw(side), draw(side))
    modules = {
        "ChannelAttention": cnn.ChannelAttention(c, draw(st.integers(1, 20))),
        "SqueezeExcitation": cnn.SqueezeExcitation(c, draw(st.integers(1, 20))),
        "EfficientChannelAttention": cnn.EfficientChannelAttention(c, draw(st.sampled_from([None, 1, 3, 7]))),
        "SpatialAttention": cnn.SpatialAttention(draw(st.sampled_from([1, 3, 5, 7]))),
        "CBAM": cnn.CBAM(c, 2, 3),
        "SelfAttention2D": cnn.SelfAttention2D(c),
    }
    nn.init.constant_(modules["SelfAttention2D"].gamma, 0.7)
    for module in modules.values():
        module.double()
    return modules, torch.randn(shape[0], c, *shape[1:], dtype=torch.float64)


def close(got, expected, tolerance=1e-11):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@given(problems(), st.booleans())
def test_gates_lie_between_zero_and_one_and_self_attention_rows_sum_to_one(problem, grad):
    modules, x = problem
    with torch.set_grad_enabled(grad), by_hand():
        channels = [
            modules[name](x, need_weights=True)[1]
            for name in ("ChannelAttention", "SqueezeExcitation", "EfficientChannelAttention")
        ]
        spatial = modules["SpatialAttention"](x, need_weights=True)[1]
        both = modules["CBAM"](x, need_weights=True)[1]
        pixels = modules["SelfAttention2D"](x, need_weights=True)[1]
    for gate in (*channels, spatial, *both):
        assert ((gate > 0) & (gate < 1)).all()
    assert (pixels >= 0).all()
    close(pixels.sum(-1), torch.ones_like(pixels[..., 0]))


@given(problems(batch=3), st.booleans())
def test_each_image_of_a_batch_is_treated_alone(problem, grad):
    modules, x = problem
    with torch.set_grad_enabled(grad), by_hand():
        for module in modules.values():
            close(module(x), torch.cat([module(image[None]) for image in x]))


@given(problems(), st.booleans(), seeds)
def test_channel_attention_follows_the_pixels_wherever_they_go(problem, grad, seed):
    modules, x = problem
    order = torch.randperm(x[0, 0].numel(), generator=torch.Generator().manual_seed(seed))

    def shuffle(x):
        return x.flatten(2)[..., order].view_as(x)

    with torch.set_grad_enabled(grad), by_hand():
        for name in ("ChannelAttention", "SqueezeExcitation", "EfficientChannelAttention"):
            close(modules[name](shuffle(x)), shuffle(modules[name](x)))


@given(problems(), st.booleans(), seeds)
def test_self_attention_follows_the_pixels_wherever_they_go(problem, grad, seed):
    modules, x = problem
    order = torch.randperm(x[0, 0].numel(), generator=torch.Generator().manual_seed(seed))

    def shuffle(x):
        return x.flatten(2)[..., order].view_as(x)

    with torch.set_grad_enabled(grad), by_hand():
        close(modules["SelfAttention2D"](shuffle(x)), shuffle(modules["SelfAttention2D"](x)))


@given(problems(), st.booleans(), seeds)
def test_channel_attention_with_permuted_weights_permutes_its_channels(problem, grad, seed):
    modules, x = problem
    module = modules["ChannelAttention"]
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(seed))
    permuted = copy.deepcopy(module)
    permuted.fc[0].weight.data = module.fc[0].weight.data[:, order]
    permuted.fc[2].weight.data = module.fc[2].weight.data[order]
    with torch.set_grad_enabled(grad), by_hand():
        close(permuted(x[:, order]), module(x)[:, order])


@given(problems(), st.booleans(), seeds)
def test_spatial_attention_does_not_care_for_the_order_of_the_channels(problem, grad, seed):
    modules, x = problem
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(seed))
    with torch.set_grad_enabled(grad), by_hand():
        output, weights = modules["SpatialAttention"](x, need_weights=True)
        shuffled_output, shuffled_weights = modules["SpatialAttention"](x[:, order], need_weights=True)
    close(shuffled_weights, weights)
    close(shuffled_output, output[:, order])


@given(problems(), st.booleans())
def test_spatial_attention_sees_no_further_than_its_kernel(problem, grad):
    modules, x = problem
    module = modules["SpatialAttention"]
    reach = module.conv.kernel_size[0] // 2
    changed = x.clone()
    changed[:, :, 0, 0] += 5
    with torch.set_grad_enabled(grad), by_hand():
        moved = (module(changed) - module(x)).abs().amax(1) > 0
    moved[:, : reach + 1, : reach + 1] = False
    assert not moved.any()


@given(problems())
def test_inference_and_training_give_the_same_output(problem):
    modules, x = problem
    for module in modules.values():
        for path in (contextlib.nullcontext, by_hand):
            with path():
                trained = module(x.clone().requires_grad_())
                with torch.no_grad():
                    close(module(x), trained.detach())
                module.requires_grad_(False)
                close(module(x), trained.detach())
                module.requires_grad_(True)


@given(problems(), st.integers(1, 20_000))
def test_self_attention_in_pieces_equals_self_attention_whole(problem, piece_bytes):
    modules, x = problem
    module = modules["SelfAttention2D"]

    def run():
        leaf = x.clone().requires_grad_()
        output = module(leaf)
        with torch.no_grad():
            inferred = module(x)
        return output, inferred, *torch.autograd.grad(output.sin().sum(), [leaf, *module.parameters()])

    whole = run()
    with by_hand(piece_bytes):
        for got, expected in zip(run(), whole, strict=True):
            close(got, expected)


@given(st.integers(1, 9), st.integers(1, 60), st.integers(1, 40_000))
def test_pieces_cover_every_query_of_every_image_once_and_fit_the_budget(batch, n, piece_bytes):
    covered = torch.zeros(batch, n)
    query = torch.zeros(batch, n, 2)
    with by_hand(piece_bytes):
        for images, rows in cnn._pieces(query):
            piece = covered[images, rows]
            piece += 1
            one_row_of_one_image = piece.numel() == 1
            assert piece.numel() * n * query.element_size() <= piece_bytes or one_row_of_one_image
    assert (covered == 1).all()


@given(problems(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.booleans())
def test_lower_precision_keeps_its_type_and_stays_near_float64(problem, dtype, grad):
    modules, x = problem
    for module in modules.values():
        with torch.no_grad():
            expected = module(x)
        low = copy.deepcopy(module).to(dtype)
        with torch.set_grad_enabled(grad), by_hand():
            output = low(x.to(dtype))
        assert output.dtype == dtype
        close(output.double(), expected, 60 * torch.finfo(dtype).eps)


@given(problems(), st.booleans())
def test_nothing_writes_into_its_input_or_parameters(problem, grad):
    modules, x = problem
    for module in modules.values():
        state = copy.deepcopy(module.state_dict())
        leaf = x.clone().requires_grad_(grad)
        with torch.set_grad_enabled(grad), by_hand():
            for need_weights in (False, True):
                output = module(leaf, need_weights=need_weights)
                output = output[0] if need_weights else output
                if grad:
                    upstream = torch.ones_like(output)
                    output.backward(upstream)
                    assert (upstream == 1).all()
        assert torch.equal(leaf, x)
        for key, value in module.state_dict().items():
            assert torch.equal(value, state[key])


@pytest.mark.parametrize(
    "name",
    [
        "ChannelAttention",
        "SqueezeExcitation",
        "EfficientChannelAttention",
        "SpatialAttention",
        "CBAM",
        "SelfAttention2D",
    ],
)
@settings(max_examples=6)
@given(problem=problems(batch=2))
def test_gradients_of_input_and_parameters_agree_with_finite_differences(name, problem):
    modules, x = problem
    module = modules[name]
    names = [key for key, _ in module.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    inputs = [x.requires_grad_(), *(p.detach().clone().requires_grad_() for p in module.parameters())]
    with by_hand():
        assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
