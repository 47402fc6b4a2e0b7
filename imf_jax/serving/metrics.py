"""Counters and latencies of a server, as Prometheus reads them and as a table at the end."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

LATENCY_BOUNDS_MS = (
    0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000, 10000,
)  # fmt: skip
BATCH_BOUNDS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 24, 32, 48, 64, 128)

REASONS = ("message", "observation", "plan", "full", "token", "slow")
"""What is counted as refused: a message that is none, an observation, a plan that failed, a server that is full, a
wrong token, a client that does not receive."""


class Histogram:
    """Counts of values up to each of `bounds`, and above."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts = bounds, [0] * (len(bounds) + 1)
        self.sum, self.largest = 0.0, 0.0

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        self.largest = max(self.largest, value)

    def quantile(self, share: float) -> float:
        """Upper bound of the values' quantile `share` in 0..1, by the bounds; 0 without values."""
        wanted, below = share * self.count, 0
        for bound, count in zip((*self.bounds, self.largest), self.counts, strict=True):
            below += count
            if count and below >= wanted:
                return min(bound, self.largest)
        return 0.0

    def prometheus(self, name: str, text: str, scale: float = 1.0) -> list[str]:
        """Lines of the text format; bounds and sum times `scale`."""
        lines, below = [f"# HELP {name} {text}", f"# TYPE {name} histogram"], 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            below += count
            lines.append(f'{name}_bucket{{le="{bound * scale:g}"}} {below}')
        lines += [f'{name}_bucket{{le="+Inf"}} {self.count}', f"{name}_sum {self.sum * scale:g}"]
        return [*lines, f"{name}_count {self.count}"]


@dataclass
class ServerMetrics:
    """Measurements of a server since its start.

    Attributes:
        latency_ms: from an observation that was received to the answer that was sent.
        plan_ms: of the calls of the policy.
        batch: observations of each call.
        refused: reason -> number, see `REASONS`.
        connections: clients that are connected.
    """

    latency_ms: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS_MS))
    plan_ms: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS_MS))
    batch: Histogram = field(default_factory=lambda: Histogram(BATCH_BOUNDS))
    refused: Counter[str] = field(default_factory=Counter)
    connections: int = 0

    def prometheus(self) -> str:
        """The metrics in Prometheus' text format."""
        lines = [
            *self.latency_ms.prometheus(
                "imf_serve_latency_seconds", "From an observation received to its answer sent.", 1e-3
            ),
            *self.plan_ms.prometheus("imf_serve_plan_seconds", "Calls of the policy.", 1e-3),
            *self.batch.prometheus("imf_serve_batch_size", "Observations of a call."),
            "# HELP imf_serve_refused_total Messages and connections that were refused.",
            "# TYPE imf_serve_refused_total counter",
            *(f'imf_serve_refused_total{{reason="{reason}"}} {self.refused[reason]}' for reason in REASONS),
            "# HELP imf_serve_connections Clients that are connected.",
            "# TYPE imf_serve_connections gauge",
            f"imf_serve_connections {self.connections}",
        ]
        return "\n".join(lines) + "\n"

    def table(self) -> list[tuple[str, int]]:
        """Latencies (range [ms], plans) that occurred."""
        lows, highs = (0.0, *LATENCY_BOUNDS_MS), (*LATENCY_BOUNDS_MS, float("inf"))
        return [
            (f"{low:g} - {high:g} ms", count)
            for low, high, count in zip(lows, highs, self.latency_ms.counts, strict=True)
            if count
        ]
