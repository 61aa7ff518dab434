"""How every command reads its arguments, answers `--help`, and turns errors into one line and an exit code."""

import errno
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from conf.errors import ConfigError, DataError, HealthError, NodeError, UnreachableError, node_name
from conf.exit_codes import BAD_INPUT, BAD_NODE, INTERRUPTED, UNHEALTHY

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # full, over quota, read-only, broken
SIGINT_CODE, SIGPIPE_CODE = 130, 141  # a shell's exit codes for a command that a signal ended
HELP_FLAGS = ("-h", "--help")
CFG_FLAG = {"--cfg job": "print the composed settings as YAML instead"}


@dataclass(frozen=True)
class Command:
    """A command as its `--help` describes it and as its arguments are read.

    usage: its arguments. flags: `--name`, or `--name VALUE` with the one value it takes -> meaning.
    groups: its arguments compose a run, so the help lists the groups and settings of conf/. settings: name of the YAML
    file in conf/command that has its settings. resumable: the same command continues after an interruption (exit 75).
    """

    program: str
    usage: str
    summary: str
    examples: tuple[str, ...]
    flags: Mapping[str, str] = field(default_factory=dict)
    groups: bool = False
    settings: str | None = None
    resumable: bool = False

    def split_flags(self, argv: list[str]) -> tuple[set[str], list[str]]:
        """(flags in `argv`, by their first word; the other arguments). Errors: `ConfigError` for an unknown flag."""
        given: set[str] = set()
        rest: list[str] = []
        position = 0
        names = {flag.partition(" ")[0]: flag.partition(" ")[2] for flag in self.flags}
        while position < len(argv):
            word, position = argv[position], position + 1
            if not word.startswith("-"):
                rest.append(word)
            elif word not in names:
                known = ", ".join([*self.flags, *HELP_FLAGS])
                raise ConfigError(f"unknown option '{word}'; there are {known}")
            else:
                given.add(word)
                if value := names[word]:
                    if argv[position : position + 1] != [value]:
                        raise ConfigError(f"'{word}' takes one value; write {word} {value}")
                    position += 1
        return given, rest


def run_command(action: Callable[[list[str]], int], argv: list[str], command: Command | None = None) -> int:
    """Run `action(argv)` and return the exit code; print `command`'s help where it is asked for.

    Errors become one line on stderr, written by the main process (rank 0) only, except for what only this process can
    know: that it does not reach the main process, or that its disk failed. Exit codes: 2 for `ConfigError` and
    `DataError`, 3 for `NodeError` and disk errors, 4 for `HealthError`. Any other exception is raised again, after its
    rank was named.
    """
    is_main = os.environ.get("RANK", "0") == "0"
    try:
        if command is not None and any(word in HELP_FLAGS for word in argv):
            from conf.help import help_text

            print(help_text(command), end="")
            code = 0
        else:
            code = action(argv)
        sys.stdout.flush()
        return code
    except (ConfigError, DataError, NodeError, HealthError) as error:
        if is_main or isinstance(error, UnreachableError):
            print_error(str(error))
        if isinstance(error, HealthError):
            return UNHEALTHY
        return BAD_NODE if isinstance(error, NodeError) else BAD_INPUT
    except KeyboardInterrupt:
        resumable = command is not None and command.resumable
        if is_main:
            print("interrupted" + ("; the same command goes on from here" if resumable else ""), file=sys.stderr)
        return INTERRUPTED if resumable else SIGINT_CODE
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return SIGPIPE_CODE
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            print_error(f"{node_name()}: {error}")
            return BAD_NODE
        if "RANK" in os.environ:
            print_error(f"rank {os.environ['RANK']}: {type(error).__name__}: {error}")
        raise


def print_error(message: str) -> None:
    """The one line on stderr that tells a person what failed."""
    print(f"error: {message}", file=sys.stderr, flush=True)


def print_settings(overrides: list[str]) -> int:
    """Print the composed, checked settings of a run as YAML: what `--cfg job` does."""
    from omegaconf import OmegaConf

    from conf.compose import compose_config, compose_settings

    compose_settings(overrides)
    print(OmegaConf.to_yaml(compose_config(overrides)), end="")
    return 0


def _stdout_is_closed() -> bool:
    """Whether the reader of stdout has gone; if so, nothing more is written to it, also not at exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
