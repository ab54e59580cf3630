"""study, report, diff and import as a user calls them."""

import json

import pytest
from click.testing import CliRunner
from fake_run import FakeRun, ladder, write_fake_run

from quantprobe.cli.commands.diff import diff
from quantprobe.cli.commands.import_ import import_results
from quantprobe.cli.commands.report import report
from quantprobe.cli.commands.study import study
from quantprobe.errors import FileFormatError, InputError

RUN = FakeRun(quants=ladder(6), tasks={"arc": 60}, texts={"wiki": 128})


def call(command, *args):
    result = CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_fake_run(tmp_path_factory.mktemp("cli") / "fake.run", RUN)


def test_study_prints_tables_and_sentences_and_writes_json(run):
    result = call(study, run, "--margin", "2%", "--zone", "margin")
    assert result.exit_code == 0
    assert (
        "cannot be told apart" in result.output
        and "Spearman's rho" in result.output
        and "ver all quants" in result.output
    )
    findings = json.loads((run / "study.json").read_text(encoding="utf-8"))
    assert findings["margin"] == 0.02 and findings["zones"][0]["kind"] == "margin" and len(findings["names"]) == 6


def test_study_prints_eight_findings_and_the_rest_on_request(run, tmp_path):
    def findings(*more):
        printed = call(study, run, "-o", tmp_path / "s.json", *more).output
        return printed, [line for line in printed.splitlines() if line.startswith("- ")]

    (brief, few), (_, every) = findings(), findings("--details")
    assert 1 <= len(few) <= 8 and every[: len(few)] == few
    assert (len(few) < len(every)) == ("more with --details" in brief)


def test_study_json_alone_goes_to_standard_output(run, tmp_path):
    result = call(study, run, "-o", tmp_path / "s.json", "--zone", "bpw:4-6", "--json", "-")
    assert json.loads(result.stdout) == json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("zone", ["edge", "kld:0.05", "bpw:6-4", "margin:3", "top:3"])
def test_zones_that_make_no_sense_are_refused(run, zone):
    with pytest.raises(InputError, match="write"):
        call(study, run, "--zone", zone)


@pytest.mark.parametrize("margin", ["0", "200%", "much", "1"])
def test_margins_that_make_no_sense_are_refused(run, margin):
    assert call(study, run, "--margin", margin).exit_code == 2


def test_report_writes_the_page_beside_the_run(run):
    result = call(report, run, "--no-study")
    assert result.exit_code == 0 and "report.html, card.md" in result.output
    assert (run / "report" / "report.html").stat().st_size > 10_000
    assert not (run / "report" / "study.json").exists()


def test_diff_prints_every_comparison(run, tmp_path):
    other = write_fake_run(tmp_path / "other.run", RUN)
    result = call(diff, run, other, "--json", tmp_path / "diff.json")
    assert "Nothing moved beyond the noise" in result.output and "paired by rows" in result.output
    assert len(json.loads((tmp_path / "diff.json").read_text(encoding="utf-8"))["shifts"]) == 18


def test_import_of_logs_and_of_a_csv_can_be_studied(tmp_path):
    log, base = tmp_path / "Q4_K_M.log", tmp_path / "base.log"
    log.write_text("1\t100.00000000\n2\t50.00000000\n3\t66.66666667\n")
    base.write_text("1\t100.00000000\n2\t100.00000000\n3\t100.00000000\n")
    result = call(import_results, "-o", tmp_path / "h.run", "--task", "hella", "--base-log", base, log)
    assert "Imported 1 quants" in result.output and "only be studied by itself" in result.output
    entry = json.loads((tmp_path / "h.run" / "results.json").read_text(encoding="utf-8"))["quants"][0]
    assert entry["name"] == "Q4_K_M" and entry["tasks"]["hella"]["drops"] == 1
    (tmp_path / "k.csv").write_text("model_name,Mean KLD_mean,Median KLD\nA,0.1,0.05\nB,0.2,0.1\nC,0.3,0.2\n")
    call(import_results, "-o", tmp_path / "c.run", "--text", "wiki", tmp_path / "k.csv")
    assert "No task was measured" in call(study, tmp_path / "c.run").output


def test_import_says_what_it_lacks(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("nothing")
    with pytest.raises(FileFormatError, match="no progress line"):
        call(import_results, "-o", tmp_path / "r", "--text", "wiki", log)
    with pytest.raises(InputError, match="one of the two"):
        call(import_results, "-o", tmp_path / "r", log)
    with pytest.raises(InputError, match="--task"):
        call(import_results, "-o", tmp_path / "r", "--text", "wiki", "--base-log", log, log)
    with pytest.raises(InputError, match="by itself"):
        call(import_results, "-o", tmp_path / "r", tmp_path / "x.csv")
    assert not (tmp_path / "r").exists()
