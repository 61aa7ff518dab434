"""Languages of the tokens of any pieces of a corpus, beside a list of every token's."""

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.languages import NONE, Languages, LanguageWriter

NAMES = ["Java", "", "Python"]
DOCUMENTS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6)), min_size=1, max_size=12)  # language, tokens


@settings(max_examples=60)
@given(st.lists(DOCUMENTS, min_size=1, max_size=3), st.data())
def test_pieces_are_counted_by_language(parts, data):
    """A part has a list of languages of its own, as a shard has."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "train.spans"
        tokens = []
        with LanguageWriter(corpus) as writer:
            for number, documents in enumerate(parts):
                codes, lengths = (numpy.array(values) for values in zip(*documents, strict=True))
                names = NAMES if number % 2 else NAMES[::-1]
                writer.write(names, codes.astype(numpy.uint32), lengths.astype(numpy.uint64))
                for code, length in documents:
                    tokens += [names[code] or NONE] * length
        order = list(writer.tokens)
        assert writer.tokens == {name: tokens.count(name) for name in order}
        cuts = sorted(data.draw(st.sets(st.integers(0, len(tokens)), max_size=8)) | {0, len(tokens)})
        pieces = data.draw(st.permutations(list(pairwise(cuts))))
        times = numpy.array(data.draw(st.lists(st.integers(0, 3), min_size=3, max_size=3)))
        samples = numpy.array([place % 3 for place in range(len(pieces))])
        starts, stops = numpy.array(pieces).T
        found = Languages(corpus).count((samples, starts, stops - starts), times, len(order))
        for code, name in enumerate(order):
            each = zip(samples, pieces, strict=True)
            assert found[code] == sum(times[row] * tokens[first:last].count(name) for row, (first, last) in each)
