"""The house's rules, by reading the code: imports run one way, files stay short, the launcher stays light."""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "conf": {"conf"},
    "parallel": {"conf", "parallel"},
    "model": {"conf", "parallel", "model"},
    "train": {"conf", "parallel", "model", "train"},
    "launch": {"conf", "launch"},
}
LONGER: set[str] = set()  # files above 300 lines, each with its reason; shrinks, never grows
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    names = imported(path)
    ours = {name.split(".")[0] for name in names} & PACKAGES.keys()
    assert ours <= PACKAGES[package]
    if package != "parallel":
        assert not [name for name in names if name.startswith(("deepspeed", "torch.distributed"))]
    if package in ("conf", "launch"):
        assert not [name for name in names if name.split(".")[0] == "torch"]


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda path: path.name)
def test_files_stay_short_and_have_a_purpose(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300 or str(path.relative_to(ROOT)) in LONGER
    assert path.stem not in ("utils", "common", "helpers")


def test_every_package_says_what_it_is_for() -> None:
    for path in [path for path in FILES if path.name == "__init__.py"]:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_launch_imports_no_torch() -> None:
    code = "import sys, launch.__main__; sys.exit(any(name in sys.modules for name in ('torch', 'deepspeed')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_launch_answers_at_once(tmp_path: Path) -> None:
    """In under a second on a quiet machine; the bound is for a busy one. torch alone would take longer."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "launch", "experiment=quickstart", "dry_run=true"]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, check=False).returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2.5
    assert not list(tmp_path.iterdir()), "a dry run leaves nothing"
