"""What a user can choose before a run: model, outputs, part of the image, and the folded further settings.

Knows settings and models by name; must not know viewers, runs or layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]  # under another name in PyQt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_xt.engine.fits import Fit
from napari_xt.engine.settings import OUTPUTS, RunSettings
from napari_xt.model.zoo import ModelInfo
from napari_xt.plugin.widgets.channels import ChannelRows
from napari_xt.plugin.widgets.fold import Fold
from napari_xt.plugin.widgets.models import ModelCombo

HELP = {f.name: str(f.metadata["help"]) for f in fields(RunSettings)}
SWITCH = (
    "After a run it switches what is shown: the same run with or without context. What has not been run yet is run; "
    "a run that is going on is stopped first, and goes on from there when it is switched back."
)
DEVICES = ("auto", "cpu", "cuda", "mps")
LIMITS = "limits"
INTENSITIES = {"the model's": None, "as stored": "range", "percentiles": "percentile", "the layers' contrast": LIMITS}
OUT = (
    "Where the prediction goes: a folder NAME.xt.zarr; default: beside the image. What the Context switch runs goes "
    "beside it."
)


class OutputBoxes(QWidget):
    """A check box for each output, those that the model lacks greyed."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setToolTip(HELP["outputs"])
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 10, 0)  # napari draws check boxes wider than they say
        self.boxes = {name: QCheckBox(name) for name in OUTPUTS}
        for box in self.boxes.values():
            box.setChecked(True)
            box.toggled.connect(self.changed)
            row.addWidget(box)
        row.addStretch()

    def offer(self, info: ModelInfo | None) -> None:
        """Enable what ``info`` has."""
        for name, box in self.boxes.items():
            box.setEnabled(info is None or name in info.config.outputs)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The outputs that are asked for."""
        return tuple(name for name, box in self.boxes.items() if box.isChecked() and box.isEnabled())

    @property
    def all_chosen(self) -> bool:
        """Whether that is all that the model has."""
        return all(box.isChecked() for box in self.boxes.values() if box.isEnabled())


class More(QWidget):
    """The settings that are seldom needed, folded away."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.threshold, self.window_, self.device = QDoubleSpinBox(), QSpinBox(), QComboBox()
        self.intensity = QComboBox()
        self.out = QLineEdit()
        self._limit()
        self._inside = QWidget()
        self._fold = Fold("More", self._inside)
        self._arrange()
        self.threshold.valueChanged.connect(self.changed)
        self.window_.valueChanged.connect(self.changed)
        self.device.currentIndexChanged.connect(self.changed)
        self.intensity.currentIndexChanged.connect(self.changed)

    def options(self) -> dict[str, object]:
        """Fields of `RunSettings` that are not left to the model."""
        device = self.device.currentText()
        chosen: dict[str, object] = {} if device == DEVICES[0] else {"device": device}
        if self.threshold.value() > self.threshold.minimum():
            chosen["threshold"] = self.threshold.value()
        if self.window_.value() > self.window_.minimum():
            chosen["window"] = self.window_.value()
        if self.intensity.currentData() not in (None, LIMITS):
            chosen["intensity"] = self.intensity.currentData()
        return chosen

    @property
    def by_layers(self) -> bool:
        """Whether what the layers show black and in full colour is what becomes 0 and 1."""
        return bool(self.intensity.currentData() == LIMITS)

    def _limit(self) -> None:
        self.threshold.setRange(-0.05, 1.0)
        self.threshold.setSingleStep(0.05)
        self.threshold.setSpecialValueText("the model's")
        self.threshold.setValue(self.threshold.minimum())
        self.window_.setRange(0, 64)
        self.window_.setSpecialValueText("the model's")
        self.device.addItems(DEVICES)
        for text, value in INTENSITIES.items():
            self.intensity.addItem(text, value)
        self.out.setPlaceholderText("beside the image")
        views = {
            "threshold": self.threshold,
            "window": self.window_,
            "device": self.device,
            "intensity": self.intensity,
        }
        for name, view in views.items():
            view.setToolTip(HELP[name])
        self.out.setToolTip(OUT)

    def _arrange(self) -> None:
        place = QWidget()
        row = QHBoxLayout(place)
        row.setContentsMargins(0, 0, 0, 0)
        browse = QPushButton("Browse")
        browse.clicked.connect(self._browse)
        row.addWidget(self.out)
        row.addWidget(browse)
        form = QFormLayout(self._inside)
        form.setContentsMargins(0, 0, 0, 0)
        rows = {"Threshold": self.threshold, "Window": self.window_, "Intensity": self.intensity, "Device": self.device}
        for name, view in rows.items():
            form.addRow(name, view)
        form.addRow("Output", place)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._fold)
        column.addWidget(self._inside)

    def _browse(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Prediction", self.out.text(), "Predictions (*.xt.zarr)")
        if path:
            self.out.setText(path if path.endswith(".xt.zarr") else f"{path}.xt.zarr")


class Form(QWidget):
    """All choices but the image; ``changed`` tells that one was made."""

    changed = Signal()

    def __init__(self, image: QWidget, area: QWidget, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.model, self.outputs, self.more = ModelCombo(), OutputBoxes(), More()
        self.channels, self.pixel_size = ChannelRows(), QLineEdit()
        self._channels_label = QLabel("Channels")
        self.pixel_size.setToolTip("Size of a level-0 pixel, as 0.5 um or 10 cm, where the image lacks it or is wrong.")
        self._model_text = QLabel()
        self.model_card = Fold("Model card", self._model_text)
        self.context = QCheckBox("regions see each other")
        self.context.setChecked(RunSettings().context)
        self.context.setToolTip(f"<p>{HELP['context']} {SWITCH}</p>")
        self._arrange(image, area)
        self.model.currentIndexChanged.connect(self._offer)
        self.outputs.changed.connect(self.changed)
        self.context.toggled.connect(self.changed)
        self.more.changed.connect(self.changed)
        self.channels.changed.connect(self.changed)
        self.pixel_size.textChanged.connect(self.changed)
        self._offer()

    @property
    def out(self) -> str | None:
        """The output path, None for the default."""
        return self.more.out.text().strip() or None

    def options(self) -> dict[str, Any]:
        """The fields of `RunSettings` that were chosen, apart from the part of the image."""
        context = {} if self.context.isChecked() or not self.context.isEnabled() else {"context": False}
        channels = {"channels": self.channels.chosen} if self.channels.chosen else {}
        size = {"pixel_size": text} if (text := self.pixel_size.text().strip()) else {}
        outputs = {} if self.outputs.all_chosen else {"outputs": self.outputs.chosen}
        return {**outputs, **context, **channels, **size, **self.more.options()}

    def offer_channels(self, names: Sequence[str], chosen: Sequence[int] | None) -> None:
        """Show a row for each channel of the model with the channels of the image; no rows for no names."""
        info = self.model.info
        self.channels.offer(info.config.channel_names if info else (), names, chosen)
        for view in (self.channels, self._channels_label):
            view.setVisible(bool(self.channels.rows))

    def ask_size(self, stated: str, given: str) -> None:
        """Show what the image says of its pixels' size, and what the user said before."""
        self.pixel_size.setPlaceholderText(stated)
        self.pixel_size.setText(given)

    def show_context(self, context: bool) -> None:
        """Set the switch to what is shown, without switching."""
        self.context.blockSignals(True)
        self.context.setChecked(context)
        self.context.blockSignals(False)
        self.changed.emit()

    def _offer(self) -> None:
        info = self.model.info
        self._show_model()
        self.outputs.offer(info)
        self.context.setEnabled(info is None or info.config.context.kind != "none")
        self.changed.emit()

    def say_fits(self, fits: Callable[[ModelInfo], Fit] | None) -> None:
        """Say beside each model whether it fits the image; None where there is no image."""
        self.model.say(fits)
        self._show_model()

    def _show_model(self) -> None:
        self._model_text.setText(self.model.toolTip())

    def _arrange(self, image: QWidget, area: QWidget) -> None:
        self._model_text.setWordWrap(True)
        self._model_text.setTextFormat(Qt.TextFormat.RichText)
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Image", image)
        form.addRow("Pixel size", self.pixel_size)
        form.addRow("Model", self.model)
        form.addRow(self._channels_label, self.channels)
        rows = {"Outputs": self.outputs, "Area": area, "Context": self.context}
        for name, view in rows.items():
            form.addRow(name, view)
        form.addRow(self.model_card)
        form.addRow(self._model_text)
        form.addRow(self.more)
