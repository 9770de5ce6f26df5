"""Entropy, distance and the summaries of attention maps, on maps whose answer is known."""

import math

import pytest
import torch
from torch import nn

from attn_course import (
    AttentionAnalysis,
    SelfAttention2D,
    SpatialAttention,
    attention_agreement,
    attention_entropy,
    attention_on_mask,
    attention_rollout,
    mean_attention_distance,
    receptive_field,
    textbook,
    tokens_over_image,
)

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


# --- Receptive fields ----------------------------------------------------------------------------------------


def random_map(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def square(height, width, rows, columns):
    """Where a field should be: these rows and columns, no others."""
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[rows, columns] = True
    return inside


@pytest.fixture
def conv():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield lambda i, o, k, **options: nn.Conv2d(i, o, k, padding="same", **options).double()


def test_a_convolution_sees_its_kernel_and_nothing_else(conv):
    field = receptive_field(conv(2, 3, 3), random_map(1, 2, 11, 13), (4, 6))
    assert torch.equal(field > 0, square(11, 13, slice(3, 6), slice(5, 8)))


def test_two_convolutions_see_five_by_five_and_a_corner_less(conv):
    twice, x = nn.Sequential(conv(2, 3, 3), conv(3, 5, 3)), random_map(1, 2, 11, 13)
    assert torch.equal(receptive_field(twice, x, (4, 6)) > 0, square(11, 13, slice(2, 7), slice(4, 9)))
    assert torch.equal(receptive_field(twice, x, (-1, 0)) > 0, square(11, 13, slice(8, 11), slice(0, 3)))


def test_dilation_sees_further_with_holes_and_a_stride_moves_the_place(conv):
    x = random_map(1, 2, 11, 13)
    field = receptive_field(conv(2, 3, 3, dilation=2), x, (4, 6))
    assert torch.equal(field > 0, square(11, 13, slice(2, 7, 2), slice(4, 9, 2)))
    halved = nn.Sequential(conv(2, 3, 3), nn.AvgPool2d(2))
    assert torch.equal(receptive_field(halved, x, (2, 3)) > 0, square(11, 13, slice(3, 7), slice(5, 9)))


def test_self_attention_sees_every_pixel_once_gamma_has_left_zero():
    module, x = SelfAttention2D(8).double(), random_map(1, 8, 5, 7)
    assert torch.equal(receptive_field(module, x, (2, 3)) > 0, square(5, 7, 2, 3))
    nn.init.constant_(module.gamma, 0.7)
    assert (receptive_field(module, x, (2, 3)) > 0).all()


def test_spatial_attention_sees_its_kernel():
    field = receptive_field(SpatialAttention(3).double(), random_map(1, 2, 7, 11), (3, 5))
    assert torch.equal(field > 0, square(7, 11, slice(2, 5), slice(4, 7)))


def test_the_field_of_a_convolution_is_its_kernel_in_absolute_value(conv):
    layer = conv(2, 3, 3)
    field = receptive_field(layer, random_map(5, 2, 7, 11), (3, 5))
    torch.testing.assert_close(field[2:5, 4:7], layer.weight.detach().abs().sum((0, 1)))


def test_channels_of_the_output_do_not_cancel():
    opposite = receptive_field(lambda x: torch.cat([x, -x], dim=1), random_map(1, 3, 5, 7), (1, 2))
    assert torch.equal(opposite > 0, square(5, 7, 1, 2)) and opposite[1, 2] == 6


def test_the_field_is_the_mean_over_the_inputs():
    def squared(x):
        return x**2

    x = random_map(3, 2, 5, 7)
    field = receptive_field(squared, x, (1, 2))
    torch.testing.assert_close(field, sum(receptive_field(squared, one[None], (1, 2)) for one in x) / 3)
    torch.testing.assert_close(field[1, 2], (2 * x[:, :, 1, 2]).abs().sum() / 3)


def test_an_output_that_depends_on_nothing_has_an_empty_field():
    x = random_map(1, 2, 5, 7)
    assert not receptive_field(torch.zeros_like, x, (1, 2)).any()
    weight = torch.ones(1, 1, 5, 7, requires_grad=True)
    assert not receptive_field(lambda x: 2 * weight, x, (1, 2)).any()


def test_a_module_is_called_in_eval_mode_and_left_as_it_was():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.9), nn.BatchNorm2d(3)).double()
    model[2].eval()
    x = random_map(2, 3, 5, 7)
    with torch.no_grad():
        field = receptive_field(model, x, (1, 2))
    assert torch.equal(field > 0, square(5, 7, 1, 2))
    assert [module.training for module in model] == [True, True, False] and model.training
    assert model[0].num_batches_tracked == 0 and model[0].weight.grad is None
    assert x.grad is None and not x.requires_grad


