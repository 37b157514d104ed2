"""The writers of exports, one module per kind of file; the door is ``napari_xt.io.export``.

They know predictions and files; must not know models, runs or screens.
"""
