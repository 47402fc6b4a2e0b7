"""The scenes as an environment of LeRobot's commands: a plugin of theirs, which imports LeRobot (Python 3.12 or newer).

Named on their command lines as `--env.discover_packages_path=imf_jax.envs.lerobot --env.type=imf_jax`.
"""

from dataclasses import dataclass, field
from typing import Any

from gymnasium.vector import AutoresetMode, VectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig, HubEnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from typing_extensions import override

from imf_jax.envs.vector import SceneVectorEnv
from imf_jax.sim.tasks import get_task


@EnvConfig.register_subclass("imf_jax")
@dataclass
class ImfJaxEnv(HubEnvConfig):
    """Scenes of a task, all of them in one batched simulation.

    Attributes:
        task: transfer, insert, aloha-transfer, aloha-insertion, or one that is registered.
        fps: control steps per second; of the task.
        cameras: those whose pictures the policy sees; by default the picture camera of the task.
        image_size: height and width of the pictures [pixels].
        scene_seed: seed of the scenes, as `--seed` of eval.py; LeRobot's `--seed` is the first episode.
        episode_length: control steps until an episode is truncated; by default those of the task.
        hub_path: a repository of the hub whose `env.py` makes the environment instead; it must be of the same task.
    """

    task: str | None = "transfer"
    fps: int = 50
    cameras: list[str] = field(default_factory=list)
    image_size: int = 128
    scene_seed: int = 0
    episode_length: int | None = None

    def __post_init__(self) -> None:
        """Say what a policy sees and does.

        Raises:
            ArgumentError: the task is not known.
        """
        task = get_task(self.task or "transfer")
        spaces = task.robot.spaces
        self.task, self.fps = task.name, round(1 / task.control_dt)
        self.cameras = list(self.cameras) or [task.picture_camera]
        self.features = {
            ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(spaces.action_dim,)),
            "agent_pos": PolicyFeature(type=FeatureType.STATE, shape=(spaces.state_dim,)),
        }
        self.features_map = {ACTION: ACTION, "agent_pos": OBS_STATE}
        for camera in self.cameras:
            name = f"pixels/{camera}"
            self.features[name] = PolicyFeature(type=FeatureType.VISUAL, shape=(self.image_size, self.image_size, 3))
            self.features_map[name] = f"{OBS_IMAGES}.{camera}"

    @override
    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, VectorEnv[Any, Any, Any]]]:
        """One batched simulation of `n_envs` scenes, with `use_async_envs` as well: it needs no processes.

        Raises:
            ArgumentError: a camera is not one of the task.
        """
        assert self.task is not None
        envs = SceneVectorEnv(
            n_envs, task=self.task, obs_type="pixels_agent_pos", cameras=self.cameras, image_size=self.image_size,
            scene_seed=self.scene_seed, max_episode_steps=self.episode_length,
            autoreset_mode=AutoresetMode.SAME_STEP, render_mode="rgb_array",
        )  # fmt: skip
        return {self.type: {0: envs}}
