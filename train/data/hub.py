"""`data=hub`: a public data set, streamed with `datasets`, nothing downloaded but the part that is read."""

from collections.abc import Iterator
from typing import Any

from conf.errors import DataError
from conf.schema import CorpusConfig
from train.data.documents import Document, interleave
from train.data.files import Broken, row_document


def read_hub(key: str, corpus: CorpusConfig, broken: Broken) -> Iterator[Document]:
    """The documents of corpus `key`; those of its subsets in turn, so that a cap on the bytes takes from each.

    Errors: `DataError` where the data set is unknown or out of reach, or a row has no text.
    """
    subsets: list[str | None] = [*corpus.subsets] or [None]
    return interleave([(_read_subset(key, corpus, subset, broken), 1.0) for subset in subsets])


def _read_subset(key: str, corpus: CorpusConfig, subset: str | None, broken: Broken) -> Iterator[Document]:
    place = f"{corpus.name}/{subset}" if subset else corpus.name
    try:
        for number, row in enumerate(_stream(corpus, subset), start=1):
            document = row_document(row, f"{place}:{number}", key, corpus, broken)
            if document is not None:
                yield document
    except DataError:
        raise
    except Exception as error:  # the client's own, the network's, Arrow's: each library below raises of its own kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"data.corpora.{key}: the data set {place}, split '{corpus.split}', cannot be read: {reason}; check name, "
            "subsets, split, the network, and `hf auth login` where the data set asks for it"
        ) from error


def _stream(corpus: CorpusConfig, subset: str | None) -> Iterator[dict[str, Any]]:
    """Rows of one subset: a folder of the data set where its name has a slash, else one of its configurations."""
    import datasets  # seconds to import, and only this source needs it

    folder = subset is not None and "/" in subset
    rows = datasets.load_dataset(
        corpus.name,
        name=None if folder else subset,
        data_dir=subset if folder else None,
        split=corpus.split,
        streaming=True,
    )
    return iter(rows)
