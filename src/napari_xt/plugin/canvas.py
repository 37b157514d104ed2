"""Removed layers are freed in the OpenGL context that drew them. Knows a viewer's canvas; must not know layers or runs.

napari (0.9) frees what a removed layer was drawn with at once, in whatever OpenGL context is current. Outside of a
paint that is Qt's, which composes the window: programs that stay bound in the canvas's own context go away under it,
and Mesa's software driver ends the process in one of the next draws.
"""

from __future__ import annotations

import weakref
from typing import Any

from napari.viewer import Viewer

from napari_xt.plugin.view import plain


def free_in_own_context(viewer: Viewer) -> None:
    """Let the canvas of ``viewer`` make its context current before it frees anything; once is enough."""
    window = plain(viewer).window
    scene: Any = getattr(window._qt_viewer.canvas, "_scene_canvas", None)  # noqa: SLF001 - see `view.plain`
    if scene is not None and "finish" not in vars(scene.context):
        scene.context.finish = _Finish(scene)


class _Finish:
    """What waits for a canvas's OpenGL commands, in the canvas's context."""

    def __init__(self, scene: Any) -> None:
        self._scene = weakref.ref(scene)
        self._finish = type(scene.context).finish

    def __call__(self) -> None:
        scene = self._scene()
        if scene is not None:
            scene.set_current()
            self._finish(scene.context)
