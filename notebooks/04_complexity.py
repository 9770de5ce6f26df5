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
# # Complexity: what does it cost, before it runs?
#
# **After this chapter you can** count the operations of every mechanism of this book exactly, say where the famous $n^2$ begins to
# matter and where it does not, predict peak memory before a run, tell from two numbers of a machine whether arithmetic or
# memory will bind, explain why generating text is slow, and describe in numbers what flows where.
#
# **You need** attention as in [chapter 1](01_transformer.ipynb), and the modules of [chapter 3](03_cnn.ipynb). **It takes** about 90
# minutes with its six exercises, 40 without. The symbols are explained on the page [Notation](../book/notation.md).

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
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from attn_course import benchmark, complexity, data, plots, textbook
from attn_course.exercises import get
from attn_course.prose import glue, say

plots.use_house_style()

# %% [markdown]
# ## The trouble: a table that everybody knows, and that predicts nothing
#
# The document that this course grew from compares its mechanisms by a table, as many texts do:
#
# | mechanism | complexity | its code puts in |
# |---|---|---|
# | transformer attention | $O(n^2 d_\text{model})$ | $n = 512$, $d_\text{model} = 512$ |
# | spatial attention | $O(H \cdot W)$ | $H = W = 224$ |
# | channel attention | $O(C)$ | $C = 256$ |
#
# > **Predict.** By this table, how many times as long as channel attention does transformer attention take? And would you believe it?

# %%
table = textbook.attention_complexity_comparison()
promised = table["transformer"] / table["channel"]
print(f"transformer / channel: {promised:,.0f}")

# %% [markdown]
# Now we run the two side by side. A gate needs a height and a width too, though its row names none: it gets the 224 × 224 of the row above.

# %% tags=["nbval-ignore-output"]
torch.manual_seed(0)
sequence = torch.randn(1, 512, 512, device=device)
pictures = torch.randn(1, 256, 224, 224, device=device)
attention = attn_course.MultiHeadAttention(512, 8).to(device).eval()
gate = attn_course.ChannelAttention(256).to(device).eval()
with torch.no_grad():
    samples = benchmark.measure(
        {
            "transformer": lambda: attention(sequence, sequence, sequence),
            "channel": lambda: gate(pictures),
        },
        rounds=9,
        device=device,
    )
measured = benchmark.ratio(samples["transformer"], samples["channel"])
assert measured.median < promised / 1000
print(f"measured: {measured} times as long")

# %% tags=["remove-input", "nbval-ignore-output"]
assert promised > 500_000 > 1000 * measured.median
glue("table_promised", f"{promised:,.0f}")
glue("table_measured", f"{measured.median:.1f}")
say(
    "The table says {promised:,.0f} times. The clock says {seen:.1f}, which may be another number on another machine, and is nowhere near. Each entry is a *leading term*: "
    "what its author held constant was left out, and that is not the same in the three rows. "
    "A leading term is made to say how *one* mechanism grows. It does not compare two. For that we have to count.",
    promised=promised, seen=measured.median,
)  # fmt: skip

# %% [markdown]
# ## By hand: three tokens, four channels, one head
#
# A matrix product of an $(a \times b)$ by a $(b \times c)$ matrix has $a \cdot c$ results, each a sum of $b$ products. One multiplication
# with its addition is a **multiply-add**, counted as 2 FLOPs (floating-point operations). So the product takes $2abc$.
#
# Three tokens of width 4 are a $3 \times 4$ matrix. The query projection multiplies it by $4 \times 4$: $2 \cdot 3 \cdot 4 \cdot 4 = 96$.
#
# > **Predict.** Keys, values and the output projection take as much each. What do the scores $QK^\top$ take, $3 \times 4$ by $4 \times 3$? The weighted sum, $3 \times 3$ by
# > $3 \times 4$? And all six together?

# %%
n, d = 3, 4
by_hand = {
    "query, key, value and output projections": 4 * 2 * n * d * d,
    "scores": 2 * n * d * n,
    "weighted sum": 2 * n * n * d,
}
for step, flops in by_hand.items():
    print(f"{flops:4}  {step}")
print(f"{sum(by_hand.values()):4}  together")

# %% [markdown]
# Torch can count as well. On the *meta* device tensors have shapes and no numbers, so that nothing is computed and any size
# can be counted in no time.

# %%
with torch.device("meta"):
    small = attn_course.MultiHeadAttention(4, 1)
    x = torch.randn(1, 3, 4)
with FlopCounterMode(display=False) as counter:
    small(x, x, x)
assert counter.get_total_flops() == sum(by_hand.values())
print("torch counts", counter.get_total_flops())

# %% [markdown]
# ## The formula
#
# With $B$ sequences, $n_q$ queries and $n_k$ keys, the projections of queries and of the output see $n_q$ tokens, those of keys and
# values $n_k$. Each of the $h$ heads multiplies matrices of width $d_k$, and $h \cdot d_k = d_\text{model}$, so the number of heads drops out:
#
# <a id="eq-flops"></a>
# $$
# \begin{aligned}
# \mathrm{FLOPs} &= \underbrace{4 B (n_q + n_k)\, d_\text{model}^2}_{\text{four projections}} \\
# &\quad + \underbrace{4 B\, n_q\, n_k\, d_\text{model}}_{\text{scores, weighted sum}}
# \end{aligned}
# $$
#
# For self-attention that is $8 B n d_\text{model}^2 + 4 B n^2 d_\text{model}$. The table of the beginning kept $n^2 d_\text{model}$: without the factor 4, and without
# the first term, which may be the larger one.

# %% [markdown]
# > **Exercise.** Write `attention_flops(batch, n_q, n_k, d_model)`: how many FLOPs one forward pass of multi-head attention takes.
# >
# > Six matrix products make it up: four projections (`w_q`, `w_k`, `w_v` and `w_o`, each `d_model × d_model`), the scores,
# > and the weighted sum of the values. The queries are made from `n_q` vectors, the keys and values from `n_k`.
# >
# > - One multiply-add is 2 FLOPs. Only matrix products count: no softmax, no scale, no biases.
# > - The number of heads `h` is not among the arguments. Each head is `d_model / h` wide.
# > - All sizes are Python integers; return one.


# %%
def attention_flops(batch, n_q, n_k, d_model):
    """FLOPs of one forward pass of multi-head attention, its four projections included.

    returns an int: 2 for each multiply-add
    """
    ...  # your code here


# %%
get("attention-flops").check(attention_flops)
# %% [markdown]
# Folded below: the count, written down once more, held against the package's cost model. The package counts every mechanism of
# the book like this, step by step; its tests compare each with torch's counter over random sizes.


# %% tags=["hide-input"]
def flops_by_definition(batch, n_q, n_k, d_model):
    projections = 2 * batch * (2 * n_q + 2 * n_k) * d_model**2
    scores = weighted_sum = 2 * batch * n_q * n_k * d_model
    return projections + scores + weighted_sum


price = complexity.cost(
    "multi-head-attention", batch=2, n_q=5, n_k=7, d_model=12, num_heads=3
)
assert flops_by_definition(2, 5, 7, 12) == price.flops == sum(price.terms.values())
count_flops = get("attention-flops").use(attention_flops)
print("definition and package agree:", count_flops(2, 5, 7, 12))

# %% [markdown]
# ### Why does the counter say less for the fused call?
#
# With `need_weights=False` the same module takes torch's fused kernel, which never stores the weights. The work is the same.
# The counter does not think so.

# %%
fused = attn_course.MultiHeadAttention(64, 4).eval()
tokens = torch.randn(1, 100, 64)
counted = {}
for name, need_weights in (("with weights", True), ("fused", False)):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        fused(tokens, tokens, tokens, need_weights=need_weights)
    counted[name] = counter.get_total_flops()

theirs = nn.MultiheadAttention(64, 4, batch_first=True).eval()
with FlopCounterMode(display=False) as counter, torch.no_grad():
    theirs(tokens, tokens, tokens, need_weights=False)
