"""The CNN attention lens: what it stores is what the networks give, before and after training."""

import json

import pytest
import torch
from figures.lens import scenes
from torch import nn

from attn_course import data
from attn_course.analysis import attention_on_mask
from attn_course.experiments import chapter3, load, load_model
from attn_course.widgets import CNNAttentionLens, lens

PICTURES = {name: slice(number, number + 1) for name, number in lens.SCENES.items()}
GATES = ("se", "eca", "cbam")


@pytest.fixture(scope="module")
def figure():
    return CNNAttentionLens(scenes())


@pytest.fixture(scope="module")
def networks():
    trained = nn.ModuleDict({name: chapter3.build(name) for name in chapter3.VARIANTS})
    load_model("cluttered-digits", trained)
    return {name: {"before": lens._initial(name, 0), "after": trained[name]} for name in chapter3.VARIANTS}


def inputs(picture, network):
    if picture in PICTURES:
        return chapter3.prepared(network, scenes().test.images[PICTURES[picture]], scenes().train.images)
    grey = data.photographs((lens.PHOTOGRAPH, lens.PHOTOGRAPH))["flower"].mean(dim=0)[None, None]
    return (grey - grey.mean()) / grey.std()  # as the chapter takes it


def each(figure, networks):
    for picture, entries in figure.data["maps"].items():
        for name, pair in entries.items():
            for when, stored in pair.items():
                network = networks[name][when]
                yield picture, name, when, stored, network, inputs(picture, network)


def table(figure, name, **settings):
    return next(one["rows"] for one in figure.tables(**settings) if one["name"] == name)


def test_the_maps_are_those_of_the_chapter_and_judged_alike(figure, networks):
    chosen = {
        "gate": "spatial gate, stage {}",
        "received": "attention received",
        "features": "feature energy",
    }
    for picture, name, when, stored, network, x in each(figure, networks):
        if picture not in PICTURES:
            continue
        maps = chapter3.attention_maps(network, x, scenes().test.labels[PICTURES[picture]])
        for stage in (1, 2, 3):
            for kind in lens.maps_at(name, stage):
                if kind == "features" and stage < 3:
                    continue  # the chapter has those of the last stage
                theirs = maps[chosen[kind].format(stage)]
                now = {**figure.settings, "picture": picture, "network": name, "stage": stage}
                ours = figure._map(now, name, when, kind, theirs.shape[1:])
                most = 0.005 * theirs.max() if kind == "received" else 0.51 * stored[kind][stage - 1]["step"]
                assert (ours - theirs[0]).abs().max() <= most + 1e-6, (picture, name, when, kind)
                mask = scenes().test.masks[PICTURES[picture]]
                above = attention_on_mask(theirs, mask)["above"].item()
                now["map"] = "own" if kind == "gate" else kind
                shown = table(figure, "On the digit", **now)[when == "after"][-1]
                assert shown == pytest.approx(above, abs=0.006), (picture, name, when, kind)


def test_features_of_every_stage_gates_and_answers_are_the_networks(figure, networks):
    for _, name, _, stored, network, x in each(figure, networks):
        with torch.no_grad():
            logits, weights = network(x, need_weights=True)
            h = x
            for stage in range(3):
                h = network.norms[stage](network.convs[stage](h)).relu()
                h = network.attentions[str(stage)](h) if str(stage) in network.attentions else h
                wanted = h[0].abs().mean(dim=0)
                kept = stored["features"][stage]
                assert (lens._values(kept) - wanted).abs().max() <= 0.51 * kept["step"] + 1e-6
                h = nn.functional.max_pool2d(h, 2)
        assert stored["answer"] == logits.argmax()
        assert stored["probability"] == pytest.approx(logits.softmax(1).max().item(), abs=1e-4)
        assert ("gates" in stored) == (name in GATES) and ("gate" in stored) == (name == "cbam")
        for stage, entry in weights.items() if name in GATES else ():
            gates = entry[0] if name == "cbam" else entry
            torch.testing.assert_close(
                torch.tensor(stored["gates"][stage]), gates.flatten(), atol=6e-5, rtol=0
            )


