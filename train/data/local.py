"""`data=local`: corpora from the files of the installed Python packages. Nothing is downloaded.

nl is English prose (documentation and docstrings), multi is mostly C and C++ with some Python and JavaScript, mono is
Python. Files are read in the order of the SHA-256 of their path, so that `max_bytes` takes a reproducible sample spread
over all packages.
"""

import ast
import hashlib
import importlib.metadata
import inspect
import platform
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from conf.errors import DataError
from train.data.documents import EXTENSIONS, Document, interleave, language_of

LARGEST_FILE_BYTES = 100_000  # larger source files are mostly generated
EXCLUDED_FOLDERS = {"test", "tests", "idle_test", "testing", "__pycache__", "site-packages", "dist-packages"}
MIN_PROSE_CHARACTERS = 200
NOT_LETTERS = re.compile("[^A-Za-z ]")
EXAMPLE = re.compile(r">>>|::\n")  # start of a code example in a docstring
# Shares of multi's bytes. BigQuery holds Python too, but most of multi must not be in mono's language.
MULTI_WEIGHTS = {"C": 3.0, "C++": 3.0, "Python": 1.0, "JavaScript": 1.0, "Go": 1.0, "Java": 1.0}


@dataclass(frozen=True)
class SourceFile:
    """A candidate file for a corpus."""

    name: str  # relative path, the same on every machine
    path: Path
    licence: str | None

    @property
    def package(self) -> str:
        """The top folder of its name."""
        top = self.name.partition("/")[0]
        return "python" if top == "include" else top


def read_local(name: str) -> Iterator[Document]:
    """The documents of corpus `name` (nl, multi or mono), in an order that depends on the installed packages alone.

    Errors: `DataError` for another name.
    """
    corpora: dict[str, Callable[[], Iterator[Document]]] = {"nl": _nl, "multi": _multi, "mono": _mono}
    if name not in corpora:
        raise DataError(f"this machine has no corpus '{name}'; name one of {', '.join(corpora)}, or use data=files")
    return corpora[name]()


def installed_packages() -> list[str]:
    """What the read_local depends on, one line each: the interpreter, and each installed package with its version."""
    return [f"python=={platform.python_version()}"] + [
        f"{distribution.name}=={distribution.version}" for distribution in _distributions()
    ]


def _nl() -> Iterator[Document]:
    return interleave([(_topics(), 1.0), (_descriptions(), 1.0), (_docstrings(), 2.0)])


def _multi() -> Iterator[Document]:
    streams = [(_code(_of_language(language)), weight) for language, weight in MULTI_WEIGHTS.items()]
    return interleave(streams)


def _mono() -> Iterator[Document]:
    return _code(_of_language("Python"))


def _topics() -> Iterator[Document]:
    """Topics of Python's language reference, as shown by `help()`."""
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield Document(text.strip() + "\n", f"pydoc_data.topics.{name}", licence="PSF-2.0", repository="python")


def _descriptions() -> Iterator[Document]:
    """The README in each installed package's metadata."""
    for distribution in _distributions():
        text = _field(distribution, "Description")
        if len(text) >= MIN_PROSE_CHARACTERS:
            yield Document(text, f"{distribution.name}/METADATA", None, _licence(distribution), distribution.name)


def _docstrings() -> Iterator[Document]:
    """Docstrings that are prose (long enough, mostly letters), up to their first code example."""
    for found in _of_language("Python"):
        module = found.name.removesuffix(".py").replace("/", ".")
        for name, docstring in _docstrings_of(_read(found) or ""):
            prose = EXAMPLE.split(docstring, maxsplit=1)[0].rstrip()
            if _is_prose(prose):
                place = f"{module}.{name}" if name else module
                yield Document(prose + "\n", place, None, found.licence, found.package)


def _docstrings_of(text: str) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of the module and of each class and function in it, breadth first."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in third-party code
            module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    queue: list[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]] = [("", module)]
    while queue:
        prefix, node = queue.pop(0)
        docstring = ast.get_docstring(node, clean=False)
        if docstring:
            yield prefix, inspect.cleandoc(docstring)
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                queue.append((f"{prefix}.{child.name}".lstrip("."), child))


def _is_prose(text: str) -> bool:
    if len(text) < MIN_PROSE_CHARACTERS or not text.isascii():
        return False
    return len(text) - len(NOT_LETTERS.sub("", text)) < 0.15 * len(text)


def _code(files: Iterator[SourceFile]) -> Iterator[Document]:
    for found in files:
        text = _read(found)
        if text is not None:
            yield Document(text, found.name, language_of(found.path.suffix, text), found.licence, found.package)


def _of_language(language: str) -> Iterator[SourceFile]:
    """Files of one language, by extension; `.h` by content."""
    for found in _files():
        is_header = found.path.suffix == ".h" and language in ("C", "C++")
        if language == (language_of(".h", _read(found) or "") if is_header else EXTENSIONS[found.path.suffix]):
            yield found


def _read(found: SourceFile) -> str | None:
    """The file's text with its line ends unchanged; None if empty, not UTF-8 or above `LARGEST_FILE_BYTES`."""
    try:
        content = found.path.read_bytes()
        return content.decode() if 0 < len(content) <= LARGEST_FILE_BYTES else None
    except (OSError, UnicodeDecodeError):
        return None


@cache
def _files() -> list[SourceFile]:
    """Source files of the interpreter and the installed packages without their tests, ordered by hash of the path."""
    standard = Path(sysconfig.get_path("stdlib"))
    include = Path(sysconfig.get_path("include"))
    found: dict[str, tuple[Path, str | None]] = {
        f"python/{path.relative_to(standard)}": (path, "PSF-2.0") for path in standard.rglob("*")
    }
    found |= {f"include/{path.relative_to(include)}": (path, "PSF-2.0") for path in include.rglob("*.h")}
    for distribution in _distributions():
        licence = _licence(distribution)
        for file in distribution.files or []:
            found[file.as_posix()] = (Path(str(file.locate())), licence)
    kept = [
        SourceFile(name, path, licence)
        for name, (path, licence) in found.items()
        if path.suffix in EXTENSIONS and not EXCLUDED_FOLDERS & set(name.split("/")) and ".." not in name
    ]
    return sorted(kept, key=lambda one: hashlib.sha256(one.name.encode()).digest())


@cache
def _distributions() -> list[importlib.metadata.Distribution]:
    """Installed packages sorted by name; of duplicates the first on the import path."""
    by_name: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions():
        if distribution.name:
            by_name.setdefault(distribution.name.lower(), distribution)
    return [by_name[name] for name in sorted(by_name)]


def _licence(distribution: importlib.metadata.Distribution) -> str | None:
    """The package's licence: its SPDX expression, else a classifier, else the first line of the licence field."""
    expression = _field(distribution, "License-Expression")
    if expression:
        return expression
    for classifier in distribution.metadata.get_all("Classifier") or []:
        if classifier.startswith("License :: "):
            return str(classifier.rpartition(" :: ")[2])
    lines = _field(distribution, "License").strip().splitlines()
    return lines[0] if lines else None


def _field(distribution: importlib.metadata.Distribution, name: str) -> str:
    metadata = distribution.metadata
    return str(metadata[name]) if name in metadata else ""
