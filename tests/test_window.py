import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attn_course.benchmark import peak_bytes
from attn_course.transformer import scaled_dot_product_attention, split_heads
from attn_course.window import sliding_window_attention, sliding_window_mask

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 6e-2, torch.float16: 8e-3}


def qkv(n, *, lead=(2, 3), dtype=torch.float64, d_v=7, grad=False):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(*lead, n, d, dtype=torch.float64, generator=generator).to(dtype).requires_grad_(grad)
        for d in (5, 5, d_v)
    ]


def close(a, b):
    tolerance = TOLERANCE[a.dtype]
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("window", [0, 1, 3, 6, 7, 100])
def test_the_mask_is_a_band(window, is_causal):
    mask = sliding_window_mask(7, window, is_causal=is_causal)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [
        [abs(i - j) <= window and (j <= i or not is_causal) for j in range(7)] for i in range(7)
    ]
    assert sliding_window_mask(7, window, is_causal=is_causal, device="meta").device.type == "meta"


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("window", [0, 1, 2, 5, 31, 32, 33, 61, 1000])
@pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33, 97, 131, 193, 223])
def test_equals_full_attention_under_the_band_mask(n, window, is_causal):
    q, k, v = qkv(n)
    mask = sliding_window_mask(n, window, is_causal=is_causal)
    output = sliding_window_attention(q, k, v, window, is_causal=is_causal)
    close(output, scaled_dot_product_attention(q, k, v, mask)[0])


@pytest.mark.parametrize("n", [13, 211])
@pytest.mark.parametrize("lead", [(), (2,), (2, 1, 3), (0, 3)])
def test_any_number_of_leading_dimensions(lead, n):
    q, k, v = qkv(n, lead=lead)
    output = sliding_window_attention(q, k, v, 3)
    assert output.shape == (*lead, n, 7)
    close(output, scaled_dot_product_attention(q, k, v, sliding_window_mask(n, 3))[0])


@pytest.mark.parametrize("d_v", [5, 7])
@pytest.mark.parametrize("window", [2, 41])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_output_and_gradients_are_those_of_full_attention_in_every_dtype(dtype, window, d_v):
    n = 211
    inputs = qkv(n, dtype=dtype, d_v=d_v, grad=True)
    output = sliding_window_attention(*inputs, window)
    expected, _ = scaled_dot_product_attention(*inputs, sliding_window_mask(n, window))
    assert output.dtype == dtype
    close(output, expected)
    towards = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    for mine, other in zip(
        torch.autograd.grad(output, inputs, towards),
        torch.autograd.grad(expected, inputs, towards),
        strict=True,
    ):
        close(mine, other)


@pytest.mark.parametrize("is_causal", [False, True])
def test_gradients_pass_the_check_by_finite_differences_and_second_ones_too(is_causal):
    """103 positions are two steps of the backward pass, of which the last is not full."""
    inputs = [x[:1, :1].detach().requires_grad_() for x in qkv(103)]

    def attend(q, k, v):
        return sliding_window_attention(q, k, v, 1, is_causal=is_causal)[..., ::17, :]

    assert torch.autograd.gradcheck(attend, inputs)
    q, k, v = (x.detach() for x in inputs)
    few = torch.ones(3, 5, dtype=torch.float64, requires_grad=True)

    def in_the_middle(x):  # six positions around the step's end, made of few numbers
        row = torch.cat([x, x * x])
        moved = [
            torch.cat([t[..., :61, :], row[None, None, :, : t.shape[-1]], t[..., 67:, :]], -2) for t in (q, k)
        ]
        return attend(*moved, v * row.sum())

    assert torch.autograd.gradgradcheck(in_the_middle, few)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_gradient_for_one_input_alone_is_the_one_of_full_attention(which):
    inputs = qkv(211)
    inputs[which].requires_grad_()
    outputs = (
        sliding_window_attention(*inputs, 3),
        scaled_dot_product_attention(*inputs, sliding_window_mask(211, 3))[0],
    )
    mine, expected = (torch.autograd.grad(o.square().sum(), inputs[which])[0] for o in outputs)
    close(mine, expected)


