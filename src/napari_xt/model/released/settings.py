"""What the YAML beside a released checkpoint says that its tensors can't.

The keys are those of the released configurations, wherever in the document they stand. Knows small text files; knows no
tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from napari_xt.errors import ModelError
from napari_xt.model.released.shapes import Backbone, Decoder

YAML_LIMIT, DEPTH = 32 << 10, 20  # bytes and nesting; a released configuration has some 2,000 and 4
LARGE = 1_000_000  # no number of a configuration is
FILES = 200  # looked at in a folder
ODD = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Settings:
    """The keys of a YAML file by their last name, and what became of the search for one."""

    source: str = ""
    values: dict[str, object] = field(default_factory=dict)
    note: str = ""

    def text(self, key: str) -> str | None:
        """The text under a key; None where there is none, or a reference to another key."""
        value = self.values.get(key)
        return value if isinstance(value, str) and not value.startswith("${") else None

    def number(self, *keys: str) -> int | None:
        """The first whole number under one of the keys."""
        found = (self.values.get(key) for key in keys)
        return next((value for value in found if type(value) is int and abs(value) < LARGE), None)

    def numbers(self, key: str, count: int) -> tuple[float, ...] | None:
        """``count`` numbers under a key."""
        value = self._list(key, count, (int, float))
        return tuple(map(float, value)) if value and all(abs(v) < LARGE for v in value) else None

    def texts(self, key: str, count: int) -> tuple[str, ...] | None:
        """``count`` texts under a key."""
        value = self._list(key, count, str)
        return tuple(value) if value else None

    def _list(self, key: str, count: int, kind: type | tuple[type, ...]) -> list[Any] | None:
        value = self.values.get(key)
        if not isinstance(value, list) or len(value) != count or not all(isinstance(item, kind) for item in value):
            return None
        return value


def settings_beside(path: Path, backbone: Backbone, decoder: Decoder) -> Settings:
    """Read the YAML that belongs to a checkpoint.

    That is one of the same name, in its folder or in a folder ``config`` or ``configs`` beside or above; else one whose
    name ends alike (``swin-t-hyper-512-256-top1.ckpt``, ``swin_v2_tiny_1e-4_hyper_512_256.yaml``); else the only one in
    such a folder. One that was not found by its full name is left out, and the note says so, if it can't be read or
    contradicts the tensors.

    Raises
    ------
    ModelError
        The YAML of the checkpoint's own name can't be read or contradicts the tensors.
    """
    found = _find(path)
    if found is None:
        return Settings(note="no YAML beside the file")
    try:
        return _checked(found, backbone, decoder)
    except ModelError as error:
        if found.stem == path.stem:
            raise
        return Settings(note=f"{found.name} was left out: it {error.why}")


def _checked(path: Path, backbone: Backbone, decoder: Decoder) -> Settings:
    settings = Settings(path.name, read_yaml(path))
    if odd := contradiction(settings, backbone, decoder):
        raise ModelError(path, f"says {odd}, which is not what the tensors are", "correct it or move it away")
    return settings


def read_yaml(path: Path) -> dict[str, object]:
    """Keys and values of a YAML file by the last part of their names; the outermost wins.

    Raises
    ------
    ModelError
        It is too large or too deep, no YAML, or has aliases.
    """
    try:
        with path.open("rb") as file:
            text = file.read(YAML_LIMIT + 1)
        if len(text) > YAML_LIMIT:
            raise ModelError(path, f"has more than {YAML_LIMIT} bytes", "move it away")
        _check_events(path, yaml.parse(text, yaml.SafeLoader))
        return dict(reversed(list(_leaves(yaml.safe_load(text)))))
    except OSError as error:
        raise ModelError(path, f"can't be read: {error.strerror}") from error
    except ODD as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(path, "is no YAML", "correct it or move it away") from error


def _check_events(path: Path, events: Iterator[yaml.Event]) -> None:
    """Refuse what few bytes of could take long: aliases, of which each stands for the whole it names, and depth."""
    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH or isinstance(event, yaml.AliasEvent):
            raise ModelError(path, "has aliases or is deep, as no released configuration is", "write it plainly")


def contradiction(settings: Settings, backbone: Backbone, decoder: Decoder) -> str:
    """The first key that says something else than the tensors, as ``key = value``; empty: there is none."""
    region = settings.number("input_size", "img_size", "region_size")
    image = settings.number(*IMAGE_KEYS)
    attention, classes = settings.text("attention_method"), settings.number("num_classes")
    head, body = settings.text("cls_head"), settings.text("backbone_class")
    says = {
        f"backbone_class = {body}": body not in (None, released_class(backbone)),
        f"cls_head = {head}": head not in (None, "naive" if decoder.kind == "none" else "xl"),
        f"num_classes = {classes}": classes not in (None, decoder.classes),
        f"a region of {region} px": region not in (None, backbone.region_px),
        f"an image of {image} px": image is not None and (image < 1 or image % backbone.region_px > 0),
    }
    if decoder.kind != "none":
        layers, dim = settings.number("n_layer"), settings.number("hidden_size")
        says |= {
            f"n_layer = {layers}": layers not in (None, decoder.layers),
            f"hidden_size = {dim}": dim not in (None, decoder.dim),
            f"attention_method = {attention}": attention is not None and attention not in METHODS[decoder.kind],
        }
    return next((words for words, wrong in says.items() if wrong), "")


IMAGE_KEYS = ("val_crop_size", "crop_size", "image_size")
METHODS = {"hyper": ("hyper", "naive"), "mamba": ("mamba",), "none": ()}


def released_class(backbone: Backbone) -> str:
    """What the released configurations call a backbone."""
    family, size, *_ = backbone.name.split("_")
    return f"{family}_{size}_window16_256_timm" if family == "swinv2" else backbone.name.removesuffix("_224")


def _leaves(document: object) -> Iterator[tuple[str, object]]:
    """Keys with a value that is no mapping, outermost first."""
    level = [document]
    while level:
        mappings = [item for item in level if isinstance(item, dict)]
        level = []
        for mapping in mappings:
            yield from ((str(k), v) for k, v in mapping.items() if not isinstance(v, dict))
            level += [v for v in mapping.values() if isinstance(v, dict)]


def _find(path: Path) -> Path | None:
    bases = (path.parent, path.parent.parent)
    folders = [path.parent, *(base / name for base in bases for name in ("config", "configs"))]
    groups = [
        [f for f in _listed(folder) if f.suffix in (".yaml", ".yml") and not _of_another(f, path)] for folder in folders
    ]
    files = [file for group in groups for file in group]
    same = [file for file in files if file.stem == path.stem]
    alike = [file for file in files if _ending(path) and file.stem.replace("-", "_").endswith(_ending(path))]
    single = next((group for group in groups if len(group) == 1), [])
    return next((group[0] for group in (same[:1], alike, single) if len(group) == 1), None)


def _of_another(file: Path, path: Path) -> bool:
    """Whether it has the name of another checkpoint beside it."""
    return file.stem != path.stem and file.with_suffix(path.suffix).exists()


def _listed(folder: Path) -> list[Path]:
    try:
        return [file for file, _ in zip(folder.iterdir(), range(FILES), strict=False)]
    except OSError:
        return []


def _ending(path: Path) -> str:
    """``_hyper_512_256`` of ``swin-t-hyper-512-256-top1``."""
    match = re.search(r"_(nonxl|[a-z]+_\d+)_\d+(?=_top\d$|$)", path.stem.replace("-", "_"))
    return match.group() if match else ""
