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
# # Hybrids: convolutions for what is near, attention for what is far?
#
# **After this chapter you can** turn a feature map into tokens and back, cut an image into patches, build a network in which a transformer reads what
# convolutions found, prove that it needs positions, and say from measurements what each half gives, what both cost, and when neither is needed.
#
# **You need** self-attention over pixels from [chapter 3](03_cnn.ipynb), the transformer block of [chapter 1](01_transformer.ipynb), and learned positions from
# [chapter 2](02_positional.ipynb). **It takes** about 70 minutes with its four exercises, 35 without. The symbols are explained on the page [Notation](../book/notation.md).

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
import pickle
from functools import partial

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from attn_course import AttentionSelector, benchmark, complexity, data, plots, textbook
from attn_course.exercises import get
from attn_course.experiments import chapter7, load, load_model
from attn_course.prose import glue, say

torch.manual_seed(0)
plots.use_house_style()

# %% [markdown]
# ## The trouble: the answer stands at the other end
#
# Six handwritten digits in a row, 8 × 48 pixels, drawn independently of each other. The question, at each of the six places: *which digit stands at the
# mirrored place?* At place 0 the right answer is the digit of place 5, at place 1 that of place 4, and so on.
#
# The digits themselves are easy. We take a plain convolutional network as in chapter 3, let it warm up on naming the digit at each place, and
# then train it on the mirrored question. It answers at each place from the cell of its feature map that lies there.
#
# > **Predict.** Ten digits: chance is 0.1. Can it do better anywhere?

# %% tags=["nbval-ignore-output"]
task = data.digit_strips()
few = {
    "steps": 150,
    "warm_up_steps": 150,
    "batch_size": 64,
    "mirrored": True,
    "task": task,
}
rates = chapter7.STRIP_RATES
plain, network = chapter7.strip_cell("cnn", 0, learning_rate=rates["cnn"], **few)
ends, middle = plain["by_place"][::5], plain["by_place"][2:4]
assert plain["warm_up_accuracy"] > 0.9 and max(ends) < 0.2 < min(middle)
print("the digit here, after the warm-up:", round(plain["warm_up_accuracy"], 2))
print("the mirrored digit:", round(plain["accuracy"], 2))

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-strip", "caption": "A strip of the test part, and how often a plain convolutional network, trained in the cell above, names the digit of the mirrored place, by place, over 1,000 test strips. Dashed: chance."}, "image": {"classes": "wide", "alt": "A strip of six grey digits, parted by orange lines, and a bar below each. The two bars in the middle are high; the four others are at the dashed line of chance."}}
assert max(plain["by_place"][:2] + plain["by_place"][4:]) < 0.25 < min(middle)
plots.strip_and_bars(
    task.test.images[0, 0],
    plain["by_place"],
    0.1,
    "mirrored digit named",
    "Only neighbours can help each other",
)
plt.show()

# %% [markdown]
# It *knows* each digit almost without fault, and cannot carry it to where it is asked for. How far does a cell see? We measure its receptive field: which columns of pixels have
# a gradient towards the answer at place 1?


# %%
def centred(images):
    return chapter7.centred(images, task.train.images)


def answers_as_map(network, x):
    return network(x).mT.unflatten(2, (1, 6))  # (B, 6, 10) -> (B, 10, 1, 6)


x = centred(task.test.images[:50]).to(device)
field = attn_course.receptive_field(partial(answers_as_map, network), x, (0, 1))
seen = (field.sum(dim=0) > 0).nonzero()[:, 0].tolist()
print(f"place 1 sees columns {seen[0]} to {seen[-1]}; its digit: 8 to 15")
print("the digit of the mirrored place 4: 32 to 39")

# %% tags=["remove-input"]
assert seen[-1] < 32
reach = seen[-1] - 15
say(
    "Nothing beyond column {last} can matter, whatever the weights are: {reach} pixels to the right of its own digit. The two places in the middle are neighbours and see most of each other; all "
    "others are blind for what they are asked. More training cannot mend this. What could? Attention lets any place look at any other. It wants **tokens**, though, and convolutions make **maps**.",
    last=seen[-1], reach=reach,
)  # fmt: skip

# %% [markdown]
# ## By hand: tokens out of a map
#
# A feature map $(C, H, W)$ has a vector of $C$ numbers at each place. Attention wants a list of vectors, $(n, C)$. So each place becomes a token, in the order in
# which a page is read, and $n = H \cdot W$. Two channels of 4 × 4, numbered so that each value tells where it came from:
#
# > **Predict.** Which number has the token of row 2, column 1, counting from 0? And which two values does it hold?

# %%
x = torch.arange(16.0).reshape(1, 1, 4, 4)
x = torch.cat([x, 100 + x], dim=1)  # (1, 2, 4, 4)
print(x[0])
print("row 2, column 1:", x[0, :, 2, 1])

# %% [markdown]
# Row 2 comes after two rows of four, so it is token $2 \cdot 4 + 1 = 9$, and it holds one value of *each channel*: 9 and 109. In memory these two lie far apart, for a
# map is stored channel after channel. That is where it goes wrong in practice.

# %% [markdown]
# > **Exercise.** Write `to_tokens(x)`: make of a feature map the sequence of tokens that a transformer reads.
# >
# > A feature map has `H × W` places, and at each of them `C` numbers, one from each channel. Each place becomes one token:
# > the vector of the `C` numbers that stand there. The tokens come in the order in which a page is read: the first row from
# > left to right, then the second row, and so on.
# >
# > - `x` is `(B, C, H, W)`; `H` and `W` may differ.
# > - Return `(B, H · W, C)`: token number `i · W + j` of image `b` is `x[b, :, i, j]`.


# %%
def to_tokens(x):
    """The places of a feature map, row by row, as tokens.

    x (B, C, H, W)
    returns (B, H * W, C): token i * W + j is x[:, :, i, j]
    """
    ...  # your code here


# %%
get("to-tokens").check(to_tokens)

# %% [markdown]
# The definition is folded: places into one dimension, then exchange the last two. Later cells call `tokens_of`: your function if it passed, else ours.


# %% tags=["hide-input"]
def to_tokens_by_definition(x):
    return x.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, C, H·W) -> (B, H·W, C)


tokens_of = get("to-tokens").use(to_tokens)
tokens = tokens_of(x)
assert torch.equal(tokens, to_tokens_by_definition(x))
print("tokens 8 to 10:", tokens[0, 8:11].tolist())

