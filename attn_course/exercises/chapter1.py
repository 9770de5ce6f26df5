"""Chapter 1, what may stand beside a learner's code: prompts, stubs and cases."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .task import Case, Inputs, Task

# ------------------------------------------------------------------------------------------- making inputs


def _draw(g: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=g)


def _mask(g: torch.Generator, *shape: int) -> torch.Tensor:
    """A bool mask that allows about half, and at least one key and not all of them in each row."""
    n_k = shape[-1]
    mask = torch.rand(*shape, generator=g) < 0.5
    chosen = torch.randint(n_k, shape[:-1], generator=g).unsqueeze(-1)
    keys = torch.arange(n_k)
    mask |= keys == chosen
    mask &= keys != (chosen + 1) % n_k
    return mask


def _numbered(*shape: int) -> torch.Tensor:
    """0, 1, 2, …: every element tells where it came from."""
    total = int(torch.tensor(shape).prod())
    return torch.arange(total, dtype=torch.float32).reshape(shape)


# ---------------------------------------------------------------------------------- scaled-dot-product

_Q = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 1.0, 0.0]])
_K = torch.tensor([[2.0, 0.0, 0.0, 1.0], [0.0, 1.0, 2.0, 0.0], [1.0, 1.0, 0.0, 3.0]])
_V = torch.tensor([[1.0], [10.0], [100.0]])


def _tiny(g: torch.Generator) -> Inputs:
    return {"q": _Q.clone(), "k": _K.clone(), "v": _V.clone()}


def _tiny_masked(g: torch.Generator) -> Inputs:
    return {**_tiny(g), "mask": torch.tensor([[True, True, False], [False, True, True]])}


def _qkv(
    lead: tuple[int, ...], n_q: int, n_k: int, d_k: int, d_v: int,
    mask: tuple[int, ...] | None = None, dtype: torch.dtype = torch.bool, scale: float = 1.0,
) -> Callable[[torch.Generator], Inputs]:  # fmt: skip
    def make(g: torch.Generator) -> Inputs:
        inputs = {
            "q": _draw(g, *lead, n_q, d_k) * scale,
            "k": _draw(g, *lead, n_k, d_k) * scale,
            "v": _draw(g, *lead, n_k, d_v),
        }
        if mask is not None:
            inputs["mask"] = _mask(g, *mask).to(dtype)
        return inputs

    return make


_ATTENTION_CASES = (
    Case("tiny", _tiny),
    Case("tiny, masked", _tiny_masked),
    Case("one query, one key", _qkv((), 1, 1, 3, 2)),
    Case("no leading dimension", _qkv((), 5, 7, 3, 11), twice=True),
    Case("one leading dimension", _qkv((2,), 5, 7, 3, 11)),
    Case("two leading dimensions", _qkv((2, 3), 5, 7, 11, 13), terms=24, twice=True),
    Case("three leading dimensions", _qkv((2, 1, 3), 3, 5, 7, 2)),
    Case("all sizes 3", _qkv((3, 3), 3, 3, 3, 3)),
    Case("all sizes 4, masked", _qkv((4, 4), 4, 4, 4, 4, mask=(4, 4))),
    Case("batch as long as the sequence", _qkv((5,), 5, 5, 2, 5, mask=(5, 5))),
    Case("mask (n_q, n_k)", _qkv((2, 3), 5, 7, 11, 13, mask=(5, 7)), terms=24),
    Case("mask (B, 1, 1, n_k)", _qkv((2, 3), 5, 7, 11, 13, mask=(2, 1, 1, 7)), terms=24),
    Case("mask (B, h, n_q, n_k)", _qkv((2, 3), 5, 7, 3, 2, mask=(2, 3, 5, 7))),
    Case("mask of int64", _qkv((2, 3), 5, 7, 3, 2, mask=(2, 1, 5, 7), dtype=torch.int64)),
    Case("mask of uint8", _qkv((3,), 2, 5, 7, 11, mask=(2, 5), dtype=torch.uint8)),
    Case("mask of float32", _qkv((2, 3), 5, 7, 3, 2, mask=(5, 7), dtype=torch.float32)),
    Case("mask of float64", _qkv((), 5, 7, 3, 2, mask=(5, 7), dtype=torch.float64)),
    Case("large scores", _qkv((2,), 5, 7, 3, 11, scale=8.0), terms=200),
    Case("gradients", _qkv((2, 3), 5, 7, 3, 2), terms=24, gradients=True),
    Case("gradients, masked", _qkv((2,), 3, 5, 7, 2, mask=(3, 5)), terms=24, gradients=True),
)

_SCALED_DOT_PRODUCT = Task(
    id="scaled-dot-product",
    chapter=1,
    title="Scaled dot-product attention",
    prompt="""\
