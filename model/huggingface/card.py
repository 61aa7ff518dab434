"""The model card (README.md) of an export: where its weights came from, on how much of which data, and its scores."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from conf.choices import ExportForm, Objective, Packing, Source
from conf.compose import load_settings
from conf.lora import is_lora
from conf.run_folder import CONFIG, ENVIRONMENT, EVALUATION, EVALUATIONS, LINEAGE, is_stage_folder, read_json
from conf.schema import CorpusConfig, DataConfig, FinetuneConfig, Settings, StageConfig
from model.flops import parameters
from model.huggingface.peft import BASE
from model.huggingface.settings import MP_NUM
from model.tokenizer import load_tokenizer
from model.tokenizer.codegen2 import END_OF_MASK, FIRST_MASK, SEPARATOR, can_infill
from model.weights import Weights

CLASSES = {ExportForm.codegen: "CodeGenForCausalLM", ExportForm.gptj: "GPTJForCausalLM"}  # of whole weights


def model_card(
    weights: Weights,
    form: ExportForm,
    name: str,
    further: str | None = None,
    base_beside: bool = False,
    mp_num: int = MP_NUM,
) -> str:
    """Markdown with the front matter that the hub reads; `name` is the exported folder's, `further` a last section.

    base_beside: the folder has what its adapters adapt, in base/. mp_num: groups in qkv_proj.
    The licence is the data's and the owner's to say: the card names none.
    """
    model = weights.model
    library, auto, holds = "transformers", "AutoModelForCausalLM", f"transformers' {CLASSES.get(form)}"
    quoted = json.dumps(name)
    arguments, packages, imports = quoted, "torch transformers", ""
    if weights.adapters is not None and form is ExportForm.peft:
        base = _short(weights.adapters.base)
        library, auto, holds = "peft", "AutoPeftModelForCausalLM", f"PEFT's adapters of {base}, without its weights"
        if base_beside:
            holds, auto = "PEFT's adapters, of the model in base/", "PeftModel"
            arguments = f"AutoModelForCausalLM.from_pretrained({json.dumps(f'{name}/{BASE}')}), {quoted}"
        packages, imports = f"{packages} peft", f"from peft import {auto}\n"
    auto_tokenizer, tokenizer = ", AutoTokenizer", f"tokenizer = AutoTokenizer.from_pretrained({quoted})\n"
    if weights.tokenizer_folder is None:
        auto_tokenizer, tokenizer = "", ""
    loading = (
        f"From the folder that holds {name}/:\n\n```python\n# pip install {packages}\n"
        f"{imports}from transformers import AutoModelForCausalLM{auto_tokenizer}\n\n{tokenizer}"
        f"model = {auto}.from_pretrained({arguments})\n```"
    )
    if weights.adapters is not None and library == "peft" and not base_beside and _is_path(weights.adapters.base):
        loading += (
            f"\n\nadapter_config.json names {base} by its path on the machine that exported the adapters: elsewhere, "
            "set its `base_model_name_or_path` to where that folder is."
        )
    if mp_num != MP_NUM:
        loading = (
            f"Its qkv_proj is cut into {mp_num} groups. transformers' CodeGen reads {MP_NUM}, and would load it "
            f"without a word and compute something else: use code that reads {mp_num}, as CodeGen2-1B's own does "
            f"(trust_remote_code), or export it again with mp_num={MP_NUM}."
        )
    sections = [
        f"---\nlibrary_name: {library}\npipeline_tag: text-generation\ntags: [{form.value}]\n---\n\n# {name}",
        f"CodeGen (arXiv 2203.13474) with {parameters(model):,} parameters: {model.n_layer} layers of width "
        f"{model.n_embd}, {model.n_head} heads, {model.vocab_size:,} tokens in its vocabulary, a context of "
        f"{model.context_length:,}. In the form of {holds}.",
        loading,
        *(_usage(weights) if mp_num == MP_NUM else ()),
        "## Where the weights came from\n\n" + "\n".join(_origin(weights)),
    ]
    if scores := list(_scores(weights.folder)):
        sections.append(
            "## Scores\n\n| | |\n|---|---:|\n" + "\n".join(f"| {what} | {value:.4g} |" for what, value in scores)
        )
    return "\n\n".join([*sections, *([further] if further else [])]) + "\n"


def _usage(weights: Weights) -> Iterator[str]:
    """How to ask a model for more than the next text, after `loading`: code for transformers."""
    if weights.tokenizer_folder is None:
        return
    tokenizer = load_tokenizer(weights.tokenizer_folder)
    written = 'model.generate(**ids, max_new_tokens=100)[0, ids["input_ids"].shape[1] :]'
    if tokenizer.chat_template is not None:
        yield f"""A conversation, by the tokenizer's template:

