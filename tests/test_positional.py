import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from attn_course import positional, textbook
from attn_course.positional import (
    LearnedPositionalEncoding,
    PositionalEncoding,
    RotaryEmbedding,
    alibi_bias,
    alibi_slopes,
    apply_rotary,
    convert_rotary_pairing,
    shift_matrix,
    sinusoidal_encoding,
)
from attn_course.transformer import MultiHeadAttention, scaled_dot_product_attention

B, N, D, ODD = 2, 7, 14, 13
H, DK = 3, 10
PAIRINGS = ["neighbours", "halves"]
every_pairing = pytest.mark.parametrize("pairing", PAIRINGS)
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


# --- the usual errors with rotary and ALiBi, in the same way


def check_scores_depend_on_the_offset_alone(form):
    x = torch.randn(DK).expand(N, DK)
    turned = form.apply_rotary(x, torch.arange(N))
    diagonal = (turned @ turned.T).diagonal(2)
    torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)


def check_no_two_positions_collide_in_bfloat16(form):
    x = torch.ones(263, DK, dtype=torch.bfloat16)
    output = form.RotaryEmbedding(DK).bfloat16()(x)
    assert (output[1:] != output[:-1]).any(dim=-1).all()


def check_the_nearest_key_is_favoured_without_a_causal_mask(form):
    assert (form.alibi_bias(8, N).argmax(dim=-1) == torch.arange(N)).all()


USUAL = [
    check_scores_depend_on_the_offset_alone,
    check_no_two_positions_collide_in_bfloat16,
    check_the_nearest_key_is_favoured_without_a_causal_mask,
]


@pytest.mark.parametrize("check", USUAL, ids=lambda check: check.__name__)
def test_the_usual_error_is_not_made_here_and_is_made_in_the_textbook_form(check):
    check(positional)
    with pytest.raises(AssertionError):
        check(textbook)


def test_where_no_trap_is_the_textbook_forms_are_right():
    x = torch.randn(B, H, N, DK)
    torch.testing.assert_close(textbook.RotaryEmbedding(DK)(x), RotaryEmbedding(DK, pairing="halves")(x))
    assert torch.equal(textbook.apply_rotary(x[..., :1, :], torch.zeros(1)), x[..., :1, :])
    later = ~torch.ones(N, N, dtype=torch.bool).tril()
    weights = [f(8, N).masked_fill(later, -torch.inf).softmax(-1) for f in (textbook.alibi_bias, alibi_bias)]
    torch.testing.assert_close(*weights)


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


# --- the table as a function, and the matrix that shifts it


@pytest.mark.parametrize("d_model", [1, 2, ODD, D])
def test_the_function_gives_the_table_of_the_module(d_model):
    table = sinusoidal_encoding(5001, d_model)
    assert table.dtype == torch.float32 and table.shape == (5001, d_model)
    assert torch.equal(table, PositionalEncoding(d_model, max_len=5001).pe[0])
    assert (table.double() - by_formula(5001, d_model)).abs().max() < 1e-7


@pytest.mark.parametrize("k", [0, 1, -1, 11, -11, 64, 5000])
def test_one_matrix_moves_every_position_on(k):
    table = by_formula(5100, D)
    start = torch.tensor([p for p in (0, 1, 13, 31, 64) if p + k >= 0] or [5000])
    moved = table[start] @ shift_matrix(k, D).double().T
    assert (moved - table[start + k]).abs().max() < 1e-6


def test_shifts_add_up_and_moving_back_is_the_transpose():
    def close(a, b):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)

    one, other = shift_matrix(5, D), shift_matrix(-11, D)
    assert one.dtype == torch.float32 and one.shape == (D, D)
    close(one @ other, shift_matrix(-6, D))
    close(one.T, shift_matrix(-5, D))
    close(one @ one.T, torch.eye(D))
    assert torch.equal(shift_matrix(0, D), torch.eye(D))
    assert torch.count_nonzero(one) == 2 * D, "blocks of two by two"


# --- learned positions


