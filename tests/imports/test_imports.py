"""Logs and tables of others: every number as printed, every defect named with its place."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from fake_run import FakeRun, ladder, write_fake_run

from quantprobe.errors import FileFormatError, InputError, MismatchError
from quantprobe.imports.build import build_run, write_imported
from quantprobe.imports.community_csv import read_community_csv
from quantprobe.imports.llama_logs import STATISTICS, read_kld_log, read_task_log
from quantprobe.imports.matching import check_base, match_quants
from quantprobe.imports.sources import NamedFile, read_logs, read_tables
from quantprobe.report.tables.community_csv import community_csv
from quantprobe.run.cohort import read_cohort
from quantprobe.run.folder import RunFolder
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
    found = log.summary
    assert found.n_rows == 28 * 31  # -c 64 scores positions 32 to 62
    assert found.kld_mean.value == 0.000333 and found.kld_p999 == 0.000691
    assert (found.ppl.value, found.ppl.stderr, found.ppl.unit) == (433.331314, 16.102077, "ppl")
    assert (found.same_top.value, found.same_top.stderr) == (pytest.approx(0.95968), pytest.approx(0.00668))
    assert found.delta_p_rms.value == pytest.approx(0.00023)


@needs_golden
@pytest.mark.golden
def test_real_log_with_nan_errors():
    ratio = read_kld_log(GOLDEN / "tiny" / "kld-f32.stdout.txt").summary.ln_ppl_ratio
    assert ratio.stderr is None and ratio.value == 1e-6


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
        assert np.array_equal(read_task_log(path), correct)
        assert correct.mean() == pytest.approx(quant["acc"])


@pytest.mark.parametrize("form", ["{n}\t{acc:.4f}\t -4.052478   -4.100000  1  2", "{n}\t{acc:.8f}"])
def test_answers_of_ten_thousand_tasks_come_back(tmp_path, form):
    """Winogrande prints four decimals: half a unit of the last is 0.005 answers at task 10,000."""
    correct = np.random.default_rng(0).random(9_999) < 0.55
    path = tmp_path / "log.txt"
    path.write_text("\n".join(running_lines(correct, form)))
    assert np.array_equal(read_task_log(path), correct)


def test_kld_log_gives_rows_and_errors_by_chunk(tmp_path, rows):
    kld, ratio, same = rows
    path = tmp_path / "log.txt"
    path.write_text(kld_log(kld, ratio, same), encoding="utf-8")
    log = read_kld_log(path)
    assert (log.n_chunks, log.summary.n_rows) == (20, kld.size)
    mean = log.summary.kld_mean
    by_chunk = kld.mean(1).std(ddof=1) / 20**0.5
    assert mean.n_clusters == 20 and mean.n == kld.size
    assert mean.stderr == pytest.approx(by_chunk, rel=0.01)
    assert mean.stderr > 2 * kld.std() / kld.size**0.5  # what the tool prints is too small here
    assert log.summary.ln_ppl_ratio.stderr == pytest.approx(ratio.mean(1).std(ddof=1) / 20**0.5, rel=0.01)
    assert log.summary.delta_p_mean.value == pytest.approx(-0.00123)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_logs_in_the_encodings_that_shells_write(tmp_path, rows, encoding):
    path = tmp_path / "log.txt"
    path.write_bytes(kld_log(*rows).replace("Δ", "D" if encoding == "latin-1" else "Δ").encode(encoding))
    assert read_kld_log(path).summary.kld_mean.value == pytest.approx(rows[0].mean(), abs=1e-6)


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
    assert model.quant.size_bytes == round(432.80 * 2**30) and model.quant.bpw == 4.93
    assert model.summary.kld_mean.value == 0.037406 and model.summary.kld_mean.stderr == 0.000308
    assert model.summary.same_top.value == pytest.approx(0.915) and model.summary.kld_p999 == 1.5
    assert model.summary.ppl is None


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
        known = model.quant
        assert (known.name, known.path, known.size_bytes) == (quant.name, quant.path, quant.size_bytes)
        for statistic in STATISTICS.values():
            value, original = (getattr(summary, statistic.name) for summary in (model.summary, quant.texts["wiki"]))
            if not statistic.has_error:
                assert value == pytest.approx(original, rel=1e-8)
                continue
            assert value.value == pytest.approx(original.value, rel=1e-8)
            assert value.stderr == pytest.approx(original.stderr, rel=1e-8)
    with pytest.raises(InputError, match="no quant was measured on the text 'code'"):
        community_csv(cohort, "code")


@pytest.fixture
def answers():
    rng = np.random.default_rng(3)
    base = rng.random(400) < 0.6
    return base, {"Q8_0": base ^ (rng.random(400) < 0.01), "Q2_K": base & (rng.random(400) < 0.8)}


def write_logs(folder, answers):
    """A log of each quant's answers, named as it."""
    files = {name: folder / f"{name}.log" for name in answers}
    for name, correct in answers.items():
        files[name].write_text("\n".join(running_lines(correct)))
    return files


