"""The microscope: the trained model's maps replayed, the chapter's three words, and settings that must be refused."""

import pytest
import torch

from attn_course.data import encode
from attn_course.experiments import chapter1, load_model
from attn_course.transformer import padding_mask, scaled_dot_product_attention
from attn_course.widgets import AttentionMicroscope
from attn_course.widgets.microscope import GIVEN, SNIPPETS, word_vectors

ROUNDED = 2e-3  # of a weight, where queries and keys are stored in thousandths


@pytest.fixture(scope="module")
def microscope():
    return AttentionMicroscope(source="trained", mask="causal")


def table(figure, name, **settings):
    (found,) = [one for one in figure.tables(**settings) if one["name"].startswith(name)]
    return found["rows"]


def numbers(rows):
    return torch.tensor([row[1:] for row in rows], dtype=torch.float64)


@pytest.mark.parametrize("snippet", range(len(SNIPPETS)))
def test_the_maps_of_the_trained_model_are_replayed(microscope, snippet):
    model = load_model("language-model", chapter1.CharacterModel())
    with torch.no_grad():
        _, maps = model(encode(SNIPPETS[snippet])[None], need_weights=True)
    for layer, wanted in enumerate(maps, start=1):
        for head in range(4):
            shown = numbers(table(microscope, "Weights", snippet=snippet, layer=layer, head=head))
            torch.testing.assert_close(shown.float(), wanted[0, head], atol=ROUNDED, rtol=0)


def test_the_open_bracket_and_the_character_before_are_counted_on_the_models_own_map(microscope):
    text = SNIPPETS[0]
    model = load_model("language-model", chapter1.CharacterModel())
    with torch.no_grad():
        _, maps = model(encode(text)[None], need_weights=True)
    brackets = chapter1.opening_brackets(encode(text)).tolist()
    inside = [i for i, key in enumerate(brackets) if key >= 0]
    for head, row in enumerate(table(microscope, "Each head", layer=2)):
        weights = maps[1][0, head]
        assert row[-2:] == [sum(weights[i].argmax() == brackets[i] for i in inside), len(inside)]
        on_it = sum(weights[i, brackets[i]].item() for i in inside) / len(inside)
        before = sum(weights[i, i - 1].item() for i in range(1, len(text))) / (len(text) - 1)
        assert row[4] == pytest.approx(on_it, abs=ROUNDED) and row[3] == pytest.approx(before, abs=ROUNDED)


def test_the_given_words_are_those_that_the_chapter_computes_by_hand(microscope):
    q, k, v = (torch.tensor(GIVEN[letter], dtype=torch.float64) for letter in "qkv")
    output, weights = scaled_dot_product_attention(q, k, v)
    shown = {"source": "given", "mask": "none"}
    torch.testing.assert_close(numbers(table(microscope, "Weights", **shown)), weights)
    torch.testing.assert_close(numbers(table(microscope, "Output", **shown)), output)


def test_a_padded_key_gets_nothing_and_nobody_left_to_see_gives_zeros(microscope):
    shown = {"source": "given", "mask": "padding"}
    weights = numbers(table(microscope, "Weights", **shown, real=2))
    assert (weights[:, 2] == 0).all() and not padding_mask(torch.tensor([2]), 3)[0, 0, 0, 2]
    assert (numbers(table(microscope, "Output", **shown, real=0)) == 0).all()


def test_equal_words_get_equal_vectors_and_others_others():
    the, dog, again = word_vectors(["the", "dog", "The"])
    assert the == again != dog
    assert all(-1 <= x <= 1 for row in word_vectors([chr(97 + i) for i in range(26)]) for x in row)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask": "diagonal"}, "mask must be one of none, causal, padding, front, window, got 'diagonal'"),
        ({"heads": 3}, "heads must be one of 1, 2, 4, got 3"),
        ({"temperature": 0}, "temperature must be one of 0.1, .* got 0"),
        ({"query": -1}, "query must be a whole number from 0 on, got -1"),
        ({"layer": 0}, "layer must be a whole number from 1 on, got 0"),
        ({"head": True}, "head must be a whole number from 0 on, got True"),
        ({"sentence": "  "}, "sentence must be text of 1 to 8 words"),
        (
            {"sentence": "one two three four five six seven eight nine"},
            "sentence must be text of 1 to 8 words",
        ),
        (
            {"edits": [["q", 3, 0, 1.0]], "source": "given"},
            r"word below 3, channel below 2.*\['q', 3, 0, 1.0\]",
        ),
        ({"edits": [["k", 0, 1, 1e9]], "source": "given"}, "must lie within ±99, got 1000000000.0"),
        ({"edits": [["v", 0, 1, float("nan")]], "source": "given"}, "must lie within ±99, got nan"),
    ],
)
def test_a_setting_that_cannot_stand_is_refused_and_the_figure_stays(microscope, settings, message):
    before = microscope.settings
    with pytest.raises(ValueError, match=message):
        microscope.set(**settings)
    assert microscope.settings == before


def test_without_snippets_there_is_no_trained_model_to_look_at():
    with pytest.raises(ValueError, match="made without snippets"):
        AttentionMicroscope(snippets=(), source="trained")
