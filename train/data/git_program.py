"""The git program, as it reads repositories: without a shell, and without what the surroundings set."""

import os
import subprocess

from conf.errors import DataError

PLACES = {  # set in git's hooks; they would name another repository than the one that is read
    f"GIT_{name}"
    for name in ("DIR", "WORK_TREE", "INDEX_FILE", "OBJECT_DIRECTORY", "ALTERNATE_OBJECT_DIRECTORIES", "COMMON_DIR")
}


def git_environment() -> dict[str, str]:
    """This process' environment for git: nothing is fetched, nobody is asked, messages are English."""
    kept = {name: value for name, value in os.environ.items() if name not in PLACES}
    return {**kept, "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}


def git_command(folder: str, *words: str) -> list[str]:
    """The command that runs git in `folder`."""
    return ["git", "--no-replace-objects", "--no-pager", "-c", "core.quotePath=false", "-C", folder, *words]


def git_line(folder: str, setting: str, *words: str) -> str:
    """What git prints. Errors: `DataError` that begins with `setting`, with git's own reason."""
    try:
        done = subprocess.run(git_command(folder, *words), capture_output=True, text=True, env=git_environment())
    except OSError as error:
        raise DataError(f"{setting}: the git program cannot be started: {error.strerror}; install git") from None
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()
        reason = said[0].removeprefix("fatal: ")
        cure = [f"; if you trust it, run {line.strip()}" for line in said if "--add safe.directory" in line]
        problem = "has no commit" if "Needed a single revision" in reason else f"cannot be read by git: {reason}"
        problem += "".join(cure[:1])  # of a repository that belongs to another user
        raise DataError(f"{setting}: {folder} {problem}")
    return done.stdout.strip()
