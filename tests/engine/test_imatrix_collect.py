"""Importance matrices collected here against llama-imatrix's files and against NumPy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_archs import N_EXPERT_USED
from tiny_gguf import write_tiny

pytest.importorskip("quantprobe._native", reason="the native extension is not built")

from quantprobe import _native
from quantprobe.cli.main import cli
from quantprobe.engine.imatrix_collect import Collector
from quantprobe.engine.model import Model
from quantprobe.errors import EngineError, InputError
from quantprobe.gguf.model import read_model_info
from quantprobe.imatrix.file import read_imatrix
from quantprobe.imatrix.matrix import Imatrix
from quantprobe.probes.text import TextProbe, text_probe
from quantprobe.settings import Settings
from quantprobe.sweep import collecting
from quantprobe.sweep.collecting import CollectJob, collect_imatrix
from quantprobe.sweep.inputs import SILENT

DATA = Path(__file__).parents[1] / "imatrix" / "data"
TEXT = "the cat sat on the mat and ate another tin of tea.\n" * 12
MODELS = {"dense": "llama", "experts": "olmoe"}
SETTINGS = Settings(n_ctx=64, n_batch=64, n_threads=1, n_gpu_layers=0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: write_tiny(folder / f"{name}.gguf", arch, n_layer=1) for name, arch in MODELS.items()}


def probe_of(model: Model, n_ctx: int = 64, n_chunks: int | None = None) -> TextProbe:
    tokens = model.tokenize(TEXT.removesuffix("\n"), add_special=True, parse_special=False)
    return text_probe("text", tokens, n_ctx, n_chunks, model.bos)


def collected(path: Path, settings: Settings = SETTINGS, process_output: bool = True, **window: Any) -> Imatrix:
    with Model(read_model_info(path), settings) as model:
        collector = Collector(model, probe_of(model, **window), process_output)
        for _ in collector.run():
            pass
        return collector.imatrix("text.txt")


def assert_close(found: Imatrix, expected: Imatrix, rtol: float = 1e-4) -> None:
    assert list(found.entries) == list(expected.entries)
    for name, entry in expected.entries.items():
        assert np.array_equal(found.entries[name].counts, entry.counts), name
        np.testing.assert_allclose(found.entries[name].sums, entry.sums, rtol=rtol, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_values_are_llama_imatrixs(models: dict[str, Path], name: str) -> None:
    found = collected(models[name])
    expected = read_imatrix(DATA / f"{name}.imatrix.gguf")
    assert_close(found, expected)
    assert (found.n_chunks, found.chunk_size, found.datasets) == (13, 64, ("text.txt",))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("n_batch", "n_ubatch", "rtol"), [(256, 256, 1e-4), (64, 24, 1e-2), (2048, 64, 1e-2)])
def test_batches_change_nothing_but_rounding(
    models: dict[str, Path], name: str, n_batch: int, n_ubatch: int, rtol: float
) -> None:
    """Whole windows, pieces of one window, a few tokens of every window: attention has other kernels for small ones."""
    settings = Settings(n_ctx=64, n_batch=n_batch, n_ubatch=n_ubatch, n_threads=1, n_gpu_layers=0)
    assert_close(collected(models[name], settings), read_imatrix(DATA / f"{name}.imatrix.gguf"), rtol)


def test_the_first_layers_input_is_the_normed_embedding(models: dict[str, Path]) -> None:
    tensors = {t.name: np.asarray(t.data) for t in gguf.GGUFReader(models["dense"]).tensors}
    with Model(read_model_info(models["dense"]), SETTINGS) as model:
        tokens = probe_of(model).decoded().reshape(-1)
    rows = tensors["token_embd.weight"][tokens].astype(np.float64)
    normed = rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5) * tensors["blk.0.attn_norm.weight"]
    entries = collected(models["dense"]).entries
    for role in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(entries[f"blk.0.{role}.weight"].sums[0], (normed**2).sum(axis=0), rtol=1e-5)


def test_experts_are_counted_by_the_tokens_sent_to_them(models: dict[str, Path]) -> None:
    entries = collected(models["experts"], n_chunks=3).entries
    up, gate, down = (entries[f"blk.0.ffn_{role}_exps.weight"] for role in ("up", "gate", "down"))
    assert up.counts.sum() == 3 * 64 * N_EXPERT_USED and len(set(up.counts.tolist())) > 1
    assert np.array_equal(up.counts, down.counts) and np.array_equal(up.sums, gate.sums)
    # every token goes to N_EXPERT_USED experts, so over the experts its squares are counted so often
    router = entries["blk.0.ffn_gate_inp.weight"]
    np.testing.assert_allclose(up.sums.sum(axis=0), N_EXPERT_USED * router.sums[0], rtol=1e-6)


def test_without_the_output_its_product_is_left_out(models: dict[str, Path]) -> None:
    found = collected(models["dense"], process_output=False)
    expected = dict(read_imatrix(DATA / "dense.imatrix.gguf").entries)
    del expected["output.weight"]
    assert_close(found, Imatrix(expected))


def test_shared_inputs_are_read_once(models: dict[str, Path]) -> None:
    with Model(read_model_info(models["dense"]), SETTINGS) as model:
        collector = Collector(model, probe_of(model, n_chunks=2))
        assert sum(collector.run()) == 2 * 64
    # attn_k and attn_v after attn_q, and one of ffn_gate and ffn_up, in each of two batches
    assert collector._native.n_shared == 2 * 3


def test_small_windows_are_refused(models: dict[str, Path]) -> None:
    with (
        Model(read_model_info(models["dense"]), SETTINGS) as model,
        pytest.raises(InputError, match="--ctx-size 8 is too small to collect on; use 16 or more"),
    ):
        Collector(model, probe_of(model, n_ctx=8))


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "nan.gguf", n_layer=1)
    reader = gguf.GGUFReader(path, "r+")
    [norm] = [t for t in reader.tensors if t.name == "blk.0.ffn_norm.weight"]
    norm.data[3] = np.inf
    reader.data.flush()
    del reader, norm
    with pytest.raises(EngineError, match=r"nan.gguf: the input of blk.0.ffn_(gate|up).weight holds NaN or infinity"):
        collected(path)


class Stop:
    """Progress that is interrupted after some advances."""

    def __init__(self, after: int) -> None:
        self.after, self.notes = after, list[str]()

    def plan(self, n_jobs: int, n_tokens: int) -> None: ...
    def start(self, label: str, total: int | None, unit: str) -> None:
        self.unit = unit

    def advance(self, n: int = 1) -> None:
        if self.unit == "tok":
            self.after -= 1
            if self.after == 0:
                raise KeyboardInterrupt

    def finish(self) -> None: ...
    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize("name", MODELS)
def test_an_interrupted_job_goes_on(tmp_path: Path, models: dict[str, Path], name: str) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8", newline="\n")
    job, out = CollectJob(tmp_path / "text.txt", process_output=True), tmp_path / "im.gguf"
    with pytest.raises(KeyboardInterrupt):
        collect_imatrix(models[name], job, SETTINGS, out, Stop(5))
    checkpoint = tmp_path / "im.gguf.checkpoint"
    assert checkpoint.exists() and not out.exists()
    again = Stop(0)
    found = collect_imatrix(models[name], job, SETTINGS, out, again)
    assert again.notes == ["continuing after 5 windows"] and not checkpoint.exists()
    whole = collected(models[name])
    for label, entry in whole.entries.items():
        assert np.array_equal(found.entries[label].sums, entry.sums), label
        assert np.array_equal(found.entries[label].counts, entry.counts), label


def test_an_interruption_after_a_decode_is_settled_by_the_counts(models: dict[str, Path]) -> None:
    with Model(read_model_info(models["dense"]), SETTINGS) as model:
        collector = Collector(model, probe_of(model))
        steps = collector.run()
        next(steps)
        collector.n_windows, collector._n_group = 0, 1  # as if the interruption came before the window was noted
        steps.close()
        assert collector.settle() and collector.n_windows == 1


@pytest.mark.parametrize("damage", ["cut", "text"])
def test_a_checkpoint_that_does_not_fit_is_told(tmp_path: Path, models: dict[str, Path], damage: str) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8", newline="\n")
    job, out = CollectJob(tmp_path / "text.txt", n_chunks=2), tmp_path / "im.dat"
    with pytest.raises(KeyboardInterrupt):
        collect_imatrix(models["dense"], job, SETTINGS, out, Stop(1))
    checkpoint = tmp_path / "im.dat.checkpoint"
    if damage == "cut":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    else:
        (tmp_path / "text.txt").write_text(f"once more {TEXT}", encoding="utf-8", newline="\n")
    again = Stop(0)
    collect_imatrix(models["dense"], job, SETTINGS, out, again)
    assert len(again.notes) == 1 and again.notes[0].endswith("collecting from the start")
    assert read_imatrix(out).is_legacy


def test_checkpoints_are_saved_on_the_way(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8", newline="\n")
    monkeypatch.setattr(collecting, "CHECKPOINT_SECONDS", 0.0)
    saved: list[int] = []
    monkeypatch.setattr(collecting._Checkpoint, "save", lambda self: saved.append(self._collector.n_windows))
    collect_imatrix(models["dense"], CollectJob(tmp_path / "text.txt"), SETTINGS, tmp_path / "im.gguf", SILENT)
    assert saved == list(range(1, 14))


def test_the_layout_is_checked_before_use() -> None:
    collector = _native.ImatrixCollector(True)
    assert collector.error == "" and collector.entries() == [] and collector.address


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["imatrix", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def made(tmp_path: Path, models: dict[str, Path]) -> Iterator[tuple[Path, Path]]:
    """Two matrices of the model with experts, on the same text and on a part of it."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8", newline="\n")
    options = ("--text", text, "-c", 64, "-t", 1, "-ngl", 0)
    for name, chunks in (("a", 4), ("b", 9)):
        status, words = run("collect", models["experts"], *options, "--chunks", chunks, "-o", tmp_path / f"{name}.gguf")
        assert status == 0 and f"{chunks} chunks of 64 tokens" in words, words
    yield tmp_path / "a.gguf", tmp_path / "b.gguf"


