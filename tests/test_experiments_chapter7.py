"""The experiments of chapter 7: their networks, their tasks, and what was recorded."""

import json

import pytest
import torch
from torch import nn

from attn_course import data
from attn_course.complexity import cost
from attn_course.experiments import chapter7, core
from attn_course.hybrid import HybridAttentionModel
from attn_course.training import seeded

SHAPES = {"digits": (1, 8, 8), "cluttered digits": (1, 32, 32)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_image_networks_have_as_many_parameters_and_give_ten_logits(shape):
    counts = {}
    for name in chapter7.IMAGE_MODELS:
        model = chapter7.image_model(name, shape).eval()
        assert model(torch.zeros(3, *shape)).shape == (3, 10)
        counts[name] = chapter7.parameters(model)
    assert max(counts.values()) < 1.12 * min(counts.values())
    with pytest.raises(ValueError, match="unknown network 'mlp'; known: cnn, cbam"):
        chapter7.image_model("mlp", shape)


def test_strip_networks_answer_at_each_place_with_as_many_parameters_but_for_the_flat_one():
    counts = {}
    for name in chapter7.STRIP_MODELS:
        network = chapter7.strip_model(name).eval()
        assert network(torch.zeros(3, 1, 8, 48)).shape == (3, 6, 10)
        counts[name] = chapter7.parameters(network)
    flat = counts.pop("flat")
    assert max(counts.values()) < 1.06 * min(counts.values())
    assert 7.5 < flat / counts["hybrid"] < 8.5
    with pytest.raises(ValueError, match="unknown network 'mlp'"):
        chapter7.strip_model("mlp")


def test_flops_are_those_of_the_cost_model_for_a_hybrid_whose_attention_is_used():
    sizes = {"embed_dim": chapter7.WIDTH, "depth": chapter7.DEPTH, "num_heads": chapter7.HEADS}
    price = cost("hybrid", batch=1, channels=1, height=32, width=32, num_classes=10, **sizes)
    model = chapter7.image_model("hybrid", (1, 32, 32))
    assert chapter7.flops(model, (1, 32, 32)) == price.flops
    assert all(m.gamma == 0 for m in model.modules() if hasattr(m, "gamma")) and model.training


def test_recorded_flops_and_parameters_are_those_of_the_networks():
    for name in ("mirrored-strip", "own-place-strip"):
        for run in core.load(name).runs:
            for network, flops in run["flops"].items():
                model = chapter7.strip_model(network)
                assert flops == chapter7.flops(model, (1, 8, 48))
                assert run["parameters"][network] == chapter7.parameters(model)
    for run in core.load("data-efficiency").runs:
        for task, counts in run["flops"].items():
            for network, flops in counts.items():
                model = chapter7.image_model(network, SHAPES[task])
                assert flops == chapter7.flops(model, SHAPES[task])
                assert run["parameters"][task][network] == chapter7.parameters(model)


def seen_from(network, place):
    """Which pixel columns of a strip the answer at a place depends on."""
    x = torch.randn(2, 1, 8, 48, requires_grad=True)
    network.double()(x.double())[:, place].sum().backward()
    return x.grad.abs().sum(dim=(0, 1, 2)) > 0


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("cnn", False),
        ("cbam", True),
        ("cnn, deeper", True),
        ("self-attention", True),
        ("hybrid", True),
        ("flat", True),
    ],
)
def test_which_networks_see_the_far_end_of_a_strip(name, whole):
    with seeded(0):
        network = chapter7.strip_model(name).eval()
    for module in network.modules():
        if hasattr(module, "gamma"):
            nn.init.constant_(module.gamma, 0.5)
    seen = seen_from(network, 0)
    assert seen[:8].all() and bool(seen[40:].any()) is whole


def test_without_positions_shuffled_cells_give_shuffled_answers_and_with_them_others():
    with seeded(1):
        blind, sighted = chapter7.StripHybrid(positions=False).eval(), chapter7.StripHybrid().eval()
    order = torch.tensor([4, 0, 5, 1, 3, 2])
    for network, moved in ((blind, True), (sighted, False)):
        handle = network.model.flatten.register_forward_hook(
            lambda module, inputs, output: output[..., order]
        )
        shuffled = network(x := torch.randn(3, 1, 8, 48, generator=torch.Generator().manual_seed(2)))
        handle.remove()
        assert torch.allclose(shuffled, network(x)[:, order], atol=1e-5) is moved