@pytest.mark.parametrize("training", [False, True])
def test_heads_that_are_views_of_one_projection_are_taken_as_they_are(training):
    x = torch.randn(2, 211, 3 * 3 * 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_(training)
    q, k, v = (split_heads(part, 3) for part in x.chunk(3, dim=-1))
    expected, _ = scaled_dot_product_attention(q, k, v, sliding_window_mask(211, 7))
    output = sliding_window_attention(q, k, v, 7)
    close(output, expected)
    if training:
        close(*(torch.autograd.grad(o.square().sum(), x, retain_graph=True)[0] for o in (output, expected)))


def test_memory_is_the_output_twice_in_inference_and_output_and_gradients_in_training():
    """Of 2^20 bytes each; the scores of a few rows come on top, and masks. Full attention takes 64 times as much."""
    n = 4096
    inputs = [torch.randn(1, n, 64).requires_grad_() for _ in range(3)]
    size = inputs[0].nbytes

    def inference():
        with torch.no_grad():
            return sliding_window_attention(*inputs, 37)

    assert 2 < peak_bytes(inference) / size < 2.3
    training = peak_bytes(lambda: torch.autograd.grad(sliding_window_attention(*inputs, 37).sum(), inputs))
    assert 4 < training / size < 4.6


def test_other_ways_to_differentiate_give_the_same_gradients():
    q, k, v = qkv(211)

    def total(q, k, v):
        return sliding_window_attention(q, k, v, 3).square().sum()

    expected = torch.autograd.grad(total(q.requires_grad_(), k, v), q)[0]
    close(torch.func.grad(total)(q.detach(), k, v), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = sliding_window_attention(*(x.float() for x in (q, k, v)), 3)
    assert torch.autograd.grad(low.square().sum(), q)[0].sub(expected).abs().max() < 0.1


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("n", "window"), [(7, 2), (211, 3), (131, 200)])
def test_the_weights_are_those_of_the_band_and_give_the_same_output(n, window, is_causal):
    q, k, v = qkv(n)
    output, weights = sliding_window_attention(q, k, v, window, is_causal=is_causal, need_weights=True)
    assert weights.shape == (2, 3, n, n)
    assert not weights[..., ~sliding_window_mask(n, window, is_causal=is_causal)].any()
    close(weights.sum(-1), torch.ones(2, 3, n, dtype=torch.float64))
    close(weights @ v, output)
    close(output, sliding_window_attention(q, k, v, window, is_causal=is_causal))


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that is made, and of all of them together."""

    def __init__(self):
        super().__init__()
        self.largest = self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {
            x.untyped_storage().data_ptr() for x in torch.utils._pytree.tree_leaves((args, kwargs)) if _is(x)
        }
        for x in torch.utils._pytree.tree_leaves(out):
            if _is(x) and x.untyped_storage().data_ptr() not in known:
                self.largest = max(self.largest, x.untyped_storage().nbytes())
                self.total += x.untyped_storage().nbytes()
        return out


def _is(x):
    return isinstance(x, torch.Tensor)


@pytest.mark.parametrize("d_v", [5, 7])
@pytest.mark.parametrize("training", [False, True])
def test_what_is_made_grows_with_the_length_and_not_with_its_square(training, d_v):
    """Forward and backward; a value width of its own makes torch fall back to the plain formula."""

    def made(n, window):
        inputs = qkv(n, lead=(1, 1), dtype=torch.float32, d_v=d_v, grad=training)
        with Largest() as watch:
            output = sliding_window_attention(*inputs, window)
            if training:
                torch.autograd.grad(output.sum(), inputs)
        return watch

    short, long, wide = made(1024, 37), made(4096, 37), made(4096, 74)
    for quantity in ("largest", "total"):
        growth = getattr(long, quantity) / getattr(short, quantity)
        assert 1 < growth < 4.6, (quantity, growth)
        assert getattr(wide, quantity) / getattr(long, quantity) < 2.3
    assert long.largest < 4096 * 4096 / 4


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: sliding_window_attention(*qkv(11), -1), "window must be at least 0, got -1"),
        (lambda: sliding_window_mask(11, -2), "got -2"),
        (lambda: sliding_window_mask(-1, 2), "n must be at least 0, got -1"),
        (
            lambda: sliding_window_attention(*[torch.zeros(2, n, 5) for n in (7, 11, 11)], 2),
            r"\(2, 7, 5\).*11",
        ),
        (lambda: sliding_window_attention(*[torch.zeros(b, 7, 5) for b in (2, 2, 3)], 2), r"\(3, 7, 5\)"),
        (
            lambda: sliding_window_attention(*[torch.zeros(2, 7, d) for d in (5, 6, 5)], 2),
            r"d_k.*\(2, 7, 6\)",
        ),
        (lambda: sliding_window_attention(*[torch.zeros(7)] * 3, 2), r"\(7,\)"),
    ],
)
def test_bad_input_is_a_value_error_with_the_numbers(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_runs_on_the_meta_device_compiles_and_exports():
    inputs = qkv(211)
    meta = sliding_window_attention(*[x.to("meta") for x in inputs], 3)
    assert meta.device.type == "meta" and meta.shape == (2, 3, 211, 7)
    expected = sliding_window_attention(*inputs, 3)
    compiled = torch.compile(sliding_window_attention, fullgraph=True, backend="aot_eager")
    close(compiled(*inputs, 3), expected)

    class Module(torch.nn.Module):
        def forward(self, q, k, v):
            return sliding_window_attention(q, k, v, 3)

    close(torch.export.export(Module(), tuple(inputs)).module()(*inputs), expected)


def test_arguments_are_not_written_into():
    inputs = qkv(211)
    before = [x.clone() for x in inputs]
    sliding_window_attention(*inputs, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True))
