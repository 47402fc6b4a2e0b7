"""What scripts print: as it is, and all of it wherever the output is no terminal."""

import ast
import io
from pathlib import Path

import pytest

from imf_jax.terminal import clock_time, make_console, make_table, stage_progress

ROOT = Path(__file__).resolve().parents[1]

PATH = f"/data/{'deep/' * 40}run [final] :key:"


class Screen(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self) -> bool:
        return True


def test_units_and_paths_are_shown_whole_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")  # colours, as continuous integration wants them, make no terminal
    output = io.StringIO()
    console = make_console(output)
    console.print(make_table(("delay", "[ms]", "folder"), [(4, None, PATH)], left=0))
    console.print(f"results in {PATH}", style="dim")
    head, row = (next(line for line in output.getvalue().splitlines() if word in line) for word in ("delay", "final"))
    assert "[ms]" in head
    assert PATH in row
    assert f"results in {PATH}" in output.getvalue()


def test_a_narrow_terminal_folds_what_is_in_tables_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    screen = Screen()
    make_console(screen).print(make_table(("job", "folder"), [("first", PATH.replace(" ", "_"))]))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "".join(line.split("│")[2].strip() for line in lines[3:-1]) == PATH.replace(" ", "_")


def test_nobody_makes_consoles_of_their_own() -> None:
    for path in (path for folder in ("imf_jax", "scripts", "converters") for path in (ROOT / folder).rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        for call in calls:
            name, given = ast.unparse(call.func), {keyword.arg for keyword in call.keywords}
            theirs = name.endswith("Console") or (name == "Progress" and "console" not in given)
            assert not theirs or path.name == "terminal.py", f"{path}:{call.lineno}: use imf_jax.terminal"


@pytest.mark.parametrize(("before", "later"), [(1000, None), (None, 1000)])
def test_a_stage_tells_a_log_file_how_long_it_will_take(
    monkeypatch: pytest.MonkeyPatch, before: int | None, later: int | None
) -> None:
    now = [0.0]
    monkeypatch.setattr("imf_jax.terminal.time.monotonic", lambda: now[0])
    output = io.StringIO()
    with stage_progress("read pictures", before, make_console(output)) as show:
        show(400, total=later)  # as after an interruption: this was done before
        for second in range(1, 62):
            now[0] = second
            show(400 if second < 31 else 400 + second, "of two files", total=later)
    assert output.getvalue().splitlines() == [
        "read pictures 400/1000, of two files",
        "read pictures 460/1000, time left 9:00, of two files",
    ]


@pytest.mark.parametrize(("before", "later"), [(1000, None), (None, 1000)])
def test_a_stage_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, before: int | None, later: int | None) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    with stage_progress("read pictures", before, make_console(screen)) as show:
        show(1000, "of two files", total=later)
    assert "1000/1000" in screen.getvalue()
    assert "of two files" in screen.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (7322, "2:02:02")])
def test_durations_read_as_clocks(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text
