"""Reading runs: every value arrives, runs merge, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fake_run import FakeRun, ladder, write_fake_run

from quantprobe.errors import FileFormatError, InputError, MismatchError
from quantprobe.names import safe_name
from quantprobe.report.notes import differences
from quantprobe.run.cohort import read_cohort
from quantprobe.run.folder import RunFolder
from quantprobe.run.results import read_results, write_results
from quantprobe.stats.estimates import Estimate


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("runs") / "a", FakeRun(quants=ladder(3)))


def _edited(run: Path, folder: Path, edit) -> Path:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    edit(results)
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def test_runs_that_differ_in_what_moves_no_logit_are_one_cohort_and_say_so(run: Path, tmp_path: Path) -> None:
    def edit(results) -> None:
        results["settings"] |= {"n_threads": 7, "quantprobe_version": "9.9", "equivalence_margin": 0.02, "decide": True}

    cohort = read_cohort([run, _edited(run, tmp_path / "other", edit)])
    assert [each.moves_logits for each in cohort.differences] == [False] * 4
    [note] = differences(cohort)
    assert "n_threads is not set and 7" in note and "move no logit" in note
    assert differences(read_cohort([run])) == []


def test_the_number_of_windows_matters_only_for_a_text_that_both_have(run: Path, tmp_path: Path) -> None:
    def windows(n: int, text: str):
        def edit(results) -> None:
            results["settings"] |= {"n_chunks": n, "texts": {text: "ab"}}

        return edit

    few, more = (_edited(run, tmp_path / str(n), windows(n, "wiki")) for n in (6, 10))
    with pytest.raises(MismatchError, match="n_chunks is 6 and 10"):
        read_cohort([few, more])
    assert len(read_cohort([few, _edited(run, tmp_path / "book", windows(10, "book"))]).quants) == 3


def test_values_arrive(run: Path) -> None:
    cohort = read_cohort([run])
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    entry, quant = results["quants"][1], cohort.quants[1]
    assert (quant.name, quant.size_bytes, cohort.base.name) == (entry["name"], entry["size_bytes"], "Fake-F16")
    text = quant.texts["wiki"]
    assert text.kld_mean.to_dict() == entry["texts"]["wiki"]["kld_mean"]
    assert text.kld_p99 == entry["texts"]["wiki"]["kld_p99"]
    task = quant.tasks["arc"]
    assert task.drops == entry["tasks"]["arc"]["drops"]
    assert (task.rule, task.verdict) == ("tokens", entry["tasks"]["arc"]["verdict"])
    assert cohort.texts == ("wiki",)
    assert cohort.tasks == ("arc", "hella")


def test_what_was_read_is_written_again_the_same(run: Path, tmp_path: Path) -> None:
    write_results(read_results(run), RunFolder(tmp_path))
    assert (tmp_path / "results.json").read_bytes() == (run / "results.json").read_bytes()


def test_items_and_rows_agree_with_results(run: Path) -> None:
    cohort = read_cohort([run])
    for quant in cohort.quants:
        items = cohort.items(quant.name, "arc")
        assert items.base.n_items == 80 and items.valid.all()
        assert items.quant.correct.mean() == pytest.approx(quant.tasks["arc"].acc.value)
        assert int((items.base.correct & ~items.quant.correct).sum()) == quant.tasks["arc"].drops
        assert items.quant.kld.mean() == pytest.approx(quant.tasks["arc"].kld_mean.value)
        assert items.base.kld is None and set(items.quant.n_choices) == {4}
        rows = cohort.rows(quant.name, "wiki")
        assert rows["kld"].mean() == pytest.approx(quant.texts["wiki"].kld_mean.value)
        assert rows["windows"][-1] == 7


def test_an_invalid_item_is_in_no_count(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path, FakeRun(quants=ladder(1), n_invalid=2, n_invalid_base=1))
    cohort = read_cohort([run])
    items, task = cohort.items("Q8_0", "arc"), cohort.quant("Q8_0").tasks["arc"]
    assert (~items.quant.valid).sum() == 2 and (~items.base.valid).sum() == 1
    assert (task.n_items, task.n_invalid, int(items.valid.sum())) == (77, 3, 77)
    assert items.quant.correct[items.valid].mean() == pytest.approx(task.acc.value)


def test_runs_merge_by_sha256(run: Path, tmp_path: Path) -> None:
    other = write_fake_run(tmp_path / "b", FakeRun(quants=ladder(4)[1:], texts={"code": 64}, tasks={"mmlu": 40}))
    cohort = read_cohort([run, other])
    assert [quant.name for quant in cohort.quants] == ["Q8_0", "Q6_K", "Q5_K_M", "Q6_K@b", "Q5_K_M@b", "Q5_K_S"]
    same = _edited(run, tmp_path / "c", lambda r: r["quants"][0].update(texts={}, name="other name"))
    merged = read_cohort([same, run])
    assert [quant.name for quant in merged.quants] == ["other name", "Q6_K", "Q5_K_M"]
    assert merged.items_files["other name", "arc"] == RunFolder(same).items("other name", "arc")
    assert merged.rows("other name", "wiki")["kld"].shape == (256,)


def test_differences_are_refused_by_name(run: Path, tmp_path: Path) -> None:
    base = _edited(run, tmp_path / "base", lambda r: r["base"].update(sha256="c" * 64))
    with pytest.raises(MismatchError, match=r"different bases.*bbbb.*cccc"):
        read_cohort([run, base])
    strangers = [
        _edited(run, tmp_path / name, lambda r, name=name: r["base"].update(sha256="", name=name))
        for name in ("A", "B")
    ]
    with pytest.raises(MismatchError, match=r"different bases, A \(\) and B \(\).*--like"):
        read_cohort(strangers)
    ctx = _edited(run, tmp_path / "ctx", lambda r: r["settings"].update(n_ctx=2048))
    with pytest.raises(MismatchError, match="n_ctx is 512 and 2048"):
        read_cohort([run, ctx])
    assert len(read_cohort([run, ctx], allow=["n_ctx"]).quants) == 3
    probe_a = _edited(run, tmp_path / "pa", lambda r: r["settings"].update(texts={"wiki.raw": {"n": 1}}))
    probe_b = _edited(run, tmp_path / "pb", lambda r: r["settings"].update(texts={"code.c": {"n": 2}}))
    probe_c = _edited(run, tmp_path / "pc", lambda r: r["settings"].update(texts={"wiki.raw": {"n": 2}}))
    read_cohort([probe_a, probe_b])
    with pytest.raises(MismatchError, match=r"texts\.wiki\.raw\.n is 1 and 2"):
        read_cohort([probe_a, probe_c])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r.pop("quants"), "missing required field `quants`"),
        (lambda r: r.update(format_version=9), "format_version is 9, expected 1"),
        (lambda r: r["quants"][1].pop("name"), r"missing required field `name` - at `\$\.quants\[1\]`"),
        (lambda r: r["quants"][1].update(size_bytes="big"), r"got `str` - at `\$\.quants\[1\]\.size_bytes`"),
        (
            lambda r: r["quants"][0]["texts"]["wiki"].update(kld_p99="0.1"),
            r"quants\[0\]\.texts\.wiki: Expected `float \| null`, got `str` - at `\$\.kld_p99`",
        ),
        (lambda r: r["quants"][0]["texts"]["wiki"]["kld_mean"].update(value=float("nan")), "NaN is no JSON"),
        (
            lambda r: r["quants"][0]["texts"]["wiki"].update(kld_mean={}),
            r"texts\.wiki: .*field `value` - at .*kld_mean",
        ),
        (lambda r: r["quants"][2]["tasks"]["arc"].update(drops=0.5), r"quants\[2\]\.tasks\.arc: .* at `\$\.drops`"),
        (lambda r: r["quants"][2]["tasks"]["arc"].pop("acc"), r"tasks\.arc: .*missing required field `acc`"),
        (lambda r: r["null_control"]["texts"]["wiki"].pop("kld_mean"), r"null_control\.texts\.wiki: .*`kld_mean`"),
        (lambda r: r.update(settings=[1]), r"Expected `object`, got `array` - at `\$\.settings`"),
        (lambda r: r["quants"][0].update(files={"tasks": {"arc": "../../secret.csv"}}), "inside the run's folder"),
    ],
)
def test_damage_is_named(run: Path, tmp_path: Path, edit, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read_cohort([_edited(run, tmp_path / "bad", edit)])


def test_null_stays_none_and_strangers_are_left_alone(run: Path, tmp_path: Path) -> None:
    def edit(results) -> None:
        results["quants"][0]["texts"]["wiki"].update(kld_mean=None, kld_max=None, groups={"a": 1})
        results["quants"][0]["tasks"]["arc"].update(net=None, acc=0.5, margin={"value": 0.02})
        results["remarks"] = "odd"

    quant = read_cohort([_edited(run, tmp_path / "null", edit)]).quants[0]
    assert quant.texts["wiki"].kld_mean == Estimate(None) and quant.texts["wiki"].kld_max is None
    assert quant.tasks["arc"].net is None and quant.tasks["arc"].acc == Estimate(0.5)
    assert quant.tasks["arc"].margin == 0.02


def test_damaged_files(run: Path, tmp_path: Path) -> None:
    cohort = read_cohort([write_fake_run(tmp_path / "r", FakeRun(quants=ladder(1)))])
    items = tmp_path / "r" / "items" / "Q8_0" / "arc.csv"
    text = items.read_text(encoding="utf-8").splitlines()
    for lines, message in [
        ([text[0], text[1], text[1]], r"arc\.csv, line 3: the id 'arc-0' is already on line 2"),
        ([text[0], text[1][:20]], r"arc\.csv, line 2: \d+ cells where the header has 15"),
        ([text[0].replace("kld", "x")], "no column 'kld'"),
        ([text[0], text[1].replace("subject-0,", "subject-0,x", 1)], r"arc\.csv, line 2: gold is 'x\d'; a whole"),
    ]:
        items.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with pytest.raises(FileFormatError, match=message):
            cohort.items("Q8_0", "arc")
    items.unlink()
    with pytest.raises(InputError, match=r"cannot read .*a results.json alone has no items"):
        cohort.items("Q8_0", "arc")
    rows = tmp_path / "r" / "rows" / "Q8_0" / "wiki.npz"
    rows.write_bytes(rows.read_bytes()[:500])
    with pytest.raises(FileFormatError, match="plain arrays"):
        cohort.rows("Q8_0", "wiki")
    np.savez(rows, kld=np.zeros(3), windows=np.zeros(4))
    with pytest.raises(FileFormatError, match="one length for all"):
        cohort.rows("Q8_0", "wiki")
    with pytest.raises(InputError, match="no quant 'Q9'"):
        cohort.rows("Q9", "wiki")
    with pytest.raises(InputError, match=r"results\.json does not exist"):
        read_cohort([tmp_path / "none"])
    (tmp_path / "results.json").write_text('{"format_version": 1, ', encoding="utf-8")
    with pytest.raises(FileFormatError, match="not JSON"):
        read_cohort([tmp_path])


def test_safe_names() -> None:
    assert safe_name("Q4_K_M.v2-x") == "Q4_K_M.v2-x"
    names = ["a/b", "a:b", "a b", "..", ".", "", "con", "NUL.txt", "é", "x" * 300, "x" * 301, "q\n"]
    safe = [safe_name(name) for name in names]
    assert len(set(safe)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") for name in safe)
    assert all(0 < len(name) <= 120 and not name.startswith(".") for name in safe)


@pytest.mark.parametrize(("key", "number"), [("size_bytes", "1" + "0" * 400), ("bpw", "1e308"), ("bpw", "-1e999")])
def test_a_number_that_no_measurement_gives_is_refused(run: Path, tmp_path: Path, key: str, number: str) -> None:
    copy = _edited(run, tmp_path / "huge", lambda results: results["quants"][0].update({key: "NUMBER"}))
    file = copy / "results.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"NUMBER"', number), encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"is beyond every number|digits, expected"):
        read_results(copy)
