"""Converting LEWM checkpoints: every kind and naming, repeated runs, and files that do not fit."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from imf_jax import files
from imf_jax.cli import run_main as run_main_and_exit
from imf_jax.conversion import lewm as converter
from imf_jax.conversion.lewm import Args, convert
from imf_jax.conversion.report import DoesNotFitError
from imf_jax.errors import UserError
from imf_jax.models.encoders import lewm

REPOSITORY = Path(__file__).parents[2]
FIXTURES = REPOSITORY / "tests" / "fixtures" / "lewm"
ALL_FILES = [f"{naming}{kind}" for naming in ("new", "old") for kind in (".ckpt", "_weights.pt", "_object.ckpt")]
ALL_FILES += ["new.safetensors", "old.safetensors", "older_container.pt"]
HEADS = 2

Tensors = dict[str, np.ndarray]


def run_main(monkeypatch: pytest.MonkeyPatch, *flags: str) -> int | str | None:
    """Exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["lewm.py", *flags])
    with pytest.raises(SystemExit) as caught:
        run_main_and_exit(converter.main)
    return caught.value.code


def changed(tmp_path: Path, change: Callable[[Tensors], object]) -> Path:
    """A checkpoint with the fixture's weights after `change`."""
    tensors = safetensors.numpy.load_file(FIXTURES / "new.safetensors")
    change(tensors)
    path = tmp_path / "changed.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ALL_FILES)
def test_every_file_gives_the_same_weights(name: str, tmp_path: Path) -> None:
    convert(Args(FIXTURES / "new.safetensors", tmp_path / "reference", heads=HEADS))
    report = convert(Args(FIXTURES / name, tmp_path / "out", heads=HEADS))
    for file in (lewm.WEIGHTS_FILE, lewm.CONFIG_FILE):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "reference" / file).read_bytes()
    assert len(report.used) == 10 + 2 * 16 - 2 + 8 - 2
    assert "torch" not in sys.modules


def test_sizes_come_from_the_tensors(tmp_path: Path) -> None:
    convert(Args(FIXTURES / "old.ckpt", tmp_path / "out", heads=HEADS))
    config = json.loads((tmp_path / "out" / lewm.CONFIG_FILE).read_text())
    vit = {"hidden": 16, "layers": 2, "heads": 2, "mlp": 32, "patch": 4, "image_size": 16, "layer_norm_eps": 1e-12}
    assert config["sizes"] == {"vit": vit, "projector_hidden": 24, "output": 12, "batch_norm_eps": 1e-5}


def test_report_tells_everything(tmp_path: Path) -> None:
    convert(Args(FIXTURES / "old.ckpt", tmp_path / "out", heads=HEADS))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["source"]["kind"] == "lightning"
    assert len(report["source"]["sha256"]) == 64
    assert "state_dict.sigreg.frequencies" in report["ignored"]
    assert "optimizer_states.0.state.0.exp_avg" in report["ignored"]
    assert report["used"]["state_dict.model.projector.net.1.running_mean"] == "projector.norm.mean"
    assert set(report["found"]) == {*report["used"], *report["ignored"]}
    assert report["missing"] == report["unexpected"] == report["mismatched"] == []


@pytest.mark.parametrize("name", ["new_object.ckpt", "old.ckpt", "old.safetensors"])
def test_running_again_changes_nothing(name: str, tmp_path: Path) -> None:
    args = Args(FIXTURES / name, tmp_path / "out", heads=HEADS)
    convert(args)
    first = tree(tmp_path)
    convert(args)
    assert tree(tmp_path) == first
    assert set(first) == {"out/weights.safetensors", "out/config.json", "out/report.json"}


def test_hash_of_the_weights_tells_heads_apart(tmp_path: Path) -> None:
    hashes = []
    for heads in (2, 4):
        convert(Args(FIXTURES / "new.ckpt", tmp_path / str(heads), heads=heads))
        hashes.append(lewm.load(tmp_path / str(heads)).fingerprint)
    assert hashes[0] != hashes[1]


def rename(tensors: Tensors, old: str, new: str) -> None:
    """Replace the beginning of all names that begin with `old`."""
    for name in [name for name in tensors if name.startswith(old)]:
        tensors[new + name.removeprefix(old)] = tensors.pop(name)


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "model._orig_mod.", "agent.vision.model."])
def test_wrapper_prefixes_are_found(prefix: str, tmp_path: Path) -> None:
    path = changed(tmp_path, lambda tensors: rename(tensors, "", prefix))
    assert not convert(Args(path, tmp_path / "out", heads=HEADS)).ignored[1:]


