import copy
import pickle

import pytest
import torch

from attn_course import textbook
from attn_course.hybrid import HybridAttentionModel, create_hybrid_model, transformer_cnn_hybrid

B, C, HEIGHT, WIDTH, CLASSES = 2, 3, 19, 23, 5
SHAPE = (C, HEIGHT, WIDTH)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def model():
    return HybridAttentionModel(SHAPE, CLASSES).eval()


def logits_of_shuffled_tokens(model, images):
    """The logits when the cells of the feature map reach the transformer in another order."""
    order = torch.randperm(64)

    def shuffle(module, inputs, output):
        return output.flatten(2)[:, :, order].view_as(output)

    handle = model.flatten.register_forward_hook(shuffle)
    try:
        return model(images)
    finally:
        handle.remove()


# --- the document's errors: each check passes on ours and fails on the textbook form


def check_positions_reach_the_transformer(create):
    model, images = create(SHAPE, CLASSES).eval(), torch.randn(B, *SHAPE)
    assert not torch.allclose(model(images), logits_of_shuffled_tokens(model, images), atol=1e-3)


def check_it_can_be_pickled(create):
    model, images = create(SHAPE, CLASSES).eval(), torch.randn(B, *SHAPE)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), model(images))


ERRORS = [check_positions_reach_the_transformer, check_it_can_be_pickled]


@pytest.mark.parametrize("check", ERRORS, ids=lambda check: check.__name__)
def test_the_documents_error_is_mended(check):
    check(create_hybrid_model)


@pytest.mark.parametrize("check", ERRORS, ids=lambda check: check.__name__)
def test_the_check_of_the_error_fails_on_the_textbook_form(check):
    with pytest.raises((AssertionError, AttributeError, pickle.PicklingError)):
        check(textbook.create_hybrid_model)


# --- the document's numbers


@pytest.mark.parametrize("positions", [True, False])
def test_a_state_dict_without_positions_loads_strictly_and_gives_the_documents_numbers(positions):
    theirs = textbook.create_hybrid_model(SHAPE, CLASSES).double().eval()
    torch.nn.init.ones_(theirs.cnn_backbone[10].gamma)
    ours = create_hybrid_model(SHAPE, CLASSES, positions=positions).double().eval()
    state = theirs.state_dict()
    ours.load_state_dict(state, strict=True)
    assert "positions" not in state
    images = torch.randn(B, *SHAPE, dtype=torch.float64)
    output, expected = ours(images), theirs(images)
    torch.testing.assert_close(output, expected, atol=1e-11, rtol=1e-11)
    towards = torch.randn_like(output)
    gradients = torch.autograd.grad(output, list(ours.parameters()), towards)
    theirs_gradients = torch.autograd.grad(expected, list(theirs.parameters()), towards)
    names = [name for name, _ in theirs.named_parameters()]
    mine = {name: g for (name, _), g in zip(ours.named_parameters(), gradients, strict=True)}
    for name, gradient in zip(names, theirs_gradients, strict=True):
        torch.testing.assert_close(mine[name], gradient, atol=1e-10, rtol=1e-8)
    if positions:
        assert mine["positions"].abs().sum() > 0, "positions that start at zero can be learned"


def test_without_positions_the_state_dict_is_the_documents():
    theirs = textbook.create_hybrid_model(SHAPE, CLASSES).state_dict()
    assert list(create_hybrid_model(SHAPE, CLASSES, positions=False).state_dict()) == list(theirs)
    ours = create_hybrid_model(SHAPE, CLASSES).state_dict()
    assert ours.keys() - theirs.keys() == {"positions"} and ours["positions"].shape == (1, 64, 256)


def test_with_a_seed_the_other_weights_are_the_documents():
    torch.manual_seed(3)
    theirs = textbook.create_hybrid_model(SHAPE, CLASSES).state_dict()
    torch.manual_seed(3)
    ours = create_hybrid_model(SHAPE, CLASSES).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_positions_load_as_they_were_saved(model):
    twin = HybridAttentionModel(SHAPE, CLASSES).eval()
    twin.load_state_dict(model.state_dict(), strict=True)
    images = torch.randn(B, *SHAPE)
    assert torch.equal(twin(images), model(images)) and twin.positions.abs().sum() > 0


def test_a_state_dict_that_lacks_more_than_positions_is_refused_and_changes_no_positions(model):
    twin = copy.deepcopy(model)
    state = {name: value for name, value in model.state_dict().items() if name.startswith("cnn_backbone")}
    with pytest.raises(RuntimeError, match="positions"):
        twin.load_state_dict(state, strict=True)
    twin.load_state_dict(state, strict=False)
    assert torch.equal(twin.positions, model.positions)


