"""Content, sorting and filtering of the tables, and their layout on a narrow terminal."""

import io

import pytest
from rich.console import Console

from conf.errors import ConfigError
from train.compare.table import (
    ComparisonRow,
    differing_settings,
    filter_and_sort,
    format_metric,
    print_tables,
    reading_notes,
)


def printed(rows: list[ComparisonRow], width: int = 80) -> str:
    out = io.StringIO()
    print_tables(rows, Console(file=out, width=width), 2.9, 1)
    return out.getvalue()


def names(rows: list[ComparisonRow]) -> list[str]:
    return [row.curve.label for row in rows]


def test_twelve_runs_with_long_names_fit_eighty_columns(twelve: list[ComparisonRow]) -> None:
    text = printed(twelve)
    assert max(map(len, text.splitlines())) <= 80
    for row in twelve:
        assert f"{row.metrics['loss']:.4f}" in text
    assert "…" not in text, "nothing is cut"
    second = "".join(line.split("│")[2].strip() for line in text.splitlines() if line.count("│") == 5)
    assert all(name in second for name in names(twelve))


def test_many_settings_are_cut_into_several_tables(twelve: list[ComparisonRow]) -> None:
    rows = []
    for number, row in enumerate(twelve):
        more = {f"optimizer.extra_{index}": index * number for index in range(1, 20)}
        rows.append(ComparisonRow(row.curve, row.metrics, row.settings | more))
    text = printed(rows)
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"extra_{i} " in text for i in range(1, 20))


def test_only_what_differs_is_shown(twelve: list[ComparisonRow], mixed: list[ComparisonRow]) -> None:
    assert differing_settings(twelve) == ["optimizer.weight_decay", "stages.nl.peak_learning_rate"]
    assert differing_settings(mixed) == ["optimizer.weight_decay", "stages.mono.init_from"]


def test_sorting_up_and_down_with_missing_values_last(twelve: list[ComparisonRow], mixed: list[ComparisonRow]) -> None:
    up = [row.metrics["loss"] for row in filter_and_sort(twelve, [], "loss")]
    assert up == sorted(up)
    assert names(filter_and_sort(twelve, [], "-loss")) == names(filter_and_sort(twelve, [], "loss"))[::-1]
    rates = [
        row.settings["stages.nl.peak_learning_rate"]
        for row in filter_and_sort(twelve, [], "-stages.nl.peak_learning_rate")
    ]
    assert rates == sorted(rates, reverse=True)
    for key in ("device_hours", "-device_hours"):
        assert names(filter_and_sort(mixed, [], key))[-1] == "old"


@pytest.mark.parametrize(
    ("condition", "count"),
    [
        ("optimizer.weight_decay=0.1", 4),
        ("optimizer.weight_decay!=0.1", 8),
        ("optimizer.weight_decay<=0.2", 8),
        ("optimizer.weight_decay<0.2", 4),
        ("optimizer.weight_decay > 0.2", 4),
        ("tokens>=1e3", 12),
        ("optimizer.decay=matrices", 12),
        ("kernels.compile!=maybe", 12),
    ],
)
def test_filters(twelve: list[ComparisonRow], condition: str, count: int) -> None:
    assert len(filter_and_sort(twelve, [condition], None)) == count


@pytest.mark.parametrize(
    ("filters", "sort", "said"),
    [
        (["optimizer.weight_dcay=1"], None, "did you mean 'optimizer.weight_decay'"),
        (["weight_decay=1"], None, "did you mean 'optimizer.weight_decay'"),
        ([], "los", "did you mean 'loss'"),
        ([], "-zzzzzzzzzzz", "keys are settings"),
        (["loss"], None, "is no condition"),
        (["loss<0"], None, "leaves no run"),
        (["optimizer.decay<3"], None, "compares numbers"),
        (["loss<low"], None, "compares numbers"),
    ],
)
def test_a_wrong_key_or_condition_is_refused(
    twelve: list[ComparisonRow], filters: list[str], sort: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        filter_and_sort(twelve, filters, sort)


def test_notes_say_what_figures_mean_and_where_they_do_not_compare(
    mixed: list[ComparisonRow], twelve: list[ComparisonRow]
) -> None:
    text = "\n".join(reading_notes(mixed, 2.2, 5))
    for said in ("mean of the last 5 records", "at most 2.2", "end on different corpora", "step 120 of 200", "no time"):
        assert said in text
    assert "different" not in "\n".join(reading_notes(twelve, 2.2, 5))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data.tokenizer.kind", "gpt2", "use different tokenizers: their losses do not compare; bits per byte does."),
        ("data.tokenizer.train_bytes", 9, "use different tokenizers: their losses do not compare; bits per byte does."),
        ("data.validation_fraction", 0.5, "hold out different validation sets: their bits per byte do not compare."),
        ("data.validation_bytes", 9, "hold out different validation sets: their bits per byte do not compare."),
    ],
)
def test_a_setting_that_makes_figures_incomparable_is_noted(
    key: str, value: object, said: str, twelve: list[ComparisonRow]
) -> None:
    one = twelve[0]
    other = ComparisonRow(one.curve, one.metrics, {**one.settings, key: value})
    notes = [line for line in reading_notes([one, other], None, 1) if "compare" in line]
    assert notes == [f"The runs {said}"]


def test_bits_per_byte_is_not_recommended_where_validation_sets_differ(twelve: list[ComparisonRow]) -> None:
    one, changed = twelve[0], {"data.tokenizer.kind": "gpt2", "data.validation_fraction": 0.5}
    other = ComparisonRow(one.curve, one.metrics, one.settings | changed)
    assert "bits per byte does" not in "\n".join(reading_notes([one, other], None, 1))


def test_a_finished_tokenizer_is_not_told_by_how_others_are_trained(twelve: list[ComparisonRow]) -> None:
    one, changed = twelve[0], {"data.tokenizer.path": "runs/base/tokenizer", "data.tokenizer.train_bytes": 9}
    other = ComparisonRow(one.curve, one.metrics, one.settings | changed)
    assert "tokenizers" not in "\n".join(reading_notes([one, other], None, 1))


def test_names_are_no_markup(mixed: list[ComparisonRow]) -> None:
    assert "[red]" in printed(mixed, 200)


def test_figures() -> None:
    shown = [
        format_metric("loss", 2.34567),
        format_metric("mfu", 0.4),
        format_metric("tokens", 1.5e12),
        format_metric("flops", None),
    ]
    assert shown == ["2.3457", "40.0%", "1.5T", "–"]
