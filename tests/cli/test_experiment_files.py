"""Experiments by name, from a checkout and from a wheel alone."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from alignjax import experiments, main
from alignjax.cli import config_file, experiment_files
from alignjax.commands import experiments as command
from tests.commands import cli


def test_a_file_of_ones_own_comes_before_an_experiment_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = experiments.FOLDER / "lifecycle.py"
    assert experiment_files.locate("lifecycle") == shipped
    assert experiment_files.locate("experiments/lifecycle.py") == shipped
    (tmp_path / "lifecycle").mkdir()  # a folder is no config file
    assert experiment_files.locate("lifecycle") == shipped
    for other in ("lifecycl", "other/lifecycle.py", "lifecycle.py", str(tmp_path / "lifecycle.py")):
        assert experiment_files.locate(other) == pathlib.Path(other)
    own = tmp_path / "experiments" / "lifecycle.py"
    own.parent.mkdir()
    own.write_text("")
    assert experiment_files.locate("experiments/lifecycle.py").samefile(own)


@pytest.mark.parametrize(
    ("spec", "meant"),
    [("lifecycel", "Did you mean lifecycle?"), ("zzz", "alignjax experiments lists them.")],
)
def test_no_such_experiment_is_one_line(spec, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="name of an experiment; got") as caught:
        config_file.load(spec)
    assert meant in str(caught.value)
    with pytest.raises(ValueError, match=f"must be one of .*lifecycle.*; got '{spec}'"):
        command.describe(spec)


def test_every_experiment_says_what_it_is_what_it_needs_and_its_variants(capsys):
    assert main.main(["experiments", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {p.stem for p in (cli.ROOT / "experiments").glob("*.py")}
    for name, one in told.items():
        assert one["line"].endswith("."), name
        assert "CPU cores" in one["hardware"], name
        assert "tiny" in one["variants"] or "micro" in one["variants"], name
    assert main.main(["experiments", "hh_sft"]) == 0
    text = capsys.readouterr().out
    assert "Command: alignjax train" in text
    assert "Variants: '', 'gpu8', 'tiny', 'micro'" in text


def test_parts_are_imported_at_their_first_use():
    code = """
import sys, alignjax
assert "jax" not in sys.modules
alignjax.losses.dpo
assert not {"flax", "tensorflow", "orbax", "optax"} & {n.split(".")[0] for n in sys.modules}
alignjax.models.transformer.transformer
alignjax.adapters.lora.LoraConfig
alignjax.algorithms.dpo.DpoConfig
alignjax.training.optim.OptimConfig
alignjax.rewards.rules
assert callable(alignjax.experiments.lifecycle.get_config)
for wrong in (lambda: alignjax.loses, lambda: alignjax.models.transfomer):
    try:
        wrong()
    except AttributeError as error:
        assert "has no attribute" in str(error)
    else:
        raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=cli.ROOT)


@pytest.mark.slow
def test_a_wheel_runs_its_experiments_by_name(tmp_path):
    source, unpacked, empty = (tmp_path / name for name in ("source", "unpacked", "empty"))
    empty.mkdir()
    for name in ("alignjax", "experiments"):
        hidden = shutil.ignore_patterns("__pycache__")
        shutil.copytree(cli.ROOT / name, source / name, ignore=hidden)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(cli.ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source]
    subprocess.run(pip, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, unpacked, "zip")
    assert not (unpacked / "experiments").exists()

    def run(*words):
        place = {**cli.environment(), "PYTHONPATH": str(unpacked)}
        command = [sys.executable, "-m", "alignjax", *map(str, words)]
        return subprocess.run(command, cwd=empty, env=place, text=True, capture_output=True)

    listed = run("experiments", "lifecycle")
    assert f"File: {unpacked}/alignjax/experiments/lifecycle.py" in listed.stdout, listed.stderr
    done = run("run", "--config=grpo_guess:tiny", f"--workdir={empty}/guess")
    assert done.returncode == 0, done.stderr
    assert "report" in done.stdout
