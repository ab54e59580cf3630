"""JSONL question files: one object per line, in the shapes that people have.

The native form, which `make-task` writes::

    {"groups": "strata"}
    {"id": "capital-1", "group": "capitals", "prompt": "The capital of France is",
     "choices": ["Rome", "Paris"], "answer": 1}

The first line may say what the groups are (`quantprobe.probes.grouping`); without it they are `none`. `id` (unique) and
`group` may be left out; `answer` counts from 0. `delimiter` is what stands between prompt and choice (default one
space); `suffix` is text that follows every choice (default none).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from quantprobe.files import write_whole
from quantprobe.probes.grouping import UNGROUPED, check_grouping
from quantprobe.probes.items import Question
from quantprobe.probes.questions.entries import LETTERS, BadItemError, Entry, native_line

Record = dict[str, Any]


def read_jsonl(text: str, shape: str) -> Iterator[Entry]:
    """The entries of a JSONL text in one of `SHAPES`; blank lines are skipped."""
    fits, read = SHAPES[shape]
    number = 0
    for line_number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        number += 1
        where = f"line {line_number}"
        try:
            record = _parse_line(line)
            if not fits(record):
                raise BadItemError(f"the keys {', '.join(record)} are not those of the form {shape}")
            yield Entry(where, read(record, str(number)))
        except BadItemError as error:
            yield Entry(where, None, str(error))


def find_shape(line: str) -> str | None:
    """The shape of one JSONL line; None if it is no JSON object or has the keys of no shape."""
    record = _object(line)
    if record.keys() == {"groups"}:
        return "native"
    return next((shape for shape, (fits, _) in SHAPES.items() if fits(record)), None)


def take_grouping(text: str) -> tuple[str, str]:
    """What the first line of a native file says of its groups, and the text with that line left blank.

    `none` where the first line is a question. Raises `InputError` for a word that is none of `GROUPINGS`.
    """
    first, _, rest = text.partition("\n")
    record = _object(first)
    if record.keys() != {"groups"}:
        return UNGROUPED, text
    grouping = str(record["groups"])
    check_grouping(grouping)
    return grouping, "\n" + rest


def write_native(path: Path, questions: Iterable[Question], grouping: str = UNGROUPED) -> None:
    """Write questions in the native form, UTF-8, one line each, after a line that says what their groups are."""
    lines = [] if grouping == UNGROUPED else [json.dumps({"groups": grouping})]
    lines += [native_line(question) for question in questions]
    write_whole(path, "".join(line + "\n" for line in lines).encode("utf-8"))


def _object(line: str) -> Record:
    """The JSON object of a line; an empty one if it holds something else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _parse_line(line: str) -> Record:
    try:
        record = json.loads(line)
    except RecursionError as error:
        raise BadItemError("the JSON is nested too deeply") from error
    except ValueError as error:
        raise BadItemError(f"not JSON ({error})") from error
    if not isinstance(record, dict):
        raise BadItemError(f"a JSON object is expected, found {type(record).__name__}")
    return record


