"""Exit codes of every command, beside 0 for success; any other code is a failure without a known cause."""

BAD_INPUT = 2  # wrong settings or data; one line says what to change
BAD_NODE = 3  # a machine is unfit; one line names it
UNHEALTHY = 4  # training itself went wrong, more often than health.rewinds allows; one line says how
HUNG = 5  # a rank did not go on; one line names it, its node and its place
NOT_APPLIED = 6  # `train.sample diff=... apply=true`: git could not apply what the model wrote
INTERRUPTED = 75  # stopped by a signal after saving; the same command resumes (EX_TEMPFAIL of sysexits.h)
