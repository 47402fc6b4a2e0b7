"""report.html and the comparison page: what they show, that they open offline, and that damage never stops them."""

import html.parser
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imf_jax.errors import UserError
from imf_jax.evaluation.manifest import folder_hash
from imf_jax.evaluation.report import parts as report_parts
from imf_jax.evaluation.report.charts import (
    Series,
    line_chart,
    nice_ticks,
    path_bounds,
    shade,
    simplify_path,
    stage_strip,
)
from imf_jax.evaluation.report.load import read_evaluation
from imf_jax.evaluation.report.page import write_report
from imf_jax.evaluation.statistics import episode_statistics
from imf_jax.rollout.episode import EpisodeRecord

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STATUSES = ("success", "timeout", "failure", "error")
STEPS = (40, 70, 20, 9)


def make_evaluation(folder: Path, episodes: int = 12, **manifest) -> Path:
    """An evaluation with every capture; statuses and lengths take turns."""
    records = []
    for episode in range(episodes):
        kind = episode % 4
        path = folder / "episodes" / f"ep_{episode:06d}"
        path.mkdir(parents=True)
        steps = STEPS[kind]
        reward = np.minimum(np.arange(steps) // 8, 4 if kind == 0 else 2).astype(np.float32)
        line = np.linspace([0.4, -0.3, 0.1], [0.5, 0.0, 0.3], steps)
        np.savez(
            path / "trajectory.npz", reward=reward, executed_left_link7_pos=-line * [-1, 1, 1],
            executed_right_link7_pos=line,
        )  # fmt: skip
        Image.fromarray(np.full((64, 64, 3), 20 * episode % 255, np.uint8)).save(path / "trajectory.png")
        (path / "front.mp4").write_bytes(b"video")
        files = {"path_image": "trajectory.png", "trajectory": "trajectory.npz", "video_front": "front.mp4"}
        record = EpisodeRecord(
            episode=episode, seed=0, env_slot=0, status=STATUSES[kind], steps=steps, start_step=0, end_step=steps - 1,
            return_=float(reward.sum()), max_reward=float(reward.max()), success_step=steps - 1 if kind == 0 else None,
            replans=steps // 8, error="it <broke>" if kind == 3 else None,
            artifacts={name: f"episodes/ep_{episode:06d}/{file}" for name, file in files.items()},
        )  # fmt: skip
        records.append(record)
    seeds = {"split": "test", "seed": 0, "episodes": [0, episodes - 1]}
    content = {"policy": "run <1>", "task": "transfer", "seeds": seeds, "config": {"note": "</script><b>", "size": 3}}
    (folder / "manifest.json").write_text(json.dumps(content | manifest))
    (folder / "episodes.jsonl").write_text("".join(record.to_json() + "\n" for record in records))
    metrics = episode_statistics(records) | {"interrupted": False, "wall_s": 12.3, "capture_errors": []}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    timing = {"count": 50, "mean": 2.0, "std": 0.5, "min": 1.0, "max": 9.0, "p50": 1.75, "p95": 3.0}
    (folder / "timing.json").write_text(json.dumps(dict.fromkeys(report_parts.TIMING_STAGES, timing) | {"more": 1}))
    return folder


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    return make_evaluation(tmp_path / "evaluation")


class Page(html.parser.HTMLParser):
    """Checks that elements are closed and collects addresses, text and attributes."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(self.source)
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] not in (["style"], ["script"]):
            self.text += data


def test_everything_there_is_on_the_page(evaluation: Path) -> None:
    page = Page(write_report(evaluation))
    text = " ".join(page.text.split())
    assert "transfer: run <1>" in text
    assert "success 3/12 = 25.0 % (95 % interval 8.9-53.2 %), 3 ended in an error" in text
    assert "3/9 = 33.3 %" in text, "the reading without errors"
    assert "12 episodes cannot rank checkpoints" in text
    assert "3 left touch" in text
    assert "it <broke>" in text
    assert "3 successful" in text
    assert "9 not successful" in text
    assert "1.750" in text, "the median of a timing stage"
    assert "</script><b>" in text
    assert "Problems" not in text
    assert page.source.count('class="strip"') == 12
    assert page.source.count('class="range"') == 5
    embedded = [address for address in page.addresses if address.startswith("data:image/jpeg")]
    assert len(embedded) == 12
    assert {address for address in page.addresses if not address.startswith("data:")} == {
        f"episodes/ep_{episode:06d}/{name}"
        for episode in range(12)
        for name in ("trajectory.png", "trajectory.npz", "front.mp4")
    }


def test_the_reference_is_shown_beside(tmp_path: Path) -> None:
    reference = {
        "label": "scripted expert", "n_episodes": 200, "n_success": 199, "n_error": 0, "pc_success": 99.5,
        "pc_success_ci95": [97.2, 99.9],
    }  # fmt: skip
    text = Page(write_report(make_evaluation(tmp_path / "evaluation", reference=reference))).text
    assert "scripted expert" in text
    assert "199/200 = 99.5 % (97.2–99.9)" in text


def test_the_page_opens_offline_and_is_reproducible(evaluation: Path) -> None:
    first = write_report(evaluation).read_bytes()
    assert write_report(evaluation).read_bytes() == first
    assert not re.search(rb"https?://|url\(|@import|<script src|fetch\(", first)


def with_run(project: Path, stored: str, loss: float = 1.0) -> Path:
    """An evaluation in `project`/evals/first of a checkpoint of `project`/runs/mine; the manifest says `stored`."""
    checkpoint = project / "runs" / "mine" / "checkpoints" / "400"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_text(str(loss))
    lines = [{"step": step, "loss": loss / step} for step in range(10, 500, 10)]
    (checkpoint.parent.parent / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (project / "evals").mkdir()
    facts = {"path": stored, "sha256": folder_hash(checkpoint), "step": 400}
    return make_evaluation(project / "evals" / "first", 4, checkpoint=facts)


def has_curves(folder: Path) -> bool:
    return "loss (logarithmic)" in Page(write_report(folder)).text


def test_training_curves_wherever_the_report_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path counts from where the evaluation was started: old manifests have them."""
    folder = with_run(tmp_path / "mine", "runs/mine/checkpoints/400")
    with_run(tmp_path / "other", "runs/mine/checkpoints/400", loss=2.0)
    for where in (tmp_path, tmp_path / "mine", tmp_path / "mine/evals/first"):
        monkeypatch.chdir(where)
        assert has_curves(folder)
    shutil.rmtree(tmp_path / "mine" / "runs")
    monkeypatch.chdir(tmp_path / "other")
    assert not has_curves(folder), "these are the curves of another run of that name"


def test_training_curves_after_run_and_evaluation_were_moved(tmp_path: Path) -> None:
    with_run(tmp_path / "before", str(tmp_path / "before/runs/mine/checkpoints/400"))
    (tmp_path / "before").rename(tmp_path / "after")
    assert has_curves(tmp_path / "after/evals/first")


def test_hundreds_of_episodes_stay_light(evaluation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_parts, "MAX_THUMBNAILS", 10)
    monkeypatch.setattr(report_parts, "MAX_PATHS", 5)
    page = Page(write_report(evaluation))
    assert page.tags.count("img") == 10
    assert "10 of them are inside this page, those of unsuccessful episodes first" in page.text
    assert "5 of 12 episodes" in page.text
    rows = re.findall(r'<tr data-status="(\w+)">(.*?)</tr>', page.source, re.DOTALL)
    assert [status for status, row in rows if "<img" not in row] == ["success", "success"]


def test_training_curves_of_the_run(evaluation: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lines = [{"step": step, "loss": 1 / step, "learning_rate": None} for step in range(10, 500, 10)]
    lines += [{"step": 400, "validation/success": 0.5}, {"step": 400, "validation/images": ["a.png"]}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    make_evaluation(run / "checkpointed", 4, checkpoint={"path": str(run / "checkpoints" / "400"), "step": 400})
    make_evaluation(run / "validation" / "step_400", 4, checkpoint={"step": 400})
    for folder in ("checkpointed", "validation/step_400"):
        page = Page(write_report(run / folder))
        assert "loss (logarithmic)" in page.text
        assert "success in validation" in page.text
        assert "learning rate" not in page.text
        assert page.source.count('class="mark"') == 2
    (run / "metrics.jsonl").write_bytes(b"\xff\xfe")
    assert "there are no training curves" in Page(write_report(run / "checkpointed")).text
    assert "success in validation" not in Page(write_report(evaluation)).text


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_in_records(folder: Path, old: str, new: str) -> None:
    path = folder / "episodes.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert old in lines[5]
    path.write_text("".join([*lines[:5], lines[5].replace(old, new), *lines[6:]]))


FIFTH = "episodes/ep_000005"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: truncate(f / FIFTH / "trajectory.npz"), "episode 5: trajectory .* cannot be read"),
        (lambda f: (f / FIFTH / "trajectory.npz").write_bytes(b""), "episode 5: trajectory .* cannot be read"),
        (lambda f: np.savez(f / FIFTH / "trajectory.npz", other=1), r"trajectory .* cannot be read \(KeyError\)"),
        (lambda f: truncate(f / FIFTH / "trajectory.png"), "episode 5: trajectory.png cannot be read"),
        (lambda f: (f / FIFTH / "front.mp4").unlink(), "video_front .*front.mp4 is missing"),
        (lambda f: shutil.rmtree(f / "episodes"), "and 6 more of this kind"),
        (lambda f: (f / "metrics.json").unlink(), "metrics.json is not there"),
        (lambda f: (f / "metrics.json").write_text("[]"), "metrics.json holds no JSON object"),
        (lambda f: (f / "metrics.json").write_text('{"capture_errors": 3, "wall_s": "x"}'), None),
        (lambda f: (f / "manifest.json").write_text("{"), "cannot read .*manifest.json"),
        (lambda f: (f / "manifest.json").write_text('{"seeds": 3, "checkpoint": 5, "reference": {"n": 1}}'), None),
        (lambda f: (f / "timing.json").write_text('{"inference_ms": {"p50": 1}}'), "timing.json cannot be read"),
        (lambda f: (f / "timing.json").write_text("null"), "timing.json cannot be read"),
        (lambda f: (f / "episodes.jsonl").write_text(""), "no episode was finished"),
        (lambda f: (f / "episodes.jsonl").unlink(), "holds no episodes.jsonl"),
        (
            lambda f: replace_in_records(f, '"steps": 70', '"steps": "many"'),
            "field steps is 'many'; it must be a whole number",
        ),
        (
            lambda f: replace_in_records(f, '"return": ', '"return": NaN, "x": '),
            "field return_ is nan; it must be a finite number",
        ),
        (lambda f: replace_in_records(f, '{"schema"', '{"new": [1], "schema"'), None),
        (lambda f: replace_in_records(f, '"episode": 5', '"episode": 4'), "episode 4 is there more than once"),
        (lambda f: replace_in_records(f, f"{FIFTH}/front", "../../etc/x"), "lies outside of the evaluation folder"),
        (
            lambda f: replace_in_records(f, f"{FIFTH}/front.mp4", "javascript:x"),
            "lies outside of the evaluation folder",
        ),
    ],
)
def test_damage_is_said_and_never_stops_the_page(evaluation: Path, damage: Callable, said: str | None) -> None:
    damage(evaluation)
    page = Page(write_report(evaluation))
    if said is None:
        assert "Problems" not in page.text
    else:
        assert re.search(said, page.text), page.text
    assert "javascript:" not in "".join(page.addresses)
    assert "etc" not in "".join(address for address in page.addresses if not address.startswith("data:"))


