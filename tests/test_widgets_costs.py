"""The cost explorer: every mechanism, true crossovers, every measured row; with no machine, one, or several."""

import json
from itertools import pairwise

import pytest
import torch

from attn_course import benchmark, complexity
from attn_course.benchmark import suite
from attn_course.widgets import CostExplorer, costs
from attn_course.widgets.costs import LINES, OPTIONS, crossings

PROJECTIONS, MAP = "Part of attention: projections", "Part of attention: the n × n map"
WINDOW = "Window, 128 on each side, no projections"


@pytest.fixture(scope="module")
def figure():
    return CostExplorer()


def table(figure, name, **settings):
    (found,) = [one for one in figure.tables(**settings) if one["name"] == name]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def test_every_mechanism_of_the_cost_model_has_a_line():
    assert {line.mechanism for line in LINES.values()} == set(complexity.mechanisms())


@pytest.mark.parametrize("width", OPTIONS["width"])
@pytest.mark.parametrize("training", [False, True])
def test_the_projections_meet_the_map_at_twice_the_width(figure, width, training):
    (row,) = table(figure, "Crossovers, about", on=[PROJECTIONS, MAP], width=width, training=training)
    assert row["length"] == pytest.approx(2 * width, rel=1e-6)


def test_the_parts_of_attention_add_up_to_it(figure):
    at = {"width": 256, "heads": 8, "sequences": 8}
    whole, *parts = (LINES[name].cost(96, **at) for name in ("Attention, with weights", PROJECTIONS, MAP))
    for count in (
        "flops",
        "training_flops",
        "elementwise",
        "parameters",
        "bytes_moved",
        "bytes_moved_training",
    ):
        assert getattr(whole, count) == sum(getattr(part, count) for part in parts), count


@pytest.mark.parametrize("channels", OPTIONS["channels"])
def test_a_crossover_on_the_grid_is_near_the_one_that_whole_sizes_have(figure, channels):
    names = ["SelfAttention2D", "Convolution, 3 × 3"]
    (row,) = table(figure, "Crossovers, about", family="maps", on=names, channels=channels)

    def dearer(side):
        first, second = (LINES[name].cost(side, channels=channels, images=1).flops for name in names)
        return first > second

    first = next(side for side in range(1, 300) if dearer(side))
    assert first - 1 - 0.02 * first <= row["side"] <= first + 0.02 * first


def test_lines_that_part_do_not_cross_and_lines_that_touch_and_go_on_do():
    sizes = (1, 2, 4, 8)
    assert list(crossings(sizes, [1, 2, 4, 8], [1, 2, 8, 32])) == []
    assert list(crossings(sizes, [1, 2, 4, 8], [2, 2, 3, 7])) == [(2, 2)]
    assert list(crossings(sizes, [1, 4, 16, 64], [2, 4, 4, 4])) == [(2, 4)]
    assert list(crossings(sizes, [1, None, 16, 64], [2, 4, 4, 4])) == []
    ((size, height),) = crossings(sizes, [1, 1, 1, 1], [0.5, 0.5, 2, 2])
    assert (size, height) == pytest.approx((2 * 2**0.5, 1))


def test_a_window_that_reaches_everything_costs_what_the_map_costs(figure):
    rows = {
        n: {row["mechanism"]: row["FLOPs"] for row in table(figure, "At the chosen size", length=n)}
        for n in (128, 192)
    }
    assert rows[128][WINDOW] == rows[128][MAP] and rows[192][WINDOW] < rows[192][MAP]


@pytest.mark.parametrize("mode", ["forward", "training"])
def test_every_measured_row_in_float32_is_a_dot_with_its_share_of_the_ceiling(figure, mode):
    for name, record in benchmark.machines().items():
        rows = [row for row in record["rows"] if row["mode"] == mode and row["dtype"] == "float32"]
        rows = [row for row in rows if row["status"] == "measured"]
        where = {"view": "roofline", "machine": name, "training": mode == "training"}
        shown = table(figure, "Predicted and measured", **where)
        assert len(shown) == len(rows) == len({row["row"] for row in shown})
        for row, ours in zip(shown, (row["peers"][row["ours"]] for row in rows), strict=True):
            share = max(ours["flops_share"], ours["bytes_share"])
            assert row["measured / bound"] == pytest.approx(1 / share, rel=1e-5)


