"""CodeGen (Nijkamp et al., arXiv 2203.13474, section 2), from four words: column, row, embedding, vocabulary loss.

`layers` is the model: a list of builders, each Tensor -> Tensor, for `nn.Sequential` and for a pipeline alike.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from conf.choices import Recompute
from conf.schema import ModelConfig
from model.kernels import Operations
from model.kv_cache import Past, Places
from model.rotary import apply_rotary, rotary_table
from parallel.collectives import enter_column
from parallel.cross_entropy import LossOptions, chunked_cross_entropy
from parallel.mesh import TensorParallelGroup
from parallel.tensor_parallel import ColumnLinear, LayerNorm, RowLinear, Shard, VocabEmbedding, linear, sharded


class Embedding(nn.Module):
    """Token ids `[batch, seq]` -> `[batch, seq, hidden]`. No positions: rotary embedding carries them."""

    def __init__(self, model: ModelConfig, tp: TensorParallelGroup) -> None:
        super().__init__()
        self.tokens = VocabEmbedding(model.vocab_size, model.n_embd, tp)

    def forward(self, ids: Tensor) -> Tensor:
        """Shapes as in the class."""
        return self.tokens(ids)  # type: ignore[no-any-return]


class Block(nn.Module):
    """The parallel block: `x + attention(norm(x)) + mlp(norm(x))`, one norm, one product in, one product out.

        x ──┬── norm ── in_proj ──┬── q, k, v ── rotary ── attention ──┬── out_proj ── (+) ──
            │                     └── fc_in + bias ── gelu ────────────┘                │
            └───────────────────────────────────────────────────────────────────────────┘

    The two branches share their input and their sum, so they share the product in (d -> 7d) and the product out
    (5d -> d): one collective each way for the whole block under tensor parallelism.
    """

    def __init__(
        self, model: ModelConfig, tp: TensorParallelGroup, operations: Operations, recompute: Recompute
    ) -> None:
        super().__init__()
        d = model.n_embd
        self.heads = model.n_head // tp.size  # this process's own
        self.head_dim = model.head_dim
        self.attention = operations.attention
        self.recompute = recompute
        self.dropout = model.dropout
        self.norm = LayerNorm(d, model.layer_norm_epsilon, tp)
        self.in_proj = ColumnLinear(d, parts=(d, d, d, 4 * d), tp=tp)
        self.mlp_bias = sharded(nn.Parameter(torch.empty(4 * d // tp.size)), Shard(0, (4 * d,)), tp)
        self.out_proj = RowLinear(parts=(d, 4 * d), out_features=d, tp=tp)
        self.register_buffer("rotary", rotary_table(model.context_length, model.rotary_dim), persistent=False)
        self.whole, self.middle = self._whole, self._middle
        if operations.compile and tp.size == 1:
            self.whole = torch.compile(self._whole, dynamic=False)
        elif operations.compile:  # collectives stay outside
            self.middle = torch.compile(self._middle, dynamic=False)

    def forward(self, hidden_states: Tensor, past: Past | None = None, places: Places | None = None) -> Tensor:
        """`[batch, seq, hidden]` -> the same. Decoding gives the tokens' `places` and the `past` they continue."""
        if past is not None and places is not None:
            q, k, v, mlp = self.split(self.in_proj(self.norm(hidden_states)))
            k, v = past.extend(self.turn(k, places.positions), v, places)
            attended = self.attention(self.turn(q, places.positions), k, v, places.seen())
            return hidden_states + self.out_proj(self.mix(attended, mlp))  # type: ignore[no-any-return]
        if self.recompute is Recompute.full and torch.is_grad_enabled():
            return checkpoint(self.whole, hidden_states, use_reentrant=False)  # type: ignore[no-any-return]
        return self.whole(hidden_states)

    def _whole(self, x: Tensor) -> Tensor:
        product = self.in_proj(self.norm(x))  # [batch, seq, 7d]
        keep = self.recompute is not Recompute.selective or not torch.is_grad_enabled()
        mixed = self.middle(product) if keep else checkpoint(self.middle, product, use_reentrant=False)
        out = self.out_proj(mixed)  # [batch, seq, d]
        return x + nn.functional.dropout(out, self.dropout, self.training)

    def _middle(self, product: Tensor) -> Tensor:
        """Between the products, `[batch, seq, 7d]` -> `[batch, seq, 5d]`: large activations, cheap to make again."""
        q, k, v, mlp = self.split(product)  # [batch, heads, seq, head_dim] x 3, [batch, seq, 4d]
        return self.mix(self.attention(self.turn(q), self.turn(k), v), mlp)

    def mix(self, attended: Tensor, mlp: Tensor) -> Tensor:
        """`[batch, heads, seq, head_dim]` and `[batch, seq, 4d]` -> what the product out takes, `[batch, seq, 5d]`."""
        activated = nn.functional.gelu(mlp + self.mlp_bias, approximate="tanh")
        return torch.cat([attended.transpose(1, 2).flatten(2), activated], dim=-1)

    def split(self, product: Tensor) -> list[Tensor]:
        """`[batch, seq, 7d]` -> q, k, v `[batch, heads, seq, head_dim]` and the MLP's `[batch, seq, 4d]`."""
        d = self.heads * self.head_dim
        *qkv, mlp = product.split([d, d, d, 4 * d], dim=-1)
        return [part.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2) for part in qkv] + [mlp]

    def turn(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Rotary position embedding on `[batch, heads, seq, head_dim]`, at positions `[batch or 1, seq]` or from 0."""
        if positions is None:
            return apply_rotary(x, self.rotary[:, : x.shape[-2]])
        return apply_rotary(x, self.rotary[:, positions].unsqueeze(2))  # the same for every head


class Head(nn.Module):
    """The final norm and the untied vocabulary product: hidden states -> hidden states, or -> the loss.

    The loss is the mean over tokens while training (z-loss included) and the sum of the plain cross-entropy in
    evaluation, in fp32. `logits` is for generation.
    """

    def __init__(self, model: ModelConfig, tp: TensorParallelGroup, options: LossOptions) -> None:
        super().__init__()
        self.tp = tp
        self.options = options
        self.norm = LayerNorm(model.n_embd, model.layer_norm_epsilon, tp)
        rows, shard = model.vocab_size // tp.size, Shard(0, (model.vocab_size,))
        self.weight = sharded(nn.Parameter(torch.empty(rows, model.n_embd)), shard, tp)
        self.bias = sharded(nn.Parameter(torch.empty(rows)), shard, tp)

    def forward(self, hidden_states: Tensor, labels: Tensor | None = None) -> Tensor:
        """`[batch, seq, hidden]` and labels `[batch, seq]` -> the loss; without labels the normed hidden states."""
        hidden_states = self.norm(hidden_states)
        return hidden_states if labels is None else self.loss(hidden_states, labels)

    def loss(self, normed: Tensor, labels: Tensor) -> Tensor:
        """The loss of normed hidden states `[batch, seq, hidden]`, a scalar in fp32."""
        if self.training:
            return chunked_cross_entropy(normed, self.weight, self.bias, labels, self.options) / labels.numel()
        plain = self.options._replace(z_loss=0.0)
        return chunked_cross_entropy(normed, self.weight, self.bias, labels, plain)

    def logits(self, normed: Tensor, positions: Tensor) -> Tensor:
        """Normed hidden states `[batch, seq, hidden]` at `positions` `[batch]` -> logits `[batch, vocab / size]`."""
        hidden_states = enter_column(normed, self.tp)  # [batch, seq, hidden]
        chosen = hidden_states[torch.arange(len(positions), device=positions.device), positions]  # [batch, hidden]
        return linear(chosen, self.weight, self.bias).float()


def layers(
    model: ModelConfig, tp: TensorParallelGroup, operations: Operations, recompute: Recompute, options: LossOptions
) -> list[partial[nn.Module]]:
    """The model as builders, in order: embedding, n_layer blocks, head. Weights are not yet set (see model/init.py)."""
    blocks = [partial(Block, model, tp, operations, recompute) for _ in range(model.n_layer)]
    return [partial(Embedding, model, tp), *blocks, partial(Head, model, tp, options)]
