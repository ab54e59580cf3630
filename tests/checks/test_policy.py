"""Policies are read strictly, and their gates hold what a run measured against limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantprobe.checks.gates import check_gates
from quantprobe.checks.outcome import FAIL, PASS, UNCHECKED, Check
from quantprobe.checks.policy import DEFAULT, FileGates, Policy, TaskGates, TextGates, read_policy
from quantprobe.checks.validate import Task, _softened
from quantprobe.errors import FileFormatError, InputError, QuantprobeError
from quantprobe.gguf.model import ModelIdentity, ModelInfo
from quantprobe.run.results import Quant, Results
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.summary import TextSummary
from quantprobe.stats.summary_tasks import TaskSummary

WHOLE = """
[texts]
max_kld_mean = 0.05
min_same_top = 0.9
[texts.code]
max_kld_mean = 0.2
max_nonfinite = 0
[tasks]
not_worse = true
non_inferior = 0.01
[tasks.arc]
min_items = 500
[files]
warn_only = ["chat template"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_policy_is_read_and_single_gates_go_before(tmp_path: Path) -> None:
    policy = read_policy(write(tmp_path, WHOLE))
    assert policy.files == FileGates(("chat template",)) and policy.needs_run
    assert policy.of_text("wiki") == TextGates(max_kld_mean=0.05, min_same_top=0.9)
    assert policy.of_text("code") == TextGates(max_kld_mean=0.2, min_same_top=0.9, max_nonfinite=0)
    assert policy.of_task("arc") == TaskGates(not_worse=True, non_inferior=0.01, min_items=500)
    assert not read_policy(write(tmp_path, "")).needs_run


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[texts", "is not TOML"),
        ("[text]\n", "unknown section text; known are files, tasks, texts"),
        ("[texts]\nmax_kld = 1", r"unknown gate max_kld; known are max_kld_mean"),
        ("[texts]\nmax_kld_mean = 'small'", "Expected `float"),
        ("[texts]\nmax_kld_mean = nan", "max_kld_mean is nan, expected a number of at least 0"),
        ("[tasks]\nnon_inferior = -0.01", "expected a number of at least 0"),
        ("[tasks]\nnot_worse = 1", "Expected `bool"),
        ("texts = 3", "expected a table"),
        ("[files]\nwarn_only = 'x'", "Expected `array"),
        ("\x00", "is not TOML"),
    ],
)
def test_a_gate_that_means_nothing_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=words):
        read_policy(write(tmp_path, text))


