"""What stands around a page's text: where it can be run, who ran it on which machine, what scripts it loads."""

from __future__ import annotations

import platform
from html import escape
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from . import teaching
from .formulas import FOLDER, has_formula

BUILT_WITH = ("jupyter-book", "Sphinx", "myst-nb", "sphinx-book-theme")


def note_run(env: BuildEnvironment, docname: str, run: dict[str, Any]) -> None:
    """Remember which machine and versions produced a notebook's outputs."""
    if not hasattr(env, "attn_runs"):
        env.attn_runs = {}  # type: ignore[attr-defined]
    env.attn_runs[docname] = run  # type: ignore[attr-defined]


def note_glue(app: Sphinx, doctree: nodes.document) -> None:
    """Remember whose numbers a page shows: the notebooks that its glued values come from."""
    sources = {node["refdoc"] for node in doctree.findall() if type(node).__name__ == "PendingGlueReference"}
    if not hasattr(app.env, "attn_glued"):
        app.env.attn_glued = {}  # type: ignore[attr-defined]
    app.env.attn_glued[app.env.docname] = sorted(sources)  # type: ignore[attr-defined]


def repository(app: Sphinx) -> tuple[str, str]:
    """The repository's address and branch, from _config.yml."""
    options = app.config.html_theme_options
    return options["repository_url"].rstrip("/"), options.get("repository_branch") or "main"


def places(app: Sphinx, docname: str, title: str) -> dict[str, str]:
    """The addresses that belong to a page: source, error report, and for a notebook Colab."""
    url, branch = repository(app)
    path = app.env.doc2path(docname, base=False)
    body = f"Page: {path}\n\nWhat is wrong, and what should stand there instead?\n"
    found = {
        "source": f"{url}/blob/{branch}/{quote(path)}",
        "report": f"{url}/issues/new?title={quote('Error in: ' + title)}&body={quote(body)}",
    }
    if path.endswith(".ipynb"):
        host, _, name = url.partition("://")[2].partition("/")
        if host == "github.com":
            found["colab"] = f"https://colab.research.google.com/github/{name}/blob/{branch}/{quote(path)}"
    return found


def run_line(run: dict[str, Any]) -> str:
    """ "torch 2.13.0, numpy 2.4.6 on … ", as HTML; what a notebook does not say is said to be missing."""
    versions = ", ".join(
        f"{escape(name)} {escape(str(number))}" for name, number in run.get("versions", {}).items()
    )
    machine = escape(str(run.get("machine") or ""))
    ran = f", {escape(str(run['ran']))}" if run.get("ran") else ""
    if not versions and not machine:
        return "versions and on a machine that were not recorded"
    return f"{versions or 'versions not recorded'} on {machine or 'a machine not recorded'}{ran}"


def foot(app: Sphinx, docname: str) -> str:
    """The lines at a page's foot, as HTML."""
    env: Any = app.env
    lines = []
    runs = getattr(env, "attn_runs", {})
    if docname in runs:
        lines.append(f"The outputs on this page were made with {run_line(runs[docname])}.")
    for source in getattr(env, "attn_glued", {}).get(docname, []):
        if source != docname and source in runs and source in env.titles:
            uri = app.builder.get_relative_uri(docname, source)
            name = escape(env.titles[source].astext())
            lines.append(
                f'The numbers from <a href="{uri}">{name}</a> were made with {run_line(runs[source])}.'
            )
    built = ", ".join(f"{name} {version(name)}" for name in BUILT_WITH)
    lines.append(f"Built with {built}, Python {platform.python_version()}.")
    return "".join(f"<p>{line}</p>" for line in lines)


def page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Fill in what the templates of book/_templates show, and load only what the page needs."""
    is_page = doctree is not None and pagename in app.env.found_docs
    context["attn_foot"] = foot(app, pagename)
    context["attn_places"] = places(app, pagename, app.env.titles[pagename].astext()) if is_page else {}
    context["attn_notebook"] = is_page and "colab" in context["attn_places"]
    context["attn_download"] = context.get("sourcename") if context["attn_notebook"] else None
    context["attn_passed"] = teaching.passed(Path(app.srcdir)).get(PurePosixPath(pagename).name)
    if has_formula(context.get("body", "")) or has_formula(context.get("toc", "")):
        app.add_css_file(f"{FOLDER}/formulas.css")
    # The words on a fold are its name; a label of other words would hide them from who listens.
    if "body" in context:
        context["body"] = context["body"].replace('<summary aria-label="Toggle hidden content">', "<summary>")
    # The launch line stands under the title, where a reader looks for it.
    if context["attn_notebook"]:
        line = app.builder.templates.render("launch.html", context)  # type: ignore[attr-defined]
        context["body"] = context["body"].replace("</h1>", f"</h1>\n{line}", 1)


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", note_glue)
    # Before the theme's own listeners (500), which read the context.
    app.connect("html-page-context", page, priority=400)
    app.add_css_file("book.css", priority=900)
    app.add_js_file("book.js", loading_method="defer")
