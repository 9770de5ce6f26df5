import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from attn_course import textbook
from attn_course.positional import RotaryEmbedding, alibi_bias, apply_rotary
from attn_course.transformer import (
    KeyValueCache,
    MultiHeadAttention,
    TransformerBlock,
    causal_mask,
    masked_softmax,
    merge_heads,
    padding_mask,
    scaled_dot_product_attention,
    split_heads,
    transformer_example,
)

# Sizes are primes, or products of other primes, so that nothing agrees by chance.
B, H, DK, N, NK = 2, 3, 5, 7, 11
D = H * DK
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 6e-2, torch.float16: 8e-3}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def close(a, b, dtype=None):
    tolerance = TOLERANCE[dtype or a.dtype]
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def qkv(dtype=torch.float64, *, n_q=N, n_k=NK, d_v=DK, lead=(B, H), grad=False):
    q = torch.randn(*lead, n_q, DK, dtype=dtype, requires_grad=grad)
    k = torch.randn(*lead, n_k, DK, dtype=dtype, requires_grad=grad)
    v = torch.randn(*lead, n_k, d_v, dtype=dtype, requires_grad=grad)
    return q, k, v


def by_loop(q, k, v, allowed, bias):
    """The definition, one query at a time, with masked keys deleted. `(n, d)` inputs, float64."""
    output = torch.zeros(q.shape[0], v.shape[1], dtype=q.dtype)
    weights = torch.zeros(q.shape[0], k.shape[0], dtype=q.dtype)
    for i in range(q.shape[0]):
        keys = [j for j in range(k.shape[0]) if allowed[i, j] and bias[i, j] != -torch.inf]
        if keys:
            scores = torch.stack([(q[i] * k[j]).sum() / q.shape[1] ** 0.5 + bias[i, j] for j in keys])
            share = scores.exp() / scores.exp().sum()
            weights[i, keys] = share
            output[i] = sum(p * v[j] for p, j in zip(share, keys, strict=True))
    return output, weights


# --- the definition -------------------------------------------------------------------------------------


def masks_and_biases():
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(B, 1, N, NK, generator=generator) > 0.4
    mask[0, :, 2] = False  # a query without any key
    bias = torch.randn(H, N, NK, generator=generator, dtype=torch.float64)
    forbidding = bias.masked_fill(bias > 1, -torch.inf)
    forbidding[1, 3] = -torch.inf
    masks = {
        "no mask": None,
        "per sequence": mask,
        "per query and key": mask[0, 0],
        "padding": mask[:, :, :1],
        "per query": mask[:, :, :, :1],
        "per head": torch.rand(1, H, N, NK, generator=generator) > 0.4,
        "whole": (torch.rand(B, H, N, NK, generator=generator) > 0.4),
        "keys": mask[1, 0, 0],
        "nothing": torch.zeros(B, 1, 1, NK, dtype=torch.bool),
    }
    biases = {"no bias": None, "per head": bias, "keys": bias[0, 0], "with -inf": forbidding}
    return masks, biases


MASKS, BIASES = masks_and_biases()


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("mask", MASKS)
def test_attention_is_the_definition_computed_query_by_query(mask, bias, is_causal):
    q, k, v = qkv()
    output, weights = scaled_dot_product_attention(
        q, k, v, MASKS[mask], bias=BIASES[bias], is_causal=is_causal
    )
    allowed = (
        torch.ones(B, H, N, NK, dtype=torch.bool) if MASKS[mask] is None else MASKS[mask].expand(B, H, N, NK)
    )
    if is_causal:  # the last query sees every key
        allowed = allowed & torch.tensor([[j - i <= NK - N for j in range(NK)] for i in range(N)])
    added = torch.zeros(B, H, N, NK) if BIASES[bias] is None else BIASES[bias].expand(B, H, N, NK)
    for b in range(B):
        for h in range(H):
            expected = by_loop(q[b, h], k[b, h], v[b, h], allowed[b, h], added[b, h])
            close(output[b, h], expected[0])
            close(weights[b, h], expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_q", [N, NK, 13])
@pytest.mark.parametrize("is_causal", [False, True])
def test_the_fused_kernel_gives_the_same_output_and_gradients(is_causal, n_q, dtype):
    for mask in MASKS.values():
        for bias in BIASES.values():
            if n_q != N and any(t is not None and t.ndim > 1 and t.shape[-2] == N for t in (mask, bias)):
                continue
            inputs = qkv(dtype, n_q=n_q, grad=True)
            plain, weights = scaled_dot_product_attention(*inputs, mask, bias=bias, is_causal=is_causal)
            fused, nothing = scaled_dot_product_attention(
                *inputs, mask, bias=bias, is_causal=is_causal, need_weights=False
            )
            assert weights.shape == (B, H, n_q, NK) and nothing is None
            assert plain.dtype == fused.dtype == weights.dtype == dtype
            close(fused, plain)
            towards = torch.randn_like(plain)
            for one, other in zip(
                torch.autograd.grad(fused, inputs, towards),
                torch.autograd.grad(plain, inputs, towards),
                strict=True,
            ):
                assert one.isfinite().all() and other.isfinite().all()
                close(one, other)


@pytest.mark.parametrize("need_weights", [True, False])
def test_a_bias_that_is_learned_gets_its_gradient(need_weights):
    q, k, v = qkv()
    mask = MASKS["per sequence"]
    bias = torch.randn(H, N, NK, dtype=torch.float64, requires_grad=True)

    def output(bias):
        return scaled_dot_product_attention(q, k, v, mask, bias=bias, need_weights=need_weights)[0]

    assert torch.autograd.gradcheck(output, bias)
    forbidding = bias.detach().masked_fill(BIASES["with -inf"] == -torch.inf, -torch.inf).requires_grad_()
    (gradient,) = torch.autograd.grad(output(forbidding).square().sum(), forbidding)
    assert gradient.isfinite().all()
    assert (gradient[forbidding == -torch.inf] == 0).all()


@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("need_weights", [True, False])
def test_any_number_of_leading_dimensions_and_any_value_width(lead, need_weights):
    q, k, v = qkv(lead=lead, d_v=13)
    mask = torch.rand(*lead, N, NK) > 0.4
    output, _ = scaled_dot_product_attention(q, k, v, mask, need_weights=need_weights)
    assert output.shape == (*lead, N, 13)
    flat = [x.reshape(-1, *x.shape[-2:]) for x in (q, k, v, mask, output)]
    for one_q, one_k, one_v, one_mask, one_output in zip(*flat, strict=True):
        close(one_output, by_loop(one_q, one_k, one_v, one_mask, torch.zeros(N, NK))[0])


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("sizes", [(0, NK), (N, 0), (0, 0)])
def test_no_queries_give_nothing_and_no_keys_give_zeros(sizes, need_weights):
    q, k, v = qkv(n_q=sizes[0], n_k=sizes[1])
    for mask, bias in (
        (None, None),
        (torch.ones(*sizes, dtype=torch.bool), None),
        (None, torch.ones(H, *sizes)),
        (torch.ones(*sizes, dtype=torch.bool), torch.ones(H, *sizes)),
    ):
        output, weights = scaled_dot_product_attention(q, k, v, mask, bias=bias, need_weights=need_weights)
        assert output.shape == (B, H, sizes[0], DK) and (output == 0).all()
        assert weights is None or weights.shape == (B, H, *sizes)


@pytest.mark.parametrize("need_weights", [True, False])
def test_causal_queries_are_the_last_ones_so_that_a_cache_changes_nothing(need_weights):
    x = qkv(n_q=NK)
    whole, _ = scaled_dot_product_attention(*x, is_causal=True, need_weights=need_weights)
    masked, _ = scaled_dot_product_attention(*x, causal_mask(NK), need_weights=need_weights)
    close(whole, masked)
    for start, end in ((0, 4), (4, 5), (5, NK)):
        q, k, v = x[0][..., start:end, :], x[1][..., :end, :], x[2][..., :end, :]
        piece, _ = scaled_dot_product_attention(q, k, v, is_causal=True, need_weights=need_weights)
        close(piece, whole[..., start:end, :])


@pytest.mark.parametrize("need_weights", [True, False])
def test_causal_queries_before_the_first_key_get_zeros(need_weights):
    output, _ = scaled_dot_product_attention(*qkv(n_q=13), is_causal=True, need_weights=need_weights)
    assert (output[..., : 13 - NK, :] == 0).all() and (output[..., 13 - NK :, :] != 0).any(-1).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32])
