"""Which attention to take: what fits the memory and the budget, in the order in which it suits the task."""

from __future__ import annotations

from dataclasses import dataclass

from attn_course import complexity
from attn_course.hybrid import create_hybrid_model

__all__ = ["AttentionSelector", "usage_examples"]

DATA_TYPES = ("sequential", "spatial", "mixed")
TASK_TYPES = ("classification", "generation", "detection")

# The most FLOPs for one input: what self-attention over so many tokens of width 512 takes; None is no limit.
BUDGET_TOKENS = {"low": 1_000, "medium": 16_000, "high": None}

# What an estimate assumes where nothing is said: the widths and sizes of the book's benchmarks.
D_MODEL, NUM_HEADS, CHANNELS, WINDOW = 512, 8, 256, 128
SEQUENCE_LENGTH, SPATIAL_DIMS = 512, (56, 56)
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class _Candidate:
    """A mechanism, and what it takes for one input: FLOPs of a forward pass, bytes."""

    type: str
    implementation: str
    reason: str
    flops: int
    memory_bytes: int


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
        memory_bytes: int = 2 * 2**30,
    ) -> list[dict[str, str]]:
        """Name the mechanisms that fit, the most suitable first.

        Three rules, in this order:

        1. What takes more memory than there is for one input is out. Attention over `n = H·W` places is
           counted with scores and weights held whole, `2·n²` numbers: 19 GiB at 224 × 224. (They are held
           whole when the weights are wanted, and in a compiled or exported model; otherwise
           `SelfAttention2D` makes the map in pieces, with as many FLOPs.)
        2. What takes more FLOPs than the budget allows is out; if that leaves nothing, the cheapest stays.
           `"low"` allows what self-attention over 1,000 tokens of width 512 takes, `"medium"` 16,000 tokens,
           `"high"` sets no limit.
        3. The task orders the rest:

        | data | classification | generation | detection |
        |---|---|---|---|
        | sequential | full, then window | the same, with `is_causal=True` | full, then window |
        | spatial | `SelfAttention2D`, then CBAM | the same | CBAM, then `SelfAttention2D` |
        | mixed | hybrid, then CBAM | the same, on tokens before the mean | likewise |

        Detection wants every place at full resolution, which CBAM keeps at linear cost; the other tasks want
        reach first.

        Args:
            data_type: `"sequential"`, `"spatial"` or `"mixed"`.
            sequence_length: `n`; 512 unless given.
            spatial_dims: `(H, W)` of the feature map, for mixed data of the image; 56 × 56 unless given.
            computational_budget: `"low"`, `"medium"` or `"high"`.
            task_type: `"classification"`, `"generation"` or `"detection"`.
            memory_bytes: what attention may take for one input, in float32.

        Returns:
            One dictionary for each mechanism, with `type`, `reason` and `implementation`, its name in
            `attn_course`.

        Raises:
            ValueError: for an unknown word (the message lists the known ones), a size below 1, or a memory in
                which nothing fits.
        """
        _check_word("data_type", data_type, DATA_TYPES)
        _check_word("computational_budget", computational_budget, tuple(BUDGET_TOKENS))
        _check_word("task_type", task_type, TASK_TYPES)
        length = SEQUENCE_LENGTH if sequence_length is None else sequence_length
        if spatial_dims is not None and len(spatial_dims) != 2:
            raise ValueError(f"spatial_dims must be (H, W), got {spatial_dims!r}")
        height, width = SPATIAL_DIMS if spatial_dims is None else spatial_dims
        sizes = {
            "sequence_length": length,
            "height": height,
            "width": width,
            "memory_bytes": memory_bytes,
        }
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")

        if data_type == "sequential":
            candidates = _for_sequences(length, task_type)
        elif data_type == "spatial":
            candidates = _for_images(height, width, task_type)
        else:
            candidates = _for_both(height, width, task_type)
        return [
            {"type": it.type, "reason": reason, "implementation": it.implementation}
            for it, reason in _choose(candidates, _flop_limit(computational_budget), memory_bytes)
        ]

    create_hybrid_model = staticmethod(create_hybrid_model)


def _choose(
    candidates: list[_Candidate], flop_limit: int | None, memory_bytes: int
) -> list[tuple[_Candidate, str]]:
    """Those within both limits, each with its reason; the first reason says what was left out, and why."""
    fitting = [it for it in candidates if it.memory_bytes <= memory_bytes]
    if not fitting:
        least = min(candidates, key=lambda it: it.memory_bytes)
        raise ValueError(
            f"nothing fits into {_size(memory_bytes)} for one input: the least, {least.implementation}, "
            f"takes {_size(least.memory_bytes)}"
        )
    chosen = [it for it in fitting if flop_limit is None or it.flops <= flop_limit]
    over = not chosen
    chosen = chosen or [min(fitting, key=lambda it: it.flops)]

    remarks = []
    for it in candidates:
        if it not in fitting:
            need = f"{_size(it.memory_bytes)} of memory, and there are {_size(memory_bytes)}"
            remarks.append(f"{it.implementation} needs {need}")
        elif it not in chosen:
            remarks.append(f"{it.implementation} needs {it.flops / 1e9:,.1f} GFLOP, more than the budget")
    if over:
        remarks.append(f"over the budget as well with {chosen[0].flops / 1e9:,.1f} GFLOP, but the cheapest")
    first = "; ".join([chosen[0].reason, *remarks])
    return [(it, first if it is chosen[0] else it.reason) for it in chosen]


