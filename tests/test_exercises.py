"""The exercises' machinery: catalogue, verdicts, hints, panels, and what stays apart from what."""

import dataclasses
import functools
import inspect
import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bs4 import BeautifulSoup
from torch import nn

from attn_course import exercises
from attn_course.exercises import CheckResult, Exercise, catalog, chapter6, get
from attn_course.exercises.judge import Answer, Mistake, answer, judge, tolerance
from attn_course.exercises.panel import TONES, Note
from attn_course.exercises.runner import Fault, Observation, Report, Seen, observe
from attn_course.exercises.task import Case, Task, make_inputs

CHAPTERS = {  # a chapter adds its own, here and in NAMES
    1: ["scaled-dot-product", "masked-softmax", "causal-mask", "padding-mask", "split-heads", "merge-heads",
        "multi-head-attention", "pre-norm-block"],
    2: ["sinusoidal-encoding", "shift-matrix", "rotary-embedding", "alibi-bias"],
    3: ["channel-attention", "spatial-attention", "cbam", "self-attention-2d"],
    4: ["attention-flops", "crossover-length", "cbam-flops", "score-memory", "attention-entropy", "attention-distance"],
    5: ["time-it", "roofline", "streaming-attention"],
    6: ["window-mask", "window-attention", "select-mechanism"],
    7: ["to-tokens", "to-feature-map", "patchify", "hybrid-forward"],
}  # fmt: skip
NAMES = {
    "scaled-dot-product": "scaled_dot_product_attention(q, k, v, mask=None)",
    "masked-softmax": "masked_softmax(scores, mask)",
    "causal-mask": "causal_mask(n)",
    "padding-mask": "padding_mask(lengths, n)",
    "split-heads": "split_heads(x, num_heads)",
    "merge-heads": "merge_heads(x)",
    "multi-head-attention": "MultiHeadAttention(d_model, num_heads)",
    "pre-norm-block": "pre_norm_block(x, attention, feed_forward, norm1, norm2)",
    "sinusoidal-encoding": "sinusoidal_encoding(max_len, d_model)",
    "shift-matrix": "shift_matrix(k, d_model)",
    "rotary-embedding": "apply_rotary(x, positions, base=10000.0)",
    "alibi-bias": "alibi_bias(num_heads, n)",
    "channel-attention": "channel_attention(x, w1, w2)",
    "spatial-attention": "spatial_attention(x, weight)",
    "cbam": "cbam(x, w1, w2, weight)",
    "self-attention-2d": "self_attention_2d(x, w_query, w_key, w_value, gamma)",
    "attention-flops": "attention_flops(batch, n_q, n_k, d_model)",
    "crossover-length": "crossover_length(d_model)",
    "cbam-flops": "cbam_flops(batch, channels, height, width, reduction=16, kernel_size=7)",
    "score-memory": "score_memory(batch, num_heads, n_q, n_k, dtype)",
    "attention-entropy": "attention_entropy(weights)",
    "attention-distance": "mean_attention_distance(weights)",
    "time-it": "time_it(fn, synchronize, clock, warmup=3, repeats=10)",
    "roofline": "roofline_time(flops, bytes_moved, peak_flops, bandwidth)",
    "streaming-attention": "streaming_attention(q, k, v, block_size)",
    "window-mask": "sliding_window_mask(n, window)",
    "window-attention": "sliding_window_attention(q, k, v, window)",
    "select-mechanism": "select_mechanism(candidates, memory_budget)",
    "to-tokens": "to_tokens(x)",
    "to-feature-map": "to_feature_map(tokens, height, width)",
    "patchify": "patchify(x, patch)",
    "hybrid-forward": "hybrid_forward(x, backbone, positions, blocks, head)",
}
every = pytest.mark.parametrize("id", NAMES)


def _run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _stub(id):
    names = {}
    exec(get(id).stub, names)
    return names[NAMES[id].split("(")[0]]


# ---------------------------------------------------------------------------------------------------- catalogue


