"""The rules: what is left out, what comes first, and why."""

from __future__ import annotations

from typing import Any

from attn_course import complexity
from attn_course.complexity import Hardware
from attn_course.hybrid import create_hybrid_model
from attn_course.selection.candidates import Candidate, candidates
from attn_course.selection.prediction import Machine, machine_of

__all__ = [
    "BUDGETS",
    "BUDGET_TOKENS",
    "DATA_TYPES",
    "TASKS",
    "TASK_TYPES",
    "AttentionSelector",
    "usage_examples",
]

DATA_TYPES = ("sequential", "spatial", "mixed")
TASK_TYPES = ("classification", "generation", "detection")

# The most FLOPs for one input: what self-attention over so many tokens of width 512 takes; None is no limit.
BUDGET_TOKENS = {"low": 1_000, "medium": 16_000, "high": None}
BUDGETS = {
    budget: None
    if n is None
    else complexity.cost("multi-head-attention", batch=1, n_q=n, d_model=512, num_heads=8).flops
    for budget, n in BUDGET_TOKENS.items()
}
"""The most FLOPs of a forward pass for one input, by the word for the budget."""

_REACH, _PLACES = "reach, then time", "places, then time"
TASKS = {
    ("sequential", "classification"): (_REACH, "every token may look at every other"),
    ("sequential", "generation"): (_REACH, "causal; the price is that of one token written with a cache"),
    ("sequential", "detection"): (_REACH, "every token may look at every other"),
    ("spatial", "classification"): (_REACH, "one answer for a map: reach comes first"),
    ("spatial", "generation"): (_REACH, "every place is made in view of every other"),
    ("spatial", "detection"): (
        _PLACES,
        "what looks at places comes before what does not, however far it looks",
    ),
    ("mixed", "classification"): (_REACH, "one answer for an image"),
    ("mixed", "generation"): (_REACH, "take the tokens before the mean"),
    ("mixed", "detection"): (_REACH, "take the tokens before the mean, which say where"),
}
"""What a task does to each kind of data: the order of what is left, and what is meant by it."""

# What is assumed where nothing is said: the widths and sizes of the book's benchmarks.
D_MODEL, CHANNELS = 512, 256
SEQUENCE_LENGTH, SPATIAL_DIMS = 512, (56, 56)
_MEMORY = 2 * 2**30


