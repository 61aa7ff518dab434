"""The summary adds up what the records say."""

from pathlib import Path

from conf.compose import compose_settings
from conf.run_folder import append_records
from train.summary import device_seconds, stage_figures, write_summary

STEP = {"stage": "mono", "tokens": 4096, "devices": 4}
ROWS = [
    {**STEP, "step": 1, "loss": 5.0, "seconds": 10.0, "seconds_training": 8.0},
    {**STEP, "step": 1, "bits_per_byte/mono": 2.5, "bits_per_byte/nl": 1.0, "seconds": 12.0},
    {
        **STEP,
        "step": 2,
        "loss": 4.0,
        "tokens": 8192,
        "seconds": 20.0,
        "seconds_training": 16.0,
        "seconds_evaluation": 2.0,
        "seconds_saving": 1.0,
        "seconds_data": 0.5,
        "energy_joules": 7.2e6,
    },
    {**STEP, "step": 2, "bits_per_byte/mono": 2.6, "tokens": 8192, "seconds": 90.0},
]


def test_the_figures_of_a_stage() -> None:
    figures = stage_figures(ROWS, "mono")
    assert (figures["steps"], figures["tokens"], figures["loss"], figures["best"]) == (2, 8192, 4.0, (2.5, 1))
    assert figures["seconds"] == {"training": 16.0, "evaluation": 72.0, "saving": 1.0, "data": 0.5}
    assert figures["device_hours"] == 0.1 and figures["tokens_per_second"] == 512
    assert stage_figures([], "mono") == {}
    fewer = [*ROWS[:-1], {**ROWS[-1], "devices": 1}]
    for order in (fewer, fewer[::-1]):
        assert device_seconds(order) == 20 * 4 + 70 * 1
    went_back = [*ROWS[:-1], {**ROWS[-1], "device_seconds": 1800.0}]
    assert stage_figures(went_back, "mono")["device_hours"] == 0.5


def test_what_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    settings = compose_settings(["stage=nl,mono"])
    append_records(tmp_path / "metrics.jsonl", [*ROWS, {**STEP, "stage": "nl", "step": 1, "loss": 9.0, "seconds": 1.0}])
    text = write_summary(tmp_path, settings)
    assert (tmp_path / "summary.md").read_text() == text
    assert "| mono | 2 | 8,192 | 4.0000 | 2.5000 bits per byte at step 1 | 1m30s | 0.10 | 2.00 kWh | 512 |" in text
    assert "| nl | 1 | 4,096 | 9.0000 | - | 0m01s | 0.00 | - | - |" in text
    assert "- mono: training 0m16s, evaluation 1m12s, saving 0m01s, waiting for data 0m00s" in text


def test_tokens_read_stand_by_corpus_and_language(tmp_path: Path) -> None:
    append_records(tmp_path / "metrics.jsonl", ROWS)
    read = {"mono": {"code": {"Java": 900, "Python": 7000}, "nl": {"none": 292}}}
    text = write_summary(tmp_path, compose_settings(["stage=mono"]), read)
    expected = ["- mono: corpus code 7,900 (Python 7,000, Java 900)", "- mono: corpus nl 292 (none 292)"]
    assert "\n".join(["Tokens read, by corpus and language.", *expected]) in text
    assert text == (tmp_path / "summary.md").read_text()
