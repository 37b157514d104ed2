"""Entries of the list of models that are no models: a click calls something and leaves the choice as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_xt.plugin.widgets.models import BROWSE, ModelCombo

if TYPE_CHECKING:
    from pathlib import Path

    from pytestqt.qtbot import QtBot


def test_an_action_stands_last_and_is_no_choice(canopy: Path, qtbot: QtBot) -> None:
    combo, called = ModelCombo(), list[int]()
    qtbot.addWidget(combo)
    before = combo.info
    assert before is not None
    combo.add_action("New model from my scribbles...", "Train one", lambda: called.append(1))
    assert [combo.itemText(i) for i in range(combo.count())][-2:] == [BROWSE, "New model from my scribbles..."]
    combo.setCurrentIndex(combo.count() - 1)
    combo.activated.emit(combo.count() - 1)
    assert called == [1]
    assert combo.info == before
    combo.offer(synthetic=True)
    combo.add(str(canopy))
    assert combo.itemText(combo.count() - 1) == "New model from my scribbles..."
