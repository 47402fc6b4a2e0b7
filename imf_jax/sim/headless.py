"""Import MuJoCo so that no OpenGL setting of the user's environment can break it.

MuJoCo chooses an OpenGL platform while it is imported, and a value of `MUJOCO_GL` that it does not know, or whose
library is missing, makes the import itself fail. Simulation and the Warp renderer need no OpenGL at all.
"""

import ctypes
import os
import sys

OPENGL_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}
HARMLESS = ("", "disable", "disabled", "off", "false", "0", "glfw", "glx", "enable", "enabled", "on", "true", "1")
"""Values of `MUJOCO_GL` with which MuJoCo can always be imported."""


def import_mujoco() -> None:
    """Import `mujoco`, with its OpenGL switched off if `MUJOCO_GL` asks for a platform that is not there.

    Call it before anything imports `mujoco`; it does nothing afterwards. The environment is left as it was.
    """
    if "mujoco" in sys.modules:
        return
    asked = os.environ.get("MUJOCO_GL", "")
    if not _usable(asked.lower().strip()):
        os.environ["MUJOCO_GL"] = "disable"
    try:
        import mujoco  # noqa: F401
    finally:
        if asked:
            os.environ["MUJOCO_GL"] = asked


def _usable(platform: str) -> bool:
    if platform in HARMLESS:
        return True
    try:
        ctypes.CDLL(OPENGL_LIBRARIES[platform])
    except (KeyError, OSError):
        return False
    return True
