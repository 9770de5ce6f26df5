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
    "AttentionMicroscope": "microscope",
    "CNNAttentionLens": "lens",
    "Chooser": "chooser",
    "CostExplorer": "costs",
    "PositionClock": "clock",
}

__all__ = ["AttentionMicroscope", "CNNAttentionLens", "Chooser", "CostExplorer", "Figure", "PositionClock"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
