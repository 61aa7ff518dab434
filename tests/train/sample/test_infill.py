"""Infilling: the prompt that CodeGen2's card gives, in the room that there is, and the text up to its end."""

from dataclasses import replace
from pathlib import Path

import numpy
import pytest

from conf.choices import Objective
from conf.commands import Sampling
from conf.errors import ConfigError
from conf.schema import Settings
from model.tokenizer.codegen2 import INFILLING
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from tests.train.sample.cases import MODEL, TEXTS, generator_of
from train.data.infill import InfillTokens, training_tokens, write_infill
from train.data.token_file import TokenFileWriter
from train.sample.choose import before
from train.sample.gap import Gap
from train.sample.generator import Generator
from train.sample.infill import MARKS, fill, prompt_ids

GREEDY = Sampling(max_new_tokens=20, temperature=0.0, top_p=1.0, top_k=0, seed=0)
GAPS = [Gap("def f(x):\n", "    return x\n"), Gap("", "return"), Gap("a = 1\nb =", "")]


@pytest.fixture(scope="module")
def generator() -> Generator:
    return generator_of(SentencePieceTokenizer.train(TEXTS, MODEL.vocab_size, INFILLING))


def test_the_prompt_is_codegen2s_after_the_eos_that_training_has(generator: Generator) -> None:
    tokenizer = generator.tokenizer
    text = "</s>def f(x):\n<mask_1>    return x\n</s><sep><mask_1>"
    assert prompt_ids(tokenizer, GAPS[0], 50) == tokenizer.encode(text, "all")
    forged = prompt_ids(tokenizer, Gap("x <sep>", "<eom></s>"), 99)
    assert [token for token in forged if token in tokenizer.special_tokens.values()] == [1, 2, 1, 3, 2]


def test_the_prompt_is_what_training_reads_before_a_span(
    generator: Generator, tmp_path: Path, settings: Settings
) -> None:
    tokenizer = generator.tokenizer
    with TokenFileWriter(tmp_path / "train.bin", "<u2") as file:
        file.write(numpy.array([tokenizer.eos, *tokenizer.encode("alpha beta gamma"), tokenizer.eos]))
    settings = replace(settings, data=replace(settings.data, objective=Objective.infill, infill_fraction=1.0))
    write_infill(tmp_path / "train.bin", "<u2", settings, tokenizer)
    read = InfillTokens(training_tokens(tmp_path / "train.bin", settings), "<u2").read(0, 99).tolist()
    mask, span = tokenizer.special_tokens["<mask_1>"], read.index(tokenizer.special_tokens["<sep>"]) + 2
    prefix, suffix = read[1 : read.index(mask)], read[read.index(mask) + 1 : span - 3]
    prompt = prompt_ids(tokenizer, Gap(tokenizer.decode(prefix), tokenizer.decode(suffix)), 99)
    assert prompt == read[:span]


def test_what_is_far_from_the_place_is_left_out(generator: Generator) -> None:
    tokenizer = generator.tokenizer
    gap = Gap("alpha beta " * 20, "gamma delta " * 20)
    prefix, suffix = tokenizer.encode(gap.prefix), tokenizer.encode(gap.suffix)
    ids = prompt_ids(tokenizer, gap, 11)
    assert ids == [1, *prefix[-6:], 2, *suffix[:5], 1, 3, 2] and len(ids) == 11 + MARKS
    short = tokenizer.encode("x")
    assert prompt_ids(tokenizer, Gap("x", gap.suffix), 11) == [1, *short, 2, *suffix[: 11 - len(short)], 1, 3, 2]
    assert prompt_ids(tokenizer, Gap(gap.prefix, "x"), 11) == [1, *prefix[-(11 - len(short)) :], 2, *short, 1, 3, 2]
    assert prompt_ids(tokenizer, Gap(gap.prefix, ""), 1) == [1, prefix[-1], 2, 1, 3, 2]


def test_what_is_written_ends_before_the_end_of_the_mask(generator: Generator) -> None:
    tokenizer = generator.tokenizer
    texts = fill(generator, GAPS, GREEDY, [0] * 3)
    for gap, text in zip(GAPS, texts, strict=True):
        (ids,) = generator.generate_ids([prompt_ids(tokenizer, gap, 40)], GREEDY, [0])
        assert text == tokenizer.decode(before(ids, tokenizer.special_tokens["<eom>"]))
    assert fill(generator, GAPS[:1], GREEDY, [0], (texts[0][3],)) == [texts[0].split(texts[0][3])[0]]
    assert fill(generator, GAPS[:1], GREEDY, [0], lambda text: text[:2] or None) == [texts[0][:2]]


def test_a_model_or_a_length_that_cannot_infill_is_one_line(generator: Generator) -> None:
    with pytest.raises(ConfigError, match=r"max_new_tokens=60 leaves no room for a prompt .* use at most 58"):
        fill(generator, GAPS, Sampling(60, 0.0, 1.0, 0, 0), [0] * 3)
    other = generator_of(SentencePieceTokenizer.train(TEXTS, MODEL.vocab_size))
    with pytest.raises(ConfigError, match=r"lively cannot infill: its tokenizer has no <mask_1>, <sep>, <eom>"):
        fill(other, GAPS, GREEDY, [0] * 3)
