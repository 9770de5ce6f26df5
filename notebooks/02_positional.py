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
# # Positional encoding: how does a token learn where it stands?
#
# **After this chapter you can** show that attention alone sees a set and not a sentence, write the four usual ways to tell it
# the order (a table of sines, a learned table, turned queries and keys, a bias on the scores), say what each of them knows
# about distance, and predict what becomes of a model when a sequence is longer than all that it was trained on.
#
# **You need** [chapter 1](01_transformer.ipynb), sine and cosine. **It takes** about 80 minutes with its four exercises, 40
# without. The symbols are explained on the page [Notation](../book/notation.md).

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
from torch import nn

from attn_course import data, plots, textbook
from attn_course.exercises import get
from attn_course.prose import glue, say

plots.use_house_style()

# %% [markdown]
# ## The trouble: attention sees a set
#
# Chapter 1 ended with a doubt: would *man bites dog* give each word just what *dog bites man* gave it? Let us see.
# Each of the three words gets a random vector as its meaning, and an untrained layer of attention reads both sentences. We
# compare what each word receives.

# %%
generator = torch.Generator().manual_seed(0)
meaning = {word: torch.randn(16, generator=generator) for word in data.SENTENCE}
torch.manual_seed(0)
layer = attn_course.MultiHeadAttention(16, 2).eval().requires_grad_(False)
dog, bites, man = data.SENTENCE
print({word: tuple(vector.shape) for word, vector in meaning.items()})

# %% [markdown]
# The argument `place` is for later: it will tell the words where they stand. For now it does nothing.


# %%
def received(words, place=lambda x: x):
    x = place(torch.stack([meaning[word] for word in words])[None])
    return layer(x, x, x)[0][0]  # a row for each word


one, other = received([dog, bites, man]), received([man, bites, dog])
for row, word in enumerate(data.SENTENCE):
    print(f"{word:6} largest difference {(one[row] - other[2 - row]).abs().max():.4f}")

# %% [markdown]
# No difference at all. It is no accident of three words: shuffle the tokens of any sequence, and the same outputs come
# out, shuffled alike. One calls this **permutation equivariance**. The reason is short. A shuffle of the tokens
# exchanges rows and columns of the scores, and a weighted sum over the keys does not care in which order they come. (A mask can tell a little, as we will see.)

# %%
x = torch.randn(1, 20, 16, generator=generator)
order = torch.randperm(20, generator=generator)
shuffled = x[:, order]
torch.testing.assert_close(
    layer(shuffled, shuffled, shuffled)[0], layer(x, x, x)[0][:, order]
)
print("20 tokens, shuffled: the same outputs, shuffled alike")

# %% [markdown]
# How bad is that? Let a thousand random readers look at the mean of the outputs and answer one question, *does the
# dog bite?* A reader weighs the 16 numbers of the mean and says yes if the sum is above 0. Yes is right for the first sentence, no for the second. We keep the best of the thousand.

# %%
readers = torch.randn(16, 1000, generator=generator)


def best_reader(place=lambda x: x):
    means = [
        received(words, place).mean(dim=0)
        for words in ([dog, bites, man], [man, bites, dog])
    ]
    says_yes = torch.stack(means) @ readers > 0  # (sentence, reader)
    right = says_yes == torch.tensor([[True], [False]])
    return right.float().mean(dim=0).max().item()


blind = best_reader()
print(f"best of a thousand readers: {blind:.2f} of the answers are right")

# %% tags=["remove-input"]
assert blind == 0.5
glue("order_blind_best", f"{blind:.2f}")
say(
    "Right in {blind:.0%} of the cases, and no training could do better: both sentences look alike to every reader, so each one "
    "gives the same answer twice. What is missing is that a token carries *where it stands*.",
    blind=blind,
)  # fmt: skip

# %% [markdown]
# ## By hand: three words and a clock
#
# Give every position the reading of a clock with one hand. From one place to the next the hand moves on by a sixth of a turn.
# Where it points is two numbers, a sine and a cosine.

# %%
clock = torch.tensor(
    [[math.sin(p * math.pi / 3), math.cos(p * math.pi / 3)] for p in range(3)]
)
print(clock)

# %% [markdown]
# The readings of places 0 and 1 have the dot product $0 \cdot 0.87 + 1 \cdot 0.5 = 0.5$.
#
# > **Predict.** Places 1 and 2 have two other readings, $(0.87,\ 0.5)$ and $(0.87,\ -0.5)$. What is their dot product? And that
# > of places 0 and 2? Decide before you look at the next output.

# %%
print(clock @ clock.T)

# %% [markdown]
# Each diagonal holds one number. The dot product of two readings is the cosine of the angle between the hands, and
# that angle depends on how far apart the places are, not on where they lie. This is what attention needs, for its scores *are* dot
# products. So let *bites*, at place 1, look for the one who does it: somebody alive, one place before. Its query has two numbers
# for the meaning and two for the clock.

# %%
alive, action = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
keys = torch.cat([torch.stack([alive, action, alive]), clock], dim=1)
query = torch.cat([2 * alive, 2 * clock[0]])  # alive, and where the clock shows place 0
weights = (keys @ query / math.sqrt(4)).softmax(dim=0)
for words in ([dog, bites, man], [man, bites, dog]):
    print(*(f"{word} {w:.2f}  " for word, w in zip(words, weights, strict=True)))

# %% tags=["remove-input"]
assert weights.argmax() == 0 and weights[0] > 2 * weights[2]
say(
    "Now *bites* knows who bites: the first animal gets {first:.2f} of its weight and the other one {last:.2f}, whichever they are. Two things "
    "are left. A hand that goes round in six places shows the same at place 6 as at place 0. And we wrote the query by hand: a model must "
    "find *one place before me* from its own clock, at every place. The next two sections take them in turn.",
    first=weights[0].item(), last=weights[2].item(),
)  # fmt: skip

# %% [markdown]
# ## The formula: a clock with many hands
#
# One hand cannot be both precise and unmistakable, so a clock has several: one tells seconds apart, another one hours. The
# encoding of [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762) is a clock with $d_{model}/2$ hands. Hand $i$
# turns by $\omega_i$ radians from one position to the next, and position $p$ gets the row
#
# <a id="eq-sinusoid"></a>
# $$
# \begin{aligned}
# pe_{p,\,2i} &= \sin(p\,\omega_i) \\
# pe_{p,\,2i+1} &= \cos(p\,\omega_i) \\
# \omega_i &= 10000^{-2i/d_{model}}
# \end{aligned}
# $$
#
# The first hand turns by 1 radian a step and is round after 6.3 positions. The last one takes its time: about 47,000 positions at width 64.
# The row is *added* to the token.

# %% [markdown]
# > **Exercise.** Write `sinusoidal_encoding(max_len, d_model)`: the table that gives each position its own vector. Columns come in
# > pairs. Pair `i`, counted from 0, is a clock hand that turns by `10000^(−2i / d_model)` radians from one position to the
# > next: its sine stands in column `2i`, its cosine in column `2i + 1`.
# >
# > - `max_len` and `d_model` are integers. Return a float32 tensor `(max_len, d_model)`; its rows are the positions
# >   `0, 1, …, max_len − 1`.
# > - An odd `d_model` works the same way: its last column is the sine of a pair whose cosine has no room left.
# > - Every number is right to `1e-5`, also at position 5000. Mind how exactly a large angle can be stored.


# %%
def sinusoidal_encoding(max_len, d_model):
    """The table of sines and cosines, one row for each position.

    returns float32 (max_len, d_model): even columns sine, odd columns cosine
    """
    ...  # your code here


# %%
get("sinusoidal-encoding").check(sinusoidal_encoding)

# %% [markdown]
# The definition is folded here and ends in a comparison with the package's function. From here on the chapter takes
# your function if it passed, ours otherwise. With it the thousand readers of *dog bites man* get a second chance: we add the rows to the words.