@pytest.mark.parametrize(
    ("function", "x", "place", "message"),
    [
        (lambda x: x, torch.ones(2, 5, 7), (0, 0), r"\(B, C, H, W\), none of them 0, got .*\(2, 5, 7\)"),
        (lambda x: x, torch.ones(1, 2, 5, 7).int(), (0, 0), "floating-point .* got torch.int32"),
        (lambda x: x.mean((2, 3)), torch.ones(1, 2, 5, 7), (0, 0), r"\(1, C', H', W'\), got \(1, 2\)"),
        (lambda x: x[:1], torch.ones(3, 2, 5, 7), (0, 0), r"\(3, C', H', W'\), got \(1, 2, 5, 7\)"),
        (lambda x: (x, x), torch.ones(1, 2, 5, 7), (0, 0), "got tuple"),
        (lambda x: x, torch.ones(1, 2, 5, 7), (5, 0), r"place \(5, 0\) lies outside .* 5 x 7"),
        (lambda x: x, torch.ones(1, 2, 5, 7), (0, -8), r"place \(0, -8\) lies outside .* 5 x 7"),
    ],
)
def test_what_has_no_receptive_field_is_refused_with_its_shape(function, x, place, message):
    with pytest.raises(ValueError, match=message):
        receptive_field(function, x, place)


# --- Does it look where it should? ---------------------------------------------------------------------------


def test_a_map_and_a_mask_by_hand():
    weights = torch.tensor([[[4.0, 1.0], [3.0, 2.0]]])
    masks = torch.tensor([[[True, False], [False, True]]])
    found = attention_on_mask(weights, masks)
    # 6 of 10 on half of the area; the largest is on it; of the four pairs, 4 > 1, 4 > 3, 2 > 1 and not 2 > 3.
    by_hand = {"share": 0.6, "chance": 0.5, "lift": 1.2, "hit": 1.0, "above": 0.75}
    assert found.keys() == by_hand.keys()
    for name, value in by_hand.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], torch.tensor([value]))