def test_the_commands_show_merge_compare_and_convert(tmp_path: Path, made: tuple[Path, Path]) -> None:
    a, b = made
    status, words = run("show", a, "--details", "--json", tmp_path / "show.json")
    assert status == 0 and "blk.0.ffn_down_exps.weight" in words and "4/4" in words
    document = json.loads((tmp_path / "show.json").read_text(encoding="utf-8"))
    assert document["n_chunks"] == 4 and len(document["tensors"]) == 8
    assert run("show", b)[0] == 0
    status, words = run("merge", a, b, "-o", tmp_path / "both.gguf")
    assert status == 0 and "26 chunks" not in words
    assert read_imatrix(tmp_path / "both.gguf").entries["blk.0.attn_q.weight"].counts.tolist() == [13 * 64]
    picture = tmp_path / "picture.png"
    status, words = run("compare", a, b, "--plot", picture, "--json", tmp_path / "compare.json")
    assert status == 0, words
    assert "Rank correlation" in words and picture.read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))["tensors"]) == 8
    assert run("convert", a, "-o", tmp_path / "old.dat")[0] == 0
    assert read_imatrix(tmp_path / "old.dat").is_legacy
    assert run("convert", tmp_path / "old.dat", "--chunk-size", 64, "-o", tmp_path / "new.gguf")[0] == 0
    assert read_imatrix(tmp_path / "new.gguf").entries["blk.0.attn_q.weight"].counts.tolist() == [4 * 64]