# %% [markdown]
# The tempting way is one word, `reshape`. It gives the right shape.
#
# > **Predict.** What does it put into token 9?

# %%
wrong = x.reshape(1, 16, 2)
print("shape", tuple(wrong.shape), "- token 9:", wrong[0, 9].tolist())

# %% [markdown]
# Two *neighbouring pixels of channel 1*, no error and no warning: `reshape` reads the memory as it lies. A network trained with it even learns something, for the mixing is always the
# same. Only the numbers show it.
#
# And back? A list of 16 tokens does not say what it was: 4 × 4, 2 × 8, or a single row. The way back needs the two sizes.

# %% [markdown]
# > **Exercise.** Write `to_feature_map(tokens, height, width)`: undo `to_tokens`, so that convolutions can go on where a transformer has
# > ended.
# >
# > Each token goes back to its place: the first `W` tokens fill the first row from left to right, the next `W` the second
# > row, and so on. The `C` numbers of a token are spread over the `C` channels. A sequence of 12 tokens may have been a map
# > of 2 × 6, 3 × 4 or 6 × 2: the sequence itself does not say, and so `height` and `width` are given.
# >
# > - `tokens` is `(B, H · W, C)`, with `H` = `height` rows and `W` = `width` columns, which may differ.
# > - Return `(B, C, H, W)`: what `to_tokens` turns into `tokens` again.


# %%
def to_feature_map(tokens, height, width):
    """Put tokens back at their places: the inverse of to_tokens.

    tokens (B, height * width, C), row by row
    returns (B, C, height, width)
    """
    ...  # your code here


# %%
get("to-feature-map").check(to_feature_map)


# %% [markdown]
# Folded: the same two steps, backwards. Out and back must change nothing.


# %% tags=["hide-input"]
def to_feature_map_by_definition(tokens, height, width):
    return tokens.transpose(1, 2).unflatten(2, (height, width))


map_of = get("to-feature-map").use(to_feature_map)
again = map_of(tokens, 4, 4)
assert torch.equal(again, x)
assert torch.equal(again, to_feature_map_by_definition(tokens, 4, 4))
print(
    "4 x 4 again:", torch.equal(again, x), "- as 2 x 8:", map_of(tokens, 2, 8)[0, 0, 0]
)

# %% [markdown]
# ## The formula
#
# With a backbone of convolutions $f$, a vector $P_i$ for each place $i$, and $L$ transformer blocks, a hybrid is
#
# <a id="eq-hybrid"></a>
# $$
# \begin{aligned}
# z^{(0)} &= \mathrm{tokens}(f(x)) + P \\
# z^{(l)} &= \mathrm{block}_l\big(z^{(l-1)}\big), \quad l = 1 \dots L \\
# \text{logits} &= W\, \frac{1}{n} \sum_{i} z^{(L)}_i + b
# \end{aligned}
# $$
#
# The mean makes one answer for an image. Where each place has an answer of its own, as on the strip, $W$ and $b$ are applied to each $z^{(L)}_i$ instead. $P$ is learned, $(n, C)$, and added once.

# %% [markdown]
# ### The other road: no convolution at all
#
# The **vision transformer** ([Dosovitskiy et al., 2021](https://arxiv.org/abs/2010.11929)) leaves $f$ out. It cuts the image into squares, and each square, laid flat, is a token. The same paper calls our
# road, tokens from a convolutional map, its *hybrid architecture*.
#
# > **Predict.** An image of 3 × 224 × 224 in patches of 16: how many tokens, of how many numbers?

# %% [markdown]
# > **Exercise.** Write `patchify(x, patch)`: cut images into square patches and make one token of each. A vision transformer begins so:
# > it has no convolutions that would make a feature map first.
# >
# > An image is cut into squares of `p × p` pixels (`p` = `patch`), which do not overlap: `H / p` of them below one another,
# > `W / p` side by side. The patches are read like a page: the first row of patches from left to right, then the second
# > row, and so on. A token holds all `C · p · p` numbers of its patch: the first channel of the patch, row by row, then its
# > second channel, and so on.
# >
# > - `x` is `(B, C, H, W)`; `H` and `W` may differ. `patch` is an integer of at least 1.
# > - Return `(B, H/p · W/p, C · p · p)`. Token number `i · W/p + j` is the patch `x[b, :, i·p : (i+1)·p, j·p : (j+1)·p]`,
# >   flattened.
# > - Raise a `ValueError` if `p` does not divide both `H` and `W`, rather than lose pixels at the edge without a word.
# >   (`raise ValueError("…")`, and the text may say which numbers do not fit.)


# %%
def patchify(x, patch):
    """Square patches of an image, row by row, as tokens.

    x (B, C, H, W), p = patch
    returns (B, H/p * W/p, C * p * p), each patch flattened from (C, p, p)
    raises ValueError if p does not divide both H and W
    """
    ...  # your code here


# %%
get("patchify").check(patchify)


# %% [markdown]
# Folded: the definition, against torch's `unfold`. And a fact that makes the two roads look less different: a linear layer on patches *is* a convolution, with a kernel and a stride of $p$.


# %% tags=["hide-input"]
def patchify_by_definition(x, patch):
    batch, channels, height, width = x.shape
    if height % patch or width % patch:
        raise ValueError(f"patches of {patch} do not fill {height} x {width}")
    rows, columns = height // patch, width // patch
    parts = x.reshape(batch, channels, rows, patch, columns, patch)
    return parts.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)


cut = get("patchify").use(patchify)
photo = torch.randn(1, 3, 224, 224)
patches = cut(photo, 16)
torch.testing.assert_close(patches, patchify_by_definition(photo, 16))
torch.testing.assert_close(patches, F.unfold(photo, 16, stride=16).mT)
linear = nn.Linear(3 * 16 * 16, 8)
kernel = linear.weight.view(8, 3, 16, 16)
as_map = F.conv2d(photo, kernel, linear.bias, stride=16)
torch.testing.assert_close(tokens_of(as_map), linear(patches), rtol=1e-4, atol=1e-5)
print("tokens of a photograph:", tuple(patches.shape))

# %% [markdown]
# So the vision transformer's first layer is one coarse convolution; a hybrid takes several fine ones. What that is worth we shall measure.
#
# ## The hybrid, step by step
#
# We build the document's hybrid, small enough for the strip. First the **backbone**: three convolutions with the modules of chapter 3, and two halvings.

# %%
torch.manual_seed(1)
width, num_heads = 48, 4


def stage(before, after):
    return nn.Conv2d(before, after, 3, padding=1), nn.ReLU()


