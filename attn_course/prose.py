"""Sentences and numbers that a run writes: nothing in the book's prose is typed by hand that a run can produce."""

from typing import Any

_GLUE = "application/papermill.record/"


def say(template: str, **values: Any) -> None:
    """Show ``template`` as Markdown, its ``{name}`` fields filled with ``values``.

    The sentence is an output of the cell, so it is right for the reader's own run too, in Colab as on the page.

    Example:
        >>> say("Entropy fell to {entropy:.2f} nats.", entropy=0.6931)  # doctest: +SKIP
    """
    from IPython.display import Markdown, display

    display(Markdown(template.format(**values)))


def glue(name: str, value: Any) -> None:
    """Record ``value`` in the notebook under ``name``, without showing it, for another page to quote.

    Same format as ``myst_nb.glue``, without needing it: ``{glue:text}`` on a page of the book reads it. A string is
    quoted, or "524,288" would be read as a pair of numbers, and "1.00" as 1.0.
    """
    from IPython.display import display

    display(
        {_GLUE + "text/plain": repr(value), _GLUE + "text/html": str(value)},
        metadata={"scrapbook": {"name": name, "mime_prefix": _GLUE}},
        raw=True,
    )
