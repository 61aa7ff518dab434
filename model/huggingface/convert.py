"""Conversion to and from Hugging Face's form, layer by layer: bit-identical there and back, in one layer's memory."""

import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError
from torch import Tensor

from conf.checksums import seal
from conf.choices import ExportForm, Precision
from conf.errors import ConfigError, reason
from conf.partial_folder import partial_folder, remove_abandoned
from model.dtypes import DTYPES
from model.huggingface import to_huggingface
from model.huggingface.card import model_card
from model.huggingface.checkpoint import FORM, open_huggingface
from model.huggingface.files import read_generation, write_generation
from model.huggingface.gptj import gptj_config, to_gptj
from model.huggingface.peft import BASE, to_peft, write_peft
from model.huggingface.settings import MP_NUM, check_mp_num, config_of
from model.huggingface.shards import ShardWriter
from model.pretrained import open_weights
from model.tokenizer import Tokenizer, load_tokenizer
from model.tokenizer.chat import ChatTemplate
from model.vocabulary import with_rows
from model.weights import Weights, open_native, refuse_damaged, write_layer, write_model

SHARD_BYTES = 5 * 10**9  # of one exported file, unless a single layer is larger


def import_weights(weights: Weights, target: Path, vocab_size: int | None = None) -> Weights:
    """Write `weights` (Hugging Face's form, or any other) to the new folder `target` in this stack's form.

    `vocab_size` cuts rows of the embedding and the head, or adds rows that are the mean of those there are: an added
    row's logit is then the mean of the others', which is never the largest, and training can raise it.
    Returns what was written, opened again. Errors: `ConfigError` where a file of `weights` cannot be read or is
    damaged, or `target` is not empty or cannot be written.
    """
    rows = weights.model.vocab_size if vocab_size is None else vocab_size
    if rows < 1:
        raise ConfigError(f"vocab_size={vocab_size} must be at least 1")
    model = replace(weights.model, vocab_size=rows)
    with new_folder(target) as folder:
        refuse_damaged(weights)
        tokenizer = _copy_tokenizer(weights, folder / "tokenizer")
        if tokenizer is not None and tokenizer.vocab_size > rows:
            raise ConfigError(f"vocab_size={rows} has no room for the {tokenizer.vocab_size} ids of its tokenizer")
        (folder / "weights").mkdir()
        for index in _progress(f"importing {weights.source}", model.n_layer + 2):
            layer = weights.layer(index)
            if index in (0, model.n_layer + 1):
                layer = {name: with_rows(name, value, rows) for name, value in layer.items()}
            write_layer(folder / "weights", index, layer)
        seal(folder / "weights")
        write_generation(folder, read_generation(weights.folder))
        fetched = weights.folder != Path(weights.source) and rows == weights.model.vocab_size
        hub = weights.source if fetched else None  # which holds these very weights
        write_model(folder, model, {"from": weights.source, "form": weights.form, "hub": hub})
    return open_native(target)


def export_weights(
    weights: Weights,
    target: Path,
    mp_num: int,
    dtype: Precision,
    shard_bytes: int = SHARD_BYTES,
    form: ExportForm = ExportForm.codegen,
) -> Weights:
    """Write `weights` to the new folder `target` in Hugging Face's form, with a model card; returns what was written.

    `dtype` auto keeps each tensor's own. transformers reads `mp_num` 4; other values are for other readers, and are
    written to config.json for this one.
    Errors: `ConfigError` where a file of `weights` cannot be read or is damaged, `target` is not empty or cannot be
    written, or a value is beyond `dtype`'s largest.
    """
    model = weights.model
    check_mp_num(mp_num, model)
    gptj = form is ExportForm.gptj  # without groups
    with new_folder(target) as folder:
        refuse_damaged(weights)
        tokenizer = _copy_tokenizer(weights, folder)
        shards, first = ShardWriter(folder, shard_bytes), ""
        for index in _progress(f"exporting {weights.source}", model.n_layer + 2):
            own = weights.layer(index)
            layer = to_gptj(index, own, model) if gptj else to_huggingface(index, own, model, mp_num)
            layer = {name: _cast(name, value, dtype) for name, value in layer.items()}
            first = first or str(next(iter(layer.values())).dtype).removeprefix("torch.")
            shards.add(layer)
        shards.finish()
        config = config_of(model, first, tokenizer.eos if tokenizer else None)
        config = gptj_config(config) if gptj else {**config, "mp_num": mp_num}
        (folder / "README.md").write_text(model_card(weights, form, target.name, mp_num=MP_NUM if gptj else mp_num))
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        own_generation = read_generation(weights.folder)
        write_generation(folder, own_generation or _generation(tokenizer, config["eos_token_id"], folder))
    if gptj:
        return replace(weights, source=str(target), folder=target, form="GPT-J's form")
    return open_huggingface(str(target), target)


