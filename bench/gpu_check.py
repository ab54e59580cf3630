"""The goldens, the null control and one comparison with every layer on the GPU, in one table. Started by `gpu.sh run`.

What the goldens say was printed by llama.cpp's own tool on a CPU; a GPU sums in another order, so a difference beyond
the tolerance is a finding to be read, not a failure of the script.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from tiny_gguf import write_tiny

from quantprobe.capture.store import Capture
from quantprobe.cli.shared.progress import SilentProgress
from quantprobe.engine.devices import list_devices, versions
from quantprobe.engine.recipe import Recipe
from quantprobe.run.results import Results
from quantprobe.settings import Settings
from quantprobe.stats.estimates import Estimate
from quantprobe.sweep import Inputs, TextInput, compare_quants, import_kld, sweep
from quantprobe.sweep.ladder import Order, make_quants

QUIET = SilentProgress()
TOLERANCES = {"PPL": (0.0005, 0.0), "mean KLD": (0.01, 2e-5), "same top": (0.0, 0.002)}
"""Relative and absolute: those that the goldens are held to on a CPU."""
LADDER = ("Q8_0", "Q4_K_M", "Q2_K")
N_CHUNKS = 20


@dataclass(frozen=True)
class Line:
    """One number found, beside the one expected (None: nothing is)."""

    what: str
    quantity: str
    found: float | None
    expected: float | None = None

    def cells(self) -> list[str]:
        found = "n/a" if self.found is None else f"{self.found:.6g}"
        if self.expected is None or self.found is None:
            return [self.what, self.quantity, found, "", "", ""]
        relative, absolute = TOLERANCES[self.quantity]
        difference = self.found - self.expected
        within = abs(difference) <= max(relative * abs(self.expected), absolute)
        return [
            self.what,
            self.quantity,
            found,
            f"{self.expected:.6g}",
            f"{difference:+.2g}",
            "yes" if within else "no",
        ]


def printed(path: Path) -> dict[str, float]:
    """PPL, mean KLD and same top of llama-perplexity's printed statistics; a golden that breaks off has fewer."""
    text = path.read_text(encoding="utf-8")
    found = {
        name: re.search(rf"^{label}\s*:\s*(\S+)", text, re.MULTILINE)
        for name, label in {"PPL": r"Mean PPL\(Q\)", "mean KLD": r"Mean\s+KLD", "same top": "Same top p"}.items()
    }
    values = {name: float(match[1]) for name, match in found.items() if match is not None}
    return {name: value / 100 if name == "same top" else value for name, value in values.items()}


def lines_of(what: str, result: Results, text: str, expected: Mapping[str, Mapping[str, float]]) -> Iterator[Line]:
    """PPL, mean KLD and same top of every quant; `expected` by a part of the quant's name."""
    for quant in result.quants:
        summary = quant.texts[text]
        golden = next((numbers for name, numbers in expected.items() if quant.name.endswith(name)), {})
        values: dict[str, Estimate | None] = {
            "PPL": summary.ppl,
            "mean KLD": summary.kld_mean,
            "same top": summary.same_top,
        }
        for name, estimate in values.items():
            yield Line(f"{what}, {quant.name}", name, estimate.value if estimate else None, golden.get(name))


def check_tiny(golden: Path, work: Path, settings: Settings) -> Iterator[Line]:
    """Import the tool's own base file and compare the quants that it compared."""
    capture = work / "tiny.qpc"
    import_kld(golden / "base.kld", golden / "tiny-f32.gguf", capture, QUIET)
    quants = sorted(golden.glob("tiny-*.gguf"))
    tiny = Settings(**{**settings.to_dict(), "n_ctx": 64, "tensor_split": ()})  # type: ignore[arg-type]
    result = compare_quants(capture, quants, tiny, work / "tiny.run", QUIET, llama_compat=True).results
    expected = {quant.stem: printed(golden / f"kld-{quant.stem.removeprefix('tiny-')}.stdout.txt") for quant in quants}
    yield from lines_of("golden tiny", result, "base", expected)


