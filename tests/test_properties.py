"""Relations that hold for every attention mechanism, over drawn shapes, masks and dtypes."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attn_course
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
    apply_rotary,
)
from attn_course.transformer import (
    MultiHeadAttention,
    TransformerBlock,
    masked_softmax,
    scaled_dot_product_attention,
)
from attn_course.window import sliding_window_attention, sliding_window_mask

modest = settings(max_examples=25, derandomize=True, deadline=None)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 8e-2, torch.float16: 1e-2}

sizes = st.integers(1, 9)
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**16)
ways = st.booleans()  # need_weights: the plain definition, or the fused kernel


def close(a, b):
    tolerance = TOLERANCE[a.dtype]
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@st.composite
def problems(draw, dtype=dtypes, masked=True):
    """Queries, keys, values, a mask of one of the shapes that broadcast, a bias or none."""
    dtype = draw(dtype) if isinstance(dtype, st.SearchStrategy) else dtype
    b, h, n_q, n_k, d_k, d_v = (draw(sizes) for _ in range(6))
    generator = torch.Generator().manual_seed(draw(seeds))

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    q, k, v = randn(b, h, n_q, d_k), randn(b, h, n_k, d_k), randn(b, h, n_k, d_v)
    full = (b, h, n_q, n_k)
    shape = tuple(size if draw(st.booleans()) else 1 for size in full)
    mask = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.2, 0.6, 1.0])) if masked else None
    bias = randn(*(size if draw(st.booleans()) else 1 for size in full)) if draw(st.booleans()) else None
    if bias is not None and draw(st.booleans()):
        bias = bias.masked_fill(torch.rand(bias.shape, generator=generator) < 0.3, -torch.inf)
    return q, k, v, mask, bias


def allowed(q, k, mask, bias):
    full = torch.ones(*q.shape[:-1], k.shape[-2], dtype=torch.bool)
    full = full if mask is None else full & mask
    return full if bias is None else full & (bias != -torch.inf)


@modest
@given(problems(), st.booleans())
def test_weights_are_a_distribution_over_the_allowed_keys_or_all_zero(problem, is_causal):
    q, k, v, mask, bias = problem
    _, weights = scaled_dot_product_attention(q, k, v, mask, bias=bias, is_causal=is_causal)
    open_ = allowed(q, k, mask, bias)
    if is_causal:
        open_ = open_ & torch.ones(open_.shape[-2:], dtype=torch.bool).tril(open_.shape[-1] - open_.shape[-2])
    assert (weights >= 0).all() and (weights[~open_] == 0).all()
    close(weights.sum(-1), open_.any(-1).to(weights.dtype))
    assert not weights[~open_.any(-1)].any()


@modest
@given(problems(), st.booleans())
def test_fused_equals_plain_forward_and_backward(problem, is_causal):
    *inputs, mask, bias = problem
    inputs = [x.requires_grad_() for x in inputs]
    plain, _ = scaled_dot_product_attention(*inputs, mask, bias=bias, is_causal=is_causal)
    fused, _ = scaled_dot_product_attention(*inputs, mask, bias=bias, is_causal=is_causal, need_weights=False)
    close(fused, plain)
    for one, other in zip(
        torch.autograd.grad(fused.sum(), inputs), torch.autograd.grad(plain.sum(), inputs), strict=True
    ):
        close(one, other)


@modest
@given(problems(), ways)
def test_a_query_that_may_attend_nowhere_gets_zeros_and_finite_gradients(problem, need_weights):
    q, k, v, mask, bias = problem
    mask = mask.expand(*q.shape[:-1], k.shape[-2]).clone()
    mask[0, :, 0] = False
    inputs = [x.requires_grad_() for x in (q, k, v)]
    output, weights = scaled_dot_product_attention(*inputs, mask, bias=bias, need_weights=need_weights)
    assert not output[0, :, 0].any() and output.isfinite().all()
    assert weights is None or not weights[0, :, 0].any()
    gradients = torch.autograd.grad(output.square().sum(), inputs)
    assert all(g.isfinite().all() for g in gradients)
    assert not gradients[0][0, :, 0].any()


@modest
@given(problems(), ways, st.data())
def test_masked_keys_are_as_good_as_deleted(problem, need_weights, data):
    q, k, v, _, bias = problem
    keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=k.shape[-2], max_size=k.shape[-2])))
    if bias is not None:
        bias = bias.expand(*bias.shape[:-1], k.shape[-2])
    masked, _ = scaled_dot_product_attention(q, k, v, keep, bias=bias, need_weights=need_weights)
    shorter = None if bias is None else bias[..., keep]
    deleted, _ = scaled_dot_product_attention(
        q, k[..., keep, :], v[..., keep, :], bias=shorter, need_weights=need_weights
    )
    close(masked, deleted)


@modest
@given(problems(), ways, seeds)
def test_reordered_keys_change_nothing_and_reordered_queries_are_reordered(problem, need_weights, seed):
    q, k, v, mask, bias = problem
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(q.shape[-2], generator=generator)
    columns = torch.randperm(k.shape[-2], generator=generator)

    def reordered(x):
        return None if x is None else x.expand(*q.shape[:-1], k.shape[-2])[..., rows, :][..., columns]

    output, _ = scaled_dot_product_attention(q, k, v, mask, bias=bias, need_weights=need_weights)
    moved, _ = scaled_dot_product_attention(
        q[..., rows, :],
        k[..., columns, :],
        v[..., columns, :],
        reordered(mask),
        bias=reordered(bias),
        need_weights=need_weights,
    )
    close(moved, output[..., rows, :])


@modest
@given(problems(), ways, st.data())
def test_a_perturbed_future_changes_nothing_earlier(problem, need_weights, data):
    q, k, v, *_ = problem
    n = min(q.shape[-2], k.shape[-2])
    q, k, v = q[..., :n, :], k[..., :n, :], v[..., :n, :]
    cut = data.draw(st.integers(0, n))
    output, _ = scaled_dot_product_attention(q, k, v, is_causal=True, need_weights=need_weights)
    later = [torch.cat([x[..., :cut, :], x[..., cut:, :] * 3 + 1], dim=-2) for x in (q, k, v)]
    changed, _ = scaled_dot_product_attention(*later, is_causal=True, need_weights=need_weights)
    close(changed[..., :cut, :], output[..., :cut, :])
    window = sliding_window_attention(q, k, v, 2, is_causal=True)
    close(sliding_window_attention(*later, 2, is_causal=True)[..., :cut, :], window[..., :cut, :])


@modest
@given(st.integers(1, 150), st.integers(0, 60), sizes, sizes, dtypes, st.booleans(), seeds)
def test_a_window_is_full_attention_under_its_band(n, window, d_k, d_v, dtype, is_causal, seed):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(2, n, d, generator=generator, dtype=torch.float64).to(dtype) for d in (d_k, d_k, d_v)
    )
    mask = sliding_window_mask(n, window, is_causal=is_causal)
    expected, _ = scaled_dot_product_attention(q, k, v, mask)
    close(sliding_window_attention(q, k, v, window, is_causal=is_causal), expected)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    output = sliding_window_attention(*inputs, window, is_causal=is_causal)
    close(output, expected)
    towards = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(dtype)
    expected, _ = scaled_dot_product_attention(*inputs, mask)
    for one, other in zip(
        torch.autograd.grad(output, inputs, towards),
        torch.autograd.grad(expected, inputs, towards),
        strict=True,
    ):
        close(one, other)


@modest
@given(sizes, sizes, dtypes, seeds)
def test_masked_softmax_does_not_care_about_a_shift_of_the_scores(rows, columns, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)
    mask = torch.rand(rows, columns, generator=generator) < 0.5
    close(masked_softmax(scores + 4, mask), masked_softmax(scores, mask))


# --- every mechanism as a function of one batch: (B, n, 16) tokens, or (B, 16, height, width) maps


def _attend(module, x, **keywords):
    return module(x, x, x, **keywords)[0]


MECHANISMS = {
    "MultiHeadAttention": (lambda: MultiHeadAttention(16, 2), _attend, 3),
    "MultiHeadAttention, fused": (
        lambda: MultiHeadAttention(16, 2),
        lambda module, x: _attend(module, x, need_weights=False, is_causal=True),
        3,
    ),
    "TransformerBlock": (lambda: TransformerBlock(16, 2, 11), lambda module, x: module(x)[0], 3),
    "TransformerBlock, pre-norm": (
        lambda: TransformerBlock(16, 2, 11, norm_first=True),
        lambda module, x: module(x, is_causal=True)[0],
        3,
    ),
    "MultiHeadAttention, grouped": (
        lambda: MultiHeadAttention(16, 4, num_kv_heads=2),
        lambda module, x: _attend(module, x, need_weights=False, is_causal=True),
        3,
    ),
    "MultiHeadAttention, rotary": (
        lambda: MultiHeadAttention(16, 2),
        lambda module, x: _attend(module, x, rotary=RotaryEmbedding(8), is_causal=True),
        3,
    ),
    "MultiHeadAttention, ALiBi": (
        lambda: MultiHeadAttention(16, 2),
        lambda module, x: _attend(module, x, bias=alibi_bias(2, x.shape[1]), need_weights=False),
        3,
    ),
    "PositionalEncoding": (lambda: PositionalEncoding(16), lambda module, x: module(x), 3),
    "LearnedPositionalEncoding": (
        lambda: LearnedPositionalEncoding(16, 40),
        lambda module, x: module(x),
        3,
    ),
    "RotaryEmbedding": (lambda: RotaryEmbedding(16), lambda module, x: module(x), 3),
    "sliding_window_attention": (
        torch.nn.Identity,
        lambda module, x: sliding_window_attention(x, x, x, 2),
        3,
    ),
    "SpatialAttention": (lambda: SpatialAttention(3), lambda module, x: module(x), 4),
    "ChannelAttention": (lambda: ChannelAttention(16), lambda module, x: module(x), 4),
    "SqueezeExcitation": (lambda: SqueezeExcitation(16), lambda module, x: module(x), 4),
    "EfficientChannelAttention": (lambda: EfficientChannelAttention(16), lambda module, x: module(x), 4),
    "CBAM": (lambda: CBAM(16, kernel_size=3), lambda module, x: module(x), 4),
    "SelfAttention2D": (lambda: SelfAttention2D(16), lambda module, x: module(x), 4),
}
every_mechanism = pytest.mark.parametrize("name", MECHANISMS)


def build(name, seed, dtype):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        make, call, rank = MECHANISMS[name]
        module = make().to(dtype).eval()
        if name == "SelfAttention2D":  # at 0, where it starts, it is the identity
            torch.nn.init.constant_(module.gamma, 0.7)
    return module, call, rank


def tokens(rank, b, n, dtype, seed):
    shape = (b, n, 16) if rank == 3 else (b, 16, n, 3)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@every_mechanism
@settings(modest, max_examples=6)
@given(st.integers(1, 4), st.integers(1, 40), dtypes, seeds)
def test_rows_of_a_batch_are_independent(name, b, n, dtype, seed):
    module, call, rank = build(name, seed, dtype)
    x = tokens(rank, b, n, dtype, seed)
    output = call(module, x)
    assert output.dtype == dtype and output.shape == x.shape
    for i in range(b):
        close(call(module, x[i : i + 1])[0], output[i])
    order = torch.randperm(b, generator=torch.Generator().manual_seed(seed))
    close(call(module, x[order]), output[order])


@every_mechanism
def test_gradients_pass_the_check_by_finite_differences(name):
    module, call, rank = build(name, 0, torch.float64)
    x = tokens(rank, 1, 3, torch.float64, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: call(module, x), x)
    parameters = [p for p in module.parameters() if p.numel() <= 64]
    if parameters:
        assert torch.autograd.gradcheck(lambda *_: call(module, x.detach()), tuple(parameters))


def attentions():
    """Every public module or function that attends."""
    homes = ("transformer", "cnn", "window", "hybrid")
    for name, home in attn_course._HOME.items():
        found = getattr(attn_course, name)
        if home not in homes or name.endswith("_example"):
            continue
        if isinstance(found, type) and issubclass(found, torch.nn.Module):
            yield name, found.forward
        elif name.endswith("_attention"):
            yield name, found


def test_every_attention_hands_out_its_weights_through_its_own_forward_path():
    found = dict(attentions())
    assert {"MultiHeadAttention", "CBAM", "sliding_window_attention", "HybridAttentionModel"} <= set(found)
    for name, call in found.items():
        assert "need_weights" in inspect.signature(call).parameters, name


@pytest.mark.parametrize("name", ["MultiHeadAttention", "TransformerBlock", "SelfAttention2D"])
@settings(modest, max_examples=8)
@given(st.integers(1, 12), seeds)
def test_without_positions_reordered_tokens_are_reordered(name, n, seed):
    module, call, rank = build(name, seed, torch.float64)
    x = tokens(rank, 2, n, torch.float64, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    dim = 1 if rank == 3 else 2
    close(call(module, x.index_select(dim, order)), call(module, x).index_select(dim, order))


ENCODINGS = {
    "none": lambda n: (lambda x: x, {}),
    "sinusoidal": lambda n: (PositionalEncoding(16, n), {}),
    "learned": lambda n: (LearnedPositionalEncoding(16, n), {}),
    "rotary": lambda n: (lambda x: x, {"rotary": RotaryEmbedding(8)}),
    "ALiBi": lambda n: (lambda x: x, {"bias": alibi_bias(2, n)}),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(modest, max_examples=8)
@given(st.integers(3, 12), seeds, ways)
def test_with_positions_the_order_counts_and_without_it_does_not(encoding, n, seed, need_weights):
    module, _, _ = build("MultiHeadAttention", seed, torch.float64)
    x = 3 * tokens(3, 2, n, torch.float64, seed)
    order = torch.arange(n).roll(1)
    add, given = ENCODINGS[encoding](n)

    def attend(x):
        return _attend(module, add(x), need_weights=need_weights, **given)

    moved = (attend(x[:, order]) - attend(x)[:, order]).abs().max()
    assert moved < 1e-11 if encoding == "none" else moved > 1e-5


@modest
@given(st.integers(1, 9), st.integers(1, 20), st.integers(-50, 50), dtypes, st.booleans(), seeds)
def test_turning_everything_further_changes_no_score(half, n, further, dtype, halves, seed):
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(n, 2 * half, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    positions, pairing = torch.arange(n), "halves" if halves else "neighbours"

    def scores(positions):
        turned = (apply_rotary(x.double(), positions, pairing=pairing) for x in (q, k))
        return next(turned) @ next(turned).T

    close(scores(positions + further), scores(positions))
    turned = apply_rotary(q, positions + further, pairing=pairing)
    close(turned.double().norm(dim=-1).to(dtype), q.double().norm(dim=-1).to(dtype))


@settings(modest, max_examples=12)
@given(problems(dtype=torch.float64), ways, st.booleans())
def test_attention_passes_the_check_by_finite_differences_under_any_mask(problem, need_weights, is_causal):
    q, k, v, mask, bias = problem
    inputs = [x[:1, :1, :4].contiguous().requires_grad_() for x in (q, k, v)]
    full = (*q.shape[:-1], k.shape[-2])
    mask = mask.expand(full)[:1, :1, :4, :4]
    bias = None if bias is None else bias.expand(full)[:1, :1, :4, :4]
    assert torch.autograd.gradcheck(
        lambda *x: scaled_dot_product_attention(
            *x, mask, bias=bias, is_causal=is_causal, need_weights=need_weights
        )[0],
        inputs,
    )
