"""What happens to the pages after Sphinx: nothing is loaded that a page does not use, nothing runs that is not ours.

The theme loads 1.1 MB of icon fonts and the search's index on every page, and runs its scripts before the first
paragraph is drawn. Here the icons become a few masks (book.css), scripts wait until the text is there, pictures wait
until they come near, and each page gets a content-security policy: no other host, no script that is not named.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from functools import partial
from pathlib import Path

from PIL import Image

# What a page loads only if it holds this.
ONLY_WITH = {
    "copybutton": 'class="highlight',
    "clipboard": 'class="highlight',
    "mystnb": 'class="cell',
    "sphinx-design": 'class="sd-',
    "design-tabs": 'class="sd-',
    "togglebutton": "dropdown admonition",
    "searchtools": 'id="search-results"',
    "language_data": 'id="search-results"',
    "searchindex": 'id="search-results"',
}
NEVER = ("fontawesome",)
# Settings that Sphinx writes into every page; they stand in documentation_options.js instead.
SETTINGS = ("DOCUMENTATION_OPTIONS", "toggleHint", "toggleOpenOnPrint", "togglebuttonSelector")

_SCRIPT = re.compile(r"[ \t]*<script\b([^>]*)>(.*?)</script>\n?", re.DOTALL)
_STYLE = re.compile(r'[ \t]*<link\b[^>]*rel="(?:stylesheet|preload)"[^>]*>\n?')
_VIEWPORT = re.compile(r'\s*<meta name="viewport"[^>]*>')
_PICTURE = re.compile(r'<img\b([^>]*?)src="([^"]*?_images/([^"/]+))"([^>]*?)\s*/?>')


def lean(site: Path, kept: Path) -> None:
    """Make every page of a freshly built site lean.

    Args:
        site: the folder of the built pages.
        kept: where converted pictures are kept from build to build.
    """
    sizes = _pictures(site / "_images", kept)
    _icons(site / "_static")
    _settings(site / "_static" / "documentation_options.js")
    for page in sorted(site.rglob("*.html")):
        if "_static" not in page.relative_to(site).parts:
            page.write_text(_page(page.read_text(encoding="utf-8"), sizes), encoding="utf-8")
    for unused in site.glob("_static/*.html"):  # the theme's macros
        unused.unlink()


def _page(html: str, sizes: dict[str, tuple[str, int, int]]) -> str:
    body = html.partition("<body")[2]
    html = _STYLE.sub(
        lambda link: "" if 'as="script"' in link[0] or not _wanted(link[0], body) else link[0], html
    )
    html = _SCRIPT.sub(partial(_deferred, body=body), html)
    for again in _VIEWPORT.findall(html)[1:]:
        html = html[: html.rfind(again)] + html[html.rfind(again) + len(again) :]
    html = _PICTURE.sub(partial(_lazy, sizes=sizes), html)
    return re.sub(
        r"(<meta charset=\"utf-8\"\s*/?>)", lambda charset: f"{charset[0]}\n    {policy(html)}", html, count=1
    )


def _wanted(tag: str, body: str) -> bool:
    """Whether a page with this body needs what the tag loads."""
    name = re.search(r'(?:src|href)="[^"]*?([^"/]+?)(?:\.min)?(?:\.[0-9a-f]{32,})?\.(?:js|css)\b', tag)
    if name is None:
        return True
    if name[1] in NEVER:
        return False
    return name[1] not in ONLY_WITH or ONLY_WITH[name[1]] in body


def _deferred(script: re.Match[str], body: str) -> str:
    attributes, text = script[1], script[2]
    if "src=" not in attributes:
        return "" if text.strip().startswith(("let toggle", "var toggle", *SETTINGS)) else script[0]
    if not _wanted(script[0], body):
        return ""
    return script[0] if "defer" in attributes else script[0].replace("<script", "<script defer", 1)


def _lazy(picture: re.Match[str], sizes: dict[str, tuple[str, int, int]]) -> str:
    before, source, name, after = picture.groups()
    if name not in sizes:
        return picture[0]
    stored, width, height = sizes[name]
    attributes = f'{before}src="{source.replace(name, stored)}"{after.rstrip()}'
    if "width=" not in attributes:
        attributes += f' width="{width}" height="{height}"'
    return f'<img{attributes} loading="lazy" decoding="async"/>'


def policy(html: str) -> str:
    """The content-security policy of a page, as a tag: its own inline scripts are named by their hashes.

    Styles may stand in the text: formulas are laid out by them.
    """
    texts = [
        text
        for attributes, text in _SCRIPT.findall(html)
        if "src=" not in attributes and "json" not in attributes
    ]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    scripts = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in dict.fromkeys(digests))])
    rules = {
        "default-src": "'none'",
        "script-src": scripts,
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data:",
        "font-src": "'self'",
        **(
            {"connect-src": "'self'"} if 'id="search-results"' in html else {}
        ),  # the search quotes the pages it finds
        "form-action": "'self'",
        "base-uri": "'none'",
    }
    content = "; ".join(f"{name} {value}" for name, value in rules.items())
    return f'<meta http-equiv="Content-Security-Policy" content="{content}">'


def _pictures(folder: Path, kept: Path) -> dict[str, tuple[str, int, int]]:
    """Each picture's file name, width and height by its first name; a PNG becomes lossless WebP if that is smaller."""
    sizes = {}
    kept.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.png")) if folder.is_dir() else []:
        with Image.open(path) as picture:
            width, height = picture.size
            small = kept / f"{hashlib.sha256(path.read_bytes()).hexdigest()}.webp"
            if not small.exists():
                new = small.with_suffix(".new")
                picture.save(new, "WEBP", lossless=True, quality=90, method=4)
                new.replace(small)
        if small.stat().st_size < path.stat().st_size:
            shutil.copy2(small, path.with_suffix(".webp"))
            path.unlink()
            sizes[path.name] = (path.with_suffix(".webp").name, width, height)
        else:
            sizes[path.name] = (path.name, width, height)
    return sizes


def _icons(static: Path) -> None:
    """Take the icon fonts out: their files, their script, and what the theme's style sheet says of them."""
    shutil.rmtree(static / "vendor" / "fontawesome", ignore_errors=True)
    for path in (static / "scripts").glob("fontawesome*"):
        path.unlink()
    theme = static / "styles" / "pydata-sphinx-theme.css"
    if theme.exists():
        text = theme.read_text(encoding="utf-8")
        text = re.sub(r"@font-face\{[^{}]*Awesome[^{}]*\}", "", text)
        text = re.sub(r'(?:\.fa-[\w-]+:{1,2}before,?)+\{content:"[^"]*"\}', "", text)
        theme.write_text(text, encoding="utf-8")
    for source in static.rglob("*.map"):  # nobody debugs the theme here
        source.unlink()


def _settings(options: Path) -> None:
    if options.exists():
        more = "DOCUMENTATION_OPTIONS.search_as_you_type = false;\n"
        # A page on a disk may not read another, so the search quotes nothing there.
        more += "if (location.protocol === 'file:') DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;\n"
        options.write_text(f"{options.read_text(encoding='utf-8').rstrip()}\n{more}", encoding="utf-8")
