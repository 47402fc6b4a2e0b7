"""Training from pictures: frozen features and their cache, pictures in memory, what is refused, and the closed loop."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from efficientnet_weights import tiny_encoder
from flax import nnx
from transfer_task import SPACES

from imf_jax import checkpoints, seeds
from imf_jax.commands import features
from imf_jax.config import EfficientNetEncoderConfig, LewmEncoderConfig, ResNetEncoderConfig, TrainConfig
from imf_jax.conversion.lewm import Args, convert
from imf_jax.data.episodes import episode_path, read_episode, write_episode, write_episodes
from imf_jax.data.picture_cache import StoredPictures
from imf_jax.data.pictures import find_pictures, read_pictures
from imf_jax.data.statistics import write_statistics
from imf_jax.data.windows import load_demonstrations, windows_at
from imf_jax.errors import EXIT_OK, ArgumentError, UserError
from imf_jax.models.encoders import efficientnet
from imf_jax.models.encoders.lewm import Frozen
from imf_jax.models.policy import Policy, build_policy, split_policy
from imf_jax.recording.collection import DemonstrationRecorder
from imf_jax.recording.demonstrator import Demonstrator
from imf_jax.rollout.engine import Rollout
from imf_jax.rollout.episode import EpisodeRecord
from imf_jax.rollout.frames import FrameReader
from imf_jax.rollout.planner import PolicyPlanner
from imf_jax.rollout.scenes import run_chunk
from imf_jax.seeds import STEP_STREAM, root_key, scene_keys, split_seed
from imf_jax.sim.tasks.transfer import Transfer
from imf_jax.training import loop, saved_state, vision
from imf_jax.training.state import draw_windows, initial_state, stream_pictures, streamed_windows

FIXTURES = Path(__file__).parents[1] / "fixtures" / "lewm"
CAMERAS = ("r_vis", "top", "front")
SIZE = 40
EMBEDDING = 12
STEPS = 10


def pictures(episode: int, cameras: tuple[str, ...] = CAMERAS, size: int = SIZE) -> dict[str, np.ndarray]:
    random = np.random.default_rng(episode)
    return {camera: random.integers(0, 256, (STEPS, size, size, 3), np.uint8) for camera in cameras}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny converted LEWM encoder."""
    out = tmp_path_factory.mktemp("encoders") / "lewm"
    convert(Args(FIXTURES / "new.ckpt", out, heads=2))
    return out


@pytest.fixture
def seen(tmp_path: Path, make_demonstration: Callable[..., Any]) -> Path:
    """Two demonstrations with pictures."""
    folder = tmp_path / "seen"
    write_episodes(folder, [replace(make_demonstration(e, STEPS), images=pictures(e)) for e in range(2)])
    write_statistics(folder)
    return folder


@pytest.fixture
def lewm_config(config: TrainConfig, seen: Path, encoder: Path, tmp_path: Path) -> TrainConfig:
    own = shutil.copytree(encoder, tmp_path / "encoder")
    sees = replace(config.policy, encoder=LewmEncoderConfig(own, "row", SIZE))
    return replace(config, data=seen, out=tmp_path / "lewm", max_steps=2, policy=sees)


@pytest.fixture
def resnet_config(config: TrainConfig, seen: Path, tmp_path: Path) -> TrainConfig:
    resnet = ResNetEncoderConfig(("top", "front"), SIZE, 36, norm="batch", keypoints=3, width=16)
    sees = replace(config.policy, encoder=resnet)
    return replace(config, data=seen, out=tmp_path / "resnet", max_steps=2, batch_size=2, policy=sees)


def sensitive(policy: Policy) -> Policy:
    """The same with larger weights: an untrained head hardly listens to its condition."""
    nnx.update(policy.head, jax.tree.map(lambda leaf: 20 * leaf, nnx.state(policy.head, nnx.Param)))
    return policy


def observation(batch: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (batch, 2, 3, SIZE, SIZE, 3), np.uint8)
    return {"state": random.normal(size=(batch, 2, 16)).astype(np.float32), "images": images}


