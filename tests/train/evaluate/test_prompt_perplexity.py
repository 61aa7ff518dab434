"""The perplexity of prompts: only their tokens count, each given all that precedes it."""

import math

import pytest
import torch

from model.tokenizer.sentencepiece import SentencePieceTokenizer
from tests.train.sample.cases import MODEL, TEXTS, generator_of
from train.evaluate.prompt_perplexity import prompt_perplexities


def test_only_prompts_count_and_batches_change_nothing() -> None:
    tokenizer = SentencePieceTokenizer.train(TEXTS, MODEL.vocab_size)
    generator = generator_of(tokenizer)
    long = [("def f(x):\n", False), ("for i in range\n", True), ("return x\n", False), ("x += y\n", True)]
    short = [("import\n", False), ("return x\n", True)]
    ids = [token for part, _ in long for token in tokenizer.encode(part)]
    mask = [is_prompt for part, is_prompt in long for _ in tokenizer.encode(part)]
    losses = generator.token_losses(torch.tensor([ids]))[0]
    expected = math.exp(losses[torch.tensor(mask[1:])].double().mean().item())
    together = prompt_perplexities([short, long], generator, batch_size=2)
    assert together[1] == pytest.approx(expected, rel=1e-5)
    assert together == pytest.approx(prompt_perplexities([short, long], generator, batch_size=1), rel=1e-5)


def test_a_text_longer_than_the_context_loses_its_beginning() -> None:
    generator = generator_of(SentencePieceTokenizer.train(TEXTS, MODEL.vocab_size))
    end = [("return x\n" * MODEL.context_length, False), ("x += y\n", True)]
    whole, none = prompt_perplexities([[("for i\n", True), *end], [("for i\n", True), end[0]]], generator, batch_size=2)
    assert none is None
    assert whole == pytest.approx(prompt_perplexities([end], generator, batch_size=1)[0])
