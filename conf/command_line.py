"""How every command reads its arguments, answers `--help`, and turns errors into one line and an exit code."""

import errno
import os
import re
import select
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conf.errors import ConfigError, DataError, HealthError, NodeError, UnreachableError, node_name
from conf.exit_codes import BAD_INPUT, BAD_NODE, INTERRUPTED, UNHEALTHY

# What gloo, NCCL and torch's store say where another process has ended: who says so has not failed itself.
LOST = re.compile(r"^Dist\w+Error: |ncclRemoteError|(gloo|tcp).*(closed by peer|reset by peer|Broken pipe|refused)")
LOST_ANOTHER = "lost another rank"  # launch/blame.py passes over such a line
FULL = (errno.ENOSPC, errno.EDQUOT)  # or over quota
DISK_ERRORS = (*FULL, errno.EROFS, errno.EIO)  # or read-only, or broken
SIGINT_CODE, SIGPIPE_CODE = 130, 141  # a shell's exit codes for a command that a signal ended
HELP_FLAGS = ("-h", "--help")
COMPOSE_FLAGS = {  # Hydra's, of the commands whose arguments compose a run
    "--cfg job": "print the composed settings as YAML and stop",
    "--info": "print where the settings come from (Hydra's search path and defaults tree) and stop",
    "--config-dir DIR": "folder with YAML files of your own, in groups as in conf/; may be repeated",
}
SETTINGS_FLAGS = {  # Hydra's, of the commands that have settings of their own
    "--cfg job": "print the settings as YAML and stop",
    "--info": "print the files that the settings come from and stop",
    "--config-dir DIR": "folder with your own defaults, in command/NAME.yaml as in conf/; may be repeated",
    "-m": "run once for each value of the settings written KEY=A,B, one after the other",
}
SEARCH_PATH = "hydra.searchpath"  # what `--config-dir` becomes: the one setting of Hydra's that has a meaning here
MULTIRUN = {"-m", "--multirun"}
PRINTING = {"--cfg", "--info"}  # print and stop
SHORT_FLAGS = {"-c": "--cfg", "-i": "--info", "-cd": "--config-dir"}


@dataclass(frozen=True)
class Command:
    """A command as its `--help` describes it and as its arguments are read.

    usage: its arguments. flags: `--name`, `--name VALUE` with any value, or `--name value` with that one -> meaning.
    action: first argument that is no setting.
    groups: its arguments compose a run, so the help lists the groups and settings of conf/. settings: name of the YAML
    file in conf/command that has its settings. resumable: the same command continues after an interruption (exit 75).
    own_exit_codes: those that no other command has, each with its meaning and a semicolon after it.
    """

    program: str
    usage: str
    summary: str
    examples: tuple[str, ...]
    flags: Mapping[str, str] = field(default_factory=dict)
    groups: bool = False
    settings: str | None = None
    action: str = ""
    resumable: bool = False
    own_exit_codes: str = ""

    @property
    def all_flags(self) -> dict[str, str]:
        """Its own flags, and those of every command that composes a run, or takes settings of its own."""
        return {**self.flags, **(COMPOSE_FLAGS if self.groups else SETTINGS_FLAGS if self.settings else {})}

    def split_flags(self, argv: list[str]) -> tuple[set[str], list[str]]:
        """(flags in `argv`, by their first word; the other arguments). Errors: `ConfigError` for an unknown flag.

        `--config-dir DIR` becomes the argument `hydra.searchpath=[...]`, which a launcher hands to its processes.
        """
        given: set[str] = set()
        rest: list[str] = []
        folders: list[str] = []
        names = {flag.partition(" ")[0]: flag.partition(" ")[2] for flag in self.all_flags}
        words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
        while words:
            word = words.pop(0)
            name = SHORT_FLAGS.get(word, word)
            if not word.startswith("-"):
                rest.append(word)
                continue
            if name not in names:
                known = ", ".join([*self.all_flags, *HELP_FLAGS])
                raise ConfigError(f"unknown option '{word}'; there are {known}")
            given.add(name)
            if value := names[name]:
                following = words.pop(0) if words else None
                if following is None or (value.islower() and following != value):
                    raise ConfigError(f"'{word}' takes one value; write {word} {value}")
                if name == "--config-dir":
                    folders.append(following)
        for folder in folders:
            if not os.path.isdir(folder):
                raise ConfigError(f"--config-dir {folder} is no folder; give one with files such as model/mine.yaml")
        path = ",".join(f"file://{os.path.abspath(folder)}" for folder in folders)
        return given, [*rest, *([f"{SEARCH_PATH}=[{path}]"] if folders else [])]