@pytest.mark.parametrize("need_weights", [True, False])
def test_a_mask_may_be_bool_or_zeros_and_ones_of_any_dtype(dtype, need_weights):
    inputs = qkv()
    mask = MASKS["per sequence"]
    expected, _ = scaled_dot_product_attention(*inputs, mask)
    output, _ = scaled_dot_product_attention(*inputs, mask.to(dtype), need_weights=need_weights)
    close(output, expected)


@pytest.mark.parametrize("need_weights", [True, False])
def test_any_whole_number_but_zero_means_allowed(need_weights):
    inputs = qkv()
    token_ids = torch.tensor([[5, 3, 9, 0, 0, 0, 0, 0, 0, 0, 0], [1, -1, 2, 7, 4, 4, 2, 0, 0, 0, 0]])
    mask = token_ids[:, None, None, :]
    output, _ = scaled_dot_product_attention(*inputs, mask, need_weights=need_weights)
    close(output, scaled_dot_product_attention(*inputs, padding_mask(torch.tensor([3, 7]), NK))[0])


def test_no_kernel_is_asked_about_a_query_without_keys(monkeypatch):
    """Kernels disagree on such rows: zeros, a mean, or NaN. Each gets one key at least, and no second mask."""
    kernel, calls = F.scaled_dot_product_attention, []

    def watched(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False):
        calls.append(attn_mask)
        assert attn_mask is None or not is_causal
        if attn_mask is not None:
            seen = attn_mask if attn_mask.dtype == torch.bool else attn_mask != -torch.inf
            assert seen.any(-1).all()
        return kernel(q, k, v, attn_mask, dropout_p, is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    for mask in MASKS.values():
        for bias in BIASES.values():
            for is_causal in (False, True):
                scaled_dot_product_attention(*qkv(), mask, bias=bias, is_causal=is_causal, need_weights=False)
    assert len(calls) == 2 * len(MASKS) * len(BIASES)


def test_extreme_scores_do_not_overflow():
    for dtype in DTYPES:
        q, k, v = (x * 100 for x in qkv(dtype))
        output, weights = scaled_dot_product_attention(q, k, v, MASKS["per sequence"])
        assert output.isfinite().all() and weights.isfinite().all()


# --- masks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_softmax_is_a_softmax_among_the_allowed_and_zero_elsewhere(dtype):
    scores = torch.randn(B, H, N, NK, dtype=dtype) * 5
    mask = MASKS["per sequence"]
    weights = masked_softmax(scores, mask)
    assert weights.dtype == dtype
    assert (weights[~mask.expand_as(weights)] == 0).all()
    for row, allowed in zip(weights.flatten(0, -2), mask.expand_as(weights).flatten(0, -2), strict=True):
        assert abs(row.sum().item() - float(allowed.any())) < TOLERANCE[dtype]
    row = (1, 2, 3)
    allowed = mask[1, 0, 3]
    close(weights[row][allowed], scores[row][allowed].softmax(-1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("garbage", [torch.inf, -torch.inf, torch.nan, 6e4])
def test_masked_softmax_never_looks_at_masked_scores(dtype, garbage):
    mask = torch.tensor([[True, False, True], [False, False, False]])
    scores = torch.tensor([[1.0, garbage, 2.0], [garbage, 1.0, garbage]], dtype=dtype).requires_grad_()
    weights = masked_softmax(scores, mask)
    close(weights[0, [0, 2]], torch.tensor([1.0, 2.0], dtype=dtype).softmax(0))
    assert weights[0, 1] == 0 and (weights[1] == 0).all()
    (gradient,) = torch.autograd.grad(weights.square().sum(), scores)
    assert gradient.isfinite().all() and gradient[0, 1] == 0 and (gradient[1] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_softmax_gives_nothing_to_masked_scores_however_low_the_allowed_ones_are(dtype):
    scores = torch.tensor([[-6e4, -6e4, 6e4]], dtype=dtype)
    assert masked_softmax(scores, torch.tensor([[True, True, False]])).tolist() == [[0.5, 0.5, 0.0]]


def test_masked_softmax_without_a_mask_is_softmax():
    scores = torch.randn(N, NK)
    close(masked_softmax(scores), scores.softmax(-1))
    close(masked_softmax(scores, None), scores.softmax(-1))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_anomaly_detection_finds_no_nan_in_the_backward_pass():
    inputs = qkv(grad=True)
    with torch.autograd.detect_anomaly(check_nan=True):
        scaled_dot_product_attention(*inputs, MASKS["nothing"], bias=BIASES["with -inf"])[0].sum().backward()


def test_causal_mask_is_true_on_and_below_the_diagonal():
    mask = causal_mask(N)
    assert mask.dtype == torch.bool and mask.tolist() == [[j <= i for j in range(N)] for i in range(N)]
    assert causal_mask(0).shape == (0, 0)
    assert causal_mask(3, device="meta").device.type == "meta"
    with pytest.raises(ValueError, match="-1"):
        causal_mask(-1)


def test_padding_mask_is_true_for_real_tokens():
    mask = padding_mask(torch.tensor([3, 0, 5]), 5)
    assert mask.dtype == torch.bool and mask.shape == (3, 1, 1, 5)
    assert mask[:, 0, 0].tolist() == [[True] * 3 + [False] * 2, [False] * 5, [True] * 5]
    assert padding_mask(torch.zeros(0, dtype=torch.int32), 5).shape == (0, 1, 1, 5)
    assert padding_mask(torch.ones(3, dtype=torch.long, device="meta"), 5).device.type == "meta"


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        (torch.tensor([2, -3]), "0 and n = 5, got values from -3 to 2"),
        (torch.tensor([2, 7]), "from 2 to 7"),
        (torch.tensor([[2], [3]]), r"\(2, 1\)"),
        (torch.tensor(3), r"\(\)"),
        (torch.tensor([2.0]), "float32"),
        (torch.tensor([True]), "bool"),
    ],
)
def test_padding_mask_refuses_lengths_that_cannot_be(lengths, says):
    with pytest.raises(ValueError, match=says):
        padding_mask(lengths, 5)


# --- heads ----------------------------------------------------------------------------------------------


def test_heads_are_consecutive_channels_and_merging_undoes_splitting():
    x = torch.randn(B, N, D)
    heads = split_heads(x, H)
    assert heads.shape == (B, H, N, DK)
    for i in range(H):
        assert torch.equal(heads[:, i], x[..., i * DK : (i + 1) * DK])
    assert torch.equal(merge_heads(heads), x)
    assert torch.equal(merge_heads(heads.contiguous()), x)
    assert heads.data_ptr() == x.data_ptr(), "a view is enough"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: split_heads(torch.zeros(N, D), H), r"\(7, 15\)"),
        (lambda: split_heads(torch.zeros(B, N, D), 2), "num_heads = 2, d_model = 15"),
        (lambda: split_heads(torch.zeros(B, N, D), 0), "at least 1, got 0"),
        (lambda: merge_heads(torch.zeros(B, N, D)), r"\(2, 7, 15\)"),
    ],
)
def test_heads_refuse_other_shapes(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# --- the document's numbers -----------------------------------------------------------------------------


def twins(name, *args, **keywords):
    """The textbook module, and ours with its weights, in float64 and eval mode."""
    theirs = getattr(textbook, name)(*args, **keywords).double().eval()
    ours = {"MultiHeadAttention": MultiHeadAttention, "TransformerBlock": TransformerBlock}[name](
        *args, **keywords
    )
    ours = ours.double().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("mask", [None, causal_mask(N), torch.rand(B, 1, N, N).add(torch.eye(N)) > 0.5])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("name", ["MultiHeadAttention", "TransformerBlock"])
def test_same_state_dict_same_numbers_same_gradients_as_the_document(name, need_weights, mask):
    ours, theirs = twins(name, D, H, *([17] if name == "TransformerBlock" else []))
    x = torch.randn(B, N, D, dtype=torch.float64, requires_grad=True)
    arguments = (x, mask) if name == "TransformerBlock" else (x, *torch.randn(2, B, N, D).double(), mask)
    output, weights = ours(*arguments, need_weights=need_weights)
    expected, expected_weights = theirs(*arguments)
    close(output, expected)
    if need_weights:
        close(weights, expected_weights)
    towards = torch.randn_like(output)
    for mine, other in zip(
        torch.autograd.grad(output, [x, *ours.parameters()], towards),
        torch.autograd.grad(expected, [x, *theirs.parameters()], towards),
        strict=True,
    ):
        close(mine, other)


def test_the_method_on_split_heads_gives_the_documents_numbers():
    ours, theirs = twins("MultiHeadAttention", D, H)
    q, k, v = qkv()
    mask = torch.rand(B, 1, N, NK).add(torch.eye(N, NK)) > 0.5
    for mine, other in zip(
        ours.scaled_dot_product_attention(q, k, v, mask),
        theirs.scaled_dot_product_attention(q, k, v, mask),
        strict=True,
    ):
        close(mine, other)
    close(
        ours.scaled_dot_product_attention(Q=q, K=k, V=v)[0], theirs.scaled_dot_product_attention(q, k, v)[0]
    )


def test_construction_with_a_seed_gives_the_documents_weights():
    for ours, theirs in ((MultiHeadAttention, textbook.MultiHeadAttention),):
        torch.manual_seed(5)
        mine = ours(D, H).state_dict()
        torch.manual_seed(5)
        other = theirs(D, H).state_dict()
        assert all(torch.equal(mine[key], other[key]) for key in other)


def test_transformer_example_prints_and_returns_what_the_documents_does(capsys):
    output, weights = transformer_example()
    assert capsys.readouterr().out.splitlines() == [
        "Input shape: torch.Size([2, 10, 512])",
        "Output shape: torch.Size([2, 10, 512])",
        "Attention weights shape: torch.Size([2, 8, 10, 10])",
    ]
    assert output.shape == (2, 10, 512) and weights.shape == (2, 8, 10, 10)


# --- the document's errors: each check passes on ours and fails on the textbook form --------------------


def check_keys_may_have_another_length(cls):
    attention = cls(D, H).eval()
    output, weights = attention(torch.randn(B, N, D), *torch.randn(2, B, NK, D))
    assert output.shape == (B, N, D) and weights.shape == (B, H, N, NK)


def check_rows_are_not_mixed_when_element_counts_agree(cls):
    """One sequence of 2N keys has the elements of two sequences of N: `view` accepts it in part."""
    attention = cls(D, H).eval()
    query, memory = torch.randn(B, N, D), torch.randn(1, B * N, D)
    with pytest.raises(ValueError, match="batch"):
        attention(query, memory, memory)


def check_half_precision_masks_work(cls):
    attention = cls(D, H).eval().half()
    x = torch.randn(B, N, D).half()
    assert attention(x, x, x, causal_mask(N))[0].isfinite().all()


def check_autocast_masks_work(cls):
    attention = cls(D, H).eval()
    x = torch.randn(B, N, D)
    with torch.autocast("cpu", dtype=torch.float16):
        assert attention(x, x, x, causal_mask(N))[0].isfinite().all()


def check_a_query_with_nothing_to_attend_gets_zeros(cls):
    attention = cls(D, H).eval()
    x = torch.randn(B, N, D)
    output, weights = attention(x, x, x, torch.zeros(N, N))
    assert (weights == 0).all()
    close(output, attention.w_o.bias.detach().expand_as(output))


def check_returned_weights_are_those_before_dropout(cls):
    attention = cls(D, H, dropout=0.5).train()
    x = torch.randn(B, N, D)
    _, weights = attention(x, x, x)
    close(weights.sum(-1), torch.ones(B, H, N))


def check_a_padding_mask_of_two_dimensions_is_told_the_right_spelling(cls):
    attention = cls(D, H).eval()
    x = torch.randn(B, N, D)
    with pytest.raises(ValueError, match=r"\(2, 7\).*mask\[:, None, None, :\]"):
        attention(x, x, x, torch.ones(B, N))


def check_bad_sizes_are_value_errors_with_numbers(cls):
    with pytest.raises(ValueError, match=r"num_heads = 4, d_model = 15"):
        cls(15, 4)


ERRORS = [
    check_keys_may_have_another_length,
    check_rows_are_not_mixed_when_element_counts_agree,
    check_half_precision_masks_work,
    check_autocast_masks_work,
    check_a_query_with_nothing_to_attend_gets_zeros,
    check_returned_weights_are_those_before_dropout,
    check_a_padding_mask_of_two_dimensions_is_told_the_right_spelling,
    check_bad_sizes_are_value_errors_with_numbers,
]


@pytest.mark.parametrize("check", ERRORS, ids=lambda check: check.__name__)
def test_the_documents_error_is_mended(check):
    check(MultiHeadAttention)


@pytest.mark.parametrize("check", ERRORS, ids=lambda check: check.__name__)
def test_the_check_of_the_error_fails_on_the_textbook_form(check):
    with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception)):
        check(textbook.MultiHeadAttention)


