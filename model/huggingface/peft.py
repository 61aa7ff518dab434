"""Adapters in the form of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors."""

import json
from pathlib import Path

from safetensors.torch import save_file

from model.huggingface import group_qkv
from model.lora import PREFIX
from model.weights import Adapters, Layer

BASE = "base"  # folder beside adapters for the weights that they adapt
MODULES = {  # our names of adapted modules -> Hugging Face's
    f"in_proj.{PREFIX}qkv_proj": "attn.qkv_proj",
    f"out_proj.{PREFIX}out_proj": "attn.out_proj",
    f"in_proj.{PREFIX}fc_in": "mlp.fc_in",
    f"out_proj.{PREFIX}fc_out": "mlp.fc_out",
}


def to_peft(index: int, layer: Layer, mp_num: int) -> Layer:
    """The whole adapters of layer `index` of `model.build`, a block, by PEFT's names.

    The rows of qkv_proj's second matrix are put in the order of Hugging Face's groups, as its weight's are.
    """
    tensors = {}
    for name, value in layer.items():
        module, _, which = name.rpartition(".")
        grouped = which == "lora_B" and MODULES[module] == "attn.qkv_proj"
        theirs = f"base_model.model.transformer.h.{index - 1}.{MODULES[module]}.{which}.weight"
        tensors[theirs] = (group_qkv(value, mp_num) if grouped else value).contiguous()
    return tensors


def write_peft(folder: Path, tensors: Layer, adapters: Adapters) -> None:
    """Write every adapter's `tensors`, by PEFT's names, and adapter_config.json to `folder`."""
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapters.base,
        "inference_mode": True,
        "r": adapters.finetune.rank,
        "lora_alpha": adapters.finetune.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(adapters.finetune.targets),
        "bias": "none",
        "fan_in_fan_out": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
