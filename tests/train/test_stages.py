"""Where a stage's weights come from: runs, released checkpoints, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train.stages
from conf.check import check
from conf.checksums import seal
from conf.choices import Finetune, Handover, Precision
from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.run_folder import is_finished, read_json
from conf.schema import ModelConfig, Settings
from model.adapters import fingerprint, initial_adapters
from model.huggingface.convert import export_weights, import_weights
from model.pretrained import open_weights
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from model.weights import refuse_damaged, write_layer
from tests.model.huggingface.random_models import random_model, save
from tests.model.test_pretrained import write_run
from tests.train import test_loop
from tests.train.test_loop import command, flip, launch, write_corpora
from tests.worlds import CaseError, Worlds
from train.data.mixture import ORDER
from train.data.prepare import CorpusFiles, PreparedData, prepare
from train.stages import lineage, parent_of

TEXTS = ["def add(a, b):\n    return a + b\n" * 30]
SHAPE = ModelConfig("released", 2, 64, 8, 4, 400, 32, 1e-5, 0.0)  # of `random_model`


def from_source(settings: Settings, source: Path | str, **model: int) -> Settings:
    stages = {"nl": settings.stages["nl"], "mono": replace(settings.stages["mono"], init_from=str(source))}
    return replace(settings, model=replace(SHAPE, **model), stages=stages)


def test_without_init_from_the_stage_before_is_the_parent(
    tmp_path: Path, settings: Settings, tiny: ModelConfig
) -> None:
    settings = replace(settings, model=tiny)
    write_run(tmp_path / "run", settings, ["nl", "multi"])
    assert parent_of(tmp_path / "run", "nl", settings) is None
    parent = parent_of(tmp_path / "run", "mono", settings)
    assert parent is not None and parent.folder == tmp_path / "run/stages/multi"


def test_a_run_a_stage_and_a_released_checkpoint_are_parents(
    tmp_path: Path, settings: Settings, tiny: ModelConfig
) -> None:
    released = save(random_model(), tmp_path / "released")
    all_stages, settings = settings, from_source(settings, released, context_length=16)
    parent = parent_of(tmp_path / "run", "mono", settings)
    assert parent is not None and parent.model.context_length == 32, "weights fit any context"
    recorded = lineage(tmp_path / "run", "mono", parent, settings)
    assert recorded["parent"] == str(released)
    assert recorded["lineage"] == [str(released), f"{settings.run.name}/mono"]

    write_run(tmp_path / "other", replace(all_stages, model=tiny), ["nl", "multi"])
    for source in (tmp_path / "other", tmp_path / "other/stages/multi"):
        (tmp_path / "other/stages/multi/lineage.json").write_text(json.dumps({"lineage": ["other/nl", "other/multi"]}))
        settings = replace(from_source(settings, source), model=tiny)
        parent = parent_of(tmp_path / "run", "mono", settings)
        assert lineage(tmp_path / "run", "mono", parent, settings)["lineage"][:2] == ["other/nl", "other/multi"]


def test_lineage_names_the_repositories_of_the_corpora_that_a_stage_read(tmp_path: Path, settings: Settings) -> None:
    named = {"owner/one": 600, "two": 300}
    files = CorpusFiles(tmp_path, tmp_path, "<u2", 9, 1000, 300, 1, 90, 30, {}, {}, named, 7)
    data = PreparedData(tmp_path, {"nl": files, "mono": files})
    recorded = lineage(tmp_path / "run", "mono", None, settings, data=data)
    assert recorded["repositories_of"] == {"mono": {"bytes": 1000, "largest": named, "others": 7}}


def test_another_model_is_one_line_with_every_key_that_differs(tmp_path: Path, settings: Settings) -> None:
    released = save(random_model(), tmp_path / "released")
    settings = from_source(settings, released, n_layer=3, vocab_size=304, context_length=16)
    with pytest.raises(ConfigError) as caught:
        parent_of(tmp_path / "run", "mono", settings)
    assert str(caught.value).endswith(
        "holds another model: model.n_layer is 2 there and 3 here, model.vocab_size is 400 there and 304 here"
    )


def test_another_tokenizer_is_refused(tmp_path: Path, settings: Settings) -> None:
    released = save(random_model(), tmp_path / "released")
    SentencePieceTokenizer.train(TEXTS, 400).save(released)
    settings = from_source(settings, released)
    for texts, refused in ((TEXTS, False), (["other words entirely\n" * 50], True)):
        SentencePieceTokenizer.train(texts, 400).save(tmp_path / "run/tokenizer")
        if not refused:
            assert parent_of(tmp_path / "run", "mono", settings) is not None
            continue
        with pytest.raises(ConfigError, match=r"another tokenizer than this run's; take its own with data\.tokenizer"):
            parent_of(tmp_path / "run", "mono", settings)


def test_what_cannot_be_a_parent_is_said_before_anything_starts(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(ConfigError, match="is no run, stage, imported or Hugging Face folder"):
        check(from_source(settings, tmp_path, context_length=256))
    check(from_source(settings, "owner/name", context_length=256))
    settings = from_source(settings, save(random_model(), tmp_path / "released"), context_length=256)
    check(settings)
    settings.stages["mono"].handover = Handover.full
    with pytest.raises(ConfigError, match=r"handover=full needs a run's checkpoint; init_from=.*released has weights"):
        check(settings)


def test_a_run_goes_on_from_a_released_checkpoint_and_is_released_again(tmp_path: Path) -> None:
    """The whole way on two processes cut by tensor: its tokenizer, its weights, its lineage."""
    write_corpora(tmp_path)
    released = save(random_model(n_embd=32, n_head=4), tmp_path / "released")
    SentencePieceTokenizer.train(TEXTS, 400).save(released)
    own = [f"stages.mono.init_from={released}", f"data.tokenizer.path={released}", "stage=mono"]
    cut = ["layout.tensor_parallel_size=2", "optimizer.weight_decay=0", "stages.mono.peak_learning_rate=1e-12"]
    words = command(tmp_path, "continued", *own, *cut, "stages.mono.end_learning_rate=0")
    done = launch(*(word for word in words if not word.startswith(("stages.nl.", "stages.multi."))))
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs/continued"
    assert f"stage mono: from {released}" in done.stdout
    assert json.loads((run / "stages/mono/lineage.json").read_text())["lineage"] == [str(released), "continued/mono"]
    before, after = open_weights(released), open_weights(run)
    assert after.tokenizer_folder == run / "tokenizer"
    for index in range(4):
        layer = after.layer(index)
        for name, value in before.layer(index).items():
            assert (value - layer[name]).abs().max() < 1e-9, "a step of 1e-12 changes next to nothing"
    made = export_weights(open_weights(run), tmp_path / "again", 4, Precision.auto)
    assert made.tokenizer_folder == tmp_path / "again"


def test_adapters_are_trained_and_kept_alone(tmp_path: Path) -> None:
    write_corpora(tmp_path)
    released = save(random_model(n_embd=32, n_head=4), tmp_path / "released")
    SentencePieceTokenizer.train(TEXTS, 400).save(released)
    own = [f"stages.mono.init_from={released}", f"data.tokenizer.path={released}", "stage=mono", "finetune=lora"]
    words = command(tmp_path, "adapted", *own, "finetune.rank=2", "layout.zero_stage=3")
    done = launch(*(word for word in words if not word.startswith(("stages.nl.", "stages.multi."))))
    assert done.returncode == 0, done.stdout + done.stderr
    stage = tmp_path / "runs/adapted/stages/mono"
    assert "finetune=lora: 2,048 parameters are trained, 5" in done.stdout
    for folder in (stage / "weights", *stage.glob("checkpoints/step_*/*/")):
        assert {path.name for path in folder.glob("*.safetensors")} == {
            "layer_001.safetensors",
            "layer_002.safetensors",
        }
    before, after = open_weights(released), open_weights(tmp_path / "runs/adapted")
    assert torch.equal(before.layer(3)["weight"], after.layer(3)["weight"])
    assert not torch.equal(before.layer(1)["in_proj.weight"], after.layer(1)["in_proj.weight"])


def test_rows_of_new_tokens_are_not_frozen(tmp_path: Path, settings: Settings) -> None:
    released = save(random_model(), tmp_path / "released")
    settings = from_source(settings, released, vocab_size=512)
    settings.finetune.kind = Finetune.lora
    words = r"trains no rows of new tokens, and .*released has 400 of 512; train them by finetune=full first"
    with pytest.raises(ConfigError, match=words):
        parent_of(tmp_path / "run", "mono", settings)


def test_a_stage_of_adapters_does_not_go_on_beside_other_weights(tmp_path: Path) -> None:
    folders = [save(random_model(n_embd=width), tmp_path / str(width)) for width in (32, 64)]
    one, other = map(open_weights, folders)
    path = tmp_path / "base.json"
    train.stages._keep_to_its_base(path, one, resumes=True)  # begun by an earlier version
    train.stages._keep_to_its_base(path, one, resumes=True)
    with pytest.raises(ConfigError, match=r"adapts .*64, whose weights have changed since it began"):
        train.stages._keep_to_its_base(path, other, resumes=True)
    train.stages._keep_to_its_base(path, other, resumes=False)
    assert read_json(path) == fingerprint(other)


def test_random_weights_are_not_adapted(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"finetune=lora needs weights to adapt; set stages\.nl\.init_from="):
        train.stages.adapters_of("nl", settings, None, None)


def test_damaged_weights_end_a_run_and_come_back_from_the_last_checkpoint(tmp_path: Path, worlds: Worlds) -> None:
    """What the message says to do is tried, for the weights of the stage before."""
    write_corpora(tmp_path)
    words = command(tmp_path, "damaged", "cluster.processes_per_node=1", "run.until=nl")[3:]
    prepare(compose_settings(words))
    assert worlds(1).run(test_loop.trained, words) == [0]
    nl = tmp_path / "runs/damaged/stages/nl"
    before = test_loop.weights(nl.parent.parent, "nl")
    words[-1] = "run.until=multi"
    flip(nl / "weights/layer_001.safetensors")
    said = r"nl/weights is damaged: layer_001\.safetensors .* delete it and .*nl/best\.json and launch its run again"
    with pytest.raises(CaseError, match=f"ConfigError: .*{said}"):
        worlds(1).run(test_loop.trained, words)
    assert not (nl.with_name("multi") / "weights").exists()
    shutil.rmtree(nl / "weights")
    (nl / "best.json").unlink()
    assert worlds(1).run(test_loop.trained, words) == [0]
    assert test_loop.weights(nl.parent.parent, "nl") == before
    assert is_finished(nl.parent.parent, "multi")


def test_adapters_beside_damaged_weights_are_not_read(tmp_path: Path, settings: Settings) -> None:
    """The files of both are compared: those of the adapters, and of the weights that they adapt."""
    base = import_weights(open_weights(save(random_model(), tmp_path / "source")), tmp_path / "base")
    settings = from_source(settings, base.folder, context_length=32)
    settings.finetune.kind = Finetune.lora
    run = tmp_path / "run"
    write_run(run, replace(settings, model=SHAPE), [])
    folder = run / "stages/mono/weights"
    folder.mkdir(parents=True)
    adapters = initial_adapters(SHAPE, settings.finetune, seed=1)
    for index in (1, 2):
        write_layer(folder, index, adapters(index))
    seal(folder)
    weights = open_weights(run / "stages/mono")
    refuse_damaged(weights)
    for path in (folder / "layer_001.safetensors", base.folder / "weights/layer_000.safetensors"):
        whole = path.read_bytes()
        flip(path)
        with pytest.raises(ConfigError, match=rf"^{path.parent} is damaged: {path.name} does not match"):
            refuse_damaged(weights)
        path.write_bytes(whole)


def test_a_checkpoint_of_another_order_of_samples_is_not_gone_on_from(tmp_path: Path) -> None:
    for state, order in (({"step": 1}, 1), ({"step": 1, "order": ORDER + 1}, ORDER + 1)):
        (tmp_path / "state.json").write_text(json.dumps(state))
        with pytest.raises(
            ConfigError, match=rf"reads samples in another order \({order}, here {ORDER}\); resume with"
        ):
            train.stages._refuse_other_order(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"step": 1, "order": ORDER}))
    train.stages._refuse_other_order(tmp_path)


def test_a_larger_vocabulary_begins_with_the_mean_for_new_tokens(tmp_path: Path, settings: Settings) -> None:
    released = save(random_model(), tmp_path / "released")
    own = tmp_path / "run/tokenizer"
    before = SentencePieceTokenizer.train(TEXTS, 300)
    before.save(released)
    before.with_special(["<a>"]).save(own)
    plain, known = open_weights(released).layer(3), before.vocab_size
    for rows in (416, 400):  # more rows; or as many, of which one now stands for a token
        grows = from_source(settings, released, vocab_size=rows)
        parent = parent_of(tmp_path / "run", "mono", grows)
        assert parent is not None and parent.model.vocab_size == rows
        for name in ("weight", "bias"):
            value = parent.layer(3)[name]
            assert len(value) == rows and torch.equal(value[:known], plain[name][:known])
            torch.testing.assert_close(value[known], plain[name][:known].mean(0))
    before.save(own)
    same = parent_of(tmp_path / "run", "mono", from_source(settings, released))
    assert same is not None and torch.equal(same.layer(3)["weight"], plain["weight"])
    grows = from_source(settings, released, vocab_size=416)
    grows.stages["mono"].handover = Handover.full
    with pytest.raises(ConfigError, match=r"handover=full cannot take the optimizer's state"):
        parent_of(tmp_path / "run", "mono", grows)
    with pytest.raises(ConfigError, match="vocab_size is 400 there and 304 here"):
        parent_of(tmp_path / "run", "mono", from_source(settings, released, vocab_size=304))
