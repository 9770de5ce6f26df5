"""What the book needs beyond Jupyter Book: see `upgrade`, `papers`, `formulas`, `frame`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

from . import figures, formulas, frame, papers, teaching
from .upgrade import Upgrade

logger = logging.getLogger(__name__)


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Turn the plain Markdown of a page or a notebook into the book's, before anybody parses it."""
    upgrade = Upgrade(
        papers.addresses(app.attn_bibliography),  # type: ignore[attr-defined]
        lambda message: logger.warning(message, location=docname),
    )
    if Path(app.env.doc2path(docname)).suffix == ".ipynb":
        notebook = upgrade.notebook(json.loads(source[0]))
        frame.note_run(app.env, docname, notebook["metadata"].pop("attn_course", {}))
        source[0] = json.dumps(notebook)
    else:
        # A page of prose may use roles and directives; only its links to papers are written plainly.
        source[0] = upgrade.markdown(source[0])
    papers.note_cited(app.env, docname, upgrade.cited)


def start(app: Sphinx) -> None:
    """Read the bibliography, and find Node for the formulas."""
    files = [Path(app.srcdir) / name for name in app.config.bibtex_bibfiles]
    app.attn_bibliography = papers.read(files)  # type: ignore[attr-defined]
    tools = Path(__file__).resolve().parents[3] / "tools"
    sys.path.insert(0, str(tools))
    try:
        import node
    finally:
        sys.path.remove(str(tools))
    app.attn_formulas = formulas.Formulas(node.commands()[0], node.node_modules())  # type: ignore[attr-defined]


def without_thebe(app: Sphinx) -> None:
    """Jupyter Book always loads sphinx-thebe; its script fails on every page and names another host."""
    for listeners in app.events.listeners.values():
        listeners[:] = [one for one in listeners if getattr(one.handler, "__module__", "") != "sphinx_thebe"]
    app.registry.css_files[:] = [one for one in app.registry.css_files if one[0] != "sphinx-thebe.css"]


def setup(app: Sphinx) -> dict[str, Any]:
    without_thebe(app)
    app.add_role("paper", papers.PaperRole())
    app.connect("builder-inited", start)
    app.connect("source-read", read_source)
    app.connect("missing-reference", papers.resolve)
    app.connect("doctree-resolved", papers.say_where_cited)
    formulas.setup(app)
    frame.setup(app)
    teaching.setup(app)
    figures.setup(app)
    return {"version": "1", "env_version": 1, "parallel_read_safe": False, "parallel_write_safe": True}
