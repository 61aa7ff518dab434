"""Benchmarks while a stage trains: every process samples with the model as it is, the main one scores meanwhile."""

import json
import os
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

from conf.benchmarks import benchmark_command
from conf.commands import Evaluate, Sampling
from conf.run_folder import EVALUATIONS, read_json, read_metrics, stage_folder, write_json, write_records
from conf.schema import TaskConfig
from parallel.engine import Engine
from train.context import RunContext, on_main
from train.evaluate.check import benchmark_problems
from train.evaluate.pass_at_k import mean_pass_at_k
from train.evaluate.problems import Problem, sample_seed
from train.evaluate.programs import Sample
from train.evaluate.sandbox import Limits, SandboxError, run_programs
from train.sample.generator import cutting
from train.sample.replicas import spread
from train.stop import StopSignal
from train.tracking import Tracker
from train.validation import continue_prompts

POLL_SECONDS = 0.2  # between two looks at whether all is scored
SAMPLES, SCORES = "samples.jsonl", "scores.json"


@dataclass(frozen=True)
class Task:
    """A benchmark that a stage is scored on. command: its settings in `train.evaluate`. module: its functions there."""

    name: str
    every: int
    command: Evaluate
    module: Any
    problems: dict[Any, Problem]

    @property
    def sampling(self) -> Sampling:
        """How its samples are drawn, at the first of its temperatures."""
        of = self.command
        return Sampling(of.max_new_tokens, of.temperatures[0], of.top_p, of.top_k, of.seed)


