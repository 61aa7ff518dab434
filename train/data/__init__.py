"""Data: reading documents, filtering and tokenizing them once, and serving packed training samples.

Belongs here: document sources, filters, the `prepare` command, sampling order and batching.
Preparation imports no torch, so it also runs on a login node.
"""
