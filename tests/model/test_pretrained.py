"""Weights of every origin are opened by one name; what does not fit is named at once."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from conf.errors import ConfigError
from conf.schema import ModelConfig, Settings, plain
from model.huggingface.convert import import_weights
from model.pretrained import open_weights
from model.tokenizer import load_tokenizer
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from model.weights import Layer, write_layer
from tests.gpt2 import small_gpt2
from tests.model.huggingface.random_models import random_model, save
from tests.model.tokenizer.test_sentencepiece import TEXTS
from tests.twin import initial_weights


def write_run(run: Path, settings: Settings, finished: list[str]) -> list[Layer]:
    """A run's folder with the weights of the stages `finished`; the last one's are returned."""
    run.mkdir()
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(plain(settings))))
    layers: list[Layer] = []
    for seed, stage in enumerate(finished):
        (run / "stages" / stage / "weights").mkdir(parents=True)
        layers = initial_weights(settings.model, seed)
        for index, layer in enumerate(layers):
            write_layer(run / "stages" / stage / "weights", index, layer)
    return layers


def equal(one: Layer, other: Layer) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_run_gives_its_last_finished_stage(tmp_path: Path, settings: Settings, tiny: ModelConfig) -> None:
    layers = write_run(tmp_path / "run", replace(settings, model=tiny), ["nl", "multi"])
    weights = open_weights(tmp_path / "run")
    assert weights.folder.name == "multi" and weights.model == tiny and weights.tokenizer_folder is None
    assert all(equal(weights.layer(index), layer) for index, layer in enumerate(layers))
    (tmp_path / "run/tokenizer").mkdir()
    nl = open_weights(str(tmp_path / "run/stages/nl"))
    assert nl.tokenizer_folder == tmp_path / "run/tokenizer"
    assert not equal(nl.layer(1), layers[1])
    assert "stage nl of a run: n_layer 2, n_embd 32" in nl.describe()
    with pytest.raises(ConfigError, match="holds no weights: it is no run"):
        open_weights(tmp_path)


def test_unfinished_runs_and_stages_are_refused(tmp_path: Path, settings: Settings) -> None:
    write_run(tmp_path / "run", settings, [])
    (tmp_path / "run/stages/nl").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has not finished any of its stages"):
        open_weights(tmp_path / "run")
    with pytest.raises(ConfigError, match="nl has not finished"):
        open_weights(tmp_path / "run/stages/nl")


FORMS = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_released_checkpoint_is_read(tmp_path: Path, form: str) -> None:
    model = random_model(torch.float16)
    save(model, tmp_path, max_shard_size="100KB" if "index" in form else "5GB")
    if ".bin" in form:
        for path in list(tmp_path.glob("*.safetensors*")):
            name = path.name.replace("model", "pytorch_model", 1).replace("safetensors", "bin")
            if path.suffix == ".json":
                text = path.read_text().replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
                (tmp_path / name).write_text(text)
            else:
                old = {"transformer.h.0.attn.causal_mask": torch.ones(1, 1, 4, 4, dtype=torch.bool)}
                torch.save(
                    {**load_file(path), **(old if "h.0" in str(load_file(path).keys()) else {})}, tmp_path / name
                )
            path.unlink()
    assert (tmp_path / form).is_file()
    weights = open_weights(tmp_path)
    expected = model.state_dict()
    assert torch.equal(weights.layer(0)["tokens.weight"], expected["transformer.wte.weight"])
    assert torch.equal(weights.layer(3)["bias"], expected["lm_head.bias"])
    block, d = weights.layer(2), 64
    assert torch.equal(block["in_proj.weight"][3 * d :], expected["transformer.h.1.mlp.fc_in.weight"])
    assert torch.equal(block["in_proj.weight"][: d // 4], expected["transformer.h.1.attn.qkv_proj.weight"][: d // 4])
    assert block["in_proj.weight"].dtype is torch.float16
    assert weights.model.context_length == 32


def damaged(folder: Path) -> Path:
    """A released checkpoint where a tensor is missing, one is extra and one has another shape, in three layers."""
    path = save(random_model(), folder) / "model.safetensors"
    tensors = load_file(path)
    del tensors["transformer.h.0.mlp.fc_in.bias"]
    tensors["transformer.h.7.surplus"] = torch.zeros(2)
    tensors["lm_head.bias"] = torch.zeros(7)
    save_file(tensors, path)
    return path


def test_everything_that_does_not_fit_is_named_at_once(tmp_path: Path) -> None:
    damaged(tmp_path)
    with pytest.raises(ConfigError) as caught:
        open_weights(tmp_path)
    for words in ("missing transformer.h.0.mlp.fc_in.bias", "extra transformer.h.7.surplus", "lm_head.bias is [7]"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_cut_file_is_one_line(tmp_path: Path, name: str) -> None:
    path = save(random_model(), tmp_path) / "model.safetensors"
    if name.endswith("bin"):
        torch.save(load_file(path), tmp_path / name)
        path.unlink()
    whole = (tmp_path / name).read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(ConfigError, match=rf"{name} cannot be read \(.*\)") as caught:
            open_weights(tmp_path)
        assert "\n" not in str(caught.value)


class Harmful:
    def __reduce__(self):
        return print, ("harm",)


def test_a_pickle_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (save(random_model(), tmp_path) / "model.safetensors").unlink()
    torch.save({"a": Harmful()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot be read"):
        open_weights(tmp_path)
    assert "harm" not in capsys.readouterr().out


def test_missing_shards_layers_and_settings_are_named(tmp_path: Path) -> None:
    source = save(random_model(), tmp_path / "a", max_shard_size="100KB")
    import_weights(open_weights(source), tmp_path / "ours")
    shard = sorted(source.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ConfigError, match=f"names {shard.name}; fetch it again"):
        open_weights(source)
    (tmp_path / "ours/weights/layer_002.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"missing layer_002\.safetensors"):
        open_weights(tmp_path / "ours")
    (tmp_path / "ours/model.json").write_text("{}")
    with pytest.raises(ConfigError, match="does not describe a model"):
        open_weights(tmp_path / "ours")
    (source / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ConfigError, match="is a gpt2 model; only codegen's form"):
        open_weights(source)
    (source / "config.json").write_text('{"model_type": "codegen", "n_embd": 64}')
    with pytest.raises(ConfigError, match="does not say n_layer, n_head, vocab_size"):
        open_weights(source)


@pytest.mark.parametrize("kind", ["gpt2", "sentencepiece"])
def test_an_export_is_fetched_from_the_hub_with_its_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source, copy = save(random_model(), tmp_path / "source"), tmp_path / "copy"
    if kind == "gpt2":
        load_tokenizer(small_gpt2(tmp_path / "gpt2", TEXTS)).save(source)
    else:
        SentencePieceTokenizer.train(TEXTS, 400).save(source)

    def download(name: str, allow_patterns: list[str]) -> str:
        copy.mkdir()
        for file in filter_repo_objects([path.name for path in source.iterdir()], allow_patterns=allow_patterns):
            shutil.copy(source / file, copy)
        return str(copy)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    made = import_weights(open_weights("owner/name"), tmp_path / "ours")
    assert made.tokenizer_folder is not None
    assert load_tokenizer(made.tokenizer_folder).encode(TEXTS[0]) == load_tokenizer(source).encode(TEXTS[0])


@pytest.mark.parametrize("source", ["/nowhere/at/all", "one_word", "a/b/c"])
def test_what_is_nowhere_is_one_line(source: str) -> None:
    with pytest.raises(ConfigError, match="does not exist, and names on the hub are written owner/name"):
        open_weights(source)


def test_groups_are_of_hugging_face_s_form_only(tmp_path: Path, settings: Settings, tiny: ModelConfig) -> None:
    write_run(tmp_path / "run", replace(settings, model=tiny), ["nl"])
    with pytest.raises(ConfigError, match=r"mp_num=3 is for Hugging Face's form, which .*run is not"):
        open_weights(tmp_path / "run", 3)


def test_names_of_one_part_and_stages_from_within(
    tmp_path: Path, settings: Settings, tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", replace(settings, model=tiny), ["nl"])
    (tmp_path / "run/tokenizer").mkdir()
    monkeypatch.chdir(tmp_path / "run/stages")
    nl = open_weights("nl")
    assert nl.tokenizer_folder == tmp_path / "run/tokenizer" and nl.run == tmp_path / "run"
    (tmp_path / "there/weights").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "there/weights")
    save(random_model(), tmp_path / "source")
    import_weights(open_weights(tmp_path / "source"), Path("ours"))
    (tmp_path / "there/tokenizer").mkdir()
    assert open_weights("ours").tokenizer_folder is None, "another's, two folders above"
