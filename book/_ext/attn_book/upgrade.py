"""A chapter's notebook is plain Markdown, for Colab and GitHub. Here it becomes the book's Markdown.

What is written plainly                                What the book makes of it
``[figure](#fig-NAME)``, ``[equation](#eq-NAME)``      a numbered cross-reference, "figure 1.2", "equation (1.1)"
``<a id="eq-NAME"></a>`` on the line before ``$$``     a label and a number for that formula
a link to a paper whose address is in references.bib   a citation of that entry
``> **Predict.** …`` (Exercise, Note, Trap)            an admonition of that kind
``**Question 1.** …`` with its ``<details>``           a group that says so, each choice marked as right or wrong

It works on text alone and imports no Sphinx, so that it can be tested by itself. Code, fenced or between
backticks, is never touched.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from attn_course.widgets.figure import MIME

from . import figures

KINDS = ("predict", "exercise", "note", "trap")
PAPER_HOSTS = ("arxiv.org", "doi.org")

_FENCE = re.compile(r"^\s*(`{3,}|~{3,})")
# Directives whose content is Markdown; a page of prose has them, a notebook does not.
_DIRECTIVE = re.compile(
    r"^\s*(?:`{3,}|~{3,})\{(?:glossary|admonition|note|container|table|list-table|margin)\}"
)
_QUOTE = re.compile(r"^ {0,3}>")
_KIND = re.compile(rf"^\s*\*\*({'|'.join(KINDS)})\b\s*([^*]*?)\s*\*\*[ \t]*", re.IGNORECASE)
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]\\]|\\.|\[[^\[\]]*\])+)\]\(\s*<?([^\s()<>]+(?:\([^\s()]*\))?)>?\s*\)")
_LABEL = re.compile(r"^(?:[\w./%-]+\.(?:ipynb|md))?#((?:fig|eq)-[\w-]+)$")
_EQUATION = re.compile(
    r"^[ \t]*<a (?:id|name)=[\"'](eq-[\w-]+)[\"']>\s*</a>[ \t]*\n\s*^[ \t]*\$\$(.*?)\$\$[ \t]*$",
    re.DOTALL | re.MULTILINE,
)
_STRAY_ANCHOR = re.compile(r"<a (?:id|name)=[\"'](eq-[\w-]+)[\"']>\s*</a>")
_QUESTION = re.compile(r"\*\*(Question \d+)\.\*\* ")
_CHOICE = re.compile(
    r"<details (name=[^>]*>\s*<summary>.*?</summary>\s*\*\*(Right|Not quite)\.\*\*)", re.DOTALL
)
_PROGRESS = re.compile(r"\d+%\|.*\|\s*[\d.]+\w?/[\d.?]+")  # a text progress bar, as tqdm draws it
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_LIVE = "*(Controls to play with stand here when the notebook is running.)*"

Complain = Callable[[str], None]


def address(url: str) -> str:
    """One spelling for each address, so that a link and a bibliography entry meet.

    >>> address("http://arxiv.org/pdf/1706.03762v5.pdf")
    'arxiv.org/abs/1706.03762'
    """
    parts = urlsplit(url.strip())
    host = parts.netloc.lower().removeprefix("www.").removeprefix("dx.").removeprefix("export.")
    path = unquote(parts.path).rstrip("/")
    if host == "arxiv.org":
        path = re.sub(r"^/(?:pdf|html)/", "/abs/", path).removesuffix(".pdf")
        path = re.sub(r"v\d+$", "", path)
    if host == "doi.org":
        path = path.lower()
        if path.startswith("/10.48550/arxiv."):  # the DOI that arXiv itself gives
            host, path = "arxiv.org", "/abs/" + path.removeprefix("/10.48550/arxiv.")
    return f"{host}{path}" + (f"?{parts.query}" if parts.query else "")


class Upgrade:
    """Rewrites Markdown for the book.

    Args:
        papers: bibliography key of each paper's `address`.
        complain: called with a sentence for whatever cannot be right.
    """

    def __init__(self, papers: dict[str, str], complain: Complain = lambda message: None) -> None:
        self.papers = papers
        self.complain = complain
        self.cited: list[str] = []

    # -- Markdown ----------------------------------------------------------------------------------

    def markdown(self, text: str) -> str:
        """The text of one cell or page, upgraded."""
        question = _QUESTION.match(text)
        text = "\n".join(self._block(kind, lines) for kind, lines in _blocks(text.split("\n")))
        return self._question(question[1], text) if question else text

    def _block(self, kind: str, lines: list[str]) -> str:
        if kind == "code":
            if _DIRECTIVE.match(lines[0]):
                return "\n".join([lines[0], self.markdown("\n".join(lines[1:-1])), lines[-1]])
            return "\n".join(lines)
        if kind == "quote":
            return self._quote(lines)
        return self._prose("\n".join(lines))

    def _quote(self, lines: list[str]) -> str:
        inside = "\n".join(re.sub(r"^ {0,3}> ?", "", line) for line in lines)
        named = _KIND.match(inside)
        if not named:
            return "\n".join("> " + line if line else ">" for line in self.markdown(inside).split("\n"))
        kind, rest = named[1].lower(), named[2].rstrip(".: ")
        title = named[1].capitalize() + ("" if not rest or rest[0] in ":,.(" else " ") + rest
        title = self._inline(title)
        body = self.markdown(inside[named.end() :].strip("\n"))
        colons = ":" * max([6, *(len(run) + 1 for run in re.findall(r"^:{3,}", body, re.MULTILINE))])
        return f"\n{colons}{{admonition}} {title}\n:class: {kind}\n\n{body}\n{colons}\n"

    @staticmethod
    def _question(name: str, text: str) -> str:
        """A question and its choices, named as a group, so that the page can draw them as what they are."""
        kinds = {"Right": "right", "Not quite": "wrong"}
        text = _CHOICE.sub(lambda m: f'<details class="choice {kinds[m[2]]}" {m[1]}', text)
        return f'<div class="question" role="group" aria-label="{name}">\n\n{text}\n\n</div>'

    def _prose(self, text: str) -> str:
        text = _EQUATION.sub(lambda m: f"$$\n{m[2].strip()}\n$$ ({m[1]})", text)
        for stray in _STRAY_ANCHOR.findall(text):
            self.complain(f'<a id="{stray}"></a> is not followed by a $$ formula on the next line')
        return self._inline(text)

    def _inline(self, text: str) -> str:
        done, last = [], 0
        for code in _CODE_SPAN.finditer(text):
            done += [_LINK.sub(self._link, text[last : code.start()]), code[0]]
            last = code.end()
        return "".join([*done, _LINK.sub(self._link, text[last:])])

    def _link(self, link: re.Match[str]) -> str:
        words = re.sub(r"\s*\n(?:\s*>)*\s*", " ", link[1]).strip()
        target = link[2]
        label = _LABEL.match(target)
        if label:
            return self._cross_reference(words, label[1])
        if target.startswith(("http://", "https://")):
            key = self.papers.get(address(target))
            if key:
                self.cited.append(key)
                return f"{{paper}}`{_plain(words)} <{key}>`"
            if address(target).split("/")[0] in PAPER_HOSTS:
                self.complain(f"{target} is no address of an entry in references.bib (link '{words}')")
        return link[0]

    @staticmethod
    def _cross_reference(words: str, name: str) -> str:
        figure = name.startswith("fig-")
        if re.fullmatch(
            r"fig(?:ure|ures|\.)?" if figure else r"eq(?:uation|uations|\.)?", words, re.IGNORECASE
        ):
            # A no-break space keeps the number with its word.
            return (
                f"{{numref}}`{words}\u00a0{{number}} <{name}>`" if figure else f"{words}\u00a0{{eq}}`{name}`"
            )
        return f"{{ref}}`{_plain(words)} <{name}>`" if figure else f"{words} ({{eq}}`{name}`)"

    # -- Notebooks ---------------------------------------------------------------------------------

    def notebook(self, notebook: dict[str, Any]) -> dict[str, Any]:
        """A notebook (parsed JSON) whose Markdown cells, captions and Markdown outputs are upgraded."""
        notebook = copy.deepcopy(notebook)
        # A published page has no kernel behind it: stored widgets would only fetch scripts.
        notebook.get("metadata", {}).pop("widgets", None)
        cells: list[dict[str, Any]] = []
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = self.markdown(_joined(cell["source"]))
                cells.append(cell)
            elif cell["cell_type"] == "code":
                cells += self._code_cell(cell)
            else:
                cells.append(cell)
        notebook["cells"] = cells
        return notebook

    def _code_cell(self, cell: dict[str, Any]) -> list[dict[str, Any]]:
        tags = cell["metadata"].setdefault("tags", [])
        if "setup" in tags and "hide-input" not in tags:
            tags.append("hide-input")  # every chapter has the same first cell: folded in the book
        if "hide-input" in tags and "hide-output" not in tags:
            options = cell["metadata"].setdefault("mystnb", {})
            options.setdefault("code_prompt_show", "Show the code")
            options.setdefault("code_prompt_hide", "Hide the code")
        outputs = []
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr" and _PROGRESS.search(_joined(output["text"])):
                continue
            data = output.get("data", {})
            if MIME in data:
                words = _joined(data.get("text/plain", ""))
                output["data"] = data = {"text/html": figures.html(data[MIME], words)}
            if _WIDGET_VIEW in data:
                output["data"] = data = {"text/markdown": _LIVE}
            if "text/html" in data:  # the corner of a data frame names nothing, so it is no heading
                data["text/html"] = _joined(data["text/html"]).replace("<th></th>", "<td></td>")
            if "text/markdown" in data:
                data["text/markdown"] = self.markdown(_joined(data["text/markdown"]))
            outputs.append(output)
        cell["outputs"] = outputs
        figure = cell["metadata"].get("mystnb", {}).get("figure")
        if not figure:
            return [cell]
        if "caption" in figure:
            figure["caption"] = self.markdown(_joined(figure["caption"])).strip()
        return self._figure_apart(cell)

    def _figure_apart(self, cell: dict[str, Any]) -> list[dict[str, Any]]:
        """myst-nb wraps everything that a figure's cell shows in the figure. Give the picture its own cell."""
        pictures = [i for i, output in enumerate(cell["outputs"]) if _is_picture(output)]
        name = cell["metadata"]["mystnb"]["figure"].get("name", "?")
        if len(pictures) != 1:
            self.complain(f"the cell of figure '{name}' shows {len(pictures)} pictures, not one")
            return [cell]
        at = pictures[0]
        shown = [o["output_type"] in ("display_data", "execute_result") for o in cell["outputs"]]
        if sum(shown) == 1:
            return [cell]
        pieces = [cell["outputs"][:at], [cell["outputs"][at]], cell["outputs"][at + 1 :]]
        cells = []
        for number, piece in enumerate(pieces):
            if number and not piece:
                continue
            part = copy.deepcopy(cell)
            part["outputs"] = piece
            if number != 1:
                part["metadata"]["mystnb"].pop("figure")
            if number:
                part["source"] = "..."  # not shown; myst-nb leaves empty cells out
                tags = [tag for tag in part["metadata"]["tags"] if tag != "hide-input"]
                part["metadata"]["tags"] = [*tags, "remove-input"]
                if "id" in part:
                    part["id"] = f"{part['id']}-{number}"[-64:]
            cells.append(part)
        return cells


def _blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Runs of lines: 'code' (a fence with its content), 'quote' (a blockquote), 'prose' (all else)."""
    kind, run, fence = "prose", [], ""
    for line in lines:
        opening = _FENCE.match(line)
        if fence:
            run.append(line)
            if (
                opening
                and line.strip() == line.strip()[0] * len(line.strip())
                and opening[1].startswith(fence)
            ):
                yield "code", run
                kind, run, fence = "prose", [], ""
            continue
        if opening:
            if run:
                yield kind, run
            kind, run, fence = "code", [line], opening[1]
            continue
        now = "quote" if _QUOTE.match(line) else "prose"
        if now != kind and run:
            yield kind, run
            run = []
        kind = now
        run.append(line)
    if run:
        yield kind, run


def _is_picture(output: dict[str, Any]) -> bool:
    return any(kind.startswith("image/") for kind in output.get("data", {}))


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _plain(words: str) -> str:
    """Link text without what a role's text cannot hold."""
    return re.sub(r"[*`<>]|\\(?=\W)", "", words)
