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
# # CNN attention: which channels, which pixels, and which belong together?
#
# **After this chapter you can** write channel attention, spatial attention, CBAM and self-attention over pixels, say
# what each of them lets a convolutional network do that it could not do before, choose between average and maximum
# with a reason, test whether a map really looks at the object, and say what each module costs.
#
# **You need** convolutions, and attention as in [chapter 1](01_transformer.ipynb). **It takes** about 75 minutes with its four
# exercises, 35 without. The symbols are explained on the page [Notation](../book/notation.md).

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
import torch.nn.functional as F
from torch import nn

from attn_course import data, plots, textbook
from attn_course.exercises import get
from attn_course.prose import glue, say

plots.use_house_style()

# %% [markdown]
# ## The trouble: a convolution sees its neighbours and nothing else
#
# A convolution makes each pixel of its output from a small square of its input. Whatever lies outside the square cannot
# matter, however the weights are trained. We can measure what a pixel sees: send a gradient back from the pixel in the
# middle of the output, and look at which input pixels it reaches. That is the **receptive field**.
#
# We try it on four untrained pieces of network. The first is one convolution. The second is the usual remedy: three of
# them, with a halving of the map after the first and the second. The last two have one convolution and, behind it, a
# module of this chapter.

# %%
torch.manual_seed(0)
first = nn.Conv2d(1, 16, 3, padding=1)
second, third = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
gate, every_pixel = attn_course.ChannelAttention(16, 4), attn_course.SelfAttention2D(16)
nn.init.ones_(every_pixel.gamma)  # it starts at 0; more about that below
halve = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))

# %% [markdown]
# All four start from the same convolution. What does the pixel in the middle see through each of them, in eight
# random images of 32 × 32 pixels?

# %%
pieces = {
    "One 3 × 3 convolution": first,
    "Three, with halving": nn.Sequential(first, halve, second, halve, third),
    "Then channel attention": nn.Sequential(first, gate),
    "Then self-attention": nn.Sequential(first, every_pixel),
}
images, fields = torch.randn(8, 1, 32, 32), {}
for name, piece in pieces.items():
    middle = piece(images).shape[-1] // 2
    fields[name] = attn_course.receptive_field(piece, images, (middle, middle))
reached = {name: (field > 0).sum().item() for name, field in fields.items()}
for name, count in reached.items():
    print(f"{name:22} {count:4} pixels")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-field", "caption": "What the middle pixel of the output sees: mean absolute gradient at each of 32 × 32 input pixels, over eight random images, relative to the largest. The scale is logarithmic; black: no gradient at all."}, "image": {"classes": "wide", "alt": "Four square maps. One convolution: a bright square of three by three pixels on black. Three convolutions with halving: a square of eighteen by eighteen, brightest in its middle. Channel attention and self-attention: a bright middle on a ground that is faint but nowhere black."}}
names_of_fields = names = list(fields)
assert reached[names[0]] == 9 and reached[names[1]] == 18 * 18
assert reached[names[2]] == reached[names[3]] == 32 * 32
plots.log_maps(
    list(fields.values()), [f"{name}:\n{reached[name]} pixels" for name in names]
)
plt.show()

# %% tags=["remove-input"]
stack = fields[names[1]]
ordered = (stack / stack.sum()).flatten().sort(descending=True)[0]
half = (ordered.cumsum(0) < 0.5).sum().item() + 1
assert half < 0.35 * reached[names[1]]
far = fields[names[3]].clone()
far[15:18, 15:18] = 0
say(
    "One convolution sees {one} pixels, three with halving {three} of {all:,}, which is {share:.0%}; and not evenly: half of the gradient lies "
    "on {half} of the {three} ([Luo et al., 2016](https://arxiv.org/abs/1701.04128), found this in deep networks too). The modules of this chapter see every pixel "
    "after a single layer, each in its own way. A channel gate passes on *one number for each channel*, so it learns that something is there and not "
    "where. Self-attention compares pixel with pixel: {far:.0%} of its gradient comes from beyond its 3 × 3 square.",
    one=reached[names[0]], three=reached[names[1]], all=32 * 32, share=reached[names[1]] / 32**2, half=half,
    far=(far.sum() / fields[names[3]].sum()).item(),
)  # fmt: skip

# %% [markdown]
# ## By hand: two channels of 4 × 4
#
# Take a feature map with two channels. Channel 0 is a faint texture, 1 everywhere. Channel 1 is silent except for one
# pixel, where it shouts 8. Which channel matters? That depends on how one sums it up. The **average** of channel 0 is
# larger, the **maximum** of channel 1 is.
#
# A small network of two matrices turns a summary into a verdict. Our hidden number says by how much channel 1 exceeds
# channel 0, and its ReLU keeps only a positive answer; the second matrix then votes for channel 1 and against channel 0.

# %%
x = torch.zeros(1, 2, 4, 4)
x[0, 0], x[0, 1, 1, 2] = 1.0, 8.0
w1 = torch.tensor([[-0.5, 0.5]])  # two summaries -> one hidden number
w2 = torch.tensor([[-1.0], [1.0]])  # one hidden number -> a vote for each channel

average, maximum = x.mean(dim=(2, 3)), x.amax(dim=(2, 3))
print("average", average[0], "maximum", maximum[0])

# %% [markdown]
# > **Predict.** Average: the hidden number is $\mathrm{ReLU}(-0.5 \cdot 1 + 0.5 \cdot 0.5)$. Which votes come out, and
# > which weights does the sigmoid make of them? Then the maximum: the hidden number is
# > $\mathrm{ReLU}(-0.5 \cdot 1 + 0.5 \cdot 8)$. Is the weight of channel 1 now near 0, one half, or 1?


# %%
def votes(summary):
    return F.relu(summary @ w1.T) @ w2.T


print("average alone:", votes(average).sigmoid()[0])
print("maximum alone:", votes(maximum).sigmoid()[0])
print("both, added:  ", (votes(average) + votes(maximum)).sigmoid()[0])

# %% tags=["remove-input"]
both = (votes(average) + votes(maximum)).sigmoid()[0]
assert votes(average).abs().max() == 0 and both[1] > 0.95
say(
    "The average saw nothing: no votes, and the sigmoid of 0 is one half, for both channels alike. The maximum saw the one bright pixel, and its votes "
    "of {vote:g} decide: channel 1 keeps {second:.0%} of its size, channel 0 only {first:.0%}. A cue of one pixel in sixteen is diluted sixteenfold by an average and "
    "not at all by a maximum. Keep that in mind for the experiment.",
    vote=votes(maximum)[0, 1].item(), second=both[1].item(), first=both[0].item(),
)  # fmt: skip

# %% [markdown]
# ## The formula: which channels?
#
# What we did by hand is **channel attention** ([Woo et al., 2018](https://arxiv.org/abs/1807.06521)). With the average
# and the maximum over all pixels, $\bar x$ and $\hat x$, each a vector of $C$ numbers:
#
# <a id="eq-channel"></a>
# $$
# \begin{aligned}
# \text{weights} &= \sigma\big(W_2\, \mathrm{ReLU}(W_1 \bar x) \\
# &\qquad + W_2\, \mathrm{ReLU}(W_1 \hat x)\big) \\
# \text{output} &= x \cdot \text{weights}
# \end{aligned}
# $$
#
# $W_1$ is $(C/r, C)$ and $W_2$ is $(C, C/r)$: the same two matrices for both summaries. The **reduction** $r$ makes the
# middle narrow, 16 in the paper, and so keeps the number of parameters at $2C^2/r$. Unlike a softmax, the sigmoid lets all channels be
# important at once: this is a **gate**, not a competition.

# %% [markdown]
# > **Exercise.** Write `channel_attention(x, w1, w2)`: one number between 0 and 1 for each channel of each image, which says how much of
# > that channel is let through.
# >
# > Summarise a channel twice: by the average of its pixels, and by the largest of them. So each image has two vectors of
# > `C` numbers. Each goes, by itself, through the same small network: `w1`, a ReLU, `w2`. Add the two results; the sigmoid
# > of the sum is the answer.
# >
# > - `x` is `(B, C, H, W)`.
# > - `w1` is `(C/r, C)` and `w2` is `(C, C/r)`, for some reduction `r`: a row for each number that comes out, as in
# >   `nn.Linear`. There is no bias.
# > - Return the weights, `(B, C, 1, 1)`: only them, not `x` times them.


# %%
def channel_attention(x, w1, w2):
    """One weight between 0 and 1 for each channel of each image.

    x (B, C, H, W), w1 (C/r, C), w2 (C, C/r)
    returns weights (B, C, 1, 1)
    """
    ...  # your code here


# %%
get("channel-attention").check(channel_attention)

# %% [markdown]
# The definition is folded. It gets the two matrices out of the package's module, `attn_course.ChannelAttention`, and the
# same weights must come out of both. Later cells call `channel_gate`: your function if it passed, else ours.


# %% tags=["hide-input"]
def channel_by_definition(x, w1, w2):
    average, maximum = x.mean(dim=(2, 3)), x.amax(dim=(2, 3))
    votes = F.relu(average @ w1.T) @ w2.T + F.relu(maximum @ w1.T) @ w2.T
    return votes.sigmoid()[:, :, None, None]


torch.manual_seed(1)
module = attn_course.ChannelAttention(14, reduction_ratio=2).requires_grad_(False)
matrices = module.fc[0].weight, module.fc[2].weight
trial = torch.randn(2, 14, 3, 5)
_, weights = module(trial, need_weights=True)
torch.testing.assert_close(channel_by_definition(trial, *matrices), weights)
channel_gate = get("channel-attention").use(channel_attention)
print("definition and package agree; our map:", channel_gate(x, w1, w2).flatten())

