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
# # Choosing: which attention for this task and this budget?
#
# **After this chapter you can** say where a rule of thumb for choosing attention fails, decide by predicted time and memory instead, check the
# decision with a stopwatch, build attention that sees its neighbourhood only, say what that saves and what it loses, and tell how often a selector
# is right.
#
# **You need** the costs of [chapter 4](04_complexity.ipynb) and the stopwatch of [chapter 5](05_benchmarks.ipynb). **It takes** about 60
# minutes with its three exercises, 30 without. The symbols are explained on the page [Notation](../book/notation.md).

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
import itertools
import math
import re
import subprocess
import sys
import textwrap

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch.nn import functional as F

from attn_course import AttentionSelector, benchmark, complexity, plots, textbook
from attn_course.exercises import get
from attn_course.prose import glue, say

torch.manual_seed(0)
plots.use_house_style()

# %% [markdown]
# ## The trouble: advice that does not fit
#
# By now you know the price of every mechanism. Which one should it be? The document has an answer, `AttentionSelector`: up to five facts in, a recommendation out. We ask it
# about feature maps as large as the usual photograph, and one pixel larger on each side.
#
# > **Predict.** How much can the advice change, from 224 × 224 to 225 × 225?

# %%
document = textbook.AttentionSelector()
for side in (224, 225):
    (advice,) = document.recommend_attention_type("spatial", spatial_dims=(side, side))
    print(f"{side} x {side}: {advice['implementation']} ({advice['reason']})")

# %% [markdown]
# Let us follow the advice for one image with 256 channels, with the module as it is usually written. To be safe, we do so in a process of its own,
# which may take 4 GiB more than it holds when it starts. Only Linux keeps such a limit; elsewhere the next cell runs nothing and takes the prediction.

# %%
CHILD = """
import resource, sys, torch
from attn_course import textbook
torch.set_num_threads(1)
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + 4 * 2**30
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:  # asks for 6 GiB and does not touch them: is the limit kept?
    torch.empty(6 * 2**30, dtype=torch.uint8)
    sys.exit("the limit is not kept here")
except RuntimeError:
    side = int(sys.argv[1])
with torch.no_grad():
    textbook.SelfAttention2D(256)(torch.zeros(1, 256, side, side))
"""

# %% [markdown]
# The parent reads in the error message for how much the layer asked.


# %%
def refused(side):
    """Bytes of the tensor that the layer asked for in vain; None if it got them all."""
    run = [sys.executable, "-c", CHILD, str(side)]
    child = subprocess.run(run, capture_output=True, text=True)
    told = re.search(r"allocate (\d+) bytes", child.stderr)
    return int(told[1]) if told else None


# %% [markdown]
# > **Predict.** The layer compares every pixel with every other. How many bytes has its map of scores, at 224 × 224?

# %% tags=["nbval-ignore-output"]
predicted = complexity.score_bytes(1, 1, 224 * 224, 224 * 224)
seen = refused(224) if sys.platform == "linux" else None
assert seen in (predicted, None)
print(f"refused:   {seen:,} bytes" if seen else "not run on this system")
print(f"predicted: {predicted:,} bytes, {predicted / 2**30:.1f} GiB")

# %% [markdown]
# And the advice for one pixel more on each side? CBAM at 225 × 225 runs, and its peak can be measured.

# %%
gates = textbook.CBAM(256).eval()
images = torch.zeros(1, 256, 225, 225)
with torch.no_grad():
    gate_bytes = benchmark.peak_bytes(lambda: gates(images))
print(f"CBAM at 225 x 225: {gate_bytes / 2**20:.0f} MiB")

