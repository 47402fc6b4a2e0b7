"""A task of your own, lifting a stick, evaluated with a scripted expert. Run: python examples/own_task.py evals/own"""

import sys
from pathlib import Path
from types import ModuleType

import jax
import mujoco

from imf_jax.evaluation.evaluate import EvaluationSettings, Summary, evaluate
from imf_jax.evaluation.setup import EvaluatedPolicy, Setup
from imf_jax.rollout.expert_planner import ExpertPlanner
from imf_jax.sim.backends.native import NativeBackend
from imf_jax.sim.experts.transfer import EXPERTS, TransferExpert
from imf_jax.sim.tasks import TASKS, Array, Task, TaskObservation, TaskResult

HALF_SIZE = (0.02, 0.11, 0.02)  # [m]


class LiftStick(Task):
    """Reward 1 for a touch by the right hand, 2 for a lift by 10 cm, which is success; on numpy and on JAX arrays."""

    name, max_steps, env_state_dim = "lift_stick", 300, 7
    objects, stages = ("stick",), ("touch", "lift")

    def add_objects(self, spec: mujoco.MjSpec) -> dict[str, tuple[str, ...]]:
        body = spec.worldbody.add_body(name="stick", pos=[0.45, -0.3, HALF_SIZE[2]])
        body.add_freejoint(name="stick_joint")
        box = mujoco.mjtGeom.mjGEOM_BOX  # contype 0: the scene makes explicit contact pairs for it
        body.add_geom(name="stick", type=box, size=HALF_SIZE, mass=0.1, contype=0, conaffinity=0)
        return {"stick": ("stick",)}

    def sample(self, key: jax.Array) -> jax.Array:
        x, y = jax.numpy.array([0.4, -0.4]) + 0.1 * jax.random.uniform(key, (2,))
        return jax.numpy.array([[x, y, HALF_SIZE[2], 1, 0, 0, 0]])  # position [m], quaternion wxyz

    def start(self, batch: int, xp: ModuleType) -> tuple[()]:
        return ()

    def evaluate(self, progress: tuple[()], observation: TaskObservation) -> tuple[tuple[()], TaskResult]:
        touched = observation.touch[:, 0, 1].any(-1)
        lifted = touched & (observation.objects[:, 0, 2] > HALF_SIZE[2] + 0.1)
        stage = touched.astype("int32") + lifted.astype("int32")
        return (), TaskResult(stage.astype("float32"), stage, success=lifted, failure=lifted & False)

    def env_state(self, observation: TaskObservation) -> Array:
        return observation.objects[:, 0]


def main(out: Path, episodes: int = 10) -> Summary:
    TASKS["lift_stick"], EXPERTS["lift_stick"] = LiftStick, TransferExpert  # that one begins by lifting what it finds
    setup = Setup(EvaluatedPolicy(ExpertPlanner("lift_stick"), "lift_stick", "expert"), NativeBackend("lift_stick"))
    summary = evaluate(setup, EvaluationSettings(episodes, num_envs=episodes), out)
    print(f"{summary.headline}\nreport: {summary.folder / 'report.html'}")
    return summary


if __name__ == "__main__":
    main(Path(sys.argv[1]))
