"""Training: scenes with hand-drawn boxes in, a model file with honest figures out.

Knows torch; knows no napari and no Qt.
"""
