import json

import pytest

from conf.choices import OnError, Source
from conf.errors import DataError
from conf.schema import CorpusConfig
from train.data.dropped import Dropped
from train.data.hub import hub_parts, read_hub


@pytest.fixture
def data_set(tmp_path):
    """A data set on disk, which `datasets` reads as it reads one from the hub."""
    for folder, language in (("c", "C"), ("python", "Python")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        rows = [{"content": f"{language} {number}", "lang": language} for number in range(3)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / folder / "train.jsonl").write_text(lines)
    return tmp_path


def read(name, on_error=OnError.fail, **settings):
    corpus = CorpusConfig(source=Source.hub, name=str(name), **{"text_column": "content", **settings})
    return [
        document
        for subset in corpus.subsets or [None]
        for part in range(hub_parts("multi", corpus, subset))
        for document in read_hub("multi", corpus, subset, part, Dropped(on_error))
    ]


def test_subsets_are_read_in_turn(data_set):
    documents = read(data_set, subsets=["data/c", "data/python"], language_column="lang")
    assert sorted(document.text for document in documents) == sorted(
        f"{language} {number}" for language in ("C", "Python") for number in range(3)
    )
    assert documents[0].source == f"{data_set}/data/c:1"


def test_a_data_set_without_subsets_is_read_whole(data_set):
    assert len(read(data_set)) == 6


def test_what_cannot_be_reached_is_one_clear_line(data_set):
    for settings, name in (({}, data_set / "gone"), ({"split": "dev"}, data_set), ({"subsets": ["data/go"]}, data_set)):
        with pytest.raises(DataError, match=r"data\.corpora\.multi: the data set .* cannot be read: ") as error:
            read(name, **settings)
        assert "\n" not in str(error.value)


def test_a_missing_column_is_one_clear_line(data_set):
    with pytest.raises(DataError, match=r"has no column 'text' \(it has content, lang\)"):
        read(data_set, text_column="text")
