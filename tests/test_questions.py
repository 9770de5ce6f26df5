"""The questions at the end of the chapters: their arithmetic, worked out again; and their folds, used by keyboard."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import jupytext
import pytest
import questions
import torch
from markdown_it import MarkdownIt
from playwright.sync_api import Browser, Page
from site_checks import AXE

import attn_course
from attn_course import complexity, textbook
from attn_course.experiments import chapter6
from tools import site as book_site

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = {int(path.name[:2]): path for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))}
ASKED = {number: questions.of(jupytext.read(path)) for number, path in CHAPTERS.items()}
EVERY = {(chapter, one.number): one for chapter, asked in ASKED.items() for one in asked}


# --- What the choices say, computed ---------------------------------------------------------------


def fraction(number):
    return str(Fraction(float(number)).limit_denominator(1000))


def row(weights):
    first, second, third = (fraction(weight) for weight in weights)
    return f"{first}, {second} and {third}"


def a_masked_key():
    scores, allowed = torch.tensor([0, 0, math.log(2)]).double(), torch.tensor([True, True, False])
    early = attn_course.masked_softmax(scores, allowed)
    late = scores.softmax(dim=0) * allowed
    return {"A": [row(late)], "B": [row(early)], "C": [row((scores * allowed).softmax(dim=0))]}


def a_scale_without_its_root():
    q, k = torch.randn(2, 4000, 256, generator=torch.Generator().manual_seed(0))
    product = (q * k).sum(dim=1).std()
    assert abs(product / math.sqrt(256) - 1) < 0.05
    typical = math.isqrt(256)
    weights = ((q[:32] @ k[:32].T) / 256).softmax(dim=-1)
    assert weights.max() < 0.06 and (q[:32] @ k[:32].T).softmax(dim=-1).max(dim=-1).values.median() > 0.95
    return {
        "A": [f"About {Fraction(typical, 256)}:"],
        "B": [f"About {typical}:"],
        "C": [f"About {typical // typical}:"],
    }


def a_mask_of_the_wrong_shape():
    lengths = torch.arange(1, 9)
    flat = torch.arange(8) < lengths[:, None]
    layer, x = attn_course.MultiHeadAttention(16, 2), torch.randn(8, 8, 16)
    _, weights = layer(x, x, x, flat)
    assert ((weights > 0).sum(dim=-1) == lengths).all()  # query i of every sentence and head: i + 1 keys
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(8, 2, 8))
    long = torch.randn(16, 40, 16)
    with pytest.raises(ValueError, match="None, None"):
        layer(long, long, long, torch.ones(16, 40, dtype=torch.bool))
    return {"C": ["query i sees as many keys as sentence i is long"]}


def heads_and_their_maps():
    few, many = (
        complexity.cost("multi-head-attention", batch=1, n_q=2048, d_model=512, num_heads=h) for h in (8, 16)
    )
    assert few.flops == many.flops
    mib = [complexity.score_bytes(1, h, 2048, 2048) // 2**20 for h in (8, 16)]
    return {"B": [f"{mib[1]} MiB and not {mib[0]}", f"{mib[1]} MiB (sections"]}


def a_clock_of_four_places():
    def reading(place):
        return torch.tensor([math.sin(place * math.pi / 2), math.cos(place * math.pi / 2)])

    def product(a, b):
        return f"{reading(a) @ reading(b):.0f}".replace("-0", "0").replace("-", "−")

    assert product(2, 5) == product(102, 105)
    return {"A": [product(2, 4) + ":"], "B": [product(2, 6) + ":"], "C": [product(2, 5) + ":"]}


def order_without_positions():
    words = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    layer, moved = attn_course.MultiHeadAttention(16, 2).eval(), {}
    for mask in (None, attn_course.causal_mask(3)):
        outputs = [layer(x, x, x, mask)[0][0] for x in (words[None], words[[2, 1, 0]][None])]
        moved[mask is None] = (outputs[0][0] - outputs[1][2]).abs().max().item()  # what dog receives
    assert moved[True] < 1e-5 and moved[False] > 0.01
    return {"A": ["Only the decoder"]}


def positions_in_bfloat16():
    turned = textbook.RotaryEmbedding(8).bfloat16()(torch.ones(1, 300, 8, dtype=torch.bfloat16))[0]
    same = [place for place in range(299) if torch.equal(turned[place], turned[place + 1])]
    assert same and min(same) == 256
    return {"C": [f"Between {min(same)} and {2 * min(same)}"]}


def gates_in_a_row():
    cbam, x = attn_course.CBAM(16).eval(), torch.rand(1, 16, 5, 7) + 1
    for parameter in cbam.parameters():
        torch.nn.init.zeros_(parameter)
    left = (cbam(cbam(cbam(x))) / x).mean().item()
    return {
        "A": [fraction(left), "six in a row"],
        "B": [fraction(math.sqrt(left))],
        "C": [fraction(left ** (1 / 6))],
    }


def a_cue_in_every_pixel():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 500, 1024, generator=generator)
    faulty = 20 * (torch.rand(2, 500, 1, generator=generator) < 0.5) * torch.eye(1024)[0]
    sand, gravel = noise + faulty + torch.tensor([0.0, 0.2])[:, None, None]

    def right(pool):
        threshold = (pool(sand).mean() + pool(gravel).mean()) / 2
        return ((pool(gravel) > threshold).double().mean() + (pool(sand) < threshold).double().mean()) / 2

    assert right(lambda x: x.mean(dim=-1)) > 0.95 > 0.65 > right(lambda x: x.amax(dim=-1))
    return {"B": ["The average"]}


def two_maps_of_scores():
    large, small = (complexity.score_bytes(1, 1, side**2, side**2) for side in (128, 32))
    return {
        "B": [f"{128**2:,} pixels", f"{large // 2**30} GiB", f"{large // small} times"],
        "C": [f"{32**2:,} pixels", f"{small // 2**20} MiB"],
    }


def the_part_with_the_square():
    terms = complexity.cost("multi-head-attention", batch=1, n_q=256, d_model=64, num_heads=2).terms
    square = terms["scores"] + terms["weighted sum"]
    share = Fraction(square, square + terms["projections"])
    d = 64**3
    said = f"$8nd^2 = {terms['projections'] // d}d^3$ and the square $4n^2d = {square // d}d^3$: {square // d} of"
    return {
        "B": [str(share), f"{said} {(square + terms['projections']) // d}"],
        "C": [str(Fraction(4, 4 + 1))],
    }


def decided_heads():
    heads = torch.eye(7)[None, [0, 2, 3, 5]][:, :, None]  # (1, 4, 1, 7): each looks at one key
    each = attn_course.attention_entropy(heads).unique().item()
    mean = attn_course.attention_entropy(heads.mean(dim=1)).item()
    return {"C": [f"{each:.0f} for each head, and ln {math.exp(mean):.0f} for the average"]}


def faster_memory():
    work = {"flops": 10e9, "bytes": 1e9}
    compute, before, after = (1000 * seconds for seconds in (work["flops"] / 200e9, 1e9 / 50e9, 1e9 / 100e9))
    new = complexity.Hardware("new", peak_flops=200e9, bandwidth=100e9)
    least = 1000 * max(work["flops"] / new.peak_flops, work["bytes"] / new.bandwidth)
    return {
        "A": [f"{compute + after:.0f} ms"],
        "B": [f"{least:.0f} ms", f"takes {before:.0f} ms, now {after:.0f}"],
        "C": [f"{compute / 2:.0f} ms"],
        "D": [f"{after:.0f} ms"],
    }


def users_in_a_batch():
    sizes = {"n_q": 1, "n_k": 16, "cached": 15, "d_model": 2048, "num_heads": 16, "fused": True}
    one, many = (complexity.cost("multi-head-attention", batch=batch, **sizes) for batch in (1, 16))
    machine = complexity.Hardware("balanced at 50", peak_flops=50e11, bandwidth=1e11)
    assert round(one.intensity, 1) == 0.5 and many.intensity < 50
    times = [price.roofline(machine) for price in (one, many)]
    assert times[1].bound == "bandwidth" and times[1].seconds < 1.1 * times[0].seconds
    assert many.intensity <= 16 * 0.5
    return {"A": [rf"$16 \cdot 0.5 = {16 * 0.5:.0f}$ FLOPs for each byte"]}


def a_clock_that_does_not_wait():
    rate = 2 * 4096**3 / 0.03e-3 / 1e12
    assert 4500 < rate < 4600 and (2 * 8192**3) / (2 * 4096**3) == 8
    return {"C": ["Eight times the work", "over 4,500 TFLOP/s"]}


def one_more_key():
    m, total, output, score, value = 2, 3, 12, 2 + math.log(3), 8
    rescale = math.exp(m - score)
    right = (rescale * output + value) / (rescale * total + 1)
    return {
        "A": [f"{(output + value) / (total + 1):.0f}"],
        "B": [f"{right:.0f}", rf"$\ell = {rescale * total:.0f}$ and $o = {rescale * output:.0f}$"],
        "C": [f"{(output + value) / (rescale * total + 1):.0f}"],
    }


def layers_of_windows():
    reach = {layers: chapter6.reach(64, layers, 4096) for layers in range(1, 7)}
    least = min(layers for layers, places in reach.items() if places >= 300)
    assert (reach[4], reach[5]) == (256, 320)
    return {
        "B": [f"3: a layer sees {2 * 64 + 1} places, and three see {3 * 129}", f"over {reach[3]} places"],
        "C": [f"{least}: four layers reach {reach[4]} places, five reach {reach[5]}"],
    }


def a_mask_over_everything():
    band = attn_course.sliding_window_mask(8192, 64)
    assert f"{band.double().mean():.1%}" == "1.6%"
    return {"A": ["Nothing"]}


def the_choice_by_need():
    candidates = {"A": (0.002, 0.1), "B": (0.09, 1.5), "C": (0.02, 0.4)}  # seconds, GiB
    serves = [name for name, reach in (("A", 0), ("B", 10_000), ("C", 4 * 500)) if reach >= 9_999]
    best = min((name for name in serves if candidates[name][1] <= 2), key=lambda name: candidates[name])
    return {best: ["Full attention", f"{candidates[best][1]} GiB are within 2"], "C": [f"{4 * 500:,} places"]}


def a_place_in_a_list():
    x = torch.arange(15).reshape(3, 5)
    by_columns = x.T.flatten().tolist().index(x[2, 1].item())
    return {"A": [f"Token {x[2, 1].item()}"], "B": [f"Token {2 * 3 + 1}"], "C": [f"Token {by_columns}"]}


def tokens_by_a_reshape():
    x = torch.stack([torch.arange(12).reshape(3, 4), 100 + torch.arange(12).reshape(3, 4)])[None]
    assert {number // 100 for number in x.reshape(1, 12, 2)[0, 7].tolist()} == {1}  # one channel alone
    return {"B": ["this one holds neighbours from one channel"]}


WORKED = {
    (1, 1): a_masked_key, (1, 2): a_scale_without_its_root, (1, 3): a_mask_of_the_wrong_shape,
    (1, 4): heads_and_their_maps, (2, 1): a_clock_of_four_places, (2, 2): order_without_positions,
    (2, 3): positions_in_bfloat16, (3, 1): gates_in_a_row, (3, 2): a_cue_in_every_pixel,
    (3, 3): two_maps_of_scores, (4, 1): the_part_with_the_square, (4, 2): decided_heads,
    (4, 3): faster_memory, (4, 4): users_in_a_batch, (5, 1): a_clock_that_does_not_wait,
    (5, 2): one_more_key, (6, 1): layers_of_windows, (6, 2): a_mask_over_everything,
    (6, 3): the_choice_by_need, (7, 1): a_place_in_a_list, (7, 2): tokens_by_a_reshape,
}  # fmt: skip


@pytest.mark.parametrize("place", WORKED, ids=lambda place: "chapter {}, question {}".format(*place))
def test_the_choices_say_what_comes_out_when_it_is_worked_out(place):
    choices = {choice.letter: choice for choice in EVERY[place].choices}
    worked = WORKED[place]()
    assert EVERY[place].answer.letter in worked
    for letter, wanted in worked.items():
        said = " ".join(f"{choices[letter].text} {choices[letter].why}".split())
        assert [part for part in wanted if not re.search(rf"(?<!\d){re.escape(part)}", said)] == []


def numbers(text):
    return set(re.findall(r"\d+(?:[.,/]\d+)*", text))


@pytest.mark.parametrize("place", EVERY, ids=lambda place: "chapter {}, question {}".format(*place))
def test_a_right_choice_with_a_number_of_its_own_is_worked_out_here(place):
    """No number that the question did not give stands in a right answer unproved."""
    question = EVERY[place]
    new = numbers(f"{question.answer.text} {question.answer.why}") - numbers(question.asked)
    assert place in WORKED or not new, new


def test_every_chapter_asks_for_a_number_that_the_reader_can_work_out():
    assert {chapter for chapter, number in WORKED if numbers(EVERY[chapter, number].answer.text)} == {
        *CHAPTERS
    }


# --- Where the page is not the book's -------------------------------------------------------------


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_any_reader_of_markdown_folds_the_choices_and_draws_what_is_inside(chapter):
    for cell in jupytext.read(CHAPTERS[chapter]).cells:
        if questions.is_question(cell):
            html = MarkdownIt("commonmark").render(cell.source)
            asked = questions.read(cell.source)
            folds = re.findall(
                r"<details name=[^>]*><summary>.*?</summary>\n<p><strong>.*?</p>\n</details>", html, re.S
            )
            assert len(folds) == len(asked.choices), html
            assert "**" not in html and "<script" not in cell.source and "style=" not in cell.source


# --- In the page, by keyboard, without scripts -----------------------------------------------------


@pytest.fixture(scope="module")
def built() -> Path:
    """The folder of the book, built if something changed."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "site.py"), "build"], capture_output=True, text=True
    )
    assert run.returncode == 0, f"the book does not build:\n{run.stderr[-6000:]}"
    return Path(run.stdout.strip().splitlines()[-1]).parent


