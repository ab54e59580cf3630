"""A model loaded by llama.cpp, its tokenizer, and contexts to decode in."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import numpy as np

from quantprobe import _native
from quantprobe.arrays import Int32Array
from quantprobe.engine.abi import guarded, last_errors, llama
from quantprobe.engine.device_rows import DeviceRows
from quantprobe.engine.leaving import LeftLogits, allow_sampled_outputs
from quantprobe.engine.overrides import Overrides, tensor_overrides
from quantprobe.engine.params import default_params
from quantprobe.engine.plan import Geometry
from quantprobe.engine.servers import connect_servers
from quantprobe.engine.told import told_flash_attn, told_output_device, told_state_bytes
from quantprobe.errors import EngineError, InputError, MismatchError
from quantprobe.gguf.file_types import KV_TYPES
from quantprobe.gguf.model import ModelInfo
from quantprobe.settings import SPLIT_MODES, Settings


class Model:
    """A loaded model. Close it, or use it in a `with` block: llama.cpp holds the memory.

    With `vocab_only` no weights are read: it can tokenize and nothing else.
    Raises `EngineError` with llama.cpp's own last lines when it cannot be loaded.
    """

    def __init__(
        self,
        info: ModelInfo,
        settings: Settings,
        on_progress: Callable[[float], None] | None = None,
        vocab_only: bool = False,
    ) -> None:
        self.info = info
        self.settings = settings.with_threads()
        if not vocab_only:
            connect_servers(self.settings)
        overrides = Overrides(None) if vocab_only else tensor_overrides(info, self.settings)
        self._handle: Any = _load(info, self.settings, overrides, on_progress, vocab_only)
        told = told_output_device(info.n_layer, _native.take_log())
        self.output_device = overrides.output_device or told
        """llama.cpp's name of the device of the output matrix; None where it does not tell."""
        self._vocab = llama.llama_model_get_vocab(self._handle)
        self.n_vocab = int(llama.llama_vocab_n_tokens(self._vocab))
        self.n_embd = int(getattr(llama, "llama_model_n_embd_out", llama.llama_model_n_embd)(self._handle))
        self.n_layer = int(llama.llama_model_n_layer(self._handle))
        self._refuse_unscorable()
        self.state_bytes: int | None = None
        """Bytes of one sequence's states in a recurrent or hybrid model; None where that is not known."""
        self.flash_attn_used = False if vocab_only else _resolve_flash_attn(self)
        """Whether attention is computed by flash attention kernels; None where llama.cpp does not tell."""

    def _refuse_unscorable(self) -> None:
        """llama.cpp's tools abort, or print nonsense, on models that do not predict the next token of a sequence."""
        if llama.llama_model_has_encoder(self._handle) or not llama.llama_model_has_decoder(self._handle):
            self.close()
            raise EngineError(
                f"{self.info.path.name} ({self.info.architecture}) is an encoder or embedding model; "
                "quantprobe measures models that predict the next token"
            )
        if llama.llama_vocab_get_add_eos(self._vocab):
            self.close()
            raise EngineError(
                f"the vocabulary of {self.info.path.name} appends EOS to every text, so windows of a text cannot be "
                "scored; set tokenizer.ggml.add_eos_token to false in the GGUF"
            )

    def require_flash_attn(self, captured: object) -> None:
        """Raises `MismatchError` if flash attention is used here and not in the capture of the base, or the reverse."""
        used = self.flash_attn_used
        if isinstance(captured, bool) and used is not None and used != captured:
            names = {True: "with flash attention", False: "without flash attention (no kernel for it there)"}
            raise MismatchError(
                f"{self.info.path.name} is computed {names[used]}, and the base was {names[captured]}; "
                "that moves logits by as much as a good quant does: capture and compare both with --flash-attn off"
            )

    @property
    def is_recurrent(self) -> bool:
        """Recurrent or hybrid: its memory cannot hold one token for several sequences, nor forget a part of one."""
        handle = self._handle
        return bool(llama.llama_model_is_recurrent(handle) or llama.llama_model_is_hybrid(handle))

    @property
    def bos(self) -> int | None:
        """The token that begins every text, None if the vocabulary adds none."""
        token = int(llama.llama_vocab_bos(self._vocab)) if llama.llama_vocab_get_add_bos(self._vocab) else -1
        return token if token >= 0 else None

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> Int32Array:
        """Token ids `[n_tokens]` int32 of a text, by llama.cpp's own tokenizer in one call."""
        data = text.encode("utf-8")
        tokens = np.empty(len(data) + 2, dtype=np.int32)
        for _ in range(2):
            buffer = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            n = int(llama.llama_tokenize(self._vocab, data, len(data), buffer, len(tokens), add_special, parse_special))
            if n >= 0:
                return tokens[:n].copy()
            if n == -(2**31):
                break
            tokens = np.empty(-n, dtype=np.int32)
        raise InputError(f"a text of {len(data)} bytes is too long to tokenize; split it")

    @property
    def bos_text(self) -> str:
        """The text of BOS, empty if the vocabulary has none."""
        return self._text(int(llama.llama_vocab_bos(self._vocab)))

    @property
    def eos_text(self) -> str:
        return self._text(int(llama.llama_vocab_eos(self._vocab)))

    def _text(self, token: int) -> str:
        return self.piece(token) if token >= 0 else ""

    def piece(self, token: int) -> str:
        """The text of a token, special tokens by their names."""
        return self.piece_bytes(token).decode("utf-8", errors="replace")

    def piece_bytes(self, token: int) -> bytes:
        """The same as UTF-8; a token may hold a part of a character."""
        n = 256
        while True:
            buffer = ctypes.create_string_buffer(n)
            written = int(llama.llama_token_to_piece(self._vocab, token, buffer, n, 0, True))
            if written >= 0:
                return buffer.raw[:written]
            n = -written

    def is_control(self, token: int) -> bool:
        return bool(llama.llama_vocab_is_control(self._vocab, token))

    def ends_generation(self, token: int) -> bool:
        """Whether a model that says this token has said all of its turn."""
        return bool(llama.llama_vocab_is_eog(self._vocab, token))

    def close(self) -> None:
        if self._handle is not None and not _native.has_aborted():
            llama.llama_model_free(self._handle)
        self._handle = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _load(
    info: ModelInfo,
    settings: Settings,
    overrides: Overrides,
    on_progress: Callable[[float], None] | None,
    vocab_only: bool,
) -> Any:
    params = default_params("llama_model")
    params.vocab_only = vocab_only
    params.n_gpu_layers = settings.n_gpu_layers
    params.split_mode = SPLIT_MODES.index(settings.split_mode)
    params.main_gpu = settings.main_gpu
    _set_mmap(params, settings.use_mmap)
    no_devices = (ctypes.c_void_p * 1)(None)
    if settings.n_gpu_layers == 0:
        # an empty list keeps a GPU out altogether; 0 layers alone would still use it for large batches
        params.devices = ctypes.addressof(no_devices)
    if overrides.rules is not None:
        params.tensor_buft_overrides = ctypes.addressof(overrides.rules)
    split = _tensor_split(settings.tensor_split)
    if split is not None:
        params.tensor_split = split

    interrupted = False

    @llama.llama_progress_callback  # type: ignore[untyped-decorator]
    def report(fraction: float, _user_data: ctypes.c_void_p) -> bool:
        nonlocal interrupted
        try:
            if on_progress is not None:
                on_progress(fraction)
        except KeyboardInterrupt:
            # an exception cannot cross llama.cpp: cancel the load, raise it again below
            interrupted = True
        return not interrupted

    params.progress_callback = report
    last_errors()
    with guarded():
        handle = llama.llama_model_load_from_file(str(info.path).encode("utf-8"), params)
    if interrupted:
        if handle:
            llama.llama_model_free(handle)
        raise KeyboardInterrupt
    if not handle:
        raise EngineError(
            f"llama.cpp could not load {info.path} ({info.architecture}, {info.size_bytes / 1e9:.2f} GB): "
            f"{last_errors()}. If memory ran out, offload fewer layers (--n-gpu-layers) or close other programs"
        )
    return handle


