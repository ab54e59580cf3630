"""Planted faults are found and named; files that nobody touched raise no alarm."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ggml_blocks import INF, MADE, NAN, TYPE_IDS, bits_of, overwrite, tensor_in, write_of_type
from gguf import GGMLQuantizationType
from planted import (
    TENSOR,
    Plant,
    failures,
    flip_bits,
    noticed,
    plant_bad_scale,
    replace_bytes,
    retype,
    validate,
    zero_tensor,
)
from tiny_gguf import ARCHS, truncate, write_embedding_model, write_tiny

from quantprobe.checks.outcome import FAIL, PASS, SKIPPED, UNCHECKED, Check, FileReport, exit_code
from quantprobe.cli.main import cli
from quantprobe.gguf.block_layouts import LAYOUTS
from quantprobe.gguf.header import read_header

WRITABLE = [name for name in MADE if name in GGMLQuantizationType.__members__]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    return write_tiny(folder / "base-F32.gguf", vocab="bpe", n_vocab=300, chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def sound(folder: Path, base: Path) -> Path:
    return write_tiny(folder / "quant-Q8_0.gguf", vocab="bpe", n_vocab=300, chat_template=TEMPLATE, weight_type="Q8_0")


@pytest.fixture
def quant(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copy(sound, tmp_path / "quant-Q8_0.gguf"))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kind", ["F16", "Q4_1", "Q8_0"])
def test_sound_files_of_every_architecture_raise_no_alarm(arch: str, kind: str, tmp_path: Path) -> None:
    base = write_tiny(tmp_path / "base.gguf", arch, weight_type="BF16")
    report = validate(write_tiny(tmp_path / "q.gguf", arch, weight_type=kind, split=2), base)
    # llama-quantize would quantize two tensors of Mamba that these files keep as F32
    assert set(noticed(report)) <= ({"types"} if arch == "mamba" else set())
    assert failures(report) == {}


@pytest.mark.parametrize("name", WRITABLE)
def test_sound_files_of_every_type_raise_no_alarm(name: str, tmp_path: Path) -> None:
    base = write_of_type(tmp_path / "base.gguf", "F32")
    quant = write_of_type(tmp_path / "q.gguf", name)
    assert {each.type_name for each in read_header(quant).tensors.values()} == {name, "F16", "F32"}
    assert failures(validate(quant, base)) == {}


@pytest.mark.parametrize("name", WRITABLE)
@pytest.mark.parametrize("what", ["nan", "inf"])
def test_a_bad_scale_of_every_type_is_found_and_placed(name: str, what: str, tmp_path: Path) -> None:
    table = NAN if what == "nan" else INF
    if bits_of(LAYOUTS[name][0], table) is None:
        return
    quant = write_of_type(tmp_path / "q.gguf", name)
    plant_bad_scale(quant, bits=table, block=3)
    found = validate(quant, None)
    assert TENSOR in failures(found)["finite values"]
    [check] = [check for check in found.checks if check.name == "finite values"]
    assert ("1 NaN" if what == "nan" else "1 infinite") in check.details[0] and "q.gguf" in check.details[0]


FAULTS: dict[str, tuple[Plant, str, str]] = {
    "a broken magic": (lambda path: overwrite(path, 1, b"X"), "structure", "is not a GGUF file"),
    "a broken version": (lambda path: overwrite(path, 4, b"\x09"), "structure", "version 9, expected 2 or 3"),
    "a broken tensor count": (lambda path: overwrite(path, 8, b"\xff"), "structure", "damaged"),
    "a truncated tensor": (lambda path: void(truncate(path, -70)), "structure", "bytes are missing"),
    "a truncated header": (lambda path: void(truncate(path, 900)), "structure", "truncated or damaged"),
    "a wrong row size": (lambda path: retype(path, "Q4_0"), "structure", "lies at data offset"),
    "an unknown type": (lambda path: overwrite_type(path, 99), "structure", "has type 99"),
    "NaN in a scale": (plant_bad_scale, "finite values", TENSOR),
    "infinity in a scale": (lambda path: plant_bad_scale(path, bits=INF), "finite values", TENSOR),
    "a zeroed tensor": (zero_tensor, "zero tensors", f"{TENSOR} (Q8_0)"),
    "a swapped token": (lambda path: swap(path, "tz", "zt"), "tokenizer", "tokens[116] is 'z', 't' in the base"),
    "a wrong pre-tokenizer": (
        lambda path: replace_bytes(path, b"gpt-2", b"qwen2"),
        "tokenizer",
        "tokenizer.ggml.pre is",
    ),
    "a changed merge": (lambda path: replace_bytes(path, "Ġ e".encode(), "Ġ x".encode()), "tokenizer", "merges"),
    "a changed template": (
        lambda path: replace_bytes(path, b"m in messages", b"x in messages"),
        "chat template",
        "differs",
    ),
    "a changed hyperparameter": (
        lambda path: replace_bytes(path, b"rope.dimension_count", b"rope.dimension_cuont"),
        "metadata",
        "llama.rope.dimension_count is missing",
    ),
    "a renamed tensor": (
        lambda path: replace_bytes(path, b"blk.1.ffn_up", b"blk.1.ffn_xx"),
        "tensors",
        f"missing: {TENSOR}",
    ),
    "another model's weights": (
        lambda path: void(
            write_tiny(path, vocab="bpe", n_vocab=300, chat_template=TEMPLATE, weight_type="Q8_0", seed=5)
        ),
        "weights",
        "further from the base's than their types explain",
    ),
}


def void(_: object) -> None:
    """For faults whose function gives something."""


def overwrite_type(path: Path, number: int) -> None:
    data = path.read_bytes()
    entry = data.index(TENSOR.encode()) + len(TENSOR) + 4 + 16
    overwrite(path, entry, number.to_bytes(4, "little"))


def swap(path: Path, one: str, other: str) -> None:
    """Exchange two letters of the vocabulary's pieces."""
    data = path.read_bytes()
    tokens = read_header(path).metadata["tokenizer.ggml.tokens"]
    first, second = (data.index((1).to_bytes(8, "little") + letter.encode(), tokens.start) + 8 for letter in one)  # type: ignore[union-attr]
    overwrite(path, first, other[0].encode())
    overwrite(path, second, other[1].encode())


