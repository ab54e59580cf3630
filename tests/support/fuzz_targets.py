"""The formats that are fuzzed: small valid files of each, and the readers."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from answer_factory import make_pair
from capture_cases import make_capture, make_task, make_text
from fake_run import FakeRun, ladder, write_fake_run
from fuzzing import Target, mutate, mutate_values
from tiny_gguf import write_tiny

from quantprobe.capture import Capture
from quantprobe.capture.llama_kld import LlamaKldFile, _check_records, decode_records, encode_records, write_kld
from quantprobe.capture.meta import ProbeEntry
from quantprobe.capture.meta_file import _digest
from quantprobe.capture.probe_files import decode_task, decode_text, encode_probe
from quantprobe.checks.policy import read_policy
from quantprobe.gguf.model import read_head_source, read_model_info
from quantprobe.gguf.scan import scan_tensors
from quantprobe.gguf.tensors import read_inventory
from quantprobe.imatrix.file import read_imatrix, write_imatrix, write_legacy
from quantprobe.imatrix.matrix import Entry, Imatrix
from quantprobe.imports.community_csv import read_community_csv
from quantprobe.imports.llama_logs import read_kld_log, read_task_log
from quantprobe.imports.plain import read_answers
from quantprobe.probes.conversations import is_chats, read_conversations
from quantprobe.probes.items import Question
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.probes.questions.llama import write_multiple_choice
from quantprobe.probes.questions.recognise import read_questions
from quantprobe.probes.text import read_text
from quantprobe.report.finish import results_markdown
from quantprobe.report.tables.community_csv import community_csv
from quantprobe.report.tables.csv_files import texts_csv
from quantprobe.run.cohort import read_cohort
from quantprobe.run.folder import RunFolder
from quantprobe.run.items import read_items, write_items
from quantprobe.run.questions import read_task_questions
from quantprobe.run.results import read_results
from quantprobe.run.rows import read_arrays, read_rows, write_arrays

Make = Callable[[random.Random], bytes]

QUESTIONS = [
    Question(f"q{i}", f"g{i % 2}", f"The capital of land {i} is", (f"Röm {i}", f"Paris {i}", "Oslo"), i % 3)
    for i in range(5)
]
CSV_TASKS = (
    b'question,A,B,C,D,answer\nWhat?,1,2,3,4,0\n"Who, then?",a,b,c,d,3\n',
    b"What?,1,2,3,4,A\nWho?,a,b,c,d,D\n",
    b"Category,Question,Best Answer,Incorrect Answers\nMyth,What?,this,that; other\nLaw,Who?,me,you;he\n",
    b'0,"The cup, the _ fell",dog,cat,1\n1,The _ ran,man,car,2\n',
    b"ctx one\n2\na\nb\nc\nd\nctx two\n0\ne\nf\ng\nh\n",
)
POLICIES = (
    b"[texts]\nmax_kld_mean = 0.1\nmin_same_top = 0.85\n[texts.wiki]\nmax_nonfinite = 0\n",
    b'[tasks]\nnot_worse = true\nnon_inferior = 0.02\n[tasks.arc]\nmin_items = 100\n[files]\nwarn_only = ["types"]\n',
)
LOG_LINE = "{n:4d} 12.3000 ± 0.5000  0.01000 ± 0.00100  0.02000 ± 0.00200  1.234 ± 0.010 %  90.000 ± 0.900 %"
KLD_LOG = "\n".join(
    [
        "chunk   PPL   ln(PPL(Q)/PPL(base))   KL Divergence   Δp RMS   Same top p",
        *(LOG_LINE.format(n=n) for n in range(1, 8)),
        "====== Perplexity statistics ======",
        "Mean PPL(Q)                   :  12.345678 ±   0.500000",
        "Mean ln(PPL(Q)/PPL(base))     :   0.010000 ±   0.001000",
        "Mean    KLD:   0.020000 ±   0.000100",
        "Maximum KLD:   1.500000",
        "99.9%   KLD:   1.000000",
        "Median  KLD:   0.010000",
        "Mean    Δp: -0.123 ± 0.010 %",
        "RMS Δp    :  1.234 ± 0.010 %",
        "Same top p: 90.000 ± 0.100 %\n",
    ]
).encode()
TASK_LOG = ("task\tacc_norm\n" + "".join(f"{n}\t{100 * (n // 2) / n:.8f}\n" for n in range(1, 12))).encode()


def bytes_of(seeds: Sequence[bytes]) -> Make:
    return lambda rng: mutate(rng, seeds)


def values_of(document: Any, also: Sequence[bytes] = ()) -> Make:
    """Documents with other values; one in four is damaged in its bytes besides."""

    def make(rng: random.Random) -> bytes:
        data = json.dumps(mutate_values(rng, document)).encode()
        return mutate(rng, [data, *also]) if rng.randrange(4) == 0 else data

    return make


def answer_seeds() -> list[bytes]:
    rows = [
        {
            "doc_id": i, "doc": {"subject": f"s{i}"}, "target": "1",
            "filtered_resps": [["-1.5", "False"], ["-1.0", "True"]],
            "filter": "none", "acc": 1.0, "acc_norm": 0.0, "doc_hash": f"h{i}",
        }
        for i in range(4)
    ]  # fmt: skip
    samples = [{"id": i, "epoch": 1, "scores": {"m": {"value": "C", "answer": "A"}}} for i in range(3)]
    log = {"version": 2, "status": "success", "eval": {"task": "t"}, "samples": samples}
    plain = [{"item_id": f"i{k}", "prediction": "a", "correct": k % 2, "group": "g"} for k in range(4)]
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for sample in samples:
            packed.writestr(f"samples/{sample['id']}_epoch_1.json", json.dumps(sample))
    lines = ["\n".join(json.dumps(row) for row in group).encode() for group in (rows, plain)]
    table = b"item_id,correct,prediction,group\na,1,x,g\nb,0,y,h\nc,true,,\n"
    return [*lines, json.dumps(log).encode(), json.dumps(plain).encode(), table, archive.getvalue()]


def signed(document: dict[str, Any]) -> bytes:
    """`meta.json` whose checksum fits whatever is in it, so that what it says is looked at."""
    content = {key: value for key, value in document.items() if key != "sha256"}
    try:
        digest = _digest(content)
    except (ValueError, RecursionError):  # NaN is no JSON, and is refused before
        digest = ""
    return json.dumps({**content, "sha256": digest}).encode()


def use_capture(path: Path) -> None:
    """Open a capture and read every part of it."""
    capture = Capture.open(path.parent)
    capture.verify()
    for entry in capture.meta.probes:
        capture.rows(entry.name)
        capture.text_probe(entry.name) if entry.kind == "text" else capture.task_probe(entry.name)
    if capture.meta.head is not None:
        capture.head_bytes()
        capture.head_bias()


def use_kld(path: Path) -> None:
    file = LlamaKldFile.open(path)
    file.tokens()
    records = np.asarray(file.records())
    _check_records(path, 0, records)
    decode_records(records[:2], file.n_vocab)


def use_run(path: Path) -> None:
    """What `report` makes of a results.json without its pictures."""
    cohort = read_cohort([path.parent])
    results_markdown(cohort)
    texts_csv(cohort)


def use_questions(path: Path) -> None:
    read_questions(path, skip_bad=True)
    read_questions(path)


def use_log(path: Path) -> None:
    read_task_log(path) if path.read_bytes()[:4] == b"task" else read_kld_log(path)


def use_rows(path: Path) -> None:
    read_arrays(path, "key", ("kld",))
    read_rows(path)


def use_weights(path: Path) -> None:
    """Scan the values of every tensor, as `validate` does."""
    scan_tensors(read_inventory(path).tensors, n_threads=1)


def use_chats(path: Path) -> None:
    text = read_text(path)
    if is_chats(path, text):
        read_conversations(path, text)


def all_targets(folder: Path) -> dict[str, Target]:
    """Every format by name; valid files are made in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    targets = [*_of_models(folder), *_of_captures(folder), *_of_tasks(folder), *_of_runs(folder)]
    targets += _of_release(folder)
    return {target.name: target for target in targets}