def test_common_passages_are_warned_of(tmp_path: Path, models: dict[str, Path]) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8", newline="\n")
    (tmp_path / "eval.txt").write_text(f"{TEXT[:120]} {'other words here ' * 5}", encoding="utf-8")
    status, words = run(
        "collect", models["dense"], "--text", tmp_path / "text.txt", "--check-against", tmp_path / "eval.txt",
        "-c", 64, "--chunks", 2, "-t", 1, "-ngl", 0, "-o", tmp_path / "im.gguf", "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert status == 0 and "warning: " in words and "such as 'the cat sat on the mat and ate" in words
    [found] = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["overlaps"]
    assert found["n"] == 13 and 0.5 < found["share"] < 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "absent.gguf"), "cannot read the importance matrix absent.gguf"),
        (("merge", "a.gguf", "-o", "b.gguf"), "merging needs at least two files"),
        (("collect", "absent.gguf", "--text", "x", "-o", "y"), "there is no model absent.gguf"),
        (("compare", "a.gguf", "a.gguf"), "cannot read the importance matrix a.gguf"),
    ],
)
def test_bad_calls_are_told(arguments: tuple[str, ...], message: str) -> None:
    status, words = run(*arguments)
    assert status == 1 and message in words


@pytest.mark.model
def test_the_real_model_gives_a_matrix_that_quantizes_it(smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    settings = Settings(n_ctx=64, n_threads=1, n_gpu_layers=0)
    job = CollectJob(tmp_path / "text.txt", n_chunks=2)
    found = collect_imatrix(smollm2, job, settings, tmp_path / "im.gguf", SILENT)
    assert len(found.entries) == 30 * 7 and {entry.counts[0] for entry in found.entries.values()} == {128}
