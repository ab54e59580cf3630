"""Everything that the user can set and that can change a number, with llama.cpp's names.

A setting is declared once, as a field of `Settings`: its option, the values it takes, its help and whether it moves
logits. The command line, the checks and the documentation read the declaration; the engine reads the value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from quantprobe.errors import InputError
from quantprobe.gguf.file_types import KV_TYPES
from quantprobe.limits import usable_cores

LLAMA_MAX_SEQ = 256
"""llama.cpp's own limit on sequences (llama_max_parallel_sequences)."""

MASK_CELLS = 1 << 25
"""Most cells of llama.cpp's attention mask, n_ctx x micro-batch, at two bytes each: 64 MB, less than a block of logits
and in the same memory, so that the peak does not depend on n_ctx. It cuts micro-batches of 512 beyond 65,536 tokens.
Without flash attention llama.cpp also holds 4 bytes for each cell and head, which nothing here bounds."""

MIN_BATCH = 4
"""Fewest tokens of a micro-batch. For a token that is decoded alone, ggml's CPU attention cuts the keys into as many
parts as there are threads and sums the parts: logits then depend on the number of threads (by up to 0.81 on a Q2_K).
With four, any number of tokens but one can be shared out so that none is alone."""

EQUIVALENCE_MARGIN = 0.01
"""Smallest change of accuracy that matters, unless another is asked for: one percentage point."""

ALL_LAYERS = -1

SPLIT_MODES = ("none", "layer", "row")
"""As in llama.cpp (its LLAMA_SPLIT_MODE_NONE, _LAYER, _ROW, in this order)."""

T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """The values that a setting takes, and how they are written."""

    expected: str
    """In words, for help and errors: `a whole number of at least 4`."""
    metavar: str
    read: Callable[[str], Any]
    """From text; raises ValueError. What it gives may still be out of range."""
    accepts: Callable[[Any], bool]
    write: Callable[[Any], str] = str
    choices: tuple[str, ...] = ()
    """Everything that can be written, where that is a short list."""
    repeats: bool = False
    """Whether the option may be given several times; the values, tuples, are joined."""


def whole_number(low: int, high: int | None = None, metavar: str = "N") -> Kind:
    """A whole number within limits."""

    def accepts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value and (not high or value <= high)

    limits = f"of at least {low}" if high is None else f"from {low} to {high}"
    return Kind(f"a whole number {limits}", metavar, int, accepts)


def one_of(names: Collection[str], metavar: str) -> Kind:
    """One of several names."""
    choices = tuple(names)
    return Kind(f"one of {', '.join(choices)}", metavar, str, lambda value: value in choices, choices=choices)


def _read_switch(text: str) -> bool:
    return {"on": True, "off": False}[text]


def _read_layers(text: str) -> int:
    layers = ALL_LAYERS if text.lower() in ("all", str(ALL_LAYERS)) else int(text)
    if layers < ALL_LAYERS:
        raise ValueError(text)
    return layers


def _are_overrides(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(rule, str) and all(rule.partition("=")) for rule in value)


def _are_addresses(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, str) and _is_address(each) for each in value)


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and not set(host) & set(": /") and port.isdecimal() and 0 < int(port) < 65536


def _are_shares(value: Any) -> bool:
    if not isinstance(value, tuple) or not all(isinstance(share, int | float) for share in value):
        return False
    return all(0 <= share < float("inf") for share in value) and (not value or sum(value) > 0)


SWITCH = Kind(
    "on or off", "[on|off]", _read_switch, lambda value: isinstance(value, bool),
    lambda value: "on" if value else "off", ("on", "off"),
)  # fmt: skip
LAYERS = Kind(
    "a number of layers or 'all'", "N|all", _read_layers, lambda value: isinstance(value, int) and value >= ALL_LAYERS,
    lambda value: "all" if value == ALL_LAYERS else str(value),
)  # fmt: skip
SHARES = Kind(
    "numbers of at least 0 such as 3,1, one of them above 0", "SHARES",
    lambda text: tuple(float(share) for share in text.replace("/", ",").split(",")), _are_shares,
    lambda value: ",".join(f"{share:g}" for share in value),
)  # fmt: skip
OVERRIDES = Kind(
    "REGEX=DEVICE such as ffn_.*_exps=CPU, several with commas between them", "REGEX=DEVICE",
    lambda text: tuple(text.split(",")), _are_overrides, ",".join, repeats=True,
)  # fmt: skip
ADDRESSES = Kind(
    "HOST:PORT, several with commas between them, or 'none'", "HOST:PORT",
    lambda text: () if text == "none" else tuple(text.split(",")), _are_addresses, ",".join,
)  # fmt: skip
KV_TYPE = one_of(KV_TYPES, "TYPE")