def masks_and_maps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(11, 5, 7, generator=generator) < 0.3
    masks[:, 0, 0], masks[:, 0, 1] = True, False
    return masks, torch.rand(11, 5, 7, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("level", [0.25, 3.0])
def test_a_uniform_map_is_at_chance_in_every_measure(level):
    masks, maps = masks_and_maps()
    found = attention_on_mask(torch.full_like(maps, level), masks)
    torch.testing.assert_close(found["chance"], masks.double().mean((1, 2)))
    torch.testing.assert_close(found["share"], found["chance"])
    torch.testing.assert_close(found["hit"], found["chance"])
    torch.testing.assert_close(found["lift"], torch.ones(11, dtype=torch.float64))
    torch.testing.assert_close(found["above"], torch.full((11,), 0.5, dtype=torch.float64))


def test_a_map_that_is_the_mask_or_all_but_the_mask_has_everything_or_nothing():
    masks, _ = masks_and_maps()
    right, wrong = attention_on_mask(masks.float(), masks), attention_on_mask((~masks).float(), masks)
    for name in ("share", "hit", "above"):
        assert torch.equal(right[name], torch.ones(11)) and torch.equal(wrong[name], torch.zeros(11))
    torch.testing.assert_close(right["lift"], 1 / right["chance"])


def test_the_measures_agree_with_their_definitions_pair_by_pair():
    masks, maps = masks_and_maps()
    maps = (4 * maps).round() / 4  # ties
    found = attention_on_mask(maps, masks)
    for i, (mask, values) in enumerate(zip(masks, maps, strict=True)):
        on, off = values[mask][:, None], values[~mask][None]
        above = ((on > off).double() + 0.5 * (on == off).double()).mean()
        assert found["above"][i].item() == pytest.approx(above.item())
        assert found["share"][i].item() == pytest.approx((on.sum() / values.sum()).item())
        ties = values == values.max()
        assert found["hit"][i].item() == pytest.approx((ties & mask).sum().item() / ties.sum().item())


def test_the_scale_changes_nothing_and_any_growing_function_leaves_rank_and_hit():
    masks, maps = masks_and_maps()
    found, scaled, bent = (attention_on_mask(m, masks) for m in (maps, 37 * maps, maps**3))
    for name in found:
        torch.testing.assert_close(scaled[name], found[name])
    for name in ("hit", "above", "chance"):
        assert torch.equal(bent[name], found[name])
    assert not torch.allclose(bent["share"], found["share"])


def test_each_image_is_judged_alone_and_a_map_of_zeros_has_no_share():
    masks, maps = masks_and_maps()
    whole = attention_on_mask(maps, masks)
    for i in range(11):
        alone = attention_on_mask(maps[i : i + 1], masks[i : i + 1])
        assert all(torch.equal(alone[name][0], whole[name][i]) for name in whole)
    zeros = attention_on_mask(torch.zeros_like(maps), masks)
    assert not zeros["share"].any() and torch.equal(zeros["hit"], zeros["chance"])


def test_masks_may_be_numbers_and_nothing_is_written_to():
    masks, maps = masks_and_maps()
    before = maps.clone()
    numbers = attention_on_mask(maps, masks.long() * 3)
    assert torch.equal(numbers["share"], attention_on_mask(maps, masks)["share"])
    assert torch.equal(maps, before)


ONES = torch.ones(2, 5, 7)


@pytest.mark.parametrize(
    ("weights", "masks", "message"),
    [
        (ONES[0], ONES[0], r"\(B, H, W\).* got torch.float32 \(5, 7\)"),
        (ONES, ONES[:1], r"got torch.float32 \(2, 5, 7\) and \(1, 5, 7\)"),
        (ONES.int(), ONES, "floating-point .* got torch.int32"),
        (-ONES, ONES, "at least 0, got -1.0 to -1.0"),
        (ONES / 0, ONES, "finite and at least 0, got inf to inf"),
        (ONES, ONES, "1 to 34 of 35 pixels, number 0 holds 35"),
        (ONES, torch.cat([ONES[:1].tril(), 0 * ONES[:1]]), "number 1 holds 0"),
    ],
)
def test_a_map_that_cannot_be_held_against_a_mask_is_refused_with_its_numbers(weights, masks, message):
    with pytest.raises(ValueError, match=message):
        attention_on_mask(weights, masks)


def test_a_mask_set_at_once_is_judged_like_each_set_alone():
    maps = softmax_maps(5, 77).view(5, 7, 11)
    sets = torch.rand(3, 2, 5, 7, 11, generator=torch.Generator().manual_seed(3)) > 0.6
    together = attention_on_mask(maps, sets)
    for i in range(3):
        for j in range(2):
            for name, value in attention_on_mask(maps, sets[i, j]).items():
                assert torch.equal(together[name][i, j], value)


# --- rollout ------------------------------------------------------------------------------------------------


def test_rollout_of_three_tokens_by_hand():
    first = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])[None, None]  # each looks at the one before
    second = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 0]])[None, None]  # all look at the first
    seen = attention_rollout([first, second])
    # Half goes past each layer. Layer 1: token 3 holds 1/2 of itself and 1/2 of token 2; layer 2 halves that
    # and adds 1/2 of what stands at place 1, which is token 1.
    assert seen.tolist() == [[[1, 0, 0], [0.75, 0.25, 0], [0.5, 0.25, 0.25]]]


def test_rollout_goes_from_the_first_layer_to_the_last():
    first, second = softmax_maps(2, 3, 5, 5), softmax_maps(2, 7, 5, 5, seed=1)  # other numbers of heads
    with_residual = [0.5 * torch.eye(5) + 0.5 * layer.mean(1) for layer in (first, second)]
    torch.testing.assert_close(attention_rollout([first, second]), with_residual[1] @ with_residual[0])