def test_loading_works_inside_another_model_and_onto_the_meta_device():
    state = textbook.create_hybrid_model(SHAPE, CLASSES).state_dict()
    outer = torch.nn.Sequential(HybridAttentionModel(SHAPE, CLASSES))
    outer.load_state_dict({f"0.{name}": value for name, value in state.items()}, strict=True)
    assert (outer[0].positions == 0).all()
    with torch.device("meta"):
        made = HybridAttentionModel(SHAPE, CLASSES)
    assert made(torch.zeros(B, *SHAPE, device="meta")).device.type == "meta"
    made.load_state_dict(state, strict=True, assign=True)
    images = torch.randn(B, *SHAPE)
    assert torch.equal(made.eval()(images), outer.eval()(images)) and made.positions.requires_grad


# --- the rest


def test_shapes_and_other_image_sizes(model):
    for size in ((HEIGHT, WIDTH), (4, 4), (41, 37)):
        assert model(torch.randn(B, C, *size)).shape == (B, CLASSES)
    assert isinstance(transformer_cnn_hybrid(SHAPE, CLASSES), HybridAttentionModel)


def test_the_maps_of_every_attention_come_out_and_the_logits_stay(model):
    images = torch.randn(B, *SHAPE)
    logits, weights = model(images, need_weights=True)
    torch.testing.assert_close(logits, model(images), atol=1e-5, rtol=1e-5)
    assert list(weights) == ["cbam1", "cbam2", "self_attention", "blocks"]
    assert [w.shape for w in weights["cbam1"]] == [(B, 64, 1, 1), (B, 1, HEIGHT, WIDTH)]
    assert [w.shape for w in weights["cbam2"]] == [(B, 128, 1, 1), (B, 1, HEIGHT // 2, WIDTH // 2)]
    n = (HEIGHT // 4) * (WIDTH // 4)
    assert weights["self_attention"].shape == (B, n, n)
    assert [w.shape for w in weights["blocks"]] == 3 * [(B, 8, 64, 64)]
    for rows in (weights["self_attention"], *weights["blocks"]):
        torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]))
    assert not torch.equal(weights["blocks"][0], weights["blocks"][1])


def test_width_depth_heads_and_grid_are_those_asked_for():
    model = HybridAttentionModel((1, 8, 48), CLASSES, width=24, depth=2, num_heads=3, grid=(2, 5)).eval()
    images = torch.randn(B, 1, 8, 48)
    logits, weights = model(images, need_weights=True)
    assert logits.shape == (B, CLASSES) and model.positions.shape == (1, 10, 24)
    assert [w.shape for w in weights["blocks"]] == 2 * [(B, 3, 10, 10)]
    channels = [layer.out_channels for layer in model.cnn_backbone if isinstance(layer, torch.nn.Conv2d)]
    assert channels == [6, 12, 24] and model.transformer[0].feed_forward[0].out_features == 96
    square = HybridAttentionModel((1, 8, 48), CLASSES, width=24, grid=3)
    assert square.grid == (3, 3) and square.positions.shape == (1, 9, 24)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), model(images))
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), model(images), atol=1e-5, rtol=1e-5)


def test_dropout_is_the_one_asked_for():
    model = HybridAttentionModel(SHAPE, CLASSES, width=8, depth=1, dropout=0.0).train()
    images = torch.randn(B, *SHAPE)
    assert torch.equal(model(images), model(images))
    usual = HybridAttentionModel(SHAPE, CLASSES, width=8, depth=1).train()
    assert not torch.equal(usual(images), usual(images))