counted["nn.MultiheadAttention"] = counter.get_total_flops()
counted["by formula"] = count_flops(1, 100, 100, 64)
print(pd.Series(counted).to_string())

# %% tags=["remove-input"]
missing = counted["with weights"] - counted["fused"]
nothing = counted["nn.MultiheadAttention"] == 0
assert counted["with weights"] == count_flops(1, 100, 100, 64)
on_cpu = missing == 4 * 100 * 100 * 64
say(
    "Of the fused call it missed {missing:,} FLOPs, "
    + ("exactly the scores and the weighted sum. " if on_cpu else "which depends on the version of torch. ")
    + "A counter of this kind knows the operations in a list, by name. Torch's kernel for a CPU is not in the list, "
    "so it counts as nothing, without a warning"
    + ("; torch's own `nn.MultiheadAttention`, in evaluation mode one kernel as a whole, counts as nothing *at all*. " if nothing else ". ")
    + "On the meta device both count fully, because there the kernel is taken apart. A formula does not depend on which kernel ran.",
    missing=missing,
)  # fmt: skip

# %% [markdown]
# And training? A matrix product $XW$ has two others in its backward pass, one for the gradient of $X$ and one for that of $W$. So forward
# and backward together take three times the FLOPs of the forward pass, as long as the weights were kept. (The fused kernel keeps none, and works the scores out once more: its two products
# cost three and a half times, of which torch's counter knows nothing.)

# %%
with torch.device("meta"):
    learner = attn_course.MultiHeadAttention(64, 4)
    x = torch.randn(1, 100, 64, requires_grad=True)
with FlopCounterMode(display=False) as counter:
    learner(x, x, x)[0].sum().backward()
assert counter.get_total_flops() == 3 * count_flops(1, 100, 100, 64)
print("forward and backward:", counter.get_total_flops())

# %% [markdown]
# ## Where does the square overtake?
#
# One term of [equation](#eq-flops) grows with $n$, the other with $n^2$. In a short sequence the projections cost more; somewhere the
# square takes over.
#
# > **Predict.** For a model of width 512, does that happen at about 23 tokens ($\sqrt{512}$), at 512, or at 1,024? Set the two terms equal.

# %% [markdown]
# > **Exercise.** Write `crossover_length(d_model)`: the length `n` at which the quadratic part of self-attention costs as much as the
# > rest.
# >
# > The quadratic part is made of the two products with an `n × n` matrix: the scores, and the weighted sum of the values.
# > The rest is the four projections. In a shorter sequence the projections take more FLOPs; in a longer one the two score
# > products do; at this length both take the same.
# >
# > - It is the multi-head self-attention of `attention_flops`, so `n_q = n_k = n`, counted in the same way.
# > - `d_model` is a Python integer; return one.


# %%
def crossover_length(d_model):
    """The length at which the two score products cost as much as the four projections.

    returns an int
    """
    ...  # your code here


# %%
get("crossover-length").check(crossover_length)


# %% [markdown]
# Folded: one line, held against the cost model at three widths. The figure after it shows what the line means.


# %% tags=["hide-input"]
def crossover_by_definition(d_model):
    return 2 * d_model  # 8 n d² = 4 n² d


for width in (64, 512, 768):
    length = crossover_by_definition(width)
    terms = complexity.cost(
        "multi-head-attention", batch=1, n_q=length, d_model=width, num_heads=1
    ).terms
    assert terms["scores"] + terms["weighted sum"] == terms["projections"]
crossover = get("crossover-length").use(crossover_length)
print("definition and package agree: width 512 crosses at", crossover(512))

# %% mystnb={"figure": {"name": "fig-crossover", "caption": "FLOPs of self-attention by step, as shares of all, at a width of 512. Dashed: twice the width."}, "image": {"classes": "wide", "alt": "Stacked areas over the sequence length from 32 to 16384, logarithmic. Projections fill nearly everything on the left and shrink to a few per cent on the right; at length 1024, marked by a dashed line, scores and weighted sum together reach one half."}}
lengths = [2**i for i in range(5, 15)]
shares = pd.DataFrame(
    [
        complexity.cost(
            "multi-head-attention", batch=1, n_q=n, d_model=512, num_heads=8
        ).terms
        for n in lengths
    ],
    index=lengths,
)
shares = shares.div(shares.sum(axis=1), axis=0)
assert shares.loc[crossover(512), "projections"] == 0.5
title = "The square overtakes at $n = 2\\,d_{model}$"
plots.shares_by_length(shares, crossover(512), title)
plt.show()

# %% tags=["remove-input"]
glue("crossover_512", f"{crossover(512):,}")
glue("projections_at_128", f"{shares.loc[128, 'projections']:.0%}")
block = complexity.cost(
    "transformer-block", batch=1, n=128, d_model=512, num_heads=8, d_ff=2048
)
quadratic = block.terms["scores"] + block.terms["weighted sum"]
say(
    "At 128 tokens the projections are {share:.0%} of the FLOPs. In a whole transformer block, whose feed-forward network is four times as "
    "wide, the part with the square is {quadratic:.1%}: as far as arithmetic goes, a cleverer attention cannot gain more than that. "
    "\"Attention is quadratic\" is true, and for short texts it is beside the point.",
    share=shares.loc[128, "projections"], quadratic=quadratic / block.flops,
)  # fmt: skip

# %% [markdown]
# ### Every price over every size
#
# The figure below has all mechanisms of the cost model. A ring marks where two lines cross. Move the length with the arrow keys, change the width, or take memory
# instead of FLOPs; *Feature maps* has the gates, the convolution and `SelfAttention2D`. Least times are those of the machines in `results/`, whose
# records say with how many threads: their ceilings are not those that this page measures below.
#
# > **Predict.** A model twice as wide: does the ring move to the left, to the right, or not at all? And where does a window of 128 on each side part
# > from the full map?

# %% tags=["nbval-ignore-output", "hide-input"]
from attn_course import widgets

explorer = widgets.CostExplorer(quantity="flops", length=512, width=512)
rings = {
    width: explorer.tables(width=width)[1]["rows"][-1][1]
    for width in explorer.data["options"]["width"]
}
assert all(abs(ring - crossover(width)) < 0.01 for width, ring in rings.items())
maps = {"family": "maps", "on": ["SelfAttention2D", "Convolution, 3 × 3"]}
(meeting,) = explorer.tables(**maps)[1]["rows"]
at = {row[0]: row[1] for row in explorer.tables(length=128)[0]["rows"]}
window = "Window, 128 on each side, no projections"
full = "Part of attention: the n × n map"
assert at[window] == at[full]
explorer

# %% tags=["remove-input"]
glue("map_meets_convolution", f"{meeting[1]:.0f}")
say(
    "To the right: at widths of {widths} the ring stands at {rings} tokens, twice the width each time. Up to 128 tokens the window is the full map, then its line turns from the square to a straight rise. "
    "Over feature maps of 128 channels, `SelfAttention2D` costs less than a 3 × 3 convolution up to about {side} × {side}, and more above: few places make a map cheap.",
    widths=", ".join(f"{width:,}" for width in rings), rings=", ".join(f"{ring:,.0f}" for ring in rings.values()), side=f"{meeting[1]:.0f}",
)  # fmt: skip

# %% [markdown]
# ## In CNNs: what the convention leaves out
#
# CBAM has two small computations that count by the convention: the shared MLP of its channel gate, and the
# convolution of its spatial gate, from two maps to one. Everything else it does, pooling, gating, adding, multiplying, is **elementwise**, and the
# convention does not count that.

# %% [markdown]
# > **Exercise.** Write `cbam_flops(batch, channels, height, width, reduction=16, kernel_size=7)`: how many FLOPs one forward pass of CBAM
# > takes for a feature map `(B, C, H, W)`. Two of its parts count:
# >
# > - the MLP of channel attention: one layer from `C` numbers to `C / reduction`, one layer back. It is used twice for each
# >   image: on the average-pooled channels and on the max-pooled ones.
# > - the convolution of spatial attention: from two maps to one, with a `k × k` kernel, `k = kernel_size`, and "same"
# >   padding. The result is `H × W`, and each of its numbers takes the whole kernel, also where that lies on the padding.
# >
# > One multiply-add is 2 FLOPs. Pooling, ReLU, sigmoid and the multiplications by the weights do not count, and there are
# > no biases. `reduction` divides `channels`. All sizes are Python integers; return one.