def test_the_catalogue_holds_every_exercise_in_reading_order():
    ids = [exercise.id for exercise in catalog()]
    assert len(set(ids)) == len(ids) and set(ids) == set(NAMES)
    for chapter, known in CHAPTERS.items():
        assert [exercise.id for exercise in catalog() if exercise.chapter == chapter] == known
    chapters = [exercise.chapter for exercise in catalog()]
    assert chapters == sorted(chapters)
    assert all(isinstance(exercise, Exercise) and get(exercise.id) is exercise for exercise in catalog())


@every
def test_an_exercise_says_what_is_wanted_with_the_contracts_name_and_signature(id):
    exercise = get(id)
    for text in (exercise.id, exercise.title, exercise.prompt, exercise.stub):
        assert isinstance(text, str) and text.strip()
    assert id in CHAPTERS[exercise.chapter]
    name, _, arguments = NAMES[id].partition("(")
    given = inspect.signature(_stub(id))
    assert str(given) == f"({arguments}" and name in exercise.prompt
    assert "..." in exercise.stub and not exercise.stub.startswith("\n")


@pytest.mark.parametrize(
    ("wrong", "near"), [("scaled-dot", "scaled-dot-product"), ("causal_mask", "causal-mask")]
)
def test_an_unknown_id_lists_near_ones(wrong, near):
    with pytest.raises(KeyError, match=near):
        get(wrong)
    with pytest.raises(KeyError, match="causal-mask"):
        get("zzz")


def test_the_package_does_not_load_the_exercises_and_the_catalogue_does_not_load_the_answers():
    assert _run("import attn_course, sys; print('attn_course.exercises' in sys.modules)") == "False"
    code = """
import sys
from attn_course.exercises import catalog, get
exercise = get("causal-mask"); catalog(); exercise.prompt, exercise.stub
print([m for m in sys.modules if m.startswith("attn_course") and m.endswith(("judge", "answers", "plots"))])
"""
    assert _run(code) == "[]"


# -------------------------------------------------------------------------------------------------- not attempted


def _passes(*args):
    pass


def _dots(*args): ...


def _returns_none(*args):
    """With a docstring."""
    return None


def _not_implemented(*args):
    raise NotImplementedError


def _not_implemented_call(*args):
    raise NotImplementedError("to do")


