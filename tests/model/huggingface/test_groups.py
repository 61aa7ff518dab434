"""A wrong number of groups is recognised in weights that were trained, and never in weights that were not."""

from pathlib import Path

import pytest
import torch

from conf.choices import Precision
from conf.errors import ConfigError
from model.huggingface.convert import export_weights
from model.huggingface.groups import explained, refuse_wrong_groups
from model.pretrained import open_weights
from tests.model.huggingface.random_models import random_model, save

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks after 100 steps on the bytes of this repository's sources."""
    text = b"".join(path.read_bytes() for path in sorted((ROOT / "model").rglob("*.py")))
    data, chance = torch.tensor(list(text)), torch.Generator().manual_seed(0)
    model = random_model(vocab_size=256, n_positions=64).train()
    model.apply(model._init_weights)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(100):
        starts = torch.randint(0, len(data) - 64, (4,), generator=chance).tolist()
        ids = torch.stack([data[start : start + 64] for start in starts])
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return save(model, tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("true", [4, 8])
def test_a_wrong_number_is_refused_in_trained_weights(tmp_path: Path, trained: Path, true: int) -> None:
    export_weights(open_weights(trained), tmp_path / "made", true, Precision.auto)
    config = tmp_path / "made/config.json"
    config.write_text(config.read_text().replace(f'"mp_num": {true}', '"other": 0'))
    assert open_weights(tmp_path / "made", true).model.n_head == 8
    for wrong in {1, 2, 4, 8} - {true}:
        with pytest.raises(ConfigError, match=rf"mp_num={wrong} does not fit .*; write mp_num={true}"):
            open_weights(tmp_path / "made", wrong)


def test_initial_weights_are_taken_with_any_number(tmp_path: Path) -> None:
    model = random_model(n_layer=4)
    model.apply(model._init_weights)
    save(model, tmp_path)
    for number in (1, 2, 4, 8):
        assert open_weights(tmp_path, number).model.n_layer == 4


def test_the_share_is_one_where_kinds_differ_alone_and_small_by_chance() -> None:
    kinds = (
        torch.tensor([1.0, 2.0, 3.0]).repeat_interleave(2).repeat(3, 4)
    )  # [3 layers, 4 groups of 3 kinds of 2 heads]
    assert explained(kinds, 4) == pytest.approx(1)
    assert explained(kinds, 8) < 0.5
    chance = torch.rand(3, 24, generator=torch.Generator().manual_seed(0)) + 1
    assert all(explained(chance, number) < 0.4 for number in (1, 2, 4, 8))


def test_heads_of_zeros_tell_nothing(tmp_path: Path, trained: Path) -> None:
    """Pruned heads, or ones that were added: their norms are far from any other's."""
    weights, whole = open_weights(trained), refuse_wrong_groups
    read = [weights.layer(index)["in_proj.weight"][: 3 * 64].clone() for index in (1, 2)]
    model, d, empty = weights.model, weights.model.n_embd, slice(-2 * weights.model.head_dim, None)
    released = []
    for one in read:
        q, k, v = (part.clone() for part in one[: 3 * d].split(d))
        for part in (q, k, v):
            part[empty] = 0
        parts = torch.stack([part.view(4, -1, d) for part in (q, v, k)], dim=1)
        released.append(parts.reshape(3 * d, d))
    whole("a", released, model, 4)
    with pytest.raises(ConfigError, match="write mp_num=4"):
        whole("a", released, model, 8)
    whole("a", [torch.zeros_like(one) for one in released], model, 8)