# %% tags=["hide-input"]
def sinusoidal_by_definition(max_len, d_model):
    i = torch.arange(0, d_model, 2, dtype=torch.float64)
    angle = torch.arange(max_len, dtype=torch.float64)[:, None] * 10000 ** -(
        i / d_model
    )
    pe = torch.empty(max_len, d_model, dtype=torch.float64)
    pe[:, 0::2] = angle.sin()
    pe[:, 1::2] = angle.cos()[:, : d_model // 2]  # an odd width ends in a sine
    return pe.float()


for width in (64, 7):
    torch.testing.assert_close(
        sinusoidal_by_definition(100, width),
        attn_course.sinusoidal_encoding(100, width),
    )
encode = get("sinusoidal-encoding").use(sinusoidal_encoding)
told = best_reader(place=lambda x: x + encode(3, 16))
print(f"best of a thousand readers, told the positions: {told:.2f}")

# %% tags=["remove-input"]
assert told == 1.0
say(
    "The best of them is now right in {told:.0%} of the cases. A *random* reader is, with nothing trained: order has become something "
    "that one can read off. How well can one read distance from it?",
    told=told,
)  # fmt: skip

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-clock", "caption": "Left: the encoding of 64 positions, 64 wide; each pair of columns is one hand of the clock, fast hands on the left. Right: dot product of the encodings of two positions against the distance between them, from three starting points."}, "image": {"classes": "wide", "alt": "Left, a heat map: fast vertical stripes in the left columns, ever slower ones to the right until the columns hardly change. Right, a curve that begins at 32, falls steeply over the first few positions and then slowly, in waves; three curves from different starting points lie on each other."}}
pe = encode(1200, 64)
starts = (0, 100, 1000)
products = torch.stack([pe[p] @ pe[p : p + 128].T for p in starts])
spread = (products - products[0]).abs().max().item()
rises = (products[0].diff() > 1e-3).sum().item()
assert spread < 1e-4 and rises > 10 and products[0].argmax() == 0
figure, (table, curve) = plt.subplots(1, 2, figsize=(9, 3.6))
figure.get_layout_engine().set(wspace=0.1)
image = table.imshow(pe[:64], cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
table.set(xlabel="column", ylabel="position", title="Fast hands, slow hands")
figure.colorbar(image, ax=table, label="sine or cosine")
for start, product, style in zip(starts, products, ("-", "--", ":"), strict=True):
    curve.plot(product, style, label=f"from position {start}", linewidth=2)
curve.set(xlabel="distance", ylabel="dot product", ylim=(0, None))
curve.set_title("The product knows the distance alone")
curve.legend()
plt.show()

# %% tags=["remove-input"]
say(
    "On the left of [figure](#fig-clock) each row is one position, and no two rows are alike. On the right the three curves lie on each other "
    "(they differ by less than $10^{{-4}}$): as with one hand, only the distance counts. The product is largest at distance 0 and falls, but "
    "not steadily: on {rises} of the {steps} steps it goes up again, as fast hands come round. So nearness is in there, "
    "blurred; *exactly five back* needs more than a plain dot product.",
    rises=rises, steps=len(products[0]) - 1,
)  # fmt: skip

# %% [markdown]
# ## Moving on: one matrix for one distance
#
# How can a model look *one place before me*, wherever it stands? Its query would have to be the clock of the place before, made
# from its own clock by one fixed linear map. There is such a map. By the addition theorems, moving a hand on by $k$ positions is
#
# <a id="eq-shift"></a>
# $$
# \begin{aligned}
# \sin (p+k)\omega &= \phantom{-}c\,\sin p\omega + s\,\cos p\omega \\
# \cos (p+k)\omega &= -s\,\sin p\omega + c\,\cos p\omega
# \end{aligned}
# $$
#
# with $c = \cos k\omega$ and $s = \sin k\omega$: they hold $k$ and $\omega$, but no $p$. The four factors are a rotation, one block of $2 \times 2$ for each hand.

# %% [markdown]
# > **Exercise.** Write `shift_matrix(k, d_model)`: the one matrix `M` that moves every sinusoidal encoding on by `k` positions,
# > `M @ pe[p] == pe[p + k]` for every `p`. It depends on `k` and not on `p`.
# >
# > - `pe` is the table of `sinusoidal_encoding`: pair `i` has its sine in column `2i`, its cosine in column `2i + 1`, and
# >   turns by `10000^(−2i / d_model)` radians for each position. Each pair is turned by itself.
# > - `k` is an integer; below 0 it moves back. `d_model` is even.
# > - Return a float32 tensor `(d_model, d_model)`.


# %%
def shift_matrix(k, d_model):
    """The matrix M with M @ pe[p] == pe[p + k] for every position p.

    returns float32 (d_model, d_model), for an even d_model
    """
    ...  # your code here


# %%
get("shift-matrix").check(shift_matrix)

# %% [markdown]
# The folded definition puts the blocks on the diagonal. Below it we try the map where it was never fitted: every position of a long
# table, forwards and backwards, and two shifts one after the other.


# %% tags=["hide-input"]
def shift_by_definition(k, d_model):
    M = torch.zeros(d_model, d_model)
    for i in range(0, d_model, 2):
        turn = k * 10000 ** (-i / d_model)
        M[i, i] = M[i + 1, i + 1] = math.cos(turn)
        M[i, i + 1], M[i + 1, i] = math.sin(turn), -math.sin(turn)
    return M


torch.testing.assert_close(shift_by_definition(5, 64), attn_course.shift_matrix(5, 64))
shift = get("shift-matrix").use(shift_matrix)
for k in (1, 5, -5):
    start, end = max(0, -k), 1200 - max(0, k)
    off = (pe[start:end] @ shift(k, 64).T - pe[start + k : end + k]).abs().max()
    assert off < 1e-5
    print(f"moved by {k:2}: all {end - start} positions are right")
torch.testing.assert_close(shift(2, 64) @ shift(3, 64), shift(5, 64))
torch.testing.assert_close(shift(-5, 64), shift(5, 64).T)

# %% [markdown]
# Two shifts are one, $M_2 M_3 = M_5$, and the way back is the transpose, as for every rotation. This is also why the dot product
# knew the distance alone: $pe_{p+k}$ is $M_k\,pe_p$, and $pe_p \cdot M_k\,pe_p$ is a sum of $\cos(k\omega_i)$, without $p$. A
# projection $W_q$ that learns $M_{-1}$ looks one place back, from everywhere, also from places that it never met. Whether
# training finds that map is another question, and we will measure it.

# %% [markdown]
# ### Two failures of the usual table
#
# The usual code for [equation](#eq-sinusoid) has two traps. First, the width: five columns are three sines and two cosines, and the usual code computes as many of
# one as of the other.

# %%
try:
    textbook.PositionalEncoding(5)
except RuntimeError as error:
    print(textwrap.fill(f"usual: {str(error).split('.')[0]}", 78))
print("ours: ", tuple(attn_course.PositionalEncoding(5, max_len=8).pe.shape))

# %% [markdown]
# The second one is silent. The fast hands have gone through an angle of 5000 radians at position 5000, and a float32 near 5000 is only exact to
# about $5 \cdot 10^{-4}$. The usual table computes angles in float32; ours in float64, and rounds the finished sines once.
#
# > **Predict.** A table is wrong by $10^{-5}$ at position 100. About how wrong is it at position 5000?

# %%
exact = torch.arange(5001, dtype=torch.float64)[:, None] * 10000 ** -(
    torch.arange(0, 64, 2, dtype=torch.float64) / 64
)
exact = torch.stack([exact.sin(), exact.cos()], dim=-1).flatten(1)
errors = {}
for name, module in (("usual", textbook), ("ours", attn_course)):
    off = (module.PositionalEncoding(64, 5001).pe[0] - exact).abs().amax(dim=1)
    errors[name] = {p: off[: p + 1].max().item() for p in (50, 500, 5000)}
print(pd.DataFrame(errors).map("{:.0e}".format))


# %% tags=["remove-input"]
def ten(x):
    """A small number as a power of ten."""
    digit, exponent = f"{x:.0e}".split("e")
    return rf"${digit} \cdot 10^{{{int(exponent)}}}$"


usual, ours = errors["usual"][5000], errors["ours"][5000]
assert usual > 1e-4 and ours < 1e-6
glue("table_error_ratio", f"{usual / ours:,.0f}")
say(
    "The usual table is off by {usual} at position 5000, {ratio:.0f} times as much as at 50: the error grows with the position. Ours stays at {ours}, which is the rounding of float32 itself. "
    "An error of {usual} will ruin no model; two libraries whose tables differ by it will not give the same "
    "numbers, and you will look for the reason for a day.",
    usual=ten(usual), ours=ten(ours), ratio=usual / errors["usual"][50],
)  # fmt: skip

# %% [markdown]
# ## Three other answers
#
# ### Learned positions: a table that ends
#
# Why a formula at all? [Gehring et al., 2017](https://arxiv.org/abs/1705.03122) add a row of parameters for each position and let training fill them in. The only difference to
# the sinusoid is where the rows come from. The price is that nobody can compute the next row.

# %%
learned = attn_course.LearnedPositionalEncoding(16, max_len=4)
print("parameters:", {name: tuple(p.shape) for name, p in learned.named_parameters()})
try:
    learned(torch.zeros(1, 5, 16))
except ValueError as error:
    print(textwrap.fill(str(error), 78))

# %% [markdown]
# A table may be made longer than the training sequences, and then the error does not come. Something quieter comes in its
# place: the later rows exist, but no training sequence ever reached them. We will see what they look like.

# %% [markdown]
# ### Rotary: turn the question, not the token
#
# Both tables are *added* to the tokens, so the product of a query and a key has four terms: meaning with meaning, position with position, and two
# that mix them and change from place to place. The shift matrix suggests another way
# ([Su et al., 2021](https://arxiv.org/abs/2104.09864)): leave the tokens alone, cut each query and key into pairs, and turn pair $i$ by $p\,\omega_i$, as a hand of the clock. With $R_p$ for all these rotations,
#
# <a id="eq-rotary"></a>
# $$
# (R_p\, q) \cdot (R_s\, k) = q \cdot (R_{s-p}\, k)
# $$
#
# A score then depends on the meanings and on the distance. Values are not turned: position decides who is heard, not what is said.

# %% [markdown]
# > **Exercise.** Write `apply_rotary(x, positions, base=10000.0)`: turn each vector of `x` by an angle that grows with its position, so
# > that the dot product of a turned query and a turned key depends on how far apart they are, and not on where they stand.
# >
# > The `d` numbers of a vector form `d / 2` pairs. At position `p` pair `i`, counted from 0, turns by `p · base^(−2i / d)`
# > radians, from its first member towards its second: `(1, 0)` becomes `(cos, sin)`.
# >
# > - `x` is `(…, n, d)`, float32, with an even `d` and any number of leading dimensions. `positions` is an integer tensor
# >   `(n,)`: any positions in any order, the same for all leading dimensions.
# > - You choose which numbers form pair `i`: neighbours, `2i` and `2i + 1`, or halves, `i` and `i + d / 2`. Both are right.
# > - Return a new tensor of the shape of `x`: each pair stays where it was, and every vector keeps its length.


# %%
def apply_rotary(x, positions, base=10000.0):
    """Turn each vector by an angle that grows with its position.

    x (..., n, d) with an even d, positions (n,)
    returns (..., n, d)
    """
    ...  # your code here


# %%
get("rotary-embedding").check(apply_rotary)

# %% [markdown]
# Which two entries are a pair? The paper takes neighbours (0 with 1), many published models the two halves (0 with $d_k/2$).
# Both are right, and the exercise takes both. The folded definition pairs neighbours, and below it the package agrees. Then one query and one key are set on all pairs of
# places, once with the sinusoid added before the projections, once turned.


# %% tags=["hide-input"]
def rotary_by_definition(x, positions, base=10000.0):
    d = x.shape[-1]
    turn = positions[:, None] * base ** (-torch.arange(0, d, 2) / d)
    a, b = x[..., 0::2], x[..., 1::2]
    turned = a * turn.cos() - b * turn.sin(), a * turn.sin() + b * turn.cos()
    return torch.stack(turned, dim=-1).flatten(-2)


generator = torch.Generator().manual_seed(8)
trial, places = torch.randn(2, 3, 32, 16, generator=generator), torch.arange(32)
torch.testing.assert_close(
    rotary_by_definition(trial, places), attn_course.apply_rotary(trial, places)
)
rotate = get("rotary-embedding").use(apply_rotary)
token, w_q, w_k = (
    torch.randn(size, generator=generator) / 4 for size in ((1, 64), (64, 64), (64, 64))
)
added = 4 * token + encode(32, 64)
added_scores = (added @ w_q) @ (added @ w_k).T / 8
same = (4 * token).expand(32, 64)
turned_scores = rotate(same @ w_q, places) @ rotate(same @ w_k, places).T / 8
print("definition and package agree; scores", tuple(turned_scores.shape))


# %% [markdown]
# Every field of the next figure compares the same token with itself, so whatever changes comes from the positions.


# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-rotary", "caption": "Scores of one token with itself at all pairs of 32 places, with random projections. Left: the sinusoid is added to the token. Right: queries and keys are turned. One scale for both."}, "image": {"alt": "Two maps of 32 by 32 scores. On the left the scores drift across the map and no diagonal has one colour; on the right every diagonal has a single colour."}}
def along_diagonals(scores):
    return max(scores.diagonal(k).std().item() for k in range(-16, 17))


varies = {
    "added": along_diagonals(added_scores),
    "turned": along_diagonals(turned_scores),
}
assert varies["turned"] < 1e-4 and varies["added"] > 0.1
plots.score_maps(
    [added_scores, turned_scores],
    ["Added: it matters where", "Turned: the distance alone"],
)
plt.show()

# %% tags=["remove-input"]
say(
    "On the right of [figure](#fig-rotary) every diagonal has one value: scores along it vary by less than $10^{{-4}}$, which is rounding. On the left "
    "they vary by up to {added:.2f} (standard deviation along a diagonal), although the token is the same everywhere. A model with added positions has "
    "to learn *five back* in a way that holds at all places; with turned ones it holds at all places as soon as it holds at one. (For the distances that it has learned; remember this.)",
    added=varies["added"],
)  # fmt: skip

# %% [markdown]
# > **Trap.** Published weights belong to their pairing. A layer trained with halves and run with neighbours gives
# > no error and other numbers. `convert_rotary_pairing` reorders the rows of the query and key projections, and the numbers come back.

# %%
from attn_course import RotaryEmbedding, convert_rotary_pairing

torch.manual_seed(9)
trained = attn_course.MultiHeadAttention(32, 4).eval().requires_grad_(False)
x = torch.randn(1, 20, 32)
right, _ = trained(x, x, x, rotary=RotaryEmbedding(8, pairing="halves"))
wrong, _ = trained(x, x, x, rotary=RotaryEmbedding(8, pairing="neighbours"))
for part in (trained.w_q, trained.w_k):
    for name, p in list(part.named_parameters()):
        own = convert_rotary_pairing(p, 4, source="halves", target="neighbours")
        setattr(part, name, nn.Parameter(own, requires_grad=False))
converted, _ = trained(x, x, x, rotary=RotaryEmbedding(8, pairing="neighbours"))
off = [((y - right).norm() / right.norm()).item() for y in (wrong, converted)]
print(f"other pairing: off by {off[0]:.0%}; converted: by {off[1]:.0%}")

# %% [markdown]
# `RotaryEmbedding` is what a model uses: the same rotation with its cosines and sines kept in a cache that grows by itself, and with an `offset` for
# generation token by token. `MultiHeadAttention` and `TransformerBlock` take it as `rotary=`.

# %% [markdown]
# ### ALiBi: say how far, and nothing else
#
# [Press et al., 2022](https://arxiv.org/abs/2108.12409) leave tokens, queries and keys alone and take something off the score for every step of distance:
#
# <a id="eq-alibi"></a>
# $$
# \begin{aligned}
# \mathrm{score}_{p,s} &= \frac{q_p \cdot k_s}{\sqrt{d_k}} - m_i\,|p - s| \\
# m_i &= 2^{-8i/h}, \quad i = 1 \dots h
# \end{aligned}
# $$
#
# Each head $i$ has a slope $m_i$ of its own, which is not trained. After the softmax, a bias that falls by $m$ for each step multiplies a key's weight by $e^{-m}$ for each step.

# %% [markdown]
# > **Exercise.** Write `alibi_bias(num_heads, n)`: what is added to the scores so that far keys count less. The bias falls in proportion
# > to the distance between query and key, in each head at its own slope.
# >
# > - With `h = num_heads`, a power of two, the slopes are `2^(−8i / h)` for `i = 1, 2, …, h`, the first head's first.
# > - The bias of head `i` at query `q` and key `k` is `−slope_i · |q − k|`: it falls on both sides.
# > - Return a float32 tensor `(h, n, n)`: head, query, key.


# %%
def alibi_bias(num_heads, n):
    """The bias that falls with the distance between query and key.

    returns float32 (num_heads, n, n): head, query, key
    """
    ...  # your code here


# %%
get("alibi-bias").check(alibi_bias)

# %% [markdown]
# The definition is one line, folded below. The figure shows the bias of four heads, and in the titles after how many
# places a key's weight is halved, other things being equal: $\ln 2 / m_i$.


# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-alibi", "caption": "The bias of ALiBi in a layer of four heads, 32 tokens: what is added to the score of each query (down) and key (across). In the title the distance at which a key's weight is halved."}, "image": {"classes": "wide", "alt": "Four maps of 32 by 32. The first has a narrow bright diagonal and dark corners; from head to head the slope is a quarter of the one before, and the fourth is almost one colour."}}
def alibi_by_definition(num_heads, n):
    slopes = 2.0 ** (-8 * torch.arange(1, num_heads + 1) / num_heads)
    distance = (torch.arange(n)[:, None] - torch.arange(n)).abs()
    return -slopes[:, None, None] * distance


torch.testing.assert_close(alibi_by_definition(8, 11), attn_course.alibi_bias(8, 11))
bias = get("alibi-bias").use(alibi_bias)(4, 32)
halved = [math.log(2) / -bias[i, 0, 1].item() for i in range(4)]
assert halved[3] > 32 > 3 * halved[0]
titles = [f"halved in {places:.0f} places" for places in halved]
plots.score_maps(list(bias), titles, label="bias", side=1.9)
plt.show()

# %% tags=["remove-input"]
say(
    "In [figure](#fig-alibi) the first head hardly sees beyond its neighbours: a weight is halved after {first:.1f} places. For the last one "
    "that takes {last:.0f}, more than the whole sequence. So a layer has heads with different reach, all of them fixed. Note what ALiBi cannot "
    "say: the bias falls steadily, so no head can prefer the key five places back to the key four places back, unless their contents differ. "
    "With a rotation it can.",
    first=halved[0], last=halved[3],
)  # fmt: skip

# %% [markdown]
# ### A clock to turn
#
# In the figure below a query and a key hold the same word, and only their places differ. Move the key away and watch the
# hands; choose another kind of positions and watch the curve.
#
# > **Predict.** The query moves from position 0 to position 40, and the key with it. For which of the three does the
# > curve change: sinusoidal, rotary, ALiBi?

# %% tags=["nbval-ignore-output", "hide-input"]
from attn_course import widgets

clock = widgets.PositionClock(width=16, position=40, offset=5, word=True)
curves = {}
for kind in ("sinusoidal", "rotary", "ALiBi"):
    rows = torch.tensor(clock.tables(kind=kind)[2]["rows"])
    curves[kind] = (rows[:, 1] - rows[:, 2]).abs().max().item()
assert curves["sinusoidal"] > 0.1 and curves["rotary"] < 1e-4 and curves["ALiBi"] == 0
clock

# %% tags=["remove-input"]
say(
    "Only the sinusoid's: its score at some distance moves by up to {moved:.1f} when both go on by 40 places, because word and place are added, and the product "
    "mixes them. Switch the word off, and the curve stands still, as in [figure](#fig-clock). A rotation and a bias never see the place itself.",
    moved=curves["sinusoidal"],
)  # fmt: skip

# %% [markdown]
# ## An experiment: what becomes of a model when the sequence gets longer?
#
# We train small causal transformers (two blocks, width 64, four heads) on sequences of 32 tokens, and test them on up to 256. The models are
# alike but for their positions. Two tasks pull in different directions. In **five back** the answer at each place is the letter that stood five places before:
# what counts is the exact distance.

# %%
from attn_course.experiments import chapter2, load

generator = torch.Generator().manual_seed(26)
tokens, targets, asked = chapter2.five_back(1, 12, generator)
print("letters:", *("ABCDEFGH"[token] for token in tokens[0]))
answers = zip(targets[0], asked[0], strict=True)
print("answers:", *("ABCDEFGH"[target] if known else "·" for target, known in answers))

# %% [markdown]
# In **flip-flop** ([Liu et al., 2023](https://arxiv.org/abs/2306.00946)) some lines write a bit, many are to be ignored, and at a read the answer is the bit written last: what
# counts is *the latest of these*, whatever the distance.

# %%
tokens, targets, asked = chapter2.flip_flop(1, 10, generator)
lines = [chapter2.FLIP_FLOP_TOKENS[token] for token in tokens[0]]
answers = zip(lines, targets[0], asked[0], strict=True)
print(*(f"{line} → {bit}" if known else line for line, bit, known in answers), sep="\n")

# %% [markdown]
# **Hypothesis.** Learned positions fail right after 32: their rows were never trained. The sinusoid fails too, for its rows beyond 32 are patterns that
# the model never met. Rotary holds on *five back*, since the score at distance five is the same everywhere. ALiBi holds on *flip-flop*, since later is
# better at every length, and is poor at *five back*. So no encoding wins both. Without positions both should fail.
#
# Five seeds of each were recorded beforehand, each encoding with the learning rate that was best for it on a seed that is not used again.

# %% tags=["nbval-ignore-output"]
record = load("length-generalisation")
lengths, names = record.settings["lengths"], [*chapter2.ENCODINGS[:-1], "ALiBi"]
rows = pd.DataFrame(
    {"task": task, "positions": name, "seed": run["seed"], **run[task][name.lower()]}
    for run in record.runs
    for task in chapter2.TASKS
    for name in names
)
ends = rows.explode("accuracy_end").assign(length=lengths * len(rows))
ends = ends.astype({"accuracy_end": float})
means = ends.groupby(["task", "positions", "length"])["accuracy_end"].mean()
assert (means.xs(256, level="length") <= means.xs(32, level="length") + 0.02).all()
table = means.unstack().reindex(names, level="positions")
print(table[lengths].round(2).sort_index(level="task", sort_remaining=False))

# %% [markdown]
# The table has the share of right answers among the *last 32* positions of a sequence of each length. The first 32 of a long sequence would be as easy as in
# training, since nobody looks ahead, and would flatter the mean. The figure shows how the answers go wrong along one sequence of 256.

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-length", "caption": "Share of right answers along sequences of 256 tokens, in steps of 8, by models trained on 32 (dashed line): mean and range of five seeds. Dotted: chance. Learned positions beyond 32 are untrained rows."}, "image": {"classes": "wide", "alt": "Two line charts along 256 positions. Five back: everything that learned the task is at 1 up to 32; then learned positions drop to chance at once, the sinusoid drops and comes back in waves, rotary stays at 1 beyond 100 and sinks after; ALiBi stays level at about one half. Flip-flop: ALiBi stays near 1 to the end, the four others sink side by side towards chance."}}
longest = rows.explode("by_position")
longest["position"] = [4 + 8 * (i % 32) for i in range(len(longest))]
longest = longest.astype({"by_position": float})
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for axis, (task, asks) in zip(axes, chapter2.TASKS.items(), strict=True):
    sns.lineplot(
        longest[longest["task"] == task],
        x="position",
        y="by_position",
        hue="positions",
        palette=plots.COLOURS,
        errorbar=("pi", 100),
        legend=task == "flip-flop",
        ax=axis,
    )
    axis.axvline(32, color=plots.COLOURS["baseline"], linestyle="--")
    axis.axhline(asks.chance, color=plots.COLOURS["baseline"], linestyle=":")
    axis.set(xlabel="position", ylabel="right answers", ylim=(0, 1.02))
    axis.set_xticks([0, 32, 64, 128, 192, 256])
five, flip = means["five-back"], means["flip-flop"]
others = [name for name in names if name != "rotary"]
assert five["rotary"][128] > max(five[name][128] for name in others) + 0.2
assert flip["ALiBi"][256] > 0.85
axes[0].set_title("Five back: rotary holds longest")
axes[1].set_title("Flip-flop: ALiBi hardly falls")
plt.show()

# %% tags=["remove-input"]
seeds = ends.groupby(["task", "positions", "length"])["accuracy_end"]
low, high = seeds.min()["five-back"], seeds.max()["five-back"]
assert (
    five["learned"][64] < 0.2
    and five["sinusoidal"][64] < 0.6 < 0.9 < five["rotary"][64]
)
assert abs(five["learned"][64] - chapter2.TASKS["five-back"].chance) < 0.02
assert five["ALiBi"][32] < 0.8 and five["ALiBi"][256] > five["ALiBi"][32] - 0.2
glue("learned_five_back_64", f"{five['learned'][64]:.2f}")
glue("rotary_five_back_128", f"{five['rotary'][128]:.2f}")
say(
    "**Five back**, left in [figure](#fig-length). The three that can name a distance learn it: {known:.2f} at length 32. At twice the length rotary still has {rotary64:.2f}, the "
    "sinusoid {sine64:.2f} (seeds from {sine_low:.2f} to {sine_high:.2f}), and learned positions {learned64:.2f}, no better than guessing one of eight letters. Rotary is no way "
    "out for ever: {rotary128:.2f} at four times the length, {rotary256:.2f} at eight (seeds from {rotary_low:.2f} to {rotary_high:.2f}). ALiBi learns only {alibi32:.2f} at length 32, and "
    "keeps most of it: {alibi256:.2f} at 256. Without positions: {none32:.2f} and {none256:.2f}.",
    known=min(five[name][32] for name in ("sinusoidal", "learned", "rotary")),
    rotary64=five["rotary"][64], sine64=five["sinusoidal"][64], sine_low=low["sinusoidal"][64], sine_high=high["sinusoidal"][64],
    learned64=five["learned"][64], rotary128=five["rotary"][128], rotary256=five["rotary"][256],
    rotary_low=low["rotary"][256], rotary_high=high["rotary"][256],
    alibi32=five["ALiBi"][32], alibi256=five["ALiBi"][256], none32=five["none"][32], none256=five["none"][256],
)  # fmt: skip

# %% tags=["remove-input"]
others = {name: flip[name][256] for name in names if name != "ALiBi"}
assert flip["none"][32] > 0.95 and max(others.values()) < flip["ALiBi"][256] - 0.1
slips = rows[(rows["task"] == "flip-flop") & (rows["positions"] == "ALiBi")]
slips = pd.DataFrame(list(slips["by_distance"])).mean()
assert slips.iloc[0] > 0.99 > slips.iloc[-1] + 0.1
glue("alibi_flip_flop_256", f"{flip['ALiBi'][256]:.2f}")
glue(
    "others_flip_flop_256", f"{min(others.values()):.2f} to {max(others.values()):.2f}"
)
say(
    "**Flip-flop**, on the right. Everyone learns it at 32 (at least {least:.3f}), the model *without* positions too. It can, because of the "
    "causal mask: a token that sees only what came before can tell roughly how much that is, so the mask itself leaks the order, as "
    "[Haviv et al., 2022](https://arxiv.org/abs/2203.16634), found in language models. At eight times the length ALiBi gives the right bit in {alibi:.2f} of the last reads, the others in "
    "{low:.2f} to {high:.2f}, where guessing gives {chance:.2f}. What ALiBi gets wrong lies far back: it has {near:.2f} of the reads whose write is less than 8 places away, {far:.2f} where it is 64 or more.",
    least=min(flip[name][32] for name in names), alibi=flip["ALiBi"][256],
    low=min(others.values()), high=max(others.values()), chance=1 / 2, near=slips.iloc[0], far=slips.iloc[-1],
)  # fmt: skip

# %% tags=["remove-input"]
best = {task: means[task].xs(256, level="length").idxmax() for task in chapter2.TASKS}
assert best["five-back"] != best["flip-flop"] == "ALiBi"
assert low["rotary"][256] < five["ALiBi"][256] < five["rotary"][256]
assert abs(flip["none"][256] - flip["rotary"][256]) < 0.1
tried = load("length-generalisation-rates").runs[0]["five-back"]["rotary"]
assert all(rate[0] > 0.99 for rate in tried)
by_rate = [rate[-1] for rate in tried]
say(
    "So no encoding wins both: at 256 tokens {five} is ahead on five back and {flip} on flip-flop. Two parts of the hypothesis did not come out. Rotary does *not* hold to the end, "
    "and its worst seed falls below ALiBi. And the model without positions does not fail at flip-flop: it ends beside rotary ({none:.2f} and {rotary:.2f}). One more caution. Of "
    "four learning rates, all of which give rotary 1.00 at length 32, the best gives {rate_high:.2f} and the worst {rate_low:.2f} over all positions of 256: how a model does at its own length does not tell.",
    five=best["five-back"], flip=best["flip-flop"], none=flip["none"][256], rotary=flip["rotary"][256],
    rate_low=min(by_rate), rate_high=max(by_rate),
)  # fmt: skip

# %% [markdown]
# ### See it happen
#
# Two of the ten models are trained once more, here and now, with seed 0: about fifteen seconds on one core. If you press stop, the chapter goes on with what has been learned so far.

# %% tags=["nbval-ignore-output"]
rates = record.settings["learning_rates"]["five-back"]
models, live, finished = {}, {}, True
for name in ("learned", "rotary"):
    models[name], history = chapter2.train_tagging_model(
        "five-back", name, 0, learning_rate=rates[name]
    )
    finished = finished and not history.interrupted
    live[name] = chapter2.examine(models[name], "five-back", lengths)
    recorded = record.runs[0]["five-back"][name]
    print(f"{name}, here:    ", live[name]["accuracy_end"])
    print(f"{name}, recorded:", recorded["accuracy_end"])
assert not finished or live["learned"]["accuracy_end"][1] < 0.3
assert not finished or live["rotary"]["accuracy_end"][1] > 0.8

# %% [markdown]
# The run here and the recorded one agree where the claim is: learned positions fall to chance right behind 32, rotary does not. Why? For learned positions
# one can simply look at the table. The next figure shows the length of each of its 256 rows after training.

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-table", "caption": "The learned positions of the model trained here (seed 0): the length of each row of its table. Training sequences have 32 tokens; the rows behind the dashed line are untrained and still what they were at the start."}, "image": {"classes": "wide", "alt": "The first 32 rows are long and uneven; from row 32 to row 255 all rows have the same small length, and the area is marked as untrained."}}
norms = models["learned"].positions.weight.detach().norm(dim=1).cpu()
grown = norms[:32].mean().item() / norms[32:].mean().item()
assert not finished or (grown > 3 and norms[32:].max() < norms[:32].min())
figure, axis = plt.subplots(figsize=(7, 2.8))
axis.fill_between(range(256), norms, step="mid", color=plots.COLOURS["learned"])
axis.axvspan(31.5, 255.5, color=plots.COLOURS["baseline"], alpha=0.15, linewidth=0)
axis.axvline(31.5, color=plots.COLOURS["baseline"], linestyle="--")
axis.text(
    144, norms.max() * 0.6, "untrained rows:\nstill the random start", ha="center"
)
axis.set(
    xlabel="position", ylabel="length of the row", xlim=(-0.5, 255.5), ylim=(0, None)
)
axis.set_xticks([0, 32, 64, 128, 192, 256])
axis.set_title("Beyond 32 the table is what it was before training")
plt.show()

# %% [markdown]
# That settles it for the table. What of the others, which have a rule for every position? Of each recorded model we take the head that looks most at the answer at length 32, and
# ask two things of it in longer sequences: how much weight is still on the answer, and how much has gone to keys 32 or more places back, a distance that training never met.

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-look", "caption": "The head of each model that looks most at the answer at length 32: what becomes of its weights in longer sequences, for the last 32 queries. Left and right: weight on the key that holds the answer. Middle: weight on all keys 32 or more places back. Mean and range of five seeds. Learned positions beyond 32 are untrained rows."}, "image": {"classes": "wide", "alt": "Three line charts against lengths 32, 64, 128, 256. Five back, weight on the answer: learned and sinusoidal fall to almost nothing at 64, rotary slowly to about a quarter; none and ALiBi are low throughout. Weight on far keys: rises to about 0.7 and more for all but ALiBi, which stays near 0.1. Flip-flop, weight on the answer: ALiBi stays above one half, the others fall towards zero."}}
look = pd.DataFrame(list(rows["look"])).join(rows[["task", "positions", "seed"]])
look = look.explode(["source_weight", "far_weight"])
look["length"] = lengths * len(rows)
look = look.astype({"source_weight": float, "far_weight": float})
panels = {
    "Five back: the answer fades": ("five-back", "source_weight", "on the answer"),
    "… and far keys take over": ("five-back", "far_weight", "32 or more back"),
    "Flip-flop: ALiBi keeps looking": ("flip-flop", "source_weight", "on the answer"),
}
figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.4), sharey=True)
for axis, (title, (task, measured, name)) in zip(axes, panels.items(), strict=True):
    plots.lines_by_length(axis, look[look["task"] == task], y=measured, hue="positions")
    axis.set(
        title=title, ylabel="weight", xlabel=f"length (weight {name})", ylim=(0, 1.02)
    )
    axis.get_legend().set_visible(axis is axes[1])
