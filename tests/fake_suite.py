"""A suite of cases that take milliseconds, for the tests of what runs, records and resumes a suite.

What a case does is said by its mechanism: it sleeps, raises, runs out of memory, hangs, or kills its own process.
`FAKE_SUITE_LOG` names a file to which each case that is run adds a line, its process and its name.
"""

import os
import signal
import time
from dataclasses import asdict, dataclass, field

import torch

from attn_course.benchmark.clock import ratio, summary

PRESETS = ("smoke", "course", "full")
OURS = "ours"
PRESET_SETTINGS = {"smoke": (0.01, 7), "course": (0.02, 9), "full": (0.04, 11)}
HUGE = 2**60


@dataclass(frozen=True)
class Case:
    mechanism: str
    sizes: dict = field(default_factory=dict)
    mode: str = "forward"
    baseline: str = "usual"
    note: str = ""
    dtype: str = "float32"
    allocator: str = "default"

    @property
    def name(self) -> str:
        return ", ".join([self.mechanism, *(f"{key}={value}" for key, value in self.sizes.items())])


def cases(preset, device):
    if preset == "smoke":  # for the tests that kill: nothing but sleep
        return [
            Case("sleep", {"n": n}, allocator="huge pages" if n % 5 == 4 else "default") for n in range(11)
        ]
    if preset == "full":
        return [Case("hang"), Case("sleep", {"n": 1})]
    odd = ("raise", "memory", "kill", "large", "not a number")
    return [Case("sleep", {"n": 2}), *(Case(name) for name in odd), Case("where", allocator="huge pages")]


def predicted(case):
    return {"flops": 1000, "peak_bytes": HUGE if case.mechanism == "large" else 7}


def ceilings(device):
    return {"matrix_product": {"flops_per_s": 1e9}, "copy": {"bytes_per_s": 1e9}}


def run_case(case, *, seconds, rounds, device, ceilings=None):
    if log := os.environ.get("FAKE_SUITE_LOG"):
        with open(log, "a") as file:
            file.write(f"{os.getpid()} {case.name}\n")
    print("a library says something on standard output")
    match case.mechanism:
        case "raise":
            raise KeyError("nothing of the kind")
        case "memory":
            raise MemoryError
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(600)
        case _:
            time.sleep(0.02)
    samples = [1e-3 + 1e-6 * i for i in range(rounds)]
    if case.mechanism == "not a number":
        samples[0] = float("nan")
    times = {"usual": [2 * value for value in samples], OURS: samples, f"{OURS} (control)": samples[::-1]}
    peers = {
        name: {
            **summary(values),
            "time_ratio": asdict(ratio(values, samples)),
            "peak_bytes": 7,
            "relative_error": 0.0,
            "flops_per_s": 1e6,
            "bytes_per_s": 1e6,
            "flops_share": 0.001,
            "bytes_share": 0.001,
        }
        for name, values in times.items()
    }
    note = case.note
    if case.mechanism == "where":
        note = f"huge pages: {os.environ.get('THP_MEM_ALLOC_ENABLE')}, threads: {torch.get_num_threads()}"
    return {
        "case": case.name, "mechanism": case.mechanism, "mode": case.mode, "note": note, "sizes": case.sizes,
        "dtype": case.dtype, "allocator": case.allocator, "status": "measured", "predicted": predicted(case),
        "ours": OURS, "baseline": case.baseline, "peers": peers, "absent": {"timm": "not installed"},
    }  # fmt: skip


def bars(rows):
    return [
        {
            "label": "half the time",
            "value": 2.0,
            "low": 1.9,
            "high": 2.1,
            "control": [0.98, 1.02],
            "bound": 1.5,
            "reached": True,
        }
    ]