def export_adapters(weights: Weights, target: Path, mp_num: int, dtype: Precision) -> Weights:
    """Write the adapters of `weights` to the new folder `target` as PEFT's, with a model card; returns `weights`.

    What they adapt is named by its name on the hub, also where it was imported from there, or else by folder; other
    weights of this stack's own form, which PEFT cannot open, are written beside them, to base/.
    Errors: `ConfigError` where `weights` have none, where `mp_num` is not the base's, or as `export_weights`.
    """
    adapters, model = weights.adapters, weights.model
    if adapters is None:
        raise ConfigError(f"{weights.source} has no adapters, which form=peft is for; use form=codegen")
    check_mp_num(mp_num, model)
    with new_folder(target) as folder:
        refuse_damaged(weights)
        _copy_tokenizer(weights, folder)
        tensors: dict[str, Tensor] = {}
        for index in range(1, model.n_layer + 1):
            own = to_peft(index, adapters.read(index), mp_num)
            tensors |= {name: _cast(name, value, dtype) for name, value in own.items()}
        base, beside = Path(adapters.base), False
        if hub := _imported_from(base, mp_num):
            adapters = replace(adapters, base=hub)
        elif not base.is_dir() or (base / "config.json").is_file():
            open_weights(adapters.base, mp_num)  # refuses another number than that of the base
        else:
            beside = True
            export_weights(open_weights(base), folder / BASE, mp_num, dtype)
        if base.is_dir() and not hub:
            adapters = replace(adapters, base=str((target / BASE if beside else base).absolute()))
        write_peft(folder, tensors, adapters)
        named = replace(weights, adapters=adapters)
        card = model_card(named, ExportForm.peft, target.name, base_beside=beside, mp_num=mp_num)
        (folder / "README.md").write_text(card)
    return replace(weights, source=str(target), folder=target, form="PEFT's adapters")


def _imported_from(base: Path, mp_num: int) -> str | None:
    """The name on the hub of what was imported to the folder `base`, where its qkv_proj has `mp_num` groups there."""
    if not (base / "model.json").is_file():
        return None
    source = json.loads((base / "model.json").read_text())["source"]
    return source.get("hub") if source["form"] == FORM.format(mp_num) else None


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write to that becomes `target` when the block ends without an error, and is removed otherwise.

    Errors: `ConfigError` where `target` exists and is not an empty folder, or the disk does not take it.
    """
    target = Path(os.path.realpath(target))  # `.` has no name, and a link would stay one
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"{target} exists already and is not an empty folder; choose another")
    try:
        remove_abandoned(target.parent, glob.escape(target.name))
        with partial_folder(target) as partial:
            yield partial
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{target} cannot be written: {reason(error).splitlines()[0]}") from None


def _progress(what: str, layers: int) -> Iterable[int]:
    return track(range(layers), what, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def _copy_tokenizer(weights: Weights, folder: Path) -> Tokenizer | None:
    """Save the tokenizer that came with `weights`, where one came, to `folder`, and return it."""
    if weights.tokenizer_folder is None:
        return None
    tokenizer = load_tokenizer(weights.tokenizer_folder)
    tokenizer.save(folder)
    return tokenizer


def _generation(tokenizer: Tokenizer | None, eos: int | None, folder: Path) -> dict[str, Any]:
    """What transformers' `generate` is told by default of a model that came without it: its tokens that begin, end and
    pad a text, and that end an answer where the chat template says it. folder: with the tokenizer as it was saved.
    """
    if eos is None:
        return {}
    generation: dict[str, Any] = {"bos_token_id": eos, "eos_token_id": eos}
    if tokenizer is None:
        return generation
    pad = json.loads((folder / "tokenizer_config.json").read_text()).get("pad_token")
    if pad in tokenizer.special_tokens:
        generation["pad_token_id"] = tokenizer.special_tokens[pad]
    if tokenizer.chat_template is not None:
        with suppress(ConfigError):  # a template of another origin
            generation["eos_token_id"] = [eos, *sorted(ChatTemplate(tokenizer).ends)]
    return generation


def _cast(name: str, value: Tensor, dtype: Precision) -> Tensor:
    cast = value if dtype is Precision.auto else value.to(DTYPES[dtype])
    if cast.dtype is torch.float16 and not cast.isfinite().all() and value.isfinite().all():
        raise ConfigError(f"{name} has a value of {value.abs().max():.3g}, beyond fp16's 65504; use dtype=bf16 or fp32")
    return cast
