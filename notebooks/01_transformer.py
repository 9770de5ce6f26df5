# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   attn_course:
#     alone: true
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Transformer attention: how does a token find what it needs?
#
# **After this chapter you can** compute attention by hand, write it with masks and heads without the usual mistakes,
# say why the scores are divided by $\sqrt{d_k}$, read a trained model's attention maps with numbers instead of
# impressions, and predict what a forward pass costs.
#
# **You need** matrix products, softmax, and a little PyTorch. **It takes** about 90 minutes with its eight exercises,
# 35 without. The symbols are explained on the page [Notation](../book/notation.md).

# %% tags=["setup", "nbval-ignore-output"]
# Set-up. In Colab this installs the course and leaves torch and numpy as they are; elsewhere it changes nothing.
try:
    import attn_course
except ImportError:
    import subprocess
    import sys

    repository = "https://github.com/attn-course/attn-course"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    subprocess.run([*pip, f"git+{repository}"], check=True)
    import attn_course
from attn_course import machine

device = machine.introduce()
assert attn_course.__version__

# %%
import math
import textwrap

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
from torch import nn

from attn_course import plots, textbook
from attn_course.exercises import get
from attn_course.prose import glue, say

plots.use_house_style()

# %% [markdown]
# ## The trouble: fixed weights cannot look things up
#
# Here is a task that a child solves: read five pairs of a name and a number, in any order, then say the number of one
# name. A layer whose weights are fixed after training mixes the five places always in the same way. Let us give it
# its best chance: always answer with the number at the same place, and take the place that does best.

# %%
# five names in random order, a number for each, and one name that is asked for
generator = torch.Generator().manual_seed(0)
names = torch.rand(2000, 5, generator=generator).argsort(dim=1)
numbers = torch.randint(10, (2000, 5), generator=generator)
asked = torch.randint(5, (2000, 1), generator=generator)
answer = numbers[names == asked]

best = max((numbers[:, i] == answer).float().mean().item() for i in range(5))
print(f"best fixed place: {best:.2f} of the answers are right")

# %% tags=["remove-input"]
chance = 1 / 5 + 4 / 5 * 1 / 10
assert abs(best - chance) < 0.05
glue("fixed_weights_accuracy", f"{best:.2f}")
say(
    "Right in {best:.0%} of the stories, as expected: the asked name stands at that place in 1/5 of them, and in the "
    "other 4/5 the number there is right by luck in 1/10, together {chance:.0%}. More places would make it worse. What is "
    "missing are weights that depend on the *content*: compare the name that is asked for with every name, and put the "
    "weight where they agree.",
    best=best, chance=chance,
)  # fmt: skip

# %%
weights = (names == asked).float()  # 1 on the name that is asked for, 0 elsewhere
look_up = (weights * numbers).sum(dim=1)
print(f"weights from the content: {(look_up == answer).float().mean():.2f} are right")

# %% [markdown]
# ## By hand: a soft look-up with three tokens
#
# A yes or no has no gradient, so nothing could be learned through it. Attention is the
# same look-up made soft. Every token sends out a **query** (what am I looking for?), shows a **key** (what do I
# have?) and carries a **value** (what do I hand over?). The weight of a key is large where it agrees with the query,
# and all weights of a query add up to 1.
#
# Take *dog bites man*. Here we choose the numbers; in a model, learned linear maps make them from each token (section
# *Heads*). In our keys the first number says "I am alive", the second "I am an action". The values
# speak another language: their first number says "dog", the second "man".

# %%
tokens = ["dog", "bites", "man"]
# dog and man look for an action, bites looks for somebody alive (and asks twice as loudly)
q = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 1.0]])
k = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
# dog hands over (1, 0), man (0, 1), bites nothing
v = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])

scores = q @ k.T / math.sqrt(2)
print(scores)

# %% [markdown]
# A score is a dot product, divided by $\sqrt{2}$ for a reason that we will measure soon. The query of *bites* is in
# the middle row.
#
# > **Predict.** Softmax turns the row $(1.41,\ 0,\ 1.41)$ into weights that add up to 1. Is the weight on *dog* above
# > or below one half? Which two weights are equal? Decide before you look at the next output.

# %%
weights = scores.softmax(dim=-1)
output = weights @ v
print(weights[1], "adds up to", f"{weights[1].sum():.0f}")
print("bites receives", output[1])

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-three-tokens", "caption": "The weights of three tokens: queries down, keys across. Each row adds up to 1."}, "image": {"alt": "A map of three by three fields. The row of bites has its large, equal weights on dog and man; the rows of dog and man have their largest weight on bites."}}
assert (
    weights[1, 0] == weights[1, 2] < 0.5
    and weights[0].argmax() == weights[2].argmax() == 1
)
plots.attention_maps(
    [weights],
    ["bites divides its attention between dog and man"],
    queries=tokens,
    keys=tokens,
    values=True,
    side=3.2,
)
plt.show()

# %% [markdown]
# [Figure](#fig-three-tokens) reads row by row. *Bites* found its two animals, each with a little less than one
# half, because nothing is ever exactly excluded by a softmax. And look at what *bites* received: as much dog as man.
# Nothing says who bites whom. Attention in which every token sees all others does not know their order, and chapter 2
# is about that.

# %% [markdown]
# ## The formula
#
# All queries together are the rows of a matrix $Q$, with keys and values in $K$ and $V$. What we did by hand is one
# line ([Vaswani et al., 2017](https://arxiv.org/abs/1706.03762)):
#
# <a id="eq-attention"></a>
# $$
# \begin{aligned}
# &\mathrm{attention}(Q, K, V) \\
# &\quad = \mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt{d_k}}\right) V
# \end{aligned}
# $$
#
# The softmax runs over the keys, along each row. $Q$ is $(n_q, d_k)$, $K$ is $(n_k, d_k)$ and $V$ is $(n_k, d_v)$: the
# number of queries, the number of keys and the width of the values may all differ.
#
# A **mask** says which keys a query may look at. A score that is not allowed becomes $-\infty$ before the softmax: since
# $e^{-\infty} = 0$, its key gets no weight, and the others share all of it.

# %% [markdown]
# > **Exercise.** Write `scaled_dot_product_attention(q, k, v, mask=None)`. Every query is compared with every key by a dot product,
# > scaled for its width; a softmax turns a query's scores into weights; the output is the weighted mean of the values.
# >
# > - `q` is `(…, n_q, d_k)`, `k` is `(…, n_k, d_k)`, `v` is `(…, n_k, d_v)`. The dots stand for any number of leading
# >   dimensions, none included, the same in all three. `n_q` and `n_k` may differ, and so may `d_k` and `d_v`.
# > - `mask`, where given, broadcasts to `(…, n_q, n_k)`. It is bool, or 0/1 of any dtype: True or 1 where a query may
# >   attend. Each query has at least one key.
# > - Return `(output, weights)`, of shapes `(…, n_q, d_v)` and `(…, n_q, n_k)`.


# %%
def scaled_dot_product_attention(q, k, v, mask=None):
    """Attend from every query to every key.

    q (..., n_q, d_k), k (..., n_k, d_k), v (..., n_k, d_v)
    mask: broadcasts to (..., n_q, n_k), True or 1 where a query may attend
    returns output (..., n_q, d_v), weights (..., n_q, n_k)
    """
    ...  # your code here


# %%
get("scaled-dot-product").check(scaled_dot_product_attention)

# %% [markdown]
# The definition is folded here, so that it does not give the answer away. It ends in a comparison with the package's
# function on sizes that all differ. From here on the chapter calls `attention`: your function if it passed the check,
# ours otherwise. Nobody has to solve an exercise in order to read on.


# %% tags=["hide-input"]
def attention_by_definition(q, k, v, mask=None):
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -math.inf)
    weights = scores.softmax(dim=-1)
    return weights @ v, weights


generator = torch.Generator().manual_seed(1)
sizes = {"q": (2, 3, 5, 7), "k": (2, 3, 11, 7), "v": (2, 3, 11, 13)}
example = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
for ours, package in zip(
    attention_by_definition(**example),
    attn_course.scaled_dot_product_attention(**example),
    strict=True,
):
    torch.testing.assert_close(ours, package)
attention = get("scaled-dot-product").use(scaled_dot_product_attention)
print("definition and package agree; output", tuple(attention(**example)[0].shape))