def test_logits_come_from_the_mean_of_the_tokens_and_tokens_from_the_feature_map():
    model = HybridAttentionModel(SHAPE, CLASSES, width=16, depth=2, num_heads=2, grid=(3, 2)).eval()
    images = torch.randn(B, *SHAPE)
    tokens, feature_map = model.tokens(images), model.feature_map(images)
    assert tokens.shape == (B, 6, 16) and feature_map.shape == (B, 16, HEIGHT // 4, WIDTH // 4)
    torch.testing.assert_close(model.classifier(tokens.mean(dim=1)), model(images))
    x = torch.nn.functional.adaptive_avg_pool2d(feature_map, (3, 2)).flatten(2).mT + model.positions
    for block in model.transformer:
        x = block(x)[0]
    torch.testing.assert_close(x, tokens)
    again, weights = model.tokens(images, need_weights=True)
    torch.testing.assert_close(again, tokens, atol=1e-5, rtol=1e-5)
    assert list(weights) == ["cbam1", "cbam2", "self_attention", "blocks"]
    assert list(model.feature_map(images, need_weights=True)[1]) == ["cbam1", "cbam2", "self_attention"]


def test_images_of_a_batch_do_not_meet(model):
    images = torch.randn(B, *SHAPE)
    together = model(images)
    for i in range(B):
        torch.testing.assert_close(model(images[i : i + 1])[0], together[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtypes_stay_and_gradients_are_finite(dtype):
    model = HybridAttentionModel(SHAPE, CLASSES).to(dtype)
    output = model(torch.randn(B, *SHAPE).to(dtype))
    assert output.dtype == dtype
    output.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_float16_and_autocast_give_nearly_float32s_numbers(model):
    images = torch.randn(1, C, 4, 5)
    half = copy.deepcopy(model).half()
    torch.testing.assert_close(half(images.half()).float(), model(images), atol=2e-2, rtol=2e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = model(images)
    assert cast.dtype == torch.bfloat16
    torch.testing.assert_close(cast.float(), model(images), atol=1e-1, rtol=1e-1)


def test_exports_with_a_dynamic_batch_and_compiles(model):
    images = torch.randn(B, *SHAPE)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
    more = torch.randn(5, *SHAPE)
    torch.testing.assert_close(program.module()(more), model(more), atol=1e-5, rtol=1e-5)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: HybridAttentionModel((C, HEIGHT), CLASSES), r"\(3, 19\)"),
        (lambda: HybridAttentionModel((0, HEIGHT, WIDTH), CLASSES), r"\(0, 19, 23\)"),
        (lambda: HybridAttentionModel((C, 3, WIDTH), CLASSES), r"\(3, 3, 23\)"),
        (lambda: HybridAttentionModel(SHAPE, CLASSES, width=30), "width = 30 and num_heads = 8"),
        (lambda: HybridAttentionModel(SHAPE, CLASSES, width=36), "width = 36 and num_heads = 8"),
        (lambda: HybridAttentionModel(SHAPE, CLASSES, depth=0), "depth must be at least 1, got 0"),
        (lambda: HybridAttentionModel(SHAPE, CLASSES, num_heads=0), "num_heads must be at least 1, got 0"),
        (lambda: HybridAttentionModel(SHAPE, CLASSES, grid=(3, 0)), r"got \(3, 0\)"),
        (lambda: HybridAttentionModel(SHAPE, CLASSES, grid=(3, 2, 1)), r"got \(3, 2, 1\)"),
        (lambda: HybridAttentionModel(SHAPE, 0), "num_classes must be at least 1, got 0"),
        (lambda: HybridAttentionModel(SHAPE, CLASSES)(torch.zeros(SHAPE)), r"\(3, 19, 23\)"),
        (
            lambda: HybridAttentionModel(SHAPE, CLASSES)(torch.zeros(B, 1, HEIGHT, WIDTH)),
            r"C = 3.*\(2, 1, 19, 23\)",
        ),
        (lambda: HybridAttentionModel(SHAPE, CLASSES)(torch.zeros(B, C, 3, WIDTH)), r"\(2, 3, 3, 23\)"),
    ],
)
def test_bad_input_is_a_value_error_with_the_numbers(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_batch_normalisation_stands_after_each_convolution_and_folds_away_for_inference():
    model = HybridAttentionModel(SHAPE, CLASSES, width=16, depth=1, num_heads=2, norm=True)
    plain = HybridAttentionModel(SHAPE, CLASSES, width=16, depth=1, num_heads=2)
    images = torch.randn(B, *SHAPE)
    model(images)  # running means and spreads
    model.eval()
    assert sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.cnn_backbone) == 3
    logits, weights = model(images, need_weights=True)
    torch.testing.assert_close(logits, model(images), atol=1e-5, rtol=1e-5)
    assert list(weights) == ["cbam1", "cbam2", "self_attention", "blocks"]
    folded, layers = [], list(model.cnn_backbone)
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(after, torch.nn.BatchNorm2d):
            folded.append(torch.nn.utils.fuse_conv_bn_eval(layer, after))
        elif not isinstance(layer, torch.nn.BatchNorm2d):
            folded.append(layer)
    plain.cnn_backbone = torch.nn.Sequential(*folded)
    plain.transformer, plain.classifier, plain.positions = (
        model.transformer,
        model.classifier,
        model.positions,
    )
    torch.testing.assert_close(plain.eval()(images), logits, atol=1e-4, rtol=1e-4)
