"""Weights by the name a user gives: a run, a stage, an imported folder, a Hugging Face folder or a name on the hub."""

from dataclasses import replace
from pathlib import Path

from conf.errors import ConfigError
from conf.run_folder import LINEAGE, read_json
from model.adapters import fingerprint, merge
from model.hub import local_folder
from model.huggingface.checkpoint import ADAPTERS, open_huggingface
from model.huggingface.files import GENERATION
from model.tokenizer import FILES as TOKENIZER_FILES
from model.weights import Weights, open_native

HUB_FILES = [
    "config.json",
    GENERATION,
    ADAPTERS,
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "*.bin.index.json",
    *TOKENIZER_FILES,
]


def open_weights(source: str | Path, mp_num: int | None = None, asked: str = "source") -> Weights:
    """The weights of a run (its last finished stage), one of its stages, an imported folder, or Hugging Face's form.

    The last is a folder with config.json or a name `owner/name` on the hub; `mp_num` is the number of groups in its
    qkv_proj, by default what its config.json or its name says, else 4. asked: the setting, for messages. A stage's
    adapters are merged into the weights that they adapt, which must still be there.
    Errors: `ConfigError`, one line, where it is none of these, where the weights that adapters adapt have changed, or
    naming every tensor that is missing, extra or of another shape.
    """
    folder = local_folder(source, HUB_FILES, asked)
    if (folder / "config.json").is_file() or (folder / ADAPTERS).is_file():
        return open_huggingface(str(source), folder, mp_num)
    if mp_num is not None:
        raise ConfigError(f"mp_num={mp_num} is for Hugging Face's form, which {source} is not; leave it out")
    weights = open_native(folder)
    if weights.adapters is None:
        return weights
    base = open_weights(weights.adapters.base, asked=f"{weights.folder} adapts init_from")
    recorded = read_json(weights.folder / LINEAGE).get("adapts") if (weights.folder / LINEAGE).is_file() else None
    if recorded is not None and recorded != fingerprint(base):
        raise ConfigError(
            f"{weights.folder} adapts {base.source}, whose weights have changed since; bring back those that it was "
            "trained on, or train it again"
        )
    return replace(weights, read=merge(weights.adapters, base), sealed=(*weights.sealed, *base.sealed))
