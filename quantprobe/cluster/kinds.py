"""Which workers may measure: those that compute what this machine computes, and others only where they are allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import quantprobe
from quantprobe.cluster.messages import Advert, Job, Lacks, ModelRef, Request
from quantprobe.cluster.sending import Sender
from quantprobe.cluster.worker import advertise, floor, version
from quantprobe.run.compare import Difference, refused_differences, setting_differences
from quantprobe.run.json_text import plain
from quantprobe.sweep.measuring import Measuring

FLOOR_ROUNDS = 4
FLOOR_SECONDS = 600
"""Longest time that the base may take to load there and to decode a block."""


class Kinds:
    """The workers that came, sorted by what moves logits."""

    def __init__(
        self,
        client: Any,
        measuring: Measuring,
        models: Mapping[str, ModelRef],
        allow: Sequence[str],
        sender: Sender,
    ) -> None:
        self._client = client
        self._measuring = measuring
        self._request = Request(measuring.settings.to_dict(), tuple(models.values()))
        self._allow = allow
        self._sender = sender
        self._facts: Mapping[str, Any] = plain(dict(measuring.facts))
        self._adverts: dict[str, Advert] = {}
        self._known: dict[str, bool] = {}
        """By kind of machine, whether it may measure."""
        self.differences: list[str] = []
        """In what workers that measure differ from this machine."""
        self.floor_job: Job | None = None
        """Any job: it says which base and capture a kind of machine is checked with."""

    def holds(self, worker: str) -> tuple[str, ...]:
        """The models that a worker has."""
        return self._adverts[worker].holds

    def accept(self, worker: str) -> bool:
        """Ask a worker that came what it is, tell it, and say whether it may measure."""
        note = self._measuring.progress.note
        try:
            found = self._client.run(version, workers=[worker])[worker]
            if found != quantprobe.__version__:
                note(f"worker {worker} is not used: it has quantprobe {found}, and this is {quantprobe.__version__}")
                return False
            advert: Advert = self._client.run(advertise, self._request, workers=[worker])[worker]
        except Exception as error:  # a worker without quantprobe, or one that just went
            note(f"worker {worker} is not used: {str(error) or type(error).__name__}")
            return False
        self._adverts[worker] = advert
        if advert.error:
            note(f"worker {worker} is not used: {advert.error}")
            return False
        note(
            f"worker {worker} on {advert.host}: {', '.join(advert.devices)}; {advert.memory_bytes / 1e9:.0f} GB free; "
            f"holds {len(advert.holds)} of {len(self._request.models)} models"
        )
        return self._fits(worker, advert)

    def _fits(self, worker: str, advert: Advert) -> bool:
        differences = setting_differences(self._facts, advert.facts)
        kind = repr(sorted(map(str, differences)))
        if kind not in self._known:
            self._known[kind] = self._judge(worker, advert, differences)
        elif not self._known[kind]:
            self._measuring.progress.note(f"worker {worker} is not used: it is of a kind that was refused")
        return self._known[kind]

    def _judge(self, worker: str, advert: Advert, differences: Sequence[Difference]) -> bool:
        moving = [each for each in differences if each.moves_logits]
        if not moving:
            if (
                differences
            ):  # facts that only one side knows: told, as everywhere, and their rows have keys of their own
                unknown = ", ".join(each.name for each in differences)
                self._measuring.progress.note(
                    f"worker {worker} or this machine does not tell {unknown}; they may differ"
                )
                self._measuring.other_machines.append(advert.facts)
            return True
        refused = refused_differences(moving, self._allow)
        what, how_much = "; ".join(map(str, moving)), self._floor(worker)
        if refused:
            options = " ".join(f"--allow {each.name}" for each in refused)
            self._measuring.progress.note(
                f"worker {worker} is not used: it computes other logits than this machine ({what}); {how_much}. "
                f"To mix them all the same: {options}"
            )
            return False
        self._measuring.other_machines.append(advert.facts)
        told = f"some quants were measured on another kind of machine ({what}); {how_much}"
        self.differences.append(told)
        self._measuring.progress.note(told)
        return True

    def _floor(self, worker: str) -> str:
        """How far the base's logits of a worker are from the captured ones, in words."""
        job = self.floor_job
        if job is None:
            return "how far it is was not measured"
        try:
            for _ in range(FLOOR_ROUNDS):
                found = self._client.submit(floor, job, workers=[worker], pure=False).result(FLOOR_SECONDS)
                if not isinstance(found, Lacks):
                    kld, n_rows = found
                    return f"there the base has a mean KLD of {kld:.2g} nats to its captured rows ({n_rows:,} rows)"
                self._sender.send(worker, found.parts)
        except Exception as error:  # the worker may die or hang; without the number the work goes on
            return f"how far it is was not measured: {str(error) or type(error).__name__}"
        return "how far it is was not measured: files did not arrive"
