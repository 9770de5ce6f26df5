"""Chapter 4, what may stand beside a learner's code: prompts, stubs and cases."""

from collections.abc import Callable
from typing import Any

import torch

from .task import Case, Inputs, Task

# ------------------------------------------------------------------------------------------- making inputs


def _given(**sizes: Any) -> Callable[[torch.Generator], Inputs]:
    return lambda g: dict(sizes)


def _pick(g: torch.Generator, *choices: int) -> int:
    return choices[int(torch.randint(len(choices), (), generator=g))]


# -------------------------------------------------------------------------------------- attention-flops

# A right answer may run attention, of 8 heads say, under torch's own counter: no size is too large for that.


def _flops(batch: int, n_q: int, n_k: int, d_model: int) -> Callable[[torch.Generator], Inputs]:
    return _given(batch=batch, n_q=n_q, n_k=n_k, d_model=d_model)


def _any_attention(g: torch.Generator) -> Inputs:
    return {
        "batch": _pick(g, 2, 3, 5),
        "n_q": _pick(g, 7, 11, 13),
        "n_k": _pick(g, 17, 19, 23),
        "d_model": 8 * _pick(g, 4, 5, 7),
    }


_ATTENTION_FLOPS = Task(
    id="attention-flops",
    chapter=4,
    title="Count every multiply-add",
    prompt="""\
Write `attention_flops(batch, n_q, n_k, d_model)`: how many FLOPs one forward pass of multi-head attention takes.

Six matrix products make it up: four projections (`w_q`, `w_k`, `w_v` and `w_o`, each `d_model × d_model`), the scores,
and the weighted sum of the values. The queries are made from `n_q` vectors, the keys and values from `n_k`.

- One multiply-add is 2 FLOPs. Only matrix products count: no softmax, no scale, no biases.
- The number of heads `h` is not among the arguments. Each head is `d_model / h` wide.
- All sizes are Python integers; return one.
""",
    stub='''\
def attention_flops(batch, n_q, n_k, d_model):
    """FLOPs of one forward pass of multi-head attention, its four projections included.

    returns an int: 2 for each multiply-add
    """
    ...  # your code here
''',
    returns=("flops",),
    cases=(
        Case("small", _flops(1, 2, 3, 8)),
        Case("self-attention", _flops(1, 5, 5, 8)),
        Case("a batch", _flops(3, 2, 2, 8)),
        Case("different sizes", _flops(2, 3, 5, 16)),
        Case("fewer keys than queries", _flops(3, 11, 2, 24)),
        Case("one query", _flops(2, 1, 13, 24)),
        Case("one key", _flops(5, 7, 1, 40)),
        Case("one of everything", _flops(1, 1, 1, 8)),
        Case("any sizes", _any_attention),
        Case("other sizes", _any_attention),
        Case("long", _flops(1, 128, 256, 32)),
        Case("long and wide", _flops(1, 512, 512, 512)),
    ),
)

# ------------------------------------------------------------------------------------- crossover-length


def _width(d_model: int) -> Callable[[torch.Generator], Inputs]:
    return _given(d_model=d_model)


_CROSSOVER_LENGTH = Task(
    id="crossover-length",
    chapter=4,
    title="Where the square overtakes",
    prompt="""\
Write `crossover_length(d_model)`: the length `n` at which the quadratic part of self-attention costs as much as the
rest.

The quadratic part is made of the two products with an `n × n` matrix: the scores, and the weighted sum of the values.
The rest is the four projections. In a shorter sequence the projections take more FLOPs; in a longer one the two score
products do; at this length both take the same.

- It is the multi-head self-attention of `attention_flops`, so `n_q = n_k = n`, counted in the same way.
- `d_model` is a Python integer; return one.
""",
    stub='''\
def crossover_length(d_model):
    """The length at which the two score products cost as much as the four projections.

    returns an int
    """
    ...  # your code here
''',
    returns=("length",),
    cases=(
        Case("width 8", _width(8)),
        Case("width 6", _width(6)),
        Case("width 7", _width(7)),
        Case("width 1", _width(1)),
        Case("width 64", _width(64)),
        Case("width 100", _width(100)),
        Case("width 512", _width(512)),
        Case("width 768", _width(768)),
        Case("any width", lambda g: {"d_model": _pick(g, 11, 23, 40, 96, 131, 320)}),
    ),
)

# -------------------------------------------------------------------------------------------- cbam-flops


