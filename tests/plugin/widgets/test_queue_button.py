"""The button that runs while another run goes on: it queues, once, and what waits can be taken out again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_xt.plugin.widgets.run import RunWidget
from plugin_fixtures import Gate, picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytestqt.qtbot import QtBot

LONG_MS = 60_000


def test_another_run_is_queued(
    canopy: Path, make_napari_viewer: Callable[..., Any], commits: Gate, qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    for seed, name in enumerate("ab"):
        viewer.add_image(picture(200, 300, seed), name=name)
    widget = RunWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Run xT", area="right")

    def click(name: str, out: str) -> Any:
        viewer.layers.selection.active = viewer.layers[name]
        widget.form.more.out.setText(str(tmp_path / f"{out}.xt.zarr"))
        widget.run_button.click()
        return widget.handle

    first = click("a", "a")
    assert widget.run_button.text() == "Queue"
    assert click("a", "a") is first, "the same again is no other run"
    assert "goes on or waits already" in widget.status.text()
    second, third = click("b", "b"), click("b", "c")
    assert [handle.state.phase for handle in (second, third)] == ["queued", "queued"]
    assert "b: waits for its turn" in widget.status.text()
    widget.runs_button.fill()
    drops = [action for action in widget.runs_button.list.actions() if action.text().startswith("Don't run")]
    assert len(drops) == 2
    drops[1].trigger()
    assert third.state.phase == "stopped"
    commits.release(1000)
    qtbot.waitUntil(lambda: first.state.over and second.state.over, timeout=LONG_MS)
    assert first.state.phase == second.state.phase == "done"
    qtbot.waitUntil(lambda: widget.run_button.text() == "Run", timeout=LONG_MS)
    assert not (tmp_path / "c.xt.zarr").exists()
