"""What a stage really read, beside counting every label of every sample as it is read."""

import json
from collections import Counter

import numpy
import pytest

from conf.choices import IGNORE_INDEX, Packing
from tests.train.data.conftest import text
from train.data.batches import PassingOver
from train.data.mixture import training_samples
from train.data.prepare import prepare
from train.data.token_spans import open_tokens
from train.data.tokens_read import tokens_read


def languages_of_labels(prepared, key):
    """The language of each token of a corpus but its first, by the manifest and the eos of each document."""
    files = prepared.corpora[key]
    ids = open_tokens(files.train, files.dtype).read(0, files.train_tokens)
    lines = map(json.loads, (prepared.directory / key / "manifest.jsonl").read_text().splitlines())
    names = [line["language"] or "none" for line in lines if line["split"] == "train"]
    borders = numpy.flatnonzero(ids == ids[0])
    return ids, [name for name, length in zip(names, numpy.diff(borders), strict=True) for _ in range(length)]


@pytest.mark.parametrize("packing", list(Packing))
def test_every_label_is_counted_by_its_language(settings, packing):
    rows = [{"text": text(seed), "lang": ("Python", "Java", "C")[seed % 7 % 3]} for seed in range(200, 400)]
    with open(settings.data.corpora["code"].paths[0], "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    settings.data.packing, settings.run.seed = packing, 3
    stage = settings.stages["nl"]
    stage.mixture = {"nl": 0.25, "code": 0.75}
    prepared = prepare(settings, lambda line: None)
    dataset, order = training_samples(settings, prepared, "nl")
    gaps, sizes = [(5, 9), (40, 44)], [len(one) for one in dataset.datasets]
    position = 2 * sizes[1] + 11
    read = Counter(PassingOver(order, gaps)[place] for place in range(position))
    expected = {}
    for number, key in enumerate(("nl", "code")):
        _, languages = languages_of_labels(prepared, key)
        counts, samples, offset = Counter(), dataset.datasets[number], sum(sizes[:number])
        for index in range(len(samples)):
            labels = int((samples[index][1] != IGNORE_INDEX).sum())
            _, starts, lengths = samples.pieces(index, index + 1)
            assert lengths.sum() == labels
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                for name in languages[start : start + length]:
                    counts[name] += read[offset + index]
        expected[key] = dict(counts)
    found = tokens_read(settings, prepared, "nl", position, gaps)
    assert found == expected and set(found["code"]) == {"Python", "Java", "C"}
    assert tokens_read(settings, prepared, "nl", 0) == {"nl": {}, "code": {}}