@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_found_and_named(fault: str, quant: Path, base: Path) -> None:
    plant, name, words = FAULTS[fault]
    plant(quant)
    report = validate(quant, base)
    assert report.status == FAIL
    assert name in failures(report), failures(report)
    assert words in failures(report)[name]


def test_the_sound_file_passes_everything(sound: Path, base: Path) -> None:
    report = validate(sound, base, decode=True)
    assert {check.name: check.status for check in report.checks} == dict.fromkeys(
        ("structure", "metadata", "tensors", "tokenizer", "special tokens", "chat template", "types", "finite values",
         "zero tensors", "outliers", "weights", "decode", "plausible"), PASS
    )  # fmt: skip


def test_a_missing_template_is_found(tmp_path: Path, base: Path) -> None:
    bare = write_tiny(tmp_path / "q.gguf", vocab="bpe", n_vocab=300, weight_type="Q8_0")
    assert "is missing" in failures(validate(bare, base))["chat template"]


def test_a_missing_part_is_found(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "q.gguf", weight_type="Q8_0", split=3)
    first.with_name("q-00002-of-00003.gguf").unlink()
    assert "q-00002-of-00003.gguf is missing" in failures(validate(first, None))["structure"]
    orphan = first.with_name("q-00003-of-00003.gguf")
    first.unlink()
    done = CliRunner().invoke(cli, ["validate", str(orphan), "--no-decode"])
    assert done.exit_code == 1 and "give the first part, q-00001-of-00003.gguf" in done.output


