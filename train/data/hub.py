"""`data=hub`: a Hugging Face data set, streamed with `datasets`, so that only the part that is read is downloaded."""

from collections.abc import Iterator
from typing import Any

from conf.errors import DataError
from conf.schema import CorpusConfig
from train.data.conversations import without_nulls
from train.data.documents import Document
from train.data.dropped import Dropped
from train.data.formats import row_document


def hub_parts(key: str, corpus: CorpusConfig, subset: str | None) -> int:
    """Number of files that one subset of the data set is streamed from.

    Errors: `DataError` where the data set is unknown or unreachable.
    """
    try:
        return int(_open(corpus, subset).num_shards)
    except Exception as error:  # datasets, the HTTP client and Arrow each raise types of their own
        raise _unreadable(key, corpus, subset, error) from error


def read_hub(key: str, corpus: CorpusConfig, subset: str | None, part: int, dropped: Dropped) -> Iterator[Document]:
    """The documents of file `part` of one subset.

    Errors: `DataError` where it cannot be read, or, under on_error=fail, a row has no text.
    """
    try:
        rows = _open(corpus, subset)
        place = _place(corpus, subset) + (f"[{part}]" if rows.num_shards > 1 else "")
        for number, row in enumerate(rows.shard(rows.num_shards, part), start=1):
            row = without_nulls(row) if corpus.conversations else row
            document = row_document(row, f"{place}:{number}", key, corpus, dropped)
            if document is not None:
                yield document
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(key, corpus, subset, error) from error


def _place(corpus: CorpusConfig, subset: str | None) -> str:
    return f"{corpus.name}/{subset}" if subset else corpus.name


def _unreadable(key: str, corpus: CorpusConfig, subset: str | None, error: Exception) -> DataError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return DataError(
        f"data.corpora.{key}: the data set {_place(corpus, subset)}, split '{corpus.split}', cannot be read: {reason}; "
        "check name, subsets, split, the network, and `hf auth login` where the data set asks for it"
    )


def _open(corpus: CorpusConfig, subset: str | None) -> Any:
    """Rows of one subset: a `data_dir` where its name has a slash, else a configuration of the data set."""
    import datasets  # seconds to import, and only this source needs it

    folder = subset is not None and "/" in subset
    return datasets.load_dataset(
        corpus.name,
        name=None if folder else subset,
        data_dir=subset if folder else None,
        split=corpus.split,
        streaming=True,
    )
