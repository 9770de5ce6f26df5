"""The interactive figures: the same numbers in Python and in the browser; moved by hand; seen by everybody."""

from __future__ import annotations

import importlib
import json
import re
import sys
import types
from pathlib import Path

import figures
import pytest
from figures import MIME, differences, stage
from playwright.sync_api import Browser
from site_checks import AXE, NARROW, PICTURES

from attn_course import widgets
from attn_course.widgets.figure import HERE, Figure, module, script
from tools import site as book_site

NAMES = sorted(path.stem for path in HERE.glob("*.js") if path.stem != "kit")
CASES = {name: importlib.import_module(f"figures.{name}") for name in NAMES}
BOTH = [pytest.param(name, settings, id=f"{name}-{number}") for name in NAMES
        for number, settings in enumerate(CASES[name].SETTINGS)]  # fmt: skip
MOVES = [pytest.param(name, move, id=f"{name}: {move}") for name in NAMES for move in CASES[name].MOVES]


@pytest.fixture(scope="module")
def made() -> dict[str, Figure]:
    """Each figure once, with its words; the tests leave it as it is."""
    return {name: CASES[name].make() for name in NAMES}


@pytest.fixture(scope="module")
def axe() -> str:
    return (book_site.node.node_modules() / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


# --- The two sides --------------------------------------------------------------------------------


def test_every_figure_of_the_package_has_its_cases_here():
    homes = {home for name, home in widgets._HOME.items() if name != "Figure"}
    assert homes == set(NAMES) == {path.stem for path in Path(figures.__file__).parent.glob("[a-z]*.py")}
    for name in NAMES:
        assert len(CASES[name].SETTINGS) >= 5 and len(CASES[name].MOVES) >= 3, name


@pytest.fixture(scope="module", params=NAMES)
def open_stage(request, chromium: Browser, tmp_path_factory, made):
    with stage(chromium, tmp_path_factory.mktemp(request.param), made[request.param]) as opened:
        yield opened


def test_the_browser_computes_what_the_package_computes(open_stage):
    figure = open_stage.figure
    for settings in CASES[figure.name].SETTINGS:
        ours = json.loads(json.dumps(figure.tables(**settings), allow_nan=False))
        assert differences(ours, open_stage.tables(**settings)) == [], settings


def test_the_settings_that_are_compared_differ_in_what_they_show(made):
    for name in NAMES:
        shown = [json.dumps(made[name].tables(**settings)) for settings in CASES[name].SETTINGS]
        assert len(set(shown)) == len(shown), name


def test_a_number_that_differs_is_found():
    table = {"name": "t", "columns": ["a", "b"], "rows": [["x", 1.0], ["y", None]]}
    other = json.loads(json.dumps(table))
    assert differences([table], [other]) == []
    other["rows"][0][1] = 1.0 + 3e-5
    assert differences([table], [other]) == ["t, row 0, column 1: 1.0 and 1.00003"]
    assert differences([table], [{**table, "rows": [["x", 1.0]]}]) and differences([table], [])
    assert differences([table], [{**table, "rows": [["x", 1.0], ["y", 0.0]]}])


@pytest.mark.parametrize(("name", "move"), MOVES)
def test_a_hand_moves_it_and_the_numbers_are_the_packages(name, move, chromium, tmp_path, made):
    figure = made[name]
    with stage(chromium, tmp_path, figure) as opened:
        opened.page.evaluate("() => document.querySelector('.attn-words').open = true")
        before, finding = opened.shown(), opened.page.locator(".attn-finding").inner_text()
        assert differences(figure.tables(), before) == []
        CASES[name].MOVES[move](opened)
        opened.settle()
        settings = opened.page.evaluate(
            "() => document.querySelector('.attn-figure').attnModel.get('settings')"
        )
        after = opened.shown()
        assert settings != figure.settings and after != before
        assert differences(figure.tables(**settings), after) == []
        assert finding and opened.page.locator(".attn-finding").inner_text()
        assert opened.wrong == []


# --- Everybody ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)]
)
def test_it_is_accessible_and_fits(name, scheme, width, chromium, axe, tmp_path, made):
    with stage(chromium, tmp_path, made[name], scheme=scheme, width=width) as opened:
        opened.page.evaluate(
            "() => { for (const one of document.querySelectorAll('details')) one.open = true; }"
        )
        assert opened.page.evaluate(NARROW) == []
        assert opened.page.evaluate(PICTURES) == []
        opened.page.evaluate(axe)
        assert opened.page.evaluate(AXE, None) == []
        assert opened.wrong == []


@pytest.mark.parametrize("name", NAMES)
def test_every_control_is_reached_by_tab_and_has_a_name(name, chromium, tmp_path, made):
    with stage(chromium, tmp_path, made[name]) as opened:
        controls = ".attn :is(input, select, button, summary)"
        seen = "(c) => c.checkVisibility() && !c.disabled"
        wanted = opened.page.evaluate(
            f"() => [...document.querySelectorAll('{controls}')].filter({seen}).length"
        )
        opened.page.evaluate("() => { globalThis.seen = new Set(); }")
        for _ in range(wanted + 60):
            opened.page.keyboard.press("Tab")
            opened.page.evaluate("() => seen.add(document.activeElement)")
        reached = opened.page.evaluate(f"() => [...seen].filter((c) => c.matches('{controls}')).length")
        assert reached == wanted > 2