@pytest.fixture(scope="module")
def scriptless(chromium: Browser) -> Iterator[Page]:
    """A page in a window in which no script runs."""
    context = chromium.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
    yield context.new_page()
    context.close()


def address(built: Path, chapter: int) -> str:
    return (built / "notebooks" / f"{CHAPTERS[chapter].stem}.html").as_uri()


FOCUSED = "() => document.activeElement.matches('summary') ? document.activeElement.innerText.trim() : ''"
OPEN = "(group) => [...group.querySelectorAll('details[open] > summary')].map((one) => one.innerText.trim())"


def tab(page: Page) -> str:
    """Press Tab until a choice has the focus (a link in an opened explanation comes in between)."""
    for _ in range(4):
        page.keyboard.press("Tab")
        if page.evaluate(FOCUSED):
            return page.evaluate(FOCUSED)
    return "no choice within four steps"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_questions_are_answered_by_tab_and_enter_without_a_script_or_a_server(chapter, built, scriptless):
    page = scriptless
    page.goto(address(built, chapter))
    assert page.locator(".question").count() == len(ASKED[chapter])
    page.locator("#questions > p").first.click()  # from here Tab goes on
    for question in ASKED[chapter]:
        group = page.get_by_role("group", name=f"Question {question.number}", exact=True)
        for number, choice in enumerate(question.choices):
            fold = group.locator("details").nth(number)
            said = fold.locator("p").first
            assert tab(page) == f"{choice.letter}. {choice.text}" and not said.is_visible()
            page.keyboard.press("Enter")
            assert said.is_visible() and said.inner_text().startswith(
                "Right." if choice.right else "Not quite."
            )
            assert group.evaluate(OPEN) == [
                f"{choice.letter}. {choice.text}"
            ]  # and no other of this question
        page.keyboard.press("Enter")
        assert group.evaluate(OPEN) == []


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_choice_is_large_enough_for_a_finger_and_moves_nothing_above_it(chapter, built, scriptless):
    page = scriptless
    page.goto(address(built, chapter))
    heights = page.locator(".choice > summary").evaluate_all("all => all.map((one) => one.offsetHeight)")
    assert len(heights) == sum(len(one.choices) for one in ASKED[chapter]) and min(heights) >= 44
    group, tops = page.locator(".question").first, "(all) => all.map((one) => one.offsetTop)"
    before = group.locator("summary").evaluate_all(tops)
    group.locator("summary").nth(1).click()
    after = group.locator("summary").evaluate_all(tops)
    text = group.locator("details").nth(1).locator("p").evaluate("one => one.offsetHeight")
    assert after[:2] == before[:2] and after[2] - before[2] == pytest.approx(text, abs=2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opened_choices_can_be_read_in_light_and_dark(scheme, built, chromium):
    context = chromium.new_context(color_scheme=scheme, viewport={"width": 390, "height": 844})
    page = context.new_page()
    axe = (book_site.node.node_modules() / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    for chapter in (1, 5):
        page.goto(address(built, chapter))
        page.evaluate("""() => document.querySelectorAll('.choice').forEach((one) => {
          one.removeAttribute('name');
          one.open = true;
        })""")
        page.evaluate(axe)
        assert page.evaluate(AXE.replace("axe.run(document", "axe.run('.question'"), None) == []
        colours = {
            kind: page.locator(f".choice.{kind} > p > strong").first.evaluate(
                "one => getComputedStyle(one).color"
            )
            for kind in ("right", "wrong")
        }
        plain = page.locator(".question > p").first.evaluate("one => getComputedStyle(one).color")
        assert len({*colours.values(), plain}) == 3
    context.close()