def test_a_name_that_is_no_text_is_shown_escaped(tmp_path: Path) -> None:
    evaluation = make_evaluation(tmp_path / os.fsdecode(b"run\xff"), policy=os.fsdecode(b"run\xff"))
    assert "run\\udcff" in write_report(evaluation).read_text(encoding="utf-8")


def test_a_folder_that_is_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json is not there; give the folder of an evaluation"):
        write_report(tmp_path)


def test_a_task_of_a_file_is_shown_with_its_stages(tmp_path: Path) -> None:
    """The package does not know it: stages are those of the metrics, end effectors have numbers."""
    folder = make_evaluation(tmp_path / "own", task="lift-stick")
    metrics = json.loads((folder / "metrics.json").read_text())
    stages = [{"name": name, "n_reached": 3, "n": 12} for name in ("first_touch", "lift_up")]
    (folder / "metrics.json").write_text(json.dumps(metrics | {"stages": stages}))
    assert read_evaluation(folder).stages == ("first_touch", "lift_up")
    text = Page(write_report(folder)).text
    assert "first touch" in text
    assert "end effector 2" in text
    assert "end effector 3" not in text
    for broken in (None, 3, [3], [{"reached": 1}]):
        (folder / "metrics.json").write_text(json.dumps(metrics | {"stages": broken}))
        assert read_evaluation(folder).stages == ()


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_text_contrast(evaluation: Path) -> None:
    """WCAG 2 level AA: 4.5 for text, 3 for what graphics need to be understood, in light and in dark."""
    light, dark = re.findall(r":root \{(.*?)\}", write_report(evaluation).read_text(), re.DOTALL)
    for block in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for name in ("text", "soft", "success", "failure", "timeout", "error", "link"):
            for background in ("page", "card"):
                first, second = sorted((luminance(colours[name]), luminance(colours[background])))
                assert (second + 0.05) / (first + 0.05) >= 4.5, (name, background)
        for name in ("bar", "effector0", "effector1", "reference"):
            first, second = sorted((luminance(colours[name]), luminance(colours["card"])))
            assert (second + 0.05) / (first + 0.05) >= 3, name


