"""`python -m conf.reference` writes conf/README.md: every setting, its default and meaning, from conf's comments."""

import sys

import yaml  # type: ignore[import-untyped]

from conf.explain import choices_of
from conf.help import FOLDER, PREFIXES, REPEATED, Option, first_comment, read_options
from conf.resume import RULES, Rule

README = FOLDER / "README.md"
MARK = "<!-- From here on `python -m conf.reference` writes this file from the comments in the YAML files. -->\n"
RESUMING = """\
## What may change when a run is resumed

The same command resumes a run. With other settings, this decides; the longest beginning of a setting's name counts.

| settings | may change | why |
|---|---|---|
{rows}

- A stage that has not begun may change, go or be added behind the others at any time.
- The stage that `run.extend=true` concerns is the one under way, or the last one that was finished. It resumes after
  its newest checkpoint with the optimizer's moments; `extensions.json` in its folder, and its lineage, record what
  changed and from which step and sample on.
- A `wsd` stage may get another length without `run.extend` as long as it is stable. One that has annealed goes back to
  the checkpoint from which it began to, and is then the same run as if it had been longer from the start.
- A finished stage whose weights the next one began from stays as it is.
"""


def reference() -> str:
    """The text of conf/README.md: what is written by hand up to the mark, then what is generated."""
    rows = []
    for key, (rule, why) in RULES.items():
        when = "with `run.extend=true`" if rule is Rule.extend else rule.value
        rows.append(f"| `{key}` | {when} | {why} |")
    config = yaml.safe_load((FOLDER / "config.yaml").read_text(encoding="utf-8"))
    defaults = {
        group: choice for entry in config["defaults"] if isinstance(entry, dict) for group, choice in entry.items()
    }
    parts = [MARK, RESUMING.format(rows="\n".join(rows)), "## Run\n", _table(read_options(FOLDER / "config.yaml"))]
    for group in [*sorted(defaults.keys() - set(REPEATED)), "corpus", *REPEATED]:
        parts += _group(group, defaults.get(group))
    parts.append(
        "## Commands\n\nSettings of the commands that do not compose a run; `--help` of each shows them too.\n"
    )
    for path in sorted((FOLDER / "command").rglob("*.yaml")):
        parts += [f"### {path.relative_to(FOLDER / 'command').with_suffix('')}\n", _table(read_options(path))]
    by_hand = README.read_text(encoding="utf-8").partition(MARK)[0]
    return by_hand + "\n".join(parts).rstrip() + "\n"


def _group(group: str, default: object) -> list[str]:
    """A group: its choices and, where its files have settings of their own, these with the default choice's values."""
    name = "corpus@data.corpora.NAME" if group == "corpus" else group
    paths = [FOLDER / group / f"{choice}.yaml" for choice in choices_of(group, [FOLDER])]
    lines = [f"- `{name}={path.stem}`: {first_comment(path)}" for path in paths]
    parts = [f"## {group}\n", "\n".join(lines) + "\n"]
    if group not in REPEATED:
        first = default[0] if isinstance(default, list) else default or "base"
        prefix = PREFIXES.get(group, f"{group}.")
        parts.append(_table(read_options(FOLDER / group / f"{first}.yaml", prefix)))
    return parts


def _table(options: list[Option]) -> str:
    rows = []
    for option in options:
        default = "required" if option.default == "???" else option.default
        rows.append(f"| `{option.key}` | `{default}` | {option.comment} |")
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows]) + "\n"


def main(argv: list[str]) -> int:
    """Write conf/README.md, or with --check only say whether it is current; return the exit code."""
    text = reference()
    if "--check" not in argv:
        README.write_text(text, encoding="utf-8")
    elif README.read_text(encoding="utf-8") != text:
        print("conf/README.md is older than the comments in conf/; run `python -m conf.reference`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
