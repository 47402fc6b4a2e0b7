"""Paths of end effectors in 3-D that an episode was told to go: its commands and its plans."""

import numpy as np

from imf_jax.viewing.episode import ViewedEpisode, joints_and_grippers
from imf_jax.viewing.geometry import body_poses


def commanded_paths(episode: ViewedEpisode) -> dict[str, np.ndarray]:
    """End effector -> its commanded positions (T, 3) [m]; empty where the robot is not known."""
    return action_paths(episode, episode.action)


def planned_paths(episode: ViewedEpisode) -> dict[str, list[np.ndarray]]:
    """End effector -> for each plan the positions (H', 3) [m] that it has for the time from its observation on."""
    if episode.chunks is None:
        return {}
    plans, horizon, width = episode.chunks.actions.shape
    flat = action_paths(episode, episode.chunks.actions.reshape(-1, width))
    past = np.maximum(0, -episode.chunks.begin).tolist()  # actions of steps before it
    return {
        name: [path[first:] for first, path in zip(past, paths.reshape(plans, horizon, 3), strict=True)]
        for name, paths in flat.items()
    }


def action_paths(episode: ViewedEpisode, actions: np.ndarray) -> dict[str, np.ndarray]:
    """End effector -> positions (N, 3) [m] that actions (N, A) command: as they say, or by forward kinematics."""
    spaces, scene = episode.spaces, episode.scene
    if spaces is None or actions.shape[1] != spaces.action_dim:
        return {}
    names = spaces.effectors
    told = {names[part.effector]: actions[:, place] for part, place in spaces.action_parts if part.kind == "position"}
    if told or scene is None:
        return told
    joints, grippers = joints_and_grippers(spaces.action_parts, actions)
    objects = np.tile(np.array([0, 0, 0, 1, 0, 0, 0], np.float32), (len(actions), len(scene.task.objects), 1))
    poses = body_poses(scene.model, np.asarray(scene.qpos(joints, grippers, objects)))
    return {name: poses[:, body, :3] for name, body in zip(names, scene.robot.effectors, strict=True)}
