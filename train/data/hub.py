"""`data=hub`: a Hugging Face data set, streamed with `datasets`, so that only the part that is read is downloaded."""

from collections.abc import Iterator
from typing import Any

from conf.errors import DataError
from conf.schema import CorpusConfig
from train.data.documents import Document, interleave
from train.data.files import UnreadableDocuments, row_document


def read_hub(key: str, corpus: CorpusConfig, unreadable: UnreadableDocuments) -> Iterator[Document]:
    """The documents of corpus `key`, its subsets interleaved, so that `max_bytes` takes the same share of each.

    Errors: `DataError` where the data set is unknown or unreachable, or, under on_error=fail, a row has no text.
    """
    subsets: list[str | None] = [*corpus.subsets] or [None]
    return interleave([(_read_subset(key, corpus, subset, unreadable), 1.0) for subset in subsets])


def _read_subset(
    key: str, corpus: CorpusConfig, subset: str | None, unreadable: UnreadableDocuments
) -> Iterator[Document]:
    place = f"{corpus.name}/{subset}" if subset else corpus.name
    try:
        for number, row in enumerate(_stream(corpus, subset), start=1):
            document = row_document(row, f"{place}:{number}", key, corpus, unreadable)
            if document is not None:
                yield document
    except DataError:
        raise
    except Exception as error:  # datasets, the HTTP client and Arrow each raise types of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"data.corpora.{key}: the data set {place}, split '{corpus.split}', cannot be read: {reason}; check name, "
            "subsets, split, the network, and `hf auth login` where the data set asks for it"
        ) from error


def _stream(corpus: CorpusConfig, subset: str | None) -> Iterator[dict[str, Any]]:
    """Rows of one subset: a `data_dir` where its name has a slash, else a configuration of the data set."""
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