class AttentionSelector:
    """Recommend a mechanism from what is known about the data, the task and the machine."""

    @staticmethod
    def recommend_attention_type(
        data_type: str,
        sequence_length: int | None = None,
        spatial_dims: tuple[int, int] | None = None,
        computational_budget: str = "medium",
        task_type: str = "classification",
        *,
        batch: int = 1,
        width: int | None = None,
        training: bool = False,
        memory_bytes: int = _MEMORY,
        latency_s: float | None = None,
        reach: int | None = None,
        accuracy: float | None = None,
        machine: str | Hardware | Machine | None = None,
    ) -> list[dict[str, Any]]:
        """Name the mechanisms that do what is asked, the most suitable first.

        Rules, in this order; the first four leave out for good:

        1. **Memory.** What needs more than `memory_bytes` is out. `SelfAttention2D` is counted with its map held whole,
           `2·n²` numbers for `n = H·W` places (19 GiB at 224 × 224), for so it is in a compiled or exported model.
        2. **Latency.** What is predicted to take longer than `latency_s` is out.
        3. **Reach.** If `reach` is given, what looks less far is out.
        4. **Accuracy.** If `accuracy` is given, what was measured below it, or not at all, is out. It was measured on
           the recorded task that asks for that reach: near, cluttered digits; far, the mirrored strip; in sequences,
           a token that has to be found.
        5. **Budget.** What takes more FLOPs for an input than `BUDGETS` allows is out; if that leaves nothing, the
           cheapest stays and says so.
        6. **Order.** By predicted time if `reach` was asked for. Otherwise as `TASKS` says: for most, what lets every
           place look at every other comes first, then what reaches neighbours; among equals, what was measured on such
           a task comes before what was not, and then time decides.

        Args:
            data_type: `"sequential"`, `"spatial"` or `"mixed"` (images or frames, read by whole networks).
            sequence_length: `n`; 512 unless given. For mixed data the number of frames, one unless given.
            spatial_dims: `(H, W)` of the feature map, for mixed data of the image; 56 × 56 unless given.
            computational_budget: `"low"`, `"medium"` or `"high"`.
            task_type: `"classification"`, `"generation"` or `"detection"`.
            batch: inputs at a time.
            width: `d_model`, 512 unless given, or the channels of a map, 256; mixed data have three.
            training: count the backward pass too.
            memory_bytes: what attention may take for a batch, in float32, beside inputs and parameters; 2 GiB.
            latency_s: the most seconds for a batch.
            reach: how many places apart two may be that must look at each other in one layer; along a row or a column
                of a map.
            accuracy: from 0 to 1.
            machine: whose times: a stem of `results/*.json`, a `complexity.Hardware`, or None for this machine if it
                was measured, else the first that was.

        Returns:
            One dictionary for each mechanism that is left:

            - `type`, `reason`, and `implementation`, its name in `attn_course`, with the arguments in `options`;
            - `flops`, `peak_bytes` (most alive at once, beside inputs and parameters), `needs_bytes` (the same, maps
              held whole), `seconds`: predicted, for a batch; `fits`: that the memory suffices;
            - `reach`, in places; `accuracy`, measured, or None;
            - `evidence`: dictionaries of `file` (in `results/`) and `row` which the prediction and the accuracy rest
              on; without any, the cost model alone speaks. `machine`: whose times they are.

        Raises:
            ValueError: for an unknown word (the message lists the known ones), a number that is out of range, or
                demands that nothing meets: the message says what each mechanism lacks.
        """
        entries = AttentionSelector.consider(
            data_type, sequence_length, spatial_dims, computational_budget, task_type, batch=batch, width=width,
            training=training, memory_bytes=memory_bytes, latency_s=latency_s, reach=reach, accuracy=accuracy,
            machine=machine,
        )  # fmt: skip
        left = [entry for entry in entries if not entry["out"]]
        if not left:
            raise ValueError(_nothing(entries, memory_bytes))
        remarks = [f"{entry['implementation']} {entry['out']}" for entry in entries if entry["out"]]
        left[0]["reason"] = "; ".join([left[0]["reason"], *remarks])
        return [{key: value for key, value in entry.items() if key != "out"} for entry in left]

    @staticmethod
    def consider(
        data_type: str,
        sequence_length: int | None = None,
        spatial_dims: tuple[int, int] | None = None,
        computational_budget: str = "medium",
        task_type: str = "classification",
        *,
        batch: int = 1,
        width: int | None = None,
        training: bool = False,
        memory_bytes: int = _MEMORY,
        latency_s: float | None = None,
        reach: int | None = None,
        accuracy: float | None = None,
        machine: str | Hardware | Machine | None = None,
    ) -> list[dict[str, Any]]:
        """Return every candidate, also those that are out, in order, those that are out last.

        Arguments and errors are those of `recommend_attention_type`, but that it is no error if nothing is left. The
        dictionaries have one entry more: `out`, empty, or what a candidate lacks.
        """
        _check_word("computational_budget", computational_budget, tuple(BUDGETS))
        _check_whole("memory_bytes", memory_bytes, 1)
        if latency_s is not None and not latency_s > 0:
            raise ValueError(f"latency_s must be above 0, got {latency_s!r}")
        if accuracy is not None and not 0 <= accuracy <= 1:
            raise ValueError(f"accuracy must be from 0 to 1, got {accuracy!r}")
        choice = choice_of(
            data_type, sequence_length, spatial_dims, task_type, batch=batch, width=width, training=training,
            reach=reach,
        )  # fmt: skip
        known = machine if isinstance(machine, Machine) else machine_of(machine)
        entries = [_entry(candidate, known, training, memory_bytes) for candidate in choice]
        for entry, candidate in zip(entries, choice, strict=True):
            entry["out"] = _lacks(entry, candidate, memory_bytes, latency_s, reach, accuracy)
            if data_type == "mixed" and task_type != "classification":
                entry["reason"] += f"; {TASKS[data_type, task_type][1]}"
        frames = (sequence_length or 1) if data_type == "mixed" else 1
        inputs = batch * frames * (3 if training else 1)
        _hold_to_budget(entries, BUDGETS[computational_budget], inputs)

        rule = _PLACES if TASKS[data_type, task_type][0] == _PLACES else _REACH
        ranks = [(0, False) if reach is not None else _rank(candidate, rule) for candidate in choice]
        ranked = sorted(
            zip(entries, ranks, strict=True),
            key=lambda pair: (bool(pair[0]["out"]), *pair[1], pair[0]["seconds"]),
        )
        return [entry for entry, _ in ranked]

    create_hybrid_model = staticmethod(create_hybrid_model)


