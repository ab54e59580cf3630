"""Reading runs: every value arrives, runs merge, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fake_run import FakeRun, ladder, write_fake_run

from quantprobe.errors import FileFormatError, InputError, MismatchError
from quantprobe.names import safe_name
from quantprobe.run.cohort import read_cohort


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("runs") / "a", FakeRun(quants=ladder(3)))


def _edited(run: Path, folder: Path, edit) -> Path:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    edit(results)
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def test_values_arrive(run: Path) -> None:
    cohort = read_cohort([run])
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    entry, quant = results["quants"][1], cohort.quants[1]
    assert (quant.name, quant.size_bytes, cohort.base.name) == (entry["name"], entry["size_bytes"], "Fake-F16")
    text = quant.texts["wiki"].values
    assert text["kld_mean"].to_dict() == entry["texts"]["wiki"]["kld_mean"]
    assert text["kld_p99"].value == entry["texts"]["wiki"]["kld_p99"]
    assert text["kld_p99"].stderr is None
    task = quant.tasks["arc"]
    assert task.counts["drops"] == entry["tasks"]["arc"]["drops"]
    assert (task.rule, task.verdict) == ("tokens", entry["tasks"]["arc"]["verdict"])
    assert cohort.texts == ("wiki",)
    assert cohort.tasks == ("arc", "hella")


def test_items_and_rows_agree_with_results(run: Path) -> None:
    cohort = read_cohort([run])
    for quant in cohort.quants:
        items = cohort.items(quant.name, "arc")
        assert items.n_items == 80
        assert items.quant_correct.mean() == pytest.approx(quant.tasks["arc"].values["acc"].value)
        assert int((items.base_correct & ~items.quant_correct).sum()) == quant.tasks["arc"].counts["drops"]
        assert items.kld.mean() == pytest.approx(quant.tasks["arc"].values["kld_mean"].value)
        assert set(items.n_choices()) == {4}
        margins = [
            max(row[:gold] + row[gold + 1 :]) for row, gold in zip(items.logprobs("quant"), items.gold, strict=True)
        ]
        golds = [row[gold] for row, gold in zip(items.logprobs("quant"), items.gold, strict=True)]
        np.testing.assert_allclose(np.subtract(golds, margins), items.quant_margin, atol=1e-5)
        rows = cohort.rows(quant.name, "wiki")
        assert rows["kld"].mean() == pytest.approx(quant.texts["wiki"].values["kld_mean"].value)
        assert rows["windows"][-1] == 7


def test_runs_merge_by_sha256(run: Path, tmp_path: Path) -> None:
    other = write_fake_run(tmp_path / "b", FakeRun(quants=ladder(4)[1:], texts={"code": 64}, tasks={"mmlu": 40}))
    cohort = read_cohort([run, other])
    assert [quant.name for quant in cohort.quants] == ["Q8_0", "Q6_K", "Q5_K_M", "Q6_K@b", "Q5_K_M@b", "Q5_K_S"]
    same = _edited(run, tmp_path / "c", lambda r: r["quants"][0].update(texts={}, name="other name"))
    merged = read_cohort([same, run])
    assert [quant.name for quant in merged.quants] == ["other name", "Q6_K", "Q5_K_M"]
    assert merged.quants[0].texts["wiki"].run == run
    assert merged.quants[0].tasks["arc"].run == same
    assert merged.rows("other name", "wiki")["kld"].shape == (256,)


def test_differences_are_refused_by_name(run: Path, tmp_path: Path) -> None:
    base = _edited(run, tmp_path / "base", lambda r: r["base"].update(sha256="c" * 64))
    with pytest.raises(MismatchError, match=r"different bases.*bbbb.*cccc"):
        read_cohort([run, base])
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
        (lambda r: r.pop("quants"), "quants is missing"),
        (lambda r: r.update(format_version=9), "format_version is 9, expected 1"),
        (lambda r: r["quants"][1].pop("sha256"), r"quants\[1\]\.sha256 is missing"),
        (lambda r: r["quants"][1].update(size_bytes="big"), r"quants\[1\]\.size_bytes is 'big', expected a finite"),
        (
            lambda r: r["quants"][0]["texts"]["wiki"].update(kld_p99="0.1"),
            r"quants\[0\]\.texts\.wiki\.kld_p99 is '0.1'",
        ),
        (
            lambda r: r["quants"][0]["texts"]["wiki"]["kld_mean"].update(value=float("nan")),
            r"wiki\.kld_mean\.value is nan",
        ),
        (lambda r: r["quants"][0]["texts"]["wiki"].update(kld_mean={}), r"wiki\.kld_mean\.value is missing"),
        (lambda r: r["quants"][2]["tasks"]["arc"].update(drops=-1), r"tasks\.arc\.drops is -1, expected a count"),
        (lambda r: r["quants"][2]["tasks"]["arc"].pop("acc"), r"tasks\.arc\.acc is missing"),
        (lambda r: r.update(settings=[1]), "settings is list, expected an object"),
        (lambda r: r["quants"][0].update(files={"tasks": {"arc": "../../secret.csv"}}), "inside the run's folder"),
    ],
)
def test_damage_is_named(run: Path, tmp_path: Path, edit, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read_cohort([_edited(run, tmp_path / "bad", edit)])


def test_null_stays_none_and_strangers_are_left_alone(run: Path, tmp_path: Path) -> None:
    def edit(results) -> None:
        results["quants"][0]["texts"]["wiki"].update(kld_mean=None, remarks="odd", groups={"a": 1})

    values = read_cohort([_edited(run, tmp_path / "null", edit)]).quants[0].texts["wiki"].values
    assert values["kld_mean"].value is None
    assert "remarks" not in values
    assert "groups" not in values


def test_damaged_files(run: Path, tmp_path: Path) -> None:
    cohort = read_cohort([write_fake_run(tmp_path / "r", FakeRun(quants=ladder(1)))])
    items = tmp_path / "r" / "items" / "Q8_0" / "arc.csv"
    text = items.read_text(encoding="utf-8").splitlines()
    for lines, message in [
        ([text[0], text[1], text[1]], r"arc\.csv:3: the id 'arc-0' occurs twice"),
        ([text[0], text[1][:20]], r"arc\.csv:2: \d+ values, expected 15"),
        ([text[0].replace("kld", "x")], "columns kld are missing"),
        ([text[0], text[1].replace("subject-0,", "subject-0,x", 1)], r"arc\.csv:2: gold is 'x\d', expected a whole"),
    ]:
        items.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with pytest.raises(FileFormatError, match=message):
            cohort.items("Q8_0", "arc")
    items.unlink()
    with pytest.raises(InputError, match="does not exist"):
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
