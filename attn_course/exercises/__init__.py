"""Exercises that recognise the mistake.

>>> from attn_course.exercises import catalog, get
>>> get("causal-mask").check(None).passed is None      # not attempted
True

An exercise is three things, kept apart so that it can be judged in a notebook, in a test, or with the learner's
code in another process, where neither judge nor solutions are:

=====================  ================================================================  =======================
file                   what it holds                                                     beside the learner's code
=====================  ================================================================  =======================
``task.py``            ``Task`` and ``Case``: what an exercise asks, as data             yes
``chapterN.py``        a chapter's tasks: prompts, stubs, cases                          yes
``guard.py``           a thread with limits; torch's and Python's global state kept      yes
``attempt.py``         does the body do anything, or is it the stub as handed out?       yes
``runner.py``          candidate -> plain observations: arrays, shapes, errors, changes  yes
``chapterN_answers.py``  a chapter's solutions, hints and known wrong answers            no
``judge.py``           observations only -> passed or not, and which mistake             no
``panel.py``           text and coloured panels                                          either
``core.py``            ``Exercise``, ``CheckResult``, ``catalog``, ``get``               either (loads the rest late)
=====================  ================================================================  =======================

To add an exercise: a ``Task`` in its chapter's ``TASKS``, an ``Answer`` of the same id in its ``ANSWERS``, right
and wrong answers in ``tests/exercises``. To add a chapter: the two files. ``catalog`` finds them by their names.

A check asks what the exercise's contract says and nothing else: a right answer that is rejected is the worst fault.
"""

from .core import CheckResult, Exercise, catalog, get

__all__ = ["CheckResult", "Exercise", "catalog", "get"]
