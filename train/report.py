"""The report of a run: bits per byte of each stage on each corpus, as a table and as a plot."""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from rich.table import Table

from conf.extensions import data_position, read_extensions, samples_done
from conf.run_folder import EVALUATION, HEALTH, STAGES, read_json, read_metrics, stage_folder
from conf.schedule import schedule_lines
from conf.schema import Settings
from conf.terminal import table_console
from train.context import RunContext
from train.data.tokens_read import tokens_read
from train.health import passed_over
from train.schedule import learning_rate
from train.summary import TokensRead, write_summary

Scores = dict[str, dict[str, float]]  # stage -> corpus -> bits per byte

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito: safe for the colour-blind


def report_schedule(context: RunContext) -> None:
    """Log the schedule of every stage in a line, and draw it in the run's folder."""
    if context.mesh.is_main:
        for line in schedule_lines(context.settings):
            context.log(line)
        plot_schedule(context.settings, context.folder)


def report(context: RunContext) -> None:
    """Print the table and the summary, and write `stages.md`, `stages.png` and `summary.md` to the run's folder."""
    if context.mesh.is_main:
        scores = read_scores(context.folder)
        print_table(scores)
        write_markdown(scores, context.folder / "stages.md")
        plot_stages(scores, context.folder / "stages.png")
        context.log(write_summary(context.folder, context.settings, dict(read_so_far(context))))


def read_so_far(context: RunContext) -> Iterator[tuple[str, TokensRead]]:
    """Each stage with what it really read, of the data that it reads now: corpus -> language -> tokens."""
    for name, stage in context.settings.stages.items():
        folder = stage_folder(context.folder, name)
        steps = [
            row["step"] for row in read_metrics(context.folder) if row["stage"] == name and row.get("loss") is not None
        ]
        if steps:
            position = data_position(read_extensions(context.folder, name), max(steps), stage)
            yield name, tokens_read(context.settings, context.data, name, position, passed_over(folder / HEALTH))


def read_scores(folder: Path) -> Scores:
    """Each finished stage's bits per byte on every corpus, in the order the stages ran."""
    scores = {}
    for path in (folder / STAGES).glob(f"*/{EVALUATION}"):
        result = read_json(path)
        scores[path.parent.name] = (result["order"], result["bits_per_byte"])
    return {stage: values for stage, (_, values) in sorted(scores.items(), key=lambda item: item[1][0])}


def _corpora(scores: Scores) -> list[str]:
    """The corpora of all stages, in order: a run that is extended may have others from there on."""
    return list(dict.fromkeys(chain.from_iterable(scores.values())))


def print_table(scores: Scores) -> None:
    """Print the table; the best stage on each corpus is bold."""
    corpora = _corpora(scores)
    best = {corpus: min(values[corpus] for values in scores.values() if corpus in values) for corpus in corpora}
    table = Table(title="Validation, bits per byte (lower is better)", min_width=50)
    table.add_column("after stage")
    for corpus in corpora:
        table.add_column(corpus, justify="right")
    for stage, values in scores.items():
        bold = [
            f"[bold green]{cell}[/]" if values.get(corpus) == best[corpus] else cell
            for corpus, cell in zip(corpora, _cells(values, corpora), strict=True)
        ]
        table.add_row(stage, *bold)
    table_console().print(table)


def _cells(values: dict[str, float], corpora: list[str]) -> list[str]:
    return [f"{values[corpus]:.3f}" if corpus in values else "-" for corpus in corpora]


def write_markdown(scores: Scores, path: Path) -> None:
    """Write the table as Markdown."""
    corpora = _corpora(scores)
    rows = ["| after stage | " + " | ".join(corpora) + " |", "|---|" + "---:|" * len(corpora)]
    rows += [f"| {stage} | " + " | ".join(_cells(values, corpora)) + " |" for stage, values in scores.items()]
    path.write_text("Validation, bits per byte (lower is better)\n\n" + "\n".join(rows) + "\n", encoding="utf-8")


def plot_schedule(settings: Settings, folder: Path) -> None:
    """Draw the learning rate of every stage over its tokens to schedule.png in the run's folder.

    Of a stage that was extended it is what was recorded, up to the step that the last extension comes after.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.2), layout="constrained")
    before = 0.0
    for index, (name, stage) in enumerate(settings.stages.items()):
        extensions = read_extensions(folder, name)
        done = extensions[-1]["after_step"] if extensions else 0
        rates = _recorded_rates(folder, name, done) if extensions else {}
        ends = {stage.warmup_steps, stage.warmup_steps + stage.anneal_steps, stage.steps - stage.anneal_steps}
        steps = {*ends, *range(done + 1, stage.steps, -(-stage.steps // 500)), stage.steps}
        rates |= {step: learning_rate(stage, step) for step in sorted(steps) if step > done}
        samples = [samples_done(extensions, step, stage) for step in rates]
        places = [before + each * settings.model.context_length for each in samples]
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(places, list(rates.values()), label=name, color=colour, marker="o" if len(places) == 1 else None)
        before += samples_done(extensions, stage.steps, stage) * settings.model.context_length
    axes.set_xlabel("tokens")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(folder / "schedule.png", dpi=120)
    pyplot.close(figure)


def _recorded_rates(folder: Path, stage: str, last: int) -> dict[int, float]:
    """The learning rates that a stage was trained with, by step, up to the step `last`."""
    rows = (row for row in read_metrics(folder) if row["stage"] == stage and row["step"] <= last)
    return {row["step"]: row["learning_rate"] for row in rows if "learning_rate" in row}


def plot_stages(scores: Scores, path: Path) -> None:
    """Write a bar chart as PNG: a group of bars per corpus, a bar per stage. Its metadata hold the scores."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    stages, corpora = list(scores), _corpora(scores)
    width = 0.8 / len(stages)
    figure, axes = pyplot.subplots(figsize=(1.5 + 2.2 * len(corpora), 4.2), layout="constrained")
    for index, stage in enumerate(stages):
        there = [place for place, corpus in enumerate(corpora) if corpus in scores[stage]]
        values = [scores[stage][corpora[place]] for place in there]
        positions = [place + (index - (len(stages) - 1) / 2) * width for place in there]
        bars = axes.bar(positions, values, width * 0.92, label=f"after {stage}", color=COLOURS[index % len(COLOURS)])
        axes.bar_label(bars, fmt="%.2f", fontsize=9, padding=2)
    axes.set_xticks(range(len(corpora)), [f"{corpus} validation" for corpus in corpora])
    axes.set_ylabel("bits per byte (lower is better)")
    axes.set_title("Each stage on every corpus")
    axes.margins(y=0.08)
    axes.spines[["top", "right"]].set_visible(False)
    for columns in range(len(stages), 0, -1):
        legend = figure.legend(frameon=False, ncols=columns, loc="outside lower center")
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    figure.savefig(path, dpi=150, metadata={"Description": json.dumps(scores)})
    pyplot.close(figure)
