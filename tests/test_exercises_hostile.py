"""Candidates that misbehave get a clear message and leave nothing behind."""

import contextlib
import functools
import os
import random
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from exercises.chapter1_bank import Composed, Given, plain
from torch import nn

from attn_course.exercises import get
from attn_course.exercises.guard import Limits
from attn_course.exercises.judge import judge
from attn_course.exercises.runner import observe, see

ATTENTION = get("scaled-dot-product")
BRIEF = Limits(idle_s=0.5, total_s=5.0)


@pytest.fixture(autouse=True, scope="module")
def _finalisers_may_be_stopped():
    """A stop may arrive inside a finaliser, where Python can only report it; pytest's report would be stopped too."""
    usual, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    yield
    sys.unraisablehook = usual


def check(candidate, exercise=ATTENTION, limits=BRIEF):
    """As ``exercise.check``, with less patience."""
    return judge(exercise.task, observe(exercise.task, candidate, limits=limits))


def _state():
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "random": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "anomaly": torch.is_anomaly_enabled(),
        "print": dict(vars(torch._tensor_str.PRINT_OPTS)),
        "numpy print": np.get_printoptions(),
        "streams": (sys.stdout, sys.stderr, sys.stdin),
        "recursion": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
        "filters": list(warnings.filters),
        "environment": {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
        "directory": os.getcwd(),
        "patched": (torch.softmax, nn.functional.softmax, nn.Linear.forward, __builtins__["isinstance"]),
        "modules": (
            nn.Softmax.forward,
            nn.LayerNorm.forward,
            nn.Dropout.forward,
            torch.autograd.grad,
            torch.linalg.norm,
            random.random,
            np.random.rand,
            time.time,
            time.monotonic,
            time.sleep,
        ),
        "tensor": {n: v for n, v in vars(torch.Tensor).items() if callable(v)},
        "stack": threading.stack_size(),
    }


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    torch.manual_seed(3)
    before, threads = _state(), threading.active_count()
    yield
    after = _state()
    assert {k for k in before if before[k] != after[k]} == set()
    assert threading.active_count() <= threads + 1  # one may still sit in native code


def seeds(*args):
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    return plain(*args)


def sets_dtype(*args):
    torch.set_default_dtype(torch.float64)
    return plain(*args)


def sets_grad_mode(*args):
    torch.set_grad_enabled(False)
    return plain(*args)


def sets_device(*args):
    result = plain(*args)
    torch.set_default_device("meta")
    return result


def patches_softmax(*args):
    result = plain(*args)
    torch.softmax = lambda *a, **k: None
    nn.functional.softmax = torch.sigmoid
    torch.Tensor.surprise = lambda self: 1
    return result


def patches_builtins(*args):
    result = plain(*args)
    import builtins

    builtins.isinstance = lambda *a: True
    return result


def fiddles(*args):
    """Nothing that a function may not do to get its result, but nothing that should outlive it either."""
    torch.use_deterministic_algorithms(True)
    torch.set_printoptions(precision=1)
    np.set_printoptions(precision=1)
    torch.set_num_threads(1 + torch.get_num_threads())
    torch.autograd.set_detect_anomaly(True)
    warnings.simplefilter("error")
    sys.setrecursionlimit(sys.getrecursionlimit() + 10)
    os.environ["LEFT_BEHIND"] = "1"
    os.chdir("/")
    sys.stdout = None
    return plain(*args)


def patches_modules(*args):
    nn.Softmax.forward = nn.LayerNorm.forward = nn.Dropout.forward = lambda self, x: x
    torch.autograd.grad = torch.linalg.norm = lambda *a, **k: None
    random.random = np.random.rand = time.time = lambda *a: 4
    return plain(*args)


def patches_in_the_backward_pass(*args):
    output, weights = plain(*args)
    if output.requires_grad:
        output.register_hook(lambda grad: setattr(torch, "softmax", None))
    return output, weights


@pytest.mark.parametrize("candidate", [seeds, fiddles])
def test_a_right_answer_that_seeds_or_sets_something_passes_and_it_is_put_back(candidate):
    assert check(candidate).passed is True


