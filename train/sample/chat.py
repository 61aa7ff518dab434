"""Conversations that wait for the assistant, and how they are shown and written. Nothing here needs torch."""

import json
from pathlib import Path
from typing import Any

from conf.errors import ConfigError, reason
from train.data.conversations import NOTHING, Conversation, conversation_of

Messages = list[dict[str, Any]]


def read_chat(chat: str) -> list[Conversation]:
    """A user's first message, or the conversations in the file that `@FILE` names: JSON, or of .jsonl one a line.

    Errors: `ConfigError` for a file that cannot be read, naming the line, and for a conversation that waits for nobody.
    """
    if not chat.startswith("@"):
        return [Conversation([{"role": "user", "content": chat}])]
    path = Path(chat[1:])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"chat={chat} cannot be read ({reason(error)}); name a .json or .jsonl file") from None
    lines = enumerate(text.split("\n"), start=1) if path.suffix == ".jsonl" else [(1, text)]
    found = [_conversation(line, f"{path}:{number}") for number, line in lines if line.strip()]
    if not found:
        raise ConfigError(f'{path} holds no conversation; write {{"messages": [...]}} on a line')
    return found


def as_text(messages: Messages) -> str:
    """Messages for the terminal, each with its role before it."""
    parts = []
    for message in messages:
        calls = [json.dumps(call["function"]) for call in message.get("tool_calls", [])]
        by_tool = [message["content"]] if message["role"] == "tool" else []
        parts_of_moss = [message.get("reasoning_content"), message.get("commands"), *by_tool]
        said = [one for one in parts_of_moss if one != NOTHING] + calls + ([] if by_tool else [message["content"]])
        parts.append(f"{message['role']}: " + "\n  ".join(str(one) for one in said if one))
    return "\n".join(parts)


def whole(conversation: Conversation, new: Messages) -> dict[str, Any]:
    """A conversation with its new messages, as `chat=@FILE` reads it again once the next one is added."""
    tools = {"tools": conversation.tools} if conversation.tools else {}
    return {"messages": [*conversation.messages, *new], **tools}


def _conversation(text: str, place: str) -> Conversation:
    try:
        row = json.loads(text)
        found = conversation_of(row if isinstance(row, dict) else {"messages": row}, "messages")
        found.text().encode()
    except ValueError as error:
        raise ConfigError(f"{place} is no conversation: {error}") from None
    if found.messages[-1]["role"] == "assistant":
        raise ConfigError(f"{place} ends with the assistant; add the message that it shall answer")
    return found