weights = look.groupby(["task", "positions", "length"])[
    ["source_weight", "far_weight"]
].mean()
answer, far = weights["source_weight"], weights.loc["five-back"]["far_weight"]
seeing = ("sinusoidal", "learned", "rotary")
assert all(
    answer["five-back"][k][256] < 0.5 * answer["five-back"][k][32] for k in seeing
)
assert all(far[k][256] > 0.5 for k in seeing) and far["ALiBi"][256] < 0.3
assert answer["flip-flop"]["ALiBi"][256] > 2 * answer["flip-flop"]["rotary"][256]
plt.show()

# %% tags=["remove-input"]
profiles = [run["five-back"]["rotary"]["look"]["by_distance"][1] for run in record.runs]
assert all(max(profile) == profile[5] for profile in profiles)
say(
    "Rotary's head still points at the fifth key: of the keys up to 15 places back it is the first in all {seeds} seeds. But at 256 it keeps {answer:.2f} of the weight (at 32: {at_start:.2f}), and "
    "{far:.2f} lies on keys 32 or more back. The sinusoid loses the place itself, at "
    "64 already ({sine:.2f}). ALiBi's heads are the other way round: none points at the fifth key ({alibi:.2f}), but its bias takes far keys down by construction ({alibi_far:.2f}), and that is all "
    "that flip-flop needs ({alibi_flip:.2f} on the last write at 256, {rotary_flip:.2f} for rotary).",
    seeds=len(profiles), answer=answer["five-back"]["rotary"][256], at_start=answer["five-back"]["rotary"][32],
    far=far["rotary"][256], sine=answer["five-back"]["sinusoidal"][64], alibi=answer["five-back"]["ALiBi"][32], alibi_far=far["ALiBi"][256],
    alibi_flip=answer["flip-flop"]["ALiBi"][256], rotary_flip=answer["flip-flop"]["rotary"][256],
)  # fmt: skip

