"""Entropy, distance and the summaries of attention maps, on maps whose answer is known."""

import math

import pytest
import torch

from attn_course import AttentionAnalysis, attention_entropy, mean_attention_distance, textbook

WIDE = [torch.float64, torch.float32]
NARROW = [torch.float16, torch.bfloat16]


def one_hot(*keys, n):
    """(1, h, n_q, n_k) from one list of keys for each head."""
    return torch.nn.functional.one_hot(torch.tensor(keys), n).float()[None]


def softmax_maps(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype).softmax(dim=-1)


@pytest.mark.parametrize("dtype", WIDE + NARROW)
def test_the_entropy_of_a_one_hot_row_is_exactly_zero(dtype):
    entropy = attention_entropy(one_hot([0, 2, 4], n=5).to(dtype))
    assert entropy.dtype == dtype
    assert entropy.tolist() == [[[0.0, 0.0, 0.0]]]
    assert not torch.signbit(entropy).any()


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_the_entropy_of_a_uniform_row_is_log_n(n):
    torch.testing.assert_close(
        attention_entropy(torch.full((3, n), 1 / n, dtype=torch.float64)),
        torch.full((3,), math.log(n), dtype=torch.float64),
    )


def test_the_entropy_of_a_row_by_hand():
    weights = torch.tensor([[0.5, 0.25, 0.25, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(attention_entropy(weights).item(), 1.5 * math.log(2))


def test_the_entropy_has_any_leading_dimensions_and_ignores_the_order_of_the_keys():
    weights = softmax_maps(2, 3, 5, 7)
    entropy = attention_entropy(weights)
    assert entropy.shape == (2, 3, 5)
    torch.testing.assert_close(attention_entropy(weights.flip(-1)), entropy)
    assert attention_entropy(weights[0, 0]).shape == (5,)


def test_a_row_of_zeros_has_entropy_zero_and_finite_gradients():
    weights = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    entropy = attention_entropy(weights)
    entropy.sum().backward()
    assert entropy.tolist() == [0.0, 0.0]
    assert weights.grad.isfinite().all()


def test_the_gradients_of_entropy_and_distance_are_those_of_their_formulas():
    weights = softmax_maps(2, 5, 5).requires_grad_()
    assert torch.autograd.gradcheck(attention_entropy, weights)
    assert torch.autograd.gradcheck(mean_attention_distance, weights)
    (grad,) = torch.autograd.grad(attention_entropy(weights).sum(), weights)
    torch.testing.assert_close(grad, -weights.detach().log() - 1)


@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_weights_are_summed_in_float32(dtype):
    tolerance = torch.finfo(dtype).eps
    n = 2**16  # 1 / n is exact in both, and below the smallest normal float16
    row = torch.full((1, n), 1 / n, dtype=dtype)
    assert attention_entropy(row).item() == pytest.approx(math.log(n), rel=tolerance)
    n = 1024
    weights = torch.full((n, n), 1 / n, dtype=dtype)
    assert mean_attention_distance(weights).item() == pytest.approx((n**2 - 1) / (3 * n), rel=tolerance)


@pytest.mark.parametrize("n", [1, 2, 5, 13])
def test_distances_of_maps_that_look_at_themselves_back_and_everywhere(n):
    eye = torch.eye(n, dtype=torch.float64)
    assert mean_attention_distance(eye).item() == 0
    uniform = torch.full((n, n), 1 / n, dtype=torch.float64)
    assert mean_attention_distance(uniform).item() == pytest.approx((n**2 - 1) / (3 * n))
    if n > 1:
        previous = eye.roll(1, dims=0)  # the first query looks at the last key
        assert mean_attention_distance(previous).item() == pytest.approx(2 * (n - 1) / n)


def test_the_distance_counts_rows_as_queries_and_keeps_heads_apart():
    first_key = one_hot([0, 0, 0], [0, 1, 2], n=3)
    assert mean_attention_distance(first_key).tolist() == [[1.0, 0.0]]
    skewed = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    assert mean_attention_distance(skewed).item() == pytest.approx((1 + 0.5 + 0) / 3)


def test_neither_writes_into_the_weights():
    weights = softmax_maps(2, 5, 5)
    before = weights.clone()
    attention_entropy(weights)
    mean_attention_distance(weights)
    AttentionAnalysis.analyze_transformer_attention(weights[None])
    assert torch.equal(weights, before)


@pytest.mark.parametrize("function", [attention_entropy, mean_attention_distance])
@pytest.mark.parametrize("bad", [torch.ones(3), torch.ones(3, 3, dtype=torch.long)])
def test_what_is_no_map_is_refused_with_its_shape(function, bad):
    with pytest.raises(ValueError, match=r"n_q, n_k\), got torch\.\w+ \(3"):
        function(bad)


@pytest.mark.parametrize("shape", [(2, 3, 5), (0, 0)])
def test_a_distance_needs_a_square_map(shape):
    with pytest.raises(ValueError, match=rf"\(…, n, n\) with n >= 1, got \({shape[0]}, {shape[1]}"):
        mean_attention_distance(torch.ones(shape))


# --- AttentionAnalysis -------------------------------------------------------------------------------------


def opposite_heads():
    """Two heads that are sure of themselves, and disagree."""
    return one_hot([0, 0, 0], [2, 2, 2], n=3)


def sees_that_heads_are_decided(analysis):
    entropy = analysis.analyze_transformer_attention(opposite_heads())["attention_entropy"]
    return entropy.shape == (1, 3) and bool((entropy == 0).all())


def test_two_opposite_one_hot_heads_are_not_undecided_as_in_the_textbook_form():
    assert sees_that_heads_are_decided(AttentionAnalysis)
    assert not sees_that_heads_are_decided(textbook.AttentionAnalysis)


def knows_what_a_causal_map_reaches(analysis):
    causal = torch.ones(5, 5).tril().softmax(dim=-1).tril()
    return analysis.analyze_transformer_attention(causal[None, None])["global_connectivity"] is False


def test_connectivity_is_computed_where_the_textbook_form_claims_it():
    assert knows_what_a_causal_map_reaches(AttentionAnalysis)
    assert not knows_what_a_causal_map_reaches(textbook.AttentionAnalysis)


def test_connectivity_takes_the_heads_together_and_each_sequence_by_itself():
    left, right = torch.ones(3, 3).tril(), torch.ones(3, 3).triu()
    both = torch.stack([left, right])
    analyze = AttentionAnalysis.analyze_transformer_attention
    assert analyze(both[None])["global_connectivity"] is True
    assert analyze(both[:, None])["global_connectivity"] is False
    assert analyze(softmax_maps(2, 3, 5, 7))["global_connectivity"] is True


def test_a_single_head_gives_the_documents_numbers():
    weights = softmax_maps(2, 1, 5, 5, seed=3)
    ours = AttentionAnalysis.analyze_transformer_attention(weights)
    usual = textbook.AttentionAnalysis.analyze_transformer_attention(weights)
    assert usual.keys() <= ours.keys()
    assert ours["pattern"] == usual["pattern"]
    assert ours["global_connectivity"] == usual["global_connectivity"]
    torch.testing.assert_close(ours["max_attention"], usual["max_attention"])
    torch.testing.assert_close(ours["attention_entropy"], usual["attention_entropy"], atol=1e-6, rtol=0)


def test_the_summary_keeps_heads_apart_beside_their_means():
    weights = softmax_maps(2, 3, 5, 7, seed=1)
    found = AttentionAnalysis.analyze_transformer_attention(weights)
    assert torch.equal(found["entropy_per_head"], attention_entropy(weights))
    torch.testing.assert_close(found["attention_entropy"], attention_entropy(weights).mean(1))
    assert torch.equal(found["max_attention_per_head"], weights.max(-1)[0])
    torch.testing.assert_close(found["max_attention"], weights.mean(1).max(-1)[0])


@pytest.mark.parametrize("shape", [(3, 5, 5), (2, 0, 5, 5), (2, 3, 5, 0)])
def test_weights_of_another_rank_or_without_keys_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(B, h, n_q, n_k\), none of them 0, got"):
        AttentionAnalysis.analyze_transformer_attention(torch.ones(shape))


def knows_a_spatial_map_of_height_one(analysis):
    found = analysis.analyze_cnn_attention(torch.ones(2, 3, 1, 7), torch.ones(2, 1, 1, 7))
    return found == {"attention_type": "spatial", "local_connectivity": True, "pattern": "spatial-hierarchy"}


def test_a_spatial_map_of_height_one_is_spatial_unlike_in_the_textbook_form():
    assert knows_a_spatial_map_of_height_one(AttentionAnalysis)
    assert not knows_a_spatial_map_of_height_one(textbook.AttentionAnalysis)


CHANNEL = {"attention_type": "channel", "local_connectivity": False, "pattern": "channel-selection"}


@pytest.mark.parametrize(
    ("feature_map", "attention_map", "kind"),
    [
        ((2, 3, 5, 7), (2, 3, 1, 1), "channel"),
        ((2, 3, 5, 7), (2, 1, 5, 7), "spatial"),
        ((2, 3, 5, 1), (2, 1, 5, 1), "spatial"),
        ((2, 3, 1, 1), (2, 3, 1, 1), "channel"),
        ((2, 3, 1, 1), (2, 1, 1, 1), "spatial"),
        ((2, 1, 5, 7), (2, 1, 1, 1), "channel"),
        ((2, 1, 5, 7), (2, 1, 5, 7), "spatial"),
        ((2, 1, 1, 1), (2, 1, 1, 1), "channel"),  # both at once: settled in the docstring
    ],
)
def test_the_kind_of_cnn_attention_follows_from_both_shapes(feature_map, attention_map, kind):
    found = AttentionAnalysis.analyze_cnn_attention(torch.ones(feature_map), torch.ones(attention_map))
    assert found["attention_type"] == kind
    assert (found == CHANNEL) is (kind == "channel")


@pytest.mark.parametrize("attention_map", [(2, 3, 5, 7), (2, 1, 7, 5), (2, 4, 1, 1), (1, 1, 5, 7), (5, 7)])
def test_a_map_that_is_neither_kind_is_refused_with_the_shapes_that_would_do(attention_map):
    with pytest.raises(ValueError, match=r"\(2, 3, 1, 1\) \(channel\) or \(2, 1, 5, 7\) \(spatial\), got"):
        AttentionAnalysis.analyze_cnn_attention(torch.ones(2, 3, 5, 7), torch.ones(attention_map))


def test_a_feature_map_of_another_rank_is_refused():
    with pytest.raises(ValueError, match=r"feature_map must be \(B, C, H, W\), got \(3, 5, 7\)"):
        AttentionAnalysis.analyze_cnn_attention(torch.ones(3, 5, 7), torch.ones(3, 1, 1))
