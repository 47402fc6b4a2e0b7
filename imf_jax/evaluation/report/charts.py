"""Charts as inline SVG. Colours come from the page's style sheet, so that they follow light and dark.

Every function is pure: arrays in, markup out. Coordinates are rounded, because a page may hold hundreds of episodes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 400, 210
"""Size of a line chart [CSS pixels]."""

EFFECTOR_COLOURS = 2
"""Colours of end effectors in the style sheet."""

LEFT, RIGHT, TOP, BOTTOM = 52, 24, 10, 40
"""Margins of a line chart [CSS pixels]."""

MAX_POINTS = 300
"""Points drawn of a curve, at most; each is the mean of its neighbourhood."""

STAGE_COLOURS = 5
"""Shades of the style sheet for stages: none, and four."""

PATH_TOLERANCE = 0.003
"""A simplified path stays this close to the real one [m]."""

GRID = 0.1
"""Distance of the grid lines of a path plot [m]."""


CURVE_COLOURS = 8
"""Colours of curves in the style sheet; further curves begin anew."""


class Series(NamedTuple):
    """Curve of a chart.

    Attributes:
        name: of the curve.
        x, y: float (N,).
        marked: whether its points are.
        interval: float (N, 2) bounds around `y`, drawn as bars; only for few points on a linear y axis.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    marked: bool = False
    interval: np.ndarray | None = None


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_range: tuple[float, float] | None = None,
    log: bool = False,
    log_x: bool = False,
    mark: float | None = None,
) -> Markup:
    """Draw curves over one axis; points that are not finite are left out.

    Args:
        series: the curves.
        title: title of the chart; also for screen readers.
        x_label: name and unit of the x axis.
        y_range: limits of the y axis; by default those of the values.
        log: logarithmic y axis; values that are not positive are left out.
        log_x: logarithmic x axis with a tick at every x; for few of them, all positive.
        mark: x of a vertical line.
    """
    curves = [_usable(curve, log) for curve in series]
    curves = [curve for curve in curves if len(curve.x)]
    if not curves:
        return Markup("")
    xs, ys = np.concatenate([c.x for c in curves]), np.concatenate([c.y for c in curves])
    low, high = (ys.min(), ys.max()) if y_range is None else y_range
    x_ticks = np.unique(xs).tolist() if log_x else nice_ticks(float(xs.min()), float(xs.max()), 4)
    y_ticks = _y_ticks(float(low), float(high), log)
    across_scale = np.log if log_x else np.asarray
    x_low, x_high = _limits(float(across_scale(xs.min())), float(across_scale(xs.max())))
    y_low, y_high = _limits(min(float(low), y_ticks[0]), max(float(high), y_ticks[-1]))

    def place(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        across = LEFT + (across_scale(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in y_ticks:
        _, (y,) = place(xs[:1], np.array([tick]))
        label = f"{10**tick:.3g}" if log else f"{tick:.4g}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in x_ticks:
        (x,), _ = place(np.array([tick]), np.zeros(1))
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{tick:,.6g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
    if mark is not None and x_low <= across_scale(mark) <= x_high:
        (x,), _ = place(np.array([mark]), np.zeros(1))
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for number, curve in enumerate(curves):
        x, y = place(curve.x, curve.y)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        number %= CURVE_COLOURS
        parts.append(f'<polyline class="curve c{number}" points="{points}"/>')
        if curve.interval is not None:
            _, low = place(curve.x, curve.interval[:, 0])
            _, high = place(curve.x, curve.interval[:, 1])
            parts += [
                f'<line class="curve c{number}" x1="{a:.1f}" x2="{a:.1f}" y1="{b:.1f}" y2="{c:.1f}"/>'
                for a, b, c in zip(x, low, high, strict=True)
            ]
        if curve.marked or len(x) == 1:
            parts += [
                f'<circle class="dot c{number}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>' for a, b in zip(x, y, strict=True)
            ]
    return _svg(parts, f"0 0 {WIDTH} {HEIGHT}", title, "chart")


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that span low..high from within; at least one."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * index, 12) for index in range(first, last + 1)] or [low]


def path_plot(paths: Sequence[Sequence[np.ndarray]], bounds: np.ndarray, title: str) -> Markup:
    """Draw the top view of end-effector paths: x away from the robots is up, y to their left is left.

    Args:
        paths: per episode the positions of each end effector, (T, 3) world frame [m].
        bounds: ((x low, y low), (x high, y high)) [m], see `path_bounds`.
        title: title of the plot.
    """
    (x_low, y_low), (x_high, y_high) = bounds
    parts = []
    # In millimetres, so that a coordinate takes few characters. The picture's y axis points down.
    for x in np.arange(x_low, x_high + GRID / 2, GRID):
        level = f"{-1000 * x:.0f}"
        parts.append(
            f'<line class="grid" x1="{-1000 * y_high:.0f}" x2="{-1000 * y_low:.0f}" y1="{level}" y2="{level}"/>'
        )
        label = f"{round(x, 1) + 0.0:.1f}"
        parts.append(f'<text x="{-1000 * y_high - 12:.0f}" y="{level}" dy="9" text-anchor="end">{label}</text>')
    for y in np.arange(y_low, y_high + GRID / 2, GRID):
        across = f"{-1000 * y:.0f}"
        parts.append(
            f'<line class="grid" x1="{across}" x2="{across}" y1="{-1000 * x_high:.0f}" y2="{-1000 * x_low:.0f}"/>'
        )
        if round(y / GRID) % 2 == 0:
            label = f"{round(y, 1) + 0.0:.1f}"
            parts.append(f'<text x="{across}" y="{-1000 * x_low + 34:.0f}" text-anchor="middle">{label}</text>')
    middle, below = f"{-500 * (y_low + y_high):.0f}", f"{-1000 * x_low + 70:.0f}"
    parts.append(f'<text x="{middle}" y="{below}" text-anchor="middle">y [m]</text>')
    for effector in range(max(map(len, paths), default=0)):
        name = f"effector{effector % EFFECTOR_COLOURS}"
        for path in paths:
            if effector >= len(path):
                continue
            points = simplify_path(path[effector][:, :2])
            if not len(points):
                continue
            drawn = [f"{-1000 * y:.0f},{-1000 * x:.0f}" for x, y in points]
            parts.append(f'<polyline class="path {name}" points="{" ".join(drawn)}"/>')
            x, y = points[-1]
            parts.append(f'<circle class="end {name}" cx="{-1000 * y:.0f}" cy="{-1000 * x:.0f}" r="7"/>')
    box = f"{-1000 * y_high - 75:.0f} {-1000 * x_high - 12:.0f}"
    size = f"{1000 * (y_high - y_low) + 115:.0f} {1000 * (x_high - x_low) + 95:.0f}"
    return _svg(parts, f"{box} {size}", title, "paths")


def path_bounds(paths: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Bounds ((x low, y low), (x high, y high)) [m] of all paths, widened to grid lines."""
    points = np.concatenate([positions[:, :2] for path in paths for positions in path])
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        points = np.zeros((1, 2))
    low = np.floor(points.min(axis=0) / GRID - 0.2)
    high = np.ceil(points.max(axis=0) / GRID + 0.2)
    return GRID * np.stack([low, np.maximum(high, low + 2)])


def simplify_path(points: np.ndarray, tolerance: float = PATH_TOLERANCE) -> np.ndarray:
    """Simplify a path (N, 2) to points (M, 2), Douglas and Peucker (1973); rows that are not finite are left out."""
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 3:
        return points
    kept, stack = {0, len(points) - 1}, [(0, len(points) - 1)]
    while stack:
        first, last = stack.pop()
        between = points[first + 1 : last] - points[first]
        if not len(between):
            continue
        chord = points[last] - points[first]
        # The distance to the segment, not to its line: a path may come back on itself.
        along = np.clip(between @ chord / max(float(chord @ chord), 1e-12), 0, 1)
        gap = np.linalg.norm(between - along[:, None] * chord, axis=1)
        farthest = int(gap.argmax())
        if gap[farthest] > tolerance:
            middle = first + 1 + farthest
            kept.add(middle)
            stack += [(first, middle), (middle, last)]
    return points[sorted(kept)]


def stage_strip(reward: np.ndarray, longest: int, stages: Sequence[str]) -> Markup:
    """Draw the stages of an episode along its steps.

    Args:
        reward: (T,) staged reward per step.
        longest: number of steps of the full width.
        stages: names of the stages 1, 2, ...
    """
    level = np.clip(np.nan_to_num(np.rint(reward)), 0, max(len(stages), 1)).astype(int)
    names = ("no stage", *stages)
    # Shorter stretches than a pixel of the strip cannot be seen; they would only make the page heavy.
    starts = np.concatenate([[0], np.flatnonzero(np.diff(level)) + 1]) if len(level) else np.zeros(0, int)
    ends = np.append(starts[1:], len(level))
    parts, shortest = [], longest / 250
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if end - start >= shortest:
            name = names[level[start]] if level[start] < len(names) else f"stage {level[start]}"
            parts.append(
                f'<rect class="s{shade(level[start], len(stages))}" x="{start}" width="{end - start}" height="10">'
                f"<title>{escape(name)}: steps {start}-{end - 1}</title></rect>"
            )
    reached = [
        f"{name} from step {int(np.argmax(level >= number))}"
        for number, name in enumerate(stages, start=1)
        if (level >= number).any()
    ]
    label = "; ".join(reached) or "no stage reached"
    return _svg(parts, f"0 0 {max(longest, 1)} 10", label, "strip", stretch=True)


def shade(stage: int, stages: int) -> int:
    """Number of the style sheet's shade, below `STAGE_COLOURS`, for one of `stages` stages."""
    return min(STAGE_COLOURS - 1, math.ceil(stage * (STAGE_COLOURS - 1) / max(stages, STAGE_COLOURS - 1)))


def range_bar(values: dict[str, float], largest: float, label: str) -> Markup:
    """Draw min to p95 as a bar with a mark at the median; a thin line goes on from p95 to `max` or the edge.

    Args:
        values: `min`, `p50`, `p95`, `max`.
        largest: value at the full width.
        label: for screen readers.
    """
    scale = 100 / largest if largest > 0 else 0.0
    low, middle, high, top = (min(100.0, scale * max(values[name], 0.0)) for name in ("min", "p50", "p95", "max"))
    parts = [
        f'<rect class="whisker" x="{low:.2f}" y="4.5" width="{max(top - low, 0.2):.2f}" height="1"/>',
        f'<rect class="body" x="{low:.2f}" y="1.5" width="{max(high - low, 0.4):.2f}" height="7"/>',
        f'<rect class="middle" x="{max(middle - 0.3, 0):.2f}" y="0" width="0.6" height="10"/>',
    ]
    return _svg(parts, "0 0 100 10", label, "range", stretch=True)


def _usable(curve: Series, log: bool) -> Series:
    finite = np.isfinite(curve.x) & np.isfinite(curve.y) & (curve.y > 0 if log else True)
    x, y = curve.x[finite], curve.y[finite]
    if curve.interval is not None:
        return curve._replace(x=x, y=y, interval=curve.interval[finite])
    y = np.log10(y) if log else y
    if len(x) > MAX_POINTS:
        parts = np.array_split(np.arange(len(x)), MAX_POINTS)
        x, y = (np.array([values[part].mean() for part in parts]) for values in (x, y))
    return curve._replace(x=x, y=y)


def _y_ticks(low: float, high: float, log: bool) -> list[float]:
    """Compute ticks that enclose low..high; decades on a logarithmic axis if there are enough."""
    if log and high - low >= 1.5:
        return [float(power) for power in range(math.floor(low), math.ceil(high) + 1)]
    return nice_ticks(low, high)


def _limits(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _svg(parts: Sequence[str], box: str, label: str, kind: str, *, stretch: bool = False) -> Markup:
    aspect = ' preserveAspectRatio="none"' if stretch else ""
    return Markup(
        f'<svg class="{kind}" viewBox="{box}"{aspect} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