def test_frozen_encoder_is_no_part_of_what_is_trained(lewm_config: TrainConfig, config: TrainConfig) -> None:
    policy = build_policy(lewm_config, SPACES, 7)
    assert policy.joint_output_dim == EMBEDDING
    assert policy.head.condition_dim == EMBEDDING + 16
    state, frozen = initial_state(policy, lewm_config)
    without, _ = initial_state(build_policy(config, SPACES, 7), config)
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(without))
    kept = [v for _, v in nnx.to_flat_state(frozen.variables) if isinstance(v, Frozen)]
    assert len(kept) == len(policy.frozen_encoder.weights)
    assert not jax.tree.leaves(state.statistics)


def test_training_from_cached_features(
    lewm_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = build_policy(lewm_config, SPACES, 7).frozen_encoder
    before = {name: np.array(value[...]) for name, value in encoder.weights.items()}
    assert loop.train(lewm_config) == EXIT_OK
    (cache,) = lewm_config.data.glob("features_*.npz")
    assert f"written to {cache}" in capsys.readouterr().out

    # The checkpoint is whole without the encoder's folder, and the encoder in it is bit for bit what it was.
    shutil.rmtree(lewm_config.policy.encoder.weights)
    loaded = sensitive(checkpoints.load_policy(lewm_config.out).policy)
    for name, value in loaded.frozen_encoder.weights.items():
        np.testing.assert_array_equal(value[...], before[name], err_msg=name)
    sees = observation()
    features = {"state": sees["state"], "features": loaded.conditioning.embed(sees["images"])}
    assert features["features"].shape == (1, 2, EMBEDDING)
    noise = np.ones((1, 16, 16), np.float32)
    plan = np.asarray(loaded.plan(sees, noise))
    np.testing.assert_allclose(loaded.plan(features, noise), plan, atol=1e-4)
    other = {**sees, "images": np.zeros_like(sees["images"])}
    assert np.abs(np.asarray(loaded.plan(other, noise)) - plan).max() > 1e-2, "the plan depends on the pictures"

    # Neither training with the cache nor resuming touches the vision transformer.
    shutil.copytree(Path(lewm_config.out), moved := lewm_config.out.with_name("moved"))
    convert(Args(FIXTURES / "new.ckpt", lewm_config.policy.encoder.weights, heads=2))
    monkeypatch.setattr(vision, "compute_features", lambda *args: pytest.fail("embedded again"))
    assert loop.train(replace(lewm_config, out=moved, resume=True, max_steps=3)) == EXIT_OK
    assert f"from the cache {cache}" in capsys.readouterr().out


def test_training_from_cached_patches(lewm_config: TrainConfig, config: TrainConfig) -> None:
    sees = replace(lewm_config.policy.encoder, features="patches", keypoints=5)
    patches = replace(lewm_config, policy=replace(lewm_config.policy, encoder=sees))
    assert loop.train(patches) == EXIT_OK
    (cache,) = patches.data.glob("features_*.npz")
    assert loop.train(replace(lewm_config, out=config.out.with_name("embedding"), max_steps=1)) == EXIT_OK
    assert len([*patches.data.glob("features_*.npz")]) == 2, "embeddings have a cache of their own"
    with np.load(cache) as stored:
        assert (stored["features"].shape[:2], stored["features"].dtype) == ((2 * STEPS, 3), np.float16)

    # The checkpoint is whole without the encoder's folder, and plans from pictures as from their maps.
    shutil.rmtree(sees.weights)
    loaded = sensitive(checkpoints.load_policy(patches.out).policy)
    assert loaded.head.condition_dim == 3 * 2 * 5 + 16
    assert loaded.joint_output_dim is None
    observed = observation()
    features = {"state": observed["state"], "features": loaded.conditioning.embed(observed["images"])}
    noise = np.ones((1, 16, 16), np.float32)
    plan = np.asarray(loaded.plan(observed, noise))
    np.testing.assert_allclose(loaded.plan(features, noise), plan, atol=1e-4)
    kernel = loaded.conditioning.keypoint_maps.kernel
    kernel[...] = 50 * kernel[...]
    other = {**observed, "images": np.zeros_like(observed["images"])}
    assert np.abs(np.asarray(loaded.plan(other, noise)) - np.asarray(loaded.plan(observed, noise))).max() > 1e-2


def test_training_from_cached_maps(
    config: TrainConfig, seen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sees = replace(config.policy, encoder=EfficientNetEncoderConfig(("front", "top"), SIZE, keypoints=4))
    config = replace(config, data=seen, out=config.out.with_name("maps"), max_steps=2, policy=sees)
    monkeypatch.setattr(efficientnet, "load", lambda stride: tiny_encoder())
    with monkeypatch.context() as patch:
        patch.setattr("imf_jax.data.pictures.free_main_memory", lambda: 40_000)
        with pytest.raises(UserError, match=r"frozen features of .* take 0.0 GB \(20 steps x 2.0 kB\)"):
            loop.train(config)
    assert not config.out.exists()
    assert not list(seen.glob("features_*"))

    assert loop.train(config) == EXIT_OK
    (cache,) = seen.glob("features_*.npz")
    assert f"written to {cache}" in capsys.readouterr().out
    with np.load(cache) as stored:
        maps = stored["features"]
    assert (maps.shape, maps.dtype) == ((2 * STEPS, 2, 10, 10, 5), np.float16)

    # The checkpoint is whole without the package, and plans from pictures as from their maps, in a compiled loop too.
    monkeypatch.setattr(efficientnet, "load", lambda stride: pytest.fail("the package was asked for"))
    loaded = sensitive(checkpoints.load_policy(config.out).policy)
    kernel = loaded.conditioning.keypoint_maps.kernel
    kernel[...] = 50 * kernel[...]
    for name, value in tiny_encoder().weights.items():
        np.testing.assert_array_equal(loaded.frozen_encoder.weights[name][...], value[...], err_msg=name)
    images = np.stack([pictures(0)[camera][[3, 4]] for camera in ("front", "top")], axis=1)[None]
    state, noise = load_demonstrations(seen)[0].state[None, np.array([3, 4])], np.ones((1, 16, 16), np.float32)
    plan = np.asarray(loaded.plan({"state": state, "features": maps[None, [3, 4]]}, noise))
    graph, weights = nnx.split(loaded)

    @jax.jit
    def looped(images: jax.Array) -> jax.Array:
        def one(carry: None, images: jax.Array) -> tuple[None, jax.Array]:
            return carry, nnx.merge(graph, weights).plan({"state": state, "images": images}, noise)

        return jax.lax.scan(one, None, images)[1]

    plans = looped(np.stack([images, 255 - images]))
    same, other = (float(np.abs(np.asarray(found) - plan).max()) for found in plans)
    assert same < 0.05 * other, "the plan depends on the pictures, and on nothing else"

    monkeypatch.setattr(efficientnet, "load", lambda stride: tiny_encoder(seed=1))
    with pytest.raises(ArgumentError, match="the frozen encoder is not the one"):
        loop.train(replace(config, max_steps=3, resume=True))


def test_windows_carry_the_features_of_their_steps(lewm_config: TrainConfig) -> None:
    policy = build_policy(lewm_config, SPACES, 7)
    data, _ = load_demonstrations(lewm_config.data)
    found = find_pictures(lewm_config.data, CAMERAS, SIZE)
    data, _ = vision.with_vision(data, found, policy, lambda line: None)
    window = windows_at(data, np.array([0, 4, 10, 19]), obs_horizon=2, pred_horizon=16)["observation"]
    assert "images" not in window
    together = [np.stack([pictures(e)[camera] for camera in CAMERAS], axis=1) for e in range(2)]
    steps = np.array([[0, 0], [3, 4], [10, 10], [18, 19]])
    expected = policy.conditioning.embed(np.concatenate(together)[steps])
    np.testing.assert_allclose(window["features"], expected, atol=2e-6)
    np.testing.assert_array_equal(window["state"], np.asarray(data.state)[steps])


def test_streamed_pictures_are_those_of_the_windows_of_every_step(resnet_config: TrainConfig) -> None:
    """Also from a later step on, as after a resume."""
    resnet_config = replace(resnet_config, max_steps=4)
    data = load_demonstrations(resnet_config.data)[0]
    images = read_pictures(find_pictures(resnet_config.data, ("top", "front"), SIZE))
    draw, key = draw_windows(resnet_config), root_key(resnet_config.seed, STEP_STREAM)
    for first in (0, 3):
        batches = list(stream_pictures(resnet_config, data, images, streamed_windows(resnet_config), first))
        assert len(batches) == 4 - first
        for step, batch in enumerate(batches, first):
            window = draw(data._replace(images=jax.device_put(images)), seeds.split(seeds.fold_in(key, step))[0])
            np.testing.assert_array_equal(batch, window["observation"]["images"])


@pytest.mark.long
def test_training_from_pictures_resumes_exactly(
    resnet_config: TrainConfig, same_leaves: Callable[[Any, Any], None]
) -> None:
    """Weights, their average and the running statistics of batch normalisation all continue bit for bit."""

    def restored(config: TrainConfig) -> Any:
        state, frozen = initial_state(build_policy(config, SPACES, 7), config)
        return saved_state.restore_state(checkpoints.newest_checkpoint(config.out), state, frozen)

    encoder = replace(resnet_config.policy.encoder, shared=True)  # one network compiles in half the time of two
    resnet_config = replace(resnet_config, policy=replace(resnet_config.policy, encoder=encoder))
    assert loop.train(replace(resnet_config, save_every=1)) == EXIT_OK
    assert "prefetch" not in [thread.name for thread in threading.enumerate()]
    whole = restored(resnet_config)
    shutil.rmtree(checkpoints.checkpoint_path(resnet_config.out, 2))
    assert loop.train(replace(resnet_config, resume=True)) == EXIT_OK
    same_leaves(restored(resnet_config), whole)
    assert int(whole.step) == 2
    initial, _ = initial_state(build_policy(resnet_config, SPACES, 7), resnet_config)
    for part in ("params", "statistics", "average"):
        moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), getattr(initial, part), getattr(whole, part))
        assert jax.tree.all(moved), part
    loaded = checkpoints.load_policy(resnet_config.out).policy
    _, params, statistics = split_policy(loaded)
    same_leaves(nnx.merge_state(params, statistics), whole.average)


