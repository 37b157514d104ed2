"""The streaming engine: it joins model and io. Knows no Qt and no napari."""