class _NoForward(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        for name in ("w_q", "w_k", "w_v", "w_o"):
            setattr(self, name, nn.Linear(d_model, d_model))


class _IdleModule(nn.Module):
    def forward(self, *args):
        raise NotImplementedError


IDLE = {
    "pass": _passes,
    "...": _dots,
    "return None": _returns_none,
    "raise": _not_implemented,
    "raise with a text": _not_implemented_call,
    "lambda": lambda *args: None,
    "lambda ...": lambda *args: ...,
    "partial": functools.partial(_passes, 1),
    "wrapped": functools.lru_cache(_dots),
    "module": _IdleModule(),
    "method": type("Holder", (), {"go": _passes})().go,
}


@every
def test_a_stub_as_handed_out_is_not_attempted(id):
    result = get(id).check(_stub(id))
    assert result.passed is None and result.diagnosis is None and "hint()" in result.message
    assert get(id).check(None).passed is None and get(id).check().passed is None


@pytest.mark.parametrize("form", IDLE)
def test_a_body_without_work_is_not_attempted(form):
    for id in NAMES:
        if id != "multi-head-attention":
            assert get(id).check(IDLE[form]).passed is None


@pytest.mark.parametrize("body", [_passes, _dots, _returns_none, _not_implemented])
def test_a_class_whose_forward_does_no_work_is_not_attempted(body):
    exercise = get("multi-head-attention")
    assert exercise.check(type("MultiHeadAttention", (_NoForward,), {"forward": body})).passed is None
    assert exercise.check(_NoForward).passed is None


def _forgets_return(q, k, v, mask=None):
    weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
    weights @ v


def _begun(q, k, v, mask=None):
    scores = q @ k.mT
    raise NotImplementedError(scores.shape)


def test_a_body_that_works_and_forgets_its_return_is_wrong_and_told_so():
    result = get("scaled-dot-product").check(_forgets_return)
    assert (result.passed, result.diagnosis) == (False, "returns-none") and "return" in result.message


@pytest.mark.parametrize(
    ("id", "candidate"),
    [
        ("causal-mask", lambda n: n),
        ("split-heads", lambda x, num_heads: x),
        ("merge-heads", lambda x: x),
        ("causal-mask", lambda n: 5),
        ("causal-mask", lambda n: print(n)),
        ("scaled-dot-product", _begun),
    ],
)
def test_a_body_that_is_merely_short_or_begun_is_wrong(id, candidate):
    assert get(id).check(candidate).passed is False


def test_a_body_that_looks_idle_but_is_not_called_is_judged_by_what_happens():
    @functools.wraps(_passes)
    def works(n):
        return torch.ones(n, n, dtype=torch.bool).tril()

    assert get("causal-mask").check(works).passed is True


# --------------------------------------------------------------------------------------------------- results, hints


@every
def test_the_solution_is_source_that_runs_by_itself_and_passes(id):
    source = get(id).solution()
    names = {}
    exec(str(source), names)
    assert get(id).check(names[NAMES[id].split("(")[0]]).passed is True
    assert inspect.getsource(get(id).reference).strip() in source and "# " in source


@every
def test_hints_go_from_the_first_to_the_last_and_then_say_that_there_are_no_more(id):
    exercise = get(id)
    total = len(answer(exercise.task).hints)
    assert total >= 3
    hints = [exercise.hint(number) for number in range(1, total + 1)]
    assert len(set(hints)) == total and exercise.hint() == hints[0]
    assert all(isinstance(hint, str) for hint in hints)
    assert f"hint({total})" in hints[-2] and "hint(" not in hints[-1]
    assert "solution()" in exercise.hint(total + 1) and f"{total} hints" in exercise.hint(99)
    with pytest.raises(ValueError, match="from 1, got 0"):
        exercise.hint(0)


@every
def test_no_hint_gives_the_whole_answer_away(id):
    names = NAMES[id].split("(")[0]
    body = [
        line.strip() for line in inspect.getsource(get(id).reference).split("\n") if len(line.strip()) > 30
    ]
    for text in [*answer(get(id).task).hints, *(m.says for m in answer(get(id).task).mistakes)]:
        assert not all(line in text for line in body if "def " not in line), names


def test_use_takes_the_learners_own_if_it_passes_and_else_the_courses():
    exercise = get("causal-mask")
    own = lambda n: torch.arange(n)[:, None] >= torch.arange(n)  # noqa: E731
    assert exercise.use(own) is own
    for other in (None, _passes, lambda n: torch.ones(n, n), 3):
        assert exercise.use(other) is exercise.reference


def test_use_says_nothing(capsys):
    get("causal-mask").use(lambda n: print(n))
    assert capsys.readouterr() == ("", "")


def test_a_result_is_text_in_a_terminal_and_truth_for_an_if():
    exercise = get("causal-mask")
    right, wrong, idle = (
        exercise.check(exercise.reference),
        exercise.check(lambda n: torch.ones(n, n)),
        exercise.check(),
    )
    assert [bool(r) for r in (right, wrong, idle)] == [True, False, False]
    assert str(right).startswith("causal-mask: passed") and repr(right) == str(right)
    assert str(wrong).startswith("causal-mask: not yet") and str(idle).startswith(
        "causal-mask: not attempted"
    )
    assert all(isinstance(r, CheckResult) and r.exercise == "causal-mask" for r in (right, wrong, idle))


@every
def test_the_same_candidate_gets_the_same_words_and_panel_each_time(id):
    for candidate in [
        _stub(id),
        get(id).reference,
        *[m.candidates[0] for m in answer(get(id).task).mistakes[:2]],
    ]:
        torch.manual_seed(torch.seed() % 1000)
        first, second = get(id).check(candidate), get(id).check(candidate)
        assert first == second and first._repr_html_() == second._repr_html_() and str(first) == str(second)
        assert not re.search(r"0x[0-9a-f]{6}|/tmp|/home|\.py\b", first.message)


# ----------------------------------------------------------------------------------------------------------- panels


def _luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one, other):
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("tone", TONES)
def test_a_panels_text_stands_out_from_its_ground_in_light_and_dark(tone):
    for back, fore, edge in TONES[tone]:
        assert _contrast(back, fore) >= 7 and _contrast(back, edge) >= 3


