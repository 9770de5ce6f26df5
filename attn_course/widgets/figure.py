"""One interactive figure: in a notebook an anywidget, in the published page the same module with its state as JSON.

A figure is a Python class and a file ``<name>.js`` beside it. Both compute every number that is shown, as tables;
a test holds them equal. The Python side takes the numbers from the package; the JavaScript draws, and answers at once.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

HERE = Path(__file__).parent
MIME = "application/vnd.attn-course.figure+json"
CSS = "figure.css"

# A table: {"name": str, "columns": [str, …], "rows": [[label, number, …], …]}. NaN is None: JSON knows no NaN.
Table = dict[str, Any]


class Figure:
    """What every interactive figure has.

    Attributes:
        data: what the figure shows, as JSON; the controls do not change it.
        settings: where the controls stand, as JSON.
    """

    name: ClassVar[str]  # of its .js file
    title: ClassVar[str]

    def __init__(self, data: dict[str, Any], settings: dict[str, Any]) -> None:
        self.data, self._settings = data, settings

    @property
    def settings(self) -> dict[str, Any]:
        """Where the controls stand now, also after a hand has moved them."""
        return dict(self._live.settings if "_live" in self.__dict__ else self._settings)

    def text(self) -> str:
        """The figure in words, for who does not see it."""
        raise NotImplementedError

    def tables(self, **settings: Any) -> list[Table]:
        """Every number that the figure shows at these settings (the present ones where none is given)."""
        raise NotImplementedError

    def set(self, **settings: Any) -> None:
        """Put controls somewhere else, from Python.

        Raises:
            ValueError: there is no such control.
        """
        now = self._checked(settings)
        if "_live" in self.__dict__:
            self._live.settings = now
        self._settings = now

    def _checked(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The present settings with these changes."""
        unknown = sorted(set(settings) - set(self._settings))
        if unknown:
            raise ValueError(f"no control {', '.join(unknown)}; there are {', '.join(self._settings)}")
        return {**self.settings, **settings}

    def state(self) -> dict[str, Any]:
        """All that the front end gets."""
        about = {"title": self.title, "text": self.text()}
        now = {"about": about, "data": self.data, "settings": self.settings}
        # A notebook is stored with its keys sorted: no figure may rest on another order, in a live one either.
        return json.loads(json.dumps(now, sort_keys=True, allow_nan=False))

    @cached_property
    def _live(self) -> Any:
        import anywidget
        import traitlets

        class Live(anywidget.AnyWidget):
            _esm = module(self.name)
            _css = (HERE / CSS).read_text(encoding="utf-8")
            about = traitlets.Dict().tag(sync=True)
            data = traitlets.Dict().tag(sync=True)
            settings = traitlets.Dict().tag(sync=True)

        return Live(**self.state())

    def __repr__(self) -> str:
        """The words and the numbers, as text."""
        return "\n\n".join([f"{self.title}\n{self.text()}", *map(_as_text, self.tables())])

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The live figure, the state that the book takes over, the words for whoever shows neither; and metadata."""
        shown: dict[str, Any] = {"text/plain": repr(self), MIME: {"name": self.name, **self.state()}}
        try:
            live = self._live
        except ImportError:
            shown["text/plain"] += "\n\n(To play with it here: pip install anywidget)"
            return shown, {}
        made, metadata = live._repr_mimebundle_()  # in Colab the metadata say which code shows the widget
        return {**made, **shown}, metadata


def module(name: str) -> str:
    """One ES module: the kit, then the figure's own file.

    The kit ends with its ``export``, a figure begins with its ``import`` and ends with ``export default``.
    """
    kit = (HERE / "kit.js").read_text(encoding="utf-8")
    own = (HERE / f"{name}.js").read_text(encoding="utf-8")
    kit = re.sub(r"\nexport \{[^}]*\};\s*\Z", "\n", kit)
    own, found = re.subn(r"^import \{[^}]*\} from '\./kit\.js';\n", "", own, count=1, flags=re.MULTILINE)
    if "export" in re.sub(r"//.*", "", kit) or not found:
        raise ValueError(
            f"{name}.js must begin with one import from './kit.js', and kit.js end with one export"
        )
    return f"{kit}\n{own}"


def script(name: str) -> str:
    """The same as a classic script, for a page that may lie on a disk, where modules are refused."""
    text, found = re.subn(
        r"^export default ", "const theFigure = ", module(name), count=1, flags=re.MULTILINE
    )
    if not found:
        raise ValueError(f"{name}.js must end with export default figure(…)")
    return f"(() => {{\n'use strict';\n{text}\nattnFigures.ready({json.dumps(name)}, theFigure);\n}})();\n"


def _as_text(table: Table) -> str:
    def word(value: Any) -> str:
        return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = [table["columns"], *([word(value) for value in row] for row in table["rows"])]
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(table["columns"]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
    return "\n".join([table["name"], *(line.rstrip() for line in lines)])