# %% [markdown]
# ## Why divide by the root of the width? An experiment
#
# **Hypothesis.** If the entries of queries and keys are independent with variance 1, each product of two has variance 1,
# and the $d_k$ of them in a dot product add up to variance $d_k$: a typical size of $\sqrt{d_k}$. Without the division,
# wide heads get large scores, and the softmax puts everything on one key. Its gradient then vanishes, for the derivative
# of a weight $w$ by its own score is $w(1-w)$: zero at $w = 0$ and at $w = 1$. The head cannot learn to look elsewhere.
# Dividing by $\sqrt{d_k}$ should make width irrelevant.

# %% [markdown]
# We measure with 32 random queries and keys and five seeds. The **entropy** of the weights says how many keys share
# them: 0 if one key has all, $\ln 32 = 3.47$ nats (units of the natural logarithm) if all have the same. Then we make up
# a loss: its gradient by the output is random, of size about 1, and `backward` carries it back. We take its size where
# the softmax hands it out, at the scores, and where learning needs it, at the queries. Half of the queries get less than
# the median that is shown.
#
# > **Predict.** An undivided score moves $\sqrt{d_k}$ times as far with its query. So one thing makes the gradient at
# > the queries larger without the scale, another makes it vanish. Which wins at a width of 16, which at 1024?


# %%
def saturation(d_k, scale, seed, n=32):
    generator = torch.Generator().manual_seed(seed)
    q, k, v, sent_back = (torch.randn(n, d_k, generator=generator) for _ in range(4))
    q.requires_grad_()
    scores = scale * q @ k.T
    scores.retain_grad()  # autograd keeps gradients of inputs alone unless it is asked
    weights = scores.softmax(dim=-1)
    (weights @ v).backward(sent_back / math.sqrt(d_k))
    at_scores, at_queries = scores.grad.norm(dim=-1), q.grad.norm(dim=-1)
    return {
        "entropy": attn_course.attention_entropy(weights.detach()).mean().item(),
        "at the scores": at_scores.median().item(),
        "at the queries": at_queries.median().item(),
        "mean": at_queries.mean().item(),
    }


widths = (4, 16, 64, 256, 1024)
ways = (
    ("with the scale", lambda d_k: 1 / math.sqrt(d_k)),
    ("without it", lambda d_k: 1.0),
)
table = pd.DataFrame(
    {"d_k": d_k, "scores": name, "seed": seed, **saturation(d_k, scale(d_k), seed)}
    for d_k in widths
    for name, scale in ways
    for seed in range(5)
)
means = table.groupby(["scores", "d_k"]).mean().drop(columns="seed")
print(means[["at the scores", "at the queries"]].unstack(0).round(4))

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-scale", "caption": "Against the width of a head: entropy of the weights; gradient of the median query at its scores and at itself. Mean and range of five seeds; the dotted line is an even spread."}, "image": {"classes": "wide", "alt": "Three line charts against the head width from 4 to 1024. With the scale the entropy and the gradient at the scores and at the queries stay level. Without it the entropy and the gradient at the scores fall towards zero; the gradient at the queries is larger at widths up to 64, and smaller from 256 on."}}
with_scale, without = means.loc["with the scale"], means.loc["without it"]
assert without["entropy"].is_monotonic_decreasing
assert without["at the scores"][1024] < 0.05 * with_scale["at the scores"][1024]
assert with_scale["entropy"].max() - with_scale["entropy"].min() < 0.2
figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.2))
style = {"x": "d_k", "hue": "scores", "palette": plots.COLOURS, "marker": "o"}
for axis, measured in zip(
    axes, ("entropy", "at the scores", "at the queries"), strict=True
):
    sns.lineplot(table, y=measured, errorbar=("pi", 100), ax=axis, **style)
    axis.set(xscale="log", xlabel="width of a head, $d_k$", ylim=(0, None))
    axis.set_ylabel("gradient" if measured != "entropy" else "entropy (nats)")
axes[0].axhline(math.log(32), color=plots.COLOURS["baseline"], linestyle=":")
axes[0].set_ylim(0, 3.8)
axes[0].set_title("Without the scale one key takes all")
axes[1].set_title("… at the scores")
axes[2].set_title("… at the queries")
axes[1].get_legend().remove()
axes[2].get_legend().remove()
plt.show()

# %% tags=["remove-input"]
medians = {
    name: with_scale[name][1024] / without[name][1024]
    for name in ("at the scores", "at the queries")
}
faded, learned = medians.values()
lottery = without["mean"][1024] / with_scale["mean"][1024]
ahead = [
    d for d in widths if without["at the queries"][d] > with_scale["at the queries"][d]
]
assert 5 < learned < faded and lottery > 2 and ahead == list(widths[: len(ahead)])
glue("scale_gradient_ratio", f"{learned:.0f}")
say(
    "At width 1024 the unscaled weights have an entropy of {low:.2f} nats, nearly a choice of one key, and the median query gets "
    "{faded:.0f} times less gradient at its scores: the softmax is saturated, as the hypothesis says ([figure](#fig-scale)). At the "
    "queries themselves it is {learned:.0f} times less, and up to width {ahead} the unscaled head even gets *more*. The *mean* "
    "over the queries tells the rest: at 1024 it is {lottery:.0f} times as large as with the scale. Most queries learn nothing, and the few "
    "that are undecided between two keys are thrown far. With the scale the median at the queries stays between {least:.2f} and "
    "{most:.2f} at every width. One limit: the argument needs entries of variance 1, which holds where training begins and may not hold later.",
    low=without["entropy"][1024], faded=faded, learned=learned, ahead=ahead[-1], lottery=lottery,
    least=with_scale["at the queries"].min(), most=with_scale["at the queries"].max(),
)  # fmt: skip

# %% [markdown]
# Now take hold of it. The figure below is a microscope on the three tokens of this chapter: every number from queries, keys
# and values to what a word receives. *Temperature* divides the scores once more: at $1/\sqrt{d_k}$ it cancels the scale, below
# that it sharpens further. Change any number, or type in a sentence of your own. Masks and heads have their sections after this one.
#
# > **Predict.** The colder, the sharper the choice. At the lowest temperature, 0.1: has *bites* chosen between *dog* and *man*?

# %% tags=["nbval-ignore-output", "hide-input"]
from attn_course import widgets

microscope = widgets.AttentionMicroscope(snippets=())
cold, warm = (
    [row[-1] for row in microscope.tables(temperature=t)[0]["rows"]] for t in (0.1, 10)
)
assert cold[0] == cold[2] > 0.4999 and max(warm) - min(warm) < 0.05
one_number = [["k", 2, 0, 1.5]]  # the first number of man's key: 1.5, was 1
chosen = microscope.tables(temperature=0.1, edits=one_number)[0]["rows"]
assert chosen[2][-1] > 0.99
microscope

# %% tags=["remove-input"]
say(
    "It has not: equal keys get equal scores at every temperature, here {cold:.0%} each, and only *bites* itself is out. Heat does the opposite: at 10 the three weights lie "
    "between {low:.0%} and {high:.0%}. But raise the first number of the key of *man* from 1 to 1.5, and at 0.1 he gets {chosen:.1%}.",
    cold=cold[0], low=min(warm), high=max(warm), chosen=chosen[2][-1],
)  # fmt: skip

# %% [markdown]
# ## Masks: what a query may look at
#
# Two needs come back in every model. A model that predicts the next token must not see it: query $i$ may look at keys
# $0 \dots i$ alone, which is a **causal mask**. And sequences of different lengths are padded to one length, and
# nobody may look at the padding: a **padding mask**. In this book a mask is True where attention is allowed, and it
# broadcasts to $(B, h, n_q, n_k)$. The microscope above has both.
#
# > **Predict.** In *dog bites man*, which word has only one key left under a causal mask, and what does it receive? Set *Mask* to
# > *causal* and follow it.

# %% [markdown]
# > **Exercise.** Write `causal_mask(n)`: which keys may each query see, if nobody may look ahead?
# >
# > - Return a bool tensor `(n, n)`: row = query, column = key.
# > - True where the key is not later than the query. A token sees itself.


# %%
def causal_mask(n):
    """The mask of a sequence that may not look ahead.

    returns bool (n, n): row = query, column = key, True where the query may attend
    """
    ...  # your code here


# %%
get("causal-mask").check(causal_mask)

