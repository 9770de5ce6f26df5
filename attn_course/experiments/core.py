"""What an experiment is, and how it is run, recorded and read again."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from .. import machine
from ..machine import results_folder

CHAPTERS = ("chapter1", "chapter2", "chapter3", "chapter6", "chapter7")
"""The files beside this one that define experiments."""

Run = dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """A question that takes long to answer, and how it is answered.

    ``run(seed, **settings)`` returns plain JSON values, and the trained model or None. The model of the first seed
    is kept, for chapters and figures that use it.
    """

    name: str
    hypothesis: str
    run: Callable[..., tuple[Run, nn.Module | None]]
    settings: dict[str, Any]
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass
class Record:
    """What came out of an experiment: one entry of ``runs`` per seed, and where it was made."""

    experiment: str
    settings: dict[str, Any]
    machine: str
    versions: dict[str, str]
    threads: int
    runs: list[Run] = field(default_factory=list)

    def values(self, key: str) -> list[Any]:
        """The entry ``key`` of every run, in the order of the seeds."""
        return [run[key] for run in self.runs]

    @property
    def seconds(self) -> float:
        """How long all seeds took together."""
        return sum(self.values("seconds"))


def catalog() -> dict[str, Experiment]:
    """Every experiment by name, in the order of the chapters."""
    modules = (import_module(f"{__package__}.{chapter}") for chapter in CHAPTERS)
    return {experiment.name: experiment for module in modules for experiment in module.EXPERIMENTS}


def get(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        KeyError: there is none; the message lists what there is.
    """
    known = catalog()
    if name not in known:
        raise KeyError(f"no experiment {name!r}; there are: {', '.join(known)}")
    return known[name]


def load(name: str, *, folder: Path | None = None) -> Record:
    """The record of an experiment.

    Raises:
        FileNotFoundError: it has not been run; the message says how.
        ValueError: the file holds something else.
    """
    path = _record_path(name, folder)
    if not path.is_file():
        raise FileNotFoundError(f"no record of {name!r} in {path.parent}: make it with `make experiments`")
    try:
        return Record(**json.loads(path.read_text("utf-8")))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not the record of an experiment: {error}") from error


def load_model(name: str, model: nn.Module, *, folder: Path | None = None) -> nn.Module:
    """Fill ``model`` with the trained weights of an experiment's first seed, and return it in eval mode."""
    model.load_state_dict(load_file(_model_path(name, folder)))
    return model.eval()


def run(
    experiment: Experiment,
    *,
    folder: Path | None = None,
    restart: bool = False,
    say: Callable[[str], None] = print,
) -> Record:
    """Run the seeds that the record lacks, and record each as soon as it is done.

    An interrupt loses the seed in progress and nothing else; the next call goes on from there.

    Raises:
        ValueError: the record was made with other settings; ``restart=True`` begins a new one.
    """
    path = _record_path(experiment.name, folder)
    record = Record(
        experiment.name, experiment.settings, machine.describe(), machine.versions(), torch.get_num_threads()
    )
    if path.is_file() and not restart:
        found = load(experiment.name, folder=folder)
        if found.settings != _plain(experiment.settings):
            raise ValueError(
                f"{path} was recorded with the settings {found.settings}, the experiment now has "
                f"{_plain(experiment.settings)}: run it with --restart to record it anew"
            )
        if len(found.runs) < len(experiment.seeds) and (found.machine, found.versions, found.threads) != (
            record.machine, record.versions, record.threads
        ):  # fmt: skip
            raise ValueError(
                f"{path} was begun on {found.machine} ({found.versions}, {found.threads} threads), this is "
                f"{record.machine} ({record.versions}, {record.threads} threads): --restart records it anew"
            )
        record = found
    done = {entry["seed"] for entry in record.runs}
    for seed in experiment.seeds:
        if seed in done:
            say(f"{experiment.name}, seed {seed}: recorded")
            continue
        say(f"{experiment.name}, seed {seed}: running")
        start = time.perf_counter()
        outcome, model = experiment.run(seed, **experiment.settings)
        seconds = time.perf_counter() - start
        record.runs.append({"seed": seed, "seconds": round(seconds, 1), **outcome})
        if model is not None and seed == experiment.seeds[0]:
            state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
            _replace(_model_path(experiment.name, folder), save(state))
        _replace(path, (json.dumps(vars(record), indent=1) + "\n").encode())
        say(f"{experiment.name}, seed {seed}: {seconds:.0f} s")
    return record


def _record_path(name: str, folder: Path | None) -> Path:
    return (folder or results_folder()) / "experiments" / f"{name}.json"


def _model_path(name: str, folder: Path | None) -> Path:
    return (folder or results_folder()) / "models" / f"{name}.safetensors"


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings))


def _replace(path: Path, content: bytes) -> None:
    """Write a file in one step, so that a kill at any moment leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)
