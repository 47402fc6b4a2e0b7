"""Read result folders into pandas. Run: python examples/read_results.py evals/first evals/second (needs pandas)"""

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from imf_jax.evaluation.report.load import read_evaluation

AXES = ("x", "y", "z")


def episodes_table(*folders: Path) -> pd.DataFrame:
    """One row per episode: its folder, and the fields of `imf_jax.rollout.episode.EpisodeRecord`."""
    return pd.DataFrame(
        {"folder": str(folder), **asdict(record)} for folder in folders for record in read_evaluation(folder).records
    )


def path_table(trajectory: Path) -> pd.DataFrame:
    """One row per control step of an episode recorded by --save-trajectory: both hands [m], and the reward."""
    with np.load(trajectory) as arrays:
        hands = {side: arrays[f"executed_{side}_link7_pos"] for side in ("left", "right")}
        columns = {f"{side}_{axis}": hands[side][:, i] for side in hands for i, axis in enumerate(AXES)}
        return pd.DataFrame({"reward": arrays["reward"], **columns}, index=pd.Index(arrays["step"], name="step"))


def main(*folders: Path) -> pd.DataFrame:
    table = episodes_table(*folders)
    print(pd.crosstab(table["folder"], table["status"]), end="\n\n")
    print(table.groupby("folder")[["return_", "steps", "max_ik_error"]].mean(), end="\n\n")
    # An episode is the same scene in every evaluation of the same task and seed: compare them one by one.
    print(table.pivot(index="episode", columns="folder", values="status").head())
    for row in table[table["artifacts"].map(lambda artifacts: "trajectory" in artifacts)].head(1).itertuples():
        print(f"\nepisode {row.episode} of {row.folder}")
        print(path_table(Path(row.folder) / row.artifacts["trajectory"]).describe().loc[["min", "max"]])
    return table


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
