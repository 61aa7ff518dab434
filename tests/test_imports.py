"""The house's rules, by reading the code: imports run one way, files stay short, the launcher stays light."""

import ast
import os
import resource
import subprocess
import sys
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


def imported(code: str) -> set[str]:
    """Modules that `code` imports, and `torch.distributed` where it is reached through `torch` alone."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import hides its package"
            names |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.distributed"):
            names.add(ast.unparse(node))
    return names


def wrong(package: str, names: set[str]) -> set[str]:
    """Those of `names` that a file of `package` may not import."""
    refused = {name for name in names if name.split(".")[0] in PACKAGES.keys() - PACKAGES[package]}
    if package != "parallel":
        refused |= {name for name in names if f"{name}.".startswith(("deepspeed.", "torch.distributed."))}
    if package in ("conf", "launch"):
        refused |= {name for name in names if name.split(".")[0] == "torch"}
    return refused


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    assert not wrong(path.relative_to(ROOT).parts[0], imported(path.read_text()))


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("conf", "import torch"),
        ("conf", "from launch.local import visible_gpus"),
        ("launch", "def late():\n    from train import loop"),
        ("parallel", "import model.codegen"),
        ("model", "from train.job import Job"),
        ("model", "from torch import distributed"),
        ("model", "import torch\ntorch.distributed.all_reduce"),
        ("train", "from deepspeed.utils import logger"),
        ("train", "import launch"),
    ],
)
def test_a_wrong_import_is_seen(package: str, line: str) -> None:
    assert wrong(package, imported(line))


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda path: path.name)
def test_files_stay_short_and_have_a_purpose(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300 or str(path.relative_to(ROOT)) in LONGER
    assert path.stem not in ("utils", "common", "helpers")


def test_every_package_says_what_it_is_for() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == PACKAGES.keys()
    for folder in {path.parent for path in FILES}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


def test_launch_imports_no_torch() -> None:
    code = "import sys, launch.__main__; sys.exit(any(name in sys.modules for name in ('torch', 'deepspeed')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def processor_seconds() -> float:
    """Of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_launch_answers_at_once(tmp_path: Path) -> None:
    """In under a second on a quiet machine. Here its processor time counts, which is longer on a busy one too."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "launch", "experiment=quickstart", "dry_run=true"]
    seconds = []
    for _ in range(3):
        start = processor_seconds()
        assert subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, check=False).returncode == 0
        seconds.append(processor_seconds() - start)
    assert min(seconds) < 3.0
    assert not list(tmp_path.iterdir()), "a dry run leaves nothing"
