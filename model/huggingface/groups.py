"""Detects a wrong `mp_num` from the weights: trained queries, keys and values differ in norm.

With the right number, the heads of qkv_proj fall into three kinds of similar norms; with a wrong one, the kinds are
mixed. The share of the variance (of log norms, over heads) that the kinds explain separates the two: in small models
trained for 100 to 800 steps it was 0.5 to 0.9 on average over layers for the right number and below 0.3 for every
other. Initial weights explain nothing for any number and are not refused. Released sizes have not been measured.
"""

import torch
from torch import Tensor

from conf.errors import ConfigError
from conf.schema import ModelConfig

NUMBERS = (1, 2, 4, 8, 16)
FEWEST_HEADS = 8  # below, chance explains too much
CLEAR, CLEARER = 0.5, 2.0  # share that another number has to explain, and how much more than the number asked for
LAYERS = 4  # read at most, spread over the depth


def explained(norms: Tensor, mp_num: int) -> float:
    """Share of the variance of log `norms` `[layers, 3 * n_head]`, in the file's order, that q, k and v explain.

    Heads of zeros, which were pruned or added, tell nothing and do not count.
    """
    logs = norms.log().view(len(norms), mp_num, 3, -1)  # [layers, mp_num, kind, heads of a group]
    logs = torch.where(logs.isfinite(), logs, torch.nan)
    logs = logs - logs.nanmean(dim=(1, 2, 3), keepdim=True)
    between, total = logs.nanmean(dim=(1, 3)).square().nanmean(-1), logs.square().nanmean(dim=(1, 2, 3))  # [layers]
    return float((between / total.clamp_min(1e-12)).nanmean().nan_to_num())


def refuse_wrong_groups(source: str, weights: list[Tensor], model: ModelConfig, mp_num: int) -> None:
    """Errors: `ConfigError` where qkv_proj `weights` `[3 * n_embd, n_embd]` of some layers speak clearly against
    `mp_num` and for another number.
    """
    if model.n_head < FEWEST_HEADS:
        return
    rows = torch.stack([torch.linalg.vector_norm(one.float(), dim=1) for one in weights])
    norms = rows.view(len(weights), 3 * model.n_head, -1).square().mean(-1).sqrt()
    shares = {number: explained(norms, number) for number in {*NUMBERS, mp_num} if model.n_head % number == 0}
    best = max(shares, key=lambda number: shares[number])
    if shares[best] > CLEAR and shares[best] > CLEARER * shares[mp_num]:
        raise ConfigError(
            f"mp_num={mp_num} does not fit {source}: queries, keys and values differ in size as mp_num={best} cuts "
            f"them (it explains {shares[best]:.0%} of the difference, {mp_num} explains {shares[mp_num]:.0%}); "
            f"write mp_num={best}"
        )
