"""Compares our MTPB scores with the authors' script, on every case of their file; neither is part of this project.

    python -m tests.train.evaluate.compare_mtpb mtpb_exec.py mtpb.jsonl

Both are in the public repository salesforce/CodeGen, in codegen1/benchmark. Each pair of a case and its gold output
gets a family of programs: with and without a print, raising before and after it, the gold in many forms, near misses.
The authors' script scores all of them in a process of its own; ours are scored in the sandbox, each in a fresh process.
Prints the number of comparisons and differences, and exits with 1 where there are any.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.evaluate.mtpb import KEYS, PREFIX, case_count, find_error
from train.evaluate.problems import read_problems
from train.evaluate.programs import SCORES
from train.evaluate.sandbox import Limits, Trial, run_programs

SECONDS = 1.0  # instead of the 20 of both: only a few programs run for ever
BATCH = 500  # programs in one sandbox
THEIRS = """\
import importlib.util, json, sys
import numpy, pandas
spec = importlib.util.spec_from_file_location("mtpb_exec", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
guard, limit = module.reliability_guard, module.time_limit
module.reliability_guard = lambda memory_bytes: guard(int(memory_bytes))  # setrlimit takes no floats any more
module.time_limit = lambda seconds: limit(float(sys.argv[3]))
module.eval_problems(module.read_jsonl(sys.argv[2]), verbose=False)
"""
# The program's side of many programs: each runs in a process of its own, and its value comes back through a pipe.
CHILDREN = """
import pickle
import pandas
fork, write, wait, leave = os.fork, os.write, os.waitpid, os._exit

def run_in_child(text, kind, seconds):
    reading, writing = os.pipe()
    child = fork()
    if child == 0:
        try:
            answer = pickle.dumps(run_to_last_print(text, kind, seconds))
            with open(writing, "wb") as file:
                file.write(answer)
        finally:
            leave(0)
    os.close(writing)
    with open(reading, "rb") as file:
        answer = file.read()
    wait(child, 0)
    return pickle.loads(answer)

def report(verdicts):
    write(1, verdicts.encode())
"""
HARNESS = """
verdicts = ""
program.run()
for text, gold in json.loads({rows!a}):
    expected = json.loads(gold)
    try:
        passed = is_gold(program.function("run_in_child")(text, type(expected).__name__, {seconds}), expected)
    except Exception:
        passed = False
    verdicts += "0" if passed else "1"
program.function("report")(verdicts)
"""


def any_forms(gold: str) -> Iterator[str]:
    """Programs for a gold output of any type, as Python source of the value."""
    yield from (gold, f"x = {gold}", f"x = {gold}\nprint(x)", f"x = {gold}\nx", f"x: list = {gold}", f"x = y = {gold}")
    yield from (
        f"print({gold})",
        f"print({gold})\nraise ValueError('late')",
        f"raise ValueError('early')\nprint({gold})",
    )
    yield from (f"print('before')\nprint({gold})", f"print({gold})\nprint('after')", f"print({gold})\n'after'")
    yield from (f"print({gold}, 'second')", f"print('first', {gold})", f"print({gold}, end='')", f"print(*[{gold}])")
    yield from (f"def f():\n    return {gold}\n\nf()", f"def f():\n    return {gold}\n\nprint(f())")
    yield from (f"for i in range(2):\n    print({gold})", f"if True:\n    print({gold})", f"print({gold})\nx = 3")
    yield from (f"print({gold})\nx: int", f"print({gold})\nimport os", f"print({gold})\nexit()", f"lambda: {gold}")
    yield from (f"def print_it(x):\n    print(x)\n\nprint_it({gold})", f"printed = str\nprinted({gold})")
    yield from (f"class A:\n    x = {gold}\n\nA().x", f"x = [{gold}]\nx[0]", f"x = 0\nx += {gold}", f"assert {gold}")
    yield from (f"print(str({gold}))", f"print(repr({gold}))", f"print([{gold}])", f"print(({gold},))")
    yield from (f"print({{0: {gold}}})", f"print(np.array({gold}))", f"print(np.array([{gold}]))")
    yield from (f"np.asarray({gold}, dtype=object)", f"print(iter([{gold}]))", f"print(np.array({gold}).tolist())")
    yield from (f"import pandas as pd\nprint(pd.Series({gold}))", f"import pandas as pd\npd.Series([{gold}])")
    yield from (f"import pandas as pd\npd.DataFrame([{gold}])", f"import builtins\nbuiltins.print({gold})")
    yield from (f"import sys\nsys.stdout.write(str({gold}))", f"print_stack.append({{'args': ({gold},)}})\npass")
    yield from (
        f"try:\n    print({gold})\nexcept OSError:\n    pass",
        f"print({gold}",
        f"import os\nos.getcwd()\nprint({gold})",
    )
    yield from (
        "",
        "pass",
        "print()",
        "print(None)",
        "None",
        "print(...)",
        "x",
        f"print = None\n{gold}",
        "0",
        "''",
        "[]",
    )


def forms_of(gold: Any) -> Iterator[str]:
    """Values that are `gold` in another form, or nearly so, as Python source."""
    text = repr(gold)
    if isinstance(gold, bool):
        yield from (f"int({text})", f"np.bool_({text})", f"not {text}", f"np.array({text})", f"str({text}).lower()")
    elif isinstance(gold, int):
        yield from (
            f"{kind}({text})" for kind in ("float", "np.int64", "np.int32", "np.uint16", "np.float64", "complex")
        )
        yield from (f"{text} + {more}" for more in ("1", "0.4", "-0.4", "1e-9"))
        yield from (f"bool({text})", f"'{gold}.0'", f"' {gold} '", f"hex({text})")
    elif isinstance(gold, float):
        yield from (f"{text} + {more}" for more in ("5e-7", "-9e-7", "2e-6", "1"))
        yield from (f"{kind}({text})" for kind in ("int", "np.float64", "np.float32", "np.float16", "np.longdouble"))
        yield from (f"round({text}, 2)", f"f'{{{text}:.3f}}'", f"__import__('fractions').Fraction({text})")
    elif isinstance(gold, str):
        yield from (f"np.str_({text})", f"{text} + ' '", f"{text}.upper()", f"list({text})", f"{text}.encode()")
        yield from (f"{text}[:-1]", f"tuple({text})", f"{text}.split()", f"np.array({text})")
    elif isinstance(gold, list):
        yield from (f"tuple({text})", f"{text}[::-1]", f"{text}[:-1]", f"{text} + [None]", f"list(map(str, {text}))")
        yield from (f"[tuple(x) for x in {text}]", f"tuple(tuple(x) for x in {text})", f"np.array({text}, dtype=float)")
        yield from (f"np.array({text}, dtype=object)", f"list(np.array({text}))", f"set({text}[:1])", f"sorted({text})")
        yield from (f"iter({text})", f"dict.fromkeys({text})", f"__import__('pandas').Series({text}) + 0")
        yield from (f"__import__('pandas').Series({text}, dtype=float) + 1e-9", f"[float(x) for x in {text}]")
        yield from (f"zip({text}, {text})", f"[np.float64(x) for x in {text}]", f"''.join(map(str, {text}))")
    elif isinstance(gold, dict):
        yield from (f"list({text}.items())", f"str({text})", f"{text}.items()", f"__import__('pandas').Series({text})")


def programs(gold: Any) -> list[str]:
    """The family of one gold output."""
    forms = [f"print({form})" if index % 2 else form for index, form in enumerate(forms_of(gold))]
    forms += [f"x = {form}\nprint(x)" for form in forms_of(gold)]
    return [PREFIX + program for program in (*any_forms(repr(gold)), *forms)]


def score_theirs(script: Path, rows: list[dict[str, Any]]) -> list[bool]:
    """Verdicts of the authors' script."""
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.jsonl"
        samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = [sys.executable, "-c", THEIRS, str(script.resolve()), str(samples), str(SECONDS)]
        output = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False, cwd=folder)
    verdicts = re.findall(rf"^(\d+)/{len(rows)} \S+ -> (True|False) \(", output.stdout, re.MULTILINE)
    if [int(index) for index, _ in verdicts] != list(range(len(rows))):
        raise SystemExit(f"the authors' script scored {len(verdicts)} of {len(rows)} programs: {output.stderr[-500:]}")
    return [verdict == "True" for _, verdict in verdicts]


