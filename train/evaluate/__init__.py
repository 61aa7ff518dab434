"""Evaluates finished weights: HumanEval, MTPB and perplexity.

What may enter: measurements of a trained model. Nothing here changes weights.
"""
