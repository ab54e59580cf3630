"""What `inspect` finds: places, bits, deviations from llama-quantize's mixture, and differences from a base."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from ggml_blocks import overwrite, tensor_in
from tiny_gguf import ARCHS, write_tiny

from quantprobe.checks import inspection
from quantprobe.checks.inspection import OTHER, ROW_LENGTH, inspect_model
from quantprobe.cli.main import cli
from quantprobe.engine.dry_run import parse_log, read_mixture
from quantprobe.engine.quantize import quantize
from quantprobe.engine.recipe import Recipe
from quantprobe.errors import EngineError
from quantprobe.gguf.tensors import bits_per_weight, group_layers, layer_ranges, place_of, read_inventory

TOKENS = "tokenizer.ggml.tokens"


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["inspect", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Width 96: no row fits a block of 256."""
    return write_tiny(tmp_path_factory.mktemp("base") / "tiny-F32.gguf", n_embd=96, chat_template="{{ messages }}")


@pytest.fixture(scope="module")
def quant(base: Path) -> Path:
    path = base.with_name("tiny-Q4_K_M.gguf")
    quantize(base, path, Recipe("Q4_K_M"), n_threads=1)
    return path


def test_places() -> None:
    assert (place_of("blk.12.attn_q.weight").layer, place_of("blk.12.attn_q.weight").role) == (12, "attn_q")
    assert (place_of("token_embd.weight").layer, place_of("blk.0.attn_q.bias").role) == (None, "attn_q.bias")
    assert layer_ranges([0, 1, 2, 5, 8, 9]) == "0-2, 5, 8-9"
    assert layer_ranges([]) == ""


def test_bits_with_and_without_embeddings(tmp_path: Path) -> None:
    model = read_inventory(write_tiny(tmp_path / "m.gguf", weight_type="Q4_0", head_type="F16", tied=True))
    others = [each for each in model.tensors if each.name != "token_embd.weight"]
    n_bytes, n = sum(each.tensor.n_bytes for each in others), sum(each.tensor.n_elements for each in others)
    assert model.bpw_without_embeddings == 8 * n_bytes / n < model.info.bpw
    assert bits_per_weight([]) is None


@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture_has_layers_and_roles(arch: str, tmp_path: Path) -> None:
    found = inspect_model(write_tiny(tmp_path / "m.gguf", arch, weight_type="Q8_0"))
    assert sum(role.n_tensors for role in found.roles) == len(found.tensors)
    assert sum(role.n_params for role in found.roles) == found.info.n_params
    is_mixed = ARCHS[arch].second is not None
    assert [group.layers for group in found.layers] == ([(0,), (1,)] if is_mixed else [(0, 1)])
    assert found.deviations is not None
    rows_that_fit_no_block = {ROW_LENGTH} if arch == "deepseek2" else set()
    assert {each.reason for each in found.deviations} <= {OTHER, *rows_that_fit_no_block}


def test_fallbacks_are_named_with_their_reason(quant: Path) -> None:
    found = inspect_model(quant)
    assert found.deviations and found.mixture_note == ""
    assert {(each.wanted, each.found, each.reason) for each in found.deviations} == {
        ("Q4_K", "Q5_0", ROW_LENGTH),
        ("Q6_K", "Q8_0", ROW_LENGTH),
    }
    assert {each.row_length for each in found.deviations} == {96, 192}
    mixture = read_mixture(quant, "Q4_K_M", has_imatrix=False)
    assert mixture is not None and {name: entry.type_name for name, entry in mixture.items()} == {
        each.name: each.type_name for each in found.tensors
    }


def test_an_importance_matrix_changes_the_mixture(base: Path) -> None:
    plain, weighted = (read_mixture(base, "IQ4_XS", has_imatrix) for has_imatrix in (False, True))
    assert plain is not None and weighted is not None and set(plain) == set(weighted)
    many = read_mixture(base, "Q4_0", True)
    assert many is not None and many["blk.0.ffn_down.weight"].wanted in ("Q4_0", "Q4_1")


def test_types_chosen_by_hand_are_another_type(tmp_path: Path) -> None:
    found = inspect_model(write_tiny(tmp_path / "m.gguf", n_embd=256, weight_type="Q4_0", head_type="Q8_0"))
    assert found.deviations
    by_name = {each.name: (each.wanted, each.found, each.reason) for each in found.deviations}
    assert by_name["token_embd.weight"] == ("Q4_0", "Q8_0", OTHER)


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        ({"general.file_type": None}, "does not say which file type"),
        ({"general.file_type": 39}, "does not make files of type NVFP4"),
        ({"general.file_type": 0}, "is not quantized"),
    ],
)
def test_where_the_mixture_is_not_known_the_note_says_why(extra: dict[str, Any], note: str, tmp_path: Path) -> None:
    found = inspect_model(write_tiny(tmp_path / "m.gguf", weight_type="Q8_0", extra=extra))
    assert not found.deviations and note in found.mixture_note


def test_a_plan_that_llama_cpp_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny(tmp_path / "m.gguf", weight_type="Q8_0", extra={"general.architecture": "unheard-of"})
    with pytest.raises(EngineError, match=r"cannot quantize .*m\.gguf: .*unheard-of"):
        read_mixture(path, "Q8_0", has_imatrix=False)

    def refuse(*_: object) -> None:
        raise EngineError("no reason")

    monkeypatch.setattr(inspection, "read_mixture", refuse)
    found = inspect_model(write_tiny(tmp_path / "n.gguf", weight_type="Q8_0"))
    assert (found.deviations, found.mixture_note) == (None, "no reason")


