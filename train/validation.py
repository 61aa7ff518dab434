"""Validation during training: bits per byte on each corpus, and samples. Every process takes part under any layout."""

import math
from collections.abc import Callable, Sequence
from itertools import islice

import torch

from conf.commands import Sampling
from conf.schema import EvaluationConfig
from model.tokenizer import Tokenizer
from parallel.engine import Engine
from train.context import RunContext
from train.data.batches import validation_batches
from train.data.conversations import Conversation
from train.data.prepare import CorpusFiles
from train.sample.answer import Ended, answer
from train.sample.chat import as_text
from train.sample.choose import before, choose, uniforms

WIDTH = 64  # tokens
EVALUATED_TOGETHER = 16  # micro-batches, for each pipeline stage: a pipeline is idle for a sixteenth of them at most
CHECK_EVERY = 8  # tokens between two checks of what has ended, for which all processes wait


def bits_per_byte(
    engine: Engine,
    files: CorpusFiles,
    context_length: int,
    batch_size: int,
    beat: Callable[[], None],
    document_mask: bool = False,
) -> float:
    """Cross-entropy of the whole validation set in bits, per byte of its UTF-8 text. beat: called from time to time.

    The separators between documents are predicted and paid for too; they are no bytes of the text.
    document_mask: as in training. Every process calls it together.
    """
    dataset = files.validation_samples(context_length, document_mask)
    mesh = engine.mesh
    nats = 0.0
    batches = validation_batches(dataset, batch_size, mesh.dp_rank, mesh.dp_size)
    while together := list(islice(batches, EVALUATED_TOGETHER * mesh.pp_size)):
        nats += engine.eval_batch(together)
        beat()
    return nats / math.log(2) / files.validation_bytes


def evaluate(context: RunContext, engine: Engine) -> dict[str, float]:
    """Bits per byte on the validation set of every corpus."""
    length, batch_size = context.settings.model.context_length, context.settings.evaluation.batch_size
    mask, corpora, beat = context.settings.data.document_mask, context.data.corpora, context.watchdog.beat
    return {name: bits_per_byte(engine, files, length, batch_size, beat, mask) for name, files in corpora.items()}


def sample(
    engine: Engine,
    tokenizer: Tokenizer,
    settings: EvaluationConfig,
    context_length: int,
    seed: int,
    conversations: bool = False,
) -> dict[str, str]:
    """Prompt's name -> the continuation of `settings.sample_prompts`, at most `sample_tokens` tokens each.

    conversations: the model learns to answer; each prompt is what a user says, and a new line has the answer.
    """
    asked = settings.sample_prompts
    seeds = [seed + place for place in range(len(asked))]
    sampling = Sampling(settings.sample_tokens, settings.sample_temperature, settings.sample_top_p, 0, seed)

    def generate(prompts: list[list[int]], seeds: list[int], ended: Ended = lambda _: False) -> list[list[int]]:
        own = [ids[-(context_length - settings.sample_tokens) :] or [tokenizer.eos] for ids in prompts]
        return continue_prompts(engine, own, sampling, seeds, tokenizer, context_length, lambda _, new: ended(new))

    if conversations:
        talks = [Conversation([{"role": "user", "content": text}]) for text in asked.values()]
        texts = [f"\n{as_text(messages)}" for messages in answer(tokenizer, generate, talks, seeds)]
    else:
        texts = [tokenizer.decode(new) for new in generate([tokenizer.encode(text) for text in asked.values()], seeds)]
    return dict(zip(asked, texts, strict=True))


def continue_prompts(
    engine: Engine,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    tokenizer: Tokenizer,
    context_length: int,
    ended: Callable[[int, list[int]], bool] | None = None,
) -> list[list[int]]:
    """New token ids of each prompt, up to the tokenizer's eos, which is left out, by the model as it trains.

    Under any layout, so without a KV cache: each token costs a forward pass of the rows that have not ended, padded on
    the right to a multiple of `WIDTH` tokens and of the tensor-parallel size. prompts: of this replica; replicas may
    have different ones, and none. seeds: one a prompt. ended: given a row and its new ids, whether it needs no more.
    Every process calls it together.
    """
    rows = [*prompts] or [[0]]  # a replica without prompts keeps step with the others
    ids = torch.zeros(len(rows), context_length, dtype=torch.long)
    for row, prompt in enumerate(rows):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    ends = torch.tensor([len(prompt) for prompt in rows])
    draws = uniforms(seeds or [0], sampling.max_new_tokens)  # [batch, new]

    def new_ids(row: int) -> list[int]:
        found: list[int] = ids[row, len(rows[row]) : ends[row]].tolist()
        return found

    def goes_on(row: int) -> bool:
        new = new_ids(row)
        return tokenizer.eos not in new and not (ended is not None and ended(row, new))

    active = list(range(len(prompts)))
    unit = math.lcm(WIDTH, engine.mesh.tp.size)  # sequence parallelism cuts the tokens
    for step in range(sampling.max_new_tokens):
        if step % CHECK_EVERY == 0:
            active = [row for row in active if goes_on(row)]
            batch = active or [0]
            sizes = engine.mesh.all_gather_object((len(active), int(ends[batch].max())))
            count, longest = (max(values) for values in zip(*sizes, strict=True))
            if not count:
                break
            # DeepSpeed's pipelines need one shape on all replicas: a row that is there twice gets the same token.
            at = torch.tensor(batch + batch[:1] * (count - len(batch)))
            width = min(context_length, -(-(longest + CHECK_EVERY) // unit) * unit)
        logits = engine.next_token_logits(ids[at, :width], ends[at] - 1)[:, : tokenizer.vocab_size]
        ids[at, ends[at]] = choose(logits, sampling.temperature, sampling.top_p, sampling.top_k, draws[at, step])
        ends[at] += 1
    return [before(new_ids(row), tokenizer.eos) for row in range(len(prompts))]
