"""Part of a probe is decoded to the bits that it has in the whole, whatever is there already, on every architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_task_engine import HEADER, questions
from tiny_archs import ARCHS, SLIDING
from tiny_gguf import write_tiny

from quantprobe.engine.model import Model
from quantprobe.engine.runner import n_probe_tokens, probe_blocks
from quantprobe.gguf.model import read_model_info
from quantprobe.probes.items import TaskProbe
from quantprobe.probes.prompts import prompt_questions
from quantprobe.probes.task import task_probe
from quantprobe.probes.templates import TEMPLATES
from quantprobe.probes.text import TextProbe
from quantprobe.settings import Settings

SETTINGS = Settings(n_ctx=32, n_threads=1, n_gpu_layers=0)
"""Flash attention and float16 values, as by default: another place in the buffer then shows in the last bits."""


@dataclass(frozen=True)
class Rows:
    """What the blocks of a probe held, and what was decoded for them."""

    ids: list[NDArray[np.int64]]
    logits: dict[int, bytes]
    n_tokens: int


def decode(model: Model, probe: TextProbe | TaskProbe, done: Any = None, llama_geometry: bool = False) -> Rows:
    ids, logits, n_tokens = [], {}, 0
    for block in probe_blocks(model, probe, llama_geometry=llama_geometry, done=done):
        ids.append(block.row_ids.copy())
        logits |= {int(row): values.tobytes() for row, values in zip(block.row_ids, block.logits, strict=True)}
        n_tokens += block.n_tokens
    return Rows(ids, logits, n_tokens)


def check_resume(model: Model, probe: TextProbe | TaskProbe, masks: int = 3, llama_geometry: bool = False) -> None:
    """Interrupt after some blocks, and leave out random ones: all rows as in one go."""
    whole = decode(model, probe, llama_geometry=llama_geometry)
    n_blocks = len(whole.ids)
    assert n_blocks > 3
    rng = np.random.default_rng(5)
    kept = [np.arange(n_blocks) < n for n in sorted({1, n_blocks // 2, n_blocks - 1})]
    kept += [rng.random(n_blocks) < 0.5 for _ in range(masks)]
    for mask in kept:
        done = np.zeros(probe.n_rows, np.bool_)
        for number in np.flatnonzero(mask):
            done[whole.ids[number]] = True
        left = decode(model, probe, done, llama_geometry)
        assert set(left.logits) == set(np.flatnonzero(~done).tolist())
        assert all(left.logits[row] == whole.logits[row] for row in left.logits)
        assert left.n_tokens <= n_probe_tokens(model, probe, done, llama_geometry) <= whole.n_tokens
    assert n_probe_tokens(model, probe, np.ones(probe.n_rows, np.bool_), llama_geometry) == 0


@pytest.fixture(scope="module", params=list(ARCHS))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of each architecture; the sliding window is shorter than the texts and questions."""
    arch = request.param
    window = {f"{arch}.attention.sliding_window": 16} if arch in SLIDING else None
    return write_tiny(tmp_path_factory.mktemp(arch) / f"{arch}.gguf", arch, extra=window, n_ctx_train=512)


@pytest.fixture(params=[24, 64])
def model(request: pytest.FixtureRequest, tiny: Path) -> Iterator[Model]:
    """In micro-batches shorter than a window, a header and a question, and in longer ones."""
    with Model(read_model_info(tiny), replace(SETTINGS, n_ubatch=request.param)) as loaded:
        yield loaded


def text(n_windows: int, n_ctx: int = 32) -> TextProbe:
    return TextProbe("t", np.random.default_rng(3).integers(3, 259, (n_windows, n_ctx), dtype=np.int32), None)


def task(model: Model, header: str, n: int = 8) -> TaskProbe:
    """Two runs of questions behind two headers, and some without one."""
    made = questions(header, n) + questions(header[::-1], n // 2, seed=2) + questions("", 2, seed=3)
    made = [replace(question, id=f"q{number}") for number, question in enumerate(made)]
    _, prompted = prompt_questions(made, TEMPLATES["plain"])
    return task_probe("t", prompted, model.tokenize, "tokens", "plain", 512)[0]


def test_a_text_goes_on_to_the_same_bits(model: Model) -> None:
    check_resume(model, text(7))


@pytest.mark.parametrize("header", ["", HEADER], ids=["no header", "header"])
def test_a_task_goes_on_to_the_same_bits(model: Model, header: str) -> None:
    check_resume(model, task(model, header))


def test_batches_of_llama_perplexity_go_on_to_the_same_bits(tiny: Path) -> None:
    settings = replace(SETTINGS, n_batch=64, n_ubatch=24, n_parallel=8)
    with Model(read_model_info(tiny), settings) as model:
        check_resume(model, text(8), llama_geometry=True)
        if not model.is_recurrent:
            check_resume(model, task(model, HEADER))


def test_a_step_that_is_left_out_is_not_decoded(model: Model) -> None:
    """The header is decoded again for the last question, the other questions are not."""
    probe = task(model, HEADER)
    done = np.ones(probe.n_rows, np.bool_)
    done[probe.offsets()[7]] = False
    every, left = n_probe_tokens(model, probe), n_probe_tokens(model, probe, done)
    assert len(probe.items[7].prefix) <= left < every / 2


@pytest.mark.model
def test_the_real_model_goes_on_to_the_same_bits(smollm2: Path) -> None:
    with Model(read_model_info(smollm2), Settings(n_ctx=64, n_ubatch=128, n_threads=2, n_gpu_layers=0)) as model:
        check_resume(model, TextProbe("t", text(8, 64).tokens, None), masks=1)
        check_resume(model, task(model, HEADER * 3, 16), masks=1)