def named(files):
    return [NamedFile(None, path) for path in files]


def write_run(found, folder, like=None, margin=None):
    write_imported(build_run(found, like, margin), RunFolder(folder))
    return read_cohort([folder])


def test_imported_answers_are_a_run_like_any_other(tmp_path, answers):
    base, quants = answers
    logs = write_logs(tmp_path, {"base": base, **quants})
    found = read_logs(named(logs[name] for name in quants), "BF16", None, "hellaswag", logs["base"])
    cohort = write_run(found, tmp_path / "run", margin=0.02)
    for name, correct in quants.items():
        summary, items = cohort.quant(name).tasks["hellaswag"], cohort.items(name, "hellaswag")
        drops, leapfrogs = int((base & ~correct).sum()), int((~base & correct).sum())
        assert (summary.drops, summary.leapfrogs, summary.margin) == (drops, leapfrogs, 0.02)
        assert summary.mcnemar_p == float(mcnemar_p(drops, leapfrogs))
        assert np.array_equal(items.quant.correct, correct) and np.array_equal(items.base.correct, base)
    assert cohort.quant("Q2_K").tasks["hellaswag"].verdict == "worse"
    assert cohort.quant("Q8_0").tasks["hellaswag"].verdict in ("not separable", "not inferior", "equivalent")
    assert cohort.tasks_facts["hellaswag"].n_items == 400
    with pytest.raises(InputError, match="already holds"):
        write_imported(build_run(found), RunFolder(tmp_path / "run"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return write_fake_run(
        tmp_path_factory.mktemp("measured") / "run", FakeRun(quants=ladder(3), tasks={"arc": 80}, texts={"wiki": 256})
    )


def test_imported_and_measured_quants_mix_in_one_cohort(tmp_path, rows, measured):
    path = tmp_path / "log.txt"
    path.write_text(kld_log(*rows), encoding="utf-8")
    like = read_cohort([measured])
    logs = [NamedFile("Fake-Q8_0", path), NamedFile("Q3_K_XL", path)]
    write_run(read_logs(logs, "", "book", None), tmp_path / "imported", like)
    cohort = read_cohort([measured, tmp_path / "imported"])
    assert [quant.name for quant in cohort.quants] == [*(q.name for q in like.quants), "Q3_K_XL"]
    assert set(cohort.quant("Q8_0").texts) == {"wiki", "book"} and set(cohort.quant("Q3_K_XL").texts) == {"book"}
    assert cohort.settings["texts"]["book"] == {"measured_by": "llama-perplexity log"}
    assert study_cohort(cohort, n_boot=50, n_perm=99).sentences
    assert any(shift.how == "independent" for shift in diff_runs(tmp_path / "imported", tmp_path / "imported").shifts)


def test_answers_of_another_harness_are_studied_beside_the_kld_of_the_same_quants(tmp_path, answers, measured):
    base, quants = answers
    logs = write_logs(tmp_path, {"Fake-F16": base, "Q8_0": quants["Q8_0"], "Q6_K": quants["Q2_K"]})
    found = read_logs(named([logs["Q8_0"], logs["Q6_K"]]), "", None, "hellaswag", logs["Fake-F16"])
    like = read_cohort([measured])
    run = build_run(found, like)
    assert [str(note) for note in run.notes][:2] == [
        f"{name} is {name}, SHA-256 {like.quant(name).sha256[:12]} (by name)" for name in ("Q8_0", "Q6_K")
    ]
    assert run.notes[2:] == ("base: unnamed is taken to be Fake-F16, as --like vouches", "not in the import: Q5_K_M")
    write_imported(run, RunFolder(tmp_path / "imported"))
    cohort = read_cohort([measured, tmp_path / "imported"])
    assert set(cohort.quant("Q6_K").tasks) == {"arc", "hellaswag"} and set(cohort.quant("Q5_K_M").tasks) == {"arc"}
    assert cohort.items("Q6_K", "hellaswag").quant.n_items == 400
    assert [each.name for each in cohort.differences] == ["equivalence_margin"] and cohort.floor("wiki") == 0.0
    assert study_cohort(cohort, n_boot=50, n_perm=99).sentences


@pytest.mark.parametrize(
    ("name", "quant", "how"),
    [
        ("Q6_K", "Q6_K", "name"),
        ("models/Fake-Q6_K.gguf", "Q6_K", "file"),
        ("out/Q6_K", "Q6_K", "file"),
        ("q5_k_m/samples_arc", "Q5_K_M", "a part of the name"),
        ("results/fake-q6_k__samples", "Q6_K", "the run's name within it"),
        ("Q5_K", None, "none of its names fits"),
        ("Q6_K_L", None, "none of its names fits"),
        ("IQ6_K", None, "none of its names fits"),
        ("Q8_0-Q6_K", None, "Q8_0, Q6_K fit alike"),
    ],
)
def test_names_are_matched_as_they_say(measured, name, quant, how):
    [match] = match_quants([name], read_cohort([measured]))
    assert ((match.quant and match.quant.name), match.how) == (quant, how)
    assert name in str(match) and (quant or "no quant of the run") in str(match)


def test_digests_are_matched(measured):
    cohort = read_cohort([measured])
    digest = cohort.quants[1].sha256
    for name in (digest, digest[:8]):
        [match] = match_quants([name], cohort)
        assert match.quant == cohort.quants[1] and match.how == "SHA-256"
    assert match_quants([digest[:7]], cohort)[0].quant is None


def test_names_that_cannot_be_right_are_refused(measured):
    cohort = read_cohort([measured])
    with pytest.raises(InputError, match=r"Q6_K and Fake-Q6_K are both matched to Q6_K.*QUANT=FILE"):
        match_quants(["Q6_K", "Fake-Q6_K"], cohort)
    with pytest.raises(MismatchError, match="named Q8_0, which is the quant Q8_0 of the run; its base is Fake-F16"):
        check_base("Q8_0", cohort)
    check_base("F16", cohort)
    check_base("samples_arc", cohort)


def test_a_probe_that_the_run_has_too_is_told(tmp_path, rows, measured):
    path = tmp_path / "Q8_0.log"
    path.write_text(kld_log(*rows), encoding="utf-8")
    run = build_run(read_logs(named([path]), "", "wiki", None), read_cohort([measured]))
    assert "the run measured wiki too: to study both, give the import another name, or --allow texts.wiki" in run.notes
    settings = read_cohort([measured]).settings
    assert {name: run.results.settings[name] for name in settings} == settings


def test_accuracy_without_the_base_has_no_direction(tmp_path, answers):
    _, quants = answers
    logs = write_logs(tmp_path, {"Q2_K": quants["Q2_K"]})
    cohort = write_run(read_logs(named(logs.values()), "BF16", None, "hella"), tmp_path / "run")
    summary = cohort.quant("Q2_K").tasks["hella"]
    assert summary.acc.value == quants["Q2_K"].mean() and summary.verdict is None and summary.n_items == 400
    assert summary.drops is None and not cohort.has_items("Q2_K", "hella")


def test_imports_that_cannot_be_made_are_refused(tmp_path, answers):
    base, quants = answers
    logs = write_logs(tmp_path, {"Q2_K": quants["Q2_K"], "base": base[:-1]})
    with pytest.raises(MismatchError, match="0 of the base's 399 are missing from the quant, 1 are the quant's alone"):
        read_logs(named([logs["Q2_K"]]), "b", None, "hella", logs["base"])
    with pytest.raises(InputError, match="a name of its own"):
        build_run(read_logs(named([logs["Q2_K"]] * 2), "b", None, "hella"))
    with pytest.raises(InputError, match="nothing to import"):
        build_run(read_logs([], "b", None, "hella"))
    with pytest.raises(InputError, match="one of the two"):
        read_logs([], "b", None, None)


def test_published_csv_becomes_a_run(tmp_path):
    path = tmp_path / "kld.csv"
    path.write_text(f"{HEADER}\nM-Q4_K_M,464.7,4.93,0.037406,0.000308,1.5,0.01,0.02,91.5,432.80,x\n")
    quant = write_run(read_tables([path], "M-BF16", "wiki"), tmp_path / "r").quant("M-Q4_K_M")
    assert quant.size_bytes == round(432.80 * 2**30) and quant.texts["wiki"].kld_p999 == 1.5
