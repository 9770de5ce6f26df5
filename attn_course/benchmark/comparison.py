"""Two families of attention, by the names of the document that the course grows from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attn_course import complexity
from attn_course.benchmark.clock import default_device, measure, ratio, summary
from attn_course.benchmark.memory import peak_bytes
from attn_course.cnn import CBAM
from attn_course.transformer import MultiHeadAttention

__all__ = ["PerformanceBenchmark", "memory_comparison"]


def memory_comparison(
    *,
    batch_size: int = 32,
    seq_len: int = 512,
    d_model: int = 512,
    num_heads: int = 8,
    channels: int = 256,
    height: int = 56,
    width: int = 56,
) -> dict[str, float]:
    """Print and return the peak memory of a forward pass of `MultiHeadAttention` and of one of `CBAM`.

    In eval mode and without autograd, weights returned; inputs and parameters are not counted. The two have
    different inputs: this says what each takes at these sizes, not which mechanism takes less.

    Returns:
        `transformer_memory` and `cnn_memory`, in MiB; see `peak_bytes`.
    """

    def peak_mib(module: nn.Module, *inputs: Tensor) -> float:
        module = module.to(device).eval()
        inputs = tuple(x.to(device) for x in inputs)
        with torch.no_grad():
            return peak_bytes(lambda: module(*inputs), device=device) / 2**20

    device = default_device()
    tokens = torch.randn(batch_size, seq_len, d_model)
    transformer = peak_mib(MultiHeadAttention(d_model, num_heads), tokens, tokens, tokens)
    cnn = peak_mib(CBAM(channels), torch.randn(batch_size, channels, height, width))
    print(f"Transformer attention memory: {transformer:.2f} MiB at its peak")
    print(f"CNN attention memory: {cnn:.2f} MiB at its peak")
    return {"transformer_memory": transformer, "cnn_memory": cnn}


class PerformanceBenchmark:
    """Time attention of transformers and of CNNs: eval mode, no autograd, warmed up, medians.

    Args:
        warmup: calls that are not counted.
        repeats: calls that are.
        device: where to run; a GPU unless there is none.

    Raises:
        ValueError: for a negative `warmup` or a `repeats` below 1.
    """

    def __init__(
        self, *, warmup: int = 3, repeats: int = 20, device: torch.device | str | None = None
    ) -> None:
        if warmup < 0 or repeats < 1:
            raise ValueError(f"need warmup >= 0 and repeats >= 1, got {warmup} and {repeats}")
        self.warmup = warmup
        self.repeats = repeats
        self.device = default_device() if device is None else torch.device(device)

    def benchmark_transformer_attention(
        self, batch_size: int = 32, seq_len: int = 512, d_model: int = 512, num_heads: int = 8
    ) -> float:
        """Median seconds, forward, of `MultiHeadAttention`, weights returned, over `(B, n, d_model)`."""
        model = MultiHeadAttention(d_model, num_heads).to(self.device).eval()
        x = torch.randn(batch_size, seq_len, d_model, device=self.device)
        return self._median_seconds(lambda: model(x, x, x))

    def benchmark_cnn_attention(
        self, batch_size: int = 32, channels: int = 256, height: int = 56, width: int = 56
    ) -> float:
        """Median seconds of a forward pass of `CBAM` over `(B, C, H, W)`."""
        model = CBAM(channels).to(self.device).eval()
        x = torch.randn(batch_size, channels, height, width, device=self.device)
        return self._median_seconds(lambda: model(x))

    def _median_seconds(self, fn: Callable[[], object]) -> float:
        with torch.no_grad():
            samples = measure({"it": fn}, warmup=self.warmup, rounds=self.repeats, device=self.device)
        return summary(samples["it"])["median_s"]

    def run_comparison(
        self,
        *,
        batch_size: int = 8,
        channels: int = 256,
        height: int = 28,
        width: int = 28,
        num_heads: int = 8,
    ) -> dict[str, float]:
        """Give both families the same feature map, and print and return what they take for it.

        `CBAM` reads it as it is, `MultiHeadAttention` (without weights) as `H·W` tokens of width `C`. Both
        return as many numbers as they got. They take turns, round by round.

        Returns:
            A dictionary:

            - `transformer_time`, `cnn_time`: median seconds;
            - `speedup`: how many times as long the transformer's attention takes as CBAM, for this one input.
              It says nothing of other sizes, nor of what the two do, which is unlike;
            - `transformer_flops`, `cnn_flops`: the work of each, without pooling and softmax;
            - `control`: CBAM's time over its own, measured in the same rounds: 1 but for noise.
        """
        image = torch.randn(batch_size, channels, height, width, device=self.device)
        tokens = image.flatten(2).transpose(1, 2).contiguous()
        attention = MultiHeadAttention(channels, num_heads).to(self.device).eval()
        cbam = CBAM(channels).to(self.device).eval()
        with torch.no_grad():
            samples = measure(
                {
                    "transformer": lambda: attention(tokens, tokens, tokens, need_weights=False),
                    "cnn": lambda: cbam(image),
                },
                control="cnn",
                warmup=self.warmup,
                rounds=self.repeats,
                device=self.device,
            )
        n = height * width
        result = {
            "transformer_time": summary(samples["transformer"])["median_s"],
            "cnn_time": summary(samples["cnn"])["median_s"],
            "speedup": ratio(samples["transformer"], samples["cnn"]).median,
            "transformer_flops": complexity.cost(
                "multi-head-attention", batch=batch_size, n_q=n, d_model=channels, num_heads=num_heads
            ).flops,
            "cnn_flops": complexity.cost(
                "cbam", batch=batch_size, channels=channels, height=height, width=width
            ).flops,
            "control": ratio(samples["cnn (control)"], samples["cnn"]).median,
        }
        print(f"The same feature map, {batch_size} x {channels} x {height} x {width}, on {self.device}")
        for kind in ("transformer", "cnn"):
            seconds, flops = result[f"{kind}_time"], result[f"{kind}_flops"]
            print(f"{kind:12}{seconds:.4f}s{flops:>18,} FLOPs")
        print(f"transformer / cnn: {result['speedup']:.2f}; cnn / cnn, the noise: {result['control']:.2f}")
        return result
