"""tests/ mirrors the tree: the tests of a/b.py are in tests/a/test_b.py."""

import ast
from pathlib import Path

from tests.test_imports import FILES, ROOT

# Source files without a test file of their own, each with its reason. The list may only shrink.
EXCEPTIONS = {
    "conf/choices.py": "enums without code",
    "conf/data_schema.py": "dataclasses; tests/conf/test_compose.py composes all of them",
    "conf/errors.py": "exception classes without code",
    "conf/schema.py": "dataclasses; tests/conf/test_compose.py composes all of them",
    "train/evaluate/sandboxed.py": "runs only inside the sandbox; tests/train/evaluate/test_sandbox.py runs it there",
}
SECOND_FILES = {  # a second test file of one source file, for tests with a set-up of their own
    "tests/launch/test_setup.py",  # launch/setup.sh
    "tests/launch/test_slurm_script.py",  # launch/slurm.py where no Slurm is installed
    "tests/train/evaluate/test_sandbox_users.py",  # train/evaluate/sandbox.py as other users
}


def mirrors_of(path: Path) -> list[Path]:
    """Where the tests of a source file may be: test_<name>.py, test_main.py of `__main__`, and of a package's
    `__init__` test_init.py or test_<package>.py."""
    relative = path.relative_to(ROOT)
    names = [path.stem.strip("_"), *([relative.parent.name] if path.stem == "__init__" else [])]
    return [ROOT / "tests" / relative.parent / f"test_{name}.py" for name in names]


def has_code(path: Path) -> bool:
    """Whether the file defines functions or classes; constants have no tests."""
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.parse(path.read_text()).body)


def without_tests(files: list[Path]) -> set[str]:
    """The source files with code and no test file."""
    return {
        str(path.relative_to(ROOT))
        for path in files
        if has_code(path) and not any(mirror.is_file() for mirror in mirrors_of(path))
    }


def test_every_source_file_has_its_test_file() -> None:
    missing = without_tests(FILES) - EXCEPTIONS.keys()
    assert not missing, [str(mirrors_of(ROOT / name)[0].relative_to(ROOT)) for name in sorted(missing)]


def test_the_exceptions_are_still_needed() -> None:
    assert not EXCEPTIONS.keys() - without_tests(FILES), "these have tests, or are gone: remove them"


def test_every_test_file_mirrors_a_source_file() -> None:
    expected = {mirror for path in FILES for mirror in mirrors_of(path)}
    packages = {path.relative_to(ROOT).parts[0] for path in FILES}
    found = {path for package in packages for path in (ROOT / "tests" / package).rglob("test_*.py")}
    assert {str(path.relative_to(ROOT)) for path in found - expected} <= SECOND_FILES
