"""Documents of changes: their form, and hunks that git applies."""

import subprocess
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.diff_document import diff_document, diff_prompt, unified_hunks


def test_the_form_is_diff_codegens() -> None:
    assert diff_document("a/b.py", "x = 1\ny = 2\n", "Raise x", "x = 3\ny = 2\n") == (
        "<NME> a/b.py\n<BEF> x = 1\ny = 2\n\n<MSG> Raise x\n<DFF> @@ -1,2 +1,2 @@\n-x = 1\n+x = 3\n y = 2\n"
    )
    new = diff_document("b.py", None, "Begin", "x = 1\n")
    assert new == "<NME> b.py\n<BEF> ADDFILE\n<MSG> Begin\n<DFF> @@ -0,0 +1 @@\n+x = 1\n"
    assert new.startswith(diff_prompt("b.py", None, "Begin"))
    assert diff_document("b.py", "x\n", "Nothing", "x\n") is None


def test_a_last_line_without_its_end_is_marked() -> None:
    assert unified_hunks("a", "a\n") == "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n"


LINES = st.lists(st.sampled_from(["a", "b", "", "c\r", "\x0c", "\u2028", "-x", "+y", "@@"]), max_size=12)


@settings(max_examples=15)
@given(LINES, LINES, st.booleans(), st.booleans())
def test_git_applies_every_diff_to_the_same_text(
    tmp_path_factory, old: list[str], new: list[str], ended: bool, new_ended: bool
) -> None:
    before, after = ("\n".join(lines) + "\n" * end for lines, end in ((old, ended), (new, new_ended)))
    hunks = unified_hunks(before, after)
    if not before or not after or not hunks:
        return
    folder: Path = tmp_path_factory.mktemp("diff")
    (folder / "f").write_bytes(before.encode())
    patch = f"--- a/f\n+++ b/f\n{hunks}".encode()
    subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], input=patch, cwd=folder, check=True)
    assert (folder / "f").read_bytes().decode() == after
