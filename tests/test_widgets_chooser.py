"""The chooser: the same answers as the Python selector, on one table of cases, in the browser."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from figures import differences, stage

from attn_course import AttentionSelector, complexity
from attn_course.selection import BUDGETS, SCENARIOS, Machine, machine_of
from attn_course.widgets import Chooser
from attn_course.widgets.chooser import QUESTIONS, REAL, WHOLE
from attn_course.widgets.figure import module

Settings = dict[str, Any]


def of_scenario(arguments: Settings) -> Settings:
    """A scenario's arguments as settings of the form."""
    sequential = arguments["data_type"] == "sequential"
    names = {"sequence_length": "sequence_length" if sequential else "frames",
             "width": "d_model" if sequential else "channels"}  # fmt: skip
    found = {names.get(name, name): value for name, value in arguments.items() if name != "spatial_dims"}
    if "spatial_dims" in arguments:
        found["height"], found["columns"] = arguments["spatial_dims"]
    return found


def drawn(count: int, seed: int) -> list[Settings]:
    """Questions by chance: sizes over some decades, odd ones and powers of two, each demand now and then."""
    chance = random.Random(seed)

    def size(most: int) -> int:
        found = max(1, round(most ** chance.random()))
        return 2 ** (found.bit_length() - 1) if chance.random() < 0.3 else found

    found = []
    for _ in range(count):
        data = chance.choice(["sequential", "spatial", "mixed"])
        one: Settings = {
            "data_type": data,
            "task_type": chance.choice(["classification", "generation", "detection"]),
            "computational_budget": chance.choice(list(BUDGETS)),
            "training": chance.random() < 0.5,
            "batch": size(40),
            "memory_bytes": 2 ** chance.randint(20, 40),
            "reach": None if chance.random() < 0.5 else size(3_000) - 1,
            "latency_s": None if chance.random() < 0.7 else 10 ** chance.uniform(-5, 1),
            "accuracy": None if chance.random() < 0.8 else round(chance.random(), 2),
        }
        if data == "sequential":
            one |= {
                "sequence_length": size(20_000),
                "d_model": chance.choice([64, 128, 256, 512, 1024, size(700)]),
            }
        else:
            one |= {"height": size(200), "columns": size(200)}
            one |= {"channels": size(700)} if data == "spatial" else {"frames": size(20)}
        found.append(one)
    return found


EDGES: list[Settings] = [
    {"memory_bytes": 1},
    {"data_type": "sequential", "memory_bytes": 1000},
    {"data_type": "mixed", "memory_bytes": 1000},
    {"latency_s": 1e-9},
    {"reach": 10, "accuracy": 1.0},
    {"reach": 100_000},
    {"data_type": "sequential", "sequence_length": 1, "d_model": 1},
    {"data_type": "sequential", "sequence_length": 1, "task_type": "generation"},
    {"data_type": "sequential", "sequence_length": 2, "task_type": "generation", "training": True, "d_model": 256},
    *({"data_type": "sequential", "sequence_length": n, "task_type": "generation", "training": True, "batch": batch}
      for n in (40, 300, 2_000) for batch in (1, 7)),
    {"data_type": "sequential", "sequence_length": 1_000_000, "reach": 300_000},
    {"data_type": "sequential", "sequence_length": 4_097, "d_model": 1_000, "reach": 0},
    {"data_type": "sequential", "sequence_length": 100_000, "computational_budget": "low", "memory_bytes": 2**45},
    {"height": 1, "columns": 1, "channels": 1},
    {"height": 1, "columns": 4_096, "channels": 3, "reach": 3},
    {"height": 224, "columns": 224}, {"height": 225, "columns": 225},
    {"height": 225, "columns": 225, "computational_budget": "low", "memory_bytes": 2**48},
    *({"height": 37, "columns": 41, "channels": 7, "batch": batch, "training": True} for batch in (1, 15, 16)),
    *({"data_type": "mixed", "height": side, "columns": side + 1} for side in (1, 3, 4, 7, 8, 23)),
    *({"data_type": "mixed", "height": side, "columns": 9, "training": True, "frames": 3} for side in (1, 4, 7, 8, 23)),
    {"data_type": "mixed", "height": 1_024, "columns": 768, "frames": 30, "memory_bytes": 2**50},
]  # fmt: skip
CASES = [*(of_scenario(one.arguments) for one in SCENARIOS), *drawn(240, seed=6), *EDGES, *QUESTIONS.values()]