def test_charts_by_hand() -> None:
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(3, 3) == [3]
    assert nice_ticks(-1.3, 102) == [0, 25, 50, 75, 100]
    corner = np.array([[0.0, 0.0], [0.5, 0.001], [1.0, 0.0], [1.0, np.nan], [1.0, 0.5], [1.0, 1.0]])
    assert simplify_path(corner).tolist() == [[0, 0], [1, 0], [1, 1]]
    there_and_back = np.array([[0.0, 0.0], [0.2, 0.0], [0.4, 0.0], [0.2, 0.0], [0.0, 0.0]])
    assert simplify_path(there_and_back).tolist() == [[0, 0], [0.4, 0], [0, 0]]
    bounds = path_bounds([(np.array([[0.41, -0.3, 0.1]]), np.array([[0.5, 0.02, 0.1]]))])
    assert (bounds[0] <= [0.41, -0.3]).all()
    assert (bounds[1] >= [0.5, 0.02]).all()
    assert [shade(stage, 4) for stage in range(5)] == [0, 1, 2, 3, 4]
    assert [shade(stage, 8) for stage in (0, 1, 8)] == [0, 1, 4]
    strip = stage_strip(np.array([0, 0, 1, 1, 1, 2, np.nan]), 10, ("touch", "lift"))
    assert 'aria-label="touch from step 2; lift from step 5"' in strip
    assert re.findall(r'class="(s\d)" x="(\d+)" width="(\d+)"', strip) == [
        ("s0", "0", "2"), ("s1", "2", "3"), ("s2", "5", "1"), ("s0", "6", "1"),
    ]  # fmt: skip
    assert not line_chart([Series("empty", np.zeros(2), np.full(2, np.nan))], title="t", x_label="x")
    many = line_chart([Series("many", np.arange(5000.0), np.ones(5000))], title="t", x_label="x")
    assert many.count(",") < 400, "a long curve is thinned"
    doubling = [Series("doubling", np.array([25.0, 50.0, 100.0]), np.ones(3), marked=True)]
    for log_x, gaps in ((False, [1, 2]), (True, [1, 1])):
        chart = line_chart(doubling, title="t", x_label="x", y_range=(0, 2), log_x=log_x)
        places = np.diff([float(x) for x in re.findall(r'cx="([\d.]+)"', chart)])
        assert places / places[0] == pytest.approx(gaps, abs=0.01)
    assert re.findall(r'text-anchor="middle">(\d+)<', chart) == ["25", "50", "100"]


