"""The house around the code: what an import costs, what the wheel holds, where the version stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from conftest import ROOT
from napari_xt import _version

SCREEN = ("napari", "qtpy", "PyQt6")
HEAVY = ("torch", "timm", "zarr", *SCREEN)

# what is imported, and what it must not load
LIGHT = {
    "napari_xt": HEAVY,
    "napari_xt.cli": ("torch", "timm", *SCREEN),
    "napari_xt.model.config": HEAVY,
    "napari_xt.model.zoo": HEAVY,
    "napari_xt.model.released.reader": HEAVY,
    "napari_xt.engine.settings": ("torch", "timm", *SCREEN),
    "napari_xt.engine.plan": ("torch", "timm", *SCREEN),
    "napari_xt.plugin.reader": ("torch", "timm", "qtpy", "PyQt6"),
    "napari_xt.plugin.sample_data": ("torch", "timm", "qtpy", "PyQt6"),
}


@pytest.mark.parametrize(("module", "absent"), LIGHT.items(), ids=LIGHT)
def test_import_is_light(module: str, absent: tuple[str, ...], tmp_path: Path) -> None:
    loaded = python(f"import sys, {module}; print([name for name in {absent} if name in sys.modules])", tmp_path)
    assert loaded == "[]"


def test_models_load_beside_opengl(tmp_path: Path) -> None:
    # Mesa's LLVM and triton's share symbols: where napari has drawn first, a careless import of timm ends the process.
    code = """
    import napari
    viewer = napari.Viewer()
    viewer.screenshot(canvas_only=False, flash=False)
    import napari_xt.model.region
    viewer.close()
    print("alive")
    """
    assert python(textwrap.dedent(code), tmp_path).endswith("alive")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, text=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds the installed wheel and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, text=True)
    return folder


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"napari_xt", f"napari_xt-{_version.__version__}.dist-info"}


@pytest.mark.parametrize(
    "pattern",
    ["__init__.pyi", "napari.yaml", "py.typed", "models/canopy.*", "models/context-proof.*", "samples/*"],
)
def test_wheel_holds_the_data(installed: Path, pattern: str) -> None:
    files = list(Path(installed, "napari_xt").glob(pattern))
    assert files
    assert pattern == "py.typed" or all(file.stat().st_size for file in files)


def test_bundled_weights_are_small(installed: Path) -> None:
    sizes = {path.stem: path.stat().st_size for path in Path(installed, "napari_xt/models").glob("*.safetensors")}
    assert sizes["canopy"] <= 12e6
    assert sizes["context-proof"] <= 3e6


def test_installed_wheel_is_what_python_imports(installed: Path, tmp_path: Path) -> None:
    assert Path(python("import napari_xt; print(napari_xt.__file__)", tmp_path, installed)).is_relative_to(installed)


def test_napari_finds_the_manifest_of_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    code = "from npe2 import PluginManifest as M; print(M.from_distribution('napari-xt').contributions.commands)"
    assert "napari-xt.run" in python(code, tmp_path, installed)


def test_command_line_of_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    script = installed / "bin/napari-xt"
    usage = subprocess.run(
        [sys.executable, script, "--help"], cwd=tmp_path, env=environment(installed), check=True, capture_output=True
    )
    assert b"napari-xt" in usage.stdout


def test_version_stands_in_one_place(installed: Path, tmp_path: Path) -> None:
    version = _version.__version__
    (metadata,) = installed.glob("*.dist-info")
    assert PathDistribution(metadata).version == version
    assert python("import napari_xt; print(napari_xt.__version__)", tmp_path, installed) == version
    sources = (ROOT / "src").rglob("*.py")
    assert [p.name for p in sources if re.search(r"^__version__\b.*=", p.read_text(), re.MULTILINE)] == ["_version.py"]
    assert version not in (ROOT / "CITATION.cff").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="git on Windows may check links out as files")
def test_top_level_manifest_is_the_packaged_one() -> None:
    assert (ROOT / "napari.yaml").resolve() == ROOT / "src/napari_xt/napari.yaml"


def environment(site: Path | None = None) -> dict[str, str]:
    """Return this environment, with ``site`` before everything else on the path."""
    return os.environ | ({"PYTHONPATH": str(site)} if site else {})


def python(code: str, cwd: Path, site: Path | None = None) -> str:
    """Run ``code`` in a fresh interpreter away from the sources, and return what it prints."""
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, cwd=cwd, env=environment(site), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout.strip()