def _set_mmap(params: ctypes.Structure, use_mmap: bool) -> None:
    if hasattr(params, "load_mode"):
        params.load_mode = 1 if use_mmap else 0  # LLAMA_LOAD_MODE_MMAP, _NONE
    else:
        params.use_mmap = use_mmap


def _tensor_split(split: tuple[float, ...]) -> ctypes.Array[ctypes.c_float] | None:
    if not split:
        return None
    n_devices = int(llama.llama_max_devices())
    if len(split) > n_devices:
        raise InputError(f"--tensor-split has {len(split)} parts; llama.cpp knows at most {n_devices} devices")
    return (ctypes.c_float * n_devices)(*split)


_FLASH_ATTN: Mapping[bool | None, int] = {None: -1, False: 0, True: 1}
"""LLAMA_FLASH_ATTN_TYPE_AUTO, _DISABLED, _ENABLED."""


def _resolve_flash_attn(model: Model) -> bool | None:
    """Ask llama.cpp, by a small context with AUTO, whether each layer's device has a kernel for this model.

    Forced on, llama.cpp computes attention on the CPU where the device has none (CUDA: heads of 100, 160 and others),
    without a word. Its answer depends on head sizes, cache types and devices, not on the context's size.
    """
    settings = model.settings
    if not settings.flash_attn:
        return False
    params = _context_params(settings, Geometry(256, 1, 32, 32, 32, unified=False))
    params.flash_attn_type = _FLASH_ATTN[None]
    _native.take_log()
    with guarded():
        handle = llama.llama_init_from_model(model._handle, params)
    lines = _native.take_log()
    if not handle:
        model.close()
        reason = "; ".join(text.strip() for level, text in lines if level >= 3) or "llama.cpp gave no reason"
        raise EngineError(f"llama.cpp could not make a context for {model.info.path.name}: {reason}")
    llama.llama_free(handle)
    model.state_bytes = told_state_bytes(lines)
    return told_flash_attn(lines)