@pytest.mark.parametrize(
    "parts",
    [
        {"encoder.": "encoder._orig_mod.", "projector.": "projector.module."},
        {
            "encoder.layers.0.": "encoder.layers.0._checkpoint_wrapped_module.",
            "projector.net.": "projector.net.module.",
        },
        {
            "encoder.layers.": "encoder.module.module.layers._fsdp_wrapped_module.",
            "encoder.embeddings.": "encoder.module.module.embeddings._orig_mod._fsdp_wrapped_module.",
            "encoder.layernorm.": "encoder.module.module.layernorm._fpw_module.",
            "projector.net.0.": "projector._orig_mod.net._orig_mod.0._orig_mod.",
        },
        {"": "_forward_module.model.module."},
    ],
)
def test_wrappers_inside_a_name_are_found(parts: dict[str, str], tmp_path: Path) -> None:
    def wrap(tensors: Tensors) -> None:
        for old, new in parts.items():
            rename(tensors, old, new)

    report = convert(Args(changed(tmp_path, wrap), tmp_path / "out", heads=HEADS))
    assert len(report.used) == 10 + 2 * 16 - 2 + 8 - 2


def test_copy_behind_a_wrapper_needs_a_choice(tmp_path: Path) -> None:
    def add_average(tensors: Tensors) -> None:
        own = dict(tensors)
        rename(tensors, "", "module.")
        tensors.update({name: np.asarray(value * 2, value.dtype) for name, value in own.items()})

    path = changed(tmp_path, add_average)
    with pytest.raises(UserError, match=r"several encoders \(encoder\., module\.encoder\.\).*--prefix"):
        convert(Args(path, tmp_path / "out", heads=HEADS))
    report = convert(Args(path, tmp_path / "out", heads=HEADS, prefix="module."))
    assert all(name.startswith("module.") for name in report.used)


def test_other_networks_in_the_file_are_ignored(tmp_path: Path) -> None:
    def add_others(tensors: Tensors) -> None:
        own = dict(tensors)
        rename(tensors, "", "model.")
        for name, value in own.items():
            tensors[f"model.target_{name}"] = value
        tensors["model.pred_projector.net.0.weight"] = own["projector.net.0.weight"]

    report = convert(Args(changed(tmp_path, add_others), tmp_path / "out", heads=HEADS))
    assert all(name.startswith(("model.encoder.", "model.projector.")) for name in report.used)


def test_several_encoders_need_a_choice(tmp_path: Path) -> None:
    def add_average(tensors: Tensors) -> None:
        own = dict(tensors)
        rename(tensors, "", "model.")
        tensors.update({f"average.{name}": np.asarray(value * 2, value.dtype) for name, value in own.items()})

    path = changed(tmp_path, add_average)
    with pytest.raises(UserError, match=r"average\.encoder\..*--prefix|--prefix"):
        convert(Args(path, tmp_path / "out", heads=HEADS))
    report = convert(Args(path, tmp_path / "out", heads=HEADS, prefix="average."))
    assert all(name.startswith("average.") for name in report.used)


def put(name: str, value: np.ndarray) -> Callable[[Tensors], object]:
    """A change that sets one tensor."""
    return lambda tensors: tensors.update({name: value.astype(np.float32)})


