"""Any task of EleutherAI's lm-evaluation-harness, on an exported folder, where the package lm_eval is installed."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conf.choices import Precision
from conf.commands import Evaluate
from conf.errors import ConfigError

DTYPES = {
    Precision.auto: "auto",
    Precision.fp32: "float32",
    Precision.bf16: "bfloat16",
    Precision.fp16: "float16",
    Precision.fp8: "bfloat16",
}


def check(command: Evaluate) -> None:
    """Errors: `ConfigError` where lm_eval is not installed, no task is named, or `run` is no exported folder."""
    if find_spec("lm_eval") is None:
        raise ConfigError("task=harness needs the package lm_eval, which is not installed; pip install 'lm_eval[hf]'")
    if not command.harness_tasks:
        raise ConfigError(
            "task=harness needs harness_tasks=[...], names of lm_eval's tasks; `lm_eval ls tasks` lists them"
        )
    if not (Path(command.run) / "config.json").is_file():
        raise ConfigError(
            f"task=harness needs an exported folder; write `python -m model.huggingface export {command.run} FOLDER` "
            "and use run=FOLDER"
        )


def evaluate(command: Evaluate) -> dict[str, Any]:
    """{"harness": {task: {metric: value}}}, metrics named as lm_eval names them.

    Errors: `ConfigError` with lm_eval's own line, such as for a task that it does not know.
    """
    import torch  # loaded only for settings that can run

    lm_eval = import_module("lm_eval")  # not installed everywhere, so not known to the type checker
    try:
        results = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": command.run, "dtype": DTYPES[command.precision]},
            tasks=list(command.harness_tasks),
            batch_size=command.batch_size,
            device="cuda" if torch.cuda.is_available() else "cpu",
            random_seed=command.seed,
        )
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(f"lm_eval: {(str(error).strip() or type(error).__name__).splitlines()[0]}") from error
    numbers = {
        task: {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        for task, metrics in (results or {"results": {}})["results"].items()
    }
    return {"harness": numbers}
