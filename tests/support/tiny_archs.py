"""Architectures of tiny models: the tensors and keys that llama.cpp's loaders ask for (src/models/*.cpp of
llama-cpp-python 0.3.36), one of every kind that it can build from random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Shapes = dict[str, tuple[int, ...]]
Keys = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """The dimensions of a model; head size is 16 whatever n_embd is."""

    n_vocab: int
    n_embd: int
    n_layer: int

    @property
    def n_ff(self) -> int:
        return 2 * self.n_embd

    @property
    def n_head(self) -> int:
        return self.n_embd // 16

    @property
    def n_kv(self) -> int:
        """Width of the keys and of the values: half of the heads."""
        return self.n_embd // 2


def attention(size: Size) -> Shapes:
    e, kv = size.n_embd, size.n_kv
    return {
        "attn_norm.weight": (e,),
        "attn_q.weight": (e, e),
        "attn_k.weight": (kv, e),
        "attn_v.weight": (kv, e),
        "attn_output.weight": (e, e),
    }


def feed_forward(size: Size) -> Shapes:
    e, ff = size.n_embd, size.n_ff
    return {"ffn_gate.weight": (ff, e), "ffn_up.weight": (ff, e), "ffn_down.weight": (e, ff)}


def norms(size: Size, *names: str) -> Shapes:
    return dict.fromkeys(names, (size.n_embd,))


N_EXPERT, N_EXPERT_USED = 4, 2


def experts(size: Size) -> Shapes:
    e, ff = size.n_embd, size.n_ff
    return {
        "ffn_gate_inp.weight": (N_EXPERT, e),
        "ffn_gate_exps.weight": (N_EXPERT, ff, e),
        "ffn_up_exps.weight": (N_EXPERT, ff, e),
        "ffn_down_exps.weight": (N_EXPERT, e, ff),
    }


def llama_layer(size: Size) -> Shapes:
    return attention(size) | norms(size, "ffn_norm.weight") | feed_forward(size)


def qwen2_layer(size: Size) -> Shapes:
    biases = {"attn_q.bias": (size.n_embd,), "attn_k.bias": (size.n_kv,), "attn_v.bias": (size.n_kv,)}
    return llama_layer(size) | biases


def gemma2_layer(size: Size) -> Shapes:
    return llama_layer(size) | norms(size, "post_attention_norm.weight", "post_ffw_norm.weight")


def command_r_layer(size: Size) -> Shapes:
    return attention(size) | feed_forward(size)


def olmoe_layer(size: Size) -> Shapes:
    width = {"attn_k.weight": (size.n_embd, size.n_embd), "attn_v.weight": (size.n_embd, size.n_embd)}
    extra_norms = norms(size, "attn_q_norm.weight", "attn_k_norm.weight", "ffn_norm.weight")
    return attention(size) | width | extra_norms | experts(size)


def gpt2_layer(size: Size) -> Shapes:
    """Learned positions, one matrix for queries, keys and values, biases everywhere, no gate."""
    e, ff, qkv = size.n_embd, size.n_ff, size.n_embd + 2 * size.n_kv
    matrices = {"attn_qkv": (qkv, e), "attn_output": (e, e), "ffn_up": (ff, e), "ffn_down": (e, ff)}
    shapes: Shapes = {f"{name}.weight": shape for name, shape in matrices.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in matrices.items()}
    return shapes | norms(
        size, *(f"{name}.{part}" for name in ("attn_norm", "ffn_norm") for part in ("weight", "bias"))
    )


def gemma3_layer(size: Size) -> Shapes:
    return gemma2_layer(size) | {"attn_q_norm.weight": (16,), "attn_k_norm.weight": (16,)}


def gpt_oss_layer(size: Size) -> Shapes:
    """Attention sinks, and biases of everything, of the experts too."""
    e, ff = size.n_embd, size.n_ff
    biases = {"attn_q": (e,), "attn_k": (size.n_kv,), "attn_v": (size.n_kv,), "attn_output": (e,)}
    biases |= {"ffn_gate_inp": (N_EXPERT,), "ffn_gate_exps": (N_EXPERT, ff), "ffn_up_exps": (N_EXPERT, ff)}
    biases |= {"ffn_down_exps": (N_EXPERT, e)}
    more = norms(size, "post_attention_norm.weight") | {"attn_sinks.weight": (size.n_head,)}
    return attention(size) | more | experts(size) | {f"{name}.bias": shape for name, shape in biases.items()}


LORA = 32
"""Rank of every low-rank matrix."""


def deepseek2_layer(size: Size) -> Shapes:
    """Latent attention (MLA): heads of 16 without and 16 with positions, values of 16; and a shared expert."""
    e, ff, heads = size.n_embd, size.n_ff, size.n_head
    latent = {
        "attn_q_a.weight": (LORA, e),
        "attn_q_a_norm.weight": (LORA,),
        "attn_q_b.weight": (32 * heads, LORA),
        "attn_kv_a_mqa.weight": (LORA + 16, e),
        "attn_kv_a_norm.weight": (LORA,),
        "attn_k_b.weight": (heads, LORA, 16),
        "attn_v_b.weight": (heads, 16, LORA),
        "attn_output.weight": (e, 16 * heads),
    }
    shared = {"ffn_gate_shexp.weight": (ff, e), "ffn_up_shexp.weight": (ff, e), "ffn_down_shexp.weight": (e, ff)}
    return latent | norms(size, "attn_norm.weight", "ffn_norm.weight") | experts(size) | shared


def rwkv7_layer(size: Size) -> Shapes:
    e, ff = size.n_embd, size.n_ff
    mixers = [f"time_mix_{name}.weight" for name in ("w0", "a0", "v0", "k_k", "k_a", "r_k", "ln")]
    shapes: Shapes = dict.fromkeys([*mixers, "time_mix_ln.bias"], (e,))
    for name in "wavg":
        shapes |= {f"time_mix_{name}1.weight": (LORA, e), f"time_mix_{name}2.weight": (e, LORA)}
    shapes |= dict.fromkeys((f"time_mix_{n}.weight" for n in ("key", "value", "receptance", "output")), (e, e))
    shapes |= {"time_mix_lerp_fused.weight": (6, 1, 1, e), "channel_mix_lerp_k.weight": (1, 1, e)}
    shapes |= {"channel_mix_key.weight": (ff, e), "channel_mix_value.weight": (e, ff)}
    return shapes | norms(
        size, *(f"{name}.{part}" for name in ("attn_norm", "attn_norm_2") for part in ("weight", "bias"))
    )


def rwkv7_head(size: Size, n_ctx: int) -> Shapes:
    return norms(size, "token_embd_norm.weight", "token_embd_norm.bias", "output_norm.bias")


def qwen3next_ffn(size: Size) -> Shapes:
    e, ff = size.n_embd, size.n_ff
    shared = {"ffn_gate_shexp.weight": (ff, e), "ffn_up_shexp.weight": (ff, e), "ffn_down_shexp.weight": (e, ff)}
    return norms(size, "post_attention_norm.weight", "ffn_gate_inp_shexp.weight") | experts(size) | shared


def qwen3next_layer(size: Size) -> Shapes:
    """Linear attention (gated delta net): two heads of keys and four of values, each of D_STATE."""
    e, keys, values = size.n_embd, 2 * D_STATE, 4 * D_STATE
    linear = {
        "attn_qkv.weight": (2 * keys + values, e),
        "attn_gate.weight": (values, e),
        "ssm_conv1d.weight": (2 * keys + values, D_CONV),
        "ssm_dt.bias": (4,),
        "ssm_a": (4,),
        "ssm_ba.weight": (8, e),
        "ssm_norm.weight": (D_STATE,),
        "ssm_out.weight": (e, values),
    }
    return norms(size, "attn_norm.weight") | linear | qwen3next_ffn(size)


def qwen3next_full_layer(size: Size) -> Shapes:
    """Full attention, with a gate beside each query."""
    gated = {"attn_q.weight": (2 * size.n_embd, size.n_embd)}
    return attention(size) | gated | {"attn_q_norm.weight": (16,), "attn_k_norm.weight": (16,)} | qwen3next_ffn(size)


D_CONV, D_STATE = 4, 16


def mamba_layer(size: Size) -> Shapes:
    e, inner, dt_rank = size.n_embd, 2 * size.n_embd, size.n_embd // 16
    return {
        "attn_norm.weight": (e,),
        "ssm_in.weight": (2 * inner, e),
        "ssm_conv1d.weight": (inner, D_CONV),
        "ssm_conv1d.bias": (inner,),
        "ssm_x.weight": (dt_rank + 2 * D_STATE, inner),
        "ssm_dt.weight": (inner, dt_rank),
        "ssm_dt.bias": (inner,),
        "ssm_a": (inner, D_STATE),
        "ssm_d": (inner,),
        "ssm_out.weight": (e, inner),
    }


def mamba2_mixer(size: Size) -> Shapes:
    e, inner, n_mixer = size.n_embd, 2 * size.n_embd, size.n_embd // 16
    conv = inner + 2 * D_STATE
    return {
        "ssm_in.weight": (inner + conv + n_mixer, e),
        "ssm_conv1d.weight": (conv, D_CONV),
        "ssm_conv1d.bias": (conv,),
        "ssm_dt.bias": (n_mixer,),
        "ssm_a": (n_mixer, 1),
        "ssm_d": (n_mixer, 1),
        "ssm_norm.weight": (1, inner),
        "ssm_out.weight": (e, inner),
    }


def mamba2_layer(size: Size) -> Shapes:
    return norms(size, "attn_norm.weight") | mamba2_mixer(size)


def falcon_h1_layer(size: Size) -> Shapes:
    """Every layer holds attention and a Mamba-2 mixer side by side."""
    return attention(size) | mamba2_mixer(size) | norms(size, "ffn_norm") | feed_forward(size)


def attention_keys(size: Size) -> Keys:
    return {
        "feed_forward_length": size.n_ff,
        "attention.head_count": size.n_head,
        "attention.head_count_kv": size.n_head // 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": 16,
    }


def gemma2_keys(size: Size) -> Keys:
    head = {"attention.key_length": 16, "attention.value_length": 16, "attention.sliding_window": 4096}
    return attention_keys(size) | head | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 5.0}


def gpt2_keys(size: Size) -> Keys:
    return attention_keys(size) | {"attention.layer_norm_epsilon": 1e-5}


def command_r_keys(size: Size) -> Keys:
    return attention_keys(size) | {"attention.layer_norm_epsilon": 1e-5, "logit_scale": 0.25}


def cohere2_keys(size: Size) -> Keys:
    return command_r_keys(size) | {"attention.sliding_window": 4096}


def gemma3_keys(size: Size) -> Keys:
    head = {"attention.key_length": 16, "attention.value_length": 16, "attention.sliding_window": 4096}
    return attention_keys(size) | head


def expert_keys(size: Size) -> Keys:
    used = {"expert_count": N_EXPERT, "expert_used_count": N_EXPERT_USED}
    return used | {"expert_feed_forward_length": size.n_ff}


def gpt_oss_keys(size: Size) -> Keys:
    return attention_keys(size) | expert_keys(size) | {"attention.sliding_window": 4096}


def deepseek2_keys(size: Size) -> Keys:
    latent = {
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": LORA,
        "attention.kv_lora_rank": LORA,
        "attention.key_length": LORA + 16,
        "attention.value_length": LORA,
        "attention.key_length_mla": 32,
        "attention.value_length_mla": 16,
    }
    shared = {"expert_shared_count": 1, "expert_weights_scale": 1.5, "leading_dense_block_count": 0}
    return attention_keys(size) | latent | expert_keys(size) | shared


def rwkv7_keys(size: Size) -> Keys:
    ranks = ("decay", "iclr", "value_residual_mix", "gate")
    return {
        "feed_forward_length": size.n_ff,
        "attention.head_count": 0,
        "attention.layer_norm_epsilon": 1e-5,
        "wkv.head_size": 64,
        **{f"attention.{rank}_lora_rank": LORA for rank in ranks},
    }


def qwen3next_keys(size: Size) -> Keys:
    linear = {
        "full_attention_interval": 2,
        "ssm.conv_kernel": D_CONV,
        "ssm.inner_size": 4 * D_STATE,
        "ssm.state_size": D_STATE,
        "ssm.time_step_rank": 4,
        "ssm.group_count": 2,
    }
    return attention_keys(size) | expert_keys(size) | {"expert_shared_feed_forward_length": size.n_ff} | linear


def granite_keys(size: Size) -> Keys:
    return attention_keys(size) | {"logit_scale": 4.0, "embedding_scale": 2.0, "residual_scale": 0.5}


def olmoe_keys(size: Size) -> Keys:
    used = {"attention.head_count_kv": size.n_head, "expert_count": N_EXPERT, "expert_used_count": N_EXPERT_USED}
    return attention_keys(size) | used


def ssm_keys(size: Size) -> Keys:
    return {
        "ssm.conv_kernel": D_CONV,
        "ssm.inner_size": 2 * size.n_embd,
        "ssm.state_size": D_STATE,
        "ssm.time_step_rank": size.n_embd // 16,
    }


def mamba_keys(size: Size) -> Keys:
    no_attention = {"feed_forward_length": 0, "attention.head_count": 0, "attention.layer_norm_rms_epsilon": 1e-5}
    return no_attention | ssm_keys(size)


def mamba2_keys(size: Size) -> Keys:
    return mamba_keys(size) | {"ssm.group_count": 1}


def falcon_h1_keys(size: Size) -> Keys:
    return attention_keys(size) | ssm_keys(size) | {"ssm.group_count": 1}


@dataclass(frozen=True)
class Arch:
    """What one architecture adds to token_embd, output_norm and output."""

    layer: Callable[[Size], Shapes]
    keys: Callable[[Size], Keys]
    always_tied: bool = False
    second: Callable[[Size], Shapes] | None = None
    """The tensors of every second layer, where these are others."""
    head: Callable[[Size, int], Shapes] = lambda size, n_ctx: {}
    """More tensors outside the layers, given the size and the context that the model is trained for."""

    @property
    def n_least(self) -> int:
        """Fewest layers with which llama.cpp can decode it."""
        return 1 if self.second is None else 2

    def layer_shapes(self, size: Size, number: int) -> Shapes:
        return self.second(size) if self.second is not None and number % 2 else self.layer(size)


ARCHS: Mapping[str, Arch] = {
    "llama": Arch(llama_layer, attention_keys),
    "gpt2": Arch(  # learned positions, biases
        gpt2_layer,
        gpt2_keys,
        head=lambda size, n_ctx: {"position_embd.weight": (n_ctx, size.n_embd), "output_norm.bias": (size.n_embd,)},
    ),
    "qwen2": Arch(qwen2_layer, attention_keys),
    "gemma3": Arch(gemma3_layer, gemma3_keys),  # norms of queries and keys; five of six layers slide
    "cohere2": Arch(command_r_layer, cohere2_keys, always_tied=True),  # logit_scale; three of four layers slide
    "gpt-oss": Arch(gpt_oss_layer, gpt_oss_keys),  # sinks, sliding, mixture of experts with biases
    "deepseek2": Arch(deepseek2_layer, deepseek2_keys),  # latent attention (MLA), a shared expert
    "mamba2": Arch(mamba2_layer, mamba2_keys),  # recurrent
    "rwkv7": Arch(rwkv7_layer, rwkv7_keys, head=rwkv7_head),  # recurrent
    "qwen3next": Arch(qwen3next_layer, qwen3next_keys, second=qwen3next_full_layer),  # linear and full attention
    "gemma2": Arch(gemma2_layer, gemma2_keys, always_tied=True),  # soft-capped logits
    "command-r": Arch(command_r_layer, command_r_keys, always_tied=True),  # logits multiplied by logit_scale
    "granite": Arch(llama_layer, granite_keys),  # logits divided by logit_scale
    "olmoe": Arch(olmoe_layer, olmoe_keys),  # mixture of experts
    "mamba": Arch(mamba_layer, mamba_keys),  # recurrent
    "falcon-h1": Arch(falcon_h1_layer, falcon_h1_keys),  # hybrid
}

SLIDING = ("gemma2", "gemma3", "cohere2", "gpt-oss")
"""Those with a sliding window, of 4096 tokens unless `extra` sets another."""