def test_a_vision_transformer_reads_patches_row_by_row_and_returns_its_weights():
    model = chapter7.SmallViT((2, 6, 9), 5, patch=3, width=8, depth=2, num_heads=2).eval()
    x = torch.randn(3, 2, 6, 9)
    logits, weights = model(x, need_weights=True)
    assert [w.shape for w in weights] == 2 * [(3, 2, 6, 6)]
    torch.testing.assert_close(logits, model(x), atol=1e-5, rtol=1e-5)
    seen = []
    model.embed.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(x)
    torch.testing.assert_close(seen[0][:, 4], x[:, :, 3:6, 3:6].flatten(1))  # second row, second column
    with pytest.raises(ValueError, match="patch of 4 must divide both sides of 6 x 9"):
        chapter7.SmallViT((2, 6, 9), 5, patch=4)


def test_shares_are_drawn_by_class_and_a_larger_one_holds_the_smaller():
    labels = torch.tensor([0, 1, 2] * 40 + [3] * 5)
    small, large = (set(chapter7.share_of(labels, share, 7).tolist()) for share in (0.05, 0.5))
    assert small < large
    assert labels[sorted(small)].bincount().tolist() == [2, 2, 2, 1]
    assert set(chapter7.share_of(labels, 1.0, 7).tolist()) == set(range(125))
    assert small != set(chapter7.share_of(labels, 0.05, 8).tolist())


def test_a_short_run_returns_what_is_recorded(monkeypatch):
    clutter, strips = data.cluttered_digits, data.digit_strips
    monkeypatch.setattr(chapter7, "cluttered_digits", lambda **o: clutter(train_count=60, test_count=30, **o))
    monkeypatch.setattr(chapter7, "digit_strips", lambda **o: strips(train_count=60, test_count=30, **o))
    short = {"steps": 2, "batch_size": 3}
    for name in (experiment.name for experiment in chapter7.EXPERIMENTS):
        settings = core.get(name).settings
        settings = {**settings, **(short if "steps" in settings else {})}
        if "plan" in settings:
            settings["plan"] = {**settings["plan"], **short}
        if "tasks" in settings:
            settings["tasks"] = {task: {**plan, **short} for task, plan in settings["tasks"].items()}
        if "warm_up_steps" in settings:
            settings["warm_up_steps"] = min(2, settings["warm_up_steps"])
        if "rates" in settings:
            settings["rates"] = settings["rates"][:1]
        outcome, model = core.get(name).run(0, **settings)
        assert isinstance(model, HybridAttentionModel) is (name == "mirrored-strip")
        run = json.loads(json.dumps(outcome))
        stored = {
            key: value for key, value in core.load(name).runs[0].items() if key not in ("seed", "seconds")
        }
        assert set(run) == set(stored)
        for key in stored:
            assert type(run[key]) is type(stored[key])
            if isinstance(stored[key], dict) and "rates" not in settings:
                assert set(run[key]) == set(stored[key])


def test_the_rates_in_use_are_the_best_of_those_tried():
    tried = core.load("mirrored-strip-rates").runs[0]["tried"]
    for name, rate in chapter7.STRIP_RATES.items():
        entries = [entry for entry in tried if entry["network"] == name]
        assert rate == max(entries, key=lambda entry: entry["accuracy"])["learning_rate"]
    tried = core.load("data-efficiency-rates").runs[0]["tried"]
    for task, rates in chapter7.IMAGE_RATES.items():
        for name, rate in rates.items():
            entries = [entry for entry in tried if (entry["task"], entry["network"]) == (task, name)]
            assert rate == max(entries, key=lambda entry: entry["accuracy"])["learning_rate"]


def test_the_kept_hybrid_is_the_one_of_the_record():
    model = core.load_model("mirrored-strip", chapter7.StripHybrid().model)
    task = data.digit_strips()
    images = chapter7.centred(task.test.images, task.train.images)
    with torch.no_grad():
        right = model.classifier(model.tokens(images)).argmax(dim=-1) == task.test.labels.flip(1)
    expected = core.load("mirrored-strip").runs[0]["accuracy"]["hybrid"]
    assert right.float().mean().item() == pytest.approx(expected, abs=0.005)


def test_strips_are_learnt_from_the_mirrored_or_the_own_labels():
    seen = {}
    task = data.digit_strips(train_count=40, test_count=20)
    for mirrored in (True, False):
        cell, network = chapter7.strip_cell(
            "hybrid", 3, mirrored=mirrored, steps=2, batch_size=4, learning_rate=1e-3, task=task
        )
        named = chapter7.predicted(network, chapter7.centred(task.test.images, task.train.images))
        targets = task.test.labels.flip(1) if mirrored else task.test.labels
        assert cell["accuracy"] == pytest.approx((named == targets).float().mean().item(), abs=1e-4)
        seen[mirrored] = cell["loss"]
    assert seen[True] != seen[False]
