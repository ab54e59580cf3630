"""Writes synthetic RUN folders (results.json, items, rows) whose law is known; deterministic."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from quantprobe.run.tables import COLUMNS
from scipy import stats

from quantprobe.names import safe_name

ROW_FLOATS = [
    "nll_base",
    "nll",
    "kld",
    "kld_reverse",
    "jsd",
    "tv",
    "top_k_overlap",
    "delta_p",
    "delta_logp",
    "base_entropy",
    "base_confidence",
]
TYPES = [
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q4_K_M",
    "Q4_K_S",
    "IQ4_XS",
    "Q3_K_L",
    "Q3_K_M",
    "IQ3_M",
    "Q3_K_S",
    "IQ3_XS",
    "Q2_K",
    "IQ2_M",
    "IQ2_XS",
    "IQ1_M",
]


@dataclass(frozen=True)
class FakeQuant:
    """`kld` is the mean KLD (nats) on texts; `shift` what it does to the margins of right answers (nats)."""

    name: str
    kld: float
    shift: float
    size_bytes: int


@dataclass(frozen=True)
class FakeRun:
    quants: tuple[FakeQuant, ...]
    tasks: dict[str, int] = field(default_factory=lambda: {"arc": 80, "hella": 80})
    texts: dict[str, int] = field(default_factory=lambda: {"wiki": 256})
    n_choices: int = 4
    row_window: int = 32
    with_files: bool = True
    seed: int = 0
    base_sha256: str = "b" * 64
    settings: dict[str, Any] = field(
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
    folder.mkdir(parents=True, exist_ok=True)
    quants = [_quant(folder, run, quant) for quant in run.quants]
    results = {
        "format_version": 1,
        "base": {
            "name": "Fake-F16",
            "path": "Fake-F16.gguf",
            "sha256": run.base_sha256,
            "size_bytes": 270_000_000,
            "bpw": 16.0,
            "architecture": "llama",
            "n_vocab": 49_152,
            "tokenizer_sha256": "t" * 64,
        },
        "settings": run.settings,
        "null_control": {
            "texts": {
                name: {
                    "kld_mean": estimate(np.zeros(n), "nats"),
                    "kld_max": 0.0,
                    "same_top": estimate(np.ones(n), "fraction"),
                }
                for name, n in run.texts.items()
            },
            "tasks": {name: {"drops": 0, "leapfrogs": 0} for name in run.tasks},
        },
        "quants": quants,
        "study": {},
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False), encoding="utf-8", newline="\n")
    return folder


def estimate(values: Any, unit: str, n_clusters: int | None = None) -> dict[str, Any]:
    """A mean as the contract's E, with a normal interval; enough for a synthetic file."""
    values = np.asarray(values, float)
    n = len(values)
    mean, stderr = float(values.mean()), float(values.std(ddof=1) / np.sqrt(n))
    return {
        "value": mean,
        "stderr": stderr,
        "low": mean - 1.96 * stderr,
        "high": mean + 1.96 * stderr,
        "level": 0.95,
        "n": n,
        "n_clusters": n_clusters or n,
        "unit": unit,
    }