def test_bytes_behind_the_last_tensor_are_odd(quant: Path) -> None:
    quant.write_bytes(quant.read_bytes() + bytes(100))
    assert "100 bytes behind its last tensor" in noticed(validate(quant, None))["structure"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"tokenizer.ggml.eos_token_id": 300}, "eos_token_id is 300, expected a token number below 300"),
        ({"tokenizer.ggml.eos_token_id": None}, "no end of text or turn"),
        ({"tokenizer.ggml.eos_token_id": 256}, "eos_token_id is 256, 258 in the base"),
    ],
)
def test_special_tokens(extra: dict[str, Any], words: str, tmp_path: Path, base: Path) -> None:
    quant = write_tiny(tmp_path / "q.gguf", vocab="bpe", n_vocab=300, chat_template=TEMPLATE, extra=extra)
    assert words in noticed(validate(quant, base))["special tokens"]


def test_markup_that_is_ordinary_text_is_odd(tmp_path: Path) -> None:
    types = [1] * 256 + [3, 1, 3] + [1] * 41
    quant = write_tiny(
        tmp_path / "q.gguf",
        vocab="bpe",
        n_vocab=300,
        chat_template=TEMPLATE,
        extra={"tokenizer.ggml.token_type": types},
    )
    assert "'<|im_start|>' of the template is token 257" in noticed(validate(quant, None))["special tokens"]


def test_a_template_that_cannot_be_rendered_is_odd(tmp_path: Path) -> None:
    quant = write_tiny(tmp_path / "q.gguf", chat_template="{{ nothing.at.all }}")
    assert "cannot be rendered" in noticed(validate(quant, None))["chat template"]


def test_an_outlier_without_a_base_is_odd_and_with_one_broken(quant: Path, base: Path) -> None:
    tensor = tensor_in(quant, TENSOR)
    overwrite(quant, tensor.offset + 34 * 9 + 1, bytes([0x7B]))
    assert "outliers" not in failures(validate(quant, None))
    assert TENSOR in noticed(validate(quant, None))["outliers"]
    assert "which the base has not" in failures(validate(quant, base))["outliers"]


def test_a_zero_tensor_of_the_base_is_the_models_own(quant: Path, base: Path, tmp_path: Path) -> None:
    same = Path(shutil.copy(base, tmp_path / "base.gguf"))
    zero_tensor(quant)
    zero_tensor(same)
    assert failures(validate(quant, same)) == {}


def test_floats_left_in_a_quantized_file_are_odd(tmp_path: Path) -> None:
    quant = write_tiny(tmp_path / "q.gguf", n_embd=256, weight_type="Q8_0", head_type="F16")
    assert "token_embd.weight (F16)" in noticed(validate(quant, None))["types"]


def test_any_flipped_byte_of_a_header_is_noticed(sound: Path, base: Path, tmp_path: Path) -> None:
    """But for what only the file itself can know: its own file type, and padding before the weights."""
    data = sound.read_bytes()
    header = read_header(sound)
    end = data.index(b"blk.1.ffn_down.weight")
    own = data.index(b"general.file_type") + len(b"general.file_type")
    copy = tmp_path / "q.gguf"
    missed = []
    for place in range(0, end, 97):
        if own <= place < own + 8:
            continue
        damaged = bytearray(data)
        damaged[place] ^= 0x11
        copy.write_bytes(damaged)
        if not noticed(headers_only(copy, base)):
            missed.append(place)
    assert missed == [], [bytes(data[place - 8 : place + 8]) for place in missed]
    assert header.tensors


def headers_only(path: Path, base: Path) -> FileReport:
    """The checks that read no weights."""
    from quantprobe.checks.subject import Subject, check_structure
    from quantprobe.checks.validate import CHEAP
    from quantprobe.gguf.tensors import read_inventory

    structure = check_structure(path)
    checks = [structure.check]
    if structure.model is not None:
        subject = Subject(path, structure.model, read_inventory(base))
        checks += [check(subject) for check in CHEAP]
    return FileReport(path, path.name, tuple(checks))


@pytest.mark.parametrize("seed", range(3))
def test_random_bit_flips_are_found(seed: int, sound: Path, base: Path, tmp_path: Path) -> None:
    """2,000 flips in 80 KB of weights leave nothing whole; 200 are as many a byte as 300,000 in 80 MB."""
    quant = Path(shutil.copy(sound, tmp_path / "q.gguf"))
    flip_bits(quant, 200, seed)
    assert set(failures(validate(quant, base))) & {"finite values", "outliers", "weights"}