class Benchmarks:
    """The benchmarks of one stage. What has samples and no record yet is scored when the run is resumed."""

    def __init__(self, context: RunContext, stage: str, stop: StopSignal) -> None:
        self.context, self.stage, self.stop = context, stage, stop
        self.tasks = [open_task(context, name, config) for name, config in context.settings.evaluation.tasks.items()]
        self.folder = stage_folder(context.folder, stage) / EVALUATIONS
        self.scoring: list[tuple[Task, int, threading.Thread]] = []
        self.left = False
        self.errors: list[str] = []
        if context.mesh.is_main and self.tasks:
            rows = [row for row in read_metrics(context.folder) if row["stage"] == stage]
            for task in self.tasks:
                recorded = {row["step"] for row in rows if any(key.startswith(f"{task.name}/pass@") for key in row)}
                for path in sorted(self.folder.glob(f"{task.name}_step_*/{SAMPLES}")):
                    if (step := int(path.parent.name.rpartition("_")[2])) not in recorded:
                        self._score(task, step)

    def due(self, step: int) -> list[Task]:
        """The tasks that are due after `step`."""
        return [task for task in self.tasks if step > 0 and step % task.every == 0]

    def sample(self, step: int, engine: Engine) -> None:
        """Sample for the tasks that are due after `step`, and begin to score. All processes call it."""
        for task in self.due(step):
            if self._is_sampled(task, step):
                continue
            rows = self._samples(task, step, engine)
            if rows is not None and self.context.mesh.is_main:
                folder = self._folder(task, step)
                folder.mkdir(parents=True, exist_ok=True)
                write_records(folder / SAMPLES, rows)
                self._score(task, step)

    def record(self, tracker: Tracker, wait: bool = False) -> None:
        """Hand the scores that are ready to the tracker, in the order of their steps; with `wait`, all of them."""
        while wait and self.context.mesh.any_rank(any(thread.is_alive() for *_, thread in self.scoring)):
            self.context.watchdog.beat()
            time.sleep(POLL_SECONDS)
        while self.scoring and (wait or not self.scoring[0][2].is_alive()):
            task, step, thread = self.scoring.pop(0)
            thread.join()
            path = self._folder(task, step) / SCORES
            if path.exists():
                tracker.record_benchmark(self.stage, step, task.name, read_json(path)["pass_at_k"])
        while self.errors:
            self.context.log(f"warning: {self.errors.pop(0)}")

    def leave(self) -> None:
        """Stop scoring; the next start of the run takes it up."""
        self.left = True

    def _is_sampled(self, task: Task, step: int) -> bool:
        """Whether it was before: after an interruption, the steps since the last checkpoint are trained again."""
        return bool(on_main(self.context.mesh, lambda: (self._folder(task, step) / SAMPLES).exists()))

    def _folder(self, task: Task, step: int) -> Path:
        return self.folder / f"{task.name}_step_{step:09d}"

    def _samples(self, task: Task, step: int, engine: Engine) -> list[Sample] | None:
        """The task's samples, in their order; None where the run was asked to stop meanwhile."""
        tokenizer, length = self.context.data.tokenizer(), self.context.settings.model.context_length
        sampling = task.sampling

        def complete(rows: list[Sample]) -> list[Sample]:
            self.context.watchdog.beat(f"{self.stage} benchmark {task.name}")
            problems = [task.problems[row["task_id"]] for row in rows]
            prompts = [tokenizer.encode(problem["prompt"]) or [tokenizer.eos] for problem in problems]
            prompts = [prompt[-(length - sampling.max_new_tokens) :] for prompt in prompts]
            cuts = [cutting(task.module.stop_strings(problem)) for problem in problems]
            seeds = [sample_seed(sampling.seed, sampling.temperature, row["task_id"], row["sample"]) for row in rows]

            def ended(row: int, new: list[int]) -> bool:
                return cuts[row](tokenizer.decode(new)) is not None

            found = continue_prompts(engine, prompts, sampling, seeds, tokenizer, length, ended)
            texts = [tokenizer.decode(new) for new in found]
            finals = [cut(text) for cut, text in zip(cuts, texts, strict=True)]
            return [
                {**row, "completion": text if final is None else final}
                for row, text, final in zip(rows, texts, finals, strict=True)
            ]

        wanted = [{"task_id": name, "sample": at} for name in task.problems for at in range(task.command.samples)]
        batch_size = self.context.settings.evaluation.batch_size
        try:
            return list(
                chain.from_iterable(spread(engine.mesh, wanted, batch_size, complete, self.stop, in_lockstep=True))
            )
        except KeyboardInterrupt:
            self.context.log(f"stopped while {task.name} was sampled; that begins again when the run is resumed")
            return None

    def _score(self, task: Task, step: int) -> None:
        before = self.scoring[-1][2] if self.scoring else None

        def score() -> None:
            if before is not None:
                before.join()
            folder = self._folder(task, step)
            try:
                self._run(task, folder)
            except (SandboxError, OSError, ValueError) as error:
                self.errors.append(f"{task.name} after step {step} could not be scored: {error}; see {folder}")

        thread = threading.Thread(target=score, daemon=True)
        self.scoring.append((task, step, thread))
        thread.start()

    def _run(self, task: Task, folder: Path) -> None:
        if (folder / SCORES).exists():  # the run ended between the score and its record
            return
        rows = [json.loads(line) for line in (folder / SAMPLES).read_text(encoding="utf-8").splitlines()]
        workers = task.command.workers or spare_cores()
        limits = Limits(task.command.seconds, sandbox=task.command.sandbox)
        passed: dict[Any, list[bool]] = defaultdict(list)
        for start in range(0, len(rows), 4 * workers):
            if self.left:
                return
            some = rows[start : start + 4 * workers]
            trials = [task.module.build_program(task.problems[row["task_id"]], row["completion"]) for row in some]
            for row, outcome in zip(some, run_programs(trials, limits, workers), strict=True):
                passed[row["task_id"]].append(outcome.passed)
        scores = {str(k): mean_pass_at_k(list(passed.values()), k) for k in task.command.k}
        if not self.left:  # else the stage may have gone back, and these are no longer its weights
            write_json(folder / SCORES, {"pass_at_k": scores, "passed": dict(passed)})


def spare_cores() -> int:
    """Cores that this process may use and no process of the run computes on, at least one."""
    return max(1, len(os.sched_getaffinity(0)) - int(os.environ.get("LOCAL_SIZE", "1")))


def open_task(context: RunContext, name: str, config: TaskConfig) -> Task:
    """The task of `evaluation.tasks`, with `train.evaluate`'s settings of that name.

    Errors: `ConfigError` as in `benchmark_command` and `benchmark_problems`.
    """
    command = benchmark_command(name, config, context.settings.model.context_length)
    problems = on_main(context.mesh, lambda: benchmark_problems(command))
    few = config.problems or len(problems)
    module = import_module(f"train.evaluate.{name}")
    return Task(name, config.every, command, module, {problem["task_id"]: problem for problem in problems[:few]})