def test_training_says_through_which_cameras_it_does_not_look(
    resnet_config: TrainConfig, make_demonstration: Callable[..., Any], tmp_path: Path, capsys: Any
) -> None:
    covered = np.full((STEPS, SIZE, SIZE, 3), 40, np.uint8)
    demonstrations = [replace(make_demonstration(e, STEPS), images=pictures(e) | {"front": covered}) for e in range(2)]
    write_episodes(tmp_path / "covered", demonstrations)
    write_statistics(tmp_path / "covered")
    assert loop.train(replace(resnet_config, data=tmp_path / "covered", max_steps=1)) == EXIT_OK
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert "does not look through front (" in warning
    assert "top" not in warning


def test_a_camera_missing_from_a_demonstration_is_named(
    resnet_config: TrainConfig, make_demonstration: Callable[..., Any]
) -> None:
    path = write_episode(
        resnet_config.data, replace(make_demonstration(1, STEPS), images=pictures(1, ("r_vis", "top")))
    )
    with pytest.raises(UserError, match="no pictures of camera 'front'") as caught:
        loop.train(resnet_config)
    assert str(path) in str(caught.value)
    assert not resnet_config.out.exists()


def test_pictures_of_another_size_are_named(resnet_config: TrainConfig) -> None:
    sees = replace(resnet_config.policy, encoder=replace(resnet_config.policy.encoder, image_size=64))
    with pytest.raises(UserError, match=r"are 40x40, but policy\.encoder\.image_size is 64"):
        loop.train(replace(resnet_config, policy=sees))
    assert not resnet_config.out.exists()


