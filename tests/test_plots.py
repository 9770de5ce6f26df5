import matplotlib
import pandas as pd
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from attn_course import plots


@pytest.fixture(autouse=True)
def figures_are_closed():
    yield
    plt.close("all")


def test_maps_share_one_scale_with_queries_down_and_the_origin_at_the_top():
    maps = [torch.rand(3, 5), torch.rand(3, 5)]
    figure = plots.attention_maps(maps, ["a", "b"], queries=["x", " ", "\n"], keys=list("vwxyz"))
    images = [image for axis in figure.axes for image in axis.images]
    assert [image.get_clim() for image in images[:2]] == [(0, 1), (0, 1)]
    axis = figure.axes[0]
    assert axis.get_ylim()[0] > axis.get_ylim()[1] and axis.get_ylabel() == "query"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["x", "·", "↵"]
    assert images[0].get_array().shape == (3, 5)


def test_small_maps_can_show_their_values():
    figure = plots.attention_maps([torch.tensor([[0.25, 0.75]])], ["a"], values=True)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.25", "0.75"]


def test_every_map_needs_a_title():
    with pytest.raises(ValueError):
        plots.attention_maps([torch.rand(2, 2)], ["a", "b"])


def test_masks_are_drawn_where_attention_is_allowed():
    mask = torch.tensor([[True, False, False], [True, True, False]])
    figure = plots.masks([mask], ["a mask"])
    assert figure.axes[0].images[0].get_array().tolist() == mask.tolist()


def test_the_house_style_leaves_torch_alone_and_sets_a_white_ground():
    with matplotlib.rc_context():
        plots.use_house_style()
        assert matplotlib.rcParams["savefig.facecolor"] == "white"


def test_a_logarithmic_map_shows_what_is_exactly_zero_as_nothing_and_the_rest_relative_to_the_largest():
    values = torch.tensor([[0.0, 2.0], [0.002, 1e-9]])
    figure = plots.log_maps([values], ["a"], floor=1e-4)
    shown = figure.axes[0].images[0].get_array()
    assert shown.mask.tolist() == [[True, False], [False, False]]
    assert shown.compressed().tolist() == pytest.approx([1.0, 1e-3, 1e-4])


def test_a_map_of_numbers_writes_whole_numbers_short_and_has_a_scale_for_each_group():
    groups = {
        "in": [torch.tensor([[8.0, 0.5]]), torch.tensor([[1.0, 2.0]])],
        "out": [torch.tensor([[0.25, 0.1]])],
    }
    figure = plots.number_maps(groups)
    first, second, third = figure.axes
    assert [text.get_text() for text in first.texts] == ["8", "0.50"]
    assert [axis.images[0].get_clim()[1] for axis in (first, second, third)] == pytest.approx(
        [8.0, 8.0, 0.25]
    )


def test_pictures_are_drawn_in_colour_cut_to_their_range_without_a_word_and_maps_from_zero(caplog):
    figure = plots.pictures([torch.full((3, 2, 2), 1.5), torch.rand(2, 2)], ["a", "b"], mark=(1, 0))
    assert figure.axes[0].images[0].get_array().max() == 1 and not caplog.records
    assert figure.axes[1].images[0].get_clim()[0] == 0
    assert [line.get_xydata().tolist() for line in figure.axes[0].lines] == [[[0.0, 1.0]]]


def test_dots_stand_in_their_rows_with_a_bar_at_their_mean_and_a_grey_one_at_chance():
    table = pd.DataFrame(
        {"network": ["CBAM", "CBAM"], "map": ["gate", "gate"], "above": [0.5, 0.9], "chance": [0.4, 0.6]}
    )
    _, grid, (chart,) = plots.pictures_and_charts(2, 3, 1)
    assert (len(grid), len(grid[0])) == (2, 3)
    plots.dots_and_means(chart, table, x="above", y="map", hue="network", chance="chance", legend=False)
    assert sorted(chart.collections[0].get_offsets()[:, 0].tolist()) == [0.5, 0.9]
    assert [line.get_xdata()[0] for line in chart.lines if len(line.get_xdata())] == pytest.approx([0.5, 0.7])
    assert chart.get_xlabel() == "above"


def test_before_and_after_share_a_scale_that_is_white_at_one():
    before, after = {"x": torch.full((2, 3), 0.5)}, {"x": torch.full((2, 3), 0.25)}
    figure = plots.before_and_after(torch.rand(2, 3), before, after, ["X"])
    images = [
        axis.images[0] for axis in figure.axes if axis.images and axis.images[0].get_cmap().name == "RdBu"
    ]
    assert [image.norm(1.0) for image in images] == [0.5, 0.5]


def test_maps_of_scores_share_one_scale_from_the_least_to_the_largest():
    figure = plots.score_maps([torch.tensor([[-3.0, 1.0]]), torch.tensor([[0.0, 5.0]])], ["a", "b"])
    assert [image.get_clim() for axis in figure.axes for image in axis.images] == [(-3, 5), (-3, 5)]


