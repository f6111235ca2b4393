"""Config files: how they are run, and one line with file and line for those that can't be."""

import os
import pathlib
import subprocess
import sys

import pytest

from alignjax.cli import config_file, flags

CONFIG = """
import dataclasses

@dataclasses.dataclass(kw_only=True)
class Optim:
    learning_rate: float = 1e-3  # the peak
    b1: float = 0.9

@dataclasses.dataclass(kw_only=True)
class Config:
    seed: int = 0
    name: str = "a"  # free text, with "quotes"
    optim: Optim = dataclasses.field(default_factory=Optim)

def get_config(arg: str = ""):
    if arg not in ("", "ppo"):
        raise ValueError(f"variant must be one of full, ppo; got {arg!r}.")
    return Config()
"""


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    return write(tmp_path, CONFIG)


def write(folder: pathlib.Path, text: str | bytes, name: str = "x.py") -> pathlib.Path:
    path = folder / "experiments" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(spec: object) -> str:
    with pytest.raises(ValueError) as caught:
        config_file.load(str(spec))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("package", [True, False])
def test_files_import_their_neighbours(tmp_path, package, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    before = sys.modules.get("experiments.common")
    text = "from experiments import common\n" + CONFIG.replace(
        "seed: int = 0", "seed: int = common.S"
    )
    for number in (4, 5):  # the second has the first one's module name
        folder = tmp_path / str(number)
        folder.mkdir()
        if package:
            write(folder, "", "__init__.py")
        write(folder, f"S = {number}\n", "common.py")
        assert config_file.load(str(write(folder, text)))[1].seed == number
        assert sys.modules.get("experiments.common") is before
    assert not list(tmp_path.rglob("*.pyc"))
    assert sys.dont_write_bytecode is False


def test_unreadable_config(file, tmp_path):
    near = refusal(file.with_name("xx.py"))
    assert "No such file" in near
    assert f"Did you mean {file}?" in near
    assert "readable Python file" in refusal(tmp_path)
    assert "readable Python file or the name of an experiment; got ''" in refusal("")
    assert "No such file" in refusal(tmp_path / "none" / "x.py")
    assert "name too long" in refusal(tmp_path / ("x" * 300))
    assert "null" in refusal(str(file) + "\0")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a = 1\ndef get_config(:\n", "SyntaxError|line 2"),
        ("x = 1\n\nx.y\n", "AttributeError|line 3"),
        ("import nonesuch\n", "ModuleNotFoundError|nonesuch|line 1"),
        ("def get_config(arg=''):\n  return open('nonesuch')\n", "FileNotFoundError|line 2"),
        ("def get_config(arg=''):\n  raise KeyError('a\\nb')\n", "KeyError|line 2"),
        ("def get_config(arg=''):\n  raise SystemExit(3)\n", "SystemExit|line 2"),
        ("x = 1\n", "must define get_config"),
        ("def get_config(arg=''):\n  pass\n", "dataclass's instance; got NoneType"),
        (b"\xff\xfe\x00", "x.py"),
        ("from experiments import bad\n", "ZeroDivisionError|bad.py, line 2"),
        (CONFIG + "\nold = get_config\ndef get_config():\n  return old()\n", None),
        (CONFIG.replace("(kw_only=True)", "(frozen=True)"), "mutable dataclass; got a frozen"),
        ("from __future__ import annotations\n" + CONFIG, "Leave out `from __future__"),
        (
            CONFIG.replace("b1: float = 0.9", "b1: float = '0.9'"),
            "config.optim.b1 must be a finite",
        ),
        (
            CONFIG.replace("seed: int = 0", "seed: int = 1e3"),
            "config.seed must be an integer; got 1000",
        ),
    ],
)
def test_broken_config_files(tmp_path, text, parts):
    write(tmp_path, "\n1 / 0\n", "bad.py")
    path = write(tmp_path, text)
    if parts is None:
        assert config_file.load(str(path))[1].seed == 0
        return
    message = refusal(path)
    for part in (*parts.split("|"), str(path)):
        assert part in message


def test_a_variant_is_the_config_files_affair(file, tmp_path):
    message = refusal(f"{file}:huge")
    assert "variant must be one of full, ppo; got 'huge'." in message
    assert f"{file}, line" in message
    plain = write(tmp_path, CONFIG + "\nold = get_config\ndef get_config():\n  return old()\n")
    assert "takes 0 positional arguments" in refusal(f"{plain}:ppo")


def test_a_key_without_effect_is_refused(tmp_path):
    path = write(
        tmp_path, CONFIG + "\nc = Config()\nc.optim.lr = 3\ndef get_config():\n  return c\n"
    )
    message = refusal(path)
    assert "config.optim.lr must be a field of Optim" in message
    assert "Did you mean config.optim.learning_rate?" in message


def test_help_shows_names_types_values_and_comments(file, capsys):
    def parse(*argv):
        options = [flags.Option("workdir", pathlib.Path, None, "folder of the run")]
        flags.parse([*argv], command="train", options=options, needs_config=True)

    with pytest.raises(SystemExit) as stop:
        parse(f"--config={file}", "--config.optim.b1=0.25", "--help")
    assert not stop.value.code
    lines = capsys.readouterr().out.splitlines()
    assert any(all(w in line for w in ("--workdir", "folder of the run")) for line in lines)
    assert any(all(w in line for w in ("--config.optim.b1=0.25", "number")) for line in lines)
    assert any("--config.optim.learning_rate=0.001" in x and "the peak" in x for x in lines)
    assert any("--config.name='a'" in x and 'free text, with "quotes"' in x for x in lines)
    with pytest.raises(SystemExit):
        parse("-h")
    assert "--config=FILE" in capsys.readouterr().out


def test_as_a_process(file):
    code = (
        "import sys; from alignjax.cli import flags, outcome\n"
        "def main():\n"
        "  got = flags.parse(sys.argv[1:], command='train', options=[], needs_config=True)\n"
        "  print(got.config.seed)\n"
        "sys.exit(outcome.run_command(main, debug=False, log_folder=None))"
    )

    def run(*argv):
        env = {**os.environ, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", code, f"--config={file}", *argv]
        return subprocess.run(command, capture_output=True, text=True, env=env, check=False)

    good, bad, helped = run("--config.seed=3"), run("config.seed=3"), run("--help")
    assert (good.returncode, good.stdout, good.stderr) == (0, "3\n", "")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("alignjax: error: options must begin with --")
    assert bad.stderr.count("\n") == 1
    assert helped.returncode == 0
    assert "--config.seed=0" in helped.stdout
