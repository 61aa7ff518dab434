"""Which sample training reads at each position: of which corpus by the stage's weights, and there by a random order.

Everything is a function of the position, so that any layout and any resumed run reads the same samples.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy
from numpy.typing import NDArray

from conf.mixture import corpora_of, phases_of
from conf.schema import Settings, StageConfig
from train.data.packed_dataset import CorpusSamples, Numbers, Sample, ShuffledOrder
from train.data.prepare import PreparedData

ORDER = 2  # increase when the same settings give another order; a checkpoint of another one is refused
PERIOD = 10_000  # samples after which a mixture repeats its pattern: weights are kept to 1 in 10,000


@dataclass(frozen=True)
class Pattern:
    """The corpora of one period of a phase, in order. seen: `[period + 1, corpora]`, samples of each before a place."""

    corpora: NDArray[numpy.int64]
    seen: NDArray[numpy.int64]


def pattern(weights: Sequence[float]) -> Pattern:
    """A period in which, at any place, each corpus has had its share of the samples to within less than one.

    Tijdeman 1980, "The chairman assignment problem": of the corpora that may be due, the one that must be served first.
    """
    shares = _whole_shares(weights)
    period, count = sum(shares), len(shares)
    least = 2 * count - 2  # in units of 1 / (period * least), all is whole numbers
    seen = numpy.zeros((period + 1, count), numpy.int64)
    chosen = numpy.zeros(period, numpy.int64)
    served = [0] * count
    for place in range(period):
        due = [least * (share * (place + 1) - period * has) for share, has in zip(shares, served, strict=True)]
        able = [one for one in range(count) if shares[one] and due[one] >= (period if least else 0)]
        corpus = min(able, key=lambda one: (least * period - period - due[one]) / shares[one])
        chosen[place] = corpus
        served[corpus] += 1
        seen[place + 1] = served
    return Pattern(chosen, seen)


def _whole_shares(weights: Sequence[float]) -> list[int]:
    """`weights` as whole numbers without a common divisor, at most `PERIOD` together."""
    total = math.fsum(weights)
    exact = [weight / total * PERIOD for weight in weights]
    shares = [math.floor(one) for one in exact]
    short = sorted(range(len(exact)), key=lambda one: shares[one] - exact[one])
    for one in short[: PERIOD - sum(shares)]:
        shares[one] += 1
    divisor = math.gcd(*shares)
    return [share // divisor for share in shares]


class MixedOrder:
    """The sample at each position, as an index into the corpora's data sets one after another (`Concatenation`).

    phases: (first position, weight of each corpus), the first from position 0.
    """

    def __init__(self, sizes: Sequence[int], phases: Sequence[tuple[int, Sequence[float]]], seed: int) -> None:
        self._starts = [start for start, _ in phases]
        self._patterns = [pattern(weights) for _, weights in phases]
        self._orders = [ShuffledOrder(size, seed, corpus) for corpus, size in enumerate(sizes)]
        self._offsets = [0, *accumulate(sizes)]
        self._before = [numpy.zeros(len(sizes), numpy.int64)]  # samples of each corpus before each phase
        for number, (start, end) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            self._before.append(self._before[-1] + self._within(number, end - start))

    def __getitem__(self, position: int) -> int:
        """Index of the sample at `position`, counted from 0 over all ranks."""
        if position < 0:
            raise IndexError(f"position {position} is negative")
        phase = bisect_right(self._starts, position) - 1
        own = self._patterns[phase]
        corpus = int(own.corpora[(position - self._starts[phase]) % len(own.corpora)])
        return self._offsets[corpus] + self._orders[corpus][int(self.read(position)[corpus])]

    def read(self, position: int) -> NDArray[numpy.int64]:
        """Samples of each corpus before `position`."""
        phase = bisect_right(self._starts, position) - 1
        read: NDArray[numpy.int64] = self._before[phase] + self._within(phase, position - self._starts[phase])
        return read

    def times_read(self, corpus: int, indices: Numbers, position: int) -> Numbers:
        """How often each of the samples `indices` of a corpus is read before `position`."""
        return self._orders[corpus].times_read(indices, int(self.read(position)[corpus]))

    def _within(self, phase: int, samples: int) -> NDArray[numpy.int64]:
        own = self._patterns[phase]
        periods, rest = divmod(samples, len(own.corpora))
        within: NDArray[numpy.int64] = periods * own.seen[-1] + own.seen[rest]
        return within


class Concatenation:
    """Data sets one after another."""

    def __init__(self, datasets: Sequence[CorpusSamples]) -> None:
        self.datasets = datasets
        self._ends = [*accumulate(len(one) for one in datasets)]

    def __len__(self) -> int:
        """Number of samples."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """(inputs, labels[, positions]) of one sample, `[context_length]` each."""
        number = bisect_right(self._ends, index)
        return self.datasets[number][index - (self._ends[number - 1] if number else 0)]


def training_order(stage: StageConfig, sizes: Mapping[str, int], seed: int) -> MixedOrder:
    """The order of a stage's samples. sizes: corpus -> samples in an epoch, of those that it reads, in their order."""
    phases = [
        (first * stage.global_batch_size, [weights.get(key, 0.0) for key in sizes])
        for first, weights in phases_of(stage)
    ]
    return MixedOrder(list(sizes.values()), phases, seed)


def samples_read(stage: StageConfig, samples: int) -> dict[str, int]:
    """Corpus -> samples that the first `samples` of a stage take from it."""
    corpora = corpora_of(stage)
    order = training_order(stage, dict.fromkeys(corpora, 1), 0)
    return dict(zip(corpora, order.read(samples).tolist(), strict=True))


def training_samples(settings: Settings, data: PreparedData, name: str) -> tuple[Concatenation, MixedOrder]:
    """What stage `name` reads, and in which order."""
    stage = settings.stages[name]
    datasets = data.training(settings, stage)
    sizes = {key: len(dataset) for key, dataset in datasets.items()}
    return Concatenation(list(datasets.values())), training_order(stage, sizes, settings.run.seed)