def check_sweep(
    base: Path, quants: Sequence[Path], text: Path, work: Path, settings: Settings
) -> tuple[Results, float]:
    begin = time.perf_counter()
    inputs = Inputs(texts=(TextInput("text", text),), n_chunks=N_CHUNKS)
    result = sweep(base, quants, inputs, settings, work / f"{base.stem}.run", QUIET).results
    return result, time.perf_counter() - begin


def null_lines(what: str, base: Path, result: Results, seconds: float, work: Path) -> Iterator[Line]:
    """The base against its own capture, and how long everything took."""
    control = result.null_control
    null = None if control is None else control.texts["text"]
    assert null is not None and null.same_top is not None
    [capture] = (work / f"{base.stem}.run").glob("base-*.qpc")
    kind = Capture.open(capture).meta.kind
    yield Line(f"{what}, null control ({kind})", "mean KLD", null.kld_mean.value, 0.0)
    yield Line(f"{what}, null control ({kind})", "largest KLD", null.kld_max)
    yield Line(f"{what}, null control ({kind})", "same top", null.same_top.value, 1.0)
    yield Line(f"{what}, capture and {len(result.quants)} compares", "s", seconds)


def check_smollm2(model: Path, shared: Path, work: Path, settings: Settings) -> Iterator[Line]:
    """The golden of SmolLM2: F16 made of the packaged model, its quants, 20 windows of the Wikipedia text."""
    order = Order("SmolLM2-F16.gguf", Recipe("F16", allow_requantize=True))
    base = make_quants(model, work, [order], QUIET)[0].files[0]
    made = make_quants(base, work, [Order(f"SmolLM2-{name}.gguf", Recipe(name)) for name in LADDER], QUIET)
    quants = [each.files[0] for each in made]
    result, seconds = check_sweep(base, quants, shared / "data" / "text" / "wiki.txt", work, settings)
    yield from null_lines("SmolLM2", base, result, seconds, work)
    golden = json.loads((shared / "golden" / "smollm2" / "wiki_c512_20chunks_kld.json").read_text(encoding="utf-8"))
    expected = {
        name: {
            "PPL": entry["Mean PPL(Q)"][0],
            "mean KLD": entry["Mean KLD"][0],
            "same top": entry["Same top p"][0] / 100,
        }
        for name, entry in golden.items()
    }
    yield from lines_of("golden SmolLM2", result, "text", expected)


def check_random(work: Path, settings: Settings) -> Iterator[Line]:
    """A random model with a real model's vocabulary, for machines to which nothing else was carried."""
    size = {"n_vocab": 151_936, "n_embd": 512, "n_layer": 4}
    base = write_tiny(work / "random-F16.gguf", weight_type="F16", **size)  # type: ignore[arg-type]
    quant = write_tiny(work / "random-Q8_0.gguf", weight_type="Q8_0", **size)  # type: ignore[arg-type]
    text = work / "numbers.txt"
    text.write_text(" ".join(map(str, range(20_000))) + "\n", encoding="utf-8", newline="\n")
    result, seconds = check_sweep(base, [quant], text, work, settings)
    yield from null_lines("random", base, result, seconds, work)
    yield from lines_of("random", result, "text", {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    if not args.cpu and not any(device.kind in ("GPU", "IGPU") for device in list_devices()):
        sys.exit("llama.cpp sees no GPU here")
    settings = Settings(n_gpu_layers=0 if args.cpu else -1)
    lines = list(check_random(args.work, settings))
    if (args.shared / "golden" / "tiny").is_dir():
        lines += check_tiny(args.shared / "golden" / "tiny", args.work, settings)
    if args.model.is_file() and args.shared.is_dir():
        lines += check_smollm2(args.model, args.shared, args.work, settings)
    known = versions()
    print("\n" + "; ".join(f"{device.name} {device.description}" for device in list_devices()))
    print(f"quantprobe {known.quantprobe}, llama-cpp-python {known.llama_cpp_python}, llama.cpp {known.llama_cpp}\n")
    titles = ["check", "quantity", "found", "expected", "difference", "within the CPU's tolerance"]
    for cells in (titles, ["---"] * len(titles), *(line.cells() for line in lines)):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