@every
def test_a_panel_is_readable_without_colour_script_or_style_sheet(id):
    exercise = get(id)
    wrong = exercise.check(answer(exercise.task).mistakes[0].candidates[0])
    things = [
        exercise.check(_stub(id)),
        exercise.check(exercise.reference),
        wrong,
        exercise.hint(),
        exercise.solution(),
    ]
    words = ["not attempted", "passed", "not yet", "hint 1 of", "right answer"]
    for thing, word in zip(things, words, strict=True):
        html = thing._repr_html_()
        page = BeautifulSoup(html, "html.parser")
        assert not page.find_all(["script", "style", "link", "img", "iframe"]) and "http" not in html
        assert word in page.get_text() and id in page.get_text()
        assert not [tag for tag in page.find_all(True) if any(name.startswith("on") for name in tag.attrs)]
        for tag in page.find_all(["code", "pre"]):  # a theme's own colours must not show through
            assert "color:inherit" in tag["style"] and "background:none" in tag["style"]
        assert all("white-space:pre-wrap" in tag["style"] for tag in page.find_all("pre"))


def test_a_panel_shows_a_candidates_text_as_text():
    def candidate(n):
        raise ValueError("<script>alert(1)</script> `x`")

    html = get("causal-mask").check(candidate)._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_a_note_is_a_text_that_shows_itself():
    note = Note("one\n\ntwo", "title")
    assert note == "one\n\ntwo" and repr(note) == str(note) and "title" in note._repr_html_()


def test_a_panel_keeps_an_indented_block_with_its_lines():
    page = BeautifulSoup(
        get("causal-mask").check(lambda n: torch.ones(n, n).bool())._repr_html_(), "html.parser"
    )
    assert "expected mask =\n[[1, 0, 0],\n [1, 1, 0],\n [1, 1, 1]]" in page.find("pre").get_text()


# ------------------------------------------------------------------------------ observations are plain, and enough


def _plain(value):
    """As it would travel: JSON beside arrays, no pickle."""
    arrays = {}

    def strip(item):
        if isinstance(item, np.ndarray):
            arrays[f"a{len(arrays)}"] = item
            return {"array": f"a{len(arrays) - 1}"}
        if isinstance(item, dict):
            return {k: strip(v) for k, v in item.items()}
        return [strip(v) for v in item] if isinstance(item, list | tuple) else item

    return json.loads(json.dumps(strip(dataclasses.asdict(value)))), arrays


def _back(kind, data, arrays):
    if data is None:
        return None
    fields = dict(data)
    for name, value in fields.items():
        if isinstance(value, dict) and "array" in value:
            fields[name] = arrays[value["array"]]
        elif name == "items":
            fields[name] = tuple(_back(Seen, item, arrays) for item in value)
        elif name == "observations":
            fields[name] = [_back(Observation, item, arrays) for item in value]
        elif name in ("result", "again"):
            fields[name] = _back(Seen, value, arrays)
        elif name == "gradients" and value is not None:
            fields[name] = {k: _back(Seen, v, arrays) for k, v in value.items()}
        elif name in ("fault", "gradient_fault"):
            fields[name] = _back(Fault, value, arrays)
        elif isinstance(value, list):
            fields[name] = tuple(value)
    return kind(**fields)


