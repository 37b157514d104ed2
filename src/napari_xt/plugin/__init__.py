"""What napari sees of the package: reader, sample data, dock widgets, live layers of a run.

Knows napari and the engine's doors; no rule about pixels, regions or boxes is made here.
"""
