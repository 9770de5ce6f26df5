"""Attention in transformers and CNNs: the package behind the book.

Every mechanism of the course is one import away, ``from attn_course import MultiHeadAttention``, and nothing is
loaded before it is asked for: ``import attn_course`` is as cheap as an empty module.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> the module that defines it. A new mechanism adds one line here.
_HOME = {
    "MultiHeadAttention": "transformer",
    "KeyValueCache": "transformer",
    "TransformerBlock": "transformer",
    "scaled_dot_product_attention": "transformer",
    "masked_softmax": "transformer",
    "causal_mask": "transformer",
    "padding_mask": "transformer",
    "split_heads": "transformer",
    "merge_heads": "transformer",
    "transformer_example": "transformer",
    "PositionalEncoding": "positional",
    "LearnedPositionalEncoding": "positional",
    "RotaryEmbedding": "positional",
    "alibi_bias": "positional",
    "alibi_slopes": "positional",
    "apply_rotary": "positional",
    "convert_rotary_pairing": "positional",
    "shift_matrix": "positional",
    "sinusoidal_encoding": "positional",
    "SpatialAttention": "cnn",
    "ChannelAttention": "cnn",
    "CBAM": "cnn",
    "SqueezeExcitation": "cnn",
    "EfficientChannelAttention": "cnn",
    "SelfAttention2D": "cnn",
    "AttentionCNN": "cnn",
    "cnn_attention_example": "cnn",
    "sliding_window_attention": "window",
    "sliding_window_mask": "window",
    "HybridAttentionModel": "hybrid",
    "create_hybrid_model": "hybrid",
    "transformer_cnn_hybrid": "hybrid",
    "attention_complexity_comparison": "complexity",
    "AttentionAnalysis": "analysis",
    "attention_entropy": "analysis",
    "mean_attention_distance": "analysis",
    "attention_agreement": "analysis",
    "attention_on_mask": "analysis",
    "attention_rollout": "analysis",
    "receptive_field": "analysis",
    "tokens_over_image": "analysis",
    "PerformanceBenchmark": "benchmark",
    "memory_comparison": "benchmark",
    "AttentionSelector": "selection",
    "usage_examples": "selection",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'attn_course' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
