"""A stage's schedule: its length in steps, tokens or epochs, its warm-up and annealing in steps or as shares of it.

Where only the length is changed, the recipe's warm-up and annealing are scaled with it: left as they are, they would
leave most of a longer stage at its end rate, and a shorter one would never get there.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf.choices import Schedule
from conf.errors import ConfigError
from conf.plural import plural
from conf.schema import RecipeConfig, Settings, StageConfig

LENGTHS = ("steps", "tokens", "epochs")  # one of them decides
COUNTED = ("steps", "warmup_steps", "anneal_steps")  # what `count_steps` sets
PHASES = ("warmup", "anneal")  # each as PHASE_steps or PHASE_ratio
WSD_ANNEAL_RATIO = 0.1  # arXiv 2404.06395: a tenth of the steps is enough


def choose_schedules(config: DictConfig, overrides: list[str], place: str = "") -> None:
    """In each stage of `config`, composed and not resolved yet, keep one setting for the length and one a phase.

    What the command line (`overrides`) sets takes the place of what a file sets. Errors: `ConfigError` where one of
    them sets two for the same thing; `place` is the file, with a colon.
    """
    for name, stage in config.stages.items():
        prefix = f"stages.{name}."
        words = {word.partition("=")[0].lstrip("+").removeprefix(prefix) for word in overrides if prefix in word}
        length = _chosen(prefix, stage, LENGTHS, words, place)
        stage.update({key: None for key in LENGTHS[1:] if key != length})
        pairs = [(f"{phase}_steps", f"{phase}_ratio") for phase in PHASES]
        chosen = [_chosen(prefix, stage, pair, words, place) for pair in pairs]
        for phase, key in zip(PHASES, chosen, strict=True):
            if key == f"{phase}_steps":
                stage[f"{phase}_ratio"] = None
            elif key is None and stage.schedule is Schedule.wsd:  # its warm-up does not depend on its length
                stage[f"{phase}_ratio"] = WSD_ANNEAL_RATIO if phase == "anneal" else None
            elif key is None and any([length, *chosen]):
                recipe = config.recipe.get(name, config.recipe.mono)  # sft's values are mono's
                stage[f"{phase}_ratio"] = recipe[f"{phase}_steps"] / recipe.steps


def _chosen(prefix: str, stage: DictConfig, keys: tuple[str, ...], words: set[str], place: str) -> str | None:
    """Which of `keys` is set, on the command line or else in a file; None where all are as the recipe has them."""
    given = [key for key in keys if not OmegaConf.is_interpolation(stage, key) and stage[key] is not None]
    given = [key for key in given if key in words] or given
    if len(given) > 1:
        values = " and ".join(f"{prefix}{key}={stage[key]}" for key in given)
        place = "" if words & set(given) else place
        raise ConfigError(f"{place}{values} say the same thing twice; set one of them alone")
    return given[0] if given else None


def count_steps(settings: Settings, sequences: Mapping[str, int] | None = None) -> Settings:
    """`settings` with the steps of every stage, its warm-up and its annealing.

    sequences: corpus -> sequences of `context_length` tokens in an epoch; without it, epochs leave 0 steps.
    """
    stages = {
        name: _count(stage, settings.model.context_length, (sequences or {}).get(stage.corpus, 0) / _share_of(stage))
        for name, stage in settings.stages.items()
    }
    return replace(settings, stages=stages)


def _share_of(stage: StageConfig) -> float:
    """Of the sequences that the stage reads, the share that is of its own corpus; 1 for a mixture that is none."""
    weights = stage.mixture if isinstance(stage.mixture, Mapping) else {}
    numbers = [weight for weight in weights.values() if isinstance(weight, int | float)]
    if not weights.get(stage.corpus) or len(numbers) < len(weights) or not 0 < sum(numbers) < math.inf:
        return 1.0
    return float(weights[stage.corpus] / sum(numbers))


def _count(stage: StageConfig, context_length: int, sequences: float) -> StageConfig:
    """sequences: that the stage reads in an epoch of its corpus, all in all."""
    batch = max(stage.global_batch_size, 1)
    steps = stage.steps
    if stage.tokens is not None:
        steps = math.ceil(stage.tokens / (batch * max(context_length, 1)))
    elif stage.epochs is not None:
        steps = math.ceil(stage.epochs * sequences / batch)
    warmup, anneal = stage.warmup_steps, stage.anneal_steps
    if stage.warmup_ratio is not None:
        warmup = round(stage.warmup_ratio * steps)
    if stage.anneal_ratio is not None:
        anneal = min(round(stage.anneal_ratio * steps), max(steps - warmup, 0))
    return replace(stage, steps=steps, warmup_steps=warmup, anneal_steps=anneal)


def describe_schedule(name: str, stage: StageConfig, recipe: RecipeConfig | None, context_length: int) -> str:
    """The schedule in one line: length, warm-up, annealing, and whether the recipe's were scaled."""
    rise = f"lr to {stage.peak_learning_rate:.3g} in {stage.warmup_steps:,} steps"
    fall = f"to {stage.end_learning_rate:.3g} in {stage.anneal_steps:,}"
    if not stage.steps:
        parts = f"warm-up {_share(stage, 'warmup')}, annealing {_share(stage, 'anneal')}"
        return (
            f"stage {name}: {stage.epochs:g} {plural('epoch', stage.epochs or 0)} of corpus {stage.corpus}; {parts}; "
            "steps once the data is prepared"
        )
    tokens = stage.steps * stage.global_batch_size * context_length
    line = f"stage {name}: {stage.steps:,} steps, {tokens:,} tokens; {rise}"
    flat = stage.steps - stage.warmup_steps - stage.anneal_steps
    if stage.schedule is Schedule.wsd:
        line += f", stable for {flat:,}, linear {fall}"
    else:
        line += f", cosine {fall}" + (f", flat for {flat:,} ({flat / stage.steps:.0%})" if flat > 0 else "")
    scaled = [] if recipe is None else _scaled(stage, recipe)
    if scaled and recipe is not None and recipe.steps != stage.steps:
        line += f"; {' and '.join(scaled)} scaled from the recipe's {recipe.steps:,} steps"
    return line


def _share(stage: StageConfig, phase: str) -> str:
    ratio = getattr(stage, f"{phase}_ratio")
    return f"{getattr(stage, f'{phase}_steps'):,} steps" if ratio is None else f"{ratio:.1%}"


def _scaled(stage: StageConfig, recipe: RecipeConfig) -> list[str]:
    """The phases that have the recipe's share of the steps."""
    phases = (
        ("warm-up", stage.warmup_ratio, recipe.warmup_steps),
        ("annealing", stage.anneal_ratio, recipe.anneal_steps),
    )
    return [phase for phase, ratio, steps in phases if ratio == steps / recipe.steps]


def schedule_lines(settings: Settings) -> list[str]:
    """`describe_schedule` of every stage."""
    length = settings.model.context_length
    return [
        describe_schedule(name, stage, settings.recipe.get(name), length) for name, stage in settings.stages.items()
    ]


def without_derived(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage's settings without those that follow from others: two runs with the same ones have the same schedule."""
    if stage.get("epochs") is None:
        derived = {"tokens", "epochs", "warmup_ratio", "anneal_ratio"}
    else:  # the steps are known only to the run that has the data
        derived = {"tokens", "steps", *(f"{phase}_steps" for phase in PHASES if stage[f"{phase}_ratio"] is not None)}
    return {key: value for key, value in stage.items() if key not in derived}