def choice_of(
    data_type: str,
    sequence_length: int | None = None,
    spatial_dims: tuple[int, int] | None = None,
    task_type: str = "classification",
    *,
    batch: int = 1,
    width: int | None = None,
    training: bool = False,
    reach: int | None = None,
) -> list[Candidate]:
    """The candidates of a question, with what is assumed where it says nothing."""
    _check_word("data_type", data_type, DATA_TYPES)
    _check_word("task_type", task_type, TASK_TYPES)
    if spatial_dims is not None and len(spatial_dims) != 2:
        raise ValueError(f"spatial_dims must be (H, W), got {spatial_dims!r}")
    height, columns = SPATIAL_DIMS if spatial_dims is None else spatial_dims
    if sequence_length is None:
        sequence_length = 1 if data_type == "mixed" else SEQUENCE_LENGTH
    if width is None:
        width = D_MODEL if data_type == "sequential" else CHANNELS
    for name, size in (
        ("sequence_length", sequence_length), ("height", height), ("width", columns), ("batch", batch),
        ("width", width),
    ):  # fmt: skip
        _check_whole(name, size, 1)
    if reach is not None:
        _check_whole("reach", reach, 0)
    return candidates(
        data_type, length=sequence_length, height=height, width=columns, channels=width, batch=batch,
        training=training, generation=task_type == "generation", reach=reach,
    )  # fmt: skip


def _entry(candidate: Candidate, machine: Machine, training: bool, memory_bytes: int) -> dict[str, Any]:
    seconds, evidence = machine.seconds(candidate.kind, candidate.price, training=training)
    source = [candidate.accuracy_source] if candidate.accuracy_source else []
    return {
        "type": candidate.type,
        "reason": candidate.text,
        "implementation": candidate.implementation,
        "options": dict(candidate.options),
        "flops": candidate.price.flops,
        "peak_bytes": candidate.price.peak_bytes,
        "needs_bytes": candidate.price.needs_bytes,
        "seconds": seconds,
        "fits": candidate.price.needs_bytes <= memory_bytes,
        "reach": candidate.reach,
        "accuracy": candidate.accuracy,
        "evidence": evidence + source,
        "machine": machine.name,
    }


def _rank(candidate: Candidate, rule: str) -> tuple[int, bool]:
    """What every place reaches comes before what reaches neighbours, that before none; measured before unmeasured."""
    reach = 0 if candidate.everything else 1 if candidate.reach else 2
    return reach // 2 if rule == _PLACES else reach, candidate.accuracy is None