# %% [markdown]
# Which far keys does rotary fall for? A head of width 16 has eight hands. The first three go round in 6, 20 and 63 places; the other five move
# by one radian at most within 32 tokens, so training cannot have leaned on them much. At which distances do the first three show *five back* again? We lay the weights of the rotary model trained here beside the mean
# of $\cos((s - 5)\,\omega_i)$ over these three hands, at every distance $s$.

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-round", "caption": "Top: the mean weight that the best head of the rotary model trained here (seed 0) puts on the key at each distance, for the last 32 queries of sequences of 256. Bottom: how well the first three hands agree with their position at five back; 1 is complete agreement. Dashed: the longest distance in training."}, "image": {"classes": "wide", "alt": "Two curves against distance. The weight has a peak at 5 and a few narrow peaks beyond 100, the largest near 124 and 187; below them the agreement of the hands has its highest peaks at the same distances."}}
tokens, _, _ = chapter2.test_batch("five-back", 256)
head = live["rotary"]["look"]
with torch.no_grad():
    _, maps = models["rotary"](tokens[:32].to(device), need_weights=True)
seen = maps[head["layer"]][:, head["head"]].mean(dim=0).cpu()
distance = torch.arange(225)
seen = torch.stack([seen[i, i - distance] for i in range(224, 256)]).mean(dim=0)
turns = 10000 ** -(torch.arange(3) / 8)  # radians per position, of eight hands
agree = torch.cos((distance[:, None] - 5) * turns).mean(dim=1)
far_seen = seen[32:] / seen[32:].sum()
meets, by_chance = (far_seen @ agree[32:]).item(), agree[32:].mean().item()
assert not finished or meets > 0.5 > 0.2 > abs(by_chance)
figure, axes = plt.subplots(2, 1, figsize=(7, 4.2), sharex=True)
axes[0].plot(seen, color=plots.COLOURS["rotary"])
axes[1].plot(agree, color=plots.COLOURS["rotary"])
for axis in axes:
    axis.axvline(31, color=plots.COLOURS["baseline"], linestyle="--")
