"""Distributed training: process mesh, collectives, tensor and pipeline parallelism, ZeRO, and the DeepSpeed engine.

What may enter: whatever needs `torch.distributed` or DeepSpeed. Nothing here knows CodeGen.
"""

import logging

# DeepSpeed warns of every machine without a GPU, and a CPU is a machine like any other here.
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
