"""What a run will read is told before it starts, and what is odd names its setting."""

from conf.choices import Packing
from train.data.outlook import outlook
from train.data.prepare import prepare


def test_tokens_epochs_and_warnings(settings):
    prepared = prepare(settings, lambda line: None)
    stage, other = settings.stages["nl"], settings.stages["code"]
    epoch = (prepared.corpora["nl"].train_tokens - 1) // 16
    stage.steps, stage.mixture = epoch, {"nl": 0.75, "code": 0.25}
    other.steps = 1
    lines = list(outlook(settings, prepared))
    assert lines[0].startswith(
        f"data: stage nl reads {epoch * 64:,} tokens: nl {epoch * 48:,} (75%, 3.00 epochs), code "
    )
    assert lines[1:] == ["data: stage code reads 64 tokens: code 64 (100%, 0.00 epochs)"]
    stage.mixture = None
    lines = list(outlook(settings, prepared))
    assert len(lines) == 2 and "4.00 epochs" in lines[0]
    stage.steps += 10
    assert "warning: stage nl reads corpus nl 4.0 times" in list(outlook(settings, prepared))[1]
    assert list(outlook(settings, prepared))[1].endswith("or lower stages.nl.steps")
    settings.data.validation_bytes = 1000
    lines = list(outlook(settings, prepare(settings, lambda line: None)))
    assert lines[0].startswith("warning: corpus nl has ") and lines[0].endswith("or data.validation_bytes")


def test_padding_is_told(settings):
    settings.data.packing, settings.stages["nl"].steps, settings.stages["code"].steps = Packing.best_fit, 5, 5
    prepared = prepare(settings, lambda line: None)
    share = prepared.training(settings)["nl"].padding
    assert share > 0
    assert f"stage nl reads 320 tokens, {share:.2%} of them padding: nl 320 (" in next(outlook(settings, prepared))
