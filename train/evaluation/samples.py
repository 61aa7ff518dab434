"""Samples from a model in training: what it makes of a few prompts. Every process takes part, so any layout can."""

import torch

from conf.schema import Evaluation
from model.tokenizer import Tokenizer
from parallel.engine import Engine
from train.draw import before, choose


def sample(
    engine: Engine, tokenizer: Tokenizer, settings: Evaluation, context_length: int, seed: int
) -> dict[str, str]:
    """Prompt's name -> the continuation of `settings.sample_prompts`, at most `sample_tokens` tokens each.

    The prompts run as one batch, padded on the right to the context: the causal mask keeps the padding out.
    """
    prompts = [
        tokenizer.encode(text)[-(context_length - settings.sample_tokens) :]
        for text in settings.sample_prompts.values()
    ]
    prompts = [prompt or [tokenizer.eos] for prompt in prompts]
    ids = torch.full((len(prompts), context_length), tokenizer.eos)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    ends = torch.tensor([len(prompt) for prompt in prompts])
    rows, generator = torch.arange(len(prompts)), torch.Generator().manual_seed(seed)
    for _ in range(settings.sample_tokens):
        logits = engine.next_token_logits(ids, ends - 1)[:, : tokenizer.vocab_size]
        uniform = torch.rand(len(prompts), generator=generator)
        ids[rows, ends] = choose(logits, settings.sample_temperature, settings.sample_top_p, 0, uniform)
        ends += 1
    return {
        name: tokenizer.decode(before(ids[row, len(prompts[row]) : ends[row]].tolist(), tokenizer.eos))
        for row, name in enumerate(settings.sample_prompts)
    }
