"""Images in and predictions out: axes, levels, units, files; knows no torch, no napari, no screen."""
