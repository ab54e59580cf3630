"""What a recipe will make, told before it is made, and what cannot be made refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_gguf import write_tiny

from quantprobe.engine.quantize import quantize
from quantprobe.engine.quantize_plan import plan_quants
from quantprobe.engine.recipe import Recipe
from quantprobe.errors import InputError
from quantprobe.gguf.header import read_header
from quantprobe.imatrix.file import write_imatrix
from quantprobe.imatrix.matrix import Entry, Imatrix


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny-F32.gguf", n_embd=256)


def write_ones(path: Path, model: Path, *, leave_out: str = "", n_extra: int = 0) -> Path:
    """An importance matrix of ones for every weight of the layers."""
    tensors = read_header(model).tensors.values()
    entries = {
        tensor.name: Entry(np.ones((1, tensor.shape[0] + n_extra), np.float32), np.ones(1, np.int64))
        for tensor in tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2 and tensor.name != leave_out
    }
    write_imatrix(path, Imatrix(entries, ("text.txt",), 1, 512))
    return path


def test_the_plan_is_what_comes_out(model: Path, tmp_path: Path) -> None:
    recipes = [
        Recipe("Q4_K_M", tensor_types=(("ffn_gate", "q8_0"),), token_embedding_type="bf16"),
        Recipe("Q2_K_S", imatrix=write_ones(tmp_path / "im.gguf", model), output_tensor_type="Q5_K"),
        Recipe("iq4_xs", pure=True),
    ]
    plans = plan_quants(model, recipes)
    for number, (plan, recipe) in enumerate(zip(plans, recipes, strict=True)):
        [made] = quantize(model, tmp_path / f"{number}.gguf", recipe, n_threads=1)
        tensors = read_header(made).tensors
        assert {t.name: (t.target_type, t.n_bytes) for t in plan.tensors} == {
            t.name: (t.type_name, t.n_bytes) for t in tensors.values()
        }
        assert abs(plan.size_bytes - made.stat().st_size) < 1000
        n_bits = 8 * sum(t.n_bytes for t in tensors.values())
        assert plan.bpw == pytest.approx(n_bits / sum(t.n_elements for t in tensors.values()))
    types = {t.name: t.target_type for t in plans[0].tensors}
    assert types["blk.0.ffn_gate.weight"] == "Q8_0" and types["token_embd.weight"] == "BF16"
    assert {t.target_type for t in plans[1].tensors if t.name == "output.weight"} == {"Q5_K"}


def test_fallbacks_are_announced(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "odd.gguf", n_embd=64, n_layer=1)
    [plan] = plan_quants(source, [Recipe("Q4_K_M")])
    fallbacks = plan.fallbacks()
    assert dict(fallbacks) == {("Q4_K", "Q5_0"): 6, ("Q6_K", "Q8_0"): 2}
    assert {t.target_type for t in plan.tensors if t.wanted_type == "Q4_K"} == {"Q5_0"}


def test_weights_that_the_matrix_does_not_know_are_told(model: Path, tmp_path: Path) -> None:
    matrix = write_ones(tmp_path / "im.gguf", model, leave_out="blk.1.ffn_down.weight")
    [plan] = plan_quants(model, [Recipe("Q4_K_M", imatrix=matrix)])
    assert plan.unweighted == ("blk.1.ffn_down.weight",)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe("IQ2_XXS"), "IQ2_XXS cannot be made without an importance matrix: .*imatrix collect"),
        (Recipe("Q8_X"), "unknown file type 'Q8_X'; llama.cpp makes F32, "),
        (Recipe("NVFP4"), "unknown file type 'NVFP4'"),
        (Recipe("Q8_0", tensor_types=(("attn", "q9"),)), "unknown tensor type 'q9'; ggml has F32, "),
        (
            Recipe("Q8_0", tensor_types=(("atn_q", "q4_0"),)),
            "--tensor-type atn_q: no tensor of tiny-F32.gguf has a name",
        ),
        (Recipe("Q8_0", tensor_types=(("(", "q4_0"),)), r"--tensor-type \(: not a regular expression"),
        (Recipe("Q8_0", tensor_types=(("attn_q", "iq1_s"),)), "attn_q.weight IQ1_S, which needs an importance matrix"),
        (Recipe("Q8_0", token_embedding_type="IQ2_XS"), "token_embd.weight IQ2_XS, which needs .* is missing"),
        (Recipe("Q8_0", imatrix=Path("absent")), "there is no importance matrix absent"),
    ],
    ids=lambda value: "" if isinstance(value, Recipe) else value[:30],
)
def test_what_cannot_be_made_is_refused(model: Path, recipe: Recipe, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_quants(model, [recipe])


def test_row_lengths_that_would_abort_llama_cpp_are_refused(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "odd.gguf", n_embd=64, n_layer=1)
    with pytest.raises(InputError, match=r"output.weight of odd.gguf has rows of 64, and Q6_K takes multiples of 256"):
        plan_quants(source, [Recipe("Q8_0", output_tensor_type="Q6_K")])


def test_a_matrix_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    matrix = write_ones(tmp_path / "im.gguf", model, n_extra=32)
    with pytest.raises(
        InputError, match=r"has 288 values for blk.0.attn_.*needs 256; it was collected on another model"
    ):
        plan_quants(model, [Recipe("Q4_K_M", imatrix=matrix)])


def test_a_missing_entry_of_a_type_that_needs_it_is_refused(model: Path, tmp_path: Path) -> None:
    matrix = write_ones(tmp_path / "im.gguf", model, leave_out="blk.1.ffn_up.weight")
    with pytest.raises(InputError, match=r"IQ2_XXS makes blk.1.ffn_up.weight IQ2_XXS.*has nothing for it"):
        plan_quants(model, [Recipe("IQ2_XXS", imatrix=matrix)])


def test_a_quantized_source_is_refused_unless_allowed(model: Path, tmp_path: Path) -> None:
    [source] = quantize(model, tmp_path / "q8.gguf", Recipe("Q8_0"), n_threads=1)
    with pytest.raises(InputError, match=r"q8.gguf is quantized already \(.* is Q8_0\).*--allow-requantize"):
        plan_quants(source, [Recipe("Q4_0")])
    [plan] = plan_quants(source, [Recipe("Q4_0", allow_requantize=True)])
    assert plan.size_bytes < source.stat().st_size
