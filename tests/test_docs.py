"""Every example of every page runs, in a folder with a real scene; the site builds without a warning."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rasterio
from rasterio.transform import Affine

import napari_xt as xt
from docs_case import examples, execute
from napari_xt.geometry import Box
from napari_xt.plugin.demo import SCENE

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [page for page in [*sorted(DOCS.glob("*.md")), ROOT / "README.md"] if examples(page)]
PART = Box(512, 512, 1280, 1280)  # of the scene: 3 x 3 regions
AREA = [[[100, 100], [500, 100], [500, 600], [100, 600], [100, 100]]]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all that pages name: a map, the same as OME-Zarr, what was found in it, areas, boxes."""
    folder = tmp_path_factory.mktemp("world")
    with xt.open_image(str(SCENE)) as image:
        pixels = image.read(PART)
    place = {"crs": "EPSG:32612", "transform": Affine(0.1, 0, 540_000, 0, -0.1, 4_980_000)}
    shape = {"count": 3, "height": PART.height, "width": PART.width, "dtype": "uint8", "tiled": True}
    for name in ("scene.tif", "labelled.tif"):
        with rasterio.open(folder / name, "w", driver="GTiff", **shape, **place) as file:
            file.write(pixels)
    xt.convert(folder / "scene.tif", folder / "scene.ome.zarr")
    xt.predict(folder / "scene.tif", out=folder / "scene.xt.zarr")
    boxes = xt.open_prediction(folder / "scene.xt.zarr").boxes
    boxes[["x0", "y0", "x1", "y1"]].to_csv(folder / "labelled.csv", index=False)
    area = {
        "type": "Feature",
        "properties": {"objectType": "annotation", "classification": {"name": "meadow"}},
        "geometry": {"type": "Polygon", "coordinates": AREA},
    }
    (folder / "areas.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [area]}))
    return folder


@pytest.fixture
def folder(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page: Path, world: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    found = examples(page)
    text = "\n".join(one.text for one in found if one.why is None)
    for path in world.iterdir():
        made = f'out="{path.name}"' in text
        if path.name in text.replace("*", "scene") and not made:
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, folder / path.name)
    names: dict[str, Any] = {"__name__": "__main__"}
    if re.search(r"\bviewer\b", text):
        names["viewer"] = request.getfixturevalue("make_napari_viewer")()
    execute(page, found, names)


@pytest.mark.parametrize("page", [*PAGES], ids=lambda page: page.stem)
def test_what_is_not_run_says_why(page: Path) -> None:
    assert all(one.why is None or len(one.why) > 10 for one in examples(page))


def test_messages_under_troubleshooting_are_those_of_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    told = re.findall(r"^\| `(.+?)` \|", (DOCS / "troubleshooting.md").read_text(), re.M)
    assert told
    assert [message for message in told if message not in code] == []


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-f", str(ROOT / ".mkdocs.yml"), "-d"]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([*build, str(tmp_path / "site")], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "api.html").stat().st_size > 50_000
    pages = "".join(path.read_text() for path in (tmp_path / "site").rglob("*.html"))
    assert not re.search(r'(?:src|href)="https://(?:fonts|unpkg|cdn)', pages), "the site fetches from elsewhere"
