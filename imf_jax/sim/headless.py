"""Import MuJoCo so that no OpenGL setting of the user's environment can break it.

MuJoCo opens an OpenGL platform while it is imported, and a value of `MUJOCO_GL` that it does not know, or whose library
is missing or contradicts `PYOPENGL_PLATFORM`, makes the import itself fail. Simulation and the Warp renderer need none.
"""

import importlib
import os
import sys
from types import ModuleType
from typing import Any


def import_mujoco() -> ModuleType:
    """Import `mujoco` without its OpenGL, which the first use of `mujoco.GLContext` loads, as `MUJOCO_GL` says.

    Modules outside this package get `mujoco` from it (`from imf_jax.sim import mujoco`), or for type checkers only. A
    program that has imported it before keeps it as it is. The environment is left as it was.
    """
    if "mujoco" in sys.modules:
        return sys.modules["mujoco"]
    asked = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        import mujoco
        from mujoco.rendering.classic import gl_context
    finally:
        del os.environ["MUJOCO_GL"]
        if asked is not None:
            os.environ["MUJOCO_GL"] = asked
    for module in (mujoco, gl_context):
        module.__getattr__ = _load_opengl
    return mujoco


def _load_opengl(name: str) -> Any:
    """Attribute of `mujoco` that is not there: its OpenGL context, for programs that draw with `mujoco.Renderer`."""
    if name == "GLContext":
        module = importlib.reload(sys.modules["mujoco.rendering.classic.gl_context"])
        if name in vars(module):  # not if `MUJOCO_GL` disables it
            return vars(module)[name]
    raise AttributeError(f"module 'mujoco' has no attribute {name!r}")
