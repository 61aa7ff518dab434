"""The result of a stage: the weights of its best validation where it stops early, else those of its last step."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from conf.run_folder import BEST, WEIGHTS, read_json, stage_folder, write_json
from parallel.engine import Engine
from train.checkpoint.save import Saver
from train.context import RunContext
from train.tracking import Tracker
from train.validation import evaluate, sample

FOLDER = "best"  # below a stage's folder: weights that may become its result


class BestWeights:
    """The best weights of a stage so far. Every process has one and calls its methods together.

    Without `patience` the weights of the last step are the result. The checkpoint that run.keep_best keeps is another
    thing: to resume from, and only of steps that save.
    """

    def __init__(self, context: RunContext, name: str, engine: Engine, tracker: Tracker, saver: Saver) -> None:
        stage = context.settings.stages[name]
        self.engine, self.tracker, self.saver = engine, tracker, saver
        self.context, self.name, self.corpus, self.patience = context, name, stage.corpus, stage.patience
        self.folder = stage_folder(context.folder, name)
        path = self.folder / BEST
        found = read_json(path) if context.mesh.is_main and path.is_file() else {}
        self.record: dict[str, Any] = context.mesh.broadcast_object(found)

    @property
    def exhausted(self) -> bool:
        """Whether `patience` evaluations in a row were no better than the best."""
        return self.patience is not None and self.record.get("no_better", 0) >= self.patience

    def validate(self, step: int) -> dict[str, float]:
        """Bits per byte of the weights after `step` on every corpus; they are kept where they are the best."""
        self.context.watchdog.beat(f"{self.name} validation")
        scores = evaluate(self.context, self.engine)
        self.tracker.record_scores(self.name, step, scores)
        shown = self.patience is not None or step == self.context.settings.stages[self.name].steps
        if shown and step > self.record.get("seen", 0):  # else evaluated before the run was interrupted
            self._keep(step, scores)
        return scores

    def _keep(self, step: int, scores: dict[str, float]) -> None:
        """Keep the weights after `step` where they are the best, and record that they were seen."""
        settings = self.context.settings
        if self.patience is None or not self.record or scores[self.corpus] < self.record["scores"][self.corpus]:
            self.context.watchdog.beat(f"{self.name} best weights")
            self.saver.save_weights(self.folder / FOLDER)
            tokenizer, length = self.context.data.tokenizer(), settings.model.context_length
            talks = self.context.data.corpora[self.corpus].conversations
            samples = sample(self.engine, tokenizer, settings.evaluation, length, settings.run.seed, talks)
            record = {"step": step, "scores": scores, "samples": samples, "no_better": 0}
        else:
            record = {**self.record, "no_better": self.record["no_better"] + 1}
        self.record = self.context.mesh.broadcast_object({**record, "seen": step})
        self.context.write(self.folder / BEST, self.record)
        if self.exhausted:
            score = self.record["scores"][self.corpus]
            self.context.log(
                f"stage {self.name}: {self.patience} evaluations without a better one on {self.corpus}; it ends, with "
                f"the weights of step {self.record['step']}, {score:.4f} bits per byte"
            )

    def take(self) -> dict[str, Any]:
        """Make the best weights the stage's result, and return their record."""
        if self.context.mesh.is_main and (self.folder / FOLDER).is_dir():
            shutil.rmtree(self.folder / WEIGHTS, ignore_errors=True)
            (self.folder / FOLDER).rename(self.folder / WEIGHTS)
        self.record = {**self.record, "taken": True}  # where the stage is extended, they are what is to be beaten
        self.context.write(self.folder / BEST, self.record)
        self.context.mesh.barrier()
        return self.record


def forget_after(folder: Path, step: int, evaluated: Iterable[int]) -> None:
    """Where the stage in `folder` returns to its checkpoint of `step`, forget what later evaluations found.

    evaluated: steps of the evaluations until then. Weights that an earlier end of the stage has left stay the best.
    """
    if not (folder / BEST).is_file():
        return
    record = read_json(folder / BEST)
    if record["step"] > step and not record.get("taken"):
        (folder / BEST).unlink()
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        return
    since = max(record["step"], record.get("extended_at", 0))
    counted = sum(since < each <= step for each in evaluated)
    write_json(folder / BEST, {**record, "seen": min(record["seen"], step), "no_better": counted})
