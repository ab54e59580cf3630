"""Row metrics as a graph on the output's device, on the CPU backend: the same graph as on any other."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from road_cases import Quiet, write_letters
from tiny_gguf import write_tiny

from quantprobe import _native
from quantprobe.arrays import Float32Array, Int32Array
from quantprobe.engine import device_rows
from quantprobe.engine.abi import llama
from quantprobe.engine.device_rows import DeviceRows
from quantprobe.engine.devices import list_devices
from quantprobe.engine.head import Head, Post
from quantprobe.engine.model import Context, Model
from quantprobe.engine.plan import plan_windows, window_geometry
from quantprobe.engine.runner import probe_blocks, run_blocks
from quantprobe.errors import EngineError
from quantprobe.gguf.model import read_model_info
from quantprobe.metrics.row_numbers import disagreement
from quantprobe.metrics.rows import ROW_DTYPE, row_metrics
from quantprobe.probes.text import TextProbe
from quantprobe.run.results import read_results
from quantprobe.run.rows import read_rows
from quantprobe.settings import Settings
from quantprobe.sweep import Inputs, TextInput, capture_base, compare_quants
from quantprobe.sweep.measuring import Measuring

CPU = next(device for device in list_devices() if device.kind == "CPU")


def ggml(name: str, result: Any, *arguments: Any) -> Any:
    function = llama._lib[name]
    function.restype = result
    return function(*arguments)


class InitParams(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("memory", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def give(rows: DeviceRows, logits: Float32Array, name: bytes = b"result_output") -> bool:
    """What the scheduler does behind a node of a decode: ask, and show its tensor; whether it was asked for."""
    pointer = ctypes.c_void_p
    n_rows, n_vocab = logits.shape
    context = ggml("ggml_init", pointer, InitParams(1 << 12, None, True))
    shape = (ctypes.c_int64(n_vocab), ctypes.c_int64(n_rows))
    tensor = ggml("ggml_new_tensor_2d", pointer, pointer(context), ctypes.c_int(0), *shape)
    ggml("ggml_set_name", pointer, pointer(tensor), name)
    # CPU buffers begin at multiples of 64
    memory = np.zeros(logits.nbytes // 4 + 32, np.float32)
    at = (-memory.ctypes.data % 64) // 4
    memory[at : at + logits.size] = logits.reshape(-1)
    address = pointer(memory.ctypes.data + 4 * at)
    size = ctypes.c_size_t(logits.nbytes)
    buffer = ggml("ggml_backend_cpu_buffer_from_ptr", pointer, address, size)
    assert ggml("ggml_backend_tensor_alloc", ctypes.c_int, pointer(buffer), pointer(tensor), address) == 0
    callback = ctypes.CFUNCTYPE(ctypes.c_bool, pointer, ctypes.c_bool, pointer)(type(rows.watcher).callback)
    asked = callback(tensor, True, rows.watcher.address)
    if asked:
        assert callback(tensor, False, rows.watcher.address)
    ggml("ggml_backend_buffer_free", None, pointer(buffer))
    ggml("ggml_free", None, pointer(context))
    return bool(asked)


def identity(n_vocab: int, n_rows: int, bias: Float32Array | None = None) -> DeviceRows:
    """Over an output matrix that gives hidden rows back as logits."""
    matrix = np.eye(n_vocab, dtype=np.float32).view(np.uint8).reshape(-1)
    head = Head(matrix, "F32", (n_vocab, n_vocab), bias, Post(), CPU, 1, n_rows)
    return DeviceRows(head, CPU, n_vocab, n_rows)


def pair(n_rows: int, n_vocab: int, noise: float = 0.2) -> tuple[Float32Array, Float32Array, Int32Array]:
    rng = np.random.default_rng(n_vocab)
    base = rng.normal(0, 3, (n_rows, n_vocab)).astype(np.float32)
    quant = base + rng.normal(0, noise, base.shape).astype(np.float32)
    return base, quant, rng.integers(0, n_vocab, n_rows, dtype=np.int32)


def on_device(base: Float32Array, quant: Float32Array, targets: Int32Array, **chosen: Any) -> np.ndarray[Any, Any]:
    rows = identity(base.shape[1], len(base), **chosen)
    assert give(rows, quant)
    return rows.compare(base, targets)


@pytest.mark.parametrize("n_vocab", [1, 12, 37, 319, 320, 1024])
@pytest.mark.parametrize("noise", [1e-3, 0.2, 3.0])
def test_every_column_agrees_with_the_kernels(n_vocab: int, noise: float) -> None:
    """With parts of a row and without, and where a vocabulary is shorter than a top list."""
    base, quant, targets = pair(40, n_vocab, noise)
    found, expected = on_device(base, quant, targets), row_metrics(base, quant, targets)
    assert disagreement(found, expected) == ""
    for name in ROW_DTYPE.names or ():
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=5e-7, err_msg=name)


def require_same(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    """The same bits in every column of the row metrics; NaN is NaN."""
    for name in ROW_DTYPE.names or ():
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_equal_rows_are_exactly_0_apart() -> None:
    base, _, targets = pair(8, 320)
    found = on_device(base, base.copy(), targets)
    for name in ("kld", "kld_reverse", "jsd", "tv", "delta_p", "delta_logp"):
        assert (found[name] == 0).all()
    assert found["same_top"].all() and (found["top_k_overlap"] == 1).all()


def special() -> tuple[Float32Array, Float32Array, Int32Array]:
    """Rows of which float32 sums or the candidates of a top list do not tell everything."""
    base, quant, targets = pair(9, 320)
    quant[0, 7] = np.nan
    quant[1, 7] = np.inf
    quant[2, 7] = -np.inf
    quant[3] = -np.inf
    base[4] = np.nan
    quant[5] = 0.0  # ties beyond the candidates
    quant[6, 100:150] = 30.0
    quant[7, :3] = 30.0  # a tie at the top that they do hold: the lowest token counts
    quant[8] *= 20  # most probabilities are 0 in float32
    return base, quant, targets


def test_rows_that_the_graph_cannot_tell_are_what_the_kernels_say(monkeypatch: pytest.MonkeyPatch) -> None:
    base, quant, targets = special()
    fetched: list[int] = []
    rows = identity(320, len(base))
    assert give(rows, quant)
    fetch = rows.watcher.fetch

    class Watched:
        error = ""
        measure = rows.watcher.measure

        def fetch(self, row: int) -> Float32Array:
            fetched.append(row)
            found: Float32Array = fetch(row)
            return found

    monkeypatch.setattr(rows, "watcher", Watched())
    found, expected = rows.compare(base, targets), row_metrics(base, quant, targets)
    assert fetched == [0, 1, 2, 3, 4, 5, 6]
    assert disagreement(found, expected) == ""
    require_same(found[fetched], expected[fetched])
    assert found["finite"].tolist() == expected["finite"].tolist() and not found["finite"][:5].any()


def test_a_token_that_is_impossible_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    base, quant, targets = pair(4, 320)
    bias = np.zeros(320, np.float32)
    bias[9] = -np.inf
    quant[:, 9] = -np.inf
    targets[0] = 9
    found = on_device(base, quant, targets, bias=bias)
    require_same(found, row_metrics(base + bias, quant, targets))
    assert found["finite"].tolist() == [False, True, True, True]


def test_blocks_longer_than_one_graph() -> None:
    base, quant, targets = pair(40, 1 << 18)
    head_rows = base[:, :16].copy()
    # a matrix of 16 columns: logits of so many tokens from a small product
    matrix = np.random.default_rng(1).normal(0, 1, (1 << 18, 16)).astype(np.float32)
    head = Head(matrix.view(np.uint8).reshape(-1), "F32", (1 << 18, 16), None, Post(), CPU, 1, 40)
    rows = DeviceRows(head, CPU, 1 << 18, 40)
    assert give(rows, quant)
    expected = row_metrics(head.compute(head_rows).copy(), quant, targets)
    assert disagreement(rows.compare(head_rows, targets), expected) == ""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="resident memory is read from Linux's /proc")
def test_memory_is_two_blocks_and_the_temporaries_of_one_graph() -> None:
    """Of a block of 84 MB a graph compares 16 MB at a time: temporaries of whole blocks would be seven of them."""
    n_rows, n_vocab, mb = 160, 1 << 17, 1 << 20
    rng = np.random.default_rng(1)
    matrix, hidden = (rng.normal(0, 1, (n, 16)).astype(np.float32) for n in (n_vocab, n_rows))
    head = Head(matrix.view(np.uint8).reshape(-1), "F32", matrix.shape, None, Post(), CPU, 1, n_rows)
    quant = head.compute(hidden).copy()
    before = resident()
    rows = DeviceRows(head, CPU, n_vocab, n_rows)
    assert give(rows, quant)
    assert (rows.compare(hidden, np.zeros(n_rows, np.int32))["kld"] == 0).all()
    assert 160 * mb < resident() - before < 2 * quant.nbytes + 160 * mb


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_only_the_output_is_looked_at_and_only_once() -> None:
    base, quant, targets = pair(4, 320)
    rows = identity(320, 4)
    assert not give(rows, quant, b"result_norm") and rows.watcher.n_rows == 0
    with pytest.raises(EngineError, match="4 rows are to be compared, the decode left 0"):
        rows.compare(base, targets)
    assert give(rows, quant) and give(rows, quant)
    with pytest.raises(EngineError, match="several micro-batches"):
        rows.compare(base, targets)
    rows.watcher.clear()
    assert give(rows, np.zeros((4, 100), np.float32))
    with pytest.raises(EngineError, match="not a contiguous float32 matrix of n_vocab columns"):
        rows.compare(base, targets)
    rows.watcher.clear()
    assert give(rows, quant)
    with pytest.raises(EngineError, match="outside the vocabulary"):
        rows.compare(base, np.full(4, 320, np.int32))


def test_a_first_block_that_disagrees_is_not_believed() -> None:
    base, quant, targets = pair(4, 320)
    rows = identity(320, 4)
    expected = row_metrics(base, quant, targets)
    assert give(rows, quant)
    rows.prove(base, targets, expected)
    assert rows.is_proved and rows.refusal is None
    for name, change in (("kld", 1e-4), ("nll", -1e-4), ("top_k_overlap", 0.1), ("jsd", np.nan)):
        other = expected.copy()
        other[name][2] += change
        rows.begin()
        rows.prove(base, targets, other)
        assert not rows.is_proved and rows.refusal is not None and name in rows.refusal
    other = expected.copy()
    other["same_top"][1] = not other["same_top"][1]
    rows.begin()
    rows.prove(base, targets, other)
    assert rows.refusal == "same_top differs on 1 of 4 rows"


class World:
    """A base, its capture and a quant, which a run compares by the kernels or by the graph."""

    def __init__(self, folder: Path, arch: str = "llama") -> None:
        self.folder = folder
        self.settings = Settings(n_ctx=32, n_threads=1, n_gpu_layers=0, n_ubatch=64)
        base = write_tiny(folder / "base.gguf", arch, head_type="F16")
        self.quant = write_tiny(folder / "quant.gguf", arch, noise=0.2)
        text = Inputs((TextInput("t", write_letters(folder / "t.txt")),))
        capture_base(base, text, self.settings, folder / "b.qpc", Quiet())

    def compare(self, name: str) -> tuple[np.ndarray[Any, Any], list[str]]:
        """The rows of the run, and what it told."""
        told = Quiet()
        compare_quants(self.folder / "b.qpc", [self.quant], self.settings, self.folder / name, told)
        settings = read_results(self.folder / name).settings
        arrays = read_rows(self.folder / name / "rows" / "quant" / "t.npz")
        rows = np.zeros(len(arrays["kld"]), [*ROW_DTYPE.descr, ("on_device", np.bool_)])
        for field in arrays:
            if field in (rows.dtype.names or ()):
                rows[field] = arrays[field]
        assert settings["row_metrics_used"] == ("device" if rows["on_device"].any() else "kernels")
        return rows, told.notes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def by_kernels(world: World) -> np.ndarray[Any, Any]:
    rows, _ = world.compare("kernels")
    assert not rows["on_device"].any()
    return rows


@pytest.fixture
def graph_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Measuring, "device_rows_on_cpu", True)


def test_a_run_by_the_graph(world: World, by_kernels: np.ndarray[Any, Any], graph_on_cpu: None) -> None:
    """The kernels have the first block, the graph the others, and llama.cpp copies no logits any more."""
    rows, notes = world.compare("graph")
    n_first = int(np.argmax(rows["on_device"]))
    assert 0 < n_first <= 64 and rows["on_device"][n_first:].all() and not notes
    require_same(rows[:n_first], by_kernels[:n_first])
    assert disagreement(rows, by_kernels) == "" and (rows["kld"] > 1e-4).all()
    again, notes = world.compare("graph")  # from the run's folder
    np.testing.assert_array_equal(again, rows)


def test_logits_stay_on_the_device_once_the_first_block_agreed(world: World) -> None:
    """llama.cpp's buffer is a new one, filled with zeros, from the second batch on: nothing is copied into it."""
    info = read_model_info(world.quant)
    probe = TextProbe("t", np.random.default_rng(0).integers(3, 259, (8, 32), dtype=np.int32), None)
    with Model(info, world.settings) as model:
        whole = [(block.row_ids, block.logits.copy()) for block in probe_blocks(model, probe)]
        rows = identity(model.n_vocab, 64)
        geometry = window_geometry(probe, model.settings, model.n_vocab)
        with Context(model, geometry, device_rows=rows) as context:
            for number, block in enumerate(run_blocks(context, plan_windows(probe, geometry))):
                ids, expected = whole[number]
                targets = probe.targets()[ids]
                if number == 0:
                    np.testing.assert_array_equal(block.logits, expected)
                    rows.is_proved = True
                else:
                    assert context.leaves_logits and len(block.logits) == 0
                    assert not context.decoder.logits().any()
                # the base's logits are this quant's: only the graph of its own batch can say that they are equal
                assert (rows.compare(expected, targets)["kld"] == 0).all()
        assert number > 1