def test_a_dot_on_a_line_has_what_the_cost_model_predicted_for_its_row():
    placed = 0
    for case in suite.cases("course"):
        row = {"mechanism": case.mechanism, "sizes": case.sizes, "note": case.note, "case": case.name}
        line, at = costs._place(row)
        assert line.mechanism == case.mechanism
        if at:
            others = {need: 1 for need in costs.NEEDS[line.family] if need not in at}
            price = line.cost(at["size"], **others, **{name: at[name] for name in line.needs})
            predicted = suite.predicted(case)
            training = case.mode == "training"
            assert predicted["peak_bytes"] == (price.peak_bytes_training if training else price.peak_bytes)
            assert predicted["bytes_moved"] == (price.bytes_moved_training if training else price.bytes_moved)
            placed += 1
    assert placed > 30


@pytest.mark.parametrize("preset", ["smoke", "full"])
def test_every_case_of_the_suite_belongs_to_a_line(preset):
    for device in ("cpu", "cuda"):
        for case in suite.cases(preset, torch.device(device)):
            row = {"mechanism": case.mechanism, "sizes": case.sizes, "note": case.note, "case": case.name}
            assert costs._place(row)[0].mechanism == case.mechanism


def test_it_works_without_a_machine_and_with_two():
    record = next(iter(benchmark.machines().values()))
    faster = json.loads(json.dumps(record))
    faster["ceilings"]["matrix_product"]["flops_per_s"] *= 7
    faster["rows"] = faster["rows"][:5]
    two = CostExplorer({"slow": record, "fast": faster}, quantity="time")
    slow, fast = (table(two, "The machine", view="roofline", machine=name)[0] for name in ("slow", "fast"))
    assert fast["GFLOP/s"] == pytest.approx(7 * slow["GFLOP/s"]) and slow["rows"] > fast["rows"]
    times = [table(two, "At the chosen size", machine=name)[0]["least time, ms"] for name in ("slow", "fast")]
    assert times[0] > times[1]

    assert two.data["machines"]["slow"]["threads"] == record["settings"]["threads"] > 0

    none = CostExplorer({})
    assert none.settings["machine"].startswith("assumed")
    assert table(none, "Predicted and measured", view="roofline") == []


def test_a_row_that_another_machine_lacks_is_let_go_and_a_wrong_one_is_refused(figure):
    record = next(iter(benchmark.machines().values()))
    two = CostExplorer({"all": record, "none": {**record, "rows": []}}, view="roofline")
    case = table(two, "Predicted and measured")[3]["row"]
    two.set(row=case)
    assert two.settings["row"] == case
    two.set(machine="none")
    assert two.settings["row"] == ""
    with pytest.raises(ValueError, match="no such measured row: 'nowhere'"):
        two.set(row="nowhere")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"length": 500}, "length must be one of 16, 24, .* got 500"),
        ({"training": 1}, "training must be one of False, True, got 1"),
        ({"machine": "mine"}, "machine must be one of .*, got 'mine'"),
        ({"on": ["Alchemy"]}, "no line 'Alchemy'; there are Attention, with weights, "),
    ],
)
def test_a_control_that_cannot_stand_there_says_where_it_can(figure, setting, message):
    with pytest.raises(ValueError, match=message):
        figure.tables(**setting)


def test_the_grids_rise_by_a_third_or_a_half_and_the_data_stay_light(figure):
    for grid in (OPTIONS["length"], OPTIONS["side"]):
        assert all(1 < b / a <= 1.5 for a, b in pairwise(grid))
    assert len(json.dumps(figure.state(), separators=(",", ":"))) < 250_000