```python
asked = [{{"role": "user", "content": "What is 2 and 3?"}}]
ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode({written}))
```"""
    if can_infill(tokenizer.special_tokens):
        yield f"""A place in a text, if it was trained to infill; what it writes ends with `{END_OF_MASK}`:

```python
eos, prefix, suffix = tokenizer.eos_token, "def add(a, b):", "\\n    return c\\n"
asked = eos + prefix + "{FIRST_MASK}" + suffix + eos + "{SEPARATOR}{FIRST_MASK}"
ids = tokenizer(asked, return_tensors="pt", split_special_tokens=False)
print(tokenizer.decode({written}))
```"""


def _origin(weights: Weights) -> Iterator[str]:
    """The stages from the first, with their data and settings; for weights of another origin, its name."""
    stages = list(_stages(weights.folder))
    if not stages:
        yield f"Converted from {_short(weights.source)} ({weights.form})."
        return
    before = stages[0][1]["lineage"][:-1]
    yield f"Trained from {', '.join(map(_short, before)) if before else 'random weights'}, stage by stage:"
    yield ""
    yield "| stage | tokens | of them | steps | sequences a step | learning rate | AdamW betas | weight decay |"
    yield "|---|---:|---|---:|---:|---|---|---:|"
    every: list[tuple[str, dict[str, str]]] = []
    for folder, lineage in stages:
        settings = load_settings(folder.parents[1] / CONFIG)
        stage, adamw = settings.stages[lineage["stage"]], settings.optimizer
        corpora = {key: settings.data.corpora[key] for key in lineage["tokens_of"] if key in settings.data.corpora}
        every.append((lineage["lineage"][-1], {key: _source(corpus) for key, corpus in corpora.items()}))
        sources = ", ".join(f"{corpus} {count:,}" for corpus, count in lineage["tokens_of"].items())
        yield (
            f"| {lineage['lineage'][-1]} | {lineage['tokens']:,} | {sources} | {lineage['steps']:,} | "
            f"{stage.global_batch_size} | {_rate(stage, lineage['steps'])} | {adamw.beta1:g}, {adamw.beta2:g} | "
            f"{adamw.weight_decay:g} |"
        )
    yield ""
    kind = settings.data.tokenizer.kind  # a parent's is not in the settings
    if weights.tokenizer_folder is not None:
        kind = load_tokenizer(weights.tokenizer_folder).kind
    yield f"In the last stage: {_further(settings)}; tokenizer {kind}.{_code(weights.folder.parents[1])}"
    yield ""
    yield from (f"- {corpus}: {source}" for corpus, source in _by_corpus(every))
    yield from _repositories(stages)


def _by_corpus(stages: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, Any]]:
    """Each corpus with what is said of it; with its stage where stages say different things of corpora of one name."""
    found: dict[str, dict[str, Any]] = {}
    for stage, said in stages:
        for key, one in said.items():
            found.setdefault(key, {})[stage] = one
    for key, of_stages in found.items():
        first, *others = of_stages.values()
        if all(one == first for one in others):
            yield key, first
        else:
            yield from ((f"{key} of {stage}", one) for stage, one in of_stages.items())


def _repositories(stages: list[tuple[Path, dict[str, Any]]]) -> Iterator[str]:
    """A table of each corpus' largest repositories by their share of its text, where its documents name some."""
    read_by = [(lineage["lineage"][-1], lineage.get("repositories_of", {})) for _, lineage in stages]
    found = [(corpus, read) for corpus, read in _by_corpus(read_by) if read["largest"]]
    if not found:
        return
    yield from ("", "| corpus | its repositories or packages, by share of its text |", "|---|---|")
    for key, read in found:
        shares = [f"{name} {size / read['bytes']:.1%}" for name, size in read["largest"].items()]
        more = [f"{read['others']:,} others"] if read["others"] else []
        yield f"| {key} | {', '.join([*shares, *more])} |"


def _rate(stage: StageConfig, steps: int) -> str:
    """The learning rate over a stage of so many steps."""
    warmup = stage.warmup_steps if stage.warmup_ratio is None else round(stage.warmup_ratio * steps)
    anneal = stage.anneal_steps
    if stage.anneal_ratio is not None:
        anneal = min(round(stage.anneal_ratio * steps), steps - warmup)
    rates = f"{stage.peak_learning_rate:g} to {stage.end_learning_rate:g}, {stage.schedule.value}"
    return f"{rates}, warm-up {warmup:,}, annealing {anneal:,} steps"


