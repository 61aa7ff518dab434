"""Random models in Hugging Face's form, saved as transformers saves them."""

from pathlib import Path

import torch
from transformers import CodeGenConfig, CodeGenForCausalLM


def random_model(dtype: torch.dtype = torch.float32, **keys: int) -> CodeGenForCausalLM:
    """Two blocks, eight heads, with norms and biases away from 1 and 0, where a swap would not show."""
    torch.manual_seed(3)
    shape = {"vocab_size": 400, "n_positions": 32, "n_embd": 64, "n_layer": 2, "n_head": 8, "rotary_dim": 4, **keys}
    config = CodeGenConfig(**shape, n_ctx=shape["n_positions"], bos_token_id=0, eos_token_id=0)
    model = CodeGenForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.to(dtype).eval()


def save(model: CodeGenForCausalLM, folder: Path, **keys: str) -> Path:
    model.save_pretrained(folder, **keys)
    return folder
