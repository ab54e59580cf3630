"""Answers made elsewhere: every form recognised by content, compared by id, and damage named."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from quantprobe.errors import FileFormatError, InputError, MismatchError, QuantprobeError
from quantprobe.imports.build import ImportedRun, build_run, write_imported
from quantprobe.imports.plain import read_answers
from quantprobe.imports.sources import NamedFile, read_answer_files
from quantprobe.metrics.direction import list_changes
from quantprobe.run.folder import RunFolder
from quantprobe.run.items import PairedAnswers, read_items
from quantprobe.stats.summary_tasks import TaskSummary

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden" / "lm_eval" / "arc_easy_300.json"


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def choice_row(i: int, values: list[float], gold: int, texts: bool = True, **more: object) -> dict:
    pairs = [[str(v), "False"] if texts else [v, False] for v in values]
    best = values.index(max(values))
    return {
        "doc_id": i,
        "doc": {"question": f"question {i}", "subject": f"s{i % 2}"},
        "target": str(gold) if texts else gold,
        "resps": [[pair] for pair in pairs],
        "filtered_resps": pairs,
        "filter": "none",
        "metrics": ["acc", "acc_norm"],
        "doc_hash": f"hash{i}",
        "acc": float(best == gold),
        "acc_norm": 1.0 if i % 2 else 0.0,
    } | more


def plain(path: Path, flags: list[int], predictions: list[str] | None = None) -> Path:
    told = predictions or [""] * len(flags)
    rows = [{"item_id": f"i{k}", "prediction": told[k], "correct": flag} for k, flag in enumerate(flags)]
    return write_lines(path, rows)


def inspect_log(values: list[object], answers: list[str], epochs: int = 1) -> dict:
    samples = [
        {"id": i, "epoch": epoch, "scores": {"match": {"value": value, "answer": answers[i]}}, "target": "A"}
        for epoch in range(1, epochs + 1)
        for i, value in enumerate(values)
    ]
    return {"version": 2, "status": "success", "eval": {"task": "t"}, "samples": samples}


def direct(base: Path, quants: list[Path]) -> ImportedRun:
    return build_run(read_answer_files(base, [NamedFile(None, path) for path in quants], task="t"))


def found_of(run: ImportedRun) -> list[tuple[TaskSummary, PairedAnswers]]:
    """Summary and answers of each quant."""
    return [(quant.tasks["t"], run.items[quant.name, "t"]) for quant in run.results.quants]


@pytest.mark.parametrize("texts", [True, False])
def test_lm_eval_choices(tmp_path: Path, texts: bool) -> None:
    rows = [choice_row(0, [-1.0, -2.0], 0, texts), choice_row(1, [-1.5, -1.5], 1, texts)]
    found = read_answers(write_lines(tmp_path / "samples_arc.jsonl", rows))
    assert (found.kind, found.metric) == ("lm-eval", "acc")
    first, second = found.records
    assert (first.id, first.group, first.prediction, first.correct, first.gold) == ("0", "s0", "0", True, 0)
    assert first.logprobs == (-1.0, -2.0)
    assert (second.prediction, second.correct, second.norm_correct) == ("0", False, True)


def test_lm_eval_log_likelihoods_that_did_not_decide_are_not_used(tmp_path: Path) -> None:
    several_right = choice_row(0, [-1.0, -2.0], 1) | {"acc": 1.0}
    unknown_target = choice_row(1, [-1.0, -2.0], 0) | {"target": "a text"}
    found = read_answers(write_lines(tmp_path / "s.jsonl", [several_right, unknown_target]))
    assert [record.logprobs for record in found.records] == [(), ()]
    assert [record.correct for record in found.records] == [True, True]


def test_lm_eval_generated_answers_and_filters(tmp_path: Path) -> None:
    rows = [
        {"doc_id": i, "target": "4", "filtered_resps": [text], "filter": name, "exact_match": float(text == "4")}
        for name, texts in (("strict", ["4", "5"]), ("flexible", ["4", "4"]))
        for i, text in enumerate(texts)
    ]
    path = write_lines(tmp_path / "samples_gsm8k.jsonl", rows)
    with pytest.raises(InputError, match="strict, flexible"):
        read_answers(path)
    with pytest.raises(InputError, match="no filter 'x'"):
        read_answers(path, filter_name="x")
    found = read_answers(path, filter_name="strict")
    assert [(r.prediction, r.correct) for r in found.records] == [("4", True), ("5", False)]


def test_lm_eval_metrics(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "s.jsonl", [choice_row(i, [-1.0, -2.0], 0) for i in range(3)])
    norm = read_answers(path, metric="acc_norm")
    assert [record.correct for record in norm.records] == [False, True, False]
    assert all(record.logprobs == () and record.prediction is None for record in norm.records)
    with pytest.raises(InputError, match="no metric 'f1'; it has acc, acc_norm"):
        read_answers(path, metric="f1")
    partial = [{"doc_id": 0, "filtered_resps": ["x"], "bleu": 0.31, "ter": 0.2}]
    with pytest.raises(InputError, match="bleu, ter"):
        read_answers(write_lines(tmp_path / "b.jsonl", partial))
    with pytest.raises(FileFormatError, match=r"line 1: bleu is 0\.31"):
        read_answers(tmp_path / "b.jsonl", metric="bleu")


@pytest.mark.parametrize("indent", [None, 2])
def test_inspect_json(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps(inspect_log(["C", "I", "N", 1, 0.0, True], list("ABCDEF")), indent=indent), "utf-8")
    found = read_answers(path)
    assert (found.kind, found.metric) == ("inspect", "match")
    assert [record.correct for record in found.records] == [True, False, False, True, False, True]
    assert [record.prediction for record in found.records] == list("ABCDEF")


def archive(path: Path, log: dict, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("header.json", json.dumps({"status": "success"}))
        for sample in log["samples"]:
            file.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
    return path


def test_inspect_archive_and_epochs(tmp_path: Path) -> None:
    log = inspect_log(["C", "I"], ["A", "B"], epochs=3)
    log["samples"][0]["scores"] = None
    found = read_answers(archive(tmp_path / "log.eval", log))
    assert len(found.records) == 6
    assert {record.group for record in found.records} == {"0", "1"}, "the question is the cluster of its epochs"
    assert [record.correct for record in found.records if record.id == "0#1"] == [None]


def test_inspect_refusals(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    two = inspect_log(["C"], ["A"])
    two["samples"][0]["scores"]["other"] = {"value": "I"}
    path.write_text(json.dumps(two), "utf-8")
    with pytest.raises(InputError, match="match, other"):
        read_answers(path)
    assert read_answers(path, metric="other").records[0].correct is False
    path.write_text(json.dumps(inspect_log(["P"], ["A"])), "utf-8")
    with pytest.raises(FileFormatError, match="sample 1: the score is 'P'"):
        read_answers(path)
    path.write_text(json.dumps(inspect_log([], [])), "utf-8")
    with pytest.raises(FileFormatError, match="without samples"):
        read_answers(path)
    with zipfile.ZipFile(tmp_path / "x.eval", "w") as file:
        file.writestr("a.txt", "x")
    with pytest.raises(FileFormatError, match=r"zip without samples"):
        read_answers(tmp_path / "x.eval")


def test_plain_forms_agree(tmp_path: Path) -> None:
    rows = [{"item_id": "a", "prediction": "x, y", "correct": True}, {"item_id": "b", "prediction": "z", "correct": 0}]
    (tmp_path / "c.csv").write_text('\ufeffitem_id,prediction,correct\r\na,"x, y",true\r\nb,z,0\r\n', "utf-8")
    (tmp_path / "l.json").write_text(json.dumps(rows, indent=1), "utf-8")
    (tmp_path / "one.json").write_text(json.dumps(rows), "utf-8")
    found = [
        read_answers(path).records
        for path in (write_lines(tmp_path / "j.jsonl", rows), *(tmp_path / n for n in ("c.csv", "l.json", "one.json")))
    ]
    assert found[0] == found[1] == found[2] == found[3]
    assert [(r.id, r.prediction, r.correct) for r in found[0]] == [("a", "x, y", True), ("b", "z", False)]


BAD = {
    "empty": b"",
    "blank": b"\n\n",
    "prose": b"hello\nworld\n",
    "empty list": b"[]",
    "number in list": b"[1]",
    "no answers": b"item_id,correct\n",
    "cut": b'{"item_id": "a", "correct": 1}\n{"item_id": "b", "corr',
    "first line cut": b'{"item_id": "a", "corr\n{"item_id": "b", "correct": 1}\n',
    "list line": b'{"item_id": "a", "correct": 1}\n[1]\n',
    "no id": b'{"prediction": "a", "correct": 1}\n',
    "no correct": b'{"item_id": "a"}\n',
    "id is a list": b'{"item_id": [1], "correct": 1}\n',
    "id is half a pair": b'{"item_id": "\\ud800", "correct": 1}\n',
    "correct is 0.5": b'{"item_id": "a", "correct": 0.5}\n',
    "correct is a text": b'{"item_id": "a", "correct": "yes?"}\n',
    "twice": b'{"item_id": "a", "correct": 1}\n{"item_id": "a", "correct": 0}\n',
    "twice as number and text": b'{"item_id": 1, "correct": 1}\n{"item_id": "1", "correct": 0}\n',
    "not utf-8": b'{"item_id": "\xff", "correct": 1}\n',
    "utf-16": "item_id,correct\na,1\n".encode("utf-16"),
    "short csv line": b"item_id,correct\na\n",
    "open quote": b'item_id,correct\n"a,1\n',
    "deep": b"[" * 100_000,
    "huge number": b'{"item_id": ' + b"1" * 5_000 + b', "correct": 1}\n',
    "broken zip": b"PK\x03\x04" + b"\x00" * 100,
    "mixed": b'{"doc_id": 0, "acc": 1}\n{"item_id": "a", "correct": 1}\n',
    "bad pairs": b'{"doc_id": 0, "acc": 1, "filtered_resps": [["a", "b"], ["c", "d"]]}\n',
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "answers.file"
    path.write_bytes(BAD[name])
    with pytest.raises(FileFormatError, match=r"answers\.file"):
        read_answers(path)


def test_every_truncation_of_an_archive_is_an_error(tmp_path: Path) -> None:
    data = archive(tmp_path / "log.eval", inspect_log(["C", "I"], ["A", "B"])).read_bytes()
    for size in range(0, len(data) - 1, 7):
        (tmp_path / "cut.eval").write_bytes(data[:size])
        with pytest.raises(QuantprobeError):
            read_answers(tmp_path / "cut.eval")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_answers(tmp_path / "none.jsonl")


def test_direction_of_plain_files(tmp_path: Path) -> None:
    base = plain(tmp_path / "base.jsonl", [1] * 60 + [0] * 40, ["A"] * 60 + ["B"] * 40)
    worse = plain(tmp_path / "q" / "Q2_K.jsonl", [0] * 20 + [1] * 40 + [0] * 40, ["C"] * 20 + ["A"] * 40 + ["D"] * 40)
    same = plain(tmp_path / "q" / "Q8_0.jsonl", [1] * 60 + [0] * 40, ["A"] * 60 + ["B"] * 40)
    run = direct(base, [worse, same])
    assert [quant.name for quant in run.results.quants] == ["Q2_K", "Q8_0"]
    (first, pair), (second, _) = found_of(run)
    assert (first.drops, first.leapfrogs, first.wrong_to_other_wrong) == (20, 0, 40)
    assert first.mcnemar_p == pytest.approx(stats.binomtest(0, 20).pvalue)
    assert first.adjusted_p is not None and first.adjusted_p < 0.001
    assert first.verdict == "worse"
    assert first.margin_shift.value is None
    assert (second.drops, second.wrong_to_other_wrong) == (0, 0)
    assert len(list_changes(pair.base, pair.quant)) == 60
    write_imported(run, RunFolder(tmp_path / "run"))
    again = read_items(RunFolder(tmp_path / "run").items("Q2_K", "t"))
    np.testing.assert_array_equal(again.quant.pred, pair.quant.pred)
    with pytest.raises(InputError, match="already holds a run"):
        write_imported(run, RunFolder(tmp_path / "run"))


def test_items_are_matched_by_id_in_any_order(tmp_path: Path) -> None:
    rows = [choice_row(i, [-1.0 - i, -2.0, -3.0], i % 3) for i in range(30)]
    base, quant = write_lines(tmp_path / "a.jsonl", rows), write_lines(tmp_path / "b.jsonl", rows[::-1])
    [(found, _)] = found_of(direct(base, [quant]))
    assert (found.drops, found.leapfrogs, found.margin_shift.value) == (0, 0, 0.0)
    assert found.margin_shift.n == 30
    assert found.acc_norm.value == 0.5


def test_mismatches_say_how_many_and_which(tmp_path: Path) -> None:
    base = plain(tmp_path / "base.jsonl", [1, 0, 1, 1])
    short = plain(tmp_path / "short.jsonl", [1, 0])
    with pytest.raises(MismatchError, match=r"2 of the base's 4 .*first: 'i2'"):
        direct(base, [short])
    with pytest.raises(MismatchError, match=r"2 are the quant's alone .*'i2'"):
        direct(short, [base])
    rows = [choice_row(i, [-1.0, -2.0], 0) for i in range(3)]
    asked = write_lines(tmp_path / "a.jsonl", rows)
    rows[1]["doc_hash"] = "another"
    with pytest.raises(MismatchError, match=r"different questions under 1 of 3 .*'1'"):
        direct(asked, [write_lines(tmp_path / "b.jsonl", rows)])
    with pytest.raises(MismatchError, match=r"'correct' and .*'acc'"):
        direct(base, [asked])


def test_names_tell_files_apart(tmp_path: Path) -> None:
    base = plain(tmp_path / "base.jsonl", [1, 0])
    quants = [plain(tmp_path / name / "samples_t.jsonl", [1, 0]) for name in ("q4", "q8")]
    assert [quant.name for quant in direct(base, quants).results.quants] == ["q4/samples_t", "q8/samples_t"]
    named = read_answer_files(base, [NamedFile("Q4_K_M", quants[0]), NamedFile(None, quants[1])])
    assert [quant.name for quant in named.quants] == ["Q4_K_M", "q8/samples_t"]


def test_unknown_correctness_is_counted(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("id,correct\na,1\nb,\nc,0\n", "utf-8")
    (tmp_path / "q.csv").write_text("id,correct\na,0\nb,1\nc,0\n", "utf-8")
    [(found, _)] = found_of(direct(tmp_path / "b.csv", [tmp_path / "q.csv"]))
    assert (found.n_items, found.n_invalid, found.drops) == (2, 1, 1)


def test_each_form_says_what_its_groups_are(tmp_path: Path) -> None:
    rows = [choice_row(i, [-1.0, -2.0], 0) for i in range(4)]
    files = {
        "strata": write_lines(tmp_path / "samples.jsonl", rows),
        "clusters": archive(tmp_path / "log.eval", inspect_log(["C", "I"], ["A", "B"], epochs=2)),
    }
    for grouping, file in files.items():
        assert direct(file, [file]).results.tasks["t"].grouping == grouping


@pytest.mark.golden
@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden numbers of lm-evaluation-harness are not there")
def test_real_log_likelihoods_give_the_harness_own_accuracy(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    paths = {}
    for name, run in golden.items():
        pairs = zip(run["choice_loglikelihood_sum"], run["gold"], strict=True)
        rows = [choice_row(i, values, gold) for i, (values, gold) in enumerate(pairs)]
        paths[name] = write_lines(tmp_path / f"{name}.jsonl", rows)
    [(found, pair)] = found_of(direct(paths["ref-f16"], [paths["Q4_K_M"]]))
    assert found.acc.value == pytest.approx(golden["Q4_K_M"]["acc"], abs=1e-12)
    assert found.acc_base.value == pytest.approx(golden["ref-f16"]["acc"], abs=1e-12)
    base = np.array([max(v) for v in golden["ref-f16"]["choice_loglikelihood_sum"]])
    assert pair.base.logprobs.max(axis=1, initial=-np.inf, where=~np.isnan(pair.base.logprobs)) == pytest.approx(base)
    assert found.margin_shift.n == 300
    assert found.verdict == "not separable"
