"""A tokenizer that the weights of a stage do not know is refused before anything is tokenized by it."""

from pathlib import Path

import pytest

from conf.choices import Finetune, Handover
from conf.errors import ConfigError
from conf.schema import FinetuneConfig, RunConfig, Settings, StageConfig
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from tests.train.data.conftest import text
from train.data.parents import refuse_other_tokenizers


@pytest.fixture
def tuned(settings: Settings, tmp_path: Path) -> Settings:
    """A stage that starts from weights with a tokenizer of 350 tokens."""
    SentencePieceTokenizer.train([text(0, 2000)], 350).save(tmp_path / "parent")
    settings.run = RunConfig(root=str(tmp_path), name="run")
    settings.stages = {"nl": StageConfig(corpus="nl", init_from=str(tmp_path / "parent"), handover=Handover.weights)}
    return settings


def test_other_ids_are_refused_with_the_words_that_take_the_parent_s(tuned: Settings, tmp_path: Path) -> None:
    SentencePieceTokenizer.train(["other words entirely\n" * 50], 350).save(tmp_path / "own")
    refuse_other_tokenizers(tuned, tmp_path / "parent")
    with pytest.raises(ConfigError) as caught:
        refuse_other_tokenizers(tuned, tmp_path / "own")
    assert str(caught.value).endswith(
        f"; take its own with data.tokenizer.path={tmp_path}/parent and data.tokenizer.kind=sentencepiece"
    )
    (tmp_path / "run/stages/nl/weights").mkdir(parents=True)
    (tmp_path / "run/stages/nl/evaluation.json").touch()  # a stage that is finished reads its parent no more
    refuse_other_tokenizers(tuned, tmp_path / "own")


def test_new_tokens_are_refused_where_their_rows_cannot_be_trained(tuned: Settings, tmp_path: Path) -> None:
    SentencePieceTokenizer.load(tmp_path / "parent").with_special(["<more>"]).save(tmp_path / "own")
    refuse_other_tokenizers(tuned, tmp_path / "own")
    tuned.finetune = FinetuneConfig(kind=Finetune.lora)
    with pytest.raises(ConfigError, match=r"finetune=lora trains no rows of new tokens, .*parent has 350 of 400"):
        refuse_other_tokenizers(tuned, tmp_path / "own")
    tuned.finetune, tuned.stages["nl"].handover = FinetuneConfig(), Handover.full
    with pytest.raises(ConfigError, match=r"stages\.nl\.handover=full cannot take the optimizer's state of .*parent"):
        refuse_other_tokenizers(tuned, tmp_path / "own")


def test_weights_without_a_tokenizer_take_any(tuned: Settings, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    tuned.stages["nl"].init_from = str(tmp_path / "bare")
    refuse_other_tokenizers(tuned, tmp_path / "parent")