# %%
def cbam_flops(batch, channels, height, width, reduction=16, kernel_size=7):
    """FLOPs of one forward pass of CBAM: both passes of the shared MLP, and the convolution.

    returns an int: 2 for each multiply-add
    """
    ...  # your code here


# %%
get("cbam-flops").check(cbam_flops)


# %% [markdown]
# Folded: the two counts side by side, compared with the package's.


# %% tags=["hide-input"]
def cbam_by_definition(batch, channels, height, width, reduction=16, kernel_size=7):
    hidden = channels // reduction
    mlp = 2 * (2 * batch * channels * hidden + 2 * batch * hidden * channels)
    convolution = 2 * batch * height * width * 2 * kernel_size**2
    return mlp + convolution


image = {"batch": 2, "channels": 32, "height": 5, "width": 7}
price = complexity.cost("cbam", **image)
assert cbam_by_definition(*image.values()) == price.flops
count_cbam = get("cbam-flops").use(cbam_flops)
print("definition and package agree:", count_cbam(*image.values()))

# %% [markdown]
# So what are the three rows of the table really? Beside the leading terms, the package's version of the comparison puts the exact
# FLOPs, and the elementwise operations that FLOPs leave out.

# %%
exact = attn_course.attention_complexity_comparison()

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-three-rows", "caption": "The three rows of the table: leading term, exact FLOPs, and elementwise operations, which FLOPs leave out. Logarithmic."}, "image": {"classes": "wide", "alt": "Grouped bars for transformer, spatial and channel attention. The leading terms differ by half a million; for spatial and channel attention the elementwise bar is higher than the FLOP bar, for transformer attention much lower."}}
rows = ["transformer", "spatial", "channel"]
counts = pd.DataFrame(
    {
        "leading term": [exact[row] for row in rows],
        "FLOPs": [exact[f"{row}_flops"] for row in rows],
        "elementwise": [exact[f"{row}_elementwise"] for row in rows],
    },
    index=rows,
)
assert (counts["elementwise"] > counts["FLOPs"])[["spatial", "channel"]].all()
plots.grouped_bars(counts, "operations", "The gates' work is what FLOPs leave out")
plt.show()

# %% tags=["remove-input"]
factors = (counts["FLOPs"] / counts["leading term"]).astype(int).tolist()
hidden_share = (counts["elementwise"] / counts["FLOPs"])[["spatial", "channel"]]
glue("gate_elementwise", f"{hidden_share['channel']:,.0f}")
say(
    "The leading terms hide factors of {transformer}, {spatial} and {channel}: another one in each row, so their quotients mean nothing. Only the {spatial}, which is $4k^2$, is a constant; the {channel} is $8C/r$ and the {transformer} is $4 + 8d_\\text{{model}}/n$: they grow and shrink with the sizes. And for the gates "
    "the convention itself misleads: channel attention does {work:,.0f} elementwise operations for each FLOP that counts, because "
    "pooling reads every pixel and gating writes every pixel. "
    "What it costs is not arithmetic. It is moving numbers, and for that we need a second count.",
    **dict(zip(rows, factors, strict=True)), work=hidden_share["channel"],
)  # fmt: skip

# %% [markdown]
# ## Memory: the map, and the moment when most is alive
#
# The scores of one call are one number for each head and each pair of tokens.

# %% [markdown]
# > **Exercise.** Write `score_memory(batch, num_heads, n_q, n_k, dtype)`: how many bytes the scores of multi-head attention take, stored
# > as one tensor of that dtype.
# >
# > Each head of each sequence has one score for every pair of a query and a key.
# >
# > - `dtype` is a `torch.dtype` of floating point: `torch.float64`, `torch.float32`, `torch.float16` or `torch.bfloat16`.
# > - The sizes are Python integers; return one. It is the scores alone: not the weights that the softmax makes of them, not
# >   the queries and keys.


# %%
def score_memory(batch, num_heads, n_q, n_k, dtype):
    """Bytes of the scores of multi-head attention, stored as one tensor.

    dtype: torch.float64, torch.float32, torch.float16 or torch.bfloat16
    returns an int
    """
    ...  # your code here


# %%
get("score-memory").check(score_memory)


# %% [markdown]
# Folded: the same, held against the bytes of a real tensor.


# %% tags=["hide-input"]
def score_memory_by_definition(batch, num_heads, n_q, n_k, dtype):
    return batch * num_heads * n_q * n_k * dtype.itemsize


sizes = {"batch": 2, "num_heads": 3, "n_q": 5, "n_k": 7}
made = torch.empty(*sizes.values(), dtype=torch.bfloat16)
assert score_memory_by_definition(*sizes.values(), torch.bfloat16) == made.nbytes
assert made.nbytes == complexity.score_bytes(**sizes, dtype="bfloat16")
score_bytes = get("score-memory").use(score_memory)
print("definition and package agree:", score_bytes(*sizes.values(), torch.bfloat16))

# %% [markdown]
# What must fit into a machine is more than the map: it is the **peak**, the most bytes alive at one moment. The softmax makes weights while the
# scores are still there, so the map is there twice, and $Q$, $K$ and $V$ beside it. The cost model follows the module step by
# step and takes the worst. The measurement adds up the allocations and releases that torch's profiler records: every tensor, those inside kernels too, and
# nothing that a library takes by other means.
#
# > **Predict.** Training keeps what the backward pass needs. Which pays more MiB for that, the form that returns weights or the fused one? And which the larger factor?

# %%
kinds = {
    "attention": {"fused": False, "training": False},
    "fused attention": {"fused": True, "training": False},
    "attention, training": {"fused": False, "training": True},
    "fused attention, training": {"fused": True, "training": True},
}
memory = []
for n in (256, 512, 1024, 2048):
    for kind, how in kinds.items():
        sizes = {"batch": 1, "n_q": n, "d_model": 256, "num_heads": 4}
        price = complexity.cost("multi-head-attention", **sizes, fused=how["fused"])
        peak = price.peak_bytes_training if how["training"] else price.peak_bytes
        memory.append({"n": n, "kind": kind, "predicted": peak / 2**20, **how})
memory = pd.DataFrame(memory)


# %% [markdown]
# And measured. The fused kernel is there for a CPU as for a GPU; only numbers of the same kind are compared.


# %%
def measured_peak(n, fused, training):
    torch.manual_seed(0)
    module = attn_course.MultiHeadAttention(256, 4, dropout=0.0).to(device)
    x = torch.randn(1, n, 256, device=device, requires_grad=training)
    sent_back = torch.randn_like(x)

    def run():
        with torch.set_grad_enabled(training):
            output, weights = module(x, x, x, need_weights=not fused)
        if training:
            output.backward(sent_back)
            x.grad = None
            module.zero_grad()
        return output, weights

    return benchmark.peak_bytes(run, device=device) / 2**20


memory["measured"] = [
    measured_peak(row.n, row.fused, row.training) for row in memory.itertuples()
]
memory["off"] = memory["measured"] / memory["predicted"] - 1

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-peak", "caption": "Peak memory of multi-head attention, width 256, 4 heads: predicted (lines; dashed: training) and measured (dots). Both axes logarithmic."}, "image": {"classes": "wide", "alt": "Four lines with dots on them over sequence lengths 256 to 2048, both axes logarithmic. The two forms with weights rise nearly four-fold with each doubling; the two fused ones two-fold."}}
large = memory[memory["predicted"] > 16]
assert device.type != "cpu" or large["off"].abs().max() < 0.02
title = "The peak is predicted, not guessed"
if large["off"].abs().max() >= 0.02:  # another device, with other kernels
    title = "Predicted for a CPU, measured on another device"
