"""Roles of tensors, merged to those that authors choose types for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from quantprobe.gguf.tensors import place_of

EMBEDDINGS, OTHER = "embeddings, output", "other"

_EXPERTS = r"(_exps|_shexp|_chexps)?"
ROLES: Mapping[str, str] = {
    "attention q, k": r"attn_(q|k)|attn_q_[ab]|attn_k_b|indexer.*",
    "attention q, k, v": r"attn_qkv",
    "attention v, output": r"attn_(v|output|gate)|attn_v_b|attn_kv_.*|attn_out.*",
    "cross attention": r"cross_attn_.*",
    "FFN gate, up": rf"ffn_(gate|up|gate_up){_EXPERTS}",
    "FFN down": rf"ffn_down{_EXPERTS}",
    "router": r"ffn_gate_inp.*|ffn_.*exp_probs.*",
    "state space": r"ssm_.*|shortconv.*|time_mix.*|channel_mix.*",
    EMBEDDINGS: r"token_embd|output|per_layer_token_embd|position_embd|token_types",
}
"""Pattern of a tensor's role (`gguf.tensors.place_of`) by the name of the merged role; the first that fits decides."""
_COMPILED = {name: re.compile(pattern) for name, pattern in ROLES.items()}


def merged_role(name: str) -> str:
    """The role of a tensor, without its layer: `blk.3.attn_q.weight` has "attention q, k"; "other" where none fits."""
    role = place_of(name).role.removesuffix(".bias").removesuffix(".scale")
    return next((merged for merged, pattern in _COMPILED.items() if pattern.fullmatch(role)), OTHER)