axes[0].set(ylabel="weight", ylim=(0, None))
title = "The weight goes where the fast hands come round again"
axes[0].set_title(title if meets > 0.5 else "Not trained to the end: no clear picture")
axes[1].set(ylabel="agreement", xlabel="distance between query and key")
plt.show()

# %% tags=["remove-input", "nbval-ignore-output"]
before, after_120 = (
    sum(run["five-back"]["rotary"]["by_position"][i] for run in record.runs)
    / len(record.runs)
    for i in (14, 17)
)
again = 32 + int(agree[32:].argmax())
assert before > 0.98 and after_120 < before - 0.1 and 120 <= again <= 130
glue("hands_come_round", f"{again}")
say(
    "{found} (mean agreement {meets:.2f} where the weight is, {by_chance} over all far distances). "
    "The closest agreement beyond training is at distance {again}, and that is where [figure](#fig-length) broke: over the five recorded seeds rotary has {before:.2f} at positions 112 to 119, and {after:.2f} at 136 to 143. "
    "A clock whose hands come round tells the wrong hour, exactly as the clock with one hand did at place 6. A larger `base` would slow the hands; we have not tried it.",
    found="The far weight is not spread out: it sits on a few distances, and these are the ones where the hands agree with *five back*"
    if meets > 0.5 else "The model trained here does not show where the far weight goes",
    meets=meets, by_chance=f"{by_chance:.2f}".replace("-", "−"), again=again, before=before, after=after_120,
)  # fmt: skip

