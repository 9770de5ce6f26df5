"""Which attention to take: constraints and evidence in, a ranked recommendation out; and whether it was right.

``candidates`` says what there is to choose from, ``prediction`` how long each will take on a machine, ``selector`` what
the rules are, ``scenarios`` holds the choice against measurements.
"""

from .candidates import Candidate
from .prediction import Machine, machine_of
from .scenarios import (
    RULES,
    SCENARIOS,
    Scenario,
    agreement,
    comparisons,
    load_scenarios,
    run_scenarios,
    scenario_machines,
)
from .selector import (
    BUDGET_TOKENS,
    BUDGETS,
    DATA_TYPES,
    TASK_TYPES,
    TASKS,
    AttentionSelector,
    usage_examples,
)

__all__ = [
    "BUDGETS",
    "BUDGET_TOKENS",
    "DATA_TYPES",
    "RULES",
    "SCENARIOS",
    "TASKS",
    "TASK_TYPES",
    "AttentionSelector",
    "Candidate",
    "Machine",
    "Scenario",
    "agreement",
    "comparisons",
    "load_scenarios",
    "machine_of",
    "run_scenarios",
    "scenario_machines",
    "usage_examples",
]
