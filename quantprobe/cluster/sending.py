"""Files for workers that lack them: through a shared folder, or in pieces over the cluster's own connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from quantprobe.capture.store import Capture
from quantprobe.cluster.messages import Part
from quantprobe.cluster.store import is_shared, publish
from quantprobe.cluster.worker import receive, received
from quantprobe.errors import ClusterError, InputError

PIECE_BYTES = 4 << 20
"""Of one message; Dask's scheduler holds a piece only while it passes."""


@dataclass(frozen=True)
class Source:
    """Where the command has the bytes of a part."""

    path: Path
    offset: int = 0


class Sender:
    """Sends parts to workers; `share` is the folder that all of them read, "" for none."""

    def __init__(self, client: Any, share: str, on_note: Callable[[str], None]) -> None:
        self._client = client
        self._share = share
        self._note = on_note
        self._sources: dict[tuple[str, str], Source] = {}
        self._sharing = Lock()

    def know(self, part: Part, source: Source) -> None:
        """Say where a part lies."""
        self._sources[part.folder, part.name] = source

    def know_capture(self, folder: str, capture: Capture, base_model: Path | None) -> None:
        """Say where the files of a capture lie; the output matrix may lie in the base's GGUF."""
        for _, file in capture.meta.files():
            self.know(Part(folder, file.name, file.n_bytes), Source(capture.path / file.name))
        head = capture.meta.head
        if head is not None and not head.embedded:
            self.know(Part(folder, "head.bin", head.n_bytes), Source(base_model or Path(head.path), head.offset))

    def send(self, worker: str, parts: Sequence[Part]) -> None:
        """Bring parts to a worker, each once. Raises `InputError` for a part that is not here, or changed."""
        for part in parts:
            source = self._sources.get((part.folder, part.name))
            if source is None:
                raise InputError(f"{part.folder}/{part.name} is not here; a worker asked for it")
            if self._share:
                with self._sharing:  # two workers that lack the same file
                    if not is_shared(self._share, part):
                        publish(self._share, part, source.path, source.offset)
            else:
                self._note(f"sending {part.name} ({part.n_bytes / 1e9:,.2f} GB) to {worker}")
                self._push(worker, part, source)

    def _push(self, worker: str, part: Part, source: Source) -> None:
        offset = int(self._call(worker, received, part))
        with source.path.open("rb") as file:
            while True:
                file.seek(source.offset + offset)
                data = file.read(min(PIECE_BYTES, part.n_bytes - offset))
                if not data and offset < part.n_bytes:
                    raise InputError(
                        f"{source.path} ends before the {part.n_bytes} bytes that were there; was it changed?"
                    )
                self._call(worker, receive, part, offset, data)
                offset += len(data)
                if offset >= part.n_bytes:
                    return

    def _call(self, worker: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in a worker's own thread, also while it measures."""
        try:
            return self._client.run(function, *args, workers=[worker])[worker]
        except KeyError as error:
            raise ClusterError(f"worker {worker} is gone") from error