@every
def test_what_was_observed_travels_as_json_and_arrays_and_is_judged_the_same(id):
    exercise = get(id)
    for candidate in (
        exercise.reference,
        answer(exercise.task).mistakes[0].candidates[0],
        _stub(id),
        None,
        3,
    ):
        report = observe(exercise.task, candidate, seed=5)
        again = _back(Report, *_plain(report))
        assert judge(exercise.task, again, seed=5) == judge(exercise.task, report, seed=5)


def test_a_candidate_is_observed_where_neither_judge_nor_solutions_are():
    code = """
import sys
for name in ("judge", "chapter1_answers", "panel_"):
    sys.modules["attn_course.exercises." + name] = None
sys.modules["attn_course.transformer"] = None
import torch
from attn_course.exercises import get
from attn_course.exercises.runner import observe
report = observe(get("causal-mask").task, lambda n: torch.ones(n, n).bool().tril(), seed=3)
print([o.result.dtype for o in report.observations])
"""
    assert _run(code) == str(["bool"] * 5)


def test_observations_that_are_missing_or_of_another_exercise_earn_nothing():
    one, other = get("causal-mask"), get("padding-mask")
    report = observe(one.task, one.reference)
    assert judge(other.task, report).passed is False
    for cut in (report.observations[:-1], [], report.observations[:1] * 5, report.observations[::-1]):
        assert judge(one.task, Report("function", observations=cut)).passed is False


def test_inputs_are_the_same_for_the_same_seed_and_others_for_another():
    for task in (exercise.task for exercise in catalog()):
        for case in task.cases:
            one, two = make_inputs(case, 1), make_inputs(case, 1)
            tensors = [n for n, v in one.items() if isinstance(v, torch.Tensor)]
            assert all(torch.equal(one[n], two[n]) for n in tensors)
    case = next(c for c in get("scaled-dot-product").task.cases if c.name == "gradients")
    assert not torch.equal(make_inputs(case, 1)["q"], make_inputs(case, 2)["q"])


def test_the_masks_that_a_check_gives_leave_every_query_a_key_except_to_masked_softmax():
    for id in ("scaled-dot-product", "multi-head-attention"):
        for case in get(id).task.cases:
            for seed in range(20):
                mask = make_inputs(case, seed).get("mask")
                assert mask is None or (mask != 0).any(-1).all()


def test_only_merge_heads_is_called_with_what_is_not_contiguous():
    for exercise in catalog():
        for case in exercise.task.cases:
            values = make_inputs(case, 0).values()
            if exercise.id != "merge-heads":
                assert all(v.is_contiguous() for v in values if isinstance(v, torch.Tensor)), exercise.id


def test_the_weights_that_a_check_gives_are_distributions_and_above_zero_where_gradients_are_asked():
    for id in ("attention-entropy", "attention-distance"):
        for case in get(id).task.cases:
            for seed in range(20):
                weights = make_inputs(case, seed)["weights"]
                assert torch.allclose(weights.sum(-1), weights.new_ones(())) and (weights >= 0).all()
                assert not case.gradients or (weights > 0).all()