Write `scaled_dot_product_attention(q, k, v, mask=None)`. Every query is compared with every key by a dot product,
scaled for its width; a softmax turns a query's scores into weights; the output is the weighted mean of the values.

- `q` is `(…, n_q, d_k)`, `k` is `(…, n_k, d_k)`, `v` is `(…, n_k, d_v)`. The dots stand for any number of leading
  dimensions, none included, the same in all three. `n_q` and `n_k` may differ, and so may `d_k` and `d_v`.
- `mask`, where given, broadcasts to `(…, n_q, n_k)`. It is bool, or 0/1 of any dtype: True or 1 where a query may
  attend. Each query has at least one key.
- Return `(output, weights)`, of shapes `(…, n_q, d_v)` and `(…, n_q, n_k)`.
""",
    stub='''\
def scaled_dot_product_attention(q, k, v, mask=None):
    """Attend from every query to every key.

    q (..., n_q, d_k), k (..., n_k, d_k), v (..., n_k, d_v)
    mask: broadcasts to (..., n_q, n_k), True or 1 where a query may attend
    returns output (..., n_q, d_v), weights (..., n_q, n_k)
    """
    ...  # your code here
''',
    returns=("output", "weights"),
    cases=_ATTENTION_CASES,
)

# -------------------------------------------------------------------------------------- masked-softmax


def _scores(
    shape: tuple[int, ...], mask: tuple[int, ...], dtype: torch.dtype = torch.float32,
    empty: tuple[int, ...] | None = None, shift: float = 0.0, above: float = 0.0,
) -> Callable[[torch.Generator], Inputs]:  # fmt: skip
    """Scores about ``shift``, masked ones larger by ``above``; the row ``empty`` of the mask allows nothing."""

    def make(g: torch.Generator) -> Inputs:
        scores, allowed = _draw(g, *shape) + shift, _mask(g, *mask)
        if empty is not None:
            allowed[empty] = False
        scores = scores + above * ~allowed
        return {"scores": scores.to(dtype), "mask": allowed}

    return make


def _tiny_scores(g: torch.Generator) -> Inputs:
    scores = torch.tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 2.0]])
    return {"scores": scores, "mask": torch.tensor([[True, True, False], [False, True, True]])}


def _tiny_empty(g: torch.Generator) -> Inputs:
    inputs = _tiny_scores(g)
    inputs["mask"][1] = False
    return inputs


def _tiny_loud_scores(g: torch.Generator) -> Inputs:
    scores = torch.tensor([[20.0, 0.0, 1.0], [0.0, 21.0, 1.0]])
    return {"scores": scores, "mask": torch.tensor([[False, True, True], [True, False, True]])}


def _nothing_masked(g: torch.Generator) -> Inputs:
    return {"scores": _draw(g, 2, 3, 5, 7), "mask": torch.ones(5, 7, dtype=torch.bool)}


_half, _brain = torch.float16, torch.bfloat16
_SOFTMAX_CASES = (
    Case("tiny", _tiny_scores, exact_zeros=True),
    Case("tiny, a row with nothing allowed", _tiny_empty, exact_zeros=True),
    Case("tiny, a masked score is the largest", _tiny_loud_scores, exact_zeros=True),
    Case("nothing masked", _nothing_masked),
    Case("two dimensions", _scores((5, 7), (5, 7)), exact_zeros=True, twice=True),
    Case("three dimensions", _scores((2, 5, 7), (2, 5, 7)), exact_zeros=True),
    Case("mask (n_q, n_k)", _scores((2, 3, 5, 7), (5, 7)), exact_zeros=True),
    Case("mask (B, 1, 1, n_k)", _scores((2, 3, 5, 7), (2, 1, 1, 7)), exact_zeros=True),
    Case("all sizes 4", _scores((4, 4, 4, 4), (4, 4)), exact_zeros=True),
    Case("a query with nothing allowed", _scores((2, 3, 5, 7), (5, 7), empty=(2,)), exact_zeros=True),
    Case("a sequence of padding", _scores((2, 3, 5, 7), (2, 1, 1, 7), empty=(1,)), exact_zeros=True),
    Case("large scores", _scores((3, 5, 7), (5, 7), shift=100.0), terms=100, exact_zeros=True),
    Case("masked scores larger by 20", _scores((3, 5, 7), (5, 7), above=20.0), terms=32, exact_zeros=True),
    Case("float16", _scores((2, 3, 5, 7), (5, 7), _half), exact_zeros=True),
    Case("float16, nothing allowed", _scores((2, 5, 7), (5, 7), _half, empty=(3,)), exact_zeros=True),
    Case("bfloat16", _scores((2, 3, 5, 7), (5, 7), _brain), exact_zeros=True),
    Case("bfloat16, nothing allowed", _scores((2, 5, 7), (5, 7), _brain, empty=(0,)), exact_zeros=True),
    Case("gradients", _scores((2, 5, 7), (5, 7)), gradients=True, exact_zeros=True),
    Case(
        "gradients, nothing allowed", _scores((2, 5, 7), (5, 7), empty=(1,)), gradients=True, exact_zeros=True
    ),
)

_MASKED_SOFTMAX = Task(
    id="masked-softmax",
    chapter=1,
    title="A softmax that survives every mask",
    prompt="""\