backbone = nn.Sequential(
    *stage(1, 12), attn_course.CBAM(12), nn.MaxPool2d(2),
    *stage(12, 24), attn_course.CBAM(24), nn.MaxPool2d(2),
    *stage(24, width), attn_course.SelfAttention2D(width),
)  # fmt: skip
strips = centred(task.test.images[:100])
feature_map = backbone(strips)
print(tuple(strips.shape), "->", tuple(feature_map.shape))

# %% [markdown]
# The map has 2 × 12 places for six digits. A mean over parts of it makes the grid that we want: one **cell** for each digit. (The document's grid is 8 × 8, whatever the image is.) Then tokens and
# positions, which start small.

# %%
to_cells = nn.AdaptiveAvgPool2d((1, 6))
cells = to_cells(feature_map)
tokens = tokens_of(cells)
positions = nn.Parameter(0.02 * torch.randn(1, 6, width))
print("cells", tuple(cells.shape), "-> tokens", tuple(tokens.shape))

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-tokens", "caption": "One strip on its way to the transformer, with untrained convolutions: the image; the feature map, the size of its vectors at each place; the cells; and the six tokens without what is common to them, one in each column, 48 numbers from top to bottom. Orange lines part the places."}, "image": {"classes": "wide", "alt": "Four bands below one another: a strip of six digits; a coarse map of two by twelve fields; a single row of six fields; six columns of 48 fields each, of different patterns."}}
assert tokens.shape[1] == 6 and torch.equal(map_of(tokens, 1, 6), cells)
plots.image_to_tokens(
    strips[0, 0],
    feature_map[0],
    cells[0],
    tokens[0] - tokens[0].mean(dim=0),
    "A digit becomes a column of 48 numbers",
)
plt.show()

# %% [markdown]
# What remains is known: **blocks** as in chapter 1, a mean, a **head**. Each block returns tokens and weights.

# %% [markdown]
# > **Exercise.** Write `hybrid_forward(x, backbone, positions, blocks, head)`: the way of a batch of images through a hybrid model, whose
# > parts are given.
# >
# > Convolutions make a feature map of the images. Each place of the map becomes a token, row by row. A transformer does not
# > know where a token stood, and so each gets the vector of its position added, once, before the first block. Then come the
# > blocks, one after the other. In the end there is one vector for each image, the mean of its tokens, and the head makes
# > the logits of that vector.
# >
# > - `x` are the images; `backbone(x)` is the feature map, `(B, C, H, W)`.
# > - `positions` is `(1, H · W, C)`: a vector for each place, row by row, the same for all images.
# > - `blocks` holds one or more blocks, in a list, an `nn.ModuleList` or an `nn.Sequential`. Each is called with tokens
# >   `(B, H · W, C)` and returns a pair, `(tokens, weights)`: new tokens of the same shape, and attention weights that are
# >   not needed here.
# > - `head` turns `(B, C)` into the logits, `(B, number of classes)`. It need not be linear.
# > - Return the logits. You may call your `to_tokens`.


# %%
def hybrid_forward(x, backbone, positions, blocks, head):
    """Logits of images: convolutions, tokens, transformer blocks, mean, head.

    backbone(x): feature map (B, C, H, W); positions (1, H * W, C)
    blocks: each is called with (B, H * W, C) and returns (tokens, weights)
    head: (B, C) -> (B, number of classes)
    returns logits (B, number of classes)
    """
    ...  # your code here


# %%
get("hybrid-forward").check(hybrid_forward)


# %% [markdown]
# Folded: the definition. With the parts of the package's `HybridAttentionModel` it must give what the package gives.


# %% tags=["hide-input"]
def hybrid_by_definition(x, backbone, positions, blocks, head):
    x = backbone(x).flatten(2).transpose(1, 2) + positions
    for block in blocks:
        x, _ = block(x)
    return head(x.mean(dim=1))


small = {"width": width, "depth": 2, "num_heads": num_heads, "grid": (1, 6)}
model = attn_course.HybridAttentionModel((1, 8, 48), 10, **small).eval()
parts = nn.Sequential(model.cnn_backbone, model.flatten), model.positions
parts = *parts, model.transformer, model.classifier
forward = get("hybrid-forward").use(hybrid_forward)
with torch.no_grad():
    logits = forward(strips, *parts)
    torch.testing.assert_close(logits, hybrid_by_definition(strips, *parts))
    torch.testing.assert_close(logits, model(strips), rtol=1e-4, atol=1e-5)
print("logits", tuple(logits.shape), "- the package gives the same")

# %% [markdown]
# ## Does it know where a token stood?
#
# The document's hybrid has no $P$. A transformer's blocks treat all tokens alike, and a mean does not care for order either. So if the tokens of an image are *shuffled* on their way
# into the blocks, nothing should change. We try the usual code, ours without positions, and ours with.
#
# > **Predict.** Which of the three notices?


# %%
@torch.no_grad()
def moved_by_shuffling(model, images):
    """The largest change of a logit when the cells reach the blocks in another order."""
    before = model(images)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))

    def shuffle(module, inputs, output):
        return output.flatten(2)[:, :, order].view_as(output)

    handle = model.flatten.register_forward_hook(shuffle)
    after = model(images)
    handle.remove()
    return (after - before).abs().max().item()


# %%
photos = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
makers = {
    "usual code": textbook.create_hybrid_model,
    "without positions": partial(attn_course.create_hybrid_model, positions=False),
    "with positions": attn_course.create_hybrid_model,
}
moved = {}
for name, make in makers.items():
    torch.manual_seed(0)
    moved[name] = moved_by_shuffling(make((3, 32, 32), 10).eval(), photos)
    told = "less than 0.00001" if moved[name] < 1e-5 else f"{moved[name]:.4f}"
    print(f"{name:18} {told}")

# %% tags=["remove-input"]
assert (
    max(moved["usual code"], moved["without positions"])
    < 1e-5
    < 1e-3
    < moved["with positions"]
)
say(
    "The usual code is blind to the order of its tokens: but for rounding, the same logits for an image and for the same cells in any other arrangement. With positions a logit moves by up to {moved:.3f}, before any training. "
    "That is why positions are on by default in the package; a `state_dict` of the document's model loads with positions of zero, and then gives the document's numbers.",
    moved=moved["with positions"],
)  # fmt: skip

