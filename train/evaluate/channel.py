"""Both ends of the pipe between a harness and the program that it tests; it imports nothing of this project.

A program shares its process with whatever it runs, so nothing in there can vouch for it: a mark could be read, a
comparison replaced. The harness is therefore a process of its own that the program cannot reach. Values cross as data
and are compared here; all that a lie can do is to name a value that the program could have computed.
"""

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

REQUESTS, REPLIES = 62, 63  # descriptors of the program's end, below the bound on open files
TEXT = 300  # characters of an error that are kept
SEQUENCES: dict[str, Any] = {kind.__name__: kind for kind in (list, tuple, set, frozenset)}
BASES: tuple[Any, ...] = (list, tuple, set, frozenset, dict, int, float, str, bytes)
NUMBERS: dict[tuple[str, str], Callable[[Any], str]] = {
    ("decimal", "Decimal"): str,
    ("fractions", "Fraction"): str,
    ("builtins", "complex"): repr,
}
ARRAY_KINDS = "biufcSUmM"  # numpy's types whose bytes are the whole value


class ProgramError(Exception):
    """The program raised; the text is `type: message`."""


class ProgramEnded(Exception):
    """The program ended, or broke the pipe, before it answered."""


class Opaque:
    """Stands for a value that does not cross: it equals nothing else. kind: its type's name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


def encode(value: Any) -> Any:
    """`value` as JSON data. Subclasses become the built-in type below them; what is unknown keeps only its name."""
    kind = type(value)
    name = (kind.__module__, kind.__name__)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind.__name__ in SEQUENCES and kind is SEQUENCES[kind.__name__]:
        return {kind.__name__: [encode(each) for each in value]}
    if kind is dict:
        return {"dict": [[encode(key), encode(each)] for key, each in value.items()]}
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if name in NUMBERS:
        return {name[1]: NUMBERS[name](value)}
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        if value.dtype.kind == "O":
            return {"objects": [list(value.shape), [encode(each) for each in value.ravel().tolist()]]}
        if value.dtype.kind in ARRAY_KINDS:
            scalar = isinstance(value, numpy.generic)
            return {"array": [value.dtype.str, list(value.shape), value.tobytes().hex(), scalar]}
    for base in BASES:
        if isinstance(value, base):
            return encode(base(value))
    return {"opaque": kind.__name__}


def decode(data: Any) -> Any:
    """The value that `encode` was given. Errors: ValueError, TypeError and the like for data that are none."""
    if not isinstance(data, dict):
        return data
    ((kind, inner),) = data.items()
    if kind in SEQUENCES:
        return SEQUENCES[kind](decode(each) for each in inner)
    if kind == "dict":
        return {decode(key): decode(each) for key, each in inner}
    if kind in ("bytes", "bytearray"):
        return bytes.fromhex(inner) if kind == "bytes" else bytearray.fromhex(inner)
    if kind == "range":
        return range(*inner)
    for module, name in NUMBERS:
        if name == kind:
            return getattr(importlib.import_module(module), name)(inner)
    if kind == "array":
        numpy = importlib.import_module("numpy")
        dtype, shape, content, scalar = inner
        if numpy.dtype(dtype).kind not in ARRAY_KINDS:
            raise ValueError(f"an array of {dtype}")
        array = numpy.frombuffer(bytes.fromhex(content), dtype).reshape(shape)
        return array[()] if scalar else array.copy()
    if kind == "objects":
        numpy = importlib.import_module("numpy")
        shape, values = inner
        array = numpy.empty(len(values), dtype=object)
        array[:] = [decode(each) for each in values]
        return array.reshape(shape)
    return Opaque(str(inner))


class Program:
    """The program, as its harness sees it: a source that runs when it is told to, in a process of its own."""

    def __init__(self, source: str, requests: int, replies: int) -> None:
        self.source = source
        self.requests = os.fdopen(requests, "w", encoding="ascii")
        self.replies = os.fdopen(replies, encoding="ascii", errors="replace")

    def run(self) -> None:
        """Run it as `__main__` to its end. Errors: `ProgramError` with what it raised, also for `sys.exit`."""
        self._ask({"run": self.source})

    def evaluate(self, expression: str) -> Any:
        """The value of a Python expression in the program's namespace, whatever `run` came to."""
        return self._ask({"evaluate": expression})

    def function(self, name: str) -> Callable[..., Any]:
        """A function of the program that takes and returns values; calling it may raise `ProgramError`."""

        def call(*args: Any, **options: Any) -> Any:
            return self._ask({"call": name, "args": encode(list(args)), "options": encode(options)})

        call.__name__ = name
        return call

    def _ask(self, request: dict[str, Any]) -> Any:
        try:
            self.requests.write(json.dumps(request) + "\n")
            self.requests.flush()
            answer = self.replies.readline()
        except OSError:
            answer = ""
        try:
            reply = json.loads(answer)
            value = decode(reply.get("value"))
        except Exception:
            raise ProgramEnded from None
        if "error" in reply:
            raise ProgramError(str(reply["error"])[:TEXT])
        return value


def judge(harness: str, program: Program) -> str | None:
    """Run the harness's source with `program`, `ProgramError` and `Opaque` in its namespace: why it failed, or None.

    Errors: `ProgramEnded`.
    """
    sys.set_int_max_str_digits(0)
    names = {"program": program, "ProgramError": ProgramError, "Opaque": Opaque, "__name__": "harness"}
    try:
        exec(compile(harness, "harness", "exec"), names)
    except ProgramEnded:
        raise
    except ProgramError as error:
        return str(error) or "ProgramError"
    except BaseException as error:
        return _describe(error)
    return None


def serve() -> None:
    """The program's end: do what the harness asks, one JSON line each way, until it has no more to ask."""
    import builtins
    import types

    sys.set_int_max_str_digits(0)
    own, main = os.getpid(), types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    replies = os.fdopen(REPLIES, "w", encoding="ascii")
    for line in os.fdopen(REQUESTS, encoding="ascii"):
        request = json.loads(line)
        try:
            if "run" in request:
                exec(compile(request["run"].encode("utf-8", "replace"), "<program>", "exec"), main.__dict__)
                reply = {"value": None}
            elif "evaluate" in request:
                reply = {"value": encode(eval(request["evaluate"], main.__dict__))}
            else:
                function = eval(request["call"], main.__dict__)
                reply = {"value": encode(function(*decode(request["args"]), **decode(request["options"])))}
            text = json.dumps(reply)
        except BaseException as error:
            text = json.dumps({"error": _describe(error)})
        streams: tuple[Any, ...] = (sys.stdout, sys.__stdout__)
        for stream in streams:
            with contextlib.suppress(Exception):
                stream.flush()
        if os.getpid() != own:  # a child that the program forked and that came to the end as well
            os._exit(0)
        replies.write(text + "\n")
        replies.flush()


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:TEXT]
    except Exception:
        return type(error).__name__