def _of_models(folder: Path) -> list[Target]:
    whole = write_tiny(folder / "whole.gguf", n_layer=1, vocab="bpe")
    # the metadata, and a little of the weights, which no reader looks at
    heads = [whole.read_bytes()[:keep] for keep in (20_000, 60_000)]
    small = write_tiny(folder / "small.gguf", n_layer=1, vocab="spm").read_bytes()

    def use(path: Path) -> None:
        read_model_info(path)
        read_head_source(path)

    return [
        Target("gguf", bytes_of([small, small, *heads]), use, folder / "model.gguf"),
        Target("gguf-weights", bytes_of([small]), use_weights, folder / "weights.gguf"),
    ]


def _of_captures(folder: Path) -> list[Target]:
    capture = make_capture(folder)
    meta = (capture.path / "meta.json").read_bytes()
    document = json.loads(meta)
    text, task = make_text(), make_task()
    entries = {entry.name: entry for entry in capture.meta.probes}

    def use_probe(path: Path) -> None:
        data = path.read_bytes()
        wanted: ProbeEntry = entries["arc" if b'"items"' in data[:4000] else "wiki"]
        (decode_task if wanted.kind == "task" else decode_text)(data, wanted, "here")

    rows_file = entries["wiki"].rows.name
    logits = np.random.default_rng(1).normal(size=(text.n_rows, 30)).astype(np.float32)
    small = replace(text, tokens=text.tokens % 30)
    write_kld(folder / "base.kld", small, 30, [encode_records(logits)])
    return [
        Target("qpc-meta", bytes_of([meta]), use_capture, capture.path / "meta.json"),
        Target("qpc-values", lambda rng: signed(mutate_values(rng, document)), use_capture, capture.path / "meta.json"),
        Target("qpc-probe", bytes_of([encode_probe(text), encode_probe(task)]), use_probe, folder / "0.probe"),
        Target("qpc-rows", bytes_of([(capture.path / rows_file).read_bytes()]), use_capture, capture.path / rows_file),
        Target("kld", bytes_of([(folder / "base.kld").read_bytes()]), use_kld, folder / "fuzzed.kld"),
    ]


