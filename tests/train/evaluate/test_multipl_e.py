"""MultiPL-E: programs of every language that this machine compiles or interprets, run in the sandbox."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from conf.commands import Evaluate
from conf.errors import ConfigError
from tests.train.evaluate.cases import ALLOWED
from train.evaluate import multipl_e
from train.evaluate.multipl_e import LANGUAGES, build_program, check_language, load_problems, stop_strings
from train.evaluate.sandbox import Limits, run_programs

LIMITS = Limits(seconds=300, sandbox=ALLOWED)
# language -> (prompt, completion that is right, completion that is wrong, tests)
ADD = {
    "cpp": (
        "#include <assert.h>\n#include <bits/stdc++.h>\nlong add(long x) {\n",
        "    return x + 1;\n}\n",
        "    return x;\n}\n",
        "int main() {\n    auto candidate = add;\n    assert(candidate((1)) == (2));\n}\n",
    ),
    "java": (
        "import java.util.*;\nclass Problem {\n    public static long add(long x) {\n",
        "        return x + 1;\n    }\n",
        "        return x;\n    }\n",
        "    public static void main(String[] args) {\n    assert(add((1l)) == (2l));\n    }\n}\n",
    ),
    "js": (
        "function add(x){\n",
        "  return x + 1;\n}\n",
        "  return x;\n}\n",
        "const assert = require('node:assert');\nfunction test() { assert.deepEqual(add(1), 2); }\ntest();",
    ),
    "go_test.go": (
        'package add_test\nimport (\n    "testing"\n    "fmt"\n)\nfunc add(x int) int {\n',
        "    return x + 1\n}\n",
        "    return x\n}\n",
        'func TestAdd(t *testing.T) {\n    if fmt.Sprintf("%v", add(1)) != "2" { t.Fail() }\n}\n',
    ),
    "py": ("def add(x):\n", "    return x + 1\n", "    return x\n", "assert add(1) == 2\n"),
}
INSTALLED = [
    name for name, language in LANGUAGES.items() if shutil.which(language.commands[0][0], path="/usr/bin:/bin")
]


def row(language: str) -> dict[str, object]:
    """A problem in the authors' form."""
    prompt, _, _, tests = ADD[language]
    return {"language": language, "name": "add", "prompt": prompt, "tests": tests, "stop_tokens": ["\n}"]}


def test_programs_of_every_language_here_are_compiled_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in INSTALLED:
        monkeypatch.setitem(LANGUAGES, name, replace(LANGUAGES[name], seconds=240.0))
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row(language)) + "\n" for language in INSTALLED))
    problems = load_problems(Evaluate(problems=str(path), seconds=300, sandbox=ALLOWED))
    assert [problem["task_id"] for problem in problems] == [f"{language}/add" for language in INSTALLED]
    assert stop_strings(problems[0]) == ("\n}",)
    sources = []
    for problem in problems:
        _, right, wrong, _ = ADD[problem["language"]]
        sources += [build_program(problem, completion) for completion in (right, wrong)]
    passed = [outcome.passed for outcome in run_programs(sources, LIMITS)]
    assert passed == [True, False] * len(INSTALLED)


def test_a_compiler_that_does_not_work_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = multipl_e.Language("program.x", (("no-such-compiler", "program.x"), ("./program",)), "")
    monkeypatch.setitem(LANGUAGES, "x", broken)
    with pytest.raises(ConfigError, match="problems in x need no-such-compiler in /usr/bin"):
        check_language("x", LIMITS)


def test_a_program_that_runs_for_ever_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LANGUAGES, "py", replace(LANGUAGES["py"], seconds=1.0))
    (outcome,) = run_programs([multipl_e.runner("py", "while True: pass\n")], LIMITS)
    assert not outcome.passed and "TimeoutExpired" in outcome.detail


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"language": "rb"}, "language=rb is not known; use cpp, java, js, go_test.go, py"),
        ({"stop_tokens": ""}, "stop_tokens is no list of text"),
        ({"tests": None}, "tests is no text"),
    ],
)
def test_what_is_wrong_with_a_problem(change: dict[str, object], said: str) -> None:
    assert multipl_e.find_error({**row("py"), **change}) == said
