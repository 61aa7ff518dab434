"""Every shipped setting composes, with the paper's numbers; every wrong word gets one line."""

import re
from pathlib import Path

import pytest

from conf.check import AUTO
from conf.compose import compose_settings, load_settings, note
from conf.errors import ConfigError
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
TINY = {"nl": (16, 120, 4e-3, 4e-4, 110), "multi": (16, 120, 3e-3, 4e-4, 110), "mono": (16, 120, 3e-3, 4e-4, 110)}
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


@pytest.mark.parametrize("name", TINY)
def test_the_laptops_recipe_composes(name: str) -> None:
    settings = compose_settings(["model=tiny", f"stage={name}"])
    stage, model = settings.stages[name], settings.model
    numbers = (stage.global_batch_size, stage.steps, stage.peak_learning_rate, stage.end_learning_rate)
    assert (*numbers, stage.anneal_steps) == TINY[name]
    assert (model.n_layer, model.n_embd, model.n_head, model.rotary_dim) == (4, 128, 4, 16)
    assert (model.vocab_size, model.context_length, stage.warmup_steps) == (2048, 256, 10)


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
    if group != "command" and choice != "base"  # no group; what the others of their group share
]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_of_every_group_composes(group: str, choice: str) -> None:
    words = [f"{'corpus@data.corpora.nl' if group == 'corpus' else group}={choice}"]
    compose_settings([*words, *companions(group, choice)])


def companions(group: str, choice: str) -> list[str]:
    """What a choice of a group needs of the others."""
    needs = {
        ("stage", "sft"): ["data=conversations"],
        ("data", "conversations"): ["stage=sft"],
        ("corpus", "conversations"): ["data.packing=best_fit", "data.document_mask=true"],
    }
    template = ["data.tokenizer.chat_template=moss"] if group == "corpus" else []
    return [*needs.get((group, choice), []), *template, *(["model=350m"] if choice.startswith("a100") else [])]


@pytest.mark.parametrize("names", ["nl,multi,mono", "mono,nl", "[multi,mono]", "multi"])
def test_stages_are_selected_in_order(names: str) -> None:
    assert list(compose_settings([f"stage={names}"]).stages) == names.strip("[]").split(",")