def _map(
    batch: int, channels: int, height: int, width: int, *options: int
) -> Callable[[torch.Generator], Inputs]:
    """``options``: the reduction, and the kernel's size. One alone is the reduction: nothing depends on names."""
    chosen = dict(zip(("reduction", "kernel_size"), options, strict=False))
    return _given(batch=batch, channels=channels, height=height, width=width, **chosen)


def _any_map(g: torch.Generator) -> Inputs:
    reduction = _pick(g, 2, 3, 4)
    return {
        "batch": _pick(g, 2, 3, 5),
        "channels": reduction * _pick(g, 5, 6, 7),
        "height": _pick(g, 11, 13),
        "width": _pick(g, 17, 19),
        "reduction": reduction,
        "kernel_size": _pick(g, 3, 5, 9),
    }


_CBAM_FLOPS = Task(
    id="cbam-flops",
    chapter=4,
    title="What CBAM costs",
    prompt="""\
Write `cbam_flops(batch, channels, height, width, reduction=16, kernel_size=7)`: how many FLOPs one forward pass of CBAM
takes for a feature map `(B, C, H, W)`. Two of its parts count:

- the MLP of channel attention: one layer from `C` numbers to `C / reduction`, one layer back. It is used twice for each
  image: on the average-pooled channels and on the max-pooled ones.
- the convolution of spatial attention: from two maps to one, with a `k × k` kernel, `k = kernel_size`, and "same"
  padding. The result is `H × W`, and each of its numbers takes the whole kernel, also where that lies on the padding.

One multiply-add is 2 FLOPs. Pooling, ReLU, sigmoid and the multiplications by the weights do not count, and there are
no biases. `reduction` divides `channels`. All sizes are Python integers; return one.
""",
    stub='''\
def cbam_flops(batch, channels, height, width, reduction=16, kernel_size=7):
    """FLOPs of one forward pass of CBAM: both passes of the shared MLP, and the convolution.

    returns an int: 2 for each multiply-add
    """
    ...  # your code here
''',
    returns=("flops",),
    cases=(
        Case("small", _map(1, 4, 3, 5, 2, 3)),
        Case("as it is by default", _map(1, 64, 7, 11)),
        Case("a batch", _map(3, 8, 5, 2, 4, 3)),
        Case("default kernel", _map(2, 12, 5, 11, 3)),
        Case("reduction 1", _map(2, 5, 7, 3, 1, 5)),
        Case("one hidden number", _map(2, 6, 3, 7, 6, 3)),
        Case("1 × 1 kernel", _map(3, 10, 7, 5, 2, 1)),
        Case("map smaller than the kernel", _map(5, 6, 3, 2, 2, 7)),
        Case("one pixel", _map(2, 8, 1, 1, 2, 3)),
        Case("any sizes", _any_map),
        Case("other sizes", _any_map),
        Case("large", _map(2, 128, 56, 40)),
    ),
)

# ------------------------------------------------------------------------------------------ score-memory


def _scores(
    batch: int, num_heads: int, n_q: int, n_k: int, dtype: torch.dtype
) -> Callable[[torch.Generator], Inputs]:
    return _given(batch=batch, num_heads=num_heads, n_q=n_q, n_k=n_k, dtype=dtype)


def _any_scores(g: torch.Generator) -> Inputs:
    return {
        "batch": _pick(g, 2, 3, 5),
        "num_heads": _pick(g, 4, 7, 11),
        "n_q": _pick(g, 13, 17),
        "n_k": _pick(g, 19, 23, 29),
        "dtype": (torch.float64, torch.float32, torch.float16, torch.bfloat16)[_pick(g, 0, 1, 2, 3)],
    }


