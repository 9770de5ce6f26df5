"""Every test gets one thread for torch, so that two processes side by side do not slow each other down."""

import os
import sys
from pathlib import Path

import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

ROOT = Path(__file__).resolve().parent.parent
for _folder in (ROOT / "tests", ROOT / "tools", ROOT / "book" / "_ext"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))


@pytest.fixture(scope="module")
def chromium():
    """One browser for the tests of a file; not longer, because its event loop keeps others from running."""
    import browser
    from playwright.sync_api import sync_playwright

    path = browser.find()
    assert path, "no browser: `make test` gets one; by hand, `python tools/browser.py`"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path)
        yield opened
        opened.close()