Write `masked_softmax(scores, mask)`: the softmax over the last dimension, among the allowed entries only.

- `scores` is `(…, n_q, n_k)`, in float32, float16 or bfloat16; the result has its shape and dtype.
- `mask` is bool, broadcasts to the shape of `scores`, and is True where attention is allowed.
- Where it is False the weight is exactly 0. A row that allows something sums to 1.
- A row that allows nothing is all zeros, and the gradient that flows back through it is finite.
""",
    stub='''\
def masked_softmax(scores, mask):
    """Softmax over the last dimension, among the entries that the mask allows.

    scores (..., n_q, n_k), float32, float16 or bfloat16
    mask: bool, broadcasts to scores, True where attention is allowed
    returns weights, like scores: exact zeros where masked, a row of zeros where nothing is allowed
    """
    ...  # your code here
''',
    returns=("weights",),
    cases=_SOFTMAX_CASES,
)

# ------------------------------------------------------------------------------------------- two masks


def _length(n: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {"n": n}


_CAUSAL_MASK = Task(
    id="causal-mask",
    chapter=1,
    title="No look ahead",
    prompt="""\
Write `causal_mask(n)`: which keys may each query see, if nobody may look ahead?

- Return a bool tensor `(n, n)`: row = query, column = key.
- True where the key is not later than the query. A token sees itself.
""",
    stub='''\
def causal_mask(n):
    """The mask of a sequence that may not look ahead.

    returns bool (n, n): row = query, column = key, True where the query may attend
    """
    ...  # your code here
''',
    returns=("mask",),
    cases=tuple(Case(f"n = {n}", _length(n), twice=n == 7) for n in (3, 1, 2, 7, 16)),
)


def _lengths(n: int, *lengths: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {"lengths": torch.tensor(lengths), "n": n}


def _any_lengths(batch: int, n: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {"lengths": torch.randint(1, n + 1, (batch,), generator=g), "n": n}


_PADDING_MASK = Task(
    id="padding-mask",
    chapter=1,
    title="Do not attend to padding",
    prompt="""\
Write `padding_mask(lengths, n)`: a batch of sequences of different lengths was filled up to length `n`, with the
padding at the end. Which keys are real tokens?

- `lengths` is an integer tensor `(B,)`: how many real tokens each sequence has.
- Return a bool tensor `(B, 1, 1, n)`, True for real tokens, ready to broadcast over heads and queries.
""",
    stub='''\
def padding_mask(lengths, n):
    """Which keys are real tokens, in a batch that was filled up to length n.

    lengths (B,), integers
    returns bool (B, 1, 1, n), True for real tokens
    """
    ...  # your code here
''',
    returns=("mask",),
    cases=(
        Case("lengths 2 and 3 of 4", _lengths(4, 2, 3)),
        Case("one sequence", _lengths(3, 1)),
        Case("nothing is padding", _lengths(5, 5, 5, 5)),
        Case("batch as large as n", _lengths(4, 4, 1, 3, 2)),
        Case("no sequence is full", _lengths(11, 7, 3)),
        Case("any lengths", _any_lengths(7, 13), twice=True),
    ),
)

# ----------------------------------------------------------------------------------------------- heads


def _whole(batch: int, n: int, d: int, heads: int) -> Callable[[torch.Generator], Inputs]:
    return lambda g: {"x": _numbered(batch, n, d), "num_heads": heads}


def _split(batch: int, heads: int, n: int, d_k: int, order: str = "") -> Callable[[torch.Generator], Inputs]:
    """Heads as ``merge_heads`` gets them; ``order`` says how they lie in memory, when not one after the other."""

    def make(g: torch.Generator) -> Inputs:
        if order == "split":  # as split_heads makes them
            return {"x": _numbered(batch, n, heads, d_k).transpose(1, 2)}
        if order == "columns":
            return {"x": _numbered(batch, heads, d_k, n).transpose(2, 3)}
        return {"x": _numbered(batch, heads, n, d_k)}

    return make


_SPLIT_HEADS = Task(
    id="split-heads",
    chapter=1,
    title="Split the width into heads",
    prompt="""\