@pytest.mark.parametrize(
    ("candidate", "diagnosis", "word"),
    [
        (sets_dtype, "changes-default-dtype", "default dtype"),
        (sets_grad_mode, "changes-grad-mode", "grad mode"),
        (sets_device, "changes-default-device", "default device"),
        (patches_softmax, "patches-library", "softmax"),
        (patches_builtins, "patches-library", "builtins.isinstance"),
        (
            patches_modules,
            "patches-library",
            "`Softmax.forward`, `numpy.random.rand`, `random.random`, `time.time`",
        ),
        (patches_in_the_backward_pass, "patches-library", "torch.softmax"),
    ],
)
def test_a_global_change_is_named_and_undone(candidate, diagnosis, word):
    verdict = check(candidate)
    assert (verdict.passed, verdict.diagnosis) == (False, diagnosis) and word in verdict.message


def test_the_callers_own_settings_survive_and_do_not_disturb_a_right_answer():
    torch.set_default_dtype(torch.float64)
    try:
        with (
            torch.no_grad(),
            torch.inference_mode(),
            torch.device("meta"),
            torch.autocast("cpu", torch.bfloat16),
        ):
            assert ATTENTION.check(plain).passed is True
            assert get("multi-head-attention").check(Composed).passed is True
            assert torch.get_default_dtype() == torch.float64
            assert torch.is_inference_mode_enabled() and torch.is_autocast_enabled("cpu")
    finally:
        torch.set_default_dtype(torch.float32)


# ------------------------------------------------------------------------------------------- what comes back


class Yes:
    """Agrees with everything."""

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = None

    def __bool__(self):
        return True

    def __len__(self):
        return 2

    def __iter__(self):
        return iter((self, self))

    def __getitem__(self, key):
        return self

    def __getattr__(self, name):
        return self

    def __call__(self, *args, **kwargs):
        return self


class YesTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return True


class Liar:
    @property
    def __class__(self):
        return torch.Tensor


def _nan(*args):
    output, weights = plain(*args)
    return output * float("nan"), weights


RETURNS = {
    "returns-none": lambda *a: [plain(*a), None][1],
    "wrong-type": lambda *a: tuple(x.tolist() for x in plain(*a)),
    "wrong-shape": lambda *a: tuple(x.unsqueeze(0) for x in plain(*a)),
    "wrong-dtype": lambda *a: tuple(x.double() for x in plain(*a)),
    "wrong-device": lambda *a: tuple(x.to("meta") for x in plain(*a)),
    "not-a-number": _nan,
}


@pytest.mark.parametrize("diagnosis", RETURNS)
def test_what_comes_back_is_named_when_it_is_of_the_wrong_kind(diagnosis):
    verdict = check(RETURNS[diagnosis])
    assert (verdict.passed, verdict.diagnosis) == (False, diagnosis)
    assert "q (2, 4), k (3, 4), v (3, 1)" in verdict.message


@pytest.mark.parametrize(
    "candidate",
    [
        Yes(),
        lambda *a: Yes(),
        lambda *a: (Yes(), Yes()),
        lambda *a: tuple(x.as_subclass(YesTensor) * 0 for x in plain(*a)),
        lambda *a: tuple(torch.zeros_like(x).as_subclass(YesTensor) for x in plain(*a)),
        lambda *a: (Liar(), Liar()),
        lambda *a: np.zeros(3),
        lambda *a: True,
        lambda *a: iter(plain(*a)),
        lambda *a: {"output": 1},
        lambda *a: (torch.zeros(1).expand(10**6, 10**6), None),
        lambda *a: (torch.eye(3).to_sparse(), torch.eye(3)),
        lambda *a: NotImplemented,
        lambda q, k, v, mask=None: q.shape[-1],
        int,
        nn.Linear,
        print,
    ],
)
def test_an_answer_of_no_use_is_wrong_whatever_it_says_of_itself(candidate):
    verdict = check(candidate)
    assert verdict.passed is False and verdict.diagnosis and len(verdict.message) > 20


def _holding_itself(kind, times):
    value = kind()
    value.extend([value] * times) if kind is list else value.update({i: value for i in range(times)})
    return value


@pytest.mark.parametrize("kind", [list, dict])
@pytest.mark.parametrize("times", [1, 1000])
def test_a_result_that_holds_itself_is_wrong_and_takes_no_time(kind, times):
    start = time.monotonic()
    verdict = check(lambda *a: _holding_itself(kind, times))
    assert (verdict.passed, verdict.diagnosis) == (False, "wrong-type")
    assert check(lambda *a: (plain(*a)[0], _holding_itself(kind, times))).diagnosis == "wrong-type"
    assert time.monotonic() - start < 5  # a thousand to the fourth power would take hours


def test_no_more_is_kept_of_a_result_than_there_is_room_for():
    def count(seen):
        return 1 + sum(count(item) for item in seen.items)

    assert count(see(_holding_itself(list, 1000))) == 1001 == count(see([[0] * 50] * 50))
    assert count(see([torch.zeros(2), [1, 2], {"a": 3}])) == 7


