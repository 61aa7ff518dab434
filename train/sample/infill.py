"""Text for a place in a text, by a model that was trained with data.objective=infill or is CodeGen2."""

from collections.abc import Sequence

from conf.commands import Sampling
from conf.errors import ConfigError
from model.tokenizer import Tokenizer
from model.tokenizer.codegen2 import END_OF_MASK, FIRST_MASK, INFILLING, SEPARATOR, can_infill
from train.sample.choose import before
from train.sample.gap import Gap
from train.sample.generator import Generator, Stop, cutting

MARKS = 5  # tokens of a prompt beside its text: eos, <mask_1>, eos, <sep>, <mask_1>


def fill(generator: Generator, gaps: Sequence[Gap], sampling: Sampling, seeds: list[int], stop: Stop = ()) -> list[str]:
    """What the model writes for each of `gaps`, up to its `<eom>` or `stop` (see `Generator.generate`).

    The text of a gap is ordinary text, whatever it holds. Of a gap that leaves no room for `max_new_tokens`, the text
    that is far from the place is left out, half of the room for the suffix at most where the prefix needs the other.
    Errors: `ConfigError` for a model without the tokens, or where no prompt leaves that room.
    """
    tokenizer = generator.tokenizer
    if not can_infill(tokenizer.special_tokens):
        raise ConfigError(
            f"{generator.weights.source} cannot infill: its tokenizer has no {', '.join(INFILLING)}; "
            "use a CodeGen2 model, or one trained with data.objective=infill"
        )
    room = generator.model.context_length - sampling.max_new_tokens - MARKS
    if room < 1:
        raise ConfigError(
            f"max_new_tokens={sampling.max_new_tokens} leaves no room for a prompt in the context of "
            f"{generator.model.context_length} tokens; use at most {generator.model.context_length - MARKS - 1}"
        )
    end, cut = tokenizer.special_tokens[END_OF_MASK], cutting(stop)

    def ended(new: list[int]) -> bool:
        return end in new or (bool(stop) and cut(tokenizer.decode(new)) is not None)

    prompts = [prompt_ids(tokenizer, gap, room) for gap in gaps]
    spans = [before(new, end) for new in generator.generate_ids(prompts, sampling, seeds, ended)]
    texts = [tokenizer.decode(span) for span in spans]
    finals = [cut(text) for text in texts]
    return [text if final is None else final for text, final in zip(texts, finals, strict=True)]


def prompt_ids(tokenizer: Tokenizer, gap: Gap, room: int) -> list[int]:
    """`<eos> prefix <mask_1> suffix <eos> <sep> <mask_1>`, with at most `room` tokens of the text.

    CodeGen2's card has no eos before the prefix. In training each document follows one, and a small model that misses
    it writes nothing that fits.
    """
    prefix, suffix = tokenizer.encode(gap.prefix), tokenizer.encode(gap.suffix)
    after = min(len(suffix), max(room // 2, room - len(prefix)))
    kept = min(len(prefix), room - after)
    mask, separator = tokenizer.special_tokens[FIRST_MASK], tokenizer.special_tokens[SEPARATOR]
    return [tokenizer.eos, *prefix[len(prefix) - kept :], mask, *suffix[:after], tokenizer.eos, separator, mask]