def test_logits_are_copied_where_llama_cpp_cannot_do_without(
    world: World, by_kernels: np.ndarray[Any, Any], graph_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(llama, "llama_set_sampler")
    rows, _ = world.compare("copied")
    assert rows["on_device"].any() and disagreement(rows, by_kernels) == ""


def test_a_recurrent_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp may cut its batches up, which the graph notices: logits are there, and the kernels take over."""
    world = World(tmp_path, "mamba2")
    by_kernels, _ = world.compare("kernels")
    monkeypatch.setattr(Measuring, "device_rows_on_cpu", True)
    rows, notes = world.compare("graph")
    assert rows["on_device"].any() and disagreement(rows, by_kernels) == "" and not notes

    original = device_rows.DeviceRows.compare

    def fail_later(self: DeviceRows, hidden: Float32Array, targets: Int32Array) -> np.ndarray[Any, Any]:
        if self.is_proved:
            raise EngineError("the batch was computed in several micro-batches")
        return original(self, hidden, targets)

    monkeypatch.setattr(device_rows.DeviceRows, "compare", fail_later)
    rows, _ = world.compare("cut up")
    require_same(rows, by_kernels)


@pytest.mark.parametrize("fault", ["refused", "operator"])
def test_the_kernels_take_over(
    fault: str, world: World, by_kernels: np.ndarray[Any, Any], graph_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lacking:
        def __init__(self, *_: Any) -> None:
            raise RuntimeError("CPU cannot compute TOP_K")

    if fault == "refused":
        monkeypatch.setattr(device_rows, "disagreement", lambda *_: "kld differs by 1")
    else:
        monkeypatch.setattr(_native, "RowMetrics", Lacking)
    rows, notes = world.compare(fault)
    require_same(rows, by_kernels)
    assert not rows["on_device"].any()
    expected = "the rows of quant: kld differs by 1" if fault == "refused" else "CPU cannot compute TOP_K"
    assert len(notes) == 1 and expected in notes[0]
