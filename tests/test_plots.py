import matplotlib
import pandas as pd
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from attn_course import complexity, plots
from attn_course.benchmark import Ratio


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


def test_a_benchmark_is_a_line_for_each_case_with_every_peer_and_the_controls_interval():
    def peer(median):
        return {"time_ratio": {"low": median - 0.1, "median": median, "high": median + 0.1}}

    peers = {"textbook": peer(2.0), "ours": peer(1.0), "ours (control)": peer(1.1), "timm": peer(0.5)}
    measured = {"case": "a", "status": "measured", "ours": "ours", "peers": peers}
    lost = {"case": "b", "status": "too large", "ours": "ours", "peers": {}}
    record = {"name": "m", "conditions": {"machine": "a machine"}, "rows": [measured, lost]}
    figure = plots.benchmark_ratios(record)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1] and axis.get_xscale() == "log"
    marks = {tuple(line.get_xydata()[0]) for line in axis.lines if len(line.get_xydata()) == 1}
    assert {(2.0, 0), (0.5, 0)} <= marks and (1.0, 0) not in marks
    assert [text.get_text() for text in axis.texts] == ["too large"]
    (control,) = axis.collections[0].get_segments()
    assert control.tolist() == [pytest.approx([1.0, 0.0]), pytest.approx([1.2, 0.0])]
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["textbook", "timm"]
    assert "a machine" in axis.get_title("right")


def test_shares_are_stacked_to_one_and_the_crossover_is_marked():
    shares = pd.DataFrame(
        {"projections": [0.9, 0.5, 0.1], "scores": [0.1, 0.5, 0.9]}, index=[64, 1024, 16384]
    )
    figure = plots.shares_by_length(shares, 1024, "title")
    (axis,) = figure.axes
    tops = [area.get_paths()[0].vertices[:, 1].max() for area in axis.collections]
    assert tops == [0.9, 1.0]
    assert axis.lines[0].get_xdata()[0] == 1024 and "1,024" in axis.texts[0].get_text()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["projections", "scores"]


def test_grouped_bars_have_a_bar_and_its_number_for_each_field_of_the_table():
    table = pd.DataFrame({"FLOPs": [2, 3_000], "elementwise": [5_000_000, 7e9]}, index=["a", "b"])
    (axis,) = plots.grouped_bars(table, "operations", "title").axes
    assert [bar.get_height() for bar in axis.patches] == [2, 3_000, 5_000_000, 7e9]
    assert [text.get_text() for text in axis.texts] == ["2", "3k", "5M", "7G"]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in axis.patches]
    assert centres == pytest.approx([-0.2, 0.8, 0.2, 1.2])


def test_predictions_are_lines_and_measurements_dots_of_the_same_colour():
    table = pd.DataFrame(
        {
            "n": [2, 4] * 2,
            "kind": ["attention"] * 2 + ["attention, training"] * 2,
            "predicted": [1, 2, 3, 4],
            "measured": [1.1, 2.1, 3.1, 4.1],
        }
    )
    (axis,) = plots.predicted_lines_measured_dots(table, x="n", hue="kind", y="MiB", title="t").axes
    lines, dots = axis.lines[::2], axis.lines[1::2]
    assert [list(line.get_ydata()) for line in lines] == [[1, 2], [3, 4]]
    assert [list(line.get_ydata()) for line in dots] == [[1.1, 2.1], [3.1, 4.1]]
    assert {line.get_color() for line in axis.lines} == {plots.COLOURS["attention"]}
    assert [line.get_linestyle() for line in lines] == ["-", "--"]


def test_a_roof_rises_with_the_bandwidth_and_is_flat_from_where_both_bind():
    hardware = complexity.Hardware("h", peak_flops=1e12, bandwidth=1e10)
    (axis,) = plots.roofline({"CBAM": (0.5, 4e9), "convolution": (900.0, 8e11)}, hardware, "t").axes
    x, y = axis.lines[0].get_data()
    assert x[1] == 100 and list(y[1:]) == [1000, 1000] and y[0] / x[0] == pytest.approx(10)
    assert x[0] < 0.5 and x[2] > 900
    assert [tuple(line.get_xydata()[0]) for line in axis.lines[2:]] == [(0.5, 4), (900, 800)]
    assert axis.lines[2].get_color() == plots.COLOURS["CBAM"]


def test_measured_ratios_stand_with_their_interval_on_the_predicted_bars():
    measured = [Ratio(1.0, 1.0, 1.0), Ratio(0.6, 0.5, 0.7)]
    (axis,) = plots.predicted_and_measured_ratios(
        ["8", "1"], [1, 0.3], measured, Ratio(1, 0.9, 1.1), "t"
    ).axes
    assert [bar.get_height() for bar in axis.patches] == [1, 0.3]
    assert [list(line.get_ydata()) for line in axis.lines] == [
        [1, 1], [0.5, 0.7], [1, 0.6], [0.9, 0.9], [1.1, 1.1],
    ]  # fmt: skip


