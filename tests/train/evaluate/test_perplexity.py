"""Perplexity: every token of a text counts once, whatever the batches; texts that cannot be read are refused."""

import math
from pathlib import Path

import numpy
import pytest
import torch

from conf.errors import ConfigError
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from tests.train.sample.cases import MODEL, TEXTS, generator_of
from train.evaluate.perplexity import _packed_blocks, load_texts, score
from train.sample.generator import Generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    return generator_of(SentencePieceTokenizer.train(TEXTS, MODEL.vocab_size))


def test_every_token_counts_once_whatever_the_batches(generator: Generator, tmp_path: Path) -> None:
    path = tmp_path / "text.py"
    path.write_text("def f(x):\n    return x + 1\n" * 30)
    results = [score(load_texts(tmp_path, [str(path)], generator)["text.py"], generator, size) for size in (1, 3, 100)]
    eos = generator.tokenizer.eos
    ids = [eos, *generator.tokenizer.encode(path.read_text()), eos]
    blocks = [ids[start : start + MODEL.context_length + 1] for start in range(0, len(ids) - 1, MODEL.context_length)]
    nats = sum(generator.token_losses(torch.tensor([block])).double().sum().item() for block in blocks)
    for bits_per_byte, perplexity in results:
        assert bits_per_byte == pytest.approx(nats / math.log(2) / len(path.read_bytes()), rel=1e-5)
        assert perplexity == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-5)


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b"\xff\xfe", "cannot be read"), (None, "cannot be read")]
)
def test_a_text_that_cannot_be_read_is_refused(
    generator: Generator, tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load_texts(tmp_path, [str(path)], generator)


def test_a_folder_without_validation_sets_needs_paths(generator: Generator, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no run with validation sets; name text files with paths="):
        load_texts(tmp_path, [], generator)


def test_of_conversations_the_assistants_tokens_count(generator: Generator) -> None:
    inputs, labels = numpy.array([5, 6, 7, 8, 9, 0, 0]), numpy.array([-100, 7, -100, 9, 10, -100, -100])
    samples = [(inputs, labels, numpy.array([0, 1, 0, 1, 2, 0, 1], numpy.int32))]
    blocks = list(_packed_blocks(samples))  # type: ignore[arg-type]
    assert [ids.tolist() for ids, _ in blocks] == [[5, 6, 7], [7, 8, 9, 10]]
    first, second = (generator.token_losses(ids[None]).double()[0] for ids, _ in blocks)
    nats = (first[1] + second[1] + second[2]).item()
    bits, perplexity = score((iter(blocks), 3), generator, 2)
    assert bits == pytest.approx(nats / math.log(2) / 3) and perplexity == pytest.approx(math.exp(nats / 3))
