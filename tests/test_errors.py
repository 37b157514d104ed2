"""Errors are one short line for people and builtin errors for programs."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_xt import errors
from napari_xt.errors import XTError, printable

BUILTIN = {
    "AnnotationError": ValueError,
    "CorrectionsLockedError": OSError,
    "ImageFormatError": ValueError,
    "ImageNotFoundError": FileNotFoundError,
    "ImageReadError": OSError,
    "MissingDependencyError": ImportError,
    "ModelError": ValueError,
    "ModelNotFoundError": LookupError,
    "RunError": RuntimeError,
    "SettingsError": ValueError,
    "StoreError": OSError,
    "StoreLockedError": OSError,
    "StoreMismatchError": ValueError,
}
CLASSES = [XTError, *(getattr(errors, name) for name in BUILTIN)]
every_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


def test_no_class_is_forgotten() -> None:
    assert set(errors.__all__) == {*BUILTIN, "XTError"}
    assert {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type)} == {*BUILTIN, "XTError"}


@pytest.mark.parametrize(("name", "builtin"), BUILTIN.items(), ids=BUILTIN)
def test_each_is_caught_as_ours_and_as_a_builtin(name: str, builtin: type[Exception]) -> None:
    for caught in (XTError, builtin):
        with pytest.raises(caught, match=r"^that: is wrong; do this$"):
            raise getattr(errors, name)("that", "is wrong", "do this")


@every_class
def test_says_what_why_and_what_to_do(kind: type[XTError]) -> None:
    assert str(kind("scene.tif", "is no image", "give another")) == "scene.tif: is no image; give another"
    assert str(kind("scene.tif", "is no image")) == "scene.tif: is no image"
    assert str(kind(7, "is no image")) == "7: is no image"


@every_class
def test_survives_pickle_and_copy(kind: type[XTError]) -> None:
    error = kind("scene.tif", "is no image", "give another")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is kind
        assert (twin.what, twin.why, twin.do, str(twin)) == (error.what, error.why, error.do, str(error))


@given(st.text(), st.text(), st.text())
def test_is_one_line_of_at_most_280_characters(what: str, why: str, do: str) -> None:
    assert_one_line(str(XTError(what, why, do)))


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000))
def test_is_short_however_long_its_parts_are(what: int, why: int, do: int) -> None:
    text = str(XTError("w" * what, "y" * why, "d" * do))
    assert_one_line(text)
    assert what > 60 or text.startswith("w" * min(what, 20))


def assert_one_line(text: str) -> None:
    assert len(text) <= 280
    assert len(text.splitlines()) <= 1
    text.encode()


def test_the_ends_of_a_long_path_stay() -> None:
    text = str(XTError(f"/data/{'deep/' * 100}scene.tif", "is no image", "give another"))
    assert text.startswith("/data/deep/")
    assert text.endswith("scene.tif: is no image; give another")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("a\r\tb", r"a\r\tb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x00\x7f\x9b", r"\x00\x7f\x9b"),
        ("\u202eexe.tif", r"\u202eexe.tif"),
        ("\u2028\u2066\u200f", r"\u2028\u2066\u200f"),
        ("caf\udce9", r"caf\udce9"),
        ("Übung ß 森.tif", "Übung ß 森.tif"),
        (r"C:\new\table", r"C:\new\table"),
    ],
    ids=ascii,
)
def test_text_from_files_is_data(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    assert shown in str(XTError(text, "is wrong"))