# %% [markdown]
# Is the proof complete? It shuffles *cells*. A convolution at the border of an image meets zeros beyond it, and so may tell the cells where they are ([Islam et al., 2020](https://arxiv.org/abs/2001.08248)).
# We take the hybrid that was trained on the strip (recorded, seed 0), show it six times the *same* digit, and ask how far its six cells are apart before any position is added.
#
# > **Predict.** The same digit six times: are the six cells the same?

# %%
trained = load_model("mirrored-strip", chapter7.StripHybrid().model)
test_images = centred(task.test.images)
same = test_images[:1, :, :, :8].repeat(1, 1, 1, 6)
with torch.no_grad():
    cells = tokens_of(trained.flatten(trained.feature_map(same)))[0]
apart = torch.cdist(cells, cells) / cells.norm(dim=1).mean()
print("distance from cell 2:", [f"{value:.2f}" for value in apart[2].tolist()])

# %% tags=["remove-input"]
assert apart[2, 3] < 1e-5 < 0.2 < min(apart[2, 0], apart[2, 5])
say(
    "The two cells in the middle are equal, and those at the ends lie {end:.1f} times the length of a cell away: zero padding has told them that they stand at an end. Remember this when a model without positions does better than it should.",
    end=min(apart[2, 0], apart[2, 5]).item(),
)  # fmt: skip

# %% [markdown]
# ## Who can name the mirrored digit?
#
# **Hypothesis.** On the mirrored strip only a network that carries something from one end to the other can be right, and that is what attention is for. The rivals have equal parameters, but for one:
#
# - *plain CNN* and *CBAM*: the trunk of chapter 3; *SelfAttention2D*: the same with attention over the places of its last stage;
# - *hybrid* with and without positions;
# - *dilated CNN*: three convolutions with holes on the feature map, which reach 12 places to both sides, no attention ([Yu and Koltun, 2016](https://arxiv.org/abs/1511.07122));
# - *flat layer*: all cells in one vector and two linear layers, with eight times the parameters.

# %% [markdown]
# All warm up on naming the digits, for 300 steps, then get 300 steps on the task; each has the best of three learning rates, chosen on training digits.
#
# > **Predict.** Order them.

# %%
LABELS = {
    "cnn": "plain CNN", "cbam": "CBAM", "self-attention": "SelfAttention2D", "hybrid": "hybrid",
    "hybrid, no positions": "hybrid, no positions", "cnn, deeper": "dilated CNN", "flat": "flat layer",
    "vit": "vision transformer",
}  # fmt: skip


def recorded(name):
    """A row for each network of a record: accuracy of each seed."""
    runs = load(name).runs
    rows = {
        LABELS[network]: {
            "parameters": runs[0]["parameters"][network],
            **{f"seed {run['seed']}": run["accuracy"][network] for run in runs},
            "mean": sum(run["accuracy"][network] for run in runs) / len(runs),
        }
        for network in runs[0]["accuracy"]
    }
    return pd.DataFrame(rows).T.astype({"parameters": int})


mirrored = recorded("mirrored-strip").sort_values("mean")
mirrored.round(3)

# %% [markdown]
# One of them once more, here and now, to be held beside its record:

# %% tags=["nbval-ignore-output"]
live, network_live = chapter7.strip_cell(
    "hybrid", 0, learning_rate=rates["hybrid"], steps=300, warm_up_steps=300,
    batch_size=64, mirrored=True, task=task,
)  # fmt: skip
low = mirrored.loc["hybrid", ["seed 0", "seed 1", "seed 2"]].min()
assert live["accuracy"] > 0.5
print(f"hybrid, seed 0: {live['accuracy']:.3f} here, {low:.3f} or more in the record")

# %% tags=["remove-input"]
means = mirrored["mean"]
seeds = mirrored.filter(like="seed ")
no_attention = max(means["dilated CNN"], means["flat layer"])
keys = {
    "strip_cnn": "plain CNN", "strip_deeper": "dilated CNN", "strip_cbam": "CBAM", "strip_self_attention": "SelfAttention2D",
    "strip_hybrid": "hybrid", "strip_no_positions": "hybrid, no positions", "strip_flat": "flat layer",
}  # fmt: skip
for key, label in keys.items():
    glue(key, f"{means[label]:.2f}")
assert means["plain CNN"] < 0.4 < 0.9 < means["hybrid"]
say(
    "{verdict} The plain network stays at {cnn:.2f}, CBAM at {cbam:.2f}, and the hybrid comes to {hybrid:.2f}: something has to carry the digit. But it need not be attention. Convolutions with holes reach {deeper:.2f} and the flat layer {flat:.2f}: on a strip that is always "
    "mirrored in the same way, the way can be learned once and for all. Without positions the seeds of the hybrid fall apart, {blind}: the padding tells some of them where they are. SelfAttention2D reaches every place, has no positions and one head, and gets {pixels:.2f}.",
    verdict="Half of the hypothesis holds." if no_attention > 0.9 else "The hypothesis holds.",
    cnn=means["plain CNN"], cbam=means["CBAM"], hybrid=means["hybrid"], deeper=means["dilated CNN"], flat=means["flat layer"],
    blind=", ".join(f"{value:.2f}" for value in seeds.loc["hybrid, no positions"]), pixels=means["SelfAttention2D"],
)  # fmt: skip

# %% [markdown]
# ### A task that needs no reach
#
# The same strips, the same networks, 300 steps from scratch; the question now is the digit at the place *itself*.
#
# > **Predict.** What does the hybrid gain?

# %%
own = recorded("own-place-strip").sort_values("mean")
own.round(3)

# %% tags=["remove-input"]
own_means = own["mean"]
glue("own_place_cnn", f"{own_means['plain CNN']:.3f}")
glue("own_place_hybrid", f"{own_means['hybrid']:.3f}")
gain = own_means["hybrid"] - own_means["plain CNN"]
say(
    "{verdict} The plain network names {cnn:.1%} of the digits, the hybrid {hybrid:.1%}: {gain:+.1%}. All seven lie within {range:.1f} points of each other. Where each place can be answered by itself, reach buys nothing.",
    verdict="Nothing." if gain <= 0 else "Next to nothing." if gain < 0.01 else "Something, against our expectation.",
    cnn=own_means["plain CNN"], hybrid=own_means["hybrid"], gain=gain, range=100 * (own_means.max() - own_means.min()),
)  # fmt: skip

# %% [markdown]
# ## Where does it look?
#
# On the mirrored strip the right map is known: the query of place 0 should look at cell 5, that of place 1 at cell 4. So we may ask whether the attention of the trained hybrid lies there, on 1,000 test strips. **Rollout** ([chapter 4](04_complexity.ipynb)) multiplies the
# maps of the layers, half of each going through the residual path.