# %% [markdown]
# > **Exercise.** Write `padding_mask(lengths, n)`: a batch of sequences of different lengths was filled up to length `n`, with the
# > padding at the end. Which keys are real tokens?
# >
# > - `lengths` is an integer tensor `(B,)`: how many real tokens each sequence has.
# > - Return a bool tensor `(B, 1, 1, n)`, True for real tokens, ready to broadcast over heads and queries.


# %%
def padding_mask(lengths, n):
    """Which keys are real tokens, in a batch that was filled up to length n.

    lengths (B,), integers
    returns bool (B, 1, 1, n), True for real tokens
    """
    ...  # your code here


# %%
get("padding-mask").check(padding_mask)

# %% [markdown]
# Both definitions are one comparison of indices, folded here. The two masks go together with "and": a query sees a
# key if the key is not in its future and not padding. The batch below has sentences of six and four tokens.


# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-masks", "caption": "A causal mask, the padding of a sentence of four tokens in a batch of length six, and both together. Coloured: may attend."}, "image": {"alt": "Three grids of six by six. The causal mask is a lower triangle; the padding mask has its last two columns empty; together they are a lower triangle without the last two columns."}}
def causal_by_definition(n):
    return torch.arange(n)[:, None] >= torch.arange(n)  # key not after the query


def padding_by_definition(lengths, n):
    return (torch.arange(n) < lengths[:, None])[:, None, None, :]


lengths = torch.tensor([6, 4])
assert causal_by_definition(6).equal(attn_course.causal_mask(6))
assert padding_by_definition(lengths, 6).equal(attn_course.padding_mask(lengths, 6))
causal = get("causal-mask").use(causal_mask)(6)
padding = get("padding-mask").use(padding_mask)(lengths, 6)
both = causal & padding
assert both[1, 0].sum() < causal.sum()
plots.masks(
    [causal, padding[1, 0].expand(6, 6), both[1, 0]],
    ["Causal: no future", "Padding: only real", "Both: what is left"],
)
plt.show()

# %% [markdown]
# How does a mask act? A masked key must get the weight 0, exactly, and the others must add up to 1 among themselves.
# The usual way is to write a very negative number, $-10^9$, into the masked scores. The module `textbook` holds attention as it is usually
# written; `textbook.MultiHeadAttention(8, 2)` is a layer of width 8 with two heads, which the next section explains.
# Let us watch what it does in float16, one of the two common formats of half precision, with a causal mask.

# %%
half = textbook.MultiHeadAttention(8, 2).eval().half()
x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(2)).half()
try:
    half(x, x, x, attn_course.causal_mask(6))
except RuntimeError as error:
    print(error)

# %% [markdown]
# float16 ends at 65504, so $-10^9$ does not exist there. (bfloat16, the other one, has the range of float32 and room for it.)
# The second failure is silent: a query that may attend
# nowhere, as happens when a whole sequence is padding.
#
# > **Predict.** All scores of a row are replaced by $-10^9$. What are the weights?

# %%
nowhere = torch.zeros(1, 1, 1, 6, dtype=torch.bool)
usual = textbook.MultiHeadAttention(8, 2).eval()
_, weights = usual(x.float(), x.float(), x.float(), nowhere)
print("-1e9:", weights[0, 0, 0].detach())
print("-inf:", torch.full((6,), -math.inf).softmax(dim=-1))

# %% [markdown]
# With $-10^9$ the row becomes an even mean of everything that was forbidden; with $-\infty$ it becomes NaN, and so
# does every gradient behind it. What should it be? The query has nothing to look at, so it receives nothing: a row of
# zeros, with gradients that are zero and not NaN. That is the next function, and every mechanism of this book keeps
# to it.

# %% [markdown]
# > **Exercise.** Write `masked_softmax(scores, mask)`: the softmax over the last dimension, among the allowed entries only.
# >
# > - `scores` is `(…, n_q, n_k)`, in float32, float16 or bfloat16; the result has its shape and dtype.
# > - `mask` is bool, broadcasts to the shape of `scores`, and is True where attention is allowed.
# > - Where it is False the weight is exactly 0. A row that allows something sums to 1.
# > - A row that allows nothing is all zeros, and the gradient that flows back through it is finite.


# %%
def masked_softmax(scores, mask):
    """Softmax over the last dimension, among the entries that the mask allows.

    scores (..., n_q, n_k), float32, float16 or bfloat16
    mask: bool, broadcasts to scores, True where attention is allowed
    returns weights, like scores: exact zeros where masked, a row of zeros where nothing is allowed
    """
    ...  # your code here


# %%
get("masked-softmax").check(masked_softmax)

# %% [markdown]
# The definition, folded, takes the exponential of what is allowed and divides by the sum, which it keeps away from
# zero. Below it the package's function passes both traps: half precision, and a row with nothing allowed. A softmax over
# $-\infty$ with `nan_to_num` behind it gives the same numbers: its NaN is stopped on the way back by the mask, and only a search for
# them (`torch.autograd.detect_anomaly`) complains.


# %% tags=["hide-input"]
def masked_softmax_by_definition(scores, mask):
    mask = mask != 0
    largest = scores.masked_fill(~mask, -math.inf).amax(dim=-1, keepdim=True)
    largest = largest.masked_fill(largest == -math.inf, 0)
    e = (scores - largest).masked_fill(~mask, -math.inf).exp()
    return e / e.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(e.dtype).tiny)


generator = torch.Generator().manual_seed(3)
trial = torch.randn(5, 7, generator=generator)
allowed = torch.rand(5, 7, generator=generator) < 0.6
allowed[2] = False
torch.testing.assert_close(
    masked_softmax_by_definition(trial, allowed),
    attn_course.masked_softmax(trial, allowed),
)
softmax = get("masked-softmax").use(masked_softmax)
print(softmax(trial.half(), allowed)[1:4])

# %% [markdown]
# > **Trap.** The third failure needs a batch with as many sequences as tokens. A padding mask written as `(B, n)`
# > instead of `(B, 1, 1, n)` broadcasts like a `(query, key)` mask. With $B = n$ nobody complains, and what a query sees
# > is decided by the length of *another* sequence: below, the last query of the full sequence loses two real tokens.

# %%
flat = torch.arange(3) < torch.tensor([3, 2, 1])[:, None]  # (B, n) with B = n = 3
batch = torch.randn(3, 3, 8, generator=torch.Generator().manual_seed(4))
_, weights = usual(batch, batch, batch, flat)
print(
    "sequence 0 has three tokens; its last query sees",
    (weights[0, 0, 2] > 0).sum().item(),
    "of them",
)
_, weights = usual(batch, batch, batch, flat[:, None, None, :])
print("written as (B, 1, 1, n) it sees", (weights[0, 0, 2] > 0).sum().item())

# %% [markdown]
# No library can tell the two meanings apart when $B = n$. When the sizes differ, the package refuses and shows the
# right spelling:

# %%
try:
    five = torch.randn(3, 5, 8)  # three sequences of five tokens
    attn_course.MultiHeadAttention(8, 2)(
        five, five, five, torch.arange(5) < torch.tensor([[5], [4], [2]])
    )
except ValueError as error:
    print(textwrap.fill(str(error), 78))

# %% [markdown]
# ## Heads: several questions at once
#
# One set of weights per query means one question per token. A verb would like to ask several at the same time: who is
# alive here, what else is done, which word stands before me? So the width $d_{model}$ is cut into $h$ **heads** of width
# $d_k = d_{model} / h$, each head attends by itself, and the results are laid side by side again. Cutting is a matter
# of reshaping, where the usual mistake gives the right shape and the wrong numbers.
#
# > **Predict.** In the microscope, two *Heads* of width 1 ask *alive?* and *action?* separately. The query of *bites* is 0 in head 1:
# > where does it look there? Set *Heads* to 2 and show head 1.

# %% [markdown]
# > **Exercise.** Write `split_heads(x, num_heads)`: cut each token's `d` channels into `num_heads` pieces of `d_k = d / num_heads`, and
# > give each head its own sequence.
# >
# > - `x` is `(B, n, d)`; `num_heads` divides `d`.
# > - Return `(B, num_heads, n, d_k)`: head `i` holds the channels `i · d_k` to `(i + 1) · d_k − 1` of every token.


