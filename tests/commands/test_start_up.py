"""What a start costs: modules that are loaded, and programs that are compiled."""

import json
import os
import subprocess
import sys

import pytest

# Of the package's dependencies, those that no command line needs before its command runs.
HEAVY = (
    "flax",
    "matplotlib",
    "ml_collections",
    "optax",
    "orbax",
    "scipy",
    "sqlalchemy",
    "starlette",
    "tensorboardX",
    "tensorflow",
    "transformers",
)


def fresh(code, *arguments):
    """What a process of its own prints as JSON in its last line."""
    # One device, and none of the caches that tests share.
    kept = {name: x for name, x in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**kept, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_command_line_loads_no_heavy_module():
    code = (
        "import json, sys\nimport alignjax.main\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    assert not set(HEAVY) & set(fresh(code))


RUN = """
import json, pathlib, sys
import jax
from alignjax.algorithms import sft
from alignjax.commands import common
from alignjax.models import config
from alignjax.runs import experiment, train
from alignjax.training import loop
from alignjax.worlds import corpus

compiled, kept = [], []
def heard(event, seconds, **more):
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(more.get("fun_name"))
jax.monitoring.register_event_duration_secs_listener(heard)
jax.monitoring.register_event_listener(lambda event, **more: kept.append(event))
folder = pathlib.Path(sys.argv[1])
made = experiment.Experiment(
    model=config.TransformerConfig(layers=1, width=16, heads=2, kv_heads=2, head_dim=8, ff=16),
    data=corpus.ReviewConfig(documents=16, demonstrations=16, prompts=16, eval_rows=8),
    algorithm=sft.SftConfig(),
    loop=loop.LoopConfig(steps=2, batch_size=4),
)
with common.compilation_cache(folder):
    train.train(made, folder, name="start", log=lambda line: None)
count = lambda name: kept.count(f"/jax/compilation_cache/{name}")
print(json.dumps([compiled, count("cache_misses"), count("cache_hits")]))
"""


@pytest.mark.slow
def test_one_program_updates_and_a_second_start_compiles_nothing(tmp_path):
    """Also where the folder of compiled programs has moved."""
    compiled, misses, hits = fresh(RUN, tmp_path / "a")
    names = [str(name) for name in compiled]
    assert sum("update" in name for name in names) == 1, names
    assert hits == 0
    assert misses == len(compiled)
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "compiled").rename(tmp_path / "b" / "compiled")
    again, misses, hits = fresh(RUN, tmp_path / "b")
    assert misses == 0
    assert hits == len(again) == len(compiled)
