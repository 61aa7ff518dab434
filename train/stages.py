"""Training stages: the weights each starts from, its engine, and its lineage."""

import gc
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from conf.choices import Handover, Precision
from conf.errors import ConfigError
from conf.extensions import data_position, read_extensions, samples_done
from conf.inputs import shape_problem
from conf.lora import adapter_parameters, is_lora, rows_problem, trained_layers
from conf.mixture import corpora_of
from conf.run_folder import CHECKPOINTS, is_finished, read_json, stage_folder, write_json
from conf.schema import Settings
from model.adapters import beside, fingerprint, initial_adapters
from model.build import run_layers
from model.dtypes import DTYPES
from model.flops import parameters
from model.init import init_layer
from model.layer_costs import layer_costs
from model.lora import quantize_frozen
from model.pretrained import open_weights
from model.tokenizer import load_tokenizer
from model.vocabulary import grown
from model.weights import ReadLayer, Weights, load_layer, refuse_damaged
from parallel.engine import Engine, build_engine
from parallel.full_state import WEIGHTS
from parallel.micro_batch import MicroBatch
from parallel.zero import deepspeed_config
from train.checkpoint.files import Keep
from train.checkpoint.load import checkpoint_weights, damage_of, load_checkpoint, newest_checkpoint
from train.checkpoint.save import Saver
from train.context import RunContext, on_main
from train.data.batches import Gap, PassingOver, micro_batches, prefetched
from train.data.mixture import ORDER, samples_read, training_samples
from train.data.parents import refuse_other_tokenizer
from train.data.prepare import PreparedData
from train.optimizer import adamw
from train.schedule import last_stable_step

BASE = "base.json"  # below the folder of a stage of adapters: `fingerprint` of the weights that they adapt


def parent_of(run: Path, name: str, settings: Settings) -> Weights | None:
    """The weights that the stage `name` starts from: those of `init_from`, of the stage before it, or none.

    Errors: `ConfigError` where `init_from` holds none, those of another model, or of another tokenizer.
    """
    stage = settings.stages[name]
    if stage.init_from is None:
        names = list(settings.stages)
        before = names.index(name) - 1
        return open_weights(stage_folder(run, names[before])) if before >= 0 else None
    weights = open_weights(stage.init_from, asked=f"stages.{name}.init_from")
    if problem := shape_problem(settings, name, vars(weights.model)):
        raise ConfigError(problem)
    if weights.tokenizer_folder is not None:
        refuse_other_tokenizer(name, weights.source, weights.tokenizer_folder, load_tokenizer(run / "tokenizer"))
    return _with_new_tokens(name, weights, settings, run / "tokenizer")


def _with_new_tokens(name: str, weights: Weights, settings: Settings, own: Path) -> Weights:
    """`weights` with this run's rows; those of tokens that they were not trained with are the mean of the others.

    Errors: `ConfigError` where the optimizer's state would have to grow as well, or the rows are frozen.
    """
    rows, known = settings.model.vocab_size, weights.model.vocab_size
    if weights.tokenizer_folder is not None:
        before, now = load_tokenizer(weights.tokenizer_folder).vocab_size, load_tokenizer(own).vocab_size
        known = before if now > before or rows > known else known
    if known == rows == weights.model.vocab_size:
        return weights
    if problem := rows_problem(settings, name, weights.source, known):
        raise ConfigError(problem)
    return grown(weights, rows, known)


def open_engine(context: RunContext, name: str, parent: Weights | None) -> tuple[Engine, int]:
    """The stage's engine and the optimizer steps it has behind it.

    A new stage starts from its parent's weights, or from the seed; one that was interrupted from its last checkpoint.
    Errors: `ConfigError` where the checkpoints or the parent's weights are damaged, or a full handover finds none.
    """
    settings, mesh, stage = context.settings, context.mesh, context.settings.stages[name]
    folder = stage_folder(context.folder, name)
    config = deepspeed_config(settings, stage.global_batch_size, mesh.size, context.precision)
    context.write(folder / "deepspeed.json", config)
    own = newest_checkpoint(folder / CHECKPOINTS, mesh, context.log)
    inherited = None
    if own is None and parent is not None and stage.handover is Handover.full:
        inherited = newest_checkpoint(parent.folder / CHECKPOINTS, mesh, context.log)
        if inherited is None:
            raise ConfigError(
                f"stages.{name}.handover=full needs a run's checkpoint in {parent.source}, and there is none"
            )
    if own is not None:
        _refuse_other_order(own)
    if parent is not None and (own is None or is_lora(settings.finetune)):
        refuse_damaged(parent, partial(damage_of, mesh=mesh))
    weights = parent if own is None else checkpoint_weights(own, settings.model, settings.finetune)
    trained = None if weights is None else weights.layer  # what the optimizer steps on
    if is_lora(settings.finetune):
        if parent is not None:
            on_main(mesh, lambda: _keep_to_its_base(folder / BASE, parent, resumes=own is not None))
        weights, trained = adapters_of(name, settings, parent, None if own is None else trained)
        sizes = adapter_parameters(settings.model, settings.finetune), parameters(settings.model)
        context.log("finetune=lora: {:,} parameters are trained, {:,} are frozen".format(*sizes))

    def set_weights(layer: nn.Module, index: int) -> None:
        if weights is None:
            init_layer(layer, index, settings.model, mesh.tp, settings.run.seed)
        else:
            load_layer(weights, layer, index, mesh.tp)
        quantize_frozen(layer, settings.finetune)

    gc.collect()  # DeepSpeed's objects hold each other: the engine before, of a stage or a return, would stay in memory
    engine = build_engine(
        run_layers(settings, mesh.tp, context.kernels),
        set_weights,
        layer_costs(settings, mesh, context.kernels, DTYPES[context.precision], context.log),
        partial(adamw, settings=settings.optimizer, n_layer=settings.model.n_layer, form=context.kernels.optimizer),
        config,
        mesh,
        context.kernels.documents,
        trained_layers(settings),
    )
    if trained is not None and context.precision is not Precision.fp32:  # DeepSpeed's optimizer has rounded ones
        engine.load_full_state(WEIGHTS, trained)
    if inherited is not None:
        load_checkpoint(engine, inherited, settings.model)
    return engine, 0 if own is None else load_checkpoint(engine, own, settings.model, settings.finetune)["step"]


