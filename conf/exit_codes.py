"""Exit codes of every command, beside 0 for success; any other code is a failure without a known cause."""

import signal

BAD_INPUT = 2  # wrong settings or data; one line says what to change
BAD_NODE = 3  # a machine is unfit; one line names it
UNHEALTHY = 4  # training itself went wrong, more often than health.rewinds allows; one line says how
HUNG = 5  # a rank hung; one line names it, its node and its place
NOT_APPLIED = 6  # `train.sample diff=...`: the model wrote no diff, or (apply=true) git could not apply it
INTERRUPTED = 75  # stopped by a signal after saving; the same command resumes (EX_TEMPFAIL of sysexits.h)

# Signals that end a process which did not ask for it; 255, which would be SIGHUP, is what ssh says of any failure.
FATAL = {signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}


def describe(code: int) -> str:
    """`code 1`; of a process that a signal ended also which one, as a shell (128 + n) or DeepSpeed's launcher says it.

    That launcher ends with the negative number of the signal, of which the system keeps eight bits: 256 - n.
    """
    number = code - 128 if code <= 192 else 256 - code
    if number not in FATAL:
        return f"code {code}"
    why = " (out of memory?)" if number == signal.SIGKILL else ""
    return f"code {code}, killed by signal {number}{why}"
