"""Chapter 4, what must not stand beside a submission: solutions, hints and known wrong answers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .judge import Answer, Mistake

Tensor = torch.Tensor

_FLOAT = "What came back is a float: a count is whole. `//` divides integers and gives one."
_NOT_PYTHON = "What came back is a number of numpy's or torch's, not Python's own. `int(…)` makes one of it."


def _types(right: Callable[..., int]) -> tuple[Mistake, ...]:
    """An int that comes as something else."""
    return (
        Mistake("returns-a-float", _FLOAT, lambda *sizes: float(right(*sizes))),
        Mistake("returns-no-python-number", _NOT_PYTHON, lambda *sizes: np.int64(right(*sizes)),
                lambda *sizes: torch.tensor(right(*sizes)), lambda *sizes: torch.tensor(float(right(*sizes))),
                lambda *sizes: np.array(right(*sizes)), lambda *sizes: np.float64(right(*sizes))),
        Mistake("returns-a-text", "What came back is a text. The number itself is wanted, to go on counting with.",
                lambda *sizes: str(right(*sizes)), lambda *sizes: f"{right(*sizes):,}"),
    )  # fmt: skip


# -------------------------------------------------------------------------------------- attention-flops


def attention_flops(batch, n_q, n_k, d_model):
    projections = (2 * n_q + 2 * n_k) * d_model * d_model  # queries and output, keys and values
    products = 2 * n_q * n_k * d_model  # the scores, and the weighted sum
    return 2 * batch * (projections + products)


Count = Callable[[int, int, int], float]


def _projections(q: int, k: int, d: int) -> int:
    return (2 * q + 2 * k) * d * d


def _products(q: int, k: int, d: int) -> int:
    return 2 * q * k * d


def _attention(
    projections: Count = _projections,
    products: Count = _products,
    rest: Count = lambda q, k, d: 0,
    per: int = 2,
    result: Callable[[int, float], Any] = lambda batch, count: batch * count,
) -> Callable[..., Any]:
    """Multi-head attention counted with one thing wrong. ``rest``: what is added that does not belong."""

    def count(batch: int, n_q: int, n_k: int, d_model: int) -> Any:
        sizes = (n_q, n_k, d_model)
        return result(batch, per * (projections(*sizes) + products(*sizes)) + rest(*sizes))

    return count


def _added(factor: int, what: Count) -> Count:
    return lambda q, k, d: factor * what(q, k, d)


def _narrow(heads: int) -> Count:
    return lambda q, k, d: 2 * q * k * (d // heads)


def _without_first_additions(heads: int) -> Count:
    return lambda q, k, d: -(3 * q + 2 * k) * d - heads * q * k


_SHAPES = "Write the shapes of its two factors down: `(m, p) @ (p, r)` is `m · p · r` multiply-adds."
_HEADS = (
    "Each of the `h` heads multiplies matrices that are only `d_model / h` wide. What is left of `h` when all heads "
    "are added?"
)
_WHAT_COUNTS = "By this course's convention only matrix products (and convolutions) count."

_ATTENTION_FLOPS = Answer(
    id="attention-flops",
    solution=attention_flops,
    why="A product of (m, p) and (p, r) takes m · p · r multiply-adds. A projection is (n, d) times (d, d): two for "
    "n_q vectors, the queries and the output, and two for n_k, the keys and values. In each of h heads the scores are "
    "(n_q, d_k) times (d_k, n_k) and the weighted sum is (n_q, n_k) times (n_k, d_k), so h · d_k = d_model is all that "
    "is left of the heads.",
    hints=(
        "How many multiply-adds does the product of an `(m, p)` and a `(p, r)` matrix take? Each of its `m · r` "
        "numbers is a sum of how many products?",
        "Make a table of the six products, with the shapes of both factors. Which projections have `n_q` rows, and "
        "which `n_k`? (What does the output projection take in?)",
        "The scores of one head are `(n_q, d_k) @ (d_k, n_k)`. There are `h` heads, and `h · d_k` is an old friend.",
        "Both score products take `n_q · n_k · d_model` multiply-adds for each sequence; a projection of `m` vectors "
        "takes `m · d_model²`. Add the six; two factors are still missing.",
    ),
    mistakes=(
        Mistake("multiply-adds-once", "Each multiply-add was counted as one. It is a multiplication and an addition: "
                "how many FLOPs is that?", _attention(per=1), _attention(per=1, result=lambda b, count: count),
                _attention(lambda q, k, d: (q + 2 * k) * d * d, per=1),
                _attention(lambda q, k, d: 4 * q * d * d, per=1),
                _attention(products=lambda q, k, d: q * k * d, per=1)),
        Mistake("counted-twice", "It is twice too much: is the 2 of a multiply-add in there two times?",
                _attention(per=4)),
        Mistake("batch-forgotten", "The batch has no part in it. Each sequence costs the same, and all of them are "
                "computed.", _attention(result=lambda b, count: count)),
        Mistake("batch-on-the-products-alone", "The projections were counted for one sequence only. Is a vector of the "
                "second sequence projected too?",
                lambda b, q, k, d: 2 * _projections(q, k, d) + 2 * b * _products(q, k, d)),
        Mistake("batch-on-the-projections-alone", "The score products were counted for one sequence only. Does each "
                "sequence have scores of its own?",
                lambda b, q, k, d: 2 * b * _projections(q, k, d) + 2 * _products(q, k, d)),
        Mistake("batch-squared", "The cost grows with the square of the batch somewhere: no sequence attends to "
                "another one of the batch.",
                lambda b, q, k, d: 2 * b * _projections(q, k, d) + 2 * b * b * _products(q, k, d),
                _attention(result=lambda b, count: b * b * count)),
        Mistake("output-projection-missing", "A projection of `n_q` vectors is missing. What happens to the heads' "
                "outputs once they stand side by side?", _attention(lambda q, k, d: (q + 2 * k) * d * d)),
        Mistake("three-projections-of-length-n-q", "Three projections of `n_q` vectors were counted. There is a "
                "fourth, after attention; and how many vectors do the keys and values come from?",
                _attention(lambda q, k, d: 3 * q * d * d)),
        Mistake("key-or-value-projection-missing", "A projection of `n_k` vectors is missing: keys and values have a "
                "matrix each.", _attention(lambda q, k, d: (2 * q + k) * d * d)),
        Mistake("projections-once", "Only some of the four projections were counted: `w_q`, `w_k`, `w_v` and `w_o` are "
                "a product each.",
                _attention(lambda q, k, d: q * d * d), _attention(lambda q, k, d: k * d * d),
                _attention(lambda q, k, d: (q + k) * d * d), _attention(lambda q, k, d: 2 * q * d * d),
                _attention(lambda q, k, d: 2 * k * d * d)),
        Mistake("projections-missing", "The projections are missing: only the two products with scores and weights "
                "were counted.", _attention(lambda q, k, d: 0)),
        Mistake("keys-and-values-of-length-n-q", "All four projections were counted for `n_q` vectors. How many "
                "vectors are the keys and values made from?", _attention(lambda q, k, d: 4 * q * d * d)),
        Mistake("all-projections-of-length-n-k", "All four projections were counted for `n_k` vectors. How many "
                "vectors are the queries made from?", _attention(lambda q, k, d: 4 * k * d * d)),
        Mistake("output-of-length-n-k", "Three projections were counted for `n_k` vectors. How many rows does the "
                "output of attention have: one for each query, or for each key?",
                _attention(lambda q, k, d: (q + 3 * k) * d * d)),
        Mistake("three-of-length-n-q", "Three projections were counted for `n_q` vectors. Keys *and* values come from "
                "the other sequence.", _attention(lambda q, k, d: (3 * q + k) * d * d)),
        Mistake("fused-projection-of-both-lengths", "The projections are counted as if all vectors went through all "
                "four. Which of them do the queries' vectors never see?",
                _attention(lambda q, k, d: 4 * (q + k) * d * d), _attention(lambda q, k, d: 3 * (q + k) * d * d)),
        Mistake("lengths-multiplied-in-the-projections", "The projections grow with `n_q · n_k`. A projection takes "
                f"one vector after the other, whatever the others are. {_SHAPES}",
                _attention(lambda q, k, d: 4 * q * k * d * d), _attention(lambda q, k, d: 2 * q * k * d * d)),
        Mistake("one-score-product", "One of the two products with an `n_q × n_k` matrix is missing. The scores are "
                "one; what are the weights good for?", _attention(products=lambda q, k, d: q * k * d)),
        Mistake("score-products-missing", "Only the projections were counted: where do queries meet keys, and weights "
                "values?", _attention(products=lambda q, k, d: 0)),
        Mistake("score-products-of-n-q-squared", "A score product grows with `n_q²`. Who attends to whom, when there "
                "are `n_q` queries and `n_k` keys?", _attention(products=lambda q, k, d: 2 * q * q * d),
                _attention(products=lambda q, k, d: q * k * d + q * q * d)),
        Mistake("score-products-of-n-k-squared", "A score product grows with `n_k²`. Who attends to whom, when there "
                "are `n_q` queries and `n_k` keys?", _attention(products=lambda q, k, d: 2 * k * k * d),
                _attention(products=lambda q, k, d: q * k * d + k * k * d)),
        Mistake("one-length-for-both", "One of the two lengths has no part in it: that is right for self-attention "
                "alone.", _attention(lambda q, k, d: 4 * q * d * d, lambda q, k, d: 2 * q * q * d),
                _attention(lambda q, k, d: 4 * k * d * d, lambda q, k, d: 2 * k * k * d)),
        Mistake("lengths-added-in-the-products", "The score products grow with `n_q + n_k`. Does each query meet all "
                f"keys, or one? {_SHAPES}", _attention(products=lambda q, k, d: 2 * (q + k) * d),
                _attention(products=lambda q, k, d: (q + k) * d)),
        Mistake("width-missing-in-the-products", "The score products do not grow with the width. One score is a dot "
                "product: of how many numbers?", _attention(products=lambda q, k, d: 2 * q * k),
                _attention(products=lambda q, k, d: q * k), _attention(products=lambda q, k, d: q * k * (d + 1))),
        Mistake("width-squared-in-the-products", "The score products grow with `d_model²`. One score is a dot product: "
                "of how many numbers?", _attention(products=lambda q, k, d: 2 * q * k * d * d)),
        Mistake("width-once-in-the-projections", f"The projections grow with `d_model`, not with its square. {_SHAPES}",
                _attention(lambda q, k, d: 2 * (q + k) * d), _attention(lambda q, k, d: 4 * (q + k) * d)),
        Mistake("heads-multiplied-in", f"The score products were multiplied by a number of heads. {_HEADS}",
                *(_attention(products=_added(h, _products)) for h in (4, 8, 12, 16))),
        Mistake("one-head-only", f"The score products were counted for a single head. {_HEADS}",
                *(_attention(products=_narrow(h)) for h in (4, 8)),
                *(_attention(products=_added(2 * d_k, lambda q, k, d: q * k)) for d_k in (32, 64))),
        Mistake("softmax-counted", "Something was added for every score: the softmax, the scale, or both. "
                f"{_WHAT_COUNTS}",
                *(_attention(rest=_added(c, lambda q, k, d: q * k)) for c in (1, 2, 3, 4, 5, 6, 8, 24, 40, 48))),
        Mistake("biases-counted", f"The biases of the projections were added. {_WHAT_COUNTS}",
                *(_attention(rest=_added(c, lambda q, k, d: (q + k) * d)) for c in (2, 4)),
                *(_attention(rest=_added(c, lambda q, k, d: d)) for c in (4, 8)),
                lambda b, q, k, d: attention_flops(b, q, k, d) + 4 * d),
        Mistake("additions-counted-exactly", "Of `p` products, `p − 1` additions make a sum: true, but the convention "
                "is 2 for each of the `p` multiply-adds.",
                *(_attention(rest=_without_first_additions(h)) for h in (1, 8))),
        Mistake("feed-forward-counted", "The feed-forward layers of a block were counted too. Attention alone is asked "
                "for.", _attention(rest=lambda q, k, d: 16 * q * d * d)),
        Mistake("backward-counted", "The backward pass was counted too (it takes twice the forward pass). The forward "
                "pass alone is asked for.", _attention(per=6)),
        Mistake("causal-half", "Only the pairs with a key that is not in the future were counted. There is no mask "
                "here; and a masked product is computed in full all the same.",
                _attention(products=lambda q, k, d: q * (k + 1) * d),
                _attention(products=lambda q, k, d: k * (q + 1) * d)),
        Mistake("leading-term", "That is a leading term, as a big-O table shows it: without its factor, and without "
                "the other products.",
                lambda b, q, k, d: b * q * k * d, lambda b, q, k, d: q * k * d, lambda b, q, k, d: b * q * q * d,
                lambda b, q, k, d: q * q * d, lambda b, q, k, d: 2 * b * q * k * d),
        Mistake("parameters-counted", "That is how many parameters there are. Each of them is used once for every "
                "vector that goes through it.", lambda b, q, k, d: 4 * d * d, lambda b, q, k, d: 4 * d * d + 4 * d),
        *_types(attention_flops),
    ),
)  # fmt: skip

# ------------------------------------------------------------------------------------- crossover-length


def crossover_length(d_model):
    return 2 * d_model  # 2 · 2n²d, two score products, = 2 · 4nd², four projections


_EQUATION = (
    "Write both sides as an equation in `n` and `d_model`, and compare its two coefficients with yours."
)

_CROSSOVER_LENGTH = Answer(
    id="crossover-length",
    solution=crossover_length,
    why="With n_q = n_k = n the four projections take 4 · 2nd² = 8nd² FLOPs and the two score products 2 · 2n²d = "
    "4n²d. Both have a factor 4nd; without it, 2d = n. The heads have no part in it, and neither has what a "
    "multiply-add counts for: it stands on both sides.",
    hints=(
        "Take your `attention_flops` with `n_q = n_k = n`. Which of its terms grow with `n`, and which with `n²`?",
        "Set the two terms equal. One power of `n` and one of `d_model` stand on both sides.",
        "Four projections of `n` vectors are `4 · n · d_model²` multiply-adds. How many are two score products? "
        "Divide one by the other: which `n` makes that 1?",
    ),
    mistakes=(
        Mistake("half-of-it", "It is half of what it should be: were two projections counted instead of four, or a "
                f"multiply-add as 2 on one side only? {_EQUATION}", lambda d: d, lambda d: float(d)),
        Mistake("twice-of-it", "It is twice what it should be: was one score product counted instead of two, or a "
                f"multiply-add as 2 on one side only? {_EQUATION}", lambda d: 4 * d, lambda d: 4.0 * d),
        Mistake("one-projection", f"One projection was counted instead of four. {_EQUATION}",
                lambda d: d // 2, lambda d: (d + 1) // 2, lambda d: max(1, d // 2), lambda d: round(d / 2),
                lambda d: d / 2),
        Mistake("three-projections", f"Three projections were counted: which is the fourth? {_EQUATION}",
                lambda d: 3 * d // 2, lambda d: (3 * d + 1) // 2, lambda d: round(1.5 * d), lambda d: 1.5 * d,
                lambda d: 3 * d),
        Mistake("one-projection-and-one-product", f"It is a quarter of what it should be. {_EQUATION}",
                lambda d: d // 4, lambda d: max(1, d // 4), lambda d: d / 4),
        Mistake("four-times", "It is four times what it should be: four projections against half of a score "
                f"product? {_EQUATION}", lambda d: 8 * d),
        Mistake("the-whole-block", "That is where attention's quadratic part costs as much as everything else in a "
                "transformer block, its feed-forward layers included. Here the projections alone stand on the other "
                "side.", lambda d: 6 * d),
        Mistake("width-of-a-head", "The width of one head stands in it instead of `d_model`. All heads together are as "
                "wide as the model.",
                *(lambda d, h=h: 2 * (d // h) for h in (8, 12, 16)), *(lambda d, h=h: d // h for h in (8, 12, 16)),
                lambda d: 64, lambda d: 128),
        Mistake("heads-multiplied-in", "A number of heads stands in it. Their widths add up to `d_model`, so they "
                "leave the equation.", *(lambda d, h=h: 2 * d * h for h in (8, 12, 16))),
        Mistake("one-more", "That is one length further on, where the score products are ahead already. The length at "
                "which both take the same is asked for.", lambda d: 2 * d + 1),
        Mistake("one-less", "That is one length before, where the projections are still ahead.",
                lambda d: 2 * d - 1),
        Mistake("width-squared", "It grows with the square of the width: `d_model` stands on both sides of the "
                f"equation. {_EQUATION}", lambda d: d * d, lambda d: 2 * d * d, lambda d: 4 * d * d),
        Mistake("root-of-the-width", "It grows with the root of the width. The scale is not what is compared here, but "
                f"two counts of FLOPs. {_EQUATION}", lambda d: int(d**0.5), lambda d: d**0.5, lambda d: round(d**0.5)),
        Mistake("width-left-out", f"It does not depend on the width. {_EQUATION}",
                lambda d: 2, lambda d: 512, lambda d: 1024, lambda d: 1),
        Mistake("flops-returned", "Those are the FLOPs at a length. Which length is it?",
                lambda d: 16 * d**3, lambda d: 8 * d * d, lambda d: 32 * d**3),
        *_types(crossover_length),
    ),
)  # fmt: skip

# -------------------------------------------------------------------------------------------- cbam-flops


def cbam_flops(batch, channels, height, width, reduction=16, kernel_size=7):
    hidden = channels // reduction
    mlp = 2 * (channels * hidden + hidden * channels)  # two passes of two layers
    convolution = height * width * 2 * kernel_size**2  # each pixel: a kernel on each of two maps
    return 2 * batch * (mlp + convolution)


def _mlp(c: int, h: int, w: int, r: int) -> int:
    return 4 * c * (c // r)


def _convolution(c: int, h: int, w: int, k: int) -> int:
    return 2 * h * w * k * k


def _cbam(
    mlp: Callable[[int, int, int, int], float] = _mlp,
    convolution: Callable[[int, int, int, int], float] = _convolution,
    rest: Callable[[int, int, int], int] = lambda c, h, w: 0,
    per: int = 2,
    result: Callable[[int, float], Any] = lambda batch, count: batch * count,
) -> Callable[..., Any]:
    """CBAM counted with one thing wrong. ``rest``: what is added for an image that does not belong."""

    def count(b: int, c: int, h: int, w: int, reduction: int = 16, kernel_size: int = 7) -> Any:
        counted = per * (mlp(c, h, w, reduction) + convolution(c, h, w, kernel_size))
        return result(b, counted + rest(c, h, w))

    return count


def _on_the_map(c: int, h: int, w: int, k: int) -> int:
    """Twice the pairs of a pixel and a neighbour that both lie on the map."""
    rows, columns = (sum(min(i, k // 2) + min(n - 1 - i, k // 2) + 1 for i in range(n)) for n in (h, w))
    return 2 * rows * columns


def _for_each(factor: int, what: Callable[[int, int, int], int]) -> Callable[[int, int, int], int]:
    return lambda c, h, w: factor * what(c, h, w)


_NUMBER = (
    "How many multiply-adds does one number of the convolution's result take, and how many of them are there?"
)

_CBAM_FLOPS = Answer(
    id="cbam-flops",
    solution=cbam_flops,
    why="A layer from C to C/r numbers is a product of one row with a matrix, C · C/r multiply-adds, and so is the one "
    "back; each image goes through both twice. A number of the convolution's result is a sum over two maps of k × k "
    "products, and there are H × W of them. The MLP does not see the size of the map, the convolution not the number "
    "of channels.",
    hints=(
        "Take the two parts one after the other, for one image. How large is what goes into each, and what comes out?",
        "A layer from `C` to `C / reduction` numbers takes one multiply-add for each entry of its matrix. How many "
        "layers are there, and how often is each of them used?",
        "One number of the convolution's result is a sum over two maps and `k × k` places. How many numbers has the "
        "result, with \"same\" padding?",
        "The MLP takes `4 · C · C / reduction` multiply-adds for an image. Add those of the convolution; then come the "
        "images, and the 2.",
    ),
    mistakes=(
        Mistake("half-of-the-mlp", "Half of the MLP's work is missing: it has two layers, *and* it is used for two "
                "poolings.", _cbam(lambda c, h, w, r: 2 * c * (c // r))),
        Mistake("quarter-of-the-mlp", "One layer of the MLP was counted, once: it has two layers, and it is used for "
                "two poolings.", _cbam(lambda c, h, w, r: c * (c // r))),
        Mistake("mlp-twice-too-often", "The MLP was counted twice too often. It has two layers and is used twice.",
                _cbam(lambda c, h, w, r: 8 * c * (c // r))),
        Mistake("mlp-missing", "The convolution alone was counted: channel attention has matrix products too.",
                _cbam(lambda c, h, w, r: 0)),
        Mistake("mlp-at-every-pixel", "The MLP was counted for every pixel. What does pooling leave of a channel, "
                "before the MLP sees it?", _cbam(lambda c, h, w, r: 4 * c * (c // r) * h * w),
                _cbam(lambda c, h, w, r: 2 * c * (c // r) * h * w)),
        Mistake("reduction-ignored", "The hidden layer is as wide as the map has channels. What does `reduction` "
                "reduce?", _cbam(lambda c, h, w, r: 4 * c * c)),
        Mistake("reduction-default-always", "The reduction is 16 whatever is asked for.",
                _cbam(lambda c, h, w, r: 4 * c * (c // 16)), _cbam(lambda c, h, w, r: 4 * c * max(1, c // 16)),
                _cbam(lambda c, h, w, r: 4 * c * c / 16)),
        Mistake("reduction-as-the-width", "The hidden layer was given `reduction` numbers. It has `C / reduction`.",
                _cbam(lambda c, h, w, r: 4 * c * r)),
        Mistake("reduction-multiplied", "The hidden layer is wider than the map has channels: multiplied by "
                "`reduction`, where it should be divided.", _cbam(lambda c, h, w, r: 4 * c * c * r)),
        Mistake("reduction-squared", "Both widths of a layer were divided by `reduction`. Only the hidden one is "
                "narrower; the other is all channels.", _cbam(lambda c, h, w, r: 4 * (c // r) ** 2)),
        Mistake("channels-once", "The MLP grows with the channels, not with their square over `reduction`: how many "
                "entries has the matrix of one layer?", _cbam(lambda c, h, w, r: 4 * c),
                _cbam(lambda c, h, w, r: 4 * (c // r)), _cbam(lambda c, h, w, r: 2 * (c + c // r)),
                _cbam(lambda c, h, w, r: 4 * (c + c // r))),
        Mistake("one-input-map", f"The convolution was counted for one input map: average *and* maximum go in. "
                f"{_NUMBER}", _cbam(convolution=lambda c, h, w, k: h * w * k * k)),
        Mistake("all-channels-convolved", "The convolution was counted for all channels. What goes into it is what is "
                f"left of them: their average and their maximum. {_NUMBER}",
                _cbam(convolution=lambda c, h, w, k: h * w * c * k * k),
                _cbam(convolution=lambda c, h, w, k: h * w * 2 * c * k * k),
                _cbam(convolution=lambda c, h, w, k: h * w * c * c * k * k)),
        Mistake("two-output-maps", f"The convolution was counted as if two maps came out of it. {_NUMBER}",
                _cbam(convolution=lambda c, h, w, k: 4 * h * w * k * k)),
        Mistake("kernel-not-squared", f"The kernel has one side only: it is `k × k`. {_NUMBER}",
                _cbam(convolution=lambda c, h, w, k: 2 * h * w * k),
                _cbam(convolution=lambda c, h, w, k: 4 * h * w * k)),
        Mistake("kernel-missing", f"The kernel's size has no part in it. {_NUMBER}",
                _cbam(convolution=lambda c, h, w, k: 2 * h * w), _cbam(convolution=lambda c, h, w, k: h * w)),
        Mistake("kernel-default-always", "The kernel is 7 × 7 whatever is asked for.",
                _cbam(convolution=lambda c, h, w, k: 2 * h * w * 49)),
        Mistake("valid-padding", "The convolution's result was taken as smaller than the map. \"Same\" padding "
                "keeps its size.",
                _cbam(convolution=lambda c, h, w, k: 2 * max(0, h - k + 1) * max(0, w - k + 1) * k * k),
                _cbam(convolution=lambda c, h, w, k: 2 * (h - k + 1) * (w - k + 1) * k * k)),
        Mistake("padding-left-out", "What falls on the padding was left out. A convolution multiplies those zeros like "
                "all other numbers, so they count.", _cbam(convolution=_on_the_map)),
        Mistake("padded-map-convolved", "There is a number of the result for each place of the *padded* map. How large "
                "is the result?", _cbam(convolution=lambda c, h, w, k: 2 * (h + k - 1) * (w + k - 1) * k * k)),
        Mistake("map-not-there", f"The convolution was counted for one pixel. {_NUMBER}",
                _cbam(convolution=lambda c, h, w, k: 2 * k * k)),
        Mistake("sides-added", f"Height and width were added: how many pixels has the map? {_NUMBER}",
                _cbam(convolution=lambda c, h, w, k: 2 * (h + w) * k * k)),
        Mistake("square-map", "The map was taken for a square: one of its sides has no part in it.",
                _cbam(convolution=lambda c, h, w, k: 2 * h * h * k * k),
                _cbam(convolution=lambda c, h, w, k: 2 * w * w * k * k)),
        Mistake("convolution-missing", "The MLP alone was counted: spatial attention has a convolution.",
                _cbam(convolution=lambda c, h, w, k: 0)),
        Mistake("multiply-adds-once", "Each multiply-add was counted as one. It is a multiplication and an addition: "
                "how many FLOPs is that?", _cbam(per=1), _cbam(per=1, result=lambda b, count: count),
                _cbam(lambda c, h, w, r: 2 * c * (c // r), per=1),
                _cbam(convolution=lambda c, h, w, k: h * w * k * k, per=1)),
        Mistake("counted-twice", "It is twice too much: is the 2 of a multiply-add in there two times?", _cbam(per=4)),
        Mistake("batch-forgotten", "The batch has no part in it. Each image costs the same, and all of them are "
                "computed.", _cbam(result=lambda b, count: count)),
        Mistake("batch-on-the-convolution-alone", "The MLP was counted for one image only. Its weights are shared, but "
                "is its work?", lambda b, c, h, w, r=16, k=7: 2 * _mlp(c, h, w, r) + 2 * b * _convolution(c, h, w, k)),
        Mistake("batch-on-the-mlp-alone", "The convolution was counted for one image only. Its weights are shared, but "
                "is its work?", lambda b, c, h, w, r=16, k=7: 2 * b * _mlp(c, h, w, r) + 2 * _convolution(c, h, w, k)),
        Mistake("pooling-or-gates-counted", "Work on every number of the map was counted: pooling, the multiplications "
                f"by the weights, or both. {_WHAT_COUNTS}",
                *(_cbam(rest=_for_each(n, lambda c, h, w: c * h * w)) for n in (1, 2, 3, 4, 5, 6))),
        Mistake("sigmoids-counted", f"The sigmoids were counted. {_WHAT_COUNTS}",
                *(_cbam(rest=_for_each(n, lambda c, h, w: c + h * w)) for n in (1, 2, 3, 4)),
                *(_cbam(rest=_for_each(n, lambda c, h, w: h * w)) for n in (3, 4))),
        Mistake("biases-counted", f"Biases were added. There are none, and {_WHAT_COUNTS[0].lower()}{_WHAT_COUNTS[1:]}",
                _cbam(rest=lambda c, h, w: h * w)),
        Mistake("backward-counted", "The backward pass was counted too (it takes twice the forward pass). The forward "
                "pass alone is asked for.", _cbam(per=6)),
        Mistake("leading-term", "Those are leading terms, as a big-O table shows them: `C` and `H · W` each hide a "
                "factor of their own.", lambda b, c, h, w, r=16, k=7: c + h * w,
                lambda b, c, h, w, r=16, k=7: b * (c + h * w), lambda b, c, h, w, r=16, k=7: b * c * h * w),
        Mistake("parameters-counted", "That is how many parameters there are. How often is each of them used for one "
                "image?", lambda b, c, h, w, r=16, k=7: 2 * c * (c // r) + 2 * k * k),
        *_types(cbam_flops),
    ),
)  # fmt: skip

# ------------------------------------------------------------------------------------------ score-memory


def score_memory(batch, num_heads, n_q, n_k, dtype):
    return batch * num_heads * n_q * n_k * dtype.itemsize


def _stored(
    elements: Callable[[int, int, int, int], float] = lambda b, h, q, k: b * h * q * k,
    size: Callable[[torch.dtype], float] = lambda dtype: dtype.itemsize,
    result: Callable[[float], Any] = lambda total: total,
) -> Callable[..., Any]:
    """The bytes of the scores with one thing wrong."""
    return lambda b, h, q, k, dtype: result(elements(b, h, q, k) * size(dtype))


def _in(unit: int, whole: bool = False) -> Callable[[float], float]:
    return lambda total: total // unit if whole else total / unit


_SIZE = "`dtype.itemsize` says how many bytes a number takes."

_SCORE_MEMORY = Answer(
    id="score-memory",
    solution=score_memory,
    why="Each of batch · h maps has n_q rows and n_k columns, and a number takes dtype.itemsize bytes: 8, 4, 2 or 2. "
    "The width has no part in it, but the heads have: unlike the FLOPs of the scores, their bytes grow with h.",
    hints=(
        "What shape has the tensor of all scores? The product of its sizes is how many numbers it holds.",
        "How many bytes does one number take? A dtype knows it; if you have forgotten how it says so, ask a tensor of "
        "that dtype for its `element_size()`, or count the bits in its name.",
        "The shape is `(B, h, n_q, n_k)`, a map for each head of each sequence. Multiply the number of elements by the "
        "bytes of one. Is everything still an integer?",
    ),
    mistakes=(
        Mistake("bits", "Those are bits. Eight of them are a byte.",
                _stored(size=lambda t: 8 * t.itemsize), _stored(size=lambda t: float(8 * t.itemsize))),
        Mistake("elements", f"Those are the elements of the tensor, not their bytes. {_SIZE}",
                _stored(size=lambda t: 1)),
        Mistake("float32-always", f"A number takes 4 bytes whatever the dtype. {_SIZE}", _stored(size=lambda t: 4)),
        Mistake("two-bytes-always", f"A number takes 2 bytes whatever the dtype. {_SIZE}", _stored(size=lambda t: 2)),
        Mistake("eight-bytes-always", f"A number takes 8 bytes whatever the dtype. {_SIZE}", _stored(size=lambda t: 8)),
        Mistake("only-one-half-precision", "One of the two dtypes of 16 bits was taken for one of 32. How many bits "
                "does each store?", _stored(size=lambda t: 4 if t == torch.bfloat16 else t.itemsize),
                _stored(size=lambda t: 4 if t == torch.float16 else t.itemsize)),
        Mistake("double-taken-for-single", "float64 was taken for something narrower. How many bits has it?",
                _stored(size=lambda t: min(4, t.itemsize)),
                _stored(size=lambda t: 2 if t.itemsize == 8 else t.itemsize)),
        Mistake("bfloat16-as-one-byte", "A bfloat16 was taken for something else than 16 bits wide.",
                _stored(size=lambda t: 1 if t == torch.bfloat16 else t.itemsize)),
        Mistake("heads-forgotten", "The heads have no part in it. In FLOPs they cancel, as each is narrower; is a "
                "head's map of scores narrower too?", _stored(lambda b, h, q, k: b * q * k)),
        Mistake("batch-forgotten", "The batch has no part in it. Does each sequence have scores of its own?",
                _stored(lambda b, h, q, k: h * q * k)),
        Mistake("one-map", "That is one map. There is one for each head of each sequence.",
                _stored(lambda b, h, q, k: q * k)),
        Mistake("n-q-squared", "The map was taken for a square of `n_q`. What do its columns stand for?",
                _stored(lambda b, h, q, k: b * h * q * q)),
        Mistake("n-k-squared", "The map was taken for a square of `n_k`. What do its rows stand for?",
                _stored(lambda b, h, q, k: b * h * k * k)),
        Mistake("lengths-added", "The lengths were added. A map has a score for each *pair* of a query and a key.",
                _stored(lambda b, h, q, k: b * h * (q + k))),
        Mistake("heads-added", "Batch and heads were added: each sequence has all heads.",
                _stored(lambda b, h, q, k: (b + h) * q * k)),
        Mistake("one-length-missing", "One of the two lengths has no part in it. A map has a row for each query and a "
                "column for each key.", _stored(lambda b, h, q, k: b * h * q), _stored(lambda b, h, q, k: b * h * k)),
        Mistake("weights-too", "It is twice the scores: those of the weights, too, or of a gradient. The scores alone "
                "are asked for.", _stored(lambda b, h, q, k: 2 * b * h * q * k)),
        Mistake("three-copies", "It is more than the scores: they alone are asked for, once.",
                _stored(lambda b, h, q, k: 3 * b * h * q * k), _stored(lambda b, h, q, k: 4 * b * h * q * k)),
        Mistake("mask-too", "A mask was counted with the scores. The scores alone are asked for.",
                lambda b, h, q, k, t: score_memory(b, h, q, k, t) + q * k,
                lambda b, h, q, k, t: score_memory(b, h, q, k, t) + b * q * k),
        Mistake("causal-half", "Only the pairs with a key that is not in the future were counted. The tensor holds all "
                "of them, masked or not.", _stored(lambda b, h, q, k: b * h * (q * (k + 1) // 2)),
                _stored(lambda b, h, q, k: b * h * (q * k // 2)),
                _stored(lambda b, h, q, k: b * h * (q * (q + 1) // 2))),
        Mistake("kilobytes-or-megabytes", "The unit is the byte; yours is a larger one.",
                *(_stored(result=_in(unit)) for unit in (1024, 1000, 1024**2, 10**6, 1024**3, 10**9)),
                *(_stored(result=_in(unit, whole=True)) for unit in (1024, 1000, 1024**2, 1024**3))),
        Mistake("heads-divided", "The number of heads divides something: `d_model` is shared out among heads, the "
                "lengths are not.", _stored(lambda b, h, q, k: b * q * k // h),
                _stored(lambda b, h, q, k: b * q * k / h)),
        *_types(score_memory),
    ),
)  # fmt: skip

# ------------------------------------------------------------------------------------- attention-entropy


def attention_entropy(weights):
    tiny = torch.finfo(weights.dtype).tiny  # its logarithm is finite, and 0 times it is 0
    surprise = -weights.clamp_min(tiny).log()
    return (weights * surprise).sum(dim=-1)


def _surprise(w: Tensor) -> Tensor:
    """−w log w, number by number."""
    return torch.special.entr(w)


def _entropy(
    before: Callable[[Tensor], Tensor] = lambda w: w,
    each: Callable[[Tensor], Tensor] = _surprise,
    join: Callable[[Tensor], Tensor] = lambda s: s.sum(-1),
    result: Callable[[Tensor, Tensor], Any] = lambda entropy, w: entropy,
) -> Callable[..., Any]:
    """The entropy of each row with one thing wrong."""

    def measure(weights: Tensor) -> Any:
        w = before(weights)
        return result(join(each(w)), w)

    return measure


def _nats(w: Tensor) -> Tensor:
    return _surprise(w).sum(-1)


_ZERO = (
    "`log 0` is −∞, and 0 times that is not a number. The limit of `w · log w` is 0: which number may stand under the "
    "logarithm instead, where the product is 0 anyway?"
)
_NEARLY = (
    "A one-hot row gives nearly 0, and it should give exactly 0. A number was added to the weights, or they were kept "
    "away from 0 or 1, which moves the logarithm of 1 as well. What keeps a weight of 1 as it is?"
)
_EACH_QUERY = "Return one number for each query of each head."

_ATTENTION_ENTROPY = Answer(
    id="attention-entropy",
    solution=attention_entropy,
    why="Only the logarithm has to be kept away from 0. Under it, weights of 0 become the smallest normal number, "
    "whose logarithm is finite, and 0 times that is exactly 0. Nothing else changes: a weight of 1 still has the "
    "logarithm 0. With a number added to all weights, log(1 + ε) would be left over; torch.special.entr does as this.",
    hints=(
        "Which dimension is a distribution? The sum runs over that one, and the others stay as they are.",
        "`weights * weights.log()` is right for every weight but 0. What does it give there, in torch, and what should "
        "it give?",
        "Adding a small number to all weights makes the NaN go away, but `log(1 + ε)` is not 0. Change the weight only "
        "under the logarithm, and only where it is 0: `clamp_min`, `torch.where` or `masked_fill` can do it. (Or look "
        "up `torch.special.entr` or `torch.xlogy`.)",
        "`surprise = −log w` can be made finite everywhere: put `weights.clamp_min(tiny)` under the logarithm, with a "
        "`tiny` that no weight above 0 falls below, such as `torch.finfo(weights.dtype).tiny`. What is left?",
    ),
    mistakes=(
        Mistake("nan-at-zero", f"A weight of 0 gives NaN. {_ZERO}", lambda w: -(w * w.log()).sum(-1),
                lambda w: -(w * w.log()).sum(-1, keepdim=True), lambda w: -(w * w.log2()).sum(-1),
                lambda w: (w * w.log()).sum(-1), lambda w: -(w * w.log()).mean(-1)),
        Mistake("nan-swept-away", "The NaN was swept away after the sum, and the other weights of its row with it. "
                f"{_ZERO}", lambda w: (-(w * w.log()).sum(-1)).nan_to_num()),
        Mistake("nearly-zero", _NEARLY, lambda w: -(w * (w + 1e-9).log()).sum(-1),
                lambda w: -(w * (w + 1e-6).log()).sum(-1), lambda w: -((w + 1e-9) * (w + 1e-9).log()).sum(-1),
                lambda w: -(w * (w + 1e-4).log()).sum(-1), lambda w: -((w + 1e-4) * (w + 1e-4).log()).sum(-1),
                lambda w: -(w * (w + 1e-3).log()).sum(-1),
                lambda w: -((w + 1e-3) * (w + 1e-3).log()).sum(-1), lambda w: -(w * (w + 1e-2).log()).sum(-1),
                _entropy(lambda w: w.clamp_min(1e-4)), _entropy(lambda w: w.clamp_min(1e-3))),
        Mistake("bits", "The unit is the bit: the logarithm has base 2. With which base is it the nat?",
                _entropy(result=lambda e, w: e / np.log(2))),
        Mistake("base-ten", "The logarithm has base 10. With which base is it the nat?",
                _entropy(result=lambda e, w: e / np.log(10))),
        Mistake("normalised", "It was divided by the largest value that it can have, `log n_k`, so it ends at 1. The "
                "entropy itself is asked for.", _entropy(result=lambda e, w: e / np.log(max(2, w.shape[-1]))),
                lambda w: _nats(w) / torch.tensor(float(w.shape[-1]), dtype=w.dtype).log()),
        Mistake("sign", "The sign is wrong: logarithms of weights are below 0, and an entropy never is.",
                _entropy(result=lambda e, w: -e)),
        Mistake("distance-from-uniform", "That is how far the row is from the uniform one, `log n_k` minus the "
                "entropy: it is largest where the entropy is 0.",
                _entropy(result=lambda e, w: np.log(w.shape[-1]) - e)),
        Mistake("mean-over-keys", "The terms of a row were averaged, not added: that divides by `n_k`.",
                _entropy(join=lambda s: s.mean(-1))),
        Mistake("sum-over-queries", "The sum runs over the queries. Which index of the weights adds up to 1?",
                _entropy(join=lambda s: s.sum(-2))),
        Mistake("not-summed", "There is a number for each pair: the sum over the keys is missing.",
                _entropy(join=lambda s: s)),
        Mistake("queries-averaged", f"The queries were averaged. {_EACH_QUERY}",
                _entropy(result=lambda e, w: e.mean(-1)), _entropy(result=lambda e, w: e.sum(-1)),
                _entropy(result=lambda e, w: e.mean(-1, keepdim=True))),
        Mistake("everything-averaged", f"All queries, heads and sequences became one number. {_EACH_QUERY}",
                _entropy(result=lambda e, w: e.mean()), _entropy(result=lambda e, w: e.sum())),
        Mistake("heads-averaged", "The heads were averaged. Two heads that look at one key each have entropy 0, and "
                "their mean hides that.",
                _entropy(lambda w: w.mean(-3) if w.ndim > 2 else w),
                _entropy(lambda w: w.mean(1) if w.ndim > 2 else w),
                _entropy(result=lambda e, w: e.mean(-2) if w.ndim > 2 else e),
                _entropy(lambda w: w.mean(1)), _entropy(result=lambda e, w: e.mean(1))),
        Mistake("batch-averaged", f"The first dimension was averaged, or added up. {_EACH_QUERY}",
                _entropy(lambda w: w.mean(0) if w.ndim > 2 else w),
                _entropy(result=lambda e, w: e.mean(0) if w.ndim > 2 else e),
                _entropy(result=lambda e, w: e.sum(0) if w.ndim > 2 else e)),
        Mistake("queries-averaged-before", "The queries' weights were averaged first: that is the entropy of what all "
                "queries together look at.", _entropy(lambda w: w.mean(-2)), _entropy(lambda w: w.mean(-2, True))),
        Mistake("dimension-kept", f"The keys' dimension was kept, with size 1. {_EACH_QUERY}",
                _entropy(join=lambda s: s.sum(-1, keepdim=True))),
        Mistake("four-dimensions-only", "It works for weights of one number of dimensions only. Which ones may be "
                "there, and which are always the last two?", _entropy(join=lambda s: s.sum(3)),
                _entropy(join=lambda s: s.sum(2)), _entropy(join=lambda s: s.sum(1))),
        Mistake("softmax-again", "A softmax was applied to the weights. They have been through one, and their rows add "
                "up to 1 already.", _entropy(lambda w: w.softmax(-1))),
        Mistake("weights-of-a-softmax-missing", "The logarithm is that of a softmax of the weights. They are weights "
                "already, not scores.", lambda w: -(w * w.log_softmax(-1)).sum(-1)),
        Mistake("not-weighted", "The logarithms were added without their weights: a key that is hardly looked at must "
                "hardly count.", _entropy(each=lambda w: -w.log()), _entropy(each=lambda w: -w.clamp_min(1e-12).log()),
                _entropy(each=lambda w: -w.log(), join=lambda s: s.mean(-1)),
                _entropy(each=lambda w: -(w + 1e-9).log())),
        Mistake("log-of-one-plus", "`log1p` is the logarithm of 1 + w.", _entropy(each=lambda w: -w * w.log1p()),
                _entropy(each=lambda w: w * w.log1p())),
        Mistake("both-sides", "Each weight was taken for a yes or no of its own, with `(1 − w) · log(1 − w)` added. "
                "The keys share one distribution.", _entropy(each=lambda w: _surprise(w) + _surprise(1 - w))),
        Mistake("perplexity", "That is the exponential of the entropy, the number of keys it amounts to.",
                _entropy(result=lambda e, w: e.exp())),
        Mistake("sum-of-squares", "That is a measure made of squares, `1 − Σ w²` or `−log Σ w²`. It says something "
                "similar, but is not the entropy.", lambda w: 1 - w.square().sum(-1),
                lambda w: -w.square().sum(-1).log()),
        Mistake("surest-weight-only", "Only the largest weight of a row has a part in it. All of them have.",
                lambda w: -w.amax(-1).log(), lambda w: _surprise(w.amax(-1)), lambda w: 1 - w.amax(-1),
                lambda w: w.amax(-1)),
        Mistake("spread-of-the-weights", "That is how much the weights of a row differ, which is largest where the "
                "entropy is 0.", lambda w: w.std(-1), lambda w: w.var(-1), lambda w: w.std(-1, unbiased=False),
                lambda w: w.var(-1, unbiased=False)),
    ),
)  # fmt: skip

# ------------------------------------------------------------------------------------ attention-distance


def mean_attention_distance(weights):
    place = torch.arange(weights.shape[-1])
    distance = (place[:, None] - place).abs()  # (n, n): row query, column key
    expected = (weights * distance).sum(dim=-1)  # for each query
    return expected.mean(dim=-1)


def _places(w: Tensor) -> Tensor:
    return torch.arange(w.shape[-1], dtype=w.dtype)


def _apart(w: Tensor) -> Tensor:
    return (_places(w)[:, None] - _places(w)).abs()


def _distance(
    before: Callable[[Tensor], Tensor] = lambda w: w,
    apart: Callable[[Tensor], Tensor] = _apart,
    keys: Callable[[Tensor, Tensor], Tensor] = lambda w, apart: (w * apart).sum(-1),
    queries: Callable[[Tensor], Any] = lambda each: each.mean(-1),
) -> Callable[..., Any]:
    """The mean distance with one thing wrong."""

    def measure(weights: Tensor) -> Any:
        w = before(weights)
        return queries(keys(w, apart(w)))

    return measure


def _without_itself(w: Tensor) -> Tensor:
    others = w * (1 - torch.eye(w.shape[-1]))
    return others / others.sum(-1, keepdim=True)


def _side(w: Tensor) -> float:
    return max(1, w.shape[-1])


_ABSOLUTE = "What is the distance from query 0 to key 2, and from query 2 to key 0?"
_ONE_EACH = "Each map has a number of its own."

_ATTENTION_DISTANCE = Answer(
    id="attention-distance",
    solution=mean_attention_distance,
    why="A column of places minus a row of places is a table of all differences, (n, n) like the map itself, and its "
    "absolute values are the distances. Weight times distance, summed over the keys, is the expectation of one query; "
    "the mean runs over the queries. Leading dimensions take part by broadcasting alone.",
    hints=(
        "Make the table of all distances `|q − k|` first: it is `(n, n)`, as a map is, and knows nothing of weights.",
        "A column of `torch.arange(n)` minus a row of it has all differences. What turns them into distances?",
        "The weights of a query are probabilities, so its expected distance is the sum over the keys of weight times "
        "distance. Which dimension is that?",
        "`weights * distance` broadcasts over heads and batch. Two reductions are left, of the last dimension each "
        "time: one of them is a sum, the other is a mean. Which is which?",
    ),
    mistakes=(
        Mistake("signed", f"The differences kept their signs, so looking back and looking ahead cancel. {_ABSOLUTE}",
                _distance(apart=lambda w: _places(w)[:, None] - _places(w)),
                _distance(apart=lambda w: _places(w) - _places(w)[:, None])),
        Mistake("sign-lost-too-late", "The absolute value was taken after the sum, when looking back and looking "
                "ahead had cancelled: that is how far the *mean place* that a query looks at is from it.",
                _distance(apart=lambda w: _places(w)[:, None] - _places(w), queries=lambda e: e.abs().mean(-1)),
                _distance(apart=lambda w: _places(w)[:, None] - _places(w), queries=lambda e: e.mean(-1).abs())),
        Mistake("squared", f"The distances were squared, so far keys count too much. {_ABSOLUTE}",
                _distance(apart=lambda w: _apart(w) ** 2)),
        Mistake("root-mean-square", "That is a root of a mean of squares. The plain distance is averaged here.",
                _distance(apart=lambda w: _apart(w) ** 2, queries=lambda e: e.sqrt().mean(-1)),
                _distance(apart=lambda w: _apart(w) ** 2, queries=lambda e: e.mean(-1).sqrt())),
        Mistake("root", "The roots of the distances were averaged.", _distance(apart=lambda w: _apart(w).sqrt())),
        Mistake("most-looked-at-key-only", "Only the key with the largest weight has a part in it: the others have "
                "their share too.",
                _distance(keys=lambda w, apart: (w.argmax(-1) - torch.arange(w.shape[-1])).abs().to(w.dtype))),
        Mistake("farthest-key-only", "Only the farthest keys count. A key counts by its weight.",
                _distance(keys=lambda w, apart: (w * apart).amax(-1)),
                _distance(queries=lambda e: e.amax(-1))),
        Mistake("queries-summed", "The queries were added up. How far does one of them look, on average?",
                _distance(queries=lambda e: e.sum(-1))),
        Mistake("queries-left-apart", f"There is a number for each query: their mean is missing. {_ONE_EACH}",
                _distance(queries=lambda e: e), _distance(queries=lambda e: e.mean(-1, keepdim=True))),
        Mistake("mean-over-keys", "The keys were averaged too, which divides by `n` once more. The weights of a query "
                "add up to 1 already: they are what averages.", _distance(keys=lambda w, apart: (w * apart).mean(-1))),
        Mistake("mean-over-keys-sum-over-queries", "Sum and mean have changed places, or every pair was divided twice.",
                _distance(keys=lambda w, apart: (w * apart).sum(-1), queries=lambda e: e.mean(-1) / e.shape[-1] ** 2)),
        Mistake("relative-distance", "The distance was divided by the length, or by the largest distance. It is "
                "counted in places.", _distance(queries=lambda e: e.mean(-1) / max(1, e.shape[-1] - 1)),
                lambda w: mean_attention_distance(w) / (w.shape[-1] - 1)),
        Mistake("divided-by-the-distances", "The sum was divided by that of all distances. The weights are what "
                "averages: they add up to 1.", _distance(keys=lambda w, a: (w * a).sum(-1) / a.sum(-1).clamp_min(1e-9)),
                lambda w: (w * _apart(w)).sum((-2, -1)) / _apart(w).sum().clamp_min(1e-9)),
        Mistake("everything-averaged", f"Heads and sequences became one number. {_ONE_EACH}",
                _distance(queries=lambda e: e.mean())),
        Mistake("everything-added", f"Heads and sequences were added up. {_ONE_EACH}",
                _distance(queries=lambda e: e.sum()), _distance(queries=lambda e: e.sum() / e.shape[-1])),
        Mistake("heads-averaged", f"The heads were averaged. {_ONE_EACH}",
                _distance(lambda w: w.mean(1) if w.ndim > 2 else w),
                _distance(lambda w: w.mean(-3) if w.ndim > 2 else w),
                _distance(lambda w: w.mean(1))),
        Mistake("batch-averaged", f"The first dimension was averaged. {_ONE_EACH}",
                _distance(lambda w: w.mean(0) if w.ndim > 2 else w)),
        Mistake("python-number", "A Python number came back. It has lost its gradient, and there is only one for all "
                "maps: return a tensor.", _distance(queries=lambda e: e.mean(-1).item()),
                _distance(queries=lambda e: e.mean().item()), _distance(queries=lambda e: e.mean(-1).tolist())),
        Mistake("one-number-in-a-dimension", "One map gives a tensor of shape `()`: yours has a dimension more.",
                _distance(queries=lambda e: e.mean(-1, True) if e.ndim == 1 else e.mean(-1))),
        Mistake("four-dimensions-only", "It works for weights of one number of dimensions only. Which ones may be "
                "there, and which are always the last two?",
                _distance(keys=lambda w, apart: (w * apart).sum(3), queries=lambda e: e.mean(2)),
                _distance(keys=lambda w, apart: (w * apart).sum(2), queries=lambda e: e.mean(1)),
                _distance(keys=lambda w, apart: (w * apart).sum(1), queries=lambda e: e.mean(0))),
        Mistake("place-of-the-key", "That is the mean place of the keys. How far is it from the query?",
                lambda w: (w * _places(w)).sum(-1).mean(-1)),
        Mistake("place-of-the-query", "That is weighted by the query's place. How far is the key from it?",
                lambda w: (w * _places(w)[:, None]).sum(-1).mean(-1)),
        Mistake("counted-from-1", "A query is one place away from itself in yours. How far should that be?",
                _distance(apart=lambda w: _apart(w) + 1)),
        Mistake("one-less", "Neighbours have no distance in yours. How far are they apart?",
                _distance(apart=lambda w: (_apart(w) - 1).clamp_min(0)), _distance(apart=lambda w: _apart(w) - 1)),
        Mistake("share-of-others", "All other keys count alike, however far away they are.",
                _distance(apart=lambda w: (_apart(w) > 0).to(w.dtype))),
        Mistake("itself-left-out", "The weight of a query for its own place was left out, and the others made up for "
                "it. It counts, with distance 0.", _distance(_without_itself),
                _distance(lambda w: _without_itself(w).nan_to_num())),
        Mistake("round-the-corner", "The last key is a neighbour of the first one in yours. A sequence is no ring.",
                _distance(apart=lambda w: torch.minimum(_apart(w), w.shape[-1] - _apart(w)))),
        Mistake("only-back", "Only keys before the query have a distance, or only those after it. It may look both "
                "ways.", _distance(apart=lambda w: (_places(w)[:, None] - _places(w)).clamp_min(0)),
                _distance(apart=lambda w: (_places(w) - _places(w)[:, None]).clamp_min(0))),
        Mistake("weights-ignored", "The weights have no part in it: that is the distance when all keys count alike.",
                _distance(lambda w: torch.full_like(w, 1 / w.shape[-1])),
                _distance(keys=lambda w, a: a.expand_as(w).sum(-1)), lambda w: _apart(w).mean()),
        Mistake("softmax-again", "A softmax was applied to the weights. They have been through one, and their rows add "
                "up to 1 already.", _distance(lambda w: w.softmax(-1))),
        Mistake("halved", "It is half of the distance. Each pair of a query and a key stands in the map once.",
                _distance(queries=lambda e: e.mean(-1) / 2)),
    ),
)  # fmt: skip

ANSWERS = (
    _ATTENTION_FLOPS,
    _CROSSOVER_LENGTH,
    _CBAM_FLOPS,
    _SCORE_MEMORY,
    _ATTENTION_ENTROPY,
    _ATTENTION_DISTANCE,
)
