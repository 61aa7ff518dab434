"""MultiPL-E (arXiv 2208.08227): HumanEval in other languages; of the paper's corpus, C++, Java, JavaScript and Go.

A program is compiled and run as the authors' evaluation does, and passes where every command exits with code 0. C is
not in MultiPL-E, and Python is task=humaneval.
"""

from dataclasses import dataclass, field

from conf.commands import Evaluate
from conf.errors import ConfigError
from train.evaluate.problems import Problem, read_problems
from train.evaluate.sandbox import Limits, run_program

KEYS = ("language", "name", "prompt", "tests", "stop_tokens")
# A JVM that fits into the sandbox: by default it reserves more address space and threads than a program may have.
JVM = (
    "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=64m -XX:CompressedClassSpaceSize=64m -Xmx1g "
    "-XX:-UsePerfData"
)

CLASSES = ".:/usr/multiple/javatuples-1.2.jar"  # where the authors' container has it; problems with tuples need it


@dataclass(frozen=True)
class Language:
    """How a program is run: its file, the commands, each in at most `seconds`, and their environment.

    smallest: a program that does nothing, to see whether the commands work in the sandbox.
    """

    file: str
    commands: tuple[tuple[str, ...], ...]
    smallest: str
    environment: dict[str, str] = field(default_factory=dict)
    seconds: float = 15.0


LANGUAGES = {
    "cpp": Language(
        "program.cpp",
        (("g++", "program.cpp", "-o", "program", "-std=c++17"), ("./program",)),
        "#include <cassert>\nint main() { assert(true); }\n",
    ),
    "java": Language(
        "Problem.java",
        (
            ("javac", "-encoding", "UTF8", "-d", ".", "-cp", CLASSES, "Problem.java"),
            ("java", "-ea", "-cp", CLASSES, "Problem"),
        ),
        "class Problem { public static void main(String[] words) { assert true; } }\n",
        {"JAVA_TOOL_OPTIONS": JVM},
    ),
    "js": Language("program.js", (("node", "program.js"),), "require('node:assert')(true);\n", seconds=5.0),
    "go_test.go": Language(
        "program_test.go",
        (("go", "test", "program_test.go"),),
        'package main\nimport "testing"\nfunc TestNothing(t *testing.T) {}\n',
        {"GOMAXPROCS": "2"},
        seconds=30.0,
    ),
    "py": Language("program.py", (("python3", "program.py"),), ""),
}
RUNNER = """
import os, subprocess
with open({file!r}, "w", encoding="utf-8") as file:
    file.write({source!a})
for command in {commands!r}:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={{**os.environ, **{environment!r}}}, timeout={seconds}, check=False,
    )
    if done.returncode != 0:
        raise SystemExit(1)
"""


def load_problems(command: Evaluate) -> list[Problem]:
    """The problems of a file in the authors' form, or of `command.subsets` of their data set on the hub.

    Errors: `ConfigError` for a language that is not known here, or whose compiler or interpreter does not work in the
    sandbox.
    """
    problems = read_problems(command.problems or "", KEYS, find_error, command.subsets, id_keys=2)
    for language in dict.fromkeys(problem["language"] for problem in problems):
        check_language(language, Limits(command.seconds, sandbox=command.sandbox))
    return [{**problem, "task_id": f"{problem['language']}/{problem['name']}"} for problem in problems]


def check_language(language: str, limits: Limits) -> None:
    """Run the smallest program of `language`. Errors: `ConfigError` where it fails."""
    outcome = run_program(runner(language, LANGUAGES[language].smallest), limits)
    if not outcome.passed:
        tools = " and ".join(
            dict.fromkeys(command[0] for command in LANGUAGES[language].commands if command[0][0] != ".")
        )
        raise ConfigError(
            f"problems in {language} need {tools} in /usr/bin, which does not work in the sandbox ({outcome.detail}); "
            "install it or leave them out"
        )


def find_error(problem: Problem) -> str | None:
    """What is wrong with a problem of the file, None where nothing is."""
    for name in ("name", "language", "prompt", "tests"):
        if not isinstance(problem[name], str):
            return f"{name} is no text"
    stops = problem["stop_tokens"]
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        return "stop_tokens is no list of text"
    if problem["language"] not in LANGUAGES:
        return f"language={problem['language']} is not known; use {', '.join(LANGUAGES)}"
    return None


def stop_strings(problem: Problem) -> tuple[str, ...]:
    """A completion ends before the first of these."""
    return tuple(problem["stop_tokens"])


def build_program(problem: Problem, completion: str) -> str:
    """The prompt, its completion and the tests, in a file that is compiled and run."""
    return runner(problem["language"], f"{problem['prompt']}{completion}\n{problem['tests']}")


def runner(language: str, source: str) -> str:
    """Python that runs `source` and comes to its end where every command exits with code 0."""
    how = LANGUAGES[language]
    return RUNNER.format(
        file=how.file, source=source, commands=how.commands, environment=how.environment, seconds=how.seconds
    )
