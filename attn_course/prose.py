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

    Same format as ``myst_nb.glue``, without needing it: ``{glue:text}`` on a page of the book reads it.
    """
    from IPython.display import display

    text = value if isinstance(value, str) else repr(value)
    display(
        {_GLUE + "text/plain": text, _GLUE + "text/html": text},
        metadata={"scrapbook": {"name": name, "mime_prefix": _GLUE}},
        raw=True,
    )
