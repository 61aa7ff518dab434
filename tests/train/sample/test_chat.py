"""A tiny model learns to answer in a whole run, and `train.sample chat=` continues conversations."""

import json
import random
from itertools import product
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from conf.compose import compose_settings
from conf.errors import ConfigError
from model.huggingface.__main__ import main as convert
from model.tokenizer import load_tokenizer
from model.tokenizer.chat import ChatTemplate
from tests.chats import SEARCH, ids_by_transformers
from tests.train.test_loop import trained
from tests.worlds import Worlds
from train.data.prepare import prepare
from train.sample.__main__ import main
from train.sample.chat import as_text, read_chat, whole

WORDS = ["red", "blue", "cat", "dog"]
GREEDY = ["temperature=0", "max_new_tokens=24", "precision=fp32"]


def says(word: str) -> list[dict]:
    return [{"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": f"{word}!"}]


def looks(word: str, found: str) -> list[dict]:
    call = {"type": "function", "function": {"name": "Search", "arguments": {"query": word}}}
    return [
        {"role": "user", "content": f"Look {word}."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": found},
        {"role": "assistant", "content": f"{found}!"},
    ]


def write_talks(path: Path) -> None:
    """All pairs of words, said in two turns or found by a tool, several times and in several ways."""
    rows = []
    for number, (first, second) in enumerate(product(WORDS, WORDS)):
        for again in range(12):
            system = {"role": "system", "content": f"{number}.{again}"}
            rows.append({"messages": [system, *says(first), *says(second)]})
            rows.append({"messages": [system, *looks(first, second)], "tools": [SEARCH]})
    random.Random(0).shuffle(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, worlds: Worlds) -> Path:
    """A run that has learnt to answer."""
    folder = tmp_path_factory.mktemp("chat")
    write_talks(folder / "talks.jsonl")
    places = [f"run.root={folder}/runs", "run.name=chat", f"data.cache={folder}/cache"]
    sizes = ["n_layer=2", "n_embd=64", "n_head=4", "rotary_dim=8", "vocab_size=448", "context_length=128"]
    stage = ["steps=150", "global_batch_size=8", "peak_learning_rate=5e-3"]
    words = [
        *("stage=sft", "data=conversations", f"data.corpora.sft.paths=[{folder}/talks.jsonl]", "kernels=eager"),
        *(f"model.{size}" for size in sizes),
        *(f"stages.sft.{one}" for one in stage),
        *("layout.micro_batch_size=8", "cluster.processes_per_node=1", "tracking.wandb=false", "optimizer.z_loss=0"),
        *("evaluation.sample_tokens=32", "evaluation.sample_temperature=0", "data.validation_bytes=300"),
        *("run.save_every=1000", "evaluation.sample_prompts.mono='Say dog.'"),
    ]
    prepare(compose_settings([*places, *words]))
    assert worlds(1).run(trained, [*places, *words]) == [0]
    return folder / "runs/chat"


def answers(run: Path, tmp_path: Path, *rows: dict) -> list[list[dict]]:
    """The messages that `train.sample` adds to each conversation."""
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "answers.jsonl"
    assert main([f"run={run}", f"chat=@{tmp_path}/asked.jsonl", f"output={output}", *GREEDY]) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    for line, row in zip(lines, rows, strict=True):
        assert line["messages"][: len(row["messages"])] == row["messages"] and line.get("tools") == row.get("tools")
    return [line["messages"][len(row["messages"]) :] for line, row in zip(lines, rows, strict=True)]


def test_it_answers_turn_after_turn(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = [{"role": "system", "content": "1.2"}, *says("cat")]
    found = answers(run, tmp_path, {"messages": [*begun, says("dog")[0]]}, {"messages": [begun[0], says("blue")[0]]})
    assert found == [[says("dog")[1]], [says("blue")[1]]]
    assert "user: Say dog.\nassistant: dog!" in capsys.readouterr().out


def test_the_samples_of_its_stage_are_answers(run: Path) -> None:
    samples = (run / "stages/sft/samples.md").read_text()
    assert "## mono\n\n~~~~\nSay dog.\nassistant: dog!\n~~~~" in samples, samples


def test_it_calls_a_tool_and_answers_by_its_result(run: Path, tmp_path: Path) -> None:
    begun = [{"role": "system", "content": "1.2"}, looks("red", "")[0]]
    ((called,),) = answers(run, tmp_path, {"messages": begun, "tools": [SEARCH]})
    assert called == {"role": "assistant", "content": "", "reasoning_content": "None", "commands": 'Search("red")'}
    result = {"role": "tool", "content": "dog"}
    assert answers(run, tmp_path, {"messages": [*begun, called, result], "tools": [SEARCH]}) == [[says("dog")[1]]]


def test_the_export_has_the_template_and_the_same_ids(run: Path, tmp_path: Path) -> None:
    assert convert(["export", str(run), str(tmp_path / "exported")]) == 0
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "exported"), load_tokenizer(run / "tokenizer")
    assert (run / "tokenizer/chat_template.jinja").read_text() == theirs.chat_template
    for messages, tools in ((says("cat") + says("<eom> dog"), None), (looks("red", "cat"), [SEARCH])):
        assert ids_by_transformers(theirs, messages, tools=tools) == ChatTemplate(ours).encode(messages, tools).ids
    twin = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    asked = theirs.apply_chat_template(
        says("dog")[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = twin.generate(**asked, do_sample=False, max_new_tokens=24)[0, asked["input_ids"].shape[1] :]
    ours_text = answers(run, tmp_path, {"messages": says("dog")[:1]})[0][0]["content"]
    assert theirs.decode(written) == f" {ours_text}<eom>", "it ends where ours does"


def test_a_conversation_is_shown_and_written_whole() -> None:
    talk = read_chat("hello")[0]
    assert talk.messages == [{"role": "user", "content": "hello"}]
    assert whole(talk, says("cat")[1:])["messages"] == [*talk.messages, says("cat")[1]]
    assert as_text(looks("red", "cat")) == (
        'user: Look red.\nassistant: {"name": "Search", "arguments": {"query": "red"}}\ntool: cat\nassistant: cat!'
    )
    moss = {"role": "assistant", "content": "", "reasoning_content": "None", "commands": 'Search("red")'}
    shown = as_text([moss, {"role": "tool", "content": "None"}, {"role": "assistant", "content": "None"}])
    assert shown == 'assistant: Search("red")\ntool: \nassistant: None', "of MOSS's parts `None` is one that is empty"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "asked.jsonl:1 is no conversation"),
        (json.dumps({"messages": says("cat")}), "asked.jsonl:1 ends with the assistant; add the message"),
        ("", "holds no conversation"),
    ],
)
def test_a_file_that_asks_nothing_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "asked.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_chat(f"@{tmp_path}/asked.jsonl")