def _lacks(
    entry: dict[str, Any],
    candidate: Candidate,
    memory_bytes: int,
    latency_s: float | None,
    reach: int | None,
    accuracy: float | None,
) -> str:
    """What a candidate lacks of the demands, or nothing."""
    if not entry["fits"]:
        return f"needs {_size(entry['needs_bytes'])} of memory, and there are {_size(memory_bytes)}"
    if latency_s is not None and entry["seconds"] > latency_s:
        return f"takes {_time(entry['seconds'])} by prediction, and there are {_time(latency_s)}"
    if reach is not None and not candidate.everything and candidate.reach < reach:
        return f"reaches {candidate.reach:,} places, and {reach:,} are asked for"
    if accuracy is not None:
        if entry["accuracy"] is None:
            return f"was never measured on such a task, and an accuracy of {accuracy:.2f} is asked for"
        if entry["accuracy"] < accuracy:
            return f"was right in {entry['accuracy']:.2f} of the cases, and {accuracy:.2f} is asked for"
    return ""


def _hold_to_budget(entries: list[dict[str, Any]], limit: int | None, inputs: int) -> None:
    """Leave out what takes more FLOPs for one input than the budget allows; the cheapest stays in any case."""
    left = [entry for entry in entries if not entry["out"]]
    if limit is None or not left:
        return
    over = [entry for entry in left if entry["flops"] > limit * inputs]
    if len(over) == len(left):
        cheapest = min(left, key=lambda entry: entry["flops"])
        over.remove(cheapest)
        need = cheapest["flops"] / inputs / 1e9
        cheapest["reason"] += f"; over the budget as well with {need:,.1f} GFLOP, but the cheapest"
    for entry in over:
        entry["out"] = f"needs {entry['flops'] / inputs / 1e9:,.1f} GFLOP, more than the budget"


def _nothing(entries: list[dict[str, Any]], memory_bytes: int) -> str:
    if not any(entry["fits"] for entry in entries):
        least = min(entries, key=lambda entry: entry["needs_bytes"])
        return (
            f"nothing fits into {_size(memory_bytes)}: the least, {least['implementation']}, needs "
            f"{_size(least['needs_bytes'])}"
        )
    lacks = "; ".join(f"{entry['implementation']} {entry['out']}" for entry in entries)
    return f"nothing meets all that is asked: {lacks}"


def _size(count: int) -> str:
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _time(seconds: float) -> str:
    """Two digits, without a power of ten: 250 ms."""
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * 1e3, "ms")
    return f"{float(f'{value:.2g}'):.10f}".rstrip("0").rstrip(".") + f" {unit}"


def _check_word(name: str, word: object, known: tuple[str, ...]) -> None:
    if word not in known:
        raise ValueError(f"unknown {name} {word!r}; known: {', '.join(known)}")


def _check_whole(name: str, size: object, least: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {size!r}")


def usage_examples() -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Print and return what is recommended for text, for large images, and for video."""
    selector = AttentionSelector()
    nlp_rec = selector.recommend_attention_type(
        data_type="sequential", sequence_length=512, computational_budget="high", task_type="generation"
    )
    cv_rec = selector.recommend_attention_type(
        data_type="spatial",
        spatial_dims=(224, 224),
        computational_budget="medium",
        task_type="classification",
    )
    video_rec = selector.recommend_attention_type(
        data_type="mixed",
        sequence_length=30,
        spatial_dims=(112, 112),
        computational_budget="high",
        task_type="detection",
    )
    for name, found in (
        ("NLP Recommendation", nlp_rec),
        ("Computer Vision Recommendation", cv_rec),
        ("Video Analysis Recommendation", video_rec),
    ):
        first = found[0]
        price = f"{first['flops'] / 1e9:,.3g} GFLOP, {_size(first['peak_bytes'])}, {_time(first['seconds'])}"
        print(f"{name}: {first['implementation']} ({price} on {first['machine']})\n    {first['reason']}")
    return nlp_rec, cv_rec, video_rec
