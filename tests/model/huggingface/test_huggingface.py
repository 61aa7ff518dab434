"""Each parameter is made of the rows and columns of Hugging Face's tensors that it should be."""

import pytest
import torch

from conf.schema import ModelConfig
from model.huggingface import from_huggingface, huggingface_shapes, layer_regions, to_huggingface
from model.huggingface.settings import settings_of
from tests.model.huggingface.random_models import random_model
from tests.twin import initial_weights


@pytest.fixture(scope="module")
def model() -> ModelConfig:
    return settings_of(random_model().config.to_dict(), "random")


def test_names_and_shapes_are_those_of_transformers(model: ModelConfig) -> None:
    theirs = {name: tuple(value.shape) for name, value in random_model().named_parameters()}
    assert {name: shape for layer in huggingface_shapes(model) for name, shape in layer.items()} == theirs


@pytest.mark.parametrize("mp_num", [1, 2, 4, 8])
def test_there_and_back_is_the_same(model: ModelConfig, mp_num: int) -> None:
    for index, layer in enumerate(initial_weights(model, seed=5)):
        theirs = to_huggingface(index, layer, model, mp_num)
        back = from_huggingface(index, theirs, model, mp_num)
        assert back.keys() == layer.keys() == layer_regions(index, model, mp_num).keys()
        assert all(torch.equal(back[name], layer[name]) for name in layer)


def test_a_group_holds_q_then_v_then_k(model: ModelConfig) -> None:
    """The view of facts in Hugging Face's own code: `[mp, 3, heads / mp, head_dim, n_embd]`, value in the middle."""
    d, mp = model.n_embd, 4
    layer = initial_weights(model, seed=5)[1]
    stored = to_huggingface(1, layer, model, mp)["transformer.h.0.attn.qkv_proj.weight"]
    groups = stored.view(mp, 3, model.n_head // mp, model.head_dim, d)
    q, k, v = layer["in_proj.weight"][: 3 * d].view(3, mp, model.n_head // mp, model.head_dim, d)
    for place, part in enumerate((q, v, k)):
        assert torch.equal(groups[:, place], part)