plots.predicted_lines_measured_dots(memory, x="n", hue="kind", y="MiB", title=title)
plt.show()

# %% tags=["remove-input", "nbval-ignore-output"]
at = memory[memory["n"] == 2048].set_index("kind")["measured"]
worst = large["off"].abs().max()
assert at["attention"] > 3 * at["fused attention"]
off = f"{math.ceil(1000 * worst) / 10:.1f}%"
glue("peak_off", off)
glue("peak_fused_ratio", f"{at['attention'] / at['fused attention']:.0f}")
say(
    "Above 16 MiB, prediction and measurement differ by at most {off} here, on the {where}. At 2,048 tokens the form with weights takes {ratio:.0f} times the memory of "
    "the fused one in inference and {training:.0f} times in training. Training adds {more:.0f} MiB to the form with weights, another map, and {little:.0f} MiB to the fused one, which works the weights out again; as a factor "
    "the fused one pays more. The square in the memory belongs to the map, not to attention. (Parameters and inputs are not counted here.)",
    more=at["attention, training"] - at["attention"], little=at["fused attention, training"] - at["fused attention"],
    off=off, ratio=at["attention"] / at["fused attention"], where=device.type.upper(),
    training=at["attention, training"] / at["fused attention, training"],
)  # fmt: skip

# %% [markdown]
# ## Arithmetic or memory: which of the two binds?
#
# A machine has two speeds: how fast it multiplies, $P$ FLOP/s, and how fast it moves numbers between memory and processor, $\beta$ bytes/s.
# A computation of $F$ FLOPs that has to move $M$ bytes cannot take less than the longer of two times
# ([Williams et al., 2009](https://doi.org/10.1145/1498765.1498785)):
#
# <a id="eq-roofline"></a>
# $$
# t \;\ge\; \max\left(\frac{F}{P},\ \frac{M}{\beta}\right)
# $$
#
# $F / M$ is the **arithmetic intensity**, FLOPs for each byte. Below $P / \beta$ memory binds, above it arithmetic. The cost model
# counts $M$ step by step, as if nothing stayed in a cache: each operand of each step read once, each result written once. For those steps it is the least; a kernel that fuses them moves less,
# and so does a cache.

# %% [markdown]
# What are $P$ and $\beta$ *here*? Data sheets are generous, so we ask the machine: a large matrix product, and a large copy.

# %% tags=["nbval-ignore-output"]
ceilings = benchmark.ceilings(device)
here = complexity.Hardware(
    "here",
    peak_flops=ceilings["matrix_product"]["flops_per_s"],
    bandwidth=ceilings["copy"]["bytes_per_s"],
)
ridge = here.peak_flops / here.bandwidth
assert 0.1 < ridge < 10_000
print(f"{here.peak_flops / 1e9:,.0f} GFLOP/s and {here.bandwidth / 1e9:,.1f} GB/s")
print(f"the two bind alike at {ridge:.1f} FLOPs per byte")

# %% [markdown]
# > **Predict.** A convolution with 128 channels, attention over 1,024 tokens with and without its weights, CBAM and a channel gate: which of
# > them lie below that number? The names of the sizes are those of `complexity.mechanisms()`.

# %%
picture = {"batch": 8, "channels": 128, "height": 28, "width": 28}
convolution = {"batch": 8, "in_channels": 128, "out_channels": 128, "height": 28}
tokens = {"batch": 1, "d_model": 512, "num_heads": 8}
cases = {
    "convolution": ("convolution", {**convolution, "width": 28, "kernel_size": 3}),
    "attention": ("multi-head-attention", {**tokens, "n_q": 1024}),
    "fused attention": ("multi-head-attention", {**tokens, "n_q": 1024, "fused": True}),
    "CBAM": ("cbam", picture),
    "channel attention": ("channel-attention", picture),
}
prices = {name: complexity.cost(key, **size) for name, (key, size) in cases.items()}
for name, price in prices.items():
    print(f"{name:18} {price.intensity:8.3f} FLOPs per byte")

# %% [markdown]
# Now each of them runs, in turns, and we place it by its intensity and by the FLOP/s that it reached. The roof above it is
# [equation](#eq-roofline): its slope is $\beta$, its flat part $P$. One more peer runs beside them: the same convolution as a matrix product,
# by the library that made $P$.


# %%
def to_device(module, *shape):
    return module.to(device).eval(), torch.randn(*shape, device=device)


torch.manual_seed(0)
conv, maps = to_device(nn.Conv2d(128, 128, 3, padding=1), 8, 128, 28, 28)
layer, sequence = to_device(attn_course.MultiHeadAttention(512, 8), 1, 1024, 512)
cbam, channel = attn_course.CBAM(128).to(device), attn_course.ChannelAttention(128)
channel = channel.to(device)


def by_products():  # each 3 × 3 patch is a column
    patches = nn.functional.unfold(maps, 3, padding=1)
    return conv.weight.flatten(1) @ patches + conv.bias[:, None]


# %% [markdown]
# They take turns, without gradients.

# %%
calls = {
    "convolution": lambda: conv(maps),
    "convolution, by products": by_products,
    "attention": lambda: layer(sequence, sequence, sequence),
    "fused attention": lambda: layer(sequence, sequence, sequence, need_weights=False),
    "CBAM": lambda: cbam(maps),
    "channel attention": lambda: channel(maps),
}
with torch.no_grad():
    torch.testing.assert_close(
        by_products(), conv(maps).flatten(2), rtol=1e-3, atol=1e-3
    )
    samples = benchmark.measure(calls, rounds=15, device=device)
seconds = {name: benchmark.summary(s)["median_s"] for name, s in samples.items()}

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-roofline", "caption": "Five computations and the bound, on the machine that is named at the foot of this page: arithmetic intensity against the GFLOP/s that were reached. Dotted: where the two bind alike. Both axes logarithmic."}, "image": {"classes": "wide", "alt": "A line that rises to the right and then turns flat. The two gates lie far left near the slope; attention, fused attention and the convolution lie right, near the flat part."}}
points = {
    name: (price.intensity, price.flops / seconds[name])
    for name, price in prices.items()
}
bound = {name: price.roofline(here) for name, price in prices.items()}
assert bound["channel attention"].bound == bound["CBAM"].bound == "bandwidth"
assert prices["convolution"].intensity > 100 * prices["CBAM"].intensity
plots.roofline(points, here, "Gates wait for memory")
plt.show()

# %% tags=["remove-input", "nbval-ignore-output"]
reached = {name: bound[name].seconds / seconds[name] for name in bound}
other = bound["convolution"].seconds / seconds["convolution, by products"]
assert prices["channel attention"].intensity < 0.01 and min(reached.values()) < 1.5
glue("intensity_gate", f"{prices['channel attention'].intensity:.3f}")
glue("intensity_convolution", f"{prices['convolution'].intensity:.0f}")
over = [name for name, share in reached.items() if share > 1.05]
say(
    "The gate does {gate:.3f} FLOPs for each byte, the convolution {convolution:.0f}. Of what the bound allows they reach {shares}. {over}"
    "Attention *with* weights moves {moved:.1f} times the bytes of the fused form, for the same FLOPs.",
    gate=prices["channel attention"].intensity, convolution=prices["convolution"].intensity,
    shares=", ".join(f"{share:.0%} ({name})" for name, share in reached.items()),
    over="" if not over else f"More than 100 % is no miracle: a ceiling is what *one* code reached. Here convolutions come from another library than matrix products; done as a product "
    f"of its patches, which have to be laid out first, the same convolution reaches {other:.0%}. " if over == ["convolution"] and other < reached["convolution"] / 1.3
    else "More than 100 % says that a ceiling is what *one* code reached, or that numbers came from a cache and not from memory. ",
    moved=prices["attention"].bytes_moved / prices["fused attention"].bytes_moved,
)  # fmt: skip

