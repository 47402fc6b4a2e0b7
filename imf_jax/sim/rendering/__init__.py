"""Pictures of scenes: MuJoCo Warp's ray tracer (anywhere), or MuJoCo's OpenGL (optional)."""
