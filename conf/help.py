"""The text of `--help`: options, defaults and meanings are read from the YAML files in conf/ and their comments."""

import re
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from conf.command_line import HELP_FLAGS, Command

FOLDER = Path(__file__).parent
MAX_WIDTH = 100  # columns
COLUMN = 44  # where the meanings begin
PREFIXES = {"stage": "stages.nl.", "corpus": "data.corpora.NAME."}  # of settings that are not below their group's name
REPEATED = ("recipe", "experiment")  # groups whose files only set values of other groups' settings
EXIT_CODES = "Exit codes: 0 done; 2 wrong input; 3 unfit machine; {}75 interrupted, the same command resumes."


@dataclass(frozen=True)
class Option:
    """A setting of a YAML file. default: as written in the file; "???": it must be given."""

    key: str
    default: str
    comment: str


def help_text(command: Command) -> str:
    """The help of `command`, at most 100 columns wide."""
    width = min(MAX_WIDTH, shutil.get_terminal_size((MAX_WIDTH, 24)).columns)
    lines = [f"usage: {command.program} {command.usage}", "", *_wrap(command.summary, width)]
    lines += ["", "Examples:", *(f"  {example}" for example in command.examples)]
    flags = {**command.all_flags, ", ".join(HELP_FLAGS): "print this help"}
    lines += ["", "Options:", *(line for flag, meaning in flags.items() for line in _entry(flag, meaning, width))]
    if command.settings:
        options = read_options(FOLDER / "command" / f"{command.settings}.yaml")
        lines += ["", "Settings (KEY=VALUE):", *_options(options, width)]
        for path in sorted((FOLDER / "command" / command.settings).glob("*.yaml")):  # defaults of each task
            lines += [
                "",
                *_wrap(f"task={path.stem}: {first_comment(path)}", width),
                *_options(read_options(path), width),
            ]
    if command.groups:
        lines += _groups(width)
    return "\n".join([*lines, "", *_wrap(EXIT_CODES.format(command.own_exit_codes), width), ""])


def short_help(command: Command) -> str:
    """Usage and examples: what a command shows that is called without arguments and cannot run without them."""
    examples = "\n".join(f"  {example}" for example in command.examples)
    return (
        f"usage: {command.program} {command.usage}\n\nExamples:\n{examples}\n\n`{command.program} --help` explains.\n"
    )


def read_options(path: Path, prefix: str = "") -> list[Option]:
    """The settings of a YAML file and of the files of its folder that it builds on, with their comments.

    A value or comment in the file itself takes the place of the one in the file that it builds on.
    """
    text = path.read_text(encoding="utf-8")
    found: dict[str, Option] = {}
    for name in re.findall(r"^  - (\w+)$", text, re.MULTILINE):
        if (path.parent / f"{name}.yaml").is_file():
            found |= {option.key: option for option in read_options(path.parent / f"{name}.yaml", prefix)}
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for option in _walk(root, text.splitlines(), prefix) if root is not None else ():
        comment = option.comment or (found[option.key].comment if option.key in found else "")
        found[option.key] = Option(option.key, option.default, comment)
    return list(found.values())


def first_comment(path: Path) -> str:
    """The comment at the head of a YAML file in one line, without Hydra's `@package`."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def _walk(node: Any, lines: list[str], prefix: str, inherited: str = "") -> Iterator[Option]:
    """Every leaf below a mapping node. inherited: comment of the mapping, for leaves without their own."""
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if key.value in ("defaults", "<<"):
            continue
        if isinstance(value, yaml.MappingNode) and value.value:
            above = lines[key.end_mark.line][key.end_mark.column :].partition("#")[2].strip()
            yield from _walk(value, lines, f"{name}.", above)
            continue
        start, end = value.start_mark, value.end_mark
        default = lines[start.line][start.column : end.column] if start.line == end.line else "..."
        rest = lines[end.line][end.column :] if end.line < len(lines) else ""
        yield Option(name, default, rest.partition("#")[2].strip() or inherited)


def _groups(width: int) -> list[str]:
    """The groups with their choices, and below each its settings."""
    config = yaml.safe_load((FOLDER / "config.yaml").read_text(encoding="utf-8"))
    defaults = {
        group: choice for entry in config["defaults"] if isinstance(entry, dict) for group, choice in entry.items()
    }
    lines = ["", "Settings of the run (KEY=VALUE):", *_options(read_options(FOLDER / "config.yaml"), width)]
    for group in [*sorted(defaults.keys() - REPEATED), "corpus", *REPEATED]:
        default = defaults.get(group)
        name = "corpus@data.corpora.NAME" if group == "corpus" else group
        chosen = (
            ",".join(default) if isinstance(default, list) else str(default or "").replace("${model}", "the model's")
        )
        heading = f"Group {name}=CHOICE" + (f" (default: {chosen})" if chosen else "")
        paths = [path for path in sorted((FOLDER / group).glob("*.yaml")) if path.stem != "base"]
        lines += ["", f"{heading}:"]
        lines += [line for path in paths for line in _entry(path.stem, first_comment(path), width, 18)]
        if group not in REPEATED:
            first = default[0] if isinstance(default, list) else default or "base"
            lines += _options(read_options(FOLDER / group / f"{first}.yaml", PREFIXES.get(group, f"{group}.")), width)
    return lines


def _options(options: list[Option], width: int) -> list[str]:
    lines = []
    for option in options:
        required = option.default == "???"
        left = f"{option.key}=" + ("..." if required else option.default)
        lines += _entry(left, option.comment + (" (required)" if required else ""), width)
    return lines


def _entry(left: str, meaning: str, width: int, column: int = COLUMN) -> list[str]:
    """`left`, and from `column` on its meaning; on lines of its own where `left` is too long."""
    wrapped = _wrap(meaning, max(width - column, 20)) or [""]
    begin = f"  {left}"
    if len(begin) >= column:
        return [begin, *(f"{'':{column}}{line}".rstrip() for line in wrapped if line)]
    return [f"{begin:{column}}{wrapped[0]}".rstrip(), *(f"{'':{column}}{line}" for line in wrapped[1:])]


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
