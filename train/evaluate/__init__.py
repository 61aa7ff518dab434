"""What a model is worth: bits per byte on every corpus, and samples.

What may enter: measurements of a trained model. Nothing here changes weights.
"""
