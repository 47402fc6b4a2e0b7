"""ALOHA transfer: the right arm picks up a cube and hands it to the left arm."""

from typing_extensions import override

from imf_jax.sim.arrays import Array
from imf_jax.sim.tasks.aloha import AlohaTask
from imf_jax.sim.tasks.base import ContactPair, TaskObservation


class AlohaTransfer(AlohaTask):
    """Reward as in gym-aloha's `TransferCubeTask`.

    1 touched by the right hand, 2 and off the table, 3 touched by the left hand, 4 and off the table. One finger of
    each hand counts: the left one of the left hand, the right one of the right hand.
    """

    name = "aloha-transfer"
    scene = "bimanual_viperx_transfer_cube.xml"
    objects = ("box",)
    object_geoms = {"box": ("red_box",)}  # noqa: RUF012
    start_ranges = (((0.0, 0.2), (0.4, 0.6)),)
    stages = ("right_touch", "lift", "left_touch", "transfer")
    env_state_dim = 7
    contact_pairs = (ContactPair(("red_box",), ("table",)),)
    expert = "imf_jax.sim.experts.aloha_transfer:AlohaTransferExpert"

    @override
    def holds(self, observation: TaskObservation) -> list[Array]:
        left, right = observation.touch[:, 0, 0, 0], observation.touch[:, 0, 1, 1]
        lifted = ~observation.contacts[:, 0]
        return [right, right & lifted, left, left & lifted]
