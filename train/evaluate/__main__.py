"""`python -m train.evaluate`: benchmarks and perplexity of a trained model."""

import hashlib
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.benchmarks import COMPLETION_TASKS
from conf.command_line import Command, run_command
from conf.commands import Evaluate, read_command
from conf.errors import ConfigError
from conf.run_folder import EVALUATIONS, evaluations_of, read_json, write_json
from conf.terminal import table_console
from train.evaluate import lm_harness
from train.evaluate.check import check
from train.evaluate.problems import problems_digest
from train.stop import StopSignal

if TYPE_CHECKING:
    from model.weights import Weights

Result = dict[str, Any]
# What samples and their results depend on, beside the weights and problems: an evaluation resumes only with the same.
FIXED = ("max_new_tokens", "top_p", "top_k", "seed", "seconds")
COMMAND = Command(
    program="python -m train.evaluate",
    usage="run=... task=... [KEY=VALUE ...]",
    summary="Evaluates a run, one of its stages, an imported or exported folder, or a model on the hub. Samples and "
    "results are written to evaluations/ in the stage's folder, or, for other weights, to evaluations/NAME in the "
    "working directory; an interrupted evaluation resumes there. "
    "`python -m launch evaluate` starts it on several processes, or submits it to Slurm.",
    examples=(
        "python -m train.evaluate run=runs/mine task=humaneval",
        "python -m train.evaluate run=runs/mine task=mtpb problems=mtpb.jsonl",
        "python -m train.evaluate run=runs/mine task=multipl_e problems=humaneval-js.jsonl",
        "python -m train.evaluate run=exported/mine task=perplexity 'paths=[notes.txt]'",
        "python -m train.evaluate run=runs/mine task=infill 'paths=[code/]'",
        "python -m train.evaluate run=exported/mine task=harness 'harness_tasks=[lambada_openai]'",
        "deepspeed --num_gpus 2 --no_local_rank --module train.evaluate run=... task=...",
    ),
    settings="evaluate",
    resumable=True,
)
TAIL_BYTES = 2**16  # of each weight file, in the digest that identifies the weights


def main(argv: list[str]) -> int:
    """Evaluate as `argv` says and return the exit code (conf/exit_codes.py)."""
    return run_command(run_task, argv, COMMAND)


def run_task(argv: list[str]) -> int:
    """Check the settings and run the task."""
    command = read_command(Evaluate, COMMAND.split_flags(argv)[1])
    check(command)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # DeepSpeed's calls
    # Alone at a terminal Ctrl-C ends it at once; processes of a launch finish their batches and end together.
    evaluate(command, os.environ.get("RANK", "0") == "0", StopSignal() if "RANK" in os.environ else None)
    return 0


def evaluate(command: Evaluate, is_main: bool, stop: StopSignal | None = None) -> None:
    """Run the task, print its table, and leave `<task>.json` beside the samples."""
    import torch  # it and DeepSpeed are loaded only for settings that can run

    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    from parallel.rendezvous import leave
    from train.evaluate import completion, perplexity
    from train.sample.generator import open_generator

    if command.task == "harness":
        if is_main:
            save_result(command, lm_harness.evaluate(command), Path(command.output or evaluations_of(command.run)))
        return
    task = import_module(f"train.evaluate.{command.task}")
    problems = None if command.task == "perplexity" else task.load_problems(command)
    generator = open_generator(command.run, command.precision, tensor_parallel=command.tensor_parallel_size)
    weights = generator.weights
    folder = results_folder(command, weights)
    if is_main:
        _make_folder(folder)
    if problems is None:
        result: Result = perplexity.evaluate(command, generator)
        if is_main:
            result = _with_earlier_texts(folder / "perplexity.json", result, _digest(weights.folder))
    else:
        if is_main:
            _save_settings(folder, command, problems, weights.folder)
        if command.task in COMPLETION_TASKS:
            result = completion.evaluate(task, command, problems, generator, folder, stop)
        else:
            result = task.evaluate(command, problems, generator, folder, stop)
        generator.tell_cut()
    if is_main:
        save_result(command, result, folder)
        if command.wandb:
            track(weights, command.task, result)
    if generator.mesh.size > 1:
        generator.mesh.broadcast_object(None)  # Slurm ends a job a minute after one of its processes
        leave()


def results_folder(command: Evaluate, weights: "Weights") -> Path:
    """Where samples and results go."""
    if command.output:
        return Path(command.output)
    return weights.folder / EVALUATIONS if weights.run else evaluations_of(command.run)


def save_result(command: Evaluate, result: Result, folder: Path) -> None:
    """Write `<task>.json` to `folder` and print the table."""
    write_json(folder / f"{command.task}.json", {"task": command.task, "run": command.run, **result})
    print_result(command.task, result)
    print(f"results and samples: {folder}")


