"""Files on this machine or behind any fsspec URL (s3://, gs://, hf://, https://), opened decompressed."""

import bz2
import glob
import gzip
import io
import lzma
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

COMPRESSIONS = (".gz", ".zst", ".xz", ".bz2")
# Keys of fsspec's `info` that change with a file's content: S3, GCS, HTTP; the hub; local and other file systems.
VERSIONS = (
    "ETag",
    "etag",
    "generation",
    "blob_id",
    "last_commit",
    "LastModified",
    "Last-Modified",
    "mtime",
    "last_modified",
    "created",
)


@dataclass(frozen=True)
class FileState:
    """A file as it was found. changed: time of change or version, in whatever form its storage gives; '' for none."""

    name: str
    bytes: int
    changed: str


def is_url(name: str) -> bool:
    """Whether `name` belongs to fsspec rather than to this machine's file system."""
    return "://" in name


def without_compression(name: str) -> tuple[str, str]:
    """(name without the ending of its compression, that ending or '')."""
    for ending in COMPRESSIONS:
        if name.lower().endswith(ending):
            return name[: -len(ending)], ending
    return (name[:-4] + ".tar", ".gz") if name.lower().endswith(".tgz") else (name, "")


def state_of(name: str) -> FileState:
    """Size and time of change of one file. Errors: `OSError` where it is not there."""
    if not is_url(name):
        state = Path(name).stat()
        return FileState(name, state.st_size, str(state.st_mtime_ns))
    system, path = _system(name)
    try:
        info = system.info(path)
    except Exception as error:  # each storage raises types of its own
        raise OSError(f"{type(error).__name__}: {error}") from error
    return FileState(name, int(info.get("size") or 0), str(next((info[key] for key in VERSIONS if info.get(key)), "")))


def find(name: str) -> tuple[str, list[str]]:
    """What `name` stands for, and its files, sorted: ("file", itself), ("folder", all below it), ("glob", its matches).

    ("", []) where there is nothing.
    """
    if not is_url(name):
        path = Path(name).expanduser()
        if path.is_dir():
            return "folder", sorted(str(file) for file in path.rglob("*") if file.is_file())
        if path.exists():
            return "file", [str(path)]
        if glob.has_magic(name):
            matches = glob.glob(str(path), recursive=True)
            return "glob", sorted(match for match in matches if Path(match).is_file())
        return "", []
    system, place = _system(name)
    try:
        if system.isfile(place):
            return "file", [name]
        if glob.has_magic(place):
            return "glob", sorted(system.unstrip_protocol(one) for one in system.glob(place) if system.isfile(one))
        if system.isdir(place):
            return "folder", sorted(system.unstrip_protocol(one) for one in system.find(place))
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    return "", []


@contextmanager
def open_binary(name: str, decompress: bool = True) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed by its ending. Errors: `OSError` where it cannot be opened or read."""
    with ExitStack() as stack:
        if is_url(name):
            system, path = _system(name)
            try:
                remote = stack.enter_context(system.open(path, "rb"))
                # files of fsspec's own know no `readline` of bounded length
                buffered = isinstance(remote, io.BufferedIOBase)
                file = cast(IO[bytes], remote if buffered else io.BufferedReader(remote, 1 << 20))
            except OSError:
                raise
            except Exception as error:
                raise OSError(f"{type(error).__name__}: {error}") from error
        else:
            file = stack.enter_context(Path(name).open("rb"))
        yield stack.enter_context(decompressed(file, name)) if decompress else file


def decompressed(file: IO[bytes], name: str) -> IO[bytes]:
    """`file` decompressed by the ending of `name`; itself where that names no compression."""
    ending = without_compression(name)[1]
    if ending == ".gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if ending == ".xz":
        return cast(IO[bytes], lzma.LZMAFile(file))
    if ending == ".bz2":
        return cast(IO[bytes], bz2.BZ2File(file))
    if ending == ".zst":
        import pyarrow  # its Zstandard spares another package

        stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")
        return cast(IO[bytes], io.BufferedReader(stream, 1 << 20))
    return file


def _system(name: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it. Errors: `OSError` for a protocol that is not installed."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(name)
    except (ImportError, ValueError) as error:
        raise OSError(str(error)) from error
    return system, path
