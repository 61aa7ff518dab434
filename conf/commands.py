"""Settings of the commands other than training: `key=value` arguments, one YAML file a command."""

import difflib
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import TypeVar, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from conf.check import LARGEST_SEED, sampling_problems
from conf.choices import ExportForm, Precision, Quantize, Sandbox
from conf.command_line import SEARCH_PATH, own_folders
from conf.errors import ConfigError

FOLDER = Path(__file__).parent / "command"
OF_THE_CLUSTER = {"cluster", "nodes", "dry_run"}  # of `launch evaluate`: where it runs
TASKS = FOLDER / "evaluate"  # defaults of each task of train.evaluate
SYNONYMS = {  # words of other tools -> the setting here
    "checkpoint": "run",
    "model": "run",
    "max_tokens": "max_new_tokens",
    "n": "samples",
    "num_samples": "samples",
    "benchmark": "task",
    "input": "source",
    "output_dir": "target",
}
TEXT = {"text": True}  # of a setting, as of every other that is never null: not parsed as YAML
Command = TypeVar("Command", bound="Sampling | Evaluate | Import | Export | Status")


@dataclass
class Sampling:
    """How tokens are sampled: shared by the commands that generate."""

    max_new_tokens: int = MISSING
    temperature: float = MISSING
    top_p: float = MISSING
    top_k: int = MISSING
    seed: int = MISSING


@dataclass
class Sample(Sampling):
    """`python -m train.sample`: conf/command/sample.yaml."""

    run: str = MISSING
    prompt: str | None = field(default=None, metadata=TEXT)
    infill: str | None = field(default=None, metadata=TEXT)
    diff: str | None = field(default=None, metadata=TEXT)
    message: str | None = field(default=None, metadata=TEXT)
    apply: bool = MISSING
    chat: str | None = field(default=None, metadata=TEXT)
    samples: int = MISSING
    batch_size: int = MISSING
    stop: list[str] = field(default_factory=list)
    allowed_special: list[str] = field(default_factory=list)
    truncate: bool = MISSING
    tensor_parallel_size: int | None = None
    precision: Precision = MISSING
    output: str | None = None


@dataclass
class Evaluate:
    """`python -m train.evaluate`: conf/command/evaluate.yaml, then evaluate/<task>.yaml beside it."""

    run: str = MISSING
    task: str = MISSING
    problems: str | None = None
    subsets: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    harness_tasks: list[str] = field(default_factory=list)
    samples: int = MISSING
    temperatures: list[float] = field(default_factory=list)
    k: list[int] = field(default_factory=list)
    max_new_tokens: int = MISSING
    top_p: float = MISSING
    top_k: int = MISSING
    seed: int = MISSING
    batch_size: int = MISSING
    seconds: float = MISSING
    workers: int | None = None
    sandbox: Sandbox = MISSING
    tensor_parallel_size: int | None = None
    precision: Precision = MISSING
    output: str | None = None
    wandb: bool = MISSING


@dataclass
class Import:
    """`python -m model.huggingface import`: conf/command/import.yaml."""

    source: str = MISSING
    target: str = MISSING
    mp_num: int | None = None
    vocab_size: int | None = None


@dataclass
class Export:
    """`python -m model.huggingface export`: conf/command/export.yaml."""

    source: str = MISSING
    target: str = MISSING
    form: ExportForm = MISSING
    mp_num: int = MISSING
    dtype: Precision = MISSING
    quantize: Quantize | None = None
    group_size: int = MISSING
    calibration: list[str] = field(default_factory=list)


@dataclass
class Status:
    """`python -m launch status`: conf/command/status.yaml."""

    root: str = MISSING


def read_command(schema: type[Command], argv: list[str]) -> Command:
    """The settings of a command: the values of its YAML file, overridden by `argv` (`key=value` each), types checked.

    Errors: `ConfigError`, one line, for an unknown key, a wrong type or a value that is missing.
    """
    config = merged(schema, argv)
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{missing[0]} has no value; write {missing[0]}=...")
    command = cast(Command, OmegaConf.to_object(config))
    if isinstance(command, Sampling | Evaluate):
        check_sampling(command)
    for name in ("precision", "dtype"):
        if getattr(command, name, None) is Precision.fp8:
            raise ConfigError(f"{name}=fp8 is a way to train; use bf16")
    return command


