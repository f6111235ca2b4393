"""What `alignjax plan` refuses: one line, exit code 2, and nothing is compiled."""

import jax
import pytest

from alignjax import main
from alignjax.planning import planner, topology

CONFIG = "--config=experiments/hh_sft.py:micro"
SIZES = {
    "heads": 8, "kv_heads": 4, "head_dim": 8, "width": 64, "ff": 96, "vocab_size": 2048,
}  # fmt: skip


def sizes(**changes):
    return [f"--config.model.{name}={value}" for name, value in {**SIZES, **changes}.items()]


def mesh(**axes):
    return [f"--config.mesh.{name}={value}" for name, value in axes.items()]


MOE = ("moe.experts", "moe.active", "moe.ff")
CASES = {
    "no topology": ([], "--topology must be one of v5e:"),
    "unknown chip": (["--topology=v9:2x2"], "--topology must be one of v5e:"),
    "unknown slice": (["--topology=v6e:3x5"], "16x16"),
    "flat slice of a cube": (["--topology=v5p:4x4"], "8x8x16"),
    "too large": (["--topology=v5p:99x99x99"], "--topology must be one of"),
    "slices of CPUs": (["--topology=cpu:8", "--slices=2"], "--slices must be 1 for cpu"),
    "does not multiply": (
        ["--topology=cpu:8", *mesh(data=3, model=2), *sizes()],
        "must multiply to the number of devices; got 8 devices",
    ),
    "key heads": (["--topology=cpu:8", *mesh(data=1, model=8), *sizes()], "model.kv_heads must be"),
    "ff": (["--topology=cpu:8", *mesh(model=4), *sizes(ff=90)], "model.ff must be a multiple"),
    "vocabulary": (
        ["--topology=cpu:8", *mesh(model=4), *sizes(vocab_size=2049)],
        "model.vocab_size must be a multiple",
    ),
    "width": (["--topology=cpu:8", *mesh(data=8), *sizes(width=60)], "model.width must be"),
    "experts": (
        ["--topology=cpu:8", *mesh(expert=8), *sizes(**dict(zip(MOE, (6, 2, 8), strict=True)))],
        "model.moe.experts must be a multiple",
    ),
    "batch": (
        ["--topology=cpu:8", *mesh(data=8), *sizes(), "--config.loop.batch_size=12"],
        "must be a multiple of the mesh's batch axes",
    ),
    "micro-batches": (
        ["--topology=cpu:8", *mesh(data=8), *sizes(), "--config.loop.batch_size=16",
         "--config.loop.micro_batches=4"],
        "must be a multiple of the mesh's batch axes",
    ),
    "compiles": (["--topology=cpu:8", "--sweep", "--compiles=0"], "--compiles must be"),
    "nothing divides": (
        ["--topology=cpu:7", "--sweep", *sizes(), "--config.loop.batch_size=16"],
        "--sweep must find a mesh of 7 devices",
    ),
    "a lifecycle": (["--config=experiments/lifecycle.py", "--topology=cpu:8"], "one by one"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_nothing_is_compiled(name, capsys, monkeypatch):
    jax.devices()  # JAX has started
    monkeypatch.setattr(planner, "examine", lambda *args: pytest.fail("compiled"))
    options, said = CASES[name]
    config = [] if any(word.startswith("--config=") for word in options) else [CONFIG]
    assert main.main(["plan", *config, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("sweep:")]
    assert len(lines) == 1, err
    assert lines[0].startswith("alignjax: error: ")
    assert said in lines[0]


def test_without_the_compiler(capsys, monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    assert main.main(["plan", CONFIG, "--topology=v5e:2x4"]) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "Install alignjax[tpu-plan], or use cpu:N." in err
