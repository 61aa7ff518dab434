"""The `Document` that every data source yields, its programming language, and interleaving of sources."""

from collections.abc import Iterator
from dataclasses import dataclass

from train.data.conversations import Conversation

# The six languages of the paper's BigQuery corpus. `.h` is C or C++: `language_of` decides by the content.
EXTENSIONS = {
    ".c": "C",
    ".h": "C",
    ".cc": "C++",
    ".cpp": "C++",
    ".cxx": "C++",
    ".hh": "C++",
    ".hpp": "C++",
    ".hxx": "C++",
    ".cu": "C++",
    ".cuh": "C++",
    ".go": "Go",
    ".java": "Java",
    ".js": "JavaScript",
    ".mjs": "JavaScript",
    ".py": "Python",
}
CPP_MARKERS = ("namespace ", "template <", "template<", "public:", "::")


@dataclass(frozen=True)
class Document:
    """One text with its source."""

    text: str
    source: str  # a path, 'file:line', or 'module.name'
    language: str | None = None  # one of the six programming languages, None for other text
    licence: str | None = None  # as stated by its package or data set, None where unknown
    repository: str | None = None  # likewise; of an installed package its name
    conversation: Conversation | None = None  # of which `text` is what everyone says


def language_of(suffix: str, text: str) -> str | None:
    """Programming language of a file from its `suffix` (`.py`) and, for `.h`, its content; None if none of the six."""
    language = EXTENSIONS.get(suffix.lower())
    if language == "C" and suffix == ".h" and any(marker in text for marker in CPP_MARKERS):
        return "C++"
    return language


def interleave(streams: list[tuple[Iterator[Document], float]]) -> Iterator[Document]:
    """Merge (documents, weight) streams so that the characters read from each stay proportional to its weight.

    An exhausted stream is dropped and the others continue. Deterministic: the order depends on the documents alone.
    """
    weighted_characters = [0.0] * len(streams)
    active = set(range(len(streams)))
    while active:
        stream = min(active, key=lambda index: (weighted_characters[index], index))
        documents, weight = streams[stream]
        document = next(documents, None)
        if document is None:
            active.remove(stream)
            continue
        weighted_characters[stream] += len(document.text) / weight
        yield document