Write `split_heads(x, num_heads)`: cut each token's `d` channels into `num_heads` pieces of `d_k = d / num_heads`, and
give each head its own sequence.

- `x` is `(B, n, d)`; `num_heads` divides `d`.
- Return `(B, num_heads, n, d_k)`: head `i` holds the channels `i · d_k` to `(i + 1) · d_k − 1` of every token.
""",
    stub='''\
def split_heads(x, num_heads):
    """Give each head its share of every token's channels.

    x (B, n, d), num_heads divides d
    returns (B, num_heads, n, d_k): head i has the channels i * d_k ... (i + 1) * d_k - 1
    """
    ...  # your code here
''',
    returns=("heads",),
    cases=(
        Case("two tokens, two heads", _whole(1, 2, 6, 2)),
        Case("different sizes", _whole(2, 5, 21, 3), twice=True),
        Case("more heads than tokens", _whole(3, 2, 35, 7)),
        Case("one head", _whole(2, 3, 5, 1)),
        Case("as many heads as channels", _whole(2, 3, 5, 5)),
        Case("n = h = d_k", _whole(3, 3, 9, 3)),
        Case("n = d", _whole(2, 6, 6, 3)),
        Case("gradients", _whole(2, 5, 6, 3), gradients=True, terms=1),
    ),
)

_MERGE_HEADS = Task(
    id="merge-heads",
    chapter=1,
    title="Put the heads side by side again",
    prompt="""\
Write `merge_heads(x)`: undo `split_heads`.

