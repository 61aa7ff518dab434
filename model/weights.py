"""One door to whole weights, whoever made them: this stack's runs, `model.huggingface import`, or Hugging Face.

Ours lie in one file a layer, `layer_000.safetensors` (embedding) to `layer_<n_layer + 1>.safetensors` (head), by the
parameter names of `model.codegen.layers`. Everything is checked from the files' headers before a tensor is read.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from conf.choices import Recompute
from conf.compose import load_settings
from conf.errors import ConfigError
from conf.schema import ModelConfig
from model.codegen import layers
from model.hub import local_folder
from model.huggingface import from_huggingface, to_huggingface
from model.huggingface.files import Shape, find_tensors, read_config, read_tensors, readable, shapes_in
from model.huggingface.groups import LAYERS, refuse_wrong_groups
from model.huggingface.settings import mp_num_of, settings_of
from model.kernels import REFERENCE
from model.tokenizer.gpt2 import FILES as TOKENIZER_FILES
from parallel.cross_entropy import LossOptions
from parallel.mesh import TensorParallelGroup

Layer = dict[str, Tensor]
HUB_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", *TOKENIZER_FILES]


@dataclass(frozen=True)
class Weights:
    """Whole weights on disk, checked against `model` and read layer by layer."""

    source: str  # the folder, or the name on the hub
    folder: Path  # on this machine; of a run, its stage's
    model: ModelConfig
    tokenizer_folder: Path | None
    form: str
    read: Callable[[int], Layer]

    @property
    def run(self) -> Path | None:
        """The run whose stage left them; None for weights of another origin."""
        return self.folder.parents[1] if self.folder.parent.name == "stages" else None

    def layer(self, index: int) -> Layer:
        """Whole tensors of layer `index` (0 embedding, 1 to n_layer blocks, n_layer + 1 head) by our names.

        They keep the type that they are stored in. Nothing is kept: memory is one layer's.
        """
        with readable(self.folder):
            return self.read(index)

    def describe(self) -> str:
        """One line: where from, which form, which shape."""
        model = self.model
        return (
            f"{self.source} ({self.form}: n_layer {model.n_layer}, n_embd {model.n_embd}, n_head {model.n_head}, "
            f"vocab_size {model.vocab_size})"
        )


def open_weights(source: str | Path, mp_num: int | None = None) -> Weights:
    """The weights of a run (its last finished stage), one of its stages, an imported folder, or Hugging Face's form.

    The last is a folder with config.json or a name `owner/name` on the hub; `mp_num` is the number of groups in its
    qkv_proj, by default what its config.json or its name says, else 4.
    Errors: `ConfigError`, one line, where it is none of these, or naming every tensor that is missing, extra or of
    another shape.
    """
    folder = local_folder(source, HUB_FILES)
    if (folder / "config.json").is_file():
        return _open_huggingface(str(source), folder, mp_num)
    if (folder / "model.json").is_file():
        model, form = read_model(folder), "imported weights"
    else:
        folder, model = _open_stage(folder)
        form = f"stage {folder.name} of a run"
    read = open_layers(folder / "weights", model)
    holders = [folder / "tokenizer", folder.parents[1] / "tokenizer"]
    tokenizer = next((path for path in holders if path.is_dir()), None)
    return Weights(str(folder), folder, model, tokenizer, form, read)


def open_layers(folder: Path, model: ModelConfig) -> Callable[[int], Layer]:
    """A reader of the whole tensors of `model` that lie in `folder`, a file a layer.

    Errors: `ConfigError` naming every file or tensor that is missing, extra or of another shape.
    """
    paths = {index: folder / layer_file(index) for index in range(model.n_layer + 2)}
    absent = [path.name for path in paths.values() if not path.is_file()]
    if absent:
        raise ConfigError(f"{folder} is not whole: missing {'; '.join(absent)}")
    with readable(folder):
        found = {f"{index}.{name}": one for index, path in paths.items() for name, one in shapes_in(path).items()}
    wanted = {f"{index}.{name}": one for index, layer in enumerate(layer_shapes(model)) for name, one in layer.items()}
    _refuse_differences(folder, found, wanted)
    return lambda index: read_tensors(paths[index])


def layer_file(index: int) -> str:
    """Name of the file of layer `index` in a `weights/` folder."""
    return f"layer_{index:03d}.safetensors"


def write_layer(folder: Path, index: int, layer: Layer) -> None:
    """Write one layer's whole tensors below `folder`."""
    save_file({name: value.contiguous() for name, value in layer.items()}, folder / layer_file(index))


