"""Recommendations: what fits, what the budget and the task change, and what the textbook form gets wrong."""

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attn_course
from attn_course import AttentionSelector, complexity, create_hybrid_model, machine, textbook, usage_examples
from attn_course.selection import BUDGET_TOKENS, DATA_TYPES, TASK_TYPES, Machine
from attn_course.selection.candidates import Price
from attn_course.selection.prediction import Row

GIB = 2**30
recommend = AttentionSelector.recommend_attention_type
FORMS = pytest.mark.parametrize(
    ("selector", "is_right"),
    [(AttentionSelector, True), (textbook.AttentionSelector, False)],
    ids=["ours", "textbook"],
)


def names(recommendations):
    return [entry["implementation"] for entry in recommendations]


@FORMS
@pytest.mark.parametrize("budget", ["low", "medium", "high"])
def test_attention_over_places_is_not_recommended_where_its_map_does_not_fit(selector, is_right, budget):
    found = selector.recommend_attention_type("spatial", spatial_dims=(224, 224), computational_budget=budget)
    assert ("SelfAttention2D" not in names(found)) is is_right


@FORMS
def test_one_pixel_more_than_224_changes_nothing(selector, is_right):
    before = names(selector.recommend_attention_type("spatial", spatial_dims=(224, 224)))
    after = names(selector.recommend_attention_type("spatial", spatial_dims=(225, 225)))
    assert (before == after) is is_right


@FORMS
def test_an_unknown_kind_of_data_is_an_error_that_names_the_known_ones(selector, is_right):
    try:
        selector.recommend_attention_type("audio")
        refused = False
    except ValueError as error:
        refused = all(word in str(error) for word in ("audio", *DATA_TYPES))
    assert refused is is_right


@FORMS
@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_the_task_is_looked_at(selector, is_right, data_type):
    found = [selector.recommend_attention_type(data_type, task_type=task) for task in TASK_TYPES]
    assert any(entry != found[0] for entry in found) is is_right


@FORMS
@pytest.mark.parametrize("data_type", ["sequential", "spatial"])
def test_the_budget_is_looked_at(selector, is_right, data_type):
    sizes = {"sequence_length": 900, "spatial_dims": (90, 90)}
    if data_type == "sequential":
        sizes["sequence_length"] = 20_000
    found = [
        selector.recommend_attention_type(data_type, **sizes, computational_budget=budget)
        for budget in ("low", "medium", "high")
    ]
    firsts = [names(entry)[0] for entry in found]
    expected = {
        "sequential": ["sliding_window_attention", "sliding_window_attention", "MultiHeadAttention"],
        "spatial": ["CBAM", "SelfAttention2D", "SelfAttention2D"],
    }
    assert (firsts == expected[data_type]) is is_right


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        ({"data_type": "sequential"}, "MultiHeadAttention"),
        (
            {"data_type": "sequential", "sequence_length": 1000, "computational_budget": "low"},
            "MultiHeadAttention",
        ),
        (
            {"data_type": "sequential", "sequence_length": 1001, "computational_budget": "low"},
            "sliding_window_attention",
        ),
        ({"data_type": "sequential", "sequence_length": 5000}, "MultiHeadAttention"),
        ({"data_type": "spatial"}, "SelfAttention2D"),
        ({"data_type": "spatial", "spatial_dims": (32, 32)}, "SelfAttention2D"),
        ({"data_type": "spatial", "spatial_dims": (512, 512)}, "CBAM"),
        ({"data_type": "mixed"}, "transformer_cnn_hybrid"),
        (
            {
                "data_type": "mixed",
                "sequence_length": 30,
                "spatial_dims": (112, 112),
                "task_type": "detection",
            },
            "transformer_cnn_hybrid",
        ),
    ],
)
def test_where_the_document_is_right_the_first_recommendation_is_its_own(arguments, first):
    found = recommend(**arguments)[0]
    usual = textbook.AttentionSelector.recommend_attention_type(**arguments)[0]
    assert found["implementation"] == usual["implementation"] == first
    assert found["type"] == usual["type"]


def all_answers():
    sizes = [1, 7, 100, 1_001, 30_000]
    for data_type, task, budget, n in itertools.product(DATA_TYPES, TASK_TYPES, BUDGET_TOKENS, sizes):
        side = min(n, 1_000)
        length = None if data_type == "mixed" else n  # so many frames at a time would fit nowhere
        yield recommend(data_type, length, (side, side), budget, task, memory_bytes=16 * GIB)


