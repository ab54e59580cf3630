"""quantprobe quantize: a cohort of quants in one command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantprobe.cli.shared.hub_inputs import hub_inputs
from quantprobe.cli.shared.model_args import find_base
from quantprobe.cli.shared.options import PathType, base_argument, json_option
from quantprobe.cli.shared.output import open_output
from quantprobe.cli.shared.progress import open_progress
from quantprobe.cli.shared.quant_plans import imatrix_option, show_plans, types_option
from quantprobe.errors import InputError

if TYPE_CHECKING:
    from quantprobe.engine.quantize_plan import QuantPlan
    from quantprobe.run.json_text import Json
    from quantprobe.sweep.ladder import Made, Order


class ByteSize(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A size such as `45G` or `500M`, as llama-gguf-split takes it: 1000 to the power."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip().upper()
        scale = {"M": 10**6, "G": 10**9}.get(text[-1:], 0)
        if not scale or not text[:-1].isdigit() or int(text[:-1]) == 0:
            self.fail(f"{value!r} is not a size such as 45G or 500M", param, ctx)
        return int(text[:-1]) * scale


@click.command()
@hub_inputs
@base_argument
@types_option(required=True)
@imatrix_option
@click.option(
    "--tensor-type",
    "tensor_types",
    multiple=True,
    metavar="REGEX=TYPE",
    help="Type of the tensors whose name the pattern fits; the first that fits decides.",
)
@click.option("--output-tensor-type", metavar="TYPE", help="Type of output.weight.")
@click.option("--token-embedding-type", metavar="TYPE", help="Type of the token embeddings.")
@click.option("--pure", is_flag=True, help="One type for all tensors, without llama.cpp's mixtures.")
@click.option("--allow-requantize", is_flag=True, help="Accept a BASE that is quantized already; its loss stays.")
@click.option("--keep-split", is_flag=True, help="Write as many parts as BASE has.")
@click.option("--split-max-size", type=ByteSize(), help="Cut files into parts of at most this many bytes (45G, 500M).")
@click.option(
    "--jobs",
    "n_jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Files made at a time, as far as the free memory allows.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be made: sizes, bits per weight, fallbacks.")
@click.option("-o", "--out", type=PathType(), required=True, help="Folder for the files.")
@json_option
def quantize(
    base: Path, types: Sequence[str], imatrices: Sequence[Path | None], tensor_types: Sequence[str],
    output_tensor_type: str | None, token_embedding_type: str | None, pure: bool, allow_requantize: bool,
    keep_split: bool, split_max_size: int | None, n_jobs: int, dry_run: bool, out: Path, json_path: str | None,
) -> None:  # fmt: skip
    """Quantize BASE to every type through llama.cpp, as llama-quantize does.

    What cannot be made is refused before anything is written, and sizes and fallbacks are shown first. Files are named
    BASENAME-TYPE.gguf (with several importance matrices, BASENAME-TYPE-MATRIX.gguf). Re-run the command to resume:
    files that are finished, by recipe and content, are kept.

    \b
    Examples:
      quantprobe quantize model-BF16.gguf --types Q8_0,Q4_K_M,IQ4_XS --out quants --dry-run
      quantprobe quantize model-BF16.gguf --types Q4_K_M,IQ2_M --imatrix imatrix.gguf --out quants
    """
    from quantprobe.engine.recipe import Recipe
    from quantprobe.sweep.quantizing import make_orders, order_quants, plan_orders

    if keep_split and split_max_size is not None:
        raise InputError("--keep-split and --split-max-size say different things; give one of them")
    common = Recipe(
        "F32", None, tuple(map(_pattern, tensor_types)), output_tensor_type, token_embedding_type, pure,
        allow_requantize, keep_split,
    )  # fmt: skip
    base = find_base(base)
    orders = order_quants(base, types, imatrices, common, split_max_size)
    with open_output(json_path) as output:
        plans = plan_orders(base, orders)
        show_plans(output, orders, plans)
        made: list[Made] = []
        if not dry_run:
            with open_progress() as progress:
                made = make_orders(base, out, orders, plans, progress, n_jobs)
            for each in made:
                how = "there already" if each.is_kept else f"made in {each.seconds:.1f} s"
                output.say(f"{', '.join(str(file) for file in each.files)}: {how}")
        output.write_json([_entry(order, plan, made) for order, plan in zip(orders, plans, strict=True)])


def _pattern(given: str) -> tuple[str, str]:
    """REGEX=TYPE; the pattern may hold `=`."""
    pattern, equals, kind = given.rpartition("=")
    if not equals or not pattern or not kind:
        raise InputError(f"--tensor-type {given}: expected REGEX=TYPE, for example 'ffn_down=q6_K'")
    return pattern, kind


def _entry(order: Order, plan: QuantPlan, made: Sequence[Made]) -> dict[str, Json]:
    found = next((each for each in made if each.order.name == order.name), None)
    fallbacks: list[Json] = [{"wanted": a or "", "taken": b, "n_tensors": n} for (a, b), n in plan.fallbacks().items()]
    entry: dict[str, Json] = {
        "name": order.name,
        "file_type": plan.recipe.kind.name,
        "imatrix": None if plan.recipe.imatrix is None else str(plan.recipe.imatrix),
        "predicted_bytes": plan.size_bytes,
        "bpw": plan.bpw,
        "fallbacks": fallbacks,
    }
    if found is None:
        return entry
    files: list[Json] = [str(file) for file in found.files]
    return entry | {"files": files, "size_bytes": found.size_bytes, "is_kept": found.is_kept}
