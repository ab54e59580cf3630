"""The questions that come with the package: facts, words, grammar, arithmetic, sequences."""

from __future__ import annotations

from importlib.resources import as_file, files

from quantprobe.probes.questions.recognise import QuestionFile, read_questions

BUILTIN_NAME = "general"


def builtin_questions() -> QuestionFile:
    """The built-in questions, in the native form; template `plain`.

    Written for this project (`examples/make_builtin.py`); four choices each, every place of the right
    answer equally frequent within a group. They are easy on purpose: a small model answers many of them.
    """
    with as_file(files("quantprobe.probes.questions") / "data" / f"{BUILTIN_NAME}.jsonl") as path:
        return read_questions(path, format="native")