# %% tags=["remove-input", "nbval-ignore-output"]
free = benchmark.free_bytes() or machine.memory_bytes() or 8 * 2**30
largest = math.isqrt(math.isqrt(free // (2 * 4)))
assert predicted > 50 * gate_bytes
glue("trap_gib", f"{predicted / 2**30:.1f}")
say(
    "One map of 50,176 × 50,176 scores: {one:.1f} GiB for a single image, and the softmax makes a second one. For one pixel more the advice costs {gate:.0f} MiB, {times:.0f} times less. "
    "Nothing in the world changes between 224 and 225; the rule does, because it asks whether a number is above a threshold, and not what anything costs. On the machine of this run, "
    "with {free:.0f} GiB free, both maps fit up to about {largest} × {largest}. "
    "(Our own `SelfAttention2D` makes its map in pieces, as the stream of [chapter 5](05_benchmarks.ipynb) did. Then it fits, and takes the time.)",
    one=predicted / 2**30, gate=gate_bytes / 2**20, times=predicted / gate_bytes, free=free / 2**30, largest=largest,
)  # fmt: skip

# %% [markdown]
# ## The rules, and where they fail
#
# A rule that jumps is one fault. To find others we put every combination of some plain facts to the document's selector, a kind of data
# that it does not know included, and compare the answers.
#
# > **Predict.** It takes five arguments. How many of them can change its answer? And how many different answers has it got?

# %%
facts = {
    "data_type": ("sequential", "spatial", "mixed", "image"),
    "sequence_length": (None, 500, 50_000),
    "spatial_dims": (None, (7, 7), (224, 224), (500, 500)),
    "computational_budget": ("low", "medium", "high"),
    "task_type": ("classification", "generation", "detection"),
}
answers = {}
for question in itertools.product(*facts.values()):
    advice = document.recommend_attention_type(*question)
    answers[question] = tuple(entry["implementation"] for entry in advice)
different = set(answers.values())
print(f"{len(answers)} questions, {len(different)} different answers")

# %% [markdown]
# An argument matters if there is a question in which it alone changes the answer. And an answer is of use if there is code behind the name: the document's own code is in
# `attn_course.textbook`.


# %%
def changes(place):
    """How many groups of questions, alike but for one argument, get more than one answer."""
    groups = {}
    for question, answer in answers.items():
        rest = question[:place] + question[place + 1 :]
        groups.setdefault(rest, set()).add(answer)
    return sum(len(group) > 1 for group in groups.values()), len(groups)


# %%
for place, fact in enumerate(facts):
    print(
        "{:22} changes the answer in {:3} of {:3} cases".format(fact, *changes(place))
    )
named = sorted(answer[0] for answer in different if answer)
missing = [name for name in named if not hasattr(textbook, name)]
print("no code behind:", ", ".join(missing))

# %% [markdown]
# And all of its rules in one picture:

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-rules", "caption": "All rules of the document's selector, from left to right. Orange: what fails when the advice is followed."}, "image": {"classes": "wide", "alt": "A tree. Its first question is the kind of data. Sequential data are asked whether they are longer than 1000 with a low budget: yes leads to sliding_window_attention, no to MultiHeadAttention. Spatial data are asked whether they have more than 224 times 224 places: yes leads to CBAM, no to SelfAttention2D. Mixed data lead to transformer_cnn_hybrid, anything else to an empty list. Four of the six ends are orange."}}
tree = ("data_type?", {
    "sequential": ("n > 1000 and\nlow budget?", {"yes": "sliding_window_attention", "no": "MultiHeadAttention"}),
    "spatial": ("H · W >\n224 · 224?", {"yes": "CBAM", "no": "SelfAttention2D"}),
    "mixed": "transformer_cnn_hybrid",
    "anything else": "[ ]",
})  # fmt: skip
wrong = dict.fromkeys(missing, "no such name in its code")
wrong["[ ]"] = "no answer, and no error"
wrong["SelfAttention2D"] = f"{predicted / 2**30:.1f} GiB an image at 224 × 224"
numbers = ("No", "One", "Two", "Three", "Four", "Five", "Six")
assert () in different and set(wrong) <= {*named, "[ ]"}
plots.decision_tree(
    tree,
    wrong,
    f"{numbers[len(wrong)]} of {numbers[len(different)].lower()} answers can fail",
)
plt.show()

# %% tags=["remove-input"]
silent = [fact for place, fact in enumerate(facts) if changes(place)[0] == 0]
budget, groups = changes(list(facts).index("computational_budget"))
assert (
    silent == ["task_type"] and answers[("image", None, None, "low", "detection")] == ()
)
say(
    "`{silent}` is asked for and never looked at. The budget changes the answer in {budget} of {groups} cases: for long sequences, if it is low, and there the advice has no code behind it. Whoever writes *image* "
    "for *spatial* gets an empty list, and finds out when the next line takes its first entry. None of the rules knows how much memory there is, how fast the machine is, or whether the model is to be trained.",
    silent=silent[0], budget=budget, groups=groups,
)  # fmt: skip

# %% [markdown]
# ## Three cases by hand
#
# So let us decide by need and cost, first by hand. There is 1 GiB for the layer.
#
# | case | input | needs |
# |---|---|---|
# | text: what is it about? | 512 tokens of width 512, 8 heads | any two words may belong together |
# | image: what is it? | 256 channels of 14 × 14, 56 × 56 or 224 × 224 | every place compared with every other, if 0.1 s suffice for it; else gates |
# | video: what happens? | 30 frames of 112 × 112, the document's own example | what is where in every frame |
#
# The text's second candidate is a window, attention that sees 128 tokens to each side and no more; we build it below. The video's candidates are the hybrid of chapter 7, frame by frame, and the whole clip at once: 256 channels, every place of every frame compared with every other.

# %%
cost = complexity.cost


def price(mechanism, **sizes):
    """FLOPs, bytes moved, and bytes at the peak."""
    found = cost(mechanism, batch=1, **sizes)
    return found.done_flops, found.bytes_moved, found.peak_bytes


full = price("multi-head-attention", n_q=512, d_model=512, num_heads=8, fused=True)
band, _, _ = price("sliding-window-attention", n=512, num_heads=8, d_k=64, window=128)
cases = {"text": {"every pair": full, "window": (8 * 512**3 + band, *full[1:])}}
for side in (14, 56, 224):
    image = {"channels": 256, "height": side, "width": side}
    pairs = price("self-attention-2d", **image)
    cases[f"image {side}"] = {"every pair": pairs, "gates": price("cbam", **image)}
pairs = price("self-attention-2d", channels=256, height=30 * 112, width=112)
one = price("hybrid", channels=3, height=112, width=112, num_classes=10)
frames = (30 * one[0], 30 * one[1], one[2])
cases["video"] = {"every pair": pairs, "each frame": frames}

# %% [markdown]
# The text's window has the projections of full attention, $8 n d_\text{model}^2$, and the video's frames run one after the other. Here are the counts.

# %%
print(f"{'':22} {'MFLOP':>14} {'MiB at peak':>12}")
for case, candidates in cases.items():
    for name, (flops, _, peak) in candidates.items():
        print(f"{case:10} {name:11} {flops / 1e6:14,.1f} {peak / 2**20:12,.1f}")

# %% [markdown]
# > **Decide.** For each of the five, write down your choice, and what rules the other out: the need, the time, or the memory. How many FLOPs does your machine do in 0.1 s? Keep your notes; the selector and the stopwatch will have their say.
#
# What you just did has a form. Of the candidates that serve the need, take
#
# <a id="eq-choice"></a>
# $$
# \text{choice} = \underset{c\,:\ \text{bytes}(c)\, \le\, M}{\arg\min}\ \text{seconds}(c)
# $$
#
# where $M$ is the memory. The need comes first and is yours; the rest can be left to a function.

# %% [markdown]
# > **Exercise.** Write `select_mechanism(candidates, memory_budget)`: which mechanism to take, when time and memory of each are known.
# >
# > `candidates` is a dictionary: the name of a mechanism → `(seconds, bytes)`, what one call of it takes. What does not fit
# > into the memory cannot run, however fast it would be. Of what fits, take the fastest.
# >
# > - A mechanism fits if its bytes are at most `memory_budget`.
# > - Return its name.
# > - If the fastest time belongs to several that fit, take the one of them that needs the fewest bytes. (No two agree in
# >   both.)
# > - Raise a `ValueError` if nothing fits: better no answer than one that cannot run. (`raise ValueError("…")`, and the
# >   text may say what would have helped.)


# %%
def select_mechanism(candidates, memory_budget):
    """The name of the fastest mechanism that fits.

    candidates: name -> (seconds, bytes)
    memory_budget: bytes
    raises ValueError when nothing fits
    """
    ...  # your code here


# %%
get("select-mechanism").check(select_mechanism)

# %% [markdown]
# Folded: filter, then the smallest pair of seconds and bytes. Three made-up candidates show what a budget does.
#
# > **Predict.** With 1,000 bytes, with 200, with 100: which is chosen?


# %% tags=["hide-input"]
def select_by_definition(candidates, memory_budget):
    fits = {name: c for name, c in candidates.items() if c[1] <= memory_budget}
    if not fits:
        least = min(candidates, key=lambda name: candidates[name][1])
        raise ValueError(f"{least} needs least, {candidates[least][1]} bytes")
    return min(fits, key=fits.get)


made_up = {"whole map": (4.0, 900), "window": (2.5, 300), "gates": (2.5, 120)}
choose = get("select-mechanism").use(select_mechanism)
for memory in (1000, 200, 100):
    try:
        chosen = select_by_definition(made_up, memory)
        assert choose(made_up, memory) == chosen
    except ValueError as error:
        chosen = f"nothing: {error}"
    print(f"{memory:5} bytes: {chosen}")

# %% [markdown]
# Now the five, with your function. Seconds are the lower bound of chapter 5: FLOPs and bytes by the ceilings of this machine.

# %% tags=["nbval-ignore-output"]
MEMORY, LIMIT = 2**30, 0.1
ceilings = benchmark.ceilings(device)
here = complexity.Hardware(
    "here",
    peak_flops=ceilings["matrix_product"]["flops_per_s"],
    bandwidth=ceilings["copy"]["bytes_per_s"],
)
assert min(here.peak_flops, here.bandwidth) > 0
print(f"{here.peak_flops * LIMIT / 1e6:,.0f} MFLOP in {LIMIT} s at best")


# %%
def needed(case):
    """The candidates that serve the need of a case: seconds at least, and bytes."""
    found = {
        name: (max(flops / here.peak_flops, moved / here.bandwidth), peak)
        for name, (flops, moved, peak) in cases[case].items()
    }
    if case == "text":
        del found["window"]  # a word 300 places away may decide
    elif "gates" in found and found["every pair"][0] <= LIMIT:
        del found["gates"]
    return found


# %% [markdown]
# And the choices that follow, to be held beside your notes:

# %% tags=["nbval-ignore-output"]
by_hand = {case: choose(needed(case), MEMORY) for case in cases}
assert by_hand["text"] == "every pair" and by_hand["video"] != "every pair"
print(*(f"{case}: {name}" for case, name in by_hand.items()), sep="\n")

# %% [markdown]
# ### What the selectors say
#
# The document's selector can be asked as well. The package's has the same arguments, and takes on top what one really knows: memory, time, width, machine, the reach that is needed.

# %%
asked = {
    "text": {"data_type": "sequential", "sequence_length": 512},
    **{f"image {side}": {"data_type": "spatial", "spatial_dims": (side, side)} for side in (14, 56, 224)},
    "video": {"data_type": "mixed", "sequence_length": 30, "spatial_dims": (112, 112), "task_type": "detection"},
}  # fmt: skip
print(*asked, sep=", ")

# %% [markdown]
# Both answer with names of code; we translate them into the words of this chapter. All gates count as *gates*.

# %%
words = {
    "MultiHeadAttention": "every pair",
    "SelfAttention2D": "every pair",
    "sliding_window_attention": "window",
    "transformer_cnn_hybrid": "each frame",
}


def first(selector, facts, **known):
    """The first recommendation, in the words of this chapter."""
    best, *_ = selector.recommend_attention_type(**facts, **known)
    return words.get(best["implementation"], "gates")


# %% [markdown]
# Its times rest on what was measured: on this machine if it has a record in `results/`, else on the first that has. This run may have fewer threads, or be elsewhere. So we carry the times over: what a layer took there, by what the ceilings there allow, times what the ceilings here allow.

# %% tags=["nbval-ignore-output"]
import dataclasses

from attn_course import selection


def allowed(row, hardware):
    return row.flops / hardware.peak_flops + row.bytes_moved / hardware.bandwidth


there = selection.machine_of()
rows = tuple(
    dataclasses.replace(
        row, seconds=row.seconds * allowed(row, here) / allowed(row, there.hardware)
    )
    for row in there.rows
)
machine_here = selection.Machine("here", here, rows)
assert all(row.seconds > 0 for row in rows)
print(f"{len(rows)} measured layers of {there.name}, carried over")

# %% [markdown]
# For the images the package gets the 0.1 s, and no limit of FLOPs.

# %% tags=["nbval-ignore-output"]
known = {"memory_bytes": MEMORY, "machine": machine_here}
in_time = {"latency_s": LIMIT, "computational_budget": "high"}
by_document = {case: first(document, facts) for case, facts in asked.items()}
by_package = {
    case: first(
        AttentionSelector, facts, **known, **(in_time if "image" in case else {})
    )
    for case, facts in asked.items()
}
chosen = {"document": by_document, "by hand": by_hand, "package": by_package}
assert by_document["image 224"] == "every pair"
print(pd.DataFrame(chosen))

# %% [markdown]
# ### What the clock says
#
# All candidates that fit run now, if the bound says less than 2 s, those of one case in turns. These are the layers.


# %%
def layers_of(case):
    """The candidates of a case as functions without arguments."""
    if case == "text":
        layer = attn_course.MultiHeadAttention(512, 8).to(device).eval()
        x = torch.randn(1, 512, 512, device=device)

        def window():
            q, k, v = (
                attn_course.split_heads(w(x), 8)
                for w in (layer.w_q, layer.w_k, layer.w_v)
            )
            output = attn_course.sliding_window_attention(q, k, v, 128)
            return layer.w_o(attn_course.merge_heads(output))

        return {
            "every pair": lambda: layer(x, x, x, need_weights=False),
            "window": window,
        }
    if case == "video":
        model = attn_course.HybridAttentionModel((3, 112, 112), 10).to(device).eval()
        frame = torch.randn(1, 3, 112, 112, device=device)
        return {"each frame": lambda: model(frame)}  # one of the thirty
    side = int(case.split()[1])
    x = torch.randn(1, 256, side, side, device=device)
    pairs = attn_course.SelfAttention2D(256).to(device).eval()
    torch.nn.init.ones_(pairs.gamma)  # at 0 it would be skipped
    gates = attn_course.CBAM(256).to(device).eval()
    return {"every pair": lambda: pairs(x), "gates": lambda: gates(x)}


# %% [markdown]
# First the list of what is to run.

# %% tags=["nbval-ignore-output"]
rows = []
for case, candidates in cases.items():
    for name, (flops, moved, peak) in candidates.items():
        least = max(flops / here.peak_flops, moved / here.bandwidth)
        about = {"case": case, "candidate": name, "chosen": by_package[case] == name}
        rows.append({**about, "predicted": least, "out": peak > MEMORY})
clock = pd.DataFrame(rows)
calls = {case: 30 if case == "video" else 1 for case in cases}
clock["run"] = (clock["predicted"] / clock["case"].map(calls) < 2) & ~clock["out"]
assert not clock.loc[clock["candidate"] == "window", "out"].any()
print(f"{clock['run'].sum()} of {len(clock)} candidates run")

# %% [markdown]
# Then medians of a few rounds. Of the video one frame runs, and counts thirty times.

# %% tags=["nbval-ignore-output"]
times = {}
for case, found in clock[clock["run"]].groupby("case", sort=False):
    peers = {
        name: fn
        for name, fn in layers_of(case).items()
        if name in set(found["candidate"])
    }
    with torch.no_grad():
        taken = benchmark.measure(peers, rounds=9, seconds=1, least=3, device=device)
    for name, samples in taken.items():
        times[case, name] = calls[case] * benchmark.summary(samples)["median_s"]
clock["measured"] = [
    times.get((row.case, row.candidate), math.nan) for row in clock.itertuples()
]
assert min(times.values()) > 0
print(
    clock[["case", "candidate", "predicted", "measured"]]
    .round(4)
    .to_string(index=False)
)

# %% [markdown]
# What would have been right, by the clock, is the candidate that serves the need and is the fastest: for the images every pair, if it really stays below 0.1 s.

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-cases", "caption": "The candidates of the five: the lower bound of their time (hollow), and the median of a few runs (filled). Crosses: out by memory. Bold: the first recommendation of the package's selector."}, "image": {"classes": "wide", "alt": "Rows of candidates in five groups on a logarithmic time axis. Hollow and filled dots lie near each other in most rows. In the text both candidates lie close together; for the images every pair lies right of the gates, and the farther the larger the image is; for the video the cross of every pair lies far right."}}
right = {}
for case in cases:
    quick = times.get((case, "every pair"), math.inf) <= LIMIT
    pairs = case == "text" or ("image" in case and quick)
    right[case] = "every pair" if pairs else list(cases[case])[1]
verdicts = pd.DataFrame({**chosen, "clock": right})
hits = verdicts.eq(verdicts["clock"], axis=0).sum()
assert hits.max() <= len(cases)
plots.choices(
    clock,
    f"Right by the clock: document {hits['document']}, by the bound {hits['by hand']}, selector {hits['package']} of {len(cases)}",
)
plt.show()

# %% tags=["remove-input", "nbval-ignore-output"]
assert list(right) == list(cases)
text_gain = times["text", "window"] / times["text", "every pair"]
slow = max(
    (row for row in clock.dropna().itertuples()),
    key=lambda row: row.measured / row.predicted,
)
wrong_ones = {
    who: [case for case in cases if verdicts[who][case] != right[case]]
    for who in chosen
}
told = "; ".join(
    f"{'the ' * (who != 'by hand')}{who} with {', '.join(found)}"
    for who, found in wrong_ones.items()
    if found
)
say(
    "By the clock, these were wrong: {told}. The bound is far off at most for {candidate} in {case}: {times:.1f} times. In the text the window takes {gain:.2f} times the time of every pair: "
    "at 512 tokens most of the work is in the projections, so that even without the need there would be little to win.",
    told=told or "none", candidate=slow.candidate, case=slow.case, times=slow.measured / slow.predicted, gain=text_gain,
)  # fmt: skip

# %% [markdown]
# ## Attention with a window
#
# One candidate has been in the tables only, and the document has no code for it: **sliding-window attention** ([Beltagy et al., 2020](https://arxiv.org/abs/2004.05150)). Every token
# sees $w$ places to each side and itself, so $2w + 1$ keys, however long the sequence is.
#
# **By hand.** Five tokens, with the hand-made queries and keys of chapter 1: the first number says "I am alive", the second "I am an action". Nouns look for an action, the verb for somebody alive.

# %%
tokens = ["the", "dog", "bites", "the", "man"]
nothing, noun, verb = (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)
q = 4 * torch.tensor([nothing, verb, noun, nothing, verb])  # what each looks for
k = torch.tensor([nothing, noun, verb, nothing, noun])  # what each is
# dog hands over (1, 0), man (0, 1), the others nothing
v = torch.tensor([nothing, (1.0, 0.0), nothing, nothing, (0.0, 1.0)])
scores = q @ k.T / math.sqrt(2)
full = scores.softmax(dim=-1)
print("bites looks at", [f"{weight:.2f}" for weight in full[2]])
print("and receives  ", [f"{number:.2f}" for number in full[2] @ v])

# %% [markdown]
# With $w = 1$ *bites* sees *dog*, itself and the second *the*.
#
# > **Predict.** Which of its five weights become 0? Does the weight on *dog* rise, and to more than twice? What does it receive of *man*?

# %%
in_reach = scores[2, 1:4].softmax(dim=-1)
print("bites looks at", [f"{weight:.2f}" for weight in in_reach], "and nowhere else")
print("and receives  ", [f"{number:.2f}" for number in in_reach @ v[1:4]])

# %% tags=["remove-input"]
assert (in_reach @ v[1:4])[1] == 0 and in_reach[0] < 2 * full[2, 1]
say(
    "The weights within reach are shared out anew, so that they add up to 1 again: *dog* rises from {before:.2f} to {after:.2f}. Of *man* nothing is left, and the output does not show "
    "that anything is missing. A window makes no error. It makes a sentence in which the dog bites and nobody is bitten.",
    before=full[2, 1].item(), after=in_reach[0].item(),
)  # fmt: skip

# %% [markdown]
# ### The formula
#
# <a id="eq-window"></a>
# $$
# \text{output}_i = \sum_{|i - j| \le w} \frac{e^{s_{ij}}}{\sum_{|i - l| \le w} e^{s_{il}}}\; v_j,
# \qquad s_{ij} = \frac{q_i \cdot k_j}{\sqrt{d_k}}
# $$
#
# Everything else is as in chapter 1. A query has at most $2w + 1$ keys, so $n$ queries have about $n\,(2w + 1)$ pairs in place of $n^2$, and each pair costs $4 d_k$ FLOPs as before. The simplest way to get there is a mask, as in chapter 1.

# %% [markdown]
# > **Exercise.** Write `sliding_window_mask(n, window)`: which keys may each query see, if nobody may look farther than `window` places?
# >
# > `window` is the reach on *each* side: with a window of 2, a token in the middle sees the two before it, itself, and the
# > two after it. At both ends of the sequence there are fewer.
# >
# > - Return a bool tensor `(n, n)`: row = query, column = key.
# > - True where `|query − key| ≤ window`.
# > - `window` may be 0, and it may be larger than the whole sequence.


# %%
def sliding_window_mask(n, window):
    """The mask of a sequence in which every token sees its neighbourhood only.

    returns bool (n, n): row = query, column = key, True where the query may attend
    """
    ...  # your code here


# %%
get("window-mask").check(sliding_window_mask)

# %% [markdown]
# Folded: one comparison, held against the package's mask for several windows, 0 and more than $n$ among them.


# %% tags=["hide-input"]
def mask_by_definition(n, window):
    place = torch.arange(n)
    return (place[:, None] - place).abs() <= window


for window in (0, 1, 3, 20):
    ours = attn_course.sliding_window_mask(13, window)
    assert torch.equal(mask_by_definition(13, window), ours)
window_mask = get("window-mask").use(sliding_window_mask)
print(window_mask(5, 1).int())

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-window", "caption": "The weights of the five tokens: all pairs, and windows that reach 1 and 2 places to each side. Queries down, keys across."}, "image": {"classes": "wide", "alt": "Three maps of five by five on one scale. Without a window the row of bites has two equal large weights, on dog and man. With a window of 1 only a band of three fields around the diagonal is filled and bites looks at dog alone. With a window of 2 both are back."}}
maps = [full]
for window in (1, 2):
    masked = scores.masked_fill(~window_mask(5, window), -torch.inf)
    maps.append(masked.softmax(dim=-1))
assert maps[1][2, 4] == 0 and torch.allclose(maps[2][2], full[2])
names = ["every pair", "window 1: nobody is bitten", "window 2"]
plots.attention_maps(maps, names, queries=tokens, keys=tokens, values=True, side=2.9)
plt.show()

# %% [markdown]
# With a reach of 2 *bites* has both again; *dog* and *man* still do not see each other. A window that is wide enough for one question is too narrow for another.
#
# But a mask saves nothing: every score is computed, and then most are thrown away. To save work, the others must never be made.
#
# > **Predict.** A mask, 2,048 tokens, window 64. Which share of all pairs is wanted?

# %% [markdown]
# > **Exercise.** Write `sliding_window_attention(q, k, v, window)`: attention in which every query sees the `window` keys on each side of
# > it, and the one at its own place.
# >
# > The result is that of full attention under the mask of the window: `softmax(q kᵀ / √d) v` with `−∞` in place of the
# > scores that are not allowed. But a mask only throws away what was paid for. Here, scores that nobody may see are not
# > even computed, so that a sequence twice as long takes twice the work and twice the memory, not four times.
# >
# > - `q`, `k` and `v` are `(…, n, d)`, in float32, with any number of leading dimensions, the same for all three.
# > - Scores are divided by `√d`. Return the output, `(…, n, d)`, alone.
# > - `n` need not be a multiple of anything. `window` may be 0, and larger than `n`.
# > - For a fixed window, memory and work grow with `n`, not `n²`: no map of all scores, no mask of `n × n`. Whole blocks of
# >   queries may share the keys that they reach, and pay for some pairs in vain.
# > - Gradients have to reach `q`, `k` and `v`.


# %%
def sliding_window_attention(q, k, v, window):
    """Attention of every query to the keys at most window places away.

    q, k, v (..., n, d)
    returns output (..., n, d)
    """
    ...  # your code here


# %%
get("window-attention").check(sliding_window_attention)

# %% [markdown]
# Folded: queries in blocks, each block against the keys that it can reach, with a mask at the edges. It is held against full attention under the mask, and against the package's function, which takes all
# blocks at once.


# %% tags=["hide-input"]
def window_by_definition(q, k, v, window, block=32):
    n, parts = q.shape[-2], []
    for start in range(0, n, block):
        stop = min(start + block, n)
        first, last = max(0, start - window), min(n, stop + window)
        query, key = torch.arange(start, stop), torch.arange(first, last)
        inside = ((query[:, None] - key).abs() <= window).to(q.device)
        scores = q[..., start:stop, :] @ k[..., first:last, :].mT / q.shape[-1] ** 0.5
        weights = scores.masked_fill(~inside, -torch.inf).softmax(dim=-1)
        parts.append(weights @ v[..., first:last, :])
    return torch.cat(parts, dim=-2)


heads = torch.randn(3, 2, 4, 101, 16)
for window in (0, 7, 200):
    right = F.scaled_dot_product_attention(*heads, window_mask(101, window))
    torch.testing.assert_close(window_by_definition(*heads, window), right)
    ours = attn_course.sliding_window_attention(*heads, window)
    torch.testing.assert_close(ours, right)
windowed = get("window-attention").use(sliding_window_attention)
torch.testing.assert_close(windowed(*heads, 7), window_by_definition(*heads, 7))
share = complexity.window_pairs(2048, 64) / 2048**2
print(f"all agree; of 2,048 tokens, window 64, {share:.1%} of the pairs are wanted")

# %% [markdown]
# ### The price
#
# What should it save? From 512 to 4,096 tokens, with 4 heads of width 64 and a window of 64, full attention has $n^2$ pairs and the window about $129\, n$. The package computes some more than count, as it takes whole blocks: `done_flops`.
#
# > **Predict.** Twice the length: how many times as long for full attention, for full attention under the mask, for the window?

# %%
WINDOW, lengths = 64, (512, 1024, 2048, 4096)


def forms(n):
    parts = torch.randn(3, 1, 4, n, 64, device=device)
    band = attn_course.sliding_window_mask(n, WINDOW, device=device)
    kernel, ours = F.scaled_dot_product_attention, attn_course.sliding_window_attention
    return {
        "full attention": lambda: kernel(*parts),
        "full attention, masked": lambda: kernel(*parts, band),
        "window": lambda: ours(*parts, WINDOW),
        "window, twice as wide": lambda: ours(*parts, 2 * WINDOW),
    }


def flops(form, n):
    if form.startswith("full"):
        return 4 * 4 * n * n * 64
    sizes = {"batch": 1, "num_heads": 4, "n": n, "d_k": 64}
    wide = WINDOW * (2 if "twice" in form else 1)
    return cost("sliding-window-attention", window=wide, **sizes).done_flops


shortest = {form: flops(form, 512) / 1e6 for form in forms(512)}
print(*(f"{form}: {count:,.0f} MFLOP" for form, count in shortest.items()), sep="\n")

# %% [markdown]
# For each length the four take turns.

# %% tags=["nbval-ignore-output"]
taken = {
    n: benchmark.measure(forms(n), rounds=9, seconds=1.5, device=device)
    for n in lengths
}
seconds = {
    n: {f: benchmark.summary(s)["median_s"] for f, s in found.items()}
    for n, found in taken.items()
}
assert all(value > 0 for found in seconds.values() for value in found.values())
print(", ".join(f"{n}: {found['window'] * 1e3:.1f} ms" for n, found in seconds.items()))

# %% [markdown]
# To predict seconds we need one rate. Take that of full attention at the greatest length, and let it hold for all: then everything in the figure but that one dot is a prediction.

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-window-price", "caption": "Four forms of attention over the length, 4 heads of width 64, window 64 or 128. Lines: FLOPs at the rate of full attention at 4,096 tokens; dots: measured, medians. Dashed orange: the wider window; dashed blue: full attention under the mask of the window, predicted as without it."}, "image": {"classes": "wide", "alt": "Four lines on logarithmic axes. The two of full attention lie on each other and rise four-fold with each doubling of the length; those of the windows rise about two-fold and lie far below on the right. The dots follow their lines."}}
rate = flops("full attention", 4096) / seconds[4096]["full attention"]
price = pd.DataFrame(
    {"n": n, "form": f, "predicted": flops(f, n) / rate * 1e3, "measured": s * 1e3}
    for n, found in seconds.items()
    for f, s in found.items()
)
grew = {f: math.sqrt(seconds[4096][f] / seconds[1024][f]) for f in seconds[4096]}
saved = benchmark.ratio(taken[4096]["full attention"], taken[4096]["window"])
assert flops("window", 4096) < flops("full attention", 4096)
plots.predicted_lines_measured_dots(
    price, x="n", hue="form", y="ms",
    title=f"At 4,096 tokens the window takes {1 / saved.median:.0%} of the time",
)  # fmt: skip
plt.show()

# %% tags=["remove-input", "nbval-ignore-output"]
masked = benchmark.ratio(
    taken[4096]["full attention, masked"], taken[4096]["full attention"]
)
wider = benchmark.ratio(taken[4096]["window, twice as wide"], taken[4096]["window"])
share = complexity.window_pairs(4096, WINDOW) / 4096**2
assert masked.low <= masked.median and wider.low <= wider.median
glue("window_growth", f"{grew['window']:.1f}")
glue("window_saved", f"{saved.median:.1f}")
say(
    "With each doubling from 1,024 to 4,096 tokens full attention takes {full:.1f} times as long, the window {window:.1f} times. At 4,096 tokens {share:.1%} of the pairs count, and full attention takes {saved} times as long as the window; by the "
    "FLOPs that are done it would be {done:.1f}. Under the mask, full attention takes {masked} times as long as without: a mask {verdict}. A window that is twice as wide takes {wider} times as long.",
    full=grew["full attention"], window=grew["window"], share=share, saved=saved,
    done=flops("full attention", 4096) / flops("window", 4096), masked=masked, wider=wider,
    verdict="costs time and saves none" if masked.low > 1 else "saves nothing" if masked.high >= 1 else "saves something here",
)  # fmt: skip

# %% [markdown]
# ### What the window loses
#
# Speed is half of the bill. The other half is what cannot be said any more. To see it we need a task that asks for one far token and for nothing else: among 64 random letters one is **marked**, at
# a random place, and *every* place has to name it. A place knows the answer if it can hear of the mark.
#
# **Hypothesis.** A model with windows of reach $w$ and $L$ layers names the letter up to a distance of $L \cdot w$, as a layer passes on what the one before it brought; beyond that it guesses, 1 in 8. Full attention does not care for the distance.

# %%
from attn_course.experiments import chapter6, core

record = core.load("far-token")
length = record.settings["length"]


def rows_of(accuracies, seed):
    """A row for each model and distance of one run."""
    for window, layers in record.settings["models"]:
        name = chapter6.model_name(window, layers)
        about = {"name": name, "model": name.split(",")[0], "layers": layers}
        about["reach"] = chapter6.reach(window, layers, length)
        for distance, accuracy in accuracies.get(name, {}).items():
            yield {
                **about,
                "seed": seed,
                "distance": int(distance),
                "accuracy": accuracy,
            }


runs = [rows_of(run["accuracy"], run["seed"]) for run in record.runs]
far = pd.DataFrame(row for rows in runs for row in rows)
far["inside"] = far["distance"] <= far["reach"]
print(far["seed"].nunique(), "seeds of", far["name"].nunique(), "models")

# %% [markdown]
# > **Predict.** A window of 8 and two layers: at which distance does the accuracy fall? And what is it beyond: 0, or one eighth?
#
# Three seeds of every model are recorded. A few models, one seed, train here and now, with fewer steps, to be held beside them.

# %% tags=["nbval-ignore-output"]
found = chapter6.far_token_live(seed=0, models=((8, 1), (8, 2)))
live = pd.DataFrame(rows_of(found, seed=0))
live["inside"] = live["distance"] <= live["reach"]
sides = [table.groupby(["name", "inside"])["accuracy"].mean() for table in (live, far)]
beside = pd.concat(sides, axis=1, keys=["live", "record"]).dropna()
assert (beside["live"] - beside["record"]).abs().max() < 0.5
print(beside.round(2))

# %% tags=["hide-input", "nbval-ignore-output"] mystnb={"figure": {"name": "fig-far", "caption": "Accuracy at a place over its distance from the marked letter, for one, two and three layers: means of three seeds, with their range. Dotted: layers times reach. Dashed: guessing. Dots: trained here and now, one seed."}, "image": {"classes": "wide", "alt": "Three charts, for one, two and three layers. Full attention is a line at the top. Each window's line is high up to its dotted reach and falls to the dashed line of guessing behind it; with more layers the fall comes later."}}
both = pd.concat([far.assign(live=False), live.assign(live=True)])
panels = {
    f"{layers} layer{'s' * (layers > 1)}": rows
    for layers, rows in both.groupby("layers")
}
windows_only = far[far["model"] != "full attention"]
inside, beyond = (
    windows_only[windows_only["inside"] == side]["accuracy"].mean()
    for side in (True, False)
)
whole = far[far["model"] == "full attention"]["accuracy"].mean()
assert beyond < 0.2 < inside
plots.accuracy_by_distance(
    panels, 1 / chapter6.LETTERS,
    f"Inside layers times reach {inside:.2f} on average, beyond it {beyond:.2f}: guesses",
)  # fmt: skip
plt.show()

# %% tags=["remove-input"]
glue("far_inside", f"{inside:.2f}")
glue("far_beyond", f"{beyond:.2f}")
glue("far_full", f"{whole:.2f}")
by_place = windows_only.groupby(["name", "distance"])["accuracy"]
spread = (by_place.max() - by_place.min()).max()
exact = inside > 0.95 and abs(beyond - 1 / chapter6.LETTERS) < 0.03
say(
    "{verdict} Within layers times reach the windows are right in {inside:.1%} of the answers, beyond it in {beyond:.1%}, where a guess is right in {chance:.1%}; full attention is in {whole:.1%} (means over distances, models and {seeds} seeds; at a "
    "single distance the seeds of a model differ by up to {spread:.2f}). {more}",
    verdict="The hypothesis holds." if exact else "The hypothesis holds in part.",
    inside=inside, beyond=beyond, chance=1 / chapter6.LETTERS, whole=whole, seeds=len(record.runs), spread=spread,
    more="The lines fall from one place to the next, exactly where the product says." if exact else "",
)  # fmt: skip

# %% [markdown]
# Is reach enough, then? In that task all places need *the same* token, so every layer may pass on the same thing. The record has a second one: every place has to name the letter 12 places *before* it, each one its own.
#
# > **Predict.** A window of 12, one layer; 6, two layers; 4, three layers. All three reach 12 places, not one more. Do all three learn it?

# %%
back = record.settings["back"]
second = pd.DataFrame(
    {"model": name, "reach": chapter6.reach(window, layers, length), "layers": layers,
     **{f"seed {run['seed']}": run["accuracy_back"][name] for run in record.runs}}
    for window, layers in record.settings["back_models"]
    for name in [chapter6.model_name(window, layers)]
)  # fmt: skip
scores_back = second.filter(like="seed ")
second["mean"] = scores_back.mean(axis=1)
print(second.drop(columns="layers").round(2).to_string(index=False))

# %% tags=["remove-input"]
able, unable = second[second["reach"] >= back], second[second["reach"] < back]
learned, chance = able[able["mean"] > 0.9], 1 / chapter6.LETTERS
failed = able[able["mean"] < 0.5]
part = able[(able["mean"] >= 0.5) & (able["mean"] <= 0.9)]
assert unable["mean"].max() < 2 * chance
glue("back_failed", "; ".join(failed["model"]) or "none")
told = second["model"].str.replace(", ", " in ") + second["mean"].map(
    " ({:.2f})".format
)
say(
    "Without the reach nothing is learned: {unable}, where a guess is right in {chance:.3f}. With it, the task is learned by {learned}{part}{failed} Reach says what is possible. What training finds within it, in {steps} steps, is another "
    "matter: where two or three layers only just reach, each would have to carry every token's news by exactly its full reach, and on the way nothing tells training that it is on the way.",
    unable=", ".join(told[unable.index]), chance=chance, learned=", ".join(told[learned.index]), steps=record.settings["back_steps"],
    part=f"; by some seeds only of {', '.join(told[part.index])}" if len(part) else "",
    failed=f"; not by {', '.join(told[failed.index])}." if len(failed) else ".",
)  # fmt: skip

# %% [markdown]
# ### Longer reach by depth
#
# So layers multiply the reach, as they do for convolutions in chapter 3. With gradients we can see by how much, and how strongly: 129 random tokens, one to four layers of a window of 8, and the gradient of the token in the middle with respect to each token of the input.


# %%
class Windows(torch.nn.Module):
    """Layers of windowed self-attention over a map of one row, with the path around each."""

    def __init__(self, layers, width=16, window=8):
        super().__init__()
        self.window = window
        self.mixes = torch.nn.ModuleList(
            torch.nn.Linear(width, 3 * width) for _ in range(layers)
        )

    def forward(self, x):
        x = x[:, :, 0].mT  # (B, C, 1, n) -> (B, n, C)
        for mix in self.mixes:
            q, k, v = mix(x).chunk(3, dim=-1)
            x = x + attn_course.sliding_window_attention(q, k, v, self.window)
        return x.mT[:, :, None]


# %% [markdown]
# The token in the middle has 64 places to each side.

# %%
torch.manual_seed(0)
noise, seen_by = torch.randn(4, 16, 1, 129), {}
for layers in (1, 2, 3, 4):
    field = attn_course.receptive_field(Windows(layers), noise, (0, 64))
    seen_by[layers] = field[0]

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-depth", "caption": "What the token in the middle of 129 depends on through one to four untrained layers with a window of 8: gradient at each distance, relative to its own. Dotted: layers times window. Nothing is drawn where it is exactly 0."}, "image": {"classes": "wide", "alt": "Four curves around a sharp peak in the middle, on a logarithmic axis. Each ends exactly at its dotted line, at 8, 16, 24 and 32 places; the farther from the middle, the lower they are."}}
reaches = {layers: layers * 8 for layers in seen_by}
for layers, field in seen_by.items():
    places = (field > 0).nonzero().flatten()
    assert (places.min(), places.max()) == (64 - reaches[layers], 64 + reaches[layers])
plots.reach_by_depth(seen_by, reaches, "Each layer carries exactly one window further")
plt.show()

# %% tags=["remove-input"]
deep = seen_by[4] / seen_by[4].max()
edge_share, near_share = deep[64 + 32].item(), deep[64 + 1 : 64 + 9].mean().item()
needed = math.ceil(4095 / 64)
assert edge_share < near_share
glue("depth_edge", f"{round(near_share / edge_share, -3):,.0f}")
say(
    "With four layers the reach is exactly 32, and the outermost token counts about {fade:,.0f} times less than the eight nearest do on average: of all paths to it there is only the one that takes the longest step in every layer. For every pair "
    "of 4,096 tokens to meet with a window of 64, {needed} layers would be needed. That is why models with windows mix in something that reaches far: some tokens that see everything (Longformer), some random pairs as well "
    "([Zaheer et al., 2020](https://arxiv.org/abs/2007.14062)), or a layer with full attention now and then.",
    fade=round(near_share / edge_share, -3), needed=needed,
)  # fmt: skip

# %% [markdown]
# ## Is the selector right?
#
# Five cases are an anecdote. The package holds its selector against measurement by one command: it learns a machine from a calibration, *then* answers scenarios of other sizes (text, maps and video; small and large; inference and training), and only then measures every candidate that meets the demands. Each scenario says
# how far apart two tokens may be that must see each other, some also which accuracy is needed in our recorded experiments, so that the cheapest is not simply always right.
#
# **Hypothesis.** The first choice takes at most 1.15 times the best candidate's time in at least 90 % of the scenarios, and of all pairs whose times differ by 20 % or more at least 90 % are predicted in the right order.
#
# > **Predict.** Is "take the one with the fewest FLOPs" a good rule? And the fewest bytes?

# %%
tried = selection.scenario_machines()
agreed = {name: selection.agreement(record) for name, record in tried.items()}
for name, found in agreed.items():
    print(
        f"{name}: {found['candidates']:.1f} candidates in each of {found['scenarios']} scenarios"
    )
    print(
        f"    first choice right: {found['first_within']} ({found['first_share']:.0%})"
    )
    print(
        f"    pairs in order: {found['pairs_in_order']} of {found['pairs']} ({found['pair_share']:.1%})"
    )
if not agreed:
    print("no record yet: make scenarios")

# %% [markdown]
# A share means little until something simple has been tried as well. The same records say where three rules of thumb would have led.

# %%
from attn_course.selection.scenarios import RULES, WITHIN

shares = {
    (name, rule): selection.agreement(record, rule)
    for name, record in tried.items()
    for rule in RULES
}
compared = pd.DataFrame(
    {"first right": found["first_share"], "pairs in order": found["pair_share"]}
    for found in shares.values()
)
compared.index = pd.MultiIndex.from_tuples(list(shares), names=["machine", "rule"])
compared.round(2)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-agreement", "caption": "In how many scenarios the first choice of a rule takes at most so many times the best candidate's time. Dashed: 1.15 times, and 90 %. A line for each rule, a chart for each machine of results/scenarios/."}, "image": {"classes": "wide", "alt": "Rising steps, one line for each of four rules. The selector's starts high at 1 and reaches the top first; the simple rules start lower and reach it only for large factors."}}
ratios = {
    name: {
        rule: [row["ratio"] for row in selection.comparisons(record, rule)]
        for rule in RULES
    }
    for name, record in tried.items()
}
own = next(iter(RULES))
firsts = {rule: compared.xs(rule, level="rule")["first right"].mean() for rule in RULES}
simple = max((rule for rule in RULES if rule != own), key=firsts.get)
plots.shares_within(
    ratios, WITHIN, 0.9,
    f"Right at first: {own} {firsts[own]:.0%}, the best simple rule ({simple}) {firsts[simple]:.0%}",
)  # fmt: skip
plt.show()

# %% tags=["remove-input"]
reached = {
    name: found["first_share"] >= 0.9 and found["pair_share"] >= 0.9
    for name, found in agreed.items()
}
name = next(iter(agreed))
found = agreed[name]
assert found["scenarios"] >= 60
glue("agreement_scenarios", str(found["scenarios"]))
glue("agreement_first", f"{found['first_share']:.0%}")
glue("agreement_pairs", f"{found['pair_share']:.0%}")
glue("simple_rule_first", f"{shares[name, simple]['first_share']:.0%}")
worst = max(row["ratio"] for row in selection.comparisons(tried[name], simple))
say(
    "{verdict} {by_rule} The best of the simple rules, {simple}, is right at first in {first:.0%}, and where it is wrong it takes up to {worst:.1f} times as long as the best. The rules differ in what they know: "
    "FLOPs know nothing of bytes, bytes nothing of FLOPs, and neither knows how well a layer uses *this* machine. The selector takes that from measured layers of the same kind.",
    verdict="The hypothesis holds." if all(reached.values()) else f"The hypothesis holds on {sum(reached.values())} of {len(reached)} machines.",
    by_rule=" ".join(f"On *{machine_name}* the first choice is right in {one['first_share']:.0%}, and {one['pair_share']:.1%} of {one['pairs']} pairs are in order." for machine_name, one in agreed.items()),
    simple=simple, first=shares[name, simple]["first_share"], worst=worst,
)  # fmt: skip

# %% [markdown]
# The first choices that are not right, each with what would have been best, and how many times as long the choice takes:

# %%
misses = [
    {"machine": name, "scenario": row["scenario"], "chosen": row["chosen"], "best": row["best"], "times": round(row["ratio"], 2)}
    for name, found in agreed.items()
    for row in found["misses"]
]  # fmt: skip
pd.set_option("display.max_colwidth", None)
pd.DataFrame(misses).set_index("machine") if misses else "no miss"

# %% [markdown]
# The prediction of each candidate against what it took says more than the choice alone.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-times", "caption": "Every candidate that was measured in a scenario: predicted and measured seconds. Solid: exactly right; dashed: 15 % off."}, "image": {"classes": "wide", "alt": "A cloud of dots around a diagonal over several decades, in a colour for each kind of data. Most dots lie close to the diagonal."}}
points = {
    name: pd.DataFrame(
        {"kind": row["arguments"]["data_type"], "predicted": one["predicted"]["seconds"], "measured": one["median_s"]}
        for row in record["rows"] for one in row["candidates"] if "median_s" in one
    )
    for name, record in tried.items()
}  # fmt: skip
off = {
    name: (table["measured"] / table["predicted"]).map(lambda r: max(r, 1 / r))
    for name, table in points.items()
}
middle = max(table.median() for table in off.values())
plots.predicted_and_measured_times(
    points, WITHIN - 1, f"Half of the predictions are within a factor of {middle:.2f}"
)
plt.show()

# %% tags=["remove-input"]
text, kinds = "", {}
for name, table in points.items():
    wrong_by = off[name].groupby(table["kind"]).median()
    text += (
        f"On *{name}* the median factor between prediction and measurement is "
        + ", ".join(f"{value:.2f} ({kind})" for kind, value in wrong_by.items())
        + ". "
    )
    close = [row["ratio"] for row in agreed[name]["misses"]]
    if close:
        text += f"The misses cost {min(close):.2f} to {max(close):.2f} times the best; {len(agreed[name]['wrong_pairs'])} pairs are in the wrong order. "
assert text
say(
    "{text}An order survives errors that are the same for all candidates; it breaks where two are close, or where one kind of layer behaves unlike those of its kind that were measured before. "
    "A miss stays in the table: it says which measurement is missing.",
    text=text,
)  # fmt: skip

# %% [markdown]
# ### On your own machine
#
# One command, on a GPU too. It can be stopped at any moment, and goes on with `--resume`; the file goes to `results/scenarios/`, and the figures above show it when this page runs again.
#
# ```
# make scenarios
# attn-course scenarios run --resume --device cuda
# attn-course scenarios show results/scenarios/my-machine.json
# ```

# %% [markdown]
# ## What the budget and the task do
#
# The document's two words have a defined effect here. The **budget** bounds the FLOPs of a forward pass for one input; if nothing is within it, the cheapest stays and says so. The **task** decides which order is meant where no reach is given.

# %%
for word, limit in selection.BUDGETS.items():
    tokens_like = selection.BUDGET_TOKENS[word]
    said = (
        f"{limit / 1e9:,.1f} GFLOP, as self-attention over {tokens_like:,} tokens"
        if limit
        else "no limit"
    )
    print(f"{word:7} {said}")

# %% [markdown]
# And the task, for each kind of data:

# %%
effects = pd.DataFrame(
    {"data": data, "task": task, "order": order, "meaning": meaning}
    for (data, task), (order, meaning) in selection.TASKS.items()
)
effects.set_index(["data", "task"])

# %% [markdown]
# Do they matter? The questions of the beginning once more, those about *image* left out, and with as much memory as one likes.


# %%
def distinct(selector, place):
    """How many groups of questions, alike but for one argument, get more than one first answer."""
    groups = {}
    for question in answers:
        if question[0] == "image":
            continue
        best, *_ = selector.recommend_attention_type(*question, memory_bytes=2**60)
        rest = question[:place] + question[place + 1 :]
        groups.setdefault(rest, set()).add((best["implementation"], *best["options"]))
    return sum(len(group) > 1 for group in groups.values()), len(groups)


effect = {
    fact: distinct(AttentionSelector, place)
    for place, fact in enumerate(facts)
    if fact in ("computational_budget", "task_type")
}
assert all(count for count, _ in effect.values())
for fact, (count, groups) in effect.items():
    print(f"{fact}: changes the first answer in {count} of {groups} cases")

# %% [markdown]
# ## Ask it yourself
#
# The selector once more, as a form that answers at once. It begins where this chapter began: 224 × 224 places, 256 channels, and 2 GiB. Each candidate has a dot for the memory that it needs, with its map held whole, and one for its predicted time; a crossed dot is left out.
#
# > **Predict.** How much memory brings `SelfAttention2D`, the document's choice, back to the first place? Which limit of time leaves gates alone? And what changes if the task is to find *where* something is?
#
# Move the memory, type the sizes of your own data, and open a candidate to see which measured rows its numbers rest on.

# %% tags=["nbval-ignore-output", "hide-input"]
from attn_course import widgets

chooser = widgets.Chooser()
_, kept, left_out, *_ = chooser.tables()
assert [row[0] for row in left_out["rows"]] == ["CNN Self-Attention"]
chooser

# %% tags=["remove-input"]
first_seconds, needed_gib = kept["rows"][0][4], left_out["rows"][0][3] / 2**30
roomy = 2 ** math.ceil(math.log2(needed_gib))
more, quick, where = (
    chooser.tables(**facts)[1]["rows"]
    for facts in (
        {"memory_bytes": roomy * 2**30},
        {"latency_s": 1.0},
        {"task_type": "detection"},
    )
)
assert more[0][0] == "CNN Self-Attention" and all(row[5] <= 3 for row in quick)
assert where[0] != kept["rows"][0]
say(
    "At 2 GiB the document's choice is out: compiled, its two maps take {need:.1f} GiB. With {roomy} GiB it is the first again, for it was measured on images and attention over tokens was not. Both take about {seconds:.0f} s for one photograph on *{machine}*. "
    "With 1 s to spend, {count} gates remain, and *{best}* comes first: {ms:.0f} ms, reaching {reach} places. If the task is to find where something is, the order is *places, then time*, and {there} is first, although attention over all places would fit.",
    need=needed_gib, roomy=roomy, seconds=first_seconds, machine=chooser.settings["machine"], count=len(quick),
    best=quick[0][0], ms=quick[0][4] * 1e3, reach=quick[0][5], there=where[0][0],
)  # fmt: skip

# %% [markdown]
# ## Where it breaks
#
# A selector is only as good as its questions. Four that have no answer:

# %%
no_answers = {
    "another word": {"data_type": "image"},
    "no memory": {"data_type": "sequential", "memory_bytes": 1000},
    "no time": {"data_type": "spatial", "latency_s": 1e-9},
    "too much": {"data_type": "spatial", "reach": 10, "accuracy": 1.0},
}
for name, question in no_answers.items():
    try:
        AttentionSelector.recommend_attention_type(**question)
    except ValueError as error:
        print(textwrap.fill(f"{name}: {error}", 100), end="\n\n")

# %% [markdown]
# An error with numbers is an answer: it says what would have to give. What no selector sees are errors in the question. It believes the reach and the accuracy that you ask for; the accuracies in its tables are those of *our* tasks and *small* networks; and its times hold for the machine whose name it gives.
#
# And the far-token experiment says where the reach itself deceives: layers times window is what *can* be heard, not what will be learned.

# %% [markdown]
# ## When to take which
#
# | Take | when | because |
# |---|---|---|
# | full attention | anything may depend on anything, and $n^2$ fits | it has no blind spot |
# | a window | sequences are long, and what belongs together is near, or layers are many | pairs grow with $n$, not $n^2$ |
# | gates | maps are large, and it matters *what* is there | a gate costs reading the map |
# | a hybrid | images are large, and places far apart belong together | attention over few cells |
#
# **A scenario.** Somebody reads DNA, 20,000 letters at a time, in vectors of 256, in 1 GiB. What decides lies within 500 letters.
#
# > **Decide.** What do you recommend? What do you ask back before you do? And what changes if it lies anywhere?

# %% tags=["nbval-ignore-output"]
dna = {"data_type": "sequential", "sequence_length": 20_000, "width": 256}
dna |= {"memory_bytes": 2**30, "computational_budget": "high"}
advice = {}
for reach in (500, 19_999):
    best = AttentionSelector.recommend_attention_type(**dna, reach=reach)[0]
    advice[reach] = best
    print(f"reach {reach:,}: {best['implementation']}, {best['seconds']:.2f} s")
assert advice[500]["implementation"] == "sliding_window_attention"

# %% [markdown]
# To be asked back: is that per layer, or may several layers add up to 500? Is it to be trained too? On which machine, and does anybody know that 500 suffice, or is it hoped?

# %% [markdown]
# ## Questions
#
# Decide before you open a choice: each one says what is right in it, or what is not. By keyboard, Tab goes to the
# next choice, or to a link in an open one, and Enter opens it and closes the one before.

# %% [markdown]
# **Question 1.** News has to pass between two tokens that are 300 places apart. Every layer has a window that reaches
# 64 places to each side. How many layers does it take at least?
#
# <details name="chapter-6-question-1"><summary>A. 1: the window passes over the whole sequence</summary>
#
# **Not quite.** Every token has a window of its own, and all look at the same moment. What one layer brought is
# handed on by the next one, by 64 places.
#
# </details>
#
# <details name="chapter-6-question-1"><summary>B. 3: a layer sees 129 places, and three see 387</summary>
#
# **Not quite.** A window is 129 places wide, but reaches 64 to each side, and news travels to one side: three layers
# carry it over 192 places.
#
# </details>
#
# <details name="chapter-6-question-1"><summary>C. 5: four layers reach 256 places, five reach 320</summary>
#
# **Right.** Layers times reach must be at least 300. That says what *can* be heard; whether training finds the way is
# another question (section *What the window loses*).
#
# </details>

# %% [markdown]
# **Question 2.** A program lays the mask of a window of 64 over full attention to 8,192 tokens. About 1.6 % of the
# pairs are allowed. What does the mask save?
#
# <details name="chapter-6-question-2"><summary>A. Nothing: all scores are made, and most are thrown away</summary>
#
# **Right.** The work is done before the mask looks at it. To save, the scores that nobody may see must never be made,
# as in `sliding_window_attention` (section *The price*).
#
# </details>
#
# <details name="chapter-6-question-2"><summary>B. Time: scores that are masked are not computed</summary>
#
# **Not quite.** The product of queries and keys knows nothing of the mask: it makes all $n^2$ scores, and the mask
# replaces most of them.
#
# </details>
#
# <details name="chapter-6-question-2"><summary>C. Memory: weights of 0 need not be stored</summary>
#
# **Not quite.** A zero takes as much room as any other number. The map is as large as before, and the mask has $n^2$
# entries of its own.
#
# </details>

# %% [markdown]
# **Question 3.** Any two of 10,000 tokens may decide together. There are 2 GiB. Full attention takes 90 ms and 1.5
# GiB; four layers with a window of 500 take 20 ms and 0.4 GiB; a gate takes 2 ms and 0.1 GiB. Which one do you take?
#
# <details name="chapter-6-question-3"><summary>A. The gate: it is the fastest that fits</summary>
#
# **Not quite.** What is asked for is the fastest of the candidates that *serve the need*, and a gate compares no
# token with another. The need comes before [equation](#eq-choice).
#
# </details>
#
# <details name="chapter-6-question-3"><summary>B. Full attention: it serves the need, and it fits</summary>
#
# **Right.** The need comes first and leaves one candidate, and 1.5 GiB are within 2. That it is the slowest does not
# matter any more (section *Three cases by hand*).
#
# </details>
#
# <details name="chapter-6-question-3"><summary>C. The windows: they fit, and reach far enough by depth</summary>
#
# **Not quite.** Four times 500 are 2,000 places. Tokens that are farther apart never hear of each other, and the
# output would not show that anything is missing.
#
# </details>

# %% [markdown]
# **Question 4.** A colleague's selector is right at first in 90 % of 200 scenarios. You try *fewest FLOPs* on the
# same scenarios: 90 % too. What do you say?
#
# <details name="chapter-6-question-4"><summary>A. It is a good selector: 90 % is the goal of this chapter</summary>
#
# **Not quite.** A share means little alone. Beside the goal stood what simple rules reach on the same scenarios, and
# here the simple rule reaches as much.
#
# </details>
#
# <details name="chapter-6-question-4"><summary>B. Fewest FLOPs knows the machine as well as the selector does</summary>
#
# **Not quite.** The rule knows nothing of any machine. That both are right equally often says something about the
# scenarios: they do not part the two.
#
# </details>
#
# <details name="chapter-6-question-4"><summary>C. These scenarios do not show that it knows more than a count</summary>
#
# **Right.** A test has to be one that the simple rule fails. Scenarios where bytes or the machine decide would tell
# (section *Is the selector right?*).
#
# </details>

# %% [markdown]
# ## What we know now

# %% tags=["remove-input", "nbval-ignore-output"]
name = next(iter(agreed))
assert agreed[name]["scenarios"] >= 60 and beyond < 0.2 < inside
say(
    "Thresholds fail at their edge: the document's rule asks for {trap:.1f} GiB at 224 × 224 and for {gate:.0f} MiB one pixel later. Need first, then memory, then predicted time: the rule takes five lines, and what stands behind it a cost model and some measurements. Its first choice was right in {first:.0%} of {scenarios} scenarios, where the best simple rule reaches {simple:.0%}. "
    "A window does $n(2w+1)$ pairs in place of $n^2$; twice the length took {growth:.1f} times as long, against {square:.1f} times. What it cannot reach it does not know: {inside:.0%} right within layers times window, {beyond:.0%} beyond, where a guess is right in {chance:.1%}. Depth carries news further, "
    "by exactly one window for each layer; whether training finds the way is another question, and was answered with no for {failed}.",
    trap=predicted / 2**30, gate=gate_bytes / 2**20, first=agreed[name]["first_share"], scenarios=agreed[name]["scenarios"], simple=shares[name, simple]["first_share"],
    growth=grew["window"], square=grew["full attention"], inside=inside, beyond=beyond, chance=1 / chapter6.LETTERS, failed=" and ".join(failed["model"]) or "no model",
)  # fmt: skip

# %% [markdown]
# **Further reading.** [Beltagy et al., 2020](https://arxiv.org/abs/2004.05150), for windows with some tokens that see everything;
# [Zaheer et al., 2020](https://arxiv.org/abs/2007.14062), for what random pairs add, and a proof that little suffices;
# [Jiang et al., 2023](https://arxiv.org/abs/2310.06825), for a language model of 32 layers with a window of 4,096 to one side, which by depth could hear over about 131,000 tokens (their figure);
# [Child et al., 2019](https://arxiv.org/abs/1904.10509), for patterns of two steps that reach everything;
# [Tay et al., 2021](https://arxiv.org/abs/2011.04006), for tasks that only far tokens solve;
# [Williams et al., 2009](https://doi.org/10.1145/1498765.1498785), for the bound.
#
# **The next question.** So far it was one mechanism or the other. What happens if one takes both: convolutions for what is near, attention for what is far? That is chapter 7.
#
# Something wrong or unclear? [Report it](https://github.com/attn-course/attn-course/issues).

# %% tags=["remove-cell"]
print("Chapter 6 is complete.")