KEYS = {
    "type", "reason", "implementation", "options", "flops", "peak_bytes", "needs_bytes", "seconds", "fits", "reach",
    "accuracy", "evidence", "machine",
}  # fmt: skip


def test_every_answer_has_all_entries_and_an_implementation_that_exists():
    for answer in all_answers():
        assert answer and all(entry.keys() == KEYS and entry["fits"] for entry in answer)
        assert len({entry["type"] for entry in answer}) == len(answer)
        for entry in answer:
            assert all(isinstance(entry[key], str) and entry[key] for key in ("type", "reason", "machine"))
            assert callable(getattr(attn_course, entry["implementation"]))
            assert entry["flops"] >= 0 and entry["seconds"] > 0 and entry["peak_bytes"] <= 16 * GIB


@pytest.mark.parametrize("side", [64, 100, 200])
def test_the_memory_given_decides_where_the_map_stops_fitting(side):
    needed = 2 * complexity.score_bytes(1, 1, side**2, side**2)
    image = {"spatial_dims": (side, side), "computational_budget": "high", "width": 16}
    fits = recommend("spatial", **image, memory_bytes=needed)
    assert "SelfAttention2D" in names(fits)
    assert "SelfAttention2D" not in names(recommend("spatial", **image, memory_bytes=needed - 1))
    (entry,) = (entry for entry in fits if entry["implementation"] == "SelfAttention2D")
    assert entry["needs_bytes"] == needed > entry["peak_bytes"]


def test_what_is_left_out_is_said_with_its_size():
    first = recommend("spatial", spatial_dims=(224, 224))[0]
    assert first["implementation"] == "CBAM"
    assert "SelfAttention2D needs 18.8 GiB of memory, and there are 2.0 GiB" in first["reason"]
    assert "MultiHeadAttention needs 2,604.4 GFLOP, more than the budget" in first["reason"]
    first = recommend("spatial", spatial_dims=(90, 90), computational_budget="low")[0]
    assert "SelfAttention2D needs 39.1 GFLOP, more than the budget" in first["reason"]


def test_when_everything_is_over_the_budget_the_cheapest_stays_and_says_so():
    (only,) = recommend("sequential", sequence_length=100_000, computational_budget="low")
    assert only["implementation"] == "sliding_window_attention"
    assert "over the budget as well" in only["reason"]


def test_when_nothing_fits_the_error_names_the_least_that_would():
    with pytest.raises(ValueError, match=r"nothing fits into 1\.0 MiB: the least, \w+, needs 3\.1 MiB"):
        recommend("spatial", memory_bytes=2**20)


def test_generation_is_causal_and_detection_looks_at_places():
    found = recommend("sequential", task_type="generation")
    assert all("is_causal=True" in entry["reason"] for entry in found)
    assert next(entry["type"] for entry in found) == "Transformer Self-Attention"
    assert "Grouped-Query Attention" in [entry["type"] for entry in found]
    assert not any("is_causal" in entry["reason"] for entry in recommend("sequential"))
    assert names(recommend("spatial", task_type="detection"))[0] == "CBAM"
    assert names(recommend("spatial", task_type="generation"))[0] == "SelfAttention2D"
    assert "tokens before the mean" in recommend("mixed", task_type="detection")[0]["reason"]


# --- the demands


def considered(data_type="spatial", **demands):
    return AttentionSelector.consider(data_type, **{"spatial_dims": (20, 20), "width": 32, **demands})


def test_consider_returns_every_candidate_those_that_are_out_last_with_what_they_lack():
    found = considered(reach=3, latency_s=1e9)
    assert len(found) == 7 and [bool(entry["out"]) for entry in found] == 4 * [False] + 3 * [True]
    assert "reaches 0 places, and 3 are asked for" in found[-1]["out"]
    left = recommend("spatial", spatial_dims=(20, 20), width=32, reach=3)
    assert [entry["type"] for entry in left] == [entry["type"] for entry in found[:4]]