# --- bad input ------------------------------------------------------------------------------------------


def attend(q=(B, N, D), k=(B, NK, D), v=(B, NK, D), mask=None, **keywords):
    mask = torch.ones(mask) if isinstance(mask, tuple) else mask
    return MultiHeadAttention(D, H)(torch.zeros(q), torch.zeros(k), torch.zeros(v), mask, **keywords)


def function(q=(B, N, DK), k=(B, NK, DK), v=(B, NK, DK), mask=None, **keywords):
    mask = torch.ones(mask) if isinstance(mask, tuple) else mask
    return scaled_dot_product_attention(torch.zeros(q), torch.zeros(k), torch.zeros(v), mask, **keywords)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: MultiHeadAttention(D, 0), "num_heads must be at least 1, got 0"),
        (lambda: MultiHeadAttention(0, 1), "d_model must be at least 1, got 0"),
        (lambda: MultiHeadAttention(D, H, dropout=1.0), r"\[0, 1\), got 1.0"),
        (lambda: MultiHeadAttention(D, H, dropout=-0.1), "got -0.1"),
        (lambda: MultiHeadAttention(D, H, dropout=float("nan")), "got nan"),
        (lambda: MultiHeadAttention(D, H, num_kv_heads=2), "num_kv_heads = 2, num_heads = 3"),
        (lambda: MultiHeadAttention(D, H, num_kv_heads=0), "num_kv_heads = 0, num_heads = 3"),
        (lambda: TransformerBlock(D, H, 17, num_kv_heads=6), "num_kv_heads = 6, num_heads = 3"),
        (lambda: TransformerBlock(D, 2, 17), "num_heads = 2, d_model = 15"),
        (lambda: TransformerBlock(D, H, 0), "d_ff must be at least 1, got 0"),
        (lambda: TransformerBlock(D, H, 17, 1.5), "got 1.5"),
        (lambda: attend(q=(N, D)), r"query .*15.*\(7, 15\)"),
        (lambda: attend(k=(B, NK, D + 1)), r"key .*d_model = 15.*\(2, 11, 16\)"),
        (lambda: attend(v=(B, 1, NK, D)), r"value .*\(2, 1, 11, 15\)"),
        (lambda: attend(k=(3, NK, D)), "batch size, got 2, 3 and 2"),
        (lambda: attend(v=(5, NK, D)), "batch size, got 2, 2 and 5"),
        (lambda: attend(v=(B, N, D)), "n_k, got 11 and 7"),
        (lambda: attend(mask=(B, NK)), r"mask of shape \(2, 11\).*\(2, 3, 7, 11\).*mask\[:, None, None, :\]"),
        (lambda: attend(mask=(N, NK + 1)), r"\(7, 12\) does not broadcast.*\(2, 3, 7, 11\)"),
        (lambda: attend(mask=(N, 0)), r"\(7, 0\) does not broadcast"),
        (lambda: attend(mask=(B, N, NK)), r"\(2, 7, 11\).*mask\[:, None\].*mask\[None\]"),
        (lambda: attend(mask=(H, N, NK)), r"\(3, 7, 11\).*mask\[:, None\].*mask\[None\]"),
        (lambda: attend(mask=(1, B, 1, N, NK)), r"\(1, 2, 1, 7, 11\)"),
        (lambda: attend(q=(1, N, D), k=(1, NK, D), v=(1, NK, D), mask=(B, 1, N, NK)), r"\(2, 1, 7, 11\)"),
        (lambda: attend(mask=torch.full((N, NK), -torch.inf)), "-inf to -inf.*bias="),
        (lambda: attend(mask=torch.zeros(N, NK) - 1e9), r"-1e\+09.*bias="),
        (lambda: attend(mask=torch.full((N, NK), 0.5)), r"0.5.*bias="),
        (lambda: attend(bias=torch.zeros(B, N, NK)), r"bias of shape \(2, 7, 11\).*bias\[:, None\]"),
        (lambda: attend(bias=torch.zeros(B, NK)), r"bias of shape \(2, 11\).*bias\[:, None, None, :\]"),
        (lambda: attend(bias=torch.ones(N, NK, dtype=torch.bool)), "bool.*mask="),
        (lambda: attend(rotary=lambda x: x[..., :4]), r"rotary.*queries \(2, 3, 7, 5\), got \(2, 3, 7, 4\)"),
        (
            lambda: attend(rotary=lambda x: x[:, :1] if x.shape[2] == NK else x),
            r"keys \(2, 3, 11, 5\), got \(2, 1, 11, 5\)",
        ),
        (lambda: attend(rotary=RotaryEmbedding(14)), r"d_k = 14\), got \(2, 3, 7, 5\)"),
        (lambda: function(q=(DK,)), r"\(5,\)"),
        (lambda: function(k=(3, NK, DK)), r"leading.*\(2, 7, 5\).*\(3, 11, 5\)"),
        (lambda: function(k=(1, NK, DK), v=(1, NK, DK)), r"leading.*\(1, 11, 5\)"),
        (
            lambda: function(k=(3, NK, DK), v=(3, NK, DK), enable_gqa=True),
            r"leading.*divide.*\(2, 7, 5\).*\(3, 11, 5\)",
        ),
        (lambda: function(k=(1, NK, DK), enable_gqa=True), r"leading.*divide.*\(1, 11, 5\).*\(2, 11, 5\)"),
        (lambda: function(k=(0, NK, DK), v=(0, NK, DK), enable_gqa=True), r"leading.*\(0, 11, 5\)"),
        (lambda: function(k=(B, NK, DK + 1)), r"d_k.*\(2, 11, 6\)"),
        (lambda: function(v=(B, NK + 2, DK)), r"n_k.*\(2, 13, 5\)"),
        (lambda: function(mask=(B, NK)), r"mask\[:, None, :\]"),
        (lambda: function(dropout_p=1.0), "got 1.0"),
        (lambda: masked_softmax(torch.zeros(N, NK), torch.ones(NK, N)), r"\(11, 7\).*\(7, 11\)"),
        (lambda: masked_softmax(torch.zeros(N, NK), torch.full((N, NK), -1.0)), "bias="),
    ],
)
def test_bad_input_is_a_value_error_with_the_numbers(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_a_padding_mask_with_as_many_sequences_as_queries_is_taken_for_query_by_key():
    """It cannot be told apart, which the docstring says: this holds what happens, so that it stays known."""
    attention = MultiHeadAttention(D, H).eval()
    x = torch.randn(N, N, D)
    mask = padding_mask(torch.arange(N) % 3 + 1, N)[:, 0, 0]
    assert mask.shape == (N, N)
    close(attention(x, x, x, mask)[0], attention(x, x, x, mask[None, None])[0])
    assert not torch.allclose(attention(x, x, x, mask)[0], attention(x, x, x, mask[:, None, None])[0])


def test_three_dimensions_are_a_bias_per_head_and_a_mask_of_one():
    attention = MultiHeadAttention(D, H).eval()
    q, k = torch.randn(B, N, D), torch.randn(B, NK, D)
    bias = torch.randn(H, N, NK)
    close(attention(q, k, k, bias=bias)[0], attention(q, k, k, bias=bias[None])[0])
    mask = torch.rand(1, N, NK) > 0.5
    close(attention(q, k, k, mask)[0], attention(q, k, k, mask[0])[0])


# --- the modules ----------------------------------------------------------------------------------------


def make(name, **keywords):
    if name == "MultiHeadAttention":
        attention = MultiHeadAttention(D, H, **keywords)
        return attention, lambda module, x, *args, **kw: module(x, x, x, *args, **kw)
    block = TransformerBlock(D, H, 17, norm_first=name == "pre-norm", **keywords)
    return block, lambda module, x, *args, **kw: module(x, *args, **kw)


MODULES = ["MultiHeadAttention", "post-norm", "pre-norm"]
every_module = pytest.mark.parametrize("name", MODULES)


def test_pre_norm_never_normalises_the_residual_stream():
    block = TransformerBlock(D, H, 17, norm_first=True).eval()
    x = torch.randn(B, N, D)
    attended, weights = block.attention(block.norm1(x), block.norm1(x), block.norm1(x))
    middle = x + attended
    close(block(x)[0], middle + block.feed_forward(block.norm2(middle)))
    close(block(x)[1], weights)
    with torch.no_grad():  # with silent branches the stream passes unchanged
        block.attention.w_o.weight.zero_(), block.attention.w_o.bias.zero_()
        block.feed_forward[3].weight.zero_(), block.feed_forward[3].bias.zero_()
    assert torch.equal(block(x)[0], x)


@every_module
def test_mask_bias_and_causality_reach_the_attention(name):
    module, call = make(name)
    module.eval()
    x = torch.randn(B, N, D)
    mask = padding_mask(torch.tensor([N, 4]), N)
    bias = torch.randn(H, N, N)
    expected = call(module, x, causal_mask(N) & mask, bias=bias)
    for keywords in ({}, {"need_weights": False}):
        output, weights = call(module, x, mask, bias=bias, is_causal=True, **keywords)
        close(output, expected[0])
        assert weights is None if keywords else torch.equal(weights, expected[1])


# --- positions in the attention: rotary and ALiBi --------------------------------------------------------

WIDE = H * 14  # heads of an even width, which turn in pairs


def turned(name, **keywords):
    """As `make`, but as wide as rotary needs it, in eval mode."""
    if name == "MultiHeadAttention":
        attention = MultiHeadAttention(WIDE, H, **keywords).eval()
        return attention, lambda module, x, *args, **kw: module(x, x, x, *args, **kw)
    block = TransformerBlock(WIDE, H, 17, norm_first=name == "pre-norm", **keywords).eval()
    return block, lambda module, x, *args, **kw: module(x, *args, **kw)


@pytest.mark.parametrize("need_weights", [True, False])
def test_rotary_turns_the_heads_of_queries_and_keys_and_leaves_the_values(need_weights):
    attention = MultiHeadAttention(WIDE, H).eval()
    q, k, v = torch.randn(B, N, WIDE), torch.randn(B, NK, WIDE), torch.randn(B, NK, WIDE)
    heads = [
        apply_rotary(split_heads(attention.w_q(q), H), torch.arange(N)),
        apply_rotary(split_heads(attention.w_k(k), H), torch.arange(NK)),
        split_heads(attention.w_v(v), H),
    ]
    expected, expected_weights = scaled_dot_product_attention(*heads)
    output, weights = attention(q, k, v, rotary=RotaryEmbedding(14), need_weights=need_weights)
    close(output, attention.w_o(merge_heads(expected)))
    if need_weights:
        close(weights, expected_weights)


@every_module
def test_rotary_reaches_the_attention_and_without_it_every_bit_stays(name):
    module, call = turned(name)
    x, mask, rotary = torch.randn(B, N, WIDE), padding_mask(torch.tensor([N, 4]), N), RotaryEmbedding(14)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    for keywords in ({}, {"is_causal": True}, {"need_weights": False}, {"bias": alibi_bias(H, N)}):
        plain, weights = call(module, x, mask, **keywords)
        same, same_weights = call(module, x, mask, rotary=lambda heads: heads, **keywords)
        assert torch.equal(same, plain)
        assert weights is None or torch.equal(same_weights, weights)
        different, _ = call(module, x, mask, rotary=rotary, **keywords)
        assert not torch.allclose(different, plain)
        close(different, call(module, x, mask, rotary=rotary, **keywords | {"need_weights": True})[0])
    after = module.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)


