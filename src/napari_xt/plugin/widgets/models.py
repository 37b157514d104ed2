"""The list of models: which there are, which of them fit the image, and what each says of itself.

Knows models without their weights; must not know viewers, runs or layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from napari.utils.notifications import show_error
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFileDialog, QWidget

from napari_xt.engine.fits import Fit
from napari_xt.errors import XTError
from napari_xt.model.zoo import ModelInfo
from napari_xt.plugin.runs.known_models import ENDS, add_model, known_models

BROWSE = "Browse..."


@dataclass(frozen=True, slots=True, eq=False)
class Action:
    """An entry that is no model: a click calls ``call``."""

    text: str
    tip: str
    call: Callable[[], None]


class ModelCombo(QComboBox):
    """Chooses a model; its tool tip is the model's card. Synthetic models are there for synthetic images alone.

    An entry at the end looks for a file; what was found is remembered. Below it stand what `add_action` was told.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self._models = known_models()
        self._for_real: ModelInfo | None = None
        self._fits: Callable[[ModelInfo], Fit] | None = None
        self._before = 0
        self._actions: list[Action] = [Action(BROWSE, f"Choose a model file: {', '.join(ENDS)}", self._browse)]
        self.currentIndexChanged.connect(self._show_card)
        self.activated.connect(self._activate)
        self._fill([info for info in self._models if not info.card.synthetic])

    def offer(self, *, synthetic: bool) -> None:
        """List the models for a real or a synthetic image; the choice for real ones comes back with them."""
        models = [info for info in self._models if synthetic or not info.card.synthetic]
        if models == self._listed:
            return
        if synthetic:
            self._for_real = self.info
        wanted = next((info for info in models if info.card.synthetic), None) if synthetic else self._for_real
        self._refill(models, wanted)

    def say(self, fits: Callable[[ModelInfo], Fit] | None) -> None:
        """Say beside each model whether it fits; None where there is no image."""
        self._fits = fits
        for index, info in enumerate(self._listed):
            self._label(index, info)
        self._show_card()

    def add(self, path: str) -> None:
        """Take a model file into the list and choose it; an error is told."""
        try:
            info = add_model(path)
        except XTError as error:
            show_error(str(error))
            return
        self._models = [one for one in self._models if one.path != info.path] + [info]
        self._refill([one for one in self._listed if one.path != info.path] + [info], info)

    def add_action(self, text: str, tip: str, call: Callable[[], None]) -> None:
        """Let the last entry be ``text``, which calls ``call`` and leaves the choice as it is."""
        self._actions.append(Action(text, tip, call))
        self._refill(self._listed, self.info)

    def showPopup(self) -> None:
        """Offer what was added elsewhere meanwhile as well, such as refined models."""
        there = {info.path for info in self._models}
        new = [info for info in known_models() if info.path not in there and not info.card.synthetic]
        if new:
            self._models += new
            self._refill(self._listed + new, self.info)
        super().showPopup()

    @property
    def info(self) -> ModelInfo | None:
        """The model that is chosen."""
        found = self.currentData()
        return found if isinstance(found, ModelInfo) else None

    @property
    def _listed(self) -> list[ModelInfo]:
        return [data for i in range(self.count()) if isinstance(data := self.itemData(i), ModelInfo)]

    def _refill(self, models: list[ModelInfo], wanted: ModelInfo | None) -> None:
        self.blockSignals(True)
        self._fill(models)
        self.setCurrentIndex(models.index(wanted) if wanted in models else 0)
        self.blockSignals(False)
        self.currentIndexChanged.emit(self.currentIndex())

    def _fill(self, models: list[ModelInfo]) -> None:
        self.clear()
        for index, info in enumerate(models):
            self.addItem(info.name, info)
            self._label(index, info)
        for place, action in enumerate(self._actions, len(models)):
            self.addItem(action.text, action)
            self.setItemData(place, action.tip, Qt.ItemDataRole.ToolTipRole)
        self._show_card()

    def _label(self, index: int, info: ModelInfo) -> None:
        told = self._fits(info).text if self._fits else ""
        name = f"{info.name} (synthetic)" if info.card.synthetic else info.name
        self.setItemText(index, f"{name}   {told}".rstrip())
        self.setItemData(index, model_text(info, told), Qt.ItemDataRole.ToolTipRole)

    def _activate(self, index: int) -> None:
        chosen = self.itemData(index)
        if isinstance(chosen, Action):
            self.setCurrentIndex(self._before)
            chosen.call()

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Model", "", f"Models ({' '.join(f'*{end}' for end in ENDS)})")
        if path:
            self.add(path)

    def _show_card(self) -> None:
        if self.info is not None:
            self._before = self.currentIndex()
            self.setToolTip(model_text(self.info, self._fits(self.info).text if self._fits else ""))
        elif not self._listed:
            self.setToolTip("No model is installed.")


def model_text(info: ModelInfo, told: str = "") -> str:
    """The card of a model as rich text; what its file says is only text. ``told`` says whether it fits."""
    card = info.card
    figures = ", ".join(f"{escape(str(name))} {value:.3g}" for name, value in card.metrics.items())
    lines = [f"<b>{escape(card.title or card.name)}</b>", escape(told), f"gives {', '.join(info.config.outputs)}"]
    lines += ["<b>synthetic</b>: knows made-up images alone, of no use for real ones"] if card.synthetic else []
    lines += [escape(card.provenance), f"licence: {escape(card.licence)}" if card.licence else "", figures]
    return "<br>".join(line for line in [*lines, f"<i>{escape(card.use)}</i>"] if line)
