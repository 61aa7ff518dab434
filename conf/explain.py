"""What Hydra and OmegaConf say about settings that do not compose, in one line: file, key, what to write instead."""

import math
import re
from contextlib import suppress
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from hydra import compose
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.meant import keys, unknown
from conf.run_folder import name_problem

FOLDER = Path(__file__).parent
SIZED = ("recipe", "layout/sizes")  # groups with a file a model


def choices_of(group: str, folders: list[Path]) -> list[str]:
    """The files of a group that can be chosen, in any of `folders`; `base`, what the others share, is none."""
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")} - {"base"})


def explain(error: Exception, overrides: list[str], folders: list[Path]) -> str:
    """One line for an `error` of Hydra, OmegaConf or YAML in settings composed from `overrides`."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}:{mark.line + 1}: {error.problem}; this is no YAML"
    if isinstance(error, OverrideParseException):
        return _unread(error.override, str(error))
    text = str(error)
    if again := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"'+{again[1]}': this setting is there already; write {again[1]}=... without the +"
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if f"'{key}'" in text and ("Could not override" in text or "Could not delete" in text):
            return unknown(key, overrides)
    if isinstance(error, RecursionError):
        return f"{experiment_file(overrides, folders)}the defaults of a file lead back to the file itself"
    named = re.search(r"In '([^']+)': ", text) or re.search(r"Invalid defaults list in '([^']+)'", text)
    place = _file(named, folders)
    if no_group := re.search(r"Could not override '([^']+)'. No match in the defaults list", text):
        return place + unknown(no_group[1], overrides)
    if absent := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, _, choice = absent[1].rpartition("/")
        if group in SIZED and _where(f"model/{choice.partition('_')[0]}", folders).is_file():
            return f"{_where('model/' + choice.partition('_')[0], folders)}: n_layer and n_embd need values"
        place = place or experiment_file(overrides, folders)
        choices = ", ".join(choices_of(group, folders)) or "none"
        return f"{place}{group or 'file'}={choice} does not exist; there are {choices}"
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    found = re.search(r"full_key: (\S+)", f"{text}\n{cause}")
    line = re.sub(r"^In '[^']+': \w+ raised while composing config:\n", "", str(cause).strip()).splitlines()[0]
    if found and found[1] == "experiment":
        return f"{place}its first line must be '# @package _global_'; without it, its keys are no settings of a run"
    if found and re.search(r"Key '.*' (is )?not in ", line):
        return place + unknown(found[1], overrides)
    if empty := re.search(r"field '([^']+)' is not Optional", line):
        key = found[1] if found else empty[1]
        ratio = key.removesuffix("_steps") + "_ratio"
        instead = f", or set {ratio}, which replaces it" if key.endswith(("warmup_steps", "anneal_steps")) else ""
        return f"{place}{key}=null: this setting cannot be empty; leave it out or give it a value{instead}"
    if index := re.fullmatch(r"(?:invalid literal for int\(\) with base 10: |Index )'([^']+)'.*", line):
        return _into_a_list(index[1], overrides) or line
    if line == "list indices must be integers or slices, not str":  # what `~` says of any index
        removed = next((word.rpartition(".")[0] for word in overrides if re.fullmatch(r"~.*\.\d+", word)), "")
        return f"{removed}: of a list no element can be removed; write {removed.lstrip('~')}=[...]"
    if "does not support deletion" in line and found:
        return f"~{found[1]}: this setting cannot be removed; give it another value, null where it may be empty"
    if found and re.search(r"is not a ListConfig|Cannot merge .* with ListConfig", line):
        return place + _no_list(found[1], overrides)
    if unread := re.search(r"at input '(.+)'$", line):
        place = place or mention(unread[1], folders)
    return place + (f"{found[1]}: {line}" if found and found[1] not in line else line)


def _unread(word: str, said: str) -> str:
    """One line for a `word` of the command line that Hydra's grammar cannot read. said: its message.

    That names a character by a caret below the word, which follows the name of its exception.
    """
    key, _, value = word.partition("=")
    if key in ("run.name", "run.group") and (problem := name_problem(key, value)):
        return problem
    for opening, closing in ("[]", "{}"):
        if value.count(opening) > value.count(closing):
            return f"'{word}': the bracket {opening} is not closed by a {closing}"
    caret = re.search(r"^(\w+: ).*\n( *)\^", said)
    at = len(caret[2]) - len(caret[1]) if caret else len(word)
    where = f" at its character {word[at]}" if at < len(word) else ""
    return (
        f"'{word}' cannot be read{where}; a value with brackets, commas, quotes, < or | in it needs quotes "
        """around it that the shell leaves, and so does each value of a list: 'KEY=["<a>","<b>"]'"""
    )


def _no_list(key: str, overrides: list[str]) -> str:
    """One line for a `key` whose value is a list, and was given something else."""
    for word in overrides:
        name, _, value = word.partition("=")
        if name.lstrip("+") == key and value[:1] not in ("[", "{"):
            return f"{key}={value} is no list; write {key}=[{value}]"
    return f"{key} is a list; write it between brackets: [a,b]"


def _into_a_list(index: str, overrides: list[str]) -> str | None:
    """One line for the override whose key has `index` below a list; None where there is none such."""
    for word in overrides:
        keys = word.lstrip("+~").partition("=")[0].split(".")
        with suppress(ValueError, HydraException, OmegaConfBaseException):
            above = ".".join(keys[: keys.index(index, 1)])
            others = [other for other in overrides if other is not word]
            if OmegaConf.is_list(OmegaConf.select(compose("config", others), above)):
                return f"{above} is a list; write {above}=[...] instead of {'.'.join(keys)}"
    return None


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().splitlines()[0]


def _file(found: re.Match[str] | None, folders: list[Path]) -> str:
    """The path, with a colon, of the file that Hydra names by its place in the search path; nothing without one."""
    return f"{_where(found[1], folders)}: " if found and found[1] != "config" else ""


def experiment_file(overrides: list[str], folders: list[Path]) -> str:
    """The file of the experiment that was asked for, with a colon; nothing without one."""
    names = [word.partition("=")[2] for word in overrides if word.startswith("experiment=")]
    return "".join(f"{_where('experiment/' + name, folders)}: " for name in names)


def unresolved(config: DictConfig, error: Exception, overrides: list[str], folders: list[Path]) -> str:
    """One line for an `error` of an interpolation such as `${model.name}`: where it stands, and what is wrong."""
    for key in keys(config):
        try:
            OmegaConf.select(config, key)
        except OmegaConfBaseException:
            raw = OmegaConf.to_container(OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config)
            text = str(raw[key.rpartition(".")[2]]) if isinstance(raw, dict) else ""
            place = (
                "" if any(text in word for word in overrides) else mention(f"{key.rpartition('.')[2]}: {text}", folders)
            )
            return f"{place}{key}={text}: {first_line(error)}"
    return first_line(error)


def mention(text: str, folders: list[Path]) -> str:
    """The file and line in which `text` stands, with a colon; nothing where no file has it."""
    for path in (path for folder in reversed(folders) for path in sorted(folder.rglob("*.yaml"))):
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if text in line:
                return f"{path}:{number}: "
    return ""


def chosen_file(key: str, overrides: list[str], folders: list[Path]) -> str:
    """The user's own file, with a colon, that was chosen for the group of `key`; nothing where it is none of theirs."""
    group = key.partition(".")[0]
    for word in overrides:
        path = _where(f"{group}/{word.partition('=')[2]}", folders)
        if word.startswith(f"{group}=") and path.is_file() and FOLDER not in path.parents:
            return f"{path}: "
    return ""