# %%
with torch.no_grad():
    _, weights = trained.tokens(test_images, need_weights=True)
maps = [block.mean(dim=1) for block in weights["blocks"]]  # heads averaged
rollout = attn_course.attention_rollout(weights["blocks"])


def on_mirror(weights):
    """Mean weight of each query on the mirrored cell."""
    return weights.flip(-1).diagonal(dim1=-2, dim2=-1).mean().item()


others = rollout.clone()
others.diagonal(dim1=-2, dim2=-1).zero_()
mirror = torch.arange(5, -1, -1)
first_other = (others.argmax(dim=-1) == mirror).float().mean().item()
shares = [on_mirror(map) for map in maps]
print(
    "on the mirrored cell:", *(f"block {i}: {s:.2f}" for i, s in enumerate(shares, 1))
)
print(f"rollout: {on_mirror(rollout):.2f}; first among other cells: {first_other:.2f}")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-rollout-strip", "caption": "The hybrid of the mirrored strip (recorded, seed 0), means over 1,000 test strips: weights of its two blocks, heads averaged, and their rollout. Queries down, keys across, places 0 to 5."}, "image": {"classes": "wide", "alt": "Three maps of six by six fields. In block 1 weights are spread, somewhat brighter on the diagonal from top right to bottom left. In block 2 that diagonal is bright and all else dark. The rollout shows both diagonals, as a cross."}}
assert shares[1] > shares[0] and shares[1] > 0.5
titles = [f"block {i}: {s:.0%} on the mirror" for i, s in enumerate(shares, 1)]
plots.attention_maps(
    [*(map.mean(dim=0) for map in maps), rollout.mean(dim=0)],
    [*titles, f"rollout: {on_mirror(rollout):.0%}"],
    queries=list("012345"), keys=list("012345"), side=2.8,
)  # fmt: skip
plt.show()

# %% [markdown]
# Laid over the image, for one strip: what the last block looks at, from three places. `tokens_over_image` gives every pixel the weight of the cell that it lies in.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-over-image", "caption": "One test strip, and over it the weights of the last block, heads averaged, for three places that ask (framed)."}, "image": {"classes": "wide", "alt": "The same strip of six digits three times. In each the framed digit and, bright, the digit at the mirrored place: left and right end, second from left and second from right, and the two in the middle."}}
size = tuple(test_images.shape[2:])
laid = {
    f"place {place}": attn_course.tokens_over_image(maps[1][0, place], (1, 6), size)
    for place in (0, 1, 2)
}
best = [int(maps[1][0, place].argmax()) for place in (0, 1, 2)]
right_now = sum(cell == 5 - place for place, cell in enumerate(best))
assert right_now >= 2
plots.attention_over_image(
    task.test.images[0, 0],
    laid,
    [0, 1, 2],
    f"{right_now} of 3 look at their mirror image",
)
plt.show()

# %% [markdown]
# Chapter 3 warned: a map that fits is no proof that it is used. Here we can prove it. We exchange the digit at one place for that of another strip, and count at which places the answer changes.
#
# > **Predict.** Exchange the digit at place 0: which answers change?


# %%
@torch.no_grad()
def named(images):
    return trained.classifier(trained.tokens(images)).argmax(dim=-1)


before, changed = named(test_images), torch.zeros(6, 6)
for place in range(6):
    exchanged = test_images.clone()
    columns = slice(8 * place, 8 * place + 8)
    exchanged[..., columns] = test_images.roll(1, dims=0)[..., columns]
    changed[:, place] = (named(exchanged) != before).float().mean(dim=0)
print("answers, down, that change when a digit, across, is exchanged:")
print(pd.DataFrame(changed.numpy()).round(2).to_string())

# %% tags=["remove-input"]
at_mirror = changed.flip(-1).diagonal().mean().item()
elsewhere = (changed.sum() - changed.flip(-1).diagonal().sum()).item() / 30
assert at_mirror > 0.8 and elsewhere < 0.05
glue("map_on_mirror", f"{shares[1]:.0%}")
say(
    "The answer changes in {mirror:.0%} of the cases when the mirrored digit is exchanged (another strip has the same digit there in one of ten), and in {other:.1%} when any other is. So the map of block 2, with {share:.0%} of its weight on the mirrored cell, shows what is used. The rollout says {rollout:.0%}, and "
    "keeps {own:.0%} on the place itself, which by this test does not matter at all: it adds half of the residual path whatever that carries. It has the order right, the mirrored cell first among the others in {first:.0%} of the rows, and the amounts wrong.",
    mirror=at_mirror, other=elsewhere, share=shares[1], rollout=on_mirror(rollout), own=rollout.diagonal(dim1=-2, dim2=-1).mean().item(), first=first_other,
)  # fmt: skip

# %% [markdown]
# ### The field, once more
#
# With gradients we asked at the beginning what the answer at place 1 depends on. The same question to the trained hybrid, on 50 real strips:


# %% tags=["nbval-ignore-output"]
def hybrid_as_map(x):
    return trained.classifier(trained.tokens(x)).mT.unflatten(2, (1, 6))


trained.to(device)
looked_at = test_images[:50].to(device)
wide = attn_course.receptive_field(hybrid_as_map, looked_at, (0, 1)).cpu()
trained.cpu()
fields = {"plain CNN": field.cpu().sum(dim=0), "hybrid": wide.sum(dim=0)}
fields = {name: values / values.sum() for name, values in fields.items()}
at_digit = {name: values[32:40].sum().item() for name, values in fields.items()}
assert at_digit["plain CNN"] == 0 < at_digit["hybrid"]
print({name: f"{share:.0%} on columns 32 to 39" for name, share in at_digit.items()})

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-strip-fields", "caption": "What the answer at place 1 depends on, by column of pixels: mean absolute gradient over 50 test strips, as a share of all. Grey: the plain network of the beginning; blue: the hybrid. Dotted: the columns of place 1 and, right, of its mirror image, place 4."}, "image": {"classes": "wide", "alt": "Two curves over 48 columns. The grey one is a hump around columns 0 to 24 and exactly zero beyond. The blue one is highest over columns 32 to 39, the mirrored digit, and small elsewhere."}}
figure, axis = plt.subplots(figsize=(7.0, 2.8))
for name, values in fields.items():
    axis.plot(values, color=plots.COLOURS[name], label=name)
for edge in (8, 16, 32, 40):
    axis.axvline(edge - 0.5, color="black", linewidth=0.8, linestyle=":")
