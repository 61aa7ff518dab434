"""The run that every layout must reproduce: Hugging Face's model with torch's AdamW and clipping, in one process."""

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import torch
from transformers import CodeGenForCausalLM

from conf.choices import IGNORE_INDEX
from model.huggingface import from_huggingface
from tests.parity.cases import DOCUMENTS, NEW_TOKENS, RATE, SEED, STEPS, batch, infilled, learnt, settings_of
from tests.twin import MP_NUM, initial_weights, twin_of

Summed = Callable[[CodeGenForCausalLM, torch.Tensor], tuple[torch.Tensor, int]]


def golden(summed: Summed | None = None) -> dict[str, Any]:
    """Losses, norms, final weights, and what is evaluated after the last of `STEPS` steps.

    summed: the loss of `[batch, seq + 1]`, summed over labels, and their number.
    """
    summed = summed or cross_entropy
    settings = settings_of([])
    model, optimizer = settings.model, settings.optimizer
    twin = twin_of(model, initial_weights(model, SEED))
    decayed = [p for p in twin.parameters() if p.dim() > 1]
    others = [p for p in twin.parameters() if p.dim() < 2]
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": optimizer.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=RATE,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.epsilon,
    )
    result: dict[str, Any] = {"loss": [], "gradient_norm": []}
    for step in range(STEPS):
        rows = batch(step, settings)
        total, labels = summed(twin, rows)
        loss = total / labels
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), optimizer.gradient_clipping)
        adamw.step()
        adamw.zero_grad()
        result["loss"].append(loss.item())
        result["gradient_norm"].append(norm.item())
    with torch.no_grad():
        rows = batch(STEPS, settings)
        result["evaluation"] = summed(twin, rows)[0].item()
        result["logits"] = twin(rows[:2, :-1]).logits[torch.arange(2), torch.tensor([3, 9])]
        result["continued"] = [continue_greedily(twin, row[:3]) for row in rows]
    state = twin.state_dict()
    result["weights"] = {
        f"{index}.{name}": value
        for index in range(model.n_layer + 2)
        for name, value in from_huggingface(index, state, model, MP_NUM).items()
    }
    return result


def each_infilled_document(twin: CodeGenForCausalLM, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    """As `cross_entropy`, of the documents of `infilled`, each in a forward pass of its own."""
    found = []
    batch = infilled(rows)
    for ids, labels, positions in zip(*batch, strict=True):
        begins = [*torch.nonzero(positions == 0).flatten().tolist(), len(ids)]
        for first, last in pairwise(begins):
            if labels[first] != IGNORE_INDEX:  # padding is a document of its own
                found.append(cross_entropy(twin, torch.cat([ids[first:last], labels[last - 1 : last]])[None]))
    return torch.stack([loss for loss, _ in found]).sum(), sum(count for _, count in found)


def continue_greedily(twin: CodeGenForCausalLM, ids: torch.Tensor) -> list[int]:
    """The `NEW_TOKENS` tokens that follow `ids`."""
    prompt = len(ids)
    for _ in range(NEW_TOKENS):
        ids = torch.cat([ids, twin(ids.unsqueeze(0)).logits[0, -1].argmax().view(1)])
    return ids[prompt:].tolist()


def cross_entropy(twin: CodeGenForCausalLM, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Summed over the tokens of `rows` `[batch, seq + 1]`, and their number."""
    logits = twin(rows[:, :-1]).logits
    labels = rows[:, 1:].flatten()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum"), len(labels)


def each_document_by_itself(twin: CodeGenForCausalLM, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    """As `cross_entropy`, of the documents of `DOCUMENTS` in a forward pass each."""
    found = []
    for row, lengths in zip(rows, DOCUMENTS, strict=True):
        for start, length in zip(accumulate(lengths, initial=0), lengths, strict=False):
            found.append(cross_entropy(twin, row[None, start : start + length + 1]))
    return torch.stack([loss for loss, _ in found]).sum(), sum(labels for _, labels in found)


def padded_conversations(twin: CodeGenForCausalLM, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    """As `each_document_by_itself`, in one batch padded on the right, and of the labels that are `learnt` only."""
    spans = [
        row[start : start + length + 1]
        for row, lengths in zip(rows, DOCUMENTS, strict=True)
        for start, length in zip(accumulate(lengths, initial=0), lengths, strict=False)
    ]
    ids = torch.nn.utils.rnn.pad_sequence([span[:-1] for span in spans], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(span) - 1) for span in spans], batch_first=True)
    targets = [span[1:].masked_fill(~learnt(span[1:]), IGNORE_INDEX) for span in spans]
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORE_INDEX)
    logits = twin(ids, attention_mask=mask).logits
    total = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return total, int((labels != IGNORE_INDEX).sum())