def test_pictures_that_do_not_fit_are_read_from_a_cache_on_the_disk(
    resnet_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    found = find_pictures(resnet_config.data, resnet_config.policy.encoder.cameras, SIZE)
    whole = read_pictures(found)
    monkeypatch.setattr("imf_jax.data.pictures.free_main_memory", lambda: 100_000)
    with pytest.raises(UserError, match=r"take 0.0 GB \(20 steps x 2 cameras x 40x40\)"):
        read_pictures(found)
    policy = build_policy(resnet_config, SPACES, 7)
    demonstrations, _ = load_demonstrations(resnet_config.data)
    said: list[str] = []
    _, stored = vision.with_vision(demonstrations, found, policy, said.append)
    assert isinstance(stored, StoredPictures)
    assert stored.shape == whole.shape
    rows = np.array([[3, 0], [19, 3]])
    np.testing.assert_array_equal(stored[rows], whole[rows])
    assert "from the cache" in said[-1]


def test_a_folder_without_encoder_is_refused(lewm_config: TrainConfig, tmp_path: Path) -> None:
    sees = replace(lewm_config.policy, encoder=LewmEncoderConfig(tmp_path / "nowhere", "row", SIZE))
    with pytest.raises(UserError, match=r"nowhere holds no LEWM encoder; make one with converters/lewm\.py"):
        loop.train(replace(lewm_config, policy=sees))
    assert not lewm_config.out.exists()


def test_another_encoder_is_refused_on_resume(lewm_config: TrainConfig) -> None:
    cut = replace(lewm_config, max_steps=1)
    loop.train(cut)
    folder = lewm_config.policy.encoder.weights
    shutil.rmtree(folder)
    convert(Args(FIXTURES / "float16.pt", folder, heads=2))
    with pytest.raises(ArgumentError, match="the frozen encoder is not the one"):
        loop.train(replace(cut, max_steps=2, resume=True))


def test_a_stale_cache_is_refused(lewm_config: TrainConfig, make_demonstration: Callable[..., Any]) -> None:
    loop.train(replace(lewm_config, max_steps=1))
    changed = {camera: 255 - values for camera, values in pictures(0).items()}
    write_episode(lewm_config.data, replace(make_demonstration(0, STEPS), images=changed))
    with pytest.raises(UserError, match=r"cached features .* have changed since it was made; delete the file"):
        loop.train(replace(lewm_config, out=lewm_config.out.with_name("again")))
    assert not lewm_config.out.with_name("again").exists()


def test_the_loop_closes_over_rendered_pictures(lewm_config: TrainConfig, transfer_backend: Any) -> None:
    """A policy that sees drives the real scene: the same whatever runs beside it, and blind to the scene state."""
    _, output = transfer_backend.reset(scene_keys(0, [0]))
    size = transfer_backend.render(output.qpos, CAMERAS).shape[2]
    sees = replace(lewm_config.policy, encoder=replace(lewm_config.policy.encoder, image_size=size))
    policy = sensitive(build_policy(replace(lewm_config, policy=sees), SPACES, 7))
    policy.set_statistics(load_demonstrations(lewm_config.data)[1].arrays)

    class Watched(PolicyPlanner):
        def plan(self, observations: dict[str, np.ndarray], *others: Any) -> np.ndarray:
            assert observations["images"].shape[1:] == (2, 3, size, size, 3)
            hidden = {**observations, "env_state": np.full_like(observations["env_state"], np.nan)}
            return super().plan(hidden, *others)

    def records(num_envs: int, episodes: list[int]) -> tuple[dict[int, tuple], int]:
        planner = Watched(policy, plan_batch=2)
        done: list[EpisodeRecord] = []
        rollout = Rollout(
            transfer_backend, planner, episodes, seed=0, max_steps=20, num_envs=num_envs, on_record=done.append
        )
        rendered = rollout.run().frames_rendered
        return {r.episode: (r.status, r.steps, r.return_, r.max_ik_error) for r in done}, rendered

    together, rendered = records(3, [0, 1, 2])
    assert {status for status, *_ in together.values()} == {"timeout"}
    assert rendered == 3 * 3 * (1 + 2 + 2)
    alone, _ = records(1, [2, 0])
    assert alone == {episode: together[episode] for episode in (2, 0)}


def test_rollouts_show_what_demonstrations_show(
    transfer_backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same scene looks the same in a demonstration and to a planner: cameras in one order, frames of one moment."""
    monkeypatch.setattr(Transfer, "max_steps", 10)
    seed = split_seed("demonstration", 0)
    recorder = DemonstrationRecorder(tmp_path, transfer_backend, CAMERAS[::-1])
    monkeypatch.setattr(recorder, "keeps", lambda record: True)
    demonstrator = Demonstrator("transfer", position_noise=0.008, yaw_noise=0.04, joint_noise=0.0)
    options = {"seed": seed, "max_steps": 10, "num_envs": 1, "on_record": lambda record: None}
    assert not Rollout(transfer_backend, demonstrator, [4], recorders=[recorder], **options).run().capture_errors
    episode = read_episode(episode_path(tmp_path, 4), images=True)
    recorded = find_pictures(tmp_path, CAMERAS, episode.images["top"].shape[1]).read(0)
    sim, start = transfer_backend.reset(scene_keys(seed, [4]))
    frames = FrameReader(transfer_backend, CAMERAS, 2)
    first = frames.first(start.qpos)
    np.testing.assert_array_equal(first[0, 0], recorded[0])
    executed = (episode.action + episode.noise)[None, :8]
    _, output = run_chunk(transfer_backend, sim, executed)
    np.testing.assert_array_equal(output.state[0, -1], episode.state[8])
    np.testing.assert_array_equal(frames.next(first, output.qpos)[0], recorded[[7, 8]])
    assert (recorded[7] != recorded[8]).any()


def test_demonstrations_without_a_scene_state_teach_a_policy_that_sees(
    lewm_config: TrainConfig, config: TrainConfig, make_demonstration: Callable[..., Any]
) -> None:
    """As imported from others: there are pictures, but nobody knows where the objects were."""
    for path in lewm_config.data.glob("episode_*.hdf5"):
        path.unlink()
    blind = [replace(make_demonstration(index, STEPS), images=pictures(index)) for index in range(2)]
    write_episodes(lewm_config.data, [replace(one, env_state=one.env_state[:, :0]) for one in blind])
    write_statistics(lewm_config.data)
    assert loop.train(replace(lewm_config, max_steps=1)) is not None
    with pytest.raises(ArgumentError, match=r"has a scene state of 7 entries, but .* has 0"):
        loop.train(replace(config, data=lewm_config.data, out=config.out.with_name("state")))


def test_features_are_cached_by_a_command_of_their_own(lewm_config: TrainConfig, capsys: Any) -> None:
    """Suites make them once, before several trainings start."""
    encoder = lewm_config.policy.encoder
    assert isinstance(encoder, LewmEncoderConfig)
    flags = ["debug", "--policy.encoder", "lewm", "--policy.encoder.weights", str(encoder.weights)]
    flags += ["--policy.encoder.image-size", str(SIZE), "--data", str(lewm_config.data)]
    features.main(flags)
    assert "frozen features of 20 steps" in capsys.readouterr().out
    (cache,) = lewm_config.data.glob("features_*.npz")
    made = cache.read_bytes()
    features.main(flags)
    assert "from the cache" in capsys.readouterr().out
    assert cache.read_bytes() == made
    with pytest.raises(ArgumentError, match="no frozen encoder"):
        features.main(["debug", "--data", str(lewm_config.data)])