axis.set(xlabel="column", ylabel="share of the gradient", ylim=(0, None))
assert fields["plain CNN"][32:].sum() == 0
axis.set_title(
    f"{at_digit['hybrid']:.0%} of the hybrid's gradient is on the mirrored digit"
)
axis.legend()
plt.show()

# %% [markdown]
# ## How much data does it take?
#
# **Hypothesis.** Convolutions know beforehand that near things belong together and that a thing may be anywhere; attention has to learn it. So with few images convolutions should win, with many attention should catch up, and the hybrid should never be the worst. Four networks of equal parameters, on the
# digits (8 × 8) and on cluttered digits (32 × 32, [chapter 3](03_cnn.ipynb)), with 5 %, 20 % and all of the training images, 600 steps of 32 for each; three seeds.
#
# > **Predict.** Where is the vision transformer with 5 %? And where with all?

# %%
record = load("data-efficiency")
efficiency = pd.DataFrame(
    {
        "task": name, "images": run["images"][name][share][network], "share": float(share),
        "network": LABELS[network], "seed": run["seed"], "accuracy": accuracy,
    }
    for run in record.runs
    for name, by_share in run["accuracy"].items()
    for share, found in by_share.items()
    for network, accuracy in found.items()
)  # fmt: skip
by_cell = efficiency.groupby(["task", "images", "network"], sort=False)["accuracy"]
by_cell.mean().unstack().round(3)

# %% [markdown]
# One cell of it again, live: the smallest share of the digits, plain network and hybrid.

# %% tags=["nbval-ignore-output"]
plan = record.settings["tasks"]["digits"]
again = {}
for network in ("cnn", "hybrid"):
    cell = chapter7.efficiency_cell(
        "digits", network, 0.05, 0, steps=plan["steps"], batch_size=plan["batch_size"],
        learning_rate=plan["learning_rates"][network],
    )  # fmt: skip
    again[network] = cell["accuracy"]
    stored = record.runs[0]["accuracy"]["digits"]["0.05"][network]
    assert abs(cell["accuracy"] - stored) < 0.15
    print(f"{network}: {cell['accuracy']:.3f} here, {stored:.3f} in the record")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-efficiency", "caption": "Accuracy on the test images over the number of training images: mean and range of three recorded seeds. Dashed: chance."}, "image": {"classes": "wide", "alt": "Two charts. On the digits all lines rise towards 1, that of the vision transformer from far below the three others. On cluttered digits plain network, CBAM and hybrid rise together from about 0.45 to about 0.9; the vision transformer stays near the dashed line."}}
mean_of = by_cell.mean()
clutter = mean_of["cluttered digits"]
few, many = (
    clutter.index.get_level_values("images").min(),
    clutter.index.get_level_values("images").max(),
)
best_few, best_many = clutter[few].idxmax(), clutter[many].idxmax()
tables = {name: rows for name, rows in efficiency.groupby("task", sort=False)}
plots.accuracy_by_images(
    tables, 0.1,
    f"Cluttered digits, {few} images: {best_few} {clutter[few].max():.2f}; {many:,}: {best_many} {clutter[many].max():.2f}",
)  # fmt: skip
plt.show()

# %% tags=["remove-input"]
longer = load("data-efficiency-longer").values("accuracy")
bare = load("hybrid-without-norm")
best_rate = max(
    bare.settings["rates"],
    key=lambda rate: sum(run["accuracy"][str(rate)] for run in bare.runs),
)
without_norm = [run["accuracy"][str(best_rate)] for run in bare.runs]
worst = mean_of.groupby(["task", "images"]).idxmin().map(lambda place: place[-1])
glue("efficiency_few_best", f"{best_few} ({clutter[few].max():.2f})")
glue("efficiency_all_best", f"{best_many} ({clutter[many].max():.2f})")
hybrid_few = efficiency[
    (efficiency["network"] == "hybrid") & (efficiency["images"] == few)
]["accuracy"]
ahead = int((mean_of.unstack()["hybrid"] > mean_of.unstack()["plain CNN"]).sum())
say(
    "The vision transformer is the worst in {worst} of 6 cells. On all cluttered digits it comes to {vit:.2f}, with five times the steps to {longer:.2f} ({low:.2f} to {high:.2f}): it has learned little, of training images too, so what it lacks is not data but steps, or help. **Attention does not catch up here.** "
    "The hybrid beats the plain network in {ahead} of 6 cells{where}; with the fewest cluttered digits its seeds spread from {least:.2f} to {most:.2f}. CBAM is ahead of the plain network in {gates} of 6.",
    worst=int((worst == "vision transformer").sum()), vit=clutter[many]["vision transformer"], longer=sum(longer) / len(longer), low=min(longer), high=max(longer),
    ahead=ahead, where=", by the mean, with the fewest cluttered digits" if ahead == 1 and clutter[few]["hybrid"] > clutter[few]["plain CNN"] else "",
    gates=int((mean_of.unstack()["CBAM"] > mean_of.unstack()["plain CNN"]).sum()),
    least=hybrid_few.min(), most=hybrid_few.max(),
)  # fmt: skip

# %% [markdown]
# And one thing more, which no headline mentions. The hybrid of these experiments has **batch normalisation** after each convolution (`norm=True`). The document's has none:

# %% tags=["remove-input"]
assert len(without_norm) == 3
say(
    "without it, on all cluttered digits and with the best of three learning rates, it comes to {bare} in the three seeds, against {normed:.2f} with it. {verdict}",
    bare=", ".join(f"{value:.2f}" for value in without_norm), normed=clutter[many]["hybrid"],
    verdict="No attention module of this book has moved the accuracy on this task by as much." if clutter[many]["hybrid"] - max(without_norm) > 0.3 else "",
)  # fmt: skip

# %% [markdown]
# ## The price, and what it buys
#
# Chapter 4's cost model knows the hybrid, part by part. Where do its FLOPs go, in the size that the document gives it, for an image of 32 × 32, and in ours?

# %%
ours = {"embed_dim": 48, "depth": 2, "num_heads": 4}
sizes = {"batch": 1, "height": 32, "width": 32, "num_classes": 10}
large = complexity.cost("hybrid", channels=3, **sizes)
small = complexity.cost("hybrid", channels=1, **sizes, **ours)
for name, price in (("document", large), ("ours", small)):
    parts = {}
    for term, flops in price.terms.items():
        kind = "blocks" if term.startswith("block") else "convolutions and gates"
        parts[kind] = parts.get(kind, 0) + flops
    shares = ", ".join(
        f"{kind} {flops / price.flops:.0%}" for kind, flops in parts.items()
    )
    print(
        f"{name}: {price.flops / 1e6:,.1f} MFLOP ({shares}), {price.parameters:,} parameters"
    )

