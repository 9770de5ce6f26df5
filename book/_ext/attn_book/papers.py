"""Citations: the bibliography's addresses, and the role that a link to a paper becomes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from pybtex.database import BibliographyData, parse_file
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole

from .upgrade import address


def read(files: list[Path]) -> BibliographyData:
    """All entries of these BibTeX files."""
    entries = BibliographyData()
    for file in files:
        entries.add_entries(parse_file(str(file), bib_format="bibtex").entries.items())
    return entries


def addresses(bibliography: BibliographyData) -> dict[str, str]:
    """The key of each entry by each of its addresses: url, arXiv number, DOI."""
    found: dict[str, str] = {}
    for key, entry in bibliography.entries.items():
        fields = entry.fields
        urls = [fields["url"]] if "url" in fields else []
        if "eprint" in fields:
            urls.append(f"https://arxiv.org/abs/{fields['eprint']}")
        if "doi" in fields:
            urls.append(f"https://doi.org/{fields['doi']}")
        for url in urls:
            if found.setdefault(address(url), key) != key:
                raise ValueError(f"{url} stands in two entries, {found[address(url)]} and {key}")
    return found


def title(bibliography: BibliographyData, key: str) -> str:
    """The plain title of an entry."""
    return re.sub(r"[{}]", "", bibliography.entries[key].fields["title"])


class PaperRole(SphinxRole):
    """``{paper}`Vaswani et al., 2017 <vaswani2017attention>``` links to the entry on the references page."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        parts = re.fullmatch(r"(.+?)\s*<([^<>]+)>", self.text, re.DOTALL)
        words, key = (parts[1], parts[2]) if parts else (self.text, self.text)
        reference = addnodes.pending_xref(
            "", nodes.inline(words, words), refdoc=self.env.docname, refdomain="", reftype="paper",
            reftarget=key, refwarn=True, refexplicit=True,
        )  # fmt: skip
        self.set_source_info(reference)
        return [reference], []


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Where a `paper` reference leads: the entry's place in the bibliography."""
    if node.get("reftype") != "paper":
        return None
    domain: Any = env.get_domain("cite")
    for citation in domain.citations:
        if citation.key == node["reftarget"]:
            page = app.builder.get_relative_uri(node["refdoc"], citation.bibliography_key.docname)
            return nodes.reference(
                "", "", content, internal=True, refuri=f"{page}#{citation.citation_id}", classes=["paper"],
                reftitle=title(app.attn_bibliography, citation.key),  # type: ignore[attr-defined]
            )  # fmt: skip
    return None


def note_cited(env: BuildEnvironment, docname: str, keys: list[str]) -> None:
    """Remember which page cites what."""
    if not hasattr(env, "attn_cited"):
        env.attn_cited = {}  # type: ignore[attr-defined]
    env.attn_cited[docname] = set(keys)  # type: ignore[attr-defined]


def say_where_cited(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """After each entry of the bibliography: links to the pages that cite it."""
    domain: Any = app.env.get_domain("cite")
    here = {citation.citation_id: citation.key for citation in domain.citations
            if citation.bibliography_key.docname == docname}  # fmt: skip
    if not here:
        return
    cited: dict[str, set[str]] = app.env.attn_cited  # type: ignore[attr-defined]
    order = [name for name in app.env.found_docs if name in cited]
    order.sort(key=lambda name: (not name.startswith("notebooks/"), name))
    for item in doctree.findall(nodes.list_item):
        keys = [here[one] for one in item["ids"] if one in here]
        pages = [name for name in order if keys and keys[0] in cited[name]]
        if not pages:
            continue
        line = nodes.paragraph("", "Cited in: ", classes=["cited-in"])
        for number, name in enumerate(pages):
            title = app.env.titles[name].astext()
            line += [nodes.Text(", ")] if number else []
            line += nodes.reference(
                "", title, internal=True, refuri=app.builder.get_relative_uri(docname, name)
            )
        line += nodes.Text(".")
        item += line
