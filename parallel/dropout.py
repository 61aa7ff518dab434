"""Dropout that is the same under every layout: its mask is a function of what is masked, not of which process does it.

Torch's dropout draws from a generator, so its mask depends on the process, on earlier draws, and on the shape. Here
each mask bit is a hash of (seed, optimizer step, layer, sample, position, channel), in the way of counter-based random
numbers (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

import hashlib

import torch
from torch import Tensor, nn

from parallel.mesh import ProcessMesh, TensorParallelGroup

BITS = 31  # of a hash: products of two fit an int64, so that no device overflows
MASK = (1 << BITS) - 1


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
        digest = hashlib.sha256(repr((seed, step, self.layer)).encode()).digest()
        self.key = (int.from_bytes(digest[:4], "little") & MASK, int.from_bytes(digest[4:8], "little") & MASK)
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
        return torch.stack([_mix(_mix(samples) ^ self.key[0]), _mix(_mix(samples) ^ self.key[1])], dim=-1)

    def forward(self, hidden_states: Tensor, keys: Tensor | None) -> Tensor:
        """`[batch, seq, hidden]` -> the same; keys: from `sample_keys`."""
        if keys is None:
            return hidden_states
        _, seq, hidden = hidden_states.shape
        start = self.tp.rank * seq if self.tp.sequence_parallel else 0
        position = torch.arange(start, start + seq, device=hidden_states.device).unsqueeze(-1)  # [seq, 1]
        channel = torch.arange(hidden, device=hidden_states.device)  # [hidden]
        first, second = keys.view(-1, 1, 1, 2).unbind(-1)  # [batch, 1, 1] each
        row = _mix(first ^ position)  # [batch, seq, 1]
        bits = _mix(_mix(row ^ channel) ^ second)  # [batch, seq, hidden]
        keep = bits >= int(self.probability * (1 << BITS))
        return torch.where(keep, hidden_states / (1.0 - self.probability), 0.0)


def _mix(x: Tensor) -> Tensor:
    """A bijection of integers below 2^31 in which each bit of the input turns about half of the output's.

    MurmurHash3's finaliser (two rounds of xor-shift and product), at 31 bits.
    """
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & MASK
    return x ^ (x >> 16)