def drop(*names: str) -> Callable[[Tensors], object]:
    """A change that removes tensors."""
    return lambda tensors: [tensors.pop(name) for name in names]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("encoder.layers.1.mlp.fc1.bias"), r"missing: encoder\.layers\.1\.mlp\.fc1\.bias"),
        (drop("encoder.embeddings.position_embeddings"), "missing: encoder.embeddings.position_embeddings"),
        (drop("encoder.layers.0.mlp.fc1.weight"), "missing: encoder.layers.0.mlp.fc1.weight"),
        (drop("encoder.embeddings.cls_token"), "no encoder"),
        (drop("projector.net.0.weight"), "no encoder"),
        (drop("projector.net.1.running_mean", "projector.net.1.running_var"), "no running statistics"),
        (put("encoder.pooler.dense.weight", np.zeros((16, 16))), r"unexpected: encoder\.pooler\.dense\.weight"),
        (put("projector.net.5.weight", np.zeros((16, 16))), r"unexpected: projector\.net\.5\.weight"),
        (put("encoder.layers.1.mlp.fc2.weight", np.zeros((16, 31))), r"mismatched: .*fc2\.weight: float32 \(16, 31\)"),
        (put("encoder.embeddings.position_embeddings", np.zeros((1, 16, 16))), "square grid"),
        (put("projector.net.0.weight", np.zeros((24, 15))), "takes 15 channels"),
        (put("encoder.embeddings.patch_embeddings.projection.weight", np.zeros((16, 1, 4, 4))), "RGB patches"),
        (put("encoder.layernorm.bias", np.full(16, np.nan)), "NaN"),
        (put("projector.net.1.running_var", np.full(24, -1.0)), "negative variance"),
        (put("encoder.embeddings.cls_token", np.zeros(16)), "expected 3 axes"),
        (
            lambda tensors: tensors.update({"encoder.layernorm.bias": np.zeros(16, np.int64)}),
            r"mismatched: .*layernorm\.bias: int64",
        ),
        (
            lambda tensors: rename(tensors, "encoder.layers.0.", "encoder.layers.2."),
            r"missing: encoder\.layers\.0\.",
        ),
        (
            lambda tensors: tensors.update(
                {"encoder.encoder.layer.0.output.dense.bias": tensors["encoder.layers.0.mlp.fc2.bias"]}
            ),
            "twice",
        ),
    ],
)
def test_files_that_do_not_fit(change: Callable[[Tensors], object], message: str, tmp_path: Path) -> None:
    path = changed(tmp_path, change)
    with pytest.raises(UserError) as caught:
        convert(Args(path, tmp_path / "new" / "out", heads=HEADS))
    problems = caught.value.problems if isinstance(caught.value, DoesNotFitError) else []
    assert re.search(message, "\n".join([str(caught.value), *problems]))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_output_that_is_taken_is_kept(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds other files"):
        convert(Args(FIXTURES / "new.ckpt", taken, heads=HEADS))
    assert tree(taken) == {"thesis.tex": b"years of work"}
    convert(Args(FIXTURES / "new.ckpt", tmp_path / "out", heads=HEADS))
    before = tree(tmp_path / "out")
    with pytest.raises(UserError, match="another checkpoint"):
        convert(Args(FIXTURES / "old.ckpt", tmp_path / "out", heads=HEADS))
    assert tree(tmp_path / "out") == before
    with pytest.raises(UserError, match="is a file"):
        convert(Args(FIXTURES / "new.ckpt", taken / "thesis.tex", heads=HEADS))


def test_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "flush_to_disk", full_disk)
    with pytest.raises(UserError, match="No space left"):
        convert(Args(FIXTURES / "new.ckpt", tmp_path / "out", heads=HEADS))
    assert list(tmp_path.iterdir()) == []


def test_exit_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    good = ("--checkpoint", str(FIXTURES / "new.ckpt"))
    assert run_main(monkeypatch, *good, "--out", str(tmp_path / "out"), "--heads", "2") == 0
    assert "0 missing, 0 unexpected, 0 mismatched" in capsys.readouterr().out
    assert run_main(monkeypatch, *good) == 2
    assert "--out" in capsys.readouterr().err
    assert run_main(monkeypatch, "--checkpoint", str(tmp_path / "absent"), "--out", str(tmp_path / "b")) == 2
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes((FIXTURES / "new.ckpt").read_bytes()[:9000])
    assert run_main(monkeypatch, "--checkpoint", str(broken), "--out", str(tmp_path / "b")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "broken.ckpt" in error
    assert not (tmp_path / "b").exists()


def test_every_problem_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(tmp_path, drop("encoder.layers.0.mlp.fc2.bias", "projector.net.3.bias"))
    assert run_main(monkeypatch, "--checkpoint", str(path), "--out", str(tmp_path / "out"), "--heads", "2") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["missing: encoder.layers.0.mlp.fc2.bias", "missing: projector.net.3.bias"]
    assert "2 missing" in lines[-1]


def test_inspect_prints_the_tree(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "--checkpoint", str(FIXTURES / "old_object.ckpt"), "--inspect") == 0
    out = capsys.readouterr().out
    assert "pickled module" in out
    assert "query." in out
    assert "running_var  float32 (24,)" in out
    assert "torch.nn.modules.module.Module" in out


def test_script_runs_on_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "converters/lewm.py", "--checkpoint", str(FIXTURES / "old.ckpt"), "--heads", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], cwd=REPOSITORY, env=environment, check=False)
    assert done.returncode == 0
    assert (tmp_path / "out" / "weights.safetensors").is_file()
