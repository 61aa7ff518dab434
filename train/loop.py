"""The training loop: each stage starts from its parent's weights, trains on its corpus, is evaluated on all."""

from conf.errors import HealthError
from conf.exit_codes import INTERRUPTED
from conf.run_folder import is_finished, stage_folder
from conf.schema import Settings
from model.weights import Weights
from parallel.engine import Engine
from train.benchmarks import Benchmarks
from train.best import BestWeights
from train.checkpoint.save import Saver
from train.context import RunContext, open_context
from train.data.mixture import ORDER
from train.estimate import log_estimates
from train.health import Health, go_back
from train.meter import Meter
from train.profile import StepProfile
from train.report import report, report_schedule
from train.schedule import last_stable_step, learning_rate
from train.stages import check_parents, lineage, open_engine, open_saver, parent_of, stage_batches
from train.stop import StopSignal
from train.tracking import Tracker, open_tracker
from train.watchdog import Watchdog


def train(settings: Settings, stop: StopSignal, watchdog: Watchdog | None = None) -> int:
    """Run the stages of `settings` that are not finished; return 0, or `INTERRUPTED` where a signal came."""
    with open_context(settings, watchdog) as context:
        check_parents(context)
        report_schedule(context)
        log_estimates(context)
        stop.watch(context.folder)
        for name in settings.stages:
            if is_finished(context.folder, name):
                context.log(f"stage {name}: finished before, kept")
            elif not train_stage_until_well(context, name, stop):
                context.log("stopped as asked, and saved; the same command resumes from here")
                return INTERRUPTED
            if name == settings.run.until:
                break
        context.watchdog.open("report")
        report(context)
        return 0


def train_stage_until_well(context: RunContext, name: str, stop: StopSignal) -> bool:
    """`train_stage`, again from the last checkpoint where what was trained since is not to be kept."""
    while True:
        try:
            return train_stage(context, name, stop)
        except HealthError as fault:
            go_back(context, name, fault)


def train_stage(context: RunContext, name: str, stop: StopSignal) -> bool:
    """Train one stage to its end; false where a signal stopped it, with everything saved."""
    context.watchdog.open(f"{name} opening")
    parent = parent_of(context.folder, name, context.settings)
    engine, done = open_engine(context, name, parent)
    origin = f"resuming after step {done}" if done else f"from {parent.source if parent else 'random weights'}"
    context.log(f"stage {name}: {origin}")
    tracker = open_tracker(context, name, lineage(context.folder, name, parent, context.settings))
    saver = open_saver(context, name, engine, tracker.record_save)
    benchmarks = Benchmarks(context, name, stop)
    try:
        best = BestWeights(context, name, engine, tracker, saver)
        ended = train_steps(context, name, engine, done, tracker, saver, best, benchmarks, stop)
        if ended:
            finish(context, name, parent, tracker, best)
    except HealthError:
        benchmarks.leave()
        tracker.finish()
        saver.wait()
        engine.destroy()
        raise
    context.watchdog.open(f"{name} closing")
    tracker.finish()
    engine.destroy()
    context.mesh.barrier()
    return ended


def train_steps(
    context: RunContext,
    name: str,
    engine: Engine,
    done: int,
    tracker: Tracker,
    saver: Saver,
    best: BestWeights,
    benchmarks: Benchmarks,
    stop: StopSignal,
) -> bool:
    """Take the steps after `done`; false where a signal stopped them. Errors: `HealthError` to go back from."""
    settings, stage, stopped = context.settings, context.settings.stages[name], False
    health, meter = Health(context, name, done), Meter(context)
    batches = meter.waiting(stage_batches(context, name, done, health.gaps))
    with meter.part("evaluation"):
        benchmarks.sample(done, engine)  # where a signal stopped that
    with StepProfile(context, name, done, meter) as profile:
        for step in range(done + 1, stage.steps + 1):
            if best.exhausted:
                break
            context.watchdog.beat(f"{name} step {step}")
            lr = learning_rate(stage, step)
            engine.set_lr(lr)
            with profile.step():
                result = engine.train_batch(batches)
            meter.count(stage.global_batch_size)
            health.check_step(step, result)
            last = step == stage.steps
            if step % settings.tracking.log_every == 0 or step == 1 or last:
                tracker.record_step(name, step, lr, result, meter)
            scores: dict[str, float] = {}
            if step % settings.evaluation.every == 0 and not last:
                with meter.part("evaluation"):
                    scores = best.validate(step)
            if benchmarks.due(step):
                with meter.part("evaluation"):
                    benchmarks.sample(step, engine)
            benchmarks.record(tracker)
            stopped = context.mesh.any_rank(stop.received)
            saves = step % settings.run.save_every == 0 or step == last_stable_step(stage) or last or stopped
            if saves or step % settings.health.compare_every == 0:
                health.check_replicas(engine, step)
            if saves:
                context.watchdog.beat(f"{name} save")
                with meter.part("saving"):
                    state = {"stage": name, "step": step, "order": ORDER, "health": health.state}
                    saver.save({**state, "score": scores.get(stage.corpus)})
            saver.poll()
            if stopped:
                benchmarks.leave()
                break
    saver.wait()
    if not stopped:
        benchmarks.record(tracker, wait=True)
    return not stopped


def finish(context: RunContext, name: str, parent: Weights | None, tracker: Tracker, best: BestWeights) -> None:
    """Leave what the next stage and the reader need: weights, lineage, samples, and last the scores."""
    folder, settings = stage_folder(context.folder, name), context.settings
    context.watchdog.beat(f"{name} end")
    if not best.exhausted:
        best.validate(settings.stages[name].steps)
    result = best.take()
    tracker.record_samples(name, result["samples"], folder / "samples.md")
    origins = lineage(context.folder, name, parent, settings, result["step"], context.data)
    context.write(folder / "lineage.json", origins)
    tracker.record_lineage(origins, folder / "lineage.json")
    evaluation = {"stage": name, "order": list(settings.stages).index(name), "step": result["step"]}
    context.write(folder / "evaluation.json", {**evaluation, "bits_per_byte": result["scores"]})
