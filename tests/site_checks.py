"""What must hold on every page of the built book. A check is a sentence; a report lists what breaks it.

`look` opens a page in a browser three times (light, dark, and narrow as a phone) and fills in the checks that need
one; `Site` holds the checks that need the files alone.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import deque
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from bs4 import BeautifulSoup
from playwright.sync_api import Browser

CHECKS = {
    "outside": "asks no other host for anything",
    "scripts": "runs its scripts without an error",
    "console": "writes no error to the console",
    "formulas": "shows every formula",
    "links": "has no broken link, picture or anchor",
    "pictures": "has alternative text on every picture",
    "light": "has no serious accessibility fault in light colours",
    "dark": "has no serious accessibility fault in dark colours",
    "narrow": "fits a phone: nothing but boxes of its own scrolls sideways, and those by keyboard too",
    "phone": "has no serious accessibility fault on a phone",
    "heading": "has one heading of the first level",
    "markup": "shows no markup as text",
    "errors": "shows no error that is not meant",
    "foot": "says at its foot what produced it",
}

# In the page: every picture whose alternative text is missing or says nothing.
PICTURES = """() => {
  const poor = [];
  const empty = (text) => !text || /\\.(png|svg|jpe?g|gif|webp)$/i.test(text) || /^[0-9a-f]{16,}/i.test(text)
    || /^<?figure size/i.test(text) || /^(image|figure|picture|plot|chart|graph|img)\\.?$/i.test(text);
  for (const img of document.querySelectorAll('img')) {
    const alt = (img.getAttribute('alt') || '').trim();
    const stem = decodeURIComponent(img.src).split('/').pop().split('.')[0];
    const ornament = img.getAttribute('alt') === '' && !img.closest('article');
    if (!ornament && (empty(alt) || alt === stem)) poor.push(`img ${stem}: alt=${JSON.stringify(alt)}`);
  }
  for (const svg of document.querySelectorAll('article figure svg, article .cell_output svg')) {
    if (svg.closest('button, a, [aria-hidden=true]')) continue; // an icon
    const ids = (svg.getAttribute('aria-labelledby') || '').split(/\\s+/).filter(Boolean);
    const label = svg.getAttribute('aria-label') || ids.map((id) => document.getElementById(id)?.textContent).join(' ');
    if (svg.getAttribute('role') !== 'img' || empty(label.trim())) poor.push('svg without role and label');
  }
  for (const figure of document.querySelectorAll('article figure')) {
    if (!figure.querySelector('img, svg, canvas, table, [role=img]')) poor.push('figure without a picture');
  }
  return poor;
}"""

FORMULAS = """() => {
  const poor = [];
  for (const bad of document.querySelectorAll('mjx-merror, merror')) poor.push('failed: ' + bad.textContent);
  for (const math of document.querySelectorAll('.math'))
    if (!math.querySelector('mjx-container')) poor.push('not rendered: ' + math.textContent.trim().slice(0, 80));
  for (const math of document.querySelectorAll('mjx-container')) {
    const box = math.getBoundingClientRect();
    if (math.checkVisibility() && (box.width < 2 || box.height < 2)) poor.push('takes no room: ' + math.textContent);
  }
  return poor;
}"""

# Boxes that stick out of the window and out of every box that scrolls; scrolling boxes that the keyboard cannot reach.
NARROW = """() => {
  const poor = [], width = document.documentElement.clientWidth;
  const scrolls = (box) => /auto|scroll/.test(getComputedStyle(box).overflowX);
  const hidden = '.visually-hidden, .sr-only, mjx-assistive-mml, dialog:not([open])';
  const unseen = (box) => box.closest(hidden + ', #pst-primary-sidebar, #pst-secondary-sidebar');
  const page = document.scrollingElement;
  if (page.scrollWidth > width + 1) poor.push(`the page is ${page.scrollWidth} wide in a window of ${width}`);
  const name = (box) => [box.tagName.toLowerCase(), ...box.classList].join('.');
  for (const box of document.querySelectorAll('body *')) {
    if (!box.checkVisibility() || unseen(box)) continue;
    const place = box.getBoundingClientRect();
    if (place.width < 1 || place.height < 1) continue;
    if (place.right > width + 1 || place.left < -1) {
      let parent = box.parentElement;
      while (parent && !scrolls(parent)) parent = parent.parentElement;
      if (!parent || parent === document.body || parent === document.documentElement)
        poor.push(`${name(box)} reaches from ${Math.round(place.left)} to ${Math.round(place.right)}`);
    }
    if (scrolls(box) && box.scrollWidth > box.clientWidth + 1 && box.closest('article') && box.tabIndex < 0)
      poor.push(`${name(box)} scrolls, but not by keyboard`);
  }
  return [...new Set(poor)].slice(0, 8);
}"""

TEXT = """() => {
  const copy = document.querySelector('article, main, body').cloneNode(true);
  for (const box of copy.querySelectorAll('pre, code, script, style, mjx-container, svg')) box.remove();
  return copy.textContent;
}"""
MARKUP = {
    "a role": r"\{[a-z][\w:-]*\}\s*`",
    "a fence": r":::|```",
    "a formula": r"\$\$|\$[^$\n]*[\\^_][^$\n]*\$|\\\(|\\\[",
    "a link": r"\]\([^)\s]*\)",
    "a target": r"(?m)^\s*\([a-z][\w-]*\)=",
    "a placeholder": r"\{number\}|\{name\}|%s",
    "bold": r"\*\*\w",
    "an anchor": r"<a (?:id|name|href)=",
    "a myst warning": r"<IPython\.|<Figure size",
}

HEADING = """() => [...document.querySelectorAll('h1')].filter((h) => h.checkVisibility())
  .map((h) => h.textContent.trim())"""
FOOT = "() => document.querySelector('.book-foot')?.innerText ?? ''"
# Folds are opened, and nothing fades in while it is looked at.
OPEN_ALL = """() => {
  const still = new CSSStyleSheet();
  still.replaceSync('*, *::before, *::after { animation: none !important; transition: none !important; }');
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, still];
  for (const one of document.querySelectorAll('details')) one.open = true;
}"""
COLOURS = ["color-contrast", "link-in-text-block"]
# In the dark only what depends on colours is looked at again.
AXE = """async (only) => {
  const options = {resultTypes: ['violations'], preload: false}; // asks for no style sheet again
  if (only) options.runOnly = {type: 'rule', values: only};
  const result = await axe.run(document, options);
  return result.violations.filter((v) => ['serious', 'critical'].includes(v.impact)).map((v) =>
    `${v.id} (${v.impact}): ` + v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160)).join(' | '));
}"""


def markup_left(text: str) -> list[str]:
    """Markdown, MyST or TeX that a reader would see as it was typed."""
    found = []
    for what, pattern in MARKUP.items():
        hit = re.search(pattern, text)
        if hit:
            found.append(f"{what}: …{text[max(0, hit.start() - 30) : hit.end() + 30].strip()}…")
    return found


def errors_shown(html: str) -> list[str]:
    """Tracebacks in a page's outputs whose cell is not tagged raises-exception."""
    soup = BeautifulSoup(html, "html.parser")
    return [
        box.get_text().strip()[-200:]
        for box in soup.select(".traceback")
        if not box.find_parent(class_="tag_raises-exception")
    ]