# %% [markdown]
# ### The encoding, or the training?
#
# An encoding that fails may have failed for want of training. Two remedies were tried, three seeds each. **Random start**: every training sequence of 32
# tokens begins at a random place of the table, so that all 256 positions are met, though never a longer sequence. **Four times the steps**, for rotary and ALiBi on five back.

# %% tags=["nbval-ignore-output"]
remedies = load("length-generalisation-remedies")
treated = pd.DataFrame(
    {
        "remedy": remedy,
        "task": task,
        "positions": name.replace("alibi", "ALiBi"),
        **dict(zip(lengths, result["accuracy_end"], strict=True)),
    }
    for run in remedies.runs
    for remedy in ("random-start", "four-times-the-steps")
    for task, results in run[remedy].items()
    for name, result in results.items()
)
after = treated.groupby(["remedy", "task", "positions"], sort=False).mean()
assert len(after) == 5
print(after.round(2))

# %% tags=["remove-input"]
restarted, patient = (
    treated[(treated["positions"] == name) & (treated["task"] == "five-back")][256]
    for name in ("sinusoidal", "ALiBi")
)
spent = after.loc["four-times-the-steps", "five-back"][256]
assert (
    restarted.min() > five["sinusoidal"][256] + 0.2
    and patient.min() > five["ALiBi"][256] + 0.05
)
assert (
    abs(restarted.mean() - five["rotary"][256]) < 0.2
    and abs(spent["ALiBi"] - spent["rotary"]) < 0.3
)
glue("sinusoid_random_start_256", f"{restarted.mean():.2f}")
say(
    "This changes the picture. With random starts, at equal cost, the sinusoid on five back goes from {before:.2f} to {sine:.2f} at 256 (seeds from {sine_low:.2f} to {sine_high:.2f}), level with rotary's {rotary:.2f}: it had failed for the most part on positions that it never "
    "met, not on long sequences. Learned positions get {learned:.2f} even at 32: every row is met less often, so 400 steps are too few. ALiBi, given four times the steps, does learn five back: "
    "{alibi32:.2f} at 32 and {alibi256:.2f} at 256, where rotary with as many steps has {rotary256:.2f}. *Learns slowly* would have been a better verdict on ALiBi than *cannot*: no head can point at the fifth key, but a later layer may compare what heads of different reach hand over.",
    before=five["sinusoidal"][256], sine=restarted.mean(), sine_low=restarted.min(), sine_high=restarted.max(), rotary=five["rotary"][256],
    learned=after.loc["random-start", "five-back", "learned"][32], alibi32=after.loc["four-times-the-steps", "five-back", "ALiBi"][32],
    alibi256=spent["ALiBi"], rotary256=spent["rotary"],
)  # fmt: skip

