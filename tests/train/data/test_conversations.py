"""Conversations from rows to samples: both formats, what is cut or left out, and the labels by hand."""

import json
from itertools import pairwise

import numpy
import pyarrow
import pyarrow.parquet
import pytest

from conf.chat_templates import read_template
from conf.choices import IGNORE_INDEX, OnError, Packing
from conf.compose import compose_settings
from conf.errors import ConfigError, DataError
from conf.schema import CorpusConfig
from model.tokenizer.chat import ChatTemplate
from tests.chats import MOSS, SEARCH, TALK, TOOL_TALK, chat_tokenizer
from train.data.conversations import Conversation, conversation_of, encode_conversation
from train.data.dropped import Dropped
from train.data.formats import Part, read_part
from train.data.loss_mask import ids_of, labels_of
from train.data.prepare import find_prepared, prepare
from train.data.statistics import inspection

TURN = {
    "Human": "<|Human|>: Who?<eoh>\n",
    "Inner Thoughts": "<|Inner Thoughts|>: look<eot>\n",
    "Commands": '<|Commands|>: Search("who")<eoc>\n',
    "Tool Responses": "<|Results|>:\n<|1|>: me<eor>\n",
    "MOSS": "<|MOSS|>: Me.<eom>\n",
}
NO_TOOL = {
    "Human": "<|Human|>: Sure?<eoh>\n",
    "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
    "Commands": "<|Commands|>: None<eoc>\n",
    "Tool Responses": "<|Results|>: None<eor>\n",
    "MOSS": "<|MOSS|>: Yes.<eom>\n",
}
META = "You are MOSS.\n- Web search: enabled. API: Search(query)\n"
MOSS_ROW = {"meta_instruction": META, "num_turns": 2, "chat": {"turn_10": NO_TOOL, "turn_2": TURN}}


def test_a_talk_of_moss_without_tools_is_asked_as_it_was_trained():
    """Its parts are all `None`: it is a talk like any other, whose answers come right after what was asked."""
    plain = conversation_of({"meta_instruction": META, "chat": {"turn_1": NO_TOOL, "turn_2": NO_TOOL}}, "messages")
    assert [one["role"] for one in plain.messages] == ["system", "user", "assistant", "user", "assistant"]
    template = ChatTemplate(chat_tokenizer())
    asked = template.encode(plain.messages[:2], add_generation_prompt=True).ids
    assert template.encode(plain.messages).ids[: len(asked)] == asked


def test_a_tables_columns_add_no_keys_to_tools_and_calls(tmp_path):
    """Parquet and Arrow give every call the arguments of all."""
    tools = [
        {"type": "function", "function": {"name": "Search", "parameters": {"properties": {"query": {"type": "str"}}}}},
        {"type": "function", "function": {"name": "Add", "parameters": {"properties": {"a": {"type": "int"}}}}},
    ]
    calls = [{"function": {"name": "Search", "arguments": {"query": "x"}}}]
    calls += [{"function": {"name": "Add", "arguments": {"a": 1}}}]
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": calls}], "tools": tools}
    table = pyarrow.Table.from_pylist([row])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pyarrow.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as file:
        file.write_table(table)
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    corpus = compose_settings(["stage=sft", "data=conversations", "data.corpora.sft.paths=[a]"]).data.corpora["sft"]
    found = [
        next(read_part(Part(str(tmp_path / name)), "sft", corpus, Dropped(OnError.fail))).conversation
        for name in ("a.jsonl", "a.parquet", "a.arrow")
    ]
    assert found[0] == found[1] == found[2]


def encoded(conversation, context_length=1000, dropped=None):
    tokenizer = chat_tokenizer()
    dropped = Dropped(OnError.fail) if dropped is None else dropped
    return encode_conversation(ChatTemplate(tokenizer), tokenizer, context_length, dropped, conversation, "here")


