"""The shared entry of scripts, and the training command line up to the point where training starts."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from imf_jax import cli
from imf_jax.commands import pretrain as pretrain_command
from imf_jax.commands.train import parse
from imf_jax.config import FlowConfig, RegressionConfig, TransformerConfig
from imf_jax.errors import ArgumentError, UserError

TRAIN = Path(__file__).resolve().parent.parent / "scripts" / "train.py"


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "code", "message"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (raising(UserError("no disk [red]here[/red];\nbuy one")), 1, "error: no disk [red]here[/red]; buy one\n"),
        (raising(ArgumentError("x is 0")), 2, "error: x is 0\n"),
        (raising(KeyboardInterrupt()), 130, "error: interrupted\n"),
    ],
)
def test_exit_codes_and_messages(main, code, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.run_main(main)
    assert stopped.value.code == code
    assert capsys.readouterr().err == message


def test_warnings_of_the_package_are_notes(capsys):
    with pytest.raises(SystemExit):
        cli.run_main(lambda: logging.getLogger("imf_jax.files").warning("cannot\nflush"))
    assert capsys.readouterr().err == "note: cannot flush\n"


def test_output_that_is_lost_is_no_success(tmp_path):
    program = "import sys; from imf_jax.cli import run_main; run_main(lambda: print('done'))"
    command = [sys.executable, "-W", "error", "-c", program]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "JAX_ENABLE_X64": "1"}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "note: JAX_ENABLE_X64=1 has no effect: this program sets it to False",
        "error: output could not be written (No space left on device); everything else was done",
    ]


def test_long_messages_stay_one_line(capsys):
    cli.print_error("word " * 100)
    assert capsys.readouterr().err.count("\n") == 1


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run_main(lambda: 1 // 0)


def test_compiled_code_goes_to_the_chosen_folder(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("IMF_JAX_CACHE", str(tmp_path))
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        cli.keep_compiled_code()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "xla")
        monkeypatch.setenv("IMF_JAX_CACHE", str(tmp_path / "other"))
        cli.keep_compiled_code()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "xla"), "a folder already chosen stays"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_flags_override_the_preset():
    config = parse(["debug", "--max-steps", "7", "--policy.head.n-emb", "64", "--resume"])
    assert (config.max_steps, config.policy.head.n_emb, config.resume) == (7, 64, True)
    assert (config.batch_size, config.policy.head.n_layer) == (8, 2)


def test_flags_change_the_encoder_that_the_preset_chose():
    encoder = parse(["resnet", "--policy.encoder.crop-size", "200", "--policy.encoder.cameras", "front"]).policy.encoder
    assert (encoder.crop_size, encoder.cameras, encoder.norm) == (200, ("front",), "group")
    encoder = parse(["lewm-256", "--policy.encoder.weights", "here", "--policy.encoder.fusion", "grid"]).policy.encoder
    assert (encoder.weights, encoder.fusion) == (Path("here"), "grid")


def test_flags_choose_what_the_parts_of_a_policy_are(capsys):
    policy = parse(["insert-state", "--policy.objective", "regression", "--policy.encoder=resnet"]).policy
    assert (policy.objective, policy.sampling_steps) == (RegressionConfig(), 1)
    assert (policy.encoder.crop_size, policy.head.n_emb) == (224, 64)
    policy = parse(["debug", "--policy.objective.prediction", "data", "--policy.objective", "flow"]).policy
    assert policy.objective == FlowConfig(prediction="data")
    head = parse(["transfer-state", "--policy.head", "transformer", "--policy.head.n-layer", "6"]).policy.head
    assert head == TransformerConfig(n_emb=128, n_layer=6, n_head=4, n_kv_head=4)
    assert parse(["debug", "--policy.objective", "imf"]) == parse(["debug"])
    with pytest.raises(SystemExit):
        parse(["debug", "--policy.objective", "flow", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--policy.objective imf|flow" in shown
    assert "Output of the network: the velocity" in shown


def test_pretraining_has_presets_and_flags_of_its_own(capsys):
    config = pretrain_command.COMMAND.parse(["lewm-pretrain-small", "--model.cameras", "top", "--task", "insert"])
    assert (config.model.cameras, config.task, config.model.image_size) == (("top",), "insert", 128)
    with pytest.raises(ArgumentError, match=r"pretrain\.py PRESET .*presets are: lewm-pretrain, lewm-pretrain-small"):
        pretrain_command.COMMAND.parse([])
    with pytest.raises(SystemExit):
        pretrain_command.COMMAND.parse(["lewm-pretrain", "--help"])
    help_text = capsys.readouterr().out
    assert "Frames that the predictor sees" in help_text
    assert "Task of the demonstrations" in help_text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "name a preset"),
        (["--max-steps", "5"], "name a preset"),
        (["nope"], "transfer-state"),
        (["debug", "--max-steps", "0"], "max_steps is 0"),
        (["debug", "--seed", str(2**32 + 1)], r"seed 4294967297 must be in \[0, 1073741823\]"),
        (["debug", "--seed", str(2**63), "--resume"], "seed 9223372036854775808 must be in"),
        (["debug", "--policy.num-action-steps", "16"], "num_action_steps"),
        (["debug", "--policy.objective", "flwo"], "--policy.objective flwo is not known; did you mean flow?"),
        (["debug", "--policy.objective"], "--policy.objective  is not known; choose from: imf, flow, regression"),
        (
            ["resnet", "--policy.encoder.crop-size", "300"],
            "crop_size 300 must be above encoder.stride 32 and at most encoder.image_size 256",
        ),
    ],
)
def test_arguments_that_cannot_work(arguments, named):
    with pytest.raises(ArgumentError, match=named):
        parse(arguments)


@pytest.mark.parametrize("flags", [["--polcy.sampling-steps", "2"], ["--max-steps", "many"]])
def test_mistyped_flags_exit_with_2(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["debug", *flags])
    assert stopped.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"])
    assert stopped.value.code == 0
    assert "transfer-state" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        parse(["debug", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "Windows per optimizer step. (default: 8)" in shown
    assert "[control steps]" in shown


def test_script_from_another_folder(tmp_path):
    done = subprocess.run([sys.executable, TRAIN, "nope"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: unknown preset 'nope'; presets are: " + done.stderr.split("are: ")[1]
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize backend 'tpu': no\nlibtpu.so")])
def test_a_platform_that_is_not_there_is_one_line(error, capsys, monkeypatch):
    def nowhere(*arguments, **options):
        raise error

    monkeypatch.setattr(jax, "local_devices", nowhere)
    with pytest.raises(SystemExit) as stopped:
        cli.run_main(raising(error))
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: JAX found no usable device (")
    assert said.count("\n") == 1


def test_other_assertions_keep_their_traceback():
    with pytest.raises(AssertionError):
        cli.run_main(raising(AssertionError()))