def test_the_usual_gates_are_means_over_training_scenes(figure, networks):
    x = chapter3.prepared(networks["se"]["after"], scenes().train.images[: lens.USUAL], scenes().train.images)
    for when, network in networks["se"].items():
        with torch.no_grad():
            weights = network(x, need_weights=True)[1]
        for stage, usual in enumerate(figure.data["usual"]["se"][when]):
            torch.testing.assert_close(
                torch.tensor(usual), weights[stage].mean(0).flatten(), atol=6e-5, rtol=0
            )


@pytest.mark.parametrize(("picture", "row", "column"), [("five", 2, 5), ("photograph", 11, 3)])
def test_a_marked_place_attends_as_the_module_says(figure, networks, picture, row, column):
    now = {**figure.settings, "picture": picture, "network": "self-attention", "stage": 3}
    now |= {"row": row, "column": column}
    assert lens.shown_map(now) == "place"
    for when, network in networks["self-attention"].items():
        x = inputs(picture, network)
        with torch.no_grad():
            weights = network(x, need_weights=True)[1][2][0]
        rows = x.shape[-1] // 4
        wanted = weights[row * rows + column].view(1, 1, rows, rows).double()
        wanted = nn.functional.interpolate(wanted, x.shape[2:], mode="bilinear")[0, 0]
        ours = figure._map(now, "self-attention", when, "place", x.shape[2:])
        assert (ours - wanted).abs().max() < 0.005 * wanted.max()  # queries and keys are kept in 16 bits


def test_before_is_the_network_that_training_from_the_seed_begins_with(networks):
    few = data.Pictures(*(data.Labelled(scenes().test.images[:7], scenes().test.labels[:7]),) * 2, "few")
    for name in ("plain", "cbam"):
        begun, _ = chapter3.train_classifier(name, 0, few, steps=1, batch_size=5, learning_rate=1e-12)
        for key, value in begun.named_parameters():
            torch.testing.assert_close(value, networks[name]["before"].get_parameter(key), atol=1e-9, rtol=0)
        assert not torch.equal(begun.classifier.weight, networks[name]["after"].classifier.weight)


def test_the_record_says_whether_a_module_is_used(figure):
    for name, entry in load("cluttered-digits").runs[0]["equal_training"].items():
        before, after = table(figure, "The answer", network=name)
        assert before[3:5] == [None, None]
        assert after[3:5] == [entry["accuracy"], None if name == "plain" else entry["fixed_accuracy"]]
        assert (before[5], after[5]) == ((0.0, entry["gamma"]) if "gamma" in entry else (None, None))


def test_what_its_sentences_say_in_general_is_so(figure):
    for name in chapter3.VARIANTS:  # "untrained, the network names every picture alike"
        assert len({entry[name]["before"]["answer"] for entry in figure.data["maps"].values()}) == 1
    trained = [figure.data["maps"]["three"][name]["after"]["answer"] for name in chapter3.VARIANTS]
    assert 3 not in trained  # all are wrong, wherever they look
    assert all(figure.data["maps"]["five"][name]["after"]["answer"] == 5 for name in chapter3.VARIANTS)


def test_the_photograph_has_no_mask_and_so_no_judgement(figure):
    names = [one["name"] for one in figure.tables(picture="photograph")]
    assert "The map" in names and not {"On the digit", "All maps here"} & set(names)


def test_it_is_made_the_same_twice_and_is_light(figure):
    first, second = (json.dumps(one.state(), sort_keys=True) for one in (figure, CNNAttentionLens(scenes())))
    assert first == second and len(first) < 200_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"picture": "cat"}, "picture must be one of five, three, photograph, got 'cat'"),
        ({"network": "vit"}, "network must be one of .*self-attention, got 'vit'"),
        ({"stage": 4}, "stage must be a whole number from 1 to 3, got 4"),
        ({"stage": 1.5}, "stage must be .* got 1.5"),
        ({"overlay": 101}, "overlay must be .* from 0 to 100, got 101"),
        ({"row": 12}, "row must be .* from 0 to 11, got 12"),
        ({"trained": "yes"}, "trained must be True or False, got 'yes'"),
        ({"channel": 3}, "no control channel"),
    ],
)
def test_a_control_that_cannot_stand_there_is_refused(figure, settings, message):
    with pytest.raises(ValueError, match=message):
        figure.tables(**settings)
    with pytest.raises(ValueError, match=message):
        figure.set(**settings)
