"""Evaluates trained weights: benchmarks whose programs are run, and perplexity.

What may enter: measurements of a trained model. Nothing here changes weights.
"""
