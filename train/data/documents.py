"""What every source of text yields, and the error every source of text raises."""

from collections.abc import Iterator
from dataclasses import dataclass

# The six languages of the paper's BigQuery corpus, by file extension. `.h` is C or C++: `language_of` looks inside.
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
CPLUSPLUS = ("namespace ", "template <", "template<", "public:", "::")


@dataclass(frozen=True)
class Document:
    """One text and where it comes from."""

    text: str
    source: str  # a path, 'file:line', or 'module.name'
    language: str | None = None  # programming language, where it is code of a known one
    licence: str | None = None  # as its package or data set states it, where known


def language_of(suffix: str, text: str) -> str | None:
    """Programming language of a file with this `suffix` (`.py`), None where it is none of the six."""
    language = EXTENSIONS.get(suffix.lower())
    if language == "C" and suffix == ".h" and any(word in text for word in CPLUSPLUS):
        return "C++"
    return language


def interleave(streams: list[tuple[Iterator[Document], float]]) -> Iterator[Document]:
    """Merge (documents, weight) so that characters so far are proportional to the weights, wherever one stops.

    A stream that ends leaves the others going. The order depends on the documents alone.
    """
    spent = [0.0] * len(streams)
    running = set(range(len(streams)))
    while running:
        stream = min(running, key=lambda index: (spent[index], index))
        documents, weight = streams[stream]
        document = next(documents, None)
        if document is None:
            running.remove(stream)
            continue
        spent[stream] += len(document.text) / weight
        yield document