def test_without_residual_rollout_is_the_product_of_the_maps_and_with_it_alone_the_identity():
    first, second = softmax_maps(2, 3, 5, 5), softmax_maps(2, 3, 5, 5, seed=1)
    product = second.mean(1) @ first.mean(1)
    torch.testing.assert_close(attention_rollout([first, second], residual=0), product)
    assert torch.equal(attention_rollout([first, second], residual=1), torch.eye(5).expand(2, 5, 5).double())


@pytest.mark.parametrize("dtype", WIDE)
def test_rows_of_a_rollout_add_up_to_one_and_the_future_stays_dark(dtype):
    layers = [softmax_maps(2, 3, 11, 11, dtype=dtype, seed=i).tril() for i in range(4)]
    layers = [layer / layer.sum(-1, keepdim=True) for layer in layers]
    seen = attention_rollout(layers)
    assert seen.dtype == dtype
    torch.testing.assert_close(seen.sum(-1), torch.ones(2, 11, dtype=dtype))
    assert not seen.triu(1).any()


def test_a_query_that_sees_nothing_keeps_its_own_token_in_a_rollout():
    layer = softmax_maps(1, 2, 3, 3)
    layer[:, :, 1] = 0
    assert attention_rollout([layer])[0, 1].tolist() == [0, 1, 0]
    assert attention_rollout([layer], residual=0)[0, 1].tolist() == [0, 0, 0]


def test_rollout_finds_the_token_that_linear_layers_carry():
    """With values, outputs and residuals that change nothing, the gradient of the stack is the rollout."""
    torch.manual_seed(0)
    x = torch.randn(1, 7, 4, dtype=torch.float64)
    layers = [softmax_maps(1, 1, 7, 7, seed=i) for i in range(3)]

    def stack(x):
        for layer in layers:
            x = 0.5 * x + 0.5 * layer[:, 0] @ x
        return x

    jacobian = torch.autograd.functional.jacobian(lambda x: stack(x)[0, :, 0], x)[:, 0, :, 0]
    torch.testing.assert_close(attention_rollout(layers)[0], jacobian)


@pytest.mark.parametrize(
    ("weights", "residual", "message"),
    [
        ([], 0.5, r"got \[\]"),
        ([torch.ones(2, 3, 5, 7)], 0.5, r"\(2, 3, 5, 7\)"),
        ([torch.ones(2, 3, 5, 5), torch.ones(2, 3, 7, 7)], 0.5, r"\(2, 3, 7, 7\)"),
        ([torch.ones(2, 5, 5)], 0.5, r"\(2, 5, 5\)"),
        ([-torch.ones(2, 3, 5, 5)], 0.5, "got -1.0"),
        ([torch.ones(2, 3, 5, 5)], 1.5, "got 1.5"),
    ],
)
def test_a_rollout_of_no_maps_is_refused_with_what_was_given(weights, residual, message):
    with pytest.raises(ValueError, match=message):
        attention_rollout(weights, residual=residual)


# --- agreement ----------------------------------------------------------------------------------------------


def test_agreement_by_hand():
    a, b = torch.tensor([[0.5, 0.5, 0, 0]]).double(), torch.tensor([[0, 0.5, 0.5, 0]]).double()
    found = attention_agreement(a, b)
    assert found["overlap"].tolist() == [0.5]
    # m = (1/4, 1/2, 1/4, 0) has 1.5 log 2 nats, each of the two log 2.
    assert found["divergence"].item() == pytest.approx(0.5 * math.log(2))
    # Ranks (3, 3, 1, 1) and (1, 3, 3, 1), up to a constant.
    assert found["correlation"].item() == pytest.approx(0)


