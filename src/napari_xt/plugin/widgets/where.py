"""Asks where an image has gone, of which a prediction is opened. Knows Qt; knows no image and no prediction."""

from __future__ import annotations

from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox

PEEK = "Show the overview"


def ask_for_image(name: str) -> str | None:
    """The path that the user gives of the image ``name``, None where they give none."""
    window = QApplication.activeWindow()
    box = QMessageBox(window)
    box.setWindowTitle("napari-xt")
    box.setText(f"Where is the image {name}?")
    box.setInformativeText("It is neither beside the prediction nor where it was. Without it the overview is shown.")
    file = box.addButton("File...", QMessageBox.ButtonRole.AcceptRole)
    folder = box.addButton("Folder...", QMessageBox.ButtonRole.AcceptRole)
    box.setDefaultButton(box.addButton(PEEK, QMessageBox.ButtonRole.RejectRole))
    box.exec()
    clicked = box.clickedButton()
    box.deleteLater()
    if clicked is file:
        return QFileDialog.getOpenFileName(window, f"Where is {name}?")[0] or None
    return (QFileDialog.getExistingDirectory(window, f"Where is {name}?") or None) if clicked is folder else None