def test_moss_turns_are_written_as_they_were():
    conversation = conversation_of(MOSS_ROW, "messages")
    tokens, size = encoded(conversation)
    tokenizer = chat_tokenizer()
    text = META + "".join(TURN.values()) + "".join(NO_TOOL.values())
    assert tokenizer.decode(ids_of(tokens)) == text and ids_of(tokens)[-1] == tokenizer.eos
    special = [token for token in ids_of(tokens)[:-1].tolist() if token in tokenizer.special_tokens.values()]
    assert len(special) == 20, "ten of each turn, and none for <|1|>"
    labels = labels_of(tokens)
    learnt = tokenizer.decode(labels[labels != IGNORE_INDEX])
    assert learnt == (
        ' look<eot>\n<|Commands|>: Search("who")<eoc> Me.<eom> None<eot>\n<|Commands|>: None<eoc> Yes.<eom>'
    )
    assert size == len(learnt) - sum(learnt.count(name) * len(name) for name in MOSS)


def test_messages_in_the_forms_of_other_tools_are_the_same():
    call = {"id": "1", "type": "function", "function": {"name": "Search", "arguments": '{"query": "who"}'}}
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Who?"}], "name": None},
            {"role": "assistant", "content": None, "reasoning_content": "look", "tool_calls": [call]},
            {"role": "tool", "content": "\n<|1|>: me", "tool_calls": []},
            *TOOL_TALK[3:],
        ],
        "tools": json.dumps([SEARCH]),
    }
    ours, same = encoded(conversation_of(row, "messages")), encoded(Conversation(TOOL_TALK, [SEARCH]))
    assert ours[0].tolist() == same[0].tolist() and ours[1] == same[1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "column 'messages' holds no list of messages"),
        ({"messages": []}, "holds no list of messages"),
        ({"messages": [{"content": "x"}]}, "message 1 has no role"),
        ({"messages": [*TALK, {"role": "user", "content": 3}]}, "message 6 has a content that is no text"),
        ({"messages": TALK, "tools": "{"}, "tools is a text that is not JSON"),
        ({"messages": TALK, "tools": {}}, "tools is no list"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "message 1 has a tool call without a name"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "x"}]}]},
            "message 1 calls f with arguments that are not JSON",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": 5}]}, "message 1 has tool_calls that are no list"),
        ({"chat": {}}, "holds no turn_1"),
        ({"chat": {"turn_1": {"Human": "<|Human|>: a<eoh>"}}}, "turn_1 has no Human and MOSS"),
        ({"chat": {"turn_1": {"Human": "a", "MOSS": "<|MOSS|>: b"}}}, "Human does not begin with its name"),
    ],
)
def test_a_row_that_is_no_conversation_says_why(row, message):
    with pytest.raises(ValueError, match=message):
        conversation_of(row, "messages")


def test_a_long_conversation_keeps_its_first_turns_whole_and_is_counted():
    whole, first = encoded(Conversation(TALK))[0], encoded(Conversation(TALK[:3]))[0]
    dropped = Dropped()
    room = len(whole) - 2  # its last token is a label only, and the separator after it is none
    assert encoded(Conversation(TALK), room, dropped)[0].tolist() == whole.tolist() and not dropped.counts
    assert encoded(Conversation(TALK), room - 1, dropped)[0].tolist() == first.tolist()
    assert encoded(Conversation(TALK), len(first) - 3, dropped) is None
    assert encoded(Conversation(TALK[:2]), room, dropped) is None
    assert dropped.counts == {
        "cut after whole turns, kept": 1,
        "longer than the context": 1,
        "no message of the assistant": 1,
    }
    with pytest.raises(DataError, match="here: the chat template cannot render it: the role x"):
        encoded(Conversation([{"role": "x", "content": ""}]))


@pytest.fixture
def chat_settings(settings, tmp_path):
    """200 conversations of one or two turns, all different; a long one; and rows that teach nothing."""
    rows = []
    for number in range(200):
        question = {"role": "user", "content": f"What is {number} and 3?"}
        answer = {"role": "assistant", "content": f"It is {number + 3}."}
        rows.append({"messages": [question, answer, *TALK[3 : 3 + 2 * (number % 2)]]})
    rows.append({"messages": [{"role": "user", "content": "word " * 200}, {"role": "assistant", "content": "no"}]})
    rows.append({"messages": TALK[:2]})
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = CorpusConfig(name="sft", paths=[str(tmp_path / "talks.jsonl")], text_column="messages", conversations=True)
    corpus.source = settings.data.corpora["nl"].source
    settings.data.corpora, settings.stages = {"sft": corpus}, {"sft": settings.stages["nl"]}
    settings.stages["sft"].corpus = "sft"
    settings.model.context_length = 64
    settings.data.packing, settings.data.document_mask = Packing.best_fit, True
    settings.data.tokenizer.special_tokens, settings.data.tokenizer.chat_template = MOSS, "moss"
    return settings


