"""Hugging Face's CodeGen of the same shape and weights: what the tests and benchmarks compare with."""

import torch
from transformers import CodeGenConfig, CodeGenForCausalLM

from conf.schema import ModelConfig
from model.build import layer_shapes
from model.huggingface import to_huggingface
from model.init import init_parameter

MP_NUM = 4  # of the released models


def config_of(model: ModelConfig) -> CodeGenConfig:
    """Hugging Face's configuration of `model`, without dropout."""
    return CodeGenConfig(
        vocab_size=model.vocab_size,
        n_positions=model.context_length,
        n_ctx=model.context_length,
        n_embd=model.n_embd,
        n_layer=model.n_layer,
        n_head=model.n_head,
        rotary_dim=model.rotary_dim,
        layer_norm_epsilon=model.layer_norm_epsilon,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
    )


def twin_of(model: ModelConfig, weights: list[dict[str, torch.Tensor]]) -> CodeGenForCausalLM:
    """Hugging Face's model with our layers' `weights`, in training mode."""
    twin, tensors = CodeGenForCausalLM(config_of(model)).train(), {}
    for index, layer in enumerate(weights):
        tensors |= to_huggingface(index, layer, model, MP_NUM)
    missing, unexpected = twin.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert not [name for name in missing if "causal_mask" not in name and "masked_bias" not in name]
    return twin


def initial_weights(model: ModelConfig, seed: int) -> list[dict[str, torch.Tensor]]:
    """Every layer's initial weights, whole."""
    return [
        {name: init_parameter(f"{index}.{name}", shape, model, seed) for name, shape in layer.items()}
        for index, layer in enumerate(layer_shapes(model))
    ]