def own_folders(words: list[str]) -> list[Path]:
    """The user's own folders, which `--config-dir` or `hydra.searchpath` adds."""
    values = [word.partition("=")[2] for word in words if word.startswith(f"{SEARCH_PATH}=")]
    return [Path(path.removeprefix("file://")) for value in values for path in value.strip("[]").split(",")]


def run_command(action: Callable[[list[str]], int], argv: list[str], command: Command | None = None) -> int:
    """Run `action(argv)` and return the exit code; print `command`'s help where it is asked for.

    Errors become one line on stderr, written by the main process (rank 0) only, except for what only this process can
    know: that it does not reach the main process, or that its disk failed. Exit codes: 2 for `ConfigError` and
    `DataError`, 3 for `NodeError` and disk errors, 4 for `HealthError`. Any other exception is raised again, after its
    rank was named; not that of a rank that lost another one, where a note on it says which file has the stack.
    """
    is_main = os.environ.get("RANK", "0") == "0"
    os.environ.pop("WANDB_SERVICE", None)  # W&B's process of who called this: on another host, or over before this ends
    try:
        if command is not None and any(word in HELP_FLAGS for word in argv):
            from conf.help import help_text

            print(help_text(command), end="")
            code = 0
        elif (
            command is not None
            and (command.groups or command.settings)
            and PRINTING & {SHORT_FLAGS.get(word, word) for word in argv}
        ):
            code = print_settings(command, argv)
        elif command is not None and command.settings and MULTIRUN & set(argv):
            code = run_each(action, argv)
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
            print("interrupted" + ("; the same command resumes from here" if resumable else ""), file=sys.stderr)
        return INTERRUPTED if resumable else SIGINT_CODE
    except SystemExit as error:  # rich, whose reader has gone
        if isinstance(error.__context__, BrokenPipeError):
            return SIGPIPE_CODE
        raise
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return SIGPIPE_CODE
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            cure = "; free some space, or choose another place, such as run.root=..." if error.errno in FULL else ""
            print_error(f"{node_name()}: {error}{cure}")
            return BAD_NODE
        if "RANK" in os.environ:
            said, rank = f"{type(error).__name__}: {error}", f"rank {os.environ['RANK']} on {node_name()}"
            lost, notes = LOST.search(said), getattr(error, "__notes__", [])
            lost_one = "; ".join([f"{rank} {LOST_ANOTHER}: {' '.join(said.split())}", *notes])
            print_error(lost_one if lost else f"{rank}: {said}")
            if lost and notes:  # its stack is in a file, and would hide the line of the rank that failed
                return 1
        raise


def run_each(action: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run `action` for each combination of the settings with several values; return the first code that is not 0."""
    from conf.sweep import combinations

    words = [word for word in argv if word not in MULTIRUN]
    settings = [word for word in words if "=" in word and not word.startswith("-")]
    others = [word for word in words if word not in settings]
    points = combinations(settings)
    for number, (point, values) in enumerate(points, start=1):
        print(f"[{number}/{len(points)}] {' '.join(f'{key}={value}' for key, value in values.items())}", flush=True)
        if code := action([*others, *point]):
            return code
    return 0


def print_error(message: str) -> None:
    """The one line on stderr that tells a person what failed."""
    print(f"error: {message}", file=sys.stderr, flush=True)


def print_settings(command: Command, argv: list[str]) -> int:
    """Print the settings, of a run composed and checked, as YAML, `--cfg job`, or where they come from, `--info`."""
    from omegaconf import OmegaConf

    from conf.check import check
    from conf.compose import compose_config, print_info, typed

    flags, overrides = command.split_flags(argv)
    if command.settings is not None:
        from conf.commands import print_command

        print_command(command.settings, overrides, flags)
        return 0
    if overrides[:1] == [command.action]:
        overrides = overrides[1:]
    config = compose_config(overrides)
    check(typed(config))
    if "--info" in flags:
        print_info(overrides)
    if "--cfg" in flags:
        print(OmegaConf.to_yaml(config), end="")
    return 0


def _stdout_is_closed() -> bool:
    """Whether the reader of stdout has gone; if so, nothing more is written to it, also not at exit."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are told unasked
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed
