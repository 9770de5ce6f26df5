"""A pytest plugin that closes two gaps of nbval.

- nbval sees an error only where the kernel shows its traceback, so code that replaced ``showtraceback``
  hides every error after it. Here the kernel's own reply decides: a cell passes only if it said "ok" (or the
  cell is tagged ``raises-exception``), so a notebook passes only if its last cell was reached.
- Progress bars, addresses and random ids are taken out of the new outputs, as out of the stored ones.
"""

from __future__ import annotations

from typing import Any

import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

from tools.notebooks import number_ids, steady


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    if not isinstance(item, IPyNbCell):
        return (yield)
    item.compare_outputs = _comparing(item)
    kernel: RunningKernel = item.parent.kernel
    replies: list[dict[str, Any]] = []
    listen = kernel.get_message

    def get_message(stream: str, timeout: float | None = None) -> dict[str, Any]:
        message = listen(stream, timeout=timeout)
        if message["msg_type"] == "execute_reply":
            replies.append(message["content"])
        return message

    kernel.get_message = get_message
    try:
        result = yield
    finally:
        kernel.get_message = listen
    if not item.options["skip"]:
        judge(item, replies)
    return result


def judge(item: IPyNbCell, replies: list[dict[str, Any]]) -> None:
    """Fail the cell unless the kernel said that it ran through, or failed where it is meant to."""
    answer = replies[-1] if replies else {"status": "missing"}
    if answer["status"] == "ok" or (answer["status"] == "error" and item.options["check_exception"]):
        return
    what = f"{answer.get('ename', 'no reply')}: {answer.get('evalue', 'the kernel did not answer')}"
    item.raise_cell_error(
        f"The cell failed without showing it ({what})", "\n".join(answer.get("traceback", []))
    )


def _comparing(item: IPyNbCell) -> Any:
    compare = item.compare_outputs

    def compare_outputs(test: list[Any], ref: list[Any], skip_compare: Any = None) -> bool:
        return compare(_steady(test), _steady(ref), skip_compare)

    return compare_outputs


def _steady(outputs: list[Any]) -> list[Any]:
    from nbformat import v4

    cell = v4.new_code_cell()
    cell.outputs = steady(outputs)
    number_ids(v4.new_notebook(cells=[cell]))
    return cell.outputs
