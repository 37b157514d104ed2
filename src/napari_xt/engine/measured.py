"""What models were measured to take on this machine, kept between processes in a small file among the user's caches.

Knows a file of JSON; knows no torch and no model beyond its configuration. A file that can't be read or written, or
that holds something else, is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import platformdirs

from napari_xt._version import __version__
from napari_xt.engine.machine import Machine, Measured
from napari_xt.model.config import CUSTOM, XTConfig

FILE = "measured.json"
MOST = 200  # models: older ones are forgotten
LARGEST_BYTES = 1 << 20
ON_GPU = (("cuda", "bfloat16"), ("cuda", "float32"), ("mps", "float32"))


def place() -> Path:
    """The file."""
    return platformdirs.user_cache_path("napari-xt") / FILE


def recall(config: XTConfig, machine: Machine, precision: str) -> Measured | None:
    """What was measured of a model like this on a machine like this, if anything.

    It goes by the configuration: what weights say makes no network faster. Where the device is not known yet, what was
    measured last counts, as if by that many workers.
    """
    known = _read()
    if machine.device != "auto":
        return _measured(known.get(_key(config, machine, precision)))
    likely = {_key(config, replace(machine, device=d), p): d for d, p in (("cpu", precision), *ON_GPU)}
    for key in filter(likely.__contains__, reversed(known)):
        found = _measured(known[key])
        if found is not None:
            return found if likely[key] == "cpu" else replace(found, seconds=found.seconds * machine.cores)
    return None


def remember(config: XTConfig, machine: Machine, precision: str, found: Measured) -> None:
    """Keep what was measured: the last whole run, or before there is one the last probe.

    Not of encoders of the user's own: the configuration does not tell one from another.
    """
    if config.region_encoder == CUSTOM:
        return
    known, key = _read(), _key(config, machine, precision)
    before = _measured(known.pop(key, None))
    if before is not None and before.whole and not found.whole:
        found = before
    _write(dict(list({**known, key: asdict(found)}.items())[-MOST:]))


def _key(config: XTConfig, machine: Machine, precision: str) -> str:
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    kind = machine.device.partition(":")[0]
    parts = (config.to_json(), kind, platform.node(), machine.cores, torch, __version__, precision)
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:32]


def _measured(value: Any) -> Measured | None:
    """What a part of the file says, where it is what `remember` writes."""
    try:
        found = Measured(**{f.name: value[f.name] for f in fields(Measured)})
        good = 0 < float(found.seconds) < float("inf") and int(found.activations) >= 0 and int(found.batch) > 0
    except (TypeError, KeyError, ValueError):
        return None
    return found if good else None


def _read() -> dict[str, Any]:
    try:
        file = place()
        if file.stat().st_size > LARGEST_BYTES:
            return {}
        known = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(known: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):
        file = place()
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{FILE}.{os.getpid()}")
        try:
            aside.write_text(json.dumps(known))
            aside.replace(file)
        finally:
            aside.unlink(missing_ok=True)
