"""Logs and tables of others: every number as printed, every defect named with its place."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from fake_run import FakeRun, ladder, write_fake_run
from quantprobe.imports.imported_run import write_imported

from quantprobe.errors import FileFormatError, InputError, MismatchError
from quantprobe.imports.build import ImportedQuant, build_run, import_csv, import_logs
from quantprobe.imports.community_csv import community_csv, read_community_csv
from quantprobe.imports.llama_logs import read_kld_log, read_task_log
from quantprobe.run.cohort import read_cohort
from quantprobe.stats.paired import mcnemar_p
from quantprobe.study.diff import diff_runs
from quantprobe.study.findings import study_cohort

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="needs ../shared/golden, real output of llama-perplexity")


def running_lines(correct, form="{n}\t{acc:.8f}"):
    """Task lines as llama-perplexity prints them."""
    right = np.cumsum(correct)
    return [form.format(n=n, acc=100 * c / n) for n, c in enumerate(right, 1)]


HEAD = (
    "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            "
    "Same top p"
)


def pair(value, error, form="10.5f"):
    return f"{value:{form}} ± {error:{form}}"


def kld_log(kld, logratio, same):
    """A log in the tool's own format from per-row values `[n_chunks, n_rows]`."""
    lines = [HEAD]
    for c in range(1, len(kld) + 1):
        k, r, s = kld[:c].ravel(), logratio[:c].ravel(), same[:c].mean()
        n = len(k)
        top = pair(100 * s, 100 * (s * (1 - s) / (n - 1)) ** 0.5, "6.3f")
        ratio, mean = pair(r.mean(), r.std() / n**0.5), pair(k.mean(), k.std() / n**0.5)
        lines.append(f"{c:4d}  {pair(12.3, 0.5, '9.4f')}  {ratio}  {mean}  {pair(1.234, 0.01, '6.3f')} %    {top} %")
    k = kld.ravel()
    lines += [
        "",
        "====== Perplexity statistics ======",
        f"Mean PPL(Q)                   : {pair(12.345678, 0.5, '10.6f')}",
    ]
    lines += [f"Mean ln(PPL(Q)/PPL(base))     : {pair(logratio.mean(), 0.001, '10.6f')}", ""]
    lines += ["====== KL divergence statistics ======", f"Mean    KLD: {pair(k.mean(), 0.0001, '10.6f')}"]
    lines += [f"Maximum KLD: {k.max():10.6f}", f"99.9%   KLD: {np.quantile(k, 0.999):10.6f}"]
    lines += [f"Median  KLD: {np.median(k):10.6f}", "====== Token probability statistics ======"]
    lines += ["Mean    Δp: -0.123 ± 0.010 %", "RMS Δp    :  1.234 ± 0.010 %"]
    return "\n".join([*lines, f"Same top p: {pair(100 * same.mean(), 0.1, '6.3f')} %"]) + "\n"


@pytest.fixture(scope="module")
def rows():
    """Rows whose level differs from chunk to chunk: neighbours are not independent."""
    rng = np.random.default_rng(5)
    level = rng.normal(0, 0.5, (20, 1))
    kld = np.exp(rng.normal(-4, 0.5, (20, 255)) + level)
    return kld, rng.normal(0.01, 0.2, (20, 255)) + level / 10, rng.random((20, 255)) < 0.9


@needs_golden
@pytest.mark.golden
def test_real_kld_log_of_the_tool():
    log = read_kld_log(GOLDEN / "tiny" / "kld-Q8_0.stdout.txt")
    assert log.n_chunks == 28
    assert log.n_rows == 28 * 31  # -c 64 scores positions 32 to 62
    printed = {key: (e.value, e.stderr) for key, e in log.values.items()}
    assert printed["kld_mean"][0] == 0.000333 and printed["kld_p999"] == (0.000691, None)
    assert printed["ppl"] == (433.331314, 16.102077)
    assert printed["same_top"] == (pytest.approx(0.95968), pytest.approx(0.00668))
    assert printed["delta_p_rms"][0] == pytest.approx(0.00023)


@needs_golden
@pytest.mark.golden
def test_real_log_with_nan_errors():
    values = read_kld_log(GOLDEN / "tiny" / "kld-f32.stdout.txt").values
    assert values["ln_ppl_ratio"].stderr is None and values["ln_ppl_ratio"].value == 1e-6