BROWSER_TEST = """
<script>
const $ = (query) => [...document.querySelectorAll(query)];
const rows = () => $("#episodes tbody tr").filter((row) => !row.hidden).map((row) => row.cells[0].textContent.trim());
const button = (text) => $("#episodes th button").find((found) => found.textContent === text);
const state = (text) => button(text).closest("th").getAttribute("aria-sort");
const result = { first: rows(), initially: state("episode") };
button("steps").focus();
result.focused = document.activeElement === button("steps");
button("steps").click();
result.steps = rows(); result.ascending = state("steps"); result.other = state("episode");
button("steps").click();
result.reversed = rows(); result.descending = state("steps");
button("success at step").click();
result.success = rows();
button("status").click();
result.status = rows();
button("episode").click();
$("#filter input").forEach((box) => { if (box.value !== "timeout") box.click(); });
result.filtered = rows(); result.shown = document.getElementById("shown").textContent;
button("return").click(); button("return").click();
result.sortedWhileFiltered = rows();
$("#filter input").forEach((box) => { if (!box.checked) box.click(); });
result.all = rows().length;
result.wide = document.documentElement.scrollWidth > window.innerWidth;
const text = JSON.stringify(result);
document.body.textContent = `RESULT${text}END`;
</script></body>"""


def browse(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The document after its scripts have run, and what the browser's console said."""
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
            f"--user-data-dir={profile}", "--window-size=1280,900", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_in_a_browser(evaluation: Path, tmp_path: Path) -> None:
    source = write_report(evaluation).read_text()
    plain, tested, broken = (evaluation / name for name in ("report.html", "tested.html", "broken.html"))
    tested.write_text(source.replace("</body>", BROWSER_TEST))
    broken.write_text(source.replace("</body>", "<script>noSuchThing()</script></body>"))
    assert browse(broken, tmp_path / "profile")[1], "an error would be seen"
    assert browse(plain, tmp_path / "profile")[1] == []
    document, console = browse(tested, tmp_path / "profile")
    assert console == []
    found = re.search("RESULT(.*)END", document)
    assert found, document
    result = json.loads(found[1])
    numbers = {name: [int(number) for number in result[name]] for name in result if isinstance(result[name], list)}
    by_steps = [3, 7, 11, 2, 6, 10, 0, 4, 8, 1, 5, 9]
    assert numbers["first"] == list(range(12))
    assert (result["initially"], result["ascending"], result["descending"], result["other"]) == (
        "ascending", "ascending", "descending", "none",
    )  # fmt: skip
    assert result["focused"]
    assert numbers["steps"] == by_steps
    assert numbers["reversed"] == [1, 5, 9, 0, 4, 8, 2, 6, 10, 3, 7, 11]
    assert numbers["success"][:3] == [0, 4, 8], "what is not there comes last"
    assert numbers["status"] == [3, 7, 11, 2, 6, 10, 0, 4, 8, 1, 5, 9]
    assert numbers["filtered"] == [1, 5, 9]
    assert result["shown"] == "3 of 12 episodes shown"
    assert sorted(numbers["sortedWhileFiltered"]) == [1, 5, 9]
    assert result["all"] == 12
    assert not result["wide"], "the page itself does not scroll sideways"


@pytest.fixture
def script(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run scripts/report.py as a command line would: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "report.py"), run_name="__main__")
        output = capsys.readouterr()
        return stopped.value.code, output.out, output.err

    return run


