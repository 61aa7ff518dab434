"""Bits per byte and samples are the same under every layout, and those of the model alone."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from conf.commands import Sampling
from model.tokenizer import Tokenizer
from tests.parity.cases import Ids, engine_of, mesh_for, settings_of
from tests.worlds import Worlds
from train.data.prepare import CorpusFiles
from train.data.token_file import TokenFileWriter
from train.validation import bits_per_byte, continue_prompts, sample

PROMPTS = {"a": "abc", "empty": ""}
LAYOUTS = {
    "one process": (1, []),
    "tensor x pipeline": (4, ["layout.tensor_parallel_size=2", "layout.pipeline_parallel_size=2"]),
    "data": (2, ["layout.zero_stage=1"]),
}


class Letters:
    """A token a byte, and one more that ends a text."""

    eos, vocab_size = 90, 91

    def encode(self, text: str) -> list[int]:
        return [byte % 90 for byte in text.encode()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


def measured(folder: str, overrides: list[str]) -> tuple[float, dict[str, str]]:
    """A case: bits per byte of the file below `folder`, and samples, of the seed's weights."""
    settings = settings_of(overrides)
    engine = engine_of(settings, mesh_for(settings))
    path = Path(folder) / "validation.bin"
    files = CorpusFiles(
        path, path, "<u2", 1, 1, 1, 1, validation_bytes=77, validation_tokens=1, languages={}, dropped={}
    )
    length = settings.model.context_length
    beats: list[None] = []
    bits = bits_per_byte(engine, cast(Any, files), length, batch_size=2, beat=lambda: beats.append(None))
    assert len(beats) == 1, "micro-batches are evaluated together, so that they fill a pipeline"
    prompts = replace(
        settings.evaluation, sample_prompts={"a": "abc", "empty": ""}, sample_tokens=5, sample_temperature=0.0
    )
    texts = sample(engine, cast(Tokenizer, Letters()), prompts, length, seed=3)
    engine.destroy()
    return bits, texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """83 tokens: five samples of 16, the last one not full."""
    folder = tmp_path_factory.mktemp("validation")
    with TokenFileWriter(folder / "validation.bin", "<u2") as file:
        file.write(np.random.default_rng(0).integers(0, 90, 83))
    return folder


def test_layouts_agree(worlds: Worlds, folder: Path) -> None:
    results = {name: worlds(size).run(measured, str(folder), words) for name, (size, words) in LAYOUTS.items()}
    bits, texts = results["one process"][0]
    assert bits == pytest.approx(82 * math.log2(96) / 77, rel=0.1), "an untrained model knows little of 82 tokens"
    assert texts.keys() == {"a", "empty"} and all(len(text.split()) == 5 for text in texts.values())
    for found in results.values():
        for other_bits, other_texts in found:
            assert other_bits == pytest.approx(bits, rel=1e-5) and other_texts == texts


def continued(ranks: int) -> list[list[int]]:
    """A case: the most likely tokens after two prompts, by a model that three ranks can cut."""
    settings = settings_of(["layout.zero_stage=1"])
    model = replace(settings.model, n_embd=48, n_head=12, context_length=96)
    layout = replace(settings.layout, tensor_parallel_size=ranks, sequence_parallel=ranks > 1)
    settings = replace(settings, model=model, layout=layout)
    engine = engine_of(settings, mesh_for(settings))
    greedy = Sampling(5, temperature=0.0, top_p=1.0, top_k=0, seed=0)
    prompts = [[1, 2, 3], [5, 6, 7, 8]]
    new = continue_prompts(engine, prompts, greedy, [0, 0], cast(Tokenizer, Ids()), settings.model.context_length)
    engine.destroy()
    return new


def test_sequence_parallelism_over_three_ranks_samples_the_same(worlds: Worlds) -> None:
    """Three do not divide `WIDTH`, to which rows are padded."""
    assert worlds(3).run(continued, 3) == worlds(1).run(continued, 1) * 3