def _of_tasks(folder: Path) -> list[Target]:
    write_native(folder / "native.jsonl", QUESTIONS, "strata")
    write_multiple_choice(folder / "tasks.bin", QUESTIONS)
    shapes = [
        {"question": "What?", "choices": ["a", "b"], "answer": 1, "subject": "s"},
        {"query": "What?", "choices": ["a", "b"], "gold": 1},
        {"ctx": "He", "endings": ["a", "b", "c", "d"], "label": "2", "activity_label": "Run"},
        {
            "id": "M1",
            "question": {"stem": "W?", "choices": [{"text": "a", "label": "A"}, {"text": "b", "label": "B"}]},
            "answerKey": "B",
        },
        {"sentence": "The _ fell", "option1": "cup", "option2": "cat", "answer": "1"},
        {"question": "What?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A", "id": "x"},
    ]
    lines = [(folder / "native.jsonl").read_bytes(), *(f"{json.dumps(shape)}\n".encode() * 2 for shape in shapes)]

    def use_native(path: Path) -> None:
        read_task_questions(RunFolder(path.parent.parent), "t")

    return [
        Target("task-binary", bytes_of([(folder / "tasks.bin").read_bytes()]), use_questions, folder / "task.bin"),
        Target("task-jsonl", bytes_of(lines), use_questions, folder / "task.jsonl"),
        Target("task-csv", bytes_of(CSV_TASKS), use_questions, folder / "task.csv"),
        Target("run-questions", bytes_of(lines[:1]), use_native, folder / "fuzzed/tasks/t.jsonl"),
    ]


def _of_runs(folder: Path) -> list[Target]:
    run = write_fake_run(folder / "run", FakeRun(quants=ladder(2), tasks={"arc": 40}, texts={"wiki": 64}))
    path = run if isinstance(run, Path) else folder / "run"
    document = json.loads((path / "results.json").read_text(encoding="utf-8"))
    results = (path / "results.json").read_bytes()
    base, quant = make_pair(3, 12, n_groups=3)
    write_items(folder / "items.csv", base, quant)
    kld = np.random.default_rng(2).exponential(0.1, 20)
    arrays = {"kld": kld, "windows": np.arange(20, dtype=np.int32) // 5, "same_top": kld < 0.1}
    write_arrays(folder / "rows.npz", "key", arrays)
    table = community_csv(read_cohort([path]), "wiki").encode()
    return [
        Target("results", bytes_of([results]), read_results, folder / "results.json"),
        Target("results-values", values_of(document), lambda file: read_cohort([file.parent]), path / "results.json"),
        Target("run-report", values_of(document), use_run, path / "results.json"),
        Target("items", bytes_of([(folder / "items.csv").read_bytes()]), read_items, folder / "fuzzed.csv"),
        Target("rows", bytes_of([(folder / "rows.npz").read_bytes()]), use_rows, folder / "fuzzed.npz"),
        Target("llama-log", bytes_of([KLD_LOG, TASK_LOG]), use_log, folder / "log.txt"),
        Target("community-csv", bytes_of([table]), read_community_csv, folder / "community.csv"),
        Target("answers", bytes_of(answer_seeds()), read_answers, folder / "answers"),
    ]


def _of_release(folder: Path) -> list[Target]:
    rng = np.random.default_rng(4)
    entries = {
        f"blk.{layer}.ffn_down.weight": Entry(rng.exponential(1.0, (2, 32)), np.array([7, 9], np.int64))
        for layer in range(2)
    }
    matrix = Imatrix(entries, ("calibration.txt",), 4, 64)
    write_imatrix(folder / "matrix.gguf", matrix)
    write_legacy(folder / "matrix.dat", matrix, 64)
    chats = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}], "category": "chat"},
        {"messages": [{"role": "system", "content": [{"type": "text", "text": "Be"}]},
                      {"role": "user", "content": "x"},
                      {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]},
                      {"role": "tool", "content": "3"}], "tools": [{"type": "function", "function": {"name": "f"}}]},
    ]  # fmt: skip
    lines = "\n".join(json.dumps(chat) for chat in chats).encode()

    def changed(rng: random.Random) -> bytes:
        return "\n".join(json.dumps(mutate_values(rng, chat)) for chat in chats).encode()

    return [
        Target("imatrix", bytes_of([(folder / "matrix.gguf").read_bytes()]), read_imatrix, folder / "fuzzed-i.gguf"),
        Target("imatrix-dat", bytes_of([(folder / "matrix.dat").read_bytes()]), read_imatrix, folder / "fuzzed-i.dat"),
        Target("policy", bytes_of(POLICIES), read_policy, folder / "release.toml"),
        Target("chats", bytes_of([lines]), use_chats, folder / "chats.jsonl"),
        Target("chats-values", changed, use_chats, folder / "values.jsonl"),
    ]