def policy_faults(html: str) -> list[str]:
    """What a page allows that it should not: other hosts, scripts that nobody named, scripts before the text."""
    soup = BeautifulSoup(html, "html.parser")
    meta = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})
    if meta is None:
        return ["no content-security policy"]
    rules = {part.split()[0]: part.split()[1:] for part in str(meta["content"]).split(";") if part.strip()}
    faults = []
    if rules.get("default-src") != ["'none'"] or rules.get("base-uri") != ["'none'"]:
        faults.append("what is not named is not refused")
    scripts = rules.get("script-src", [])
    loose = [one for one in scripts if one != "'self'" and not one.startswith("'sha256-")]
    faults += [f"scripts from {one}" for one in loose]
    hosts = [one for values in rules.values() for one in values if not one.startswith("'") and one != "data:"]
    faults += [f"another host: {one}" for one in hosts]
    named = {one for one in scripts if one.startswith("'sha256-")}
    for script in soup.find_all("script"):
        if script.get("src"):
            if not (script.has_attr("defer") or script.has_attr("async")):
                faults.append(f"{script['src']} holds up the text")
        elif script.get("type") != "application/json":
            digest = base64.b64encode(
                hashlib.sha256(script.string.encode() if script.string else b"").digest()
            ).decode()
            if f"'sha256-{digest}'" not in named:
                faults.append(f"an inline script that is not named: {str(script.string)[:60]!r}")
            named.discard(f"'sha256-{digest}'")
    faults += [f"a hash of nothing: {one}" for one in sorted(named)]
    for tag in soup.find_all(True):
        faults += [f"{tag.name} has {name}" for name in tag.attrs if name.startswith("on")]
        if str(tag.get("href", "")).strip().lower().startswith("javascript:"):
            faults.append(f"{tag.name} leads to a script")
    return faults


