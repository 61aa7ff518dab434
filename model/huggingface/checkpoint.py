"""Weights in Hugging Face's form, read layer by layer under this stack's names, whole or one rank's slices."""

from pathlib import Path

from conf.errors import ConfigError
from conf.schema import ModelConfig
from model.build import ALONE
from model.huggingface import huggingface_shapes, layer_regions
from model.huggingface.files import find_tensors, read_config
from model.huggingface.groups import LAYERS, refuse_wrong_groups
from model.huggingface.settings import mp_num_of, settings_of
from model.tensor_files import Region, TensorFiles, readable
from model.tokenizer import has_tokenizer
from model.weights import NO_SHARDS, Layer, Piece, Shards, Weights, pieces_of, refuse_differences
from parallel.mesh import TensorParallelGroup

ADAPTERS = "adapter_config.json"
FORM = "Hugging Face, mp_num {}"


def open_huggingface(source: str, folder: Path, mp_num: int | None = None) -> Weights:
    """The weights in `folder`, which the user named `source`; `mp_num`: groups in qkv_proj, as `mp_num_of` takes it.

    A rank's slices of any tensor are ranges of rows or columns in the files (of qkv_proj, one range a group), and only
    these are read; a .bin file in torch's old format is read whole for each layer (importing it makes it fast to read).
    Errors: `ConfigError` for another family, a wrong `mp_num`, or naming every tensor that does not fit.
    """
    if (folder / ADAPTERS).is_file():
        raise ConfigError(
            f"{source} holds adapters of PEFT ({ADAPTERS}); merge them with PEFT (merge_and_unload, save_pretrained), "
            "or take the weights alone from another folder"
        )
    config = read_config(folder)
    model = settings_of(config, source)
    mp_num = mp_num_of(config, source, model, mp_num)
    with readable(folder):
        files = find_tensors(folder)
    refuse_differences(
        folder, files.shapes, {name: shape for layer in huggingface_shapes(model) for name, shape in layer.items()}
    )
    _check_groups(files, source, model, mp_num)
    groups = mp_num

    def read(index: int, shards: Shards = NO_SHARDS, tp: TensorParallelGroup = ALONE) -> Layer:
        regions = layer_regions(index, model, groups)
        for name, shard in shards.items():
            if shard is not None and name in regions:
                regions[name] = cut_regions(regions[name], pieces_of(shard, tp), shard.dim)
        return files.read_joined(regions)

    tokenizer = folder if has_tokenizer(folder) else None
    return Weights(source, folder, model, tokenizer, FORM.format(mp_num), read)


def cut_regions(regions: list[Region], pieces: list[Piece], dim: int) -> list[Region]:
    """The regions that make the `pieces` of the tensor that `regions`, joined along `dim`, make."""
    cut = []
    for first, end in pieces:
        offset = 0  # of the region in the joined tensor
        for region in regions:
            if region.dim != dim:
                raise ValueError(f"{region.name} is joined along dimension {region.dim} and cannot be cut along {dim}")
            length = region.stop - region.start
            start, stop = max(first - offset, 0), min(end - offset, length)
            if start < stop:
                cut.append(Region(region.name, dim, region.start + start, region.start + stop))
            offset += length
    return cut


def _check_groups(files: TensorFiles, source: str, model: ModelConfig, mp_num: int) -> None:
    """Errors: `ConfigError` where the weights of a few layers speak against `mp_num`."""
    blocks = range(0, model.n_layer, -(-model.n_layer // LAYERS))
    names = [f"transformer.h.{block}.attn.qkv_proj.weight" for block in blocks]
    refuse_wrong_groups(source, [files.read([name])[name] for name in names], model, mp_num)
