"""The CNN attention lens: where it is compared, and how a hand moves it."""

import functools

from attn_course.data import cluttered_digits
from attn_course.widgets import CNNAttentionLens

scenes = functools.cache(cluttered_digits)  # they take a second


def make():
    return CNNAttentionLens(scenes())


SETTINGS = [
    {},
    {"picture": "three", "network": "plain", "stage": 2, "trained": False},
    {"network": "se", "stage": 1, "map": "received"},
    {"picture": "three", "network": "eca", "stage": 3},
    {"picture": "three", "network": "cbam", "stage": 2},
    {"network": "cbam", "stage": 3, "map": "features", "trained": False},
    {"picture": "photograph", "network": "cbam", "stage": 3},
    {"network": "self-attention", "stage": 3, "row": 1, "column": 6},
    {"network": "self-attention", "stage": 3, "map": "received", "trained": False},
    {"picture": "photograph", "network": "self-attention", "stage": 3, "row": 11, "column": 7},
    {"picture": "three", "network": "self-attention", "stage": 3, "row": 11, "column": 2},
    {"picture": "photograph", "network": "self-attention", "stage": 1},
]


def _look_around(stage):
    stage.page.get_by_label("Network", exact=True).select_option("self-attention")
    stage.slide("Marked row", "ArrowDown")
    stage.slide("Marked column", "ArrowRight", 2)


def _tap_the_map(stage):
    stage.page.get_by_label("Network", exact=True).select_option("self-attention")
    stage.page.locator("canvas").click(position={"x": 270, "y": 90})
    now = stage.page.evaluate("() => document.querySelector('.attn-figure').attnModel.get('settings')")
    assert (now["row"], now["column"]) == (2, 7)


MOVES = {
    "back to before training": lambda stage: stage.page.get_by_label("Trained").press("Space"),
    "an arrow key goes to the next stage": lambda stage: stage.page.get_by_role("slider", name="Stage").press(
        "ArrowRight"
    ),
    "the photograph is chosen": lambda stage: stage.page.get_by_label("Picture", exact=True).select_option(
        "photograph"
    ),
    "arrow keys mark another place": _look_around,
    "a tap on the map marks a place": _tap_the_map,
    "the features are chosen": lambda stage: stage.page.get_by_label("Map", exact=True).select_option(
        "features"
    ),
}
