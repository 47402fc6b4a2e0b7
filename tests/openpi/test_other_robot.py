"""The real openpi-client drives a policy that was trained on a LeRobot dataset of a robot without a scene here.

Run by `make serve-check`, as the tests beside it; `check.py` trains the policy, and `six_joints.py` makes its data.
"""

import os

import numpy as np
import pytest

pytest.importorskip("openpi_client", reason="needs the package openpi-client; run make serve-check")
from openpi_client.websocket_client_policy import WebsocketClientPolicy

ADDRESS, TOKEN = os.environ.get("OPENPI_SERVER", ""), os.environ.get("OPENPI_TOKEN", "")


@pytest.fixture(scope="module")
def client():
    return WebsocketClientPolicy(ADDRESS, api_key=TOKEN)


def test_the_metadata_say_what_it_is_for(client):
    metadata = client.get_server_metadata()
    assert (metadata["task"], metadata["robot"]["name"], metadata["action_dim"]) == ("none", "so100", 6)
    assert (metadata["cameras"], metadata["image_size"]) == (["wrist"], 48)


def test_chunks_lead_where_the_camera_says(client):
    """Pictures of episodes that were not learned, in the size in which the camera makes them."""
    unseen = np.load(os.environ["OPENPI_EXPECTED"])
    chunks = []
    for state, wrist in zip(unseen["state"], unseen["wrist"], strict=True):
        answer = client.infer({"observation/state": state, "observation/wrist": wrist, "reset": True})
        chunks.append(answer["actions"])
    planned = np.stack(chunks)
    expected = unseen["actions"][:, : planned.shape[1]]
    error, spread = np.abs(planned - expected).mean(), np.abs(expected - expected.mean(axis=0)).mean()
    assert error < 0.5 * spread, f"error {error:.3f}, spread of the episodes {spread:.3f}"
    shuffled = np.abs(planned - np.roll(expected, 1, axis=0)).mean()
    assert shuffled > spread, "and not where that of another episode says"