def test_a_logarithmic_map_is_relative_to_its_largest_and_black_where_nothing_is():
    figure = plots.log_maps([torch.tensor([[0.0, 2.0], [20.0, 1e-9]])], ["a"], floor=1e-3)
    image = figure.axes[0].images[0]
    shown = image.get_array()
    assert shown.mask.tolist() == [[True, False], [False, False]]
    assert shown.data[1].tolist() == pytest.approx([1, 1e-3]) and shown.data[0, 1] == pytest.approx(0.1)
    assert image.get_cmap()(shown)[0, 0].tolist() == [0, 0, 0, 1] and image.get_clim() == (1e-3, 1)


def test_numbers_stand_in_their_fields_and_whole_ones_without_decimals():
    figure = plots.number_maps({"x": [torch.tensor([[1.0, 0.25]])], "gate": [torch.tensor([[0.5, 2.0]])]})
    texts = [[text.get_text() for text in axis.texts] for part in figure.subfigs for axis in part.axes]
    assert texts == [["1", "0.25"], ["0.50", "2"]]


def test_a_picture_is_cut_to_what_can_be_shown_and_its_mark_rings_row_and_column():
    picture = torch.full((3, 5, 7), 2.0)
    figure = plots.pictures([picture, torch.rand(5, 7)], ["colours", "a map"], mark=(4, 1))
    colours, grey = (axis.images[0].get_array() for axis in figure.axes)
    assert colours.shape == (5, 7, 3) and colours.max() == 1 and grey.shape == (5, 7)
    (ring,) = figure.axes[0].lines
    assert (ring.get_xdata().tolist(), ring.get_ydata().tolist()) == ([1], [4])


def test_pictures_stand_left_of_their_charts():
    figure, grid, charts = plots.pictures_and_charts(2, 3, 1.0, 2.0)
    assert [len(row) for row in grid] == [3, 3] and len(charts) == 2
    figure.canvas.draw()
    right_edge = max(axis.get_window_extent().x1 for row in grid for axis in row)
    assert all(axis.get_window_extent().x0 >= right_edge for axis in charts)


@pytest.mark.parametrize("upright", [True, False])
def test_every_run_is_a_dot_and_every_mean_a_bar_with_chance_beside_it(upright):
    table = pd.DataFrame(
        {"network": ["CBAM"] * 2 + ["plain CNN"] * 2, "above": [0.5, 0.7, 0.9, 0.6], "by_luck": 0.4}
    )
    x, y = ("above", "network") if upright else ("network", "above")
    axis = plt.subplots()[1]
    plots.dots_and_means(axis, table, x=x, y=y, hue="network", chance="by_luck")
    dots = [offset[0 if upright else 1] for dots in axis.collections for offset in dots.get_offsets()]
    assert sorted(dots) == pytest.approx([0.5, 0.6, 0.7, 0.9])
    bars = [value for line in axis.lines for value in (line.get_xdata() if upright else line.get_ydata())]
    assert {round(float(value), 2) for value in bars} >= {0.4, 0.6, 0.75}
    assert (axis.get_xlabel() if upright else axis.get_ylabel()) == "above"


def test_ratios_before_and_after_are_white_at_one_and_say_their_means():
    before, after = {"a": torch.ones(3, 5)}, {"a": torch.tensor([[0.5, float("nan")]])}
    figure = plots.before_and_after(torch.rand(3, 5), before, after, ["gate"])
    titles = [axis.get_title(loc) for axis in figure.axes for loc in ("left", "center")]
    assert "gate: 1.00" in titles and "trained: 0.50" in titles
    norms = [image.norm for axis in figure.axes for image in axis.images if hasattr(image.norm, "vcenter")]
    assert [norm.vcenter for norm in norms] == [1, 1]


def test_an_outline_runs_around_the_mask():
    axis = plt.subplots()[1]
    mask = torch.zeros(7, 7)
    mask[2:5, 3:6] = 1
    plots.outline(axis, mask)
    corners = axis.collections[0].get_datalim(axis.transData)
    assert (corners.x0, corners.x1, corners.y0, corners.y1) == (2.5, 5.5, 1.5, 4.5)


def test_lines_by_length_have_a_tick_for_each_length_and_the_house_colours():
    table = pd.DataFrame(
        {
            "length": [32, 64, 32, 64],
            "positions": ["rotary"] * 2 + ["ALiBi"] * 2,
            "right": [1.0, 0.9, 0.5, 0.4],
        }
    )
    axis = plt.subplots()[1]
    plots.lines_by_length(axis, table, y="right", hue="positions")
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["32", "64"]
    assert axis.get_xscale() == "log"
    drawn = {line.get_color() for line in axis.lines if len(line.get_xdata()) == 2}
    assert drawn == {plots.COLOURS["rotary"], plots.COLOURS["ALiBi"]}