# %% [markdown]
# ### Two simpler relatives
#
# **Squeeze-and-excitation** ([Hu et al., 2018](https://arxiv.org/abs/1709.01507)) came first. It takes the average
# alone; in our module its two layers have biases. **Efficient channel attention** ([Wang et al., 2020](https://arxiv.org/abs/1910.03151))
# takes the average too, and drops the two matrices: a convolution *along the channels* with $k$ weights lets each
# channel's weight depend on its $k$ nearest in the list. Channels have no natural order; the network learns to put them into one.
#
# > **Predict.** A layer has 256 channels. How many parameters does a gate with $r = 16$ have, and how many one with $k = 5$?

# %%
from attn_course import complexity

relatives = {
    "channel attention": "channel-attention",
    "squeeze-and-excitation": "squeeze-and-excitation",
    "efficient channel attention": "efficient-channel-attention",
}
image = {"batch": 1, "channels": 256, "height": 28, "width": 28}
costs = {name: complexity.cost(key, **image) for name, key in relatives.items()}
columns = ("parameters", "flops", "elementwise")
rows = {n: {c: getattr(k, c) for c in columns} for n, k in costs.items()}
print(pd.DataFrame(rows).T)

# %% tags=["remove-input"]
ours, se, eca = costs.values()
assert eca.parameters < 10 and se.parameters > 1000 * eca.parameters
assert all(cost.elementwise > 5 * cost.flops for cost in (ours, se, eca))
say(
    "{ours:,} and {se:,} parameters against {eca}; the difference between the first two is the biases, for the maximum adds no parameter, only a second pass through the same matrices. And notice the last column: "
    "the additions and products with single elements, which FLOP counts leave out, are {least:.0f} to {most:,.0f} times the FLOPs. A gate's price is reading the map, not arithmetic.",
    ours=ours.parameters, se=se.parameters, eca=eca.parameters,
    least=min(c.elementwise / c.flops for c in costs.values()), most=max(c.elementwise / c.flops for c in costs.values()),
)  # fmt: skip

# %% [markdown]
# ## Which pixels?
#
# The same idea, turned by ninety degrees: sum up each *pixel* over its channels, by average and maximum, and make one
# weight for each pixel. This time the two summaries are maps, and a convolution with a $k \times k$ kernel, 7 in
# the paper, mixes them, so that a pixel is judged together with its neighbours:
#
# <a id="eq-spatial"></a>
# $$
# \begin{aligned}
# \text{weights} &= \sigma\big(\mathrm{conv}_{k \times k}[\,\mathrm{mean}_C\, x;\ \mathrm{max}_C\, x\,]\big) \\
# \text{output} &= x \cdot \text{weights}
# \end{aligned}
# $$
#
# It has $2k^2$ parameters, whatever the number of channels is.

# %% [markdown]
# > **Exercise.** Write `spatial_attention(x, weight)`: one number between 0 and 1 for each pixel of each image, which says how much of
# > that pixel is let through.
# >
# > Summarise a pixel twice: by the average of its channels, and by the largest of them. That makes two maps, the averages
# > first. A convolution with `weight` makes one map of the two, so that a pixel is judged together with its neighbours; the
# > sigmoid of that map is the answer.
# >
# > - `x` is `(B, C, H, W)`.
# > - `weight` is `(1, 2, k, k)`, with an odd `k`, as in `nn.Conv2d(2, 1, k)`. There is no bias.
# > - The padding is "same": zeros around the two maps, as many as it takes for the result to have their size. `k` may be
# >   larger than the map.
# > - Return the weights, `(B, 1, H, W)`: only them, not `x` times them.


# %%
def spatial_attention(x, weight):
    """One weight between 0 and 1 for each pixel of each image.

    x (B, C, H, W), weight (1, 2, k, k) with an odd k
    returns weights (B, 1, H, W)
    """
    ...  # your code here


# %%
get("spatial-attention").check(spatial_attention)

# %% [markdown]
# The definition has three lines. Note the padding, `k // 2` on each side: it keeps the size of the map only for an odd
# $k$, and we will see below what an even one does.


