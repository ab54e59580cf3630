"""What blame finds where the truth is known: simulated responses of groups, and tiny models with a planted fault.

    python bench/blame.py simulated [N]
    python bench/blame.py tiny [N]
    python bench/blame.py real BASE.gguf QUANT.gguf TEXT [N]

`simulated`: 12 groups, 8 windows of 256 rows and 600 questions. Every run of the design has noise of its own on each
row and question, as a hybrid has, and questions differ in how much each group moves them. `tiny`: random models of 2
layers; every tensor has noise of 2 %, one role of one layer, drawn for each case, noise of 30 %. `real`: in a quant of
a real model one role of one third of the layers is the F16 base's with noise of 30 %; distance on 4 windows.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from quantprobe.blame.effects import Response, disagreements, group_effects, is_shown
from quantprobe.run.blame import KLD, MARGIN
from quantprobe.stats.design import as_design
from quantprobe.stats.two_level import AVERAGED, Design, foldover_design, hadamard_design, single_design

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

N_GROUPS, N_WINDOWS, N_ROWS, N_ITEMS = 12, 8, 256, 600
GROUPS = [SimpleNamespace(name=str(i), extra_bytes=10**6) for i in range(N_GROUPS)]


def responses(
    design: Design, rng: np.random.Generator, kld: np.ndarray, margin: np.ndarray, noise: float = 1.0
) -> dict[str, Response]:
    """Rows: effects that differ between windows and rows. Items: likewise, and noise of every run with heavy tails."""
    x = design.runs.astype(np.float64)
    windows = np.repeat(np.arange(N_WINDOWS), N_ROWS)
    of_window = 1 + 0.2 * rng.normal(size=(N_GROUPS, N_WINDOWS))
    rows = kld[:, None] * of_window[:, windows] * rng.gamma(0.5, 2.0, size=(N_GROUPS, N_WINDOWS * N_ROWS))
    of_row = x @ rows + 0.05 * rng.normal(size=(len(x), N_WINDOWS * N_ROWS))
    items = margin[:, None] + 0.3 * rng.normal(size=(N_GROUPS, N_ITEMS))
    of_item = x @ items + noise * rng.standard_t(4, size=(len(x), N_ITEMS)) * 0.5
    return {KLD: Response(of_row, as_design(windows)), MARGIN: Response(of_item, as_design(np.arange(N_ITEMS)))}


def simulated(n: int) -> None:
    """False alarms without effects, the planted group named first, disagreements that are not there."""
    for design in (hadamard_design(N_GROUPS), foldover_design(N_GROUPS), single_design(N_GROUPS)):
        [way] = design.effects
        false = first = shown = claims = planted_claims = 0
        errors = []
        for case in range(n):
            rng = np.random.default_rng([case, len(design.runs)])
            equal = np.full(N_GROUPS, 0.01)
            null = responses(design, rng, equal, np.zeros(N_GROUPS))
            false += any(is_shown(e.measures[MARGIN].given_back) for e in group_effects(design, null, GROUPS))
            claims += bool(disagreements(design, null, GROUPS))
            planted = int(rng.integers(N_GROUPS))
            kld, margin = equal.copy(), np.zeros(N_GROUPS)
            kld[planted], margin[planted] = 0.03, 0.2
            found = group_effects(design, responses(design, rng, kld, margin), GROUPS)
            order = [max(found, key=lambda e, m=m: e.measures[m].given_back.value).group for m in (KLD, MARGIN)]
            first += order == [str(planted)] * 2
            shown += is_shown(found[planted].measures[MARGIN].given_back)
            planted_claims += any(is_shown(e.measures[MARGIN].given_back) for i, e in enumerate(found) if i != planted)
            errors.append(found[0].measures[MARGIN].given_back.stderr)
        print(
            f"| {design.kind} ({design.n_hybrids} hybrids) | {false} | {claims} | {first} | {shown} | {planted_claims} "
            f"| {np.mean(errors):.4f} |"
        )
        assert way in (AVERAGED, "restored")


def tiny(n: int) -> None:
    """The planted group of a tiny model, named first by distance or not."""
    from road_cases import Quiet, write_letters
    from tiny_gguf import write_tiny

    from quantprobe.blame.job import blame
    from quantprobe.blame.prospect import Plan, open_pair
    from quantprobe.gguf.hybrid import write_hybrid
    from quantprobe.gguf.roles import merged_role
    from quantprobe.gguf.tensors import place_of
    from quantprobe.settings import Settings
    from quantprobe.sweep import Inputs, TextInput

    settings = Settings(n_ctx=32, n_threads=1, n_gpu_layers=0)
    first = named = 0
    began = time.monotonic()
    for case in range(n):
        rng = np.random.default_rng(case)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            base = write_tiny(folder / "base.gguf", n_layer=2, seed=case)
            calm = write_tiny(folder / "calm.gguf", n_layer=2, seed=case, noise=0.02)
            loud = write_tiny(folder / "loud.gguf", n_layer=2, seed=case, noise=0.3)
            pair = open_pair(loud, calm, Quiet())
            keys = sorted(
                {(merged_role(u.name), place_of(u.name).layer) for u in pair.differing if "norm" not in u.name}
            )
            keys = [key for key in keys if key[1] is not None]
            planted = keys[rng.integers(len(keys))]
            units = {u.name for u in pair.differing if (merged_role(u.name), place_of(u.name).layer) == planted}
            write_hybrid(pair, units, folder / "quant.gguf")
            text = write_letters(folder / "t.txt", 32 * 12, case)
            plan = Plan(by=("role,depth",), n_parts=2, design="hadamard")
            inputs = Inputs((TextInput("t", text),))
            found = blame(base, folder / "quant.gguf", inputs, settings, folder / "run", Quiet(), plan)[1]
            best = max(found.effects, key=lambda each: each.measures[KLD].given_back.value or 0.0)
            expected = f"{planted[0]} {planted[1]}"
            first += best.group == expected
            named += any(sentence.startswith(f"{expected} gives back the most") for sentence in found.sentences)
    seconds = time.monotonic() - began
    print(f"{n} tiny models: planted group first in {first}, named in a sentence in {named}; {seconds / n:.1f} s each")


def real(base: Path, quant: Path, text: Path, n: int) -> None:
    """The planted group of a real model, named first by distance or not."""
    from road_cases import Quiet

    from quantprobe.blame.groups import make_groups
    from quantprobe.blame.job import blame
    from quantprobe.blame.prospect import Plan, open_pair
    from quantprobe.gguf.hybrid import write_hybrid
    from quantprobe.gguf.tensors import read_inventory
    from quantprobe.settings import Settings
    from quantprobe.sweep import Inputs, TextInput

    groups = make_groups(open_pair(base, quant, Quiet()), ("role,depth",))
    first = named = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loud = folder / "loud.gguf"
        shutil.copyfile(base, loud)
        rng = np.random.default_rng(0)
        for tensor in read_inventory(loud).tensors:
            if tensor.type_name == "F16":
                values = np.memmap(loud, np.float16, "r+", tensor.tensor.offset, (tensor.tensor.n_bytes // 2,))
                spread = 0.3 * values.astype(np.float32).std()
                values[:] += (spread * rng.standard_normal(len(values), np.float32)).astype(np.float16)
                values.flush()
        pair = open_pair(loud, quant, Quiet())
        for case, number in enumerate(rng.permutation(len(groups))[:n]):
            planted = groups[number]
            began = time.monotonic()
            write_hybrid(pair, planted.names, folder / f"quant{case}.gguf")
            plan = Plan(by=("role,depth",), design="hadamard")
            inputs = Inputs((TextInput("t", text),), n_chunks=4)
            quant_file = folder / f"quant{case}.gguf"
            found = blame(base, quant_file, inputs, Settings(), folder / "run", Quiet(), plan)[1]
            quant_file.unlink()
            order = sorted(found.effects, key=lambda each: -(each.measures[KLD].given_back.value or 0.0))
            klds = [f"{each.group} {each.measures[KLD].given_back.value:.4f}" for each in order[:2]]
            first += order[0].group == planted.name
            named += any(sentence.startswith(f"{planted.name} gives back the most") for sentence in found.sentences)
            seconds = time.monotonic() - began
            print(f"planted {planted.name}: {', '.join(klds)} nats of KLD given back; {seconds:.0f} s", flush=True)
    print(f"{n} real quants: planted group first in {first}, named in a sentence in {named}")


def main(arguments: Sequence[str]) -> None:
    if arguments[0] == "real":
        base, quant, text = map(Path, arguments[1:4])
        real(base, quant, text, int(arguments[4]) if len(arguments) > 4 else 5)
        return
    modes: dict[str, Callable[[int], None]] = {"simulated": simulated, "tiny": tiny}
    modes[arguments[0]](int(arguments[1]) if len(arguments) > 1 else 100)


if __name__ == "__main__":
    main(sys.argv[1:])
