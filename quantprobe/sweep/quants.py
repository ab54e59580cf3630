"""Measures one quant on texts and tasks; it is judged later, beside the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from quantprobe.arrays import Int64Array
from quantprobe.gguf.model import ModelInfo
from quantprobe.metrics.answers import Answers
from quantprobe.probes.items import TaskProbe
from quantprobe.probes.rules import RULES
from quantprobe.probes.text import TextProbe
from quantprobe.run.items import Sample, write_items
from quantprobe.run.results import Drawn, Quant
from quantprobe.stats.llama_summary import LlamaStatistics, summarise_llama
from quantprobe.stats.summary import TextSummary
from quantprobe.sweep.deciding import DecidePlan, decide_tasks
from quantprobe.sweep.measured import MeasuredTask
from quantprobe.sweep.measuring import LazyModel, Measuring


@dataclass(frozen=True, eq=False)
class Answered:
    """What base and quant answered to one task, under its rule and under that of acc_norm where that was scored."""

    answers: tuple[Answers, Answers]
    norm: tuple[Answers, Answers] | None = None


@dataclass(frozen=True, eq=False)
class UnjudgedQuant:
    """A quant with the summaries of its texts and its answers to tasks."""

    quant: Quant
    answered: Mapping[str, Answered] = field(default_factory=dict)
    llama: Mapping[str, LlamaStatistics] = field(default_factory=dict)
    """By text, the statistics in llama-perplexity's own arithmetic; only where asked for."""


def measure_quant(
    measuring: Measuring, info: ModelInfo, decide: DecidePlan | None, groupings: Mapping[str, str]
) -> UnjudgedQuant:
    """Measure one quant on every probe of this run; with `decide`, on a sample of the questions."""
    texts: dict[str, TextSummary] = {}
    llama: dict[str, LlamaStatistics] = {}
    drawn: Drawn | None = None
    answered: dict[str, Answered] = {}
    with LazyModel(info, measuring.settings, measuring.progress) as model:
        for probe in measuring.probes:
            if isinstance(probe, TextProbe):
                text = measuring.text(model, probe)
                texts[probe.name] = text.summary()
                if measuring.llama_compat:
                    llama[probe.name] = summarise_llama(text.rows)
        tasks = {probe.name: probe for probe in measuring.probes if isinstance(probe, TaskProbe)}
        if decide is not None and tasks:
            drawn, answered = _decide(measuring, model, tasks, texts, decide, groupings)
        else:
            for name, probe in tasks.items():
                answered[name] = _keep_answers(measuring, info.name, measuring.task(model, probe))
    quant = Quant(**vars(info.identity()), imatrix=info.imatrix, texts=texts, drawn=drawn)
    return UnjudgedQuant(quant, answered, llama)


def _decide(
    measuring: Measuring,
    model: LazyModel,
    tasks: Mapping[str, TaskProbe],
    texts: Mapping[str, TextSummary],
    plan: DecidePlan,
    groupings: Mapping[str, str],
) -> tuple[Drawn, dict[str, Answered]]:
    """Decode questions of all tasks together until the quant is decided."""

    def decode(name: str, wanted: Int64Array) -> tuple[Answers, Answers]:
        return measuring.task(model, tasks[name], wanted).answers()

    klds = [text.kld_mean.value for text in texts.values() if text.kld_mean.value is not None]
    base = {name: measuring.base_answers(model.info, probe) for name, probe in tasks.items()}
    kld = max(0.0, float(np.mean(klds))) if klds else None
    found = decide_tasks(base, groupings, kld, plan, decode)
    answered = {}
    for name, probe in tasks.items():
        measured = measuring.task(model, probe, np.empty(0, np.int64))
        answered[name] = _keep_answers(measuring, model.info.name, measured, base[name], found.samples[name])
    return found.drawn, answered


def _keep_answers(
    measuring: Measuring,
    quant: str,
    measured: MeasuredTask,
    base: Answers | None = None,
    sample: Sample | None = None,
) -> Answered:
    """A quant's answers, written as a table too."""
    answered = answers_of(measured, base)
    write_items(measuring.run.items(quant, measured.probe.name), *answered.answers, sample)
    return answered


def answers_of(measured: MeasuredTask, base: Answers | None = None) -> Answered:
    """The answers that were measured; `base` are those of the base to all items, where the quant decoded a sample."""
    answers = measured.answers()
    norm = RULES[measured.probe.rule].norm
    if base is not None:
        return Answered((base, answers[1]))
    return Answered(answers, None if norm is None else measured.answers(norm))
