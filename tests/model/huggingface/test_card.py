"""Every export says where its weights came from, on how much of which data, and how good they are."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from conf.chat_templates import read_template
from conf.choices import ExportForm, Precision, Source
from conf.compose import compose_settings
from conf.schema import CorpusConfig, ModelConfig
from model.huggingface.card import _further, _rate, _source
from model.huggingface.convert import export_weights
from model.pretrained import open_weights
from model.tokenizer.codegen2 import INFILLING
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from tests.chats import MOSS, TEXTS
from tests.model.huggingface.random_models import random_model, save
from tests.model.test_pretrained import write_run


def lineage(run: Path, stage: str, parent: str | None, line: list[str], **tokens: int) -> None:
    told = {"stage": stage, "parent": parent, "steps": 7, "tokens": sum(tokens.values()), "tokens_of": tokens}
    told["repositories_of"] = {
        "multi": {"bytes": 1000, "largest": {"owner/one": 600, "two": 300}, "others": 1234},
        "nl": {"bytes": 1000, "largest": {}, "others": 0},  # its documents name none
    }
    (run / "stages" / stage / "lineage.json").write_text(json.dumps({**told, "lineage": line}))


def test_a_stage_of_a_run(tmp_path: Path, tiny: ModelConfig) -> None:
    run = tmp_path / "run"
    settings = compose_settings(["model=tiny", "stages.multi.peak_learning_rate=0.00125"])
    write_run(run, replace(settings, model=tiny), ["nl", "multi"])
    lineage(run, "nl", None, ["run/nl"], nl=2000)
    lineage(run, "multi", "runs/run/stages/nl", ["run/nl", "run/multi"], multi=3000, nl=500)
    (run / "stages/multi/evaluation.json").write_text(json.dumps({"bits_per_byte": {"nl": 1.25, "multi": 0.5}}))
    (run / "stages/multi/evaluations").mkdir()
    (run / "stages/multi/evaluations/humaneval.json").write_text(json.dumps({"pass_at_k": {"1": 0.125}}))
    scores = {"exact_match": {"infill": 0.5}, "perplexity": {"notes": {"token": 2.5}}, "problems": 3}
    (run / "stages/multi/evaluations/infill.json").write_text(json.dumps(scores))
    (run / "environment.json").write_text(
        json.dumps({"git": {"commit": "0123456789abcdef", "status": ["?? data/", " M a"]}})
    )
    export_weights(open_weights(run), tmp_path / "mine", 4, Precision.auto)
    text = (tmp_path / "mine/README.md").read_text()
    assert "Trained by the code of commit 0123456789ab, changed." in text
    card = ModelCard(text)  # as the hub reads it
    assert (card.data.library_name, card.data.pipeline_tag, card.data.tags) == (
        "transformers",
        "text-generation",
        ["codegen"],
    )
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[1].startswith("| run/nl | 2,000 | nl 2,000 | 7 |")
    assert (
        rows[2].startswith("| run/multi | 3,500 | multi 3,000, nl 500 | 7 |")
        and "| 0.00125 to 0.0004, cosine, warm-up 10, annealing 110 steps |" in rows[2]
    )
    assert [row for row in rows if "owner/one" in row] == ["| multi | owner/one 60.0%, two 30.0%, 1,234 others |"]
    assert rows[-5:] == [
        "| nl, bits per byte of validation | 1.25 |",
        "| multi, bits per byte of validation | 0.5 |",
        "| humaneval, pass@1 | 0.125 |",
        "| infill, perplexity, notes, token | 2.5 |",
        "| infill, exact match, infill | 0.5 |",
    ]
    assert "Trained from random weights" in text and str(tmp_path) not in text
    assert "In the last stage: seed 1234, gradients clipped at 1, z-loss 0.0001, precision auto, dropout 0," in text
    assert "- nl: text of the training machine's Python packages (nl)\n- multi: text of" in text


def test_corpora_of_one_name_are_told_apart_by_their_stages(tmp_path: Path, tiny: ModelConfig) -> None:
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    write_run(base, replace(compose_settings(["model=tiny"]), model=tiny), ["multi"])
    lineage(base, "multi", None, ["base/multi"], nl=2000, multi=1000)
    words = ["model=tiny", "data=files", "data.corpora.multi.paths=[code/*.py]", "data.packing=best_fit"]
    write_run(tuned, replace(compose_settings(words), model=tiny), ["multi"])
    lineage(tuned, "multi", str(base / "stages/multi"), ["base/multi", "tuned/multi"], multi=500)
    told = tuned / "stages/multi/lineage.json"
    nothing_named = {"multi": {"bytes": 10, "largest": {}, "others": 0}}
    told.write_text(json.dumps({**json.loads(told.read_text()), "repositories_of": nothing_named}))
    export_weights(open_weights(tuned), tmp_path / "mine", 4, Precision.auto)
    text = (tmp_path / "mine/README.md").read_text()
    assert (
        "- nl: text of the training machine's Python packages (nl)\n"
        "- multi of base/multi: text of the training machine's Python packages (multi)\n"
        "- multi of tuned/multi: files code/*.py\n"
    ) in text
    assert "| multi of base/multi | owner/one 60.0%" in text and "| multi |" not in text
    assert "packing best_fit (its padding is counted as tokens)," in text


def test_sources_are_named_without_this_machines_paths() -> None:
    def said(**settings: object) -> str:
        return _source(CorpusConfig(**settings))  # type: ignore[arg-type]

    assert said(source=Source.files, name="x", paths=["/home/me/a.jsonl", "code/*.py"]) == "files a.jsonl, code/*.py"
    assert said(source=Source.git, name="x", paths=["/srv/one"]) == "commits of the git repositories one"
    hub = said(source=Source.hub, name="owner/set", subsets=["c", "go"])
    assert hub == "data set owner/set on the hub, subsets c, go, split train"


def test_the_annealing_begins_where_the_warm_up_ends() -> None:
    stage = compose_settings(["experiment=diff_codegen", "data.corpora.mono.paths=[.]"]).stages["mono"]
    warmup, anneal = (int(one.replace(",", "")) for one in re.findall(r"([\d,]+)(?:,| steps)", _rate(stage, 2000))[-2:])
    assert warmup + anneal == 2000 and 0 < warmup < anneal


def test_how_adapters_were_trained_is_told() -> None:
    words = ["model=tiny", "finetune=lora", "finetune.quantize=nf4", "finetune.targets=[fc_in,fc_out]"]
    told = "adapters alone (LoRA: rank 16, alpha 32, on fc_in, fc_out) beside weights in nf4"
    assert _further(compose_settings(words)).endswith(f", {told}")
    assert _further(compose_settings(["data.objective=infill"])).endswith(", 50% of the documents infilled")


def test_the_code_on_the_card_runs(
    tmp_path: Path, tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loading, a conversation and an infilled place, as a reader of the card would have them."""
    tokenizer = SentencePieceTokenizer.train(TEXTS, 320).with_special(
        [*MOSS, *(set(INFILLING) - set(MOSS))], read_template("moss")
    )
    model = replace(tiny, vocab_size=tokenizer.vocab_size, context_length=512)
    write_run(tmp_path / "run", replace(compose_settings(["model=tiny"]), model=model), ["nl"])
    tokenizer.save(tmp_path / "run/tokenizer")
    export_weights(open_weights(tmp_path / "run"), tmp_path / "mine", 4, Precision.fp32)
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", Path("mine/README.md").read_text(), re.S)
    assert len(code) == 3
    names: dict[str, Any] = {}
    for block in code:
        exec(block, names)
    prompt = names["ids"]["input_ids"][0].tolist()
    mask = tokenizer.special_tokens["<mask_1>"]
    assert prompt[0] == prompt[-3] == tokenizer.eos and prompt.count(mask) == 2 and prompt[-1] == mask
    assert len(capsys.readouterr().out) > 2


def test_weights_of_another_origin(tmp_path: Path) -> None:
    source = save(random_model(), tmp_path / "downloaded")
    export_weights(open_weights(source), tmp_path / "mine", 4, Precision.auto, form=ExportForm.gptj)
    text = (tmp_path / "mine/README.md").read_text()
    parameters = sum(value.numel() for value in random_model().parameters())
    assert f"with {parameters:,} parameters: 2 layers of width 64" in text and "GPTJForCausalLM" in text
    export_weights(open_weights(source), tmp_path / "eight", 8, Precision.auto)
    assert "AutoTokenizer" not in text, "none came with it, and an empty one would be loaded without a word"
    eight = (tmp_path / "eight/README.md").read_text()
    assert "qkv_proj is cut into 8 groups" in eight and "from_pretrained" not in eight
    assert "Converted from downloaded (" in text and "## Scores" not in text and str(tmp_path) not in text
