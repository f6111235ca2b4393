"""One lifecycle of one process, which runs of several are compared with and start from."""

import pytest

from tests.commands.conftest import MICRO
from tests.processes import launch


@pytest.fixture(scope="session")
def lifecycle(tmp_path_factory):
    """The folder of a lifecycle of one process on 4 devices: SFT, reward, DPO, PPO and report."""
    folder = tmp_path_factory.mktemp("lifecycle")
    launch.run(folder / "logs", "run", *MICRO, f"--workdir={folder / 'one'}", count=1, devices=4)
    return folder / "one"
