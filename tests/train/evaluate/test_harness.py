"""A function is tested from outside of its program, with what its prompt brings."""

import pytest

from tests.train.evaluate.cases import ALLOWED
from train.evaluate.harness import function_trial
from train.evaluate.sandbox import Limits, Trial, run_program

LIMITS = Limits(seconds=300, sandbox=ALLOWED)
PROMPT = 'import math\n\ndef half(x):\n    return x / 2\n\ndef area(r):\n    """Of a circle."""\n'
TEST = "def check(candidate):\n    assert half(candidate(2)) == 2 * math.pi\n    assert candidate(0) == 0\n"


@pytest.mark.parametrize(
    ("completion", "passes"),
    [
        ("    return math.pi * r**2\n", True),
        ("    return 3.14 * r**2\n", False),
        ("    return r\n\ndef half(x):\n    return 2 * math.pi\n", False),  # the test has the prompt's own helper
        ("    return r\n\ndef check(candidate):\n    pass\n", False),
        ("    exit()\n", False),
    ],
)
def test_a_test_runs_outside_of_the_program(completion: str, passes: bool) -> None:
    assert run_program(function_trial(PROMPT, completion, TEST, "area"), LIMITS).passed is passes


def test_a_prompt_that_ends_in_a_signature_is_completed_too() -> None:
    test = "def check(candidate):\n    assert candidate() == 1\n"
    assert run_program(function_trial("def one():\n", "    return 1\n", test, "one"), LIMITS).passed
    assert run_program(function_trial("one = 1 #", "anything", "def check(candidate): pass", "one"), LIMITS).passed


FORGERIES = {
    "reads whatever mark the code around it holds": """
import gc, os, sys
texts = [text for kind in gc.get_objects() if isinstance(kind, (list, tuple, dict)) for text in map(str, kind)]
frame = sys._getframe()
while frame:
    texts += [str(const) for const in frame.f_code.co_consts] + [repr(frame.f_locals), repr(frame.f_globals)]
    frame = frame.f_back
for name in ("cmdline", "environ", "maps"):
    texts.append(open(f"/proc/self/{name}", errors="replace").read())
assert not any("secret-of-the-harness" in text for text in texts)
sys.stdout.write("secret")
os._exit(0)
""",
    "answers in the interpreter's place": """
import os
for number in range(3, 64):
    try: os.write(number, b'{"value": null}\\n' * 20)
    except OSError: pass
os._exit(0)
""",
    "equals everything": """
class Anything:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __getattr__(self, name): return self
    def __call__(self, *args): return self
def add(a, b): return Anything()
""",
    "an int that equals everything": """
class Anything(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def add(a, b): return Anything(0)
""",
    "makes assertions pass": """
import builtins, sys
builtins.AssertionError = None
sys.settrace(lambda *words: None)
def add(a, b):
    frame = sys._getframe()
    while frame:
        frame.f_globals['add'] = frame.f_globals['check'] = lambda *words: None
        frame = frame.f_back
    return 0
""",
    "looks into the harness": """
import os
def add(a, b):
    for pid in filter(str.isdigit, os.listdir('/proc')):
        for name in ('mem', 'environ', 'fd', 'maps'):
            try: open(f'/proc/{pid}/{name}', 'rb').read(9) if name != 'fd' else os.listdir(f'/proc/{pid}/fd')
            except OSError: continue
            if pid != str(os.getpid()): return a + b
    return 0
""",
}


@pytest.mark.parametrize("source", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_program_cannot_pass_a_test_that_it_fails(source: str) -> None:
    harness = "program.run()\nmark = 'secret-of-the-harness'\nassert program.function('add')(2, 3) == 5"
    assert not run_program(Trial(source, harness), LIMITS).passed
    assert run_program(Trial("def add(a, b): return a + b", harness), LIMITS).passed


def test_a_harness_gets_values_whatever_the_program_came_to() -> None:
    harness = (
        "try: program.run()\nexcept ProgramError as error: assert str(error) == 'ZeroDivisionError: division by zero'\n"
        "assert program.evaluate('[x, (x, {1: 2.5}), {3}]') == [7, (7, {1: 2.5}), {3}]\n"
        "assert program.evaluate('numpy.arange(3) * 2.0').tolist() == [0.0, 2.0, 4.0]"
    )
    outcome = run_program(Trial("import numpy\nx = 7\nprint('seen')\n1 / 0", harness), LIMITS)
    assert outcome.passed and outcome.output == "seen\n", outcome
