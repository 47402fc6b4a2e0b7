"""Draw the paths of end effectors over a camera picture. Pure functions of arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imf_jax.sim.rendering.camera import CameraView


@dataclass(frozen=True)
class PathStyle:
    """Style of one end effector's path. Colours are RGB 0..255."""

    fill: tuple[int, int, int]
    outline: tuple[int, int, int]
    marker: str
    """Shape of the start and end marks: "disc" or "square"."""


STYLES = (
    PathStyle((235, 20, 30), (95, 0, 5), "disc"),
    PathStyle((255, 80, 70), (255, 225, 215), "square"),
)
"""Styles of the first, the second ... end effector."""

THICKNESS = 0.012
"""Diameter of the capsules [m]."""

SLACK = 0.02
"""A path this little behind a surface still counts as visible [m]: it runs inside the wrist it belongs to."""

MIN_STEP = 0.6
"""Neighbouring points closer than this on the picture are drawn as one [pixels]."""


def draw_path(
    image: np.ndarray,
    depth: np.ndarray | None,
    camera: CameraView,
    paths: Sequence[np.ndarray] | np.ndarray,
    *,
    names: Sequence[str] = (),
    thickness: float = THICKNESS,
    height: int | None = None,
) -> np.ndarray:
    """Draw executed paths in red, as chains of capsules that become brighter with time.

    The thickness is metric, so a path looks thinner farther away. Hollow marks are starts, filled marks are ends.
    With `depth`, stretches behind a surface are drawn thin and faint.

    Args:
        image: uint8 (H, W, 3) RGB.
        depth: float32 (H, W) planar depth of the same picture [m], or None to draw everything as visible.
        camera: the view that made the picture.
        paths: per end effector its executed positions (T, 3), world frame [m]; rows that are not finite interrupt a
            path, and it may be empty.
        names: their names in the legend; none leaves the legend out.
        thickness: capsule diameter [m].
        height: height of the result [pixels]; its width keeps the aspect (default: H).

    Returns:
        uint8 (height, width, 3).
    """
    if image.dtype != np.uint8 or image.shape != (camera.height, camera.width, 3):
        raise ValueError(f"image must be uint8 {(camera.height, camera.width, 3)}, not {image.dtype} {image.shape}")
    view = camera.resized(height or camera.height)
    resized = Image.fromarray(image).resize((view.width, view.height), Image.Resampling.LANCZOS)
    canvas = np.asarray(resized, dtype=np.float32)
    if depth is not None:
        depth = np.asarray(Image.fromarray(depth).resize((view.width, view.height), Image.Resampling.NEAREST))
    styled = [(STYLES[index % len(STYLES)], np.asarray(path)) for index, path in enumerate(paths)]
    for style, path in styled:
        canvas = _draw_chain(canvas, depth, view, path, style, thickness)
    for style, path in styled:
        canvas = _draw_ends(canvas, view, path, style)
    picture = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return _draw_legend(picture, names) if names else picture


def _draw_chain(
    canvas: np.ndarray,
    depth: np.ndarray | None,
    view: CameraView,
    path: np.ndarray,
    style: PathStyle,
    thickness: float,
) -> np.ndarray:
    """Blend one path: first its hidden stretches, then an outline, then the body."""
    shape = (view.height, view.width)
    hidden, outline, body = (np.zeros(shape, np.float32) for _ in range(3))
    age = np.zeros(shape, np.float32)
    border = max(1.0, view.height / 400)
    uv, distance = view.project(path) if len(path) else (np.empty((0, 2)), np.empty(0))
    radius = view.focal * thickness / 2 / distance
    boxes: list[tuple[slice, slice]] = []
    for first, second in _segments(uv):
        box = _bounds(uv[[first, second]], max(radius[first], radius[second]) + border + 1, shape)
        if box is None:
            continue
        boxes.append(box)
        along, gap = _to_segment(box, uv[first], uv[second])
        # 1 / distance, and with it the radius, is linear on the picture.
        local_radius = np.maximum(radius[first] + along * (radius[second] - radius[first]), 0.6)
        front = view.focal * thickness / 2 / local_radius - SLACK
        seen = 1.0 if depth is None else (front <= depth[box]).astype(np.float32)
        inside = seen * np.clip(local_radius - gap + 0.5, 0, 1)
        newest = inside >= body[box]
        age[box] = np.where(newest & (inside > 0), (first + along) / len(path), age[box])
        body[box] = np.maximum(body[box], inside)
        outline[box] = np.maximum(outline[box], seen * np.clip(local_radius + border - gap + 0.5, 0, 1))
        hidden[box] = np.maximum(hidden[box], (1 - seen) * np.clip(local_radius * 0.4 - gap + 0.5, 0, 1))
    if not boxes:
        return canvas
    rows, columns = ((min(box[i].start for box in boxes), max(box[i].stop for box in boxes)) for i in range(2))
    drawn = slice(*rows), slice(*columns)
    part = _blend(canvas[drawn], 0.4 * hidden[drawn] * (1 - outline[drawn]), style.fill)
    part = _blend(part, 0.9 * outline[drawn], style.outline)
    shade = (0.6 + 0.4 * age[drawn])[..., None] * np.array(style.fill, np.float32)
    canvas = canvas.copy()
    canvas[drawn] = _blend(part, body[drawn], shade)
    return canvas


