"""A run's folder takes its own run back, and no other."""

from pathlib import Path

import pytest

from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.run_folder import check_run_folder, differences, run_folder, save_settings
from conf.schema import Settings


def asked(root: Path, *words: str) -> Settings:
    return compose_settings([f"run.root={root}", "run.name=mine", *words])


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A root whose folder `mine` holds a run of the defaults that has recorded a step."""
    folder = tmp_path / "mine"
    folder.mkdir()
    save_settings(asked(tmp_path), folder)
    (folder / "metrics.jsonl").touch()
    return tmp_path


def test_a_new_folder_holds_no_run(tmp_path: Path) -> None:
    settings = asked(tmp_path)
    assert run_folder(settings) == tmp_path / "mine"
    assert check_run_folder(settings) is False
    (tmp_path / "mine").mkdir()
    assert check_run_folder(settings) is False
    assert not list((tmp_path / "mine").iterdir()), "a look leaves nothing"


def test_a_run_that_never_took_a_step_gives_way(held: Path) -> None:
    (held / "mine" / "metrics.jsonl").unlink()
    assert check_run_folder(asked(held, "model.n_layer=5")) is False


def test_the_same_run_goes_on(held: Path) -> None:
    assert check_run_folder(asked(held)) is True


FREE = [
    "layout=zero3",
    "layout.tensor_parallel_size=2",
    "layout.precision=bf16",
    "kernels=reference",
    "cluster.processes_per_node=4",
    "tracking.wandb=false",
    "tracking.log_every=1",
    "evaluation.every=3",
    "run.save_every=7",
    "run.group=others",
    "run.keep_checkpoints=1",
    "data.cache=elsewhere",
    "data.on_error=skip",
    "dry_run=true",
]


@pytest.mark.parametrize("word", FREE)
def test_how_it_is_spread_watched_and_kept_may_change(held: Path, word: str) -> None:
    assert check_run_folder(asked(held, word)) is True


BOUND = [
    ("run.seed=7", "run.seed was 1234, now 7"),
    ("model.n_layer=5", "model.n_layer was 4, now 5"),
    ("optimizer.beta2=0.95", "optimizer.beta2 was 0.999, now 0.95"),
    ("optimizer.decay=jaxformer", "optimizer.decay was matrices, now jaxformer"),
    ("stages.multi.peak_learning_rate=0.001", "stages.multi.peak_learning_rate was 0.003, now 0.001"),
    ("data.filters.digit_fraction=0.5", "data.filters.digit_fraction was 0.9, now 0.5"),
    ("data.corpora.mono.max_bytes=null", "data.corpora.mono.max_bytes was 6000000, now None"),
]


@pytest.mark.parametrize(("word", "said"), BOUND, ids=[word for word, _ in BOUND])
def test_another_run_is_refused_with_what_was_and_what_is_asked(held: Path, word: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_run_folder(asked(held, word))
    assert said in str(caught.value) and str(held / "mine") in str(caught.value)
    assert str(caught.value).endswith("choose another run.name") and "\n" not in str(caught.value)


def test_every_difference_is_listed(held: Path) -> None:
    listed = (
        r"model\.n_layer was 4, now 5; optimizer\.beta1 was 0\.9, now 0\.8; run\.seed was 1234, now 7; give it these"
    )
    with pytest.raises(ConfigError, match=listed):
        check_run_folder(asked(held, "model.n_layer=5", "run.seed=7", "optimizer.beta1=0.8"))


def test_a_stage_fewer_is_another_run(held: Path) -> None:
    with pytest.raises(ConfigError, match=r"stages\.mono was .*, now None"):
        check_run_folder(asked(held, "stage=nl,multi"))


def test_resume_never_refuses_even_the_same_run(held: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds a run already; go on with run\.resume=auto"):
        check_run_folder(asked(held, "run.resume=never"))
    assert check_run_folder(compose_settings([f"run.root={held}", "run.name=new", "run.resume=never"])) is False


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"is not empty and holds no run; choose another folder with run\.name"):
        check_run_folder(asked(tmp_path))


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(ConfigError, match=r"mine is a file; choose another folder with run\.name"):
        check_run_folder(asked(tmp_path))


def test_a_broken_settings_file_is_named(held: Path) -> None:
    path = held / "mine" / "config.yaml"
    path.write_text(path.read_text().replace("n_layer: 4", "n_layer: four"))
    with pytest.raises(ConfigError) as caught:
        check_run_folder(asked(held))
    assert str(path) in str(caught.value) and "four" in str(caught.value) and "\n" not in str(caught.value)


def test_differences_are_named_by_their_dotted_key() -> None:
    one, other = {"run": {"seed": 1}, "a": {"b": 1, "c": 2}}, {"run": {"seed": 1}, "a": {"b": 1, "c": 3, "d": 4}}
    assert differences(one, other) == [("a.c", 2, 3), ("a.d", None, 4)]
