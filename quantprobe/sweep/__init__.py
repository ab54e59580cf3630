"""The main job: what to run, what is done already, in which order."""

from quantprobe.sweep.capturing import capture_base
from quantprobe.sweep.comparing import Outcome, captured_settings, compare_quants
from quantprobe.sweep.deciding import Budget
from quantprobe.sweep.inputs import Inputs, Progress, TaskInput, TextInput
from quantprobe.sweep.job import sweep
from quantprobe.sweep.lines import cache_variants
from quantprobe.sweep.making import Making, plan_making

__all__ = [
    "Budget",
    "Inputs",
    "Making",
    "Outcome",
    "Progress",
    "TaskInput",
    "TextInput",
    "cache_variants",
    "capture_base",
    "captured_settings",
    "compare_quants",
    "plan_making",
    "sweep",
]
