"""Conversations out of the rows of a table: `messages` with `tools`, or MOSS's own turns in `chat`.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...], "tools": [...]}
    {"meta_instruction": "...", "chat": {"turn_1": {"Human": "<|Human|>: ...<eoh>\n", "MOSS": "<|MOSS|>: ...<eom>\n"}}}

MOSS's turns (its README and moss-003-sft-data) become the same messages, which its chat template writes as they were.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from conf.errors import DataError
from model.tokenizer import Tokenizer
from model.tokenizer.chat import ChatTemplate
from train.data.dropped import Dropped
from train.data.loss_mask import with_mask

PART = re.compile(r"\s*<\|[^|]+\|>: ?(.*?)(?:<eo[htcrm]>)?\s*", re.DOTALL)  # of a turn: its name, the text, its end
THOUGHTS, COMMANDS, RESULTS = "Inner Thoughts", "Commands", "Tool Responses"
NOTHING = "None"  # what MOSS writes for a part that it does not need
CHAT, META, TOOLS = "chat", "meta_instruction", "tools"  # columns beside the one of the messages


@dataclass(frozen=True)
class Conversation:
    """Messages as chat templates take them, and the tools that the assistant was given."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None

    def text(self) -> str:
        """What everyone says, a message a line: what tells conversations apart, and what tokenizers are trained on."""
        return "\n".join(_strings({"messages": self.messages, TOOLS: self.tools or []}))

    def mapped(self, change: Callable[[str], str]) -> "Conversation":
        """The same with each of its texts changed."""
        return Conversation(_mapped(self.messages, change), _mapped(self.tools, change))


def conversation_of(row: dict[str, Any], column: str) -> Conversation:
    """The conversation in one row of a table; column: that of the messages. Errors: ValueError saying what is wrong."""
    if row.get(column) is None and isinstance(row.get(CHAT), dict):
        return Conversation(list(_moss_messages(row[CHAT], row.get(META))))
    messages, tools = row.get(column), row.get(TOOLS)
    if isinstance(tools, str):  # as tables without nested columns keep them
        try:
            tools = json.loads(tools) if tools.strip() else None
        except ValueError:
            raise ValueError("tools is a text that is not JSON") from None
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"column '{column}' holds no list of messages")
    if tools is not None and not isinstance(tools, list):
        raise ValueError("tools is no list")
    return Conversation([_message(number, one) for number, one in enumerate(messages, 1)], tools or None)


def without_nulls(value: Any) -> Any:
    """A value of a column without the keys that are null: a table gives each of its objects the keys of all."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def encode_conversation(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    context_length: int,
    dropped: Dropped,
    conversation: Conversation,
    place: str,
) -> tuple[NDArray[numpy.integer], int] | None:
    """The tokens of a conversation with the separator after it, as loss_mask.py keeps them, and the bytes to be learnt.

    A conversation that the context has no room for keeps the first turns that fit, whole. None where nothing of it can
    be learnt; `dropped` counts both. Errors: `DataError` under on_error=fail for what the template cannot render.
    """
    messages, tools = conversation.messages, conversation.tools
    try:
        found = template.encode(messages, tools)
        begun = [at for at, message in enumerate(messages) if message["role"] == "user"]
        while len(found.ids) > context_length + 1 and len(begun) > 1:  # the last token is a label only
            found = template.encode(messages[: begun.pop()], tools)
    except DataError as error:
        dropped.unreadable(f"{place}: {error}")
        return None
    if len(found.ids) > context_length + 1:
        dropped.add("longer than the context", place, conversation.text())
        return None
    if not any(found.assistant):
        dropped.add("no message of the assistant", place, conversation.text())
        return None
    if len(begun) < sum(message["role"] == "user" for message in messages):
        dropped.add("cut after whole turns, kept", place, conversation.text())
    special = tokenizer.special_tokens.values()
    learnt = (token for token, own in zip(found.ids, found.assistant, strict=True) if own and token not in special)
    size = sum(len(tokenizer.token_bytes(token)) for token in learnt)
    return numpy.append(with_mask(found.ids, found.assistant), numpy.uint32(tokenizer.eos)), size


def _message(number: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ValueError(f"message {number} has no role")
    found = {key: value for key, value in message.items() if value is not None}
    content = found.get("content", "")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise ValueError(f"message {number} has a content that is no text")
    if "tool_calls" in found:
        if not isinstance(found["tool_calls"], list):
            raise ValueError(f"message {number} has tool_calls that are no list")
        found["tool_calls"] = [_call(number, call) for call in found["tool_calls"]]
        if not found["tool_calls"]:
            del found["tool_calls"]
    return {**found, "content": content}


def _call(number: int, call: Any) -> dict[str, Any]:
    """A call of a tool, its arguments as a mapping, which templates expect: OpenAI's clients write them as JSON."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"message {number} has a tool call without a name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            raise ValueError(f"message {number} calls {function['name']} with arguments that are not JSON") from None
    return {"type": "function", "function": {**function, "arguments": arguments or {}}}


def _moss_messages(chat: dict[str, Any], meta: Any) -> Iterator[dict[str, Any]]:
    if isinstance(meta, str) and meta:
        yield {"role": "system", "content": meta}
    turns = sorted((key for key in chat if re.fullmatch(r"turn_\d+", key)), key=lambda key: int(key[5:]))
    if not turns:
        raise ValueError(f"column '{CHAT}' holds no turn_1")
    turns_of: list[dict[str, str]] = []
    for name in turns:
        turn = chat[name]
        if not isinstance(turn, dict) or "Human" not in turn or "MOSS" not in turn:
            raise ValueError(f"{name} has no Human and MOSS")
        parts = {key: PART.fullmatch(str(value)) for key, value in turn.items() if value is not None}
        for key, found in parts.items():
            if found is None:
                raise ValueError(f"{name}: {key} does not begin with its name, such as <|Human|>:")
        turns_of.append({key: found[1] for key, found in parts.items() if found})
    uses_tools = any(texts.get(part, NOTHING) != NOTHING for texts in turns_of for part in (THOUGHTS, COMMANDS))
    for texts in turns_of:
        yield {"role": "user", "content": texts["Human"]}
        if uses_tools and (THOUGHTS in texts or COMMANDS in texts):
            thoughts, commands = texts.get(THOUGHTS, NOTHING), texts.get(COMMANDS, NOTHING)
            yield {"role": "assistant", "content": "", "reasoning_content": thoughts, "commands": commands}
            yield {"role": "tool", "content": texts.get(RESULTS, NOTHING)}
        yield {"role": "assistant", "content": texts["MOSS"]}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: each if key == "role" else _mapped(each, change) for key, each in value.items()}
    return [_mapped(each, change) for each in value] if isinstance(value, list) else value
