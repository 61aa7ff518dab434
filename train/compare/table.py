"""The comparison as tables: settings that differ, results, validation and cost; sorting and filtering."""

import difflib
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conf.errors import ConfigError
from conf.schema import plain
from train.compare.curves import Curve, compute_metrics
from train.compare.events import describe_events
from train.compare.units import format_si

# Settings of location and tracking, which do not affect results; and recipe, whose values the stages repeat.
IGNORED_SETTINGS = re.compile(r"run\.(?!seed)|tracking\.|recipe\.|dry_run$|data\.cache$|evaluation\.sample_")
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
RESULTS = {"loss": "loss", "best_loss": "best loss", "tokens_to_loss": "tokens to loss"}
COSTS = {
    "tokens": "tokens",
    "flops": "FLOPs",
    "device_hours": "device hours",
    "tokens_per_second": "tokens/s",
    "mfu": "MFU",
}


@dataclass
class ComparisonRow:
    """One curve in the tables, or the mean of several. metrics: None where not recorded. settings: by dotted key.

    For a mean: `name`, the `members` it is taken of, and `spreads`, their standard deviations.
    """

    curve: Curve
    metrics: dict[str, float | None]
    settings: dict[str, Any] = field(default_factory=dict)
    spreads: dict[str, float | None] = field(default_factory=dict)
    name: str = ""
    members: tuple["ComparisonRow", ...] = ()

    @property
    def label(self) -> str:
        """The run's name, or that of the mean."""
        return f"{self.name}, mean of {len(self.members)} seeds" if self.members else self.curve.label

    @property
    def state(self) -> str:
        """What the run does; of a mean, how many of its runs have finished."""
        finished = sum(member.curve.status() == "finished" for member in self.members)
        return f"{finished} of {len(self.members)} finished" if self.members else self.curve.status()

    def metric(self, key: str) -> str:
        """A metric's value, with its standard deviation where this is a mean."""
        value, spread = format_metric(key, self.metrics.get(key)), self.spreads.get(key)
        return value if spread is None else f"{value} ± {format_metric(key, spread)}"

    def setting(self, key: str) -> str:
        """A setting's value; that of all members where this is a mean."""
        return ", ".join(dict.fromkeys(format_setting(row.settings.get(key)) for row in self.members or (self,)))


def build_rows(curves: Sequence[Curve], smooth: int, target: float | None) -> list[ComparisonRow]:
    """One row per curve. smooth: number of records a loss is averaged over. target: the loss of `tokens_to_loss`."""
    return [
        ComparisonRow(curve, compute_metrics(curve, smooth, target), flat_settings(plain(curve.last_stage.settings)))
        for curve in curves
    ]


def filter_and_sort(rows: list[ComparisonRow], filters: Sequence[str], sort: str | None) -> list[ComparisonRow]:
    """The rows that match all filters (`KEY=VALUE`, or with `!=`, `<`, `<=`, `>`, `>=`), sorted by a key.

    Keys are settings and metrics; sort `-KEY` is descending; rows without the key come last.

    Errors: `ConfigError` for an unknown key, a malformed filter, or where no row is left.
    """
    for text in filters:
        match = re.fullmatch(r"([^<>=!]+)(!=|<=|>=|=|<|>)(.*)", text)
        if not match:
            raise ConfigError(f"--filter '{text}' is no condition; write KEY=VALUE, or with !=, <, <=, > or >=")
        key, sign, wanted = (part.strip() for part in match.groups())
        _check_key(rows, key)
        rows = [row for row in rows if _matches(_lookup(row, key), sign, wanted)]
        if not rows:
            raise ConfigError(f"--filter '{text}' leaves no run; there is none for which it holds")
    if sort is None:
        return rows
    key = sort.removeprefix("-")
    _check_key(rows, key)
    there = [row for row in rows if _lookup(row, key) is not None]
    order = sorted(there, key=lambda row: _sort_key(_lookup(row, key)), reverse=sort != key)
    return order + [row for row in rows if _lookup(row, key) is None]