@needs_golden
@pytest.mark.golden
@pytest.mark.parametrize("name", ["Q2_K", "Q4_K_M"])
def test_real_log_that_was_cut_short_says_so(name):
    with pytest.raises(FileFormatError, match=r"kld-.*:\d+: the log ends after chunk 28 without Mean KLD"):
        read_kld_log(GOLDEN / "tiny" / f"kld-{name}.stdout.txt")


@needs_golden
@pytest.mark.golden
@pytest.mark.parametrize(
    ("file", "form"),
    [
        ("hellaswag_200.json", "{n}\t{acc:.8f}%\t[30.1%, 40.2%]"),
        ("arc_easy_300_multiple_choice.json", "{n}\t{acc:.8f}"),
    ],
)
def test_real_answers_come_back_from_the_running_means(tmp_path, file, form):
    for quant in json.loads((GOLDEN / "smollm2" / file).read_text(encoding="utf-8")).values():
        correct = np.array(quant["correct_in_run_order"], bool)
        path = tmp_path / "log.txt"
        path.write_text("task\tacc_norm\n" + "\n".join(running_lines(correct, form)) + "\n\nFinal result: 1 +/- 2\n")
        assert np.array_equal(read_task_log(path).correct, correct)
        assert correct.mean() == pytest.approx(quant["acc"])


@pytest.mark.parametrize("form", ["{n}\t{acc:.4f}\t -4.052478   -4.100000  1  2", "{n}\t{acc:.8f}"])
def test_answers_of_ten_thousand_tasks_come_back(tmp_path, form):
    """Winogrande prints four decimals: half a unit of the last is 0.005 answers at task 10,000."""
    correct = np.random.default_rng(0).random(9_999) < 0.55
    path = tmp_path / "log.txt"
    path.write_text("\n".join(running_lines(correct, form)))
    assert np.array_equal(read_task_log(path).correct, correct)


def test_kld_log_gives_rows_and_errors_by_chunk(tmp_path, rows):
    kld, ratio, same = rows
    path = tmp_path / "log.txt"
    path.write_text(kld_log(kld, ratio, same), encoding="utf-8")
    log = read_kld_log(path)
    assert (log.n_chunks, log.n_rows) == (20, kld.size)
    mean = log.values["kld_mean"]
    by_chunk = kld.mean(1).std(ddof=1) / 20**0.5
    assert mean.n_clusters == 20 and mean.n == kld.size
    assert mean.stderr == pytest.approx(by_chunk, rel=0.01)
    assert mean.stderr > 2 * kld.std() / kld.size**0.5  # what the tool prints is too small here
    assert log.values["ln_ppl_ratio"].stderr == pytest.approx(ratio.mean(1).std(ddof=1) / 20**0.5, rel=0.01)
    assert log.values["delta_p_mean"].value == pytest.approx(-0.00123)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_logs_in_the_encodings_that_shells_write(tmp_path, rows, encoding):
    path = tmp_path / "log.txt"
    path.write_bytes(kld_log(*rows).replace("Δ", "D" if encoding == "latin-1" else "Δ").encode(encoding))
    assert read_kld_log(path).values["kld_mean"].value == pytest.approx(rows[0].mean(), abs=1e-6)


def test_log_mixed_with_stderr_is_read(tmp_path, rows):
    noisy = "ggml_cuda_init: found 1 CUDA devices\nllama_model_loader: - kv 0: x str = y\n" + kld_log(*rows)
    path = tmp_path / "log.txt"
    path.write_text(noisy + "llama_perf_context_print: load time = 12.3 ms\n", encoding="utf-8")
    assert read_kld_log(path).n_chunks == 20


