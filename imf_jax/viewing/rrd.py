"""Write episodes as a recording of Rerun (`.rrd`).

| entity | what |
|---|---|
| `scene/<body>/<geom>` | geoms, once; their bodies move |
| `paths/commanded/<end effector>`, `paths/executed/<end effector>` | the whole path as a line, the present as a point |
| `paths/planned/<end effector>` | the chunk that was planned last, as it was at its replan |
| `cameras/<camera>` | pictures, JPEG, at the pose of the camera where the scene has it |
| `action/<part>`, `state/<part>`, `outcome/reward`, `outcome/stage` | curves |
| `about` | title, and what cannot be shown |

Timelines are `step`, a control step, and `time` [s]. Two episodes have their entities under `first` and `second`.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from imf_jax.errors import UserError
from imf_jax.files import atomic_write, reported_write_errors
from imf_jax.images import encode_image
from imf_jax.sim.rendering.camera import camera_names
from imf_jax.spaces import Part
from imf_jax.viewing.episode import Pictures, ViewedEpisode
from imf_jax.viewing.geometry import Geom, body_poses, camera_poses, focal_length, mesh_triangles, visible_geoms
from imf_jax.viewing.paths import commanded_paths, planned_paths

APPLICATION = "imf_jax"
SIDES = ("first", "second")
"""Roots of the entities of two episodes beside each other."""

COMMANDED, EXECUTED, PLANNED = (40, 110, 220), (215, 40, 40), (240, 160, 30)
"""Colours of paths."""

LINE, POINT = 0.002, 0.008
"""Radii of paths and of their present points [m]."""

PLANE_DISTANCE = 0.15
"""Distance of a picture from its camera in the 3-D view [m]."""

JPEG_QUALITY = 90
PICTURES_AT_ONCE = 64


def require_rerun() -> Any:
    """Import Rerun.

    Raises:
        UserError: it is not installed.
    """
    try:
        import rerun
    except ImportError:
        raise UserError(
            "recordings of Rerun need the package 'rerun-sdk'; install it with: pip install 'imf_jax[rerun]'"
        ) from None
    return rerun


def write_recording(path: Path, episodes: Sequence[ViewedEpisode]) -> None:
    """Write one episode, or two beside each other; the file appears when it is whole.

    Raises:
        UserError: Rerun is not installed, pictures cannot be read, or the file cannot be written.
    """
    rerun = require_rerun()
    roots = SIDES if len(episodes) > 1 else ("",)
    with reported_write_errors(path, "recording"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            stream = rerun.RecordingStream(APPLICATION, send_properties=False)
            try:
                partial.touch()  # an error of the file system is raised here, where it has a name
                stream.save(partial, default_blueprint=_layout(rerun, episodes, roots))
                for root, episode in zip(roots, episodes, strict=False):
                    _Writer(rerun, stream, root, episode).write()
                stream.flush()
            finally:
                stream.disconnect()


class _Writer:
    """Writes one episode under `root`."""

    def __init__(self, rerun: Any, stream: Any, root: str, episode: ViewedEpisode) -> None:
        self._rerun, self._stream, self._episode = rerun, stream, episode
        self._root = (root,) if root else ()
        self._executed = dict(episode.executed)

    def write(self) -> None:
        rerun, episode = self._rerun, self._episode
        self._static(("scene",), rerun.ViewCoordinates.RIGHT_HAND_Z_UP)
        self._static(("paths",), rerun.ViewCoordinates.RIGHT_HAND_Z_UP)
        notes = "\n".join(f"- {note}" for note in episode.notes)
        about = f"**{episode.title}**\n\n{notes}"
        self._static(("about",), rerun.TextDocument(about, media_type=rerun.MediaType.MARKDOWN))
        self._write_scene()
        self._write_paths()
        self._write_curves()
        for camera, pictures in episode.cameras.items():
            self._write_pictures(camera, pictures)

    def _write_scene(self) -> None:
        scene, qpos = self._episode.scene, self._episode.qpos
        if scene is None or qpos is None:
            return
        model, poses = scene.model, body_poses(scene.model, qpos)
        hidden = () if self._episode.drawn_objects else {model.body(name).id for name in scene.task.objects}
        geoms = [geom for geom in visible_geoms(model) if geom.body not in hidden]
        steps = _steps(self._episode.first_state, qpos)
        for body in sorted({geom.body for geom in geoms} - {0}):
            columns = self._rerun.Transform3D.columns(
                translation=poses[:, body, :3], quaternion=poses[:, body, [4, 5, 6, 3]]
            )
            self._columns(("scene", _name(model.body(body).name, body)), steps, columns)
        for geom in geoms:
            self._write_geom(model, geom)
        if not self._executed:
            effectors = zip(scene.task.robot.spaces.effectors, scene.robot.effectors, strict=True)
            self._executed = {name: poses[:, body, :3] for name, body in effectors}

    def _write_geom(self, model: Any, geom: Geom) -> None:
        rerun, index, size, color = self._rerun, geom.number, geom.size, geom.color
        path = ("scene", _name(model.body(geom.body).name, geom.body), _name(model.geom(index).name, index))
        pose = rerun.Transform3D(translation=model.geom_pos[index], quaternion=model.geom_quat[index][[1, 2, 3, 0]])
        shape: Any
        solid = {"colors": [color], "fill_mode": rerun.components.FillMode.Solid}
        if geom.kind == "mesh":
            vertices, normals, faces = mesh_triangles(model, int(model.geom_dataid[index]))
            shape = rerun.Mesh3D(
                vertex_positions=vertices, vertex_normals=normals, triangle_indices=faces, albedo_factor=color
            )
        elif geom.kind == "box":
            shape = rerun.Boxes3D(half_sizes=[size], **solid)
        elif geom.kind == "cylinder":
            shape = rerun.Cylinders3D(radii=[size[0]], lengths=[2 * size[1]], **solid)
        elif geom.kind == "capsule":
            length = 2 * size[1]
            shape = rerun.Capsules3D(radii=[size[0]], lengths=[length], translations=[[0, 0, -length / 2]], **solid)
        else:
            radii = [size[0]] * 3 if geom.kind == "sphere" else size
            shape = rerun.Ellipsoids3D(half_sizes=[radii], **solid)
        self._static(path, pose)
        self._static(path, shape)

    def _write_paths(self) -> None:
        episode = self._episode
        for name, path in self._executed.items():
            self._write_path("executed", name, path, episode.first_state, EXECUTED)
        for name, path in commanded_paths(episode).items():
            self._write_path("commanded", name, path, 0, COMMANDED)
        for name, plans in planned_paths(episode).items():
            entity = ("paths", "planned", name)
            self._static(entity, self._rerun.LineStrips3D.from_fields(colors=[PLANNED], radii=[1.5 * LINE]))
            assert episode.chunks is not None
            self._columns(entity, episode.chunks.step, self._rerun.LineStrips3D.columns(strips=plans))

    def _write_path(self, kind: str, name: str, path: np.ndarray, first: int, color: tuple[int, int, int]) -> None:
        rerun = self._rerun
        self._static(("paths", kind, name), rerun.LineStrips3D([path], colors=[color], radii=[LINE]))
        entity = ("paths", kind, name, "now")
        self._static(entity, rerun.Points3D.from_fields(colors=[color], radii=[POINT]))
        self._columns(entity, _steps(first, path), rerun.Points3D.columns(positions=path))

    def _write_curves(self) -> None:
        episode, spaces = self._episode, self._episode.spaces
        action_parts = spaces.action_parts if spaces else ()
        self._write_parts("action", episode.action, action_parts, episode.action_names, 0)
        if episode.state is not None:
            state_parts = spaces.state_parts if spaces else ()
            self._write_parts("state", episode.state, state_parts, episode.state_names, episode.first_state)
        for name, values in (("reward", episode.reward), ("stage", episode.stage)):
            if values is not None:
                self._write_curve(("outcome", name), values[:, None], (name,), 1)

    def _write_parts(
        self, kind: str, values: np.ndarray, parts: Sequence[tuple[Part, slice]], names: Sequence[str], first: int
    ) -> None:
        """Curves of each part of an action or a state; of all of it where its parts are not known."""
        if parts and parts[-1][1].stop == values.shape[1]:
            for part, place in parts:
                self._write_curve((kind, part.name), values[:, place], part.entry_names(), first)
            return
        if len(names) != values.shape[1]:
            names = [f"{kind}{index}" for index in range(values.shape[1])]
        self._write_curve((kind, "all"), values, names, first)

    def _write_curve(self, path: tuple[str, ...], values: np.ndarray, names: Sequence[str], first: int) -> None:
        self._static(path, self._rerun.SeriesLines(names=list(names)))
        flat = self._rerun.Scalars.columns(scalars=values.astype(np.float64).ravel())
        self._columns(path, _steps(first, values), flat.partition([values.shape[1]] * len(values)))

    def _write_pictures(self, camera: str, pictures: Pictures) -> None:
        path, first = ("cameras", camera), self._episode.first_state
        shown = pictures()
        if (picture := next(shown, None)) is None:
            return
        self._write_camera(path, camera, picture)
        shown = chain([picture], shown)
        for encoded in _blocks(encode_image(picture, ".jpeg", quality=JPEG_QUALITY) for picture in shown):
            columns = self._rerun.EncodedImage.columns(blob=encoded, media_type=["image/jpeg"] * len(encoded))
            self._columns(path, _steps(first, encoded), columns)
            first += len(encoded)

    def _write_camera(self, path: tuple[str, ...], camera: str, picture: np.ndarray) -> None:
        """Where a camera of the scene is, and how wide it sees: the 3-D view shows its pictures there."""
        rerun, scene, qpos = self._rerun, self._episode.scene, self._episode.qpos
        if scene is None or qpos is None or camera not in camera_names(scene.model):
            return
        height, width = picture.shape[:2]
        lens = rerun.Pinhole(
            focal_length=focal_length(scene.model, camera, height),
            width=width,
            height=height,
            camera_xyz=rerun.ViewCoordinates.RUB,
            image_plane_distance=PLANE_DISTANCE,
        )
        self._static(path, lens)
        positions, axes = camera_poses(scene.model, camera, qpos)
        columns = rerun.Transform3D.columns(translation=positions, mat3x3=axes)
        self._columns(path, _steps(self._episode.first_state, qpos), columns)

    def _static(self, path: tuple[str, ...], what: Any) -> None:
        self._stream.log(self._rerun.new_entity_path([*self._root, *path]), what, static=True)

    def _columns(self, path: tuple[str, ...], steps: np.ndarray, columns: Any) -> None:
        """Write a value for each of these steps."""
        times = [
            self._rerun.TimeColumn("step", sequence=steps),
            self._rerun.TimeColumn("time", duration=steps / self._episode.hz),
        ]
        self._stream.send_columns(self._rerun.new_entity_path([*self._root, *path]), times, columns)


def _layout(rerun: Any, episodes: Sequence[ViewedEpisode], roots: Sequence[str]) -> Any:
    """The scenes beside each other, pictures below them, curves on the right."""
    import rerun.blueprint as blueprint

    columns = []
    for root, episode in zip(roots, episodes, strict=False):
        at = f"/{root}" if root else ""
        cameras = [blueprint.Spatial2DView(origin=f"{at}/cameras/{name}", name=name) for name in episode.cameras]
        views = [
            blueprint.Spatial3DView(
                origin=at or "/",
                contents=[f"{at}/scene/**", f"{at}/paths/**", f"{at}/cameras/**"],
                name=episode.title,
                eye_controls=_eye(blueprint, episode),
            ),
            *([blueprint.Horizontal(*cameras)] if cameras else []),
            blueprint.TextDocumentView(origin=f"{at}/about", name="about"),
        ]
        columns.append(blueprint.Vertical(*views, row_shares=[4, 2, 1] if cameras else [4, 1]))
    curves = [
        blueprint.TimeSeriesView(
            origin="/", contents=[f"/{root}/{kind}/**" if root else f"/{kind}/**" for root in roots], name=title
        )
        for kind, title in (("outcome", "reward and stage"), ("action", "action"), ("state", "state"))
    ]
    return blueprint.Blueprint(
        blueprint.Horizontal(*columns, blueprint.Vertical(*curves), column_shares=[2] * len(columns) + [1]),
        blueprint.TimePanel(timeline="step", state="collapsed"),
        blueprint.SelectionPanel(state="collapsed"),
        blueprint.BlueprintPanel(state="collapsed"),
    )


def _eye(blueprint: Any, episode: ViewedEpisode) -> Any:
    """Look at the scene as the camera of its pictures does."""
    scene, qpos = episode.scene, episode.qpos
    if scene is None or qpos is None:
        return None
    positions, axes = camera_poses(scene.model, scene.task.picture_camera, qpos[:1])
    position, towards_viewer = positions[0], axes[0, :, 2]
    return blueprint.EyeControls3D(position=position, look_target=position - towards_viewer, eye_up=(0, 0, 1))


def _steps(first: int, values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """A step for each of the values, from `first` on."""
    return np.arange(first, first + len(values))


def _blocks(values: Iterator[bytes]) -> Iterator[list[bytes]]:
    while block := list(islice(values, PICTURES_AT_ONCE)):
        yield block


def _name(name: str, index: int) -> str:
    """Name of a body or a geom; many geoms have none."""
    return name or str(index)
