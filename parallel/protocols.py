"""What the engine expects of a model that it knows nothing of."""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class OutputLayer(Protocol):
    """The last layer: from hidden states to the loss while training, to logits in generation.

    Under sequence parallelism hidden states hold this process's seq / tp tokens; labels are always of all tokens.
    """

    def forward(self, hidden_states: Tensor, labels: Tensor | None = None) -> Tensor:
        """Hidden states `[batch, seq, hidden]` and labels `[batch, seq]` -> `loss`.

        Without labels: what `loss` and `logits` take, `[batch, seq, hidden]`.
        """
        ...

    def loss(self, normed: Tensor, labels: Tensor) -> Tensor:
        """`forward`'s output `[batch, seq, hidden]` and labels `[batch, seq]` -> a scalar, fp32.

        The mean over all tokens in training mode; the sum of the cross-entropy in nats in evaluation mode.
        """
        ...

    def logits(self, normed: Tensor, positions: Tensor) -> Tensor:
        """`forward`'s output `[batch, seq, hidden]` at `positions` `[batch]` -> `[batch, vocab / tp]`, fp32."""
        ...
