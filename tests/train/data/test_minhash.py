"""Near duplicates share a band, others do not, as often as the formula says."""

import random

from train.data.minhash import BANDS, ROWS, WORDS, band_hashes


def jaccard(one, other):
    first, second = ({tuple(words[at : at + WORDS]) for at in range(len(words) - WORDS + 1)} for words in (one, other))
    return len(first & second) / len(first | second)


def test_shared_bands_follow_the_share_of_shared_runs():
    draw = random.Random(1)
    for changed, wanted in ((1, True), (60, False)):
        found = expected = 0
        for _ in range(40):
            words = [f"w{draw.randrange(10**6)}" for _ in range(300)]
            other = list(words)
            for at in draw.sample(range(300), changed):
                other[at] = "changed"
            share = jaccard(words, other)
            expected += 1 - (1 - share**ROWS) ** BANDS
            found += bool((band_hashes(" ".join(words)) == band_hashes(" ".join(other))).any())
        assert abs(found - expected) <= 4, (found, expected)
        assert (found >= 38) == wanted


def test_case_and_punctuation_do_not_count_and_short_texts_have_a_signature():
    assert (band_hashes("One two, three. FOUR five six!") == band_hashes("one two three four five six")).all()
    assert band_hashes("").shape == (BANDS,) and (band_hashes("a") != band_hashes("b")).all()
    assert band_hashes(" ".join(map(str, range(20_000)))).dtype == "uint64"
