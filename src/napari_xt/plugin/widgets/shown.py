"""The panel *Shown*: classes, colours, opacity, thresholds and scores of the run over the chosen image.

Shows and changes what `ShownRun` says; must not know stores, engine or threads.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from napari.layers import Layer
from napari.utils.colormaps import Colormap
from napari.viewer import Viewer
from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtGui import QColor, QIcon, QImage, QPixmap
from qtpy.QtWidgets import (
    QCheckBox,
    QColorDialog,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)
from superqt import QLabeledDoubleSlider

from napari_xt.io.thresholds import RUN_THRESHOLD
from napari_xt.plugin.layers.overlays import TAG
from napari_xt.plugin.layers.regions import top
from napari_xt.plugin.layers.shown import Class, ShownRun, shown_runs
from napari_xt.plugin.layers.toggle import KEY, toggle_runs
from napari_xt.plugin.widgets.image_combo import alive

COUNT_AFTER_MS = 300
COUNT_SHARE = 20  # counting takes at most one part in so many of the time
SWATCH, LEGEND = QSize(14, 14), QSize(120, 10)
ROWS_SHOWN = 6
COLORED_BY = ("class", "score", "one")


class ShownPanel(QWidget):
    """What is shown of a run in a viewer, to be changed.

    Parameters
    ----------
    viewer
        Whose layers.

    Attributes
    ----------
    run
        What is shown, None where there is nothing: the panel is hidden then.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer, self._image = viewer, ""
        self.run: ShownRun | None = None
        self.label, self.boxes_text = QLabel(), QLabel()
        self.classes = _Classes(self._change)
        self.opacity, self.mask_threshold, self.box_threshold = _slider(), _slider(), _slider()
        self.colored, self.scores, self.legend = QComboBox(), QComboBox(), _Legend()
        self.toggle = QPushButton(f"Hide / show all layers ({KEY})")
        self._counter = QTimer(self)
        self._arrange()
        self._connect()
        self.follow()

    def offer(self, image: Layer | None) -> None:
        """Show what belongs to a run over ``image``, where there is one; else the last prediction that is open."""
        self._image = "" if image is None else str(image.unique_id)
        self.follow()

    def follow(self) -> None:
        """Look which run there is now."""
        if not alive(self):
            return
        runs = list(shown_runs(self._viewer))
        own = [
            run for run in runs if self._image in {layer.metadata[TAG].get("image") for layer in run.layers.values()}
        ]
        run = next(reversed(own or runs), None)
        if run is None or self.run is None or run.layers != self.run.layers or run.overlay is not self.run.overlay:
            self._show(run)
        self._count_soon()

    def _arrange(self) -> None:
        self._form = QFormLayout()
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        scores = QVBoxLayout()
        scores.addWidget(self.scores)
        scores.addWidget(self.legend)
        self._scores = QWidget()
        self._scores.setLayout(scores)
        scores.setContentsMargins(0, 0, 0, 0)
        rows: dict[str, QWidget] = {
            "Opacity": self.opacity,
            "Mask above": self.mask_threshold,
            "Boxes above": self.box_threshold,
            "Boxes by": self.colored,
            "Scores of": self._scores,
        }
        for name, widget in rows.items():
            self._form.addRow(name, widget)
        self.colored.addItems(COLORED_BY)
        self.mask_threshold.setToolTip(
            "How likely a class must be against the background; 0.5 is the mask that is stored."
        )
        self.box_threshold.setToolTip("Lowest score of the boxes that are shown. Acts at once; nothing is run again.")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for widget in (self.label, self.classes):
            column.addWidget(widget)
        column.addLayout(self._form)
        for widget in (self.boxes_text, self.toggle):
            column.addWidget(widget)
        self.label.setWordWrap(True)

    def _connect(self) -> None:
        self.opacity.valueChanged.connect(self._fade)
        self.mask_threshold.valueChanged.connect(lambda value: self._change(lambda run: run.move(value)))
        self.box_threshold.valueChanged.connect(self._sift)
        self.colored.textActivated.connect(self._color_boxes)
        self.scores.textActivated.connect(lambda name: self._change(lambda run: run.choose_scores(name)))
        self.toggle.clicked.connect(lambda: toggle_runs(self._viewer))
        self._counter.setSingleShot(True)
        self._counter.setInterval(COUNT_AFTER_MS)
        self._counter.timeout.connect(self._count)
        for event in (self._viewer.layers.events.inserted, self._viewer.layers.events.removed):
            event.connect(self._soon)

    def _soon(self) -> None:
        if alive(self):
            QTimer.singleShot(0, self.follow)

    def _change(self, change: Callable[[ShownRun], object]) -> None:
        if self.run is not None:
            change(self.run)
            self._count_soon()

    def _fade(self, opacity: float) -> None:
        if self.run is not None and "mask" in self.run.layers:
            self.run.layers["mask"].opacity = opacity

    def _sift(self, threshold: float) -> None:
        if self.run is not None and self.run.boxes is not None:
            self.run.boxes.show(threshold=threshold)
            self._count_soon()

    def _color_boxes(self, by: str) -> None:
        if self.run is not None and self.run.boxes is not None and by in COLORED_BY:
            self.run.boxes.show(color_by=by)  # type: ignore[arg-type]

    def _show(self, run: ShownRun | None) -> None:
        """Fill in what another run is shown with; nothing is changed by that."""
        self.run = None
        self.setVisible(run is not None)
        if run is None:
            return
        there, boxes = run.layers, run.boxes
        names = run.overlay.prediction.layout.scores or ()
        for widget, role in ((self.opacity, "mask"), (self.mask_threshold, "mask"), (self._scores, "scores")):
            self._form.setRowVisible(widget, role in there)
        for widget in (self.box_threshold, self.colored):
            self._form.setRowVisible(widget, boxes is not None)
        self.boxes_text.setVisible(boxes is not None)
        if "mask" in there and run.overlay.composed is not None:
            self.opacity.setValue(there["mask"].opacity)
            self.mask_threshold.setValue(run.overlay.composed.threshold)
        if boxes is not None:
            self.box_threshold.setValue(boxes.threshold)
            self.colored.setCurrentText(boxes.color_by)
        self.scores.clear()
        self.scores.addItems(names)
        self.scores.setCurrentText(run.overlay.score_class)
        if "scores" in there:
            self.legend.show_colors(there["scores"].colormap)
        self.classes.show_classes(run.classes)
        self.run = run

    def _count_soon(self) -> None:
        if not self._counter.isActive():
            self._counter.start()

    def _count(self) -> None:
        """Say how much there is of what is shown now."""
        if self.run is None or not alive(self):
            return
        began = monotonic()
        label = self.run.overlay.label
        self.label.setText(f"Image: {top(label)}" if label else "")
        self.label.setVisible(bool(label))
        self.classes.show_counts(self.run.counts)
        boxes = self.run.boxes
        if boxes is not None:
            self.boxes_text.setText(boxes.text)
        self._counter.setInterval(max(COUNT_AFTER_MS, round(1000 * COUNT_SHARE * (monotonic() - began))))