- `x` is `(B, h, n, d_k)`, and may lie in memory in any order.
- Return `(B, n, h · d_k)`: each token's channels, head 0 first.
""",
    stub='''\
def merge_heads(x):
    """Put the heads of every token side by side: the inverse of split_heads.

    x (B, h, n, d_k), contiguous or not
    returns (B, n, h * d_k), head 0 first
    """
    ...  # your code here
''',
    returns=("tokens",),
    cases=(
        Case("two heads, two tokens", _split(1, 2, 2, 3)),
        Case("as split_heads made it", _split(1, 2, 2, 3, "split")),
        Case("different sizes", _split(2, 3, 5, 7), twice=True),
        Case("different sizes, as split_heads made it", _split(2, 3, 5, 7, "split")),
        Case("different sizes, stored by columns", _split(2, 3, 5, 7, "columns")),
        Case("one head", _split(2, 1, 3, 5)),
        Case("one token", _split(2, 3, 1, 5)),
        Case("h = n = d_k", _split(3, 3, 3, 3)),
        Case("gradients", _split(2, 3, 5, 2, "split"), gradients=True, terms=1),
    ),
)

# ------------------------------------------------------------------------------------------- multi-head

_PROJECTIONS = ("w_q", "w_k", "w_v", "w_o")


def _multi_head(
    batch: int, n_q: int, n_k: int, d_model: int, heads: int,
    mask: tuple[int, ...] | None = None, training: bool = False, self_attention: bool = False,
) -> Callable[[torch.Generator], Inputs]:  # fmt: skip
    def make(g: torch.Generator) -> Inputs:
        inputs: Inputs = {"d_model": d_model, "num_heads": heads, "query": _draw(g, batch, n_q, d_model)}
        inputs["key"] = inputs["query"].clone() if self_attention else _draw(g, batch, n_k, d_model)
        inputs["value"] = inputs["query"].clone() if self_attention else _draw(g, batch, n_k, d_model)
        if mask is not None:
            inputs["mask"] = _mask(g, *mask)
        for name in _PROJECTIONS:  # large enough for weights that are far from even
            gain = 2.0 if name in ("w_q", "w_k") else 1.0
            inputs[f"{name}.weight"] = _draw(g, d_model, d_model) * gain / d_model**0.5
            inputs[f"{name}.bias"] = _draw(g, d_model) / 2
        inputs[".training"] = training
        return inputs

    return make


def _build_and_attend(candidate: Any, inputs: Inputs, leaves: dict[str, torch.Tensor]) -> Any:
    """Build the learner's module, give its four projections known numbers, and call it in evaluation mode.

    ``training`` calls it as it was built, for the weights alone: a module may drop out some of its output while it
    trains, but the weights that it reports are those of the softmax.
    """
    module = candidate(inputs["d_model"], inputs["num_heads"])
    given = {n: v for n, v in inputs.items() if n.startswith("w_") and "." in n}
    with torch.no_grad():
        for name, value in given.items():
            projection, part = name.split(".")
            getattr(getattr(module, projection), part).copy_(value)
    if not inputs[".training"] and isinstance(module, nn.Module):
        module.eval()
    if leaves:
        for name in given:
            projection, part = name.split(".")
            leaves[name] = getattr(getattr(module, projection), part)
    arguments = [inputs[n] for n in ("query", "key", "value", "mask") if n in inputs]
    result = (module if callable(module) else module.forward)(*arguments)
    if inputs[".training"] and issubclass(type(result), tuple | list) and len(result) == 2:
        return None, result[1]
    return result


_MULTI_HEAD_CASES = (
    Case("one head, two tokens", _multi_head(1, 2, 2, 2, 1), terms=24),
    Case("self-attention", _multi_head(2, 5, 5, 21, 3, self_attention=True), terms=96, twice=True),
    Case("cross-attention", _multi_head(2, 5, 7, 21, 3), terms=96, twice=True),
    Case("more queries than keys", _multi_head(3, 7, 2, 10, 5), terms=48),
    Case("same length, other keys", _multi_head(2, 5, 5, 6, 3), terms=48),
    Case("one head", _multi_head(2, 3, 5, 7, 1), terms=48),
    Case("as many heads as channels", _multi_head(2, 3, 5, 7, 7), terms=48),
    Case("n = h = d_k", _multi_head(3, 3, 3, 9, 3), terms=48),
    Case("B = n = d_model", _multi_head(6, 6, 6, 6, 2, mask=(6, 6)), terms=48),
    Case("mask (n_q, n_k)", _multi_head(2, 5, 7, 21, 3, mask=(5, 7)), terms=96),
    Case("mask (B, 1, 1, n_k)", _multi_head(2, 5, 7, 15, 3, mask=(2, 1, 1, 7)), terms=96),
    Case("mask (B, 1, n_q, n_k)", _multi_head(2, 3, 5, 14, 7, mask=(2, 1, 3, 5)), terms=96),
    Case("mask (B, h, n_q, n_k)", _multi_head(2, 3, 5, 14, 7, mask=(2, 7, 3, 5)), terms=96),
    Case("gradients", _multi_head(2, 3, 5, 14, 2), terms=96, gradients=True),
    Case("weights while training", _multi_head(3, 11, 13, 10, 2, training=True), terms=48),
)

_MULTI_HEAD = Task(
    id="multi-head-attention",
    chapter=1,
    title="Multi-head attention",
    prompt="""\
Write the `forward` of `MultiHeadAttention(d_model, num_heads)`. `__init__` is given: four projections `w_q`, `w_k`,
`w_v`, `w_o`. Project, split into heads, attend in each head with its own `d_k`, merge, project once more.

- `query` is `(B, n_q, d_model)`, `key` and `value` are `(B, n_k, d_model)`: they may be other sequences than the query,
  and of another length (cross-attention).
