"""CodeGen (Nijkamp et al., arXiv 2203.13474, section 2): its three kinds of layers, each Tensor -> Tensor.

They are made of the layers of `parallel.tensor_parallel` and the chunked loss of `parallel.cross_entropy`.
`model.build` puts them together.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from conf.choices import Recompute
from conf.schema import ModelConfig
from model.kernels import Kernels
from model.kernels.branches import merge_branches, reference_branches, split_projection
from model.kernels.documents import Documents
from model.kv_cache import DecodePositions, KVCache
from model.rotary import apply_rotary, rotary_table
from parallel.collectives import enter_column
from parallel.cross_entropy import LossOptions, chunked_cross_entropy
from parallel.dropout import Dropout
from parallel.main_gradient import mark
from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import ColumnLinear, LayerNorm, Norm, RowLinear, Shard, VocabEmbedding, linear, sharded


class Embedding(nn.Module):
    """Token ids `[batch, seq]` -> `[batch, seq, hidden]`. No position embedding: rotary embedding is in the blocks."""

    def __init__(self, config: ModelConfig, tp: TensorParallelGroup) -> None:
        super().__init__()
        self.tokens = VocabEmbedding(config.vocab_size, config.n_embd, tp)

    def forward(self, ids: Tensor, documents: Documents | None = None) -> Tensor:
        """Shapes as in the class. documents: as every layer but the head is given them; of no use here."""
        return self.tokens(ids)  # type: ignore[no-any-return]


class Block(nn.Module):
    """The parallel block: `x + attention(norm(x)) + mlp(norm(x))`, one norm, one product in, one product out.

        x ──┬── norm ── in_proj ──┬── q, k, v ── rotary ── attention ──┬── out_proj ── (+) ──
            │                     └── fc_in + bias ── gelu ────────────┘                │
            └───────────────────────────────────────────────────────────────────────────┘

    The two branches share their input and their sum, so they share the product in (d -> 7d) and the product out
    (5d -> d): one collective each way for the whole block under tensor parallelism.

    Without a KV cache the block is compiled where `kernels.compile` says so: all of it, or only `branches`
    where collectives or the hooks of ZeRO-3 come before and after. `recompute` full drops every activation but the
    block's input until the backward pass; selective drops those of `branches`, which are large and cheap.
    """

    def __init__(
        self,
        config: ModelConfig,
        tp: TensorParallelGroup,
        kernels: Kernels,
        recompute: Recompute,
        layer: int,
        column: Callable[..., ColumnLinear] = ColumnLinear,
        row: Callable[..., RowLinear] = RowLinear,
    ) -> None:
        super().__init__()
        d = config.n_embd
        self.heads = config.n_head // tp.size  # of this tensor-parallel rank
        self.head_dim = config.head_dim
        self.kernels = kernels
        self.dropout = Dropout(config.dropout, layer, tp)
        self.norm = LayerNorm(d, config.layer_norm_epsilon, tp, kernels.norm)
        self.in_proj = column(d, parts=(d, d, d, 4 * d), tp=tp, products=kernels.products)
        self.mlp_bias = sharded(nn.Parameter(torch.empty(4 * d // tp.size)), Shard(0, (4 * d,)), tp)
        self.out_proj = row(parts=(d, 4 * d), out_features=d, tp=tp, products=kernels.products)
        self.rotary: Tensor
        self.register_buffer("rotary", rotary_table(config.context_length, config.rotary_dim), persistent=False)
        compile_all = kernels.compile and kernels.compile_blocks and tp.size == 1
        compile_branches = kernels.compile and not compile_all and kernels.branches is reference_branches
        self.branches = _training_form(self._branches, compile_branches, recompute is Recompute.selective)
        dropout = self.dropout if config.dropout else None
        self.forward = _training_form(self.forward, compile_all, recompute is Recompute.full, dropout)  # type: ignore[method-assign]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Block":
        """A cast leaves the rotary table in fp32: rounded, it would turn by other angles than in sampling."""
        table = self.rotary
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.rotary = table.to(self.rotary.device)
        return self

    def forward(
        self,
        hidden_states: Tensor,
        kv_cache: KVCache | None = None,
        positions: DecodePositions | None = None,
        dropout_keys: Tensor | None = None,
        documents: Documents | None = None,
    ) -> Tensor:
        """`[batch, seq, d]` -> the same (seq / tp tokens under sequence parallelism).

        documents: where a sample holds several that do not see each other, always of the whole sequence. Decoding gives
        the `kv_cache` of the tokens before these, and the `positions` of these. `dropout_keys` are filled in by
        `_training_form`.
        """
        normed = self.norm(hidden_states)  # [batch, seq, d]
        projected = self.in_proj(normed)  # [batch, seq, 7d / tp]: q, k, v and the MLP's, side by side
        branches = self.branches(
            projected, kv_cache, positions, documents=documents
        )  # [batch, seq, 5d / tp]: attention and gelu(mlp)
        out = self.out_proj(branches)  # [batch, seq, d]
        return hidden_states + self.dropout(out, dropout_keys)  # type: ignore[no-any-return]  # [batch, seq, d]

    def _branches(
        self,
        projected: Tensor,
        kv_cache: KVCache | None = None,
        positions: DecodePositions | None = None,
        documents: Documents | None = None,
    ) -> Tensor:
        """What lies between the two products: `[batch, seq, 7d / tp]` -> `[batch, seq, 5d / tp]`."""
        if documents is not None:
            table, attention = self.rotary[:, documents.positions].unsqueeze(2), self.kernels.document_attention
            return self.kernels.branches(projected, self.mlp_bias, table, self.heads, attention, documents.mask)
        if kv_cache is None or positions is None:
            return self.kernels.branches(projected, self.mlp_bias, self.rotary, self.heads, self.kernels.attention)
        q, k, v, mlp = split_projection(projected, self.heads)
        table = self.rotary[:, positions.positions].unsqueeze(2)
        q, k = apply_rotary(q, table), apply_rotary(k, table)
        k, v = kv_cache.update(k, v, positions)  # [batch, heads, kv_length, head_dim]
        attended = self.kernels.attention(q, k, v, positions.attention_mask())
        return merge_branches(attended, mlp, self.mlp_bias)


def _training_form(
    function: Callable[..., Tensor], compile: bool, recompute: bool, dropout: Dropout | None = None
) -> Callable[..., Tensor]:
    """`function` as training runs it: compiled, and recomputed in the backward pass, as asked.

    With a KV cache it runs as it is: its shapes grow with every token, and each would be compiled anew. dropout: what
    gives it its `dropout_keys`, once a micro-batch: a recomputed pass drops what the first one did.
    """
    if not (compile or recompute or dropout):
        return function
    compiled = torch.compile(function, dynamic=False) if compile else function

    def run(
        x: Tensor,
        kv_cache: KVCache | None = None,
        positions: DecodePositions | None = None,
        documents: Documents | None = None,
    ) -> Tensor:
        if kv_cache is not None:
            return function(x, kv_cache, positions)
        keys = dropout.sample_keys(len(x), x.device) if dropout else None
        given = {"dropout_keys": keys, "documents": documents}
        named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if recompute and torch.is_grad_enabled():
            return checkpoint(compiled, x, use_reentrant=False, **named)  # type: ignore[no-any-return]
        return compiled(x, **named)

    return run


class Head(nn.Module):
    """The final norm and the untied vocabulary product (a `parallel.protocols.OutputLayer`).

    The loss is the mean over tokens while training (z-loss included) and the sum of the plain cross-entropy in
    evaluation, in fp32. `logits` is for generation.
    """

    def __init__(
        self, config: ModelConfig, tp: TensorParallelGroup, options: LossOptions, norm: Norm | None = None
    ) -> None:
        super().__init__()
        self.tp = tp
        self.options = options
        self.norm = LayerNorm(config.n_embd, config.layer_norm_epsilon, tp, norm)
        rows, shard = config.vocab_size // tp.size, Shard(0, (config.vocab_size,))
        self.weight = mark(sharded(nn.Parameter(torch.empty(rows, config.n_embd)), shard, tp))
        self.bias = sharded(nn.Parameter(torch.empty(rows)), shard, tp)

    def forward(self, hidden_states: Tensor, labels: Tensor | None = None) -> Tensor:
        """`[batch, seq, hidden]` and labels `[batch, seq]` -> the loss; without labels the normed hidden states."""
        normed = self.norm(hidden_states)  # [batch, seq, hidden]
        return normed if labels is None else self.loss(normed, labels)

    def loss(self, normed: Tensor, labels: Tensor) -> Tensor:
        """The loss of normed hidden states `[batch, seq, hidden]`, a scalar in fp32."""
        if self.training:
            return chunked_cross_entropy(normed, self.weight, self.bias, labels, self.options) / labels.numel()
        plain = self.options._replace(z_loss=0.0)
        return chunked_cross_entropy(normed, self.weight, self.bias, labels, plain)

    def logits(self, normed: Tensor, positions: Tensor) -> Tensor:
        """Normed hidden states `[batch, seq, hidden]` at `positions` `[batch]` -> `[batch, vocab / tp]`, fp32."""
        hidden_states = enter_column(normed, self.tp)  # [batch, seq, hidden]
        chosen = hidden_states[torch.arange(len(positions), device=positions.device), positions]  # [batch, hidden]
        return linear(chosen, self.weight, self.bias).float()
