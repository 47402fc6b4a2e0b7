"""Highlight: run without an end, keep only the moments around an event.

An event is known only after the moments that led to it, so each scene has a ring buffer of its last moments. It holds
states and no pictures: only frames that are kept are rendered.
"""

import json
from collections.abc import Sequence

from typing_extensions import override

from imf_jax.config.recording import EventName
from imf_jax.data.lerobot.open_episode import OpenEpisode
from imf_jax.errors import UserError
from imf_jax.recording.base import Frame
from imf_jax.recording.events import AT_END, EventDetector, EventRules
from imf_jax.recording.recording import Recording, RecordingStrategy
from imf_jax.recording.ring import RingBuffer
from imf_jax.rollout.episode import EpisodeRecord

CLIPS = "meta/highlights.jsonl"
"""One line per clip: number of the episode in the dataset, scene, first step, events."""


class _Clip:
    """Open clip: the episode, its first step, its events, the number of frames still wanted."""

    def __init__(self, episode: OpenEpisode, first_step: int) -> None:
        self.episode, self.first_step = episode, first_step
        self.events: list[dict[str, int | str]] = []
        self.left = 0
        self.success = False


class HighlightStrategy(RecordingStrategy):
    """Saves a clip per event, or per events that follow each other within the post-roll. No frame is in two clips.

    Args:
        recording: the dataset.
        rules: the rules that define the events.
        pre_frames: frames kept from before an event, at most.
        post_frames: frames kept from after it, at most.
        ring_bytes: memory of the ring buffer of one scene [bytes].
    """

    name = "highlight"

    def __init__(
        self, recording: Recording, rules: EventRules, *, pre_frames: int, post_frames: int, ring_bytes: int
    ) -> None:
        super().__init__(recording)
        self._rules = rules
        self._pre_frames, self._post_frames, self._ring_bytes = pre_frames, post_frames, ring_bytes
        self._detectors: dict[int, EventDetector] = {}
        self._rings: dict[int, RingBuffer[Frame]] = {}
        self._clips: dict[int, _Clip] = {}
        self._last_steps: dict[int, int] = {}

    @override
    def on_step(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            scene = frame.scene
            detector = self._detectors.setdefault(scene, EventDetector(self._rules))
            ring = self._rings.setdefault(scene, RingBuffer(self._pre_frames, self._ring_bytes))
            self._last_steps[scene] = frame.step
            events = detector.update(frame)
            if scene in self._clips:
                self._append(scene, [frame])
            elif events:
                self._begin(scene, [*ring.drain(), frame])
            else:
                ring.push(frame)
                continue
            clip = self._clips[scene]
            clip.success |= bool(frame.after.success)
            if events:
                self._note(clip, events, frame.step)
            else:
                clip.left -= 1
            if clip.left <= 0:
                self._save(scene)

    @override
    def on_end(self, record: EpisodeRecord) -> None:
        """Save the open clip: some events show only at the end, and there is no post-roll any more."""
        scene, event = record.episode, AT_END.get(record.status)
        if event in self._rules.events and scene in self._last_steps:
            frames = self._rings[scene].drain()
            if scene not in self._clips and frames:
                self._begin(scene, frames)
            if event is not None and scene in self._clips:
                self._note(self._clips[scene], (event,), self._last_steps[scene])
        if scene in self._clips:
            self._save(scene)
        self._forget(scene)

    @override
    def on_lost(self, scene: int) -> None:
        clip = self._clips.pop(scene, None)
        if clip is not None:
            clip.episode.discard()
        self._forget(scene)

    @override
    def finish(self) -> None:
        """Save the open clips, marked as cut."""
        for scene in list(self._clips):
            if self.failed is None:
                self._save(scene, cut=True)
            else:
                self.on_lost(scene)

    @override
    def bytes_per_scene(self, max_steps: int) -> int:
        return self._ring_bytes

    def _begin(self, scene: int, frames: list[Frame]) -> None:
        self._clips[scene] = _Clip(self._recording.open(), frames[0].step)
        self._append(scene, frames)

    def _append(self, scene: int, frames: list[Frame]) -> None:
        for _, values in self._recording.filled(frames):
            self._recording.add(self._clips[scene].episode, values)

    def _note(self, clip: _Clip, events: Sequence[EventName], step: int) -> None:
        clip.events += [{"event": event, "step": step} for event in events]
        clip.left = self._post_frames

    def _save(self, scene: int, *, cut: bool = False) -> None:
        clip = self._clips.pop(scene)
        number = self._recording.save(clip.episode, scene, success=clip.success, cut=cut)
        line = {"episode": number, "scene": scene, "first_step": clip.first_step, "events": clip.events}
        path = self._recording.writer.folder / CLIPS
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}); free space") from None

    def _forget(self, scene: int) -> None:
        for kept in (self._detectors, self._rings, self._last_steps):
            kept.pop(scene, None)