def test_with_a_reach_the_fastest_that_has_it_comes_first():
    for reach in (0, 3, 19):
        left = [entry for entry in considered(reach=reach) if not entry["out"]]
        assert [entry["seconds"] for entry in left] == sorted(entry["seconds"] for entry in left)
        assert all(entry["reach"] >= reach for entry in left)
    assert {entry["implementation"] for entry in left} == {"SelfAttention2D", "MultiHeadAttention"}


@pytest.mark.parametrize("reach", [0, 20])
def test_what_was_measured_below_the_accuracy_asked_for_or_not_at_all_is_out(reach):
    found = considered(reach=reach)
    bounds = sorted(entry["accuracy"] for entry in found if entry["accuracy"] is not None)
    assert len(bounds) >= 3 and bounds[0] < bounds[-1]
    for entry in considered(reach=reach, accuracy=bounds[-1]):
        accuracy = entry["accuracy"]
        if accuracy is None:
            assert entry["out"]
        elif accuracy < bounds[-1]:
            assert "was right in" in entry["out"] or "reaches" in entry["out"]
        else:
            assert not entry["out"]


def test_far_places_ask_for_the_accuracy_on_the_far_task():
    (near,) = (entry for entry in considered(reach=3) if entry["implementation"] == "CBAM")
    (far,) = (entry for entry in considered(reach=4) if entry["implementation"] == "CBAM")
    assert near["evidence"][-1]["file"] == "experiments/cluttered-digits.json"
    assert (
        far["evidence"][-1]["file"] == "experiments/mirrored-strip.json"
        and far["accuracy"] < near["accuracy"]
    )


def test_windows_are_as_wide_as_the_reach_and_right_within_it():
    found = AttentionSelector.consider("sequential", 900, reach=70)
    (window,) = (entry for entry in found if "window" in entry["options"])
    assert window["options"] == {"window": 70} and window["reach"] == 70 and window["accuracy"] > 0.9
    assert {entry["file"] for entry in window["evidence"]} >= {"experiments/far-token.json"}


def test_what_is_predicted_to_take_too_long_is_out():
    slow = max(considered(), key=lambda entry: entry["seconds"])
    found = considered(latency_s=0.999 * slow["seconds"])
    (out,) = (entry for entry in found if entry["out"])
    assert out["type"] == slow["type"] and "by prediction" in out["out"]
    with pytest.raises(ValueError, match=r"nothing meets all that is asked: .*SelfAttention2D takes"):
        recommend("spatial", latency_s=1e-12)


def test_a_batch_and_training_cost_what_the_cost_model_says():
    sizes = {"channels": 32, "height": 20, "width": 20}
    for batch, training in ((1, False), (5, True)):
        price = complexity.cost("cbam", batch=batch, **sizes)
        (entry,) = (
            entry for entry in considered(batch=batch, training=training) if entry["implementation"] == "CBAM"
        )
        expected = (
            (price.training_flops, price.peak_bytes_training) if training else (price.flops, price.peak_bytes)
        )
        assert (entry["flops"], entry["peak_bytes"]) == expected


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    st.sampled_from(DATA_TYPES), st.sampled_from(TASK_TYPES), st.sampled_from(list(BUDGET_TOKENS)),
    st.integers(1, 400), st.integers(1, 60), st.booleans(), st.integers(10, 34),
)  # fmt: skip
def test_what_does_not_fit_is_never_recommended(data_type, task, budget, n, side, training, power):
    demands = {"training": training, "memory_bytes": 2**power, "width": 64}
    try:
        found = recommend(data_type, n, (side, side + 3), budget, task, **demands)
    except ValueError as error:
        assert "nothing fits into" in str(error)
        rejected = AttentionSelector.consider(data_type, n, (side, side + 3), budget, task, **demands)
        assert not any(entry["fits"] for entry in rejected)
        return
    assert all(entry["needs_bytes"] <= 2**power and entry["fits"] for entry in found)


# --- the prediction and its evidence


def test_every_row_that_is_named_stands_in_its_file():
    folder = machine.results_folder()
    known = {}
    for data_type, training in itertools.product(DATA_TYPES, (False, True)):
        for entry in AttentionSelector.consider(data_type, training=training):
            for source in entry["evidence"]:
                file = folder / source["file"]
                content = known.setdefault(file, json.loads(file.read_text()))
                if source["file"].startswith("experiments/"):
                    assert content["runs"]
                elif source["file"].startswith("scenarios/"):
                    assert source["row"] in {row["name"] for row in content["calibration"]}
                else:
                    assert source["row"] in {row["case"] for row in content["rows"]}


