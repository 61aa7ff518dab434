"""CodeGen: the model, its initial weights, its arithmetic in FLOPs, its kernels, tokenizers, and Hugging Face's form.

What may enter: what knows the architecture. Nothing here starts processes, reads data or trains.
"""