def _rng(run: FakeRun, *names: str) -> np.random.Generator:
    digest = hashlib.sha256("/".join((str(run.seed), *names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _quant(folder: Path, run: FakeRun, quant: FakeQuant) -> dict[str, Any]:
    return {
        "name": quant.name,
        "path": f"Fake-{quant.name}.gguf",
        "sha256": hashlib.sha256(f"{run.seed} {quant}".encode()).hexdigest(),
        "size_bytes": quant.size_bytes,
        "bpw": quant.size_bytes / 270e6 * 16,
        "file_type": quant.name,
        "imatrix": {"file": "imatrix.gguf", "dataset": "calibration.txt", "entries_count": 210, "chunks_count": 100}
        if quant.name.startswith("IQ")
        else None,
        "texts": {name: _text(folder, run, quant, name, n) for name, n in run.texts.items()},
        "tasks": {name: _task(folder, run, quant, name, n) for name, n in run.tasks.items()},
    }


def _text(folder: Path, run: FakeRun, quant: FakeQuant, name: str, n_rows: int) -> dict[str, Any]:
    base, rng = _rng(run, name), _rng(run, name, quant.name)
    hardness = base.normal(0, 1.5, n_rows)
    nll_base, entropy = base.gamma(1.5, 1.5, n_rows), base.gamma(2, 1, n_rows)
    confidence, base_right = base.uniform(0.1, 1, n_rows), base.random(n_rows) < 0.45
    kld = quant.kld * np.exp(hardness + rng.normal(0, 0.5, n_rows) - 1.25)
    delta_p = rng.normal(-0.1, 1, n_rows) * np.sqrt(kld) * 0.2
    flip = rng.random(n_rows) < np.minimum(0.45, 0.4 * np.sqrt(kld))
    rows: dict[str, Any] = {
        "nll_base": nll_base,
        "nll": nll_base + rng.normal(0.2, 1, n_rows) * np.sqrt(kld),
        "kld": kld,
        "kld_reverse": kld * np.exp(rng.normal(0, 0.1, n_rows)),
        "jsd": kld / 8,
        "tv": np.minimum(1, np.sqrt(kld / 2)),
        "same_top": ~flip,
        "top_k_overlap": np.clip(1 - np.sqrt(kld) / 4, 0, 1),
        "delta_p": delta_p,
        "delta_logp": delta_p * 2,
        "base_entropy": entropy,
        "base_confidence": confidence,
        "base_right": base_right,
        "quant_right": base_right & ~flip | ~base_right & flip & (rng.random(n_rows) < 0.3),
        "finite": np.ones(n_rows, bool),
        "windows": (np.arange(n_rows) // run.row_window).astype(np.int32),
    }
    if run.with_files:
        file = folder / "rows" / safe_name(quant.name) / f"{safe_name(name)}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, **rows)
    return _text_entry(rows)


def _text_entry(rows: dict[str, Any]) -> dict[str, Any]:
    kld, n = rows["kld"], len(rows["kld"])
    clusters = int(rows["windows"].max()) + 1
    ratio = estimate(rows["nll"] - rows["nll_base"], "nats", clusters)
    return {
        "ppl": estimate(np.full(n, np.exp(rows["nll"].mean())), "ppl", clusters),
        "ppl_base": estimate(np.full(n, np.exp(rows["nll_base"].mean())), "ppl", clusters),
        "ln_ppl_ratio": ratio,
        "kld_mean": estimate(kld, "nats", clusters),
        "kld_median": float(np.median(kld)),
        **{
            f"kld_p{name}": float(np.percentile(kld, q))
            for name, q in (("90", 90), ("95", 95), ("99", 99), ("999", 99.9))
        },
        "kld_max": float(kld.max()),
        "kld_geomean": float(np.exp(np.log(kld).mean())) if kld.min() > 0 else None,
        "kld_reverse_mean": estimate(rows["kld_reverse"], "nats", clusters),
        "jsd_mean": estimate(rows["jsd"], "nats", clusters),
        "tv_mean": estimate(rows["tv"], "fraction", clusters),
        "top_k_overlap": estimate(rows["top_k_overlap"], "fraction", clusters),
        "same_top": estimate(rows["same_top"], "fraction", clusters),
        "delta_p_mean": estimate(rows["delta_p"], "probability", clusters),
        "delta_p_rms": {
            **estimate(rows["delta_p"] ** 2, "probability", clusters),
            "value": float(np.sqrt((rows["delta_p"] ** 2).mean())),
        },
        "token_drops": int((rows["base_right"] & ~rows["quant_right"]).sum()),
        "token_leapfrogs": int((~rows["base_right"] & rows["quant_right"]).sum()),
        "n_rows": n,
        "n_nonfinite": 0,
    }


def _task(folder: Path, run: FakeRun, quant: FakeQuant, name: str, n_items: int) -> dict[str, Any]:
    base, rng = _rng(run, name), _rng(run, name, quant.name)
    gold = base.integers(0, run.n_choices, n_items)
    base_scores = base.normal(0, 1, (n_items, run.n_choices)) - 20
    base_scores[np.arange(n_items), gold] += 1.2
    scores = base_scores + rng.normal(0, np.sqrt(quant.kld) * 0.5, base_scores.shape)
    scores[np.arange(n_items), gold] += quant.shift
    sides = [_answers(side, gold) for side in (base_scores, scores)]
    kld = quant.kld * np.exp(rng.normal(-0.5, 1, n_items)) + 0.02 * quant.kld * np.abs(sides[1][1] - sides[0][1])
    if run.with_files:
        _write_items(folder, run, quant, name, gold, (base_scores, scores), sides, kld)
    return _task_entry(sides, kld)


def _answers(scores: Any, gold: Any) -> tuple[Any, Any, Any]:
    """Prediction, margin and gold probability of each item, `[n_items]` each."""
    at = np.arange(len(gold))
    others = scores.copy()
    others[at, gold] = -np.inf
    probs = np.exp(scores - scores.max(1, keepdims=True))
    return scores.argmax(1), scores[at, gold] - others.max(1), (probs / probs.sum(1, keepdims=True))[at, gold]


def _write_items(
    folder: Path, run: FakeRun, quant: FakeQuant, name: str, gold: Any, scores: Any, sides: Any, kld: Any
) -> None:
    (base_pred, base_margin, base_prob), (pred, margin, prob) = sides
    file = folder / "items" / safe_name(quant.name) / f"{safe_name(name)}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for i in range(len(gold)):
            lists = [json.dumps([round(float(x), 6) for x in side[i]]) for side in scores]
            writer.writerow(
                [
                    f"{name}-{i}",
                    f"subject-{i % 20}",
                    gold[i],
                    base_pred[i],
                    pred[i],
                    int(base_margin[i] > 0),
                    int(margin[i] > 0),
                    base_margin[i],
                    margin[i],
                    base_prob[i],
                    prob[i],
                    kld[i],
                    run.n_choices + 1,
                    *lists,
                ]
            )


def _task_entry(sides: Any, kld: Any) -> dict[str, Any]:
    (base_pred, base_margin, base_prob), (pred, margin, prob) = sides
    base_right, right = base_margin > 0, margin > 0
    drops, leapfrogs, n = int((base_right & ~right).sum()), int((~base_right & right).sum()), len(kld)
    flips = drops + leapfrogs
    p = float(stats.binomtest(drops, flips).pvalue) if flips else 1.0
    net = estimate(right.astype(float) - base_right, "fraction")
    verdict = ("worse" if net["value"] < 0 else "better") if p < 0.05 else "not separable"
    return {
        "rule": "tokens",
        "acc": estimate(right, "fraction"),
        "acc_base": estimate(base_right, "fraction"),
        "acc_norm": estimate(right, "fraction"),
        "drops": drops,
        "leapfrogs": leapfrogs,
        "wrong_to_other_wrong": int((~base_right & ~right & (pred != base_pred)).sum()),
        "volume": estimate(right != base_right, "fraction"),
        "net": net,
        "direction_index": (leapfrogs - drops) / flips if flips else None,
        "margin_shift": estimate(margin - base_margin, "nats"),
        "gold_prob_shift": estimate(prob - base_prob, "probability"),
        "mcnemar_p": p,
        "holm_p": min(1.0, p * 8),
        "verdict": verdict,
        "margin": 0.01,
        "mde": 2.8 * float(net["stderr"]) if net["stderr"] else None,
        "kld_mean": estimate(kld, "nats"),
        "n_items": n,
        "n_invalid": 0,
    }
