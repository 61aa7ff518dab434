"""Comparison of experiments from the records they leave: reading, chaining stages into curves, tables and pictures.

Nothing here trains or needs torch, so a laptop can compare what a cluster has trained.
"""