def adapters_of(
    name: str, settings: Settings, parent: Weights | None, saved: ReadLayer | None
) -> tuple[Weights, ReadLayer]:
    """(the frozen weights with their adapters beside them, the adapters): those of a checkpoint, or new ones.

    Errors: `ConfigError` where there are no weights to adapt.
    """
    if parent is None:
        raise ConfigError(f"finetune=lora needs weights to adapt; set stages.{name}.init_from=")
    adapters = saved or initial_adapters(settings.model, settings.finetune, settings.run.seed)
    return beside(parent, adapters), adapters


def _keep_to_its_base(path: Path, base: Weights, resumes: bool) -> None:
    """Errors: `ConfigError` where the weights that a stage's adapters were trained beside have changed since."""
    found = fingerprint(base)
    if resumes and path.is_file() and read_json(path) != found:
        raise ConfigError(
            f"{path.parent} adapts {base.source}, whose weights have changed since it began; bring back those, or "
            "begin under another run.name"
        )
    write_json(path, found)


def _refuse_other_order(checkpoint: Path) -> None:
    """Resuming would read some samples twice and others never. Errors: `ConfigError`."""
    order = read_json(checkpoint / "state.json").get("order", 1)
    if order != ORDER:
        raise ConfigError(
            f"{checkpoint} was written by a version that reads samples in another order ({order}, here {ORDER}); "
            "resume with that version, or begin the stage again under another run.name"
        )


def open_saver(context: RunContext, name: str, engine: Engine, record: Callable[[str, dict[str, Any]], None]) -> Saver:
    """What saves the stage's checkpoints and its weights. record: gets the stage and what a checkpoint cost."""
    run, folder = context.settings.run, stage_folder(context.folder, name)
    keep = Keep(run.keep_checkpoints, run.keep_every, run.keep_best, last_stable_step(context.settings.stages[name]))
    layers = [index for index, trained in enumerate(trained_layers(context.settings)) if trained]
    return Saver(engine, folder / CHECKPOINTS, keep, layers, context.watchdog.beat, partial(record, name))


def stage_batches(context: RunContext, name: str, done: int, gaps: Sequence[Gap]) -> Iterator[MicroBatch]:
    """This process's micro-batches of the stage, from where `done` optimizer steps have left off.

    gaps: positions in the order of the data that are passed over.
    """
    settings, mesh, stage = context.settings, context.mesh, context.settings.stages[name]
    dataset, order = training_samples(settings, context.data, name)
    position = data_position(read_extensions(context.folder, name), done, stage)
    whole, size = PassingOver(order, gaps), settings.layout.micro_batch_size
    batches = micro_batches(dataset, whole, position, size, mesh.dp_rank, mesh.dp_size)
    # the engine takes those of a whole step at a time
    return prefetched(batches, mesh.device.type == "cuda", ahead=stage.global_batch_size // (size * mesh.dp_size))


def check_parents(context: RunContext) -> None:
    """Errors: `ConfigError` as in `parent_of`, for any stage, before the first one is trained."""
    for name, stage in context.settings.stages.items():
        if stage.init_from is not None and not is_finished(context.folder, name):
            parent_of(context.folder, name, context.settings)


def lineage(
    run: Path,
    name: str,
    parent: Weights | None,
    settings: Settings,
    step: int | None = None,
    data: PreparedData | None = None,
) -> dict[str, Any]:
    """Where a stage's weights came from, back to the random ones: what makes nl -> multi -> mono data.

    step: after which the weights are its result, None for the last one. data: what it read; of a stage that ended.
    """
    stage, extensions = settings.stages[name], read_extensions(run, name)
    steps = stage.steps if step is None else step
    samples = samples_done(extensions, steps, stage)
    repositories = {key: data.corpora[key].repositories_read() for key in corpora_of(stage)} if data is not None else {}
    ancestors: list[str] = []
    source = None
    if parent is not None:
        recorded = parent.folder / "lineage.json"  # of a run's stage; what was imported or fetched starts a line
        source = str(parent.folder) if recorded.is_file() else parent.source
        ancestors = read_json(recorded)["lineage"] if recorded.is_file() else [source]
    return {
        "run": str(run),
        "stage": name,
        "corpus": stage.corpus,
        "tokens_of": {
            key: count * settings.model.context_length for key, count in samples_read(stage, samples).items()
        },
        "repositories_of": repositories,
        "parent": source,
        "adapts": fingerprint(parent) if is_lora(settings.finetune) and data is not None and parent else None,
        "handover": None if parent is None else stage.handover.value,
        "steps": steps,
        "tokens": samples * settings.model.context_length,
        "extensions": extensions,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "lineage": [*ancestors, f"{settings.run.name}/{name}"],
    }
