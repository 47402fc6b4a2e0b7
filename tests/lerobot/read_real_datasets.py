"""Datasets that LeRobot itself wrote give here what LeRobot reads from them, for every index.

Run by `make lerobot-check` in the project's own environment, after `write_real_datasets.py`; the variable
LEROBOT_DATASETS names the folder.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from lerobot_version2 import to_version2

from imf_jax.data.inspection import inspect_folder
from imf_jax.data.readers.recognise import open_reader
from imf_jax.data.selection import select

FOLDER = Path(os.environ["LEROBOT_DATASETS"])


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize("kind", ["video", "image"])
def test_every_index_is_what_lerobot_reads(kind: str, version: str, tmp_path: Path) -> None:
    folder = FOLDER / f"real_{kind}"
    with np.load(folder.with_suffix(".npz")) as stored:
        expected = dict(stored)
    reader = open_reader(folder if version == "v3.0" else to_version2(folder, tmp_path / "old"))
    selection, index = select(reader), 0
    assert (len(reader), reader.robot, reader.cameras, len(reader.tasks or ())) == (4, "so100", ("camera",), 2)
    for episode in range(len(reader)):
        info, steps = reader.info(episode), selection.read(episode)
        times = reader.timestamps(episode)
        pictures = list(reader.pictures(episode, "camera"))
        assert len(pictures) == info.steps
        assert times is not None
        for step, picture in enumerate(pictures):
            np.testing.assert_array_equal(steps.state[step], expected["observation.state"][index])
            np.testing.assert_array_equal(steps.action[step], expected["action"][index])
            assert times[step] == expected["timestamp"][index]
            assert info.tasks == (expected["task"][index],)
            shown = expected["observation.images.camera"][index].transpose(1, 2, 0)
            np.testing.assert_array_equal(picture, np.round(255 * shown).astype(np.uint8), err_msg=f"index {index}")
            back = list(reader.pictures(episode, "camera", step, step + 1))
            np.testing.assert_array_equal(back[0], picture)
            index += 1
    assert index == len(expected["action"])
    assert inspect_folder(folder).exit_code == 0
