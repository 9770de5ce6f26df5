"""`HybridAttentionModel`: convolutions, then a transformer."""

from __future__ import annotations

from dataclasses import replace

from .cnn import backbone_parts, backbone_steps, sum_of_parts
from .core import Cost, in_bytes
from .memory import Memory, Table, peaks
from .transformer import block_steps, transformer_block

_WIDTH, _GRID, _BLOCKS, _HEADS, _D_FF = 256, 8, 3, 8, 1024  # those of HybridAttentionModel


def hybrid(
    *,
    batch: int,
    channels: int,
    height: int,
    width: int,
    num_classes: int,
    positions: bool = True,
    dtype: str = "float32",
) -> Cost:
    """`HybridAttentionModel`, with a `gamma` other than 0; its peak in training with the dropout that it has."""
    if min(height, width) < 4:
        raise ValueError(f"height and width must be at least 4, got {height} x {width}")
    n = _GRID**2
    tokens = batch * n * _WIDTH
    parts, size = backbone_parts((batch, channels, height, width), dtype)
    cells = batch * _WIDTH * _cell_reads(size[0]) * _cell_reads(size[1])
    parts["cells"] = (cells, batch * _WIDTH * size[0] * size[1] + tokens)
    if positions:
        parts["positions"] = (tokens, 2 * tokens + n * _WIDTH)
    block = transformer_block(
        batch=batch, n=n, d_model=_WIDTH, num_heads=_HEADS, d_ff=_D_FF, dtype=dtype, fused=True
    )
    block = replace(block, training_flops=3 * block.flops)  # torch's kernel for a CPU has no dropout
    for index in range(1, _BLOCKS + 1):
        parts[f"block{index}"] = block
    sizes = {
        "batch": batch,
        "channels": channels,
        "height": height,
        "width": width,
        "num_classes": num_classes,
    }

    def steps(memory: Memory, x: Table) -> tuple[Table, ...]:
        x = backbone_steps(memory, x, (batch, channels, height, width))
        x = memory.mean_of_cells(x, tokens)
        if positions:
            x = memory.add_parameter(x, n * _WIDTH)
        for index in range(_BLOCKS):
            (x,) = block_steps(
                memory,
                x,
                batch=batch,
                n=n,
                d_model=_WIDTH,
                num_heads=_HEADS,
                d_ff=_D_FF,
                num_kv_heads=_HEADS,
                fused=True,
                dropout=True,
                strided=index == 0,
            )
        return (memory.linear(memory.mean(x, batch * _WIDTH), batch, _WIDTH, num_classes),)

    classifier = (_WIDTH + 1) * num_classes
    return sum_of_parts(
        "hybrid",
        {**sizes, "positions": positions, "dtype": dtype},
        parts,
        terms={"classifier": 2 * batch * _WIDTH * num_classes},
        elementwise_terms={"mean": tokens, "classifier bias": batch * num_classes},
        parameters=classifier + positions * n * _WIDTH,
        moved_terms=in_bytes(
            {
                "mean": tokens + batch * _WIDTH,
                "classifier": batch * _WIDTH + classifier + batch * num_classes,
            },
            dtype,
        ),
        peak=peaks(dtype, steps, batch * channels * height * width),
    )


def _cell_reads(size: int) -> int:
    """Rows (or columns) that the 8 cells read together: a cell begins at `⌊i·size/8⌋` and ends at `⌈(i+1)·size/8⌉`."""
    return sum(-(-(i + 1) * size // _GRID) - i * size // _GRID for i in range(_GRID))
