"""The chooser: where it is compared, and how a hand moves it. Many more cases: `test_widgets_chooser.py`."""

from attn_course.widgets import Chooser


def make():
    return Chooser()


def typed(label, text):
    """A hand types into a field, and goes on with Tab."""

    def move(stage):
        field = stage.page.get_by_label(label)
        field.fill(text)
        field.press("Tab")

    return move


def select(label, value):
    return lambda stage: stage.page.get_by_label(label, exact=True).select_option(label=value)


SETTINGS = [
    {},
    {"data_type": "sequential", "sequence_length": 701, "d_model": 320, "batch": 3, "reach": 29},
    {"data_type": "sequential", "task_type": "generation", "sequence_length": 1_009, "training": True},
    {"height": 56, "columns": 40, "channels": 96, "training": True, "task_type": "detection"},
    {"data_type": "mixed", "frames": 7, "height": 53, "columns": 61, "computational_budget": "low"},
    {"latency_s": 1e-6},
    {"height": 23, "columns": 29, "memory_bytes": 2**21, "batch": 11, "accuracy": 0.5},
]

MOVES = {
    "a height is typed in": typed("Height H", "56"),
    "the data become a sequence": select("Data", "A sequence of tokens"),
    "another task puts what looks at places first": select("Task", "Detection: what is where"),
    "less memory throws the first choice out": lambda stage: stage.slide("Memory limit", "ArrowLeft", 12),
    "a limit of time leaves the gates": typed("Time limit, ms", "250"),
    "training is switched on": lambda stage: stage.page.get_by_label("Training").press("Space"),
    "a question of the chapter is taken over": select(
        "A question to begin with", "Video: 30 frames of 112 × 112, what is where"
    ),
}