HARDWARE = complexity.Hardware("a card", 1e12, 1e11)
PRICE = Price(flops=2 * 10**9, bytes_moved=10**8, peak_bytes=0, needs_bytes=0)


def row(kind="k", mode="forward", flops=PRICE.flops, moved=PRICE.bytes_moved, factor=1.0, name="r"):
    seconds = factor * (flops / HARDWARE.peak_flops + moved / HARDWARE.bandwidth)
    return Row(kind, mode, flops, moved, seconds, "f.json", name)


def test_without_measurements_the_cost_model_alone_speaks():
    assert Machine("m", HARDWARE).seconds("k", PRICE) == (pytest.approx(3e-3), [])
    entry = recommend("sequential", machine=HARDWARE)[0]
    assert entry["machine"] == "a card"
    assert not [source for source in entry["evidence"] if not source["file"].startswith("experiments/")]


def test_a_row_of_the_same_kind_and_mode_corrects_the_prediction_and_is_named():
    machine = Machine("m", HARDWARE, (row(factor=4.0, name="mine"), row(mode="training", factor=9.0)))
    seconds, evidence = machine.seconds("k", PRICE)
    assert seconds == pytest.approx(4 * 3e-3) and evidence == [{"file": "f.json", "row": "mine"}]
    assert machine.seconds("k", PRICE, training=True)[0] == pytest.approx(9 * 3e-3)
    assert machine.seconds("another", PRICE) == (
        pytest.approx(4 * 3e-3),
        [],
    )  # the median of all rows of the mode


def test_near_rows_count_more_than_far_ones_and_three_at_most():
    rows = [row(flops=10**k, moved=10 ** (k - 1), factor=2.0**k, name=str(k)) for k in range(5, 12)]
    seconds, evidence = Machine("m", HARDWARE, tuple(rows)).seconds("k", PRICE)
    assert [source["row"] for source in evidence] == ["9", "10", "8"]
    assert 2**8 * 3e-3 < seconds < 2**10 * 3e-3


def test_an_unknown_machine_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown machine 'abacus'; known: .*amd-epyc-2-cores"):
        recommend("sequential", machine="abacus")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"computational_budget": "huge"}, "unknown computational_budget 'huge'; known: low, medium, high"),
        ({"task_type": "sing"}, "unknown task_type 'sing'; known: classification, generation, detection"),
        ({"sequence_length": 0}, "sequence_length must be a whole number of at least 1, got 0"),
        ({"spatial_dims": (5, 0)}, "width must be a whole number of at least 1, got 0"),
        ({"spatial_dims": (5,)}, r"spatial_dims must be \(H, W\), got \(5,\)"),
        ({"batch": 0}, "batch must be a whole number of at least 1, got 0"),
        ({"width": -3}, "width must be a whole number of at least 1, got -3"),
        ({"reach": -1}, "reach must be a whole number of at least 0, got -1"),
        ({"latency_s": 0}, "latency_s must be above 0, got 0"),
        ({"accuracy": 1.5}, "accuracy must be from 0 to 1, got 1.5"),
        ({"memory_bytes": 1.5}, "memory_bytes must be a whole number of at least 1, got 1.5"),
    ],
)
@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_wrong_words_and_sizes_are_refused_with_the_known_ones(data_type, arguments, message):
    with pytest.raises(ValueError, match=message):
        recommend(data_type, **arguments)


def test_the_selector_makes_hybrid_models():
    assert AttentionSelector.create_hybrid_model is create_hybrid_model
    model = AttentionSelector().create_hybrid_model((3, 16, 16), 5).eval()
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 5)


def test_the_usage_examples_print_and_return_three_recommendations(capsys):
    nlp, vision, video = usage_examples()
    assert names(nlp)[0] == "MultiHeadAttention"
    assert names(vision)[0] == "CBAM" and not {"SelfAttention2D", "MultiHeadAttention"} & set(names(vision))
    assert names(video)[0] == "transformer_cnn_hybrid"
    printed = capsys.readouterr().out.splitlines()[::2]
    assert [line.split(":")[0] for line in printed] == [
        "NLP Recommendation",
        "Computer Vision Recommendation",
        "Video Analysis Recommendation",
    ]
