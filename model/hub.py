"""A folder on this machine for a folder's path or a name on the Hugging Face hub."""

from pathlib import Path

from conf.errors import ConfigError
from conf.sources import is_hub_name


def local_folder(source: str | Path, patterns: list[str], asked: str = "source") -> Path:
    """`source` where it is a folder; the files of the hub's repository `owner/name` that fit `patterns` otherwise.

    Errors: `ConfigError` where it is neither, or the hub cannot be reached and holds no copy here.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ConfigError(f"{asked}={source} is a file; a folder is needed")
    if not is_hub_name(str(source)):
        raise ConfigError(f"{asked}={source} does not exist, and names on the hub are written owner/name")
    from huggingface_hub import snapshot_download  # slow to import, seldom needed
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns))
    except Exception as error:  # the hub's client raises its own, its HTTP library's and the system's
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"{asked}={source} is no folder here and cannot be fetched from the Hugging Face hub: {reason}"
        ) from None
