"""The cost of each layer in the unit that layout.balance names."""

from dataclasses import replace

import pytest
import torch

from conf.choices import Balance
from conf.schema import ModelConfig, Settings
from model.flops import layer_flops, layer_parameters
from model.kernels import REFERENCE
from model.layer_costs import layer_costs
from parallel.mesh import ProcessMesh, single_process_mesh


def costs(settings: Settings, model: ModelConfig, balance: Balance, mesh: ProcessMesh, log: list[str]) -> list[float]:
    changed = replace(settings, model=model, layout=replace(settings.layout, balance=balance))
    return layer_costs(changed, mesh, REFERENCE, torch.float32, log.append)


@pytest.mark.parametrize(("balance", "count"), [(Balance.flops, layer_flops), (Balance.parameters, layer_parameters)])
def test_counted_costs(settings: Settings, tiny: ModelConfig, balance: Balance, count: object) -> None:
    assert costs(settings, tiny, balance, single_process_mesh(), []) == count(tiny)  # type: ignore[operator]


def test_measured_costs_are_seconds_of_each_kind_of_layer(
    settings: Settings, tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh, log = replace(single_process_mesh(), pp_size=2), []
    monkeypatch.setattr(ProcessMesh, "broadcast_object", lambda self, value: value)  # one process in the world
    embedding, first, second, head = costs(settings, replace(tiny, n_layer=2), Balance.time, mesh, log)
    assert embedding > 0 and first == second > 0 and head > 0
    assert "seconds of a layer, forward and backward: embedding" in log[0]
