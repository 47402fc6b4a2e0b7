"""The progress bar says how far, how well, how fast."""

import io

import pytest
from rich.console import Console

from imf_jax.rollout.engine import RolloutProgress
from imf_jax.rollout.progress import TimeLimit, progress_bar
from imf_jax.terminal import make_console


def show(*steps: RolloutProgress, shown: bool = True) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with progress_bar(10, shown=shown, console=console, auto_refresh=False) as bar:
        for step in steps:
            bar(step)
    return console.file.getvalue()


def test_figures() -> None:
    text = show(RolloutProgress(0, 0, 40, 0.1, 0.0), RolloutProgress(3, 2, 4040, 2.0, 0.35))
    assert "3/10 episodes, success 67 %" in text
    assert "2,020 control steps/s" in text


def test_rate_is_not_invented_before_an_episode_ends() -> None:
    assert "0/10 episodes, success -" in show(RolloutProgress(0, 0, 40, 0.1, 0.1))


def test_silence() -> None:
    assert show(RolloutProgress(3, 2, 4040, 2.0, 0.35), shown=False) == ""


def test_lines_in_a_log_file_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("imf_jax.terminal.time.monotonic", lambda: now[0])
    console = make_console(io.StringIO())
    with progress_bar(10, shown=True, console=console) as bar:
        for second in range(70):
            now[0] = second
            bar(RolloutProgress(3, 2, 4040, 2.0, 0.35))
    lines = console.file.getvalue().splitlines()
    assert [line for line in lines if "━" not in line] == lines[:2], "at 30 and 60 s, then the bar"
    assert lines[0].startswith("evaluate 3/10 episodes, success 67 %, 2,020 control steps/s")
    silent = make_console(io.StringIO())
    with progress_bar(10, shown=False, console=silent) as bar:
        for second in range(70, 140):
            now[0] = second
            bar(RolloutProgress(3, 2, 4040, 2.0, 0.35))
    assert silent.file.getvalue() == ""


def last_line(*, total: int | None, limit: TimeLimit | None) -> str:
    """What stays of the bar of a rollout that has done a hundredth of the scenes it could do."""
    console = make_console(io.StringIO())
    with progress_bar(total, shown=True, label="sentry", limit=limit, console=console) as bar:
        bar(RolloutProgress(0, 0, 40, 0.1, 0.0))
        bar(RolloutProgress(3, 2, 4040, 2.0, 0.01))
    return console.file.getvalue().splitlines()[-1]


@pytest.mark.parametrize("total", [None, 2**16])
def test_a_time_limit_is_what_the_bar_counts_to(total: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = TimeLimit(5.0)
    monkeypatch.setattr(limit, "elapsed_s", lambda: 4.0)
    line = last_line(total=total, limit=limit)
    assert "0:04 of 0:05" in line
    assert line.count("━") > 25, "four fifths are done"


def test_nobody_knows_how_long_a_rollout_without_an_end_takes() -> None:
    line = last_line(total=None, limit=None)
    assert line.rstrip().endswith("3 episodes, success 67 %, 2,020 control steps/s"), "there is no time left"


def test_the_clock_of_a_limit_starts_when_it_is_first_read(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("imf_jax.rollout.progress.time.monotonic", lambda: now[0])
    limit = TimeLimit(5.0)
    now[0] = 200.0
    assert not limit.is_over()
    now[0] = 205.0
    assert limit.is_over()