# %% [markdown]
# ### What the papers say
#
# [Press et al., 2022](https://arxiv.org/abs/2108.12409), report a language model with ALiBi that trains on 1,024 tokens and reads 2,048 as well as a sinusoidal one trained on these. That is
# our flip-flop side: the next word of a text depends mostly on recent words. [Kazemnejad et al., 2023](https://arxiv.org/abs/2305.19466), find that on reasoning tasks decoders *without* positions reach
# farthest, up to twice the training length, and ALiBi and rotary fall short. Ours without positions keep up with rotary on flip-flop, but cannot even learn five back. And [Liu et al., 2023](https://arxiv.org/abs/2306.00946), find that transformers keep slipping on flip-flop,
# rarely but again and again; so does ours with ALiBi. All their models are larger and trained longer than two blocks and 400 steps.

# %% [markdown]
# ## The price
#
# What does each of them add to a layer of attention? Take 1,024 tokens, $d_{model} = 256$ and eight heads, as in chapter 1.
#
# > **Predict.** Which of the four adds matrix products? Which one takes the most memory, and how much: about the size of its input (1 MiB), or of the
# > map of weights (32 MiB)?

# %%
from attn_course import benchmark, complexity

n, d_model, h = 1024, 256, 8
sizes = {"batch": 1, "n": n}
costs = {
    "sinusoidal": complexity.cost("sinusoidal-encoding", d_model=d_model, **sizes),
    "learned": complexity.cost("learned-encoding", d_model=d_model, **sizes),
    "rotary": complexity.cost(
        "rotary-embedding", d_model=d_model, num_heads=h, **sizes
    ),
    "ALiBi": complexity.cost("alibi-bias", num_heads=h, **sizes),
}
fields = ("parameters", "flops", "elementwise", "table_bytes")
print(pd.DataFrame({k: {f: getattr(c, f) for f in fields} for k, c in costs.items()}).T)

# %% [markdown]
# Not one FLOP: by the convention of this book only matrix products and convolutions count, and none of the four has any. What they add is elementwise work, parameters or
# tables. Rotary and ALiBi pay again in every layer (rotary's cache and ALiBi's bias can be shared between layers), the other two once, at the entrance.
#
# Now we measure: the bytes of the real tensors, and then the time of one layer in inference, without weights.

