"""How benchmarks' authors score a program by its values, where a test that raises does not say it all.

MTPB: salesforce/CodeGen, codegen1/benchmark/mtpb_exec.py. HumanEval+: evalplus/evalplus, evalplus/eval.

A benchmark puts this file's text before its call of a score, so it runs inside the sandbox, together with the program,
and imports nothing of this project. A score returns where the program passes and exits with code 1 elsewhere.
"""

import ast
import builtins
import contextlib
import copy
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import repeat
from types import FrameType
from typing import Any

import numpy

MTPB_TOLERANCE = 1e-6  # of a float
INTEGERS = (numpy.uint8, numpy.int16, numpy.int32, numpy.int64)
FLOATS = (numpy.float16, numpy.float32, numpy.float64)
COMPARED = (str, int, set, list, bool, tuple)  # with ==
SERIES = "<class 'pandas.core.series.Series'>"  # as in pandas 2; that of pandas 3 is cast like any other value
# What programs find missing there, so that one which needs it before its print does not pass.
PROCESS = ("kill", "killpg", "system", "fork", "forkpty", "setuid", "putenv", "getcwd", "chdir", "fchdir", "chroot")
FILES = ("remove", "removedirs", "rmdir", "rename", "renames", "truncate", "replace", "unlink")
OWNERS = ("fchmod", "fchown", "chmod", "chown", "lchflags", "lchmod", "lchown")
REMOVED_MODULES = ("ipdb", "joblib", "resource", "tkinter")
# HumanEval+: a call may take this long, and this many times as long as the authors' own solution takes.
CALL_SECONDS, TIMES_CANONICAL = 4.0, 4.0
GROUP_SECONDS = 60.0  # all calls of a group
FLOAT_TOLERANCE = 1e-6  # where the problem states none
RELATIVE_TOLERANCE = 1e-7
# Every argument of every print is kept; `print_stack` is a name of the program.
STACKING_PRINT = """
import builtins
def print(*args, **kwargs):
    print_stack.append({"args": args, "kwargs": kwargs})
    return builtins.print(*args, **kwargs)
"""


class ProgramTimeoutError(Exception):
    """An Exception as any other: a program that has printed its result before may still pass."""


def score_mtpb(program: str, gold: str, seconds: float) -> None:
    """It passes where the first argument of the last print of `program` equals `gold` (JSON).

    An exception of the program, and its time limit, only end it: what it printed before counts.
    """
    remove_functions()
    names: dict[str, Any] = {"print_stack": [], "__name__": "__main__"}
    exec(STACKING_PRINT, names)
    passed = False
    with contextlib.suppress(Exception), time_limit(seconds):
        code = print_last_value(program)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            exec(code, names)
        passed = bool(is_gold(names["print_stack"][-1]["args"][0], json.loads(gold)))
    if not passed:
        raise SystemExit(1)


def print_last_value(program: str) -> str:
    """`program` with the value of its last statement printed, unless that calls a name that begins with `print`.

    The value of an assignment too: `x = 6` becomes `x = print(6)`. Unchanged where it cannot be parsed or the last
    statement has no value.
    """
    try:
        tree = ast.parse(program)
        last: Any = tree.body[-1]
        called = getattr(getattr(getattr(last, "value", None), "func", None), "id", None)
        if called is not None and called.startswith("print"):
            return program
        last.value = ast.Call(ast.Name("print", ast.Load()), [last.value], [])
        return ast.unparse(ast.fix_missing_locations(tree))
    except Exception:
        return program


