"""Validation during training: bits per byte on each corpus, and samples. Every process takes part under any layout."""

import math
from pathlib import Path

import torch

from conf.schema import EvaluationConfig
from model.tokenizer import Tokenizer
from parallel.engine import Engine
from train.context import RunContext
from train.data.batches import validation_batches
from train.data.packed_dataset import PackedDataset
from train.data.prepare import CorpusFiles
from train.sample.choose import before, choose


def bits_per_byte(engine: Engine, files: CorpusFiles, context_length: int, batch_size: int) -> float:
    """Cross-entropy of the whole validation set in bits, per byte of its UTF-8 text.

    The separators between documents are predicted and paid for too; they are no bytes of the text.
    Every process calls it together.
    """
    dataset = PackedDataset(Path(files.validation), files.dtype, context_length, keep_last=True)
    mesh = engine.mesh
    nats = sum(
        engine.eval_batch(batch) for batch in validation_batches(dataset, batch_size, mesh.dp_rank, mesh.dp_size)
    )
    return nats / math.log(2) / files.validation_bytes


def evaluate(context: RunContext, engine: Engine) -> dict[str, float]:
    """Bits per byte on the validation set of every corpus."""
    length, batch_size = context.settings.model.context_length, context.settings.evaluation.batch_size
    return {name: bits_per_byte(engine, files, length, batch_size) for name, files in context.data.corpora.items()}


def sample(
    engine: Engine, tokenizer: Tokenizer, settings: EvaluationConfig, context_length: int, seed: int
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
