"""Which packages `launch/setup.sh` installs. Python and pip are scripts here that write down what they were asked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = """#!/bin/sh
for word; do last=$word; done
cat "$last" > installed
"""
PYTHON = f"""#!/bin/sh
case "$*" in
    *'import torch'*) exit "${{NO_TORCH:-0}}" ;;
    *base_prefix*) echo "${{BASE:-/usr 3.11}}" ;;
    '-m venv'*) echo "$*" > venv_words; mkdir -p .venv/bin; printf '%s' '{PIP}' > .venv/bin/python
                chmod +x .venv/bin/python ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch/setup.sh", tmp_path / "launch")
    (tmp_path / "requirements.txt").write_text("torch==2.13.0  # a reason\nnumpy>=2.0\nllmcompressor>=0.14\n")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def set_up(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TORCH"}
    environment |= {"PYTHON": str(checkout / "python"), "CXX": "true", **variables}
    command = ["bash", "-c", "source launch/setup.sh"]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def test_the_required_torch_is_installed_once(checkout: Path) -> None:
    assert "installing requirements.txt" in set_up(checkout).stdout
    assert sorted((checkout / "installed").read_text().split("\n")) == [
        *("", "llmcompressor>=0.14", "numpy>=2.0", "torch==2.13.0  # a reason")
    ]
    assert set_up(checkout).stdout == "packages: .venv has them\n"


def test_another_torch_takes_its_place(checkout: Path) -> None:
    set_up(checkout)
    assert "installing" in set_up(checkout, TORCH="torch==2.11.0").stdout
    assert sorted((checkout / "installed").read_text().split()) == ["numpy>=2.0", "torch==2.11.0"]


def test_the_torch_that_python_has_is_kept(checkout: Path) -> None:
    assert set_up(checkout, TORCH="installed").returncode == 0
    assert (checkout / "installed").read_text().split() == ["numpy>=2.0"]
    assert (checkout / "venv_words").read_text().split() == ["-m", "venv", "--clear", "--system-site-packages", ".venv"]


def test_installed_without_a_torch_is_one_line(checkout: Path) -> None:
    done = set_up(checkout, TORCH="installed", NO_TORCH="1")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "has no torch" in done.stderr
    assert not (checkout / "installed").exists()


def test_another_python_begins_anew(checkout: Path) -> None:
    """As after `module load`, with packages to install: one environment of two Pythons imports neither's libraries."""
    for base, words in (("/a 3.11", "-m venv --clear .venv"), ("/a 3.11", "-m venv .venv"), ("/b 3.11", "--clear")):
        with (checkout / "requirements.txt").open("a") as file:
            file.write("rich\n")
        assert set_up(checkout, BASE=base).returncode == 0
        assert words in (checkout / "venv_words").read_text()