def differing_settings(rows: Sequence[ComparisonRow]) -> list[str]:
    """Keys of the settings with more than one value among the rows that have them."""
    keys = sorted({key for row in rows for key in row.settings if not IGNORED_SETTINGS.match(key)})
    return [key for key in keys if len({str(row.settings[key]) for row in rows if key in row.settings}) > 1]


def recorded_metrics(rows: Sequence[ComparisonRow]) -> list[str]:
    """The metrics that at least one row has."""
    return [key for key in dict.fromkeys(key for row in rows for key in row.metrics) if _is_recorded(rows, key)]


def print_tables(lines: Sequence[ComparisonRow], console: Console, target: float | None, smooth: int) -> None:
    """Print the tables: what differs, the runs, what came out, what it cost. Wide ones are cut into several.

    lines: from `seeds.with_means`.
    """
    rows = [line for line in lines if not line.members]
    numbers = _numbers(lines)
    runs = Table(title="Runs", title_justify="left")
    for name in ("#", "run", "stages", "state"):
        runs.add_column(name, justify="right" if name == "#" else "left", overflow="fold")
    for number, line in zip(numbers, lines, strict=True):
        runs.add_row(number, Text(line.label), Text(lineage_path(line.curve)), line.state)
    console.print(runs)
    keys = differing_settings(rows)
    if keys:
        _print(console, "Settings that differ", keys, numbers, [[line.setting(key) for key in keys] for line in lines])
    elif len(rows) > 1:
        console.print("No setting differs in the stages that the runs share.")
    for title, heads in metric_groups(rows).items():
        _print(console, title, list(heads.values()), numbers, [[line.metric(key) for key in heads] for line in lines])
    for note in reading_notes(rows, target, smooth):
        console.print(Text(note))


def metric_groups(rows: Sequence[ComparisonRow]) -> dict[str, dict[str, str]]:
    """The tables of metrics: title -> metric -> column heading, for the metrics that at least one row has."""
    found = recorded_metrics(rows)
    scores = {key: key for key in found if "/pass@" in key or key == "mtpb" or "/perplexity/" in key}
    bits = {key: key.replace("bits_per_byte/", "").replace("_", " ") for key in found if "bits_per_byte/" in key}
    named = {"Results": RESULTS | scores, "Validation, bits per byte": bits, "Cost": COSTS}
    kept = {title: {key: head for key, head in heads.items() if key in found} for title, heads in named.items()}
    return {title: heads for title, heads in kept.items() if heads}


def reading_notes(rows: Sequence[ComparisonRow], target: float | None, smooth: int) -> list[str]:
    """Notes below the tables: how metrics are defined, where runs do not compare, and remarks on single runs."""
    lines = ["Loss: nats per token, with the z-loss, of the last stage" + smoothing_note(smooth) + "."]
    if target is not None:
        lines.append(f"Tokens to loss: tokens along the lineage until the loss was first at most {target:.4g}.")
    lines.append("Tokens, FLOPs and device hours: of the whole lineage. Tokens/s and MFU: median of the last stage.")
    corpora = {row.settings[f"stages.{row.curve.last_stage.name}.corpus"] for row in rows}
    tokenizers = {(row.settings["data.tokenizer.kind"], row.settings["model.vocab_size"]) for row in rows}
    trained = {
        row.settings["data.tokenizer.train_bytes"] for row in rows if row.settings["data.tokenizer.path"] is None
    }
    held_out = {tuple(row.settings[f"data.validation_{key}"] for key in ("fraction", "bytes")) for row in rows}
    instead = "; bits per byte does" if len(held_out) == 1 else ""
    if len(corpora) > 1:
        lines.append(f"The runs end on different corpora: their losses do not compare{instead}.")
    if len(tokenizers) > 1 or len(trained) > 1:
        lines.append(f"The runs use different tokenizers: their losses do not compare{instead}.")
    if len(held_out) > 1:
        lines.append("The runs hold out different validation sets: their bits per byte do not compare.")
    for row in rows:
        events = [describe_events(stage.name, stage.events) for stage in row.curve.stages if stage.events]
        lines += [f"{row.curve.label}: {note}." for note in (*row.curve.notes, *events)]
    return lines


