"""The questions that come with the package: facts, words, phrases, languages, grammar, numbers."""

from __future__ import annotations

from importlib.resources import as_file, files

from quantprobe.probes.questions.recognise import QuestionFile, read_questions

BUILTIN_NAME = "general"


def builtin_questions() -> QuestionFile:
    """The built-in questions, in the native form; template `plain`; their groups are kinds of question, so strata.

    Written for this project (`examples/make_builtin.py`). Two to four short choices, most of them one token, so that
    one question costs about six tokens; every place of the right answer is equally frequent within a kind. They are
    easy on purpose: a small model answers many of them.
    """
    with as_file(files("quantprobe.probes.questions") / "data" / f"{BUILTIN_NAME}.jsonl") as path:
        return read_questions(path, format="native")
