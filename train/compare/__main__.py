"""`python -m train.compare RUN RUN ...`: experiments beside each other, as tables, a picture and a page."""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from conf.command_line import run_command
from conf.errors import ConfigError
from conf.run_folder import write_atomic
from conf.terminal import table_console
from train.compare.curves import Curve, chain_stages, common_loss, main_metric
from train.compare.online import WANDB_PREFIX, read_wandb_run
from train.compare.page import render_page
from train.compare.read import NoRecords, StageRecords, find_runs, read_folder
from train.compare.seeds import seed_groups, with_means
from train.compare.table import ComparisonRow, build_rows, filter_and_sort, print_tables
from train.compare.write import write_table

WATCH_SECONDS = 30.0
EXAMPLES = (
    "python -m train.compare runs/a runs/b",
    "python -m train.compare 'runs/*' --html compare.html --png compare.png --sort loss",
    "python -m train.compare 'runs/*' --html compare.html --watch",
    "python -m train.compare 'runs/*' --filter 'model.n_layer>=20' --loss 2.5 --csv compare.csv",
)


def main(argv: list[str], connect: Callable[[], Any] | None = None) -> int:
    """Compare the runs that `argv` names and return the exit code (conf/exit_codes.py).

    connect: makes the W&B client, for runs that only its server has.
    """
    return run_command(lambda argv: compare(argv, connect or _wandb), argv)


def compare(argv: list[str], connect: Callable[[], Any]) -> int:
    """Print the tables and write the files, with `--watch` again and again until every run has finished.

    Errors: `ConfigError` for a run that cannot be read, a file that cannot be written.
    """
    options = _parser().parse_args(_words(argv))
    if options.watch is None:
        compare_once(options, connect, table_console())
        return 0
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how a watch ends
        while not _watch_once(options, connect):
            time.sleep(options.watch)
    return 0


def compare_once(options: argparse.Namespace, connect: Callable[[], Any], console: Console) -> list[ComparisonRow]:
    """Read the runs, print the tables, write the files; return the rows."""
    curves = chain_stages(read(options.runs, connect), separate_stages=not options.chain)
    target = options.loss if options.loss is not None else common_loss(curves, options.smooth)
    rows = filter_and_sort(build_rows(curves, options.smooth, target), options.filter, options.sort)
    if options.watch is not None and console.is_terminal:
        console.clear()
    if options.watch is None or console.is_terminal:
        print_tables(with_means(rows, seed_groups(rows)), console, target, options.smooth)
    curves = [row.curve for row in rows]
    writers: dict[str, Callable[[Path], Any]] = {
        "csv": lambda path: write_table(path, "csv", rows, target, options.smooth),
        "json": lambda path: write_table(path, "json", rows, target, options.smooth),
        "markdown": lambda path: write_table(path, "markdown", rows, target, options.smooth),
        "html": lambda path: write_atomic(path, render_page(rows, target, options.smooth, options.watch)),
        "png": lambda path: _draw(path, curves, options.smooth),
    }
    for name, write in writers.items():
        if path := getattr(options, name):
            try:
                write(path)
            except OSError as error:
                raise ConfigError(f"--{name} {path} cannot be written: {error.strerror}") from None
            console.print(f"{name}: {path}", markup=False, highlight=False, soft_wrap=True)
    if options.report:
        console.print(f"report: {_save_report(rows, target, options.smooth)}", markup=False, soft_wrap=True)
    return rows


def _save_report(rows: list[ComparisonRow], target: float | None, smooth: int) -> str:
    from train.compare.report import save_report

    return save_report(rows, target, smooth)


def _draw(path: Path, curves: list[Curve], smooth: int) -> None:
    from train.compare.picture import render  # matplotlib takes a second to import

    path.write_bytes(render(curves, main_metric(curves), smooth, "png"))


def _watch_once(options: argparse.Namespace, connect: Callable[[], Any]) -> bool:
    """Compare what there is; whether every run has finished. The page of the last time does not load itself again."""
    console = table_console()
    try:
        rows = compare_once(options, connect, console)
    except NoRecords as error:
        console.print(f"{error}; waiting", markup=False, highlight=False, soft_wrap=True)
        return False
    going = sum(row.curve.status() != "finished" for row in rows)
    console.print(
        f"{time.strftime('%H:%M:%S')}  {len(rows)} runs, {going} not finished"
        + (f"; again in {options.watch:g} s, Ctrl-C ends" if going else ""),
        highlight=False,
    )
    if not going and options.html:
        compare_once(argparse.Namespace(**{**vars(options), "watch": None}), connect, Console(quiet=True))
    return not going


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
        raise NoRecords(f"none of the runs that {' '.join(words)} matches has records yet")
    return list(found.values())


def _wandb() -> Any:
    import wandb

    try:
        return wandb.Api()
    except Exception as error:  # the client raises errors of many libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"W&B's server cannot be asked: {reason}; log in with `wandb login`") from None


def _words(argv: list[str]) -> list[str]:
    """`argv` for argparse: `html=FILE`, as other commands write it, as `--html=FILE`; `--sort -KEY` as one word."""
    names = {action.dest for action in _parser()._actions if action.nargs is None and action.dest != "help"}
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--sort":
            joined[-1] = f"--sort={word}"
        else:
            joined.append(f"--{word}" if word.partition("=")[0] in names and "=" in word else word)
    return joined


def _at_least_one(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"'{word}' is no number of records; use 1 or more")
    return int(word)


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"'{word}' is no number of seconds above 0")
    return seconds


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
    parser.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=WATCH_SECONDS,
        metavar="SECONDS",
        help=f"read and write again every SECONDS ({WATCH_SECONDS:g}) until every run has finished; the page follows",
    )
    parser.add_argument(
        "--report", choices=["wandb"], help="save the comparison as a report on W&B's server, which has the runs"
    )
    for name in ("csv", "json", "markdown", "html", "png"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {name} to FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
