"""What the tests of the interactive figures share: a page with one figure, in a browser; and each figure's cases.

A figure's file here has ``make()`` (the figure), ``SETTINGS`` (where its numbers are compared with the package's) and
``MOVES`` (a sentence -> what a hand does to the page, after which its numbers must have changed).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attn_book import figures as book_figures
from playwright.sync_api import Browser, Page

from attn_course.widgets.figure import CSS, HERE, MIME, Figure, script

PAGE = """<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>A figure</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="figure.css"><script src="theme.js"></script><script defer src="figures.js"></script>
<style>body {{ margin: 0 12px; font-family: sans-serif; }} html[data-theme=dark] {{ background: #14181d; color: #eee; }}
</style></head><body><main><article><h1>A figure</h1>{box}</article></main></body></html>"""
THEME = (
    "if (matchMedia('(prefers-color-scheme: dark)').matches) document.documentElement.dataset.theme = 'dark';"
)


class Stage:
    """One figure in a page, opened from the disk as a reader would."""

    def __init__(self, page: Page, figure: Figure) -> None:
        self.page, self.figure = page, figure
        self.wrong: list[str] = []
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)
        page.on(
            "request",
            lambda r: self.wrong.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None,
        )

    def tables(self, **settings: Any) -> list[dict[str, Any]]:
        """What the page's own code says at these settings."""
        return self.page.evaluate(
            "([name, data, settings]) => attnFigures.known[name].tables(data, settings)",
            [self.figure.name, self.figure.state()["data"], {**self.figure.settings, **settings}],
        )

    def shown(self) -> list[dict[str, Any]]:
        """What the tables in the page hold."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll('table[data-table]')].map((table) => ({
              name: table.dataset.table,
              rows: [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) =>
                cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value)))}))"""
        )

    def slide(self, label: str, key: str, times: int = 1) -> None:
        """Move a slider (or any control) by keyboard."""
        control = self.page.get_by_label(label)
        control.focus()
        for _ in range(times):
            control.press(key)

    def settle(self) -> None:
        """Wait until what was just changed is drawn and said."""
        self.page.wait_for_timeout(200)


@contextmanager
def stage(browser: Browser, folder: Path, figure: Figure, *, scheme: Any = "light", width: int = 1280,
          javascript: bool = True, touch: bool = False) -> Iterator[Stage]:  # fmt: skip
    """The figure, on a page of its own."""
    here = Path(folder)
    (here / "theme.js").write_text(THEME)
    (here / "figure.css").write_text((HERE / CSS).read_text(encoding="utf-8"), encoding="utf-8")
    (here / "figures.js").write_text(book_figures.LOADER.read_text(encoding="utf-8"), encoding="utf-8")
    (here / f"{figure.name}.js").write_text(script(figure.name), encoding="utf-8")
    # Through JSON with sorted keys, as a stored notebook does.
    shown = json.loads(json.dumps({"name": figure.name, **figure.state()}, sort_keys=True, allow_nan=False))
    page_file = here / "page.html"
    page_file.write_text(PAGE.format(box=book_figures.html(shown, repr(figure))), encoding="utf-8")
    context = browser.new_context(
        color_scheme=scheme,
        viewport={"width": width, "height": 900},
        java_script_enabled=javascript,
        has_touch=touch,
    )
    page = context.new_page()
    one = Stage(page, figure)
    page.goto(page_file.as_uri())
    if javascript:
        page.wait_for_selector(".attn-figure[data-ready]", state="attached")
        one.settle()
    try:
        yield one
    finally:
        context.close()


def differences(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], within: float = 1e-5) -> list[str]:
    """Where two lists of tables differ by more than ``within`` (of the number's size, where it exceeds 1)."""
    if [table["name"] for table in ours] != [table["name"] for table in theirs]:
        return [f"tables {[t['name'] for t in ours]} and {[t['name'] for t in theirs]}"]
    found = []
    for a, b in zip(ours, theirs, strict=True):
        if "columns" in b and a["columns"] != b["columns"]:
            found.append(f"{a['name']}: columns {a['columns']} and {b['columns']}")
        if [len(row) for row in a["rows"]] != [len(row) for row in b["rows"]]:
            found.append(f"{a['name']}: {len(a['rows'])} and {len(b['rows'])} rows, or of other lengths")
            continue
        for i, (row, other) in enumerate(zip(a["rows"], b["rows"], strict=True)):
            for j, (x, y) in enumerate(zip(row, other, strict=True)):
                if isinstance(x, bool | str | None) or isinstance(y, bool | str | None):
                    same = (
                        x == y
                        or (j == 0 and "rows" in b and _word(x) == _word(y))
                        or (x is None and y == "–")
                    )
                else:
                    same = math.isclose(x, y, rel_tol=within, abs_tol=within)
                if not same:
                    found.append(f"{a['name']}, row {i}, column {j}: {x!r} and {y!r}")
    return found


def _word(value: Any) -> str:
    """A row's name as the page writes it."""
    return f"{value:,}".replace("-", "−") if isinstance(value, int) else str(value)


__all__ = ["MIME", "Stage", "differences", "stage"]
