"""`python -m train.compare RUN RUN ...`: experiments beside each other, as tables, a picture and a page."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from conf.command_line import run_command
from conf.errors import ConfigError
from train.compare.curves import chain_stages, common_loss, common_metrics
from train.compare.online import WANDB_PREFIX, read_wandb_run
from train.compare.page import render_page
from train.compare.picture import render
from train.compare.read import NoRecords, StageRecords, find_runs, read_folder
from train.compare.table import build_rows, filter_and_sort, print_tables
from train.compare.write import write_table

EXAMPLES = (
    "python -m train.compare runs/a runs/b",
    "python -m train.compare 'runs/*' --html compare.html --png compare.png --sort loss",
    "python -m train.compare 'runs/*' --filter 'model.n_layer>=20' --loss 2.5 --csv compare.csv",
)


def main(argv: list[str], connect: Callable[[], Any] | None = None) -> int:
    """Compare the runs that `argv` names and return the exit code (conf/exit_codes.py).

    connect: makes the W&B client, for runs that only its server has.
    """
    return run_command(lambda argv: compare(argv, connect or _wandb), argv)


def compare(argv: list[str], connect: Callable[[], Any]) -> int:
    """Print the tables and write the files. Errors: `ConfigError` for a run that cannot be read, a file not written."""
    options = _parser().parse_args([*_signed(argv)])
    console = Console()
    curves = chain_stages(read(options.runs, connect), separate_stages=not options.chain)
    metrics = common_metrics(curves)
    target = options.loss if options.loss is not None else common_loss(curves, options.smooth)
    rows = filter_and_sort(build_rows(curves, options.smooth, target), options.filter, options.sort)
    curves = [row.curve for row in rows]
    print_tables(rows, console, target, options.smooth)
    writers: dict[str, Callable[[Path], Any]] = {
        "csv": lambda path: write_table(path, "csv", rows, target, options.smooth),
        "json": lambda path: write_table(path, "json", rows, target, options.smooth),
        "markdown": lambda path: write_table(path, "markdown", rows, target, options.smooth),
        "html": lambda path: path.write_text(render_page(rows, metrics, target, options.smooth)),
        "png": lambda path: path.write_bytes(render(curves, metrics[0], options.smooth, "png")),
    }
    for name, write in writers.items():
        if path := getattr(options, name):
            try:
                write(path)
            except OSError as error:
                raise ConfigError(f"--{name} {path} cannot be written: {error.strerror}") from None
            console.print(f"{name}: {path}", markup=False, highlight=False, soft_wrap=True)
    return 0


def read(words: list[str], connect: Callable[[], Any]) -> list[list[StageRecords]]:
    """The stages of every run that `words` name, a list a run.

    A glob passes over runs that were named before, or have no records yet.

    Errors: `ConfigError` for the first word that is wrong, a run that was named twice, or has no records.
    """
    found: dict[str, list[StageRecords]] = {}
    api, progress = None, Console(stderr=True)
    for word in track(words, "reading", console=progress, transient=True, disable=not progress.is_terminal):
        if word.startswith(WANDB_PREFIX):
            api = api or connect()
            places: list[Any] = [word]
        else:
            places = find_runs(word)
        several = len(places) > 1
        for place in places:
            if str(place) in found:
                if several:
                    continue
                raise ConfigError(f"{word} names {place} a second time; name each run once")
            try:
                found[str(place)] = [read_wandb_run(word, api)] if place == word else read_folder(place)
            except NoRecords:
                if not several:
                    raise
    if not found:
        raise ConfigError(f"none of the runs that {' '.join(words)} matches has records yet")
    return list(found.values())


def _wandb() -> Any:
    import wandb

    try:
        return wandb.Api()
    except Exception as error:  # the client raises errors of many libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"W&B's server cannot be asked: {reason}; log in with `wandb login`") from None


def _signed(words: list[str]) -> list[str]:
    """`--sort -KEY` as one word: argparse would take -KEY for an option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--sort":
            joined[-1] = f"--sort={word}"
        else:
            joined.append(word)
    return joined


def _at_least_one(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"'{word}' is no number of records; use 1 or more")
    return int(word)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m train.compare",
        description="Compares runs by their own records: tables in the terminal, and as files.",
        epilog="Examples:\n" + "\n".join(f"  {example}" for example in EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folder, stage folder (RUN/stages/mono), glob, RUN/wandb/offline-run-*, or wandb:entity/project/id",
    )
    parser.add_argument("--sort", metavar="KEY", help="setting or metric to sort by; -KEY: the largest first")
    parser.add_argument(
        "--filter", metavar="CONDITION", action="append", default=[], help="KEY=VALUE, or with != < <= > >=; repeatable"
    )
    parser.add_argument("--loss", type=float, help="loss for `tokens to loss`; else the highest final loss")
    parser.add_argument(
        "--smooth", type=_at_least_one, default=1, metavar="N", help="show the mean of the last N records"
    )
    parser.add_argument("--no-chain", dest="chain", action="store_false", help="each stage by itself, from 0 tokens")
    for name in ("csv", "json", "markdown", "html", "png"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {name} to FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