def comments(path: Path) -> tuple[set[str], set[str]]:
    """(keys with a comment, keys without) of a file, dotted. A key above others is explained by what they say."""
    explained, bare, above = set(), set(), []
    for line in path.read_text().split("defaults:")[-1].splitlines():
        found = re.match(r"( *)([\w]+):(?: ([^#\s&*][^#]*))?(.*)", line)
        if found:
            del above[len(found[1]) // 2 :]
            above.append(found[2])
            key = ".".join(above)
            if "#" in found[4] or key.rpartition(".")[0] in explained:
                explained.add(key)
            elif found[3]:
                bare.add(key)
    return explained, bare


PREFIXES = {  # below what the keys of a group's files are, where it is not the group's own name
    "stage": ["stages.FILE"],
    "corpus": [f"data.corpora.{name}" for name in ("nl", "multi", "mono", "sft")],
    "command": [],
    "experiment": [],
}


def explained_for(path: Path) -> set[str]:
    """Keys explained in the files that `path` builds on: its bases; the first recipe; what the file is merged into."""
    bases = [path.parent / f"{name}.yaml" for name in re.findall(r"^  - (\w+)$", path.read_text(), re.MULTILINE)]
    bases += {"sizes": [CONF / "layout/base.yaml"], "experiment": [CONF / "config.yaml"]}.get(path.parent.name, [])
    explained = set().union(*(comments(base)[0] | explained_for(base) for base in bases if base.exists()))
    if path.parent.name == "experiment":  # it sets values of every group
        for other in sorted(CONF.glob("*/*.yaml")):
            for prefix in PREFIXES.get(other.parent.name, [other.parent.name]):
                prefix = prefix.replace("FILE", other.stem)
                explained |= {f"{prefix}.{key}" for key in comments(other)[0]}
    if path.parent.name in ("recipe", "experiment"):
        prefix = {"recipe": "", "experiment": "recipe."}[path.parent.name]
        first = {key.partition(".")[2] for key in comments(CONF / "recipe/350m.yaml")[0]}
        explained |= {f"{prefix}{stage}.{key}" for stage in ("nl", "multi", "mono") for key in first}
    return explained


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_key_carries_a_comment(path: Path) -> None:
    explained, bare = comments(path)
    assert explained or bare or "defaults:" in path.read_text()
    assert bare <= explained | explained_for(path)


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
        (["stages.nl.step=5"], "unknown setting 'stages.nl.step'; did you mean 'stages.nl.steps'?"),
        (["zork=1"], "unknown setting 'zork'"),
        (["model.n_layer=abc"], "model.n_layer: Value 'abc'"),
        (["model.n_layer=null"], "model.n_layer=null: this setting cannot be empty; leave it out or give it a value"),
        (["stage=nl", "stages.nl.warmup_steps=null"], "or set stages.nl.warmup_ratio, which replaces it"),
        (
            ["layout.precision=fp4"],
            "layout.precision: Invalid value 'fp4', expected one of [auto, fp32, bf16, fp16, fp8]",
        ),
        (["model=7b"], "model=7b does not exist; there are 16b, 2b, 350m, 6b"),
        (["stage=foo"], "stage=foo does not exist; there are mono, multi, nl"),
        (["foo"], "'foo' is not a setting"),
        (["stage=nl,mono,nl"], "names one twice; each stage runs once"),
        (["cluster.slurm.environment={A: b}"], "takes new names one by one, as +cluster.slurm.environment.NAME=VALUE"),
        (["hydra.run.dir=x"], "'hydra.run.dir' does nothing here"),
        (["stage=mono", "stages.nl.steps=3"], "'stages.nl.steps' belongs to a stage that is not selected"),
        (["model.n_layer=[1"], "model.n_layer=[1"),
        (["data.tokenizer.special_tokens=[<|a|>]"], """so does each value of a list: 'KEY=["<a>","<b>"]'"""),
        (["layout.sequence_parallel=maybe"], "layout.sequence_parallel: Value 'maybe' is not a valid bool"),
        (["optimizer.weight_decay=abc"], "optimizer.weight_decay: Value 'abc'"),
        (["model=null"], "model=null does not exist; there are 16b, 2b, 350m, 6b, codegen2-16b,"),
        (["model=base"], "model=base does not exist"),
        (["stage=nl,null"], "stage=null does not exist"),
        (["experiment=null"], "experiment=null does not exist; there are codegen_16b,"),
        (["commandd=sample"], "unknown setting 'commandd'; see conf/"),
        (["=3"], "=3"),
        (["experiment=mine"], "experiment=mine does not exist; there are codegen_16b,"),
        (["~zork"], "unknown setting 'zork'"),
        (["~model.n_layer"], "~model.n_layer: this setting cannot be removed"),
        (["run.name=???"], "run.name has no value"),
        (["+stages.nl.steps=30"], "'+stages.nl.steps': this setting is there already; write stages.nl.steps=..."),
        (["data.decontaminate.x=1"], "data.decontaminate is a list; write data.decontaminate=[...] instead of data."),
        (["~finetune.targets.0"], "~finetune.targets: of a list no element can be removed; write finetune.targets=["),
        (["run.name=a", "finetune.targets.name=a"], "finetune.targets is a list; write finetune.targets=[...] instead"),
        (["data.decontaminate.d=1"], "data.decontaminate is a list; write data.decontaminate=[...] instead of data."),
        (["data.decontaminate.x.y=1"], "data.decontaminate is a list; write data.decontaminate=[...] instead of data."),
        (["~tracking"], "'~tracking' would leave a run without tracking; choose one: tracking= wandb"),
        (["~stage"], "'~stage' would leave a run without stage; choose one: stage= mono, multi, nl"),
        (["hydra/launcher=basic"], "'hydra/launcher' does nothing here"),
        (["run.seed=${foo.bar}"], "run.seed=${foo.bar}: Interpolation key 'foo.bar' not found"),
        (["layout.micro_batch_size=1.5"], "layout.micro_batch_size=1.5 must be a whole number of sequences, or auto"),
    ],
)
def test_a_wrong_word_gets_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_settings(words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("group", ["model", "data", "layout", "stage", "kernels"])
def test_every_choice_that_a_message_lists_can_be_chosen(group: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_settings([f"{group}=zork"])
    for choice in str(caught.value).partition("there are ")[2].split(", "):
        compose_settings([f"{group}={choice}", *companions(group, choice)])


def test_a_cluster_layout_without_the_size_takes_a_larger_ones_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    note.cache_clear()
    layout = compose_settings(["layout=a100_8", "model=tiny"]).layout
    said = capsys.readouterr().err
    assert said.startswith("note: layout=a100_8 has no values for model=tiny; those of 350m are used (or write ")
    assert layout == compose_settings(["layout=a100_8", "model=350m"]).layout and said.count("\n") == 1


def test_habits_from_hydra() -> None:
    settings = compose_settings(
        [
            "~evaluation.sample_prompts.nl",
            "+evaluation.sample_prompts.mine=x",
            "++model.dropout=0.5",
            "data.corpora.nl.paths=[a,b]",
        ]
    )
    assert list(settings.evaluation.sample_prompts) == ["multi", "mono", "mine"]
    assert settings.model.dropout == 0.5 and settings.data.corpora["nl"].paths == ["a", "b"]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of one's own settings: a size, and an experiment that chooses it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "experiment").mkdir()
    size = "defaults: [base]\nname: 1b\nn_layer: 24\nn_embd: 2048\nn_head: 16\nrotary_dim: 32\n"
    (tmp_path / "model/1b.yaml").write_text(size)
    experiment = "# @package _global_\ndefaults:\n  - override /model: 1b\nrun:\n  name: mine\n"
    (tmp_path / "experiment/mine.yaml").write_text(experiment)
    return tmp_path


def test_a_new_size_is_one_file_wherever_it_is(mine: Path) -> None:
    settings = compose_settings([f"hydra.searchpath=[file://{mine}]", "experiment=mine", "layout=a100_64"])
    theirs = compose_settings(["model=2b", "layout=a100_64"])
    assert (settings.run.name, settings.model.n_embd, settings.model.vocab_size) == ("mine", 2048, 51200)
    assert settings.recipe == theirs.recipe and settings.layout == theirs.layout


def test_saved_settings_come_back(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    settings = compose_settings(["model=2b", "layout.zero_stage=3"])
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(plain(settings))))
    assert load_settings(tmp_path / "config.yaml") == settings


def test_auto_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "layout/mine.yaml"
    path.parent.mkdir()
    path.write_text("defaults:\n  - base\n\nname: mine\nmicro_batch_size: auto\n")
    assert compose_settings([f"hydra.searchpath=[file://{tmp_path}]", "layout=mine"]).layout.micro_batch_size == AUTO
    assert compose_settings(["layout.micro_batch_size=auto"]).layout.micro_batch_size == AUTO


def test_habits_of_hydra_compose() -> None:
    assert list(compose_settings(["~stages.nl"]).stages) == ["multi", "mono"]
    assert compose_settings(["++stages.nl.steps=30"]).stages["nl"].steps == 30
    assert compose_settings(["cluster.slurm.modules=[a,b]"]).cluster.slurm.modules == ["a", "b"]
    assert compose_settings(["+cluster.slurm.environment.A=b"]).cluster.slurm.environment == {"A": "b"}