def test_the_sizes_that_a_check_gives_are_possible_ones():
    for seed in range(20):
        for case in get("attention-flops").task.cases:
            assert make_inputs(case, seed)["d_model"] % 8 == 0  # of 8 heads, and of fewer
        for case in get("cbam-flops").task.cases:
            sizes = {"reduction": 16, "kernel_size": 7} | make_inputs(case, seed)
            assert sizes["channels"] % sizes["reduction"] == 0 and sizes["kernel_size"] % 2 == 1
            assert "kernel_size" not in make_inputs(case, seed) or "reduction" in make_inputs(case, seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_another_order_of_summation_is_within_the_tolerance(dtype):
    generator = torch.Generator().manual_seed(0)
    for terms in (3, 17, 101):
        numbers = torch.randn(200, terms, generator=generator).to(dtype)
        exact = numbers.double().sum(-1)
        forward, backward = torch.zeros(200, dtype=dtype), torch.zeros(200, dtype=dtype)
        for i in range(terms):
            forward, backward = forward + numbers[:, i], backward + numbers[:, terms - 1 - i]
        allowed = tolerance(str(dtype).removeprefix("torch."), terms, exact.numpy())
        assert (forward.double() - backward.double()).abs().max() <= allowed
        assert (forward.double() - exact).abs().max() <= allowed


# --------------------------------------------------------------- what later chapters ask of the same machinery


def _task(stub, cases, returns=("result",), **more):
    return Task("toy", 99, "Toy", "Toy.", stub, returns, tuple(cases), **more)


def _judged(monkeypatch, task, solution, candidate, mistakes=()):
    from attn_course.exercises import judge as module

    toy = Answer("toy", solution, "", ("",), tuple(mistakes))
    monkeypatch.setattr(module, "answer", lambda _: toy)
    module._expected.cache_clear()
    return judge(task, observe(task, candidate))


def test_ints_and_floats_are_judged_by_type_and_value(monkeypatch):
    task = _task(
        "def f(a, b=2):\n    ...\n",
        [Case("small", lambda g: {"a": 3}), Case("both", lambda g: {"a": 3, "b": 5})],
    )
    right = lambda a, b=2: a * b  # noqa: E731
    wrong = Mistake("sum", "It adds.", lambda a, b=2: a + b)
    assert _judged(monkeypatch, task, right, right, [wrong]).passed is True
    assert _judged(monkeypatch, task, right, lambda x, y=2: y * x).passed is True
    assert _judged(monkeypatch, task, right, lambda a, b=2: b + a, [wrong]).diagnosis == "sum"
    assert _judged(monkeypatch, task, right, lambda a, b=2: float(a * b)).diagnosis == "wrong-type"
    verdict = _judged(monkeypatch, task, right, lambda a, b=2: 7)
    assert "returned 7; expected 6" in verdict.message and "a = 3" in verdict.message
    task = _task("def f(a):\n    ...\n", [Case("third", lambda g: {"a": 3})])
    assert _judged(monkeypatch, task, lambda a: 1 / a, lambda a: 2 / a / 2).passed is True
    assert _judged(monkeypatch, task, lambda a: 1 / a, lambda a: 0.33).diagnosis == "wrong-value"


def test_an_error_can_be_the_right_answer(monkeypatch):
    task = _task("def f(a):\n    ...\n", [Case("fine", lambda g: {"a": 2}), Case("odd", lambda g: {"a": 3})])

    def right(a, kind=ValueError):
        if a % 2:
            raise kind("odd")
        return a

    class Own(ValueError):
        pass

    assert _judged(monkeypatch, task, right, right).passed is True
    assert _judged(monkeypatch, task, right, lambda a: right(a, Own)).passed is True
    assert _judged(monkeypatch, task, right, lambda a: right(a, TypeError)).diagnosis == "wrong-error"
    assert _judged(monkeypatch, task, right, lambda a: a).diagnosis == "no-error"


def test_a_dtype_among_the_arguments_is_named():
    for expected in ("dtype = torch.float32", "batch = 1"):
        assert expected in get("score-memory").check(lambda *sizes: 5).message


def test_a_float_in_place_of_an_int_is_told_of_the_other_division(monkeypatch):
    task = _task("def f(a):\n    ...\n", [Case("four", lambda g: {"a": 4})])
    assert "`//`" in _judged(monkeypatch, task, lambda a: a // 2, lambda a: a / 4).message
    assert "`//`" not in _judged(monkeypatch, task, lambda a: a // 2, lambda a: str(a)).message


def test_numbers_that_would_all_be_rounded_to_zero_are_shown_in_full():
    nearly = get("attention-entropy").check(lambda w: -(w * (w + 1e-8).log()).sum(-1)).message
    assert "-1.e-08" in nearly and "expected entropy =\n    [0., 0.]" in nearly


class _Clock:
    def __init__(self):
        self.now, self.calls = 0.0, 0

    def __call__(self):
        return self.now

    def work(self):
        self.now += 0.25
        self.calls += 1


def test_functions_and_clocks_can_be_arguments_and_what_was_done_with_them_observed(monkeypatch):
    def act(candidate, inputs, leaves):
        clock = inputs["clock"]
        return candidate(clock.work, clock, 3), clock.calls

    task = _task("def f(fn, clock, repeats):\n    ...\n", [Case("clock", lambda g: {"clock": _Clock()})],
                 ("seconds", "calls"), act=act)  # fmt: skip

    def right(fn, clock, repeats):
        times = []
        for _ in range(repeats):
            start = clock()
            fn()
            times.append(clock() - start)
        return sum(times) / repeats

    assert _judged(monkeypatch, task, right, right).passed is True
    assert _judged(monkeypatch, task, right, lambda fn, clock, repeats: 0.25).passed is False


def test_memory_is_observed_by_its_peak_and_its_largest_storage():
    def quadratic(x):
        return (x[:, None] * x[None]).sum(-1)

    def linear(x):
        return x * x.sum()

    seen = {}
    for n in (32, 64):
        task = _task("def f(x):\n    ...\n", [Case("n", lambda g, n=n: {"x": torch.ones(n)}, memory=True)])
        for candidate in (quadratic, linear):
            seen[candidate.__name__, n] = observe(task, candidate).observations[0].memory
    assert (
        seen["quadratic", 64]["largest_elements"] == 64 * 64 == 4 * seen["quadratic", 32]["largest_elements"]
    )
    assert seen["quadratic", 64]["peak_bytes"] >= 3.5 * seen["quadratic", 32]["peak_bytes"]
    assert seen["linear", 64]["largest_elements"] == 64
    assert seen["linear", 64]["peak_bytes"] <= 2.2 * seen["linear", 32]["peak_bytes"]


def _whole_table(x):
    return (x[:, None] * x[None]).sum(-1)


def _rows_in_a_list(x):
    rows = [x * number for number in x]
    return torch.stack([row.sum() for row in rows])


@pytest.mark.parametrize(
    ("candidate", "words"),
    [(_whole_table, "tensor held 4,096 numbers"), (_rows_in_a_list, "tensors together")],
)
def test_too_much_memory_is_told_whether_in_one_tensor_or_in_many(monkeypatch, candidate, words):
    n = 64
    case = Case(
        "n", lambda g: {"x": torch.ones(n)}, memory=True, most_elements=n * n, most_bytes=4 * n * n, terms=n
    )
    task = _task("def f(x):\n    ...\n", [case])
    right = lambda x: x * x.sum()  # noqa: E731
    assert _judged(monkeypatch, task, right, right).passed is True
    verdict = _judged(monkeypatch, task, right, candidate)
    assert verdict.diagnosis == "too-much-memory" and words in verdict.message


def test_a_number_that_was_observed_and_not_returned_is_told_by_its_name(monkeypatch):
    def act(candidate, inputs, leaves):
        return inputs["a"] + 1, candidate(inputs["a"])

    names = ("the number of calls", "result")
    task = _task("def f(a):\n    ...\n", [Case("three", lambda g: {"a": 3})], names, act=act)
    verdict = _judged(monkeypatch, task, lambda a: 2 * a, lambda a: a)
    assert "It returned 3; expected 6" in verdict.message
    task = dataclasses.replace(task, returns=names[::-1])
    verdict = _judged(monkeypatch, task, lambda a: 2 * a, lambda a: a)
    assert "The number of calls is 3; expected 6" in verdict.message


def test_a_chapter_is_found_by_the_name_of_its_file():
    from attn_course.exercises import core

    tasks = [task for module in (exercises.chapter1,) for task in module.TASKS]
    assert [e.task for e in core._exercises().values()][: len(tasks)] == tasks


# --------------------------------------------------------------- chapter 6: growth of memory and work, told apart


def _band(rows, keys, window=3):
    return (rows[:, None] - keys).abs() <= window


def _growth_of(attend):
    return chapter6.growth(attend, chapter6._Growing(5), 3)


def _blocks_of(size, whole_mask=False):
    def attend(q, k, v, window):
        at, parts = torch.arange(len(q)), []
        mask = _band(at, at) if whole_mask else None
        for rows in at.split(size):
            reach = at[max(0, int(rows[0]) - window) : int(rows[-1]) + 1 + window]
            near = _band(rows, reach) if mask is None else mask[rows][:, reach]
            parts.append((q[rows] @ k[reach].T).masked_fill(~near, -torch.inf).softmax(-1) @ v[reach])
        return torch.cat(parts)

    return attend


def _all_keys(size):
    def attend(q, k, v, window):
        at = torch.arange(len(q))
        parts = [(q[i] @ k.T).masked_fill(~_band(i, at), -torch.inf).softmax(-1) @ v for i in at.split(size)]
        return torch.cat(parts)

    return attend


@pytest.mark.parametrize("size", [1, 7, 64, 200, 660, 1000, 2048])
def test_blocks_of_any_size_grow_with_the_length_alone(size):
    assert _growth_of(_blocks_of(size)) == chapter6.growth_words(False, False)


def test_what_grows_with_the_square_of_the_length_is_told_by_memory_and_by_work():
    assert _growth_of(_all_keys(10**6)) == chapter6.growth_words(True, True)
    assert _growth_of(_all_keys(16)) == chapter6.growth_words(False, True)
    assert _growth_of(_blocks_of(16, whole_mask=True)) == chapter6.growth_words(True, False)
    assert len({chapter6.growth_words(*pair) for pair in itertools.product((False, True), repeat=2)}) == 4


def test_the_work_of_a_product_is_its_multiply_adds_and_the_kernel_of_torch_counts_like_its_products():
    q, k, v = torch.ones(3, 5, 7), torch.ones(3, 11, 7), torch.ones(3, 11, 7)
    for product in (lambda: q @ k.mT @ v, lambda: F.scaled_dot_product_attention(q, k, v)):
        with chapter6._Meter({}) as meter:
            product()
        assert 3 * 5 * 11 * 14 <= meter.work <= 3 * 5 * 11 * 14 + 3 * (5 * 11 + 5 * 7 + 11 * 7)
    with chapter6._Meter({}) as meter:
        mask = torch.cat([torch.zeros(100, 100), torch.ones(100, 100)]) > 0
    assert meter.work == 0 and mask.any()


def test_the_meters_peak_is_that_of_what_lives_at_one_time():
    inputs = {"x": torch.ones(1000)}
    with chapter6._Meter(inputs) as meter:
        for _ in range(5):
            one = inputs["x"] + 1
            two = one * 2  # one, two, and one of the round before
            del one
        del two
    assert 8000 <= meter.peak_bytes <= 1.1 * 12000


def test_the_growth_that_is_known_of_a_wrong_answer_is_the_measured_one():
    mistakes = answer(get("window-attention").task).mistakes
    for mistake in mistakes:
        candidate = mistake.candidates[-1]
        assert chapter6.KNOWN_GROWTH[candidate] == _growth_of(candidate), mistake.id
    assert len(chapter6.KNOWN_GROWTH) == sum(len(mistake.candidates) for mistake in mistakes)


def test_beside_a_submission_no_growth_is_known_in_advance():
    code = "from attn_course.exercises import chapter6, get; get('window-attention'); print(chapter6.KNOWN_GROWTH)"
    assert _run(code) == "{}"


def test_a_learner_is_shown_the_candidates_from_which_to_select():
    message = get("select-mechanism").check(lambda candidates, budget: "this one").message
    assert "{'window': (30.0, 4), 'full': (7.0, 5), 'linear': (20.0, 60)}" in message
