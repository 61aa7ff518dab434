"""`data=git`: the commits of local git repositories, a document for each file that one changes (diff_document.py).

Read through the git program, two processes a range of commits: one lists them, one gives the files' content. The same
commits give the same documents: what is checked out, git's configuration and its version have no influence.
"""

import glob
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO

from conf.errors import DataError
from conf.schema import CorpusConfig
from train.data.diff_document import diff_document
from train.data.documents import EXTENSIONS, Document, language_of
from train.data.dropped import Dropped
from train.data.formats import Part
from train.data.git_program import git_command, git_environment, git_line
from train.data.storage import FileState

SHARD_COMMITS = 10_000
MOST_BYTES = 4 << 20  # of a file before or after a commit
FIELDS = "%H%x00%P%x00%an <%ae>%x00%B"
REGULAR = ("100644", "100755")  # modes; others are links and submodules
BOT = re.compile(
    r"(?i)\[bot\]|\bbot\b|\b(dependabot|renovate|greenkeeper|github-actions|pre-commit-ci|mergify|jenkins)\b"
)
TRAILER = re.compile(r"(?m)^([A-Z][\w-]*-by|Change-Id|git-svn-id): .*\n?")  # people's names, and other systems' numbers


@dataclass(frozen=True)
class GitShard:
    """Commits of one repository that are prepared together, newest first, counted from the commit `state.changed`."""

    part: Part
    state: FileState
    bytes: int  # about so many of the repository's objects


@dataclass(frozen=True)
class _Change:
    modes: tuple[str, str]
    blobs: tuple[str, str]
    status: str  # A, D, M, R, T
    name: bytes  # before the commit where it had one


@dataclass(frozen=True)
class _Commit:
    name: str
    parents: list[str]
    author: str
    message: str
    changes: list[_Change]


def repository_states(key: str, corpus: CorpusConfig) -> list[FileState]:
    """The repositories of corpus `key`, each with the commit that is checked out, or a bare one's default.

    Errors: `DataError` for a path that is no repository, one without commits, and where git is not installed.
    """
    setting, folders = f"data.corpora.{key}.paths", list[str]()
    for name in corpus.paths:
        path = str(Path(name).expanduser())
        found = [path] if _is_repository(path) else sorted(filter(_is_repository, glob.glob(path, recursive=True)))
        if not found:
            raise DataError(f"{setting}: {name} {'matches' if glob.has_magic(name) else 'is'} no git repository")
        folders += found
    return [
        FileState(folder, 0, git_line(folder, setting, "rev-parse", "--verify", "HEAD^{commit}"))
        for folder in dict.fromkeys(folders)
    ]


def borders_of(folder: str, key: str) -> str:
    """Where a shallow clone's history ends, "" of a whole one: what is fetched later makes other documents."""
    path = Path(folder, git_line(folder, f"data.corpora.{key}.paths", "rev-parse", "--git-path", "shallow"))
    return path.read_text() if path.is_file() else ""


