"""CodeGen: the model, its initial weights, its arithmetic in FLOPs, its kernels, and Hugging Face's form of it.

What may enter: what knows the architecture. Nothing here starts processes, reads data or trains.
"""
