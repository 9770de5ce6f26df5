"""Things to turn and to touch in a live notebook."""

from collections.abc import Callable
from typing import Any

import ipywidgets


def turn(function: Callable[..., Any], **ranges: tuple[float, float]) -> ipywidgets.interactive:
    """Show a slider for each argument of ``function``, and what it prints or draws at that setting.

    Args:
        function: called with the sliders' values, as keywords.
        ranges: name -> ``(lowest, highest)``; each slider begins a tenth of the way up.

    Raises:
        ValueError: no ranges, or one that does not go upwards.
    """
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
