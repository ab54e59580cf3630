"""Keeps the logits of a context on its device: llama.cpp copies them to the host after every decode.

It does not where every sequence has a sampler on the device (`llama_set_sampler`). Ours takes the logits and gives
nothing on, so the graph stays as it is and nothing is copied. That interface is experimental: where it is not there,
or refused, logits are copied as ever.
"""

from __future__ import annotations

import ctypes
from typing import Any

from quantprobe import _native
from quantprobe.engine.abi import guarded, llama
from quantprobe.engine.params import set_fields
from quantprobe.errors import IncompatibleError

_NEEDED = ("llama_set_sampler", "llama_sampler_chain_init", "llama_sampler_chain_add", "llama_sampler_free")


def allow_sampled_outputs(params: Any) -> bool:
    """Let a sequence with a sampler have as many outputs as the context has; False where llama.cpp cannot."""
    if not hasattr(params, "n_outputs_max_per_seq"):
        return False
    params.n_outputs_max_per_seq = 0
    return True


class LeftLogits:
    """Samplers, one for each sequence of a context: llama.cpp holds them until the context is freed, so keep this."""

    def __init__(self, context: Any, n_seq: int) -> None:
        self._context = context
        self._chains: list[Any] = []
        self._interface: Any = None
        self.are_left = self._attach(n_seq)
        """Whether no logits are copied any more."""

    def _attach(self, n_seq: int) -> bool:
        if not all(hasattr(llama, name) for name in _NEEDED) or not hasattr(llama, "llama_sampler_i"):
            return False
        self._interface = llama.llama_sampler_i()
        fields = dict(llama.llama_sampler_i._fields_)
        init, apply = _native.leave_logits()
        try:
            set_fields(
                self._interface,
                backend_init=fields["backend_init"](init),
                backend_apply=fields["backend_apply"](apply),
            )
        except (KeyError, IncompatibleError):
            return False
        for seq in range(n_seq):
            if not self._add(seq):
                self.detach(n_seq)
                return False
        return True

    def _add(self, seq: int) -> bool:
        with guarded():
            chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
            self._chains.append(chain)
            sampler = llama.llama_sampler_init(ctypes.byref(self._interface), None)
            llama.llama_sampler_chain_add(chain, sampler)
            return bool(llama.llama_set_sampler(self._context, seq, chain))

    def detach(self, n_seq: int) -> None:
        """Logits are copied again."""
        for seq in range(n_seq):
            llama.llama_set_sampler(self._context, seq, None)
        self.free()

    def free(self) -> None:
        """After the context."""
        for chain in self._chains:
            llama.llama_sampler_free(chain)
        self._chains = []
