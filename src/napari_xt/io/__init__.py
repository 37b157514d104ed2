"""Images in and predictions out: axes, levels, units, files; knows no torch, no napari, no screen.

Images:       `image` is the door; `formats` finds out what was given; `omezarr`, `tiff` (with `tifftags`), `pictures`,
              `npy` and `slides` open it and hand over a `source`, `strangers` names what is not read; `geo` says where
              on the Earth it lies, `turned`, `nodata`, `tiles` and `mapped` are arrays read in another way, `keys` what
              indexes them; `remote` reads behind URLs; `pyramid` adds coarser levels, `guard` (with `inflate` and
              `segments`) refuses what is damaged, `cached` decodes large pictures once (with `bands`, `cache` and
              `decoding`), `resample` reads in the frame of a run; `synthetic`, `mirrored` and `nuclei` make some up.
Stores:       `store` writes; `layout` says what there is, `tree` makes its arrays, `ngff` describes them as OME-Zarr;
              `place` finds or refuses the folder, `lock` keeps others out, `durable` gets files onto the disk, `ledger`
              journals them, `patches` paints the chunks that are `shared`, `shelf` keeps what waits for its window and
              `preview` what is seen of it, `recover` mends what a killed writer left.
Predictions:  `prediction` reads a store, `kept` what another run may take from one; `mask` and `merge` are the rules by
              which a mask and its boxes come about.
Out:          `convert` (with `conversion/`) writes images as OME-Zarr, `export` (with `exports/`) predictions as files
              of other kinds, `pack` as one zip, `compare` says how far two agree.
Areas:        `annotations` (by way of `features`) reads what was drawn elsewhere.
"""
