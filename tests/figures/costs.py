"""The cost explorer: where it is compared, and how a hand moves it."""

from attn_course.widgets import CostExplorer
from attn_course.widgets.costs import LINES


def make():
    return CostExplorer()


ALL = list(LINES)
SETTINGS = [
    {},
    {"quantity": "elementwise", "on": ALL, "length": 16, "heads": 1, "width": 64},
    {"quantity": "peak", "on": ALL, "width": 256, "training": True, "length": 65536},
    {"quantity": "peak", "on": ALL, "length": 384, "sequences": 8},
    {
        "quantity": "moved",
        "on": ALL,
        "width": 1024,
        "heads": 1,
        "sequences": 8,
        "length": 1536,
        "training": True,
    },
    {"quantity": "intensity", "on": ALL, "width": 64, "length": 96},
    {"quantity": "time", "on": ALL, "length": 2048},
    {"family": "maps", "on": ALL, "side": 28},
    {"family": "maps", "quantity": "time", "on": ALL, "images": 32, "side": 256, "training": True},
    {"family": "maps", "quantity": "peak", "on": ALL, "channels": 256, "side": 8},
    {"family": "maps", "quantity": "parameters", "on": ALL, "channels": 64},
    {"family": "maps", "quantity": "moved", "on": [], "channels": 64, "images": 32},
    {"view": "roofline", "length": 24576, "on": ALL},
    {"view": "roofline", "family": "maps", "training": True, "side": 112},
]


def _more(stage, label):
    stage.page.get_by_text("Which lines").press("Enter")
    stage.page.get_by_role("checkbox", name=label).press("Space")


def _point_out(stage):
    stage.page.get_by_label("Show").select_option("roofline")
    stage.page.get_by_label("Point out a measured row").select_option(index=5)


def _take_memory(stage):
    (machine,) = stage.figure.data["machines"].values()
    stage.page.get_by_label("Quantity").select_option("peak")
    stage.settle()
    assert f"with {machine['threads']} threads" in stage.page.locator(".attn-picture").inner_text()
    finding = stage.page.locator(".attn-finding").inner_text()
    assert "Parts have no peak of their own: “Part of attention: projections”" in finding


MOVES = {
    "an arrow key makes the sequence longer": lambda stage: stage.slide("Length", "ArrowRight", 3),
    "End takes the longest sequence": lambda stage: stage.slide("Length", "End"),
    "memory instead of FLOPs": _take_memory,
    "a wider model moves the crossover": lambda stage: stage.page.get_by_label("Width").select_option("1024"),
    "feature maps": lambda stage: stage.page.get_by_label("Mechanisms over").select_option("maps"),
    "the roofline, with a row pointed out": _point_out,
    "a line is switched off": lambda stage: _more(stage, "Part of attention: projections"),
    "training": lambda stage: _more(stage, "Training"),
}