def write_model(folder: Path, model: ModelConfig, source: dict[str, Any]) -> None:
    """Write what makes `folder` imported weights: their architecture, and where they come from."""
    (folder / "model.json").write_text(json.dumps({"model": asdict(model), "source": source}, indent=2) + "\n")


def read_model(folder: Path) -> ModelConfig:
    """The architecture that `write_model` wrote. Errors: `ConfigError`."""
    try:
        values = json.loads((folder / "model.json").read_text())["model"]
        return ModelConfig(**{field.name: values[field.name] for field in fields(ModelConfig)})
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / 'model.json'} does not describe a model ({error}); import it again") from None


def layer_shapes(model: ModelConfig) -> list[dict[str, Shape]]:
    """Shape of every whole parameter by name, layer by layer."""
    with torch.device("meta"):
        builders = layers(
            model, TensorParallelGroup(), REFERENCE, Recompute.none, LossOptions(0.0, 1, TensorParallelGroup())
        )
        first, block, head = (
            {name: tuple(value.shape) for name, value in builders[index]().named_parameters()} for index in (0, 1, -1)
        )
    return [first, *[block] * model.n_layer, head]


def _open_stage(folder: Path) -> tuple[Path, ModelConfig]:
    """A stage's folder and its model; of a run's folder, the last stage that left weights."""
    if (folder / "config.yaml").is_file():
        run = folder
        stages = [run / "stages" / name for name in load_settings(run / "config.yaml").stages]
        finished = [stage for stage in stages if (stage / "weights").is_dir()]
        if not finished:
            raise ConfigError(f"{folder} has not finished any of its stages; there are no weights to take")
        folder = finished[-1]
    elif folder.parent.name == "stages" and (folder.parents[1] / "config.yaml").is_file():
        run = folder.parents[1]
        if not (folder / "weights").is_dir():
            raise ConfigError(f"{folder} has not finished: it holds no weights yet")
    else:
        raise ConfigError(f"{folder} holds no weights: it is no run, no stage, no imported and no Hugging Face folder")
    return folder, load_settings(run / "config.yaml").model


def _open_huggingface(source: str, folder: Path, mp_num: int | None) -> Weights:
    config = read_config(folder)
    model = settings_of(config, source)
    mp_num = mp_num_of(config, source, model, mp_num)
    with readable(folder):
        files = find_tensors(folder)
    names = huggingface_names(model)
    wanted = {name: shape for layer in names for name, shape in layer.items()}
    _refuse_differences(folder, files.shapes, wanted)
    some = range(0, model.n_layer, -(-model.n_layer // LAYERS))
    products = [f"transformer.h.{block}.attn.qkv_proj.weight" for block in some]
    refuse_wrong_groups(source, [files.read([name])[name] for name in products], model, mp_num)

    def read(index: int) -> Layer:
        return from_huggingface(index, files.read(list(names[index])), model, mp_num)

    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "encoder.json"))
    tokenizer = folder if has_tokenizer else None
    return Weights(source, folder, model, tokenizer, f"Hugging Face, mp_num {mp_num}", read)


def huggingface_names(model: ModelConfig) -> list[dict[str, Shape]]:
    """Shape of every tensor by Hugging Face's name, layer by layer."""
    meta = torch.device("meta")
    ours = [{name: torch.empty(one, device=meta) for name, one in layer.items()} for layer in layer_shapes(model)]
    theirs = [to_huggingface(index, layer, model, 1) for index, layer in enumerate(ours)]
    return [{name: tuple(value.shape) for name, value in layer.items()} for layer in theirs]


def _refuse_differences(folder: Path, found: dict[str, Shape], wanted: dict[str, Shape]) -> None:
    wrong = [f"missing {name}" for name in wanted if name not in found]
    wrong += [f"extra {name}" for name in found if name not in wanted]
    wrong += [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if wrong:
        raise ConfigError(f"{folder} does not fit its own settings: {'; '.join(wrong)}")