@pytest.fixture(scope="module")
def chooser() -> Chooser:
    """A measured machine; one on which networks and training were never measured; one with its ceilings alone."""
    known = machine_of()
    few = tuple(row for row in known.rows if row.mode == "forward" and "CNN" not in row.kind)
    alone = complexity.Hardware("ceilings", 7e12, 3e11)
    return Chooser([known, Machine("few rows", known.hardware, few), Machine(alone.name, alone)])


@pytest.fixture(scope="module")
def table(chooser) -> list[tuple[Settings, list[Any]]]:
    """All settings of every case, the scenarios on the measured machine, with the answer of the Python selector."""
    names = list(chooser.machines)
    machines = [names[0 if i < len(SCENARIOS) else i % len(names)] for i in range(len(CASES))]
    asked = [
        {**chooser.settings, **case, "machine": name} for case, name in zip(CASES, machines, strict=True)
    ]
    return [(one, json.loads(json.dumps(chooser.tables(**one)))) for one in asked]


@pytest.fixture(scope="module")
def page(chromium, tmp_path_factory, chooser):
    with stage(chromium, tmp_path_factory.mktemp("chooser"), chooser) as opened:
        yield opened


def unlike(table: list[tuple[Settings, list[Any]]], theirs: list[Any]) -> list[tuple[Settings, list[str]]]:
    """The cases in which two sides differ, each with where."""
    pairs = ((case, differences(ours, other)) for (case, ours), other in zip(table, theirs, strict=True))
    return [(case, found) for case, found in pairs if found]


SET = "(now) => document.querySelector('.attn-figure').attnModel.set('settings', now)"


# --- The same answers -------------------------------------------------------------------------------------


def test_the_browser_answers_every_case_as_the_python_selector_does(page, chooser, table):
    assert len(SCENARIOS) == 82 and len(CASES) >= len(SCENARIOS) + 240 + 30
    theirs = page.page.evaluate(
        "([data, all]) => all.map((now) => attnFigures.known.chooser.tables(data, now))",
        [chooser.data, [case for case, _ in table]],
    )
    assert unlike(table, theirs) == []


def test_the_cases_reach_every_verdict(table):
    said = " ".join(str(row[-1]) for _, tables in table for row in tables[3]["rows"])
    for words in ("of memory, and there are", "by prediction, and there are", "are asked for", "never measured",
                  "of the cases, and", "more than the budget", "but the cheapest"):  # fmt: skip
        assert words in said, words
    verdicts = [tables[0]["rows"][0][1] for _, tables in table]
    assert sum(text.startswith("nothing fits") for text in verdicts) > 3
    assert sum(text.startswith("nothing meets") for text in verdicts) > 3
    assert len({text.split("(")[0] for text in verdicts if not text.startswith("nothing")}) >= 9


FAULTS = [
    (
        "this.hold(grads, step.saved, results);",
        "this.hold(grads, results);",
    ),  # what a step keeps is let go early
    ("grouped && kv > 1 ? Q.elements : 0", "0"),  # grouped queries in training: one copy less
    ("x.elements >= k.fuse_elements ? null", "x.elements > 2 * k.fuse_elements ? null"),  # another threshold
    ("4 * (of * dK + pairs) +", "4 * pairs +"),  # the ends of a window
    ("strided: i === 0", "strided: false"),  # the hybrid's tokens lie in order
    ("3 * projections + 7 * product", "3 * projections + 6 * product"),  # scores are not made again
    ("(pairs * 4 <= k.keep_bytes ? 0 : scores)", "0"),
    ("1 / (distance ** 2 + 1e-6)", "1 / (distance + 1e-6)"),  # the nearest rows weighed otherwise
    ("looks / 2", "looks"),  # detection ordered as classification
    ("!entry.everything && entry.reach < reach", "entry.reach < reach"),
    ("now.training ? 3 : 1", "1"),  # a budget for a forward pass held against three
    ("const far = now.reach !== null && now.reach >", "const far = now.reach !== null && now.reach >="),
]


