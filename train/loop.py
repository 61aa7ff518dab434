"""The training loop: each stage takes its parent's weights, trains on its corpus, is evaluated on all, hands on."""

from collections.abc import Iterator

from conf.exit_codes import INTERRUPTED
from conf.run_folder import is_finished, stage_folder
from conf.schema import Settings
from model.weights import Weights
from parallel.engine import Engine, MicroBatch
from parallel.rendezvous import leave
from train.checkpoint import save_checkpoint, save_weights
from train.data.batches import micro_batches
from train.data.blocks import Blocks, Order
from train.evaluation.bits_per_byte import bits_per_byte
from train.evaluation.samples import sample
from train.job import Job, open_job
from train.report import report
from train.schedule import learning_rate
from train.stages import check_parents, lineage, open_engine, parent_of
from train.stop import StopSignal
from train.tracking import Meter, Tracker, open_tracker


def train(settings: Settings, stop: StopSignal) -> int:
    """Run the stages of `settings` that are not finished; return 0, or `INTERRUPTED` where a signal came."""
    job = open_job(settings)
    check_parents(job)
    if job.world.is_main:
        stop.watch(job.folder / "stop")
    for name in settings.stages:
        if is_finished(job.folder, name):
            job.say(f"stage {name}: finished before, kept")
        elif not train_stage(job, name, stop):
            job.say("stopped as asked; the same command goes on from here")
            leave()
            return INTERRUPTED
        if name == settings.run.until:
            break
    report(job)
    leave()
    return 0


def train_stage(job: Job, name: str, stop: StopSignal) -> bool:
    """Train one stage to its end; false where a signal stopped it, with everything saved."""
    settings, stage, folder = job.settings, job.settings.stages[name], stage_folder(job.folder, name)
    parent = parent_of(job.folder, name, settings)
    engine, done = open_engine(job, name, parent)
    origin = f"going on after step {done}" if done else f"from {parent.source if parent else 'random weights'}"
    job.say(f"stage {name}: {origin}")
    batches = stage_batches(job, name, done)
    tracker = open_tracker(job, name, lineage(job.folder, name, parent, settings))
    meter = Meter(job)
    for step in range(done + 1, stage.steps + 1):
        rate = learning_rate(stage, step)
        engine.set_learning_rate(rate)
        result = engine.train_batch(batches)
        meter.count(stage.global_batch_size)
        stopped = job.world.any(stop.received)
        last = step == stage.steps
        if step % settings.tracking.log_every == 0 or step == 1 or last:
            tracker.record_step(name, step, rate, result, meter)
        if step % settings.evaluation.every == 0 and not last:
            tracker.record_scores(name, step, evaluate(job, engine))
            meter.restart()
        if step % settings.run.save_every == 0 or last or stopped:
            save_checkpoint(
                engine, folder / "checkpoints", {"stage": name, "step": step}, settings.run.keep_checkpoints
            )
            meter.restart()
        if stopped:
            tracker.finish()
            job.world.barrier()
            return False
    finish(job, engine, name, parent, tracker)
    return True


def stage_batches(job: Job, name: str, done: int) -> Iterator[MicroBatch]:
    """This process's micro-batches of the stage, from where `done` optimizer steps have left off."""
    stage, files = job.settings.stages[name], job.data.corpora[job.settings.stages[name].corpus]
    blocks = Blocks(files.train, files.dtype, job.settings.model.context_length)
    order = Order(len(blocks), job.settings.run.seed)
    micro_batch_size = job.settings.layout.micro_batch_size
    position = done * stage.global_batch_size
    return micro_batches(blocks, order, position, micro_batch_size, job.world.data_rank, job.world.data_size)


def evaluate(job: Job, engine: Engine) -> dict[str, float]:
    """Bits per byte on the validation set of every corpus."""
    length, batch_size = job.settings.model.context_length, job.settings.evaluation.batch_size
    return {name: bits_per_byte(engine, files, length, batch_size) for name, files in job.data.corpora.items()}


def finish(job: Job, engine: Engine, name: str, parent: Weights | None, tracker: Tracker) -> None:
    """Leave what the next stage and the reader need: weights, lineage, samples, and last the scores."""
    folder, settings = stage_folder(job.folder, name), job.settings
    save_weights(engine, folder / "weights")
    tokenizer = job.data.tokenizer()
    samples = sample(engine, tokenizer, settings.evaluation, settings.model.context_length, settings.run.seed)
    tracker.record_samples(name, samples, folder / "samples.md")
    scores = evaluate(job, engine)
    tracker.record_scores(name, settings.stages[name].steps, scores)
    origins = lineage(job.folder, name, parent, settings)
    job.write(folder / "lineage.json", origins)
    tracker.record_lineage(origins, folder / "lineage.json")
    order = list(settings.stages).index(name)
    job.write(folder / "evaluation.json", {"stage": name, "order": order, "bits_per_byte": scores})
    tracker.finish()
    engine.destroy()
    job.world.barrier()
