"""Generate text from finished weights: prompts of different lengths in one batch, with a KV cache.

What may enter: what only this command and the commands that generate need.
"""
