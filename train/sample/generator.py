"""Text from finished weights: prompts of unequal lengths in one batch, each token computed once.

Every process that the launcher started is one tensor-parallel rank; started alone, a process holds the whole model.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from conf.check import divisors
from conf.choices import Precision, Recompute
from conf.commands import Sampling
from conf.errors import ConfigError
from model.codegen import layers
from model.dtypes import DTYPES
from model.kernels import Operations
from model.kernels.attention import sdpa_attention
from model.kv_cache import Past, Places
from model.tokenizer import Tokenizer, load_tokenizer
from model.weights import Weights, open_weights
from parallel.collectives import gather_vocabulary
from parallel.cross_entropy import LossOptions
from parallel.mesh import ProcessMesh, build_mesh, single_process_mesh
from parallel.rendezvous import join
from parallel.tensor_parallel import pack
from train.checkpoint import load_layer
from train.hardware import resolve_precision
from train.sample.choose import before, choose, uniforms

CHECK_EVERY = 8  # tokens between two looks at what has ended: a look waits for the device, a late one costs little
LOSS_TOKENS = 256  # whose logits over the whole vocabulary exist at one time

Stop = Callable[[str], str | None] | tuple[str, ...]


class Generator:
    """A model that writes. Every process calls the same methods with the same arguments and gets the same results."""

    def __init__(self, weights: Weights, modules: Sequence[nn.Module], tokenizer: Tokenizer, mesh: ProcessMesh) -> None:
        self.weights = weights
        self.model = weights.model
        self.tokenizer = tokenizer
        self.mesh = mesh
        self.embedding, *self.blocks, self.head = modules

    def generate(self, prompts: list[str], sampling: Sampling, seeds: list[int], stop: Stop = ()) -> list[str]:
        """The completion of each prompt, without the prompt and without what ends it, as one batch.

        seeds: one a prompt; it alone determines what is drawn, whatever else is in the batch. stop: strings of which
        the first to come ends a completion, or a function of the text so far, called every few tokens and at the end:
        it returns the final text, or None to go on. Equal prompts are read once. A prompt that leaves no room for
        `max_new_tokens` keeps its end. Errors: `ConfigError` where no prompt leaves that room.
        """
        cut = stop if callable(stop) else _at_first(stop)
        ids = [self.tokenizer.encode(prompt) or [self.tokenizer.eos] for prompt in prompts]
        room = self._room(sampling.max_new_tokens)
        long = sum(len(prompt) > room for prompt in ids)
        if long and self.mesh.is_main:
            print(f"{long} of {len(ids)} prompts are over {room} tokens and keep their end", file=sys.stderr)

        def ended(completion: list[int]) -> bool:
            return cut(self.tokenizer.decode(completion)) is not None

        completions = self.generate_ids([prompt[-room:] for prompt in ids], sampling, seeds, ended if stop else None)
        texts = [self.tokenizer.decode(completion) for completion in completions]
        finals = [cut(text) for text in texts]
        return [text if final is None else final for text, final in zip(texts, finals, strict=True)]

    @torch.inference_mode()
    def generate_ids(
        self,
        prompts: list[list[int]],
        sampling: Sampling,
        seeds: list[int],
        ended: Callable[[list[int]], bool] | None = None,
    ) -> list[list[int]]:
        """New token ids of each prompt (not empty), up to the tokenizer's eos, which is left out.

        ended: told the new ids so far, says whether a row needs no more; it may get a few too many. Rows that have
        ended leave the batch. Errors: `ConfigError` for a prompt and new tokens beyond the model's context.
        """
        room = self._room(sampling.max_new_tokens)
        if not prompts:
            return []
        if max(len(prompt) for prompt in prompts) > room:
            raise ConfigError(f"a prompt is over {room} tokens; shorten it, or ask for fewer max_new_tokens")
        device, eos = self.mesh.device, self.tokenizer.eos
        pasts, logits, positions = self._read(prompts, sampling.max_new_tokens)
        draws = uniforms(seeds, sampling.max_new_tokens).to(device)  # [batch, new]
        completions: list[list[int]] = [[] for _ in prompts]
        rows = list(range(len(prompts)))  # those still in the batch
        fresh: list[Tensor] = []
        for step in range(sampling.max_new_tokens):
            tokens = choose(logits, sampling.temperature, sampling.top_p, sampling.top_k, draws[:, step])
            fresh.append(tokens)
            last = step + 1 == sampling.max_new_tokens
            if len(fresh) == CHECK_EVERY or last:
                for row, new in zip(rows, torch.stack(fresh, dim=1).tolist(), strict=True):
                    completions[row] += new
                fresh = []
                going = [
                    place
                    for place, row in enumerate(rows)
                    if eos not in completions[row][-CHECK_EVERY:] and not (ended and ended(completions[row]))
                ]
                if last or not going:
                    break
                if len(going) < len(rows):
                    rows = [rows[place] for place in going]
                    kept = torch.tensor(going, device=device)
                    tokens, positions, draws = tokens[kept], positions[kept], draws[kept]
                    for past in pasts:
                        past.select(kept)
            columns = max(len(prompts[row]) for row in rows) + step + 1
            hidden_states = self._pass(tokens.unsqueeze(1), pasts, Places(positions.unsqueeze(1), columns))
            logits = self._logits(hidden_states, torch.zeros_like(positions))
            positions = positions + 1
        return [before(completion, eos) for completion in completions]

    @torch.inference_mode()
    def token_losses(self, ids: Tensor) -> Tensor:
        """Cross-entropy in nats of every token but the first, `[batch, seq]` -> `[batch, seq - 1]`, fp32 on the CPU."""
        ids = ids.to(self.mesh.device)
        hidden_states = self.embedding(ids[:, :-1])
        for block in self.blocks:
            hidden_states = block(hidden_states)
        normed = self.head(hidden_states).flatten(0, 1).unsqueeze(1)  # [batch * (seq - 1), 1, hidden]
        losses = []
        pieces = zip(normed.split(LOSS_TOKENS), ids[:, 1:].flatten().split(LOSS_TOKENS), strict=True)
        for piece, labels in pieces:
            logits = gather_vocabulary(self.head.logits(piece, torch.zeros_like(labels)), self.mesh.tp)
            losses.append(nn.functional.cross_entropy(logits, labels, reduction="none"))
        return torch.cat(losses).view(len(ids), -1).cpu()

    def _room(self, max_new_tokens: int) -> int:
        """Tokens that a prompt may have."""
        context = self.model.context_length
        if max_new_tokens >= context:
            raise ConfigError(
                f"max_new_tokens={max_new_tokens} leaves no room for a prompt in the context of {context} tokens; "
                f"use at most {context - 1}"
            )
        return context - max_new_tokens

    def _read(self, prompts: list[list[int]], max_new_tokens: int) -> tuple[list[Past], Tensor, Tensor]:
        """Each block's past of `prompts`, logits of the token that follows `[batch, vocab]`, its position `[batch]`.

        Prompts that are equal are read once. They stand at the left; no token attends to the padding behind a prompt.
        """
        unique = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
        device, longest = self.mesh.device, max(len(prompt) for prompt in unique)
        ids = torch.zeros(len(unique), longest, dtype=torch.long)
        for row, prompt in enumerate(unique):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        ends = torch.tensor([len(prompt) for prompt in unique], device=device)
        pasts = [self._past(len(unique), longest + max_new_tokens) for _ in self.blocks]
        places = Places(torch.arange(longest, device=device).unsqueeze(0), longest)
        logits = self._logits(self._pass(ids.to(device), pasts, places), ends - 1)
        if len(unique) < len(prompts):
            place = {prompt: row for row, prompt in enumerate(unique)}
            rows = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)
            for past in pasts:
                past.select(rows)
            logits, ends = logits[rows], ends[rows]
        return pasts, logits, ends

    def _past(self, batch: int, capacity: int) -> Past:
        heads = self.model.n_head // self.mesh.tp.size
        return Past((batch, heads, capacity, self.model.head_dim), self.embedding.tokens.weight.dtype, self.mesh.device)

    def _pass(self, ids: Tensor, pasts: list[Past], places: Places) -> Tensor:
        """Token ids `[batch, seq]` at `places` -> hidden states `[batch, seq, hidden]`; the pasts grow by them."""
        hidden_states = self.embedding(ids)
        for block, past in zip(self.blocks, pasts, strict=True):
            hidden_states = block(hidden_states, past, places)
        return hidden_states

    def _logits(self, hidden_states: Tensor, positions: Tensor) -> Tensor:
        """Logits after `positions` `[batch]`, of the tokens that the tokenizer knows: `[batch, vocab]`."""
        logits = self.head.logits(self.head(hidden_states), positions)
        return gather_vocabulary(logits, self.mesh.tp)[:, : self.tokenizer.vocab_size]


def open_generator(source: str | Path, precision: Precision = Precision.auto) -> Generator:
    """The generator of the weights at `source` (see `model.weights.open_weights`), on every process that was started.

    Errors: `ConfigError` where there are none, they have no tokenizer, or the processes cannot share them.
    """
    weights = open_weights(source)
    if weights.tokenizer_folder is None:
        raise ConfigError(f"{source} has no tokenizer; name a folder that holds one beside the weights")
    tokenizer = load_tokenizer(weights.tokenizer_folder)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if weights.model.n_head % size or weights.model.vocab_size % size:
        raise ConfigError(
            f"{size} processes do not divide n_head={weights.model.n_head}; use {divisors(weights.model.n_head)}"
        )
    if size > 1:
        join()
    mesh = build_mesh(tp_size=size) if size > 1 else single_process_mesh()
    dtype = DTYPES[resolve_precision(precision, mesh.device)]
    return Generator(weights, build_modules(weights, mesh, dtype), tokenizer, mesh)


def build_modules(weights: Weights, mesh: ProcessMesh, dtype: torch.dtype) -> list[nn.Module]:
    """The layers of `weights` as this process holds them, on its device, read a layer at a time."""
    options = LossOptions(z_loss=0.0, chunk_tokens=LOSS_TOKENS, tp=mesh.tp)
    operations = Operations(attention=sdpa_attention, compile=False)
    modules = []
    for index, build in enumerate(layers(weights.model, mesh.tp, operations, Recompute.none, options)):
        module = build().eval()
        for parameter in module.parameters():
            parameter.data = parameter.data.to(dtype)  # not the module: its rotary table, a buffer, stays fp32
        load_layer(weights, module, index, mesh.tp)
        pack(module.to(mesh.device))
        modules.append(module)
    return modules


def _at_first(stops: tuple[str, ...]) -> Callable[[str], str | None]:
    def cut(text: str) -> str | None:
        places = [text.index(stop) for stop in stops if stop in text]
        return text[: min(places)] if places else None

    return cut
