"""Weights of a model on disk, read layer by layer, whole or one tensor-parallel rank's slices; and this stack's format.

The format is one file a layer, `layer_000.safetensors` (embedding) to `layer_<n_layer + 1>.safetensors` (head), whole
tensors by the parameter names of `model.codegen`. Everything is checked from the files' headers before a tensor is
read. `model.pretrained.open_weights` opens this form and Hugging Face's alike.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from conf.checksums import NO_STATE, damage
from conf.compose import load_settings
from conf.errors import ConfigError
from conf.lora import is_lora
from conf.run_folder import BEST
from conf.schema import FinetuneConfig, ModelConfig, Settings
from model.build import ALONE, FULL, layer_shapes
from model.tensor_files import Region, Shape, join_regions, read_regions, read_tensors, readable, shapes_in
from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import Shard, shard_of

Layer = dict[str, Tensor]
Shards = Mapping[str, Shard | None]  # how each parameter is cut; None or absent: not at all
Piece = tuple[int, int]  # from and up to a position along the dimension that a tensor is cut in
NO_SHARDS: Shards = {}


class ReadLayer(Protocol):
    """Reads a layer's tensors by our names: those in `shards` as `tp.rank`'s slices, the others whole."""

    def __call__(self, index: int, shards: Shards = NO_SHARDS, tp: TensorParallelGroup = ALONE) -> Layer:
        """See the class."""
        ...


@dataclass(frozen=True)
class Adapters:
    """Adapters on disk. base: the weights that they adapt, as `model.pretrained.open_weights` takes them."""

    base: str
    finetune: FinetuneConfig
    read: ReadLayer


@dataclass(frozen=True)
class Weights:
    """The weights of a whole model on disk, checked against `model`.

    adapters: of a stage that trained some; they are merged into what `layer` returns.
    sealed: the folders of this stack's form that are read; `refuse_damaged` compares their files' checksums.
    """

    source: str  # the folder, or the name on the hub
    folder: Path  # on this machine; of a run, its stage's
    model: ModelConfig
    tokenizer_folder: Path | None
    form: str
    read: ReadLayer
    adapters: Adapters | None = None
    sealed: tuple[Path, ...] = ()

    @property
    def run(self) -> Path | None:
        """The run whose stage they are the result of; None for weights of another origin."""
        return self.folder.parent.parent if self.folder.parent.name == "stages" else None

    def layer(self, index: int, shards: Shards = NO_SHARDS, tp: TensorParallelGroup = ALONE) -> Layer:
        """Tensors of layer `index` (0 embedding, 1 to n_layer blocks, n_layer + 1 head) by our names.

        Whole, or of each parameter in `shards` the slices that `tp.rank` holds: then only those are read from the
        file. They keep the type that they are stored in. Nothing is kept: memory is one layer's.
        """
        with readable(self.folder):
            return self.read(index, shards, tp)

    def describe(self) -> str:
        """One line: where from, which form, which shape."""
        model = self.model
        return (
            f"{self.source} ({self.form}: n_layer {model.n_layer}, n_embd {model.n_embd}, n_head {model.n_head}, "
            f"vocab_size {model.vocab_size})"
        )


def refuse_damaged(weights: Weights, damage: Callable[[Path], str | None] = damage) -> None:
    """Errors: `ConfigError`, one line, where a file of `weights` is not as it was written.

    Whoever reads all layers calls it before, and not `Weights.layer` as it reads: a tensor-parallel rank reads
    slices, and replicas the same ones, so that each would have to read every file whole. damage: what is wrong with a
    folder; `damage` reads it in this process, `train.checkpoint.load.damage_of` in all of them together, a byte once.
    Folders without checksums, of earlier versions, are not read.
    """
    for folder in weights.sealed:
        found = damage(folder)
        if found is None or found == NO_STATE:
            continue
        cure = "import it again"
        if folder.parent.parent.name == "stages":
            cure = (
                f"delete it and {folder.parent / BEST} and launch its run again, which (without patience) writes them "
                "from the stage's last checkpoint"
            )
        raise ConfigError(f"{folder} is damaged: {found}; bring it back from a copy, or {cure}")


def load_layer(weights: Weights, layer: nn.Module, index: int, tp: TensorParallelGroup) -> None:
    """Set the parameters of layer `index`, in place; of each, only this rank's slices are read.

    Errors: ValueError naming the tensors that are missing, extra or of another shape.
    """
    parameters = dict(layer.named_parameters())
    found = weights.layer(index, {name: shard_of(value) for name, value in parameters.items()}, tp)
    wrong = [f"missing {name}" for name in sorted(parameters.keys() - found.keys())]
    wrong += [f"extra {name}" for name in sorted(found.keys() - parameters.keys())]
    for name in sorted(found.keys() & parameters.keys()):
        value, parameter = found[name], parameters[name]
        if value.shape != parameter.shape:
            wrong.append(f"{name} is {list(value.shape)}, which does not fit {list(parameter.shape)}")
            continue
        with torch.no_grad():
            parameter.copy_(value)
    if wrong:
        raise ValueError(f"{weights.source}, layer {index}: {'; '.join(wrong)}")


def pieces_of(shard: Shard, tp: TensorParallelGroup) -> list[Piece]:
    """Where the slices of `tp.rank` lie in the whole parameter along `shard.dim`: one piece a part."""
    pieces, start = [], 0
    for part in shard.parts:
        length = part // tp.size
        pieces.append((start + tp.rank * length, start + (tp.rank + 1) * length))
        start += part
    return pieces


def memory_reader(layers: Sequence[Layer]) -> ReadLayer:
    """A reader of whole layers that are in memory."""

    def read(index: int, shards: Shards = NO_SHARDS, tp: TensorParallelGroup = ALONE) -> Layer:
        cut = {name: shards.get(name) for name in layers[index]}
        return {
            name: value if (shard := cut[name]) is None else shard.slice(value, tp.rank, tp.size)
            for name, value in layers[index].items()
        }

    return read


def open_native(folder: Path) -> Weights:
    """The weights of a run (its last finished stage), of one of its stages, or of an imported folder.

    Of a stage that trained adapters they are these alone: `model.adapters.merge` makes whole weights of them.
    Errors: `ConfigError`, one line, where it is none of these, or naming every tensor that is missing, extra or of
    another shape.
    """
    tokenizer = folder / "tokenizer"
    if (folder / "model.json").is_file():
        model, finetune, form = read_model(folder), FULL, "imported weights"
    else:
        folder, settings = _find_stage(folder)
        tokenizer = folder.parent.parent / "tokenizer"  # the run's
        model, finetune, form = settings.model, settings.finetune, f"stage {folder.name} of a run"
    files = folder / "weights"
    read = open_layers(files, model, finetune)
    adapters = Adapters(_base_of(folder, settings), finetune, read) if is_lora(finetune) else None
    own_tokenizer = tokenizer if tokenizer.is_dir() else None
    return Weights(str(folder), folder, model, own_tokenizer, form, read, adapters, (files,))


def open_layers(folder: Path, model: ModelConfig, finetune: FinetuneConfig = FULL) -> ReadLayer:
    """A reader of the tensors of `model` that are trained in `folder`, a file a layer.

    Errors: `ConfigError` naming every file or tensor that is missing, extra or of another shape.
    """
    shapes = layer_shapes(model, finetune)
    paths = {index: folder / layer_file(index) for index, layer in enumerate(shapes) if layer}
    absent = [path.name for path in paths.values() if not path.is_file()]
    if absent:
        raise ConfigError(f"{folder} is not whole: missing {'; '.join(absent)}")
    with readable(folder):
        found = {f"{index}.{name}": one for index, path in paths.items() for name, one in shapes_in(path).items()}
    expected = {f"{index}.{name}": shape for index, layer in enumerate(shapes) for name, shape in layer.items()}
    refuse_differences(folder, found, expected)
    return layers_in(folder)


def layers_in(folder: Path) -> ReadLayer:
    """A reader of the tensors in `folder`, a file a layer, unchecked."""

    def read(index: int, shards: Shards = NO_SHARDS, tp: TensorParallelGroup = ALONE) -> Layer:
        path = folder / layer_file(index)
        sliced = {name: shard for name, shard in shards.items() if shard is not None}
        if not sliced:
            return read_tensors(path)
        stored = shapes_in(path)
        wanted = {
            name: [Region(name, shard.dim, start, stop) for start, stop in pieces_of(shard, tp)]
            for name, shard in sliced.items()
            if name in stored and stored[name][shard.dim] == sum(shard.parts)
        }
        parts = read_regions(path, [region for regions in wanted.values() for region in regions])
        others = [name for name in stored if name not in wanted]
        whole = read_tensors(path, others) if others else {}
        return whole | join_regions(wanted, lambda region: parts[region])

    return read


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


def refuse_differences(folder: Path, found: dict[str, Shape], expected: dict[str, Shape]) -> None:
    """Errors: `ConfigError` naming every tensor of `folder` that is missing, extra or of another shape."""
    wrong = [f"missing {name}" for name in expected if name not in found]
    wrong += [f"extra {name}" for name in found if name not in expected]
    wrong += [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if wrong:
        raise ConfigError(f"{folder} does not fit its own settings: {'; '.join(wrong)}")


def _base_of(stage: Path, settings: Settings) -> str:
    """What the adapters of a stage adapt."""
    names = list(settings.stages)
    return settings.stages[stage.name].init_from or str(stage.with_name(names[names.index(stage.name) - 1]))


def _find_stage(folder: Path) -> tuple[Path, Settings]:
    """A stage's folder and its run's settings; of a run's folder, the last stage that has weights."""
    if folder.parent.name != "stages" and (here := Path(os.path.abspath(folder))).parent.name == "stages":
        folder = here  # `nl`, written within stages/
    if (folder / "config.yaml").is_file():
        run = folder
        stages = [run / "stages" / name for name in load_settings(run / "config.yaml").stages]
        finished = [stage for stage in stages if (stage / "weights").is_dir()]
        if not finished:
            raise ConfigError(f"{folder} has not finished any of its stages; there are no weights to take")
        folder = finished[-1]
    elif folder.parent.name == "stages" and (folder.parent.parent / "config.yaml").is_file():
        run = folder.parent.parent
        if not (folder / "weights").is_dir():
            raise ConfigError(f"{folder} has not finished: it holds no weights yet")
    else:
        raise ConfigError(f"{folder} holds no weights: it is no run, no stage, no imported and no Hugging Face folder")
    return folder, load_settings(run / "config.yaml")
