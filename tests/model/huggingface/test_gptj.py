"""An export as GPT-J is loaded by transformers' GPT-J and computes what CodeGen does."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTJForCausalLM

from conf.choices import ExportForm, Precision
from conf.errors import ConfigError
from model.huggingface.convert import export_weights
from model.pretrained import open_weights
from tests.model.huggingface.random_models import random_model, save

SIZES = {
    "mp_num 4": {},
    "one group of heads": {"n_head": 4, "n_embd": 32},
    "rotary over whole heads": {"rotary_dim": 8},
}


@pytest.mark.parametrize("size", SIZES)
def test_logits_are_those_of_codegen(size: str, tmp_path: Path) -> None:
    source = random_model(**SIZES[size])
    save(source, tmp_path / "source")
    made = export_weights(
        open_weights(tmp_path / "source"), tmp_path / "gptj", 4, Precision.auto, 100_000, ExportForm.gptj
    )
    assert made.describe().startswith(f"{tmp_path / 'gptj'} (GPT-J's form: n_layer 2")
    served, report = AutoModelForCausalLM.from_pretrained(tmp_path / "gptj", output_loading_info=True)
    assert isinstance(served, GPTJForCausalLM)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    ids = torch.randint(0, 400, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(served.eval()(ids).logits, source(ids).logits, rtol=1e-5, atol=1e-5)


def test_it_is_not_taken_for_codegen(tmp_path: Path) -> None:
    save(random_model(), tmp_path / "source")
    export_weights(open_weights(tmp_path / "source"), tmp_path / "gptj", 4, Precision.auto, form=ExportForm.gptj)
    with pytest.raises(ConfigError, match="is a gptj model; only codegen's form can be read"):
        open_weights(tmp_path / "gptj")
