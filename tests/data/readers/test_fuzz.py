"""Files with random damage: whatever is read, what is wrong is one line and never a traceback."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from foreign_datasets import write_act, write_robomimic
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lerobot_version2 import to_version2
from transfer_task import SPACES

from imf_jax.data.episodes import Episode, write_episodes
from imf_jax.data.inspection import inspect_folder
from imf_jax.data.lerobot.export import export_demonstrations
from imf_jax.data.readers.recognise import open_reader
from imf_jax.errors import UserError

CASES = 1000 if "IMF_LONG_TESTS" in os.environ else 25
FUZZ = settings(
    max_examples=CASES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with one small dataset of each format."""

    folder = tmp_path_factory.mktemp("sound")
    numbers = {"action": 16, "state": 16, "env_state": 7, "noise": 16}
    for number in range(2):
        columns = {name: np.ones((9, width), np.float32) for name, width in numbers.items()}
        episode = Episode(
            **columns, reward=np.zeros(9, np.float32), seed=0, episode=number, task="transfer", control_hz=50.0,
            success=True, spaces=SPACES, images={"front": np.full((9, 16, 16, 3), 9, np.uint8)},
        )  # fmt: skip
        write_episodes(folder / "ours", [episode])
    export_demonstrations(folder / "ours", folder / "lerobot")
    to_version2(folder / "lerobot", folder / "lerobot2")
    write_act(folder / "act", 2)
    (folder / "robomimic").mkdir()
    write_robomimic(folder / "robomimic" / "lift.hdf5", 3)
    return {path.name: path for path in folder.iterdir()}


def read_everything(path: Path) -> None:
    reader = open_reader(path)
    for index in range(len(reader)):
        info = reader.info(index)
        reader.read(index, [name for names in reader.roles.values() for name in names])
        reader.timestamps(index)
        for camera in info.cameras:
            for picture in reader.pictures(index, camera):
                assert picture.ndim == 3


def requires_one_line(read: Callable[[Path], object], path: Path) -> None:
    message = ""
    try:
        read(path)
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert "0x" not in message


@pytest.mark.parametrize("form", ["ours", "lerobot", "lerobot2", "act", "robomimic"])
def test_random_damage_is_one_line(datasets: dict[str, Path], form: str, tmp_path: Path) -> None:
    source = datasets[form]
    files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())

    @FUZZ
    @given(
        number=st.integers(0, len(files) - 1),
        cut=st.one_of(st.none(), st.floats(0, 1)),
        changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    )
    def damage(number: int, cut: float | None, changes: list[tuple[float, int]]) -> None:
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        content = bytearray((folder / files[number]).read_bytes())
        for place, value in changes:
            content[int(place * len(content))] = value
        (folder / files[number]).write_bytes(content if cut is None else content[: int(cut * len(content))])
        requires_one_line(read_everything, folder)
        requires_one_line(inspect_folder, folder)

    damage()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def test_any_json_is_one_line(datasets: dict[str, Path], tmp_path: Path) -> None:

    folder = shutil.copytree(datasets["lerobot"], tmp_path / "lerobot")
    info = json.loads((folder / "meta/info.json").read_text())
    camera = "observation.images.front"

    @FUZZ
    @given(key=st.sampled_from(sorted(info)), part=st.sampled_from(["", "dtype", "shape", "names"]), value=JSON)
    def replace(key: str, part: str, value: object) -> None:
        changed = json.loads(json.dumps(info))
        if part:
            changed["features"][camera][part] = value
        else:
            changed[key] = value
        (folder / "meta/info.json").write_text(json.dumps(changed))
        requires_one_line(read_everything, folder)

    replace()
