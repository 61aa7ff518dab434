"""Values one at a time are those of the whole file, whatever its borders; what is wrong is said."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import train.data.json_stream as module
from train.data.json_stream import json_values

VALUES = st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=9) | st.integers() | st.none(), max_size=3))


def read(text, most=10_000):
    return list(json_values(io.StringIO(text), most))


@given(VALUES, st.sampled_from([None, 1]), st.integers(1, 7))
def test_a_list_and_values_in_a_row_are_read_alike(values, indent, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_CHARACTERS", chunk)
        assert read(json.dumps(values, indent=indent)) == values
        assert read(" \n".join(json.dumps(value) for value in values)) == values


def test_numbers_at_a_border_are_whole(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 1)
    assert read("[123, 45]") == [123, 45] and read("6789") == [6789]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"a": 1}, {"b', "value 2: Unterminated string"),
        ('[{"a": 1}', "the list is cut off after value 1"),
        ('[{"a": 1} {"b": 2}]', "after value 1 stands '{', not a comma"),
        ('[{"a": 1}, ]', "value 2: Expecting value"),
        ('[{"a": 1}] x', "something stands after the list"),
        ("hello", "value 1: Expecting value"),
    ],
)
def test_what_is_no_json_is_said(text, words):
    with pytest.raises(ValueError, match=words.replace("{", r"\{")):
        read(text)


def test_a_value_without_end_is_not_read_to_the_end(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 100)
    file = io.StringIO('["' + "x" * 1_000_000)
    with pytest.raises(ValueError, match=r"value 1 is longer than 1,000 characters"):
        list(json_values(file, 1000))
    assert file.tell() < 5000


def test_an_empty_file_has_no_value():
    assert read(" \n") == read("[ ]") == []
