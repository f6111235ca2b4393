"""How a command finds out whether it is one of several processes."""

import jax
import pytest

from alignjax.parallel import mesh, processes, rendezvous
from tests.processes import launch

AUTO = rendezvous.Launch(None, None, None)
OURS = {
    "JAX_COORDINATOR_ADDRESS": "host:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}


@pytest.mark.parametrize(
    ("given", "environment", "found"),
    [
        (("", 0, -1), {}, None),
        (("", 1, -1), {}, None),
        (("", 0, -1), {"SLURM_NTASKS": "8"}, None),  # a batch script, not a step of 8
        (("", 0, -1), {"SLURM_STEP_NUM_TASKS": "1"}, None),
        (("", 0, -1), {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (("host:1", 1, 0), {}, None),
        (("host:1", 2, 0), {}, rendezvous.Launch("host:1", 2, 0)),
        (("", 0, -1), OURS, rendezvous.Launch("host:1234", 4, 3)),
        (("other:5", 2, 1), OURS, rendezvous.Launch("other:5", 2, 1)),
        (("auto", 0, -1), {}, AUTO),
        (("", 0, -1), {"SLURM_STEP_NUM_TASKS": "8"}, AUTO),
        (("", 0, -1), {"OMPI_COMM_WORLD_SIZE": "2"}, AUTO),
        (("", 0, -1), {"TPU_WORKER_HOSTNAMES": "a,b"}, AUTO),
        (("", 0, -1), {"MEGASCALE_NUM_SLICES": "2"}, AUTO),
    ],
)
def test_launch(given, environment, found):
    assert rendezvous.launch(*given, environment) == found


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        (("host:1", 2, -1), {}, "must be given together; got 'host:1', 2 and no id"),
        (("", 2, 0), {}, "must be given together; got '', 2 and 0"),
        (("host:1", 0, 0), {}, "got 'host:1', no count and 0"),
        (("host", 2, 0), {}, "--coordinator must be HOST:PORT of process 0; got 'host'"),
        (("host:1", 2, 2), {}, "--process_id must be below --processes=2; got 2"),
        (("", 0, -1), {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES must be a number"),
    ],
)
def test_what_does_not_fit_together_is_refused(given, environment, message):
    with pytest.raises(ValueError, match=message):
        rendezvous.launch(*given, environment)


def test_all_have_a_time_to_come_in():
    assert rendezvous.patience({}) < 60
    assert rendezvous.patience({rendezvous.PATIENCE: "300"}) == 300
    for bad in ("0", "soon", "-1"):
        with pytest.raises(ValueError, match="ALIGNJAX_JOIN_SECONDS must be"):
            rendezvous.patience({rendezvous.PATIENCE: bad})


def test_what_is_said_names_who_is_awaited():
    hosts = {"TPU_WORKER_HOSTNAMES": "a,b,c,d"}
    assert "the processes of the 4 hosts in TPU" in rendezvous.late(AUTO, 5, hosts)
    assert "the processes of all hosts must come within 5 s" in rendezvous.late(AUTO, 5, {})


def test_hosts_of_a_slice_that_have_not_joined_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(ValueError, match=r"got 4 that each run on their own.*--coordinator=auto"):
        mesh.make_mesh(mesh.MeshConfig())
    assert mesh.make_mesh(mesh.MeshConfig(), jax.devices()) is not None  # those of a plan


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("here", [0, 1])
def test_a_peer_that_never_comes_ends_the_other_with_one_line(tmp_path, monkeypatch, here):
    monkeypatch.setenv(rendezvous.PATIENCE, "2")
    argv = ("train", f"--config={launch.config_file(tmp_path)}", f"--workdir={tmp_path / 'run'}")
    alone = launch.start(tmp_path / "logs", *argv, only=here)
    assert alone.codes(launch.DEADLINE) == [1], alone.report()
    (line,) = alone.err(0).splitlines()
    assert line.startswith(f"alignjax[{here}]: error: 2 processes at 127.0.0.1:")
    assert "must come within 2 s; got fewer" in line
    assert not (tmp_path / "run").exists()


def test_one_process_waits_for_nobody(tmp_path):
    processes.start()
    assert (processes.count(), processes.index(), processes.is_first()) == (1, 0, True)
    assert processes.name() == "alignjax"
    processes.barrier()
    done = []
    processes.only_first(lambda: done.append(1))
    assert done == [1]
    assert processes.from_first(lambda: {"a": 1}) == {"a": 1}
    assert [processes.should_stop(asked) for asked in (False, True)] == [False, True]
    processes.check_same("anything", {"a": 1})
    file = tmp_path / "file"
    file.write_text("x")
    processes.check_shared(file)
    processes.leave(1, "a failure")  # the interpreter goes on and ends with the code
