"""Harnesses: the trusted half of a trial, which runs beside the program and asks it for values."""

import ast
import warnings

from train.evaluate.sandbox import Trial


<<<<<<< HEAD
def function_trial(prompt: str, completion: str, test: str, entry_point: str) -> Trial:
    """The trial of a function that completes `prompt`, by a `test` that defines `check(candidate)`, as HumanEval's do.
=======
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
>>>>>>> d2f88da (README and changelog: the tasks of train.evaluate)

    The program is the prompt and its completion. The test runs in the harness, with the prompt's own helpers, which
    some tests use, and calls the function by value: what it returns is compared where the program cannot interfere.
    """
<<<<<<< HEAD
    harness = [
        "program.run()",
        f"_candidate = program.function({entry_point!r})",
        _helpers(prompt),
        f"{entry_point} = _candidate",
        test,
        f"check({entry_point})",
    ]
    return Trial(f"{prompt}{completion}\n", "\n".join(harness))


def _helpers(prompt: str) -> str:
    """`prompt` as a whole program, empty where it is none: its last function lacks a body, or has only a docstring."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes
        for text in (f"{prompt}\n    pass\n", prompt):
            try:
                ast.parse(text)
            except (SyntaxError, ValueError):
                continue
            return text
    return ""
=======
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
>>>>>>> d2f88da (README and changelog: the tasks of train.evaluate)
