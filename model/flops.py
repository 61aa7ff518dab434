"""Floating-point operations of training, for TFLOP/s and MFU.

Counted as the PaLM paper does (arXiv 2204.02311, appendix B): a multiply-add is 2 operations, the backward pass costs
twice the forward pass, recomputation does not count. Matrix parameters cost 6 operations a token; attention costs
12 * n_layer * n_embd * context_length a token. The causal mask is not taken off, as in PaLM and in LLM Foundry.
"""

from conf.lora import adapter_parameters, is_lora
from conf.schema import FinetuneConfig, ModelConfig


def layer_parameters(model: ModelConfig) -> list[int]:
    """Parameters of each layer of `model.build`."""
    d, vocab = model.n_embd, model.vocab_size
    block = 12 * d * d + 4 * d + d + 2 * d  # q k v out fc_in fc_out, their two biases, one norm
    return [vocab * d, *[block] * model.n_layer, 2 * d + vocab * d + vocab]


def parameters(model: ModelConfig) -> int:
    """All parameters, to the last one."""
    return sum(layer_parameters(model))


def matrix_parameters(model: ModelConfig) -> int:
    """Parameters that are multiplied with every token: the blocks' matrices and the head, not the embedding table."""
    return 12 * model.n_layer * model.n_embd**2 + model.vocab_size * model.n_embd


def layer_flops(model: ModelConfig) -> list[int]:
    """Operations a token in the forward pass of each layer of `model.build`.

    The embedding only looks up; it counts as one row.
    """
    block = 2 * 12 * model.n_embd**2 + 4 * model.n_embd * model.context_length
    return [model.n_embd, *[block] * model.n_layer, 2 * model.vocab_size * model.n_embd]


def flops_per_token(model: ModelConfig, finetune: FinetuneConfig | None = None) -> int:
    """Operations to train on one token of a full-length sequence; frozen weights cost 4, they have no gradient."""
    products = 6 * matrix_parameters(model)
    if finetune is not None and is_lora(finetune):
        products = 4 * matrix_parameters(model) + 6 * adapter_parameters(model, finetune)
    return products + 12 * model.n_layer * model.n_embd * model.context_length
