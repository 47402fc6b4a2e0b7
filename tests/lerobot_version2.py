"""Convert a LeRobot v3.0 dataset to the layout of version 2.1, without encoding its videos again."""

import json
import shutil
from pathlib import Path

import av
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imf_jax.data.lerobot.reader import Dataset, open_dataset
from imf_jax.data.lerobot.tables import EpisodeRow

DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


def to_version2(source: Path, target: Path, chunk: int = 1000) -> Path:
    """Write a copy of `source` in the layout of version 2.1, `chunk` episodes in a folder; returns its folder."""
    dataset = open_dataset(source)
    (target / "meta").mkdir(parents=True)
    for episode in dataset.episodes:
        place = {"episode_chunk": episode.index // chunk, "episode_index": episode.index}
        path = target / DATA.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pq.read_table(source / episode.data)
        pq.write_table(table.filter(pc.equal(table.column("episode_index"), pa.scalar(episode.index))), path)
        for camera in episode.videos:
            path = target / VIDEO.format(video_key=camera, **place)
            path.parent.mkdir(parents=True, exist_ok=True)
            cut_video(dataset, episode, camera, path)
    info = json.loads((source / "meta/info.json").read_text())
    videos = {"video_path": VIDEO if dataset.episodes[0].videos else None}
    info |= {"codebase_version": "v2.1", "chunks_size": chunk, "data_path": DATA} | videos
    (target / "meta/info.json").write_text(json.dumps(info))
    rows = [{"episode_index": e.index, "tasks": list(e.tasks), "length": e.length} for e in dataset.episodes]
    tasks = [{"task_index": number, "task": task} for number, task in enumerate(dataset.tasks)]
    for name, lines in (("episodes", rows), ("tasks", tasks)):
        (target / f"meta/{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return target


def cut_video(dataset: Dataset, episode: EpisodeRow, camera: str, target: Path) -> None:
    """Copy the packets of an episode, each of which begins with a key frame, into a video of its own."""
    path, began = episode.videos[camera]
    if sum(row.videos[camera][0] == path for row in dataset.episodes) == 1:
        shutil.copy(dataset.folder / path, target)
        return
    last = began + (episode.length - 0.5) / dataset.fps
    with av.open(str(dataset.folder / path)) as old, av.open(str(target), "w", format="mp4") as new:
        stream = old.streams.video[0]
        copied = new.add_stream_from_template(stream, opaque=True)
        for packet in old.demux(stream):
            time = None if packet.pts is None else float(packet.pts * stream.time_base)
            if time is not None and began - 0.5 / dataset.fps < time < last:
                shift = round(began / stream.time_base)
                packet.pts, packet.dts = packet.pts - shift, (packet.dts or packet.pts) - shift
                packet.stream = copied
                new.mux(packet)
