"""The log of corrections as a file. Knows corrections; must not know Qt or viewers."""

from __future__ import annotations

from pathlib import Path

from napari_xt.errors import SettingsError
from napari_xt.io.corrections.corrections import Corrections


def save_log(corrections: Corrections, path: Path) -> Path:
    """Write the log to a file, Parquet or CSV by its name, and return where that is.

    Raises
    ------
    SettingsError
        It can't be written there.
    """
    log = corrections.log()
    try:
        if path.suffix == ".parquet":
            log.to_parquet(path, index=False)
        else:
            log.to_csv(path, index=False)
    except OSError as error:
        raise SettingsError(path, f"can't be written: {error}", "choose another place") from error
    return path
