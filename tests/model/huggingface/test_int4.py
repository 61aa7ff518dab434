"""int4 exports: refused where they cannot be, made by llm-compressor, and loaded by transformers."""

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conf.errors import ConfigError
from model.build import layer_shapes
from model.huggingface import int4
from model.huggingface.__main__ import main
from model.huggingface.int4 import check_int4, export_int4
from model.pretrained import open_weights
from tests.model.huggingface.random_models import random_model, save
from tests.train.sample.cases import TEXTS, finished_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("".join(TEXTS))
    return path


def test_transformers_loads_it_and_finds_the_same_perplexity(run: Path, corpus: Path, tmp_path: Path) -> None:
    target = tmp_path / "int4"
    result = export_int4(open_weights(run), target, 32, [str(corpus)])
    assert result.perplexity_after == pytest.approx(result.perplexity_before, rel=0.03)
    assert result.perplexity_after != result.perplexity_before and result.bytes_after < result.bytes_before
    model, report = AutoModelForCausalLM.from_pretrained(target, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert type(model).__name__ == "CodeGenForCausalLM"
    scheme = json.loads((target / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
    assert (scheme["weights"]["num_bits"], scheme["weights"]["group_size"]) == (4, 32)
    tokenizer = AutoTokenizer.from_pretrained(target)
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"][:, :64]
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
    assert math.isfinite(loss)
    weight = model.transformer.h[0].mlp.fc_in.weight.detach()  # unpacked by the first call
    assert max(len(group.unique()) for group in weight.reshape(-1, 32)) <= 16
    card = (target / "README.md").read_text()
    assert f"| {result.perplexity_before:.4f} | {result.perplexity_after:.4f} |" in card and "corpus.txt" in card
    assert (target / "model.safetensors").stat().st_mode == (target / "README.md").stat().st_mode
    assert not {"plain", "offload"} & {path.name for path in target.iterdir()}
    with pytest.raises(ConfigError, match="int4 is quantized, for transformers alone; take what it was made from"):
        open_weights(target)


def test_weights_that_memory_does_not_hold_wait_on_the_disk(
    run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = open_weights(save(random_model(vocab_size=320, n_positions=64, n_layer=6), tmp_path / "released"))
    weights, waiting = replace(released, tokenizer_folder=run / "tokenizer"), []
    export_int4(weights, tmp_path / "memory", 32, [str(corpus)])
    largest = max(4 * sum(map(math.prod, layer.values())) for layer in layer_shapes(weights.model))
    perplexity = int4._perplexity

    def measured(*given: Any) -> float:
        waiting.extend(tmp_path.rglob("offload/*"))
        return perplexity(*given)

    monkeypatch.setattr(int4, "_perplexity", measured)
    free = 2 * int4.LAYERS_IN_MEMORY * largest
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))
    export_int4(weights, tmp_path / "disk", 32, [str(corpus)])
    assert waiting
    assert (tmp_path / "disk/model.safetensors").read_bytes() == (tmp_path / "memory/model.safetensors").read_bytes()
    free -= 2
    with pytest.raises(ConfigError, match=r"int4 needs \S+ GiB of free memory for a model of n_embd=64; there are"):
        export_int4(weights, tmp_path / "none", 32, [str(corpus)])
    assert not (tmp_path / "none").exists()


def test_gptq_is_closer_than_rounding_in_gptjs_form_too(
    run: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"calibration=['{corpus}']", "quantize=int4", "group_size=64", "form=gptj"]
    assert main(["export", str(run), str(tmp_path / "int4"), *words]) == 0
    assert "(int4, groups of 64): perplexity " in capsys.readouterr().out
    assert main(["export", str(run), str(tmp_path / "plain")]) == 0
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    quantized, report = AutoModelForCausalLM.from_pretrained(tmp_path / "int4", output_loading_info=True)
    assert type(quantized).__name__ == "GPTJForCausalLM" and not report["missing_keys"] | report["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    ids = tokenizer("".join(TEXTS[:100]), return_tensors="pt")["input_ids"][0]
    ids = ids[: len(ids) // 64 * 64].view(-1, 64)
    inputs: list[torch.Tensor] = []
    hook = plain.transformer.h[0].mlp.fc_in.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        plain(ids)
        quantized(ids)  # unpacks its weights
    hook.remove()
    exact, made = (model.transformer.h[0].mlp.fc_in.weight.detach() for model in (plain, quantized))
    groups = exact.view(-1, 64)
    scale = groups.abs().amax(dim=1, keepdim=True) / 7.5
    rounded = (torch.clamp((groups / scale).round(), -8, 7) * scale).view_as(exact)
    errors = [float((inputs[0] @ (weight - exact).T).square().mean()) for weight in (made, rounded)]
    assert errors[0] < 0.8 * errors[1]


def test_what_cannot_be_quantized_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(run), str(tmp_path / "mine"), "quantize=int4", "group_size=64"]) == 2
    assert capsys.readouterr().err.endswith("llm-compressor, which is not installed; pip install llmcompressor\n")
    model = open_weights(run).model
    with pytest.raises(ConfigError, match="group_size=48 does not divide n_embd=64; use 32, 64"):
        check_int4(model, 4, 48)
    with pytest.raises(ConfigError, match="mp_num=8 cannot be quantized: transformers, which runs the model, reads 4"):
        check_int4(model, 8, 32)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    save(random_model(), tmp_path / "bare")
    weights = open_weights(tmp_path / "bare")
    with pytest.raises(ConfigError, match="bare came without a tokenizer, which calibration needs"):
        export_int4(weights, tmp_path / "mine", 32, [])
    (tmp_path / "short.txt").write_text("x = 1\n")
    for name, said in (("short.txt", r"has \d+ tokens; give at least two contexts, 128"), ("no", "does not exist")):
        with pytest.raises(ConfigError, match=said):
            export_int4(open_weights(run), tmp_path / "mine", 32, [str(tmp_path / name)])
    assert not (tmp_path / "mine").exists()


def test_calibration_text_is_the_same_each_time_and_from_many_modules() -> None:
    texts = [text for text, _ in zip(int4._texts([]), range(20), strict=False)]
    assert texts == [text for text, _ in zip(int4._texts([]), range(20), strict=False)]
    assert sum("def " in text for text in texts) > 5
