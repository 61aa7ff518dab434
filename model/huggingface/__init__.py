"""Hugging Face's form of the weights: which part of which tensor of `CodeGenForCausalLM` is which of our parameters.

What may enter: reading and writing that form and its config.json. `model.pretrained` opens it beside this stack's own.

`qkv_proj.weight` holds `mp_num` groups of rows, each [q | v | k], value in the middle; heads keep their order. mp_num
is 4 for CodeGen1. The fused products hold [q | k | v | fc_in] and [attention out | fc_out].
"""

import torch
from torch import Tensor

from conf.schema import ModelConfig
from model.build import layer_shapes
from model.tensor_files import Region, Shape, join_regions
from model.weights import Layer

QKV = (0, 2, 1)  # where q, k, v stand among a group's [q | v | k]


def to_huggingface(index: int, layer: Layer, model: ModelConfig, mp_num: int) -> Layer:
    """Layer `index` of `model.build`, whole tensors by parameter name -> Hugging Face's names and shapes."""
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
    qkv, fc_in = torch.split(layer["in_proj.weight"], [3 * d, 4 * d])
    attention_out, fc_out = torch.split(layer["out_proj.weight"], [d, 4 * d], dim=1)
    return {
        f"{prefix}.ln_1.weight": layer["norm.weight"],
        f"{prefix}.ln_1.bias": layer["norm.bias"],
        f"{prefix}.attn.qkv_proj.weight": group_qkv(qkv, mp_num),
        f"{prefix}.attn.out_proj.weight": attention_out.contiguous(),
        f"{prefix}.mlp.fc_in.weight": fc_in,
        f"{prefix}.mlp.fc_in.bias": layer["mlp_bias"],
        f"{prefix}.mlp.fc_out.weight": fc_out.contiguous(),
        f"{prefix}.mlp.fc_out.bias": layer["out_proj.bias"],
    }


def group_qkv(qkv: Tensor, mp_num: int) -> Tensor:
    """Rows of q, k and v `[3d, columns]` -> the same rows in `mp_num` groups of [q | v | k]."""
    groups = torch.stack([part.view(mp_num, -1, qkv.shape[1]) for part in qkv.chunk(3)], dim=1)
    return groups[:, QKV].reshape(qkv.shape)  # from [mp_num, 3, d / mp_num, columns]


def layer_regions(index: int, model: ModelConfig, mp_num: int) -> dict[str, list[Region]]:
    """For each parameter of layer `index`, the regions of Hugging Face's tensors that, joined in order, are it."""
    d, vocab = model.n_embd, model.vocab_size
    if index == 0:
        return {"tokens.weight": [Region("transformer.wte.weight", 0, 0, vocab)]}
    if index == model.n_layer + 1:
        return {
            "norm.weight": [Region("transformer.ln_f.weight", 0, 0, d)],
            "norm.bias": [Region("transformer.ln_f.bias", 0, 0, d)],
            "weight": [Region("lm_head.weight", 0, 0, vocab)],
            "bias": [Region("lm_head.bias", 0, 0, vocab)],
        }
    prefix, rows = f"transformer.h.{index - 1}", d // mp_num  # rows of q, of v and of k in a group
    starts = [(3 * group + place) * rows for place in QKV for group in range(mp_num)]  # q of every group, then k, v
    qkv = [Region(f"{prefix}.attn.qkv_proj.weight", 0, start, start + rows) for start in starts]
    return {
        "norm.weight": [Region(f"{prefix}.ln_1.weight", 0, 0, d)],
        "norm.bias": [Region(f"{prefix}.ln_1.bias", 0, 0, d)],
        "in_proj.weight": [*qkv, Region(f"{prefix}.mlp.fc_in.weight", 0, 0, 4 * d)],
        "mlp_bias": [Region(f"{prefix}.mlp.fc_in.bias", 0, 0, 4 * d)],
        "out_proj.weight": [
            Region(f"{prefix}.attn.out_proj.weight", 1, 0, d),
            Region(f"{prefix}.mlp.fc_out.weight", 1, 0, 4 * d),
        ],
        "out_proj.bias": [Region(f"{prefix}.mlp.fc_out.bias", 0, 0, d)],
    }


def from_huggingface(index: int, tensors: Layer, model: ModelConfig, mp_num: int) -> Layer:
    """The inverse of `to_huggingface`: takes layer `index`'s parts out of Hugging Face's whole `tensors`."""
    return join_regions(layer_regions(index, model, mp_num), lambda region: region.of(tensors[region.name]))


def huggingface_shapes(model: ModelConfig) -> list[dict[str, Shape]]:
    """Shape of every tensor by Hugging Face's name, layer by layer."""
    meta = torch.device("meta")
    ours = [{name: torch.empty(one, device=meta) for name, one in layer.items()} for layer in layer_shapes(model)]
    theirs = [to_huggingface(index, layer, model, 1) for index, layer in enumerate(ours)]
    return [{name: tuple(value.shape) for name, value in layer.items()} for layer in theirs]
