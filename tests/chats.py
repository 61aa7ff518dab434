"""Conversations, and a tokenizer with MOSS's turns, for the tests of instruction tuning."""

import functools
import json
import re
from pathlib import Path
from typing import Any

from conf.chat_templates import read_template
from model.tokenizer.gpt2 import GPT2Tokenizer
from model.tokenizer.sentencepiece import SentencePieceTokenizer

NAMES = ["<|Human|>", "<|Inner Thoughts|>", "<|Commands|>", "<|Results|>", "<|MOSS|>"]
ENDS = ["<eoh>", "<eot>", "<eoc>", "<eor>", "<eom>"]
MOSS = [*NAMES, *ENDS]
HIDDEN = "\ue000"  # in the place of "<"
CHATML = """
{%- if tools %}{{ '<|im_start|>system\\nFunctions:\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.role != 'assistant' -%}
{{ message.content + '<|im_end|>\\n' }}
{%- else -%}
{%- generation -%}
{{ message.content }}
{%- for call in message.tool_calls or [] %}{{ '\\n<tool_call>' + (call.function | tojson) }}{% endfor -%}
{{ '<|im_end|>' }}
{%- endgeneration -%}
{{ '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
IM = ["<|im_start|>", "<|im_end|>"]
TEXTS = ["What is 2 and 3? It is 5.\n", "Add 1 and 2.\n", "Be brief.\n"] * 20
SEARCH = {
    "type": "function",
    "function": {"name": "Search", "description": "finds pages", "parameters": {"properties": {"query": {}}}},
}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 and 3?"},
    {"role": "assistant", "content": "It is 5."},
    {"role": "user", "content": "And 1 and 2?"},
    {"role": "assistant", "content": "3"},
]
TOOL_TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "Who?"},
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": "look",
        "tool_calls": [{"type": "function", "function": {"name": "Search", "arguments": {"query": "who"}}}],
    },
    {"role": "tool", "content": "\n<|1|>: me"},
    {"role": "assistant", "content": "Me."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


@functools.cache
def chat_tokenizer() -> SentencePieceTokenizer:
    """A small tokenizer with MOSS's tokens and template."""
    return SentencePieceTokenizer.train(TEXTS, 320).with_special(MOSS, read_template("moss"))


def gpt2_chat_tokenizer(folder: Path) -> GPT2Tokenizer:
    """The same for the tokenizer of GPT-2's form in `folder`."""
    return GPT2Tokenizer.load(folder).with_special(MOSS, read_template("moss"))


def ids_by_transformers(theirs: Any, messages: list[dict[str, Any]], **asked: Any) -> list[int]:
    """What transformers makes of a conversation of which the template alone writes special tokens.

    Those in a message are hidden while it renders; transformers has an option for that only from 5.18 on.
    """
    hidden = json.loads(json.dumps(messages).replace("<", HIDDEN))
    text = theirs.apply_chat_template(hidden, tokenize=False, **asked)
    special = [token.content for token in theirs.added_tokens_decoder.values() if token.special]
    ids: list[int] = []
    names = [*special, *(name.replace("<", HIDDEN) for name in special)]
    for piece in re.split("(" + "|".join(map(re.escape, names)) + ")", text):
        if piece in special:
            ids.append(theirs.convert_tokens_to_ids(piece))
        else:
            ids += theirs.encode(piece.replace(HIDDEN, "<"), split_special_tokens=True, add_special_tokens=False)
    return ids
