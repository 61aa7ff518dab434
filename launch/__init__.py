"""Starts a run's processes, here or on a cluster.

What may enter: what turns settings into commands. It imports conf and never torch: a login node answers in under a
second.
"""
