"""Every number a run uses, written once: Hydra groups, their types and the checks that refuse a bad run.

What may enter: YAML files, `schema.py` (the types), `check.py` (the refusals), `compose.py` (from command-line
overrides to a typed `Settings`). Nothing here imports torch: a login node composes and checks a job in well under a
second.
"""
