"""Right answers pass, in many hands and over many seeds; wrong ones are told which mistake they are."""

import functools
import zlib

import numpy as np
import pytest
from exercises import (
    chapter1_bank,
    chapter2_bank,
    chapter3_bank,
    chapter4_bank,
    chapter5_bank,
    chapter6_bank,
    chapter7_bank,
)

from attn_course import exercises
from attn_course.exercises import judge, runner
from attn_course.exercises.guard import Job, Limits
from attn_course.exercises.task import make_inputs

# To reject a right answer is the worst fault: it is looked at with all seeds that mean other inputs.
SEEDS = range(10)
# A chapter adds its own.
BANKS = (
    chapter1_bank,
    chapter2_bank,
    chapter3_bank,
    chapter4_bank,
    chapter5_bank,
    chapter6_bank,
    chapter7_bank,
)
RIGHT = {id: hands for bank in BANKS for id, hands in bank.RIGHT.items()}
WRONG = {id: hands for bank in BANKS for id, hands in bank.WRONG.items()}
IDS = [exercise.id for exercise in exercises.catalog()]
SLOW = {  # looked at with two seeds
    "compiled", "loops", "pairs", "loop written into", "boolean", "blocks of one", "head after head",
}  # fmt: skip
ONLY_IN_GRADIENTS = {"empty-row-nan-gradient", "gamma-zero-shortcut", "gamma-without-gradient"}  # mistakes


def _cases(bank):
    return [pytest.param(id, name, id=f"{id}/{name}") for id, hands in bank.items() for name in hands]


@functools.cache
def _seeds_of_right(id):
    """All of them; two where every seed means the same inputs, and only a candidate's own random numbers differ."""
    cases = exercises.get(id).task.cases
    drawn = any(str(make_inputs(c, 0)) != str(make_inputs(c, seed)) for c in cases for seed in SEEDS)
    return SEEDS if drawn else SEEDS[:2]


def _seeds_of_wrong(name):
    """The seed of a learner's own check, and one of the others: which, differs from answer to answer."""
    return 0, 1 + zlib.crc32(name.encode()) % (len(SEEDS) - 1)


def _mistakes(id):
    return judge.answer(exercises.get(id).task).mistakes


def _own(id, candidate, seed):
    """Observations of the course's own code, without its being watched: quick."""
    task, seen = exercises.get(id).task, []

    def work(job, watch):
        seen.extend(runner.observe_own(task, candidate, task.cases, seed))

    Job(work, Limits()).run()
    return seen


def test_every_exercise_has_its_banks_of_right_and_wrong_answers():
    assert set(RIGHT) == set(WRONG) == set(IDS)
    for id in IDS:
        assert len(RIGHT[id]) >= 6 and len(WRONG[id]) >= 6, id
        assert len(_mistakes(id)) >= 6, id


@pytest.mark.parametrize(("id", "name"), _cases(RIGHT))
def test_a_right_answer_passes_whatever_its_hand_and_the_seed(id, name):
    for seed in SEEDS[:2] if name in SLOW else _seeds_of_right(id):
        result = exercises.get(id).check(RIGHT[id][name], seed=seed)
        assert result.passed is True, f"seed {seed}: {result}"


@pytest.mark.parametrize("id", IDS)
def test_the_reference_passes_over_many_seeds(id):
    exercise = exercises.get(id)
    for seed in range(100, 110):
        verdict = judge.judge(exercise.task, runner.observe(exercise.task, exercise.reference, seed), seed)
        assert verdict.passed is True, f"seed {seed}: {verdict.message}"


@pytest.mark.parametrize(("id", "name"), _cases(WRONG))
def test_a_wrong_answer_as_learners_write_it_is_told_its_mistake(id, name):
    diagnosis = name.split(":")[0]  # what follows tells two hands with one mistake apart
    for seed in _seeds_of_wrong(name):
        result = exercises.get(id).check(WRONG[id][name], seed=seed)
        assert (result.passed, result.diagnosis) == (False, diagnosis), f"seed {seed}: {result}"


@pytest.mark.parametrize("id", IDS)
def test_every_known_mistake_is_rejected_with_a_diagnosis_of_its_own(id):
    exercise = exercises.get(id)
    names = [mistake.id for mistake in _mistakes(id)]
    assert len(names) == len(set(names))
    for mistake in _mistakes(id):
        for candidate in mistake.candidates:
            result = exercise.check(candidate)
            assert (result.passed, result.diagnosis) == (False, mistake.id), result
            assert mistake.says in result.message


