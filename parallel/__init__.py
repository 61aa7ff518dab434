"""Distributed training: process mesh, collectives, tensor and pipeline parallelism, ZeRO, and the DeepSpeed engine.

What may enter: whatever needs `torch.distributed` or DeepSpeed. Nothing here knows CodeGen.
"""
