"""Bits per byte and perplexity per token of text under trained weights."""

import math
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy
import torch
from torch import Tensor

from conf.commands import Evaluate
from conf.compose import load_settings
from conf.errors import ConfigError, reason
from conf.extensions import read_data
from conf.run_folder import CONFIG
from conf.schema import Settings
from train.data.packed_dataset import Samples
from train.data.prepare import PreparedData, find_prepared, open_prepared
from train.sample.generator import Generator

Block = tuple[Tensor, Tensor]  # ids [2 to context + 1], and of each but the first whether it counts
Text = tuple[Iterator[Block], int]  # blocks that overlap by one, bytes of UTF-8


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
        names = Counter(Path(path).name for path in paths)
        return {
            Path(path).name if names[Path(path).name] == 1 else path: _file_blocks(Path(path), generator)
            for path in paths
        }
    settings, data = data_of(run)
    length = settings.model.context_length
    mask = settings.data.document_mask
    return {
        name: (_packed_blocks(files.validation_samples(length, mask)), files.validation_bytes)
        for name, files in data.corpora.items()
    }


def data_of(run: Path) -> tuple[Settings, PreparedData]:
    """The settings of `run` and its prepared data. Errors: `ConfigError` where it is no run, or the data is gone."""
    if not (run / CONFIG).is_file():
        raise ConfigError(f"{run} is no run with validation sets; name text files with paths=[...]")
    settings = load_settings(run / CONFIG)
    own = read_data(run)["folder"]  # whatever has become of its sources since
    data = (open_prepared(Path(settings.data.cache) / own) if own else None) or find_prepared(settings)
    if data is None:
        raise ConfigError(
            f"the prepared data of {run} is gone from {settings.data.cache}; prepare it or use paths=[...]"
        )
    return settings, data


def score(text: Text, generator: Generator, batch_size: int) -> tuple[float, float]:
    """(bits per byte, perplexity per token) of a text; of conversations, of what the assistant wrote."""
    blocks, bytes_of_text = text
    nats, tokens = 0.0, 0
    batch: list[Block] = []

    def add() -> None:
        nonlocal nats, tokens
        losses = generator.token_losses(torch.stack([ids for ids, _ in batch]))
        counted = losses[torch.stack([mask for _, mask in batch])]
        nats, tokens = nats + counted.double().sum().item(), tokens + counted.numel()
        batch.clear()

    for block in blocks:
        if batch and (len(batch) == batch_size or len(block[0]) != len(batch[0][0])):
            add()
        batch.append(block)
    if batch:
        add()
    return nats / math.log(2) / bytes_of_text, math.exp(nats / tokens)


def _packed_blocks(samples: Samples) -> Iterator[Block]:
    for index in range(len(samples)):
        inputs, labels, *positions = samples[index]
        begins = numpy.flatnonzero(positions[0] == 0).tolist() if positions else [0]
        for first, end in pairwise([*begins, len(inputs)]):
            counted = numpy.flatnonzero(labels[first:end] >= 0)
            if len(counted):
                stop = first + int(counted[-1]) + 1
                ids = numpy.append(inputs[first:stop], labels[stop - 1])
                yield torch.from_numpy(ids), torch.from_numpy(labels[first:stop] >= 0)


def _file_blocks(path: Path, generator: Generator) -> Text:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"paths: {path} cannot be read ({reason(error)})") from None
    if not text:
        raise ConfigError(f"paths: {path} is empty")
    eos, length = generator.tokenizer.eos, generator.model.context_length
    ids = torch.tensor([eos, *generator.tokenizer.encode(text), eos])
    starts = range(0, len(ids) - 1, length)
    blocks = (ids[start : start + length + 1] for start in starts)
    return ((block, torch.ones(len(block) - 1, dtype=torch.bool)) for block in blocks), len(text.encode())
