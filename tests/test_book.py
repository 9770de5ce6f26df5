"""The published book, as a browser sees it: every page, against every check of site_checks.py.

The checks are themselves checked: each is shown a page with that one fault, and must find it and nothing else.
"""

from __future__ import annotations

import base64
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import site_sample
import yaml
from attn_book import papers
from attn_book.upgrade import Upgrade, address
from playwright.sync_api import Browser, Page
from site_checks import CHECKS, Look, Site, errors_shown, markup_left, policy_faults

from tools import site as book_site
from tools import weigh

ROOT = Path(__file__).resolve().parent.parent
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))


def in_contents(toc: dict[str, Any]) -> list[str]:
    """Every page that a table of contents names, without suffix."""
    names = [toc[key] for key in ("root", "file") if key in toc]
    for key in ("parts", "chapters", "sections"):
        for part in toc.get(key, []):
            names += in_contents(part)
    return names


PAGES = [f"{name}.html" for name in in_contents(TOC)] + ["search.html"]
CHAPTERS = [name for name in in_contents(TOC) if name.startswith("notebooks/")]


@pytest.fixture(scope="module")
def axe() -> str:
    return (book_site.node.node_modules() / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


class Served:
    """A built site behind a server on this machine, with what is wrong on each page."""

    def __init__(self, folder: Path, chromium: Browser, axe: str) -> None:
        self.site = Site(folder)
        self.server = book_site.server(folder)
        self.look = Look(chromium, f"http://127.0.0.1:{self.server.server_address[1]}", axe)
        self.reports: dict[str, dict[str, list[str]]] = {}

    def report(self, page: str) -> dict[str, list[str]]:
        if page not in self.reports:
            self.reports[page] = self.look(self.site, page)
        return self.reports[page]


@pytest.fixture(scope="module")
def book(chromium: Browser, axe: str) -> Iterator[Served]:
    """The book itself, built if something changed."""
    command = [sys.executable, str(ROOT / "tools" / "site.py"), "build"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, f"the book does not build:\n{run.stderr[-6000:]}"
    served = Served(Path(run.stdout.strip().splitlines()[-1]).parent, chromium, axe)
    yield served
    served.server.shutdown()


# --- The book -------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("page", PAGES)
def test_page(book: Served, page: str, check: str) -> None:
    wrong = book.report(page)[check]
    assert not wrong, f"{page} must be a page that {CHECKS[check]}:\n" + "\n".join(wrong)


def test_every_page_of_the_site_is_checked_and_every_source_is_a_page(book: Served) -> None:
    assert set(book.site.pages) == {*PAGES, "index.html"}
    sources = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    named = {f"{name}.html" for name in in_contents(TOC)}
    assert {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in sources} == named


def test_every_page_can_be_reached_from_the_front_door(book: Served) -> None:
    reachable = {page: None for page in book.site.pages if page not in book.site.unreachable()}
    assert set(book.site.pages) - set(reachable) <= {"search.html"}  # opened by the search field


def test_the_front_door_has_a_heading_and_a_link_beside_its_refresh(book: Served) -> None:
    soup = book.site.soups["index.html"]
    assert soup.h1 and soup.html["lang"] == "en"
    assert soup.a["href"] == TOC["root"] + ".html"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_colab_button_of_a_chapter_opens_its_notebook(book: Served, chapter: str) -> None:
    repository = CONFIG["repository"]
    name = repository["url"].removeprefix("https://github.com/")
    wanted = f"https://colab.research.google.com/github/{name}/blob/{repository['branch']}/{chapter}.ipynb"
    found = {url for url in book.site.links_to(f"{chapter}.html", "colab.research.google.com")}
    assert wanted in found
    assert (ROOT / f"{chapter}.ipynb").is_file()


def test_links_into_the_repository_name_files_that_exist(book: Served) -> None:
    url, branch = CONFIG["repository"]["url"], CONFIG["repository"]["branch"]
    for page in book.site.pages:
        for link in book.site.links_to(page, "github.com"):
            if link.startswith(f"{url}/blob/{branch}/"):
                assert (ROOT / link.removeprefix(f"{url}/blob/{branch}/")).is_file(), f"{page}: {link}"


def test_no_stored_notebook_holds_an_error_that_is_not_meant() -> None:
    for chapter in CHAPTERS:
        for number, cell in enumerate(
            json.loads((ROOT / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
        ):
            failed = any(output["output_type"] == "error" for output in cell.get("outputs", []))
            assert not failed or "raises-exception" in cell["metadata"].get("tags", []), (
                f"{chapter}, cell {number}"
            )


def test_a_second_build_without_changes_does_nothing(book: Served) -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "site.py"), "build"], capture_output=True, text=True
    )
    assert run.returncode == 0 and "up to date" in run.stderr


def opened_as_a_file(page: Page, path: Path) -> list[str]:
    """Open a page without a server; return what went wrong while it loaded, or nothing."""
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    # A request that is under way when the page is left (the icon's, say) is called off, not failed.
    page.on(
        "requestfailed",
        lambda request: None if "ABORTED" in (request.failure or "") else wrong.append(request.url),
    )
    page.goto(path.as_uri(), wait_until="networkidle")
    page.evaluate("() => document.fonts.ready.then(() => true)")
    return wrong


def test_the_book_works_opened_as_a_file(book: Served, chromium: Browser) -> None:
    page = chromium.new_page()
    assert opened_as_a_file(page, book.site.folder / f"{TOC['root']}.html") == []
    assert opened_as_a_file(page, book.site.folder / "book" / "notation.html") == []
    fonts = page.evaluate(
        "() => [...document.fonts].filter((f) => f.status === 'loaded').map((f) => f.family)"
    )
    page.close()
    assert any("MJX" in family for family in fonts), fonts


def test_a_file_that_is_missing_is_seen_without_a_server(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<img src='gone.svg' alt=''>", encoding="utf-8")
    page = chromium.new_page()
    wrong = opened_as_a_file(page, tmp_path / "page.html")
    page.close()
    assert any("gone.svg" in line for line in wrong), wrong


def test_the_search_finds_and_the_colours_switch(book: Served, chromium: Browser) -> None:
    page = chromium.new_page()
    page.goto(f"{book.look.base}/search.html?q=softmax")
    page.wait_for_selector("#search-results li a")
    page.goto(f"{book.look.base}/book/notation.html")
    seen = set()
    for _ in range(3):
        page.click(".bd-article-container .theme-switch-button")
        seen.add(page.evaluate("() => document.documentElement.dataset.mode"))
    assert seen == {"light", "dark", "auto"}
    page.click("#pst-primary-sidebar .search-button-field")
    page.wait_for_selector("#pst-search-dialog[open] input")
    page.close()


def test_every_entry_of_the_bibliography_has_an_address_and_is_cited(book: Served) -> None:
    entries = papers.read([ROOT / "book" / "references.bib"])
    for key, entry in entries.entries.items():
        assert entry.fields["url"].startswith("https://"), key
    listed = {item["id"] for item in book.site.soups["book/references.html"].select(".references li")
              if item.select(".cited-in")}  # fmt: skip
    assert set(entries.entries) == listed


# --- What a page loads, and what it may do ----------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_light_or_holds_something_to_touch(book: Served, chromium: Browser, page: str) -> None:
    weight = weigh.weigh(chromium, book.look.base, page)
    assert weight.faults() == [], weigh.table([weight])
    assert weight.frame > 20_000 and weight.total == sum(weight.requests.values())
    assert not [url for url in weight.requests if re.search("awesome|webfont", url, re.IGNORECASE)]
    assert any("searchindex" in url for url in weight.requests) == (page == "search.html")


def test_only_pages_with_an_interactive_figure_pay_for_it(book: Served, chromium: Browser) -> None:
    for page in ("notebooks/07_hybrid.html", "notebooks/02_positional.html"):
        weight = weigh.weigh(chromium, book.look.base, page)
        paid = [url for url in weight.requests if "/figures/" in url]
        assert bool(paid) == weight.interactive == ("attn-figure" in book.site.html(page)), page


def test_a_page_that_is_too_heavy_is_found(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "noise.bin").write_bytes(random.Random(3).randbytes(700_000))
    style = "img { display: block; margin-top: 9000px }"
    (tmp_path / "page.html").write_text(
        f"<style>{style}</style><p>a<img src='noise.bin' loading='lazy' alt='' width=9 height=9>"
        "<script src='big.js'></script>"
    )
    (tmp_path / "big.js").write_text("//" + base64.b64encode(random.Random(5).randbytes(400_000)).decode())
    server = book_site.server(tmp_path)
    weight = weigh.weigh(chromium, f"http://127.0.0.1:{server.server_address[1]}", "page.html")
    server.shutdown()
    assert weight.later == 700_000 and weight.figures == 0 and 400_000 < weight.frame < 450_000
    assert [fault.split(":")[0] for fault in weight.faults()] == ["the frame"]
    weight.figures += 400_000
    assert [fault.split(":")[0] for fault in weight.faults()] == [
        "the frame",
        "figures at once",
        "at once",
        "in all",
    ]
    weight.interactive = True
    assert [fault.split(":")[0] for fault in weight.faults()] == ["in all"]


@pytest.mark.parametrize("page", [*PAGES, "index.html"])
def test_a_page_names_the_scripts_that_may_run_and_none_holds_up_its_text(book: Served, page: str) -> None:
    assert policy_faults(book.site.html(page)) == []


POLICY = "default-src 'none'; script-src 'self'{}; style-src 'self' 'unsafe-inline'; base-uri 'none'"
LAX_PAGES = {
    "no policy": ("<p>", "no content-security"),
    "everything": (POLICY.replace("'none'; s", "*; s").format(""), "not refused"),
    "any inline script": (POLICY.format(" 'unsafe-inline'"), "scripts from 'unsafe-inline'"),
    "eval": (POLICY.format(" 'unsafe-eval'"), "scripts from 'unsafe-eval'"),
    "another host": (POLICY.format(" https://cdn.invalid"), "another host: https://cdn.invalid"),
    "a forgotten hash": (POLICY.format(" 'sha256-AAAA'"), "a hash of nothing"),
    "a script that is not named": (POLICY.format("") + '"><script>1</script><p class="', "not named"),
    "a handler": (POLICY.format("") + '"><p onclick="1" class="', "p has onclick"),
    "a link that runs": (POLICY.format("") + '"><a href="javascript:1" class="', "leads to a script"),
    "a script in the way": (
        POLICY.format("") + '"><script src="a.js"></script><p class="',
        "holds up the text",
    ),
}


@pytest.mark.parametrize("name", LAX_PAGES)
def test_a_lax_policy_is_found(name: str) -> None:
    policy, fault = LAX_PAGES[name]
    html = policy if policy == "<p>" else f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    assert [one for one in policy_faults(html) if fault in one], policy_faults(html)


def test_what_was_not_written_here_is_refused(book: Served, chromium: Browser) -> None:
    page = chromium.new_page()
    page.goto(f"{book.look.base}/notebooks/02_positional.html")
    refused = page.evaluate(
        """async () => {
          const refused = [];
          addEventListener('securitypolicyviolation', (event) => refused.push(event.effectiveDirective));
          const script = document.createElement('script');
          script.textContent = 'globalThis.ran = true';
          document.body.append(script);
          const button = document.createElement('button');
          button.setAttribute('onclick', 'globalThis.ran = true');
          button.click();
          new Image().src = 'http://elsewhere.invalid/a.png';
          await fetch('http://elsewhere.invalid/').catch(() => {});
          document.body.insertAdjacentHTML('beforeend', '<iframe src="http://elsewhere.invalid/"></iframe>');
          await new Promise((done) => setTimeout(done, 300));
          return [globalThis.ran ?? false, refused.sort()];
        }"""
    )
    page.close()
    assert refused == [False, ["connect-src", "frame-src", "img-src", "script-src-attr", "script-src-elem"]]


def test_text_formulas_and_pictures_are_there_without_any_script(book: Served, chromium: Browser) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    for chapter in CHAPTERS[:2]:
        page.goto(f"{book.look.base}/{chapter}.html")
        for what in ("article p", "article mjx-container", "article .cell_output pre", "nav a"):
            assert page.locator(f"{what}:visible").first.inner_text(), what
        picture = page.locator("article figure img").first
        picture.scroll_into_view_if_needed()
        assert picture.is_visible() and picture.bounding_box()["width"] > 200  # type: ignore[index]
        assert not page.locator(".theme-switch-button").first.is_visible()  # it would do nothing
    context.close()


def test_pictures_wait_until_they_come_near_and_nothing_jumps(book: Served, chromium: Browser) -> None:
    for chapter in CHAPTERS:
        pictures = book.site.soups[f"{chapter}.html"].select("article figure img")
        assert len(pictures) >= 4
        for picture in pictures:
            assert (
                picture["loading"] == "lazy" and int(picture["width"]) > 100 and int(picture["height"]) > 50
            )
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{book.look.base}/{CHAPTERS[6]}.html")
    shapes = """() => [...document.querySelectorAll('article figure img')].map((img) => {
      const box = img.getBoundingClientRect();
      return [img.complete && img.naturalWidth > 0, box.width / box.height, img.width > 0 ? Math.round(box.height) : 0];
    })"""
    before = page.evaluate(shapes)
    page.evaluate("() => { for (const img of document.images) img.loading = 'eager'; }")
    page.wait_for_load_state("networkidle")
    page.wait_for_function("() => [...document.querySelectorAll('article img')].every((img) => img.complete)")
    after = page.evaluate(shapes)
    page.close()
    assert not before[-1][0] and all(loaded for loaded, _, _ in after)
    assert [height for _, _, height in before] == [height for _, _, height in after]


def works(page: Page, base: str) -> list[str]:
    """Go through the book as a reader does, from this address; return what went wrong."""
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("requestfailed", lambda r: None if "ABORTED" in (r.failure or "") else wrong.append(r.url))
    page.on("response", lambda r: wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    page.goto(f"{base}/index.html")
    page.wait_for_url("**/book/intro.html")
    page.locator("nav.bd-links a", has_text="Positional encoding").first.click()
    page.wait_for_url("**/02_positional.html")
    page.locator(".attn-figure").first.scroll_into_view_if_needed()
    page.wait_for_selector(".attn-figure[data-ready]")
    page.locator(".attn-figure input[type=range]:visible").first.press("ArrowRight")
    page.keyboard.press("Control+k")
    page.wait_for_selector("#pst-search-dialog[open] input")
    page.keyboard.type("rotary")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=rotary")
    page.wait_for_selector("#search-results li a")
    page.locator("#search-results li a").first.click()
    page.wait_for_selector("article h1")
    mode = page.evaluate("() => document.documentElement.dataset.mode")
    page.locator(".theme-switch-button:visible").first.click()
    if page.evaluate("() => document.documentElement.dataset.mode") == mode:
        wrong.append("the colours do not switch")
    return wrong


@pytest.mark.parametrize("place", ["a server", "a path below a server", "a disk"])
def test_a_reader_goes_through_the_book_from(
    place: str, book: Served, chromium: Browser, tmp_path: Path
) -> None:
    page = chromium.new_page()
    if place == "a server":
        assert works(page, book.look.base) == []
    elif place == "a disk":
        assert works(page, book.site.folder.as_uri()) == []
    else:
        (tmp_path / "some").mkdir()
        (tmp_path / "some" / "place").symlink_to(book.site.folder, target_is_directory=True)
        server = book_site.server(tmp_path)
        assert works(page, f"http://127.0.0.1:{server.server_address[1]}/some/place") == []
        server.shutdown()
    page.close()


def test_code_is_copied_and_the_sidebar_opens_on_a_phone(book: Served, chromium: Browser) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.goto(f"{book.look.base}/{CHAPTERS[0]}.html")
    page.locator(".primary-toggle").first.tap()
    page.wait_for_selector("#pst-primary-sidebar-modal[open] nav.bd-links")
    page.keyboard.press("Escape")
    page.locator(".secondary-toggle").first.tap()
    page.wait_for_selector("#pst-secondary-sidebar-modal[open]")
    context.close()
    context = chromium.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{book.look.base}/{CHAPTERS[0]}.html")
    cell = page.locator("div.cell_input div.highlight", has_text="import matplotlib").first
    cell.hover()
    cell.locator("button.copybtn").click()
    assert "import matplotlib.pyplot as plt" in page.evaluate("() => navigator.clipboard.readText()")
    context.close()


# --- A sample chapter that uses everything ----------------------------------------------------------


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory, chromium: Browser, axe: str) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("sample")
    site_sample.write(root, ROOT)
    command = [sys.executable, str(root / "tools" / "site.py"), "build"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, f"the sample book does not build:\n{run.stderr[-6000:]}"
    served = Served(root / "_build" / "html", chromium, axe)
    yield served
    served.server.shutdown()


@pytest.mark.parametrize("page", ["notebooks/01_sample.html", "book/summary.html"])
def test_a_sample_chapter_with_everything_in_it_passes_every_check(sample: Served, page: str) -> None:
    assert {check: wrong for check, wrong in sample.report(page).items() if wrong} == {}


def sample_text(sample: Served, page: str = "notebooks/01_sample.html") -> str:
    """The article's text, formulas and runs of spaces aside."""
    article = copy(sample.site.soups[page].article)
    for formula in article.select("mjx-container"):
        formula.decompose()
    return re.sub(r"\s+", " ", article.get_text().replace("\u00a0", " "))


def test_figures_and_formulas_are_numbered_by_chapter_and_referred_to_by_number(sample: Served) -> None:
    text = sample_text(sample)
    assert "See figure 1.1 and equation (1.1); Figure 1.1 opens a sentence" in text
    assert "Figure 1.1 Weights of one head, by equation (1.2)" in text
    article = sample.site.soups["notebooks/01_sample.html"].article
    assert article.find("figure", id="fig-map") and article.find(id="equation-eq-weights")
    assert "[figure](#fig-map) is code" in text  # what stands between backticks is left alone


def test_sentences_that_a_run_wrote_are_upgraded_like_typed_ones(sample: Served) -> None:
    text = sample_text(sample)
    assert "The largest weight is 0.58 (equation (1.2)), see figure 1.1" in text
    assert "A sentence beside the picture." in text
    figure = sample.site.soups["notebooks/01_sample.html"].find("figure", id="fig-map")
    assert "beside the picture" not in figure.get_text()


def test_a_link_to_a_paper_leads_to_its_entry_and_the_entry_says_where_it_is_cited(sample: Served) -> None:
    link = next(
        a for a in sample.site.soups["notebooks/01_sample.html"].select("a.paper") if "Vaswani" in a.text
    )
    assert link["href"] == "../book/references.html#vaswani2017attention"
    assert link["title"] == "Attention Is All You Need"
    entry = sample.site.soups["book/references.html"].find(id="vaswani2017attention")
    assert entry.select_one('.cited-in a[href="../notebooks/01_sample.html"]')


def test_quotes_with_a_kind_become_panels_of_that_kind_and_others_stay_quotes(sample: Served) -> None:
    article = sample.site.soups["notebooks/01_sample.html"].article
    titles = [box.select_one(".admonition-title").text for box in article.select("div.admonition")]
    assert titles == ["Predict", "Exercise: causal mask", "Trap", "Note"]
    assert article.select_one("div.admonition.exercise pre") and article.select_one(
        "div.admonition.predict li"
    )
    assert [quote.text.strip() for quote in article.select("blockquote")] == ["An ordinary quotation."]


def test_progress_bars_and_widgets_leave_no_trace_and_the_set_up_cell_is_folded(sample: Served) -> None:
    html = sample.site.html("notebooks/01_sample.html")
    assert (
        "█" not in html
        and "10/10" not in html
        and "widget-view" not in html
        and "interactive(children" not in html
    )
    assert "Controls to play with stand here" in html
    assert sample.site.soups["notebooks/01_sample.html"].select_one(".tag_setup details")


def test_a_glued_number_reaches_another_page_and_its_foot_names_the_machine(sample: Served) -> None:
    assert "Glued: 0.58." in sample_text(sample, "book/summary.html")
    foot = sample.site.soups["book/summary.html"].select_one(".book-foot").text
    assert (
        "The numbers from Transformer attention were made with python 3.11.7, torch 2.13.0 on a sample processor"
        in foot
    )
    foot = sample.site.soups["notebooks/01_sample.html"].select_one(".book-foot").text
    assert "The outputs on this page were made with python 3.11.7, torch 2.13.0 on a sample processor" in foot


def test_only_pages_with_a_formula_load_what_formulas_need(sample: Served) -> None:
    assert "formulas.css" in sample.site.html("notebooks/01_sample.html")
    assert "formulas.css" not in sample.site.html("book/intro.html")
    for page in sample.site.pages:
        html = sample.site.html(page)
        assert not re.search(
            r"mathjax[^\"']*\.js|require(\.min)?\.js|thebe|html-manager", html, re.IGNORECASE
        ), page


def test_the_downloaded_notebook_is_the_plain_one(sample: Served) -> None:
    page = "notebooks/01_sample.html"
    link = next(a for a in sample.site.soups[page].select(".launch a") if a.has_attr("download"))
    path, _ = sample.site.inside(page, link["href"])
    assert json.loads((sample.site.folder / path).read_text()) == site_sample.chapter()


MISTAKES = {
    "a link to a paper that the bibliography lacks": (
        "[X](https://arxiv.org/abs/9.9)",
        "no address of an entry",
    ),
    "a reference to a figure that is not there": ("[figure](#fig-nowhere)", "fig-nowhere"),
    "a formula that TeX cannot read": ("$\\frac{1}{$", "formula:"),
    "a formula with an unknown command": ("$\\softmax(x)$", "Undefined control sequence"),
    "a label without a formula": ('<a id="eq-lost"></a>\n\ntext', "not followed by a"),
    "a link to a page that is not there": ("[chapter 9](09_nothing.ipynb)", "09_nothing.ipynb"),
}


def test_the_build_fails_on_each_mistake_and_names_it(tmp_path: Path) -> None:
    site_sample.write(tmp_path, ROOT, *(text for text, _ in MISTAKES.values()))
    command = [sys.executable, str(tmp_path / "tools" / "site.py"), "build"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode != 0
    for mistake, (_, words) in MISTAKES.items():
        assert words in run.stderr, f"{mistake} was not named in:\n{run.stderr}"
    assert not (tmp_path / "_build" / "site.sha256").exists()


def test_a_build_is_out_of_date_when_an_input_changed_and_only_then(tmp_path: Path) -> None:
    site_sample.write(tmp_path, ROOT)
    before = book_site.fingerprint(tmp_path)
    (tmp_path / "notebooks" / "01_sample.py").write_text("# the twin")
    (tmp_path / "book" / "_ext" / "attn_book" / "__pycache__").mkdir()
    (tmp_path / "book" / "_ext" / "attn_book" / "__pycache__" / "x.pyc").write_text("")
    (tmp_path / "README.md").write_text("no page of the book")
    assert book_site.fingerprint(tmp_path) == before
    names = ("_config.yml", "book/intro.md", "book/_ext/attn_book/frame.py", "book/_static/book.css")
    for name in (*names, "notebooks/01_sample.ipynb"):
        with (tmp_path / name).open("a", encoding="utf-8") as file:
            file.write(" ")
        after = book_site.fingerprint(tmp_path)
        assert after != before, name
        before = after


# --- The upgrade of plain Markdown, by itself ---------------------------------------------------------

PAPERS = {"arxiv.org/abs/1706.03762": "vaswani2017attention"}
UPGRADES = {
    "figure": ("See [figure](#fig-a).", "See {numref}`figure\u00a0{number} <fig-a>`."),
    "figure, capital": ("[Figure](#fig-a-b) shows", "{numref}`Figure\u00a0{number} <fig-a-b>` shows"),
    "figure of another chapter": ("[figure](02_x.ipynb#fig-a)", "{numref}`figure\u00a0{number} <fig-a>`"),
    "figure by other words": ("[the map](#fig-a)", "{ref}`the map <fig-a>`"),
    "equation": ("by [equation](#eq-a),", "by equation\u00a0{eq}`eq-a`,"),
    "several on a line": (
        "[figure](#fig-a), [equation](#eq-b)",
        "{numref}`figure\u00a0{number} <fig-a>`, equation\u00a0{eq}`eq-b`",
    ),
    "paper": ("([V, 2017](https://arxiv.org/abs/1706.03762))", "({paper}`V, 2017 <vaswani2017attention>`)"),
    "paper, another address": (
        "[V](http://www.arxiv.org/pdf/1706.03762v7.pdf)",
        "{paper}`V <vaswani2017attention>`",
    ),
    "paper, broken over lines": (
        "[V et al.,\n2017](https://arxiv.org/abs/1706.03762)",
        "{paper}`V et al., 2017 <vaswani2017attention>`",
    ),
    "other link": ("[x](https://pytorch.org/docs)", "[x](https://pytorch.org/docs)"),
    "code span": ("`[figure](#fig-a)`", "`[figure](#fig-a)`"),
    "double code span": ("`` a`[figure](#fig-a) ``", "`` a`[figure](#fig-a) ``"),
    "code fence": (
        "```md\n[figure](#fig-a)\n> **Note.** x\n```",
        "```md\n[figure](#fig-a)\n> **Note.** x\n```",
    ),
    "directive": (
        "```{glossary}\nA\n  [figure](#fig-a)\n```",
        "```{glossary}\nA\n  {numref}`figure\u00a0{number} <fig-a>`\n```",
    ),
    "picture": ("![figure](#fig-a)", "![figure](#fig-a)"),
    "label": ('<a id="eq-a"></a>\n$$ x $$', "$$\nx\n$$ (eq-a)"),
    "label, several lines": (
        'a\n\n<a id="eq-a"></a>\n$$\nx \\\\\ny\n$$\n\nb',
        "a\n\n$$\nx \\\\\ny\n$$ (eq-a)\n\nb",
    ),
    "admonition": (
        "> **Predict.** A?\n> B.",
        "\n::::::{admonition} Predict\n:class: predict\n\nA?\nB.\n::::::\n",
    ),
    "admonition with a title": (
        "> **Exercise: split.** Do.",
        "\n::::::{admonition} Exercise: split\n:class: exercise\n\nDo.\n::::::\n",
    ),
    "admonition with a link": (
        "> **note** [figure](#fig-a)",
        "\n::::::{admonition} Note\n:class: note\n\n{numref}`figure\u00a0{number} <fig-a>`\n::::::\n",
    ),
    "admonition with code": (
        "> **Trap.** x\n>\n> ```\n> > **Note.** y\n> ```",
        "\n::::::{admonition} Trap\n:class: trap\n\nx\n\n```\n> **Note.** y\n```\n::::::\n",
    ),
    "question": (
        '**Question 2.** [Figure](#fig-a)?\n\n<details name="x"><summary>A. No</summary>\n\n'
        '**Not quite.** Why.\n\n</details>\n\n<details name="x">\n<summary>B. Yes</summary>\n\n'
        "**Right.** Because.\n\n</details>",
        '<div class="question" role="group" aria-label="Question 2">\n\n'
        "**Question 2.** {numref}`Figure\u00a0{number} <fig-a>`?\n\n"
        '<details class="choice wrong" name="x"><summary>A. No</summary>\n\n'
        '**Not quite.** Why.\n\n</details>\n\n<details class="choice right" name="x">\n'
        "<summary>B. Yes</summary>\n\n**Right.** Because.\n\n</details>\n\n</div>",
    ),
    "details that are no question": ("<details name='x'>**Right.**", "<details name='x'>**Right.**"),
    "quote": ("> Not [figure](#fig-a).", "> Not {numref}`figure\u00a0{number} <fig-a>`."),
    "bold that is no kind": ("> **Notes** on x", "> **Notes** on x"),
}


@pytest.mark.parametrize("name", UPGRADES)
def test_plain_markdown_becomes_the_books(name: str) -> None:
    plain, wanted = UPGRADES[name]
    complaints: list[str] = []
    assert Upgrade(PAPERS, complaints.append).markdown(plain) == wanted
    assert not complaints


@pytest.mark.parametrize(
    "url", ["https://arxiv.org/abs/1.2", "https://doi.org/10.1/x", "http://www.arxiv.org/pdf/1.2"]
)
def test_a_paper_that_the_bibliography_lacks_is_complained_about(url: str) -> None:
    complaints: list[str] = []
    assert url in Upgrade(PAPERS, complaints.append).markdown(f"[X]({url})")
    assert len(complaints) == 1 and url in complaints[0]


def test_addresses_of_one_paper_are_one_address() -> None:
    spellings = ["https://arxiv.org/abs/1706.03762", "http://arxiv.org/pdf/1706.03762v5.pdf",
                 "https://www.arxiv.org/html/1706.03762v7/", "https://doi.org/10.48550/arXiv.1706.03762"]  # fmt: skip
    assert {address(url) for url in spellings} == {"arxiv.org/abs/1706.03762"}


def test_a_cell_that_names_one_figure_and_draws_two_is_complained_about() -> None:
    picture = site_sample.shows(image_png=site_sample.png(4, 4))
    cell = site_sample.code("draw()", picture, picture, mystnb={"figure": {"name": "fig-a", "caption": "x"}})
    complaints: list[str] = []
    Upgrade({}, complaints.append).notebook({"cells": [cell], "metadata": {}})
    assert complaints == ["the cell of figure 'fig-a' shows 2 pictures, not one"]


def test_an_upgrade_leaves_the_notebook_it_was_given_alone() -> None:
    notebook = site_sample.chapter()
    Upgrade(PAPERS).notebook(notebook)
    assert notebook == site_sample.chapter()


# --- The checks, checked: one fault a page ---------------------------------------------------------------

SOUND = """<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>t</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<script>document.documentElement.dataset.theme = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
</script><style>body {{ background: #fff; color: #111; }} pre {{ overflow-x: auto; }}</style></head>
<body><main><article>{heading}<p>Text with <a href="sound.html#here">a link</a>, <code>$x_i$ **code**</code>.</p>
<p id="here"><img src="picture.png" alt="A grey square" width="8" height="8"></p>{fault}</article></main>
<footer>{foot}</footer></body></html>"""
HEADING_OF_SOUND, FOOT_OF_SOUND = "<h1>Title</h1>", '<div class="book-foot">Built with nothing.</div>'
LONG = "word" * 200

PALE, EVERY_WINDOW = '<p style="color: #ccc">pale</p>', {"light", "dark", "phone"}

# The fault, and the checks that must find it.
FAULTS: dict[str, tuple[str, set[str]]] = {
    "sound": ("", set()),
    "picture-elsewhere": ('<img src="http://elsewhere.invalid/a.png" alt="A cat">', {"outside"}),
    "script-elsewhere": ('<script src="https://cdn.invalid/a.js"></script>', {"outside"}),
    "script-fails": ("<script>undefinedFunction()</script>", {"scripts"}),
    "console-error": ("<script>console.error('no')</script>", {"console"}),
    "missing-script": ('<script src="gone.js"></script>', {"console", "links"}),
    "failed-formula": ("<mjx-container><mjx-merror>x</mjx-merror></mjx-container>", {"formulas"}),
    "raw-formula": ('<span class="math">x over y</span>', {"formulas"}),
    "missing-page": ('<p><a href="gone.html">there</a></p>', {"links"}),
    "missing-anchor": ('<p><a href="#gone">there</a></p>', {"links"}),
    "missing-anchor-elsewhere": ('<p><a href="dark-only.html#gone">there</a></p>', {"links"}),
    "file-name-as-alt": ('<img src="picture.png" alt="../_images/0a1b.png">', {"pictures"}),
    "figure-size-as-alt": ('<img src="picture.png" alt="Figure size 640x480 with 1 Axes">', {"pictures"}),
    "stem-as-alt": ('<img src="picture.png" alt="picture">', {"pictures"}),
    "no-alt": ('<img src="picture.png">', {"pictures", "light", "phone"}),
    "unnamed-drawing": (
        '<figure><svg width="9" height="9"><rect width="9" height="9"/></svg></figure>',
        {"pictures"},
    ),
    "pale-text": (PALE, EVERY_WINDOW),
    "dark-only": ("<style>@media (prefers-color-scheme: dark) { p { color: #ddd } }</style>", {"dark"}),
    "phone-only": ("<style>@media (max-width: 400px) { p { color: #ddd } }</style>", {"phone"}),
    "folded-fault": (f"<details><summary>more</summary>{PALE}</details>", EVERY_WINDOW),
    "too-wide": ('<div style="width: 700px">wide</div>', {"narrow"}),
    "cut-off": (
        f'<div style="overflow: hidden"><span style="white-space: nowrap">{LONG}</span></div>',
        {"narrow"},
    ),
    "not-by-keyboard": (f"<pre>{LONG}</pre>", {"light", "narrow", "phone"}),
    "second-heading": ("<h1>Another</h1>", {"heading"}),
    "role": ("<p>See {ref}`x`.</p>", {"markup"}),
    "fence": ("<p>:::{note}</p>", {"markup"}),
    "dollars": ("<p>$x_i$ and $$y$$</p>", {"markup"}),
    "raw-link": ("<p>[figure](#fig-a)</p>", {"markup"}),
    "raw-bold": ("<p>a **bold** word</p>", {"markup"}),
    "placeholder": ("<p>{number}</p>", {"markup"}),
    "traceback": (
        '<div class="cell"><div class="output traceback"><p>ValueError</p></div></div>',
        {"errors"},
    ),
    "traceback-meant": (
        '<div class="cell tag_raises-exception"><div class="traceback"><p>E</p></div></div>',
        set(),
    ),
    "foot-not-recorded": ("", {"foot"}),
    "no-foot": ("", {"foot"}),
    "no-heading": ("", {"heading"}),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, chromium: Browser, axe: str) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "picture.png").write_bytes(base64.b64decode(site_sample.png(8, 8)))
    for name, (fault, _) in FAULTS.items():
        heading = "" if name == "no-heading" else HEADING_OF_SOUND
        foot = {"no-foot": "", "foot-not-recorded": FOOT_OF_SOUND.replace("nothing", "versions not recorded")}
        text = SOUND.format(heading=heading, fault=fault, foot=foot.get(name, FOOT_OF_SOUND))
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    served = Served(folder, chromium, axe)
    yield served
    served.server.shutdown()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_page_with_one_fault_fails_the_check_for_it_and_no_other(faulty: Served, fault: str) -> None:
    found = {check: wrong for check, wrong in faulty.report(f"{fault}.html").items() if wrong}
    assert set(found) == FAULTS[fault][1], found


def test_every_check_is_seen_to_fail() -> None:
    assert set().union(*(checks for _, checks in FAULTS.values())) == set(CHECKS)


def test_a_page_that_nothing_links_to_is_found(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<a href="a.html">a</a>')
    (tmp_path / "a.html").write_text('<a href="index.html">home</a>')
    (tmp_path / "alone.html").write_text('<a href="a.html">a</a>')
    assert Site(tmp_path).unreachable() == ["alone.html"]


def test_what_looks_like_markup_but_is_prose_is_let_be() -> None:
    assert markup_left("It cost $5, then $6; f(x)[0](1 is a list) and 2 ** 3 = 8; {a, b}; a :: b") == []
    assert errors_shown("<p>An error is a word.</p>") == []
