"""Tokens of policy servers: one word, from a file or the environment."""

from pathlib import Path

import pytest

from imf_jax.errors import ArgumentError
from imf_jax.token_file import VARIABLE, read_token


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_token(None, "--token-file") is None
    monkeypatch.setenv(VARIABLE, "secret-1")
    assert read_token(None, "--token-file") == "secret-1"
    path = tmp_path / "token"
    path.write_text("secret-2\n")
    assert read_token(path, "--token-file") == "secret-2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("\n", "is empty"),
        ("two words", "holds characters"),
        ("schlüssel", "holds characters"),
    ],
)
def test_what_is_no_word_is_refused(
    content: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ArgumentError, match=f"--token-file {path} {message}"):
        read_token(path, "--token-file")
    if content in ("two words", "schlüssel"):
        monkeypatch.setenv(VARIABLE, content)
        with pytest.raises(ArgumentError, match=f"{VARIABLE} holds characters"):
            read_token(None, "--token-file")
