"""Formulas, rendered by MathJax while the book is built: a page needs no script and no other host to show them.

All formulas of the book go through one run of Node. A formula that MathJax cannot read is a warning
with its place, and so fails the build.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)
SCRIPT = Path(__file__).with_name("formulas.cjs")
FOLDER = "formulas"  # under _static in the built site: style sheet and fonts


class Formulas:
    """The HTML of each formula, by its TeX and whether it stands in a line of its own."""

    def __init__(self, node: list[str], modules: Path) -> None:
        self.node, self.modules = node, modules
        self.html: dict[tuple[str, bool], str] = {}
        self.errors: dict[tuple[str, bool], str] = {}
        self.css = ""

    def render(self, wanted: set[tuple[str, bool]]) -> None:
        """Render these beside those rendered before; the style sheet then serves them all."""
        everything = sorted({*self.html, *wanted})
        answer = subprocess.run(
            [*self.node, str(SCRIPT), str(self.modules / "mathjax" / "es5")],
            input=json.dumps(everything), capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
        if answer.returncode:
            raise ExtensionError(f"MathJax did not run:\n{answer.stderr}")
        result = json.loads(answer.stdout)
        self.css = result["css"]
        for formula, html in zip(everything, result["html"], strict=True):
            self.html[formula] = html
            failed = re.search(r'data-mjx-error="([^"]*)"', html)
            if failed:
                self.errors[formula] = failed[1]


def tex(node: nodes.math | nodes.math_block) -> str:
    """The formula's TeX; several lines get the environment that lets them break."""
    text = node.astext().strip()
    if (
        isinstance(node, nodes.math_block)
        and not node.get("nowrap")
        and r"\\" in text
        and r"\begin" not in text
    ):
        return rf"\begin{{split}}{text}\end{{split}}"
    return text


def collect(app: Sphinx, env: BuildEnvironment) -> None:
    """After reading, before writing: render every formula of every page."""
    if app.builder.format != "html":
        return
    wanted: dict[tuple[str, bool], nodes.Node] = {}
    for docname in env.found_docs:
        for node in env.get_doctree(docname).findall(lambda n: isinstance(n, (nodes.math, nodes.math_block))):
            wanted.setdefault((tex(node), isinstance(node, nodes.math_block)), node)
    formulas: Formulas = app.attn_formulas  # type: ignore[attr-defined]
    if wanted:
        formulas.render(set(wanted))
    for formula, error in formulas.errors.items():
        logger.warning("formula: %s: %s", error, formula[0], location=wanted.get(formula))


def _html(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> str:
    formulas: Formulas = translator.builder.app.attn_formulas  # type: ignore[attr-defined]
    formula = (tex(node), isinstance(node, nodes.math_block))
    if formula not in formulas.html:  # made while writing: a glued value, a reference's text
        formulas.render({formula})
        if formula in formulas.errors:
            logger.warning("formula: %s: %s", formulas.errors[formula], formula[0], location=node)
    return formulas.html[formula]


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(translator.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    translator.body.append(_html(translator, node) + "</span>")
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="math notranslate nohighlight"))
    translator.body.append(f'<div class="formula">{_html(translator, node)}</div>')
    if node["number"]:
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def has_formula(body: str) -> bool:
    """Whether a page's HTML holds a rendered formula."""
    return "<mjx-container" in body


def finish(app: Sphinx, error: Exception | None) -> None:
    """Write the style sheet and the fonts it names, and no other."""
    if error or app.builder.format != "html":
        return
    formulas: Formulas = app.attn_formulas  # type: ignore[attr-defined]
    if not formulas.html:
        return
    folder = Path(app.outdir) / "_static" / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    fonts = formulas.modules / "mathjax" / "es5" / "output" / "chtml" / "fonts" / "woff-v2"
    (folder / "formulas.css").write_text(formulas.css, encoding="utf-8")
    for font in sorted(set(re.findall(r"MathJax_[\w-]+\.woff", formulas.css))):
        shutil.copy2(fonts / font, folder / font)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("prerendered", (visit_inline, None), (visit_block, None))
    app.connect("env-updated", collect)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