_SCORE_MEMORY = Task(
    id="score-memory",
    chapter=4,
    title="How large is the map?",
    prompt="""\
Write `score_memory(batch, num_heads, n_q, n_k, dtype)`: how many bytes the scores of multi-head attention take, stored
as one tensor of that dtype.

Each head of each sequence has one score for every pair of a query and a key.

- `dtype` is a `torch.dtype` of floating point: `torch.float64`, `torch.float32`, `torch.float16` or `torch.bfloat16`.
- The sizes are Python integers; return one. It is the scores alone: not the weights that the softmax makes of them, not
  the queries and keys.
""",
    stub='''\
def score_memory(batch, num_heads, n_q, n_k, dtype):
    """Bytes of the scores of multi-head attention, stored as one tensor.

    dtype: torch.float64, torch.float32, torch.float16 or torch.bfloat16
    returns an int
    """
    ...  # your code here
''',
    returns=("bytes",),
    cases=(
        Case("small", _scores(1, 1, 2, 3, torch.float32)),
        Case("in half precision", _scores(2, 3, 2, 5, torch.float16)),
        Case("in bfloat16", _scores(3, 2, 7, 5, torch.bfloat16)),
        Case("in double precision", _scores(2, 5, 3, 7, torch.float64)),
        Case("different sizes", _scores(2, 3, 5, 7, torch.float32)),
        Case("one query", _scores(3, 8, 1, 11, torch.float16)),
        Case("one key", _scores(2, 4, 13, 1, torch.float32)),
        Case("one head", _scores(5, 1, 3, 11, torch.float64)),
        Case("any sizes", _any_scores),
        Case("other sizes", _any_scores),
        Case("large", _scores(1, 8, 1024, 512, torch.bfloat16)),
    ),
)

# ------------------------------------------------------------------------------------- attention-entropy


def _at_the_scores(candidate: Any, inputs: Inputs, leaves: dict[str, torch.Tensor]) -> Any:
    """Gradients are looked at where weights come from, at the scores behind a softmax.

    A right answer may take for granted that rows add up to 1, or see to it: at the weights its gradient is another.
    """
    weights = inputs["weights"]
    if "weights" in leaves:
        leaves["weights"] = weights.detach().log().requires_grad_()
        weights = leaves["weights"].softmax(-1)
    result = candidate(weights)
    wide = weights.dtype == torch.float64  # what is wanted is exact, not in which dtype it comes
    if wide and isinstance(result, torch.Tensor) and result.dtype == torch.float32:
        return result.double()
    return result


def _rows(*rows: tuple[float, ...]) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {"weights": torch.tensor(rows)}


def _soft(*shape: int, spread: float = 1.5) -> Callable[[torch.Generator], Inputs]:
    """Weights of a softmax, none of them 0."""
    return lambda g: {"weights": (spread * torch.randn(*shape, generator=g).clamp(-3, 3)).softmax(-1)}


def _masked(*shape: int) -> Callable[[torch.Generator], Inputs]:
    """Some weights are 0, in each row at least one; none of the first column."""

    def make(g: torch.Generator) -> Inputs:
        scores, keep = torch.randn(*shape, generator=g), torch.rand(*shape, generator=g) < 0.6
        keep[..., 0], keep[..., -1] = True, False
        return {"weights": scores.masked_fill(~keep, -torch.inf).softmax(-1)}

    return make


def _one_hot(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[torch.Generator], Inputs]:
    def make(g: torch.Generator) -> Inputs:
        key = torch.randint(shape[-1], shape[:-1], generator=g)
        return {"weights": torch.nn.functional.one_hot(key, shape[-1]).to(dtype)}

    return make


def _wide(make: Callable[[torch.Generator], Inputs]) -> Callable[[torch.Generator], Inputs]:
    def in_double(g: torch.Generator) -> Inputs:
        weights = make(g)["weights"].double()
        return {"weights": weights / weights.sum(-1, keepdim=True)}

    return in_double


