"""Experiments that take longer than a chapter may: run once, recorded, shown in the chapter.

``core`` runs and records, one file per chapter says what is run. ``python -m attn_course.experiments`` is the command.
A chapter shows the record (``load``) and repeats one seed live, smaller.
"""

from .core import Experiment, Record, catalog, get, load, load_model

__all__ = ["Experiment", "Record", "catalog", "get", "load", "load_model"]
