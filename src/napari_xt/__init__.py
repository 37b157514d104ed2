"""napari-xt: xT over images far larger than memory, as live masks, boxes and region scores in napari.

The public names, lazily: importing the package imports no torch, no zarr, no napari and no Qt.
"""

import lazy_loader

from napari_xt._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
