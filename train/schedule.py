"""The learning rate of each optimizer step, a pure function of the step."""

import math

from conf.choices import Schedule
from conf.schema import StageConfig


def learning_rate(stage: StageConfig, step: int) -> float:
    """The learning rate of optimizer step `step`, counted from 1.

    cosine (paper; JAXFORMER's create_lr_schedule_gpt3_fn): linear over `warmup_steps`, a half cosine over the
    `anneal_steps` that follow, then flat. wsd (arXiv 2404.06395): linear over `warmup_steps`, flat at the peak, linear
    down over the last `anneal_steps`.
    """
    peak, end = stage.peak_learning_rate, stage.end_learning_rate
    if step < stage.warmup_steps:
        return peak * step / stage.warmup_steps
    if stage.schedule is Schedule.cosine:
        done = _fraction(step - stage.warmup_steps, stage.anneal_steps)
        return end + (peak - end) * (1 + math.cos(math.pi * done)) / 2
    done = _fraction(step - (stage.steps - stage.anneal_steps), stage.anneal_steps)
    return peak + (end - peak) * done


def last_stable_step(stage: StageConfig) -> int | None:
    """The step after which a wsd stage anneals, and which a longer one resumes from; None for other schedules."""
    return stage.steps - stage.anneal_steps if stage.schedule is Schedule.wsd else None


def _fraction(steps: int, of: int) -> float:
    return min(max(steps / of, 0.0), 1.0) if of else float(steps >= 0)
