import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from attn_course.prose import glue, say


def outputs(call):
    InteractiveShell.instance()
    with capture_output() as captured:
        call()
    return captured.outputs


def test_a_sentence_is_shown_as_markdown_with_its_numbers():
    (shown,) = outputs(lambda: say("Fell to {bits:.2f} with $d_k$ and {{braces}}.", bits=2.275))
    assert shown.data["text/markdown"] == "Fell to 2.27 with $d_k$ and {braces}."


def test_a_glued_value_is_recorded_and_not_shown():
    (recorded,) = outputs(lambda: glue("bits", 2.5))
    assert recorded.metadata["scrapbook"]["name"] == "bits"
    assert all(kind.startswith("application/papermill.record/") for kind in recorded.data)


def test_the_format_is_that_of_myst_nb():
    from myst_nb import glue as theirs

    (expected,), (ours,) = (
        outputs(lambda: theirs("name", "7", display=False)),
        outputs(lambda: glue("name", "7")),
    )
    assert ours.metadata == expected.metadata and set(ours.data) >= set(expected.data)


@pytest.mark.parametrize("text", ["524,288", "1.00", "0.987", "plain CNN (0.47)", "94%", "it's"])
def test_a_glued_string_reads_on_a_page_as_it_was_written(text):
    from myst_nb.core.variables import format_plain_text

    (recorded,) = outputs(lambda: glue("name", text))
    assert format_plain_text(recorded.data["application/papermill.record/text/plain"], "s") == text
