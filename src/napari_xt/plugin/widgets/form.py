"""What a user can choose before a run: model, outputs, part of the image, and the folded further settings.

Knows settings and models by name; must not know viewers, runs or layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from html import escape
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
    QRadioButton,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_xt.engine.settings import OUTPUTS, RunSettings
from napari_xt.model.zoo import ModelInfo, list_models
from napari_xt.plugin.widgets.channels import ChannelRows

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


class ModelCombo(QComboBox):
    """Chooses a model; its tool tip is the model's card. Synthetic models are there for synthetic images alone."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._models = list_models()
        self._for_real: ModelInfo | None = None
        self.currentIndexChanged.connect(self._show_card)
        self._fill([info for info in self._models if not info.card.synthetic])

    def offer(self, *, synthetic: bool) -> None:
        """List the models for a real or a synthetic image; the choice for real ones comes back with them."""
        models = [info for info in self._models if synthetic or not info.card.synthetic]
        if models == [self.itemData(i) for i in range(self.count())]:
            return
        if synthetic:
            self._for_real = self.info
        wanted = next(info for info in models if info.card.synthetic) if synthetic else self._for_real
        self.blockSignals(True)
        self._fill(models)
        self.setCurrentIndex(models.index(wanted) if wanted in models else 0)
        self.blockSignals(False)
        self.currentIndexChanged.emit(self.currentIndex())

    @property
    def info(self) -> ModelInfo | None:
        """The model that is chosen."""
        found: ModelInfo | None = self.currentData()
        return found

    def _fill(self, models: list[ModelInfo]) -> None:
        self.clear()
        for index, info in enumerate(models):
            self.addItem(f"{info.name} (synthetic)" if info.card.synthetic else info.name, info)
            self.setItemData(index, model_text(info), Qt.ItemDataRole.ToolTipRole)
        self._show_card()

    def _show_card(self) -> None:
        self.setToolTip(model_text(self.info) if self.info else "No model is installed.")


class OutputBoxes(QWidget):
    """A check box for each output, those that the model lacks greyed."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setToolTip(HELP["outputs"])
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
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


class More(QWidget):
    """The settings that are seldom needed, folded away."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.threshold, self.window_, self.device = QDoubleSpinBox(), QSpinBox(), QComboBox()
        self.intensity = QComboBox()
        self.out = QLineEdit()
        self._limit()
        self._fold = QToolButton()
        self._fold.setText("More")
        self._fold.setCheckable(True)
        self._fold.setAutoRaise(True)
        self._fold.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._fold.setArrowType(Qt.ArrowType.RightArrow)
        self._inside = QWidget()
        self._inside.setVisible(False)
        self._fold.toggled.connect(self._inside.setVisible)
        self._fold.toggled.connect(self._turn)
        self._arrange()
        self.threshold.valueChanged.connect(self.changed)
        self.window_.valueChanged.connect(self.changed)
        self.device.currentIndexChanged.connect(self.changed)
        self.intensity.currentIndexChanged.connect(self.changed)

    def options(self) -> dict[str, object]:
        """Fields of `RunSettings` that are not left to the model."""
        chosen: dict[str, object] = {"device": self.device.currentText()}
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

    def _turn(self, unfolded: bool) -> None:
        self._fold.setArrowType(Qt.ArrowType.DownArrow if unfolded else Qt.ArrowType.RightArrow)

    def _browse(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Prediction", self.out.text(), "Predictions (*.xt.zarr)")
        if path:
            self.out.setText(path if path.endswith(".xt.zarr") else f"{path}.xt.zarr")


class Form(QWidget):
    """All choices but the image; ``changed`` tells that one was made."""

    changed = Signal()

    def __init__(self, image: QWidget, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.model, self.outputs, self.more = ModelCombo(), OutputBoxes(), More()
        self.channels, self.pixel_size = ChannelRows(), QLineEdit()
        self._channels_label = QLabel("Channels")
        self.pixel_size.setToolTip("Size of a level-0 pixel, as 0.5 um or 10 cm, where the image lacks it or is wrong.")
        self.whole, self.in_view = QRadioButton("whole image"), QRadioButton("current view")
        self.whole.setChecked(True)
        self.context = QCheckBox("regions see each other")
        self.context.setChecked(RunSettings().context)
        self.context.setToolTip(f"<p>{HELP['context']} {SWITCH}</p>")
        self._arrange(image)
        self.model.currentIndexChanged.connect(self._offer)
        self.outputs.changed.connect(self.changed)
        self.whole.toggled.connect(self.changed)
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
        return {"outputs": self.outputs.chosen, **context, **channels, **size, **self.more.options()}

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
        self.outputs.offer(info)
        self.context.setEnabled(info is None or info.config.context.kind != "none")
        self.changed.emit()

    def _arrange(self, image: QWidget) -> None:
        area = QWidget()
        row = QHBoxLayout(area)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.whole)
        row.addWidget(self.in_view)
        row.addStretch()
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Image", image)
        form.addRow("Pixel size", self.pixel_size)
        form.addRow("Model", self.model)
        form.addRow(self._channels_label, self.channels)
        rows = {"Outputs": self.outputs, "Area": area, "Context": self.context}
        for name, view in rows.items():
            form.addRow(name, view)
        form.addRow(self.more)


def model_text(info: ModelInfo) -> str:
    """The card of a model as rich text; what its file says is only text."""
    card = info.card
    figures = ", ".join(f"{escape(str(name))} {value:.3g}" for name, value in card.metrics.items())
    lines = [f"<b>{escape(card.title or card.name)}</b>", f"gives {', '.join(info.config.outputs)}"]
    lines += ["<b>synthetic</b>: knows made-up images alone, of no use for real ones"] if card.synthetic else []
    lines += [escape(card.provenance), f"licence: {escape(card.licence)}" if card.licence else "", figures]
    return "<br>".join(line for line in [*lines, f"<i>{escape(card.use)}</i>"] if line)