@every_module
@pytest.mark.parametrize("encoding", ["rotary", "alibi"])
def test_positions_in_the_attention_make_the_order_count(name, encoding):
    module, call = turned(name)
    module.double()
    x, order = torch.randn(B, N, WIDE, dtype=torch.float64), torch.tensor([3, 0, 6, 2, 5, 1, 4])
    given = {"rotary": RotaryEmbedding(14)} if encoding == "rotary" else {"bias": alibi_bias(H, N)}
    close(call(module, x[:, order])[0], call(module, x)[0][:, order])
    moved = call(module, x[:, order], **given)[0] - call(module, x, **given)[0][:, order]
    assert moved.abs().max() > 1e-4
    # Both look at distances alone: in front of the same tokens, hidden ones change nothing.
    longer = torch.cat([torch.randn(B, 4, WIDE, dtype=torch.float64), x], dim=1)
    hidden = torch.arange(4 + N) >= 4
    if encoding == "alibi":
        given = {"bias": alibi_bias(H, 4 + N)}
    shifted, _ = call(module, longer, hidden, **given)
    expected = call(module, x, **(given if encoding == "rotary" else {"bias": alibi_bias(H, N)}))[0]
    close(shifted[:, 4:], expected)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("encoding", ["rotary", "alibi"])
