"""The assistant's next messages of conversations, by the chat template that the model was trained with."""

from collections.abc import Callable, Sequence
from typing import Any

from conf.errors import ConfigError, DataError
from model.tokenizer import Tokenizer
from model.tokenizer.chat import ChatTemplate
from train.data.conversations import COMMANDS, NOTHING, Conversation
from train.sample.chat import Messages

THOUGHTS_END, COMMANDS_BEGIN = "<eot>", f"<|{COMMANDS}|>:"  # of MOSS's turns

Ended = Callable[[list[int]], bool]  # given a row's new ids, whether it needs no more


def answer(
    tokenizer: Tokenizer,
    generate: Callable[[list[list[int]], list[int], Ended], list[list[int]]],
    conversations: Sequence[Conversation],
    seeds: Sequence[int],
) -> list[Messages]:
    """What the assistant writes in each conversation, as one batch. A call of a tool ends it: its result comes next.

    Where MOSS's turn calls no tool, its answer follows in the same turn, whatever parts the model writes there.
    generate: new ids of prompts, a seed each.
    Errors: `ConfigError` for a tokenizer without a template, or a conversation that the template cannot render.
    """
    if tokenizer.chat_template is None:
        raise ConfigError(
            "chat= needs a model that was trained on conversations, and this one's tokenizer has no chat template; "
            "train one with `python -m launch stage=sft data=conversations 'data.corpora.sft.paths=[...]'`, or let "
            "this one continue a text with prompt="
        )
    template = ChatTemplate(tokenizer)
    ends = template.ends
    found: list[Messages] = [[] for _ in conversations]
    rows = list(range(len(conversations)))
    while rows:
        prompts = [_prompt(template, conversations[row], found[row]) for row in rows]
        own = [seeds[row] for row in rows]
        written = generate(prompts, own, lambda new: not ends.isdisjoint(new))
        for row, new in zip(rows, written, strict=True):
            cut = next((at for at, token in enumerate(new) if token in ends), len(new))
            found[row] += [said(new[:cut], tokenizer)] if found[row] else messages_of(new[:cut], tokenizer)
        rows = [row for row in rows if found[row][-1]["role"] != "assistant"]
    return found


def messages_of(ids: list[int], tokenizer: Tokenizer) -> Messages:
    """What the assistant wrote, up to what ended it, as messages; where MOSS's turn uses no tool, with its `None`."""
    end = tokenizer.special_tokens.get(THOUGHTS_END)
    if end not in ids:
        return [said(ids, tokenizer)]
    at = ids.index(end)
    thoughts, commands = tokenizer.decode(ids[:at]).strip(), tokenizer.decode(ids[at + 1 :]).strip()
    commands = commands.removeprefix(COMMANDS_BEGIN).strip()
    call = {"role": "assistant", "content": "", "reasoning_content": thoughts, "commands": commands}
    return [call, {"role": "tool", "content": NOTHING}] if commands == NOTHING else [call]


def said(ids: list[int], tokenizer: Tokenizer) -> dict[str, Any]:
    """What the assistant wrote, up to what ended it, as its answer."""
    return {"role": "assistant", "content": tokenizer.decode(ids).strip()}


def _prompt(template: ChatTemplate, conversation: Conversation, new: Messages) -> list[int]:
    try:
        return template.encode([*conversation.messages, *new], conversation.tools, add_generation_prompt=True).ids
    except DataError as error:
        raise ConfigError(f"chat: {error}") from None
