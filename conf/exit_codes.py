"""What a command's exit code says, beside 0 for success and anything else for a failure."""

BAD_INPUT = 2  # the user can put it right; one line says how
BAD_NODE = 3  # a machine is at fault; one line names it
INTERRUPTED = 75  # asked to stop, saved, and the same command goes on from there (EX_TEMPFAIL)
