"""The position clock: where it is compared, and how a hand moves it."""

from attn_course.widgets import PositionClock


def make():
    return PositionClock(seed=3)


SETTINGS = [
    {},
    {"kind": "sinusoidal", "width": 12, "position": 7, "offset": 13, "word": True},
    {"kind": "sinusoidal", "width": 64, "position": 127, "offset": 96},
    {"kind": "rotary", "width": 20, "position": 11, "offset": 29, "word": True},
    {"kind": "rotary", "width": 4, "position": 101, "offset": 0},
    {"kind": "ALiBi", "width": 28, "position": 5, "offset": 17, "head": 3, "word": True},
    {"kind": "ALiBi", "offset": 41, "head": 8},
]

MOVES = {
    "an arrow key moves the key away": lambda stage: stage.slide("Key further on by", "ArrowRight", 3),
    "End puts the query at the last place": lambda stage: stage.slide("Query at position", "End"),
    "another kind is chosen": lambda stage: stage.page.get_by_label("Positions by").select_option("ALiBi"),
    "the word is switched on": lambda stage: stage.page.get_by_label("Both are the same word").press("Space"),
    "a wider model": lambda stage: stage.slide("Width", "ArrowRight", 2),
}
