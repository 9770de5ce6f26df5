import copy
import math
import pickle

import pytest
import torch
from torch import nn

from attn_course import textbook
from attn_course.positional import PositionalEncoding

B, N, D, ODD = 2, 7, 14, 13
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def by_formula(n, d_model):
    """The table, entry by entry, in Python's own float64."""
    return torch.tensor(
        [
            [
                (math.sin if column % 2 == 0 else math.cos)(
                    position / 10000 ** ((column - column % 2) / d_model)
                )
                for column in range(d_model)
            ]
            for position in range(n)
        ],
        dtype=torch.float64,
    )


def added(module, n, dtype=torch.float32):
    """What the module adds to tokens of zeros."""
    return module(torch.zeros(1, n, module.d_model, dtype=dtype))[0]


# --- the document's errors: each check passes on ours and fails on the textbook form


def check_odd_widths_work(cls):
    assert cls(ODD).pe.shape == (1, 5000, ODD)


def check_too_long_a_sequence_is_told_the_numbers(cls):
    with pytest.raises(ValueError, match=r"sequence of 12 positions.*max_len = 11"):
        cls(D, max_len=11)(torch.zeros(B, 12, D))


def check_bfloat16_stays_bfloat16(cls):
    assert cls(D)(torch.zeros(B, N, D, dtype=torch.bfloat16)).dtype == torch.bfloat16


def check_position_5000_is_accurate(cls):
    n = 5001
    output = cls(D, max_len=n)(torch.zeros(1, n, D))[0]
    assert (output.double() - by_formula(n, D)).abs().max() < 1e-5


def check_a_table_of_another_length_loads(cls):
    module = cls(D, max_len=23)
    module.load_state_dict(cls(D, max_len=11).state_dict(), strict=True)
    assert module(torch.zeros(1, 23, D)).shape == (1, 23, D)


ERRORS = [
    check_odd_widths_work,
    check_too_long_a_sequence_is_told_the_numbers,
    check_bfloat16_stays_bfloat16,
    check_position_5000_is_accurate,
    check_a_table_of_another_length_loads,
]


@pytest.mark.parametrize("check", ERRORS, ids=lambda check: check.__name__)
def test_the_documents_error_is_mended(check):
    check(PositionalEncoding)


@pytest.mark.parametrize("check", ERRORS, ids=lambda check: check.__name__)
def test_the_check_of_the_error_fails_on_the_textbook_form(check):
    with pytest.raises((AssertionError, RuntimeError)):
        check(textbook.PositionalEncoding)


# --- the numbers


@pytest.mark.parametrize("d_model", [1, 2, ODD, D])
def test_even_columns_are_sines_and_odd_columns_cosines(d_model):
    assert (
        added(PositionalEncoding(d_model, max_len=31), 31).double() - by_formula(31, d_model)
    ).abs().max() < 1e-7


def test_the_first_positions_are_the_documents_and_its_state_dict_loads():
    theirs, ours = textbook.PositionalEncoding(D, max_len=31), PositionalEncoding(D, max_len=31)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert ours.pe.shape == theirs.pe.shape and ours.pe.dtype == theirs.pe.dtype
    x = torch.randn(B, 29, D)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=0)
    theirs.load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_table_stays_accurate_whatever_the_dtype_of_the_module(dtype):
    n = 5001
    expected = by_formula(n, D)
    module = PositionalEncoding(D, max_len=n).to(dtype)
    bound = 1e-12 if dtype == torch.float64 else 1e-6
    assert (added(module, n, torch.float64) - expected).abs().max() < bound
    assert (added(module.float(), n) - expected).abs().max() < 1e-6
    assert (added(module.double(), n, torch.float64) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("module_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_output_keeps_the_dtype_of_the_tokens_and_is_rounded_once(dtype, module_dtype):
    module = PositionalEncoding(D, max_len=N).to(module_dtype)
    x = torch.randn(B, N, D, dtype=dtype)
    output = module(x)
    assert output.dtype == dtype
    exact = x.double() + by_formula(N, D)
    half_a_step = torch.finfo(dtype).eps / 2 * exact.abs() if dtype.itemsize < 4 else 0.0
    assert ((output.double() - exact).abs() <= half_a_step + 1e-6).all()


def test_gradients_pass_unchanged_and_the_argument_is_not_written_into():
    x = torch.randn(B, N, D, requires_grad=True)
    before = x.detach().clone()
    towards = torch.randn(B, N, D)
    (gradient,) = torch.autograd.grad(PositionalEncoding(D)(x), x, towards)
    assert torch.equal(gradient, towards) and torch.equal(x, before)


# --- loading


def test_a_loaded_table_is_left_aside_and_max_len_is_kept():
    module = PositionalEncoding(D, max_len=11)
    own = module.pe.clone()
    module.load_state_dict({"pe": torch.full((1, 23, D), 7.0)}, strict=True)
    assert torch.equal(module.pe, own) and module.max_len == 11


def test_a_table_of_another_width_is_refused_with_the_numbers():
    model = nn.Sequential(nn.Linear(3, D), PositionalEncoding(D, max_len=11))
    state = model.state_dict() | {"1.pe": torch.zeros(1, 11, D + 1)}
    with pytest.raises(RuntimeError, match=rf"1.pe.*\(1, 11, {D + 1}\).*d_model = {D}"):
        model.load_state_dict(state)
    assert state["1.pe"].shape == (1, 11, D + 1)


def test_strict_loading_still_asks_for_the_table():
    with pytest.raises(RuntimeError, match="Missing"):
        PositionalEncoding(D).load_state_dict({}, strict=True)


def test_a_model_made_on_the_meta_device_gets_a_right_table():
    with torch.device("meta"):
        module = PositionalEncoding(D, max_len=N)
        assert module(torch.zeros(B, N, D)).device.type == "meta"
    state = PositionalEncoding(D, max_len=23).state_dict()
    assigned, emptied = copy.deepcopy(module), copy.deepcopy(module).to_empty(device="cpu")
    assigned.load_state_dict(state, strict=True, assign=True)
    for made in (assigned, emptied):
        assert (added(made, N).double() - by_formula(N, D)).abs().max() < 1e-7


# --- bad input, and the rest


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: PositionalEncoding(0), "at least 1, got 0 and 5000"),
        (lambda: PositionalEncoding(D, 0), "got 14 and 0"),
        (lambda: PositionalEncoding(D)(torch.zeros(N, D)), r"d_model = 14.*\(7, 14\)"),
        (lambda: PositionalEncoding(D)(torch.zeros(B, N, 1)), r"d_model = 14.*\(2, 7, 1\)"),
    ],
)
def test_bad_input_is_a_value_error_with_the_numbers(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_compiles_exports_pickles_and_copies():
    module = PositionalEncoding(ODD, max_len=31)
    x = torch.randn(B, N, ODD)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    length = torch.export.Dim("length", min=2, max=31)
    program = torch.export.export(module, (x,), dynamic_shapes=({1: length},))
    longer = torch.randn(B, 31, ODD)
    for twin in (compiled, program.module(), pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(twin(x), module(x))
    assert torch.equal(program.module()(longer), module(longer))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_sum_as_it_is(dtype):
    module, x = PositionalEncoding(D), torch.randn(B, N, D)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(module(x), module(x.clone()))
        assert module(x).dtype == torch.float32
