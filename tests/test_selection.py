"""Recommendations: what fits, what the budget and the task change, and what the textbook form gets wrong."""

import itertools

import pytest
import torch

import attn_course
from attn_course import AttentionSelector, complexity, create_hybrid_model, textbook, usage_examples
from attn_course.selection import BUDGET_TOKENS, DATA_TYPES, TASK_TYPES

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
        yield recommend(data_type, n, (side, side), budget, task, memory_bytes=16 * GIB)


def test_every_answer_has_entries_with_three_texts_and_an_implementation_that_exists():
    for answer in all_answers():
        assert answer
        assert len({*names(answer)}) == len(answer)
        for entry in answer:
            assert entry.keys() == {"type", "reason", "implementation"}
            assert all(isinstance(text, str) and text for text in entry.values())
            assert callable(getattr(attn_course, entry["implementation"]))


@pytest.mark.parametrize("side", [20, 64, 100, 200])
def test_the_memory_given_decides_where_the_map_stops_fitting(side):
    needed = 2 * complexity.score_bytes(1, 1, side**2, side**2)
    image = {"spatial_dims": (side, side), "computational_budget": "high"}
    assert names(recommend("spatial", **image, memory_bytes=needed))[0] == "SelfAttention2D"
    if needed - 1 >= 3 * 256 * side**2 * 4:
        assert names(recommend("spatial", **image, memory_bytes=needed - 1)) == ["CBAM"]


def test_what_is_left_out_is_said_with_its_size():
    (only,) = recommend("spatial", spatial_dims=(224, 224), computational_budget="high")
    assert "SelfAttention2D needs 18.8 GiB of memory, and there are 2.0 GiB" in only["reason"]
    (only,) = recommend("spatial", spatial_dims=(90, 90), computational_budget="low")
    assert "SelfAttention2D needs 39.1 GFLOP, more than the budget" in only["reason"]


def test_when_everything_is_over_the_budget_the_cheapest_stays_and_says_so():
    (only,) = recommend("sequential", sequence_length=100_000, computational_budget="low")
    assert only["implementation"] == "sliding_window_attention"
    assert "over the budget as well" in only["reason"]


def test_when_nothing_fits_the_error_names_the_least_that_would():
    with pytest.raises(ValueError, match=r"nothing fits into 1\.0 MiB .* the least, CBAM, takes 9\.2 MiB"):
        recommend("spatial", memory_bytes=2**20)


def test_generation_is_causal_and_detection_keeps_every_place():
    assert all(
        "is_causal=True" in entry["reason"] for entry in recommend("sequential", task_type="generation")
    )
    assert not any("is_causal" in entry["reason"] for entry in recommend("sequential"))
    assert names(recommend("spatial", task_type="detection")) == ["CBAM", "SelfAttention2D"]
    assert names(recommend("spatial", task_type="generation")) == ["SelfAttention2D", "CBAM"]
    assert "tokens before the mean" in recommend("mixed", task_type="detection")[0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"computational_budget": "huge"}, "unknown computational_budget 'huge'; known: low, medium, high"),
        ({"task_type": "sing"}, "unknown task_type 'sing'; known: classification, generation, detection"),
        ({"sequence_length": 0}, "sequence_length must be a whole number of at least 1, got 0"),
        ({"spatial_dims": (5, 0)}, "width must be a whole number of at least 1, got 0"),
        ({"spatial_dims": (5,)}, r"spatial_dims must be \(H, W\), got \(5,\)"),
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
    assert names(vision) == ["CBAM"]
    assert names(video)[0] == "transformer_cnn_hybrid"
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == [
        "NLP Recommendation",
        "Computer Vision Recommendation",
        "Video Analysis Recommendation",
    ]