class Site:
    """The files of a built site."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def pages(self) -> list[str]:
        """Every page, by its path in the site."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.html")
                      if "_static" not in path.parts)  # fmt: skip

    @cached_property
    def soups(self) -> dict[str, BeautifulSoup]:
        return {page: BeautifulSoup(self.html(page), "html.parser") for page in self.pages}

    @cached_property
    def anchors(self) -> dict[str, set[str]]:
        return {page: {tag[name] for name in ("id", "name") for tag in soup.find_all(attrs={name: True})}
                for page, soup in self.soups.items()}  # fmt: skip

    def html(self, page: str) -> str:
        return (self.folder / page).read_text(encoding="utf-8")

    def addresses(self, page: str) -> list[str]:
        """Everything that the page points to."""
        found = []
        for tag in self.soups[page].find_all(
            ["a", "link", "area", "img", "script", "source", "iframe", "video", "audio"]
        ):
            if tag.name == "link" and {"search", "index", "canonical"} & set(tag.get("rel", [])):
                continue
            found += [tag[name] for name in ("href", "src") if tag.get(name)]
        return found

    def inside(self, page: str, address: str) -> tuple[str, str] | None:
        """The file and the anchor that an address on a page means, None for another host."""
        if urlsplit(address).scheme or address.startswith("//"):
            return None
        target = urlsplit(urljoin(f"http://here/{page}", address))
        path = unquote(target.path).lstrip("/")
        return (path + "index.html" if not path or path.endswith("/") else path), unquote(target.fragment)

    def broken_links(self, page: str) -> list[str]:
        """Addresses inside the site that lead nowhere."""
        broken = []
        for address in self.addresses(page):
            target = self.inside(page, address)
            if target is None:
                continue
            path, anchor = target
            if not (self.folder / path).is_file():
                broken.append(f"{address}: no such file")
            elif anchor and path in self.anchors and anchor not in self.anchors[path]:
                broken.append(f"{address}: no such anchor")
        return broken

    def unreachable(self, start: str = "index.html") -> list[str]:
        """Pages that no chain of links leads to."""
        seen, todo = {start}, deque([start])
        while todo:
            page = todo.popleft()
            for link in self.soups[page].find_all("a", href=True):
                target = self.inside(page, link["href"])
                if target and target[0] in self.soups and target[0] not in seen:
                    seen.add(target[0])
                    todo.append(target[0])
        return [page for page in self.pages if page not in seen]

    def links_to(self, page: str, host: str) -> list[str]:
        return [
            a["href"] for a in self.soups[page].find_all("a", href=True) if urlsplit(a["href"]).netloc == host
        ]


class Look:
    """A browser with three windows: light, dark, and as narrow as a phone. Each page is opened once in each."""

    WINDOWS = {"light": ("light", 1280, 900), "dark": ("dark", 1280, 900), "phone": ("light", 390, 844)}

    def __init__(self, browser: Browser, base: str, axe: str) -> None:
        self.base, self.axe = base.rstrip("/"), axe
        self.report: dict[str, list[str]] = {}
        self.pages = {}
        for name, (scheme, width, height) in self.WINDOWS.items():
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})  # type: ignore[arg-type]
            context.route(lambda url: not url.startswith((self.base, "data:", "blob:")), self._refuse)
            page = self.pages[name] = context.new_page()
            page.on("pageerror", lambda error: self._add("scripts", str(error)))
            page.on("console", self._console)
            page.on(
                "response", lambda r: self._add("console", f"{r.status} {r.url}") if r.status >= 400 else None
            )

    def _add(self, check: str, what: str) -> None:
        if what not in self.report[check]:
            self.report[check].append(what)

    def _refuse(self, route: Any) -> None:
        self._add("outside", route.request.url)
        route.abort()

    def _console(self, message: Any) -> None:
        # What was refused or not found is reported as such, with its address.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self._add("console", message.text)

    def __call__(self, site: Site, path: str) -> dict[str, list[str]]:
        """What is wrong with a page, by check."""
        self.report = {check: [] for check in CHECKS}
        for window, page in self.pages.items():
            page.goto(f"{self.base}/{path}", wait_until="load")
            page.evaluate("() => document.fonts.ready.then(() => true)")
            page.evaluate(OPEN_ALL)
            page.evaluate(
                "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
            )
            page.evaluate(self.axe)
            for fault in page.evaluate(AXE, COLOURS if window == "dark" else None):
                self._add(window, fault)
            if window == "phone":
                self.report["narrow"] += page.evaluate(NARROW)
            if (
                window == "dark"
                and page.evaluate("() => document.documentElement.dataset.theme ?? 'dark'") != "dark"
            ):
                self._add("dark", "the page stays light")
            if window == "light":
                self.report["pictures"] += page.evaluate(PICTURES)
                self.report["formulas"] += page.evaluate(FORMULAS)
                self.report["markup"] += markup_left(page.evaluate(TEXT))
                headings = page.evaluate(HEADING)
                if len(headings) != 1 or not headings[0]:
                    self._add("heading", f"headings of the first level: {headings}")
                foot = page.evaluate(FOOT)
                chapter = path.startswith("notebooks/")
                if "Built with" not in foot or (chapter and "The outputs on this page" not in foot):
                    self._add("foot", f"the foot says: {foot!r}")
                if "not recorded" in foot:
                    self._add("foot", foot)
        self.report["links"] += site.broken_links(path)
        self.report["errors"] += errors_shown(site.html(path))
        return self.report
