"""What a run reads, checked before it is started or submitted: corpora, tokenizer, parents, benchmarks."""

import glob
import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from conf.benchmarks import benchmark_command
from conf.choices import INFILL_TOKENS, READ_BY_PATH, Objective
from conf.errors import ConfigError
from conf.lora import nothing_to_adapt, rows_problem
from conf.run_folder import CONFIG, STAGES, WEIGHTS
from conf.schema import ModelConfig, Settings
from conf.sources import is_hub_name

TOKENIZER_KINDS = ("codegen", "codegen2", "gpt2", "sentencepiece")
SHAPE = ("n_layer", "n_embd", "n_head", "rotary_dim", "vocab_size", "layer_norm_epsilon")  # what weights depend on


def check_inputs(settings: Settings) -> None:
    """Errors: `ConfigError` for the first corpus, tokenizer, parent or benchmark that is not there or does not fit."""
    for problem in chain(_corpora(settings), _tokenizer(settings), _infilling(settings), _parents(settings)):
        raise ConfigError(problem)
    for name, task in settings.evaluation.tasks.items():
        benchmark_command(name, task, settings.model.context_length)


def _corpora(settings: Settings) -> Iterator[str]:
    for name, stage in settings.stages.items():
        corpus = settings.data.corpora[stage.corpus]
        key = f"data.corpora.{stage.corpus}.paths"
        if corpus.source in READ_BY_PATH and not corpus.paths:
            yield f"stage {name} trains on corpus {stage.corpus}, which has no documents yet; set {key}=[...]"
    for name, corpus in settings.data.corpora.items():
        for path in corpus.paths if corpus.source in READ_BY_PATH else []:
            if "://" in path or Path(path).exists() or (glob.has_magic(path) and glob.glob(path, recursive=True)):
                continue
            what = "matches no file" if glob.has_magic(path) else "does not exist"
            yield f"data.corpora.{name}.paths: {path} {what}"


def _tokenizer(settings: Settings) -> Iterator[str]:
    tokenizer = settings.data.tokenizer
    if tokenizer.kind not in TOKENIZER_KINDS:
        yield f"data.tokenizer.kind={tokenizer.kind} does not exist; there are {', '.join(TOKENIZER_KINDS)}"
    if tokenizer.path is not None and not is_hub_name(tokenizer.path) and not any(Path(tokenizer.path).iterdir()):
        yield f"data.tokenizer.path={tokenizer.path} is an empty folder"


def _infilling(settings: Settings) -> Iterator[str]:
    if settings.data.objective is not Objective.infill:
        return
    for name in ("infill_fraction", "infill_span"):
        value = getattr(settings.data, name)
        if not 0 < value <= 1:
            yield f"data.{name}={value} must be above 0 and at most 1"
    if settings.model.context_length <= INFILL_TOKENS:
        yield (
            f"model.context_length={settings.model.context_length} has no room for data.objective=infill, which adds "
            f"{INFILL_TOKENS} tokens to a document"
        )
    if settings.data.tokenizer.kind in ("codegen", "gpt2"):
        yield (
            f"data.objective=infill needs <mask_1>, <sep> and <eom>, which data.tokenizer.kind="
            f"{settings.data.tokenizer.kind} does not have; use codegen2"
        )


def _parents(settings: Settings) -> Iterator[str]:
    yield from nothing_to_adapt(settings)
    for name, stage in settings.stages.items():
        if stage.init_from is None or is_hub_name(stage.init_from):
            continue
        folder, key = Path(stage.init_from), f"stages.{name}.init_from={stage.init_from}"
        if (folder / CONFIG).is_file() and not any((folder / STAGES).glob(f"*/{WEIGHTS}")):
            yield f"{key} is a run of which no stage is finished; wait for it, or take another"
        yield from model_differences(settings, name, folder)


def model_differences(settings: Settings, name: str, folder: Path) -> Iterator[str]:
    """A line where the weights in `folder`, from which the stage `name` starts, are of another model."""
    source, found = settings.stages[name].init_from or "", _model_of(folder)
    if problem := shape_problem(settings, name, found):
        yield problem
    if _grows(settings.model, found) and (problem := rows_problem(settings, name, source, found["vocab_size"])):
        yield problem


def shape_problem(settings: Settings, name: str, found: Mapping[str, Any]) -> str | None:
    """Why weights of the sizes `found`, from which the stage `name` starts, do not fit the model; None where they do.

    A size that is not told is not compared. The vocabulary may be smaller: it grows.
    """
    different = [
        f"model.{part} is {found[part]} there and {getattr(settings.model, part)} here"
        for part in SHAPE
        if part in found
        and found[part] != getattr(settings.model, part)
        and not (part == "vocab_size" and _grows(settings.model, found))
    ]
    source = settings.stages[name].init_from
    return f"stages.{name}.init_from={source} holds another model: {', '.join(different)}" if different else None


def _grows(model: ModelConfig, found: Mapping[str, Any]) -> bool:
    return isinstance(found.get("vocab_size"), int) and found["vocab_size"] < model.vocab_size


def _model_of(folder: Path) -> dict[str, Any]:
    """The model's sizes as a run's, an imported or a Hugging Face folder tells them; empty where none does."""
    run = folder if (folder / CONFIG).is_file() else folder.absolute().parent.parent
    if (run / CONFIG).is_file():
        return dict(OmegaConf.select(OmegaConf.load(run / CONFIG), "model") or {})
    for name in ("model.json", "config.json"):
        if (folder / name).is_file():
            try:
                values = json.loads((folder / name).read_text(encoding="utf-8"))
                return dict(values.get("model", values))
            except (AttributeError, TypeError, ValueError):  # whoever opens it says what is wrong
                return {}
    return {}