class Context:
    """A llama.cpp context and the native decoder over it.

    With `hidden` the final-norm rows of each batch are collected beside the logits; a `watcher` (a class of the
    extension with `callback` and `address`) sees every node instead, as `device_rows` does, which gets each batch.
    """

    def __init__(
        self,
        model: Model,
        geometry: Geometry,
        hidden: bool = False,
        watcher: Any = None,
        device_rows: DeviceRows | None = None,
    ) -> None:
        self.model = model
        self.geometry = geometry
        self.collector = _native.HiddenCollector(model.n_embd) if hidden else None
        self.device_rows = device_rows
        self._left: LeftLogits | None = None
        self._can_leave = False
        params = _context_params(model.settings, geometry)
        params.flash_attn_type = _FLASH_ATTN[model.flash_attn_used]
        seer = watcher if watcher is not None else self.collector
        if device_rows is not None:
            seer = device_rows.watcher
            self._can_leave = allow_sampled_outputs(params) and not model.is_recurrent
        if seer is not None:
            params.cb_eval = ctypes.cast(type(seer).callback, type(params.cb_eval))
            params.cb_eval_user_data = ctypes.c_void_p(seer.address)
        last_errors()
        with guarded():
            self._handle = llama.llama_init_from_model(model._handle, params)
        if not self._handle:
            raise EngineError(
                f"llama.cpp could not make a context of {geometry.n_ctx} x {geometry.n_seq} tokens for "
                f"{model.info.path.name}: {last_errors()}. A smaller --ctx-size or --ubatch-size needs less memory"
            )
        self.decoder = _native.Decoder(
            ctypes.cast(self._handle, ctypes.c_void_p).value or 0,
            model.n_vocab,
            min(geometry.n_batch, int(llama.llama_n_batch(self._handle))),
            geometry.n_outputs,
            min(geometry.n_seq, int(llama.llama_n_seq_max(self._handle))),
        )

    @property
    def leaves_logits(self) -> bool:
        """Whether logits stay on the device: once `device_rows` is proved, where llama.cpp can do without.

        Of recurrent and hybrid models they are copied as ever: a batch that llama.cpp cuts up is the kernels'.
        """
        proved = self.device_rows is not None and self.device_rows.is_proved
        if self._left is None and self._can_leave and proved:
            self._left = LeftLogits(self._handle, self.geometry.n_seq)
        return self._left is not None and self._left.are_left

    def close(self) -> None:
        if self._handle is not None and not _native.has_aborted():
            llama.llama_free(self._handle)
            if self._left is not None:
                self._left.free()
        self._handle = None

    def __enter__(self) -> Context:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _context_params(settings: Settings, geometry: Geometry) -> Any:
    params = default_params("llama_context")
    params.n_ctx = geometry.n_ctx if geometry.unified else geometry.n_ctx * geometry.n_seq
    # llama.cpp clips n_batch to n_ctx and asserts that n_seq_max <= n_batch
    params.n_batch = max(min(geometry.n_batch, params.n_ctx), geometry.n_seq)
    params.n_ubatch = min(geometry.n_ubatch, params.n_batch)
    params.n_seq_max = geometry.n_seq
    params.n_outputs_max = geometry.n_outputs
    params.n_threads = params.n_threads_batch = settings.n_threads
    params.type_k = KV_TYPES[settings.type_k]
    params.type_v = KV_TYPES[settings.type_v]
    # cells of several sequences are not freed when the sliding window leaves them: tasks need room for all of them
    params.swa_full = geometry.unified
    params.kv_unified = geometry.unified
    params.offload_kqv = settings.n_gpu_layers != 0
    params.op_offload = settings.n_gpu_layers != 0
    return params