def score_ours(rows: list[dict[str, Any]]) -> list[bool]:
    """Our verdicts: many programs in one sandbox, each in a process of its own."""
    sources = []
    for start in range(0, len(rows), BATCH):
        batch = [(row["completions"], json.dumps(row["gold_output"])) for row in rows[start : start + BATCH]]
        harness = HARNESS.format(rows=json.dumps(batch), seconds=SECONDS)
        sources.append(Trial(SCORES + CHILDREN, SCORES + harness))
    verdicts = ""
    for outcome in run_programs(sources, Limits(seconds=600), workers=2):
        if not outcome.passed:
            raise SystemExit(f"the sandbox: {outcome.detail}")
        verdicts += outcome.output
    return [verdict == "0" for verdict in verdicts]


def main(script: str, problems: str) -> int:
    """Compare, print what differs, and return the exit code."""
    rows: list[dict[str, Any]] = []
    pairs = 0
    for problem in read_problems(problems, KEYS, find_error):
        for case in range(case_count(problem)):
            pairs += 1
            gold = problem["outputs"][case]
            row = {"id": str(problem["id"]), "input": problem["inputs"][case], "gold_output": gold}
            rows += [{**row, "completions": program} for program in programs(gold)]
    endless = [
        {**rows[0], "completions": f"{first}\nwhile True: pass"} for first in (f"print({rows[0]['gold_output']})", "")
    ]
    rows += endless
    theirs, ours = score_theirs(Path(script), rows), score_ours(rows)
    different = [(row, one, other) for row, one, other in zip(rows, theirs, ours, strict=True) if one is not other]
    for row, one, other in different[:20]:
        print(f"problem {row['id']}, gold {row['gold_output']!r}: theirs {one}, ours {other}\n{row['completions']}\n")
    print(f"{pairs} pairs, {len(rows)} programs, {sum(theirs)} of them passed: {len(different)} differences")
    return 1 if different else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