def test_a_file_that_llama_cpp_refuses_fails_the_decode(quant: Path, base: Path) -> None:
    replace_bytes(quant, b"gpt-2", b"gpt-x")
    found = validate(quant, None, decode=True)
    assert "unknown pre-tokenizer" in failures(found)["decode"]
    assert [check.status for check in found.checks if check.name == "plausible"] == [SKIPPED]


def test_a_decode_of_nan_fails(quant: Path) -> None:
    plant_bad_scale(quant, "output.weight")
    found = failures(validate(quant, None, decode=True))
    assert "127 of 127 tokens are NaN or infinite" in found["decode"]


def test_another_models_decode_is_not_plausible(tmp_path: Path, base: Path) -> None:
    other = write_tiny(tmp_path / "q.gguf", vocab="bpe", n_vocab=300, chat_template=TEMPLATE, seed=3)
    assert "probably broken: mean KLD" in failures(validate(other, base, decode=True))["plausible"]


def test_an_embedding_model_is_not_decoded(tmp_path: Path) -> None:
    report = validate(write_embedding_model(tmp_path / "bert.gguf"), None, decode=True)
    assert [check.status for check in report.checks if check.name in ("decode", "plausible")] == [SKIPPED, SKIPPED]
    assert failures(report) == {}


def test_a_type_that_is_newer_than_the_table_is_told(quant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: fields for name, fields in LAYOUTS.items() if name != "Q8_0"}
    monkeypatch.setattr("quantprobe.gguf.block_layouts.LAYOUTS", known)
    monkeypatch.setattr("quantprobe.checks.values.LAYOUTS", known)
    assert "types Q8_0 were not scanned" in noticed(validate(quant, None))["finite values"]


def test_exit_codes() -> None:
    def report(*statuses: str) -> FileReport:
        return FileReport(Path("x"), "x", tuple(Check("c", status, "r") for status in statuses))

    assert exit_code([report(PASS, "warn", SKIPPED)]) == 0
    assert exit_code([report(PASS), report(UNCHECKED)]) == 2
    assert exit_code([report(UNCHECKED), report(FAIL)]) == 1


def test_the_command_writes_json_junit_and_annotations(quant: Path, base: Path, tmp_path: Path) -> None:
    zero_tensor(quant)
    junit, document = tmp_path / "checks.xml", tmp_path / "checks.json"
    done = CliRunner().invoke(
        cli,
        ["validate", str(quant), "--base", str(base), "--no-decode", "--junit", str(junit), "--json", str(document),
         "--github"],
    )  # fmt: skip
    assert done.exit_code == 1, done.output
    assert "NOT VALID" in done.output and "FAIL  zero tensors" in done.output
    assert "::error file=" in done.output and "title=quant-Q8_0%3A zero tensors::1 tensors are all zeros" in done.output
    suite = ElementTree.parse(junit).getroot()[0]
    assert suite.get("failures") == str(len(suite.findall("testcase/failure"))) != "0"
    written = json.loads(document.read_text())
    assert (written["exit_code"], written["files"][0]["status"]) == (1, "fail")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.gguf"], "nothing.gguf"),
        (["{quant}", "--base", "nothing.gguf"], "there is no model nothing.gguf"),
        (["{quant}", "--capture", "nothing.qpc"], "there is no capture"),
        (["{quant}", "--run", "nothing"], "results.json does not exist"),
        (["{quant}", "--policy", "nothing.toml"], "cannot read the policy"),
        (["{quant}", "--colour"], "No such option"),
    ],
)
def test_what_cannot_be_checked_has_its_own_exit_code(arguments: list[str], words: str, sound: Path) -> None:
    done = CliRunner().invoke(cli, ["validate", *(word.format(quant=sound) for word in arguments)])
    assert done.exit_code == 2 and words in done.output


def test_types_are_those_of_the_enumeration() -> None:
    assert {name for name, number in TYPE_IDS.items() if name in GGMLQuantizationType.__members__} == {
        kind.name for kind in GGMLQuantizationType
    }
