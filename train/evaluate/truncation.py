"""Where a completion stops being the program that was asked for: the paper's rules, of CodeGen's own evaluation."""

import re

LINE = re.MULTILINE
AT_SECOND = [re.compile(r"^print", LINE), re.compile(r"^def", LINE)]
AT_FIRST = re.compile(r"^#|<\|endoftext\|>|^'''|^\"\"\"|\n\n\n", LINE)


def truncate(completion: str) -> str:
    """Cut at the second line that begins with `print`, then at the second `def`, then where a comment, a docstring,
    the end of text or two empty lines come first.
    """
    for pattern in AT_SECOND:
        starts = [found.start() for found in pattern.finditer(completion)]
        completion = completion[: starts[1]] if len(starts) > 1 else completion
    return AT_FIRST.split(completion, maxsplit=1)[0]