# %% [markdown]
# ## Why is generating text slow?
#
# A model that writes works in two phases. **Prefill** reads the prompt: all tokens at once, as above. **Decoding** then makes one token
# after the other, and each attends to all before it. Their keys and values do not change, so they are kept: the **key-value
# cache**. A step then projects one token, appends one key and one value, and attends with one query.
#
# > **Predict.** A prompt of 512 tokens, then one step. It does about a 512th of the arithmetic. Does it take a 512th of the time?

# %%
n, wide = 512, {"batch": 1, "d_model": 1024, "num_heads": 16, "fused": True}
prefill = complexity.cost("multi-head-attention", n_q=n, **wide)
step = complexity.cost("multi-head-attention", n_q=1, n_k=n, cached=n - 1, **wide)
for name, price in (("prefill", prefill), ("one step", step)):
    print(f"{name:9}{price.flops / 1e6:6.0f} MFLOP{price.bytes_moved / 2**20:6.1f} MiB")
    print(f"{'':9}{price.intensity:6.2f} FLOPs per byte")

# %% [markdown]
# A step multiplies *matrices by vectors*: every parameter is fetched for one multiply-add, 2 FLOPs for its 4 bytes. So the intensity is near one half
# in float32, for one sequence, whatever the model, left of the corner in [figure](#fig-roofline). Several sequences at once share the parameters, but not the caches. We measure both phases.

# %%
torch.manual_seed(0)
writer, prompt = to_device(attn_course.MultiHeadAttention(1024, 16), 1, n, 1024)
cache = attn_course.KeyValueCache(1, 16, n, 64, device=device)
last = prompt[:, -1:]


@torch.no_grad()
def read_prompt():
    return writer(prompt, prompt, prompt, is_causal=True, need_weights=False)[0]


@torch.no_grad()
def write_one():
    cache.length = n - 1  # forget the last token, to be able to do it again
    options = {"is_causal": True, "need_weights": False, "cache": cache}
    return writer(last, last, last, **options)[0]


# %% [markdown]
# First the cache is filled with the other tokens. Then the step must give what the whole pass gave for the last token.

# %% tags=["nbval-ignore-output"]
with torch.no_grad():
    others = prompt[:, :-1]
    writer(others, others, others, is_causal=True, need_weights=False, cache=cache)
torch.testing.assert_close(write_one(), read_prompt()[:, -1:], rtol=1e-3, atol=1e-4)
phases = {"prefill": read_prompt, "step": write_one}
samples = benchmark.measure(phases, rounds=25, device=device)
slower = benchmark.ratio(samples["step"], [s / n for s in samples["prefill"]])
assert step.roofline(here).bound == "bandwidth"
assert slower.median > 1
print(f"a token costs {slower.median:.1f} times as much when written as when read")

# %% tags=["remove-input", "nbval-ignore-output"]
assert step.intensity < 1 < prefill.intensity / 50
glue("decode_slower", f"{slower.median:.0f}")
glue("decode_intensity", f"{step.intensity:.2f}")
seconds["prefill, 512 tokens"], seconds["one step"] = (
    benchmark.summary(samples[name])["median_s"] for name in phases
)
rates = {
    "prefill": prefill.flops / seconds["prefill, 512 tokens"],
    "step": step.flops / seconds["one step"],
}
bounds = step.roofline(here).seconds / (prefill.roofline(here).seconds / n)
say(
    "Not a {n}th of the time of the prefill, then, but a {part:.0f}th. In prefill the layer reached {prefill:.0f} GFLOP/s, in a step {step:.1f}: the same module, the same parameters, with {share:.0%} of the arithmetic rate. "
    "The step does not compute much: {flops:.1f} million FLOPs, for which {moved:.1f} MiB have to be fetched. The two bounds stand in a ratio of {bounds:.1f} for a token; the clock said {slower:.1f}. "
    + ("So bytes explain a part of it, and the rest is the price of each call, which a step of one token cannot share with others." if slower.median > 1.3 * bounds else "So bytes explain it.")
    + " (The prefill is causal, and its count is of the full square: about a tenth too high.)",
    bounds=bounds, slower=slower.median,
    prefill=rates["prefill"] / 1e9, step=rates["step"] / 1e9, share=rates["step"] / rates["prefill"],
    flops=step.flops / 1e6, moved=step.bytes_moved / 2**20, n=n, part=n / slower.median,
)  # fmt: skip

# %% [markdown]
# ### Fewer heads for keys and values
#
# In a long conversation, or with many at once, the cache is larger than the parameters. **Grouped-query attention** lets several heads of queries share one head of keys
# and values ([Ainslie et al., 2023](https://arxiv.org/abs/2305.13245); one head for all: [Shazeer, 2019](https://arxiv.org/abs/1911.02150)): `MultiHeadAttention(…, num_kv_heads=…)`.
# For a model of 32 layers, width 4,096 and 32 heads in bfloat16, the cache of one sequence of 32,768 tokens takes:

# %%
model = {"layers": 32, "d_model": 4096, "num_heads": 32, "dtype": "bfloat16"}
for kv_heads in (32, 8, 1):
    token, conversation = (
        complexity.key_value_cache_bytes(n=n, num_kv_heads=kv_heads, **model)
        for n in (1, 32_768)
    )
    per_token, whole = f"{token / 2**10:4.0f} KiB a token", conversation / 2**30
    print(f"{kv_heads:2} heads of keys and values: {per_token}, {whole:5.2f} GiB")

# %% [markdown]
# **Hypothesis.** If a step waits for bytes, its time must fall with the bytes, although every query still meets every key. Eight sequences with a cache of
# 2,048 tokens each, width 512, eight heads of queries, and 8, 4, 2 or 1 heads of keys and values. The step with eight runs twice, as a control: what lies
# within *its* interval is noise.


# %%
def decoder(kv_heads, batch=8, n=2048):
    module = attn_course.MultiHeadAttention(512, 8, num_kv_heads=kv_heads)
    module = module.to(device).eval()
    cache = attn_course.KeyValueCache(batch, kv_heads, n, 64, device=device)
    cache.append(*torch.randn(2, batch, kv_heads, n - 1, 64, device=device))
    token = torch.randn(batch, 1, 512, device=device)

    @torch.no_grad()
    def run():
        cache.length = n - 1
        return module(token, token, token, need_weights=False, cache=cache)[0]

    return run


shared = (8, 4, 2, 1)
decoders = {f"{kv_heads}": decoder(kv_heads) for kv_heads in shared}
samples = benchmark.measure(decoders, control="8", rounds=31, device=device)

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-decoding", "caption": "One step of decoding with fewer heads of keys and values, relative to 8: bytes that have to be moved (bars), and measured time with its interval (dots). Dashed: the interval of the control, the same code twice."}, "image": {"classes": "wide", "alt": "Bars and dots for 8, 4, 2 and 1 heads. The bytes fall to nearly one eighth; the measured times fall as well, less steeply."}}
steps = {
    kv_heads: complexity.cost(
        "multi-head-attention", batch=8, n_q=1, n_k=2048, cached=2047,
        d_model=512, num_heads=8, num_kv_heads=kv_heads, fused=True,
    )
    for kv_heads in shared
}  # fmt: skip
moved = [steps[h].bytes_moved / steps[8].bytes_moved for h in shared]
times = [benchmark.ratio(samples[f"{h}"], samples["8"]) for h in shared]
noise = benchmark.ratio(samples["8 (control)"], samples["8"])
assert moved == sorted(moved, reverse=True) and moved[-1] < 0.3
falls = times[-1].high < noise.low
title = "Fewer bytes, faster steps" if falls else "Fewer bytes, yet no faster here"
plots.predicted_and_measured_ratios(
    [str(h) for h in shared], moved, times, noise, title
)
plt.show()