def _further(settings: Settings) -> str:
    """Settings that the table has no column for."""
    adamw, data = settings.optimizer, settings.data
    return (
        f"seed {settings.run.seed}, gradients clipped at {adamw.gradient_clipping:g}, z-loss {adamw.z_loss:g}, "
        f"precision {settings.layout.precision.value}, dropout {settings.model.dropout:g}, "
        f"packing {data.packing.value}{_padding(data)}, deduplication {data.dedup.value}, "
        f"{data.validation_fraction:.2%} of the documents held out"
        f"{_objective(data)}{_adapters(settings.finetune)}"
    )


def _padding(data: DataConfig) -> str:
    return " (its padding is counted as tokens)" if data.packing is Packing.best_fit else ""


def _objective(data: DataConfig) -> str:
    return f", {data.infill_fraction:.0%} of the documents infilled" if data.objective is Objective.infill else ""


def _adapters(finetune: FinetuneConfig) -> str:
    if not is_lora(finetune):
        return ""
    frozen = "" if finetune.quantize is None else f" beside weights in {finetune.quantize.value}"
    modules = ", ".join(finetune.targets)
    return f", adapters alone (LoRA: rank {finetune.rank}, alpha {finetune.alpha:g}, on {modules}){frozen}"


def _code(run: Path) -> str:
    """The commit of the code that trained last, where the run's folder says it."""
    git = read_json(run / ENVIRONMENT).get("git") if (run / ENVIRONMENT).is_file() else None
    if not git:
        return ""
    changed = any(not line.startswith("??") for line in git["status"])  # files that git does not know are no code of it
    return f" Trained by the code of commit {git['commit'][:12]}{', changed' if changed else ''}."


def _source(corpus: CorpusConfig) -> str:
    """Where a corpus' documents came from."""
    match corpus.source:
        case Source.local:
            return f"text of the training machine's Python packages ({corpus.name})"
        case Source.hub:
            subsets = f", subsets {', '.join(corpus.subsets)}" if corpus.subsets else ""
            return f"data set {corpus.name} on the hub{subsets}, split {corpus.split}"
    what = "commits of the git repositories" if corpus.source is Source.git else "files"
    return f"{what} {', '.join(_short(path) for path in corpus.paths)}"


def _stages(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, lineage.json) of a run's stage and of those before it that are on this machine, the first one first."""
    if is_stage_folder(folder) and (folder / LINEAGE).is_file():
        lineage = read_json(folder / LINEAGE)
        if lineage["parent"]:
            yield from _stages(_parent(folder, Path(lineage["parent"])))
        yield folder, lineage


def _parent(folder: Path, parent: Path) -> Path:
    """The stage `parent` of `folder`: named from where the run was started, or beside it where the run was moved."""
    same_run = len(parent.parts) > 2 and parent.parts[-3] == folder.absolute().parents[1].name
    return folder.parent / parent.name if same_run else parent


def _scores(folder: Path) -> Iterator[tuple[str, float]]:
    """Bits per byte, and what `python -m train.evaluate` found."""
    if (folder / EVALUATION).is_file():
        for corpus, value in read_json(folder / EVALUATION)["bits_per_byte"].items():
            yield f"{corpus}, bits per byte of validation", value
    for path in sorted((folder / EVALUATIONS).glob("*.json")):
        result = read_json(path)
        for k, value in result.get("pass_at_k", {}).items():
            yield f"{path.stem}, pass@{k}", value
        for key in ("pass_rate", "perplexity", "exact_match", "harness"):
            for name, value in _flat(result.get(key)):
                yield ", ".join([path.stem, key.replace("_", " "), *name]), value


def _flat(value: Any) -> Iterator[tuple[list[str], float]]:
    """The numbers in nested results, each with its keys; none where there are none."""
    if isinstance(value, dict):
        yield from (([key, *keys], one) for key, each in value.items() for keys, one in _flat(each))
    elif isinstance(value, int | float):
        yield [], value


def _short(source: str) -> str:
    """A folder's name without the path on this machine; names of runs and of the hub as they are."""
    return PurePath(source).name if _is_path(source) else source


def _is_path(source: str) -> bool:
    """Whether it is a place on this machine alone."""
    return PurePath(source).is_absolute()
