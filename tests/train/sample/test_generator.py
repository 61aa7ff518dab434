"""Generation writes what Hugging Face's model writes, and a sample depends on its prompt and seed alone."""

from dataclasses import replace

import pytest
import torch

from conf.commands import Sampling
from conf.errors import ConfigError
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from tests.train.sample import cases
from tests.train.sample.cases import GREEDY, MODEL, PROMPTS, TEXTS, Ids, generator_of
from tests.twin import twin_of
from tests.worlds import Worlds
from train.sample.generator import CHECK_EVERY, Generator

WARM = replace(GREEDY, temperature=1.0, top_p=0.95)


@pytest.fixture(scope="module")
def ids() -> Generator:
    return generator_of(Ids())


@pytest.fixture(scope="module")
def text() -> Generator:
    return generator_of(SentencePieceTokenizer.train(TEXTS, MODEL.vocab_size))


@pytest.fixture(scope="module")
def twin_ids() -> list[list[int]]:
    """Greedy tokens of Hugging Face's `generate`, its prompts padded on the left; with and without its cache."""
    twin, longest = twin_of(MODEL, cases.lively_weights()).eval(), max(len(prompt) for prompt in PROMPTS)
    padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    made = [
        twin.generate(
            padded, attention_mask=mask, max_new_tokens=30, do_sample=False, use_cache=cache, eos_token_id=None,
            pad_token_id=0,
        )[:, longest:].tolist()
        for cache in (True, False)
    ]  # fmt: skip
    assert made[0] == made[1]
    assert len({token for row in made[0] for token in row}) > 30
    return made[0]


@pytest.mark.parametrize("size", [1, 2])
def test_greedy_tokens_are_hugging_faces(size: int, worlds: Worlds, twin_ids: list[list[int]]) -> None:
    for made in worlds(size).run(cases.generated, size, GREEDY, [0] * len(PROMPTS)):
        assert made == twin_ids


def test_a_prompt_may_fill_the_context(ids: Generator) -> None:
    """The last token is computed at the last position there is."""
    twin = twin_of(MODEL, cases.lively_weights()).eval()
    prompt = [7, 8] * 20
    sampling = replace(GREEDY, max_new_tokens=MODEL.context_length - len(prompt))
    expected = twin.generate(
        torch.tensor([prompt]), max_new_tokens=sampling.max_new_tokens, do_sample=False, eos_token_id=None
    )
    assert ids.generate_ids([prompt], sampling, [0]) == [expected[0, len(prompt) :].tolist()]
    with pytest.raises(ConfigError, match="over 40 tokens"):
        ids.generate_ids([[1] * 41], replace(GREEDY, max_new_tokens=24), [0])


def test_the_seed_alone_determines_a_sample(ids: Generator) -> None:
    together = ids.generate_ids(PROMPTS, WARM, [11, 12, 13, 14])
    for prompt, seed, expected in zip(PROMPTS, [11, 12, 13, 14], together, strict=True):
        assert ids.generate_ids([prompt], WARM, [seed]) == [expected]
    other = ids.generate_ids([PROMPTS[2], [4, 4], PROMPTS[0]], WARM, [13, 99, 98])
    assert other[0] == together[2] and other[2] != together[0]


def test_tensor_ranks_agree_on_every_draw(ids: Generator, worlds: Worlds) -> None:
    seeds = [11, 12, 13, 14]
    one, other = worlds(2).run(cases.generated, 2, WARM, seeds)
    assert one == other == ids.generate_ids(PROMPTS, WARM, seeds)


def batches_of(generator: Generator, prompts: list[list[int]], sampling: Sampling, seeds: list[int]) -> list[int]:
    """Rows of the batch in each pass of one generation."""
    seen: list[int] = []
    hook = generator.embedding.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    try:
        generator.generate_ids(prompts, sampling, seeds)
    finally:
        hook.remove()
    return seen