# %% tags=["remove-input", "nbval-ignore-output"]
attended = {
    h: price.terms["scores"] + price.terms["weighted sum"] for h, price in steps.items()
}
assert len(set(attended.values())) == 1
glue("gqa_bytes", f"{moved[2]:.2f}")
glue("gqa_time", f"{times[2].median:.2f}")
say(
    "With two heads instead of eight a step moves {bytes:.2f} of the bytes and takes {time} of the time (control: {noise}). {verdict} Scores and weighted sum take the same FLOPs in all "
    "four, and all FLOPs together fall to {all_flops:.2f} only. Who counts nothing else cannot explain this figure.",
    all_flops=steps[2].flops / steps[8].flops, bytes=moved[2], time=times[2], noise=noise,
    verdict="The hypothesis holds in its direction; " + ("the time falls less than the bytes, as it would if every call had a price of its own." if times[2].median > 1.1 * moved[2] else "and the time falls as far as the bytes.")
    if falls else "The hypothesis does not hold at this size on this machine: launching the work costs more than the bytes.",
)  # fmt: skip

# %% [markdown]
# ## The price: the bound, then the clock
#
# Everything so far in one table: what [equation](#eq-roofline) gives for a call, with the rate that a *matrix product* reached, and what the clock said.

# %% tags=["nbval-ignore-output"]
prices |= {"prefill, 512 tokens": prefill, "one step": step}
rows = {
    name: {
        "bound (ms)": 1000 * price.roofline(here).seconds,
        "measured (ms)": 1000 * seconds[name],
        "binds": price.roofline(here).bound,
    }
    for name, price in prices.items()
}
price_list = pd.DataFrame(rows).T
assert price_list.loc["one step", "binds"] == "bandwidth"
print(price_list.to_string(float_format="{:.2f}".format))

# %% [markdown]
# A bound needs no run, only sizes and two numbers of a machine. Where the clock is below it, the bound was not one: another library had faster code for the same count, a causal call left out what the count includes, or numbers came from
# a cache. How far real kernels stay behind, and how one measures that without being fooled, is chapter 5.

# %% [markdown]
# ## What flows where?
#
# So far every pair of tokens cost the same. What was bought with it? Chapter 1 trained a small language model on source code, two layers of four heads. We
# read its maps, and want two numbers for each head: how *undecided* it is, and how *far* it looks.

# %% [markdown]
# > **Exercise.** Write `attention_entropy(weights)`: one number for each query, which says how undecided it is. The weights of a query
# > are a distribution over the keys, and its entropy is `−Σ w · log w`, summed over the keys. With the natural logarithm
# > its unit is the nat: `log n_k` for a query that looks at all keys alike, 0 for one that looks at a single key.
# >
# > - `weights` is `(…, n_q, n_k)`, float32 or float64, with any number of leading dimensions. Every row adds up to 1.
# > - Return `(…, n_q)`: nothing is averaged, neither queries nor heads.
# > - Some weights may be 0; a key with weight 0 adds nothing. A row of one 1 and otherwise 0 gives exactly 0, in both
# >   dtypes: not NaN, and not nearly 0.
# > - Gradients have to reach weights that are not 0.


# %%
def attention_entropy(weights):
    """The entropy of each query's weights, in nats.

    weights (..., n_q, n_k), each row adds up to 1
    returns (..., n_q)
    """
    ...  # your code here


# %%
get("attention-entropy").check(attention_entropy)


# %% [markdown]
# Folded: the definition. The smallest positive number keeps the logarithm of 0 finite, and $0 \cdot \log$ of it is 0.


# %% tags=["hide-input"]
def entropy_by_definition(weights):
    logarithms = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
    return 0.0 - (weights * logarithms).sum(dim=-1)


generator = torch.Generator().manual_seed(1)
example = torch.randn(2, 3, 5, 7, generator=generator).softmax(dim=-1)
torch.testing.assert_close(
    entropy_by_definition(example), attn_course.attention_entropy(example)
)
assert entropy_by_definition(torch.eye(3)).tolist() == [0, 0, 0]
entropy = get("attention-entropy").use(attention_entropy)
print("definition and package agree; entropy", tuple(entropy(example).shape))

# %% [markdown]
# Entropy says nothing about *where*. The second number does.

# %% [markdown]
# > **Exercise.** Write `mean_attention_distance(weights)`: one number for each attention map, which says how far away its queries look.
# >
# > From query `q` to key `k` it is `|q − k|` places. A query spreads its weight over several keys, so its distance is an
# > expectation: the sum, over the keys, of weight times distance. The answer is the mean of that over the queries.
# >
# > - `weights` is `(…, n, n)`, float32, row = query, column = key, with any number of leading dimensions. Every row adds up
# >   to 1.
# > - Return a tensor of shape `(…)`: batch and heads are kept apart. One map `(n, n)` gives a tensor of shape `()`.
# > - Gradients have to reach the weights.


# %%
def mean_attention_distance(weights):
    """The mean over queries of the expected distance between query and key.

    weights (..., n, n), each row adds up to 1
    returns (...)
    """
    ...  # your code here


# %%
get("attention-distance").check(mean_attention_distance)


# %% [markdown]
# Folded: a table of distances, weighted and added up.


# %% tags=["hide-input"]
def distance_by_definition(weights):
    place = torch.arange(weights.shape[-1], dtype=weights.dtype)
    apart = (place[:, None] - place).abs()
    return (weights * apart).sum(dim=-1).mean(dim=-1)


square = torch.randn(2, 3, 7, 7, generator=generator).softmax(dim=-1)
torch.testing.assert_close(
    distance_by_definition(square), attn_course.mean_attention_distance(square)
)
distance = get("attention-distance").use(mean_attention_distance)
print("definition and package agree; distance", tuple(distance(square).shape))

# %% [markdown]
# > **Predict.** A causal head that looks at all its past alike: in 64 tokens, itself included: how far does it look on average, 16 places, 21 or 32?

# %%
from attn_course.experiments import chapter1, chapter3, load_model

causal = torch.ones(64, 64).tril()
uniform = causal / causal.sum(dim=-1, keepdim=True)
print("all of the past:", round(distance(uniform).item(), 1))

text = data.standard_library()
inputs, _ = chapter1.test_windows(text.test, 64, count=64)
reader = load_model("language-model", chapter1.CharacterModel()).eval()
with torch.no_grad():
    _, maps = reader(inputs, need_weights=True)

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-decided-and-near", "caption": "The eight heads of the recorded language model (seed 0): mean entropy of a query and mean attention distance, over 64 pieces of the test text. The number in a dot is the head's. The cross is a head that looks at all of its past alike."}, "image": {"classes": "wide", "alt": "A scatter plot of eight dots, four for each layer, and a cross. Most dots lie below and left of the cross: they are more decided and look nearer."}}
heads = pd.DataFrame(
    {
        "layer": number + 1,
        "head": head,
        "entropy": entropy(weights[:, head]).mean().item(),
        "distance": distance(weights[:, head]).mean().item(),
    }
    for number, weights in enumerate(maps)
    for head in range(weights.shape[1])
)
blind = (entropy(uniform).mean().item(), distance(uniform).item())
assert (heads["entropy"] < blind[0]).all()
nearer = int((heads["distance"] < blind[1]).sum())
title = f"{nearer} of 8 heads look nearer than chance"
plots.heads_by_entropy_and_distance(heads, blind, title)
plt.show()

# %% tags=["remove-input", "nbval-ignore-output"]
closest = heads.loc[heads["distance"].idxmin()]
decided = heads.loc[heads["entropy"].idxmin()]
near = maps[int(closest["layer"]) - 1][:, int(closest["head"])]
within = near.triu(-8).sum(dim=-1).mean().item()
assert closest["distance"] < 0.5 * blind[1] and within > 0.5
glue("nearest_head", f"{closest['distance']:.1f}")
say(
    "{nearer} of the 8 heads look nearer than the head that spreads evenly over its past ({blind:.1f} places). The nearest, head {head} of layer {layer}, looks {distance:.1f} places away: a window of eight characters back would keep {within:.1%} of its weight. "
    "The most decided, head {sure} of layer {floor}, has {entropy:.2f} nats, as many as a choice among {choices:.1f} characters alike. Full attention pays for every pair, and these heads put most of their weight on few. "
    "Chapter 6 builds on that.",
    nearer=nearer, blind=blind[1], head=int(closest["head"]), layer=int(closest["layer"]), distance=closest["distance"], within=within,
    sure=int(decided["head"]), floor=int(decided["layer"]), entropy=decided["entropy"], choices=math.exp(decided["entropy"]),
)  # fmt: skip