_ATTENTION_ENTROPY = Task(
    id="attention-entropy",
    chapter=4,
    title="How undecided is a query?",
    prompt="""\
Write `attention_entropy(weights)`: one number for each query, which says how undecided it is. The weights of a query
are a distribution over the keys, and its entropy is `−Σ w · log w`, summed over the keys. With the natural logarithm
its unit is the nat: `log n_k` for a query that looks at all keys alike, 0 for one that looks at a single key.

- `weights` is `(…, n_q, n_k)`, float32 or float64, with any number of leading dimensions. Every row adds up to 1.
- Return `(…, n_q)`: nothing is averaged, neither queries nor heads.
- Some weights may be 0; a key with weight 0 adds nothing. A row of one 1 and otherwise 0 gives exactly 0, in both
  dtypes: not NaN, and not nearly 0.
- Gradients have to reach weights that are not 0.
""",
    stub='''\
def attention_entropy(weights):
    """The entropy of each query's weights, in nats.

    weights (..., n_q, n_k), each row adds up to 1
    returns (..., n_q)
    """
    ...  # your code here
''',
    returns=("entropy",),
    cases=(
        Case("two rows", _rows((0.25, 0.25, 0.25, 0.25), (0.5, 0.25, 0.125, 0.125))),
        Case("some weights are 0", _rows((0.5, 0.5, 0.0), (0.0, 0.25, 0.75))),
        Case("one-hot", _one_hot(3, 4), exact_zeros=True),
        Case("one-hot in float64", _one_hot(2, 3, dtype=torch.float64), exact_zeros=True),
        Case("no leading dimension", _soft(5, 7), twice=True),
        Case("heads", _soft(3, 5, 7)),
        Case("batch and heads", _soft(2, 3, 5, 7)),
        Case("three leading dimensions", _soft(2, 3, 2, 5, 7)),
        Case("more queries than keys", _soft(2, 11, 3)),
        Case("one query", _soft(3, 1, 7)),
        Case("one key", _one_hot(2, 3, 5, 1), exact_zeros=True),
        Case("masked", _masked(2, 3, 5, 7)),
        Case("masked, in float64", _wide(_masked(3, 5, 4))),
        Case("all sizes 4", _soft(4, 4, 4, 4)),
        Case("64 keys", _soft(3, 2, 64), terms=64),
        Case("gradients", _soft(2, 3, 5, 7), terms=32, gradients=True),
        Case("gradients without leading dimensions", _soft(3, 5, spread=1.0), terms=32, gradients=True),
    ),
    act=_at_the_scores,
)  # fmt: skip

# ------------------------------------------------------------------------------------ attention-distance


def _uniform(*shape: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {"weights": torch.full(shape, 1 / shape[-1])}


def _looking(n: int, *places: int) -> Callable[[torch.Generator], Inputs]:
    """One map: query ``i`` looks at key ``places[i]`` alone."""
    return lambda g: {"weights": torch.eye(n)[list(places)]}


_ATTENTION_DISTANCE = Task(
    id="attention-distance",
    chapter=4,
    title="How far does it look?",
    prompt="""\
Write `mean_attention_distance(weights)`: one number for each attention map, which says how far away its queries look.

From query `q` to key `k` it is `|q − k|` places. A query spreads its weight over several keys, so its distance is an
expectation: the sum, over the keys, of weight times distance. The answer is the mean of that over the queries.

- `weights` is `(…, n, n)`, float32, row = query, column = key, with any number of leading dimensions. Every row adds up
  to 1.
- Return a tensor of shape `(…)`: batch and heads are kept apart. One map `(n, n)` gives a tensor of shape `()`.
- Gradients have to reach the weights.
""",
    stub='''\
def mean_attention_distance(weights):
    """The mean over queries of the expected distance between query and key.

    weights (..., n, n), each row adds up to 1
    returns (...)
    """
    ...  # your code here
''',
    returns=("distance",),
    cases=(
        Case("one map", _rows((0.5, 0.25, 0.25), (0.25, 0.5, 0.25), (0.75, 0.25, 0.0))),
        Case("each looks at itself", _looking(4, 0, 1, 2, 3)),
        Case("each looks at one key", _looking(5, 3, 1, 0, 4, 4), terms=32),
        Case("all at the first", _looking(4, 0, 0, 0, 0), terms=32),
        Case("all alike", _uniform(2, 5, 5), terms=32),
        Case("no leading dimension", _soft(7, 7), terms=32, twice=True),
        Case("heads", _soft(3, 5, 5), terms=32),
        Case("batch and heads", _soft(2, 3, 7, 7), terms=32),
        Case("three leading dimensions", _soft(2, 3, 2, 5, 5), terms=32),
        Case("one token", _soft(2, 3, 1, 1), terms=32),
        Case("two tokens", _soft(3, 2, 2), terms=32),
        Case("masked", _masked(2, 3, 5, 5), terms=32),
        Case("all sizes 4", _soft(4, 4, 4, 4), terms=32),
        Case("31 tokens", _soft(2, 31, 31), terms=128),
        Case("gradients", _soft(2, 3, 5, 5), terms=64, gradients=True),
        Case("gradients without leading dimensions", _soft(4, 4), terms=64, gradients=True),
    ),
    act=_at_the_scores,
)

TASKS = (
    _ATTENTION_FLOPS,
    _CROSSOVER_LENGTH,
    _CBAM_FLOPS,
    _SCORE_MEMORY,
    _ATTENTION_ENTROPY,
    _ATTENTION_DISTANCE,
)
