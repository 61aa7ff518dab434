"""The summary of a run: what each stage took, what it reached, and where everything is."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conf.duration import format_duration
from conf.run_folder import LOGS, METRICS, WEIGHTS, is_finished, read_metrics, stage_folder
from conf.schema import Settings

SUMMARY = "summary.md"  # in the run's folder
PARTS = {"training": "training", "evaluation": "evaluation", "saving": "saving", "data": "waiting for data"}
JOULES_PER_KWH = 3.6e6
TokensRead = Mapping[str, Mapping[str, int]]  # corpus -> language -> tokens


def write_summary(folder: Path, settings: Settings, read: Mapping[str, TokensRead] | None = None) -> str:
    """Write `summary.md` to the run's folder and return its text: a line a stage, and the files of the run.

    read: stage -> corpus -> language -> tokens that the stage really read.
    """
    lines = ["| stage | steps | tokens | loss | best validation | time | device hours | energy | tokens/s |"]
    lines.append("|---|---:|---:|---:|---|---|---:|---:|---:|")
    records = read_metrics(folder)
    parts = []
    for name, stage in settings.stages.items():
        figures = stage_figures([row for row in records if row["stage"] == name], stage.corpus)
        if figures:
            lines.append("| " + " | ".join([name, *_cells(figures)]) + " |")
            parts.append(f"{name}: " + ", ".join(f"{part} {time}" for part, time in _times(figures)))
    lines += ["", "Time by part.", *(f"- {line}" for line in parts)]
    if read:
        lines += ["", "Tokens read, by corpus and language.", *(f"- {line}" for line in _tokens(read))]
    lines += ["", "Where everything is."]
    lines += [f"- {what}: {path}" for what, path in _places(folder, settings)]
    text = "\n".join(lines) + "\n"
    (folder / SUMMARY).write_text(text, encoding="utf-8")
    return text


def stage_figures(records: list[dict[str, Any]], corpus: str) -> dict[str, Any]:
    """The figures of a stage from its records, oldest first; empty where it has not taken a step.

    best: (bits per byte on the validation set of its own `corpus`, step), None without an evaluation. Seconds and
    energy are those of the whole stage, over interruptions and returns to a checkpoint.
    """
    steps = [row for row in records if row.get("loss") is not None]
    if not steps:
        return {}
    last, key = steps[-1], f"bits_per_byte/{corpus}"
    scores = [(row[key], row["step"]) for row in records if row.get(key) is not None]
    seconds = {part: float(last.get(f"seconds_{part}") or 0.0) for part in PARTS}
    total = max(row["seconds"] for row in records)
    seconds["evaluation"] += max(total - last["seconds"], 0.0)  # at the end of the stage
    return {
        "steps": last["step"],
        "tokens": last["tokens"],
        "loss": last["loss"],
        "best": min(scores, default=None),
        "seconds": seconds,
        "total_seconds": total,
        "device_hours": device_seconds(records) / 3600,
        "energy_joules": last.get("energy_joules"),
        "tokens_per_second": last["tokens"] / seconds["training"] if seconds["training"] else None,
    }


def device_seconds(records: Sequence[dict[str, Any]]) -> float:
    """Time x devices of a stage from its records, in any order, with what was dropped when it went back.

    A stage that was resumed may have changed their number. Records of earlier versions hold no total.
    """
    total, begin = 0.0, 0.0
    timed = [row for row in records if "seconds" in row]
    for row in sorted(timed, key=lambda row: float(row["seconds"])):  # a benchmark's score comes late for its step
        end = row["seconds"]
        total, begin = row.get("device_seconds", total + (end - begin) * row.get("devices", 0)), end
    return total


def _cells(figures: dict[str, Any]) -> list[str]:
    best, energy, speed = figures["best"], figures["energy_joules"], figures["tokens_per_second"]
    return [
        f"{figures['steps']:,}",
        f"{figures['tokens']:,}",
        f"{figures['loss']:.4f}",
        "-" if best is None else f"{best[0]:.4f} bits per byte at step {best[1]:,}",
        format_duration(figures["total_seconds"]),
        f"{figures['device_hours']:.2f}",
        "-" if energy is None else f"{energy / JOULES_PER_KWH:.2f} kWh",
        "-" if speed is None else f"{speed:,.0f}",
    ]


def _times(figures: dict[str, Any]) -> list[tuple[str, str]]:
    return [(label, format_duration(figures["seconds"][part])) for part, label in PARTS.items()]


def _tokens(read: Mapping[str, TokensRead]) -> Iterator[str]:
    for stage, corpora in read.items():
        for corpus, languages in corpora.items():
            by_tokens = sorted(languages.items(), key=lambda item: -item[1])
            each = ", ".join(f"{language} {tokens:,}" for language, tokens in by_tokens)
            yield f"{stage}: corpus {corpus} {sum(languages.values()):,} ({each})"


def _places(folder: Path, settings: Settings) -> list[tuple[str, Path]]:
    finished = [name for name in settings.stages if is_finished(folder, name)]
    places = [(f"weights of {name}", stage_folder(folder, name) / WEIGHTS) for name in finished[-1:]]
    pictures = [(label, folder / name) for label, name in (("picture", "stages.png"), ("schedule", "schedule.png"))]
    return [*places, *pictures, ("records", folder / METRICS), ("logs", folder / LOGS), ("all of it", folder)]
