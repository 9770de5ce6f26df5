"""Interactive figures: things to turn and to touch, in a live notebook and in the published page.

>>> from attn_course import widgets
>>> clock = widgets.PositionClock(width=8)      # the last line of a cell shows it
>>> clock.tables()[0]["columns"]                # and every number that it shows is here, too
['query at', 'key at', 'score']

To add one: ``<name>.py`` with a `Figure` and ``<name>.js`` beside it, as ``clock`` has them; a line in ``_HOME``; its
cases in ``tests/test_widgets.py``, which hold the two sides equal and move it in a browser.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Figure": "figure",
    "CNNAttentionLens": "lens",
    "Chooser": "chooser",
    "CostExplorer": "costs",
    "PositionClock": "clock",
}

__all__ = ["CNNAttentionLens", "Chooser", "CostExplorer", "Figure", "PositionClock", "turn"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def turn(function: Any, **ranges: tuple[float, float]) -> Any:
    """Show a slider for each argument of ``function``, and what it prints or draws at that setting.

    Args:
        function: called with the sliders' values, as keywords.
        ranges: name -> ``(lowest, highest)``; each slider begins a tenth of the way up.

    Raises:
        ValueError: no ranges, or one that does not go upwards.
    """
    import ipywidgets

    if not ranges:
        raise ValueError("turn needs at least one range, such as factor=(0.0, 10.0)")
    for name, (low, high) in ranges.items():
        if not low < high:
            raise ValueError(f"the range of {name} must go upwards, got {low} to {high}")
    sliders = {
        name: ipywidgets.FloatSlider(
            value=low + (high - low) / 10, min=low, max=high, step=(high - low) / 100, description=name
        )
        for name, (low, high) in ranges.items()
    }
    return ipywidgets.interact(function, **sliders).widget