- `mask`, where given, is bool, True where attention is allowed, and broadcasts to `(B, h, n_q, n_k)`.
- Return `(output, weights)`, of shapes `(B, n_q, d_model)` and `(B, h, n_q, n_k)`.
""",
    stub='''\
from torch import nn


class MultiHeadAttention(nn.Module):
    """Attention in num_heads subspaces of d_k = d_model / num_heads channels each."""

    def __init__(self, d_model, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.w_q = nn.Linear(d_model, d_model)
        self.w_k = nn.Linear(d_model, d_model)
        self.w_v = nn.Linear(d_model, d_model)
        self.w_o = nn.Linear(d_model, d_model)

    def forward(self, query, key, value, mask=None):
        """query (B, n_q, d_model), key and value (B, n_k, d_model)

        mask: bool, broadcasts to (B, h, n_q, n_k), True where attention is allowed
        returns output (B, n_q, d_model), weights (B, h, n_q, n_k)
        """
        ...  # your code here
''',
    returns=("output", "weights"),
    cases=_MULTI_HEAD_CASES,
    act=_build_and_attend,
    rests_on=("split-heads", "scaled-dot-product", "merge-heads"),
)

# ------------------------------------------------------------------------------------------ the block


class _Mix(nn.Module):
    """Stands for attention: every token gets something of the others, and not in proportion to its size."""

    def __init__(self, g: torch.Generator, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_draw(g, d_model, d_model) / d_model**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.cumsum(1) @ self.weight) + x.mean(1, keepdim=True)


class _Feed(nn.Module):
    """Stands for the feed-forward network: each token by itself."""

    def __init__(self, g: torch.Generator, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_draw(g, d_model, d_model) / d_model**0.5)
        self.bias = nn.Parameter(_draw(g, d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.weight + self.bias)


class _Norm(nn.Module):
    """A layer norm with a gain and a shift of its own, so that two of them differ."""

    def __init__(self, g: torch.Generator, d_model: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(1 + 0.5 * torch.rand(d_model, generator=g))
        self.shift = nn.Parameter(_draw(g, d_model) / 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], self.gain, self.shift)


def _block(batch: int, n: int, d_model: int) -> Callable[[torch.Generator], Inputs]:
    def make(g: torch.Generator) -> Inputs:
        return {
            "x": 2 * _draw(g, batch, n, d_model) + 1,
            "attention": _Mix(g, d_model),
            "feed_forward": _Feed(g, d_model),
            "norm1": _Norm(g, d_model),
            "norm2": _Norm(g, d_model),
        }

    return make


class _By(nn.Module):
    """Arithmetic that a reader can follow: ``factor · x + term``."""

    def __init__(self, factor: float, term: float) -> None:
        super().__init__()
        self.factor, self.term = factor, term
        self.formula = f"{factor:g} · x + {term:g}"  # shown to the learner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x + self.term


def _tiny_block(g: torch.Generator) -> Inputs:
    return {
        "x": torch.tensor([[[1.0, 2.0], [3.0, 5.0]]]),
        "attention": _By(1.0, 10.0),
        "feed_forward": _By(3.0, 0.0),
        "norm1": _By(0.5, 0.0),
        "norm2": _By(0.1, 0.0),
    }


_PRE_NORM_BLOCK = Task(
    id="pre-norm-block",
    chapter=1,
    title="A pre-norm transformer block",
    prompt="""\
Write `pre_norm_block(x, attention, feed_forward, norm1, norm2)`: the block that deep transformers are built of, with
two sublayers, attention first. Each sublayer *reads* a normalised copy of the residual stream and *adds* to the stream,
which itself is never normalised.

- `x` is `(B, n, d_model)`; it is the stream.
- The other four are callables that take `(B, n, d_model)` and return the same shape. `norm1` belongs to `attention`,
  `norm2` to `feed_forward`.
- Return the stream after both sublayers, `(B, n, d_model)`.
""",
    stub='''\
def pre_norm_block(x, attention, feed_forward, norm1, norm2):
    """Two sublayers that read a normalised copy of the stream and add to the stream.

    x (B, n, d_model)
    attention, feed_forward, norm1, norm2: callables, (B, n, d_model) -> (B, n, d_model)
    returns (B, n, d_model)
    """
    ...  # your code here
''',
    returns=("x",),
    cases=(
        Case("arithmetic", _tiny_block),
        Case("one token", _block(1, 1, 3), terms=48),
        Case("different sizes", _block(2, 5, 7), terms=48, twice=True),
        Case("all sizes 4", _block(4, 4, 4), terms=48),
        Case("wide", _block(3, 2, 17), terms=96),
        Case("gradients", _block(2, 3, 5), terms=96, gradients=True),
    ),
)

TASKS = (
    _SCALED_DOT_PRODUCT,
    _MASKED_SOFTMAX,
    _CAUSAL_MASK,
    _PADDING_MASK,
    _SPLIT_HEADS,
    _MERGE_HEADS,
    _MULTI_HEAD,
    _PRE_NORM_BLOCK,
)
