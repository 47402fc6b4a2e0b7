"""A release is named the same everywhere."""

from pathlib import Path

import yaml

import imf_jax

ROOT = Path(__file__).resolve().parent.parent


def test_version_and_date_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == imf_jax.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"\n## {imf_jax.__version__} - {citation['date-released']}\n" in changelog
