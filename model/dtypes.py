"""torch's data types by the names that the settings use."""

import torch

from conf.choices import Precision

DTYPES = {
    Precision.fp32: torch.float32,
    Precision.bf16: torch.bfloat16,
    Precision.fp16: torch.float16,
    Precision.fp8: torch.bfloat16,  # of all but the operands of the blocks' products
}