def is_gold(value: Any, gold: Any) -> bool:
    """Whether `value` equals `gold`, cast to its type where they differ. Errors: any, which count as not equal."""
    if str(type(value)) == SERIES:
        value, gold = value.to_numpy(), numpy.array(gold)
    elif type(value) is list:
        if value and type(value[0]) is tuple:
            value = [list(row) for row in value]
    elif type(value) in INTEGERS:
        value = int(value)
    elif type(value) in FLOATS:
        value = float(value)
    elif type(value) is numpy.bool_:
        value = bool(value)
    elif type(value) is numpy.ndarray:
        value = value.tolist()
    if type(value) is not type(gold):
        # bool("False") is True, so bools are compared as text.
        value, gold = (str(value), str(gold)) if type(gold) is bool else (type(gold)(value), gold)
    if type(value) in COMPARED:
        return bool(value == gold)
    if type(value) is float:
        return bool(abs(value - gold) < MTPB_TOLERANCE)
    if type(value) is numpy.ndarray:
        return bool(numpy.allclose(value, gold))
    raise ValueError(f"{type(value)} is not compared")


def score_humaneval_plus(program: str, canonical: str, function: str, inputs: str, tolerance: float) -> None:
    """It passes where the `function` of `program` returns what that of `canonical` does for all inputs.

    inputs: lists of arguments (JSON), in two groups: HumanEval's own and those that HumanEval+ adds. The program starts
    afresh for each group. tolerance: absolute, of floats.
    """
    groups = json.loads(inputs)
    expected = [run_canonical(canonical, function, group) for group in groups]
    remove_functions()
    passed = False
    with contextlib.suppress(BaseException):
        passed = all(map(returns_expected, repeat(program), repeat(function), groups, expected, repeat(tolerance)))
    if not passed:
        raise SystemExit(1)


def run_canonical(canonical: str, function: str, group: list[Any]) -> list[tuple[Any, float]]:
    """(what the authors' solution returns, seconds it takes) for each list of arguments."""
    names: dict[str, Any] = {}
    exec(canonical, names)
    found = []
    for arguments in copy.deepcopy(group):
        start = time.time()
        value = names[function](*arguments)
        found.append((value, time.time() - start))
    return found


def returns_expected(
    program: str, function: str, group: list[Any], expected: list[tuple[Any, float]], tolerance: float
) -> bool:
    """Whether every call returns what is expected. Errors: any, which count as not passed."""
    names: dict[str, Any] = {}
    silence = io.StringIO()
    limits = [max(CALL_SECONDS, TIMES_CANONICAL * seconds) for _, seconds in expected]
    deadline = time.time() + min(GROUP_SECONDS, sum(limits)) + 2
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        exec(program, names)
        for arguments, (wanted, _), seconds in zip(group, expected, limits, strict=True):
            with time_limit(seconds):
                value = names[function](*arguments)
            if time.time() > deadline:
                return False
            if function == "find_zero":  # a root of a polynomial: any will do
                coefficients = arguments[0]
                if not abs(sum(c * math.pow(value, power) for power, c in enumerate(coefficients))) <= tolerance:
                    return False
                continue
            same = value == wanted
            if tolerance == 0 and is_float(wanted):
                tolerance = FLOAT_TOLERANCE  # for all later calls too
            if not same and tolerance != 0:
                same = type(value) is type(wanted)
                same = same and not (isinstance(wanted, list | tuple) and len(value) != len(wanted))
                same = same and numpy.allclose(value, wanted, rtol=RELATIVE_TOLERANCE, atol=tolerance)
            if not same:
                return False
    return True


def is_float(value: Any) -> bool:
    """Whether HumanEval+ allows a tolerance for `value`: a float, or a list, tuple or array of nothing else."""
    if isinstance(value, list | tuple) and value:
        return all(isinstance(one, float) for one in value)
    if isinstance(value, numpy.ndarray):
        return bool(value.dtype in (numpy.float64, numpy.float32))
    return isinstance(value, float)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `ProgramTimeoutError` in the block, once, after `seconds`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise ProgramTimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def remove_functions() -> None:
    """Take from this process what the authors' script takes from its own before it runs programs."""
    for module, names in (
        (builtins, ["exit", "quit"]),
        (os, [*PROCESS, *FILES, *OWNERS]),
        (shutil, ["rmtree", "move", "chown"]),
        (subprocess, ["Popen"]),
    ):
        for name in names:
            setattr(module, name, None)
    for name in REMOVED_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