# %% [markdown]
# Predicted FLOPs are one thing; the four networks also take their turns on the clock.
#
# > **Predict.** The hybrid has fewer FLOPs than the plain network. Is it faster?

# %% tags=["nbval-ignore-output"]
shape = (1, 32, 32)
batch = torch.randn(32, *shape, device=device)
models = {
    LABELS[name]: chapter7.image_model(name, shape).to(device).eval()
    for name in chapter7.IMAGE_MODELS
}
million = {name: chapter7.flops(model, shape) / 1e6 for name, model in models.items()}
calls = {name: partial(model, batch) for name, model in models.items()}
with torch.no_grad():
    taken = benchmark.measure(
        calls, control="plain CNN", rounds=15, seconds=4, device=device
    )
ratios = {name: benchmark.ratio(s, taken["plain CNN"]) for name, s in taken.items()}
assert ratios["plain CNN"].median == 1
for name, ratio in ratios.items():
    flops = million.get(name, million["plain CNN"])
    print(
        f"{name:20} {flops / million['plain CNN']:.2f} of the FLOPs, {ratio} of the time"
    )

# %% [markdown]
# And what does the price buy? For each task a table of FLOPs and accuracies:


# %% tags=["hide-input"]
def priced(accuracy, price):
    """A row for each network: FLOPs, and mean and range of its seeds."""
    rows = []
    for network, values in accuracy.items():
        seeds = list(values)
        mean = sum(seeds) / len(seeds)
        rows.append((network, price[network] / 1e6, mean, min(seeds), max(seeds)))
    return pd.DataFrame(rows, columns=["network", "price", "mean", "least", "most"])


panels = {}
for name, title in (
    ("mirrored-strip", "mirrored strip"),
    ("own-place-strip", "own place"),
):
    run, table = load(name).runs[0], recorded(name).filter(like="seed ")
    price = {LABELS[network]: count for network, count in run["flops"].items()}
    panels[title] = priced(
        {network: table.loc[network] for network in table.index}, price
    )
rows = efficiency[
    (efficiency["task"] == "cluttered digits") & (efficiency["images"] == many)
]
whole = {
    network: group["accuracy"] for network, group in rows.groupby("network", sort=False)
}
panels["cluttered digits"] = priced(
    whole, {name: 1e6 * count for name, count in million.items()}
)
print(", ".join(f"{title}: {len(table)} networks" for title, table in panels.items()))

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-price-gain", "caption": "Accuracy over the FLOPs of one image, for three tasks: mean and range of three recorded seeds. Left and middle: strips. Right: all cluttered digits."}, "image": {"classes": "wide", "alt": "Three charts of dots. On the mirrored strip the plain network and CBAM lie low, the hybrid, the dilated network and the flat layer high and further left. On the own place all lie at the top. On cluttered digits three lie high side by side and the vision transformer low."}}
cheap = panels["mirrored strip"].set_index("network")["price"]
title = f"The hybrid costs {cheap['hybrid'] / cheap['plain CNN']:.2f} of the plain network on the strip, and gains where reach decides"
plots.price_and_gain(panels, title)
plt.show()

# %% tags=["remove-input", "nbval-ignore-output"]
glue("hybrid_over_cnn_flops", f"{million['hybrid'] / million['plain CNN']:.2f}")
quick = ratios["hybrid"]
assert quick.median > 0
say(
    "On images of 32 × 32 our hybrid has {flops:.2f} of the plain network's FLOPs and takes {time} of its time ({control} is the plain network against itself): {verdict}",
    flops=million["hybrid"] / million["plain CNN"], time=quick, control=ratios["plain CNN (control)"],
    verdict="gates, normalisation, softmax and many small steps are no FLOPs, and are paid for all the same." if quick.low > million["hybrid"] / million["plain CNN"] else "the FLOPs told the truth this time.",
)  # fmt: skip

# %% [markdown]
# ## Where it breaks
#
# **The grid.** The document asks for 8 × 8 cells, whatever the image is. Give it a digit of 8 × 8 pixels: two halvings leave a map of 2 × 2.
#
# > **Predict.** How many of its 64 tokens are different?

# %%
usual = textbook.create_hybrid_model((1, 8, 8), 10).eval()
with torch.no_grad():
    cells = tokens_of(usual.flatten(usual.cnn_backbone(torch.randn(1, 1, 8, 8))))[0]
different = cells.unique(dim=0).shape[0]
blocks = complexity.cost(
    "transformer-block", batch=1, n=64, d_model=256, num_heads=8, d_ff=1024
)
few_blocks = complexity.cost(
    "transformer-block", batch=1, n=4, d_model=256, num_heads=8, d_ff=1024
)
assert different == 4
print(f"{len(cells)} tokens, {different} different")
print(
    f"a block costs {blocks.flops / few_blocks.flops:.0f} times as much as for {different}"
)

# %% [markdown]
# Nothing fails, and groups of 16 tokens say the same thing. The package's `grid` is a keyword for this reason. **And the file.** A class that is made inside a function cannot be pickled, so the usual model cannot be sent to another process or saved whole:

# %%
for name, create in (
    ("usual code", textbook.create_hybrid_model),
    ("package", attn_course.create_hybrid_model),
):
    try:
        twin = pickle.loads(pickle.dumps(create((3, 8, 8), 10)))
        print(
            f"{name}: pickled, {sum(p.numel() for p in twin.parameters()):,} parameters"
        )
    except (AttributeError, pickle.PicklingError) as error:
        print(f"{name}: {type(error).__name__}")

# %% [markdown]
# ## When to take it
#
# | Take | when | because |
# |---|---|---|
# | a plain CNN | near places decide, or there are few images | it was not beaten there by any of ours |
# | convolutions with holes | far places decide, always in the same way | reach without attention, at equal parameters |
# | a hybrid | far places decide, and which ones depends on what is seen | few cells, so attention is cheap; give it positions |
# | a vision transformer | there are very many images and steps, or somebody has trained it for you | ours had neither |
#
# **A scenario.** Photographs of shelves, 96 × 96: is there a lid for each box? Box and lid look alike and may stand anywhere.
#
# > **Decide.** Which network? And what would you try first, to be beaten?