def print_command(name: str, argv: list[str], given: set[str]) -> None:
    """`--cfg job`: the settings of the command `name` as YAML; `--info`: the files that they come from.

    Words of `argv` that are no settings stand for source and target; those of where it runs are left out.
    """
    schema = next(each for each in (Sample, Evaluate, Import, Export, Status) if each.__name__.lower() == name)
    known = {each.name for each in fields(schema)}
    places = iter(("source", "target"))
    words = [word if "=" in word else f"{next(places, 'target')}={word}" for word in argv if word != name]
    words = [word for word in words if word.lstrip("+").split(".")[0].partition("=")[0] not in OF_THE_CLUSTER - known]
    config = merged(schema, words)
    if "--info" in given:
        print("Settings, the later ones before the earlier:", *chain(*settings_files(schema, words)), sep="\n  ")
    if "--cfg" in given:
        print(OmegaConf.to_yaml(config), end="")


def merged(schema: type[Command], argv: list[str]) -> DictConfig:
    """`read_command`'s settings, of which some may have no value yet."""
    files, argv = settings_files(schema, argv)
    config = OmegaConf.merge(OmegaConf.structured(schema), *map(OmegaConf.load, files))
    known = [str(key) for key in config]
    texts = {field.name for field in fields(schema) if field.type is str or field.metadata == TEXT}
    lists = {field.name for field in fields(schema) if field.type == list[str]}
    for word in argv:
        key, equals, value = word.partition("=")
        if key.startswith("~"):
            raise ConfigError(f"'{word}': a setting of this command cannot be removed; leave it out for its default")
        key = key.lstrip("+")
        if not equals:
            raise ConfigError(f"'{word}' is not a setting; settings are written key=value")
        if key not in known and SYNONYMS.get(key) in known:
            raise ConfigError(f"unknown setting '{key}'; did you mean '{SYNONYMS[key]}'?")
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            meant = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}"
            raise ConfigError(f"unknown setting '{key}'; {meant}")
        if key in lists and not value.startswith("["):
            raise ConfigError(f"{key}={value} is no list; write {key}=[...], with its parts in quotes")
        try:
            config = OmegaConf.merge(
                config, {key: value} if key in texts else OmegaConf.from_dotlist([f"{key}={value}"])
            )
        except (OmegaConfBaseException, YAMLError) as error:
            raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from None
    return cast(DictConfig, config)


def settings_files(schema: type[Command], argv: list[str]) -> tuple[list[Path], list[str]]:
    """(the files that give a command its values, the later ones before the earlier; the words that are settings).

    They are ours, then those of each folder of `--config-dir`: command/NAME.yaml, and of an evaluation's task
    command/evaluate/TASK.yaml. Errors: `ConfigError` for an unknown task, or a folder without any of these files.
    """
    name = schema.__name__.lower()
    named = [word.partition("=")[2] for word in argv if word.startswith("task=")] if schema is Evaluate else []
    if named and named[-1] not in task_names():
        raise ConfigError(f"task={named[-1]} is not known; use {', '.join(task_names())}")
    parts = [f"{name}.yaml", *(f"evaluate/{task}.yaml" for task in named[-1:])]
    files = [FOLDER / part for part in parts]
    for folder in own_folders(argv):
        found = [path for part in parts if (path := folder / "command" / part).is_file()]
        if not found:
            raise ConfigError(f"--config-dir {folder} has no {' and no '.join(f'command/{part}' for part in parts)}")
        files += found
    return files, [word for word in argv if not word.startswith(SEARCH_PATH)]


def task_names() -> list[str]:
    """The tasks of `python -m train.evaluate`."""
    return sorted(path.stem for path in TASKS.glob("*.yaml"))


def check_sampling(command: Sampling | Evaluate) -> None:
    """Errors: `ConfigError` for the first value that is out of range."""
    for name in ("max_new_tokens", "samples", "batch_size", "seconds", "workers"):
        value = getattr(command, name, None)
        if value is not None and not value > 0:
            raise ConfigError(f"{name}={value} must be more than 0")
    temperatures = command.temperatures if isinstance(command, Evaluate) else [command.temperature]
    if not temperatures:
        raise ConfigError("temperatures=[] draws no sample; give one at least, such as temperatures=[0.2]")
    of_temperature = chain(*(sampling_problems(temperature=temperature) for temperature in temperatures))
    for problem in chain(of_temperature, sampling_problems(top_p=command.top_p)):
        raise ConfigError(problem)
    if command.top_k < 0:
        raise ConfigError(f"top_k={command.top_k} must be at least 0; 0 keeps every token")
    if not 0 <= command.seed < LARGEST_SEED:
        raise ConfigError(f"seed={command.seed} must be at least 0 and below {LARGEST_SEED}")
