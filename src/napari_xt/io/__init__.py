"""Images in and predictions out: axes, levels, units, files; knows no torch, no napari, no screen.

In:   `image` opens any image (by way of `images/`; `computed/` makes some up), `annotations` (with `features`) reads
      what was drawn elsewhere.
Kept: `prediction` reads what a run has written; `stores/` writes it. `objects`, `measure` (with `measures/`) and
      `compare` say what is in it, `html` shows it in a notebook.
Out:  `convert` (with `conversion/`) writes images as OME-Zarr, `export` (with `exports/`) predictions as files of other
      kinds, `pack` as one zip.
"""