@pytest.mark.parametrize("name", NAMES)
def test_a_finger_moves_it(name, chromium, tmp_path, made):
    with stage(chromium, tmp_path, made[name], width=390, touch=True) as opened:
        read = "() => JSON.stringify(document.querySelector('.attn-figure').attnModel.get('settings'))"
        before = opened.page.evaluate(read)
        slider = opened.page.locator(".attn input[type=range]:visible").first
        box = slider.bounding_box()
        opened.page.touchscreen.tap(box["x"] + 0.85 * box["width"], box["y"] + box["height"] / 2)
        opened.settle()
        assert opened.page.evaluate(read) != before and box["height"] >= 24


@pytest.mark.parametrize("name", NAMES)
def test_without_scripts_its_words_and_numbers_stand_there(name, chromium, tmp_path, made):
    with stage(chromium, tmp_path, made[name], javascript=False) as opened:
        text = opened.page.locator("article").inner_text()
        assert made[name].text() in text and made[name].tables()[0]["columns"][-1] in text


def test_what_looks_like_markup_in_its_state_is_text(chromium, tmp_path):
    figure = widgets.PositionClock()
    figure.data["note"] = "</script><h2 id='broken'>broken</h2><!--<script>"
    with stage(chromium, tmp_path, figure) as opened:
        assert (
            opened.page.evaluate("() => document.querySelector('.attn-figure').attnModel.get('data').note")
            == (figure.data["note"])
        )
        assert opened.page.locator("#broken").count() == 0 and opened.wrong == []


# --- A live notebook ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_module_is_what_anywidget_expects(name, chromium, made, tmp_path):
    """An ES module whose default export renders into an element, from a model, and cleans up behind itself."""
    state = json.loads(json.dumps(made[name].state(), allow_nan=False))
    page = chromium.new_page()
    try:
        page.goto("about:blank")
        tables = page.evaluate(
            """async ([text, state]) => {
              const url = URL.createObjectURL(new Blob([text], { type: 'text/javascript' }));
              const { default: widget } = await import(url);
              const heard = {};
              const model = { get: (k) => state[k], set(k, v) { state[k] = v; heard[`change:${k}`]?.(); },
                save_changes() {}, on(e, f) { heard[e] = f; }, off(e) { delete heard[e]; } };
              const el = document.body.appendChild(document.createElement('div'));
              const done = widget.render({ model, el });
              const count = el.querySelectorAll('table[data-table]').length;
              const keys = [];
              document.addEventListener('keydown', (event) => keys.push(event.key));
              for (const init of [{ key: 'ArrowRight' }, { key: 'k', ctrlKey: true }]) {
                el.querySelector('input').dispatchEvent(new KeyboardEvent('keydown', { ...init, bubbles: true }));
              }
              done();
              return [count, keys, Object.keys(heard).length];
            }""",
            [module(name), state],
        )
    finally:
        page.close()
    # A plain key stays in the figure: in a notebook's command mode it would be a command.
    assert tables == [len(made[name].tables()), ["k"], 0]


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_shows_the_live_figure_its_state_for_the_book_and_its_words(name, made):
    shown, _ = made[name]._repr_mimebundle_()
    assert shown[MIME] == {"name": name, **made[name].state()}
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert made[name].text() in shown["text/plain"] and made[name].tables()[0]["name"] in shown["text/plain"]
    json.dumps(shown, allow_nan=False)


@pytest.mark.parametrize("name", NAMES)
def test_python_moves_the_controls_and_hears_of_hands(name):
    figure = CASES[name].make()
    figure._repr_mimebundle_()
    settings = next(one for one in CASES[name].SETTINGS if one)
    figure.set(**settings)
    assert figure._live.settings == figure.settings == {**figure.settings, **settings}
    figure._live.settings = {**figure.settings, **CASES[name].make().settings}  # as the front end does
    assert figure.settings == CASES[name].make().settings
    with pytest.raises(ValueError, match="no control nowhere"):
        figure.set(nowhere=1)


def test_colab_is_asked_to_allow_the_figure_and_told_how_to_show_it(monkeypatch):
    asked = []
    colab = types.ModuleType("google.colab.output")
    colab.enable_custom_widget_manager = lambda: asked.append(True)
    colab._widgets = types.SimpleNamespace(_installed_url="https://example.org/manager")
    monkeypatch.setitem(sys.modules, "google.colab.output", colab)
    _, metadata = widgets.PositionClock()._repr_mimebundle_()
    (about,) = metadata.values()
    assert asked and about["colab"]["custom_widget_manager"]["url"] == "https://example.org/manager"


def test_a_live_figure_without_anywidget_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    shown, _ = widgets.PositionClock()._repr_mimebundle_()
    assert "pip install anywidget" in shown["text/plain"] and MIME in shown


def test_a_module_in_another_form_is_refused(tmp_path, monkeypatch):
    import attn_course.widgets.figure as home

    monkeypatch.setattr(home, "HERE", tmp_path)
    (tmp_path / "kit.js").write_text("const a = 1;\n\nexport { a };\n")
    (tmp_path / "good.js").write_text("import { a } from './kit.js';\n\nexport default a;\n")
    (tmp_path / "no-import.js").write_text("export default 1;\n")
    (tmp_path / "no-export.js").write_text("import { a } from './kit.js';\n")
    assert "import" not in module("good") and "export default" in module("good")
    assert re.search(r"attnFigures\.ready\(\"good\", theFigure\)", script("good"))
    with pytest.raises(ValueError, match="no-import"):
        module("no-import")
    with pytest.raises(ValueError, match="no-export"):
        script("no-export")
