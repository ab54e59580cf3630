"""Tasks on real (tiny) models: shared beginnings change nothing, and a base compared with itself is itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from road_cases import Quiet
from tiny_archs import ARCHS, SLIDING
from tiny_gguf import write_tiny

from quantprobe.arrays import FloatArray
from quantprobe.errors import InputError
from quantprobe.gguf.model import read_model_info
from quantprobe.metrics.scores import logprob_pairs, pair_layout, score_choices
from quantprobe.probes.items import Question, TaskProbe
from quantprobe.probes.prompts import prompt_questions
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.probes.task import task_probe
from quantprobe.probes.templates import TEMPLATES

llama_cpp = pytest.importorskip("llama_cpp")

from quantprobe.engine.model import Model  # noqa: E402
from quantprobe.engine.runner import n_probe_tokens, probe_blocks  # noqa: E402
from quantprobe.settings import Settings  # noqa: E402
from quantprobe.sweep import Inputs, TaskInput, capture_base, compare_quants  # noqa: E402

SETTINGS = Settings(n_threads=1, n_gpu_layers=0, flash_attn=False, type_k="f32", type_v="f32")
"""All in float32, where batches of any shape differ by 1e-5 (Gemma 2e-4: ggml looks GELU up in a float16 table).
By default ggml's attention sums in float16 for fewer than 64 tokens at a time: on these random models that makes 2e-2
nats, which would hide a wrong row."""
TOLERANCE = 1e-3
HEADER = "the sum of two and three is five. the capital of peru is lima. "


def questions(header: str, n: int = 12, seed: int = 1) -> list[Question]:
    """Questions of 2 to 5 choices with a common first letter now and then; some of one token, one of them twice."""
    rng = np.random.default_rng(seed)

    def words(low: int, high: int) -> str:
        return "".join(rng.choice(list("etaoin shrdlu"), rng.integers(low, high))).strip() or "a"

    made = []
    for number in range(n):
        choices = [words(1, 2 if number % 4 == 0 else 16) for _ in range(rng.integers(2, 6))]
        made.append(Question(f"q{number}", "", header + words(2, 40), tuple(choices), int(rng.integers(len(choices)))))
    return made


def probe_of(model: Model, header: str, rule: str = "tokens") -> TaskProbe:
    _, prompted = prompt_questions(questions(header), TEMPLATES["plain"])
    return task_probe("t", prompted, model.tokenize, rule, "plain", 512)[0]


def packed_logprobs(model: Model, probe: TaskProbe) -> FloatArray:
    """Log-probability of every scored token, from packed batches."""
    layout = pair_layout(probe)
    logprobs = np.full(layout.n_pairs, np.nan)
    for block in probe_blocks(model, probe):
        place = np.full(probe.n_rows, -1)
        place[block.row_ids] = np.arange(len(block.row_ids))
        pairs = np.flatnonzero(place[layout.rows] >= 0)
        logprobs[pairs] = logprob_pairs(block.logits, place[layout.rows[pairs]], layout.tokens[pairs])
    return logprobs


def plain_logprobs(path: Path, probe: TaskProbe) -> FloatArray:
    """The same, each choice decoded alone from its first token by llama-cpp-python itself."""
    layout = pair_layout(probe)
    rows: dict[int, FloatArray] = {}
    llama = llama_cpp.Llama(
        str(path),
        logits_all=True,
        verbose=False,
        n_ctx=512,
        n_threads=1,
        n_gpu_layers=0,
        flash_attn=False,
        type_k=0,
        type_v=0,
    )
    for item, offset in zip(probe.items, probe.offsets(), strict=False):
        for choice in range(item.n_choices):
            tokens = item.sequence(choice)
            llama.reset()
            llama.eval(tokens.tolist())
            targets = np.arange(max(1, len(item.prefix) - item.n_prefix_rows + 1), len(tokens))
            for row, target in zip(item.rows_of_targets(choice, targets), targets, strict=True):
                logits = np.array(llama.scores[target - 1], dtype=np.float64)
                rows[offset + int(row)] = logits - np.logaddexp.reduce(logits)
    llama.close()
    return np.array([rows[row][token] for row, token in zip(layout.rows.tolist(), layout.tokens, strict=True)])


@pytest.fixture(scope="module", params=list(ARCHS))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of each architecture, half of them without BOS; the sliding window is shorter than the questions."""
    arch = request.param
    window = {f"{arch}.attention.sliding_window": 16} if arch in SLIDING else None
    vocab = "bpe" if arch in ("qwen2", "olmoe", "falcon-h1") else "spm"
    return write_tiny(tmp_path_factory.mktemp(arch) / f"{arch}.gguf", arch, vocab, extra=window, n_ctx_train=512)