@dataclass(frozen=True)
class Setting:
    """The declaration of one setting."""

    name: str
    """Of the field, and in `results.json`."""
    default: Any
    flags: tuple[str, ...]
    """Of the option; one that begins with `--no-` turns the setting off and takes no value."""
    kind: Kind
    moves_logits: bool
    """Whether a logit, or which rows are scored, can depend on it: then it must be equal in what is compared."""
    help: str
    unset: str = ""
    """What the default stands for where it is no value."""

    @property
    def is_off_switch(self) -> bool:
        return self.flags[-1].startswith("--no-")

    @property
    def default_text(self) -> str:
        """The default as it is written on the command line, or in words."""
        if self.is_off_switch:
            return "not given"
        return self.unset if self.default in (None, ()) else self.kind.write(self.default)

    def read(self, text: str) -> Any:
        """The value that `text` stands for; raises `ValueError`, which says what was expected."""
        try:
            value = self.kind.read(text)
        except (ValueError, LookupError):
            value = None
        if value is None or not self.kind.accepts(value):
            raise ValueError(f"{text!r} is not {self.kind.expected}")
        return value

    def check(self, value: Any) -> None:
        """Raises `InputError` for a value that the setting does not take."""
        if value is not self.default and not self.kind.accepts(value):
            raise InputError(f"{self.name} is {value!r}; expected {self.kind.expected}")


def setting(default: T, *flags: str, kind: Kind, moves_logits: bool, help: str, unset: str = "") -> T:
    """A field of `Settings` with its declaration (see `Setting`)."""
    declared = {"flags": flags, "kind": kind, "moves_logits": moves_logits, "help": help, "unset": unset}
    made: T = field(default=default, metadata=declared)
    return made


