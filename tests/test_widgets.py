import pytest

from attn_course import widgets


def test_turning_a_slider_calls_the_function_with_its_value():
    seen = []
    knob = widgets.turn(lambda factor: seen.append(factor), factor=(0.0, 10.0))
    slider = knob.children[0]
    slider.value = 4.0
    assert seen == [1.0, 4.0] and (slider.min, slider.max) == (0.0, 10.0)


def test_a_range_that_does_not_go_upwards_is_refused():
    with pytest.raises(ValueError, match=r"5.0 to 2.0"):
        widgets.turn(print, factor=(5.0, 2.0))
    with pytest.raises(ValueError, match="at least one"):
        widgets.turn(print)