def test_a_fault_in_the_page_is_found_by_some_case(chromium, chooser, table):
    right = module("chooser")
    assert [old for old, _ in FAULTS if right.count(old) != 1] == []
    page = chromium.new_page()
    try:
        page.goto("about:blank")
        changed = page.evaluate(
            """async ([right, faults, data, all]) => {
              const answers = async (text) => {
                const url = URL.createObjectURL(new Blob([text], { type: 'text/javascript' }));
                const { default: { tables } } = await import(url);
                return all.map((now) => tables(data, now));
              };
              const ours = (await answers(right)).map((one) => JSON.stringify(one));
              return Promise.all(faults.map(async ([old, fault]) => (await answers(right.replace(old, () => fault)))
                .map((one, i) => [i, one]).filter(([i, one]) => JSON.stringify(one) !== ours[i]).slice(0, 12)));
            }""",
            [right, FAULTS, chooser.data, [case for case, _ in table]],
        )
    finally:
        page.close()
    for (old, new), found in zip(FAULTS, changed, strict=True):
        assert any(differences(table[i][1], other) for i, other in found), (
            f"{new!r} in place of {old!r}: unnoticed"
        )


def test_a_machine_that_nobody_has_measured_is_refused_on_both_sides(page, chooser):
    with pytest.raises(ValueError, match=r"machine must be one of .*few rows, ceilings, got 'abacus'"):
        chooser.tables(machine="abacus")
    said = page.page.evaluate(
        """([data, now]) => {
          try { attnFigures.known.chooser.tables(data, now); } catch (error) { return error.message; }
        }""",
        [chooser.data, {**chooser.settings, "machine": "abacus"}],
    )
    assert said == f"no machine abacus; there are {', '.join(chooser.machines)}"


# --- Numbers that cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 0}, "height must be a whole number from 1 to 4,096, got 0"),
        ({"batch": -3}, "batch must be a whole number from 1 to 65,536, got -3"),
        (
            {"sequence_length": 10**9},
            "sequence_length must be a whole number from 1 to 1,000,000, got 1000000000",
        ),
        ({"channels": None}, "channels must be a whole number from 1 to 65,536, got None"),
        ({"d_model": 2.5}, "d_model must be a whole number"),
        ({"training": "yes"}, "training must be one of False, True, got 'yes'"),
        ({"accuracy": 1.01}, "accuracy must be a number from 0.0 to 1.0, got 1.01"),
        ({"latency_s": float("nan")}, "latency_s must be a number .* got nan"),
        ({"data_type": "image"}, "data_type must be one of mixed, sequential, spatial, got 'image'"),
        ({"colour": 1}, "no control colour"),
    ],
)
def test_python_refuses_what_cannot_be_and_names_the_range(chooser, settings, message):
    with pytest.raises(ValueError, match=message):
        chooser.tables(**settings)
    with pytest.raises(ValueError, match=message):
        Chooser(list(chooser.machines.values()), **settings)


def test_a_number_that_cannot_be_gets_a_message_and_the_answer_stays(page):
    form, height = page.page, page.page.get_by_label("Height H")
    before = page.shown()
    said = {}
    for text in ("0", "-3", "", "1e9", "1000000000", "a dozen", "3.5"):
        height.fill(text)
        height.press("Tab")
        page.settle()
        problem = form.locator(f"#{height.get_attribute('aria-describedby')}")
        assert height.get_attribute("aria-invalid") == "true" and height.input_value() == text
        said[text] = problem.inner_text()
        assert page.shown() == before
    stays = "The answer is still the one for 224."
    assert said["0"] == f"Height H must be a whole number from 1 to 4,096, got 0. {stays}"
    assert (
        "got -3." in said["-3"] and "got nothing." in said[""] and "got 1,000,000,000." in said["1000000000"]
    )
    assert "got a dozen." in said["a dozen"] and "got 3.5." in said["3.5"] and "1e9" in said["1e9"]

    # Another field works meanwhile, and the wrong text stays to be mended.
    batch = form.get_by_label("Batch B")
    batch.fill("2")
    batch.press("Tab")
    page.settle()
    assert page.shown() != before and height.input_value() == "3.5"
    batch.fill("1")
    batch.press("Tab")
    height.fill("224")
    height.press("Tab")
    page.settle()
    assert page.shown() == before and height.get_attribute("aria-invalid") == "false"
    assert form.locator(".attn-problem:visible").count() == 0 and page.wrong == []