# %% tags=["hide-input"]
def spatial_by_definition(x, weight):
    average = x.mean(dim=1, keepdim=True)
    maximum = x.amax(dim=1, keepdim=True)
    summary = torch.cat([average, maximum], dim=1)
    return F.conv2d(summary, weight, padding=weight.shape[-1] // 2).sigmoid()


module = attn_course.SpatialAttention(3).requires_grad_(False)
_, weights = module(trial, need_weights=True)
torch.testing.assert_close(spatial_by_definition(trial, module.conv.weight), weights)
spatial_gate = get("spatial-attention").use(spatial_attention)
print("definition and package agree; weights", tuple(weights.shape))

# %% [markdown]
# ## Channels, then pixels: CBAM
#
# The **convolutional block attention module** puts the two in a row: the channel gate first, and the spatial gate
# *on what it let through*. In our map by hand, the spatial gate then no longer has to look at the texture.

# %% [markdown]
# > **Exercise.** Write `cbam(x, w1, w2, weight)`, the whole module: first channel attention, then spatial attention.
# >
# > Each step multiplies the map that it is given by weights that are worked out from *that* map. So spatial attention does
# > not look at `x`: it looks at the map that channel attention has refined, and that map is what it multiplies.
# >
# > - `x` is `(B, C, H, W)`.
# > - `w1` `(C/r, C)` and `w2` `(C, C/r)` are the weights of `channel_attention(x, w1, w2)`; `weight` `(1, 2, k, k)` is that
# >   of `spatial_attention(x, weight)`. You may call your two functions: each returns weights between 0 and 1, not a map.
# > - Return the map, `(B, C, H, W)`. Nothing is added to it.


# %%
def cbam(x, w1, w2, weight):
    """Channel attention, then spatial attention of the refined map.

    x (B, C, H, W), w1 (C/r, C), w2 (C, C/r), weight (1, 2, k, k) with an odd k
    returns the map (B, C, H, W)
    """
    ...  # your code here


# %%
get("cbam").check(cbam)

# %% [markdown]
# The folded cell compares the definition with `attn_course.CBAM`. Then the map by hand goes through it, with a hand-made
# kernel of size 1 that votes with the maximum and against the average: it asks by how much one channel stands out.


# %% tags=["hide-input"]
def cbam_by_definition(x, w1, w2, weight):
    x = x * channel_gate(x, w1, w2)
    return x * spatial_gate(x, weight)


module = attn_course.CBAM(14, reduction_ratio=2, kernel_size=3).requires_grad_(False)
kernel = module.spatial_attention.conv.weight
matrices = [module.channel_attention.fc[i].weight for i in (0, 2)]
torch.testing.assert_close(cbam_by_definition(trial, *matrices, kernel), module(trial))
block = get("cbam").use(cbam)
print("definition and package agree")

# %%
stands_out = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
refined = x * channel_gate(x, w1, w2)
places = spatial_gate(refined, stands_out)
output = block(x, w1, w2, stands_out)
torch.testing.assert_close(output, refined * places)
print("the bright pixel keeps", output[0, 1, 1, 2])

# %% [markdown]
# Here is the whole way in one picture, each number written where it stands.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-by-hand", "caption": "The map by hand on its way through CBAM: the two channels, what the channel gate lets through, the weights of the spatial gate, and what it lets through."}, "image": {"classes": "wide", "alt": "Seven grids of four by four numbers. Channel 0 is 1 everywhere and becomes nearly 0; channel 1 has a single 8, which stays nearly whole. The spatial weights are near one half except for the bright pixel, where the weight is nearly 1."}}
assert output[0, 0].max() < 0.05 and output[0, 1].max() > 7
assert places.max() > 0.95 and (places < 0.55).sum() == 15
plots.number_maps(
    {
        "Input": [x[0, 0], x[0, 1]],
        "After the channel gate": [refined[0, 0], refined[0, 1]],
        "Spatial weights": [places[0, 0]],
        "After both": [output[0, 0], output[0, 1]],
    }
)
plt.show()

# %% tags=["remove-input"]
reversed_order = x * spatial_gate(x, stands_out)
reversed_order = reversed_order * channel_gate(reversed_order, w1, w2)
difference = (reversed_order - output).abs().max().item()
assert difference > 0.001
say(
    "[Figure](#fig-by-hand) from left to right: the texture fades from 1 to {texture:.2f}, the bright pixel keeps {kept:.2f} of its 8, and the empty places have a weight of about one half, "
    "for a gate without a bias says one half to nothing. With the spatial gate first the numbers differ by up to {difference:.2g}: each gate judges what it is given, so the two orders are "
    "two functions. Whether it matters for learning is a question for an experiment.",
    texture=refined[0, 0, 0, 0].item(), kept=output[0, 1].max().item(), difference=difference,
)  # fmt: skip

# %% [markdown]
# ## An experiment: when a small cue decides
#
# Two digits on a noisy ground, one red and one green. Name the red one; but if somewhere in the picture there is a small blue mark
# of 2 × 2 pixels, name the green one. The mark lies anywhere, so most often no pixel of the small network's last map sees it together with a *whole* digit:
# its news has to travel through a gate. Who misses it can at best name one of the two digits, and is right in 0.55 of
# the pictures (they are the same digit in one of ten).

# %% [markdown]
# **Hypothesis.** Four pixels of 1,024 move an average hardly at all, and a maximum as far as it goes. So gates that
# pool by average should miss the mark, those with the maximum should find it, and the order of the two gates should
# matter less. Several seeds of each were trained beforehand and recorded. One thing is to be known of them: their steps and their one learning rate were chosen by looking at seed 0 on these test pictures,
# and the record of rates (`pooling-and-order-rates`) shows that a smaller one would suit the maximum better. So compare the gates with each other, and do not take the accuracies for the best that can be had.

# %%
from attn_course.experiments import chapter3, load, load_model

cues = load("pooling-and-order")
networks = pd.DataFrame(
    {"seed": run["seed"], **entry} for run in cues.runs for entry in run["networks"]
)
rows = networks.groupby(["order", "pooling"], sort=False)
means = rows[["accuracy", "right", "other"]].mean()
print(means.round(2))

# %% [markdown]
# *Right* is how often the digit that counts is named, and *other* how often the one that does not, both among the pictures whose digits
# differ. A network that reads digits well and misses the mark names both equally often, so this is a question of *which* digit, and not of how well it is read. Let us say that a run **found** the mark if it names
# the right one at least twice as often as the other.

# %%
gated = networks[networks["pooling"] != "none"].copy()
gated["found"] = gated["right"] >= 2 * gated["other"]
rows = gated.groupby(["order", "pooling"], sort=False)["found"]
print(rows.agg(["sum", "count"]).T.to_string())

# %% [markdown]
# Two pictures to look at, one of each kind, and the accuracies of all runs.

# %%
test = chapter3.cued_digits(train_count=1, test_count=12).test
shown = [test.cues.int().argmin().item(), test.cues.int().argmax().item()]
assert not test.cues[shown[0]] and test.cues[shown[1]]

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-cue", "caption": "Left: a picture without the mark (name the red digit) and one with it (name the green one); a ring shows where the mark is. Right: accuracy on 1,000 test pictures by order and pooling, one dot for each seed, a bar at their mean. Dotted: the best without noticing the mark."}, "image": {"classes": "wide", "alt": "Two small colour pictures of a red and a green digit on dark noise, one of them with a ringed blue spot; and a strip chart of accuracy for four orders of the gates and three poolings."}}
figure, ((first,), (second,)), (chart,) = plots.pictures_and_charts(2, 1, 1)
for axis, i, colour in zip((first, second), shown, ("red", "green"), strict=True):
    plots.show_picture(axis, test.images[i])
    axis.set_title(f"{colour} counts: {test.labels[i]}", fontsize=10)
top, left = test.marks[shown[1]].tolist()
second.plot(left + 0.5, top + 0.5, "o", markersize=13, mfc="none", mec="white")
averages, maxima = (
    gated[(gated["pooling"] == "average") == yes] for yes in (True, False)
)
plots.dots_and_means(chart, gated, x="order", y="accuracy", hue="pooling")
chart.axhline(0.55, color=plots.COLOURS["baseline"], linestyle=":")
counts = [f"{part['found'].sum()} of {len(part)}" for part in (averages, maxima)]
title = f"Runs that found the mark: averages {counts[0]}, maxima {counts[1]}"
chart.set(xlabel="", ylim=(0.25, 1.1), title=title)
chart.legend(loc="upper right", ncols=3)
plt.show()

# %% tags=["remove-input"]
alone = maxima[maxima["order"] == "channel only"]
two_gates = maxima[maxima["order"] != "channel only"]
single = alone.pivot(index="seed", columns="pooling", values="accuracy")
assert (
    not averages["found"].any()
    and alone["found"].all()
    and two_gates["found"].mean() > 0.5
)
glue("cue_average", f"{averages['accuracy'].mean():.2f}")
glue("cue_max", f"{single['max'].mean():.2f}")
say(
    "The first half of the hypothesis holds. No gate that averages found the mark: it names the right digit in {right:.0%} of the pictures and the other in {other:.0%}, "
    "and the network without gates in {none_right:.0%} and {none_other:.0%}. Every channel gate with a maximum found it, and whether the average stands beside the maximum "
    "({added:.2f} with it, {alone:.2f} without) makes {difference}.",
    right=averages["right"].mean(), other=averages["other"].mean(),
    none_right=means.loc[("none", "none"), "right"], none_other=means.loc[("none", "none"), "other"],
    alone=single["max"].mean(), added=single["both"].mean(),
    difference="a difference of one sign in every seed" if abs((single["max"] > single["both"]).mean() - 0.5) == 0.5
    else "a difference whose sign changes with the seed",
)  # fmt: skip

# %% tags=["remove-input"]
both = two_gates[two_gates["pooling"] == "both"].pivot(
    index="seed", columns="order", values="accuracy"
)
winners = both.idxmax(axis=1).unique()
slow = two_gates.groupby("seed")["accuracy"].max().idxmin()
assert (both.max() - both.min()).min() > (both.mean().max() - both.mean().min())
say(
    "With a spatial gate besides, {found} of {runs} runs found it; of seed {slow} the best reaches {slow_best:.2f}. {late} And the order, with both poolings: channel first {channel}, spatial first {spatial}, parallel {parallel} "
    "(least and most of {seeds} seeds). {verdict}",
    found=two_gates["found"].sum(), runs=len(two_gates), slow=slow, slow_best=two_gates[two_gates["seed"] == slow]["accuracy"].max(),
    late=f"Whether that seed is bad luck of one learning rate for all, or the price of a second gate, which must learn too, {len(both)} seeds do not say."
    if not two_gates["found"].all() else "",
    seeds=len(both),
    **{key: f"{both[name].min():.2f} to {both[name].max():.2f}" for key, name in
       (("channel", "channel first"), ("spatial", "spatial first"), ("parallel", "parallel"))},
    verdict=f"The best is the same in every seed: {winners[0]}." if len(winners) == 1
    else "The seeds differ far more than the orders do, and the best order changes with the seed: nothing can be said about the order from this.",
)  # fmt: skip

# %% [markdown]
# In the paper's own ablation, a ResNet-50 on ImageNet, poolings and orders differ by tenths of a per cent, where ours differ by tens. Here are
# the top-1 errors in per cent from tables 1 and 3 of [Woo et al., 2018](https://arxiv.org/abs/1807.06521): their numbers, one run each.
#
# | channel gate alone | top-1 error | both gates | top-1 error |
# |---|---|---|---|
# | none | 24.56 | channel first | 22.66 |
# | average (squeeze-and-excitation) | 23.14 | spatial first | 22.78 |
# | maximum | 23.20 | parallel | 22.95 |
# | both | 22.80 | | |
#
# Photographs seldom hang on four pixels. An ablation answers for its task, and for no other.

# %% [markdown]
# ## Which pixels belong together?
#
# Gates judge; they do not compare. Whether *this* pixel is like *that* one, far away, no gate can say. An old trick of image
# processing can: **non-local means** ([Buades et al., 2005](https://doi.org/10.1109/CVPR.2005.38)) removes noise by replacing each pixel with
# an average of all pixels whose surroundings look alike, wherever they are. Its weights fall with the distance between
# the two patches $p_i$ and $p_j$:
#
# <a id="eq-means"></a>
# $$
# \text{weights}_{ij} = \mathrm{softmax}_j\!\left(-\frac{\lVert p_i - p_j \rVert^2}{s^2}\right)
# $$
#
# You have met this. The squared distance is $\lVert p_i \rVert^2 - 2\, p_i \cdot p_j + \lVert p_j \rVert^2$; the first term
# is the same for all keys, and the softmax drops it. What stays is a dot product of a query with a key, and a bias.

# %%
clean = data.photographs()["china"][:, 60:108, 240:288]
noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
noisy = clean + 0.1 * noise

# %%
around = F.unfold(F.pad(noisy[None], [1] * 4, mode="reflect"), 3)[0].T  # 3 × 3 patches
pixels = noisy.flatten(1).T  # (n, 3): the values
scores = (2 * around @ around.T - around.square().sum(dim=1)) / 0.5**2
weights = scores.softmax(dim=-1)
non_local = (weights @ pixels).T.view_as(clean)
print("weights", tuple(weights.shape))

# %% [markdown]
# For comparison, a local mean: a Gaussian blur, whose weights fall with the distance in the *image*. To be fair to it we take the
# best of many widths, which needs the clean picture; our $s = 0.5$ was chosen by hand. Quality is in decibels (PSNR, ten times the
# logarithm of 1 over the mean squared error): 3 more mean half of that error.


# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-means", "caption": "A patch of 48 × 48 pixels of the photograph china (by danielbuechele, CC BY 2.0): clean, with noise of 0.1, after the best Gaussian blur, after non-local means; and the weights of the ringed pixel (brighter: more; cube root)."}, "image": {"classes": "wide", "alt": "Five small pictures of a temple's eaves: clean, noisy, blurred, restored with sharp edges, and a dark map in which pixels along similar edges all over the patch are bright."}}
def decibels(picture):
    return -10 * math.log10(F.mse_loss(picture, clean))


def blur(width):
    kernel = torch.exp(-(torch.arange(-4.0, 5) ** 2) / (2 * width**2))
    kernel = kernel[:, None] * kernel / kernel.sum() ** 2
    padded = F.pad(noisy[:, None], [4] * 4, mode="reflect")
    return F.conv2d(padded, kernel[None, None])[:, 0]


local = max((blur(0.3 + 0.05 * i) for i in range(30)), key=decibels)
quality = {"noisy": noisy, "local mean": local, "non-local means": non_local}
quality = {name: decibels(picture) for name, picture in quality.items()}
assert quality["non-local means"] > quality["local mean"] + 1 > quality["noisy"]
row, column = 36, 14
plots.pictures(
    [
        clean,
        noisy,
        local,
        non_local,
        weights[row * 48 + column].view(48, 48) ** (1 / 3),
    ],
    ["Clean", *(f"{name}: {db:.1f} dB" for name, db in quality.items()), "Weights"],
    mark=(row, column),
)
plt.show()

# %% tags=["remove-input"]
own = weights[row * 48 + column].view(48, 48)
rows, columns = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
distance = ((rows - row) ** 2 + (columns - column) ** 2).sqrt()
beyond = own[distance > 8].sum().item()
assert beyond > 0.1
say(
    "The blur gains {blur:.1f} dB and smears the edges; non-local means gain {gain:.1f} dB and keep them. The ringed pixel takes {beyond:.0%} of what it averages "
    "from more than eight pixels away, from other places of the same roof. Nothing here was learned: patches are the queries and keys, pixels the values. "
    "What a network adds is that queries, keys and values are *learned* maps of the features.",
    blur=quality["local mean"] - quality["noisy"], gain=quality["non-local means"] - quality["noisy"], beyond=beyond,
)  # fmt: skip

# %% [markdown]
# **Self-attention over pixels** ([Zhang et al., 2019](https://arxiv.org/abs/1805.08318); a **non-local** block in
# [Wang et al., 2018](https://arxiv.org/abs/1711.07971)) takes every pixel of a feature map for a token, $n = H \cdot W$ of them.
# Three $1 \times 1$ convolutions, linear maps of each pixel by itself, make queries and keys with $C/8$ channels and values with $C$:
#
# <a id="eq-pixels"></a>
# $$
# \begin{aligned}
# \text{weights}_{ij} &= \mathrm{softmax}_j(q_i \cdot k_j) \\
# \text{output}_i &= x_i + \gamma \sum_j \text{weights}_{ij}\, v_j
# \end{aligned}
# $$
#
# As in both papers, the scores are not divided by a square root. $\gamma$ is one learned number. It starts at 0, so that the module begins
# as the identity and can be put into a network that works already.

# %% [markdown]
# > **Exercise.** Write `self_attention_2d(x, w_query, w_key, w_value, gamma)`: each pixel looks at all pixels of its image, itself
# > included, and adds what it found to what it was.
# >
# > A pixel is a vector of `C` numbers. The three matrices make its query, its key and its value of it, as a 1 × 1
# > convolution does. A score is the dot product of a query and a key, *not scaled*. A softmax over the keys turns the
# > scores of a query into weights, and the output of that pixel is the sum of the values, each times its weight.
# >
# > - `x` is `(B, C, H, W)`; `H` and `W` may differ.
# > - `w_query` and `w_key` are `(C', C)`, `w_value` is `(C, C)`: a row for each channel that comes out. There is no bias.
# >   `C'` may be any number.
# > - `gamma` is a tensor that holds one number, of shape `()` or `(1,)`. It is learned, and starts at 0: a gradient has to
# >   reach it there too.
# > - Return `gamma · output + x`, of shape `(B, C, H, W)`.


# %%
def self_attention_2d(x, w_query, w_key, w_value, gamma):
    """Let every pixel attend to every pixel of its image; add the outcome to the pixel.

    x (B, C, H, W), w_query and w_key (C', C), w_value (C, C), gamma () or (1,)
    returns gamma * output + x, (B, C, H, W)
    """
    ...  # your code here


# %%
get("self-attention-2d").check(self_attention_2d)

# %% [markdown]
# The definition, folded, is chapter 1's attention on a flattened map. The comparison leaves the biases of the package's convolutions at zero.


# %% tags=["hide-input"]
def self_by_definition(x, w_query, w_key, w_value, gamma):
    pixels = x.flatten(2).transpose(1, 2)  # (B, n, C)
    scores = (pixels @ w_query.T) @ (pixels @ w_key.T).transpose(1, 2)
    found = scores.softmax(dim=-1) @ (pixels @ w_value.T)
    return x + gamma * found.transpose(1, 2).reshape(x.shape)


torch.manual_seed(3)
module = attn_course.SelfAttention2D(16).requires_grad_(False)
convs = (module.query_conv, module.key_conv, module.value_conv)
for bias in (conv.bias for conv in convs):
    nn.init.zeros_(bias)
nn.init.constant_(module.gamma, 0.7)
trial = torch.randn(2, 16, 3, 5)
inputs = (trial, *(conv.weight[:, :, 0, 0] for conv in convs), module.gamma)
torch.testing.assert_close(self_by_definition(*inputs), module(trial))
compare_pixels = get("self-attention-2d").use(self_attention_2d)
torch.testing.assert_close(compare_pixels(*inputs), module(trial))
print(
    "definition and package agree; weights",
    tuple(module(trial, need_weights=True)[1].shape),
)

# %% [markdown]
# ### What γ = 0 costs
#
# A module that returns its input should be free. As it is usually written it is not: the whole $n \times n$ map is made, turned into weights, multiplied with
# the values, and then multiplied by zero.
#
# > **Predict.** A map of 64 × 64 pixels has $n = 4096$. How many MiB does one $n \times n$ map of float32 take? How many are alive at the same time, if scores
# > and weights both are?

# %%
from functools import partial

from attn_course import benchmark

module = attn_course.SelfAttention2D(64).eval().requires_grad_(False)
usual = textbook.SelfAttention2D(64).eval().requires_grad_(False)
usual.load_state_dict(module.state_dict())
x = torch.randn(1, 64, 64, 64)

# %%
peaks = {}
for gamma in (0.0, 0.5):
    for name, peer in (("usual", usual), ("ours", module)):
        nn.init.constant_(peer.gamma, gamma)
        call = partial(peer, x)
        peaks[f"gamma = {gamma}", name] = benchmark.peak_bytes(call) / 2**20
    torch.testing.assert_close(module(x), usual(x))
print(pd.Series(peaks).unstack().round(1), "MiB at the peak")

# %% tags=["remove-input"]
at_start, later = (
    pd.Series(peaks).unstack().loc[name] for name in ("gamma = 0.0", "gamma = 0.5")
)
assert at_start["usual"] > 120 > 60 > later["ours"] > 2 * at_start["ours"]
glue("gamma_zero_mib", f"{at_start['usual']:.0f}")
module = attn_course.SelfAttention2D(64)
module(x[..., :8, :8]).square().sum().backward()
assert module.gamma.grad != 0 and module.query_conv.weight.grad.abs().max() == 0
say(
    "The map is 64 MiB, and the usual form holds it twice: {start:.0f} MiB in order to return its input. Ours sees that $\\gamma$ is 0 and copies ({ours:.0f} MiB); later it makes the map in "
    "pieces ({later:.0f} MiB). Training cannot take the short way: the gradient of $\\gamma$ needs the map, even at 0. Queries, keys and values get *no* gradient in the first "
    "step, for all of it is multiplied by $\\gamma$: the gate must open a little before anything behind it can learn.",
    start=at_start["usual"], ours=at_start["ours"], later=later["ours"],
)  # fmt: skip

# %% [markdown]
# ## A network that uses both
#
# The document that this course grew from puts the modules into one network: `AttentionCNN` has CBAM after its first and second
# convolution, and self-attention after the third. There the map is a quarter as high and as wide as the image, and $n^2$ is 256
# times smaller. Its example takes four random images of 224 × 224; `need_weights=True` hands out all maps on the way.

# %%
logits = attn_course.cnn_attention_example()

# %%
torch.manual_seed(4)
photo = data.photographs((96, 144))["flower"][None]
_, maps = attn_course.AttentionCNN()(photo, need_weights=True)
for name, weights in maps.items():
    parts = weights if isinstance(weights, tuple) else (weights,)
    print(f"{name:15}", *(tuple(part.shape) for part in parts))

# %% [markdown]
# ## What each module lets through
#
# Four small networks read digits among clutter, each with one kind of module after each of its three convolutions (self-attention after the third alone); the next section
# tells how they were trained. Here we show them something that they have never seen, a photograph, and ask of every pixel: how large is what the module hands on, compared with what
# it got? A ratio of 1 means *as it was*. Before training, after it: the modules of the third stage, where each has one.

# %%
grey = data.photographs((128, 192))["flower"].mean(dim=0, keepdim=True)[None]
grey = (grey - grey.mean()) / grey.std()


@torch.no_grad()
def let_through(network):
    """Each pixel's size after the third stage's module, divided by its size before."""
    kept = []
    network.attentions["2"].register_forward_hook(
        lambda module, inputs, output: kept.extend([inputs[0], output])
    )
    network.eval()(grey)
    before, after = (x[0].norm(dim=0) for x in kept)
    before[before < 0.05 * before.mean()] = math.nan  # nothing there to scale
    return after / before


# %% [markdown]
# The trained networks are kept with the book, so that every reader sees the same maps; the untrained ones are made here.

# %%
networks = nn.ModuleDict({n: chapter3.build(n) for n in chapter3.VARIANTS})
trained = load_model("cluttered-digits", networks)
names = ("se", "eca", "cbam", "self-attention")


# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-photo", "caption": "The photograph flower (by vultilion, CC BY 2.0) in grey, and what the module of the third stage does with each pixel: the size of its features after it, divided by the size before it. Upper row: untrained. Lower row: trained on cluttered digits. Above each map is its mean; where the features are nearly 0 it is grey."}, "image": {"classes": "wide", "alt": "A grey photograph of a flower, and two rows of four maps. The upper row is even. In the lower row the gates have become dark and uneven, and self-attention changes some pixels more than others."}}
torch.manual_seed(0)
before = {name: let_through(chapter3.build(name)) for name in names}
after = {name: let_through(trained[name]) for name in names}
assert all((ratio.nan_to_num(1) > 0).all() for ratio in after.values())
for name in names:
    old, new = (ratio[~ratio.isnan()] for ratio in (before[name], after[name]))
    assert new.std() > old.std() and (name != "self-attention" or (old == 1).all())
plots.before_and_after(
    grey[0, 0], before, after, titles=("SE", "ECA", "CBAM", "Self-attention")
)
plt.show()

# %% tags=["remove-input"]
share = {name: ratio.nanmean().item() for name, ratio in after.items()}
least = {name: ratio.nan_to_num(9).min().item() for name, ratio in after.items()}
gamma = trained["self-attention"].attentions["2"].gamma.item()
glue("gamma_trained", f"{gamma:.2f}")
say(
    "Untrained, the gates let through about half of every pixel (CBAM a quarter: two gates in a row), and self-attention all of it, for $\\gamma$ is 0. Trained, the gates "
    "let through {se:.2f}, {eca:.2f} and {cbam:.2f} of the size on average, and not alike for all pixels, for channels are strong at different places; the least that is left of a pixel is {least:.2f}. "
    "And $\\gamma$ has become {gamma}: self-attention hands on {self:.2f} times what it got. Whether the knobs are turned up at the *right* places, a photograph without an answer cannot say.",
    se=share["se"], eca=share["eca"], cbam=share["cbam"], gamma=f"{gamma:.2f}".replace("-", "−"), self=share["self-attention"],
    least=min(least[name] for name in names[:3]),
)  # fmt: skip

# %% [markdown]
# ## An experiment: find the digit
#
# On a canvas of 32 × 32 lies one whole digit, at a random place, among eight fragments of others: 4,000 training images, 1,000 test
# images, and no digit or fragment stands in both parts. The plain network has three convolutions with batch normalisation, each followed by a halving, then a mean over
# the map and a linear layer. Its relatives have one kind of attention besides.
#
# **Hypothesis.** With attention the network should tell digit from fragments better: the gates by turning fragments
# down, self-attention by putting strokes together. It should also pay at *equal FLOPs*, that is, against networks made wider
# until they cost as much as the dearest one.

# %% [markdown]
# One switch for the images: with `"cifar-10"`, the cells below that train here take [CIFAR-10](https://www.cs.toronto.edu/~kriz/cifar.html)
# instead, which is downloaded; take it where there is a GPU and a network. The recorded runs stay those on cluttered digits.

# %% tags=["nbval-ignore-output"]
pictures = data.image_data("cluttered-digits")  # or "cifar-10"
assert len(pictures.train.images) == len(pictures.train.labels)
say("In use: {note}", note=pictures.note)

# %% [markdown]
# Several seeds were trained beforehand for each network, 600 steps of 32 images, each kind with the learning rate that was best for it on held-out
# training images. The next cell trains two of them again here, from seed 0: some twenty seconds.

# %% tags=["nbval-ignore-output"]
record = load("cluttered-digits")
rates = record.settings["learning_rates"]
live = {}
for name in ("plain", "self-attention"):
    _, history = chapter3.train_classifier(
        name, 0, pictures, **chapter3.TRAINING, learning_rate=rates[name]
    )
    live[name] = history.measures["accuracy"][-1][1]
recorded = record.runs[0]["equal_training"]
same_data = pictures.train.images.shape[1] == 1
for name, accuracy in live.items():
    off = abs(accuracy - recorded[name]["accuracy"])
    assert history.interrupted or not same_data or off < 0.04
    print(f"{name}: {accuracy:.3f} here, {recorded[name]['accuracy']:.3f} recorded")

# %% [markdown]
# Now all of it: the records of all seeds, at equal training and at equal FLOPs, and `AttentionCNN` beside plain networks of *its* FLOPs,
# with and without batch normalisation, for the document's network has none.

# %%
LABELS = {
    "plain": "plain CNN",
    "se": "squeeze-and-excitation",
    "eca": "efficient channel attention",
    "cbam": "CBAM",
    "self-attention": "SelfAttention2D",
    "attention-cnn": "AttentionCNN",
}
wide = load("attention-cnn")

# %%
table = pd.DataFrame(
    {"group": group, "network": LABELS.get(name, name), "seed": run["seed"], **entry}
    for group, runs, key in (
        ("equal training", record.runs, "equal_training"),
        ("equal FLOPs", record.runs, "equal_flops"),
        ("AttentionCNN's FLOPs", wide.runs, "networks"),
    )
    for run in runs
    for name, entry in run[key].items()
)
groups = table.groupby(["group", "network"], sort=False)["accuracy"]
accuracy = groups.agg(["mean", "min", "max"])

# %% [markdown]
# Are differences of a hundredth more than luck? Networks of one seed saw the same batches, so we take the difference from the plain network *seed by seed*, and its 95 % interval
# (Student's $t$). What lies inside it we call alike.

# %%
compared = table[table["group"].str.startswith("equal")]
scores = compared.pivot(index=["group", "seed"], columns="network", values="accuracy")
scores = scores.loc[["equal training", "equal FLOPs"], list(LABELS.values())[:5]]
differences = scores.drop(columns="plain CNN").sub(scores["plain CNN"], axis=0)
by_group = differences.groupby("group", sort=False)
student = {3: 4.303, 4: 3.182, 5: 2.776}[len(record.runs)]
gains = pd.DataFrame(
    {"gain": by_group.mean().stack(), "±": student * by_group.sem().stack()}
)
gains["verdict"] = "alike"
gains.loc[gains["gain"] > gains["±"], "verdict"] = "better"
gains.loc[gains["gain"] < -gains["±"], "verdict"] = "worse"
print(gains.round(3))

# %% [markdown]
# Times are not recorded but taken here, on this machine: the forward pass of 100 images, the networks taking turns, with the plain one
# entered twice as a control ([how timings are taken](../book/timings.md)).

# %% tags=["nbval-ignore-output"]
hundred = torch.randn(100, 1, 32, 32, device=device)
colour = hundred.expand(-1, 3, -1, -1)  # AttentionCNN takes three channels
calls = {}
for name, label in LABELS.items():
    network = chapter3.build(name).eval().to(device)
    x = colour if name == "attention-cnn" else hundred
    calls[label] = partial(network, x)
with torch.no_grad():
    samples = benchmark.measure(calls, control="plain CNN", rounds=9, device=device)
ms = 1000 * pd.DataFrame(samples).median()
assert abs(ms["plain CNN (control)"] / ms["plain CNN"] - 1) < 0.5
print(
    f"the control takes {ms['plain CNN (control)'] / ms['plain CNN']:.2f} times as long"
)

# %% [markdown]
# Here is everything in one table; accuracies are means over the seeds.

# %% tags=["nbval-ignore-output"]
rows = table[
    (table["group"] == "equal training") | (table["network"] == "AttentionCNN")
]
rows = rows.groupby("network", sort=False)
shown = rows[["parameters", "flops", "accuracy"]].mean()
shown["equal FLOPs"] = accuracy.loc["equal FLOPs"]["mean"]
shown["MFLOP"] = shown.pop("flops") / 1e6
shown["ms"] = ms.round(1)
assert shown["MFLOP"].idxmax() == "AttentionCNN" == shown["ms"].idxmax()
print(shown.astype({"parameters": int}).round(3).to_string(na_rep=""))

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-clutter", "caption": "Left: two test scenes, the digit's ink outlined. Then the accuracy on 1,000 test scenes at equal training, at equal FLOPs, and of AttentionCNN beside plain networks of its FLOPs: one dot for each seed, a bar at their mean."}, "image": {"classes": "wide", "alt": "Two grey scenes with an outlined digit among fragments, and three strip charts of accuracy by network."}}
scenes = data.cluttered_digits(train_count=1, test_count=8).test
far = accuracy.loc["AttentionCNN's FLOPs", "mean"]
assert far["AttentionCNN"] < far["plain CNN"] - 0.1
won = {g: (gains.loc[g, "verdict"] == "better").sum() for g in gains.index.levels[0]}
titles = [
    f"Equal training:\n{won['equal training']} of 4 gain",
    f"Equal FLOPs:\n{won['equal FLOPs']} of 4 gain",
    "AttentionCNN:\nfar behind",
]
figure, grid, charts = plots.pictures_and_charts(2, 1, 1, 1, 1, height=3.2)
for (axis,), i in zip(grid, (1, 4), strict=True):
    plots.show_picture(axis, scenes.images[i, 0])
    plots.outline(axis, scenes.masks[i])
    axis.set_title(f"{scenes.labels[i]} among fragments", fontsize=10)
parts = table.groupby("group", sort=False)
for chart, (_, rows), title in zip(charts, parts, titles, strict=True):
    plots.dots_and_means(chart, rows, x="accuracy", y="network", hue="network")
    chart.set(title=title, ylabel="")
    chart.locator_params(axis="x", nbins=4)
charts[1].set_yticklabels([])
plt.show()

# %% tags=["remove-input"]
told = {}
for group in ("equal training", "equal FLOPs"):
    rows = gains.loc[group]
    told[group] = "; ".join(
        f"{word} than the plain network" * (word != "alike")
        + "not to be told from it by these seeds" * (word == "alike")
        + ": "
        + ", ".join(
            f"{n} ({rows['gain'][n]:+.3f} ± {rows['±'][n]:.3f})"
            for n in rows.index[rows["verdict"] == word]
        )
        for word in ("better", "alike", "worse")
        if (rows["verdict"] == word).any()
    )
    told[group] = told[group].replace("-0.", "−0.")
    glue(f"clutter_{group.split()[1].lower()}", f"{rows['gain'].max():+.3f}")
say(
    "{first} The plain network reaches {plain:.3f}. At equal training, {training}. At equal FLOPs (the plain one then has {wider} parameters and reaches {wide:.3f}), {flops}. {reason}",
    first="The hypothesis is not borne out: no module is better than the plain network." if not sum(won.values())
    else f"The hypothesis is borne out for {won['equal training']} of 4 modules at equal training, and for {won['equal FLOPs']} at equal FLOPs.",
    reason=f"One reason may be at hand: a pixel of the third stage sees a square of {math.isqrt(reached[names_of_fields[1]])} pixels, and a digit takes 16. Nothing far apart needs to be compared here. And whether a module does anything at all after training is a question that we shall ask below."
    if not sum(won.values()) else "",
    plain=accuracy.loc[("equal training", "plain CNN"), "mean"], wide=accuracy.loc[("equal FLOPs", "plain CNN"), "mean"],
    wider=f"{table[(table['group'] == 'equal FLOPs') & (table['network'] == 'plain CNN')]['parameters'].iloc[0]:,}",
    training=told["equal training"], flops=told["equal FLOPs"],
)  # fmt: skip


# %% tags=["remove-input"]
big = accuracy.loc["AttentionCNN's FLOPs"]
doc = big.loc["AttentionCNN"]
say(
    "`AttentionCNN` is another story: {low:.2f} to {high:.2f}, where a plain network of its FLOPs has {plain:.2f} with batch normalisation and {bare:.2f} without "
    "(means of {seeds} seeds).",
    low=doc["min"], high=doc["max"], plain=big["mean"]["plain CNN"], bare=big["mean"]["plain, no norm"], seeds=len(wide.runs),
)  # fmt: skip

# %% [markdown]
# ### Why the document's network starts late
#
# `AttentionCNN` has no batch normalisation, and two gates in each CBAM. A new gate lets through about one half, so two let
# through a quarter, and two CBAMs a sixteenth. How much do the logits differ *from image to image* before training, with its gates and without?


# %%
scenes = data.cluttered_digits()


@torch.no_grad()
def spread(seed, gates):
    torch.manual_seed(seed)
    network = attn_course.AttentionCNN()
    if not gates:
        network.cbam1 = network.cbam2 = nn.Identity()
    images = chapter3.prepared(network, scenes.test.images[:200], scenes.train.images)
    return network(images).std(dim=0).mean().item()


spreads = {g: [spread(seed, g) for seed in range(3)] for g in (False, True)}
print("without gates", *(f"{s:.4f}" for s in spreads[False]))
print("with gates   ", *(f"{s:.4f}" for s in spreads[True]))

# %% tags=["remove-input"]
shrinks = min(w / g for w, g in zip(spreads[False], spreads[True], strict=True))
assert shrinks > 8


def start(name):
    """The first measurement, in steps, at which half of the seeds know more than chance."""
    curves = pd.DataFrame([dict(run["networks"][name]["curve"]) for run in wide.runs])
    return (curves.median() > 0.2).idxmax()


late, early = start("attention-cnn"), start("plain, no norm")
assert late > early
longer = load("attention-cnn-longer")
ends = longer.values("accuracy")
same = abs(doc["mean"] - big["mean"]["plain, no norm"]) < 0.1
say(
    "The gates alone make the images {shrinks:.0f} times as alike, in the seed where they do least. Nothing behind them brings the size back, and gradients shrink with the signal: in the records "
    "it takes `AttentionCNN` {late} steps to leave chance, and its plain equal without normalisation {early}. {verdict} With twice the steps, {steps:,}, `AttentionCNN` reaches {low:.2f} to {high:.2f} ({seeds} seeds). "
    "In the paper's residual networks, normalisation and the path around each block bring the size back.",
    shrinks=shrinks, steps=longer.settings["steps"], low=min(ends), high=max(ends), seeds=len(ends),
    late=late, early=early,
    verdict="In the end both come to much the same place, far below the network with normalisation: it is the missing normalisation that costs most, and not the attention."
    if same else "They end at different places on average, too.",
)  # fmt: skip

# %% [markdown]
# And on photographs? The papers' own results, with a ResNet-50 on ImageNet, one run each, top-1 accuracy in per cent:
#
# | network | [Hu et al., 2018](https://arxiv.org/abs/1709.01507) | [Woo et al., 2018](https://arxiv.org/abs/1807.06521) | [Wang et al., 2020](https://arxiv.org/abs/1910.03151) |
# |---|---|---|---|
# | plain | 75.20 | 75.44 | 75.20 |
# | squeeze-and-excitation | 76.71 | 76.86 | 76.71 |
# | CBAM | | 77.34 | 77.34 |
# | efficient channel attention | | | 77.48 |
#
# The first two papers print errors; these are 100 less the error. Wang et al. take the rows of the others over from their papers. The gains are of 1.4 to 2.3 points, at 0 to 10 % more parameters. Those are their numbers, made with
# other networks, longer training and other data than ours: they do not contradict what came out here, and do not confirm it.

# %% [markdown]
# ## Does it look at the digit?
#
# Maps of attention are shown as if they explained. Here we can test that, for we know where the digit's ink is. We ask of a map: **how often does a pixel on the digit have more
# than a pixel elsewhere in the scene?** One half is blind chance. But digits lie more often in the middle than in the corners, so a map that knows nothing of the image, the mean
# of all training masks, scores more (the *centre prior*). And each map is held against the masks of *other* images: what remains there it did not see.

# %% [markdown]
# **Hypothesis.** The maps of the trained modules find the digit better than the centre prior does, and better than the plain
# network's gradient with respect to the image, which every network has, with or without attention.

# %%
looks = pd.DataFrame(
    {"network": LABELS[name], "map": kind, "seed": run["seed"], **entry}
    for runs, chosen in ((record.runs, LABELS), (wide.runs, ["attention-cnn"]))
    for run in runs
    for name, maps in run["looks"].items()
    for kind, entry in maps.items()
    if name in chosen
)
controls = pd.DataFrame(record.runs[0]["controls"]).T
found = looks.groupby(["network", "map"], sort=False)[["above", "above_shuffled"]]
print(controls[["above", "above_shuffled"]].round(2))

# %% [markdown]
# A gate for channels has no map of its own. For it, and for all, we take the **feature energy**, the mean size of the features that the last stage
# lets through. CBAM has a gate for each stage; self-attention has the attention that a pixel *receives*, over all queries.

# %%
kinds = {
    "gate, stage 1": "spatial gate, stage 1",
    "received": "attention received",
    "gradient": "gradient",
}
picked = [0, 1, 3, 4]
seen = {}
for name in ("cbam", "self-attention"):
    images = chapter3.prepared(trained[name], scenes.test.images, scenes.train.images)
    labels = scenes.test.labels[picked]
    seen |= chapter3.attention_maps(trained[name], images[picked], labels)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-looks", "caption": "Left: four test scenes with the digit outlined, and maps of the recorded models of seed 0. Right: how often a pixel on the digit has more than a pixel elsewhere in the scene, for each map of each network, one dot for each seed. Grey dashes: the same map against the masks of other scenes. Dotted: the centre prior. Solid: the ink of the image itself, digit and fragments alike. Colours as in the figure before."}, "image": {"classes": "wide", "alt": "Two rows of four small maps over cluttered scenes, and a chart of dots by kind of map, with marks for three kinds of chance."}}
figure, grid, (chart,) = plots.pictures_and_charts(4, 4, 1, height=4.7)
for row, i in enumerate(picked):
    shown = [scenes.test.images[i, 0], *(seen[kind][row] for kind in kinds.values())]
    for axis, image, title in zip(grid[row], shown, ["scene", *kinds], strict=True):
        plots.show_picture(axis, image)
        plots.outline(axis, scenes.test.masks[i])
        axis.set_title(title if row == 0 else "", fontsize=9)
plots.dots_and_means(
    chart, looks, x="above", y="map", hue="network", chance="above_shuffled"
)
chart.get_legend().remove()
for name, style in (("centre prior", ":"), ("ink", "-")):
    chart.axvline(
        controls["above"][name], color=plots.COLOURS["baseline"], linestyle=style
    )
plain = looks[(looks["network"] == "plain CNN") & (looks["map"] == "feature energy")]
assert plain["above"].min() > controls["above"]["centre prior"]
chart.set(
    xlabel="digit above elsewhere",
    ylabel="",
    title="The plain network looks, too",
)
plt.show()

# %% tags=["remove-input"]
mean = looks.groupby(["network", "map"])[["above", "above_shuffled", "lift"]].mean()
prior, ink = (controls["above"][name] for name in ("centre prior", "ink"))
gates = mean.loc["CBAM"].filter(like="spatial gate", axis=0)
energy = mean["above"].xs("feature energy", level="map")
gradient = mean["above"].xs("gradient", level="map")["plain CNN"]
glue("looks_gate", f"{gates['above'].max():.2f}")
glue("looks_plain_energy", f"{energy['plain CNN']:.2f}")
say(
    "The centre prior scores {prior:.2f}, the ink itself {ink:.2f}, the plain network's gradient {gradient:.2f}. CBAM's gates score {gates} in its three stages: "
    "{beat} of 3 are above the prior, {beat_gradient} of 3 above the gradient. And a gate that ranks pixels well need not dim much: the part of its mass that lies on the digit is "
    "{lift:.2f} times the part on other scenes' digits, on average. The hypothesis does {verdict}.",
    prior=prior, ink=ink, gradient=gradient, gates=", ".join(f"{value:.2f}" for value in gates["above"]),
    beat=(gates["above"] > prior).sum(),
    beat_gradient=(gates["above"] > gradient).sum(), lift=gates["lift"].mean(),
    verdict="hold for CBAM" if (gates["above"] > max(prior, gradient)).all() else "not hold for CBAM",
)  # fmt: skip

# %% [markdown]
# Is the attention *used*? A direct test: after training, set every gate to its mean over the training images, so that it no longer looks at the image, and let self-attention add
# nothing. What accuracy is left?

# %%
entries = [
    {"seed": run["seed"], "network": LABELS[name], **run["equal_training"][name]}
    for run in record.runs
    for name in chapter3.ATTENTIONS
]
used = pd.DataFrame(entries)
used["lost"] = used["accuracy"] - used["fixed_accuracy"]
lost = used.pivot(index="seed", columns="network", values="lost")
lost = lost[list(used["network"].unique())]
print(lost.round(3).to_string())

# %% [markdown]
# The table says, seed by seed, how much accuracy is lost when the attention is fixed. Let us call a module **used** where that is more than a tenth. (A small loss shows that a module
# is not needed. A large one is less clear: it may miss what the gate said about the image, or only be upset by inputs that it never met.)

# %% tags=["remove-input"]
received = looks[looks["map"] == "attention received"].pivot(
    index="seed", columns="network", values="above"
)
small = received["SelfAttention2D"].loc[lost.index]
gammas = used[used["network"] == "SelfAttention2D"].set_index("seed")["gamma"]
times = (lost > 0.1).sum()
busy = lost["SelfAttention2D"] > 0.1
on = lambda chosen: ", ".join(f"{value:.2f}" for value in small[chosen])  # noqa: E731
assert small[~busy].max() < 0.5 and times["CBAM"] == len(lost)
glue("attention_used", f"{times['SelfAttention2D']} of {len(lost)}")
say(
    "Squeeze-and-excitation is used in {se} of {seeds} seeds, efficient channel attention in {eca}, CBAM in {cbam}, self-attention in {self}. Now look at the last row of "
    "[figure](#fig-looks). Where self-attention is not used, $\\gamma$ stayed between {low} and {high}, and the pixels that all others look at score {idle}: they lie *beside* the digit. {where} The map of a module "
    "that is not used says nothing. And CBAM, the one that is always used, is the one that did worst.",
    se=times.iloc[0], eca=times.iloc[1], cbam=times["CBAM"], self=times["SelfAttention2D"], seeds=len(lost),
    low=f"{gammas[~busy].min():.2f}".replace("-", "−"), high=f"{gammas[~busy].max():.2f}", idle=on(~busy),
    where=f"Where it is used ($\\gamma$ {', '.join(f'{g:.2f}' for g in gammas[busy])}) they score {on(busy)}." if busy.any() else "",
)  # fmt: skip
assert gains.loc["equal training", "gain"].idxmin() == "CBAM"

# %% tags=["remove-input"]
assert energy["plain CNN"] > max(gates["above"].max(), ink) and energy.min() > prior
say(
    "And look at the first row of [figure](#fig-looks). The *plain* network's features score {plain:.2f}, the others' {low:.2f} to {high:.2f}; {more} of the {all} lie above the ink ({ink:.2f}), which fragments have too. A network needs no attention to look at the digit: "
    "training puts large features where the digit is, with or without a gate.",
    plain=energy["plain CNN"], low=energy.drop("plain CNN").min(), high=energy.drop("plain CNN").max(), ink=ink,
    more=(energy > ink).sum(), all=len(energy),
)  # fmt: skip

# %% [markdown]
# ### A lens to move
#
# Look for yourself: two of these scenes and a photograph, through the recorded networks of seed 0, before and after training, stage by stage.
#
# > **Predict, then move.** CBAM's gate of the first stage stands there. Is it better on the digit than the centre prior, the dashed line, which has seen no picture? Go to stage 3:
# > what do the true colours say of that gate, and what the stretched ones? Switch the training off: which network's features find the digit *untrained*? Which maps find the 3, and
# > who names it rightly? With self-attention, mark a place on the digit: where does it look? Last, the photograph: what will a network say that knows digits only?

# %% tags=["nbval-ignore-output", "hide-input"]
from attn_course import widgets


def on_digit(**settings):
    shown = {t["name"]: t["rows"] for t in lens.tables(**settings)}
    return [row[-1] for row in shown["On the digit"]]


lens = widgets.CNNAttentionLens(scenes)
_, gate_1, prior_1, _ = on_digit(network="cbam", stage=1)
untrained, features_3, _, _ = on_digit(network="plain", stage=3)
assert gate_1 < prior_1 < features_3 and untrained > 0.5
lens

# %% tags=["remove-input"]
looked = {picture: lens.data["maps"][picture] for picture in ("three", "photograph")}
named = {picture: [entry[name]["after"] for name in LABELS if name in entry] for picture, entry in looked.items()}  # fmt: skip
answers = {picture: [entry["answer"] for entry in entries] for picture, entries in named.items()}
surest = max(named["photograph"], key=lambda entry: entry["probability"])
gate_3 = lens.tables(network="cbam", stage=3)[0]["rows"][1]
three = on_digit(picture="three", network="plain", stage=3)[1]
assert 3 not in answers["three"] and three > 0.9 and gate_3[1] > 0.9
say(
    "On the 5, CBAM's first gate scores {gate:.2f} and the centre prior {prior:.2f}. Its third gate lies between {low:.2f} and {high:.2f}: stretched it is a picture, in true colours it dims next to nothing. The plain network's last features "
    "score {untrained:.2f} before training already, for random weights keep ink apart from paper, and {trained:.2f} after. On the 3 they score {three:.2f}, and yet the five networks name it {answers}: to lie on the digit is not to read it. One of them "
    "takes the photograph for the digit {surest}, with a probability of {probability:.4f}: a map and an answer come out of anything that goes in.",
    gate=gate_1, prior=prior_1, low=gate_3[1], high=gate_3[3], untrained=untrained, trained=features_3, three=three,
    answers=", ".join(map(str, answers["three"])), surest=surest["answer"], probability=surest["probability"],
)  # fmt: skip

# %% [markdown]
# Two warnings go with such pictures. A map at a quarter of the resolution cannot follow a stroke, however well the network looks. And a map can look right for reasons that have
# nothing to do with training: [Adebayo et al., 2018](https://arxiv.org/abs/1810.03292) found maps that hardly change when the network's weights are replaced by random ones. The switch
# in the lens makes that test for two scenes, no more; ours, against the masks of other scenes, shows that a map depends on *this* image, and not that training made it so.

# %% [markdown]
# ## The price
#
# Gates read the map a few times: their elementwise work grows with $C \cdot H \cdot W$. Self-attention compares all pixels with all,
# $n = H \cdot W$ of them:
#
# <a id="eq-cnn-price"></a>
# $$
# 2.5\, B\, n\, C^2 \;+\; 2.25\, B\, n^2\, C
# $$
#
# FLOPs, if 8 divides $C$: the three projections, then scores and weighted sum.
#
# > **Predict.** For $C = 64$, at which side of a square map do the two terms cost the same? What happens to each when the side
# > doubles?

# %%
sides = [14, 28, 56]
modules = {
    "squeeze-and-excitation": attn_course.SqueezeExcitation(64),
    "efficient channel attention": attn_course.EfficientChannelAttention(64),
    "CBAM": attn_course.CBAM(64),
    "SelfAttention2D": attn_course.SelfAttention2D(64),
}
keys = [*list(relatives.values())[1:], "cbam", "self-attention-2d"]
predicted = {
    (name, side): complexity.cost(key, batch=1, channels=64, height=side, width=side)
    for name, key in zip(modules, keys, strict=True)
    for side in sides
}
work = pd.Series({k: cost.flops + cost.elementwise for k, cost in predicted.items()})
print("million operations:")
print((work.unstack(0) / 1e6)[list(modules)].round(2))

# %% [markdown]
# Operations are FLOPs and elementwise work together; without the latter the gates would look free. Now measured: the module as a network would call it, in inference, $\gamma$ set to 0.5, and the
# usual form of self-attention beside ours.

# %%
usual = textbook.SelfAttention2D(64)
usual.load_state_dict(modules["SelfAttention2D"].state_dict())
peers = nn.ModuleDict({**modules, "textbook": usual}).to(device).eval()
for name in ("SelfAttention2D", "textbook"):
    nn.init.constant_(peers[name].gamma, 0.5)

# %% [markdown]
# At each size the five take turns; then each runs once more, alone, for its peak memory.

# %% tags=["nbval-ignore-output"]
measured = []
for side in sides:
    x = torch.randn(1, 64, side, side, device=device)
    calls = {name: partial(peer, x) for name, peer in peers.items()}
    with torch.no_grad():
        samples = benchmark.measure(calls, rounds=9, device=device)
        peak = {n: benchmark.peak_bytes(c, device=device) for n, c in calls.items()}
    measured += [
        {
            "module": n,
            "side": side,
            "ms": 1e3 * pd.Series(s).median(),
            "MiB": peak[n] / 2**20,
        }
        for n, s in samples.items()
    ]
measured = pd.DataFrame(measured).set_index(["module", "side"])
assert measured.loc["SelfAttention2D"]["MiB"].is_monotonic_increasing
print(measured.unstack(0).round(2).T)

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-cnn-price", "caption": "Predicted operations (FLOPs and elementwise work), measured time and measured peak memory of each module against the pixels of a square map of 64 channels, on the machine that is named at the foot of this page. Dashed: self-attention as it is usually written."}, "image": {"classes": "wide", "alt": "Three charts with logarithmic axes against the number of pixels: predicted operations, time and peak memory. The gates grow in proportion to the pixels; self-attention grows with their square and is far above the gates at the right."}}
figure, axes = plt.subplots(1, 3, figsize=(9, 3.6))
pixels = [side * side for side in sides]
for name in peers:
    style = {"color": plots.COLOURS[name], "label": name, "marker": "o"}
    if name == "textbook":
        style |= {"linestyle": "--", "label": "SelfAttention2D, usual form"}
        style["color"] = plots.COLOURS["SelfAttention2D"]
    else:
        axes[0].plot(pixels, work[name] / 1e6, **style)
    axes[1].plot(pixels, measured.loc[name]["ms"], **style)
    axes[2].plot(pixels, measured.loc[name]["MiB"], **style)
for axis, title, label in (
    (axes[0], "Predicted: $n$ or $n^2$", "million operations"),
    (axes[1], "Time follows", "ms"),
    (axes[2], "Pieces save the memory", "peak MiB"),
):
    plots.log_axes(axis, pixels, xlabel="pixels $n$", ylabel=label, title=title)
attention = measured.loc["SelfAttention2D"]
assert work["SelfAttention2D"][56] > 50 * work["CBAM"][56]
assert attention["ms"][56] > 3 * measured.loc["CBAM"]["ms"][56]
assert attention["MiB"][56] < 0.6 * measured.loc["textbook"]["MiB"][56]
figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %% tags=["remove-input", "nbval-ignore-output"]
gate, usual_form = measured.loc["CBAM"], measured.loc["textbook"]
growth = {name: work[name][56] / work[name][28] for name in ("CBAM", "SelfAttention2D")}
assert growth["CBAM"] < 4.01 and growth["SelfAttention2D"] > 10
share = predicted["SelfAttention2D", 56]
share = 1 - share.terms["projections"] / share.flops
glue("self_attention_2d_growth", f"{growth['SelfAttention2D']:.0f}")
say(
    "Twice the side is four times the pixels: CBAM does {gate:.0f} times the operations, self-attention {attention:.0f} times. At 56 × 56 it takes {ms:.1f} ms where CBAM takes "
    "{gate_ms:.2f}, and {mib:.0f} MiB at the peak (the usual form {usual:.0f}). The two terms of [equation](#eq-cnn-price) are equal at $n = 10\\,C/9$, a map of about 8 × 8 "
    "here; at 56 × 56 the comparison of all pixels is {share:.0%} of the FLOPs. That is why it stands behind two halvings in `AttentionCNN`.",
    gate=growth["CBAM"], attention=growth["SelfAttention2D"], ms=attention["ms"][56], gate_ms=gate["ms"][56],
    mib=attention["MiB"][56], usual=usual_form["MiB"][56], share=share,
)  # fmt: skip

# %% [markdown]
# ## Where it breaks
#
# The smallest inputs that make the usual code fail are small networks. With 8 channels and $r = 16$, the hidden layer has `8 // 16` numbers: none.
#
# > **Predict.** A linear layer with no inputs and no bias returns zeros. What does the gate then let through, before training and after?

# %%
import warnings

with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    usual = textbook.ChannelAttention(8)
print("warned:", said[0].message)
torch.manual_seed(5)
eight = torch.randn(2, 8, 5, 5)
for gate in (usual, attn_course.ChannelAttention(8)):
    weights = (gate(eight) / eight)[0, :4, 0, 0].detach()
    print(sum(p.numel() for p in gate.parameters()), "parameters:", weights)

# %% [markdown]
# One half, for every channel of every image, for ever: there is nothing that training could move, and nothing that tells. Two more failures at least raise, far from
# their cause: self-attention below 8 channels, and an even kernel.


# %%
def attempt(library, name, x):
    try:
        print(f"{library.__name__}: works, {tuple(getattr(library, name)(4)(x).shape)}")
    except (RuntimeError, ValueError) as error:
        told = f"{library.__name__}: {type(error).__name__}: {error}"
        print(textwrap.fill(told, 78))


warnings.simplefilter("ignore")
for library in (textbook, attn_course):
    attempt(library, "SelfAttention2D", eight[:, :4])
    attempt(library, "SpatialAttention", eight)

# %% [markdown]
# The package keeps at least one hidden channel, and says at once that an even kernel has no middle.

# %% [markdown]
# ## When to take it
#
# - **Take** a gate (squeeze-and-excitation; CBAM where single places count) when a network exists already and may cost hardly more; let it pool by maximum, too, if a small cue
#   can decide; and compare it with a plain network that is a little wider.
# - **Take** self-attention over pixels when places far apart must be *compared*, on a map that is small: behind two or three halvings.
# - **Do not** expect a gate to compare places, or a map to be an explanation.
#
# > **Predict.** A camera over a conveyor belt must find scratches a few pixels long. Its first feature map has 64 channels of 256 × 256, and its computer 2 GiB of
# > memory. Self-attention there, or CBAM? Work out the map of weights first.

# %% tags=["hide-output"]
n = 256 * 256
map_gib = n * n * 4 / 2**30
size = {"batch": 1, "channels": 64, "height": 256, "width": 256}
flops = complexity.cost("self-attention-2d", **size).flops
gate = complexity.cost("cbam", **size)
assert map_gib > 2
operations = gate.flops + gate.elementwise
print(f"One map of weights: {map_gib:.0f} GiB.")
print(f"In pieces it fits, and costs {flops / 1e9:.0f} GFLOP for each image.")
print(f"CBAM: {operations / 1e9:.3f} billion operations. Take CBAM, with its maximum.")

# %% [markdown]
# ## Questions
#
# Decide before you open a choice: each one says what is right in it, or what is not. By keyboard, Tab goes to the
# next choice, or to a link in an open one, and Enter opens it and closes the one before.

# %% [markdown]
# **Question 1.** A new network has three CBAMs in a row, with no path around them, and all their votes are still
# near 0. How much of the size of a feature is left behind the third one?
#
# <details name="chapter-3-question-1"><summary>A. 1/64</summary>
#
# **Right.** A CBAM has two gates, so there are six in a row, and each lets through $\sigma(0) = 1/2$:
# $(1/2)^6 = 1/64$. Something behind them has to bring the size back (section *Why the document's network starts
# late*).
#
# </details>
#
# <details name="chapter-3-question-1"><summary>B. 1/8</summary>
#
# **Not quite.** That counts one gate in each CBAM. There are two, first for channels and then for pixels, and each
# lets through one half.
#
# </details>
#
# <details name="chapter-3-question-1"><summary>C. 1/2</summary>
#
# **Not quite.** One half is what a single gate lets through. The next gate gets only that, and lets through one half
# of it: gates in a row multiply.
#
# </details>

# %% [markdown]
# **Question 2.** Photographs of sand and of gravel are to be told apart. The grain fills the whole picture; now and
# then a faulty pixel of the camera shouts. A channel gate may pool by average alone or by maximum alone. Which do you
# try first?
#
# <details name="chapter-3-question-2"><summary>A. The maximum: it found the mark, and averages missed it</summary>
#
# **Not quite.** That cue was four pixels of 1,024. Here the cue is everywhere, and what stands out in few pixels is a
# fault. An ablation answers for its own task.
#
# </details>
#
# <details name="chapter-3-question-2"><summary>B. The average: the cue is everywhere, and one pixel hardly moves it</summary>
#
# **Right.** An average dilutes a cue by the share of the map that it fills, and the grain fills all of it. One pixel
# of $n$ counts for $1/n$. Then measure, as always.
#
# </details>
#
# <details name="chapter-3-question-2"><summary>C. Either: both summaries go through the same two matrices</summary>
#
# **Not quite.** The matrices are the same, what they are given is not. What a summary has lost, no matrix brings
# back, as the votes of section *By hand* show.
#
# </details>

# %% [markdown]
# **Question 3.** Two labels stand far apart in an image of 128 × 128 pixels, and a network has to say whether they
# carry the same random pattern. What do you put in, and where?
#
# <details name="chapter-3-question-3"><summary>A. CBAM on the first map: its gates cover every pixel</summary>
#
# **Not quite.** They cover every pixel and compare none. A gate judges a place by pooled numbers and by its
# neighbours; whether *this* place is like *that* one it cannot say.
#
# </details>
#
# <details name="chapter-3-question-3"><summary>B. Self-attention on the first map, 128 × 128</summary>
#
# **Not quite.** It can compare, but there are 16,384 pixels, and one map of their scores takes 1 GiB in float32 for
# each image. In pieces it fits, and takes 256 times the work on pairs of a map of 32 × 32.
#
# </details>
#
# <details name="chapter-3-question-3"><summary>C. Self-attention behind two halvings, on 32 × 32</summary>
#
# **Right.** Comparing places far apart is what it is for, and the map is small there: 1,024 pixels, 4 MiB of scores.
# Convolutions before it describe each patch (section *When to take it*).
#
# </details>

# %% [markdown]
# **Question 4.** A map puts more on a pixel of the object than on one elsewhere in 90 % of the cases. Held against
# the masks of *other* images it still does so in 88 %. What does this map know?
#
# <details name="chapter-3-question-4"><summary>A. Where objects usually are, and little about this image</summary>
#
# **Right.** Whatever a map keeps against the masks of other images it has without looking at this one, as the centre
# prior does. Only the step from 88 % to 90 % speaks about this image (section *Does it look at the digit?*).
#
# </details>
#
# <details name="chapter-3-question-4"><summary>B. Where this object is: 90 % is far above the 50 % of chance</summary>
#
# **Not quite.** One half is chance for a map that knows nothing at all. A map of where objects usually lie is above
# it without seeing the image, so that is what to compare with.
#
# </details>
#
# <details name="chapter-3-question-4"><summary>C. Nothing: a map that fits the masks of other images is blind</summary>
#
# **Not quite.** Blind chance would be 50 %. It knows in general where objects lie, and the step from 88 % to 90 % is
# about this image.
#
# </details>

# %% [markdown]
# ## What we know now

# %% tags=["remove-input"]
best_gain = gains.loc["equal FLOPs", "gain"]
count = ("none", "one", "two", "three", "four")[won["equal FLOPs"]]
assert (gains.loc["equal FLOPs", "verdict"] == "better").sum() == won["equal FLOPs"]
glue("clutter_won", count)
say(
    "A convolution sees a square of {near} pixels; a gate tells every pixel that something is somewhere, and self-attention compares it with all {all:,}. Where four pixels decided, gates that average "
    "reached {average:.2f} and a maximum {maximum:.2f}. On cluttered digits {won} of the four modules did better than a plain network of equal FLOPs (differences from {least} to {most}), and "
    "`AttentionCNN`, without normalisation, reached {doc:.2f} on average. CBAM's gates score at most {gate:.2f} on the digit, the features of the plain network {plain:.2f}: a map that fits is no proof that attention did "
    "it. Gates cost like the pixels, self-attention like their square: twice the side, {growth:.0f} times the operations.",
    near=reached[names_of_fields[0]], all=32 * 32, average=averages["accuracy"].mean(), maximum=single["max"].mean(),
    won=count, least=f"{best_gain.min():+.3f}".replace("-", "−"), most=f"{best_gain.max():+.3f}".replace("-", "−"), doc=doc["mean"],
    gate=gates["above"].max(), plain=energy["plain CNN"], growth=growth["SelfAttention2D"],
)  # fmt: skip

# %% [markdown]
# **Further reading.** [Hu et al., 2018](https://arxiv.org/abs/1709.01507), for the gate that started it;
# [Woo et al., 2018](https://arxiv.org/abs/1807.06521), whose ablations are a model of how to ask;
# [Wang et al., 2020](https://arxiv.org/abs/1910.03151), on what a channel gate can do without;
# [Buades et al., 2005](https://doi.org/10.1109/CVPR.2005.38), where pixels first attended to pixels, and
# [Wang et al., 2018](https://arxiv.org/abs/1711.07971), who saw that it is the same thing;
# [Adebayo et al., 2018](https://arxiv.org/abs/1810.03292), before you believe a map.
#
# **The next question.** We counted FLOPs here, elementwise work there, bytes in a third place, and each told another story. What does all of this cost, exactly? That is chapter 4.
#
# Something wrong or unclear? [Report it](https://github.com/attn-course/attn-course/issues).

# %% tags=["remove-cell"]
print("Chapter 3 is complete.")
