"""The corpora that a stage reads, and their weights in each of its phases."""

from conf.schema import StageConfig


def phases_of(stage: StageConfig) -> list[tuple[int, dict[str, float]]]:
    """(optimizer steps before it, corpus -> weight) of each phase of the stage, the first from step 0."""
    later = [(phase.from_step, dict(phase.weights)) for phase in stage.mixture_phases]
    return [(0, dict(stage.mixture) or {stage.corpus: 1.0}), *later]


def corpora_of(stage: StageConfig) -> list[str]:
    """Every corpus that the stage reads from."""
    return list(dict.fromkeys(key for _, weights in phases_of(stage) for key, weight in weights.items() if weight))