def test_heads_are_placed_by_entropy_and_distance_with_the_uniform_head_as_a_cross():
    heads = pd.DataFrame({"layer": [1, 2], "head": [3, 5], "entropy": [0.5, 1.5], "distance": [3.0, 7.0]})
    (axis,) = plots.heads_by_entropy_and_distance(heads, (3.2, 21.0), "t").axes
    assert axis.collections[0].get_offsets().tolist() == [[0.5, 3.0], [1.5, 7.0]]
    assert tuple(axis.lines[-1].get_xydata()[0]) == (3.2, 21.0)
    assert axis.get_xlim()[0] == axis.get_ylim()[0] == 0 and axis.get_ylim()[1] > 21
    numbers = {text.get_text(): text.xy for text in axis.texts}
    assert numbers["3"] == (0.5, 3.0) and numbers["5"] == (1.5, 7.0)


def test_readings_stand_in_milliseconds_one_below_the_other_beside_the_truth():
    (axis,) = plots.readings({"a": [0.002, 0.003], "b": [0.5]}, 0.002, "t").axes
    assert [line.get_xydata().tolist() for line in axis.lines[:2]] == [[[2, 0], [3, 0]], [[500, 1]]]
    assert axis.lines[2].get_xdata()[0] == 2
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]


def test_calls_one_by_one_follow_each_other_and_calls_in_turns_alternate():
    samples = {"A": [0.1, 0.2], "B": [0.3, 0.4]}
    left, right = plots.one_by_one_and_in_turns(samples, samples, ["l", "r"]).axes
    assert [line.get_xdata().tolist() for line in left.lines] == [[0, 1], [2, 3]]
    assert [line.get_xdata().tolist() for line in right.lines] == [[0, 2], [1, 3]]
    assert right.lines[1].get_ydata().tolist() == [300, 400]


def test_a_line_joins_the_recorded_rows_and_filled_dots_are_the_live_ones():
    table = pd.DataFrame({"n": [4, 2, 2], "s": [16.0, 4.0, 5.0], "form": "a", "live": [False, False, True]})
    (axis,) = plots.log_log_lines(table, x="n", y="s", hue="form", title="t", mark={"here": 3}).axes
    line, filled, hollow, mark = axis.lines
    assert line.get_xydata().tolist() == [[2, 4], [4, 16]] == hollow.get_xydata().tolist()
    assert filled.get_xydata().tolist() == [[2, 5]] and hollow.get_markerfacecolor() == "white"
    assert mark.get_xdata()[0] == 3


def test_without_a_column_live_all_dots_are_filled_and_joined():
    table = pd.DataFrame({"n": [2, 4], "s": [4.0, 16.0], "form": "a"})
    (axis,) = plots.log_log_lines(table, x="n", y="s", hue="form", title="t").axes
    line, filled, hollow = axis.lines
    assert len(line.get_xdata()) == len(filled.get_xdata()) == 2 and not len(hollow.get_xdata())


def test_each_machine_has_its_rows_on_the_axes_of_all_by_what_binds():
    table = pd.DataFrame({"bound": [1e-3, 1e-5], "measured": [2e-3, 5e-5], "binds": ["arithmetic", "bytes"]})
    one, two = plots.bound_and_measured({"one": table, "two": table[:1]}).axes
    assert [line.get_xydata().tolist() for line in one.lines[2:]] == [[[1e-3, 2e-3]], [[1e-5, 5e-5]]]
    assert one.get_xlim() == two.get_xlim() == one.get_ylim() == pytest.approx((5e-6, 4e-3))
    corner = one.lines[0].get_xydata().tolist()[0]
    assert corner[0] == corner[1] and one.lines[1].get_ydata()[0] == pytest.approx(10 * corner[1])
    assert two.get_title() == "two" and not len(two.lines[3].get_xdata())


def test_rates_stand_over_all_lengths_below_the_peak():
    (axis,) = plots.rates_by_length({"a": {512: 3, 2048: 5}, "b": {1024: 4}}, 10, "rate", "t").axes
    assert [line.get_xydata().tolist() for line in axis.lines[:2]] == [[[512, 3], [2048, 5]], [[1024, 4]]]
    assert axis.lines[2].get_ydata()[0] == 10 < axis.get_ylim()[1]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["512", "1,024", "2,048"]


TREE = ("kind?", {"a": ("long?", {"yes": "first", "no": "second"}), "b": "third"})


def test_a_decision_tree_shows_every_question_answer_and_recommendation_once_and_what_is_wrong_beside_its_own():
    (axis,) = plots.decision_tree(TREE, {"third": "does not exist"}, "t").axes
    texts = {text.get_text(): text.get_position() for text in axis.texts if text.get_text()}
    assert set(texts) == {
        "kind?",
        "long?",
        "a",
        "b",
        "yes",
        "no",
        "first",
        "second",
        "third",
        "does not exist",
    }
    assert [texts[name][1] for name in ("first", "second", "third", "does not exist")] == [0, 1, 2, 2]
    assert texts["kind?"][0] < texts["long?"][0] < texts["first"][0] and texts["long?"][1] == 0.5
    boxes = {text.get_text(): text.get_bbox_patch() for text in axis.texts}
    colours = [matplotlib.colors.to_hex(boxes[name].get_edgecolor()) for name in ("first", "third")]
    assert colours == [plots.COLOURS["attention"].lower(), plots.COLOURS["textbook"].lower()]


