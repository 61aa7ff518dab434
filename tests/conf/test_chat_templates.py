"""Chat templates by name or by file."""

import pytest

from conf.chat_templates import read_template
from conf.compose import compose_settings
from conf.errors import ConfigError


def test_a_template_is_named_or_a_file(tmp_path):
    assert "<|MOSS|>" in read_template("moss") and read_template(None) is None
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    assert read_template(str(tmp_path / "own.jinja")) == "{{ messages }}"


def test_an_unknown_one_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"chat_template=mos is no file; give a \.jinja file, or one of: moss"):
        read_template("mos")
    (tmp_path / "own.jinja").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_template(str(tmp_path / "own.jinja"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.packing=concat"], "needs data.packing=best_fit and data.document_mask=true"),
        (["data.document_mask=false"], "needs data.packing=best_fit and data.document_mask=true"),
        (["data.objective=infill"], "they have no spans to fill in"),
        (["data.tokenizer.chat_template=null"], "conversations needs data.tokenizer.chat_template=moss"),
        (["data.tokenizer.chat_template=none"], "chat_template=none is no file"),
    ],
)
def test_settings_that_would_teach_something_else_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        compose_settings(["stage=sft", "data=conversations", *words])


def test_moss_recipe():
    settings = compose_settings(["experiment=moss_sft"])
    stage = settings.stages["sft"]
    assert (stage.peak_learning_rate, stage.epochs, stage.warmup_ratio) == (1.5e-5, 2, 0.05)
    assert (settings.optimizer.weight_decay, settings.layout.zero_stage, settings.model.vocab_size) == (0.1, 3, 107_008)
    assert settings.model.n_layer == 34 and all(settings.model.vocab_size % size == 0 for size in (2, 4, 8))
