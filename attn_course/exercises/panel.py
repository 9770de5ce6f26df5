"""How results and hints look: text in a terminal, a coloured panel in a notebook.

A panel is one ``div`` with its colours inline: no script, no style sheet, nothing that a theme could half override.
It is readable where the page is dark and the panel is not, for it brings its own background; where the page says
that it is dark (``color-scheme``), so is the panel.
"""

import html
import re

# Tone -> ((background, text, edge) in the light, the same in the dark). Text on background: at least 7 to 1.
TONES = {
    "passed": (("#e6f4ea", "#0b3d1e", "#2e7d4f"), ("#12291b", "#d3f0de", "#57b67f")),
    "wrong": (("#fdf0e6", "#4a2206", "#c2570c"), ("#33200f", "#fbe3cf", "#f0964a")),
    "idle": (("#eef1f5", "#24303d", "#64748b"), ("#1c232b", "#dce4ec", "#93a4b8")),
    "hint": (("#eaf1fd", "#14305e", "#2b62c0"), ("#15213a", "#dbe7fd", "#7fa8f0")),
}
_MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:0.9em"
_PLAIN = "background:none;color:inherit;border:0;box-shadow:none"


def _both(name: str, light: str, dark: str) -> str:
    return f"{name}:{light};{name}:light-dark({light},{dark})"


def _inline(text: str) -> str:
    code = f'<code style="{_PLAIN};padding:0;{_MONO};font-weight:600">\\1</code>'
    return re.sub(r"`([^`]+)`", code, html.escape(text, quote=False))


def _blocks(text: str) -> str:
    """Paragraphs; lines indented by four spaces stay as they are."""
    parts = []
    for block in re.split(r"\n{2,}(?! )|\n\n(?=    )", text.strip("\n")):
        lines = block.split("\n")
        if all(line.startswith("    ") or not line for line in lines):
            body = html.escape("\n".join(line[4:] for line in lines), quote=False)
            style = f"{_PLAIN};margin:0.4em 0;padding:0;white-space:pre-wrap;overflow-wrap:anywhere;{_MONO}"
            parts.append(f'<pre style="{style}">{body}</pre>')
        else:
            body = "<br>".join(_inline(line) for line in lines)
            parts.append(f'<div style="margin:0.4em 0;color:inherit">{body}</div>')
    return "".join(parts)


def panel(tone: str, heading: str, text: str, mark: str = "") -> str:
    """HTML of a panel: ``heading``, then ``text`` (paragraphs, `` `code` ``, and blocks indented by four)."""
    (back, fore, edge), (dark_back, dark_fore, dark_edge) = TONES[tone]
    style = ";".join((
        _both("background", back, dark_back), _both("color", fore, dark_fore),
        _both("border-left-color", edge, dark_edge), "border-left-width:4px", "border-left-style:solid",
        "border-radius:4px", "padding:0.5em 0.9em", "margin:0.3em 0", "line-height:1.45",
        "overflow-wrap:anywhere",
    ))  # fmt: skip
    sign = f'<span aria-hidden="true">{mark} </span>' if mark else ""  # the heading says it in words
    title = f'<div style="font-weight:700;color:inherit">{sign}{_inline(heading)}</div>'
    return f'<div class="attn-check attn-check-{tone}" style="{style}">{title}{_blocks(text)}</div>'


class Note(str):
    """A text for the learner that a notebook shows as a panel."""

    heading: str

    def __new__(cls, text: str, heading: str = "") -> "Note":
        note = super().__new__(cls, text)
        note.heading = heading
        return note

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return panel("hint", self.heading, str(self))


class Source(Note):
    """Source text that a notebook shows as such."""

    def _repr_html_(self) -> str:
        return panel("hint", self.heading, "\n".join(f"    {line}" for line in self.split("\n")))
