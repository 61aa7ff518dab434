"""Text from finished weights: prompts of unequal lengths in one batch, keys and values of past tokens cached.

The processes that the launcher started are tensor-parallel ranks and replicas (train/sample/replicas.py); started
alone, a process holds the whole model.

A sample is a function of its prompt and its seed, up to rounding: products of another batch size may round differently
in the last bits, and where two tokens are equally probable to that precision (a flat model, such as one hardly trained)
the sample may differ between a batch and a prompt alone. Everything else about the batch has no influence.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from conf.choices import ApexForm, FusedForm, KernelForm, NormForm, Precision
from conf.commands import Sampling
from conf.errors import ConfigError
from conf.schema import KernelsConfig
from model.build import build_layers
from model.codegen import Embedding, Head
from model.dtypes import DTYPES
from model.kernels import select_kernels
from model.kv_cache import DecodePositions, KVCache
from model.pretrained import open_weights
from model.tokenizer import Tokenizer, load_tokenizer
from model.tokenizer.special import AllowedSpecial
from model.weights import Weights, load_layer, refuse_damaged
from parallel.collectives import gather_vocabulary
from parallel.mesh import ProcessMesh, build_mesh, single_process_mesh
from parallel.rendezvous import join
from parallel.tensor_parallel import pack
from train.checkpoint.load import damage_of
from train.hardware import resolve_precision
from train.sample.choose import before, choose, uniforms
from train.sample.replicas import tensor_parallel_size

CHECK_EVERY = 8  # tokens between two checks of what has ended: a check waits for the device, a late one costs little
MAIN_SECONDS = 24 * 3600.0  # that processes wait while the main one runs programs
LOSS_TOKENS = 256  # whose logits over the whole vocabulary exist at one time
KERNELS = KernelsConfig(
    compile=False,
    attention=KernelForm.auto,
    branches=FusedForm.torch,
    norm=NormForm.torch,
    weight_gradient=ApexForm.torch,
    optimizer=ApexForm.torch,
)

Stop = Callable[[str], str | None] | tuple[str, ...]


class Generator:
    """A model that samples completions. The tensor ranks of a replica make the same calls and get the same results."""

    def __init__(self, weights: Weights, modules: Sequence[nn.Module], tokenizer: Tokenizer, mesh: ProcessMesh) -> None:
        self.weights = weights
        self.model = weights.model
        self.tokenizer = tokenizer
        self.mesh = mesh
        embedding, *self.blocks, head = modules
        assert isinstance(embedding, Embedding) and isinstance(head, Head)
        self.embedding, self.head = embedding, head
        self.prompts, self.cut_prompts, self.room = 0, 0, 0  # so far; tokens that the newest prompts had room for

    def tell_cut(self) -> None:
        """Say on stderr how many of all prompts so far were cut; of this replica, on the main process."""
        if self.cut_prompts and self.mesh.is_main:
            line = f"{self.cut_prompts} of {self.prompts} prompts are over {self.room} tokens and keep their end"
            print(line, file=sys.stderr)

    def generate(
        self,
        prompts: list[str],
        sampling: Sampling,
        seeds: list[int],
        stop: Stop = (),
        allowed_special: AllowedSpecial = (),
        whole: bool = False,
    ) -> list[str]:
        """The completion of each prompt, without the prompt and without what ends it, as one batch.

        seeds: one a prompt; what is drawn depends on it and the prompt alone, up to rounding (see the module). stop:
        strings of which the first to come ends a completion, or a function of the text so far, called every few tokens
        and at the end: it returns the final text, or None to go on. allowed_special: special tokens that may be
        written in prompts; the others' texts are ordinary text. whole: each begins a document, so eos goes before it,
        as in training. A prompt that leaves no room for `max_new_tokens` keeps its end, and `tell_cut` says so.
        Errors: `ConfigError` where no prompt leaves that room.
        """
        cut = cutting(stop)
        eos = [self.tokenizer.eos]
        ids = [eos * whole + self.tokenizer.encode(prompt, allowed_special) or eos for prompt in prompts]
        self.room = room = self._room(sampling.max_new_tokens)
        self.prompts += len(ids)
        self.cut_prompts += sum(len(prompt) > room for prompt in ids)

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

        ended: given a row's new ids so far, says whether it needs no more; a row may get a few too many. Rows that
        have ended leave the batch; equal prompts are computed once.
        Errors: `ConfigError` for a prompt and new tokens beyond the model's context.
        """
        room = self._room(sampling.max_new_tokens)
        if not prompts:
            return []
        if max(len(prompt) for prompt in prompts) > room:
            raise ConfigError(f"a prompt is over {room} tokens; shorten it, or ask for fewer max_new_tokens")
        device, eos = self.mesh.device, self.tokenizer.eos
        kv_caches, logits, positions = self._prefill(prompts, sampling.max_new_tokens)
        draws = uniforms(seeds, sampling.max_new_tokens).to(device)  # [batch, new]
        completions: list[list[int]] = [[] for _ in prompts]
        rows = list(range(len(prompts)))  # those still in the batch
        unread: list[Tensor] = []  # tokens still on the device
        for step in range(sampling.max_new_tokens):
            tokens = choose(logits, sampling.temperature, sampling.top_p, sampling.top_k, draws[:, step])
            unread.append(tokens)
            last = step + 1 == sampling.max_new_tokens
            if len(unread) == CHECK_EVERY or last:
                for row, new in zip(rows, torch.stack(unread, dim=1).tolist(), strict=True):
                    completions[row] += new
                unread = []
                unfinished = [
                    place
                    for place, row in enumerate(rows)
                    if eos not in completions[row][-CHECK_EVERY:] and not (ended and ended(completions[row]))
                ]
                if last or not unfinished:
                    break
                if len(unfinished) < len(rows):
                    rows = [rows[place] for place in unfinished]
                    kept = torch.tensor(unfinished, device=device)
                    tokens, positions, draws = tokens[kept], positions[kept], draws[kept]
                    for kv_cache in kv_caches:
                        kv_cache.select_rows(kept)
            kv_length = max(len(prompts[row]) for row in rows) + step + 1
            decode_positions = DecodePositions(positions.unsqueeze(1), kv_length)
            hidden_states = self._forward(tokens.unsqueeze(1), kv_caches, decode_positions)
            logits = self._logits(hidden_states, torch.zeros_like(positions))
            positions = positions + 1
        return [before(completion, eos) for completion in completions]

    @torch.inference_mode()
    def token_losses(self, ids: Tensor) -> Tensor:
        """Cross-entropy in nats of every token but the first, `[batch, seq]` -> `[batch, seq - 1]`, fp32 on the CPU."""
        ids = ids.to(self.mesh.device)
        hidden_states: Tensor = self.embedding(ids[:, :-1])
        for block in self.blocks:
            hidden_states = block(hidden_states)
        normed = self.head(hidden_states).flatten(0, 1).unsqueeze(1)  # [batch * (seq - 1), 1, hidden]
        losses = []
        chunks = zip(torch.split(normed, LOSS_TOKENS), torch.split(ids[:, 1:].flatten(), LOSS_TOKENS), strict=True)
        for chunk, labels in chunks:
            logits = gather_vocabulary(self.head.logits(chunk, torch.zeros_like(labels)), self.mesh.tp)
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

    def _prefill(self, prompts: list[list[int]], max_new_tokens: int) -> tuple[list[KVCache], Tensor, Tensor]:
        """Each block's KV cache of `prompts`; logits `[batch, vocab]` and position `[batch]` of the token that follows.

        Equal prompts are computed once. They are padded on the right; no token attends to the padding.
        """
        unique = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
        device, longest = self.mesh.device, max(len(prompt) for prompt in unique)
        ids = torch.zeros(len(unique), longest, dtype=torch.long)
        for row, prompt in enumerate(unique):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        ends = torch.tensor([len(prompt) for prompt in unique], device=device)
        kv_caches = [self._kv_cache(len(unique), longest + max_new_tokens) for _ in self.blocks]
        positions = DecodePositions(torch.arange(longest, device=device).unsqueeze(0), longest)
        logits = self._logits(self._forward(ids.to(device), kv_caches, positions), ends - 1)
        if len(unique) < len(prompts):
            row_of = {prompt: row for row, prompt in enumerate(unique)}
            rows = torch.tensor([row_of[tuple(prompt)] for prompt in prompts], device=device)
            for kv_cache in kv_caches:
                kv_cache.select_rows(rows)
            logits, ends = logits[rows], ends[rows]
        return kv_caches, logits, ends

    def _kv_cache(self, batch: int, capacity: int) -> KVCache:
        shape = (batch, self.model.n_head // self.mesh.tp.size, capacity, self.model.head_dim)
        return KVCache(shape, self.embedding.tokens.weight.dtype, self.mesh.device)

    def _forward(self, ids: Tensor, kv_caches: list[KVCache], positions: DecodePositions) -> Tensor:
        """Token ids `[batch, seq]` at `positions` -> hidden states `[batch, seq, hidden]`; the caches are updated."""
        hidden_states: Tensor = self.embedding(ids)
        for block, kv_cache in zip(self.blocks, kv_caches, strict=True):
            hidden_states = block(hidden_states, kv_cache, positions)
        return hidden_states

    def _logits(self, hidden_states: Tensor, positions: Tensor) -> Tensor:
        """Logits after `positions` `[batch]`, of the tokens that the tokenizer knows: `[batch, vocab]`."""
        logits = self.head.logits(self.head(hidden_states), positions)
        return gather_vocabulary(logits, self.mesh.tp)[:, : self.tokenizer.vocab_size]


def open_generator(
    source: str | Path,
    precision: Precision = Precision.auto,
    kernels: KernelsConfig = KERNELS,
    tensor_parallel: int | None = None,
) -> Generator:
    """The generator of the weights at `source` (see `model.pretrained.open_weights`), on every process of the launch.

    kernels: the forms of the operations; torch.compile takes no part (see `build_modules`).
    tensor_parallel: processes that share each matrix; None: as few as hold the weights, the others are replicas.
    Errors: `ConfigError` where there are none, they are damaged, they have no tokenizer, or the processes cannot share
    them.
    """
    weights = open_weights(source, asked="run")
    if weights.tokenizer_folder is None:
        raise ConfigError(f"{source} has no tokenizer; name a folder that holds one beside the weights")
    tokenizer = load_tokenizer(weights.tokenizer_folder)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    element_bytes = DTYPES[resolve_precision(precision, device)].itemsize
    tp_size = tensor_parallel_size(weights.model, size, tensor_parallel, element_bytes)
    if size > 1:
        join(collective_seconds=MAIN_SECONDS)
    mesh = build_mesh(tp_size=tp_size) if size > 1 else single_process_mesh()
    refuse_damaged(weights, partial(damage_of, mesh=mesh))
    dtype = DTYPES[resolve_precision(precision, mesh.device)]
    return Generator(weights, build_modules(weights, mesh, dtype, kernels), tokenizer, mesh)


def build_modules(
    weights: Weights, mesh: ProcessMesh, dtype: torch.dtype, kernels: KernelsConfig = KERNELS
) -> list[nn.Module]:
    """The layers of `weights` as this process holds them, on its device, read a layer at a time.

    Blocks that decode are never compiled, whatever `kernels.compile` says: their shapes grow with every token.
    """
    modules = []
    chosen = select_kernels(replace(kernels, compile=False))
    for index, build in enumerate(build_layers(weights.model, mesh.tp, chosen)):
        module = build().eval().to(dtype)
        load_layer(weights, module, index, mesh.tp)
        pack(module.to(mesh.device))
        modules.append(module)
    return modules


def cutting(stop: Stop) -> Callable[[str], str | None]:
    """`stop` itself, or of strings the function that returns its text up to the first of them, None without any."""
    if callable(stop):
        return stop

    def cut(text: str) -> str | None:
        found = [text.index(one) for one in stop if one in text]
        return text[: min(found)] if found else None

    return cut
