"""Results of made-up but plausible numbers, for tests of what is drawn and written from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantprobe.gguf.model import ModelIdentity
from quantprobe.run.cohort import Cohort, merge_runs
from quantprobe.run.folder import RunFolder
from quantprobe.run.results import NullControl, NullTask, NullText, Quant, Results, TaskFacts
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.summary import TextSummary
from quantprobe.stats.summary_tasks import TaskSummary

# name, size in bytes, bits per weight, mean KLD in nats: a 4-billion-parameter model's usual ladder
LADDER = [
    ("Q8_0", 4_280_405_600, 8.5, 0.00061),
    ("Q6_K", 3_306_260_800, 6.57, 0.0021),
    ("UD-Q5_K_XL", 2_917_000_000, 5.8, 0.0052),
    ("Q5_K_M", 2_889_513_500, 5.74, 0.0057),
    ("Q5_K_S", 2_823_711_200, 5.61, 0.0064),
    ("UD-Q4_K_XL", 2_553_200_000, 5.07, 0.0149),
    ("Q4_K_M", 2_497_281_120, 4.96, 0.0171),
    ("Q4_K_S", 2_383_309_000, 4.73, 0.0213),
    ("IQ4_XS", 2_270_750_000, 4.51, 0.0224),
    ("Q4_0", 2_375_400_000, 4.72, 0.0391),
    ("Q3_K_M", 2_075_617_000, 4.12, 0.0682),
    ("Q2_K", 1_669_500_000, 3.31, 0.312),
]
N_ROWS, N_WINDOWS = 10_200, 40
BASE = ModelIdentity(
    name="Qwen3-4B-BF16", path="/models/Qwen3-4B-BF16.gguf", sha256="ab" * 32, size_bytes=8_051_284_640, bpw=16.0,
    file_type="BF16", architecture="qwen3", n_vocab=151_936, tokenizer_sha256="cd" * 32,
)  # fmt: skip
SETTINGS = {
    "n_ctx": 512,
    "flash_attn": True,
    "tensor_split": [],
    "llama_cpp_version": "0.5.0",
    "backend": "CPU",
}


def estimate(value: float | None, stderr: float | None = None, unit: str = "nats") -> Estimate:
    """An estimate whose interval is two standard errors wide on each side."""
    low, high = (None, None) if value is None or stderr is None else (value - 2 * stderr, value + 2 * stderr)
    return Estimate(value, stderr, low, high, 0.95, N_ROWS, N_WINDOWS, unit)


def text_numbers(kld: float, **changes: Any) -> TextSummary:
    """The numbers of one quant on one text, scaled from its mean KLD; `changes` replaces members."""
    summary = TextSummary(
        ppl=estimate(12.353 * (1 + kld), 0.509, "ppl"),
        ppl_base=estimate(12.353, 0.507, "ppl"),
        ln_ppl_ratio=estimate(kld * 0.9, kld * 0.05),
        kld_mean=estimate(kld, kld * 0.03),
        kld_median=kld * 0.5,
        kld_p90=kld * 2.2,
        kld_p95=kld * 3.2,
        kld_p99=kld * 6.4,
        kld_p999=kld * 14,
        kld_max=kld * 31,
        same_top=estimate(1 - 0.45 * kld**0.5, 0.0041, "fraction"),
        delta_p_mean=estimate(-0.03 * kld**0.5, 0.0008, "probability"),
        delta_p_rms=estimate(0.25 * kld**0.5, 0.0025, "probability"),
        token_drops=120,
        token_leapfrogs=88,
        n_rows=N_ROWS,
        n_nonfinite=0,
    )
    return replace(summary, **changes)


def fake_results(
    texts: tuple[str, ...] = ("wiki",),
    floor: float | None = 4.2e-6,
    *,
    tasks: Mapping[str, list[TaskSummary]] | None = None,
    facts: Mapping[str, TaskFacts] | None = None,
    pooled: list[TaskSummary] | None = None,
    n_quants: int = len(LADDER),
) -> Results:
    """The content of a results.json: `LADDER` on `texts`; of each task (and `pooled`) one summary per quant."""
    tasks = tasks or {}
    null = None if floor is None else null_text(floor)
    return Results(
        base=BASE,
        settings=SETTINGS,
        null_control=NullControl(
            texts=dict.fromkeys(texts, null), tasks=dict.fromkeys(tasks, NullTask(drops=0, leapfrogs=0))
        ),
        tasks=facts or {},
        quants=tuple(
            replace(
                fake_quant(i, texts),
                tasks={name: summaries[i] for name, summaries in tasks.items()},
                pooled=None if pooled is None else pooled[i],
            )
            for i in range(n_quants)
        ),
    )


def fake_quant(number: int, texts: tuple[str, ...] = ("wiki",)) -> Quant:
    """Line `number` of `LADDER` as a quant."""
    name, size, bpw, kld = LADDER[number]
    return Quant(
        name=f"Qwen3-4B-{name}",
        path=f"/models/Qwen3-4B-{name}.gguf",
        sha256=f"{number:02x}" * 32,
        size_bytes=size,
        bpw=bpw,
        file_type=name,
        architecture="qwen3",
        n_vocab=151_936,
        tokenizer_sha256="cd" * 32,
        texts={text: text_numbers(kld) for text in texts},
    )


def null_text(floor: float) -> NullText:
    """The null control of one text, its mean KLD `floor` nats."""
    return NullText(kld_mean=estimate(floor, floor / 10), kld_max=floor * 20, same_top=estimate(1.0, 0.0, "fraction"))


def change_quant(results: Results, number: int, text: str = "wiki", **changes: Any) -> Results:
    """The same results with other numbers of one quant on one text."""
    quants = list(results.quants)
    quant = quants[number]
    quants[number] = replace(quant, texts={**quant.texts, text: replace(quant.texts[text], **changes)})
    return replace(results, quants=tuple(quants))


def as_cohort(results: Results, folder: Path = Path("fake.run")) -> Cohort:
    """A cohort of one run that need not lie on disk."""
    return merge_runs([RunFolder(folder)], [results])
