"""Plan a layout without a GPU: memory, traffic and pipeline bubble of every pipeline stage.

What may enter: what only this command needs.
"""

GPUS_A_NODE = 8  # where the settings do not say
