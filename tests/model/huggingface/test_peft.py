"""Exported adapters are loaded by PEFT and compute what the run does; merged, transformers computes it alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from conf.choices import Precision
from conf.errors import ConfigError
from conf.schema import Settings
from model.build import ALONE, build_layers
from model.huggingface.__main__ import main
from model.huggingface.convert import export_adapters
from model.pretrained import open_weights
from model.weights import load_layer
from parallel.engine import Stack
from tests.model.huggingface.random_models import random_model, save
from tests.model.test_adapters import LORA, write_adapters


@pytest.mark.parametrize("targets", [["qkv_proj", "out_proj", "fc_in", "fc_out"], ["qkv_proj"]])
def test_logits_are_the_runs_by_peft_and_merged(
    targets: list[str], tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    released = save(random_model(mp_num=4), tmp_path / "released")
    model = open_weights(released).model
    stages = {"mono": replace(settings.stages["mono"], init_from=str(released))}
    finetune = replace(LORA, targets=targets)
    write_adapters(tmp_path / "run", replace(settings, model=model, finetune=finetune, stages=stages), "mono")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "adapters"), "form=peft"]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "merged")]) == 0
    with safe_open(tmp_path / "adapters/adapter_model.safetensors", "pt") as file:
        assert len(list(file.keys())) == 2 * 2 * len(targets)
    if len(targets) == 1:
        assert main(["export", str(tmp_path / "run"), str(tmp_path / "eight"), "form=peft", "mp_num=8"]) == 2
        assert "mp_num=8 is not that of" in capsys.readouterr().err and not (tmp_path / "eight").exists()
    card = (tmp_path / "adapters/README.md").read_text()
    assert "names released by its path on the machine" in card and str(tmp_path) not in card
    assert "library_name: peft" in card and 'AutoPeftModelForCausalLM.from_pretrained("adapters")' in card

    layers, weights = [build() for build in build_layers(model)], open_weights(tmp_path / "run")
    for index, layer in enumerate(layers):
        load_layer(weights, layer, index, ALONE)
    ids = torch.randint(0, 400, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        stack = Stack(*layers).eval()
        own = torch.nn.functional.linear(stack(ids), layers[-1].weight, layers[-1].bias)
        base = AutoModelForCausalLM.from_pretrained(released).eval()(ids).logits
        adapted = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapters").eval()(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(ids).logits
    assert (adapted - base).abs().max() > 100 * 1e-4, "adapters must do far more than the tolerance below"
    torch.testing.assert_close(adapted, own, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(merged, own, rtol=1e-5, atol=1e-5)


def test_a_base_that_peft_cannot_open_is_written_beside(tmp_path: Path, settings: Settings) -> None:
    released, own, target = save(random_model(), tmp_path / "released"), tmp_path / "own", tmp_path / "adapters"
    assert main(["import", str(released), str(own)]) == 0
    stages = {"mono": replace(settings.stages["mono"], init_from=str(own))}
    model = open_weights(own).model
    write_adapters(tmp_path / "run", replace(settings, model=model, finetune=LORA, stages=stages), "mono")
    assert main(["export", str(tmp_path / "run"), str(target), "form=peft"]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "merged")]) == 0
    ids = torch.randint(0, 400, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(ids).logits
        named = AutoPeftModelForCausalLM.from_pretrained(target).eval()(ids).logits
        base = AutoModelForCausalLM.from_pretrained(target / "base")
        said = PeftModel.from_pretrained(base, target).eval()(ids).logits
    for found in (named, said):
        torch.testing.assert_close(found, merged, rtol=1e-4, atol=1e-4)
    wanted = 'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("adapters/base"), "adapters")'
    assert wanted in (target / "README.md").read_text()


def test_a_base_that_was_imported_from_the_hub_is_named_as_there(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = save(random_model(), tmp_path / "released")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(released))
    for name, words in (("own", []), ("larger", ["vocab_size=512"])):
        assert main(["import", "owner/name", str(tmp_path / name), *words]) == 0
        stages = {"mono": replace(settings.stages["mono"], init_from=str(tmp_path / name))}
        model = open_weights(tmp_path / name).model
        write_adapters(tmp_path / f"of_{name}", replace(settings, model=model, finetune=LORA, stages=stages), "mono")
        for mp_num in (4, 8):
            target = tmp_path / f"{name}{mp_num}"
            assert main(["export", str(tmp_path / f"of_{name}"), str(target), "form=peft", f"mp_num={mp_num}"]) == 0
            base = json.loads((target / "adapter_config.json").read_text())["base_model_name_or_path"]
            assert base == ("owner/name" if target.name == "own4" else str(target / "base")), (
                "others hold other weights"
            )
    card = (tmp_path / "own4/README.md").read_text()
    assert "PEFT's adapters of owner/name, without its weights" in card and "on the machine" not in card
    assert main(["export", str(tmp_path / "of_own"), str(tmp_path / "merged")]) == 0
    ids = torch.randint(0, 400, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        named = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(released), tmp_path / "own4").eval()
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        torch.testing.assert_close(named(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-4)


def test_a_base_that_peft_opens_stays_where_it_is_whatever_its_name(tmp_path: Path, settings: Settings) -> None:
    released, target = save(random_model(), tmp_path / "base"), tmp_path / "adapters"
    stages = {"mono": replace(settings.stages["mono"], init_from=str(released))}
    write_adapters(
        tmp_path / "run", replace(settings, model=open_weights(released).model, finetune=LORA, stages=stages), "mono"
    )
    assert main(["export", str(tmp_path / "run"), str(target), "form=peft"]) == 0
    assert not (target / "base").exists()
    assert 'AutoPeftModelForCausalLM.from_pretrained("adapters")' in (target / "README.md").read_text()


def test_weights_without_adapters_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    released = save(random_model(), tmp_path / "released")
    with pytest.raises(ConfigError, match="released has no adapters, which form=peft is for; use form=codegen"):
        export_adapters(open_weights(released), tmp_path / "adapters", 4, Precision.auto)
    assert main(["export", str(released), str(tmp_path / "int4"), "form=peft", "quantize=int4"]) == 2
    assert "quantize=int4 needs whole weights" in capsys.readouterr().err