def test_the_log_of_a_dry_run() -> None:
    log = (
        "warning: blk.0.attn_v.weight  - ncols    576 not divisible by 256 (required for type    q6_K ) "
        "-> falling back to    q8_0\n"
        "[   1/   3] output_norm.weight - [   576,  1,  1,  1], type =    f32, size =    0.002 MiB\n"
        "[   2/   3] blk.0.attn_v.weight - [   576,    192,      1,      1], type =    f16, "
        "size =     0.21 MiB ->     0.11 MiB (q8_0)\n"
    )
    plan = parse_log(log.splitlines())
    assert (plan["blk.0.attn_v.weight"].type_name, plan["blk.0.attn_v.weight"].wanted) == ("Q8_0", "Q6_K")
    assert (plan["output_norm.weight"].type_name, plan["output_norm.weight"].wanted) == ("F32", "F32")


def test_a_quant_differs_from_its_base_in_weights_alone(base: Path, quant: Path) -> None:
    found = inspect_model(quant, read_inventory(base)).comparison
    assert found is not None
    assert (found.tensors, found.token_lists, found.tokenizer_keys, found.templates, found.metadata) == ((),) * 5
    errors = [each.relative for each in found.weights]
    assert len(errors) == len(read_inventory(base).tensors)
    assert errors == sorted(errors, reverse=True) and 0.01 < (errors[0] or 0) < 0.2 and errors[-1] == 0


def test_differences_are_named_one_by_one(base: Path, tmp_path: Path) -> None:
    other = write_tiny(
        tmp_path / "other.gguf", n_embd=96, n_vocab=261, n_layer=1, chat_template="{{ other }}",
        extra={"tokenizer.ggml.eos_token_id": 1, "llama.rope.freq_base": 9.0,
               "tokenizer.chat_template.tool": "{{ t }}"},
    )  # fmt: skip
    found = inspect_model(other, read_inventory(base)).comparison
    assert found is not None
    kinds = {each.name: each.kind for each in found.tensors}
    assert (
        kinds["token_embd.weight"] == kinds["output.weight"] == "reshaped" and kinds["blk.1.attn_q.weight"] == "missing"
    )
    assert {each.what: (each.n_base, each.n_quant, each.n_different) for each in found.token_lists} == dict.fromkeys(
        ("tokens", "scores", "token_type"), (259, 261, 2)
    )
    assert [(each.number, each.base) for each in found.token_lists[0].first] == [(259, "missing"), (260, "missing")]
    assert [(each.key, each.base, each.quant) for each in found.tokenizer_keys] == [
        ("tokenizer.ggml.eos_token_id", "2", "1")
    ]
    assert [each.key for each in found.templates] == ["tokenizer.chat_template", "tokenizer.chat_template.tool"]
    assert found.templates[1].base == "missing"
    assert {each.key for each in found.metadata} == {"llama.block_count", "llama.vocab_size", "llama.rope.freq_base"}


def test_a_swapped_token_is_shown_with_its_number(base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    data = base.read_bytes()
    copy.write_bytes(data.replace(b"<0x41>", b"<0x4X>", 1))
    found = inspect_model(copy, read_inventory(base)).comparison
    assert found is not None
    [lists] = found.token_lists
    assert (lists.what, lists.n_different) == ("tokens", 1)
    assert (lists.first[0].number, lists.first[0].base, lists.first[0].quant) == (3 + 0x41, "'<0x41>'", "'<0x4X>'")


def test_layers_of_one_make_share_a_line(base: Path, tmp_path: Path) -> None:
    model = read_inventory(write_tiny(tmp_path / "m.gguf", n_layer=5))
    assert [group.layers for group in group_layers(model.tensors)] == [(0, 1, 2, 3, 4)]


def test_the_command_tells_one_model_in_full(base: Path, quant: Path, tmp_path: Path) -> None:
    picture = tmp_path / "layers.png"
    shown = run(str(quant), "--base", str(base), "--plot", str(picture))
    assert "tiny-Q4_K_M: llama, Q4_K_M" in shown
    assert re.search(r"[0-9]+ x Q5_0 instead of Q4_K .rows of [0-9, ]+ do not fit its blocks.: ", shown)
    assert "chat template: the same" in shown and "Error of the weights, the 10 largest of" in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    document = json.loads(run(str(quant), "--base", str(base), "--json", "-"))
    [model] = document["models"]
    assert model["info"]["file_type"] == "Q4_K_M" and model["comparison"]["weights"][0]["relative"] > 0
    assert model["deviations"][0]["reason"] == "row length"


def test_the_command_lists_several_models(base: Path, quant: Path) -> None:
    shown = run(str(base.parent))
    assert "tiny-F32" in shown and "tiny-Q4_K_M" in shown and "Tensors by role" not in shown
    assert "Tensors by role" in run(str(base.parent), "--details")


def test_an_importance_matrix_needs_a_base(quant: Path) -> None:
    done = CliRunner().invoke(cli, ["inspect", str(quant), "--imatrix", "x"])
    assert done.exit_code == 1 and "need a base" in done.output


def test_a_damaged_weight_leads_the_list(base: Path, quant: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(quant.read_bytes())
    place = tensor_in(copy, "blk.1.ffn_up.weight")
    overwrite(copy, place.offset, np.zeros(place.n_bytes, np.uint8).tobytes())
    found = inspect_model(copy, read_inventory(base)).comparison
    assert found is not None and found.weights[0].name == "blk.1.ffn_up.weight" and found.weights[0].relative == 1.0
