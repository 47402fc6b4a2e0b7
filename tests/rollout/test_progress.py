"""The progress bar says how far, how well, how fast."""

import io

from rich.console import Console

from imf_jax.rollout.engine import RolloutProgress
from imf_jax.rollout.progress import progress_bar


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
