"""Signals: the first stops in good order, the second at once, however the process was started."""

import signal
import subprocess
import sys
from typing import Any

import pytest

PATIENT = """
import signal, sys, time
from imf_jax.interrupts import exit_code, signals_interrupt, stop_on_interrupt
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may have been started by nohup
ignored = [getattr(signal, name) for name in sys.argv[2:]]
for number in ignored:
    signal.signal(number, signal.SIG_IGN)
try:
    with signals_interrupt():
        if sys.argv[1] == "asks":
            with stop_on_interrupt() as should_stop:
                print("ready", flush=True)
                while not should_stop():
                    time.sleep(0.01)
                print("stopping", flush=True)
                time.sleep(60)
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            print("cleaning", flush=True)
            if sys.argv[1] == "stubborn":
                time.sleep(60)
except KeyboardInterrupt:
    sys.exit(exit_code())
"""


def start(*arguments: str) -> Any:
    command = [sys.executable, "-c", PATIENT, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_the_first_asks_and_the_second_interrupts(number: signal.Signals, code: int) -> None:
    ignored = ["SIGINT"] if number == signal.SIGINT else []  # as shells start background jobs
    with start("asks", *ignored) as process:
        process.send_signal(number)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == code


def test_without_a_run_to_stop_the_first_interrupts_and_the_second_ends_the_process() -> None:
    with start("works") as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaning\n"
        assert process.wait(20) == 143
    with start("stubborn") as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaning\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM


@pytest.mark.parametrize("mode", ["asks", "works"])
def test_nohup_is_respected(mode: str) -> None:
    with start(mode, "SIGHUP") as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() in ("stopping\n", "cleaning\n")
        process.kill()
