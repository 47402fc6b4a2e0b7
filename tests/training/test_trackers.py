"""metrics.jsonl."""

import json

from imf_jax.training.trackers import FILE, JsonlTracker, read_metrics


def test_every_line_is_on_disk_at_once(tmp_path):
    with JsonlTracker(tmp_path) as tracker:
        tracker.log(1, {"loss": 0.5})
        assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}]
        tracker.log(2, {"loss": float("nan"), "validation/success": 1.0})
    assert read_metrics(tmp_path)[1] == {"step": 2, "loss": None, "validation/success": 1.0}


def test_resuming_drops_later_and_cut_off_lines(tmp_path):
    with JsonlTracker(tmp_path) as tracker:
        for step in (2, 4, 4, 6):
            tracker.log(step, {"loss": 1.0})
    with open(tmp_path / FILE, "a") as file:
        file.write('{"step": 3, "lo')
    with JsonlTracker(tmp_path, last_step=4) as tracker:
        tracker.log(5, {"loss": 2.0})
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 4, 5]