def test_choices_stand_in_milliseconds_with_the_chosen_in_bold_and_crosses_for_what_does_not_fit():
    table = pd.DataFrame({
        "case": ["x", "x", "y"], "candidate": ["p", "q", "p"], "predicted": [0.002, 0.003, 5.0],
        "measured": [0.004, 0.005, float("nan")], "chosen": [False, True, False], "out": [False, False, True],
    })  # fmt: skip
    (axis,) = plots.choices(table, "t").axes
    labels = axis.get_yticklabels()
    assert [label.get_text() for label in labels] == ["x:  p", "q", "y:  p"]
    assert [label.get_fontweight() for label in labels] == ["normal", "bold", "normal"]
    points = [(line.get_marker(), line.get_xdata()[0]) for line in axis.lines if len(line.get_xdata())]
    assert points[:4] == [("o", 2.0), ("o", 4.0), ("o", 3.0), ("o", 5.0)] and points[4] == ("x", 5000.0)


def test_accuracy_by_distance_draws_means_ranges_reaches_inside_the_axis_and_live_dots():
    rows = [
        {"distance": d, "accuracy": a, "model": model, "seed": seed, "reach": reach, "live": False}
        for model, reach in (("full", 2), ("window 1", 1))
        for seed, a in ((0, 0.4), (1, 0.8))
        for d in range(3)
    ]
    live = {"distance": 1, "accuracy": 0.5, "model": "window 1", "seed": 0, "reach": 1, "live": True}
    figure = plots.accuracy_by_distance({"1 layer": pd.DataFrame([*rows, live])}, 0.125, "t")
    (axis,) = figure.axes
    full, windowed, reach, dots, chance = axis.lines
    assert full.get_ydata().tolist() == pytest.approx([0.6] * 3) and full.get_color() != windowed.get_color()
    assert reach.get_xdata() == [1, 1] and chance.get_ydata() == [0.125, 0.125]
    assert dots.get_xydata().tolist() == [[1, 0.5]] and dots.get_color() == windowed.get_color()
    assert [text.get_text() for text in figure.legends[0].texts] == ["full", "window 1"]
    band = axis.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.4) and band[:, 1].max() == pytest.approx(0.8)


def test_the_reach_of_each_depth_is_drawn_on_both_sides_and_what_is_zero_is_left_out():
    fields = {1: torch.tensor([0.0, 1.0, 2.0, 1.0, 0.0]), 2: torch.tensor([1.0, 2.0, 8.0, 2.0, 1.0])}
    (axis,) = plots.reach_by_depth(fields, {1: 1, 2: 2}, "t").axes
    curves = [line for line in axis.lines if line.get_linestyle() == "-"]
    assert [curve.get_xdata().tolist() for curve in curves] == [[-1, 0, 1], [-2, -1, 0, 1, 2]]
    assert curves[1].get_ydata().max() == 1
    assert sorted(line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":") == [-2, -1, 1, 2]


def test_shares_within_count_what_does_not_fit_as_never_reached():
    rules = {"good": [1.0, 1.1, 1.0, 2.0], "bad": [1.5, float("inf"), float("inf"), float("inf")]}
    figure = plots.shares_within({"machine": rules}, 1.15, 0.9, "t")
    good, bad = figure.axes[0].lines[:2]
    assert good.get_xdata().tolist()[1:-1] == [1.0, 1.0, 1.1, 2.0]
    assert list(good.get_ydata()) == [0, 0.25, 0.5, 0.75, 1, 1] and list(bad.get_ydata()) == [0, 0.25, 0.25]
    assert [text.get_text() for text in figure.legends[0].texts] == ["good", "bad"]


def test_predicted_and_measured_times_lie_around_the_diagonal_in_a_colour_for_each_kind():
    table = pd.DataFrame(
        {"kind": ["map", "text", "map"], "predicted": [1.0, 2.0, 4.0], "measured": [1.5, 2.0, 3.0]}
    )
    figure = plots.predicted_and_measured_times({"m": table}, 0.25, "t")
    axis = figure.axes[0]
    diagonal, above, below, maps, texts = axis.lines
    assert axis.get_xlim() == axis.get_ylim() == (0.5, 8.0)
    assert diagonal.get_xydata().tolist() == [[0.5, 0.5], [8, 8]]
    assert above.get_ydata()[0] == 0.625 and below.get_ydata()[0] == 0.4
    assert maps.get_xydata().tolist() == [[1, 1.5], [4, 3]] and texts.get_xydata().tolist() == [[2, 2]]
    assert [text.get_text() for text in figure.legends[0].texts] == ["map", "text"]
