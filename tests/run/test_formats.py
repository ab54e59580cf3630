"""docs/formats.md and the JSON Schema say what the program reads and writes."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest
from docs_tables import DOCS, PAGE, SCHEMA, schema_text, with_tables
from fake_run import FakeRun, ladder, write_fake_run
from made_run import fake_results

from quantprobe.capture import meta
from quantprobe.run import blame, results
from quantprobe.run.folder import RunFolder
from quantprobe.run.results import parse_results, results_document

TEXT = PAGE.read_text(encoding="utf-8")
VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_the_page_is_in_step_with_the_program() -> None:
    assert with_tables(TEXT) == TEXT, "run: python tests/support/docs_tables.py"


def test_the_schema_is_in_step_with_the_records() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == json.loads(schema_text()), (
        "run: python tests/support/docs_tables.py"
    )


def test_the_page_names_the_format_versions() -> None:
    assert f"`format_version`, {results.FORMAT_VERSION} in all" in TEXT
    assert results.FORMAT_VERSION == meta.FORMAT_VERSION == blame.FORMAT_VERSION


def test_every_file_of_a_run_is_on_the_page() -> None:
    run = RunFolder(Path("RUN"))
    paths = [run.results, run.study, run.report, run.items("QUANT", "TASK"), run.rows("QUANT", "TEXT")]
    paths += [run.task_rows("QUANT", "TASK"), run.questions("TASK"), run.capture("XXXXXXXX")]
    for path in paths:
        assert re.search(rf"\| `{re.escape(path.relative_to('RUN').as_posix())}/?`", TEXT), path


def test_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9-]", "", line.lower().replace(" ", "-")) for line in re.findall(r"^#+ (.*)$", TEXT, re.M)
    }
    for target in re.findall(r"\]\(#([^)]*)\)", TEXT):
        assert target in headings, target


def test_the_smallest_example_can_be_read() -> None:
    [example] = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    found = parse_results(json.loads(example))
    assert found.quants[0].texts["wiki"].kld_mean.value == 0.0171
    assert found.quants[0].tasks["arc"].drops == 31


@pytest.mark.parametrize(
    "fake",
    [
        FakeRun(quants=ladder(2), n_invalid=2, grouping="clusters"),
        FakeRun(quants=ladder(1), tasks={}, floor=None),
        FakeRun(quants=(), texts={}),
    ],
    ids=["with invalid items", "no task, no null control", "no quant"],
)
def test_written_runs_fit_the_schema(tmp_path: Path, fake: FakeRun) -> None:
    write_fake_run(tmp_path, fake)
    assert not list(VALIDATOR.iter_errors(json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))))


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    document = results_document(fake_results())
    VALIDATOR.validate(document)
    for spoil in (
        lambda r: r.pop("format_version"),
        lambda r: r.update(format_version=2),
        lambda r: r.pop("base"),
        lambda r: r["quants"][0].pop("name"),
        lambda r: r["quants"][0]["texts"]["wiki"].update(kld_max="1"),
        lambda r: r["quants"][0]["texts"]["wiki"].pop("kld_mean"),
    ):
        spoiled = copy.deepcopy(document)
        spoil(spoiled)
        assert not VALIDATOR.is_valid(spoiled)


def test_the_pages_that_it_names_are_there() -> None:
    for page in set(re.findall(r"\]\(([a-z_.]+)\)", TEXT)):
        assert (DOCS / page).is_file(), page
