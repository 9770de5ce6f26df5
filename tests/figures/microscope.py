"""The attention microscope: where it is compared, and how a hand moves it."""

import functools

from attn_course.widgets import AttentionMicroscope

SENTENCE = "the man bites the dog’s Tail 🐕 again"  # 8 words, one twice, letters beyond ASCII


@functools.cache
def _made():
    return AttentionMicroscope()  # it runs the trained model


def make():
    figure = AttentionMicroscope(snippets=())
    figure.data["snippets"] = _made().data["snippets"]
    return figure


SETTINGS = [
    {},
    {"heads": 2, "head": 1, "query": 0, "temperature": 0.3, "mask": "causal"},
    {"mask": "padding", "real": 0, "temperature": 5},
    {"mask": "padding", "real": 2, "edits": [["q", 1, 1, -3.25], ["k", 0, 0, 0.125], ["v", 2, 1, 7]]},
    {"source": "own", "heads": 4, "head": 3, "query": 7, "sentence": SENTENCE, "mask": "window", "window": 2},
    {"source": "own", "heads": 2, "head": 1, "query": 3, "sentence": SENTENCE, "mask": "front", "real": 5},
    {"source": "own", "query": 7, "sentence": "alone", "temperature": 10, "edits": [["k", 0, 3, 99]]},
    {"source": "trained", "mask": "causal", "head": 2, "query": 14},
    {"source": "trained", "mask": "none", "snippet": 1, "layer": 1, "head": 3, "temperature": 0.1},
    {"source": "trained", "mask": "front", "real": 11, "snippet": 7, "layer": 5, "head": 9, "query": 30},
    {"source": "trained", "mask": "window", "window": 0, "snippet": 2, "query": 31, "heads": 2},
]


def _choose(stage, label, value):
    stage.page.get_by_label(label, exact=True).select_option(value)


def _now(stage):
    return stage.page.evaluate("() => document.querySelector('.attn-figure').attnModel.get('settings')")


def _type_a_sentence(stage):
    _choose(stage, "Look at", "own")
    words = stage.page.get_by_label("My own words")
    words.fill("one two  three four five six seven eight nine")
    words.press("Tab")
    told = stage.page.get_by_role("alert").filter(has_text="these are 9").inner_text()
    assert "1 to 8 words" in told and "still shows “the dog bites the man”" in told
    assert _now(stage)["sentence"] == "the dog bites the man"
    words.fill("  red fish, blue \t fish, ")
    words.press("Enter")
    assert stage.page.get_by_role("alert").all_inner_texts() == ["", ""]
    assert _now(stage)["sentence"] == "red fish, blue fish,"
    stage.slide("Follow the query of", "Home")
    stage.slide("Follow the query of", "ArrowRight")
    stage.settle()
    assert "“fish,” at 1 looks" in stage.page.locator(".attn-finding").inner_text()


def _edit_a_number(stage):
    entry = stage.page.get_by_label("q of bites, channel 1", exact=True)
    entry.fill("2.5")
    entry.press("ArrowUp")
    assert _now(stage)["edits"] == [["q", 1, 1, 2.6]]
    entry.fill("1e9")
    assert "1e9 is not used" in stage.page.locator(".attn-picture [role=alert]").inner_text()
    assert _now(stage)["edits"] == [["q", 1, 1, 2.6]]
    entry.fill("")  # what is no number changes nothing, and leaves with the hand
    entry.press("Tab")
    assert entry.input_value() == "2.6" and _now(stage)["edits"] == [["q", 1, 1, 2.6]]


def _edit_and_undo(stage):
    _edit_a_number(stage)
    stage.page.get_by_label("v of man, channel 0", exact=True).fill("-4")
    stage.page.get_by_role("button", name="Undo my edits").click()
    assert _now(stage)["edits"] == []
    assert stage.page.get_by_label("q of bites, channel 1", exact=True).input_value() == "0"
    stage.slide("Temperature", "End")


def _point_at_a_cell(stage):
    map_ = stage.page.get_by_role("img", name="Weights, 3 by 3")
    stage.page.get_by_label("k of man, channel 0", exact=True).fill("1.5")
    stage.slide("Temperature", "Home")
    stage.settle()
    assert "looks most at “man”, with > 99.9 %" in stage.page.locator(".attn-finding").inner_text()
    box = map_.bounding_box()
    stage.page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 20 + 46 * 1.5)
    assert stage.page.locator(".attn-micro-read").all_inner_texts() == ["", "bites → man: 0.999", ""]


def _choose_a_head(stage):
    _choose(stage, "Heads", "2")
    _choose(stage, "Head shown", "1")
    assert stage.page.get_by_label("q of dog, channel 1", exact=True).is_visible()


def _choose_a_snippet(stage):
    _choose(stage, "Look at", "trained")
    stage.settle()
    assert "of the 14 queries inside round brackets" in stage.page.locator(".attn-finding").inner_text()
    _choose(stage, "Line of code", "1")
    stage.slide("Follow the query of", "End")


def _hide_everything(stage):
    _choose(stage, "Mask", "front")
    stage.slide("Tokens that are no padding", "Home")
    stage.settle()
    assert "may look nowhere" in stage.page.locator(".attn-finding").inner_text()


def _press_a_word(stage):
    stage.page.get_by_role("img", name="bites looks at").click(position={"x": 240, "y": 60})
    assert _now(stage)["query"] == 2


MOVES = {
    "own words are typed in": _type_a_sentence,
    "a number is edited": _edit_a_number,
    "edits are undone, and it gets warm": _edit_and_undo,
    "a mask is chosen": lambda stage: _choose(stage, "Mask", "causal"),
    "a mask forbids everything": _hide_everything,
    "a pointer rests on a cell": _point_at_a_cell,
    "a head is chosen": _choose_a_head,
    "a line of the trained model is chosen": _choose_a_snippet,
    "an arrow key follows another word": lambda stage: stage.slide("Follow the query of", "ArrowLeft"),
    "a press on a word follows it": _press_a_word,
}