def _text(record: Record, key: str, default: str | None = None) -> str:
    value = record.get(key, default)
    if not isinstance(value, str):
        raise BadItemError(f"{key!r} must be text, found {_show(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadItemError(f"{key!r} holds half of a surrogate pair, which is no text") from error
    return value


def _texts(record: Record, key: str) -> tuple[str, ...]:
    value = record.get(key)
    if not isinstance(value, list):
        raise BadItemError(f"{key!r} must be a list of texts, found {_show(value)}")
    return tuple(_text({f"{key}[{i}]": choice}, f"{key}[{i}]") for i, choice in enumerate(value))


def _index(record: Record, key: str) -> int:
    """An answer index: a whole number, or text that holds one (Hugging Face stores HellaSwag's so)."""
    value = record.get(key)
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadItemError(f"{key!r} must be the answer's index (0 is the first choice), found {_show(value)}")
    return value


def _show(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _id(record: Record, number: str) -> str:
    value = record.get("id", number)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise BadItemError(f"'id' must be text or a whole number, found {_show(value)}")
    return _text({"id": str(value)}, "id")


def _group(record: Record) -> str:
    for key in ("group", "subject", "category"):
        if isinstance(record.get(key), str):
            return _text(record, key)
    return ""


def _labelled(label: object, labels: Sequence[object]) -> int:
    """The index of an answer given by label: one of the row's own labels, or a letter or number in their place."""
    wanted = str(label).strip()
    names = [str(name).strip() for name in labels]
    if wanted in names:
        return names.index(wanted)
    # ARC has a few rows whose labels are 1 to 4 and whose answer is a letter, and the other way round.
    if len(wanted) == 1 and wanted in LETTERS[: len(names)]:
        return LETTERS.index(wanted)
    if re.fullmatch("[0-9]{1,3}", wanted) and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    raise BadItemError(f"the answer {_show(label)} is none of the labels {', '.join(names)}")


def _read_native(record: Record, number: str) -> Question:
    return Question(
        id=_id(record, number),
        group=_group(record),
        prompt=_text(record, "prompt"),
        choices=_texts(record, "choices"),
        gold=_index(record, "answer"),
        suffix=_text(record, "suffix", ""),
        delimiter=_text(record, "delimiter", " "),
    )


def _read_query(record: Record, number: str) -> Question:
    choices = _texts(record, "choices")
    return Question(_id(record, number), _group(record), _text(record, "query"), choices, _index(record, "gold"))


def _read_arc_letters(record: Record, number: str) -> Question:
    choices, question = record["choices"], _text(record, "question")
    if isinstance(choices, dict):
        labels: list[str] = list(choices)
        texts = tuple(_text(choices, label) for label in labels)
        return Question(_id(record, number), _group(record), question, texts, _labelled(record["answer"], labels))
    texts = _texts(record, "choices")
    if isinstance(record["answer"], str) and not record["answer"].strip().isdecimal():
        gold = _labelled(record["answer"], LETTERS[: len(texts)])
    else:
        gold = _index(record, "answer")
    return Question(_id(record, number), _group(record), question, texts, gold)


def _read_arc_labels(record: Record, number: str) -> Question:
    choices = record["choices"]
    labels = choices.get("label")
    texts = _texts(choices, "text")
    if not isinstance(labels, list) or len(labels) != len(texts):
        raise BadItemError(f"'choices.label' must list one label for each of the {len(texts)} texts")
    gold = _labelled(record["answerKey"], labels)
    return Question(_id(record, number), _group(record), _text(record, "question"), texts, gold)


def _read_arc_original(record: Record, number: str) -> Question:
    """The file that AI2 publishes: `question.stem` and `question.choices[].text/label`."""
    question = record["question"]
    options = question.get("choices")
    if not isinstance(options, list) or not all(isinstance(option, dict) for option in options):
        raise BadItemError("'question.choices' must be a list of objects with 'text' and 'label'")
    texts = tuple(_text(option, "text") for option in options)
    gold = _labelled(record["answerKey"], [option.get("label") for option in options])
    return Question(_id(record, number), _group(record), _text(question, "stem"), texts, gold)


def clean_hellaswag(text: str) -> str:
    """HellaSwag's text as lm-evaluation-harness prepares it: WikiHow's bracketed marks are taken out."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _read_hellaswag(record: Record, number: str) -> Question:
    """`ctx_a`, `ctx_b` and `activity_label` give lm-eval's query; rows with only `ctx` take that as it is."""
    activity = _text(record, "activity_label", "")
    context = _text(record, "ctx", "")
    if "ctx_a" in record:
        context = _text(record, "ctx_a") + " " + _text(record, "ctx_b", "").capitalize()
    prompt = clean_hellaswag(f"{activity}: {context}" if activity else context)
    choices = tuple(clean_hellaswag(ending) for ending in _texts(record, "endings"))
    return Question(_id(record, number), activity, prompt, choices, _index(record, "label"))


def _read_winogrande(record: Record, number: str) -> Question:
    sentence = _text(record, "sentence")
    if "_" not in sentence:
        raise BadItemError("the sentence has no blank ('_')")
    prompt, suffix = sentence.split("_", 1)
    gold = _labelled(record.get("answer"), ("1", "2"))
    choices = (_text(record, "option1"), _text(record, "option2"))
    return Question(_id(record, number), _group(record), prompt, choices, gold, suffix, "")


SHAPES: dict[str, tuple[Callable[[Record], bool], Callable[[Record, str], Question]]] = {
    "native": (lambda r: {"prompt", "choices", "answer"} <= r.keys(), _read_native),
    "query-jsonl": (lambda r: {"query", "choices", "gold"} <= r.keys(), _read_query),
    "hellaswag-jsonl": (lambda r: "endings" in r and "label" in r and ("ctx" in r or "ctx_a" in r), _read_hellaswag),
    "winogrande-jsonl": (lambda r: {"sentence", "option1", "option2", "answer"} <= r.keys(), _read_winogrande),
    "arc-labels-jsonl": (
        lambda r: isinstance(r.get("choices"), dict) and {"question", "answerKey"} <= r.keys(),
        _read_arc_labels,
    ),
    "arc-original-jsonl": (lambda r: isinstance(r.get("question"), dict) and "answerKey" in r, _read_arc_original),
    "mmlu-jsonl": (lambda r: {"question", "subject", "choices", "answer"} <= r.keys(), _read_arc_letters),
    "arc-jsonl": (lambda r: {"question", "choices", "answer"} <= r.keys(), _read_arc_letters),
}
"""Shape name -> (does a record have its keys, record and running number -> question), in the order of recognition."""
