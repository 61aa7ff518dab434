"""The corpora that a stage reads, and their weights in each of its phases."""

from collections.abc import Iterator, Mapping

from conf.schema import Settings, StageConfig


def phases_of(stage: StageConfig) -> list[tuple[int, dict[str, float]]]:
    """(optimizer steps before it, corpus -> weight) of each phase of the stage, the first from step 0."""
    later = [(phase.from_step, dict(phase.weights)) for phase in stage.mixture_phases]
    return [(0, dict(stage.mixture or {stage.corpus: 1.0})), *later]


def corpora_of(stage: StageConfig) -> list[str]:
    """Every corpus that the stage reads from."""
    return list(dict.fromkeys(key for _, weights in phases_of(stage) for key, weight in weights.items() if weight))


def mixture_problems(settings: Settings) -> Iterator[str]:
    """What is wrong with the stages' mixtures, a line each."""
    for name, stage in settings.stages.items():
        key, before = f"stages.{name}.mixture", 0
        if stage.mixture is not None and not isinstance(stage.mixture, Mapping):
            yield f"{key}={stage.mixture} is no mapping of corpora to weights, such as {{mono: 0.9, nl: 0.1}}"
            continue
        for number, (first, weights) in enumerate(phases_of(stage)):
            if number:
                key = f"stages.{name}.mixture_phases[{number - 1}]"
                if first <= before:
                    yield f"{key}.from_step={first} must be more than {before}, where the phase before it begins"
                before = first
            for corpus, weight in weights.items():
                if corpus not in settings.data.corpora:
                    known = ", ".join(settings.data.corpora) or "none"
                    given = f"{key}: {corpus}" if number or stage.mixture else f"stages.{name}.corpus={corpus}"
                    yield f"{given} is not among data.corpora ({known})"
                if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
                    yield f"{key}: the weight of {corpus}, {weight}, must be a number of 0 or more"
            if not any(weights.values()):
                yield f"{key} gives no corpus a weight above 0"
        if stage.epochs is not None and stage.mixture_phases:
            yield f"stages.{name}.epochs has no meaning over mixture_phases; give its length in steps or tokens"
        if stage.corpus not in corpora_of(stage):
            yield f"stages.{name}.corpus={stage.corpus} is not in its mixture ({', '.join(corpora_of(stage))})"