def _where(name: str, folders: list[Path]) -> Path:
    """The file of a choice, such as `model/tiny`; a folder of the user's own comes before conf/."""
    paths = [folder / f"{name}.yaml" for folder in reversed(folders)]
    return next((path for path in paths if path.is_file()), paths[-1])


def size_fallback(missing: str, folders: list[Path]) -> tuple[str, str] | None:
    """(override, line) for a model that has no `recipe/<model>` or `layout/sizes/<model>_<gpus>`; else None.

    The recipe is that of the size nearest in parameters; the layout that of the next larger one, for it must fit.
    """
    group, _, name = missing.rpartition("/")
    model, _, gpus = name.partition("_")
    count = _parameters(model, folders)
    if group not in SIZED or count is None:
        return None
    known = {choice: _parameters(choice, folders) for choice in choices_of("model", folders)}
    there = {
        choice: size
        for choice, size in known.items()
        if size is not None and name.replace(model, choice) in choices_of(group, folders)
    }
    if not there:
        return None
    if group == "recipe":
        nearest = min(there, key=lambda choice: abs(math.log(there[choice] / count)))
        line = f"model={model} has no recipe; that of {nearest}, the nearest size, is used"
        return f"recipe={nearest}", f"{line} (recipe={nearest}; or write recipe/{model}.yaml)"
    larger = [choice for choice in there if there[choice] >= count]
    nearest = min(larger, key=there.__getitem__) if larger else max(there, key=there.__getitem__)
    line = f"layout=a100_{gpus} has no values for model={model}; those of {nearest} are used"
    return f"layout/sizes@layout={nearest}_{gpus}", f"{line} (or write layout/sizes/{model}_{gpus}.yaml)"


def _parameters(model: str, folders: list[Path]) -> int | None:
    """About how many parameters the blocks of `model` have; None where there is no such file."""
    for folder in reversed(folders):
        path = folder / "model" / f"{model}.yaml"
        if path.is_file():
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
            if isinstance(values, dict) and {"n_layer", "n_embd"} <= values.keys():
                return 12 * int(values["n_layer"]) * int(values["n_embd"]) ** 2
    return None