# %%
shelf = {"data_type": "mixed", "spatial_dims": (96, 96)}
for entry in AttentionSelector.consider(**shelf, reach=95, accuracy=0.9):
    verdict = entry["out"] or f"accuracy {entry['accuracy']:.2f} on the far task"
    print(f"{entry['implementation']}: {verdict}")

# %% [markdown]
# The selector knows only what was measured: of the whole networks in this book one was right on the far task. It does not know the dilated network, which is this book's best answer to *try first*; it is no attention. If which box belongs to which lid depends on how they look,
# holes will not do, for their way is fixed, and the hybrid is worth its price.

# %% [markdown]
# ## Questions
#
# Decide before you open a choice: each one says what is right in it, or what is not. By keyboard, Tab goes to the
# next choice, or to a link in an open one, and Enter opens it and closes the one before.

# %% [markdown]
# **Question 1.** A feature map has 3 rows and 5 columns. Its places become tokens in the order in which a page is
# read. Which token is the place in row 2, column 1, everything counted from 0?
#
# <details name="chapter-7-question-1"><summary>A. Token 11</summary>
#
# **Right.** Two rows of five come before it, and one place in its own row: $2 \cdot 5 + 1 = 11$. The number of
# columns counts, $i \cdot W + j$ (section *By hand*).
#
# </details>
#
# <details name="chapter-7-question-1"><summary>B. Token 7</summary>
#
# **Not quite.** That is $2 \cdot 3 + 1$, with the number of *rows*. What comes before it are two whole rows, and a
# row has as many places as there are columns.
#
# </details>
#
# <details name="chapter-7-question-1"><summary>C. Token 5</summary>
#
# **Not quite.** That is $1 \cdot 3 + 2$, read column by column. Code that does so works on a square map too, with the
# map mirrored at its diagonal.
#
# </details>

# %% [markdown]
# **Question 2.** A hybrid makes its tokens by `x.reshape(B, H * W, C)`. After training it names 95 % of the test
# images rightly. Are its tokens right?
#
# <details name="chapter-7-question-2"><summary>A. Yes: with the wrong tokens it would not have learned</summary>
#
# **Not quite.** The numbers are mixed in the same way in every image, and a network can learn from that. Accuracy is
# no test of a reshape.
#
# </details>
#
# <details name="chapter-7-question-2"><summary>B. No, and a map of known numbers shows it at once</summary>
#
# **Right.** Number the places, so that each value tells where it came from: a token must hold one value of each
# channel, and this one holds neighbours from one channel (section *By hand*).
#
# </details>
#
# <details name="chapter-7-question-2"><summary>C. No, but it matters for speed only, as the shape is right</summary>
#
# **Not quite.** The shape is right and the content is not: positions, and maps laid over the image, then belong to no
# place of the image.
#
# </details>

# %% [markdown]
# **Question 3.** In a task the place matters, and yet a hybrid *without* positions is hardly worse than one with
# them. Which explanation do you test first?
#
# <details name="chapter-7-question-3"><summary>A. The residual path tells each block the order of the tokens</summary>
#
# **Not quite.** The residual path treats each token by itself. If the tokens are shuffled, everything in the blocks
# is shuffled alike, and the mean stays as it was.
#
# </details>
#
# <details name="chapter-7-question-3"><summary>B. In truth the place does not matter</summary>
#
# **Not quite.** That would be the finding if no other way could tell the cells where they are. There is one, in front
# of the tokens, and it is easily tested.
#
# </details>
#
# <details name="chapter-7-question-3"><summary>C. Zero padding tells cells near a border where they are</summary>
#
# **Right.** Show the same content at every place, and compare the cells before any position is added, as this chapter
# did with six equal digits (section *Does it know where a token stood?*).
#
# </details>

# %% [markdown]
# **Question 4.** On a form, the signature always stands 600 pixels below the printed name, and the two have to be
# compared. Which network do you try first, so that others have something to beat?
#
# <details name="chapter-7-question-4"><summary>A. Convolutions with holes, which reach from one to the other</summary>
#
# **Right.** A far place decides, and always in the same way, so the way can be learned once and for all. On the
# mirrored strip reach did it, not attention (section *When to take it*).
#
# </details>
#
# <details name="chapter-7-question-4"><summary>B. A hybrid with positions: only attention carries news so far</summary>
#
# **Not quite.** It can, and so can other things that reach. A hybrid is worth its price where *which* far places
# decide depends on what is seen.
#
# </details>
#
# <details name="chapter-7-question-4"><summary>C. A plain convolutional network, trained for longer</summary>
#
# **Not quite.** What lies outside its receptive field cannot matter, however long it is trained. That was the trouble
# with which this chapter began.
#
# </details>

# %% [markdown]
# ## What we know now

# %% tags=["remove-input"]
say(
    "A feature map is a list of tokens, once its places are put in order. A transformer on top of convolutions carries what they found across the image: {cnn:.2f} became {hybrid:.2f} on the mirrored strip. **Reach did that, not attention**: convolutions with holes came to {deeper:.2f}. Where no reach is needed nothing is gained ({own:+.1%}). "
    "With little data convolutions won; the vision transformer of equal size never caught up in our budget. Positions matter, and padding gives some away. The attention of the trained hybrid lies {share:.0%} on the right cell, and exchanging that digit changes {mirror:.0%} of the answers: here the map can be believed, because we asked.",
    cnn=means["plain CNN"], hybrid=means["hybrid"], deeper=means["dilated CNN"], own=gain, share=maps and on_mirror(maps[1]), mirror=at_mirror,
)  # fmt: skip

# %% [markdown]
# **Further reading.** [Dosovitskiy et al., 2021](https://arxiv.org/abs/2010.11929), for how many images it takes until patches alone suffice, and for the hybrid in their comparison;
# [Xiao et al., 2021](https://arxiv.org/abs/2106.14881), for what a few convolutions in front change in training;
# [Carion et al., 2020](https://arxiv.org/abs/2005.12872), for a hybrid that finds objects;
# [Dai et al., 2021](https://arxiv.org/abs/2106.04803), for stages of convolution and attention in every order;
# [Islam et al., 2020](https://arxiv.org/abs/2001.08248), for what padding tells.
#
# **The end, and the next question.** This was the last chapter. The [summary](../book/summary.md) has the table with which the course began, every cell measured, and a chart to decide by. The next question is yours: what does *your* data need to look at?
#
# Something wrong or unclear? [Report it](https://github.com/attn-course/attn-course/issues).

# %% tags=["remove-cell"]
print("Chapter 7 is complete.")