class _Classes(QScrollArea):
    """The classes of a run: shown or not, colour, count."""

    def __init__(self, change: Callable[[Callable[[ShownRun], object]], None]) -> None:
        super().__init__()
        self._change = change
        self.rows: dict[str, tuple[QCheckBox, QPushButton, QLabel]] = {}
        self.setWidgetResizable(True)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def show_classes(self, classes: list[Class]) -> None:
        """Fill in other classes."""
        self.rows = {}
        inside = QWidget()
        grid = QGridLayout(inside)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(2)
        grid.setColumnStretch(2, 1)
        for row, one in enumerate(classes):
            box, swatch, count = QCheckBox(one.name), QPushButton(), QLabel()
            box.setChecked(one.visible)
            swatch.setFixedSize(SWATCH + QSize(10, 8))
            swatch.setAccessibleName(f"colour of {one.name}")
            swatch.setEnabled(one.value is not None)
            swatch.setToolTip("Choose another colour" if one.value is not None else "The boxes' colour")
            _paint(swatch, QColor.fromRgbF(*one.color))
            count.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            box.toggled.connect(lambda on, one=one: self._change(lambda run: run.show_class(one, visible=on)))
            swatch.clicked.connect(lambda _on=False, one=one: self._choose(one))
            for col, widget in enumerate((swatch, box, count)):
                grid.addWidget(widget, row, col)
            self.rows[one.name] = box, swatch, count
        self.setWidget(inside)
        self.setVisible(bool(classes))
        inside.ensurePolished()
        row_height = max(inside.sizeHint().height() // max(1, len(classes)), SWATCH.height() + 12)
        self.setFixedHeight(min(len(classes), ROWS_SHOWN) * row_height + 4)

    def show_counts(self, counts: dict[str, str]) -> None:
        """Say how much there is of each."""
        for name, (_, _, count) in self.rows.items():
            count.setText(counts.get(name, ""))

    def _choose(self, one: Class) -> None:
        color = QColorDialog.getColor(QColor.fromRgbF(*one.color), self, f"Colour of {one.name}")
        if color.isValid():
            self.recolor(one, color)

    def recolor(self, one: Class, color: QColor) -> None:
        """Give a class another colour."""
        box, swatch, _ = self.rows[one.name]
        _paint(swatch, color)
        now = one._replace(visible=box.isChecked())
        self._change(lambda run: run.color_class(now, (color.redF(), color.greenF(), color.blueF())))


class _Legend(QWidget):
    """A colour bar from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = QLabel()
        self._bar.setScaledContents(True)
        self._bar.setFixedHeight(LEGEND.height())
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QLabel("0"))
        row.addWidget(self._bar, 1)
        row.addWidget(QLabel("1"))

    def show_colors(self, colormap: Colormap) -> None:
        """Show the colours of a colormap of napari's."""
        colors = (255 * colormap.map([i / (LEGEND.width() - 1) for i in range(LEGEND.width())])).round()
        image = QImage(LEGEND.width(), 1, QImage.Format.Format_RGB32)
        for x, (red, green, blue, _) in enumerate(colors.astype(int).tolist()):
            image.setPixelColor(x, 0, QColor(red, green, blue))
        self._bar.setPixmap(QPixmap.fromImage(image))


def _slider() -> QLabeledDoubleSlider:
    slider = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
    slider.setRange(0, 1)
    slider.setSingleStep(0.01)  # type: ignore[arg-type]  # superqt takes shares
    slider.setDecimals(2)
    slider.setValue(RUN_THRESHOLD)
    return slider


def _paint(button: QPushButton, color: QColor) -> None:
    pixels = QPixmap(SWATCH)
    pixels.fill(color)
    button.setIcon(QIcon(pixels))
    button.setIconSize(SWATCH)
