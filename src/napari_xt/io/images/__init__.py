"""How images open and are read; `napari_xt.io.image` is the door.

`formats` finds out what was given; `omezarr`, `tiff` (with `tifftags`), `pictures`, `npy` and `slides` open it and hand
over a `source`, `strangers` names what is not read. `geo` says where on the Earth it lies; `turned`, `nodata`, `tiles`
and `mapped` are arrays read in another way, `keys` what indexes them, `stacked` several images as one; `remote` reads
behind URLs, `files` in folders that nobody vouches for; `pyramid` adds coarser levels, `guard` (with `inflate` and
`segments`) refuses what is damaged, `cached` decodes large pictures once (with `bands`, `cache` and `decoding`),
`resample` reads in the frame of a run; `channels` and `intensity` say which channels a model is fed, and how.
"""
