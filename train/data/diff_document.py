"""A change of one file as text, in the form of CarperAI's diff-codegen: what to change and why, then the unified diff.

<NME> its name
<BEF> its content before; ADDFILE where it is new
<MSG> the commit's message
<DFF> @@ -1,2 +1,3 @@ ...
"""

import difflib

NEW_FILE = "ADDFILE"
CONTEXT_LINES = 3  # around a change, as git's
NO_NEWLINE = "\\ No newline at end of file\n"


def diff_prompt(name: str, before: str | None, message: str) -> str:
    """What the diff follows from, up to where it begins. before: None for a new file."""
    return f"<NME> {name}\n<BEF> {NEW_FILE if before is None else before}\n<MSG> {message}\n<DFF>"


def diff_document(name: str, before: str | None, message: str, after: str) -> str | None:
    """The whole document; None where no line changes."""
    hunks = unified_hunks(before or "", after)
    return f"{diff_prompt(name, before, message)} {hunks}" if hunks else None


def unified_hunks(before: str, after: str) -> str:
    """The hunks of a unified diff without the names above them, each line ended; "" for equal texts.

    By difflib rather than git: what git prints depends on its version, its configuration and the attributes of the
    files that are checked out. Lines end at a line feed only: a carriage return is part of its line.
    """
    lines = list(difflib.unified_diff(_lines(before), _lines(after), n=CONTEXT_LINES))
    return "".join(line if line.endswith("\n") else f"{line}\n{NO_NEWLINE}" for line in lines[2:])


def _lines(text: str) -> list[str]:
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])
