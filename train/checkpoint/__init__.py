"""Checkpoints: invisible until they are whole, found again by looking, and the same for every layout.

A checkpoint is a folder `step_<n>`: `weights/`, `exp_avg/` and `exp_avg_sq/` hold whole fp32 tensors, a file a layer,
and are the same whoever wrote them. `state.json` holds the rest, and lists each file with its size and its checksum
(conf/checksums.py), as it does in the weights that a stage leaves.
What may enter: writing, reading, checking and removing them; what is in them is the engine's to say.
"""