# %%
torch.manual_seed(10)
layer = (
    attn_course.MultiHeadAttention(d_model, h).eval().requires_grad_(False).to(device)
)
x = torch.randn(1, n, d_model, device=device)
sine = attn_course.PositionalEncoding(d_model, n).to(device)
learned = (
    attn_course.LearnedPositionalEncoding(d_model, n).requires_grad_(False).to(device)
)
rotary = attn_course.RotaryEmbedding(d_model // h).to(device)
rotary.reserve(n)
bias = attn_course.alibi_bias(h, n, device=device)
held = {
    "sinusoidal": sine.pe,
    "learned": learned.weight,
    "rotary": rotary.cache,
    "ALiBi": bias,
}
held = {name: tensor.numel() * tensor.element_size() for name, tensor in held.items()}
predicted = {
    name: 4 * cost.parameters + cost.table_bytes for name, cost in costs.items()
}
assert predicted == held
for name, size in held.items():
    print(f"{name:10} {size / 2**20:6.3f} MiB")

# %% [markdown]
# Every byte is where it was predicted. Now the time. All variants take turns, and the layer without positions is entered twice: no ratio means more than the distance of that one from 1.


# %% tags=["nbval-ignore-output"]
def attend(x, **positions):
    return layer(x, x, x, need_weights=False, **positions)


peers = {
    "none": lambda: attend(x),
    "sinusoidal": lambda: attend(sine(x)),
    "learned": lambda: attend(learned(x)),
    "rotary": lambda: attend(x, rotary=rotary),
    "ALiBi": lambda: attend(x, bias=bias),
}
samples = benchmark.measure(peers, control="none", rounds=21, device=device)
ratios = {
    name: benchmark.ratio(times, samples["none"]) for name, times in samples.items()
}
assert 0.5 < ratios["none (control)"].median < 2
for name in list(ratios)[1:]:
    print(f"{name:15} time / none: {ratios[name]}")

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-price-positions", "caption": "What positions add to one layer of attention (1,024 tokens, width 256, eight heads). Left: elementwise operations, predicted. Middle: bytes of parameters and tables, predicted (bars) and measured (dots). Right: time over the layer without positions, on the machine that is named at the foot of this page, with 95 % intervals; grey: the same layer against itself."}, "image": {"classes": "wide", "alt": "Three charts with a bar for each of the four. ALiBi has by far the most elementwise work and bytes, a hundred times those of rotary; all add little to the time but ALiBi, or rotary."}}
figure, (work, memory, clock) = plt.subplots(1, 3, figsize=(9.5, 3.2))
colours = [plots.COLOURS[name] for name in costs]
kinds = list(costs)
bars = work.bar(kinds, [costs[name].elementwise / 1e6 for name in kinds], color=colours)
work.bar_label(bars, fmt="{:.2g}")
memory.bar(kinds, [predicted[name] / 2**20 for name in kinds], color=colours)
memory.plot(kinds, [held[name] / 2**20 for name in kinds], "ko", markersize=5)
control = ratios["none (control)"]
clock.axhspan(control.low, control.high, color=plots.COLOURS["baseline"], alpha=0.3)
for name, colour in zip(kinds, colours, strict=True):
    ratio = ratios[name]
    spread = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
    clock.errorbar([name], [ratio.median], spread, fmt="o", color=colour, capsize=4)
work.set(yscale="log", ylabel="million operations", title="ALiBi works on every score")
memory.set(yscale="log", ylabel="MiB", title="… and keeps a bias for each")
assert costs["ALiBi"].elementwise > 10 * costs["rotary"].elementwise
slower = [name for name in kinds if ratios[name].low > control.high]
title = f"Slower: {', '.join(slower)}" if slower else "None is clearly slower"
clock.set(ylabel="time / no positions", title=title)
for axis in (work, memory, clock):
    axis.tick_params(axis="x", labelrotation=30)
plt.show()

# %% tags=["remove-input", "nbval-ignore-output"]
largest, rest = ratios["ALiBi"], [ratios[name] for name in kinds if name != "ALiBi"]
assert held["ALiBi"] > 100 * held["rotary"]
glue("alibi_bias_mib", f"{held['ALiBi'] / 2**20:.0f}")
say(
    "ALiBi's bias takes {bias:.0f} MiB, {share:.0f} times the input, and grows with $n^2$; rotary's cache takes {cache:.3f} MiB. In time ALiBi's layer "
    "took {alibi} times as long as without positions, with the others it took {low:.2f} to {high:.2f} times as long, and the layer against itself {control} (medians, 95 % intervals in brackets). "
    "{verdict}",
    bias=held["ALiBi"] / 2**20, share=held["ALiBi"] / (4 * n * d_model), cache=held["rotary"] / 2**20, alibi=largest, low=min(r.median for r in rest),
    high=max(r.median for r in rest), control=control,
    verdict="Beyond the noise: " + " and ".join(slower) + ". Work that counts no FLOP is not free: bytes must be read and written." if slower else "None of them is slower beyond the noise.",
)  # fmt: skip

# %% [markdown]
# ## Where it breaks
#
# You saw four failures on the way: an odd width, angles in float32, a table that ends, and a pairing that is not the weights' own. Here is one more, on the smallest input that shows it, and it is easy to overlook. A module is cast to bfloat16, which keeps eight bits of precision, and the usual rotary code makes its positions in the dtype of the module.
#
# > **Predict.** Between 256 and 512 a bfloat16 knows only every second whole number. What do tokens 256 and 257 have in common?

# %%
x = torch.ones(1, 258, 8, dtype=torch.bfloat16)
for name, module in (("usual", textbook), ("ours", attn_course)):
    turned = module.RotaryEmbedding(8).bfloat16()(x)[0]
    gap = (turned[256] - turned[257]).abs().max().item()
    print(f"{name:6} largest difference between tokens 256 and 257: {gap:.2f}")

# %% [markdown]
# They stand at the same place. Nothing complains: the model is a little worse on long texts, and worse the longer they get. Positions are whole numbers and angles grow with them: keep both out of
# half precision, and round only cosines and sines.

# %% [markdown]
# ## When to take it
#
# - **Take** rotary for a new model that is trained at the length it will be used at: no parameters, distances for free, a small cache.
# - **Take** ALiBi when sequences will be longer than in training and what matters is *the latest of these*; leave it when an exact distance counts.
# - **Do not** expect a table, learned or of sines, to serve beyond the positions that training met; random starts let it meet them all.
#
# > **Predict.** A chat model reads up to 32,768 tokens, in 16 heads of width 64. It will be trained at that length. How many bytes would a stored bias of ALiBi take, and how
# > many a rotary cache? Work them out before you unfold the output.

# %% tags=["hide-output"]
long = {"batch": 1, "n": 32768, "num_heads": 16}
stored = complexity.cost("alibi-bias", **long).table_bytes
cached = complexity.cost("rotary-embedding", d_model=1024, **long).table_bytes
assert stored > 1000 * cached
print(
    f"ALiBi's bias {stored / 2**30:.0f} GiB, rotary's cache {cached / 2**20:.0f} MiB."
)
print("Rotary; or ALiBi in a kernel that makes each piece of the bias as it goes.")

# %% [markdown]
# ## Questions
#
# Decide before you open a choice: each one says what is right in it, or what is not. By keyboard, Tab goes to the
# next choice, or to a link in an open one, and Enter opens it and closes the one before.

# %% [markdown]
# **Question 1.** The hand of a clock moves on by a quarter of a turn from one place to the next. What is the dot
# product of its readings at places 2 and 5?
#
# <details name="chapter-2-question-1"><summary>A. −1: the hands point in opposite directions</summary>
#
# **Not quite.** That takes half a turn, which is two steps, as from place 2 to place 4. From 2 to 5 there are three.
#
# </details>
#
# <details name="chapter-2-question-1"><summary>B. 1: the hand has come round</summary>
#
# **Not quite.** That takes four steps: this clock shows at place 6 what it showed at place 2. Place 5 is one step
# short of it.
#
# </details>
#
# <details name="chapter-2-question-1"><summary>C. 0: the hands stand at a right angle</summary>
#
# **Right.** Three quarters of a turn lie between them, and $\cos 270^\circ = 0$. Only the difference of the places
# enters (section *By hand*).
#
# </details>
#
# <details name="chapter-2-question-1"><summary>D. It would be another number at places 102 and 105</summary>
#
# **Not quite.** There both hands have turned on by the same angle, so the angle between them is what it was. This is
# why the dot product knows the distance alone.
#
# </details>

# %% [markdown]
# **Question 2.** Positions are taken out of two models: an encoder, in which every token sees all tokens, and a
# decoder with a causal mask. Which of them can still give *dog* different outputs in *dog bites man* and in *man
# bites dog*?
#
# <details name="chapter-2-question-2"><summary>A. Only the decoder with its mask</summary>
#
# **Right.** There the first word sees itself alone and the last one all three, so the mask leaks the order. That is
# how the model without positions could learn flip-flop at its own length.
#
# </details>
#
# <details name="chapter-2-question-2"><summary>B. Neither: attention sees a set</summary>
#
# **Not quite.** That holds where every token sees all. A causal mask is not the same for all tokens, and a shuffle
# changes who sees whom.
#
# </details>
#
# <details name="chapter-2-question-2"><summary>C. Both: each word has an embedding of its own</summary>
#
# **Not quite.** Embeddings say *which* words are there. In the encoder *dog* meets the same three keys and values in
# both sentences, and a weighted sum does not care for their order.
#
# </details>

# %% [markdown]
# **Question 3.** A model with rotary positions was trained in float32 on 4,096 tokens, and works at that length. Run
# in bfloat16, it gets worse from token 256 on. Where do you look first?
#
# <details name="chapter-2-question-3"><summary>A. At the base: the fast hands have come round by then</summary>
#
# **Not quite.** They have, in float32 just as well, and there the model works. A cause must explain what differs
# between the two runs.
#
# </details>
#
# <details name="chapter-2-question-3"><summary>B. At the training: it never met positions beyond 256</summary>
#
# **Not quite.** It met 4,096 of them, and in float32 they work. Length is the trouble of section *An experiment*, not
# of this model.
#
# </details>
#
# <details name="chapter-2-question-3"><summary>C. At the dtype in which the positions are made</summary>
#
# **Right.** Between 256 and 512 a bfloat16 knows only every second whole number, so neighbours get the same place.
# Positions and angles stay in float32; only cosines and sines are rounded (section *Where it breaks*).
#
# </details>

# %% [markdown]
# **Question 4.** A model reads the log of a machine. At every line it has to say what the latest *set* command was.
# It trains on 500 lines and will run on 5,000. Which positions do you try first?
#
# <details name="chapter-2-question-4"><summary>A. Rotary: the score of a distance is the same everywhere</summary>
#
# **Not quite.** It is, for distances that training met. Here keys farther back than 500 lines compete as well, and
# some of them look near again when the hands come round.
#
# </details>
#
# <details name="chapter-2-question-4"><summary>B. ALiBi: later lines are preferred at every length</summary>
#
# **Right.** What counts is *the latest of these*, not an exact distance, and the bias takes far keys down also where
# training never was. Measure it at 5,000 all the same (section *When to take it*).
#
# </details>
#
# <details name="chapter-2-question-4"><summary>C. A learned table that has 5,000 rows from the start</summary>
#
# **Not quite.** Rows beyond 500 would exist, but no training line ever reaches them: they stay at their random start,
# and nothing complains.
#
# </details>

# %% [markdown]
# ## What we know now

# %% tags=["remove-input"]
assert blind == 0.5 and told == 1.0
say(
    "Attention alone sees a set: the best of a thousand readers was right in {blind:.0%} of the cases, and in {told:.0%} once positions were added. Sines make a clock whose dot products know the distance alone, and one matrix moves it "
    "on by $k$ from anywhere. Computed in float32 that table is off by {usual} at position 5000, in float64 by {ours}. Trained on 32 tokens, learned positions name the token five back with {learned:.2f} at 64 (chance), rotary "
    "with {rotary128:.2f} at 128 and {rotary256:.2f} at 256, after its fast hands have come round. The latest bit is recalled at 256 with {alibi:.2f} by ALiBi and at most {rest:.2f} by the others: none wins both. "
    "And much of it was training: with random starts the sinusoid went from {before:.2f} to {sine:.2f} at 256.",
    blind=blind, told=told, usual=ten(errors["usual"][5000]), ours=ten(errors["ours"][5000]), learned=five["learned"][64], rotary128=five["rotary"][128], rotary256=five["rotary"][256],
    alibi=flip["ALiBi"][256], rest=max(others.values()), before=five["sinusoidal"][256], sine=restarted.mean(),
)  # fmt: skip

# %% [markdown]
# **Further reading.** [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762), section 3.5, for the sinusoid in half a page;
# [Shaw et al., 2018](https://arxiv.org/abs/1803.02155), the first to give attention distances in place of positions;
# [Su et al., 2021](https://arxiv.org/abs/2104.09864), for the derivation of the rotation;
# [Press et al., 2022](https://arxiv.org/abs/2108.12409), for ALiBi and the question of length itself;
# [Liu et al., 2023](https://arxiv.org/abs/2306.00946), for flip-flop and what it says about large models;
# [Kazemnejad et al., 2023](https://arxiv.org/abs/2305.19466), who compare the encodings on many more tasks.
#
# **The next question.** Sentences have an order; pictures have two directions, and a convolution knows both without being told. What is left for attention
# to do in a CNN? That is chapter 3.
#
# Something wrong or unclear? [Report it](https://github.com/attn-course/attn-course/issues).

# %% tags=["remove-cell"]
print("Chapter 2 is complete.")
