"""The main road end to end on tiny models: files, results.json, resuming, two machines, base files of llama.cpp."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture_cases import flip_byte
from road_cases import fail, files, kld_values, results, run, run_process, succeed, write_letters
from tiny_gguf import write_tiny

from quantprobe.capture import Capture
from quantprobe.engine import model as engine_model
from quantprobe.gguf.model import read_head_source
from quantprobe.metrics.rows import ROW_DTYPE
from quantprobe.names import safe_name
from quantprobe.run.rows import read_arrays, write_arrays
from quantprobe.sweep import base_decode, inputs, measuring

ESTIMATE = {"value", "stderr", "low", "high", "level", "n", "n_clusters", "unit"}
TEXT_ESTIMATES = {"ppl", "ppl_base", "ln_ppl_ratio", "kld_mean", "same_top", "delta_p_mean", "delta_p_rms"}
TEXT_NUMBERS = {"kld_median", "kld_p90", "kld_p95", "kld_p99", "kld_p999", "kld_max"}
TEXT_COUNTS = {"token_drops", "token_leapfrogs", "n_rows", "n_nonfinite"}


class World:
    """A base, two quants and a text in one folder whose name is not ASCII."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "Ordner mit ünïcode 模型"
        self.folder.mkdir()
        self.base = write_tiny(self.folder / "base.gguf", head_type="F16")
        self.near = write_tiny(self.folder / "quant é 1.gguf", weight_type="Q8_0")
        self.far = write_tiny(self.folder / "far.gguf", noise=0.2)
        self.text = write_letters(self.folder / "text ä.txt")
        self.run = self.folder / "out put" / "run"
        self.capture = self.folder / "base.qpc"

    def sweep(self, *arguments: object) -> list[object]:
        return ["sweep", self.base, self.near, self.far, "--text", f"t={self.text}", "-c", 32, "-t", 1,
                "-o", self.run, *arguments]  # fmt: skip

    def capture_command(self, *arguments: object) -> list[object]:
        return ["capture", self.base, "--text", f"t={self.text}", "-c", 32, "-t", 1, "-o", self.capture, *arguments]

    def compare(self, *quants: object) -> list[object]:
        return ["compare", self.capture, *(quants or [self.near]), "-t", 1, "-o", self.run]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def rows_name(quant: str) -> str:
    return f"rows/{safe_name(quant)}/t.npz"


def forbid_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(inputs, "Model", refuse)


def test_sweep_writes_the_contract(world: World) -> None:
    printed = succeed(*world.sweep()).stdout
    for word in ("base (base)", "quant é 1", "far", "Mean KLD", "Same top", "GB", "bpw"):
        assert word in printed
    found = files(world.run)
    capture_files = [name for name in found if ".qpc/" in name]
    assert len(capture_files) == 3
    expected = {"results.json", "results.csv", "results.md", "kld_vs_size.png", "report/report.html"}
    assert set(found) - set(capture_files) == expected | {rows_name("far"), rows_name("quant é 1")}

    document = results(world.run)
    assert set(document) == {"format_version", "base", "settings", "null_control", "quants", "tasks"}
    assert document["format_version"] == 1
    identity = {"name", "path", "sha256", "size_bytes", "bpw", "file_type"}
    identity |= {"architecture", "n_vocab", "tokenizer_sha256"}
    assert set(document["base"]) == identity
    settings = {"n_ctx", "n_batch", "n_ubatch", "n_threads", "n_gpu_layers", "flash_attn", "type_k", "type_v"}
    assert settings | {"llama_cpp_version", "backend", "devices", "texts", "n_chunks"} <= set(document["settings"])
    control = document["null_control"]["texts"]["t"]
    assert (control["kld_mean"]["value"], control["kld_max"], control["same_top"]["value"]) == (0.0, 0.0, 1.0)

    assert [quant["name"] for quant in document["quants"]] == ["quant é 1", "far"]
    for quant in document["quants"]:
        assert set(quant) == identity | {"imatrix", "texts", "tasks", "pooled"}
        assert (quant["imatrix"], quant["tasks"]) == (None, {})
        entry = quant["texts"]["t"]
        assert set(entry) >= TEXT_ESTIMATES | TEXT_NUMBERS | TEXT_COUNTS
        for name in TEXT_ESTIMATES:
            assert set(entry[name]) == ESTIMATE
            assert entry[name]["low"] <= entry[name]["value"] <= entry[name]["high"]
            assert (entry[name]["n"], entry[name]["n_clusters"]) == (180, 12)
        assert (entry["n_rows"], entry["n_nonfinite"]) == (180, 0)
    near, far = kld_values(document)
    assert 0 < near < 0.01 < far