@pytest.mark.parametrize("id", IDS)
def test_a_known_mistake_is_really_one_and_no_two_of_them_are_the_same(id):
    task = exercises.get(id).task
    for seed in (0, 5):
        right = judge._expected(task, seed)
        forms = [(m.id, _own(id, c, seed)) for m in _mistakes(id) for c in m.candidates]
        for name, seen in forms:
            assert not all(judge.same(o, right[o.case], c) for o, c in zip(seen, task.cases, strict=True)), (
                name
            )
        for i, (name, seen) in enumerate(forms):
            for other, also in forms[:i]:
                pairs = zip(seen, also, task.cases, strict=True)
                assert name == other or not all(judge.same(a, b, c) for a, b, c in pairs), (name, other)


def test_two_mistakes_at_once_are_told_by_the_one_that_shows_first():
    def attend(q, k, v, mask=None):
        weights = (q @ k.mT).softmax(-1)  # no scale
        if mask is not None:
            weights = weights * (mask != 0)  # and masked too late
        return weights @ v, weights

    assert exercises.get("scaled-dot-product").check(attend).diagnosis == "no-scale"


def test_an_unknown_mistake_is_described_and_not_given_a_wrong_name():
    def attend(q, k, v, mask=None):
        scores = q @ k.mT * 0.7
        weights = (scores if mask is None else scores.masked_fill(mask == 0, -1e9)).softmax(-1)
        return weights @ v, weights

    result = exercises.get("scaled-dot-product").check(attend)
    assert result.passed is False and result.diagnosis == "wrong-value"
    assert "expected" in result.message and "your output" in result.message


@pytest.mark.parametrize("id", IDS)
def test_the_tolerance_is_far_below_what_a_mistake_changes(id):
    """A tenth of every mistake's effect would still be told from rounding."""
    task = exercises.get(id).task
    right = judge._expected(task, 0)
    for mistake in _mistakes(id):
        gaps = []
        for seen, case in zip(_own(id, mistake.candidates[0], 0), task.cases, strict=True):
            expected = right[case.name]
            if seen.result is None or judge.same(seen, expected, case):
                continue
            gaps.append(_gap(seen.result, expected.result, case))
        assert mistake.id in ONLY_IN_GRADIENTS or not gaps or max(gaps) > 10, mistake.id


def _gap(seen, expected, case):
    """How many tolerances two results are apart; infinitely many where kind or shape differ, or an error is due."""
    if expected is None or seen.kind != expected.kind or len(seen.items) != len(expected.items):
        return np.inf
    if seen.items:
        return max(_gap(a, b, case) for a, b in zip(seen.items, expected.items, strict=True))
    if seen.kind == "float":
        return abs(seen.value - expected.value) / (1e-6 * max(abs(expected.value), 1e-12))
    if seen.kind != "tensor":
        return 0.0 if seen.value == expected.value else np.inf
    if seen.shape != expected.shape or seen.dtype != expected.dtype or expected.data.dtype.kind != "f":
        return np.inf
    gap = np.abs(seen.data.astype(float) - expected.data.astype(float)).max()
    gap = np.inf if np.isnan(gap) else gap
    if case.exact_zeros and (seen.data[expected.data == 0] != 0).any():
        return np.inf
    return gap / judge.allowed(case, expected.dtype, expected.data)


@functools.cache
def _sizes(id):
    """All sizes of the first tensor's cases, as tuples."""
    task = exercises.get(id).task
    return [[tuple(v.shape) for v in make_inputs(c, 0).values() if hasattr(v, "shape")] for c in task.cases]


@pytest.mark.parametrize(
    "id",
    [
        "scaled-dot-product", "masked-softmax", "split-heads", "merge-heads", "pre-norm-block",
        "channel-attention", "spatial-attention", "cbam", "self-attention-2d", "attention-entropy",
        "to-tokens", "to-feature-map", "patchify", "hybrid-forward",
    ],
)  # fmt: skip
def test_sizes_differ_in_some_calls_and_coincide_in_others(id):
    firsts = [shapes[0] for shapes in _sizes(id)]
    assert any(len(set(shape)) == len(shape) > 2 for shape in firsts)
    assert any((len(set(shape)) == 1 and len(shape) > 2) or shape[-1] in shape[:-1] for shape in firsts)
