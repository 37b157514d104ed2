"""The network: configuration, tokens, region and context encoders, heads, and the files that hold them.

Knows tensors; knows no image files, no napari layers and no stores.
"""
