"""What a model writes in a turn, as messages; tests/train/sample/test_chat.py has a model that learnt to answer."""

import pytest

from conf.errors import ConfigError
from tests.chats import TALK, chat_tokenizer
from tests.train.sample.cases import GREEDY, MODEL, generator_of
from train.data.conversations import Conversation
from train.sample.answer import Ended, answer, messages_of


def test_what_was_written_becomes_messages() -> None:
    tokenizer = chat_tokenizer()
    call = messages_of(tokenizer.encode(" look<eot>\n<|Commands|>: Add(1)", "all"), tokenizer)
    assert call == [{"role": "assistant", "content": "", "reasoning_content": "look", "commands": "Add(1)"}]
    none = messages_of(tokenizer.encode(" None<eot>\n<|Commands|>: None", "all"), tokenizer)
    assert none[1] == {"role": "tool", "content": "None"}, "the answer follows in the same turn"
    assert messages_of(tokenizer.encode(" a <eot> b"), tokenizer) == [{"role": "assistant", "content": "a <eot> b"}]


def test_an_answer_comes_to_an_end_whatever_the_model_writes() -> None:
    """One that writes the part of tools again and again would be asked for ever."""
    tokenizer, asked = chat_tokenizer(), []

    def generate(prompts: list[list[int]], seeds: list[int], ended: Ended) -> list[list[int]]:
        asked.append(len(prompts))
        return [tokenizer.encode(" None<eot>\n<|Commands|>: None<eoc>", "all") for _ in prompts]

    (found,) = answer(tokenizer, generate, [Conversation(TALK[:2])], [0])
    assert asked == [1, 1] and [one["role"] for one in found] == ["assistant", "tool", "assistant"]
    assert found[-1]["content"] == "None<eot>\n<|Commands|>: None"


def test_what_cannot_be_answered_is_one_line() -> None:
    generator = generator_of(chat_tokenizer())
    long = Conversation([{"role": "user", "content": "x" * MODEL.context_length}])

    def generate(prompts: list[list[int]], seeds: list[int], ended: Ended) -> list[list[int]]:
        return generator.generate_ids(prompts, GREEDY, seeds, ended)

    with pytest.raises(ConfigError, match="a prompt is over 34 tokens"):
        answer(generator.tokenizer, generate, [long], [0])
    with pytest.raises(ConfigError, match="chat: the chat template cannot render it: the role judge is not known"):
        answer(generator.tokenizer, generate, [Conversation([*TALK[:1], {"role": "judge", "content": ""}])], [0])


def test_a_model_that_knows_no_conversations_is_said_to() -> None:
    plain = type(chat_tokenizer())(chat_tokenizer()._model)
    with pytest.raises(ConfigError, match=r"trained on conversations, .*; train one with `python -m launch stage=sft "):
        answer(plain, lambda *_: [], [Conversation(TALK[:2])], [0])
