"""How objects and areas are measured while a mask streams by; `napari_xt.io.objects` and `measure` are the doors."""
