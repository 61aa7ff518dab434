"""Every command in the README files runs: where it would train for hours, or needs a cluster, with dry_run=true."""

import importlib
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from launch.jobs import add_job
from tests.train.compare_runs import write_run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md"))]
NEED_WEIGHTS = ("train.sample", "train.evaluate", "model.huggingface")  # run by tests of their own


def commands(page: Path) -> list[str]:
    """The lines of a page's bash blocks, continuation lines joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


COMMANDS = [(page, line) for page in PAGES for line in commands(page)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands name: runs, a host file, an imported model, a file of code."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("a", "b", "mine", "NAME", "quickstart-tiny"):
        write_run(folder / "runs", name, stages="mono")
    (folder / "runs/NAME/jobs").mkdir()
    (folder / "runs/NAME/jobs/local.log").write_text("a line of the log\n")
    add_job(folder / "runs/NAME", "local", "7", ["mono"], "elsewhere", "jobs/local.log", "jobs/local.exit")
    (folder / "code").mkdir()
    (folder / "code/a.py").write_text("x = 1\n")
    (folder / "repositories/one").mkdir(parents=True)
    (folder / "talks").mkdir()
    (folder / "talks/a.jsonl").write_text("{}\n")
    (folder / "chatml.jinja").write_text("{% generation %}{% endgeneration %}")
    (folder / "hosts").write_text("node1 slots=8\nnode2 slots=8\n")
    (folder / "checkpoints/350m-multi").mkdir(parents=True)
    (folder / "checkpoints/350m-multi/config.json").write_text(json.dumps({}))
    return folder


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{p.parent.name}: {line}" for p, line in COMMANDS])
def test_every_command_runs(
    page: Path, line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = shlex.split(line, comments=True)
    if words[0] == "source":
        assert words[1:] == [".venv/bin/activate"]
        return
    if words[0] == "bash":
        assert subprocess.run(["bash", "-n", ROOT / words[1]], check=False).returncode == 0
        return
    module = words[words.index("-m" if words[0] == "python" else "--module") + 1]
    arguments = words[words.index(module) + 1 :]
    if module == "launch" and arguments[0] == "evaluate":
        arguments.append("dry_run=true")
    elif module == "launch" and arguments[0] not in ("status", "logs", "cancel", "sync", "--help"):
        arguments = [*(word for word in arguments if word != "dry_run=true"), "dry_run=true", "run.root=new"]
    if module == "train.data":
        arguments += ["--cfg", "job"]
    code = importlib.import_module(f"{module}.__main__").main(arguments)
    said = capsys.readouterr()
    if module in NEED_WEIGHTS:  # there are none: every word was read before it was noticed
        assert code == 2 and not re.search("unknown|is not a setting|has no value", said.err), said.err
    else:
        assert code == 0, said.err


def test_the_pages_link_to_what_there_is() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90
