"""Conversations to token ids by a chat template, and which of the ids the assistant wrote.

A template is Jinja as Hugging Face's `chat_template`, rendered by transformers' own function; what stands in its
`{% generation %}` blocks is the assistant's. The ids are those of `apply_chat_template` on the exported tokenizer, with
`sanitize_control_tokens=True`: a special token that the template writes has its id, the same text in a message or a
tool is ordinary text. Only a token that would reach into what the assistant writes from before it is two here.
Nothing here needs torch.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from conf.errors import ConfigError, DataError
from model.tokenizer import Tokenizer

BEGIN, END = "\ufdd0", "\ufdd1"  # noncharacters, around a special token's text that a message holds
PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"properties": {"x": {}}}}}

Message = Mapping[str, Any]


@dataclass(frozen=True)
class ChatIds:
    """Ids of a conversation, and of each whether the assistant wrote it."""

    ids: list[int]
    assistant: list[bool]


class ChatTemplate:
    """The template of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Errors: `ConfigError` for a tokenizer without a template, or one whose template marks no assistant's text."""
        if tokenizer.chat_template is None:
            raise ConfigError(
                "the tokenizer has no chat template; give one with data.tokenizer.chat_template=moss, or your own file"
            )
        if not re.search(r"\{%-?\s*generation\s*-?%\}", tokenizer.chat_template):
            raise ConfigError(
                "the chat template does not say what the assistant writes; put its messages, and the token that ends "
                "them, between {% generation %} and {% endgeneration %}"
            )
        self._tokenizer, self._text = tokenizer, tokenizer.chat_template
        self._special = tokenizer.special_tokens
        names = "|".join(re.escape(text) for text in sorted(self._special, key=len, reverse=True))
        self._forged = re.compile(names)
        # a marked token or a lone mark, which messages hold, or a special token, which the template writes
        self._parts = re.compile(f"{BEGIN}(?P<forged>{names}){END}|(?P<mark>[{BEGIN}{END}])|(?P<special>{names})")

    def encode(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, add_generation_prompt: bool = False
    ) -> ChatIds:
        """The conversation's ids. add_generation_prompt: with what comes before the assistant's next message.

        Errors: `DataError` with what the template says about a conversation that it cannot render.
        """
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template  # a second to import

        if forged := next((one for each in messages if (one := self._forged.search(str(each["role"])))), None):
            raise DataError(f"a message's role holds {forged.group()}, which only the template may write")
        try:
            made: Any = render_jinja_template(  # its annotation says str
                [[self._marked(_filled(message)) for message in messages]],
                self._marked(list(tools)) if tools else None,
                chat_template=self._text,
                return_assistant_tokens_mask=True,
                add_generation_prompt=add_generation_prompt,
                eos_token=self._eos_text,
                bos_token=self._eos_text,
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise DataError(f"the chat template cannot render it: {str(error).splitlines()[0]}") from None
        (rendered,), (spans,) = made
        return self._ids(rendered, spans)

    @cached_property
    def ends(self) -> frozenset[int]:
        """The special tokens that end what the assistant writes: of an answer, and of a call of a tool.

        Errors: `ConfigError` where an answer ends in none.
        """
        found = set()
        for last, tools in ((PROBE[-1], None), ({"role": "assistant", "content": "", "tool_calls": [CALL]}, [TOOL])):
            try:
                written = self.encode([PROBE[0], last], tools)
            except DataError:
                continue  # a template that knows no tools
            ids = [token for token, own in zip(written.ids, written.assistant, strict=True) if own]
            found |= {ids[-1]} & set(self._special.values()) if ids else set()
        if not found:
            raise ConfigError(
                "the chat template ends the assistant's messages with no special token, so that no answer would end; "
                "write one, such as <eom>, before {% endgeneration %} and name it in data.tokenizer.special_tokens"
            )
        return frozenset(found)

    @property
    def _eos_text(self) -> str:
        return next(text for text, token in self._special.items() if token == self._tokenizer.eos)

    def _marked(self, value: Any) -> Any:
        """`value` with marks around special tokens' texts, and where an end of a string could begin one."""
        if isinstance(value, str):
            text = self._forged.sub(rf"{BEGIN}\g<0>{END}", value.replace(BEGIN, "").replace(END, ""))
            begins = any(text.endswith(one[:size]) for one in self._special for size in range(1, len(one)))
            return text + END if begins else text
        if isinstance(value, Mapping):
            return {self._key(key): one if key == "role" else self._marked(one) for key, one in value.items()}
        return [self._marked(one) for one in value] if isinstance(value, list | tuple) else value

    def _key(self, key: Any) -> Any:
        """A key, which a template may write, with marks around special tokens' texts."""
        return self._forged.sub(rf"{BEGIN}\g<0>{END}", key) if isinstance(key, str) else key

    def _ids(self, text: str, spans: Sequence[tuple[int, int]]) -> ChatIds:
        found = ChatIds([], [])
        at = 0
        for match in self._parts.finditer(text):
            self._ordinary(text, at, match.start(), spans, found)
            if match["forged"]:
                self._ordinary(text, match.start("forged"), match.end("forged"), spans, found)
            elif match["special"]:
                found.ids.append(self._special[match["special"]])
                found.assistant.append(any(match.start() < end and start < match.end() for start, end in spans))
            at = match.end()
        self._ordinary(text, at, len(text), spans, found)
        return found

    def _ordinary(self, text: str, start: int, stop: int, spans: Sequence[tuple[int, int]], found: ChatIds) -> None:
        """Append the ids of text[start:stop]; the assistant's are those that overlap with one of `spans`.

        What the assistant writes begins with a token of its own: a piece that joined it with the line break before it,
        as sentencepiece has them, would never follow the prompt of a sample, which ends there.
        """
        begins = [begin for begin, _ in spans if start < begin < stop]
        for first, last in pairwise([start, *begins, stop]):
            inside = [
                (len(text[first : max(first, begin)].encode()), len(text[first : min(last, end)].encode()))
                for begin, end in spans
                if begin < last and first < end
            ]
            at = 0
            for token in self._tokenizer.encode(text[first:last]):
                after = at + len(self._tokenizer.token_bytes(token))
                found.ids.append(token)
                found.assistant.append(any(at < end and begin < after for begin, end in inside))
                at = after


def _filled(message: Message) -> Message:
    """A message without its empty keys, as transformers gives it to templates."""
    return {key: value for key, value in message.items() if value is not None}
