"""One run, from composed settings to trained weights: data, schedule, checkpoints, tracking, evaluation, the loop.

What may enter: what happens to a model in time. The model itself is in model/, processes and their groups in parallel/,
numbers in conf/.
"""
