"""Perplexity of MTPB's prompts under the model: the paper's measure of how well it understands what is asked.

Turn by turn, each prompt follows the earlier prompts and the model's own programs for them; as a single turn, the
prompts follow each other. The paper finds that turns lower the perplexity, and that the problems that are solved are
those whose prompts have a low one.
"""

import math
from collections.abc import Sequence

import torch

from train.sample.generator import Generator

Part = tuple[str, bool]  # text, and whether it is a prompt: the other parts are only context


def prompt_perplexities(texts: Sequence[Sequence[Part]], generator: Generator, batch_size: int) -> list[float | None]:
    """For each text exp(-log P / m): P is the probability of its m prompt tokens, each given all that precedes it.

    A text that is longer than the context loses its beginning; None where it loses all prompt tokens.
    """
    found: list[float | None] = []
    for start in range(0, len(texts), batch_size):
        rows = [_tokens(text, generator) for text in texts[start : start + batch_size]]
        length = max(len(ids) for ids, _ in rows)
        padded = torch.tensor([ids + [generator.tokenizer.eos] * (length - len(ids)) for ids, _ in rows])
        for losses, (_, is_prompt) in zip(generator.token_losses(padded).double(), rows, strict=True):
            mask = torch.tensor(is_prompt[1:])
            found.append(math.exp(losses[: len(mask)][mask].mean().item()) if mask.any() else None)
    return found


def _tokens(text: Sequence[Part], generator: Generator) -> tuple[list[int], list[bool]]:
    """Ids of a text, each part encoded by itself, and for each id whether it is of a prompt."""
    parts = [(generator.tokenizer.encode(part), is_prompt) for part, is_prompt in text]
    ids = [token for part, _ in parts for token in part]
    mask = [is_prompt for part, is_prompt in parts for _ in part]
    most = generator.model.context_length + 1
    return ids[-most:], mask[-most:]