def smoothing_note(smooth: int) -> str:
    """The smoothing as part of a sentence, empty without smoothing."""
    return f", mean of the last {smooth} records" if smooth > 1 else ""


def lineage_path(curve: Curve) -> str:
    """`nl > multi > mono`; a stage of another run as RUN/STAGE."""
    return " > ".join(
        stage.name if stage.run == curve.last_stage.run else f"{stage.run}/{stage.name}" for stage in curve.stages
    )


def format_metric(name: str, value: float | None) -> str:
    """A metric's value with its unit; – where not recorded."""
    if value is None:
        return "–"
    if name == "mfu":
        return f"{value:.1%}"
    if name == "device_hours":
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    if name == "memory_bytes":
        return f"{value / 2**30:.2f} GiB"
    return f"{value:.4f}" if abs(value) < 100 and "tokens" not in name and "flops" not in name else format_si(value, 3)


def _numbers(lines: Sequence[ComparisonRow]) -> list[str]:
    """The lines' numbers in the tables: runs are counted, a mean has the first and last number of its runs."""
    found, count = [], 0
    for line in lines:
        count += not line.members
        found.append(f"{count - len(line.members) + 1}-{count}" if line.members else str(count))
    return found


def _print(console: Console, title: str, heads: list[str], numbers: list[str], cells: list[list[str]]) -> None:
    """Print a table with the lines' numbers first, split into several where it is wider than the terminal."""
    names = [re.sub(r"([./ ])", "\\1\n", head).split("\n") for head in heads]
    longest = [max(map(len, [*name, *(row[i] for row in cells)])) for i, name in enumerate(names)]
    widths = [min(width, 40) + 3 for width in longest]
    first = 0
    while first < len(heads):
        last, room = first + 1, console.width - 6 - widths[first]
        while last < len(heads) and widths[last] <= room:
            room, last = room - widths[last], last + 1
        table = Table(title=title if first == 0 else None, title_justify="left")
        table.add_column("#", justify="right")
        for name in names[first:last]:
            table.add_column(Text("\n".join(name)), justify="right", overflow="fold", vertical="top")
        for number, row in zip(numbers, cells, strict=True):
            table.add_row(number, *(Text(cell) for cell in row[first:last]))
        console.print(table)
        first = last


def flat_settings(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings -> dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    pairs = (flat_settings(each, f"{prefix}.{key}" if prefix else str(key)) for key, each in value.items())
    return {key: each for found in pairs for key, each in found.items()}


def _check_key(rows: Sequence[ComparisonRow], key: str) -> None:
    known = sorted({name for row in rows for name in (*row.metrics, *row.settings)})
    if key in known:
        return
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    close = close or [name for name in known if name.endswith((f".{key}", f"/{key}"))]
    meant = f"did you mean '{close[0]}'?" if close else "keys are settings (model.n_embd) and metrics (loss)"
    raise ConfigError(f"unknown key '{key}'; {meant}")


def _lookup(row: ComparisonRow, key: str) -> Any:
    return row.metrics[key] if key in row.metrics else row.settings.get(key)


def _matches(value: Any, sign: str, wanted: str) -> bool:
    one, other = _number(value), _number(wanted)
    if value is None:
        return sign == "=" and wanted in ("null", "None")
    if one is not None and other is not None:
        return OPERATORS[sign](one, other)
    if sign in ("=", "!="):
        return OPERATORS[sign](format_setting(value), wanted)
    raise ConfigError(
        f"'{sign} {wanted}' compares numbers, and {format_setting(value)} or {wanted} is none; use = or !="
    )


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _sort_key(value: Any) -> tuple[float, str]:
    """Numbers by size, then texts alphabetically."""
    number = _number(value)
    return (float("inf"), format_setting(value)) if number is None else (number, "")


def format_setting(value: Any) -> str:
    """A setting as in YAML; – for null."""
    if value is None or isinstance(value, bool):
        return {None: "–", True: "true", False: "false"}[value]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_recorded(rows: Sequence[ComparisonRow], key: str) -> bool:
    return any(row.metrics.get(key) is not None for row in rows)
