"""How many tokens of each language a stage really read, counted when it is asked for.

The order of samples is a function, and its permutations run backwards: each sample of a corpus is asked how often it
was read and what it holds. Nothing is kept while training, and nothing that grows with the corpus is held.
"""

from collections.abc import Sequence

import numpy

from conf.mixture import corpora_of
from conf.schema import Settings
from train.data.batches import Gap, underneath
from train.data.languages import Languages
from train.data.mixture import training_samples
from train.data.prepare import PreparedData

CHUNK_SAMPLES = 1 << 16  # that are counted at a time


def tokens_read(
    settings: Settings, data: PreparedData, name: str, position: int, gaps: Sequence[Gap] = ()
) -> dict[str, dict[str, int]]:
    """Corpus -> language -> tokens that stage `name` learnt to predict, of the first `position` samples; no padding.

    gaps: positions in the order of the data that are passed over.
    """
    dataset, order = training_samples(settings, data, name)
    end = underneath(position - 1, gaps) + 1 if position else 0
    skipped = [order[place] for first, last in gaps for place in range(first, min(last, end))]
    found: dict[str, dict[str, int]] = {}
    offset = 0
    for number, (key, samples) in enumerate(zip(corpora_of(settings.stages[name]), dataset.datasets, strict=True)):
        files = data.corpora[key]
        languages, total = Languages(files.train), numpy.zeros(len(files.languages), numpy.int64)
        for first in range(0, len(samples), CHUNK_SAMPLES):
            last = min(first + CHUNK_SAMPLES, len(samples))
            times = order.times_read(number, numpy.arange(first, last), end)
            for index in skipped:
                if offset + first <= index < offset + last:
                    times[index - offset - first] -= 1
            numbers, starts, lengths = samples.pieces(first, last)
            total += languages.count((numbers - first, starts, lengths), times, len(total))
        offset += len(samples)
        found[key] = {language: int(count) for language, count in zip(files.languages, total, strict=True) if count}
    return found
