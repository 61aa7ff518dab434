"""What is left out is counted, and the first few are named."""

import json

import pytest

from conf.choices import OnError
from conf.errors import DataError
from train.data.dropped import Dropped


def test_counts_and_first_examples_survive_a_merge():
    first, second = Dropped(), Dropped()
    for number in range(2):
        first.add("digits", f"a:{number}")
    for number in range(5):
        second.add("digits", f"b:{number}")
    second.unreadable("c:1 is not JSON")
    first.merge(json.loads(json.dumps(second.record())))
    assert first.record() == {
        "digits": {"count": 7, "examples": ["a:0", "a:1", "b:0"]},
        "unreadable": {"count": 1, "examples": ["c:1 is not JSON"]},
    }


def test_what_cannot_be_read_fails_or_counts():
    with pytest.raises(DataError, match=r"^x:1 is broken; fix it, or skip such documents with data\.on_error=skip$"):
        Dropped(OnError.fail).unreadable("x:1 is broken")


def test_an_example_shows_the_beginning_of_its_text():
    dropped = Dropped()
    dropped.add("digits", "a.py", "1\n" + "2" * 500)
    dropped.add("empty", "b.py", " \n")
    examples = [one["examples"][0] for one in dropped.record().values()]
    assert examples == ["a.py: '1\\n" + "2" * 98 + "'...", "b.py"]
