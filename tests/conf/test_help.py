"""Every command's --help: what it does, its options with defaults and meanings from conf/, and examples that run."""

import importlib
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.command_line import Command
from conf.commands import Evaluate, Export, Import, Sample, Status, read_command
from conf.compose import compose_config
from conf.help import first_comment, help_text, read_options
from launch.evaluate import OF_THE_CLUSTER
from launch.sweep import sweep_points
from train.plan.__main__ import with_best, with_gpus

CONF = Path(__file__).parents[2] / "conf"
COMMANDS = {  # program -> module with its main, its Command
    "launch": ("launch.__main__", "COMMAND"),
    "launch evaluate": ("launch.evaluate", "COMMAND"),
    "launch status": ("launch.status", "COMMAND"),
    "launch cancel": ("launch.control", "CANCEL"),
    "launch logs": ("launch.control", "LOGS"),
    "launch sync": ("launch.control", "SYNC"),
    "train": ("train.__main__", "COMMAND"),
    "train.checkpoint": ("train.checkpoint.__main__", "COMMAND"),
    "train.data": ("train.data.__main__", "COMMAND"),
    "train.plan": ("train.plan.__main__", "COMMAND"),
    "train.sample": ("train.sample.__main__", "COMMAND"),
    "train.evaluate": ("train.evaluate.__main__", "COMMAND"),
    "model.huggingface": ("model.huggingface.__main__", "COMMAND"),
    "model.huggingface import": ("model.huggingface.__main__", "IMPORT"),
    "model.huggingface export": ("model.huggingface.__main__", "EXPORT"),
}
SETTINGS = {"status": Status, "sample": Sample, "evaluate": Evaluate, "import": Import, "export": Export}


def command_of(program: str) -> Command:
    module, name = COMMANDS[program]
    command = getattr(importlib.import_module(module), name)
    assert isinstance(command, Command)
    return command


def main_of(program: str) -> tuple[Callable[[list[str]], int], list[str]]:
    """A command's main, and the subcommand's words that come first."""
    module, *subcommand = program.split()
    return importlib.import_module(f"{module}.__main__").main, subcommand


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("program", [*COMMANDS, "train.compare"])
def test_every_command_answers_help(program: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    main, subcommand = main_of(program)
    try:
        code = main([*subcommand, flag])
    except SystemExit as done:  # argparse
        code = int(done.code or 0)
    out, err = capsys.readouterr()
    assert code == 0 and not err
    assert out.startswith(f"usage: python -m {program} ") and "Examples" in out.replace("examples", "Examples")
    assert ("6 with diff=, no diff was written" in " ".join(out.split())) == (program == "train.sample")
    assert max(map(len, out.splitlines())) <= 100 or program == "train.compare"


def test_every_command_is_listed() -> None:
    root = CONF.parent
    found = {
        ".".join(path.relative_to(root).parts[:-1])
        for package in ("launch", "model", "train")
        for path in (root / package).rglob("__main__.py")
    }
    assert found == {program.split()[0] for program in COMMANDS} | {"train.compare"}


@pytest.mark.parametrize("program", COMMANDS)
def test_settings_come_with_their_defaults_and_conf_s_own_comments(program: str) -> None:
    command = command_of(program)
    text = " ".join(help_text(command).split())
    for flag, meaning in command.flags.items():
        assert f"{flag} {meaning}" in text
    if command.settings:
        options = read_options(CONF / "command" / f"{command.settings}.yaml")
        assert options
        for option in options:
            assert option.comment and f"{option.key}=" in text and option.comment in text
    if command.groups:
        for path in CONF.glob("*/*.yaml"):
            if path.stem != "base" and path.parent.name not in ("command", "sizes"):
                assert f"{path.stem} {first_comment(path)}".strip() in text, path
        for key in ("optimizer.weight_decay=0.1", "layout.zero_stage=", "run.name="):
            assert key in text


@pytest.mark.parametrize(
    ("program", "example"), [(program, example) for program in COMMANDS for example in command_of(program).examples]
)
def test_examples_are_accepted(program: str, example: str) -> None:
    words = shlex.split(example.replace("task=...", "task=humaneval").replace("=...", "=x"))
    start = words.index("--module" if "--module" in words else "-m")
    name, words = words[start + 1], words[start + 2 :]
    if f"{name} {words[:1][0] if words else ''}" in COMMANDS:
        name, words = f"{name} {words[0]}", words[1:]
    command = command_of(name)
    flags, rest = command.split_flags(words)
    if name == "launch evaluate":
        rest = [word for word in rest if word.partition("=")[0] not in OF_THE_CLUSTER]
    if command.settings:
        read_command(SETTINGS[command.settings], [word for word in rest if "=" in word] + positional(rest))
    elif command.groups:
        overrides = with_gpus(with_best([word for word in rest if "=" in word])[1])  # without train.data's action
        for point in sweep_points(overrides) if "-m" in flags else [overrides]:
            compose_config(point)


def positional(words: list[str]) -> list[str]:
    """SOURCE and TARGET of import and export as the settings that they are."""
    return [
        f"{key}={word}" for key, word in zip(("source", "target"), [w for w in words if "=" not in w], strict=False)
    ]