@dataclass(frozen=True)
class Settings:
    """How a model is loaded and decoded. Raises `InputError` for values that a setting does not take."""

    n_ctx: int = setting(
        512, "-c", "--ctx-size", kind=whole_number(4), moves_logits=True,
        help="Tokens in a window; the second half of each is scored, unless --score-from says otherwise.",
    )  # fmt: skip
    n_batch: int = setting(
        2048, "-b", "--batch-size", kind=whole_number(MIN_BATCH), moves_logits=False,
        help="Tokens handed to llama.cpp at once.",
    )  # fmt: skip
    n_ubatch: int = setting(
        # what is decoded at once can move logits, and is recorded as n_ubatch_used
        512, "-ub", "--ubatch-size", kind=whole_number(MIN_BATCH), moves_logits=False, help="Tokens computed at once.",
    )  # fmt: skip
    n_threads: int | None = setting(
        # CPU results do not depend on it as long as no token is decoded alone (MIN_BATCH), nor on mmap
        None, "-t", "--threads", kind=whole_number(1), moves_logits=False, unset="physical cores", help="CPU threads.",
    )  # fmt: skip
    n_gpu_layers: int = setting(
        ALL_LAYERS, "-ngl", "--n-gpu-layers", kind=LAYERS, moves_logits=True,
        help="Layers on the GPU, where there is one; the output layer counts as one.",
    )  # fmt: skip
    split_mode: str = setting(
        # by rows the parts of a matrix have other shapes, so other kernels, and unlike devices round differently;
        # what a mode comes to on the devices at hand is recorded as split_used and devices_used
        "layer", "-sm", "--split-mode", kind=one_of(SPLIT_MODES, "MODE"), moves_logits=False,
        help="How several GPUs share a model: by layers, by rows of each matrix, or none: --main-gpu alone.",
    )  # fmt: skip
    main_gpu: int = setting(
        0, "-mg", "--main-gpu", kind=whole_number(0, metavar="INDEX"), moves_logits=False,
        help="The GPU to use with --split-mode none.",
    )  # fmt: skip
    tensor_split: tuple[float, ...] = setting(
        (), "-ts", "--tensor-split", kind=SHARES, moves_logits=False, help="Share of each GPU, for example 3,1."
    )
    override_tensor: tuple[str, ...] = setting(
        # where a tensor lies decides which kernel multiplies by it; on a machine without a GPU there is one place only:
        # what this setting and the next come to is recorded as overrides_used
        (), "-ot", "--override-tensor", kind=OVERRIDES, moves_logits=False,
        help="Keep the tensors whose names match REGEX on DEVICE (see `quantprobe devices`); the first match counts. "
        "Repeat it, or put commas between.",
    )  # fmt: skip
    n_cpu_moe: int = setting(
        0, "-ncmoe", "--n-cpu-moe", kind=whole_number(0), moves_logits=False,
        help="Keep the experts of the first N layers on the CPU.",
    )  # fmt: skip
    rpc: tuple[str, ...] = setting(
        # what computes there is not told: the addresses are in devices_used
        (), "--rpc", kind=ADDRESSES, moves_logits=False,
        help="Servers of llama.cpp (rpc-server) that hold a part of the model, for example box1:50052,box2:50052.",
    )  # fmt: skip
    flash_attn: bool = setting(
        # on or off alone is a KLD of 0.002 to 0.024 nats, as much as Q5_K_M loses
        True, "-fa", "--flash-attn", kind=SWITCH, moves_logits=True,
        help="Flash attention. It moves logits, so it is always set and recorded.",
    )  # fmt: skip
    type_k: str = setting(
        "f16", "-ctk", "--cache-type-k", kind=KV_TYPE, moves_logits=True,
        help=f"Type of the K cache: {', '.join(KV_TYPES)}.",
    )  # fmt: skip
    type_v: str = setting(
        "f16", "-ctv", "--cache-type-v", kind=KV_TYPE, moves_logits=True,
        help="Type of the V cache; quantized types need --flash-attn on.",
    )  # fmt: skip
    use_mmap: bool = setting(
        True, "--no-mmap", kind=SWITCH, moves_logits=False,
        help="Read the model into memory instead of mapping the file.",
    )  # fmt: skip
    n_parallel: int | None = setting(
        None, "-np", "--parallel", kind=whole_number(1, LLAMA_MAX_SEQ), moves_logits=True, unset="our own",
        help="Decode tasks in the batches of llama-perplexity -np N, for its very answers; slower.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for declared in SETTINGS.values():
            declared.check(getattr(self, declared.name))
        if self.type_v not in ("f32", "f16", "bf16") and not self.flash_attn:
            raise InputError(f"a quantized V cache ({self.type_v}) needs --flash-attn on")

    @property
    def n_ubatch_used(self) -> int:
        """Tokens of a micro-batch as decoded: what was asked for, within the batch and `MASK_CELLS`."""
        return min(self.n_ubatch, self.n_batch, max(32, MASK_CELLS // self.n_ctx // 32 * 32))

    def with_threads(self) -> Settings:
        """The same settings with the number of threads decided."""
        return self if self.n_threads is not None else replace(self, n_threads=default_threads())

    def changed(self, changes: Mapping[str, Any]) -> Settings:
        """The same settings with others in place of some, by name."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, int | float | str | bool | list[float] | list[str] | None]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> Settings:
        """The settings among recorded facts, as `to_dict` wrote them; those that are not there at their defaults."""
        values: dict[str, Any] = {
            name: tuple(recorded[name]) if isinstance(recorded[name], list) else recorded[name]
            for name in SETTINGS
            if name in recorded
        }
        return cls(**values)


SETTINGS: Mapping[str, Setting] = {
    each.name: Setting(name=each.name, default=each.default, **each.metadata) for each in fields(Settings)
}
"""The declaration of every setting, by name."""

MACHINE = (
    "llama_cpp_version", "llama_cpp_commit", "backend", "cpu_features", "gpu_features", "devices_used", "split_used",
    "overrides_used", "flash_attn_used",
)  # fmt: skip
"""Recorded facts of the build and the machine, all of which can move logits: another commit or feature set chooses
other kernels, another device sums in another order, and a device without a kernel for flash attention goes without.
One commit with and without AVX-512 moves SmolLM2-135M by a mean KLD of 3e-6 (F16), 0.0037 (Q8_0), 0.0034 nats (Q4_1).
Records do not always hold them (older ones, imported ones, a library that does not tell): what only one of two knows
is told and not refused."""

FACTS: Mapping[str, bool] = {
    **dict.fromkeys(MACHINE, True),
    "n_ubatch_used": True,
    "llama_compat": True,
    "row_metrics_used": False,  # of the same logits; the values agree within the bound of metrics/row_numbers.py
    "texts": True,
    "tasks": True,
    "n_chunks": True,
    "parse_special": True,
    "score_from": True,
    "score": False,  # what it says is in the digest of each file of chats
    "devices": False,
    "quantprobe_version": False,
    "llama_cpp_python_version": False,
    "settings_changed": False,
    "decide": False,
    "precision": False,
    "equivalence_margin": False,
    "margin": False,
    "imported": False,
    "metric": False,
    "like": False,
}
"""What is recorded beside the settings, and whether a logit, or which rows are scored, can depend on it. `margin` is
the equivalence margin in older runs."""


def moves_logits(name: str) -> bool:
    """Whether a recorded setting can change a logit, or which rows are scored; a name that is not known here can."""
    return SETTINGS[name].moves_logits if name in SETTINGS else FACTS.get(name, True)


def margin_of(recorded: Mapping[str, Any]) -> float | None:
    """The equivalence margin of a run, a fraction, from its recorded settings; None where it has none."""
    for name in ("equivalence_margin", "margin"):
        value = recorded.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def default_threads() -> int:
    """Threads where none are asked for: one for each core that this process may use."""
    return usable_cores()
