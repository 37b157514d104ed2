"""A small GIF of a window: a picture now and then, with captions. Knows pictures; must not know runs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from napari.viewer import Viewer

EVERY_S, FRAME_MS, HOLD_MS = 0.7, 140, 2200
WIDTH, CAPTION_PX, COLOURS = 720, 24, 48
MAX_BYTES = 4_000_000


class Recording:
    """Pictures of a viewer's window.

    Parameters
    ----------
    viewer
        Whose window.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._frames: list[tuple[Image.Image, int]] = []
        self._last = 0.0

    def look(self) -> None:
        """Take a picture, unless the last one is recent."""
        if time.monotonic() - self._last > EVERY_S:
            self._take("", FRAME_MS)

    def hold(self, caption: str) -> None:
        """Take a picture that stays for a while, with a line below."""
        self._take(caption, HOLD_MS)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the GIF; where it would be larger than `MAX_BYTES`, with every second of the passing pictures less."""
        place, frames = Path(path), self._frames
        place.parent.mkdir(parents=True, exist_ok=True)
        while True:
            pictures, times = [picture for picture, _ in frames], [ms for _, ms in frames]
            pictures[0].save(
                place, save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=False, disposal=1
            )
            held = [frame for frame in frames if frame[1] == HOLD_MS]
            if place.stat().st_size <= MAX_BYTES or len(held) == len(frames):
                return place
            frames = [frame for i, frame in enumerate(frames) if frame[1] == HOLD_MS or i % 2]

    def _take(self, caption: str, ms: int) -> None:
        shown = Image.fromarray(self._viewer.screenshot(canvas_only=False, flash=False)).convert("RGB")
        height = round(shown.height * WIDTH / shown.width)
        frame = Image.new("RGB", (WIDTH, height + CAPTION_PX), "black")
        frame.paste(shown.resize((WIDTH, height), Image.Resampling.LANCZOS), (0, 0))
        ImageDraw.Draw(frame).text((8, height + 4), caption, "white", ImageFont.load_default(13))
        self._frames.append((frame.quantize(COLOURS, dither=Image.Dither.NONE), ms))
        self._last = time.monotonic()
