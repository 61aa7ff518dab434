"""How benchmarks' authors score a program by its values, where a test that raises does not say it all.

MTPB: salesforce/CodeGen, codegen1/benchmark/mtpb_exec.py. HumanEval+: evalplus/evalplus, evalplus/eval.

This file's text runs in the sandbox, as the program and as its harness (sandbox.py), and imports nothing of this
project. The program's side runs what a model wrote and returns values; the harness has the expected ones and raises
where they differ.
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
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy

SHOWN = 100  # characters of a wrong value
MTPB_TOLERANCE = 1e-6  # of a float
INTEGERS = (numpy.uint8, numpy.int16, numpy.int32, numpy.int64)
FLOATS = (numpy.float16, numpy.float32, numpy.float64)
COMPARED = (str, int, set, list, bool, tuple)  # with ==
KINDS: dict[str, Any] = {kind.__name__: kind for kind in (bool, int, float, str, list, dict, type(None))}  # of JSON
SERIES = "<class 'pandas.core.series.Series'>"  # as in pandas 2; that of pandas 3 is cast like any other value
# What programs find missing there, so that one which needs it before its print does not pass.
PROCESS = ("kill", "killpg", "system", "fork", "forkpty", "setuid", "putenv", "getcwd", "chdir", "fchdir", "chroot")
FILES = ("remove", "removedirs", "rmdir", "rename", "renames", "truncate", "replace", "unlink")
OWNERS = ("fchmod", "fchown", "chmod", "chown", "lchflags", "lchmod", "lchown")
REMOVED_MODULES = ("ipdb", "joblib", "resource", "tkinter")
# HumanEval+: a call may take this long, and this many times as long as the authors' own solution takes.
CALL_SECONDS, TIMES_CANONICAL = 4.0, 4.0
GROUP_SECONDS = 60.0  # all calls of a group
SOLUTION: dict[str, Any] = {}  # its names
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


def score_mtpb(program: Any, text: str, gold: str, seconds: float) -> None:
    """Harness: raise unless the first argument of the last print of `text` equals `gold` (JSON).

    An exception of the program, and its time limit, only end it: what it printed before counts.
    """
    program.run()
    expected = json.loads(gold)
    value = program.function("run_to_last_print")(text, type(expected).__name__, seconds)
    assert is_gold(value, expected), f"the last print is {str(value)[:SHOWN]}"


def run_to_last_print(text: str, kind: str, seconds: float) -> Any:
    """Program: the first argument of the last print of `text`, cast to the type `kind` of the gold output."""
    remove_functions()
    names: dict[str, Any] = {"print_stack": [], "__name__": "__main__"}
    exec(STACKING_PRINT, names)
    with time_limit(seconds):
        code = print_last_value(text)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            exec(code, names)
        return cast_value(names["print_stack"][-1]["args"][0], kind)


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


def cast_value(value: Any, kind: str) -> Any:
    """`value` as it is compared: of numpy's types the built-in ones, and cast to `kind` where it is of another type.

    bool("False") is True, so what is to be a bool is cast to text. Errors: any, where it cannot be cast.
    """
    if str(type(value)) == SERIES:
        return value.to_numpy()
    if type(value) is list:
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
    if type(value) is KINDS[kind]:
        return value
    return str(value) if kind == "bool" else KINDS[kind](value)


def is_gold(value: Any, gold: Any) -> bool:
    """Whether a value that `cast_value` returned equals `gold`. Errors: any, which count as not equal."""
    if type(value) is numpy.ndarray:
        return bool(numpy.allclose(value, numpy.array(gold)))
    if type(value) is float:
        return bool(abs(value - gold) < MTPB_TOLERANCE)
    if type(value) not in COMPARED:
        raise ValueError(f"{type(value)} is not compared")
    return bool(value == (str(gold) if type(gold) is bool and type(value) is str else gold))


def score_humaneval_plus(
    program: Any, solution: str, canonical: str, function: str, inputs: str, tolerance: float
) -> None:
    """Harness: raise unless the `function` of `solution` returns what that of `canonical` does for all inputs.

    inputs: lists of arguments (JSON), in two groups: HumanEval's own and those that HumanEval+ adds. The solution
    starts afresh for each group. tolerance: absolute, of floats.
    """
    program.run()
    for group in json.loads(inputs):
        expected = run_canonical(canonical, function, group)
        program.function("start_solution")(solution)
        check_calls(program.function(f"SOLUTION[{function!r}]"), function, group, expected, tolerance)


def start_solution(text: str) -> None:
    """Program: run `text`, whose functions are then in SOLUTION."""
    remove_functions()
    sys.stdout = sys.stderr = io.StringIO()
    SOLUTION.clear()
    exec(text, SOLUTION)


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


def check_calls(
    call: Callable[..., Any], function: str, group: list[Any], expected: list[tuple[Any, float]], tolerance: float
) -> None:
    """Raise unless every call returns what is expected, in time."""
    limits = [max(CALL_SECONDS, TIMES_CANONICAL * seconds) for _, seconds in expected]
    deadline = time.time() + min(GROUP_SECONDS, sum(limits)) + 2
    for arguments, (wanted, _), seconds in zip(group, expected, limits, strict=True):
        with time_limit(seconds):
            value = call(*arguments)
        assert time.time() < deadline, "out of time"
        if function == "find_zero":  # a root of a polynomial: any will do
            coefficients = arguments[0]
            same = bool(abs(sum(c * math.pow(value, power) for power, c in enumerate(coefficients))) <= tolerance)
        else:
            same = value == wanted
            if tolerance == 0 and is_float(wanted):
                tolerance = FLOAT_TOLERANCE  # for all later calls too
            if not same and tolerance != 0:
                same = type(value) is type(wanted)
                same = same and not (isinstance(wanted, list | tuple) and len(value) != len(wanted))
                same = same and numpy.allclose(value, wanted, rtol=RELATIVE_TOLERANCE, atol=tolerance)
        assert same, f"{function}{tuple(arguments)} is {str(value)[:SHOWN]}"


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
