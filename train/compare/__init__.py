"""The `compare` command: reads the records of runs, joins their stages into curves, writes tables, a picture, a page.

Nothing here imports torch, so a laptop without it can compare the runs of a cluster.
"""
