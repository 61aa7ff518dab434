"""The released form of the weights: which tensor of `CodeGenForCausalLM` is which part of a layer of `model.codegen`.

`qkv_proj.weight` holds `mp_num` groups of rows, each [q | v | k], value in the middle; heads keep their order. mp_num
is 4 for CodeGen1. The fused products hold [q | k | v | fc_in] and [attention out | fc_out].
"""

import torch
from torch import Tensor

from conf.schema import ModelConfig

Layer = dict[str, Tensor]
QKV = (0, 2, 1)  # where q, k, v stand among a group's [q | v | k]


def to_huggingface(index: int, layer: Layer, model: ModelConfig, mp_num: int) -> Layer:
    """Layer `index` of `model.codegen.layers`, whole tensors by parameter name -> Hugging Face's names and shapes."""
    if index == 0:
        return {"transformer.wte.weight": layer["tokens.weight"]}
    if index == model.n_layer + 1:
        return {
            "transformer.ln_f.weight": layer["norm.weight"],
            "transformer.ln_f.bias": layer["norm.bias"],
            "lm_head.weight": layer["weight"],
            "lm_head.bias": layer["bias"],
        }
    d, prefix = model.n_embd, f"transformer.h.{index - 1}"
    *qkv, fc_in = layer["in_proj.weight"].split([d, d, d, 4 * d])
    attention_out, fc_out = layer["out_proj.weight"].split([d, 4 * d], dim=1)
    groups = torch.stack([part.view(mp_num, d // mp_num, d) for part in qkv], dim=1)  # [mp_num, 3, d / mp_num, d]
    return {
        f"{prefix}.ln_1.weight": layer["norm.weight"],
        f"{prefix}.ln_1.bias": layer["norm.bias"],
        f"{prefix}.attn.qkv_proj.weight": groups[:, QKV].reshape(3 * d, d),
        f"{prefix}.attn.out_proj.weight": attention_out.contiguous(),
        f"{prefix}.mlp.fc_in.weight": fc_in,
        f"{prefix}.mlp.fc_in.bias": layer["mlp_bias"],
        f"{prefix}.mlp.fc_out.weight": fc_out.contiguous(),
        f"{prefix}.mlp.fc_out.bias": layer["out_proj.bias"],
    }


def from_huggingface(index: int, tensors: Layer, model: ModelConfig, mp_num: int) -> Layer:
    """The inverse of `to_huggingface`: takes layer `index`'s parts out of Hugging Face's `tensors`."""
    if index == 0:
        return {"tokens.weight": tensors["transformer.wte.weight"]}
    if index == model.n_layer + 1:
        return {
            "norm.weight": tensors["transformer.ln_f.weight"],
            "norm.bias": tensors["transformer.ln_f.bias"],
            "weight": tensors["lm_head.weight"],
            "bias": tensors["lm_head.bias"],
        }
    d, prefix = model.n_embd, f"transformer.h.{index - 1}"
    groups = tensors[f"{prefix}.attn.qkv_proj.weight"].view(mp_num, 3, d // mp_num, d)[:, QKV]
    qkv = groups.transpose(0, 1).reshape(3 * d, d)
    return {
        "norm.weight": tensors[f"{prefix}.ln_1.weight"],
        "norm.bias": tensors[f"{prefix}.ln_1.bias"],
        "in_proj.weight": torch.cat([qkv, tensors[f"{prefix}.mlp.fc_in.weight"]]),
        "mlp_bias": tensors[f"{prefix}.mlp.fc_in.bias"],
        "out_proj.weight": torch.cat(
            [tensors[f"{prefix}.attn.out_proj.weight"], tensors[f"{prefix}.mlp.fc_out.weight"]], dim=1
        ),
        "out_proj.bias": tensors[f"{prefix}.mlp.fc_out.bias"],
    }