# %% [markdown]
# ### Through several layers
#
# The second layer attends to what the first has already mixed. **Rollout** multiplies the maps of the layers, half of each step going
# through the residual connection ([Abnar and Zuidema, 2020](https://arxiv.org/abs/2005.00928)). And do two heads look at the same places? **Agreement** says how much of
# their weight lies on the same keys, $\sum_j \min(a_j, b_j)$ for a query. First the rollout of a piece of the line that chapter 1 drew, heads averaged; then the agreement of heads on all 64 pieces.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-rollout", "caption": "A piece of code in the recorded language model (seed 0): the mean of the heads of each layer, and the rollout of both. Queries down, keys across; all brighter than one half are drawn alike."}, "image": {"classes": "wide", "alt": "Three lower triangular maps. Layer 1 is bright beside the diagonal; layer 2 is spread over columns; the rollout has a bright diagonal and fades to the left."}}
snippet = "join(path, name)"
with torch.no_grad():
    _, drawn = reader(data.encode(snippet)[None], need_weights=True)
flow = attn_course.attention_rollout(drawn)[0]
own = flow.diagonal().mean().item()
assert own >= 0.25 and torch.allclose(flow.sum(dim=-1), torch.ones(len(snippet)))
plots.attention_maps(
    [*(weights[0].mean(dim=0) for weights in drawn), flow],
    ["Layer 1", "Layer 2", f"Rollout: {own:.0%} stays"],
    queries=list(snippet),
    keys=list(snippet),
    largest=0.5,
    side=2.9,
)
plt.show()

# %% [markdown]
# The diagonal of the rollout is what each place keeps of its own token. At least a quarter has to stay, since half goes past each of two layers; and what stays is not what was
# *used*. Rollout follows the weights alone, and knows nothing of what the values carry or the feed-forward layers do: a summary of maps, not of the model.

# %% tags=["nbval-ignore-output"]
pairs = [(a, b) for a in range(4) for b in range(a)]
overlap = [
    attn_course.attention_agreement(maps[1][:, a], maps[1][:, b])["overlap"].mean()
    for a, b in pairs
]
overlap = torch.stack(overlap)
assert 0.1 < overlap.min() <= overlap.max() < 0.9
print(
    f"two heads of layer 2: {overlap.min():.0%} to {overlap.max():.0%} on the same keys"
)

# %% [markdown]
# ### How far does a network see?
#
# A convolution's reach is built in; that of attention is learned. We take three of chapter 3's networks, trained on cluttered digits, and
# ask by gradients what one place of their last feature map depends on: the **effective** receptive field
# ([Luo et al., 2016](https://arxiv.org/abs/1701.04128)).