def _for_sequences(n: int, task_type: str) -> list[_Candidate]:
    full = complexity.cost(
        "multi-head-attention", batch=1, n_q=n, d_model=D_MODEL, num_heads=NUM_HEADS, fused=True
    )
    band = complexity.cost(
        "sliding-window-attention", batch=1, num_heads=NUM_HEADS, n=n, d_k=D_MODEL // NUM_HEADS, window=WINDOW
    )
    tokens = n * D_MODEL * _FLOAT_BYTES  # q, k and v, all padded, the output twice; and a mask of bytes
    causal = ", with is_causal=True" if task_type == "generation" else ""
    return [
        _Candidate(
            "Transformer Self-Attention",
            "MultiHeadAttention",
            f"every one of {n:,} tokens reaches every other{causal}",
            full.flops,
            full.peak_bytes or 0,
        ),
        _Candidate(
            "Local Attention",
            "sliding_window_attention",
            f"each of {n:,} tokens reaches its neighbours, at a cost linear in the length{causal}",
            band.flops + full.terms["projections"],
            8 * tokens + 3 * n * WINDOW,
        ),
    ]


def _for_images(height: int, width: int, task_type: str) -> list[_Candidate]:
    image = {"batch": 1, "channels": CHANNELS, "height": height, "width": width}
    n = height * width
    everywhere = _Candidate(
        "CNN Self-Attention",
        "SelfAttention2D",
        f"every one of {height} x {width} places reaches every other",
        complexity.cost("self-attention-2d", **image).flops,
        2 * complexity.score_bytes(1, 1, n, n),
    )
    gates = _cbam(height, width, f"gates over channels and places, at a cost linear in {height} x {width}")
    return [gates, everywhere] if task_type == "detection" else [everywhere, gates]


def _for_both(height: int, width: int, task_type: str) -> list[_Candidate]:
    # The hybrid: convolutions at full, half and quarter size, SelfAttention2D on the last, then 8 x 8 tokens.
    small = {"batch": 1, "channels": 256, "height": max(1, height // 4), "width": max(1, width // 4)}
    n = small["height"] * small["width"]
    tokens = {"classification": "", "generation": "; take its tokens before the mean"}
    tokens["detection"] = tokens["generation"] + ", which say where"
    convolutions = 2 * 9 * n * (16 * 3 * 64 + 4 * 64 * 128 + 128 * 256)
    blocks = (
        3 * complexity.cost("transformer-block", batch=1, n=64, d_model=256, num_heads=8, d_ff=1024).flops
    )
    hybrid = _Candidate(
        "Hybrid Attention",
        "transformer_cnn_hybrid",
        f"convolutions read each {height} x {width} image, a transformer its cells{tokens[task_type]}",
        convolutions + complexity.cost("self-attention-2d", **small).flops + blocks,
        2 * complexity.score_bytes(1, 1, n, n) + 4 * height * width * 64 * _FLOAT_BYTES,
    )
    return [
        hybrid,
        _cbam(height, width, f"gates each {height} x {width} image by itself, nothing in between"),
    ]


def _cbam(height: int, width: int, reason: str) -> _Candidate:
    flops = complexity.cost("cbam", batch=1, channels=CHANNELS, height=height, width=width).flops
    kept = 3 * CHANNELS * height * width * _FLOAT_BYTES  # the map, and after each of the two gates
    return _Candidate("CNN Spatial + Channel Attention", "CBAM", reason, flops, kept)


def _flop_limit(computational_budget: str) -> int | None:
    n = BUDGET_TOKENS[computational_budget]
    if n is None:
        return None
    sizes = {"batch": 1, "n_q": n, "d_model": D_MODEL, "num_heads": NUM_HEADS}
    return complexity.cost("multi-head-attention", **sizes).flops


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _check_word(name: str, word: object, known: tuple[str, ...]) -> None:
    if word not in known:
        raise ValueError(f"unknown {name} {word!r}; known: {', '.join(known)}")


def usage_examples() -> tuple[list[dict[str, str]], list[dict[str, str]], list[dict[str, str]]]:
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
    print("NLP Recommendation:", nlp_rec)
    print("Computer Vision Recommendation:", cv_rec)
    print("Video Analysis Recommendation:", video_rec)
    return nlp_rec, cv_rec, video_rec