def test_rows_file_holds_every_row(world: World) -> None:
    succeed(*world.sweep())
    with np.load(world.run / "rows" / "far" / "t.npz") as arrays:
        rows = {name: arrays[name] for name in arrays.files}
    assert set(rows) == {*(ROW_DTYPE.names or ()), "windows", "key"}
    assert rows["kld"].shape == (180,)
    assert np.array_equal(rows["windows"], np.repeat(np.arange(12), 15))
    assert rows["kld"].mean() == pytest.approx(kld_values(results(world.run))[1], rel=1e-12)


def test_json_alone_on_standard_output(world: World) -> None:
    ended = run_process(*world.sweep("--json", "-"))
    assert (ended.status, ended.stderr) == (0, "")
    assert json.loads(ended.stdout) == results(world.run)


def test_a_finished_run_loads_no_model(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed(*world.sweep())
    before = results(world.run)
    forbid_models(monkeypatch)
    succeed(*world.sweep())
    assert results(world.run) == before


def test_touching_and_moving_is_no_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed(*world.sweep())
    before = kld_values(results(world.run))
    for path in (world.base, world.near, world.text):
        os.utime(path, (1e9, 1e9))
    moved = world.folder / "moved"
    moved.mkdir()
    world.base = world.base.rename(moved / "renamed.gguf")
    world.near = world.near.rename(moved / world.near.name)
    world.text = world.text.rename(moved / "other.txt")
    forbid_models(monkeypatch)
    succeed(*world.sweep())
    found = results(world.run)
    assert kld_values(found) == before
    assert found["quants"][0]["path"] == str(world.near)


def count_models(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that are loaded from now on."""
    loaded: list[str] = []

    def load(info: Any, *arguments: Any) -> Any:
        loaded.append(info.name)
        return engine_model.Model(info, *arguments)

    monkeypatch.setattr(inputs, "Model", load)
    return loaded


def keep_times(path: Path, change: Any) -> None:
    """A change of content behind the same name, size and time."""
    stat = path.stat()
    change()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size


def test_a_changed_quant_is_noticed_by_content(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed(*world.sweep())
    before = kld_values(results(world.run))
    loaded = count_models(monkeypatch)
    keep_times(world.far, lambda: write_tiny(world.far, noise=0.1))
    succeed(*world.sweep())
    after = kld_values(results(world.run))
    assert loaded == ["far"]
    assert after[0] == before[0] and after[1] < before[1]


def test_a_changed_text_is_noticed_by_content(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed(*world.sweep())
    before = kld_values(results(world.run))
    loaded = count_models(monkeypatch)
    keep_times(world.text, lambda: write_letters(world.text, seed=1))
    succeed(*world.sweep())
    assert loaded == ["base", "quant é 1", "far"]
    assert kld_values(results(world.run)) != before


def test_a_base_that_differs_in_its_head_alone_is_another_base(world: World) -> None:
    """Its hidden rows are the same, and its logits are not."""
    same = shutil.copy(world.base, world.folder / "same.gguf")
    succeed("sweep", world.base, same, "--text", f"t={world.text}", "-c", 32, "-t", 1, "-o", world.run)
    assert kld_values(results(world.run)) == [0.0]
    head = read_head_source(world.base)
    keep_times(world.base, lambda: flip_byte(world.base, head.offset + head.n_bytes - 1, mask=0x40))
    succeed("sweep", world.base, same, "--text", f"t={world.text}", "-c", 32, "-t", 1, "-o", world.run)
    assert kld_values(results(world.run))[0] > 0


@pytest.mark.parametrize(
    "change",
    [("-ctk", "f32"), ("-fa", "off"), ("-ub", 16), ("-b", 16), ("-c", 64), ("--chunks", 5), ("--kind", "logprobs")],
    ids=str,
)
def test_a_changed_setting_is_measured_anew(
    world: World, change: tuple[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed(*world.sweep())
    loaded = count_models(monkeypatch)
    succeed(*world.sweep(*change))
    assert loaded == ["base", "quant é 1", "far"]
    monkeypatch.undo()
    forbid_models(monkeypatch)
    succeed(*world.sweep(*change))


def test_a_changed_thread_count_keeps_the_quants_rows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads move no number on the CPU, so captured rows stay the same and so do the comparisons."""
    succeed(*world.sweep())
    before = results(world.run)
    succeed(*world.sweep("-t", 2))
    assert kld_values(results(world.run)) == kld_values(before)


def test_base_against_itself_is_exactly_zero(world: World) -> None:
    same = Path(shutil.copy(world.base, world.folder / "same.gguf"))
    printed = succeed("sweep", world.base, same, "--text", f"t={world.text}", "-c", 32, "-o", world.run).stdout
    entry = results(world.run)["quants"][0]["texts"]["t"]
    assert (entry["kld_mean"]["value"], entry["kld_max"], entry["same_top"]["value"]) == (0.0, 0.0, 1.0)
    assert entry["ppl"]["value"] == entry["ppl_base"]["value"]
    assert "same" in printed


def interrupt_at(monkeypatch: pytest.MonkeyPatch, module: Any, n_blocks: int) -> None:
    """Ctrl-C after some blocks, counted over all models."""
    original = module.probe_blocks
    left = n_blocks

    def blocks(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        for block in original(*arguments, **options):
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(module, "probe_blocks", blocks)


SMALL_BATCH = ("-ub", 32)
"""One window in a batch: 12 blocks a text."""


def test_an_interrupted_capture_continues(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write_letters(world.folder / "second.txt", seed=5)
    command = [*world.capture_command(*SMALL_BATCH), "--text", f"u={other}"]
    with monkeypatch.context() as patch:
        interrupt_at(patch, base_decode, 12 + 5)  # the first text and a part of the second
        stopped = run(*command)
    assert (stopped.exit_code, stopped.stdout) == (130, "")
    assert stopped.stderr == "stopped; re-run the command to resume\n"
    assert not world.capture.exists()

    labels: list[int] = []
    original = base_decode.probe_blocks

    def counted(*arguments: Any, **options: Any) -> Any:
        for block in original(*arguments, **options):
            labels.append(len(block.row_ids))
            yield block

    monkeypatch.setattr(base_decode, "probe_blocks", counted)
    succeed(*command)
    assert len(labels) == 12 - 5  # what the second text still lacked; the self-check is remembered
    assert not list(world.folder.glob("*.partial"))
    continued = Capture.open(world.capture)
    continued.verify()
    whole = Capture.open(fresh_capture(world, *SMALL_BATCH, "--text", f"u={other}"))
    assert [entry.rows.sha256 for entry in continued.meta.probes] == [entry.rows.sha256 for entry in whole.meta.probes]


def fresh_capture(world: World, *arguments: object) -> Path:
    path = world.folder / "fresh.qpc"
    succeed(*world.capture_command(*arguments)[:-2], *arguments[-2:], "-o", path)
    return path


def test_an_interrupted_compare_continues(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed(*world.capture_command(*SMALL_BATCH))
    command = world.compare(world.near, world.far)
    with monkeypatch.context() as patch:
        interrupt_at(patch, measuring, 12 + 5)  # within the second quant
        assert run(*command).exit_code == 130
    assert files(world.run) == [f"{rows_name('far')}.checkpoint/0.npz", rows_name("quant é 1")]
    loaded = count_models(monkeypatch)
    succeed(*command)
    assert loaded == ["far"]
    assert not [name for name in files(world.run) if "partial" in name]


def test_interrupt_during_the_load(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp calls back while it loads; an exception cannot cross it."""
    monkeypatch.setattr(inputs, "int", lambda fraction: (_ for _ in ()).throw(KeyboardInterrupt), raising=False)
    assert run(*world.capture_command()).exit_code == 130
    assert not world.capture.exists()


def test_capture_here_compare_there(world: World) -> None:
    """The base's file is needed for its output matrix alone: moved, or not at all if that is embedded."""
    succeed(*world.sweep())
    expected = kld_values(results(world.run))
    succeed(*world.capture_command())
    there = world.folder / "other machine"
    there.mkdir()
    world.capture = world.capture.rename(there / "base.qpc")
    moved = world.base.rename(there / "moved.gguf")
    world.run = there / "run"
    command = world.compare(world.near, world.far)
    message = fail(*command)
    assert str(world.base) in message and "--base-model" in message
    succeed(*command, "--base-model", moved)
    assert kld_values(results(world.run)) == expected

    wrong = write_tiny(there / "wrong.gguf", head_type="F16", seed=3)
    shutil.rmtree(world.run)
    assert "does not hold the output matrix" in fail(*command, "--base-model", wrong)


def test_an_embedded_head_needs_no_base(world: World) -> None:
    succeed(*world.sweep())
    expected = kld_values(results(world.run))
    succeed(*world.capture_command("--embed-head"))
    world.base.unlink()
    world.run = world.folder / "second run"
    succeed(*world.compare(world.near, world.far))
    assert kld_values(results(world.run)) == expected


def test_other_settings_are_refused_unless_allowed(world: World) -> None:
    succeed(*world.capture_command())
    message = fail(*world.compare(), "-fa", "off")
    assert "flash_attn is True and False" in message and "--allow flash_attn" in message
    assert not world.run.exists()
    succeed(*world.compare(), "-fa", "off", "--allow", "flash_attn")
    assert results(world.run)["settings"]["settings_changed"] == ["flash_attn is True and False"]
    assert "flash_attn" in (world.run / "results.md").read_text(encoding="utf-8")


def test_a_capture_is_never_overwritten(world: World) -> None:
    succeed(*world.capture_command())
    before = Capture.open(world.capture).sha256
    for change in (["-fa", "off"], ["--chunks", "3"], ["--kind", "logprobs"]):
        assert "another" in fail(*world.capture_command(*change))
    assert Capture.open(world.capture).sha256 == before
    succeed(*world.capture_command())


def test_several_texts(world: World) -> None:
    other = write_letters(world.folder / "u.txt", 200, seed=9)
    succeed(*world.sweep("--text", other))
    found = results(world.run)
    assert [list(quant["texts"]) for quant in found["quants"]] == [["t", "u"]] * 2
    assert set(found["null_control"]["texts"]) == {"t", "u"}
    assert [quant["texts"]["u"]["n_rows"] for quant in found["quants"]] == [90, 90]
    assert {"kld_vs_size-t.png", "kld_vs_size-u.png"} <= set(files(world.run))


def test_split_models(world: World) -> None:
    whole = world.folder / "whole"
    whole.mkdir()
    base = write_tiny(world.folder / "split.gguf", head_type="F16", split=3)
    quant = write_tiny(world.folder / "q.gguf", noise=0.2, split=3)
    for argument in (quant, quant.with_name(quant.name.replace("00001", "00002"))):
        succeed("sweep", base, argument, "--text", f"t={world.text}", "-c", 32, "-t", 1, "-o", world.run)
    found = results(world.run)
    assert [found["base"]["name"], found["quants"][0]["name"]] == ["split", "q"]
    succeed("sweep", world.base, world.far, "--text", f"t={world.text}", "-c", 32, "-t", 1, "-o", whole)
    assert kld_values(found) == kld_values(results(whole))
    assert found["quants"][0]["sha256"] != results(whole)["quants"][0]["sha256"]


def test_parse_special(world: World, tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "bpe.gguf", vocab="bpe")
    text = tmp_path / "chat.txt"
    text.write_text("<|im_start|>user\nthe rain<|im_end|>\n" * 20, encoding="utf-8", newline="\n")
    n_tokens = {}
    for option in ([], ["--parse-special"]):
        out = tmp_path / f"c{len(option)}.qpc"
        succeed("capture", base, "--text", text, "-c", 32, "-o", out, *option)
        probe = Capture.open(out).text_probe("chat")
        n_tokens[len(option)] = probe.n_windows
        assert (257 in probe.tokens) == bool(option)
    assert n_tokens[1] < n_tokens[0]


def test_base_files_go_through_unchanged(world: World) -> None:
    """Our capture -> llama.cpp's file -> an imported capture -> the same bytes."""
    succeed(*world.capture_command())
    first, second = world.folder / "a.kld", world.folder / "b.kld"
    succeed("kld", "export", world.capture, first)
    imported = world.folder / "imported.qpc"
    succeed("kld", "import", first, "--model", world.base, "-o", imported)
    succeed("kld", "export", imported, second)
    assert second.read_bytes() == first.read_bytes()

    succeed(*world.compare(world.far))
    direct = kld_values(results(world.run))[0]
    world.capture, world.run = imported, world.folder / "imported run"
    succeed(*world.compare(world.far))
    found = results(world.run)
    assert found["null_control"]["texts"] == {"a": None}
    # 16 bits over 16 nats: a step of 2e-4 nats, less than that in the mean
    assert kld_values(found, "a")[0] == pytest.approx(direct, abs=2e-4)
    succeed(*world.compare(world.far), "--llama-compat")


def test_export_names_the_text(world: World) -> None:
    other = write_letters(world.folder / "u.txt", 200, seed=9)
    succeed(*world.capture_command("--text", other))
    out = world.folder / "x.kld"
    assert "say which one with --text NAME" in fail("kld", "export", world.capture, out)
    assert not out.exists()
    succeed("kld", "export", world.capture, out, "--text", "u")


def test_rows_file_damaged_is_measured_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed(*world.sweep())
    before = kld_values(results(world.run))
    path = world.run / rows_name("far")
    intact = path.read_bytes()
    flip_byte(path, intact.index(b"kld.npy") + 100)
    loaded = count_models(monkeypatch)
    succeed(*world.sweep())
    assert loaded == ["far"]
    assert kld_values(results(world.run)) == before


def test_a_damaged_rows_file_never_gives_other_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"kld": rng.random(8), "finite": rng.random(8) > 0.5, "windows": np.arange(8, dtype=np.int32)}
    path = tmp_path / "t.npz"
    write_arrays(path, "key", arrays)
    intact = path.read_bytes()
    for position in range(0, len(intact), 13):
        flip_byte(path, position, mask=1 << (position % 8))
        found = read_arrays(path, "key", tuple(arrays))
        assert found is None or all(np.array_equal(found[name], arrays[name]) for name in arrays), position
        path.write_bytes(intact)
    for n in range(0, len(intact), 97):
        path.write_bytes(intact[:n])
        assert read_arrays(path, "key", tuple(arrays)) is None


def test_quiet_where_nobody_looks(world: World) -> None:
    ended = run_process(*world.sweep())
    assert (ended.status, ended.stderr) == (0, "")
    assert "\x1b" not in ended.stdout
