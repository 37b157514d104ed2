"""Images in and predictions out: axes, levels, units, files; knows no torch, no napari, no screen.

Images:       `image` is the door; `formats` finds out what was given; `omezarr`, `tiff` (with `tifftags`) open it and
              hand over a `source`; `remote` reads behind URLs; `pyramid` adds coarser levels, `guard` (with `inflate`
              and `segments`) refuses what is damaged, `resample` reads in the frame of a run; `synthetic` makes one up.
Stores:       `store` writes; `layout` says what there is, `tree` makes its arrays, `ngff` describes them as OME-Zarr;
              `place` finds or refuses the folder, `lock` keeps others out, `durable` gets files onto the disk, `ledger`
              journals them, `patches` paints the chunks that are `shared`, `shelf` keeps what waits for its window and
              `preview` what is seen of it, `recover` mends what a killed writer left.
Predictions:  `prediction` reads a store, `kept` what another run may take from one; `mask` and `merge` are the rules by
              which a mask and its boxes come about.
"""
