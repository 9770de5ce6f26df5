"""Interactive figures in the published page: the state stands in the page, the code comes when the figure comes near.

A notebook's output holds a figure's name and state (`attn_course.widgets.figure.MIME`). Here it becomes a box with
its words and numbers, which are there without any script, and a block of JSON; `figures.js` starts it.
"""

from __future__ import annotations

import hashlib
import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_course.widgets.figure import CSS, HERE, script

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FOLDER = "figures"  # under _static in the built site
LOADER = Path(__file__).with_name("figures.js")


def html(shown: dict[str, Any], words: str = "") -> str:
    """A figure's box, from its name and state and its words and numbers as text."""
    state = {key: shown[key] for key in ("about", "data", "settings")}
    block = (
        json.dumps(state, ensure_ascii=False, separators=(",", ":"))
        .replace("<", "\\u003c")
        .replace("<!--", "<\\!--")
    )
    about, name = state["about"], shown["name"]
    version = hashlib.sha256(script(name).encode()).hexdigest()[:8]
    numbers = words.split("\n\n", 1)[1] if "\n\n" in words else ""
    return (
        f'<div class="attn-figure" data-figure="{escape(name)}" data-version="{version}"><div class="attn-live">'
        f'<div class="attn"><p class="attn-title">{escape(about["title"])}</p><p>{escape(about["text"])}</p>'
        f'<pre class="attn-numbers">{escape(numbers)}</pre></div></div>'
        f'<script type="application/json">{block}</script></div>'
    )


def has_figure(body: str) -> bool:
    """Whether a page's HTML holds an interactive figure."""
    return '<div class="attn-figure"' in body


def finish(app: Sphinx, error: Exception | None) -> None:
    """Write the loader, the style sheet, and the code of every figure that there is."""
    if error or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_static" / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOADER.name).write_text(LOADER.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / CSS).write_text((HERE / CSS).read_text(encoding="utf-8"), encoding="utf-8")
    for path in sorted(HERE.glob("*.js")):
        if path.stem != "kit":
            (folder / path.name).write_text(script(path.stem), encoding="utf-8")


def page(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Only a page with a figure loads what figures need."""
    if has_figure(context.get("body", "")):
        app.add_css_file(f"{FOLDER}/{CSS}")
        app.add_js_file(f"{FOLDER}/{LOADER.name}", loading_method="defer")


def setup(app: Sphinx) -> None:
    app.connect("html-page-context", page, priority=400)
    app.connect("build-finished", finish)
