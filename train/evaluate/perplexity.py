"""Bits per byte and perplexity per token of text under trained weights."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy
import torch
from torch import Tensor

from conf.commands import Evaluate
from conf.compose import load_settings
from conf.errors import ConfigError
from conf.run_folder import CONFIG
from conf.schema import Settings
from train.data.packed_dataset import PackedDataset
from train.data.prepare import PreparedData, find_prepared
from train.sample.generator import Generator

Text = tuple[Iterator[Tensor], int]  # tokens in blocks [1 to context + 1] that overlap by one, bytes of UTF-8


def evaluate(command: Evaluate, generator: Generator) -> dict[str, dict[str, float]]:
    """Bits per byte and perplexity per token of every text."""
    run = generator.weights.run or generator.weights.folder
    scores = {
        name: score(text, generator, command.batch_size)
        for name, text in load_texts(run, command.paths, generator).items()
    }
    return {
        "bits_per_byte": {name: bits for name, (bits, _) in scores.items()},
        "perplexity": {name: value for name, (_, value) in scores.items()},
    }


def load_texts(run: Path, paths: list[str], generator: Generator) -> dict[str, Text]:
    """Name -> text: the files of `paths`, or without any the validation sets of `run`.

    Errors: `ConfigError` for a file that cannot be read or a run whose prepared data is gone.
    """
    if paths:
        return {Path(path).name: _file_blocks(Path(path), generator) for path in paths}
    settings, data = data_of(run)
    length = settings.model.context_length
    return {
        name: (
            _packed_blocks(PackedDataset(files.validation, files.dtype, length, True, settings.data.document_mask)),
            files.validation_bytes,
        )
        for name, files in data.corpora.items()
    }


def data_of(run: Path) -> tuple[Settings, PreparedData]:
    """The settings of `run` and its prepared data. Errors: `ConfigError` where it is no run, or the data is gone."""
    if not (run / CONFIG).is_file():
        raise ConfigError(f"{run} is no run with validation sets; name text files with paths=[...]")
    settings = load_settings(run / CONFIG)
    data = find_prepared(settings)
    if data is None:
        raise ConfigError(
            f"the prepared data of {run} is gone from {settings.data.cache}; prepare it or use paths=[...]"
        )
    return settings, data


def score(text: Text, generator: Generator, batch_size: int) -> tuple[float, float]:
    """(bits per byte, perplexity per token) of a text."""
    blocks, bytes_of_text = text
    nats, tokens = 0.0, 0
    batch: list[Tensor] = []

    def add() -> None:
        nonlocal nats, tokens
        losses = generator.token_losses(torch.stack(batch))
        nats, tokens = nats + losses.double().sum().item(), tokens + losses.numel()
        batch.clear()

    for block in blocks:
        if batch and (len(batch) == batch_size or len(block) != len(batch[0])):
            add()
        batch.append(block)
    if batch:
        add()
    return nats / math.log(2) / bytes_of_text, math.exp(nats / tokens)


def _packed_blocks(blocks: PackedDataset) -> Iterator[Tensor]:
    for index in range(len(blocks)):
        inputs, labels, *positions = blocks[index]
        known = int((labels >= 0).sum())
        begins = numpy.flatnonzero(positions[0][:known] == 0) if positions else numpy.zeros(1, int)
        for first, last in zip(begins, [*begins[1:], known], strict=True):
            yield torch.from_numpy(numpy.append(inputs[first:last], labels[last - 1]))


def _file_blocks(path: Path, generator: Generator) -> Text:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"paths: {path} cannot be read ({error})") from None
    if not text:
        raise ConfigError(f"paths: {path} is empty")
    eos, length = generator.tokenizer.eos, generator.model.context_length
    ids = torch.tensor([eos, *generator.tokenizer.encode(text), eos])
    starts = range(0, len(ids) - 1, length)
    return (ids[start : start + length + 1] for start in starts), len(text.encode())