def test_files_that_are_no_policy_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the policy"):
        read_policy(tmp_path)
    (tmp_path / "big.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(FileFormatError, match="expected a page of TOML"):
        read_policy(tmp_path / "big.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FileFormatError, match="is not TOML"):
        read_policy(tmp_path / "bytes.toml")


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_mutated_policies_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(WHOLE.encode())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        else:
            del content[place]
    path = tmp_path_factory.getbasetemp() / "mutated.toml"
    path.write_bytes(content)
    try:
        assert isinstance(read_policy(path), Policy)
    except QuantprobeError as error:
        assert str(path) in str(error)


def estimate(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value, None, low, high, n=100, n_clusters=10)


TEXT = TextSummary(
    kld_mean=estimate(0.04, 0.03, 0.05), kld_p99=0.6, same_top=estimate(0.93, 0.91, 0.95), ppl_ratio=estimate(1.01),
    n_rows=100, n_nonfinite=1,
)  # fmt: skip
TASK = TaskSummary(
    rule="sum", acc=estimate(0.5), net=estimate(-0.004, -0.012, 0.004), volume=estimate(0.05, 0.04, 0.06),
    verdict="not separable", sentence="not separable: ...", n_items=1000,
)  # fmt: skip
INFO = ModelInfo(
    path=Path("q.gguf"), name="q", architecture="llama", file_type="Q4_K_M", n_vocab=9, n_ctx_train=9, n_embd=9,
    n_layer=9, size_bytes=9, n_params=9, bpw=9.0, tokenizer_sha256="t", chat_template=None, imatrix=None, sha256="abc",
)  # fmt: skip


def results(sha256: str = "abc", name: str = "q", task: TaskSummary = TASK) -> Results:
    quant = Quant(name=name, sha256=sha256, texts={"wiki": TEXT}, tasks={"arc": task})
    return Results(base=ModelIdentity(name="base"), settings={}, quants=(quant,))


def statuses(policy: Policy, found: Results | None = None) -> dict[str, str]:
    return {check.name: check.status for check in check_gates(INFO, found or results(), policy)[1:]}


@pytest.mark.parametrize(
    ("gates", "status"),
    [
        (TextGates(max_kld_mean=0.05), PASS),  # the upper end, exactly
        (TextGates(max_kld_mean=0.045), FAIL),  # the mean would pass, its upper end does not
        (TextGates(min_same_top=0.91), PASS),
        (TextGates(min_same_top=0.92), FAIL),
        (TextGates(max_ppl_ratio=1.01), PASS),  # without an interval the value itself
        (TextGates(max_kld_p99=0.5), FAIL),
        (TextGates(max_kld_p999=0.5), UNCHECKED),
        (TextGates(max_nonfinite=0), FAIL),
    ],
)
def test_gates_on_texts(gates: TextGates, status: str) -> None:
    assert list(statuses(Policy(texts=gates)).values()) == [status]


@pytest.mark.parametrize(
    ("gates", "status"),
    [
        (TaskGates(not_worse=True), PASS),
        (TaskGates(equivalent=True), FAIL),
        (TaskGates(non_inferior=0.012), PASS),
        (TaskGates(non_inferior=0.01), FAIL),
        (TaskGates(max_volume=0.05), FAIL),
        (TaskGates(min_items=1001), FAIL),
        (TaskGates(not_worse=False), None),
    ],
)
def test_gates_on_tasks(gates: TaskGates, status: str | None) -> None:
    assert list(statuses(Policy(tasks=gates)).values()) == ([] if status is None else [status])


def test_a_worse_quant_fails_the_default_policy_with_its_sentence() -> None:
    worse = replace(TASK, verdict="worse", sentence="worse: -2.0 points")
    found = {check.name: check for check in check_gates(INFO, results(task=worse), DEFAULT)}
    assert (found["task arc: not worse"].status, found["task arc: not worse"].reason) == (FAIL, "worse: -2.0 points")
    unknown = replace(TASK, verdict=None)
    assert statuses(DEFAULT, results(task=unknown))["task arc: not worse"] == UNCHECKED


def test_the_run_must_have_measured_this_file() -> None:
    [other] = check_gates(INFO, results(sha256="other"), DEFAULT)
    assert other.status == FAIL and "another file of this name" in other.reason
    [missing] = check_gates(INFO, results(sha256="other", name="r"), DEFAULT)
    assert missing.status == UNCHECKED and "did not measure q; it has r" in missing.reason
    assert check_gates(INFO, results(name="renamed"), DEFAULT)[0].status == PASS
    assert check_gates(INFO, results(sha256=""), DEFAULT)[0].status == PASS


def test_a_line_with_other_cache_types_says_nothing_about_the_file() -> None:
    found = results()
    (quant,) = found.quants
    line = replace(quant, name="q [k q8_0]", variant={"type_k": "q8_0"})
    assert check_gates(INFO, replace(found, quants=(line, quant)), DEFAULT)[0].reason.startswith("measured as q,")
    [missing] = check_gates(INFO, replace(found, quants=(line,)), DEFAULT)
    assert missing.status == UNCHECKED


def test_gates_on_what_the_run_has_not() -> None:
    policy = Policy(text={"code": TextGates(max_kld_mean=1.0)}, task={"mmlu": TaskGates(not_worse=True)})
    found = statuses(policy)
    assert found == {"text code": UNCHECKED, "task mmlu": UNCHECKED}


def test_a_policy_with_gates_needs_a_run() -> None:
    with pytest.raises(InputError, match="give --run RUN"):
        Task(policy=DEFAULT)
    assert Task(policy=Policy()).run is None


def test_warn_only_softens_failures_alone() -> None:
    checks = [Check("chat template", FAIL, "differs"), Check("tokenizer", FAIL, "differs")]
    soft = _softened(checks, Policy(files=FileGates(("chat template",))))
    assert [check.status for check in soft] == ["warn", FAIL] and "by the policy" in soft[0].reason