def test_comparison_from_the_command_line(evaluation: Path, tmp_path: Path, script: Callable) -> None:
    other = make_evaluation(tmp_path / "other", policy="run <2>", config={"note": "n", "group": {"size": 3}})
    replace_in_records(other, '"timeout"', '"success"')
    out = tmp_path / "pages" / "comparison.html"
    code, said, _ = script(evaluation, other, "--out", out)
    assert code == 0
    assert said.splitlines()[-1] == str(out)
    assert "run <1> and run <2> differ in 1 episode, which chance alone may explain" in said
    assert "only run <2> succeeded in: 5" in said
    assert "warning: 12 episodes cannot rank checkpoints" in said
    page = Page(out)
    text = " ".join(page.text.split())
    assert "run <1> and run <2> differ in 1 episode" in text
    assert "+8.3" in text
    assert re.search(r"5\s*timeout, 70 steps\s*success, 70 steps", text)
    assert "config.note" in text
    assert "size" not in text, "the group that a flag is stored in makes no difference"
    assert not re.search(r"https?://|url\(|@import|<script", page.source)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "name the folder of an evaluation"),
        (("evaluation", "evaluation"), 2, "are the same folder"),
        (("evaluation", "--out", "x.html"), 2, "--out would do nothing"),
        (("nowhere",), 1, "manifest.json is not there; give the folder of an evaluation"),
        (("evaluation", "nowhere"), 1, "manifest.json is not there; give the folder of an evaluation"),
        (("evaluation", "fewer"), 2, "8 episodes are in only one of them"),
        (("evaluation", "other", "--out", "."), 2, "--out . is a folder"),
        (("evaluation", "other", "--out", "other/manifest.json/x.html"), 1, "cannot write"),
    ],
)
def test_mistakes_at_the_command_line(
    arguments: tuple, code: int, message: str, evaluation: Path, script: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(evaluation.parent)
    make_evaluation(Path("fewer"), 4)
    make_evaluation(Path("other"))
    stopped, _, said = script(*arguments)
    assert stopped == code, said
    assert message in said
    assert said.count("\n") == 1, "one line"
