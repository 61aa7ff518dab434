"""Many processes as one machine: the layout of ranks, collectives, tensor-parallel layers, pipeline, ZeRO, the engine.

What may enter: whatever needs `torch.distributed` or DeepSpeed. Nothing here knows CodeGen.
"""
