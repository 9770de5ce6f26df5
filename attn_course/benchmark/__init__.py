"""Time and memory, measured: peers that take turns, medians with an interval, and a control."""

from attn_course.benchmark.clock import Ratio, default_device, measure, ratio, summary
from attn_course.benchmark.comparison import PerformanceBenchmark, memory_comparison
from attn_course.benchmark.memory import free_bytes, peak_bytes
from attn_course.benchmark.record import load, machines
from attn_course.benchmark.simulated import SimulatedDevice
from attn_course.benchmark.suite import BARS, PRESETS, Case, bars, cases, ceilings, predicted, run_case

__all__ = [
    "BARS",
    "PRESETS",
    "Case",
    "PerformanceBenchmark",
    "Ratio",
    "SimulatedDevice",
    "bars",
    "cases",
    "ceilings",
    "default_device",
    "free_bytes",
    "load",
    "machines",
    "measure",
    "memory_comparison",
    "peak_bytes",
    "predicted",
    "ratio",
    "run_case",
    "summary",
]