def test_a_value_is_written_down_without_asking_it_anything():
    seen = see(torch.arange(3.0).as_subclass(YesTensor))
    assert seen.kind == "tensor" and seen.data.tolist() == [0, 1, 2]
    assert see(Yes()).kind == see(Liar()).kind == "other"


def test_a_tensor_subclass_with_the_right_numbers_is_right():
    class Named(torch.Tensor):
        pass

    assert check(lambda *a: tuple(x.as_subclass(Named) for x in plain(*a))).passed is True


@pytest.mark.parametrize(
    "thing", [3, "text", torch.zeros(3), [plain], object(), plain(*[torch.zeros(2, 3)] * 3)]
)
def test_what_cannot_be_called_is_said_to_be_no_function(thing):
    verdict = check(thing)
    assert (verdict.passed, verdict.diagnosis) == (False, "not-callable")
    assert "scaled_dot_product_attention" in verdict.message


def test_a_result_that_is_right_only_by_chance_is_told_to_be_random():
    def lucky(*args):
        output, weights = plain(*args)
        return output * (1 if torch.initial_seed() == 0 else 2), weights

    verdict = check(lucky)
    assert (verdict.passed, verdict.diagnosis) == (False, "dropout-left-on")
    assert "Two calls with the same input" in verdict.message


async def asynchronous(q, k, v, mask=None):
    return plain(q, k, v, mask)


def generator(q, k, v, mask=None):
    yield plain(q, k, v, mask)


@pytest.mark.parametrize(("candidate", "word"), [(asynchronous, "coroutine"), (generator, "generator")])
def test_coroutines_and_generators_are_named(candidate, word):
    assert word in check(candidate).message


# ------------------------------------------------------------------------------------------------ in place, autograd


def in_place(q, k, v, mask=None):
    q /= q.shape[-1] ** 0.5
    weights = (q @ k.mT if mask is None else (q @ k.mT).masked_fill(mask == 0, -1e9)).softmax(-1)
    return weights @ v, weights


def fills_the_mask(q, k, v, mask=None):
    result = plain(q, k, v, mask)
    if mask is not None:
        mask.fill_(0)
    return result


@pytest.mark.parametrize(("candidate", "name"), [(in_place, "`q`"), (fills_the_mask, "`mask`")])
def test_a_change_of_an_input_is_named(candidate, name):
    verdict = check(candidate)
    assert (verdict.passed, verdict.diagnosis) == (False, "changes-input") and name in verdict.message


def numpy_round_trip(*args):
    return tuple(torch.from_numpy(x.detach().numpy()) for x in plain(*args))


def without_grad(*args):
    with torch.no_grad():
        return plain(*args)


def half_cut(q, k, v, mask=None):
    return plain(q.detach(), k, v, mask)


def of_data(q, k, v, mask=None):
    return plain(q, k.data, v, mask)


@pytest.mark.parametrize("candidate", [numpy_round_trip, without_grad, half_cut, of_data])
def test_a_cut_gradient_is_named(candidate):
    verdict = check(candidate)
    assert (verdict.passed, verdict.diagnosis) == (False, "cuts-gradient"), verdict.message
    assert "gradient" in verdict.message


def test_numpy_in_the_middle_is_told_as_a_cut_gradient():
    verdict = check(lambda *a: tuple(torch.from_numpy(x.numpy()) for x in plain(*a)))
    assert verdict.passed is False and "numpy" in verdict.message


def test_a_sum_into_what_autograd_needs_is_told_as_broken_autograd():
    def block(x, attention, feed_forward, norm1, norm2):
        x = x.clone()
        x += attention(norm1(x))
        x += feed_forward(norm2(x))
        return x

    verdict = check(block, get("pre-norm-block"))
    assert (verdict.passed, verdict.diagnosis) == (False, "breaks-autograd")


def test_parameters_that_get_no_gradient_are_told():
    class Cut(Composed):
        def forward(self, *args):
            with torch.no_grad():
                self.w_q.weight.mul_(1)
            self.w_v.weight.requires_grad_(False)
            return super().forward(*args)

    assert check(Cut, get("multi-head-attention")).diagnosis == "cuts-gradient"


class Leaves(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, error):
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise ctx.error


def leaves_by_a_hook(error):
    def candidate(*args):
        output, weights = plain(*args)
        if output.requires_grad:
            output.register_hook(lambda grad: sys.exit(1))
        return output, weights

    return candidate


