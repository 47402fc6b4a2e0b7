"""The real openpi-client drives our server unchanged.

Run by `make serve-check` in an environment that has openpi-client but not this package; `check.py` starts the server.
"""

import os

import numpy as np
import pytest

pytest.importorskip("openpi_client", reason="needs the package openpi-client; run make serve-check")
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

ADDRESS, TOKEN = os.environ.get("OPENPI_SERVER", ""), os.environ.get("OPENPI_TOKEN", "")
OBSERVATION = {"state": np.zeros(16), "env_state": np.zeros(7), "prompt": "hand the box over"}


@pytest.fixture
def client():
    return WebsocketClientPolicy(ADDRESS, api_key=TOKEN)


def test_metadata(client):
    metadata = client.get_server_metadata()
    assert (metadata["task"], metadata["robot"]["name"]) == ("transfer", "two_diana7")
    assert (metadata["obs_horizon"], metadata["chunk_steps"], metadata["action_dim"]) == (2, 15, 16)


def test_actions_are_those_of_the_policy_to_the_bit(client):
    expected = np.load(os.environ["OPENPI_EXPECTED"])
    seen = {name: expected[name] for name in ("state", "env_state")}
    answer = client.infer({**seen, "seed": 3, "episode": 14, "replan": 2})
    assert answer["actions"].dtype == np.float32
    np.testing.assert_array_equal(answer["actions"], expected["actions"])
    assert answer["server_timing"]["infer_ms"] > 0


def test_a_broker_hands_out_one_action_per_step(client):
    broker = ActionChunkBroker(client, action_horizon=8)
    actions = [broker.infer(OBSERVATION)["actions"] for _ in range(9)]
    assert all(action.shape == (16,) and np.isfinite(action).all() for action in actions)
    assert not np.array_equal(actions[0], actions[8]), "a new chunk"


def test_flattened_names_of_robots(client):
    answer = client.infer({"observation/state": np.zeros(16), "observation/environment_state": np.zeros(7)})
    assert answer["actions"].shape == (15, 16)


def test_an_error_is_raised_with_its_reason_and_the_client_goes_on(client):
    with pytest.raises(RuntimeError, match=r"state has shape \(15,\)"):
        client.infer({**OBSERVATION, "state": np.zeros(15)})
    with pytest.raises(RuntimeError, match="not finite"):
        client.infer({**OBSERVATION, "state": np.full(16, np.nan)})
    assert client.infer(OBSERVATION)["actions"].shape == (15, 16)


def test_the_token_is_needed():
    with pytest.raises(Exception, match="401"):
        WebsocketClientPolicy(ADDRESS, api_key="another")
