"""What each page of the built book weighs, by what a browser asks for: text as gzip sends it, the rest as it is.

    python tools/weigh.py        a table: before anything is scrolled, and with everything that comes when one scrolls

A light page may weigh 600 KB (300 of them the frame: text, styles, scripts, fonts), one with an interactive figure
1,200 KB with all of its pictures.
"""

from __future__ import annotations

import gzip
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(1, str(Path(__file__).resolve().parent))
from tools import browser, site

TEXT = ("document", "stylesheet", "script")
LIGHT, FRAME, FIGURES, HEAVY = 600_000, 300_000, 300_000, 1_200_000


@dataclass
class Weight:
    """Bytes of a page, by kind: ``frame`` and ``figures`` at once, ``later`` when it is scrolled to its end."""

    page: str
    interactive: bool
    frame: int = 0
    figures: int = 0
    later: int = 0
    requests: dict[str, int] = field(default_factory=dict)

    @property
    def at_once(self) -> int:
        return self.frame + self.figures

    @property
    def total(self) -> int:
        return self.at_once + self.later

    def faults(self) -> list[str]:
        """Which limits it breaks."""
        limits = {"in all": (self.total, HEAVY)}
        if not self.interactive:
            limits = {
                "the frame": (self.frame, FRAME),
                "figures at once": (self.figures, FIGURES),
                "at once": (self.at_once, LIGHT),
                "in all": (self.total, HEAVY),
            }
        return [
            f"{what}: {have:,} bytes, at most {most:,}"
            for what, (have, most) in limits.items()
            if have > most
        ]


def weigh(chromium: Any, base: str, page: str) -> Weight:
    """Open a page with nothing kept from before, weigh what came; scroll to its end, weigh what came then."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    came: list[Any] = []
    opened.on("response", lambda response: came.append(response))
    opened.goto(f"{base}/{page}", wait_until="networkidle")
    weight = Weight(page, opened.locator(".attn-figure").count() > 0)
    for response in came:
        name = response.url.removeprefix(base)
        if name in weight.requests:  # the icon is the logo: it is asked for twice and sent once
            continue
        size = weight.requests[name] = _size(response)
        if response.request.resource_type in (*TEXT, "font"):
            weight.frame += size
        else:
            weight.figures += size
    before = len(came)
    height = opened.evaluate("() => document.documentElement.scrollHeight")
    for place in range(0, height, 800):
        opened.evaluate("(y) => scrollTo(0, y)", place)
        opened.wait_for_timeout(15)
    opened.wait_for_load_state("networkidle")
    for response in came[before:]:
        name = response.url.removeprefix(base)
        if name not in weight.requests:
            weight.requests[name] = _size(response)
            weight.later += weight.requests[name]
    context.close()
    return weight


def _size(response: Any) -> int:
    body = response.body()
    text = response.request.resource_type in TEXT or response.url.endswith(".svg")
    return len(gzip.compress(body, 6)) if text else len(body)


def table(weights: list[Weight]) -> str:
    lines = [f"{'page':34}{'frame':>9}{'figures':>9}{'at once':>9}{'scrolled':>10}   KB"]
    for one in weights:
        numbers = "".join(f"{n / 1000:>9.0f}" for n in (one.frame, one.figures, one.at_once))
        kind = "interactive" if one.interactive else ""
        lines.append(
            f"{one.page:34}{numbers}{one.total / 1000:>10.0f}   {kind}{' '.join(['', *one.faults()])}"
        )
    return "\n".join(lines)


def main() -> int:
    from playwright.sync_api import sync_playwright

    program = browser.find()
    folder = site.build().parent
    pages = sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*.html") if "_static" not in p.parts
    )
    with sync_playwright() as playwright, site.server(folder) as running:
        chromium = playwright.chromium.launch(executable_path=program)
        base = f"http://127.0.0.1:{running.server_address[1]}"
        weights = [weigh(chromium, base, page) for page in pages if page != "index.html"]
        chromium.close()
        running.shutdown()
    print(table(weights))
    return 1 if any(one.faults() for one in weights) else 0


if __name__ == "__main__":
    sys.exit(main())
