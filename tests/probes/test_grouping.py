"""What the groups of questions are: said by files and formats, asked for, kept in captures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from capture_cases import make_task
from click.testing import CliRunner
from road_cases import Quiet
from tiny_gguf import write_tiny

from quantprobe.capture.meta import FileEntry, ProbeEntry
from quantprobe.capture.probe_files import decode_task, encode_probe, hash_bytes
from quantprobe.errors import FileFormatError, InputError
from quantprobe.probes.grouping import CLUSTERS, GROUPINGS, STRATA, UNGROUPED
from quantprobe.probes.items import Question, TaskProbe
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.probes.questions.recognise import read_questions

QUESTIONS = (
    Question("1", "birds", "a swan is", ("white", "square"), 0),
    Question("2", "fish", "a trout can", ("swim", "read"), 0),
)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_a_native_file_says_what_its_groups_are(tmp_path: Path, grouping: str) -> None:
    write_native(tmp_path / "t.jsonl", QUESTIONS, grouping)
    found = read_questions(tmp_path / "t.jsonl")
    assert (found.grouping, found.questions, found.format) == (grouping, QUESTIONS, "native")
    assert read_questions(tmp_path / "t.jsonl", format="native") == found
    n_lines = len((tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines())
    assert n_lines == (2 if grouping == UNGROUPED else 3)


def test_lines_are_counted_with_the_one_about_groups(tmp_path: Path) -> None:
    write_native(tmp_path / "t.jsonl", QUESTIONS, STRATA)
    with (tmp_path / "t.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"groups": "strata"}\n')
    with pytest.raises(FileFormatError, match="line 4: the keys groups are not those of the form native"):
        read_questions(tmp_path / "t.jsonl")


@pytest.mark.parametrize("word", ['"stratum"', "3", "null", '["strata"]'])
def test_an_unknown_word_is_named_with_its_place(tmp_path: Path, word: str) -> None:
    (tmp_path / "t.jsonl").write_text(f'{{"groups": {word}}}\n', encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"t.jsonl, line 1: groups are strata, clusters, none; .* was given"):
        read_questions(tmp_path / "t.jsonl")


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"groups": "strata"}\n', encoding="utf-8")
    with pytest.raises(FileFormatError, match="no usable question"):
        read_questions(tmp_path / "t.jsonl")


def test_subjects_of_mmlu_are_strata(tmp_path: Path) -> None:
    for part in ("test", "dev"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "law.csv").write_text("q,a,b,c,d,A\n", encoding="utf-8")
    record = {"question": "q", "subject": "law", "choices": ["x", "y"], "answer": 1}
    (tmp_path / "m.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    (tmp_path / "q.jsonl").write_text('{"query": "q", "choices": ["a", "b"], "gold": 0}\n', encoding="utf-8")
    assert read_questions(tmp_path).grouping == STRATA
    one_subject = read_questions(tmp_path / "test" / "law.csv")
    assert one_subject.grouping == STRATA and len(one_subject.dev) == 1
    assert read_questions(tmp_path / "m.jsonl").grouping == STRATA
    assert read_questions(tmp_path / "q.jsonl").grouping == UNGROUPED


def test_make_task_makes_clusters(tmp_path: Path) -> None:
    from quantprobe.cli.commands.make_task import make_task as command

    text = " ".join(f"word{i * i % 97} of{i % 31}" for i in range(2000))
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    args = [str(tmp_path / "t.txt"), "-o", str(tmp_path / "t.jsonl"), "-n", "5"]
    assert CliRunner().invoke(command, args).exit_code == 0
    assert read_questions(tmp_path / "t.jsonl").grouping == CLUSTERS


def entry_of(probe: TaskProbe) -> ProbeEntry:
    file = FileEntry("0.probe", 1, "0" * 64)
    return ProbeEntry(probe.name, "task", probe.sha256(), probe.n_rows, "float16", 8, file, file)


def test_a_capture_keeps_the_grouping() -> None:
    probe = replace(make_task(), grouping=CLUSTERS)
    assert decode_task(encode_probe(probe), entry_of(probe), "here").grouping == CLUSTERS
    assert probe.sha256() == make_task().sha256()


def test_a_capture_from_before_groups_had_a_meaning_has_none() -> None:
    probe = make_task()
    old = encode_probe(probe).replace(b'"grouping": "none", ', b"")
    assert hash_bytes(old) != hash_bytes(encode_probe(probe))
    assert decode_task(old, entry_of(probe), "here").grouping == UNGROUPED
    forged = encode_probe(probe).replace(b'"grouping": "none"', b'"grouping": "some"')
    with pytest.raises(FileFormatError, match="here is not the probe that the capture names"):
        decode_task(forged, entry_of(probe), "here")


def test_another_grouping_decodes_nothing_again(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    from quantprobe.settings import Settings
    from quantprobe.sweep import Inputs, TaskInput, sweep

    base = write_tiny(tmp_path / "base.gguf")
    write_native(tmp_path / "t.jsonl", QUESTIONS, STRATA)
    settings = Settings(n_threads=1, n_gpu_layers=0)
    rows = tmp_path / "run" / "rows" / "base" / "t.task.npz"
    times = []
    for asked, expected in ((None, STRATA), (CLUSTERS, CLUSTERS)):
        inputs = Inputs((), (TaskInput("t", tmp_path / "t.jsonl", grouping=asked),))
        found = sweep(base, [base], inputs, settings, tmp_path / "run", Quiet())
        assert found.results.tasks["t"].grouping == expected
        assert read_questions(tmp_path / "run" / "tasks" / "t.jsonl").grouping == expected
        times.append(rows.stat().st_mtime_ns)
    assert len(set(times)) == 1 and len(list((tmp_path / "run").glob("*.qpc"))) == 1
    with pytest.raises(InputError, match="groups are strata, clusters, none; 'sorts' was given"):
        sweep(base, [base], Inputs((), (TaskInput("t", tmp_path / "t.jsonl", grouping="sorts"),)), settings,
              tmp_path / "run", Quiet())  # fmt: skip
