"""`python -m train.sample diff=FILE message=...`: the change of a file that a model trained on commits proposes.

The prompt is that of training (train/data/diff_document.py). What the model writes is taken as far as it is a diff; git
applies it by its context: a model counts the lines of a hunk badly, and `--recount` counts them again.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import takewhile
from pathlib import Path

from conf.commands import Sample
from conf.errors import ConfigError, DataError, reason
from conf.exit_codes import NOT_APPLIED
from train.data.diff_document import diff_prompt
from train.data.git_program import git_environment, git_line

DIFF_LINE = "@ +-\\"  # what a line of a hunk, or its header, begins with


def sample_diff(command: Sample, is_main: bool) -> int:
    """Print the diff of `command.diff` that `command.message` asks for; with `command.apply` change the file.

    Returns the exit code, `NOT_APPLIED` also where the model wrote no diff.
    Errors: `ConfigError` for a file that is no text, or too long for the model's context.
    """
    path = Path(command.diff or "")
    if command.apply and shutil.which("git") is None:
        raise ConfigError("apply=true needs git, which is not on this machine; install it, or leave apply out")
    before, name = read_before(path), name_in_repository(path)
    from train.sample.generator import open_generator  # it loads torch

    generator = open_generator(command.run, command.precision, tensor_parallel=command.tensor_parallel_size)
    prompt = diff_prompt(name, before, command.message or "")
    needed = 1 + len(generator.tokenizer.encode(prompt)) + command.max_new_tokens  # the first is eos
    if needed > generator.model.context_length:
        raise ConfigError(
            f"{path}, the message and max_new_tokens={command.max_new_tokens} come to {needed:,} tokens, more than the "
            f"context of {generator.model.context_length:,}; take a smaller file, or fewer new tokens"
        )
    completion = generator.generate([prompt], command, [command.seed], tuple(command.stop), whole=True)[0]
    if not is_main:
        return 0
    hunks = hunks_of(completion)
    if hunks:
        old, new = ("/dev/null" if before is None else _quoted(f"a/{name}"), _quoted(f"b/{name}"))
        print(f"--- {old}\n+++ {new}\n{hunks}", end="")
    else:
        print("the model wrote no diff", file=sys.stderr)
    if not completion.endswith("\n"):
        print(
            f"what it wrote ends in the middle of a line, at max_new_tokens={command.max_new_tokens}", file=sys.stderr
        )
    if not hunks:
        return NOT_APPLIED
    if not command.apply:
        return 0
    after, problem = apply_hunks(before, hunks)
    if after is None:
        print(f"not applied to {path}: {problem}", file=sys.stderr)
        return NOT_APPLIED
    path.write_bytes(after)
    print(f"applied to {path}", file=sys.stderr)
    return 0


def read_before(path: Path) -> str | None:
    """The file's text with its line ends as they are; None where there is no file, which the diff then makes.

    Errors: `ConfigError`.
    """
    if not path.exists():
        if not path.parent.is_dir():
            raise ConfigError(f"diff={path} cannot be made: {path.parent} is no folder")
        return None
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"diff={path} cannot be read ({reason(error)}); name a text file in UTF-8") from None


def name_in_repository(path: Path) -> str:
    """The file's path in its repository, as training had it; outside of any its name."""
    try:
        return git_line(str(path.parent), "diff", "rev-parse", "--show-prefix") + path.name
    except DataError:
        return path.name


def hunks_of(completion: str) -> str:
    """The hunks that a completion begins with, up to the first line that belongs to none; "" where it begins otherwise.

    The last line counts only where it is ended. Empty lines within are context, as git takes them.
    """
    if not completion.lstrip(" ").startswith("@@"):
        return ""
    whole = completion.lstrip(" ").split("\n")[:-1]
    lines = list(takewhile(lambda line: not line or line[0] in DIFF_LINE, whole))
    while lines and not lines[-1]:
        lines.pop()
    return "".join(f"{line}\n" for line in lines)


def apply_hunks(before: str | None, hunks: str) -> tuple[bytes | None, str]:
    """(the text after the diff, "") by `git apply`; (None, git's reason) where it does not apply.

    In a folder of its own: neither the file's name, nor the repository around it and its settings have an influence.
    """
    new = "diff --git a/file b/file\nnew file mode 100644\n--- /dev/null\n" if before is None else "--- a/file\n"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        if before is not None:
            file.write_bytes(before.encode())
        ceiling = {"GIT_CEILING_DIRECTORIES": os.path.realpath(Path(folder).parent)}
        done = subprocess.run(
            ["git", "-c", "core.autocrlf=false", "apply", "--recount", "--whitespace=nowarn", "-"],
            input=f"{new}+++ b/file\n{hunks}".encode(),
            cwd=folder,
            env=git_environment() | ceiling,
            capture_output=True,
        )
        if done.returncode == 0 and hunks and file.is_file():
            return file.read_bytes(), ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return None, (lines or ["there is nothing to apply"])[0].removeprefix("error: ")


def _quoted(name: str) -> str:
    """A name as patches have it: between quotes where it holds control characters, quotes or backslashes."""
    written = json.dumps(name, ensure_ascii=False)
    return name if written == f'"{name}"' else written