# %%
def split_heads(x, num_heads):
    """Give each head its share of every token's channels.

    x (B, n, d), num_heads divides d
    returns (B, num_heads, n, d_k): head i has the channels i * d_k ... (i + 1) * d_k - 1
    """
    ...  # your code here


# %%
get("split-heads").check(split_heads)

# %% [markdown]
# > **Exercise.** Write `merge_heads(x)`: undo `split_heads`.
# >
# > - `x` is `(B, h, n, d_k)`, and may lie in memory in any order.
# > - Return `(B, n, h · d_k)`: each token's channels, head 0 first.


# %%
def merge_heads(x):
    """Put the heads of every token side by side: the inverse of split_heads.

    x (B, h, n, d_k), contiguous or not
    returns (B, n, h * d_k), head 0 first
    """
    ...  # your code here


# %%
get("merge-heads").check(merge_heads)

# %% [markdown]
# Why does the order of the axes matter so much? A `view` straight to $(B, h, n, d_k)$ takes the numbers as they lie in
# memory, token after token. Head 0 then holds all channels of the first tokens, where it should hold the first
# channels of all tokens. The shapes agree; nothing raises. The folded cell shows both on two tokens of width 4.


# %% tags=["hide-input"]
def split_by_definition(x, num_heads):
    B, n, d = x.shape
    return x.reshape(B, n, num_heads, d // num_heads).transpose(1, 2)


def merge_by_definition(x):
    B, h, n, d_k = x.shape
    return x.transpose(1, 2).reshape(B, n, h * d_k)


wide = torch.tensor([[[0.0, 1, 2, 3], [10, 11, 12, 13]]])  # token 0, then token 1
assert split_by_definition(wide, 2).equal(attn_course.split_heads(wide, 2))
assert merge_by_definition(split_by_definition(wide, 2)).equal(wide)
split = get("split-heads").use(split_heads)
merge = get("merge-heads").use(merge_heads)
print("head 0, split and transposed:\n", split(wide, 2)[0, 0])
print("head 0, by a view alone:\n", wide.view(1, 2, 2, 2)[0, 0])

# %% [markdown]
# ### Multi-head attention
#
# Before it is cut, each token goes through a learned linear map, one for queries, one for keys, one for values, and a
# fourth mixes the heads at the end:
#
# <a id="eq-multi-head"></a>
# $$
# \begin{aligned}
# &Q = \mathrm{split}(X W_q), \\
# &K = \mathrm{split}(Y W_k), \quad V = \mathrm{split}(Y W_v), \\
# &\mathrm{MHA}(X, Y) = \\
# &\quad \mathrm{merge}(\mathrm{attention}(Q, K, V))\, W_o
# \end{aligned}
# $$
#
# With $X = Y$ this is **self-attention**. With another $Y$ it is **cross-attention**: the queries come from one
# sequence, keys and values from another one, of another length. Each map adds a learned bias too, which is left out here. The chapter's `split`, `attention` and `merge` are there
# for you to use, whether or not you wrote them.

# %% [markdown]
# > **Exercise.** Write the `forward` of `MultiHeadAttention(d_model, num_heads)`. `__init__` is given: four projections `w_q`, `w_k`,
# > `w_v`, `w_o`. Project, split into heads, attend in each head with its own `d_k`, merge, project once more.
# >
# > - `query` is `(B, n_q, d_model)`, `key` and `value` are `(B, n_k, d_model)`: they may be other sequences than the query,
# >   and of another length (cross-attention).
# > - `mask`, where given, is bool, True where attention is allowed, and broadcasts to `(B, h, n_q, n_k)`.
# > - Return `(output, weights)`, of shapes `(B, n_q, d_model)` and `(B, h, n_q, n_k)`.

# %%
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


# %%
get("multi-head-attention").check(MultiHeadAttention)

# %% [markdown]
# The folded cell has our definition, put together from the functions above, and loads its weights into the package's
# module: the same numbers come out, in self-attention and across two lengths.


# %% tags=["hide-input"]
class MultiHeadAttentionByDefinition(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.w_q, self.w_k, self.w_v, self.w_o = (
            nn.Linear(d_model, d_model) for _ in range(4)
        )

    def forward(self, query, key, value, mask=None):
        q = split(self.w_q(query), self.num_heads)
        k = split(self.w_k(key), self.num_heads)
        v = split(self.w_v(value), self.num_heads)
        output, weights = attention(q, k, v, mask)
        return self.w_o(merge(output)), weights


torch.manual_seed(5)
own = MultiHeadAttentionByDefinition(12, 3)
package = attn_course.MultiHeadAttention(12, 3).eval()
package.load_state_dict(own.state_dict())
question, text = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
torch.testing.assert_close(own(question, text, text), package(question, text, text))
Attention = get("multi-head-attention").use(MultiHeadAttention)
_, weights = Attention(12, 3)(question, text, text)
print("cross-attention: weights", tuple(weights.shape))

# %% [markdown]
# The usual form takes the length of the *queries* for everything. Cross-attention then fails, with a message about
# shapes that helps nobody. Worse: where the number of elements happens to fit, it does not fail, and mixes rows.

# %%
usual = textbook.MultiHeadAttention(12, 3).eval()
try:
    usual(question, text, text)
except RuntimeError as error:
    print(error)

# two questions of three tokens, one text of six tokens: 2 * 3 == 1 * 6
one_text = text[:1, :6]
mixed, _ = usual(question[:, :3], one_text, one_text)
print("no complaint,", tuple(mixed.shape), "but each question saw half of the text")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-heads", "caption": "Six tokens of width 12 in an untrained layer with three heads: the values, cut into heads; the map of each head (queries and keys enlarged threefold, so that the maps can be told apart); what the heads hand over, side by side again."}, "image": {"classes": "wide", "alt": "Five panels from left to right: the values of six tokens with their twelve channels cut into three heads, three attention maps of six by six with different patterns, and the merged output of six by twelve."}}
torch.manual_seed(6)
layer = attn_course.MultiHeadAttention(12, 3).eval()
words = torch.randn(1, 6, 12)
_, weights = layer(3 * words, 3 * words, words)
values = layer.w_v(words)
merged = merge(weights @ split(values, 3))
largest = weights[0].argmax(dim=-1)
assert not largest[0].equal(largest[1]) and not largest[1].equal(largest[2])
plots.split_attend_merge(values[0], weights[0], merged[0])
plt.show()

# %% [markdown]
# [Figure](#fig-heads) shows the whole way. Already before training the heads differ a little, for each has random linear
# maps of its own; we enlarged queries and keys threefold to make it visible. Heads cost nothing in products: $h$ heads of width $d_{model}/h$ take as many multiplications as one
# head of the full width. What they do cost is memory for the weights, $h$ maps in place of one, as we will see when we
# come to the price.

# %% [markdown]
# ## The block: a stream that is only added to
#
# A transformer block is attention and then a small network for each token, the **feed-forward** network: a linear map to
# four times the width, a ReLU, a linear map back. Both are added to their input, and what flows from block to block is
# a **residual stream**. A **layer norm** ([Ba et al., 2016](https://arxiv.org/abs/1607.06450)) shifts and scales each
# token to mean 0 and variance 1, then by a learned amount. The one question is where to put it. The
# first transformers did it after the addition (post-norm), so that the stream itself passes through every norm;
# later ones moved it into the branches (pre-norm), and [Xiong et al., 2020](https://arxiv.org/abs/2002.04745) analysed why that helps:
#
# <a id="eq-block"></a>
# $$
# \begin{aligned}
# x &\leftarrow x + \mathrm{attention}(\mathrm{norm}_1(x)) \\
# x &\leftarrow x + \mathrm{feed\_forward}(\mathrm{norm}_2(x))
# \end{aligned}
# $$

# %% [markdown]
# > **Exercise.** Write `pre_norm_block(x, attention, feed_forward, norm1, norm2)`: the block that deep transformers are built of, with
# > two sublayers, attention first. Each sublayer *reads* a normalised copy of the residual stream and *adds* to the stream,
# > which itself is never normalised.
# >
# > - `x` is `(B, n, d_model)`; it is the stream.
# > - The other four are callables that take `(B, n, d_model)` and return the same shape. `norm1` belongs to `attention`,
# >   `norm2` to `feed_forward`.
# > - Return the stream after both sublayers, `(B, n, d_model)`.


# %%
def pre_norm_block(x, attention, feed_forward, norm1, norm2):
    """Two sublayers that read a normalised copy of the stream and add to the stream.

    x (B, n, d_model)
    attention, feed_forward, norm1, norm2: callables, (B, n, d_model) -> (B, n, d_model)
    returns (B, n, d_model)
    """
    ...  # your code here


# %%
get("pre-norm-block").check(pre_norm_block)


# %% [markdown]
# The definition has two lines; folded, it is compared with the package's block, which does both orders
# (`norm_first=True` is pre-norm; the default is post-norm, as in the first paper).


# %% tags=["hide-input"]
def pre_norm_by_definition(x, attention, feed_forward, norm1, norm2):
    x = x + attention(norm1(x))
    return x + feed_forward(norm2(x))


block = attn_course.TransformerBlock(12, 3, 48, norm_first=True).eval()
parts = (
    lambda x: block.attention(x, x, x)[0],
    block.feed_forward,
    block.norm1,
    block.norm2,
)
torch.testing.assert_close(pre_norm_by_definition(words, *parts), block(words)[0])
torch.testing.assert_close(
    get("pre-norm-block").use(pre_norm_block)(words, *parts), block(words)[0]
)
print("the definition and the package's block agree")

# %% [markdown]
# The course grew from a document whose example sends random tokens through one block, post-norm as in the first paper. The package
# keeps it, and its shapes are worth a look: the output has the shape of the input, so blocks can be stacked, and there
# is one map per sequence and head.

# %%
output, weights = attn_course.transformer_example()

# %% [markdown]
# ### Pre-norm or post-norm? Gradients before the first step
#
# Deep post-norm stacks are known to be hard to start. A usual story is that their gradient fades on its way down. The
# analysis of [Xiong et al., 2020](https://arxiv.org/abs/2002.04745) says something else: near the *output* the gradient
# is large whatever the depth $L$, where pre-norm makes it shrink like $1/\sqrt{L}$; they blame the large one for
# unstable first steps.
#
# **Hypothesis.** We follow the analysis. We stack $L$ untrained blocks with Xavier's initial weights, as in the paper, put a
# layer norm and a linear read-out on top, and measure the gradient of the last feed-forward matrix of each block, with three seeds.
# (`feed_forward[3]` is that matrix: linear, ReLU, dropout, linear.)


# %%
def gradient_by_block(norm_first, depth, seed, width=64):
    torch.manual_seed(seed)
    blocks = [
        attn_course.TransformerBlock(width, 4, 4 * width, 0.0, norm_first=norm_first)
        for _ in range(depth)
    ]
    for matrix in (p for block in blocks for p in block.parameters() if p.ndim == 2):
        nn.init.xavier_uniform_(matrix)
    x, target = torch.randn(8, 32, width), torch.randint(97, (8 * 32,))
    for block in blocks:
        x, _ = block(x, is_causal=True, need_weights=False)
    logits = nn.Linear(width, 97)(F.layer_norm(x, (width,)))
    F.cross_entropy(logits.flatten(0, 1), target).backward()
    return [block.feed_forward[3].weight.grad.norm().item() for block in blocks]


depths = pd.DataFrame(
    {
        "norm": name,
        "L": depth,
        "seed": seed,
        "block": number + 1,
        "gradient": size,
    }
    for name, norm_first in (("pre-norm", True), ("post-norm", False))
    for depth in (4, 8, 16, 32)
    for seed in range(3)
    for number, size in enumerate(gradient_by_block(norm_first, depth, seed))
)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-norm", "caption": "Gradient of the last feed-forward matrix before the first training step: by block for 16 blocks, and of the last block for stacks of 4 to 32. Mean and range of three seeds."}, "image": {"classes": "wide", "alt": "Two line charts. By block: post-norm stays level, pre-norm falls from the input to the output. Against the depth of the stack, the last block's gradient stays level with post-norm and falls with pre-norm."}}
last = depths[depths["block"] == depths["L"]]
ends = last.groupby(["norm", "L"])["gradient"].mean()
shrinks = {name: ends[name][4] / ends[name][32] for name in ("pre-norm", "post-norm")}
by_block = depths[depths["L"] == 16].groupby(["norm", "block"])["gradient"].mean()
fades = by_block["post-norm"][16] / by_block["post-norm"][1]
assert 2 < shrinks["pre-norm"] < 4.5 and 0.5 < shrinks["post-norm"] < 2 and fades < 2
figure, axes = plt.subplots(1, 2, sharey=True)
style = {
    "y": "gradient",
    "hue": "norm",
    "palette": plots.COLOURS,
    "errorbar": ("pi", 100),
    "marker": "o",
}
sns.lineplot(depths[depths["L"] == 16], x="block", ax=axes[0], **style)
sns.lineplot(last, x="L", ax=axes[1], legend=False, **style)
axes[0].set(
    yscale="log",
    xlabel="block of 16 (1 = next to the input)",
    ylabel="gradient norm",
)
axes[1].set(xscale="log", xlabel="depth $L$ of the stack")
axes[1].set_xticks([4, 8, 16, 32], [4, 8, 16, 32])
axes[1].minorticks_off()
axes[0].set_xticks([1, 4, 8, 12, 16])
axes[0].set_title("No fading towards the input")
axes[1].set_title("Last block: only pre-norm shrinks")
axes[0].set_yticks([0.05, 0.1, 0.2, 0.4], [0.05, 0.1, 0.2, 0.4])
axes[0].minorticks_off()
plt.show()

# %% tags=["remove-input"]
glue("pre_norm_shrinks", f"{shrinks['pre-norm']:.1f}")
say(
    "From 4 to 32 blocks the last block's gradient fell {pre:.1f}-fold with pre-norm, where $\\sqrt{{32/4}}$ is {root:.1f}, and "
    "with post-norm it is {post:.1f} times as large: what the analysis predicts. The usual story did not come out. In a post-norm stack of "
    "16 the last block's gradient is {fades:.1f} times the first one's, so nothing fades on the way down (left in "
    "[figure](#fig-norm)). What differs before the first step is the size near the output. That this is why "
    "post-norm needs a slow start is the paper's conclusion; we trained nothing here.",
    root=math.sqrt(8), pre=shrinks["pre-norm"], post=1 / shrinks["post-norm"], fades=fades,
)  # fmt: skip

# %% [markdown]
# ## An experiment: what does a small transformer look at?
#
# **Hypothesis.** A model that can look back predicts text better than counting does, how often a character is (unigram) and how often after another (bigram), and some of its
# heads will do recognisable work: look at the previous character, or at the bracket that is still open (the round one that
# was opened last; square and curly ones are not counted).
#
# The text is one that you have already: the source code of Python's own standard library, split by module. The model
# has two pre-norm blocks of width 64 with four heads, sees 64 characters and trains for 1000 steps. **Bits per
# character** are the mean of $-\log_2 p$(next character): fewer are better.

# %% tags=["nbval-ignore-output"]
from attn_course import data
from attn_course.experiments import chapter1, load, load_model

text = data.standard_library()
assert len(text.train) > 5 * len(text.test) > 0
say(text.note)

# %% [markdown]
# Three seeds were trained beforehand and recorded, with the machine and versions they ran on. The next cell trains one
# more model here, with seed 0, so that you see it happen: less than a minute on one core. If you press stop, the
# chapter goes on with what has been learned so far.

# %% tags=["nbval-ignore-output"]
record = load("language-model")
model, history = chapter1.train_character_model(0, **record.settings)
live = history.measures["bits"][-1][1]
recorded = record.values("bits")
assert history.interrupted or abs(live - sum(recorded) / len(recorded)) < 0.25
print(
    f"bits per character: {live:.3f} here, recorded:", [round(b, 3) for b in recorded]
)

# %% tags=["remove-input"]
counts = record.runs[0]["baselines"]
mean = sum(recorded) / len(recorded)
assert (
    mean < counts["bigram"] - 0.5
    and max(recorded) < counts["bigram"] < counts["unigram"]
)
glue("language_bits", f"{mean:.2f}")
glue("bigram_bits", f"{counts['bigram']:.2f}")
say(
    "The recorded models end at {mean:.2f} bits (from {low:.3f} to {high:.3f} over three seeds), against {bigram:.2f} for counting "
    "pairs (bigram) and {unigram:.2f} for counting characters (unigram): the first half of the hypothesis holds (left in [figure](#fig-habits)). They have "
    "{parameters:,} parameters, and took {seconds:.0f} seconds for all three on one thread of this machine: {machine}.",
    mean=mean, low=min(recorded), high=max(recorded), bigram=counts["bigram"], unigram=counts["unigram"],
    parameters=record.runs[0]["parameters"], seconds=record.seconds, machine=record.machine,
)  # fmt: skip

# %% [markdown]
# ### Which head looks where?
#
# A pretty map proves nothing: one can always find a head that seems to look at something. So we ask two fixed questions
# of every head, on 256 pieces of test text: how much weight lies on the previous character, and how much on the
# bracket that is still open? And we compare with chance: an even spread for the first question, and for the second the
# head's own mean weight *at the same distance*, whatever stands there. Layers count from 1, heads from 0; in the table
# `bracket_top` is how often the bracket is the key with the most weight of all.

# %%
curves = pd.DataFrame(
    {"step": step, "bits": bits}
    for run in record.runs
    for step, bits in run["curve"]
    if step > 0
)
heads = pd.DataFrame(
    {"seed": run["seed"], **head} for run in record.runs for head in run["heads"]
)
heads["layer"] += 1
best_heads = heads.loc[heads.groupby("seed")["bracket_weight"].idxmax()]
asked_for = ["bracket_weight", "bracket_same_distance", "bracket_top"]
print(best_heads[["seed", "layer", "head", *asked_for]].round(3))

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-habits", "caption": "Left: bits per character on test modules during training, mean and range of three recorded seeds, the live run as dots, two baselines that count. Middle and right: mean weight on the previous character and on the open bracket, one dot for each head of the three models; a shade of blue for each seed; the dashes mark chance: an even spread, and the mean over the heads of their weight at the same distance."}, "image": {"classes": "wide", "alt": "Left, a line chart of bits per character over one thousand steps, below both baselines from the first hundred on. Middle and right, two strip charts: heads of the first layer put about a third of their weight on the previous character; in the second layer one or two heads of each model put about a third on the open bracket, far above the mark for the same distance."}}
assert (best_heads["layer"] == 2).all()
assert (best_heads["bracket_weight"] > 4 * best_heads["bracket_same_distance"]).all()
figure, (training, *habits) = plt.subplots(
    1, 3, figsize=(9.5, 3.4), width_ratios=[1.2, 1, 1]
)
sns.lineplot(
    curves,
    x="step",
    y="bits",
    errorbar=("pi", 100),
    label="three seeds",
    ax=training,
)
training.plot(*zip(*history.measures["bits"][1:], strict=True), ".", label="this run")
for name, bits in counts.items():
    training.axhline(bits, color=plots.COLOURS["baseline"], linestyle=":")
    training.text(1000, bits, name, ha="right", va="bottom")
training.set(ylabel="bits per character", ylim=(2, 5), title="Better than counting")
training.legend(loc="center right", bbox_to_anchor=(1, 0.67))
chances = ("previous_even", "bracket_same_distance")
for axis, asked_of, chance in zip(
    habits, ("previous", "bracket"), chances, strict=True
):
    plots.dots_against_chance(
        axis, heads, x="layer", y=f"{asked_of}_weight", chance=chance
    )
    axis.set(xlabel="layer", ylabel="mean weight", ylim=(0, 0.5))
habits[0].set_title("Layer 1: previous character")
habits[1].set_title("Layer 2: the open bracket")
plt.show()

# %% tags=["remove-input"]
first = heads[heads["layer"] == 1]
lift = best_heads["bracket_weight"] / best_heads["bracket_same_distance"]
assert first["previous_weight"].min() > 3 * heads["previous_even"].iloc[0]
glue("bracket_lift", f"{lift.min():.0f} to {lift.max():.0f}")
say(
    "Over {queries:,} queries inside brackets, the best bracket head of each seed is in layer 2. The open bracket is "
    "its top key in {tops} of the cases and gets {low:.0f} to {high:.0f} times the weight that the same head gives to "
    "that distance. Layer 1 puts {previous:.0%} of its weight on the previous character (even spread: {even:.0%}), and "
    "no head more than {highest:.0%}. *Which* head of a layer does it changes with the seed.",
    queries=int(heads["bracket_queries"].iloc[0]), tops=", ".join(f"{top:.0%}" for top in best_heads["bracket_top"]),
    low=lift.min(), high=lift.max(), previous=first["previous_weight"].mean(),
    even=heads["previous_even"].iloc[0], highest=first["previous_weight"].max(),
)  # fmt: skip

# %% [markdown]
# Now the map of one such head on a line of code. The recorded model of seed 0 is kept with the book, so that every
# reader sees the same map.

# %% mystnb={"figure": {"name": "fig-bracket", "caption": "The bracket head of the recorded model (seed 0) on a line of code. Queries down, keys across; a dot stands for a space."}, "image": {"alt": "An attention map over a line of code. Inside the brackets many rows have their brightest field in the column of the open bracket."}}
snippet = "self.join(path, name[1:])"
trained = load_model("language-model", chapter1.CharacterModel())
layer, head = (int(best_heads.iloc[0][name]) for name in ("layer", "head"))
with torch.no_grad():
    _, maps = trained(data.encode(snippet)[None], need_weights=True)
weights = maps[layer - 1][0, head]
brackets = chapter1.opening_brackets(data.encode(snippet))
hits = [
    weights[i].argmax().item() == key
    for i, key in enumerate(brackets.tolist())
    if key >= 0
]
title = f"{sum(hits)} of {len(hits)} queries inside the brackets look at the opening one most"
plots.attention_maps(
    [weights], [title], queries=list(snippet), keys=list(snippet), side=4.8
)
plt.show()

# %% [markdown]
# The same head under the microscope, with the numbers behind the map: its queries, keys and values are those of the recorded model, rounded to
# thousandths. Follow another character with the arrow keys, take another head or layer, another line of code, or a mask and a temperature
# that it was not trained with.
#
# > **Predict.** The last line has no brackets at all. Where does the bracket head look then?

# %% tags=["nbval-ignore-output", "hide-input"]
replayed = widgets.AttentionMicroscope(
    source="trained", mask="causal", layer=layer, head=head, query=14
)
shown = {table["name"]: table for table in replayed.tables()}
replay = torch.tensor([row[1:] for row in shown["Weights"]["rows"]])
assert torch.allclose(replay, weights, atol=2e-3)
assert shown["Each head"]["rows"][head][5] == sum(hits)
empty = {table["name"]: table for table in replayed.tables(snippet=2)}
alone = empty["Each head"]["rows"][head]
assert alone[-1] == 0  # no query inside brackets
replayed

# %% tags=["remove-input"]
say(
    "Without a bracket the head has to spend its weight all the same, since every row adds up to 1: on that line, on average over its queries, {itself:.0%} stays on the character itself, {before:.0%} goes to "
    "the one before, and the rest is spread (the table *Each head* under the figure). The mean entropy, {entropy:.2f} nats, is that of about {keys:.0f} keys with equal weights.",
    itself=alone[2], before=alone[3], entropy=alone[1], keys=math.exp(alone[1]),
)  # fmt: skip

# %% [markdown]
# One warning before we enjoy this too much. That a head looks at the bracket does not say that the model *uses* what it
# finds there; weights alone are not an explanation
# ([Jain and Wallace, 2019](https://arxiv.org/abs/1902.10186)). A map is where to start asking. The clean test takes the head
# away and measures what gets worse: here the bits that a closing bracket costs, where one is open and in sight, in the one model that is kept.

# %%
inputs, targets = chapter1.test_windows(
    text.test, record.settings["length"], count=1024
)
opened = torch.stack([chapter1.opening_brackets(row) for row in inputs]) >= 0
closes = opened & (targets == data.encode(")"))


@torch.no_grad()
def closing_bits(without=None):
    model = load_model("language-model", chapter1.CharacterModel())
    if without is not None:
        layer, head = without
        layer = model.blocks[layer - 1].attention
        handed_over = slice(head * layer.d_k, (head + 1) * layer.d_k)
        layer.w_o.weight[:, handed_over] = 0  # it no longer enters the stream
    logits = model(inputs)[0].transpose(1, 2)
    losses = F.cross_entropy(logits, targets, reduction="none")
    return losses[closes] / math.log(2)  # one number for each closing bracket


# %% [markdown]
# The difference is taken bracket by bracket, so that its standard error is small.

# %%
whole = closing_bits()
ablation = heads[heads["seed"] == 0].set_index(["layer", "head"])[
    ["previous_weight", "bracket_weight"]
]
more = {key: closing_bits(key) - whole for key in ablation.index}
ablation["more bits"] = {key: bits.mean().item() for key, bits in more.items()}
ablation["± std. error"] = {
    key: bits.std().item() / len(bits) ** 0.5 for key, bits in more.items()
}
print(ablation.round(2))

# %% tags=["remove-input"]
second = ablation.loc[2].sort_values("bracket_weight", ascending=False)["more bits"]
error = ablation["± std. error"].max()
is_used = second.iloc[:2].min() > second.iloc[2:].max() + 2 * error
dearest = ablation["more bits"].idxmax()
assert len(whole) > 100 and ablation["more bits"].max() > 3 * error
glue("bracket_head_bits", f"{second.iloc[0]:.2f}")
verdict = (
    "in layer 2 the two heads that look at the bracket are the two that are missed, which fits a model that uses what they find"
    if is_used
    else "in layer 2 the heads that look at the bracket are not the ones that are missed most: looking is not needing"
)
say(
    "{count} closing brackets cost {whole:.2f} bits each with all heads. Without the bracket head they cost {first:.2f} bits more, "
    "without the next one {next:.2f}, without the other two of layer 2 at most {rest:.2f} (standard errors up to {error:.2f}). "
    "So {verdict}. Missed most of all is head {head} of layer {layer}, with {most:.2f} bits, though it hardly looks at brackets: "
    "what is lost without a head does not say what the head was for.",
    count=len(whole), whole=whole.mean().item(), first=second.iloc[0], next=second.iloc[1], rest=second.iloc[2:].max(),
    error=error, verdict=verdict, head=dearest[1], layer=dearest[0], most=ablation["more bits"].max(),
)  # fmt: skip

# %% [markdown]
# ## The price
#
# What does a forward pass cost? With one multiply-add counted as two FLOPs, self-attention over $n$ tokens takes
#
# <a id="eq-cost"></a>
# $$
# 8\,B\,n\,d_{model}^2 \;+\; 4\,B\,n^2\,d_{model}
# $$
#
# FLOPs: four projections, then the scores and the weighted sum. The number of heads does not appear.
#
# > **Predict.** For $d_{model} = 256$, at which length do the two terms cost the same? Above it, what happens to the
# > cost when the length doubles?

# %%
from attn_course import benchmark, complexity

lengths = [256, 512, 1024, 2048]
sizes = {"batch": 1, "d_model": 256, "num_heads": 8}
predicted = {
    n: complexity.cost("multi-head-attention", n_q=n, **sizes) for n in lengths
}
predicted_fused = {
    n: complexity.cost("multi-head-attention", n_q=n, fused=True, **sizes)
    for n in lengths
}
table = pd.DataFrame({n: cost.terms for n, cost in predicted.items()})
print(table.map(lambda flops: f"{flops / 1e6:.0f} M"))

# %% [markdown]
# The score terms overtake the projections at $n = 2\,d_{model}$. That was the prediction; now the measurement. We time
# the layer with weights and with the fused kernel (`need_weights=False`), which computes the same output in pieces and never
# holds the whole map ([Dao et al., 2022](https://arxiv.org/abs/2205.14135)), and record the most memory that is alive
# at one moment. The peers take turns, and the median counts: see [how timings are taken](../book/timings.md).

# %% tags=["nbval-ignore-output"]
layer = attn_course.MultiHeadAttention(256, 8).eval().requires_grad_(False).to(device)
measured = []
for n in lengths:
    x = torch.randn(1, n, 256, device=device)
    peers = {
        "attention": lambda x=x: layer(x, x, x),
        "fused attention": lambda x=x: layer(x, x, x, need_weights=False),
    }
    samples = benchmark.measure(peers, rounds=9, device=device)
    for name, call in peers.items():
        seconds = pd.Series(samples[name]).median()
        measured.append(
            {
                "n": n,
                "kernel": name,
                "ms": 1e3 * seconds,
                "MiB": benchmark.peak_bytes(call) / 2**20,
            }
        )
measured = pd.DataFrame(measured).set_index(["kernel", "n"])
assert measured.loc["attention"]["MiB"].is_monotonic_increasing
print(measured.unstack(0).round(1))

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-price", "caption": "Left: predicted FLOPs by term. Middle and right: peak memory, predicted (lines) and measured (dots), and time on the machine that is named at the foot of this page, against length."}, "image": {"classes": "wide", "alt": "Three charts against sequence length from 256 to 2048: stacked bars of FLOPs in which the score terms overtake the projections at 512; peak memory, where the layer with weights grows much faster than the fused one and the dots lie on the lines; and time."}}
figure, (flops, memory, clock) = plt.subplots(1, 3, figsize=(9, 3.2))
terms = pd.DataFrame({n: cost.terms for n, cost in predicted.items()}).T / 1e9
colours = [plots.COLOURS[name] for name in terms]
terms.plot.bar(stacked=True, ax=flops, color=colours, rot=0, width=0.8)
for name, costs in (("attention", predicted), ("fused attention", predicted_fused)):
    line = [costs[n].peak_bytes / 2**20 for n in lengths]
    memory.plot(lengths, line, color=plots.COLOURS[name], label=name)
    memory.plot(lengths, measured.loc[name]["MiB"], "o", color=plots.COLOURS[name])
    clock.plot(lengths, measured.loc[name]["ms"], "o-", color=plots.COLOURS[name])
    off = measured.loc[name]["MiB"][2048] / line[-1]
    assert device.type != "cpu" or 0.98 < off < 1.02
flops.set(
    xlabel="length $n$", ylabel="GFLOP", title="Equal terms at $n = 2\\,d_{model}$"
)
plots.log_axes(
    memory,
    lengths,
    xlabel="length $n$",
    ylabel="peak MiB",
    title="Weights are the memory",
)
plots.log_axes(clock, lengths, xlabel="length $n$", ylabel="ms", title="Time follows")
memory.legend()
plt.show()

# %% tags=["remove-input", "nbval-ignore-output"]
plain, fused = measured.loc["attention"], measured.loc["fused attention"]
times_memory = plain["MiB"][2048] / plain["MiB"][1024]
times_time = plain["ms"][2048] / plain["ms"][1024]
assert times_memory > 3 and fused["MiB"][2048] < 0.25 * plain["MiB"][2048]
glue("memory_doubling", f"{times_memory:.1f}")
glue("fused_memory_ratio", f"{plain['MiB'][2048] / fused['MiB'][2048]:.0f}")
say(
    "From 1024 to 2048 tokens the FLOPs grow {flops:.1f}-fold, memory {memory:.1f}-fold and time {time:.1f}-fold. At 2048 the weights "
    "make the layer hold {plain:.0f} MiB where the fused kernel holds {fused:.0f}, {ratio:.0f} times less, for the same output. "
    "So ask for weights when you want to look at them, and not otherwise.",
    flops=predicted[2048].flops / predicted[1024].flops, memory=times_memory, time=times_time,
    plain=plain["MiB"][2048], fused=fused["MiB"][2048], ratio=plain["MiB"][2048] / fused["MiB"][2048],
)  # fmt: skip

# %% [markdown]
# ## Where it breaks
#
# You saw five failures on the way: half precision, rows with nothing allowed, a padding mask of the wrong shape, keys of
# another length, and memory that grows with $n^2$. Here is one more, on the smallest input that shows it. The usual form returns
# its weights *after* dropout. In training a row then no longer adds up to 1, and whoever draws these maps, or takes their
# entropy, reads noise.

# %%
torch.manual_seed(7)
usual = textbook.MultiHeadAttention(8, 1, dropout=0.5).train()
ours = attn_course.MultiHeadAttention(8, 1, dropout=0.5).train()
x = torch.randn(1, 4, 8)
print("usual:", usual(x, x, x)[1].sum(dim=-1)[0, 0].detach())
print("ours: ", ours(x, x, x)[1].sum(dim=-1)[0, 0].detach())

# %% [markdown]
# ## When to take it
#
# - **Take** attention between all tokens when any token may need any other, and a model may learn which.
# - **Leave** the map of weights away (`need_weights=False`) whenever you do not look at it; leave full attention where even then $n^2$
#   is too expensive, for a window of neighbours (chapter 6).
# - **Do not** expect order from it: it needs positions from outside. (A causal mask gives some of it away: chapter 2.)
#
# > **Predict.** A service reads support messages of at most 200 tokens and sorts them into ten topics, on a machine without a GPU. Would
# > you fear the $n^2$ at width 256? Work it out with [equation](#eq-cost) before you unfold the output.

# %% tags=["hide-output"]
message = complexity.cost(
    "multi-head-attention", batch=1, n_q=200, d_model=256, num_heads=8
)
share = (message.terms["scores"] + message.terms["weighted sum"]) / message.flops
assert share < 0.5
print(
    f"{share:.0%} of the FLOPs depend on n squared: the projections cost more. Take it."
)

# %% [markdown]
# ## Questions
#
# Decide before you open a choice: each one says what is right in it, or what is not. By keyboard, Tab goes to the
# next choice, or to a link in an open one, and Enter opens it and closes the one before.

# %% [markdown]
# **Question 1.** A query has three keys, with the scores $0$, $0$ and $\ln 2$, so its weights are 1/4, 1/4 and 1/2.
# Now a mask forbids the third key. Which weights does it have then?
#
# <details name="chapter-1-question-1"><summary>A. 1/4, 1/4 and 0</summary>
#
# **Not quite.** These add up to 1/2: the third key was taken away after the softmax had given it its share. A mask
# belongs before the softmax, as a score of $-\infty$, so that the others share the whole.
#
# </details>
#
# <details name="chapter-1-question-1"><summary>B. 1/2, 1/2 and 0</summary>
#
# **Right.** $e^{-\infty} = 0$ takes the third key out of the sum. The two that remain have equal scores, and share
# all of the weight (section *The formula*).
#
# </details>
#
# <details name="chapter-1-question-1"><summary>C. 1/3, 1/3 and 1/3</summary>
#
# **Not quite.** That is what a masked score of 0 does: $e^0 = 1$, so the forbidden key gets as much as each of the
# others. It must become $-\infty$, not 0.
#
# </details>

# %% [markdown]
# **Question 2.** The entries of queries and keys are independent with variance 1, and $d_k = 256$. Somebody divides
# the scores by $d_k$ itself, not by its square root. How large is a typical score, and how do the weights look?
#
# <details name="chapter-1-question-2"><summary>A. About 1/16: close to an even spread over the keys</summary>
#
# **Right.** A dot product has a typical size of $\sqrt{256} = 16$, and $16/256 = 1/16$. Scores so small hardly tell
# keys apart: the opposite of the failure in [figure](#fig-scale).
#
# </details>
#
# <details name="chapter-1-question-2"><summary>B. About 16: one key has nearly all the weight</summary>
#
# **Not quite.** That is the dot product as it is, not divided at all: the case *without it* in [figure](#fig-scale).
# Here it was divided, and by too much.
#
# </details>
#
# <details name="chapter-1-question-2"><summary>C. About 1: as they should be, at any width</summary>
#
# **Not quite.** That is what dividing by $\sqrt{256} = 16$ gives. The *variance* of a dot product is $d_k$; its
# typical size is the root of that.
#
# </details>

# %% [markdown]
# **Question 3.** A colleague's padding mask has the shape `(B, n)`. For 16 sentences of 40 tokens the layer refuses
# it; for 8 sentences of 8 tokens it runs. What does the second run compute?
#
# <details name="chapter-1-question-3"><summary>A. The right thing: for B = n both readings of the mask mean the same</summary>
#
# **Not quite.** The shapes agree, the meanings do not. Row $i$ was written for sentence $i$, and is read as the row
# of query $i$.
#
# </details>
#
# <details name="chapter-1-question-3"><summary>B. Padding gets no weight, but the rows no longer add up to 1</summary>
#
# **Not quite.** A mask before the softmax leaves rows that add up to 1, also if it is the wrong mask. So neither the
# shape nor the sum gives this fault away.
#
# </details>
#
# <details name="chapter-1-question-3"><summary>C. In every sentence, query i sees as many keys as sentence i is long</summary>
#
# **Right.** Two dimensions mean $(n_q, n_k)$, so row $i$ is applied to query $i$ of every sentence.
# `mask[:, None, None, :]` says what was meant (the trap in section *Masks*).
#
# </details>

# %% [markdown]
# **Question 4.** A layer of width 512 reads 2,048 tokens in float32 and returns its weights. You go from 8 heads to
# 16, each half as wide. What changes?
#
# <details name="chapter-1-question-4"><summary>A. Twice the FLOPs, and twice the memory for the weights</summary>
#
# **Not quite.** There are twice as many maps, but each takes half of the products, because its heads are half as
# wide. In [equation](#eq-cost) the number of heads does not appear.
#
# </details>
#
# <details name="chapter-1-question-4"><summary>B. As many FLOPs as before; the weights take 256 MiB and not 128</summary>
#
# **Right.** The products do not depend on the number of heads. The weights are $h \cdot n^2$ numbers:
# $16 \cdot 2048^2 \cdot 4$ bytes are 256 MiB (sections *Heads* and *The price*).
#
# </details>
#
# <details name="chapter-1-question-4"><summary>C. Half the FLOPs, as each head is half as wide; as much memory as before</summary>
#
# **Not quite.** Each head is half as wide, and there are twice as many: the products stay. The memory does not, for
# each head has a map of its own.
#
# </details>

# %% [markdown]
# **Question 5.** In a translation model one head puts 70 % of its weight on the verb. You set its share of the output
# projection to zero, and the loss on the test text stays the same. What may you conclude?
#
# <details name="chapter-1-question-5"><summary>A. On this text, nothing that this head hands over is needed</summary>
#
# **Right.** Taking a head away and measuring is the test, and here nothing got worse: others may hand over the same,
# or nobody wants it. Where it looks is another question.
#
# </details>
#
# <details name="chapter-1-question-5"><summary>B. The head does not look at the verb after all</summary>
#
# **Not quite.** It does: the map is a fact about its weights. The test is about use. *Looks there* and *is needed*
# are two findings, and either comes without the other.
#
# </details>
#
# <details name="chapter-1-question-5"><summary>C. The model uses the verb through this head, and the loss is too coarse</summary>
#
# **Not quite.** It may be so, but nothing measured says it. Whoever claims use has to find something that gets worse,
# as the bits of closing brackets did in this chapter.
#
# </details>

# %% [markdown]
# ## What we know now

# %% tags=["remove-input"]
assert best < 0.5 and predicted[2048].peak_bytes > 3 * predicted[1024].peak_bytes
say(
    "Attention is a soft look-up: where fixed weights were right in {best:.0%} of the stories, weights made from the content "
    "were right in all of them. Dividing by $\\sqrt{{d_k}}$ keeps the gradient alive: without it the median query got {learned:.0f} times "
    "less at width 1024, and the mean {lottery:.0f} times more. Masks must give exact zeros, also in half precision and when nothing is allowed. A model of two "
    "blocks reached {bits:.2f} bits per character where counting pairs stops at {bigram:.2f}, and each of its "
    "three seeds grew a head in layer 2 that puts {lift} times the expected weight on the open bracket. The price is "
    "the length squared: twice the length, from 1024 to 2048 tokens, takes {memory:.1f} times the memory.",
    best=best, learned=learned, lottery=lottery, bits=mean, bigram=counts["bigram"], lift=f"{lift.min():.0f} to {lift.max():.0f}",
    memory=predicted[2048].peak_bytes / predicted[1024].peak_bytes,
)  # fmt: skip

# %% [markdown]
# **Further reading.** [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762), for section 3.2 in the original;
# [Bahdanau et al., 2015](https://arxiv.org/abs/1409.0473), where attention comes from;
# [Clark et al., 2019](https://arxiv.org/abs/1906.04341), who count what heads look at in a large model;
# [Xiong et al., 2020](https://arxiv.org/abs/2002.04745), for the gradients of the block;
# [Dao et al., 2022](https://arxiv.org/abs/2205.14135), for the fused kernel.
#
# **The next question.** Nothing in attention said who bites whom: *man bites dog* would give each word what *dog bites man* gave it. How does a token learn
# where it stands? That is chapter 2.
#
# Something wrong or unclear? [Report it](https://github.com/attn-course/attn-course/issues).

# %% tags=["remove-cell"]
print("Chapter 1 is complete.")