def test_samples_of_one_prompt_read_it_once(ids: Generator) -> None:
    prompts, seeds = [PROMPTS[1]] * 3 + [PROMPTS[0]], [1, 2, 3, 4]
    batches = batches_of(ids, prompts, WARM, seeds)
    assert batches[0] == 2 and set(batches[1:]) == {4}
    together = ids.generate_ids(prompts, WARM, seeds)
    assert together == [
        ids.generate_ids([prompt], WARM, [seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    assert together[0] != together[1]


def test_rows_that_have_ended_leave_the_batch(twin_ids: list[list[int]]) -> None:
    """The others go on as if nothing had happened."""
    eos = next(token for token in twin_ids[3][:8] if token not in twin_ids[0])
    generator = generator_of(Ids(eos=eos))
    expected = [row[: row.index(eos)] if eos in row else row for row in twin_ids]
    assert generator.generate_ids(PROMPTS, GREEDY, [0] * 4) == expected
    batches = batches_of(generator, PROMPTS, GREEDY, [0] * 4)
    assert batches[:CHECK_EVERY] == [4] * CHECK_EVERY and batches[CHECK_EVERY] < 4
    assert batches == sorted(batches, reverse=True)
    assert len(batches_of(generator, PROMPTS[3:], GREEDY, [0])) == CHECK_EVERY


def test_rows_that_leave_take_their_draws_with_them() -> None:
    """In sampling, each row that goes on draws what it would draw alone, however many have left."""
    prompts, seeds = [PROMPTS[row % 4] for row in range(12)], list(range(12))
    endless = generator_of(Ids()).generate_ids(prompts, WARM, seeds)
    firsts = [{token: row.index(token) for token in row} for row in endless]
    eos = max(set().union(*firsts), key=lambda token: len({first.get(token) for first in firsts}))
    generator = generator_of(Ids(eos=eos))
    together = generator.generate_ids(prompts, WARM, seeds)
    assert len({len(completion) for completion in together}) > 3
    assert together == [
        generator.generate_ids([prompt], WARM, [seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)
    ]


def test_rows_of_the_model_that_the_tokenizer_does_not_know_are_never_drawn(twin_ids: list[list[int]]) -> None:
    known = max(token for row in twin_ids for token in row)
    for row in generator_of(Ids(vocab_size=known)).generate_ids(PROMPTS, replace(WARM, temperature=3.0), [1, 2, 3, 4]):
        assert max(row) < known


@pytest.mark.parametrize("size", [1, 2])
def test_token_losses_are_hugging_faces(size: int, worlds: Worlds) -> None:
    """Over more tokens than a chunk holds."""
    ids = torch.randint(0, MODEL.vocab_size, (9, 40), generator=torch.Generator().manual_seed(0))
    logits = twin_of(MODEL, cases.lively_weights()).eval()(ids).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").detach()
    for made in worlds(size).run(cases.losses, size, ids):
        assert made.shape == (9, 39) and made.dtype == torch.float32
        torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)


def test_the_first_stop_string_ends_a_completion(text: Generator) -> None:
    whole = text.generate(["def f(x):", "import"], GREEDY, [0, 0])
    assert all(len(completion) > 20 for completion in whole)
    early, late = whole[0][6:9], whole[0][15:18]
    cut = text.generate(["def f(x):", "import"], GREEDY, [0, 0], stop=(late, early))
    assert cut[0] == whole[0][: min(whole[0].index(early), whole[0].index(late))]
    assert cut[1] == min((whole[1].split(stop)[0] for stop in (early, late)), key=len)


def test_a_stop_function_gives_the_final_text(text: Generator) -> None:
    whole = text.generate(["def f(x):"], GREEDY, [0])[0]
    lengths: list[int] = []

    def after_ten(completion: str) -> str | None:
        lengths.append(len(completion))
        return completion[:10] + "|" if len(completion) > 10 else None

    assert text.generate(["def f(x):"], GREEDY, [0], stop=after_ten) == [whole[:10] + "|"]
    assert max(lengths) < len(whole)  # it was not written to its end


def test_an_empty_prompt_starts_from_the_end_of_text(text: Generator) -> None:
    completion = text.generate([""], GREEDY, [0])[0]
    made = text.generate_ids([[text.tokenizer.eos]], GREEDY, [0])[0]
    assert completion == text.tokenizer.decode(made) and completion


def test_a_long_prompt_keeps_its_end_and_says_so(text: Generator, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "x = 1\n" * 60
    tail = text.tokenizer.encode(prompt)[-(MODEL.context_length - GREEDY.max_new_tokens) :]
    expected = text.tokenizer.decode(text.generate_ids([tail], GREEDY, [0])[0])
    assert text.generate([prompt], GREEDY, [0]) == [expected]
    text.prompts, text.cut_prompts = 0, 0  # it is shared with other tests
    for prompts in ([prompt], ["x"], [prompt]):
        text.generate(prompts, GREEDY, [0])
    assert capsys.readouterr().err == "", "not once a batch"
    text.tell_cut()
    assert capsys.readouterr().err == "2 of 3 prompts are over 34 tokens and keep their end\n"
    with pytest.raises(ConfigError, match=r"max_new_tokens=64 leaves no room .* use at most 63"):
        text.generate([prompt], replace(GREEDY, max_new_tokens=64), [0])


def test_no_prompts_are_no_completions(text: Generator) -> None:
    assert text.generate([], GREEDY, []) == []
