"""A stage's adapters, merged when they are read: whole, and as each tensor-parallel rank holds them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conf.choices import Finetune
from conf.errors import ConfigError
from conf.run_folder import LINEAGE, write_json
from conf.schema import FinetuneConfig, ModelConfig, Settings
from model.adapters import beside, fingerprint, initial_adapters
from model.lora import delta
from model.pretrained import open_weights
from model.weights import write_layer
from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import Shard
from tests.model.test_pretrained import write_run

LORA = FinetuneConfig(Finetune.lora, 3, 6.0)


def write_adapters(run: Path, settings: Settings, stage: str) -> list[dict[str, torch.Tensor]]:
    """A run that trained adapters of the stage's `init_from`; they are returned, layer by layer."""
    write_run(run, settings, [])
    folder = run / "stages" / stage / "weights"
    folder.mkdir(parents=True)
    read, generator = initial_adapters(settings.model, settings.finetune, 7), torch.Generator().manual_seed(1)
    layers = [read(index) for index in range(settings.model.n_layer + 2)]
    for index, layer in enumerate(layers):
        for name, value in layer.items():
            if name.endswith("lora_B"):
                value.normal_(generator=generator)
        if layer:
            write_layer(folder, index, layer)
    return layers


def test_adapters_are_merged_into_the_weights_that_they_adapt(
    tmp_path: Path, settings: Settings, tiny: ModelConfig
) -> None:
    whole = write_run(tmp_path / "base", replace(settings, model=tiny), ["nl"])
    stages = {"mono": replace(settings.stages["mono"], init_from=str(tmp_path / "base"))}
    adapted = replace(settings, model=tiny, finetune=LORA, stages=stages)
    layers = write_adapters(tmp_path / "run", adapted, "mono")
    weights = open_weights(tmp_path / "run")
    assert weights.adapters is not None and weights.run == tmp_path / "run"
    for index in (0, 3):
        assert all(torch.equal(value, whole[index][name]) for name, value in weights.layer(index).items())
    d, tp = tiny.n_embd, TensorParallelGroup(2, 1)
    shards = {"in_proj.weight": Shard(0, (d, d, d, 4 * d)), "out_proj.weight": Shard(1, (d, 4 * d))}
    merged, part = weights.layer(2), weights.layer(2, shards, tp)
    for name, shard in shards.items():
        added = delta(layers[2], name.partition(".")[0], tuple(merged[name].shape), LORA)
        assert added is not None and added.abs().min() > 0
        torch.testing.assert_close(merged[name], whole[2][name] + added)
        assert torch.equal(part[name], shard.slice(merged[name], 1, 2))
    assert merged.keys() == whole[2].keys()
    both = beside(open_weights(tmp_path / "base"), weights.adapters.read).layer(2, shards, tp)
    assert both.keys() == whole[2].keys() | layers[2].keys()
    assert beside(open_weights(tmp_path / "base"), weights.adapters.read).layer(0).keys() == whole[0].keys()

    recorded = tmp_path / "run/stages/mono" / LINEAGE
    write_json(recorded, {"adapts": fingerprint(open_weights(tmp_path / "base"))})
    open_weights(tmp_path / "run")
    write_json(recorded, {"adapts": fingerprint(weights)})
    with pytest.raises(ConfigError, match=r"run/stages/mono adapts .*base.* whose weights have changed since; bring"):
        open_weights(tmp_path / "run")
    write_json(recorded, {"adapts": fingerprint(open_weights(tmp_path / "base"))})
    write_layer(tmp_path / "base/stages/nl/weights", 3, {name: value + 1 for name, value in whole[3].items()})
    with pytest.raises(ConfigError, match="have changed since"):
        open_weights(tmp_path / "run")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"run/stages/mono adapts init_from=.*base does not exist"):
        open_weights(tmp_path / "run")


def test_a_stage_adapts_what_the_stage_before_it_left(tmp_path: Path, settings: Settings, tiny: ModelConfig) -> None:
    write_run(tmp_path / "base", replace(settings, model=tiny), ["nl"])
    stages = {"multi": replace(settings.stages["multi"], init_from=str(tmp_path / "base"))}
    stages["mono"] = replace(settings.stages["mono"], init_from=None)
    write_adapters(tmp_path / "run", replace(settings, model=tiny, finetune=LORA, stages=stages), "multi")
    (tmp_path / "run/stages/mono").mkdir()
    shutil.copytree(tmp_path / "run/stages/multi/weights", tmp_path / "run/stages/mono/weights")
    once, twice = (open_weights(tmp_path / "run/stages" / name).layer(1) for name in ("multi", "mono"))
    base = open_weights(tmp_path / "base").layer(1)
    for name in ("in_proj.weight", "out_proj.weight"):
        torch.testing.assert_close(twice[name] - once[name], once[name] - base[name], rtol=1e-4, atol=1e-6)