def _segments(uv: np.ndarray) -> list[tuple[int, int]]:
    """Index pairs of the points to join: finite, and far enough apart on the picture to make a difference."""
    pairs = []
    last = None
    for index in range(len(uv)):
        if not np.isfinite(uv[index]).all():
            last = None
        elif last is None:
            last = index
        elif np.linalg.norm(uv[index] - uv[last]) >= MIN_STEP:
            pairs.append((last, index))
            last = index
    return pairs


def _draw_ends(canvas: np.ndarray, view: CameraView, path: np.ndarray, style: PathStyle) -> np.ndarray:
    path = path[np.isfinite(path).all(axis=-1)] if len(path) else path
    if not len(path):
        return canvas
    uv, _ = view.project(path[[0, -1]])
    size = view.height / 75
    for centre, filled in zip(uv, (False, True), strict=True):
        if np.isfinite(centre).all():
            canvas = _draw_mark(canvas, centre, size, style, filled)
    return canvas


def _draw_mark(canvas: np.ndarray, centre: np.ndarray, size: float, style: PathStyle, filled: bool) -> np.ndarray:
    """Draw a mark with a white and a dark rim, readable on any background; a hollow one has a white middle."""
    box = _bounds(centre[None], size + 1, canvas.shape[:2])
    if box is None:
        return canvas
    x = np.arange(box[1].start, box[1].stop, dtype=np.float32) + 0.5 - centre[0]
    y = np.arange(box[0].start, box[0].stop, dtype=np.float32)[:, None] + 0.5 - centre[1]
    gap = np.hypot(x, y) if style.marker == "disc" else np.maximum(np.abs(x), np.abs(y))
    rings = [(1.0, (25, 25, 25)), (0.85, (255, 255, 255)), (0.62, style.fill)]
    if not filled:
        rings.append((0.34, (255, 255, 255)))
    canvas = canvas.copy()
    for share, colour in rings:
        canvas[box] = _blend(canvas[box], np.clip(share * size - gap + 0.5, 0, 1), colour)
    return canvas


def _draw_legend(picture: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Draw a panel with the marks of the end effectors and their meaning, sized to the picture."""
    row = max(11.0, picture.shape[0] / 28)
    font = ImageFont.load_default(0.72 * row)
    texts = [*names, "hollow: start, filled: end"]
    width = round(max(map(font.getlength, names)) + 3.0 * row)
    width = max(width, round(font.getlength(texts[-1]) + row))
    tall = round((1.4 + 1.05 * len(names)) * row)
    top = round(picture.shape[0] - (1.8 + 1.05 * len(names)) * row)
    left = round(0.4 * row)
    canvas = picture.astype(np.float32)
    panel = canvas[top : top + tall, left : left + width]
    canvas[top : top + tall, left : left + width] = _blend(panel, np.full(panel.shape[:2], 0.62), (20, 22, 26))
    centre_y = [top + row * (0.75 + 1.05 * index) for index in range(len(texts))]
    for index, y in enumerate(centre_y[:-1]):
        style = STYLES[index % len(STYLES)]
        for x, filled in ((left + 0.75 * row, False), (left + 1.75 * row, True)):
            canvas = _draw_mark(canvas, np.array([x, y]), 0.36 * row, style, filled)
    labelled = Image.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(labelled)
    indents = [2.5 * row] * len(names) + [0.5 * row]
    for text, y, x in zip(texts, centre_y, indents, strict=True):
        draw.text((left + x, y), text, fill=(245, 245, 245), font=font, anchor="lm")
    return np.asarray(labelled)


def _bounds(uv: np.ndarray, margin: float, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
    """Rows and columns of the picture that points with `margin` [pixels] can touch; None if there are none."""
    (left, top), (right, bottom) = np.floor(uv.min(axis=0) - margin), np.ceil(uv.max(axis=0) + margin)
    rows = slice(int(max(top, 0)), int(min(bottom, shape[0])))
    columns = slice(int(max(left, 0)), int(min(right, shape[1])))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _to_segment(box: tuple[slice, slice], start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position 0..1 of the nearest point of the segment, and distance to it [pixels], for the pixels of `box`."""
    x = np.arange(box[1].start, box[1].stop) + 0.5 - start[0]
    y = np.arange(box[0].start, box[0].stop)[:, None] + 0.5 - start[1]
    direction = end - start
    along = np.clip((x * direction[0] + y * direction[1]) / max(direction @ direction, 1e-12), 0, 1)
    return along, np.hypot(x - along * direction[0], y - along * direction[1])


def _blend(canvas: np.ndarray, coverage: np.ndarray, colour: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    weight = coverage[..., None].astype(np.float32)
    return canvas * (1 - weight) + np.asarray(colour, np.float32) * weight
