"""Checks of recorded numbers that no file format makes: what is legal but looks wrong, episode by episode."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

GAP = 1.5
"""A step that takes this many times the usual one is a gap."""

DRIFT = 0.02
"""Difference between the stated and the measured rate that is worth a line, as a share."""

SATURATED = 0.2
"""Share of the steps that an entry may spend at its smallest or its largest value, which it never leaves."""

ODD_LENGTH = 3.0
"""An episode that is this many times longer or shorter than the usual one is odd."""

LONGEST_LAG = 10
"""Steps by which actions are compared with states."""

OFFSET = 0.5
"""Mean difference between action and state that is worth a line, in standard deviations of the state."""

FEW = 3
"""Entries or episodes that a line names; the others are counted."""


@dataclass
class EntryRange:
    """Range of the entries of a column over all episodes, and how often they are at its ends.

    Attributes:
        names: of the D entries.
        low, high: (D,) smallest and largest values.
        at_low, at_high: (D,) steps at these.
        steps: all steps.
        inside: (D,) whether a value between the ends was seen.
    """

    names: tuple[str, ...]
    low: np.ndarray = field(default_factory=lambda: np.empty(0))
    high: np.ndarray = field(default_factory=lambda: np.empty(0))
    at_low: np.ndarray = field(default_factory=lambda: np.empty(0))
    at_high: np.ndarray = field(default_factory=lambda: np.empty(0))
    inside: np.ndarray = field(default_factory=lambda: np.empty(0))
    steps: int = 0

    def add(self, values: np.ndarray) -> None:
        """Add an episode, (T, D)."""
        low, high = values.min(axis=0), values.max(axis=0)
        at_low, at_high = (values == low).sum(axis=0), (values == high).sum(axis=0)
        inside = ((values > low) & (values < high)).any(axis=0)
        if self.steps:
            lowest, highest = np.minimum(low, self.low), np.maximum(high, self.high)
            inside |= self.inside | (low > lowest) | (self.low > lowest) | (high < highest) | (self.high < highest)
            at_low = at_low * (low == lowest) + self.at_low * (self.low == lowest)
            at_high = at_high * (high == highest) + self.at_high * (self.high == highest)
            low, high = lowest, highest
        self.low, self.high, self.at_low, self.at_high, self.inside = low, high, at_low, at_high, inside
        self.steps += len(values)

    def findings(self, column: str) -> list[str]:
        """Lines about entries that never change, stick to an end of their range, or are grippers or angles."""
        if not self.steps:
            return []
        found, constant = [], self.low == self.high
        grippers = np.array(["gripper" in name.lower() for name in self.names], bool)
        if constant.any():
            found.append(f"{column}: {self._some(constant)} never changes")
        share = np.maximum(self.at_low, self.at_high) / self.steps
        stuck = ~constant & self.inside & ~grippers & (share > SATURATED)
        if stuck.any():
            most = 100 * share[stuck].max()
            found.append(f"{column}: {self._some(stuck)} is at an end of its range in up to {most:.0f} % of the steps")
        for place in np.flatnonzero(grippers & ~constant):
            low, high = float(self.low[place]), float(self.high[place])
            kind = "" if self.inside[place] else ", two values only"
            found.append(f"{column}: {self.names[place]} is in [{low:.4g}, {high:.4g}]{kind}; {_gripper(low, high)}")
        angles = ~constant & ~grippers
        if angles.any():
            largest = float(np.maximum(np.abs(self.low), np.abs(self.high))[angles].max())
            if largest > 4 * np.pi:
                found.append(
                    f"{column}: values reach {largest:.4g}; if these are joint angles, they are in degrees or in "
                    "percent of a range, not in radians"
                )
        return found

    def _some(self, chosen: np.ndarray) -> str:
        return _some([repr(self.names[place]) for place in np.flatnonzero(chosen)])


@dataclass
class ActionLag:
    """By how many steps, and by how much, actions differ from states of the same entries.

    Attributes:
        errors: (2 LONGEST_LAG + 1,) sums of the absolute difference between action[t] and state[t + lag].
        counts: (2 LONGEST_LAG + 1,) how many differences each sum is of.
        offset: (D,) sum of action[t] - state[t + 1].
        spread: (D,) sum of the variances of the state.
    """

    errors: np.ndarray = field(default_factory=lambda: np.zeros(2 * LONGEST_LAG + 1))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(2 * LONGEST_LAG + 1))
    offset: np.ndarray | float = 0.0
    spread: np.ndarray | float = 0.0
    steps: int = 0

    def add(self, action: np.ndarray, state: np.ndarray) -> None:
        """Add an episode, (T, D) each; one that is too short to compare does not count."""
        if len(action) <= 2 * LONGEST_LAG:
            return
        action, state = action.astype(np.float64), state.astype(np.float64)
        scale = np.maximum(state.std(axis=0), 1e-9)
        offset = action.mean(axis=0) - state.mean(axis=0)
        for place, lag in enumerate(range(-LONGEST_LAG, LONGEST_LAG + 1)):
            first, last = max(0, -lag), min(len(action), len(action) - lag)
            apart = np.abs(action[first:last] - offset - state[first + lag : last + lag]) / scale
            moving = state.std(axis=0) > 1e-9
            self.errors[place] += apart[:, moving].sum()
            self.counts[place] += apart[:, moving].size
        self.offset = self.offset + (action[:-1] - state[1:]).sum(axis=0)
        self.spread = self.spread + state.var(axis=0) * (len(action) - 1)
        self.steps += len(action) - 1

    def findings(self, names: Sequence[str]) -> list[str]:
        """Lines about actions that come before the wrong state, or are off by a constant."""
        if not self.steps or not self.counts.all():
            return []
        lag = int(np.argmin(self.errors / self.counts)) - LONGEST_LAG
        found = []
        if lag <= -1:
            found.append(f"actions are most like the states {-lag} steps before: are they shifted in time?")
        elif lag >= 1:
            found.append(f"actions are most like the states {lag} steps later, as those of position targets are")
        mean, spread = np.asarray(self.offset) / self.steps, np.sqrt(np.asarray(self.spread) / self.steps)
        off = (np.abs(mean) > OFFSET * spread) & (spread > 1e-9)
        if off.any():
            chosen = [repr(names[int(place)]) for place in np.flatnonzero(off)]
            found.append(f"actions and states differ by a constant in {_some(chosen)}: are both in the same unit?")
        return found


def timing_problems(times: np.ndarray, hz: float | None) -> tuple[list[str], float | None]:
    """Gaps in the time stamps of an episode, and its measured rate.

    Args:
        times: (T,) [s].
        hz: stated steps per second; None if unknown.

    Returns:
        problems, one line each; and steps per second, None of an episode with fewer than two steps.
    """
    if not np.isfinite(times).all():
        return ["time stamps are not finite"], None
    if len(times) < 2:
        return [], None
    gaps = np.diff(times)
    usual = float(np.median(gaps))
    problems = []
    if (gaps <= 0).any():
        problems.append(f"time stamps do not increase after step {int(np.argmax(gaps <= 0))}")
    elif (wide := gaps > GAP * usual).any():
        place = int(np.argmax(wide))
        missing = int(np.round(gaps[wide] / usual).sum() - wide.sum())
        problems.append(
            f"{wide.sum()} gaps in the time stamps, about {missing} frames are missing (the first: {gaps[place]:.3f} s "
            f"after step {place})"
        )
    return problems, (1 / usual if usual > 0 else None)


def rate_finding(measured: Sequence[float], hz: float | None) -> list[str]:
    """A line about episodes whose time stamps drift away from the stated rate."""
    if not measured or hz is None:
        return []
    rate = float(np.median(measured))
    if abs(rate - hz) <= DRIFT * hz:
        return []
    return [f"time stamps are {rate:.4g} steps per second apart on average, not {hz:g}"]


def length_finding(names: Sequence[str], lengths: Sequence[int]) -> list[str]:
    """A line about episodes that are much longer or shorter than the usual one."""
    if len(lengths) < 3:
        return []
    usual = float(np.median(lengths))
    odd = [
        f"{name} ({length})"
        for name, length in zip(names, lengths, strict=True)
        if not usual / ODD_LENGTH <= length <= usual * ODD_LENGTH
    ]
    return [f"odd lengths, usual is {usual:g} steps: {_some(odd)}"] if odd else []


def _gripper(low: float, high: float) -> str:
    if low >= -0.01 and high <= 0.2:
        return "looks like an opening in metres"
    if low >= -0.05 and high <= 1.05:
        return "looks like a share of the opening"
    if low >= -1.05 and high <= 1.05:
        return "looks like a command from -1 to 1"
    if low >= -5 and high <= 105:
        return "looks like percent"
    return "its unit cannot be guessed"


def _some(items: Sequence[str]) -> str:
    rest = len(items) - FEW
    return ", ".join(items[:FEW]) + (f" and {rest} more" if rest > 0 else "")
