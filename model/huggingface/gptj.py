"""CodeGen as a GPT-J checkpoint, for engines that serve GPT-J: the same block, with q, k and v apart.

Both rotate pairs of neighbouring channels, scale scores by sqrt(head_dim), and add the MLP to the attention of one norm
(transformers' modeling_gptj.py). A CodeGen model is therefore a GPT-J model; only qkv_proj's groups are its own.
"""

from typing import Any

import torch

from conf.schema import ModelConfig
from model.huggingface import to_huggingface
from model.weights import Layer


def to_gptj(index: int, layer: Layer, model: ModelConfig) -> Layer:
    """Layer `index` of `model.build`, whole tensors by parameter name -> GPTJForCausalLM's names and shapes."""
    tensors = to_huggingface(index, layer, model, mp_num=1)
    name = f"transformer.h.{index - 1}.attn.qkv_proj.weight"
    if name not in tensors:
        return tensors
    d = model.n_embd
    q, k, v, _ = torch.split(layer["in_proj.weight"], [d, d, d, 4 * d])
    parts = {name.replace("qkv_proj", f"{part}_proj"): value for part, value in (("q", q), ("k", k), ("v", v))}
    return {other: value for other, value in tensors.items() if other != name} | parts


def gptj_config(config: dict[str, Any]) -> dict[str, Any]:
    """GPT-J's config.json, from CodeGen's."""
    return {**config, "architectures": ["GPTJForCausalLM"], "model_type": "gptj"}
