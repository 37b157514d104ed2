"""What a notebook shows of a plan and of a prediction: what names say is only text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import napari_xt as xt
from small_model import small_model, squares

if TYPE_CHECKING:
    from pathlib import Path


def test_plan_and_prediction_in_a_notebook(tmp_path: Path) -> None:
    model = small_model()
    model.name = "<small>"
    card = xt.plan(squares((130, 130)), model)._repr_html_()
    assert "<td>regions&nbsp;&nbsp;</td><td>9 of 9 (64 px, halo 32)</td>" in card
    assert "&lt;small&gt;: mask, boxes, scores" in card
    shown = xt.predict(squares((130, 130)), model, out=tmp_path / "a.xt.zarr")._repr_html_()
    assert "&lt;small&gt;" in shown
    assert "complete" in shown
    assert "<td>boxes&nbsp;&nbsp;</td>" in shown