def test_the_last_queries_alone_give_the_last_rows_of_the_whole_pass(encoding, need_weights):
    attention = MultiHeadAttention(WIDE, H).double().eval()
    x = torch.randn(B, NK, WIDE, dtype=torch.float64)

    def attend(n_q, n_k):
        given = {"rotary": RotaryEmbedding(14)} if encoding == "rotary" else {"bias": alibi_bias(H, n_q, n_k)}
        query, key = x[:, NK - n_q :], x[:, NK - n_k :]
        return attention(query, key, key, is_causal=True, need_weights=need_weights, **given)[0]

    whole = attend(NK, NK)
    for n_q in (1, 2, 10):
        close(attend(n_q, NK), whole[:, NK - n_q :])
    # More queries than keys: the first ones see nothing, the others what they would see without them.
    close(attend(NK, 5)[:, NK - 5 :], attend(5, 5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_q", [N, NK, 13])
def test_the_fused_kernel_takes_the_alibi_bias_with_every_mask(n_q, dtype):
    """`NK` keys. Forward and backward, with gradients for the bias where one is learned."""
    masks = [None, padding_mask(torch.tensor([NK, 4]), NK), torch.rand(B, 1, n_q, NK) > 0.4]
    masks[2][0, :, 2] = False
    for mask in masks:
        for is_causal in (False, True):
            for learned in (False, True):
                bias = alibi_bias(H, n_q, NK).requires_grad_(learned)
                inputs = [*qkv(dtype, n_q=n_q, grad=True), *([bias] if learned else [])]
                given = {"bias": bias, "is_causal": is_causal}
                plain, _ = scaled_dot_product_attention(*inputs[:3], mask, **given)
                fused, _ = scaled_dot_product_attention(*inputs[:3], mask, **given, need_weights=False)
                close(fused, plain)
                towards = torch.randn_like(plain)
                for one, other in zip(
                    torch.autograd.grad(fused, inputs, towards),
                    torch.autograd.grad(plain, inputs, towards),
                    strict=True,
                ):
                    assert one.isfinite().all()
                    close(one, other, dtype)
    assert torch.equal(bias, alibi_bias(H, n_q, NK)), "and the bias is not written into"


@pytest.mark.parametrize("keywords", [{}, {"is_causal": True}, {"mask": torch.arange(67) < 61}])
def test_a_bias_without_gradient_takes_the_fused_kernel_and_costs_one_copy_of_itself(keywords):
    n = 67
    q, bias = torch.randn(B, H, n, DK), alibi_bias(H, n)
    made, kernels = [], set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            kernels.add(func.overloadpacket.__name__)
            seen = {
                t.data_ptr() for t in torch.utils._pytree.tree_leaves(args) if isinstance(t, torch.Tensor)
            }
            for t in torch.utils._pytree.tree_leaves(out):
                if isinstance(t, torch.Tensor) and t.numel() >= H * n * n and t.data_ptr() not in seen:
                    made.append((func, t.shape))
            return out

    def watched(bias):
        made.clear(), kernels.clear()
        with Watch():
            scaled_dot_product_attention(q, q, q, bias=bias, need_weights=False, **keywords)

    with torch.no_grad():
        watched(bias)
    assert "_scaled_dot_product_flash_attention_for_cpu" in kernels and len(made) == 1, made
    watched(
        bias.clone().requires_grad_()
    )  # torch has no such kernel for a bias that learns: the plain formula
    assert "_scaled_dot_product_flash_attention_for_cpu" not in kernels and len(made) > 1


@pytest.mark.parametrize(("way", "need_weights"), [("compiled", False), ("exported", True)])
def test_attention_with_positions_compiles_and_exports(way, need_weights):
    class Positions(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.rotary = MultiHeadAttention(WIDE, H).eval(), RotaryEmbedding(14)

        def forward(self, x):
            given = {"bias": alibi_bias(H, x.shape[1]), "is_causal": True, "need_weights": need_weights}
            return self.attention(x, x, x, rotary=self.rotary, **given)[0]

    module, x = Positions(), torch.randn(B, N, WIDE)
    if way == "compiled":
        twin = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    else:
        length = torch.export.Dim("length", min=2, max=4096)
        twin = torch.export.export(module, (x,), dynamic_shapes=({1: length},)).module()
    for given in (x, torch.randn(B, 13, WIDE)):
        close(twin(given), module(given))


# --- heads that share their keys, and a cache of them -----------------------------------------------------

H6, GROUPS = 6, [1, 2, 3]  # heads of queries, and of keys and values


def grouped(num_kv_heads, dtype=torch.float64, *, n_q=N, n_k=NK, d_v=DK, grad=False):
    q, _, _ = qkv(dtype, n_q=n_q, lead=(B, H6), grad=grad)
    _, k, v = qkv(dtype, n_k=n_k, d_v=d_v, lead=(B, num_kv_heads), grad=grad)
    return q, k, v


def repeated(q, k, v):
    """The definition: every head of keys and values is there once for each head of queries that it serves."""
    return q, *(x.repeat_interleave(q.shape[-3] // x.shape[-3], dim=-3) for x in (k, v))


def grouped_masks(n_q, n_k):
    masks = [
        torch.rand(shape) > 0.4 for shape in ((n_q, n_k), (B, 1, n_q, n_k), (H6, 1, n_k), (B, H6, n_q, n_k))
    ]
    for mask in masks:
        mask[..., 0, :] = False  # the first query sees nothing
    return [
        None,
        padding_mask(torch.tensor([n_k, n_k // 2]), n_k),
        padding_mask(torch.tensor([n_k, 0]), n_k),
        *masks,
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("num_kv_heads", GROUPS)
def test_grouped_attention_is_attention_with_repeated_keys_forward_and_backward(
    num_kv_heads, need_weights, dtype
):
    for n_q, n_k, d_v in ((N, NK, DK), (NK, NK, DK), (1, NK, DK), (N, NK, DK + 2)):
        for mask in grouped_masks(n_q, n_k):
            for bias in (None, torch.randn(H6, n_q, n_k)):
                for is_causal in (False, True):
                    inputs = grouped(num_kv_heads, dtype, n_q=n_q, n_k=n_k, d_v=d_v, grad=True)
                    expected, weights = scaled_dot_product_attention(
                        *repeated(*inputs), mask, bias=bias, is_causal=is_causal
                    )
                    output, mine = scaled_dot_product_attention(
                        *inputs,
                        mask,
                        bias=bias,
                        is_causal=is_causal,
                        need_weights=need_weights,
                        enable_gqa=True,
                    )
                    assert output.dtype == dtype
                    close(output, expected)
                    assert mine is None if not need_weights else mine.shape == weights.shape
                    if need_weights:
                        close(mine, weights)
                    towards = torch.randn_like(expected)
                    for one, other in zip(
                        torch.autograd.grad(output, inputs, towards),
                        torch.autograd.grad(expected, inputs, towards),
                        strict=True,
                    ):
                        close(one, other)


@pytest.mark.parametrize("lead", [(), (2,), (2, 1, 3)])
@pytest.mark.parametrize("need_weights", [True, False])
def test_groups_are_in_the_last_but_two_dimension_whatever_stands_before(lead, need_weights):
    q = torch.randn(*lead, H6, N, DK)
    k, v = torch.randn(*lead, 2, NK, DK), torch.randn(*lead, 2, NK, DK)
    output, _ = scaled_dot_product_attention(q, k, v, need_weights=need_weights, enable_gqa=True)
    close(output, scaled_dot_product_attention(*repeated(q, k, v))[0])


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("num_kv_heads", GROUPS)
def test_a_module_with_groups_is_the_ordinary_one_with_the_rows_of_its_projections_repeated(
    num_kv_heads, need_weights
):
    small = MultiHeadAttention(H6 * DK, H6, num_kv_heads=num_kv_heads).double().eval()
    assert small.w_k.weight.shape == small.w_v.weight.shape == (num_kv_heads * DK, H6 * DK)
    assert small.num_kv_heads == num_kv_heads and f"num_kv_heads={num_kv_heads}" in repr(small)
    whole = MultiHeadAttention(H6 * DK, H6).double().eval()
    state = small.state_dict()
    for name in ("w_k.weight", "w_k.bias", "w_v.weight", "w_v.bias"):
        heads = state[name].unflatten(0, (num_kv_heads, DK))
        state[name] = heads.repeat_interleave(H6 // num_kv_heads, dim=0).flatten(0, 1)
    whole.load_state_dict(state)
    x, y = torch.randn(B, N, H6 * DK).double(), torch.randn(B, NK, H6 * DK).double()
    mask = torch.rand(B, 1, N, NK) > 0.3
    for given in ({}, {"is_causal": True}, {"mask": mask, "bias": torch.randn(H6, N, NK)}):
        output, weights = small(x, y, y, need_weights=need_weights, **given)
        expected, all_weights = whole(x, y, y, **given)
        close(output, expected)
        if need_weights:
            close(weights, all_weights)


@every_module
def test_as_many_heads_of_keys_as_of_queries_is_the_module_as_it_was(name):
    torch.manual_seed(3)
    module, call = make(name)
    torch.manual_seed(3)
    twin, _ = make(name, num_kv_heads=H)
    x = torch.randn(B, N, D)
    assert module.state_dict().keys() == twin.state_dict().keys()
    assert torch.equal(call(module.eval(), x)[0], call(twin.eval(), x)[0])
    assert "num_kv_heads" not in repr(twin)


class Made(TorchDispatchMode):
    """Elements of the largest tensor with memory of its own that is made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves
        known = {t.untyped_storage()._cdata for t in leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for t in leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata not in known:
                self.largest = max(self.largest, t.numel())
        return out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("need_weights", [True, False])
def test_keys_that_are_shared_are_not_copied(need_weights, masked):
    n_k = 997
    q, k, v = grouped(2, torch.float32, n_q=1, n_k=n_k)
    mask = padding_mask(torch.tensor([n_k, 5]), n_k) if masked else None
    with Made() as made, torch.no_grad():
        scaled_dot_product_attention(
            q, k, v, mask, is_causal=not masked, need_weights=need_weights, enable_gqa=True
        )
    assert 0 < made.largest <= B * H6 * n_k < k.numel() * 3
    with Made() as made, torch.no_grad():
        scaled_dot_product_attention(*repeated(q, k, v), mask, need_weights=need_weights)
    assert made.largest >= k.numel() * 3, "the watch sees what is copied"


def test_heads_that_share_keys_are_rows_of_one_table_unless_something_tells_them_apart(monkeypatch):
    """What torch is asked for: of its own way, older versions copy the keys."""
    asked, masks, kernel = [], [], F.scaled_dot_product_attention

    def watched(q, k, v, *args, **keywords):
        asked.append((tuple(q.shape[1:3]), keywords.get("enable_gqa", False), args[2]))
        masks.append(args[0] is not None)
        return kernel(q, k, v, *args, **keywords)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    padding = padding_mask(torch.tensor([NK, 4]), NK)
    for n_q, mask, is_causal, expected in (
        (1, None, True, ((2, 3), False, False)),
        (N, None, False, ((2, 3 * N), False, False)),
        (N, padding, False, ((2, 3 * N), False, False)),
        (NK, None, True, ((H6, NK), True, True)),
        (N, None, True, ((H6, N), True, False)),
        (N, torch.rand(N, NK) > 0.5, False, ((H6, N), True, False)),
        (N, torch.rand(B, H6, 1, NK) > 0.5, False, ((H6, N), True, False)),
    ):
        inputs = grouped(2, n_q=n_q)
        scaled_dot_product_attention(*inputs, mask, is_causal=is_causal, need_weights=False, enable_gqa=True)
        assert asked.pop() == expected
        assert masks.pop() == (mask is not None or (n_q == N and is_causal)), (
            "and no mask is made for one query"
        )


def cached(name, num_kv_heads, max_len=NK):
    """A module with heads of width 14, and a cache for it."""
    module, call = turned(name, num_kv_heads=num_kv_heads)
    return module.double(), call, KeyValueCache(B, num_kv_heads or H, max_len, 14, dtype=torch.float64)


@every_module
@pytest.mark.parametrize("num_kv_heads", [None, 1])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("positions", ["none", "rotary", "alibi"])
@pytest.mark.parametrize("chunks", [[1] * NK, [NK], [4, 1, 1, 5], [2, 0, 9]], ids=str)
def test_tokens_one_by_one_or_in_chunks_with_a_cache_give_the_whole_causal_pass(
    name, num_kv_heads, need_weights, positions, chunks
):
    module, call, cache = cached(name, num_kv_heads)
    x = torch.randn(B, NK, WIDE, dtype=torch.float64)

    def given(n_q, n_k):
        if positions == "alibi":
            return {"bias": alibi_bias(H, n_q, n_k)}
        return {"rotary": RotaryEmbedding(14)} if positions == "rotary" else {}

    expected, weights = call(module, x, is_causal=True, **given(NK, NK))
    end = 0
    for size in chunks:
        start, end = end, end + size
        with torch.no_grad():
            output, mine = call(
                module,
                x[:, start:end],
                is_causal=True,
                need_weights=need_weights,
                cache=cache,
                **given(size, end),
            )
        assert cache.length == end
        close(output, expected[:, start:end])
        if need_weights:
            close(mine, weights[:, :, start:end, :end])


@torch.no_grad()
def test_a_mask_spans_the_cached_keys_and_the_new_ones():
    module, call, cache = cached("MultiHeadAttention", 1)
    x = torch.randn(B, NK, WIDE, dtype=torch.float64)
    mask = torch.rand(B, 1, NK, NK) > 0.3
    for need_weights in (True, False):
        cache.length = 0
        call(module, x[:, :4], mask[..., :4, :4], is_causal=True, need_weights=need_weights, cache=cache)
        output, _ = call(
            module, x[:, 4:], mask[..., 4:, :], need_weights=need_weights, cache=cache, is_causal=True
        )
        close(output, call(module, x, mask, is_causal=True)[0][:, 4:])
    cache.length = 4
    with pytest.raises(ValueError, match=r"\(4, 9\) does not broadcast.*\(2, 3, 4, 8\)"):
        call(module, x[:, :4], torch.ones(4, 9), cache=cache)


@torch.no_grad()
def test_a_cache_that_is_set_back_forgets_the_last_tokens():
    module, call, cache = cached("post-norm", None)
    x = torch.randn(B, NK, WIDE, dtype=torch.float64)
    call(module, x, is_causal=True, cache=cache)
    first = call(module, x[:, :5], is_causal=True)[0]
    cache.length = 4
    close(call(module, x[:, 4:5], is_causal=True, cache=cache)[0], first[:, 4:])
    assert cache.length == 5


def test_a_cache_hands_out_views_of_all_tokens_so_far_and_knows_its_bytes():
    cache = KeyValueCache(B, 3, 13, DK, dtype=torch.bfloat16)
    assert cache.bytes_per_token == 2 * 3 * DK * 2
    assert cache.nbytes == cache.bytes_per_token * B * 13
    k, v = torch.randn(2, B, 3, 6, DK).bfloat16()
    cache.append(k[:, :, :5], v[:, :, :5])
    all_k, all_v = cache.append(k[:, :, 5:], v[:, :, 5:])
    assert cache.length == 6 and torch.equal(all_k, k) and torch.equal(all_v, v)
    assert all_k.data_ptr() == cache.keys.data_ptr() and all_v.data_ptr() == cache.values.data_ptr()
    assert "num_kv_heads=3, max_len=13" in repr(cache) and "length=6" in repr(cache)
    assert KeyValueCache(1, 1, 1, 1, device="meta").keys.device.type == "meta"
    assert KeyValueCache(1, 1, 1, 1).keys.dtype == torch.get_default_dtype()


def full_cache():
    cache = KeyValueCache(B, H, NK, DK)
    cache.append(*torch.randn(2, B, H, NK, DK))
    cache.length = 9
    return cache


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: c.append(*torch.zeros(2, B, H, 3, DK)), "max_len = 11 tokens: it holds 9, and 3 more"),
        (lambda c: c.append(*torch.zeros(2, B, H + 1, 1, DK)), r"k .*h_kv = 3.*got \(2, 4, 1, 5\)"),
        (lambda c: c.append(*torch.zeros(2, B + 1, H, 1, DK)), r"B = 2.*got \(3, 3, 1, 5\)"),
        (
            lambda c: c.append(torch.zeros(B, H, 1, DK), torch.zeros(B, H, 1, 6)),
            r"v .*d_k = 5.*\(2, 3, 1, 6\)",
        ),
        (lambda c: c.append(torch.zeros(B, H, 1, DK), torch.zeros(B, H, 2, DK)), "n_new, got 1 and 2"),
        (lambda c: c.append(*torch.zeros(2, H, 1, DK)), r"got \(3, 1, 5\)"),
        (
            lambda c: c.append(*torch.zeros(2, B, H, 1, DK).double()),
            "k is torch.float64 on cpu.*torch.float32",
        ),
        (lambda c: c.append(*torch.zeros(2, B, H, 1, DK, device="meta")), "on meta.*on cpu"),
        (
            lambda c: c.append(*torch.zeros(2, B, H, 1, DK, requires_grad=True)),
            r"k needs a gradient.*no_grad\(\)",
        ),
        (lambda c: attend(q=(B, 1, D), k=(B, 1, D), v=(B, 1, D), cache=c), "k needs a gradient"),
        (lambda c: attend(q=(B, 1, D), k=(B, 2, D), v=(B, 2, D), cache=c), "one length, got 1 and 2"),
    ],
)
def test_what_does_not_fit_the_cache_is_a_value_error_and_leaves_it_as_it_was(call, says):
    cache = full_cache()
    before = cache.keys.clone()
    with pytest.raises(ValueError, match=says):
        call(cache)
    assert cache.length == 9 and torch.equal(cache.keys, before)


def test_a_length_below_zero_is_told():
    cache = full_cache()
    cache.length = -1
    with pytest.raises(ValueError, match="between 0 and max_len = 11, got -1"):
        cache.append(*torch.zeros(2, B, H, 1, DK))


@pytest.mark.parametrize("name", ["batch", "num_kv_heads", "max_len", "d_k"])
def test_a_cache_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        KeyValueCache(**{"batch": B, "num_kv_heads": H, "max_len": NK, "d_k": DK, name: 0})


@torch.no_grad()
def test_generation_under_autocast_keeps_a_cache_of_the_lower_precision():
    attention, x = MultiHeadAttention(D, H, num_kv_heads=1).eval(), torch.randn(B, N, D)
    cache = KeyValueCache(B, 1, N, DK, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole, _ = attention(x, x, x, is_causal=True, need_weights=False)
        for i in range(N):
            token = x[:, i : i + 1]
            output, _ = attention(token, token, token, is_causal=True, need_weights=False, cache=cache)
            close(output[:, 0], whole[:, i])


@pytest.mark.parametrize("way", ["compiled", "exported"])
def test_groups_compile_and_export(way):
    attention = MultiHeadAttention(H6 * DK, H6, num_kv_heads=2).eval()
    x = torch.randn(B, N, H6 * DK)
    expected = attention(x, x, x, is_causal=True, need_weights=False)[0]
    if way == "compiled":
        run = torch.compile(attention, fullgraph=True, backend="aot_eager")
    else:
        run = torch.export.export(attention, (x, x, x), {"is_causal": True, "need_weights": False}).module()
    close(run(x, x, x, is_causal=True, need_weights=False)[0], expected)


# --- dropout, dtypes, compilers, devices -----------------------------------------------------------------


def test_dropout_changes_the_output_and_keeps_its_mean():
    q, k, v = qkv()
    expected, weights = scaled_dot_product_attention(q, k, v)
    for need_weights in (True, False):
        many = [
            scaled_dot_product_attention(q, k, v, dropout_p=0.3, need_weights=need_weights)
            for _ in range(400)
        ]
        outputs = torch.stack([output for output, _ in many])
        assert (outputs.std(0) > 0).all()
        assert (outputs.mean(0) - expected).abs().max() < 0.25
        if need_weights:
            close(many[0][1], weights)


@every_module
def test_dropout_acts_in_training_only(name):
    module, call = make(name, dropout=0.5)
    x = torch.randn(B, N, D)
    for need_weights in (True, False):
        module.train()
        assert not torch.equal(
            call(module, x, need_weights=need_weights)[0], call(module, x, need_weights=need_weights)[0]
        )
        module.eval()
        assert torch.equal(
            call(module, x, need_weights=need_weights)[0], call(module, x, need_weights=need_weights)[0]
        )


def test_no_mask_and_no_scores_are_made_where_the_kernel_needs_none():
    """With need_weights=False nothing of n² elements appears, causal or not."""
    n = 67
    attention = MultiHeadAttention(D, H).eval()
    x = torch.randn(1, n, D)
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(
                t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor)
            )
            return out

    for keywords in ({}, {"is_causal": True}):
        with Watch(), torch.no_grad():
            attention(x, x, x, need_weights=False, **keywords)
        assert sizes and max(sizes) < n * n
        sizes.clear()
    with Watch(), torch.no_grad():
        attention(x, x, x)
    assert max(sizes) >= n * n, "the watch sees what is made"


@every_module
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_stays_and_a_row_without_keys_has_finite_gradients(name, dtype):
    module, call = make(name)
    module.to(dtype)
    x = torch.randn(B, N, D, dtype=dtype, requires_grad=True)
    mask = torch.rand(B, 1, N, N) > 0.5
    mask[0, :, 2] = False
    mask[1] = False
    for keywords in (
        {},
        {"need_weights": False},
        {"bias": torch.zeros(N, N).masked_fill(mask[0, 0], -torch.inf)},
    ):
        output, _ = call(module.eval(), x, mask, **keywords)
        assert output.dtype == dtype and output.isfinite().all()
        gradients = torch.autograd.grad(output.square().sum(), [x, *module.parameters()])
        assert all(g.dtype == dtype and g.isfinite().all() for g in gradients)
        if name == "MultiHeadAttention":
            assert torch.equal(output[1], module.w_o.bias.expand(N, D))
            assert torch.equal(output[0, 2], module.w_o.bias)


@every_module
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_works_with_masks_and_biases(name, dtype):
    module, call = make(name)
    module.eval()
    x = torch.randn(B, N, D, requires_grad=True)
    mask = padding_mask(torch.tensor([N, 0]), N)
    bias = torch.randn(H, N, N)
    expected, _ = call(module, x, mask, bias=bias, is_causal=True)
    for need_weights in (True, False):
        with torch.autocast("cpu", dtype=dtype):
            output, _ = call(module, x, mask, bias=bias, is_causal=True, need_weights=need_weights)
        close(output.float(), expected, dtype)
        (gradient,) = torch.autograd.grad(output.float().square().sum(), x)
        assert gradient.isfinite().all()


@every_module
@pytest.mark.parametrize("need_weights", [True, False])
def test_export_with_dynamic_batch_and_length_gives_the_same_numbers(name, need_weights):
    module, _ = make(name)
    module.eval()
    names = ["query", "key", "value"] if name == "MultiHeadAttention" else ["x"]
    batch, length = torch.export.Dim("batch", min=2), torch.export.Dim("length", min=2)
    keywords = {"is_causal": True, "need_weights": need_weights}
    program = torch.export.export(
        module,
        (torch.randn(B, N, D),) * len(names) + (torch.ones(B, 1, 1, N),),
        keywords,
        dynamic_shapes={key: {0: batch, 1: length} for key in names}
        | {"mask": {0: batch, 3: length}}
        | dict.fromkeys(keywords),
    )
    arguments = (torch.randn(5, 13, D),) * len(names) + ((torch.rand(5, 1, 1, 13) > 0.3).float(),)
    close(program.module()(*arguments, **keywords)[0], module(*arguments, **keywords)[0])


@pytest.mark.parametrize(("name", "need_weights"), [("MultiHeadAttention", True), ("pre-norm", False)])
def test_compiles_into_one_graph(name, need_weights):
    module, call = make(name)
    module.eval()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    x = torch.randn(B, N, D, requires_grad=True)
    mask = padding_mask(torch.tensor([N, 0]), N)
    output, _ = call(compiled, x, mask, is_causal=True, need_weights=need_weights)
    expected, _ = call(module, x, mask, is_causal=True, need_weights=need_weights)
    close(output, expected)
    close(
        torch.autograd.grad(output.square().sum(), x),
        torch.autograd.grad(expected.square().sum(), x),
        x.dtype,
    )


def test_a_float_mask_compiles_although_its_values_are_not_looked_at():
    attention = MultiHeadAttention(D, H).eval()
    compiled = torch.compile(
        lambda x, mask, lengths: attention(x, x, x, mask * padding_mask(lengths, N))[0],
        fullgraph=True,
        backend="aot_eager",
    )
    x, mask, lengths = torch.randn(B, N, D), causal_mask(N).float(), torch.tensor([N, 3])
    expected = attention(x, x, x, causal_mask(N) & padding_mask(lengths, N))[0]
    close(compiled(x, mask, lengths), expected)


def test_fake_tensors_pass_with_masks_whose_values_do_not_exist():
    with FakeTensorMode():
        attention, x = MultiHeadAttention(D, H), torch.randn(B, N, D)
        for mask in (causal_mask(N).float(), padding_mask(torch.ones(B, dtype=torch.long), N)):
            assert attention(x, x, x, mask)[0].shape == (B, N, D)


@every_module
def test_survives_pickling_and_copying(name):
    module, call = make(name)
    module.eval()
    x = torch.randn(B, N, D)
    for twin in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(call(twin, x)[0], call(module, x)[0])
        assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in module.parameters()}


@every_module
def test_runs_on_the_meta_device_so_nothing_is_made_on_another(name):
    with torch.device("meta"):
        module, call = make(name)
        x = torch.randn(B, N, D)
        masks = [
            None,
            causal_mask(N),
            torch.ones(B, 1, N, N),
            padding_mask(torch.ones(B, dtype=torch.long), N),
        ]
        bias = torch.randn(H, N, N)
    for mask in masks:
        for keywords in ({}, {"need_weights": False}, {"is_causal": True, "bias": bias}):
            output, _ = call(module, x, mask, **keywords)
            assert output.device.type == "meta" and output.shape == (B, N, D)


@every_module
def test_nothing_is_written_into_the_arguments_nor_into_torchs_state(name):
    module, call = make(name)
    module.eval()
    x, mask, bias = torch.randn(B, N, D), torch.rand(N, N) > 0.5, torch.randn(N, N)
    mask[2] = False
    before = [t.clone() for t in (x, mask, bias)]
    state = torch.get_rng_state()
    for need_weights in (True, False):
        with torch.no_grad():
            call(module, x, mask, bias=bias, is_causal=True, need_weights=need_weights)
            call(module, x, mask.float(), need_weights=need_weights)
            masked_softmax(bias, mask)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, mask, bias), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_causal", [False, True])
def test_on_a_gpu_every_kernel_gives_the_definitions_numbers_and_zeros_where_nothing_is_allowed(
    is_causal, dtype
):
    for mask in MASKS.values():
        for bias in BIASES.values():
            inputs = [x.cuda().detach().requires_grad_() for x in qkv(dtype)]
            arguments = {
                "mask": None if mask is None else mask.cuda(),
                "bias": None if bias is None else bias.cuda(),
                "is_causal": is_causal,
            }
            exact, _ = scaled_dot_product_attention(*[x.double() for x in inputs], **arguments)
            for need_weights in (True, False):
                output, _ = scaled_dot_product_attention(*inputs, **arguments, need_weights=need_weights)
                close(output.double(), exact, dtype)
                gradients = torch.autograd.grad(output.sum(), inputs)
                assert all(g.isfinite().all() for g in gradients)
                assert (output[(exact == 0).all(-1)] == 0).all()


@pytest.mark.gpu
@every_module
def test_on_a_gpu_the_modules_run_in_every_dtype_and_under_autocast(name):
    for dtype in DTYPES:
        module, call = make(name)
        module.to("cuda", dtype).eval()
        x = torch.randn(B, N, D, device="cuda", dtype=dtype)
        mask = padding_mask(torch.tensor([N, 0], device="cuda"), N)
        close(call(module, x, mask)[0], call(module, x, mask, need_weights=False)[0])
        with torch.autocast("cuda", dtype=torch.float16):
            assert call(module, x.float() if dtype != torch.float64 else x, mask)[0].isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_gpu_positions_give_the_numbers_of_the_definition(dtype):
    attention = MultiHeadAttention(WIDE, H).to("cuda", dtype).eval()
    x = torch.randn(B, N, WIDE, device="cuda", dtype=dtype)
    bias, rotary = alibi_bias(H, N, device="cuda"), RotaryEmbedding(14)
    exact = copy.deepcopy(attention).double()(
        *[x.double()] * 3, bias=bias, rotary=RotaryEmbedding(14), is_causal=True
    )[0]
    for need_weights in (True, False):
        output, _ = attention(x, x, x, bias=bias, rotary=rotary, is_causal=True, need_weights=need_weights)
        assert output.dtype == dtype and rotary.cache.device.type == "cuda"
        close(output.double(), exact, dtype)
    heads = torch.randn(B, H, N, 14, device="cuda", dtype=dtype)
    close(rotary(heads), apply_rotary(heads, torch.arange(N, device="cuda")))


def test_attention_agrees_with_torchs_own_function():
    q, k, v = qkv()
    mask = torch.rand(N, NK) > 0.3
    close(scaled_dot_product_attention(q, k, v, mask)[0], F.scaled_dot_product_attention(q, k, v, mask))