def test_an_empty_demand_is_none_and_a_number_with_commas_is_read(page, chooser):
    settings = "() => document.querySelector('.attn-figure').attnModel.get('settings')"
    for label, text, name, value in [
        ("Reach needed", "1,000", "reach", 1000), ("Reach needed", "", "reach", None),
        ("Time limit, ms", "2.5", "latency_s", 0.0025), ("Time limit, ms", " ", "latency_s", None),
        ("Accuracy needed", ".9", "accuracy", 0.9), ("Accuracy needed", "", "accuracy", None),
    ]:  # fmt: skip
        field = page.page.get_by_label(label)
        field.fill(text)
        field.press("Tab")
        page.settle()
        assert page.page.evaluate(settings)[name] == pytest.approx(value)
    assert page.page.evaluate(settings) == chooser.settings


def test_without_an_answer_it_says_what_would_do_and_a_new_first_choice_shows_what_it_rests_on(page, chooser):
    finding, first = page.page.locator(".attn-finding"), page.page.locator(".attn-answer details").first
    page.slide("Memory limit", "Home")
    page.settle()
    least = min(row[3] for row in chooser.tables()[1]["rows"])
    assert finding.inner_text().startswith("No answer: nothing fits into 1.0 MiB: the least, ")
    assert finding.inner_text().endswith(f"needs {least / 2**20:.1f} MiB.") and first.count() == 0
    page.page.evaluate(SET, {**chooser.settings, "latency_s": 0.25})
    page.settle()
    assert "there are 250 ms" in page.page.locator(".attn-answer").last.inner_text()
    assert "CBAM()" in first.inner_text() and first.locator("a").first.is_visible()
    page.page.evaluate(SET, chooser.settings)


# --- What it points to ---------------------------------------------------------------------------------------


def test_every_piece_of_evidence_links_to_a_place_in_the_book(page, chooser):
    root = Path(__file__).resolve().parent.parent
    results, notebooks = root / "results", root / "notebooks"
    for file, where in chooser.data["shown"].items():
        assert (results / file).is_file(), file
        source = (notebooks / f"{where['page']}.py").read_text(encoding="utf-8")
        titles = re.findall(r"^# #+ (.+)", source, re.MULTILINE)
        headings = {re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") for title in titles}
        anchors = {*headings, *re.findall(r'"name": "(fig-[a-z-]+)"', source)}
        assert where["anchor"] in anchors and f"chapter {int(where['page'][:2])}" in where["text"], where
    links = page.page.locator(".attn-answer a")
    where = {(one["page"], one["anchor"]) for one in chooser.data["shown"].values()}
    assert {tuple(link.get_attribute("href").split(".html#")) for link in links.all()} <= where
    shown = links.count()
    assert shown == sum(
        len(entry["evidence"]) for entry in AttentionSelector.consider(**chooser.question())[:-1]
    )


def test_the_question_in_python_gives_the_answer_of_the_page(page, chooser, table):
    machines = {name: machine for name, machine in chooser.machines.items() if name != "few rows"}
    for case, tables in [one for one in table if one[0]["machine"] in machines][::20]:
        page.page.evaluate(SET, case)
        code = page.page.locator(".attn-wide pre").text_content()
        try:
            best = eval(code, {"AttentionSelector": AttentionSelector, "complexity": complexity})[0]
            assert (best["type"], best["flops"]) == tuple(tables[1]["rows"][0][:2]), code
            assert best["seconds"] == pytest.approx(tables[1]["rows"][0][4])
        except ValueError as error:
            assert str(error) == tables[0]["rows"][0][1]
    page.page.evaluate(SET, chooser.settings)


def test_memory_decides_about_the_documents_photograph(chooser):
    """What the chapter says: the document's choice is out for its memory, and comes back with enough of it."""
    left = {
        memory: [row[0] for row in chooser.tables(memory_bytes=memory)[1]["rows"]]
        for memory in (2**31, 2**35)
    }
    assert left[2**31][0] == "Transformer Self-Attention" and "CNN Self-Attention" not in left[2**31]
    assert left[2**35][0] == "CNN Self-Attention"


def test_without_a_choice_it_shows_every_measured_machine_and_the_cost_model_alone():
    made = Chooser()
    first, *_, alone = made.machines.values()
    assert made.settings["machine"] == first.name and first.rows
    assert not alone.rows and alone.hardware.peak_flops == first.hardware.peak_flops
    assert made.tables(machine=alone.name)[4]["rows"] != made.tables()[4]["rows"]
    assert len(json.dumps(made.state())) < 250_000
    assert set(made.data["limits"]) == {*WHOLE, *REAL} <= set(made.settings)
