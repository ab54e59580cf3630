"""Multiple choice through the command line, on tiny models: what a run leaves, shows, and refuses."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from road_cases import error_line, run
from tiny_gguf import write_tiny

from quantprobe.engine.plan_choices import n_naive_tokens
from quantprobe.metrics.direction import list_changes
from quantprobe.probes.items import Question
from quantprobe.probes.questions.jsonl import write_native
from quantprobe.probes.questions.recognise import read_questions
from quantprobe.probes.rules import RULES
from quantprobe.probes.templates import FORMATS, TEMPLATES
from quantprobe.report.numbers import format_net
from quantprobe.run.items import COLUMNS, read_items
from quantprobe.stats.estimates import Estimate
from quantprobe.stats.power import plan as make_plan

CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
LETTERS = "etaoinshrdlu"


def passed(result: Result) -> str:
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refused(result: Result, *expected: str) -> bool:
    """One line on standard error, exit code 1, nothing on standard output."""
    line = error_line(result.exit_code, result.stdout, result.stderr)
    assert all(word in line for word in expected), line
    return True


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def questions(n: int, n_choices: int = 3, group: str = "") -> list[Question]:
    """Questions of a few letters; which choice is right is not to be known."""
    return [
        Question(
            id=f"{group}{i}",
            group=f"{group}{i % 4}" if group else "",
            prompt=f"the {LETTERS[i % 12]}{LETTERS[(5 * i + 1) % 12]} is",
            choices=tuple(
                f"{LETTERS[(i + 3 * c) % 12]}{LETTERS[(7 * i + c) % 12]}" * (1 + c) for c in range(n_choices)
            ),
            gold=i % n_choices,
        )
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two quants: one near, one far."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny(folder / "tiny-F32.gguf", chat_template=CHAT)
    write_tiny(folder / "tiny-Q8_0.gguf", weight_type="Q8_0")
    write_tiny(folder / "tiny-Q4_0.gguf", weight_type="Q4_0", noise=0.3)
    write_tiny(folder / "plain-F32.gguf")
    write_tiny(folder / "short-F32.gguf", n_ctx_train=32)
    write_native(folder / "words.jsonl", questions(24, group="w"))
    write_native(
        folder / "loose.jsonl", [*questions(9, n_choices=4), Question("same", "", "it is", ("a", "a", "b"), 1)]
    )
    (folder / "text.txt").write_text("the rain in the street is cold and loud. " * 30, encoding="utf-8")
    return folder


def sweep_args(models: Path, out: Path) -> list[str | Path]:
    tasks = ["--task", models / "words.jsonl", "--task", f"other={models / 'loose.jsonl'}"]
    quants = [models / "tiny-Q8_0.gguf", models / "tiny-Q4_0.gguf"]
    text = ["--text", models / "text.txt", "--chunks", "2", "-c", "64"]
    return ["sweep", models / "tiny-F32.gguf", *quants, *text, *tasks, "-t", "1", "-o", out]


@pytest.fixture(scope="module")
def swept(models: Path) -> tuple[Path, str]:
    """A finished run and what the command printed."""
    return models / "run", passed(run(*sweep_args(models, models / "run")))


@pytest.fixture(scope="module")
def document(swept: tuple[Path, str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((swept[0] / "results.json").read_text(encoding="utf-8"))
    return content


def test_a_sweep_leaves_the_files_of_its_tasks(swept: tuple[Path, str], models: Path) -> None:
    folder = swept[0]
    for quant in ("tiny-Q8_0", "tiny-Q4_0"):
        for task, n in (("words", 24), ("other", 10)):
            with (folder / "items" / quant / f"{task}.csv").open(encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
            assert tuple(rows[0]) == COLUMNS and len(rows) == n + 1
    kept = read_questions(folder / "tasks" / "words.jsonl").questions
    assert [(q.id, q.prompt, q.choices, q.gold) for q in kept] == [
        (q.id, q.prompt, q.choices, q.gold) for q in questions(24, group="w")
    ]
    with (folder / "results_tasks.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["task"] for line in lines] == ["words"] * 2 + ["other"] * 2 + ["all tasks pooled"] * 2
    assert {line["name"] for line in lines} == {"tiny-Q8_0", "tiny-Q4_0"}
    quants = json.loads((folder / "results.json").read_text(encoding="ascii"))["quants"]
    with (folder / "results_groups.csv").open(encoding="utf-8", newline="") as file:
        groups = list(csv.DictReader(file))
    assert {(line["task"], line["name"], line["group"]) for line in groups} == {
        (task, quant["name"], group)
        for quant in quants
        for task, numbers in quant["tasks"].items()
        for group in numbers["by_group"]
    }
    for line in groups:
        [quant] = [quant for quant in quants if quant["name"] == line["name"]]
        entry = quant["tasks"][line["task"]]["by_group"][line["group"]]
        assert int(line["drops"]) == entry["drops"] and int(line["n_items"]) == entry["n_items"]
        assert float(line["net_low"]) == entry["net"]["low"]


def test_results_json_keeps_the_contract(document: dict[str, Any]) -> None:
    estimate = {"value", "stderr", "low", "high", "level", "n", "n_clusters", "unit"}
    estimates = ("acc", "acc_base", "acc_norm", "volume", "net", "margin_shift", "gold_prob_shift", "kld_mean")
    others = ("rule", "drops", "leapfrogs", "wrong_to_other_wrong", "direction_index", "mcnemar_p", "adjusted_p",
              "verdict", "margin", "mde", "n_items", "n_invalid")  # fmt: skip
    for quant in document["quants"]:
        assert list(quant["texts"]) == ["text"] and list(quant["tasks"]) == ["words", "other"]
        for task in (*quant["tasks"].values(), quant["pooled"]):
            assert all(set(task[key]) == estimate for key in estimates if task[key] is not None)
            assert all(key in task for key in others)
            assert task["net"]["value"] == pytest.approx(task["acc"]["value"] - task["acc_base"]["value"], abs=1e-12)
            assert task["verdict"] in ("worse", "better", "equivalent", "not separable")
        counts = [task["drops"] + task["leapfrogs"] for task in quant["tasks"].values()]
        assert quant["pooled"]["drops"] + quant["pooled"]["leapfrogs"] == sum(counts)
        assert quant["pooled"]["n_items"] == 34
    for control in document["null_control"]["tasks"].values():
        assert (control["drops"], control["leapfrogs"]) == (0, 0) and control["n_rows"] > 0
    assert document["settings"]["equivalence_margin"] == 0.01
    assert document["quants"][1]["pooled"]["drops"] > 0, "the far quant must change something, or nothing is tested"


def test_facts_of_a_task_are_told_once(document: dict[str, Any], swept: tuple[Path, str]) -> None:
    from quantprobe.capture.store import Capture

    [path] = swept[0].glob("*.qpc")
    capture = Capture.open(path)
    for task, n in (("words", 24), ("other", 10)):
        facts, probe = document["tasks"][task], capture.task_probe(task)
        assert (facts["rule"], facts["template"], facts["n_items"], facts["n_left_out"]) == ("tokens", "plain", n, 0)
        assert facts["n_tokens_naive"] == n_naive_tokens(probe)
        # a prefix once, a branch without its last token: what the engine's plan must come to without shared headers
        shared = sum(len(item.prefix) + sum(max(len(b) - 1, 0) for b in item.branches) for item in probe.items)
        assert facts["n_tokens_decoded"] == shared < facts["n_tokens_naive"]
    assert document["tasks"]["other"]["n_identical"] == 1
    assert "1 with two choices of the same tokens" in (swept[0] / "results.md").read_text(encoding="utf-8")


def test_tables_show_what_results_json_says(swept: tuple[Path, str], document: dict[str, Any]) -> None:
    markdown = (swept[0] / "results.md").read_text(encoding="utf-8")
    far = document["quants"][1]["tasks"]["words"]
    [line] = [line for line in markdown.split("## Task: words")[1].split("## ")[0].splitlines() if "| tiny-Q4" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[4] == format_net(Estimate(**far["net"]), far["margin"])
    assert cells[5:8] == [str(far[key]) for key in ("drops", "leapfrogs", "wrong_to_other_wrong")]
    assert cells[-1].endswith(far["verdict"])
    assert far["sentence"] in markdown


def test_the_summary_is_the_pool_and_the_details_are_the_tasks(
    swept: tuple[Path, str], models: Path, document: dict[str, Any]
) -> None:
    folder, summary = swept
    assert max(len(line.rstrip()) for line in summary.split("Null control")[0].splitlines()) <= 100
    assert "all tasks pooled: answers against tiny-F32" in summary and "words: answers against" not in summary
    verdicts = summary.split("Verdicts over 34 questions")[1].split("\n\n")[0].splitlines()[1:]
    assert sorted(line.split()[1] for line in verdicts) == ["Q4_0", "Q8_0"]
    assert len(summary.split("What to look at:\n")[1].split("\n\n")[0].splitlines()) <= 8
    assert summary.count("Null control:") == 1 and "\x1b" not in summary
    details = passed(run(*sweep_args(models, folder), "--details"))
    for task in ("all tasks pooled", "words", "other"):
        assert f"{task}: answers against tiny-F32" in details
    assert document["quants"][1]["tasks"]["words"]["sentence"] in details
    assert f"{document['tasks']['words']['n_tokens_decoded']} tokens decoded per model" in details
    assert details.count("Null control:") == 1


def test_the_same_command_again_loads_no_model(
    swept: tuple[Path, str], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("a finished run must load nothing")

    monkeypatch.setattr("quantprobe.sweep.measuring.load_model", refuse)
    monkeypatch.setattr("quantprobe.sweep.capturing.load_model", refuse)
    before = (swept[0] / "results.json").read_bytes()
    again = run(*sweep_args(models, swept[0]))
    assert passed(again) == swept[1]
    assert "6 of 6 measurements are already in" in again.stderr and "already holds this capture" in again.stderr
    assert (swept[0] / "results.json").read_bytes() == before


def test_capture_and_compare_give_what_sweep_gives(models: Path, document: dict[str, Any], tmp_path: Path) -> None:
    task = ["--task", models / "words.jsonl", "-t", "1"]
    passed(run("capture", models / "tiny-F32.gguf", *task, "-o", tmp_path / "b.qpc"))
    args = ["compare", tmp_path / "b.qpc", models / "tiny-Q4_0.gguf", "-t", "1", "-o", tmp_path / "run"]
    alone = json.loads(passed(run(*args, "--margin", "0.2", "--json", "-")))
    found, known = alone["quants"][0]["tasks"]["words"], document["quants"][1]["tasks"]["words"]
    for key in ("acc", "margin_shift", "kld_mean", "drops", "leapfrogs", "mcnemar_p"):
        assert found[key] == known[key]
    assert found["net"]["value"] == known["net"]["value"], "its interval belongs to all quants of a run"
    assert found["margin"] == alone["settings"]["equivalence_margin"] == 0.2
    assert alone["quants"][0]["pooled"] is None


def test_flips_lists_what_changed_with_its_text(swept: tuple[Path, str]) -> None:
    folder = swept[0]
    found = json.loads(passed(run("flips", folder, "Q4_0", "--json", "-")))
    assert found["quant"] == "tiny-Q4_0"
    texts = {question.id: question for question in questions(24, group="w")}
    words = found["tasks"][0]
    pair = read_items(folder / "items" / "tiny-Q4_0" / "words.csv")
    assert [item["id"] for item in words["items"]] == [item.id for item in list_changes(pair.base, pair.quant)]
    assert words["n_changed"] == len(words["items"]) > 1
    shifts = [abs(item["margin_shift"]) for item in words["items"]]
    assert shifts == sorted(shifts, reverse=True)
    for item in words["items"]:
        assert item["prompt"] == texts[item["id"]].prompt and item["choices"] == list(texts[item["id"]].choices)
        assert item["margin_shift"] == pytest.approx(item["quant_margin"] - item["base_margin"], abs=1e-12)
    shown = passed(run("flips", folder, "tiny-Q4_0.gguf", "--task", "words", "--limit", "1"))
    first = words["items"][0]
    assert f"{words['n_changed']} of 24 answers changed" in shown and "the first 1" in shown
    assert first["kind"].upper() in shown and first["prompt"] in shown
    [right] = [line for line in shown.splitlines() if "right" in line and "|" in line]
    assert right.endswith(f"| {first['choices'][first['gold']]}")
    cut = json.loads(passed(run("flips", folder, "Q4_0", "--task", "words", "--limit", "1", "--json", "-")))
    assert [len(cut["tasks"][0]["items"]), cut["tasks"][0]["n_changed"]] == [1, words["n_changed"]]
    group = first["group"]
    inside = json.loads(passed(run("flips", folder, "Q4_0", "--group", group, "--json", "-")))["tasks"][0]
    assert inside["items"] == [item for item in words["items"] if item["group"] == group]
    assert inside["n_items"] == pair.base.groups.count(group) < 24


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["Q4_0", "--group", "nope"], ["no item of any task", "in a group 'nope'"]),
        (["Q5_K"], ["no quant 'Q5_K'", "tiny-Q8_0, tiny-Q4_0"]),
        (["tiny"], ["'tiny' fits tiny-Q8_0, tiny-Q4_0"]),
        (["Q4_0", "--task", "arc"], ["no task 'arc'", "words, other"]),
        (["Q4_0", "--limit", "-1"], ["--limit"]),
    ],
)
def test_flips_refuses(swept: tuple[Path, str], args: list[str], expected: list[str]) -> None:
    assert refused(run("flips", swept[0], *args), *expected)


def test_flips_without_a_run(tmp_path: Path) -> None:
    assert refused(run("flips", tmp_path, "Q4_0"), "results.json")


def test_show_item_prints_text_tokens_and_scored_ones(models: Path) -> None:
    args = ["show-item", models / "tiny-F32.gguf", "--task", models / "words.jsonl"]
    [item] = json.loads(passed(run(*args, "w5", "--json", "-")))["items"]
    question = questions(24, group="w")[5]
    assert item["context"] == question.prompt and item["gold"] == question.gold
    assert [choice["text"] for choice in item["choices"]] == [f" {choice}" for choice in question.choices]
    for choice in item["choices"]:
        pieces = item["shared"] + choice["tokens"]
        scored = [token for token in pieces if "sum" in token["rules"]]
        behind = [token for token in choice["tokens"] if "tokens" in token["rules"]]
        assert behind == choice["tokens"]
        assert pieces[-len(scored) :] == scored
        # the tiny vocabulary has no piece with a space: three bytes of U+2581, then one token a letter
        assert len(scored) == len(choice["text"]) + 2
    shown = passed(run(*args))
    assert shown.startswith("w0, group w0: template plain, rule tokens") and questions(1)[0].prompt in shown
    chat = passed(run(*args, "--chat-template", "w1", "w2"))
    assert chat.count("<|im_start|>assistant") == 2 and "template plain+chat" in chat
    assert refused(run(*args, "w99"), "no question 'w99'", "w0, w1, w2")


def test_show_item_reads_the_vocabulary_alone(models: Path, tmp_path: Path) -> None:
    from quantprobe.engine.model import Model

    loaded: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        original = Model.__init__

        def note(self: Model, *args: Any, **kwargs: Any) -> None:
            loaded.append(kwargs["vocab_only"])
            original(self, *args, **kwargs)

        patch.setattr(Model, "__init__", note)
        passed(run("show-item", models / "tiny-F32.gguf", "--task", models / "words.jsonl"))
    assert loaded == [True]


def test_letter_prompts_and_examples_reach_the_model(models: Path, tmp_path: Path) -> None:
    examples = write_lines(
        tmp_path / "dev.jsonl", [{"id": "d", "prompt": "solved", "choices": ["yes", "no"], "answer": 1}]
    )
    more = ["--task-template", "letters", "--few-shot", "1", "--few-shot-file", examples]
    args = ["show-item", models / "tiny-F32.gguf", "--task", models / "loose.jsonl", *more, "--json", "-"]
    [item] = json.loads(passed(run(*args)))["items"]
    assert item["context"].startswith("Question: solved\nA. yes\nB. no\nAnswer: B\n\nQuestion: the et is\nA. ")
    assert item["template"] == "letters+1shot" and item["rule"] == "letter"
    assert all([token["rules"] for token in choice["tokens"]] == [["letter"]] for choice in item["choices"])


def test_questions_longer_than_the_context_are_left_out_and_counted(models: Path, tmp_path: Path) -> None:
    long = Question("long", "", "the " * 30, ("a", "b"), 0)
    broken = '{"id": "b", "prompt": "it is", "choices": ["a"], "answer": 0}'
    write_native(tmp_path / "t.jsonl", [*questions(3), long])
    with (tmp_path / "t.jsonl").open("a", encoding="utf-8") as file:
        file.write(broken + "\n")
    args = ["sweep", models / "short-F32.gguf", models / "tiny-Q8_0.gguf", "--task", tmp_path / "t.jsonl"]
    args += ["-t", "1", "-o", tmp_path / "run"]
    assert refused(run(*args), "t.jsonl, line 5", "1 choice", "--skip-bad")
    found = json.loads(passed(run(*args, "--skip-bad", "--json", "-")))
    assert found["tasks"]["t"]["n_left_out"] == found["quants"][0]["tasks"]["t"]["n_left_out"] == 2
    assert found["quants"][0]["tasks"]["t"]["n_items"] == 3
    assert "2 questions are left out" in (tmp_path / "run" / "results.md").read_text(encoding="utf-8")
    write_native(tmp_path / "long.jsonl", [long])
    args[4] = tmp_path / "long.jsonl"
    assert refused(run(*args), "none of its 1 questions fits into 32 tokens", "--ctx-size")


def item(**changes: Any) -> dict[str, Any]:
    return {"id": "a", "group": "", "prompt": "it is", "choices": ["so", "not so"], "answer": 0} | changes


GOOD = item(id="good")


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        ([GOOD, item(answer=2)], [], ["t.jsonl, line 2", "answer index is 2", "2 choices"]),
        ([GOOD, item(answer=-1)], [], ["t.jsonl, line 2"]),
        ([GOOD, GOOD], [], ["t.jsonl, line 2", "'good' was used before"]),
        ([item(choices=["so"])], [], ["t.jsonl, line 1", "1 choice"]),
        ([GOOD, item(choices=["so", " "])], [], ["t.jsonl, line 2", "choice 1 is empty"]),
        ([GOOD, item(prompt="")], [], ["t.jsonl, line 2", "prompt is empty"]),
        ([GOOD, '{"id": "cut'], [], ["t.jsonl, line 2", "not JSON"]),
        ([], [], ["t.jsonl is empty"]),
        (["nothing known"], [], ["t.jsonl", "--task-format"]),
        ([GOOD], ["--task-format", "xml"], ["unknown task format 'xml'", "arc-jsonl"]),
        ([GOOD], ["--task-template", "poem"], ["unknown template 'poem'", "mmlu"]),
        ([GOOD], ["--task-rule", "luck"], ["unknown scoring rule 'luck'", "tokens"]),
        ([GOOD], ["--task-rule", "letter"], ["'letter' needs a prompt that lists letters"]),
        ([GOOD], ["--task-rule", "llama_winogrande"], ["text behind them"]),
        ([GOOD], ["--few-shot", "2"], ["--few-shot 2", "there are 0"]),
        ([GOOD], ["--few-shot", "1", "--few-shot-file", "none.jsonl"], ["cannot read", "none.jsonl"]),
        ([GOOD], ["--chat-template"], ["has no chat template", "--chat-template"]),
    ],
)
def test_bad_questions_are_one_line_before_any_model_is_loaded(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    rows: list[Any], options: list[str], expected: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("quantprobe.sweep.capturing.load_model", None)
    path = write_lines(tmp_path / "t.jsonl", rows)
    args = [models / "plain-F32.gguf", models / "tiny-Q8_0.gguf", "--task", path, *options, "-o", tmp_path / "run"]
    assert refused(run("sweep", *args), *expected)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("t.jsonl", json.dumps(GOOD).encode() + b'\n{"id": "\xe9"}\n', ["t.jsonl, line 2", "0xe9", "UTF-8"]),
        ("t.jsonl", json.dumps(GOOD).encode("utf-16"), ["UTF-16"]),
        ("t.bin", struct.pack("<II", 1, 8) + struct.pack("<I", 2_000_000_000) + b"\0" * 16, ["t.bin", "task 1"]),
        ("t.bin", struct.pack("<II", 2_000_000_000, 8) + b"\0" * 64, ["t.bin"]),
    ],
)
def test_damaged_question_files_are_one_line(
    models: Path, tmp_path: Path, name: str, data: bytes, expected: list[str]
) -> None:
    (tmp_path / name).write_bytes(data)
    args = [models / "plain-F32.gguf", models / "tiny-Q8_0.gguf", "--task", tmp_path / name, "-o", tmp_path / "run"]
    assert refused(run("sweep", *args), *expected)
    forced = ["--task-format", "multiple-choice-binary"] if name.endswith("bin") else []
    assert refused(run("sweep", *args, *forced), *expected)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_dev_files(models: Path, tmp_path: Path) -> None:
    (tmp_path / "mmlu" / "test").mkdir(parents=True)
    (tmp_path / "mmlu" / "test" / "law_test.csv").write_text("What is so?,a,b,c,d,B\n" * 1, encoding="utf-8")
    args = ["sweep", models / "plain-F32.gguf", models / "tiny-Q8_0.gguf", "--task", tmp_path / "mmlu"]
    assert refused(run(*args, "--few-shot", "5", "-o", tmp_path / "run"), "--few-shot 5", "a folder with a dev part")


def test_the_help_names_every_format_template_and_rule() -> None:
    words = " ".join(passed(run("sweep", "--help")).split())
    for name in (*FORMATS, *TEMPLATES, *RULES):
        assert name in words.replace("- ", "-"), name


def test_plan_says_what_the_statistics_say() -> None:
    args = ["plan", "-n", "1000", "--churn", "0.05", "--quants", "4"]
    [found] = json.loads(passed(run(*args, "--json", "-")))["plans"]
    expected = make_plan(1000, 0.05, n_quants=4)
    assert found["mde"] == expected.mde and found["n_to_detect"] == expected.n_to_detect
    shown = passed(run(*args))
    assert f"a change of accuracy of {100 * expected.mde:.2g} points is detected in 80% of cases" in shown
    assert f"takes {expected.n_to_detect:,} questions" in shown and "in a table of 4 quants" in shown
    assert len(json.loads(passed(run("plan", "--json", "-")))["plans"]) == 9
    hopeless = passed(run("plan", "-n", "50", "--churn", "0.005"))
    assert "no change is detected" in hopeless and "cannot happen" in hopeless


@pytest.mark.parametrize(
    "args", [["-n", "0"], ["--churn", "1.5"], ["--alpha", "0"], ["--power", "1"], ["--margin", "0"]]
)
def test_plan_refuses(args: list[str]) -> None:
    assert refused(run("plan", *args), args[0])


def test_make_task_makes_the_same_questions_again(tmp_path: Path) -> None:
    words = ["stone", "river", "winter", "candle", "letter", "garden", "shadow", "market", "silver", "window", "cloud"]
    text = tmp_path / "text.txt"
    text.write_text(" ".join(words[(i * i + 3 * (i // 7)) % 11] + str(i % 89) for i in range(3000)), encoding="utf-8")
    args = ["make-task", text, "-n", "20", "--choices", "3", "--context-chars", "100", "--choice-chars", "24"]
    shown = passed(run(*args, "-o", tmp_path / "a.jsonl"))
    assert "20 questions with 3 choices" in shown
    found = json.loads(passed(run(*args, "-o", tmp_path / "b.jsonl", "--json", "-")))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    made = read_questions(tmp_path / "a.jsonl").questions
    assert len(made) == found["n_items"] == 20 and all(len(question.choices) == 3 for question in made)
    passed(run(*args, "-o", tmp_path / "c.jsonl", "--seed", "2"))
    assert (tmp_path / "c.jsonl").read_bytes() != (tmp_path / "a.jsonl").read_bytes()
    assert refused(run("make-task", text, "-o", tmp_path / "d.jsonl", "-n", "5000"), "of the 5000 that were asked for")
    assert refused(run("make-task", tmp_path / "none.txt", "-o", tmp_path / "d.jsonl"), "none.txt")
    assert refused(run("make-task", text, "-o", tmp_path / "d.jsonl", "--context-chars", "20"), "a context of 20")
    assert not (tmp_path / "d.jsonl").exists()


def test_task_options_reach_the_tasks(models: Path, tmp_path: Path) -> None:
    args = ["sweep", models / "tiny-F32.gguf", models / "tiny-Q8_0.gguf", "--task", f"w={models / 'words.jsonl'}"]
    more = ["--task-items", "5", "--task-rule", "sum", "--task-template", "question", "--chat-template", "-t", "1"]
    found = json.loads(passed(run(*args, *more, "-o", tmp_path / "run", "--json", "-")))
    facts = found["tasks"]["w"]
    assert (facts["n_items"], facts["rule"], facts["template"]) == (5, "sum", "question+chat")
    assert list(found["quants"][0]["texts"]) == []


def test_llama_compat_takes_the_slip_of_winogrande(models: Path, tmp_path: Path) -> None:
    lines = [f"{i},the {LETTERS[i]} saw _ go,tea,rat,{1 + i % 2}" for i in range(6)]
    path = write_lines(tmp_path / "wg.csv", lines)
    args = ["sweep", models / "tiny-F32.gguf", models / "tiny-Q8_0.gguf", "--task", path, "-t", "1"]
    rules = []
    for more in ([], ["--llama-compat"]):
        found = json.loads(passed(run(*args, *more, "-o", tmp_path / f"run{len(more)}", "--json", "-")))
        rules.append(found["tasks"]["wg"]["rule"])
    assert rules == ["llama_winogrande", "llama_winogrande_compat"]
