"""What the page's script draws from: the numbers of every quant as one JSON block."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantprobe.gguf.model import ImatrixInfo
from quantprobe.report.answer import Standing, margin_of, standings
from quantprobe.report.marks import MARKS, mark_of
from quantprobe.report.numbers import MISSING, format_estimate, format_interval, format_net, format_plain, format_size
from quantprobe.report.printable import printable
from quantprobe.report.tables.tasks import POOLED
from quantprobe.run.cohort import Cohort
from quantprobe.run.floor import is_at_floor
from quantprobe.run.json_text import plain
from quantprobe.run.results import Quant
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.summary import TextSummary
from quantprobe.stats.summary_tasks import TaskSummary

if TYPE_CHECKING:
    from quantprobe.study.findings import Findings

Interval = tuple[float, float | None, float | None]
"""Value, low and high."""


@dataclass(frozen=True)
class AnswersView:
    """One quant on one task or on all: net change in points, and the words and counts beside it."""

    net: Interval | None
    net_text: str
    verdict: str
    mark: str
    volume: float | None
    """Share of answers that changed, in percent."""
    outline: tuple[float, float, float, float] | None
    """Half axes and correlation of the joint region of volume and net, in percent, and its radius in half axes."""
    decoded: str
    """Questions of which drops and leapfrogs were counted."""
    drops: str
    leapfrogs: str
    smoothed: str
    """Change of smoothed accuracy with its interval, points."""
    shift: str
    """Margin shift with its interval, nats."""


@dataclass(frozen=True)
class TextView:
    """One quant on one text."""

    kld: Interval | None
    kld_text: str
    tail: float | None
    """99.9 % point of the KLD, nats."""
    tail_text: str
    top: float | None
    """Share of tokens with the same first choice, a fraction."""
    top_text: str
    ppl: str
    at_floor: bool


@dataclass(frozen=True)
class QuantView:
    """One quant; `tasks` and `texts` go with the lists of the page, None where it was not measured."""

    name: str
    label: str
    size: int | None
    size_text: str
    bpw: str
    tasks: tuple[AnswersView | None, ...]
    texts: tuple[TextView | None, ...]
    facts: tuple[tuple[str, str], ...]
    """Size, type, importance matrix, file and hash, as far as they are known."""


@dataclass(frozen=True)
class PageData:
    """Everything that the script needs."""

    quants: tuple[QuantView, ...]
    tasks: tuple[str, ...]
    texts: tuple[str, ...]
    floors: tuple[float | None, ...]
    """The instrument's floor of each text, nats."""
    margin: float
    """In points."""
    take: int | None
    """The recommended quant's place."""


def page_data(cohort: Cohort, findings: Findings | None, take: str | None) -> PageData:
    """Gather the numbers; `take` is the name of the recommended quant."""
    stood = standings(cohort, findings)
    pooled = len(cohort.tasks) > 1 and any(s.change is not None and not s.on for s in stood)
    names = [quant.name for quant in cohort.quants]
    return PageData(
        quants=tuple(_quant(cohort, quant, s, pooled) for quant, s in zip(cohort.quants, stood, strict=True)),
        tasks=(*((POOLED,) if pooled else ()), *map(printable, cohort.tasks)),
        texts=tuple(map(printable, cohort.texts)),
        floors=tuple(cohort.floor(text) or None for text in cohort.texts),
        margin=100 * margin_of(cohort, findings),
        take=names.index(take) if take is not None else None,
    )


def json_block(data: PageData) -> str:
    """The data as JSON that can stand inside a script element of HTML: nothing in it can end the element."""
    text = json.dumps(plain(data), separators=(",", ":"), allow_nan=False)  # ASCII: no line separators either
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def file_name(path: str) -> str:
    """The file's own name: the page is published, and the folders of its author are nobody's business."""
    return printable(path.replace("\\", "/").rsplit("/", 1)[-1])


def imatrix_text(imatrix: ImatrixInfo | None) -> str:
    """What the file says about its importance matrix."""
    if imatrix is None:
        return "none recorded"
    known = {
        "dataset": imatrix.dataset, "file": imatrix.file, "entries": imatrix.entries_count,
        "chunks": imatrix.chunks_count,
    }  # fmt: skip
    told = [f"{key} {file_name(str(value))}" for key, value in known.items() if value is not None]
    return ", ".join(told) or "yes, no details in the file"


