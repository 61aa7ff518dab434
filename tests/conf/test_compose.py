"""Every shipped setting composes, with the paper's numbers; every wrong word gets one line."""

from pathlib import Path

import pytest

from conf.check import ConfigError
from conf.compose import compose_settings, load_settings
from conf.schema import plain

CONF = Path(__file__).parents[2] / "conf"

# batch in sequences of 2048 tokens, steps, peak rate, end rate, annealing steps
RECIPES = {
    ("350m", "nl"): (256, 350_000, 3.0e-4, 3.0e-5, 300_000),
    ("350m", "multi"): (256, 150_000, 1.8e-4, 3.0e-5, 147_000),
    ("350m", "mono"): (256, 150_000, 1.8e-4, 3.0e-5, 147_000),
    ("2b", "nl"): (512, 350_000, 1.6e-4, 1.6e-5, 300_000),
    ("2b", "multi"): (512, 150_000, 0.8e-4, 0.8e-5, 147_000),
    ("2b", "mono"): (512, 100_000, 0.8e-4, 0.8e-5, 97_000),
    ("6b", "nl"): (512, 350_000, 1.2e-4, 1.2e-5, 300_000),
    ("6b", "multi"): (512, 100_000, 0.4e-4, 0.4e-5, 97_000),
    ("6b", "mono"): (512, 140_000, 0.4e-4, 0.4e-5, 137_000),
    ("16b", "nl"): (1024, 350_000, 0.9e-4, 0.9e-5, 300_000),
    ("16b", "multi"): (1024, 100_000, 0.5e-4, 0.5e-5, 97_000),
    ("16b", "mono"): (1024, 140_000, 0.5e-4, 0.5e-5, 137_000),
}
SIZES = {"350m": (20, 1024, 16, 32), "2b": (32, 2560, 32, 64), "6b": (33, 4096, 16, 64), "16b": (34, 6144, 24, 64)}


@pytest.mark.parametrize(("size", "name"), RECIPES)
def test_the_papers_recipes_compose(size: str, name: str) -> None:
    settings = compose_settings([f"model={size}", f"stage={name}"])
    stage, model, optimizer = settings.stages[name], settings.model, settings.optimizer
    assert list(settings.stages) == [name]
    numbers = (stage.global_batch_size, stage.steps, stage.peak_learning_rate, stage.end_learning_rate)
    assert (*numbers, stage.anneal_steps) == RECIPES[size, name]
    assert (model.n_layer, model.n_embd, model.n_head, model.rotary_dim) == SIZES[size]
    assert (model.vocab_size, model.context_length, stage.warmup_steps) == (51200, 2048, 3000)
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon, optimizer.weight_decay) == (0.9, 0.999, 1e-8, 0.1)
    assert (optimizer.gradient_clipping, optimizer.z_loss) == (1.0, 1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("gpus", [8, 64, 512])
def test_every_size_has_a_layout_for_8_64_and_512_gpus(size: str, gpus: int) -> None:
    layout = compose_settings([f"model={size}", f"layout=a100_{gpus}"], gpus).layout
    assert layout.tensor_parallel_size * layout.pipeline_parallel_size * (layout.data_parallel_size or 0) == gpus


GROUPS = {
    path.parent.name: sorted(other.stem for other in path.parent.glob("*.yaml")) for path in CONF.glob("*/*.yaml")
}
CHOICES = [
    (group, choice)
    for group, choices in GROUPS.items()
    for choice in choices
    if group not in ("corpus", "recipe", "command")
    and (group, choice) not in (("model", "codegen"), ("data", "base"), ("layout", "base"))
]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_of_every_group_composes(group: str, choice: str) -> None:
    words = [f"{group}={choice}"]
    if choice.startswith("a100"):
        words.append("model=350m")
    if (group, choice) == ("data", "files"):
        words.append("data.corpora.nl.paths=[x]")
    compose_settings(words)


def test_stages_are_selected_in_order() -> None:
    assert list(compose_settings(["stage=mono,nl"]).stages) == ["mono", "nl"]


def test_every_key_carries_a_comment_where_it_is_first_written() -> None:
    """A size, a recipe or a layout that only gives another value to a key need not explain it again."""
    for group in {path.parent for path in CONF.rglob("*.yaml")}:
        lines = [line for path in group.glob("*.yaml") for line in path.read_text().splitlines()]
        keys = [line for line in lines if ":" in line and not line.strip().startswith(("#", "-", "defaults:", "<<"))]
        explained = {line.split(":")[0].strip() for line in keys if " #" in line}
        if group.name in ("sizes", "experiment", "corpus"):
            continue
        named = {"nl", "multi", "mono", "run", "name", "experiment"}
        missing = {line.split(":")[0].strip() for line in keys} - explained - named
        assert not missing, f"{group.name}: {missing}"


def test_unconfirmed_figures_say_so() -> None:
    for size in ("2b", "6b", "16b"):
        text = (CONF / "recipe" / f"{size}.yaml").read_text()
        rates = [
            line
            for line in text.splitlines()
            if "peak_learning_rate: 0.8e-4" in line or "peak_learning_rate: 0.4e-4" in line
        ]
        assert all("[R] unconfirmed" in line for line in rates)
    assert "0.9e-4 # [R] unconfirmed" in (CONF / "recipe/16b.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.n_embdd=3"], "unknown setting 'model.n_embdd'; did you mean 'model.n_embd'?"),
        (["modell=tiny"], "unknown setting 'modell'; did you mean 'model'?"),
        (["+model.zork=1"], "unknown setting 'model.zork'"),
        (["model.n_layer=abc"], "model.n_layer: Value 'abc'"),
        (["layout.precision=fp8"], "layout.precision: Invalid value 'fp8', expected one of [auto, fp32, bf16, fp16]"),
        (["model=7b"], "model=7b does not exist; there are 16b, 2b, 350m, 6b"),
        (["stage=foo"], "stage=foo does not exist; there are mono, multi, nl"),
        (["foo"], "'foo' is not a setting"),
        (["model.n_layer=[1"], "no viable alternative"),
        (["run.name=???"], "run.name has no value"),
    ],
)
def test_a_wrong_word_gets_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_settings(words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_saved_settings_come_back(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    settings = compose_settings(["model=2b", "layout.zero_stage=3"])
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(plain(settings))))
    assert load_settings(tmp_path / "config.yaml") == settings