def print_result(task: str, result: Result) -> None:
    """The result as a table."""
    from rich.table import Table

    table = Table(title=task)
    if task == "harness":
        header = ["value"]
        scores = result["harness"].items()
        lines = {f"{name} {metric}": [f"{value:.4g}"] for name, of in scores for metric, value in of.items()}
    elif "temperatures" in result:
        rows = {f"temperature {name}": values for name, values in result["temperatures"].items()}
        rows["best of temperatures"] = result["pass_at_k"]
        rows |= {f"{name}, best of temperatures": values for name, values in result.get("languages", {}).items()}
        header = [f"pass@{k}" for k in result["pass_at_k"]]
        lines = {name: [f"{value:.2%}" for value in values.values()] for name, values in rows.items()}
    elif task == "infill":
        header = ["exact match"]
        lines = {name: [f"{share:.2%}"] for name, share in result["exact_match"].items()}
    elif task == "mtpb":
        header = ["multi-turn", "single-turn"]
        lines = {"all problems": [f"{result['pass_rate']:.2%}", f"{result['single_turn_pass_rate']:.2%}"]}
        asked = result["prompt_perplexity"], result["single_turn_prompt_perplexity"]
        for name in ("all", "solved", "unsolved"):
            lines[f"prompt perplexity, {name}"] = ["" if of.get(name) is None else f"{of[name]:.3f}" for of in asked]
        for group, word in (("categories", ""), ("turns", " turns")):
            for name, value in result[group].items():
                lines[f"{name}{word}"] = [f"{value:.2%}", f"{result[f'single_turn_{group}'][name]:.2%}"]
    else:
        header = ["bits per byte", "perplexity per token"]
        lines = {
            name: [f"{bits:.4f}", f"{result['perplexity'][name]:.3f}"] for name, bits in result["bits_per_byte"].items()
        }
    table.add_column("")
    for name in header:
        table.add_column(name, justify="right")
    for name, cells in lines.items():
        table.add_row(name, *cells)
    table_console().print(table)


def track(weights: "Weights", task: str, result: Result) -> None:
    """Add the result to the W&B run of the stage that left `weights`; those of another origin have none."""
    from conf.compose import load_settings
    from train.wandb_run import is_disabled, wandb_run

    run, folder = weights.run, weights.folder
    if run is None or not (folder / "lineage.json").is_file():
        return
    settings = load_settings(run / "config.yaml")
    if not settings.tracking.wandb or is_disabled():
        return
    try:
        tracked = wandb_run(run, folder.name, settings, read_json(folder / "lineage.json"))
        tracked.summary.update({f"{task}/{key}": value for key, value in _numbers(result)})
        tracked.finish()
    except Exception as error:
        print(f"W&B failed ({error!r}); the results are in {folder}", file=sys.stderr)


def _numbers(result: Result, above: str = "") -> Iterator[tuple[str, float]]:
    for key, value in result.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{above}{key}/")
        elif isinstance(value, int | float):
            yield f"{above}{key}", value


def _save_settings(folder: Path, command: Evaluate, problems: list[dict[str, Any]], weights: Path) -> None:
    """Write what the samples in `folder` depend on. Errors: `ConfigError` where it holds samples of other settings."""
    asked = {key: value for key, value in asdict(command).items() if key in FIXED}
    asked |= {"precision": command.precision.name, "problems": problems_digest(problems), "weights": _digest(weights)}
    path = folder / f"{command.task}_settings.json"
    if path.is_file() and any(folder.glob(f"{command.task}_*.jsonl")):
        before = read_json(path)
        different = [key for key in asked if before.get(key) != asked[key]]
        if different == ["weights"]:
            raise ConfigError(
                f"{folder} holds samples of other weights than {weights} now has; remove it or change output"
            )
        if different == ["problems"]:
            raise ConfigError(f"{folder} holds samples of other problems than these; remove it or change output")
        if different:
            was = f"{different[0]}={before.get(different[0])}"
            raise ConfigError(f"{folder} holds samples for {was}, not {asked[different[0]]}; change output=...")
    write_json(path, asked)


def _with_earlier_texts(path: Path, result: Result, weights: str) -> Result:
    """`result` with the texts that were scored before under the same weights, which it would replace."""
    before = read_json(path) if path.is_file() else {}
    if before.get("weights") == weights:
        result = {measure: {**before[measure], **values} for measure, values in result.items()}
    return {"weights": weights, **result}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output={folder} cannot be written ({error})") from None


def _digest(folder: Path) -> str:
    """Identifies the weights in `folder`, wherever it is copied to; training changes it."""
    digest = hashlib.sha256()
    paths = [path for form in ("weights/*.safetensors", "*.safetensors", "*.bin") for path in folder.glob(form)]
    for path in sorted(paths):
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            digest.update(f"{path.name} {size} ".encode() + file.read())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
