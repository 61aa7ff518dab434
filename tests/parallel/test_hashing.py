"""Hashes: no two inputs share an output, every bit depends on every bit, and parts of a grid are parts of the whole."""

import torch

from parallel.hashing import BITS, hash_grid, keys_of, mix


def test_mix_is_a_bijection_within_its_bits() -> None:
    hashed = mix(torch.arange(2**20))
    assert len(hashed.unique()) == 2**20 and int(hashed.min()) >= 0 and int(hashed.max()) < 2**BITS


def test_each_bit_turns_half_of_the_others() -> None:
    x = torch.arange(4096) * 524_287 & (2**BITS - 1)
    for bit in range(BITS):
        turned = mix(x) ^ mix(x ^ (1 << bit))
        share = sum(((turned >> out) & 1).float().mean().item() for out in range(BITS)) / BITS
        assert 0.4 < share < 0.6, bit


def test_a_part_of_a_grid_is_the_whole_ones() -> None:
    keys = keys_of(7, "3.in_proj.weight")
    whole = hash_grid(torch.arange(300), torch.arange(500), keys)
    rows, columns = torch.tensor([5, 290, 7]), torch.arange(100, 400)
    assert torch.equal(hash_grid(rows, columns, keys), whole[rows][:, columns])
    assert len(whole.unique()) > 0.9999 * whole.numel()
    assert keys != keys_of(8, "3.in_proj.weight") and keys != keys_of(7, "4.in_proj.weight")
