"""Quants that a sweep makes or gets itself: all beforehand, or each when it is needed, deleted once it is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from quantprobe.engine.quantize_plan import QuantPlan
from quantprobe.engine.recipe import Recipe
from quantprobe.errors import InputError
from quantprobe.gguf.model import read_model_info
from quantprobe.gguf.parts import model_name
from quantprobe.locks import locked
from quantprobe.run.folder import RunFolder
from quantprobe.run.results import Drawn, Quant, Results
from quantprobe.sweep.deciding import DecidePlan
from quantprobe.sweep.inputs import Progress
from quantprobe.sweep.keeping import measured_before
from quantprobe.sweep.ladder import Order, Record
from quantprobe.sweep.lines import Line, Variant, line_name, measure_lines
from quantprobe.sweep.measuring import Measuring
from quantprobe.sweep.quantizing import make_orders, order_quants, plan_orders
from quantprobe.sweep.quants import UnjudgedQuant


@dataclass(frozen=True)
class Making:
    """What is to be made, planned; `keeps_files`: whether the files stay when they have been measured."""

    orders: tuple[Order, ...]
    plans: tuple[QuantPlan, ...]
    keeps_files: bool = True


def plan_making(base: Path, types: Sequence[str], imatrices: Sequence[Path | None], keeps_files: bool = True) -> Making:
    """Plan the quants of `base`, and refuse what cannot be made; see `order_quants` and `plan_quants`."""
    orders = order_quants(base, types, imatrices, Recipe("F32"))
    return Making(tuple(orders), tuple(plan_orders(base, orders)), keeps_files)


class Named(Protocol):
    """A quant that is not there yet; its name is that of its file, with or without `.gguf`."""

    @property
    def name(self) -> str: ...


Item = TypeVar("Item", bound=Named)


class Supply(Protocol[Item]):
    """Where quants come from whose files exist only as long as they are measured."""

    base: Path

    @property
    def orders(self) -> Sequence[Item]:
        """All of them."""

    def finished(self, order: Item) -> Quant | None:
        """What is recorded of one that was measured, without its numbers; None if it was not."""

    def lend(self, order: Item) -> AbstractContextManager[Path]:
        """Its file, there for the length of a block. It stays if the block fails."""

    def remember(self, order: Item, quant: Quant) -> None:
        """Record what was measured, before its file is deleted."""

    def lock(self, order: Item) -> Path:
        """Held while one is made or fetched, measured and deleted."""


class Workshop:
    """Makes the quants of a run in `RUN/quants`."""

    def __init__(self, base: Path, run: RunFolder, making: Making, progress: Progress) -> None:
        self.base = base
        self.orders = making.orders
        self._plans: Mapping[str, QuantPlan] = {
            order.name: plan for order, plan in zip(making.orders, making.plans, strict=True)
        }
        self._run = run
        self._progress = progress

    @cached_property
    def _record(self) -> Record:
        return Record.of(self.base, self._run.quants, self._progress)

    def check_names(self, quants: Sequence[Path]) -> None:
        """Raise `InputError` if one of the quants given has the name of one to be made, and is not that file."""
        for order in self.orders:
            for path in quants:
                if model_name(path) == model_name(Path(order.name)) and not self._is_own(path):
                    raise InputError(f"{path} and the {order.name} to be made have one name; rename the file")

    def _is_own(self, path: Path) -> bool:
        return path.resolve().parent == self._run.quants.resolve()

    def make_all(self) -> list[Path]:
        """Make all that are not there yet; gives the first file of each."""
        with locked(self._run.lock("quants"), self._tell):
            made = make_orders(self.base, self._run.quants, self.orders, list(self._plans.values()), self._progress, 1)
        return [each.files[0] for each in made]

    def _tell(self) -> None:
        self._progress.note(f"another process is making quants in {self._run.quants}; waiting for it")

    def finished(self, order: Order) -> Quant | None:
        """What is recorded of a quant that was made by the same recipe, measured and deleted, without its numbers."""
        return self._record.measured(order)

    @contextmanager
    def lend(self, order: Order) -> Iterator[Path]:
        """The file, made now unless it is there. After the block it is deleted; not if that fails."""
        (made,) = make_orders(self.base, self._run.quants, [order], [self._plans[order.name]], self._progress, 1)
        yield made.files[0]
        for file in made.files:
            file.unlink()

    def remember(self, order: Order, quant: Quant) -> None:
        """Record what was measured, before its file is deleted."""
        self._record.remember_measured(order, quant)

    def lock(self, order: Order) -> Path:
        """Held while a quant is made, measured and deleted."""
        return self._run.lock(f"make {order.name}")


Findings = Mapping[str, tuple[str, ...]]
"""What is odd or broken about files, by their recorded path."""
LinesOfFiles = Callable[[Sequence[Path]], tuple[Sequence[Line], Findings]]
"""The lines of files, identified by content, and what is odd about these."""


def with_findings(quants: Sequence[UnjudgedQuant], findings: Findings) -> list[UnjudgedQuant]:
    """The same with what was found about their files."""
    return [replace(one, quant=replace(one.quant, findings=findings.get(one.quant.path, ()))) for one in quants]


class OnDemand:
    """Measures quants whose files exist only as long as they are needed."""

    def __init__(
        self,
        supply: Supply[Any],
        measuring: Measuring,
        variants: Sequence[Variant],
        earlier: Results | None,
        in_part: bool,
    ) -> None:
        self.supply = supply
        self._measuring = measuring
        self.variants = variants
        self._in_part = in_part
        self._drawn = {quant.content: quant.drawn for quant in earlier.quants} if earlier and in_part else {}

    @property
    def names(self) -> set[str]:
        """Of all lines."""
        stems = [model_name(Path(order.name)) for order in self.supply.orders]
        return {line_name(stem, variant) for stem in stems for variant in self.variants}

    @property
    def n_lines_left(self) -> int:
        """Lines of files that are not measured yet."""
        return len(self.variants) * len(self.left())

    def left(self) -> list[Any]:
        """Those that are not measured on everything that this run asks for."""
        return [order for order in self.supply.orders if self._done(order) is None]

    def measure(
        self, decide: DecidePlan | None, groupings: Mapping[str, str], lines_of_files: LinesOfFiles
    ) -> list[UnjudgedQuant]:
        """All lines of all quants, in order; `lines_of_files` reads and checks one that was made."""
        found: list[UnjudgedQuant] = []
        for order in self.supply.orders:
            done = self._done(order)
            if done is None:
                with locked(self.supply.lock(order), lambda name=order.name: self._tell(name)):  # type: ignore[misc]
                    done = self._done(order)  # by another process, while this one waited
                    if done is None:
                        found += self._make_and_measure(order, decide, groupings, lines_of_files)
                        continue
            info = read_model_info(self.supply.base)
            found += [measured_before(self._measuring, quant, info) for quant in done]
        return found

    def _tell(self, name: str) -> None:
        self._measuring.progress.note(f"another process is measuring {name}; waiting for it")

    def _make_and_measure(
        self, order: Order, decide: DecidePlan | None, groupings: Mapping[str, str], lines_of_files: LinesOfFiles
    ) -> list[UnjudgedQuant]:
        with self.supply.lend(order) as path:
            lines, findings = lines_of_files([path])
            found = with_findings(measure_lines(self._measuring, lines, decide, groupings), findings)
            bare = replace(found[0].quant, name=model_name(path), variant={}, texts={}, drawn=None)
            self.supply.remember(order, bare)
        return found

    def _done(self, order: Order) -> list[Quant] | None:
        """The lines of a quant that was measured on everything that this run asks for; None if anything is missing."""
        quant = self.supply.finished(order)
        if quant is None:
            return None
        lines = [replace(quant, name=line_name(quant.name, variant), variant=variant) for variant in self.variants]
        lines = [replace(line, drawn=self._drawn.get(line.content)) for line in lines]
        if not all(self._fits(line.drawn) for line in lines):
            return None
        left = [self._measuring.under(line.variant).left(line, self._in_part) for line in lines]
        return None if any(left) else lines

    def _fits(self, drawn: Drawn | None) -> bool:
        """Whether the questions of a quant that decodes a sample were drawn from the tasks of this run."""
        tasks = {probe.name for probe in self._measuring.probes if probe.name in self._measuring.names("task")}
        return not (self._in_part and tasks) or (drawn is not None and set(drawn.tasks) == tasks)


class Workers(Protocol):
    """Other machines that measure before this one does (`quantprobe.cluster.Crew`)."""

    def measure(self, measuring: Measuring, lines: Sequence[Line], demands: Sequence[OnDemand]) -> list[str]:
        """Put into the run's folder what it lacks of all lines; gives what was allowed to differ between machines."""