def variant_text(variant: Mapping[str, str]) -> str:
    """The cache types of a line where they are not the run's; empty where they are."""
    return printable(", ".join(f"{name.removeprefix('type_').upper()} {kind}" for name, kind in variant.items()))


def _quant(cohort: Cohort, quant: Quant, standing: Standing, pooled: bool) -> QuantView:
    size = MISSING if quant.size_bytes is None else format_size(quant.size_bytes)
    facts = {
        "Size": size, "bpw": format_plain(quant.bpw), "File type": printable(quant.file_type),
        "Importance matrix": imatrix_text(quant.imatrix), "Cache": variant_text(quant.variant),
        "File": file_name(quant.path), "SHA-256": printable(quant.sha256),
    }  # fmt: skip
    return QuantView(
        name=printable(quant.name),
        label=standing.label,
        size=quant.size_bytes,
        size_text=size,
        bpw=facts["bpw"],
        tasks=_tasks(cohort, quant, standing, pooled),
        texts=tuple(_text(cohort, quant.texts[t], t) if t in quant.texts else None for t in cohort.texts),
        facts=tuple((key, value) for key, value in facts.items() if value not in ("", MISSING)),
    )


def _tasks(cohort: Cohort, quant: Quant, standing: Standing, pooled: bool) -> tuple[AnswersView | None, ...]:
    """One view per task, before them one of all together; the first shows the numbers that the answer is made of."""
    found = [quant.tasks.get(task) for task in cohort.tasks]
    views = [None if task is None else _view(task.net, task.volume, task.verdict, task) for task in found]
    if not pooled and len(views) != 1:
        return tuple(views)
    summary = quant.pooled if pooled else found[0]
    known = standing.change is not None and not standing.on
    first = _view(standing.change, standing.volume, standing.verdict, summary) if known else None
    return (first, *(views if pooled else ()))


def _view(
    net: Estimate | None, volume: Estimate | None, verdict: str | None, summary: TaskSummary | None
) -> AnswersView:
    drops, leapfrogs = (None, None) if summary is None else (summary.drops, summary.leapfrogs)
    decoded = None if summary is None else summary.n_decoded or summary.n_items
    return AnswersView(
        net=_interval(net, 100),
        net_text=format_net(net, None if summary is None else summary.margin),
        verdict=verdict if verdict is not None and verdict in MARKS else "no verdict",
        mark=mark_of(verdict).css,
        volume=None if volume is None or volume.value is None else 100 * volume.value,
        outline=_outline(net, volume),
        decoded=MISSING if decoded is None else f"{decoded:,}",
        drops=MISSING if drops is None else f"{drops:,}",
        leapfrogs=MISSING if leapfrogs is None else f"{leapfrogs:,}",
        smoothed=format_interval(None if summary is None else summary.net_smoothed, 100),
        shift=format_interval(None if summary is None else summary.margin_shift),
    )


def _outline(net: Estimate | None, volume: Estimate | None) -> tuple[float, float, float, float] | None:
    """The region that holds volume and net jointly at their level, about its middle.

    With d = +1, -1 or 0 for each item (leapfrog, drop, neither) volume is mean |d| and net is mean d, so their
    covariance over items is net (1 - volume) / n; the (clustered) standard errors take that correlation.
    """
    if net is None or volume is None or net.value is None or not volume.value:
        return None
    if net.stderr is None or volume.stderr is None:
        return None
    root = math.sqrt(max(volume.value * (1 - volume.value) * (volume.value - net.value**2), 0.0))
    rho = max(-1.0, min(1.0, net.value * (1 - volume.value) / root)) if root else 0.0
    radius = math.sqrt(-2 * math.log1p(-net.level))  # of a normal in two dimensions
    return 100 * volume.stderr, 100 * net.stderr, rho, radius


def _text(cohort: Cohort, text: TextSummary, name: str) -> TextView:
    return TextView(
        kld=_interval(text.kld_mean),
        kld_text=format_estimate(text.kld_mean),
        tail=text.kld_p999,
        tail_text=format_plain(text.kld_p999),
        top=None if text.same_top is None else text.same_top.value,
        top_text=format_estimate(text.same_top, 100),
        ppl=format_interval(text.ln_ppl_ratio),
        at_floor=is_at_floor(text.kld_mean, cohort.floor(name)),
    )


def _interval(estimate: Estimate | None, scale: float = 1.0) -> Interval | None:
    if estimate is None or estimate.value is None:
        return None
    low, high = (None if end is None else end * scale for end in (estimate.low, estimate.high))
    return estimate.value * scale, low, high
