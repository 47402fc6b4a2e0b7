"""Policy server: observations in, action chunks out, over WebSocket and msgpack in openpi's convention."""
