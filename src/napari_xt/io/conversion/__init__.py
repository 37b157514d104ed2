"""How an image becomes an OME-Zarr: `target` says what is written, `sweep` writes it strip by strip.

Knows arrays and Zarr; must not know where the folder comes to lie in the end.
"""
