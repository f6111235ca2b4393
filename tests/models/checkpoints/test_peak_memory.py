"""What loading needs beyond the arrays that it makes, measured in a process of its own."""

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from alignjax.models.checkpoints import safetensors_io
from tests.commands import cli

PEAK = """
import sys, threading, time, pathlib
import jax, jax.numpy as jnp
from alignjax.models.checkpoints import safetensors_io, sharded, sources
from alignjax.models.checkpoints.sharded import Source
layers, d, f, v, folder, one = *map(int, sys.argv[1:5]), sys.argv[5], sys.argv[6] == "one"

def status(field):
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.split(field + ":")[1].split()[0]) / 1024

mesh = jax.make_mesh((8,), ("data",))
def want(shape, *spec):
    where = None if one else jax.sharding.NamedSharding(mesh, jax.P(*spec))
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=where)
names = lambda kind: tuple(f"h.{i}.{kind}" for i in range(layers))
wanted = {"embed": want((v, d), None, "data"), "up": want((layers, d, f), None, "data"),
          "down": want((layers, f, d), None, None, "data")}
sources = {"embed": Source("embed"), "up": Source(names("up"), "f d -> d f"),
           "down": Source(names("down"), "d f -> f d")}
jax.block_until_ready(jax.device_put(jnp.zeros(8), mesh.devices.flat[1]))
before = status("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")
began = time.time()
tree = jax.block_until_ready(sharded.load(safetensors_io.open_folder(folder), wanted, sources))
took = time.time() - began
buffers = sum(s.data.nbytes for x in tree.values() for s in x.addressable_shards) / 2**20
most, now = (status(field) - before - buffers for field in ("VmHWM", "VmRSS"))
print(f"peak {most:.0f} kept {now:.0f} buffers {buffers:.0f} seconds {took:.1f}", end=" ")
before = status("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")
safetensors_io.write_folder(folder + "-again", sharded.tensors_of(tree, sources))
print(f"export {status('VmHWM') - before:.0f}")
"""


def fake(path, layers, d, f, v):
    """A folder of random bf16 weights, written tensor by tensor."""
    rng = np.random.default_rng(0)

    def get(*shape):
        return rng.integers(0, 2**14, shape, np.uint16).view(ml_dtypes.bfloat16)

    kind = np.dtype(ml_dtypes.bfloat16)
    entries = [("embed", (v, d), kind, lambda: get(v, d))]
    for i in range(layers):
        entries.append((f"h.{i}.up", (f, d), kind, lambda: get(f, d)))
        entries.append((f"h.{i}.down", (d, f), kind, lambda: get(d, f)))
    safetensors_io.write_folder(path, entries, max_file_bytes=layers * d * f)


def peak(tmp_path, layers, d, f, v, where="mesh"):
    """MiB beyond the arrays themselves: at the peak, kept; the arrays'; and what writing needs."""
    fake(tmp_path / "w", layers, d, f, v)
    argv = [str(x) for x in (layers, d, f, v, tmp_path / "w", where)]
    environment = {**cli.environment(devices=8), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *argv],
        cwd=cli.ROOT, env=environment, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    print(f"{where} {done.stdout.strip()}")
    words = done.stdout.split()
    return float(words[1]), float(words[3]), float(words[5]), float(words[9])


needs_proc = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from Linux's /proc"
)


@needs_proc
def test_peak_memory_is_one_device_slice(tmp_path):
    """200 MiB on 8 devices; a parameter of 64 MiB, of which each device holds 8."""
    beyond, kept, buffers, export = peak(tmp_path, layers=8, d=1024, f=4096, v=36864)
    assert buffers == 200
    slice_of_a_device = 72 / 8
    # The slice itself, one tensor's part of it as it lies in the file, and a window of the file.
    assert beyond < slice_of_a_device + 16 + 24
    assert kept < 24
    # One tensor, the largest with 72 MiB, and what compiling takes: less than the model.
    assert export < 190


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("where", ["mesh", "one"])
def test_peak_memory_of_a_billion_parameters(tmp_path, where):
    beyond, _, buffers, export = peak(tmp_path, layers=24, d=2048, f=8192, v=98304, where=where)
    assert 1900 < buffers < 2000
    assert beyond < (768 / 8 + 80 if where == "mesh" else 768 + 120)
    assert export < 384 + (384 / 8 if where == "mesh" else 384) + 160