# %%
networks = nn.ModuleDict({name: chapter3.build(name) for name in chapter3.VARIANTS})
trained = load_model("cluttered-digits", networks).eval()
scenes = data.cluttered_digits()
fields, shown = {}, ("plain", "cbam", "self-attention")
for name in shown:
    network = trained[name]
    images = chapter3.prepared(network, scenes.test.images, scenes.train.images)[:16]
    place = tuple(side // 2 for side in network.feature_map(images[:1]).shape[2:])
    fields[name] = attn_course.receptive_field(network.feature_map, images, place)

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-fields", "caption": "What the middle place of the last feature map depends on: mean absolute gradient at each pixel of the scene, over 16 test scenes, relative to the largest. Logarithmic; black: none at all."}, "image": {"classes": "wide", "alt": "Three square maps. The plain network has a bright square in the middle on black. With CBAM and with self-attention there is a faint ground all over around the bright middle."}}
reach = {name: (field > 0).float().mean().item() for name, field in fields.items()}
inside = fields["plain"] > 0
outside = {
    name: (field[~inside].sum() / field.sum()).item() for name, field in fields.items()
}
assert reach["plain"] < 0.5 < reach["cbam"] <= 1
plots.log_maps(
    list(fields.values()),
    [f"{name}:\n{reach[name]:.0%} of the scene" for name in shown],
)
plt.show()

# %% tags=["remove-input"]
assert outside["self-attention"] < outside["cbam"]
glue("field_beyond", f"{outside['self-attention']:.1%}")
say(
    "The plain network sees {plain:.0%} of the scene from there, and nothing else can ever matter. CBAM and self-attention see {cbam:.0%} and {attention:.0%}; but the share of the gradient that comes from beyond the plain network's square is "
    "{gate:.1%} and {own:.1%}. In these networks CBAM's pooling brings news from outside; self-attention, which could reach as far and pays for it, hardly does. So what does that self-attention look at?",
    plain=reach["plain"], cbam=reach["cbam"], attention=reach["self-attention"],
    gate=outside["cbam"], own=outside["self-attention"],
)  # fmt: skip

# %% [markdown]
# Its map is 64 × 64, over the 8 × 8 places of the last stage. Entropy works as it is. Distance has to be taken in the plane: two places in a column are neighbours, though eight
# apart in the list.
#
# > **Predict.** Does it look nearer than an even spread over all places?

# %%
side = torch.arange(8.0)
places = torch.cartesian_prod(side, side)  # (64, 2): row and column
apart = torch.cdist(places, places)
with torch.no_grad():
    _, by_stage = trained["self-attention"](images, need_weights=True)
looks = by_stage[2]
away = (looks * apart).sum(dim=-1).mean().item()
print(f"entropy {entropy(looks).mean():.1f} nats, even spread {math.log(64):.1f}")
print(f"distance {away:.1f} places, even spread {apart.mean():.1f}")

# %% tags=["remove-input"]
gamma = trained["self-attention"].attentions["2"].gamma.item()
amount = math.exp(entropy(looks).mean().item())
assert 1 < amount < 64 and abs(gamma) < 0.1
say(
    "{no}: {away:.1f} places against {even:.1f}. Its queries choose, as among {amount:.0f} places of 64, and what they choose lies {where}. Yet $\\gamma$, the factor in front of all of it, is {gamma}: "
    "whatever it finds enters with that weight, and little of the gradient comes through it. A map tells what a head *would* hand over, not how much of it arrives.",
    no="Yes" if away < apart.mean() else "No", away=away, even=apart.mean().item(), amount=amount,
    where="near" if away < apart.mean() else "farther away than blind choice would", gamma=f"{gamma:.2f}".replace("-", "−"),
)  # fmt: skip

# %% [markdown]
# ## Where it breaks
#
# Two heads look at one key each, and not at the same one. Each is as decided as can be. The document's analysis averages the heads first, and takes the
# entropy of the mean. And it calls an attention map of height 1, from a spectrogram or a line of text, channel attention.

# %%
two_heads = torch.eye(2)[None, :, None, :]  # (B, h, n_q, n_k) = (1, 2, 1, 2)
for analysis in (textbook.AttentionAnalysis, attn_course.AttentionAnalysis):
    found = analysis.analyze_transformer_attention(two_heads)
    kind = analysis.analyze_cnn_attention(
        torch.ones(1, 8, 1, 5), torch.ones(1, 1, 1, 5)
    )
    print(
        f"{analysis.__module__.split('.')[-1]:9}",
        f"entropy {found['attention_entropy'].item():.2f},",
        f"a (1, 1, 1, 5) map is {kind['attention_type']} attention",
    )

# %% [markdown]
# The cost model has its own edges: it refuses a size it does not know, with the list of those it does. A count that quietly ignored a misspelt argument
# would be worse than none.

# %%
try:
    complexity.cost("multi-head-attention", batch=1, n_q=8, d_model=12, heads=3)
except ValueError as error:
    print(textwrap.fill(str(error), 72))

# %% [markdown]
# ## When to take it
#
# - **Count FLOPs** to compare sizes of *one* mechanism, and mechanisms that are bound by arithmetic: convolutions, attention over long sequences, feed-forward networks.
# - **Count bytes** for gates, normalisations, decoding, and whatever has few FLOPs for each byte.
# - **Count the peak** first of all: what does not fit does not run.
#
# > **Predict.** A camera delivers feature maps of 64 channels, 112 × 112. Somebody proposes self-attention over the pixels in place of CBAM. What is the quotient of the two bounds? Which count binds for each of them?

# %% tags=["hide-output", "nbval-ignore-output"]
proposal = complexity.cost(
    "self-attention-2d", batch=1, channels=64, height=112, width=112
)
alternative = complexity.cost("cbam", batch=1, channels=64, height=112, width=112)
both = [price.roofline(here) for price in (proposal, alternative)]
assert proposal.flops > 1000 * alternative.flops and both[1].bound == "bandwidth"
for name, price, least in zip(
    ("self-attention", "CBAM"), (proposal, alternative), both, strict=True
):
    peak = f"peak {price.peak_bytes / 2**20:.0f} MiB"
    print(f"{name:15} {1000 * least.seconds:8.2f} ms by {least.bound}, {peak}")
print(f"bounds: {both[0].seconds / both[1].seconds:,.0f} times")
print(f"FLOPs:  {proposal.flops / alternative.flops:,.0f} times")
print("The peak is small because the map is made in blocks and never held whole.")
print(f"FLOPs: {proposal.flops / alternative.flops:,.0f} times, which predicts nothing")

# %% [markdown]
# ## Questions
#
# Decide before you open a choice: each one says what is right in it, or what is not. By keyboard, Tab goes to the
# next choice, or to a link in an open one, and Enter opens it and closes the one before.

# %% [markdown]
# **Question 1.** A text is four times as long as the model is wide, $n = 4\,d_{model}$. Which part of the FLOPs of
# its self-attention is in the two products with $n^2$?
#
# <details name="chapter-4-question-1"><summary>A. 1/2</summary>
#
# **Not quite.** The two are equal where the square overtakes, at $n = 2\,d_{model}$. This text is twice as long as
# that.
#
# </details>
#
# <details name="chapter-4-question-1"><summary>B. 2/3</summary>
#
# **Right.** With $n = 4d$ the projections take $8nd^2 = 32d^3$ and the square $4n^2d = 64d^3$: 64 of 96
# ([equation](#eq-flops)).
#
# </details>
#
# <details name="chapter-4-question-1"><summary>C. 4/5</summary>
#
# **Not quite.** That weighs $n$ against $d_{model}$ alone, 4 to 1. There are four projections and only two products
# of the other kind, so $n$ stands against $2\,d_{model}$.
#
# </details>

# %% [markdown]
# **Question 2.** Each of four heads looks at one key only, and no two at the same one. What is the entropy of each
# head, and what is the entropy of the four maps' average, in nats?
#
# <details name="chapter-4-question-2"><summary>A. ln 4 for each head, and ln 4 for the average</summary>
#
# **Not quite.** A head that looks at one key is as decided as can be: $-1 \cdot \ln 1 = 0$. Only the average has its
# weight on four keys.
#
# </details>
#
# <details name="chapter-4-question-2"><summary>B. 0 for each head, and 0 for the average</summary>
#
# **Not quite.** The average of four such rows has 1/4 on each of four keys, and is no longer decided. Averaging and
# taking the entropy cannot change places.
#
# </details>
#
# <details name="chapter-4-question-2"><summary>C. 0 for each head, and ln 4 for the average</summary>
#
# **Right.** Averaging first makes four decided heads look like one that spreads evenly over four keys. So take the
# entropy head by head (section *Where it breaks*).
#
# </details>

# %% [markdown]
# **Question 3.** A step has 10 GFLOP to do and 1 GB to move, on a machine with 200 GFLOP/s and 50 GB/s. Its memory is
# replaced by one that is twice as fast. What is the least time of the step then?
#
# <details name="chapter-4-question-3"><summary>A. 60 ms</summary>
#
# **Not quite.** That adds 50 ms of arithmetic to 10 ms of moving. The bound is the *longer* of the two, for in the
# best case a machine does both at once.
#
# </details>
#
# <details name="chapter-4-question-3"><summary>B. 50 ms</summary>
#
# **Right.** $10/200$ s are 50 ms of arithmetic, and moving takes 20 ms, now 10. The longer one binds, so faster
# memory buys nothing here ([equation](#eq-roofline)).
#
# </details>
#
# <details name="chapter-4-question-3"><summary>C. 25 ms</summary>
#
# **Not quite.** That halves the whole. Only the bytes move twice as fast, and it was not them that the step waited
# for.
#
# </details>
#
# <details name="chapter-4-question-3"><summary>D. 10 ms</summary>
#
# **Not quite.** That is the time for the bytes alone, 1 GB at 100 GB/s. The arithmetic still takes its 50 ms.
#
# </details>

# %% [markdown]
# **Question 4.** A model writes for one user: 0.5 FLOPs for each byte, nearly all of them parameters. The machine is
# balanced at 50 FLOPs per byte. Now 16 users with short texts are served in one batch. How long does a step take?
#
# <details name="chapter-4-question-4"><summary>A. About as long as before, for 16 tokens</summary>
#
# **Right.** The step waits for the parameters, and all users share them: at most $16 \cdot 0.5 = 8$ FLOPs for each
# byte, still far below 50. Long texts would change it, for caches are not shared (section *Why is generating text
# slow?*).
#
# </details>
#
# <details name="chapter-4-question-4"><summary>B. About 16 times as long: there is 16 times the arithmetic</summary>
#
# **Not quite.** There is, but arithmetic was not what the step waited for. Its bytes hardly grow, and they bind as
# long as there are fewer than 50 FLOPs for each.
#
# </details>
#
# <details name="chapter-4-question-4"><summary>C. About a 16th: the users share the work</summary>
#
# **Not quite.** A *token* costs about a 16th. The step does not: it still has to fetch every parameter once.
#
# </details>

# %% [markdown]
# ## What we know now

# %% tags=["remove-input", "nbval-ignore-output"]
assert promised > 1000 * measured.median and slower.median > 1 and nearer > 4
say(
    "Leading terms predicted a factor of {promised:,.0f} where the clock showed {seen:.1f}. Exact counts are short: $8Bnd^2 + 4Bn^2d$ for self-attention, and the square overtakes the projections only at $n = 2d$, "
    "{crossover:,} tokens at width 512. Predicted peaks above 16 MiB meet the measured ones within {off}, and the square in memory belongs to the stored map. Two numbers of a machine, here {peak:.0f} GFLOP/s and {beta:.0f} GB/s, "
    "say which count binds: gates and decoding wait for bytes (a token cost {slower:.0f} times as much to write as to read), convolutions and long attention for arithmetic. And heads that were "
    "given everything to look at mostly looked near: {nearer} of 8 nearer than an even spread.",
    promised=promised, seen=measured.median, crossover=crossover(512), off=off,
    peak=here.peak_flops / 1e9, beta=here.bandwidth / 1e9, slower=slower.median, nearer=nearer,
)  # fmt: skip

# %% [markdown]
# **Further reading.** [Williams et al., 2009](https://doi.org/10.1145/1498765.1498785), for the roofline;
# [Shazeer, 2019](https://arxiv.org/abs/1911.02150), who first counted the bytes of decoding and drew the consequence;
# [Ainslie et al., 2023](https://arxiv.org/abs/2305.13245), for the groups between one head and all;
# [Abnar and Zuidema, 2020](https://arxiv.org/abs/2005.00928), for what maps of several layers say together;
# [Luo et al., 2016](https://arxiv.org/abs/1701.04128), for receptive fields that are smaller than they could be.
#
# **The next question.** A bound says what cannot be, as far as its count and its ceilings go. How near do real kernels come, on which machine, and how do you know that the
# stopwatch tells the truth? That is chapter 5.
#
# Something wrong or unclear? [Report it](https://github.com/attn-course/attn-course/issues).

# %% tags=["remove-cell"]
print("Chapter 4 is complete.")
