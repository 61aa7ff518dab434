"""Every precision that a run may resolve to has its torch type."""

import torch

from conf.choices import Precision
from model.dtypes import DTYPES


def test_every_precision_but_auto_has_a_type() -> None:
    assert DTYPES.keys() == set(Precision) - {Precision.auto}
    bits = {precision: torch.finfo(dtype).bits for precision, dtype in DTYPES.items() if precision is not Precision.fp8}
    assert bits == {precision: int(precision.value.strip("fpb")) for precision in bits}
    assert DTYPES[Precision.fp8] is torch.bfloat16, "of all but the operands of the blocks' products"