def test_a_map_agrees_with_itself_and_disjoint_maps_do_not():
    same, other = softmax_maps(2, 3, 5, 7), torch.eye(5, 7).double()
    found = attention_agreement(same, same)
    torch.testing.assert_close(found["overlap"], torch.ones(2, 3, 5).double())
    torch.testing.assert_close(found["divergence"], torch.zeros(2, 3, 5).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(found["correlation"], torch.ones(2, 3, 5).double())
    apart = attention_agreement(other, other.roll(1, dims=1))
    assert apart["overlap"].tolist() == [0.0] * 5
    torch.testing.assert_close(apart["divergence"], torch.full((5,), math.log(2)).double())


def test_agreement_is_symmetric_and_does_not_see_the_scale_of_a_map():
    a, b = softmax_maps(2, 5, 7), softmax_maps(2, 5, 7, seed=1)
    found, mirrored, scaled = (
        attention_agreement(a, b),
        attention_agreement(b, a),
        attention_agreement(13 * a, b),
    )
    for name, value in found.items():
        torch.testing.assert_close(mirrored[name], value)
        torch.testing.assert_close(scaled[name], value)


def test_the_correlation_is_that_of_the_ranks_and_any_growing_function_leaves_it():
    a, b = softmax_maps(5, 11), softmax_maps(5, 11, seed=1)
    found = attention_agreement(a, b)["correlation"]
    for row in range(5):
        ranks = torch.stack([a[row].argsort().argsort(), b[row].argsort().argsort()]).double()
        assert found[row].item() == pytest.approx(torch.corrcoef(ranks)[0, 1].item())
    torch.testing.assert_close(attention_agreement(a**3, b)["correlation"], found)
    order = torch.arange(1.0, 8)
    assert attention_agreement(order[None], order.flip(0)[None])["correlation"].item() == pytest.approx(-1)


def test_a_row_of_zeros_agrees_with_nothing_and_a_constant_row_orders_nothing():
    a, b = softmax_maps(3, 5), softmax_maps(3, 5, seed=1)
    a[1], b[2] = 0, 0.2
    found = attention_agreement(a, b)
    assert [found[name].isnan().tolist() for name in ("overlap", "divergence")] == [[False, True, False]] * 2
    assert found["correlation"].isnan().tolist() == [False, True, True]


def test_agreement_broadcasts_and_works_in_float64_inside():
    heads, mean = softmax_maps(2, 3, 5, 7, dtype=torch.float32), softmax_maps(2, 1, 5, 7, dtype=torch.float32)
    found = attention_agreement(heads, mean)
    assert found["overlap"].shape == (2, 3, 5)
    assert found["overlap"].dtype == torch.float32
    close = attention_agreement(heads, heads * (1 + 1e-7))["divergence"]
    assert (close.abs() < 1e-9).all()


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.ones(5, 7), torch.ones(5, 11), r"\(5, 7\) and \(5, 11\)"),
        (torch.ones(5, 7), -torch.ones(5, 7), "b must be finite .* got -1.0"),
        (torch.ones(5, 7) / 0, torch.ones(5, 7), "a must be finite .* inf"),
        (torch.ones(5, 7).long(), torch.ones(5, 7), "int64"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused_with_their_numbers(a, b, message):
    with pytest.raises(ValueError, match=message):
        attention_agreement(a, b)


# --- cells laid over an image


def test_each_pixel_takes_the_value_of_the_cell_that_its_middle_lies_in():
    values = torch.arange(6.0).expand(2, 3, 6)  # 2 rows, 3 columns
    laid = tokens_over_image(values, (2, 3), (4, 6))
    assert laid.shape == (2, 3, 4, 6)
    assert laid[1, 2].tolist() == 2 * [[0, 0, 1, 1, 2, 2]] + 2 * [[3, 3, 4, 4, 5, 5]]


def test_cells_that_do_not_divide_the_image_are_laid_as_nearest_neighbours():
    values = torch.randn(5, 35)
    laid = tokens_over_image(values, (5, 7), (17, 11))
    expected = torch.nn.functional.interpolate(values.view(1, 5, 5, 7), size=(17, 11), mode="nearest-exact")
    assert torch.equal(laid, expected[0])


@pytest.mark.parametrize(
    ("shape", "grid", "size", "says"),
    [((2, 7), (2, 3), (4, 4), r"2 · 3 = 6\), got \(2, 7\)"), ((6,), (2, 3, 1), (4, 4), r"\(2, 3, 1\)"),
     ((6,), (2, 3), (0, 4), r"\(0, 4\)")],
)  # fmt: skip
def test_cells_that_do_not_fit_are_a_value_error_with_the_numbers(shape, grid, size, says):
    with pytest.raises(ValueError, match=says):
        tokens_over_image(torch.zeros(shape), grid, size)