def test_learned_vectors_are_added_and_only_the_rows_in_use_learn():
    module, x = LearnedPositionalEncoding(D, 23), torch.randn(B, N, D)
    assert module.state_dict().keys() == {"weight"} and module.weight.shape == (23, D)
    output = module(x)
    assert torch.equal(output, x + module.weight[:N])
    towards = torch.randn(B, N, D)
    (gradient,) = torch.autograd.grad(output, module.weight, towards)
    torch.testing.assert_close(gradient[:N], towards.sum(0))
    assert (gradient[N:] == 0).all()
    assert module(torch.zeros(1, 23, D)).shape == (1, 23, D)


def test_learned_vectors_start_small_and_all_different():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weight = LearnedPositionalEncoding(67, 101).weight
    assert 0.019 < weight.std() < 0.021 and weight.mean().abs() < 1e-3
    assert torch.pdist(weight).min() > 0.1


@pytest.mark.parametrize("module_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_learned_positions_keep_the_dtype_of_the_tokens(dtype, module_dtype):
    module = LearnedPositionalEncoding(ODD, 11).to(module_dtype)
    output = module(torch.zeros(B, N, ODD, dtype=dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output[0], module.weight[:N].detach().to(dtype))


def test_a_learned_table_of_another_length_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        LearnedPositionalEncoding(D, 23).load_state_dict(LearnedPositionalEncoding(D, 11).state_dict())


# --- rotary: the definition


def by_complex_numbers(x, positions, base, pairing):
    """Each pair as one complex number, in Python, multiplied by e^(iθ). `x` is `(n, d_k)`."""
    n, d_k = x.shape
    out = torch.zeros(n, d_k, dtype=torch.float64)
    for row in range(n):
        for i in range(d_k // 2):
            a, b = (2 * i, 2 * i + 1) if pairing == "neighbours" else (i, i + d_k // 2)
            angle = float(positions[row]) * base ** (-2 * i / d_k)
            turned = complex(x[row, a], x[row, b]) * complex(math.cos(angle), math.sin(angle))
            out[row, a], out[row, b] = turned.real, turned.imag
    return out


@every_pairing
@pytest.mark.parametrize("base", [10000.0, 31.0])
def test_rotary_multiplies_pairs_as_complex_numbers(base, pairing):
    x, positions = torch.randn(N, DK, dtype=torch.float64), torch.tensor([0, 1, 5, 3, -2, 64, 5000])
    expected = by_complex_numbers(x, positions, base, pairing)
    torch.testing.assert_close(
        apply_rotary(x, positions, base, pairing=pairing), expected, atol=1e-11, rtol=0
    )
    halfway = positions + 0.5
    torch.testing.assert_close(
        apply_rotary(x, halfway, base, pairing=pairing),
        by_complex_numbers(x, halfway, base, pairing),
        atol=1e-11,
        rtol=0,
    )


def test_rotary_pairs_neighbours_unless_told_otherwise():
    x, positions = torch.randn(H, N, DK), torch.arange(N)
    assert torch.equal(apply_rotary(x, positions), apply_rotary(x, positions, pairing="neighbours"))
    assert not torch.allclose(apply_rotary(x, positions), apply_rotary(x, positions, pairing="halves"))
    assert torch.equal(RotaryEmbedding(DK)(x), apply_rotary(x, positions))


@every_pairing
def test_rotary_keeps_norms_and_position_0_and_scores_depend_on_the_offset_alone(pairing):
    q, k = torch.randn(2, DK, dtype=torch.float64)
    n = 31
    positions = torch.arange(n)
    turned_q = apply_rotary(q.expand(n, DK), positions, pairing=pairing)
    turned_k = apply_rotary(k.expand(n, DK), positions, pairing=pairing)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(n), atol=1e-12, rtol=0)
    assert torch.equal(turned_q[0], q)
    scores = turned_q @ turned_k.T
    for offset in range(-n + 1, n):
        diagonal = scores.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-12, rtol=0)
    assert not torch.allclose(scores[0], scores[0, :1]), "and they do depend on it"


@every_pairing
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary_is_accurate_at_position_5000_and_rounds_once_in_every_dtype(dtype, pairing):
    n = 5001
    x = torch.randn(n, DK, dtype=torch.float64).to(dtype)
    rows = torch.tensor([0, 1, 1009, 4999, 5000])
    expected = by_complex_numbers(x[rows].double(), rows, 10000.0, pairing)
    half_a_step = torch.finfo(dtype).eps / 2 * expected.abs() if dtype.itemsize < 4 else 0.0
    bound = half_a_step + (1e-11 if dtype == torch.float64 else 2e-6)
    for output in (
        apply_rotary(x, torch.arange(n), pairing=pairing),
        RotaryEmbedding(DK, pairing=pairing)(x),
    ):
        assert output.dtype == dtype
        assert ((output[rows].double() - expected).abs() <= bound).all()


@every_pairing
def test_rotary_passes_gradients_and_writes_into_nothing(pairing):
    x = torch.randn(2, N, DK, dtype=torch.float64, requires_grad=True)
    positions = torch.arange(N)
    before = x.detach().clone(), positions.clone()
    module = RotaryEmbedding(DK, pairing=pairing)
    assert torch.autograd.gradcheck(lambda x: apply_rotary(x, positions, pairing=pairing), x)
    assert torch.autograd.gradcheck(lambda x: module(x, offset=3), x)
    assert torch.equal(x, before[0]) and torch.equal(positions, before[1])


# --- rotary: the module and its cache


@every_pairing
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_module_does_what_the_definition_does_at_every_offset(dtype, pairing):
    module = RotaryEmbedding(DK, base=31.0, pairing=pairing)
    for n, offset in ((N, 0), (1, 11), (N, 5), (31, 2), (0, 3), (N, 1009), (2, 0)):
        x = torch.randn(B, H, n, DK, dtype=dtype)
        expected = apply_rotary(x, torch.arange(offset, offset + n), 31.0, pairing=pairing)
        torch.testing.assert_close(module(x, offset=offset), expected, atol=0, rtol=0)


def test_the_cache_grows_by_doubling_and_never_shrinks():
    module = RotaryEmbedding(DK)
    assert module.cache.shape == (2, 0, DK // 2)
    sizes = []
    for position in range(1000):
        module(torch.zeros(1, DK), offset=position)
        sizes.append(module.cache.shape[1])
    assert sizes == sorted(sizes) and len(set(sizes)) == 11 and sizes[-1] == 1024
    module(torch.zeros(5000, DK))
    assert module.cache.shape[1] == 5000
    kept = module.cache
    module(torch.zeros(N, DK))
    module.reserve(31)
    assert module.cache is kept
    module.reserve(6007)
    assert module.cache.shape[1] == 6007


def test_the_cache_is_in_no_state_dict_and_a_model_without_it_loads():
    module = RotaryEmbedding(DK)
    module(torch.zeros(N, DK))
    assert module.state_dict() == {} and not list(module.parameters())
    model = nn.Sequential(nn.Linear(DK, DK), module)
    model.load_state_dict(nn.Sequential(nn.Linear(DK, DK)).state_dict(), strict=True)


def test_the_cache_is_exact_whatever_is_done_to_the_module():
    n = 5001
    x = torch.randn(n, DK)
    module = RotaryEmbedding(DK)
    expected = module(x)
    for do in (
        nn.Module.half,
        nn.Module.bfloat16,
        nn.Module.double,
        nn.Module.float,
        lambda module: module.to_empty(device="cpu"),
        lambda module: module.to("meta").to_empty(device="cpu"),
        copy.deepcopy,
        lambda module: pickle.loads(pickle.dumps(module)),
    ):
        done = do(module)
        assert done.cache.shape == (2, n, DK // 2)
        kept = done.cache
        assert torch.equal(done(x), expected)
        assert done.cache is kept or do is nn.Module.double, "float32 tokens use the cache as it is"


def test_the_module_follows_its_input_to_another_device():
    module = RotaryEmbedding(DK)
    assert module(torch.zeros(N, DK, device="meta")).device.type == "meta"
    x = torch.randn(N, DK)
    assert torch.equal(module(x), apply_rotary(x, torch.arange(N)))
    with torch.device("meta"):
        made = RotaryEmbedding(DK)
        assert made(torch.zeros(N, DK)).device.type == "meta"
    assert torch.equal(made(x), module(x))
    assert apply_rotary(x.to("meta"), torch.arange(N, device="meta")).device.type == "meta"


def test_what_an_inference_pass_leaves_in_the_cache_serves_training():
    module = RotaryEmbedding(DK)
    with torch.inference_mode():
        module(torch.zeros(N, DK))
    x = torch.randn(N, DK, requires_grad=True)
    assert torch.autograd.grad(module(x).sum(), x)[0].isfinite().all()


def test_what_fake_tensors_and_transforms_pass_through_stays_out_of_the_cache():
    module, x = RotaryEmbedding(DK), torch.randn(B, N, DK)
    with FakeTensorMode():
        module(torch.zeros(N, DK))
    gradients = torch.func.vmap(torch.func.grad(lambda x: module(x).square().sum()))(x)
    torch.testing.assert_close(gradients, 2 * x)
    assert torch.equal(module(x), apply_rotary(x, torch.arange(N)))
    with FakeTensorMode():
        assert module(torch.zeros(N, DK)).shape == (N, DK)


@every_pairing
def test_a_key_and_value_cache_gives_what_the_whole_pass_gives(pairing):
    n, d_k = 13, DK
    q, k, v = (torch.randn(B, H, n, d_k, dtype=torch.float64) for _ in range(3))
    module = RotaryEmbedding(d_k, pairing=pairing)
    whole, _ = scaled_dot_product_attention(module(q), module(k), v, is_causal=True)
    fresh = RotaryEmbedding(d_k, pairing=pairing)
    keys = q.new_empty(B, H, 0, d_k)
    for start, end in ((0, 5), (5, 6), (6, 7), (7, 11), (11, n)):
        keys = torch.cat([keys, fresh(k[..., start:end, :], offset=start)], dim=-2)
        turned = fresh(q[..., start:end, :], offset=start)
        step, _ = scaled_dot_product_attention(turned, keys, v[..., :end, :], is_causal=True)
        torch.testing.assert_close(step, whole[..., start:end, :], atol=1e-12, rtol=0)


@every_pairing
def test_compiles_into_one_graph_with_a_cache_that_is_long_enough_and_without(pairing):
    module = RotaryEmbedding(DK, pairing=pairing)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph.code)
        return graph.forward

    compiled = torch.compile(module, fullgraph=True, backend=backend, dynamic=False)
    for reserved, n, offset in ((0, N, 0), (31, N, 5), (31, 11, 20), (31, 11, 25)):
        module.reserve(reserved)
        x = torch.randn(B, H, n, DK)
        expected = apply_rotary(x, torch.arange(offset, offset + n), pairing=pairing)
        torch.testing.assert_close(compiled(x, offset=offset), expected, atol=1e-6, rtol=0)
        assert module.cache.shape[1] == reserved, "a graph does not change the module"
        assert (".sin()" in graphs[-1]) == (offset + n > reserved), "and uses the cache where it reaches"


@pytest.mark.parametrize(("length", "strict"), [(0, False), (67, False), (67, True), (5000, False)])
def test_exports_for_any_length_however_long_the_cache_is(length, strict):
    module = RotaryEmbedding(DK)
    module.reserve(length)
    dim = torch.export.Dim("length", min=2, max=4096)
    x = torch.randn(B, H, N, DK)
    program = torch.export.export(module, (x,), dynamic_shapes=({2: dim},), strict=strict)
    longer = torch.randn(B, H, 1009, DK)
    for given in (x, longer):
        expected = apply_rotary(given, torch.arange(given.shape[-2]))
        torch.testing.assert_close(program.module()(given), expected, atol=1e-6, rtol=0)
    assert module.cache.shape[1] == length


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_turning_in_float32(dtype):
    module, x = RotaryEmbedding(DK), torch.randn(B, H, N, DK)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(module(x), apply_rotary(x, torch.arange(N)))
        assert module(x.to(dtype)).dtype == dtype


# --- rotary: from one pairing to the other


@pytest.mark.parametrize(("source", "target"), [PAIRINGS, PAIRINGS[::-1]])
def test_converted_projections_give_the_scores_of_the_other_pairing(source, target):
    attention = MultiHeadAttention(H * DK, H, dropout=0.0).double()
    x = torch.randn(B, N, H * DK, dtype=torch.float64)
    converted = copy.deepcopy(attention)
    for projection in (converted.w_q, converted.w_k):
        for parameter in (projection.weight, projection.bias):
            parameter.data = convert_rotary_pairing(parameter.data, H, source=source, target=target)
    expected, weights = attention(x, x, x, rotary=RotaryEmbedding(DK, pairing=source))
    output, same = converted(x, x, x, rotary=RotaryEmbedding(DK, pairing=target))
    torch.testing.assert_close(output, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(same, weights, atol=1e-12, rtol=0)
    unconverted, _ = attention(x, x, x, rotary=RotaryEmbedding(DK, pairing=target))
    assert not torch.allclose(unconverted, expected)
    assert not torch.equal(converted.w_q.weight, attention.w_q.weight)


def test_there_and_back_is_the_identity_and_the_result_is_a_copy():
    rows = torch.arange(H * DK)
    there = convert_rotary_pairing(rows, H, source="neighbours", target="halves")
    assert there[:DK].tolist() == [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    assert there[DK : 2 * DK].tolist() == [10, 12, 14, 16, 18, 11, 13, 15, 17, 19]
    assert torch.equal(convert_rotary_pairing(there, H, source="halves", target="neighbours"), rows)
    same = convert_rotary_pairing(rows, H, source="halves", target="halves")
    assert torch.equal(same, rows) and same.data_ptr() != rows.data_ptr()


# --- ALiBi


def test_slopes_of_a_power_of_two_are_a_geometric_row_that_ends_at_2_to_the_minus_8():
    for h in (1, 2, 4, 8, 16, 32):
        slopes = alibi_slopes(h)
        assert slopes.dtype == torch.float32
        expected = [2.0 ** (-8 * i / h) for i in range(1, h + 1)]
        torch.testing.assert_close(slopes.double(), torch.tensor(expected, dtype=torch.float64))
        assert slopes[-1] == 2**-8
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]


def test_slopes_of_another_number_of_heads_are_the_papers():
    # As `get_slopes` of the paper's repository gives them: those of 8 heads, then of 16 the 1st, 3rd, 5th, 7th.
    expected = [2.0**-i for i in range(1, 9)] + [2.0 ** -(i / 2) for i in (1, 3, 5, 7)]
    torch.testing.assert_close(alibi_slopes(12), torch.tensor(expected))
    assert alibi_slopes(3).tolist() == [2.0**-4, 2.0**-8, 2.0**-2]
    for h in range(1, 40):
        slopes = alibi_slopes(h)
        assert slopes.shape == (h,) and len(set(slopes.tolist())) == h
        assert ((slopes > 0) & (slopes < 1)).all()


@pytest.mark.parametrize("h", [1, 3, 8])
def test_the_bias_is_minus_slope_times_distance(h):
    bias, slopes = alibi_bias(h, N), alibi_slopes(h)
    assert bias.dtype == torch.float32 and bias.shape == (h, N, N)
    for i in range(h):
        expected = [[-slopes[i].item() * abs(query - key) for key in range(N)] for query in range(N)]
        torch.testing.assert_close(bias[i], torch.tensor(expected), atol=0, rtol=1e-6)
    assert not torch.signbit(bias.diagonal(dim1=1, dim2=2)).any(), "no minus zero to be printed"


def test_fewer_queries_are_the_last_ones_of_the_bias():
    whole = alibi_bias(H, 11)
    for n_q in (0, 1, 5, 11):
        assert torch.equal(alibi_bias(H, n_q, 11), whole[:, 11 - n_q :])
    assert alibi_bias(H, 13, 11).shape == (H, 13, 11)
    assert torch.equal(alibi_bias(H, 13, 11)[:, 2:], whole)
    assert alibi_bias(H, 5, 11, device="meta").device.type == "meta"
    assert alibi_slopes(H, device="meta").device.type == "meta"


# --- bad input, and the rest


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: PositionalEncoding(0), "at least 1, got 0 and 5000"),
        (lambda: PositionalEncoding(D, 0), "got 14 and 0"),
        (lambda: PositionalEncoding(D)(torch.zeros(N, D)), r"d_model = 14.*\(7, 14\)"),
        (lambda: PositionalEncoding(D)(torch.zeros(B, N, 1)), r"d_model = 14.*\(2, 7, 1\)"),
        (lambda: sinusoidal_encoding(0, D), "at least 1, got 14 and 0"),
        (lambda: sinusoidal_encoding(N, 0), "at least 1, got 0 and 7"),
        (lambda: shift_matrix(1, ODD), "d_model must be even and at least 2, got 13"),
        (lambda: shift_matrix(1, 0), "at least 2, got 0"),
        (lambda: LearnedPositionalEncoding(D, 0), "got 14 and 0"),
        (lambda: LearnedPositionalEncoding(0, N), "got 0 and 7"),
        (lambda: LearnedPositionalEncoding(D, N)(torch.zeros(N, D)), r"d_model = 14.*\(7, 14\)"),
        (lambda: LearnedPositionalEncoding(D, N)(torch.zeros(B, N, 1)), r"d_model = 14.*\(2, 7, 1\)"),
        (
            lambda: LearnedPositionalEncoding(D, 11)(torch.zeros(B, 12, D)),
            r"sequence of 12 positions.*max_len = 11.*no vector for the later ones.*max_len=12",
        ),
        (lambda: RotaryEmbedding(ODD), "d_k must be even and at least 2.*got 13"),
        (lambda: RotaryEmbedding(0), "got 0"),
        (lambda: RotaryEmbedding(DK, base=0.0), "base must be above 0, got 0.0"),
        (lambda: RotaryEmbedding(DK, base=float("nan")), "base must be above 0, got nan"),
        (lambda: RotaryEmbedding(DK, pairing="pairs"), "one of neighbours, halves, got 'pairs'"),
        (lambda: RotaryEmbedding(DK)(torch.zeros(N, D)), r"d_k = 10\), got \(7, 14\)"),
        (lambda: RotaryEmbedding(DK)(torch.zeros(DK)), r"\(…, n, d_k\), got \(10,\)"),
        (lambda: RotaryEmbedding(DK)(torch.zeros(N, DK).long()), "floating point, got torch.int64"),
        (lambda: RotaryEmbedding(DK)(torch.zeros(N, DK), offset=-1), "offset must be at least 0, got -1"),
        (lambda: apply_rotary(torch.zeros(N, ODD), torch.arange(N)), "d_k must be even.*got 13"),
        (lambda: apply_rotary(torch.zeros(N, DK), torch.arange(11)), r"\(n,\) = \(7,\).*got \(11,\)"),
        (lambda: apply_rotary(torch.zeros(N, DK), torch.zeros(B, N)), r"\(n,\) = \(7,\).*got \(2, 7\)"),
        (lambda: apply_rotary(torch.zeros(DK), torch.arange(N)), r"\(…, n, d_k\), got \(10,\)"),
        (lambda: apply_rotary(torch.zeros(N, DK), torch.arange(N), -2.0), "above 0, got -2.0"),
        (lambda: apply_rotary(torch.zeros(N, DK), torch.arange(N), pairing=1), "one of .*got 1"),
        (lambda: apply_rotary(torch.zeros(N, DK).bool(), torch.arange(N)), "floating point, got torch.bool"),
        (lambda: convert(torch.zeros(DK, D), 0), r"num_heads = 0 heads.*got \(10, 14\)"),
        (lambda: convert(torch.zeros(DK, D), 2), r"num_heads = 2 heads of an even width, got \(10, 14\)"),
        (lambda: convert(torch.tensor(1.0), 1), r"got \(\)"),
        (lambda: convert(torch.zeros(DK), 1, source="half"), "one of neighbours, halves, got 'half'"),
        (lambda: alibi_slopes(0), "num_heads must be at least 1, got 0"),
        (lambda: alibi_bias(0, N), "num_heads must be at least 1, got 0"),
        (lambda: alibi_bias(H, -1), "at least 0, got -1 and -1"),
        (lambda: alibi_bias(H, N, -2), "at least 0, got 7 and -2"),
    ],
)
def test_bad_input_is_a_value_error_with_the_numbers(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def convert(weight, num_heads, *, source="neighbours", target="halves"):
    return convert_rotary_pairing(weight, num_heads, source=source, target=target)


def test_tables_and_biases_are_made_on_the_default_device():
    with torch.device("meta"):
        for made in (sinusoidal_encoding(N, D), shift_matrix(3, D), alibi_slopes(H), alibi_bias(H, N)):
            assert made.device.type == "meta"
        assert LearnedPositionalEncoding(D, N)(torch.zeros(B, N, D)).device.type == "meta"


@pytest.mark.parametrize("cls", [PositionalEncoding, LearnedPositionalEncoding])
def test_compiles_exports_pickles_and_copies(cls):
    module = cls(ODD, max_len=31)
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
