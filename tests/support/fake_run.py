"""Writes RUN folders of simulated rows and items whose law is known, with the real summaries and writers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantprobe.gguf.model import ImatrixInfo, ModelIdentity
from quantprobe.metrics.answers import Answers, answers_from_logprobs
from quantprobe.metrics.rows import ROW_DTYPE
from quantprobe.run.folder import RunFolder
from quantprobe.run.items import PairedAnswers, write_items
from quantprobe.run.judging import AnsweredTask, judge_quants
from quantprobe.run.results import NullControl, NullTask, NullText, Quant, Results, TaskFacts, write_results
from quantprobe.run.rows import write_arrays
from quantprobe.stats.estimates import Estimate, fraction_estimate, mean_estimate
from quantprobe.stats.summary import summarise_text

TYPES = (
    *("Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q3_K_L"),
    *("Q3_K_M", "IQ3_M", "Q3_K_S", "IQ3_XS", "Q2_K", "IQ2_M", "IQ2_XS", "IQ1_M"),
)
N_GROUPS = 20


@dataclass(frozen=True)
class FakeQuant:
    """`kld` is the mean KLD (nats) on texts; `shift` what it does to the margins of right answers (nats)."""

    name: str
    kld: float
    shift: float
    size_bytes: int


@dataclass(frozen=True)
class FakeRun:
    """What to simulate; the same run gives the same numbers, and a quant the same answers in every run of one seed."""

    quants: tuple[FakeQuant, ...]
    tasks: Mapping[str, int] = field(default_factory=lambda: {"arc": 80, "hella": 80})
    """Items of each task; their groups are `subject-0` to `subject-19` in turn."""
    texts: Mapping[str, int] = field(default_factory=lambda: {"wiki": 256})
    """Rows of each text."""
    n_choices: int = 4
    row_window: int = 32
    n_invalid: int = 0
    """The first items of every task that are invalid in the quants: one choice is not finite."""
    n_invalid_base: int = 0
    """The last items of every task that are invalid in the base."""
    grouping: str = "none"
    with_files: bool = True
    with_facts: bool = True
    """Whether results.json tells the rule and the grouping of each task."""
    seed: int = 0
    base_sha256: str = "b" * 64
    floor: float | None = 0.0
    """Mean KLD of the null control on every text; None: no null control was run."""
    margin: float = 0.01
    settings: Mapping[str, Any] = field(
        default_factory=lambda: {"n_ctx": 512, "llama_cpp_version": "b1", "backend": "cpu"}
    )


def ladder(n_quants: int, law: str = "zone", seed: int = 0) -> tuple[FakeQuant, ...]:
    """Quants from 0.001 to 1 nat. Law "zone": no harm below 0.03 nats, then a fall; "line": a fall with every step;
    "null": the files are all the same as the base."""
    rng = np.random.default_rng(seed)
    klds = np.geomspace(0.001, 1.0, n_quants) if n_quants > 1 else np.array([0.01])
    falls = {"zone": np.maximum(0, np.log(klds / 0.03)) * 0.35, "line": np.log(klds / 0.001) * 0.2, "null": 0 * klds}
    shifts = -falls[law] + (rng.normal(0, 0.02, n_quants) if law != "null" else 0)
    sizes = np.linspace(140e6, 50e6, n_quants).astype(int)
    names = [TYPES[i] if i < len(TYPES) else f"CUSTOM_{i}" for i in range(n_quants)]
    klds = klds if law != "null" else 0 * klds
    return tuple(
        FakeQuant(n, float(k), float(s), int(b)) for n, k, s, b in zip(names, klds, shifts, sizes, strict=True)
    )


def write_fake_run(folder: Path, run: FakeRun | None = None) -> Path:
    """Write RUN/results.json and, unless `with_files` is False, RUN/items and RUN/rows; returns the folder."""
    run = run or FakeRun(quants=ladder(8))
    place = RunFolder(folder)
    answers = {(q.name, task): simulate_task(run, q, task) for q in run.quants for task in run.tasks}
    rows = {(q.name, text): simulate_text(run, q, text) for q in run.quants for text in run.texts}
    if run.with_files:
        for (quant, task), pair in answers.items():
            write_items(place.items(quant, task), *pair)
        for (quant, text), one in rows.items():
            write_arrays(place.rows(quant, text), "made up", {**_columns(one), "windows": _windows(run, len(one))})
    write_results(_results(run, answers, rows), place)
    return folder


def simulate_text(run: FakeRun, quant: FakeQuant, name: str) -> NDArray[np.void]:
    """The rows of one text, `[n_rows]` of `ROW_DTYPE`."""
    n_rows = run.texts[name]
    base, rng = _rng(run, name), _rng(run, name, quant.name)
    hardness = base.normal(0, 1.5, n_rows)
    rows = np.zeros(n_rows, ROW_DTYPE)
    rows["nll_base"], rows["base_entropy"] = base.gamma(1.5, 1.5, n_rows), base.gamma(2, 1, n_rows)
    rows["base_confidence"], rows["base_right"] = base.uniform(0.1, 1, n_rows), base.random(n_rows) < 0.45
    rows["kld"] = kld = quant.kld * np.exp(hardness + rng.normal(0, 0.5, n_rows) - 1.25)
    rows["delta_p"] = rng.normal(-0.1, 1, n_rows) * np.sqrt(kld) * 0.2
    flip = rng.random(n_rows) < np.minimum(0.45, 0.4 * np.sqrt(kld))
    rows["nll"] = rows["nll_base"] + rng.normal(0.2, 1, n_rows) * np.sqrt(kld)
    rows["kld_reverse"] = kld * np.exp(rng.normal(0, 0.1, n_rows))
    rows["jsd"], rows["tv"] = kld / 8, np.minimum(1, np.sqrt(kld / 2))
    rows["same_top"], rows["top_k_overlap"] = ~flip, np.clip(1 - np.sqrt(kld) / 4, 0, 1)
    rows["delta_logp"] = rows["delta_p"] * 2
    base_right = rows["base_right"]
    rows["quant_right"] = (base_right & ~flip) | (~base_right & flip & (rng.random(n_rows) < 0.3))
    rows["finite"] = True
    return rows


def simulate_task(run: FakeRun, quant: FakeQuant, name: str) -> tuple[Answers, Answers]:
    """The answers of base and quant to one task."""
    n_items = run.tasks[name]
    base, rng = _rng(run, name), _rng(run, name, quant.name)
    gold = base.integers(0, run.n_choices, n_items).astype(np.int32)
    at = np.arange(n_items)
    base_scores = base.normal(0, 1, (n_items, run.n_choices)) - 20
    base_scores[at, gold] += 1.2
    scores = base_scores + rng.normal(0, np.sqrt(quant.kld) * 0.5, base_scores.shape)
    scores[at, gold] += quant.shift
    scores[: run.n_invalid, 0] = np.nan
    base_scores[n_items - run.n_invalid_base :, 0] = np.nan
    before, after = _answers(run, name, gold, base_scores), _answers(run, name, gold, scores)
    moved = np.nan_to_num(np.abs(after.margin - before.margin))
    return before, replace(after, kld=quant.kld * (np.exp(rng.normal(-0.5, 1, n_items)) + 0.02 * moved))


def _answers(run: FakeRun, name: str, gold: Any, scores: Any) -> Answers:
    n = len(gold)
    return answers_from_logprobs(
        ids=[f"{name}-{i}" for i in range(n)],
        groups=[f"subject-{i % N_GROUPS}" for i in range(n)],
        gold=gold,
        logprobs=scores,
        n_choices=np.full(n, run.n_choices, np.int32),
        n_rows=np.full(n, run.n_choices + 1, np.int32),
    )


def _rng(run: FakeRun, *names: str) -> np.random.Generator:
    digest = hashlib.sha256("/".join((str(run.seed), *names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _windows(run: FakeRun, n_rows: int) -> NDArray[np.int32]:
    return (np.arange(n_rows) // run.row_window).astype(np.int32)


def _columns(rows: NDArray[np.void]) -> dict[str, NDArray[Any]]:
    return {name: rows[name] for name in rows.dtype.names or ()}


def _results(
    run: FakeRun,
    answers: Mapping[tuple[str, str], tuple[Answers, Answers]],
    rows: Mapping[tuple[str, str], NDArray[np.void]],
) -> Results:
    facts = {
        name: TaskFacts(rule="tokens", template="question", n_items=n, grouping=run.grouping)
        for name, n in run.tasks.items()
    }
    quants = [_quant(run, quant, rows) for quant in run.quants]
    results = Results(
        base=ModelIdentity(
            name="Fake-F16", path="Fake-F16.gguf", sha256=run.base_sha256, size_bytes=270_000_000, bpw=16.0,
            file_type="F16", architecture="llama", n_vocab=49_152, tokenizer_sha256="t" * 64,
        ),
        settings=dict(run.settings),
        null_control=_null_control(run),
        tasks=facts if run.with_facts else {},
        quants=judge_quants(quants, _answered(run, answers), run.margin),
    )  # fmt: skip
    return _with_norms(results)


def _answered(run: FakeRun, answers: Mapping[tuple[str, str], tuple[Answers, Answers]]) -> dict[str, AnsweredTask]:
    tasks = {}
    for name in run.tasks if run.quants else ():
        pairs = [PairedAnswers(*answers[quant.name, name]) for quant in run.quants]
        tasks[name] = AnsweredTask("tokens", pairs, [None] * len(pairs), "question", grouping=run.grouping)
    return tasks


def _with_norms(results: Results) -> Results:
    """Accuracy under acc_norm as under the rule itself."""
    quants = [
        replace(quant, tasks={n: replace(t, acc_norm=t.acc, acc_norm_base=t.acc_base) for n, t in quant.tasks.items()})
        for quant in results.quants
    ]
    return replace(results, quants=tuple(quants))


def _quant(
    run: FakeRun,
    quant: FakeQuant,
    rows: Mapping[tuple[str, str], NDArray[np.void]],
) -> Quant:
    imatrix = ImatrixInfo(file="imatrix.gguf", dataset="calibration.txt", entries_count=210, chunks_count=100)
    return Quant(
        name=quant.name,
        path=f"Fake-{quant.name}.gguf",
        sha256=hashlib.sha256(f"{run.seed} {quant}".encode()).hexdigest(),
        size_bytes=quant.size_bytes,
        bpw=quant.size_bytes / 270e6 * 16,
        file_type=quant.name,
        architecture="llama",
        n_vocab=49_152,
        tokenizer_sha256="t" * 64,
        imatrix=imatrix if quant.name.startswith("IQ") else None,
        texts={
            name: summarise_text(rows[quant.name, name], _windows(run, n_rows)) for name, n_rows in run.texts.items()
        },
    )


def _null_control(run: FakeRun) -> NullControl | None:
    if run.floor is None:
        return None
    texts = {name: _null_text(n, run.floor) for name, n in run.texts.items()}
    return NullControl(
        texts=texts,
        tasks={name: NullTask(drops=0, leapfrogs=0, n_rows=n, kld_max=0.0) for name, n in run.tasks.items()},
    )


def _null_text(n_rows: int, floor: float) -> NullText:
    alone = np.arange(n_rows)
    kld: Estimate = mean_estimate(np.full(n_rows, floor), alone, "nats")
    return NullText(kld_mean=kld, kld_max=floor, same_top=fraction_estimate(np.ones(n_rows, bool), alone))
