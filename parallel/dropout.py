"""Dropout that is the same under every layout: its mask is a function of what is masked, not of which process does it.

Each mask bit is a hash of (seed, optimizer step, layer, sample, position, channel).
"""

import torch
from torch import Tensor, nn

from parallel.hashing import BITS, keys_of, mix
from parallel.mesh import ProcessMesh, TensorParallelGroup


class Dropout(nn.Module):
    """Dropout on hidden states `[batch, seq, hidden]` (seq / tp tokens under sequence parallelism).

    `begin_step` is called once an optimizer step, `sample_keys` once a micro-batch, in the order of the step's
    micro-batches. A recomputed forward pass is given the keys of the first one.
    """

    def __init__(self, probability: float, layer: int, tp: TensorParallelGroup) -> None:
        super().__init__()
        self.probability = probability
        self.layer = layer
        self.tp = tp
        self.key, self.micro_batch, self.dp_rank, self.dp_size = (0, 0), 0, 0, 1

    def begin_step(self, seed: int, step: int, mesh: ProcessMesh) -> None:
        """Start optimizer step `step`: the next micro-batch is its first."""
        self.key = keys_of(seed, step, self.layer)
        self.micro_batch, self.dp_rank, self.dp_size = 0, mesh.dp_rank, mesh.dp_size

    def sample_keys(self, batch: int, device: torch.device) -> Tensor | None:
        """Keys `[batch, 2]` of the next micro-batch's samples; None where nothing is dropped.

        Samples are numbered within the global batch, which micro-batches are dealt from to the replicas in turn.
        """
        if not (self.training and self.probability):
            return None
        first = (self.micro_batch * self.dp_size + self.dp_rank) * batch
        self.micro_batch += 1
        samples = torch.arange(first, first + batch, device=device)
        return torch.stack([mix(mix(samples) ^ self.key[0]), mix(mix(samples) ^ self.key[1])], dim=-1)

    def forward(self, hidden_states: Tensor, keys: Tensor | None) -> Tensor:
        """`[batch, seq, hidden]` -> the same; keys: from `sample_keys`."""
        if keys is None:
            return hidden_states
        _, seq, hidden = hidden_states.shape
        start = self.tp.rank * seq if self.tp.sequence_parallel else 0
        position = torch.arange(start, start + seq, device=hidden_states.device).unsqueeze(-1)  # [seq, 1]
        channel = torch.arange(hidden, device=hidden_states.device)  # [hidden]
        first, second = keys.view(-1, 1, 1, 2).unbind(-1)  # [batch, 1, 1] each
        row = mix(first ^ position)  # [batch, seq, 1]
        bits = mix(mix(row ^ channel) ^ second)  # [batch, seq, hidden]
        keep = bits >= int(self.probability * (1 << BITS))
        return torch.where(keep, hidden_states / (1.0 - self.probability), 0.0)