def leaves_by_a_function(error):
    def candidate(*args):
        output, weights = plain(*args)
        return Leaves.apply(output, error), weights

    return candidate


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.parametrize("form", [leaves_by_a_hook, leaves_by_a_function])
def test_who_exits_in_the_backward_pass_stays_inside_the_check(form, error):
    verdict = check(form(error))
    assert (verdict.passed, verdict.diagnosis) == (False, "breaks-autograd")
    assert type(error).__name__ in verdict.message or form is leaves_by_a_hook


class ExitsInTorch(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise SystemExit


class ExitsInNumpy(np.ndarray):
    @property
    def size(self):
        raise SystemExit


@pytest.mark.parametrize(
    "result",
    [torch.zeros(2, 1).as_subclass(ExitsInTorch), np.zeros(3).view(ExitsInNumpy)],
    ids=["torch", "numpy"],
)
def test_a_result_that_exits_when_it_is_looked_at_stays_inside_the_check(result):
    assert check(lambda *a: result).passed is False
    assert check(lambda *a: (result, plain(*a)[1])).passed is False


# ------------------------------------------------------------------------------------------------------ no end


def endless(*args):
    while True:
        pass


def endless_and_stubborn(*args):
    while True:
        try:
            while True:
                pass
        except Exception:
            pass


def endless_and_very_stubborn(*args):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


def sleeps(*args):
    time.sleep(4)


def stops_the_clock(*args):
    time.monotonic = lambda: 0.0
    time.sleep = lambda seconds: None
    while True:
        pass


def recurses(*args):
    return recurses(*args)


def recurses_through_modules(*args):
    class Again(nn.Module):
        def forward(self, x):
            return self(x)

    return Again()(args[0])


def prints(*args):
    while True:
        print("again and again")


def prints_and_catches(*args):
    while True:
        with contextlib.suppress(BaseException):
            print("again and again" * 1000)


def hoards(*args):
    kept = []
    while True:
        kept.append(torch.ones(1_000_000))


@pytest.mark.parametrize(
    "candidate", [endless, endless_and_stubborn, endless_and_very_stubborn, sleeps, stops_the_clock]
)
def test_no_progress_is_given_up(candidate):
    start = time.monotonic()
    verdict = check(candidate)
    assert (verdict.passed, verdict.diagnosis) == (False, "no-progress")
    assert time.monotonic() - start < 4  # far below the limit of ten, with half a second's patience
    deadline = time.monotonic() + 5
    while candidate is not sleeps and any(thread.name == "check" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "the thread that was given up is still running"
        time.sleep(0.05)


def test_the_patience_of_a_real_check_is_below_ten_seconds():
    assert Limits().idle_s + 1 < 10


def test_a_loop_that_never_ends_later_on_is_given_up_too():
    calls = []

    def sometimes(*args):
        calls.append(1)
        return endless() if len(calls) == 5 else plain(*args)

    verdict = check(sometimes)
    assert verdict.diagnosis == "no-progress" and "(5, 7, 3)" not in verdict.message


@pytest.mark.parametrize("candidate", [recurses, recurses_through_modules])
def test_endless_recursion_is_named(candidate):
    verdict = check(candidate)
    assert (verdict.passed, verdict.diagnosis) == (False, "endless-recursion")


@pytest.mark.parametrize("candidate", [prints, prints_and_catches])
def test_endless_printing_is_stopped_and_little_of_it_kept(candidate, capsys):
    verdict = check(candidate, limits=Limits(idle_s=5))
    assert (verdict.passed, verdict.diagnosis) == (False, "prints-without-end")
    assert len(verdict.message) < 1500 and capsys.readouterr() == ("", "")


def test_memory_without_end_is_stopped():
    verdict = check(hoards, limits=Limits(idle_s=5, grown_bytes=200 << 20))
    assert (verdict.passed, verdict.diagnosis) == (False, "out-of-memory")


def test_what_a_function_printed_is_shown_with_its_failure():
    def talks(*args):
        print("scores look odd")
        raise ValueError("no")

    verdict = check(talks)
    assert "scores look odd" in verdict.message


# ---------------------------------------------------------------------------------------------------- exceptions


class Rude(Exception):
    def __str__(self):
        raise RuntimeError("not even that")


def _raiser(error):
    def candidate(*args):
        raise error

    return candidate


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (ValueError("odd"), "ValueError: odd"),
        (SystemExit(0), "exit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (Rude(), "Rude"),
        (NameError("name 'mth' is not defined"), "misspelt"),
    ],
)
def test_whatever_is_raised_becomes_a_message(error, word):
    verdict = check(_raiser(error))
    assert (verdict.passed, verdict.diagnosis) == (False, "raises") and word in verdict.message


def test_the_line_that_raised_is_shown():
    def candidate(q, k, v, mask=None):
        return q @ k, v

    assert "`return q @ k, v`" in check(candidate).message


def test_an_operation_that_torch_lacks_is_not_taken_for_the_stub():
    def asks_too_much(*args):
        return torch.ones(2, 2, dtype=torch.bool).softmax(-1)

    @functools.wraps(lambda *args: None)  # what it wraps does no work, but it does
    def wrapped(*args):
        return asks_too_much(*args)

    for candidate in (asks_too_much, wrapped):
        verdict = check(candidate)
        assert (verdict.passed, verdict.diagnosis) == (False, "raises")
        assert "dtype" in verdict.message and "still in it" not in verdict.message

    def begun(q, k, v, mask=None):
        q @ k.mT
        raise NotImplementedError("the rest")

    assert "still in it" in check(begun).message


def test_an_error_elsewhere_is_no_reason_to_name_a_mistake_that_fails_otherwise():
    """Only an odd width fails with an error, as it does for many; but nothing that it returns is right."""

    def encode(max_len, d_model):
        table = torch.zeros(max_len, d_model)
        table[:, 1::2] = torch.zeros(max_len, (d_model + 1) // 2)

    assert check(encode, get("sinusoidal-encoding")).diagnosis == "returns-none"


def test_exit_input_and_breakpoint_do_not_reach_the_session():
    verdict = check(lambda *a: exit())
    assert "exit" in verdict.message and "lambda *a: exit()" in verdict.message
    assert "EOFError" in check(lambda *a: input()).message
    assert "breakpoint" in check(lambda *a: breakpoint()).message


def test_an_error_that_names_an_address_is_told_without_it():
    first, second = (check(_raiser(ValueError(f"bad {object()}"))).message for _ in range(2))
    assert first == second and "0x…" in first


def test_a_shape_is_no_address_and_a_long_error_ends_with_a_word():
    shapes = "mat1 and mat2 shapes cannot be multiplied (30x7 and 21x21)"
    assert shapes in check(_raiser(RuntimeError(shapes))).message
    text = check(_raiser(ValueError("another " * 90))).message
    assert "another …." in text and len(text.split("….")[0]) <= 300


def test_a_named_mistake_is_explained_once():
    verdict = check(lambda x: x.view(x.shape[0], x.shape[2], -1), get("merge-heads"))
    assert verdict.diagnosis in ("view-for-transpose", "reshape-for-transpose")
    assert "`view` needs numbers that lie in order" not in verdict.message


def test_a_class_that_lacks_what_the_stub_gives_is_told():
    class Empty(nn.Module):
        def __init__(self, d_model, num_heads):
            super().__init__()

        def forward(self, *args):
            return args

    verdict = check(Empty, get("multi-head-attention"))
    assert verdict.passed is False and "w_q" in verdict.message


def test_an_instance_where_the_class_is_wanted_is_wrong_and_does_not_raise():
    with torch.random.fork_rng():
        instance = Given(6, 2)
    assert check(instance, get("multi-head-attention")).passed is False


# ------------------------------------------------------------------------------------------------------ the user


def test_a_real_interrupt_ends_the_check():
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            ATTENTION.check(endless)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, handler)


def test_a_check_works_in_another_thread_than_the_main_one():
    found = []
    thread = threading.Thread(target=lambda: found.append(ATTENTION.check(plain).passed))
    thread.start()
    thread.join()
    assert found == [True]


def test_other_threads_print_where_they_did_before(capsys):
    stop = threading.Event()

    def talk():
        while not stop.wait(0.01):
            print("elsewhere")

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        check(lambda *a: (time.sleep(0.005), plain(*a))[1])
    finally:
        stop.set()
        thread.join()
    assert "elsewhere" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("candidate", "advice"),
    [
        (lambda x, w1, w2: x.max((2, 3)), "`amax` takes several"),
        (lambda x, w1, w2: x.max(3).max(2), "`amax(dim)`"),
        (lambda x, w1, w2: torch.sigmoid(x.max(3)), "`amax(dim)`"),
        (lambda x, w1, w2: x * None, "is that function written"),
    ],
)
def test_a_slip_that_torch_words_badly_gets_a_word_of_advice(candidate, advice):
    assert advice in get("channel-attention").check(candidate).message