def git_shards(key: str, corpus: CorpusConfig) -> Iterator[GitShard]:
    """The commits in ranges of `SHARD_COMMITS`. Errors: `DataError` as in `repository_states`."""
    for state in repository_states(key, corpus):
        setting = f"data.corpora.{key}.paths"
        commits = int(git_line(state.name, setting, "rev-list", "--count", state.changed))
        counts = dict(line.split(": ") for line in git_line(state.name, setting, "count-objects", "-v").splitlines())
        size = (int(counts["size"]) + int(counts["size-pack"])) << 10
        for start in range(0, commits, SHARD_COMMITS):
            stop = min(start + SHARD_COMMITS, commits)
            yield GitShard(Part(state.name, start, stop), state, max(1, size * (stop - start) // commits))


def read_git(part: Part, head: str, corpus: CorpusConfig, dropped: Dropped) -> Iterator[Document]:
    """The documents of commits [start, stop) before `head`; what is left out is counted.

    Errors: `DataError` where git ends with an error.
    """
    repository = Path(part.name).resolve().name
    cut_off = _cut_off(part.name)
    with _blobs(part.name) as read:
        for commit in _commits(part, head):
            place = f"{repository}@{commit.name[:12]}"
            reason = _reason(commit, corpus, cut_off)
            if reason is not None:
                dropped.add(reason, place, commit.message)
                continue
            for change in commit.changes:
                document = _document(change, commit, place, corpus, read)
                if isinstance(document, Document):
                    yield document
                else:
                    dropped.add(document, f"{place}:{change.name.decode(errors='replace')}")


def _is_repository(folder: str) -> bool:
    path = Path(folder)
    return (path / ".git").exists() or ((path / "HEAD").is_file() and (path / "objects").is_dir())


def _reason(commit: _Commit, corpus: CorpusConfig, cut_off: frozenset[str]) -> str | None:
    """Why a whole commit is left out."""
    if len(commit.parents) > 1:
        return "merge commit"
    if BOT.search(commit.author):
        return "commit of a bot"
    if commit.name in cut_off:
        return "commit whose parent was not fetched"
    if not commit.message:
        return "commit without a message"
    if "\ufffd" in commit.message:
        return "not UTF-8"
    if corpus.max_changed_files is not None and len(commit.changes) > corpus.max_changed_files:
        return "commit of many files"
    return None


def _document(
    change: _Change, commit: _Commit, place: str, corpus: CorpusConfig, read: Callable[[str], bytes | None]
) -> Document | str:
    """The document of one change, or why there is none."""
    if change.status == "D":
        return "deleted file"
    if change.modes[1] not in REGULAR or (change.status != "A" and change.modes[0] not in REGULAR):
        return "link or submodule"
    try:
        name = change.name.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    suffix = PurePosixPath(name).suffix
    known = suffix.lower() in (*EXTENSIONS, *(one.lower() for one in corpus.extensions))
    if "\n" in name or (corpus.code and not known):
        return "unknown file type"
    contents = [None if change.status == "A" and not side else read(change.blobs[side]) for side in (0, 1)]
    before, after = contents
    if after is None or (before is None and change.status != "A"):
        return "file that is large or was not fetched"
    if b"\0" in after or b"\0" in (before or b""):
        return "binary file"
    try:
        old, new = None if before is None else before.decode(), after.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    language = language_of(suffix, new)
    if corpus.languages and language not in corpus.languages:
        return "another language"
    most = corpus.max_document_bytes
    if most is not None and len(before or b"") > most:  # before the time that a diff takes
        return "large document"
    text = diff_document(name, old, commit.message, new)
    if text is None:
        return "no line changed"
    if most is not None and len(text.encode()) > most:
        return "large document"
    return Document(text, f"{place}:{name}", language, repository=place.partition("@")[0])


def _commits(part: Part, head: str) -> Iterator[_Commit]:
    count = -1 if part.stop is None else part.stop - part.start
    command = git_command(
        part.name, "log", f"--skip={part.start}", f"--max-count={count}", "-z", "--raw", "--no-abbrev", "--root",
        "--find-renames", "-l1000", "-O/dev/null", "--no-relative", "--no-show-signature", "--no-notes", "--no-color",
        "--ignore-submodules=none", "--encoding=UTF-8", f"--format={FIELDS}", head, "--",
    )  # fmt: skip
    with (
        tempfile.TemporaryFile() as messages,  # no pipe, which git could fill before it ends
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages, env=git_environment()
        ) as process,
    ):
        assert process.stdout is not None
        try:
            yield from _parsed(_fields(process.stdout))
            if process.wait():
                messages.seek(0)
                problem = messages.read().decode(errors="replace").strip() or f"exit code {process.returncode}"
                raise DataError(f"{part.name}: git cannot read its commits: {problem.splitlines()[-1]}")
        finally:
            process.kill()  # where the reader has enough; one that has ended is not reached


def _parsed(fields: Iterator[bytes]) -> Iterator[_Commit]:
    """The commits that `FIELDS` and raw changes stand for; one that is cut off, as where git fails, is left out."""
    field = next(fields, b"")
    while field:
        try:
            name, parents, author, message = (one.decode(errors="replace") for one in (field, *_take(fields, 3)))
            changes, field = list[_Change](), next(fields, b"")
            while field.lstrip(b"\n").startswith(b":"):
                old_mode, new_mode, old, new, status = field.decode().strip().lstrip(":").split(" ")
                names = _take(fields, 2 if status[0] in "RC" else 1)
                changes.append(_Change((old_mode, new_mode), (old, new), status[0], names[0]))
                field = next(fields, b"")
        except ValueError:
            return
        yield _Commit(name, parents.split(), author, TRAILER.sub("", message).strip(), changes)


def _take(fields: Iterator[bytes], count: int) -> list[bytes]:
    """The next fields. Errors: `ValueError` where there are fewer."""
    taken = list(islice(fields, count))
    if len(taken) < count:
        raise ValueError("cut off")
    return taken


def _fields(stream: IO[bytes]) -> Iterator[bytes]:
    """What stands between zero bytes."""
    rest = b""
    while chunk := stream.read(1 << 16):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole


@contextmanager
def _blobs(folder: str) -> Iterator[Callable[[str], bytes | None]]:
    """A function from a blob's name to its content; None for one above `MOST_BYTES`, and where it was not fetched."""
    with subprocess.Popen(
        git_command(folder, "cat-file", "--batch"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=git_environment(),
    ) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None and answers is not None

        def read(name: str) -> bytes | None:
            requests.write(f"{name}\n".encode())
            requests.flush()
            answer = answers.readline()
            if not answer:
                raise DataError(f"{folder}: git cannot read the file {name}, and ended; see `git fsck`")
            _, kind, *size = answer.split()
            if kind != b"blob":
                return None
            left, content = int(size[0]) + 1, b""  # a line feed ends it
            if left <= MOST_BYTES:
                return answers.read(left)[:-1]
            while left:
                content = answers.read(min(left, MOST_BYTES))
                left -= len(content)
            return None

        yield read
        requests.close()


def _cut_off(folder: str) -> frozenset[str]:
    """The commits where a shallow clone ends: their files only look new."""
    path = Path(folder) / git_line(folder, folder, "rev-parse", "--git-path", "shallow")
    return frozenset(path.read_text().split()) if path.is_file() else frozenset()