def test_bad_kld_logs_name_file_and_line(tmp_path, rows):
    text = kld_log(*rows)
    path = tmp_path / "log.txt"
    for content, message in (
        ("", "no progress line"),
        ("nothing\nof the kind\n", "no progress line"),
        (text.replace("   7  ", "   9  ", 1), r"log.txt:8: chunk 9, expected 7"),
        (text + text, r"log.txt:\d+: chunk 1, expected 21"),
        ("\n".join(text.splitlines()[:12]), r"log.txt:12: the log ends after chunk 11"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(FileFormatError, match=message):
            read_kld_log(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_kld_log(tmp_path / "absent.txt")


def test_bad_task_logs_name_file_and_line(tmp_path):
    good = running_lines([True, False, True, True])
    path = tmp_path / "log.txt"
    for lines, message in (
        (["hello"], "no line `number TAB accuracy`"),
        (good[:2] + good[3:], r"log.txt:3: task 4, expected 3"),
        (good + good, r"log.txt:5: task 1, expected 5"),
        ([*good[:3], "4\t99.00000000"], r"log.txt:4: accuracy 99.00000000 % after 4 tasks is 3.9600 right answers"),
        (["1\t100.00000000", "2\t0.00000000"], r"log.txt:2"),
    ):
        path.write_text("\n".join(lines))
        with pytest.raises(FileFormatError, match=message):
            read_task_log(path)


HEADER = (
    "model_name,file_size_gb,bpw,Mean KLD_mean,Mean KLD_std,99.9% KLD,Median KLD,"
    '"Mean ln(PPL(Q)/PPL(base))_mean",Same top p_mean,file_size_gib,ggml_cuda_init'
)


def test_published_csv_is_read_and_noise_left_alone(tmp_path):
    path = tmp_path / "kld.csv"
    path.write_text(f"{HEADER}\nM-Q4_K_M,464.7,4.93,0.037406,0.000308,1.5,0.01,0.02,91.5,432.80,found 8 devices\n")
    (model,) = read_community_csv(path)
    assert model.size_bytes == round(432.80 * 2**30) and model.bpw == 4.93
    assert model.values["kld_mean"].value == 0.037406 and model.values["kld_mean"].stderr == 0.000308
    assert model.values["same_top"].value == pytest.approx(0.915) and model.values["kld_p999"].stderr is None
    assert "ppl" not in model.values


def test_bad_csv_names_file_and_line(tmp_path):
    path = tmp_path / "kld.csv"
    line = "M,1,4,0.1,0.01,1,0.05,0.02,91,1,x"
    for content, message in (
        ("a,b\n1,2\n", "no column model_name or Mean KLD_mean"),
        (f"{HEADER}\n", "the table has no line"),
        (f"{HEADER}\n{line}\n{line}\n", "named twice"),
        (f"{HEADER}\n{line.replace('0.1,', 'abc,', 1)}\n", r"kld\.csv:2: Mean KLD_mean is 'abc'"),
        (f"{HEADER}\n{line.replace('0.1,', 'inf,', 1)}\n", "finite"),
        (f"{HEADER}\nM,1,4,,0.01,1,0.05,0.02,91,1,x\n", "Mean KLD_mean is empty"),
    ):
        path.write_text(content)
        with pytest.raises(FileFormatError, match=message):
            read_community_csv(path)


def test_csv_round_trip_keeps_every_number(tmp_path):
    write_fake_run(tmp_path / "run", FakeRun(quants=ladder(3), tasks={}, texts={"wiki": 256}))
    cohort = read_cohort([tmp_path / "run"])
    text = community_csv(cohort, "wiki")
    header = next(csv.reader(io.StringIO(text)))
    assert header[:4] == ["model_name", "file_size_gb", "bpw", "file_path"] and "Mean KLD_std" in header
    (tmp_path / "out.csv").write_text(text, encoding="utf-8", newline="")
    for model, quant in zip(read_community_csv(tmp_path / "out.csv"), cohort.quants, strict=True):
        assert (model.name, model.path, model.size_bytes) == (quant.name, quant.path, quant.size_bytes)
        for key, value in model.values.items():
            original = quant.texts["wiki"].values[key]
            assert value.value == pytest.approx(original.value, rel=1e-8)
            if value.stderr is not None:
                assert value.stderr == pytest.approx(original.stderr, rel=1e-8)
    with pytest.raises(InputError, match="no quant was measured on the text 'code'"):
        community_csv(cohort, "code")


@pytest.fixture
def answers():
    rng = np.random.default_rng(3)
    base = rng.random(400) < 0.6
    return base, {"Q8_0": base ^ (rng.random(400) < 0.01), "Q2_K": base & (rng.random(400) < 0.8)}


def test_imported_answers_are_a_run_like_any_other(tmp_path, answers):
    base, quants = answers
    logs = []
    for name, correct in quants.items():
        path = tmp_path / f"{name}.log"
        path.write_text("\n".join(running_lines(correct)))
        logs.append((name, path))
    run = build_run(import_logs(logs, None, "hellaswag"), "BF16", {"hellaswag": base}, "llama-perplexity log")
    write_imported(run, tmp_path / "run")
    cohort = read_cohort([tmp_path / "run"])
    for name, correct in quants.items():
        record, table = cohort.quant(name).tasks["hellaswag"], cohort.items(name, "hellaswag")
        drops, leapfrogs = int((base & ~correct).sum()), int((~base & correct).sum())
        assert (record.counts["drops"], record.counts["leapfrogs"]) == (drops, leapfrogs)
        assert record.values["mcnemar_p"].value == float(mcnemar_p(drops, leapfrogs))
        assert np.array_equal(table.quant_correct, correct) and np.array_equal(table.base_correct, base)
    assert cohort.quant("Q2_K").tasks["hellaswag"].verdict == "worse"
    assert cohort.quant("Q8_0").tasks["hellaswag"].verdict in ("not separable", "equivalent")
    with pytest.raises(InputError, match="already holds"):
        write_imported(run, tmp_path / "run")


def test_imported_and_measured_quants_mix_in_one_cohort(tmp_path, rows):
    measured = tmp_path / "measured"
    write_fake_run(measured, FakeRun(quants=ladder(3), tasks={"arc": 80}, texts={"wiki": 256}))
    path = tmp_path / "log.txt"
    path.write_text(kld_log(*rows), encoding="utf-8")
    like = read_cohort([measured])
    logs = [("Q8_0", path), ("Q3_K_XL", path)]
    write_imported(
        build_run(import_logs(logs, "book", None), "", {}, "llama-perplexity log", like), tmp_path / "imported"
    )
    cohort = read_cohort([measured, tmp_path / "imported"])
    assert [quant.name for quant in cohort.quants] == [*(q.name for q in like.quants), "Q3_K_XL"]
    assert set(cohort.quant("Q8_0").texts) == {"wiki", "book"} and set(cohort.quant("Q3_K_XL").texts) == {"book"}
    assert cohort.settings["texts"]["book"] == {"measured_by": "llama-perplexity log"}
    assert study_cohort(cohort, n_boot=50, n_perm=99).sentences
    assert any(shift.how == "independent" for shift in diff_runs(tmp_path / "imported", tmp_path / "imported").shifts)


def test_accuracy_without_the_base_has_no_direction(tmp_path, answers):
    _, quants = answers
    imported = [ImportedQuant("Q2_K", answers={"hella": quants["Q2_K"]})]
    write_imported(build_run(imported, "BF16", {}, "log"), tmp_path / "run")
    record = read_cohort([tmp_path / "run"]).quant("Q2_K").tasks["hella"]
    assert record.values["acc"].value == quants["Q2_K"].mean() and record.verdict is None
    assert "drops" not in record.counts and not record.items_file.exists()


def test_imports_that_cannot_be_made_are_refused(tmp_path, answers):
    base, quants = answers
    some = [ImportedQuant("Q2_K", answers={"hella": quants["Q2_K"]})]
    with pytest.raises(MismatchError, match="answered 400 items of hella and the base 399"):
        build_run(some, "b", {"hella": base[:-1]}, "log")
    with pytest.raises(InputError, match="a name of its own"):
        build_run(some * 2, "b", {}, "log")
    with pytest.raises(InputError, match="nothing to import"):
        build_run([], "b", {}, "log")
    with pytest.raises(InputError, match="one of the two"):
        import_logs([], None, None)


def test_published_csv_becomes_a_run(tmp_path):
    path = tmp_path / "kld.csv"
    path.write_text(f"{HEADER}\nM-Q4_K_M,464.7,4.93,0.037406,0.000308,1.5,0.01,0.02,91.5,432.80,x\n")
    write_imported(
        build_run(import_csv(read_community_csv(path), "wiki"), "M-BF16", {}, "published CSV"), tmp_path / "r"
    )
    quant = read_cohort([tmp_path / "r"]).quant("M-Q4_K_M")
    assert quant.size_bytes == round(432.80 * 2**30) and quant.texts["wiki"].values["kld_p999"].value == 1.5