@pytest.fixture
def model(tiny: Path) -> Iterator[Model]:
    with Model(read_model_info(tiny), SETTINGS) as loaded:
        yield loaded


@pytest.mark.parametrize("header", ["", HEADER], ids=["no header", "header"])
def test_packing_agrees_with_one_sequence_at_a_time(tiny: Path, model: Model, header: str) -> None:
    probe = probe_of(model, header)
    packed, plain = packed_logprobs(model, probe), plain_logprobs(tiny, probe)
    assert np.isfinite(packed).all()
    print(f"largest difference {np.abs(packed - plain).max():.2e} nats over {len(packed)} tokens")
    assert np.abs(packed - plain).max() < TOLERANCE
    layout = pair_layout(probe)
    ours, theirs = (score_choices(logprobs, layout, "tokens") for logprobs in (packed, plain))
    top, second = np.sort(np.nan_to_num(theirs, nan=-999.0), axis=1)[:, :-3:-1].T
    clear = top - second > TOLERANCE
    assert clear.sum() > 6
    assert (np.nanargmax(ours[clear], axis=1) == np.nanargmax(theirs[clear], axis=1)).all()


@pytest.mark.parametrize("n_ubatch", [16, 57])
def test_results_do_not_depend_on_the_packing(tiny: Path, model: Model, n_ubatch: int) -> None:
    whole = packed_logprobs(model, probe_of(model, HEADER))
    with Model(read_model_info(tiny), replace(SETTINGS, n_ubatch=n_ubatch)) as other:
        parts = packed_logprobs(other, probe_of(other, HEADER))
    print(f"largest difference {np.abs(whole - parts).max():.2e} nats")
    assert np.abs(whole - parts).max() < TOLERANCE


def test_batches_of_llama_perplexity_give_the_same_rows(tiny: Path, model: Model) -> None:
    probe = probe_of(model, HEADER)
    with Model(read_model_info(tiny), replace(SETTINGS, n_parallel=16)) as other:
        if other.is_recurrent:
            with pytest.raises(InputError, match=r"recurrent or hybrid .* leave out --parallel"):
                packed_logprobs(other, probe)
            return
        theirs = packed_logprobs(other, probe)
    assert np.abs(packed_logprobs(model, probe) - theirs).max() < TOLERANCE


def test_the_total_of_a_progress_bar_is_reached(model: Model) -> None:
    probe = probe_of(model, HEADER)
    assert sum(block.n_tokens for block in probe_blocks(model, probe)) == n_probe_tokens(model, probe)


@dataclass(frozen=True)
class Case:
    arch: str
    head_type: str
    n_ubatch: int


SELF_CASES = [
    *[Case(arch, "F16", 7) for arch in ARCHS],
    *[Case("llama", head, n_ubatch) for head in ("F32", "F16", "BF16", "Q8_0") for n_ubatch in (4, 5, 512)],
]


@pytest.mark.parametrize("case", SELF_CASES, ids=lambda case: f"{case.arch}-{case.head_type}-{case.n_ubatch}")
def test_a_base_compared_with_itself_is_itself(tmp_path: Path, case: Case) -> None:
    """Exactly, in batches of one row too: ggml multiplies one row by another kernel than several."""
    base = write_tiny(
        tmp_path / "base.gguf",
        case.arch,
        n_embd=320,
        n_layer=ARCHS[case.arch].n_least,
        n_vocab=512,
        weight_type="F16",
        head_type=case.head_type,
    )
    task = tmp_path / "task.jsonl"
    write_native(task, questions(HEADER, 5))
    settings = Settings(n_threads=1, n_gpu_layers=0, n_ubatch=case.n_ubatch)
    inputs = Inputs((), (TaskInput("t", task),))
    capture = capture_base(base, inputs, settings, tmp_path / "base.qpc", Quiet())
    assert capture.meta.kind == "hidden"
    null = capture.entry("t").null_control
    run = compare_quants(tmp_path / "base.qpc", [base], settings, tmp_path / "run", Quiet())
    summary = run.results.quants[0].tasks["t"]
    assert (null["drops"], null["leapfrogs"], summary.drops, summary.leapfrogs) == (0, 0, 0, 0)
    assert null["kld_max"] == 0
    assert summary.kld_mean is not None and summary.kld_mean.value == 0
    with np.load(tmp_path / "run" / "rows" / "base" / "t.task.npz") as rows:
        assert np.array_equal(rows["base"], rows["quant"])
