"""From documents to batches: where texts come from, which are kept, how they become tokens and blocks.

What may enter: sources of documents, filters, preparation, and the order in which blocks are read.
Preparing needs no torch, so that a login node can do it.
"""