def samples_of(dataset, tokenizer):
    """The conversations in samples: text, and the text of what is learnt. Every label is the next input."""
    for index in range(len(dataset)):
        inputs, labels, positions = dataset[index]
        begins = [*numpy.flatnonzero(positions == 0).tolist(), len(inputs)]
        for first, last in pairwise(begins):
            own = labels[first:last]
            if not (own != IGNORE_INDEX).any():
                assert not inputs[first:last].any(), "padding"
                continue
            known = own[:-1] != IGNORE_INDEX
            assert (own[:-1][known] == inputs[first + 1 : last][known]).all()
            yield tokenizer.decode(inputs[first:last]), tokenizer.decode(own[own != IGNORE_INDEX])


def test_samples_hold_whole_conversations_and_the_labels_of_the_assistant(chat_settings):
    lines = []
    prepared = prepare(chat_settings, lines.append)
    assert "1 longer than the context, 1 no message of the assistant" in lines[-2]
    files, tokenizer = prepared.corpora["sft"], prepared.tokenizer()
    found = list(samples_of(prepared.training(chat_settings)["sft"], tokenizer))
    held_out = list(samples_of(files.validation_samples(64, True), tokenizer))
    assert (len(found), len(held_out)) == (files.train_documents, files.validation_documents)
    assert len(found) + len(held_out) == 200 and len(set(found + held_out)) == 200
    for text, learnt in found + held_out:
        number = int(text.split()[3])
        assert text.startswith(f"<|Human|>: What is {number} and 3?<eoh>\n<|MOSS|>: It is {number + 3}.<eom>")
        assert learnt == f" It is {number + 3}.<eom>" + (" 3<eom>" if number % 2 else "")
    learnt_bytes = sum(len(learnt) - 5 * learnt.count("<eom>") for _, learnt in held_out)
    assert files.validation_bytes == learnt_bytes
    shown = "\n".join(inspection(prepared))
    assert "<|Human|>: What is" in shown and "<eom>" in shown
    padding = prepared.training(chat_settings)["sft"].padding
    tokens = [len(tokenizer.encode(text, "all")) for text, _ in found]
    assert padding == pytest.approx(1 - sum(tokens) / (64 * len(prepared.training(chat_settings)["sft"])), abs=0.02)


def test_the_prepared_data_belongs_to_the_context_and_the_template(chat_settings, tmp_path):
    prepare(chat_settings, lambda line: None)
    assert find_prepared(chat_settings) is not None
    chat_settings.model.context_length = 32
    assert find_prepared(chat_settings) is None
    chat_settings.model.context_length = 64
    (tmp_path / "own.jinja").write_text(read_template("moss").replace("Human", "User"))
    chat_settings.data.tokenizer.chat_template = str(tmp_path / "own.jinja")
    assert find_prepared(chat_settings) is None
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    with pytest.raises(ConfigError, match="does not say what the assistant writes"):
        prepare(chat_settings, lambda line: None)


def test_texts_among_conversations_are_refused(chat_settings, tmp_path):
    (tmp_path / "notes.txt").write_text("no talk")
    chat_settings.data.corpora["sft"].paths.append(str(tmp_path / "notes.txt"))
    with pytest.raises(DataError, match=r"notes\.txt is text; conversations are rows of tables"):
        prepare(chat_settings, lambda line: None)


def test_what_is_redacted_is_redacted_in_messages(chat_settings, tmp_path):
    mail = {"role": "assistant", "content": "Write to me@corp.com."}
    rows = [{"messages": [{"role": "user", "content": f"Where {n}?"}, mail]} for n in range(99)]
    rows += [{"messages": [{"role": "user", "content": str(n)}, *TALK[2:3]]} for n in range(99)]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat_settings.data.redact, chat_settings.stages["sft"].global_batch_size = ["emails"], 1
    prepared = prepare(chat_settings, lambda line: None)
    texts = [text for text, _ in samples_of(prepared.training(chat_settings)["sft"], prepared.tokenizer())]
    assert any("<EMAIL>" in text for text in texts) and not any("@" in text for text in texts)
