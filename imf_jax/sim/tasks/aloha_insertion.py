"""ALOHA insertion: the left arm takes a socket, the right arm a peg, and the peg goes into the socket in the air."""

from typing_extensions import override

from imf_jax.sim.arrays import Array
from imf_jax.sim.tasks.aloha import AlohaTask
from imf_jax.sim.tasks.base import ContactPair, TaskObservation

SOCKET = ("socket-1", "socket-2", "socket-3", "socket-4")
PEG = ("red_peg",)


class AlohaInsertion(AlohaTask):
    """Reward as in gym-aloha's `InsertionTask`.

    1 both objects touched, 2 and both off the table, 3 both off the table and they touch each other, 4 the peg touches
    the pin in the middle of the socket. One finger of each hand counts: the left one of the left hand, the right one of
    the right hand.
    """

    name = "aloha-insertion"
    scene = "bimanual_viperx_insertion.xml"
    objects = ("peg", "socket")
    object_geoms = {"peg": PEG, "socket": SOCKET}  # noqa: RUF012
    start_ranges = (((0.1, 0.2), (0.4, 0.6)), ((-0.2, -0.1), (0.4, 0.6)))
    stages = ("touch", "lift", "meet", "insert")
    env_state_dim = 14
    contact_slots, constraint_rows = 48, 256  # under noise the expert needs at most 38 and 218
    contact_pairs = (
        ContactPair(PEG, ("table",)),
        ContactPair(SOCKET, ("table",)),
        ContactPair(PEG, SOCKET),
        ContactPair(PEG, ("pin",)),
    )
    expert = "imf_jax.sim.experts.aloha_insertion:AlohaInsertionExpert"

    @override
    def holds(self, observation: TaskObservation) -> list[Array]:
        held = observation.touch[:, 1, 0, 0] & observation.touch[:, 0, 1, 1]
        peg_down, socket_down, meet, inserted = (observation.contacts[:, i] for i in range(4))
        lifted = ~peg_down & ~socket_down
        return [held, held & lifted, meet & lifted, inserted]
