"""The store of a run, ``NAME.xt.zarr``, written so that nothing is lost; `napari_xt.io.prediction` is the door to read.

`store` writes; `layout` says what there is, `tree` makes its arrays, `ngff` describes them as OME-Zarr; `place` finds
or refuses the folder, `lock` keeps others out, `durable` gets files onto the disk, `ledger` journals them, `patches`
paints the chunks that are `shared`, `shelf` keeps what waits for its window and `preview` what is seen of it, `recover`
mends what a killed writer left; `kept` is what another run may take; `mask` and `merge` are the rules by which a mask
and its boxes come about.
"""
