"""How MTPB's authors score a program (salesforce/CodeGen, codegen1/benchmark/mtpb_exec.py), value by value.

`mtpb.build_program` puts this file's text before its call of `score`, so it runs inside the sandbox, together with the
program, and imports nothing of this project.
"""

import ast
import builtins
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy

TOLERANCE = 1e-6  # of a float
INTEGERS = (numpy.uint8, numpy.int16, numpy.int32, numpy.int64)
FLOATS = (numpy.float16, numpy.float32, numpy.float64)
COMPARED = (str, int, set, list, bool, tuple)  # with ==
SERIES = "<class 'pandas.core.series.Series'>"  # as in pandas 2; that of pandas 3 is cast like any other value
# What programs find missing there, so that one which needs it before its print does not pass.
PROCESS = ("kill", "killpg", "system", "fork", "forkpty", "setuid", "putenv", "getcwd", "chdir", "fchdir", "chroot")
FILES = ("remove", "removedirs", "rmdir", "rename", "renames", "truncate", "replace", "unlink")
OWNERS = ("fchmod", "fchown", "chmod", "chown", "lchflags", "lchmod", "lchown")
REMOVED_MODULES = ("ipdb", "joblib", "resource", "tkinter")
# Every argument of every print is kept; `print_stack` is a name of the program.
STACKING_PRINT = """
import builtins
def print(*args, **kwargs):
    print_stack.append({"args": args, "kwargs": kwargs})
    return builtins.print(*args, **kwargs)
"""


class ProgramTimeoutError(Exception):
    """An Exception as any other: a program that has printed its result before may still pass."""


def score(program: str, gold: str, seconds: float) -> None:
    """Return where the first argument of the last print of `program` equals `gold` (JSON); exit with code 1 elsewhere.

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
        passed = bool(is_equal(names["print_stack"][-1]["args"][0], json.loads(gold)))
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


def is_equal(value: Any, gold: Any) -> bool:
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
        return bool(abs(value - gold) < TOLERANCE)
    if type(value) is numpy.ndarray:
        return bool(numpy.allclose(value, gold))
    raise ValueError(f"{type(value)} is not compared")


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
