"""A folder has one owner: refused while it lives, free when it is gone, on whatever host."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from alignjax.runs import continuing, ownership

HOLD = """
import pathlib, sys, time
from alignjax.runs import ownership
with ownership.owned(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_living_process_keeps_others_out_and_a_killed_one_does_not(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "held\n"
    record = tmp_path / "config.json"
    with (
        pytest.raises(ownership.InUse, match=rf"in which process {owner.pid} on .* trains"),
        continuing.withdrawn_if_refused(tmp_path),
        ownership.owned(tmp_path),
    ):
        record.write_text("{}")
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    with ownership.owned(tmp_path):
        told = json.loads((tmp_path / ownership.FILE).read_text())
        assert told["pid"] == os.getpid()
    with ownership.owned(tmp_path):  # given back
        pass


def test_the_record_of_the_owner_outlives_a_refusal(tmp_path):
    def refused():
        with continuing.withdrawn_if_refused(tmp_path):
            (tmp_path / "config.json").write_text("{}")
            raise ownership.InUse("by another")

    with pytest.raises(ownership.InUse):
        refused()
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize("is_alive", [True, False])
def test_another_host_owns_while_it_counts(tmp_path, monkeypatch, is_alive):
    monkeypatch.setattr(ownership, "BEAT", 0.1)
    monkeypatch.setattr(ownership, "WATCHED", 1.0)
    file, done = tmp_path / ownership.FILE, threading.Event()

    def count(number):
        text = json.dumps({"host": "elsewhere", "pid": 7, "count": number})
        with open(file, "r+b" if file.exists() else "wb") as out:
            out.write(text.ljust(ownership.WIDTH - 1).encode() + b"\n")

    def beat():
        number = 0
        while not done.wait(0.1):
            number += 1
            count(number)

    count(0)
    thread = threading.Thread(target=beat)
    if is_alive:
        thread.start()
    try:
        if is_alive:
            with (
                pytest.raises(ownership.InUse, match="process 7 on elsewhere"),
                ownership.owned(tmp_path),
            ):
                pass
        else:
            with ownership.owned(tmp_path):
                time.sleep(0.3)
                assert json.loads(file.read_text())["count"] > 0
    finally:
        done.set()
        if is_alive:
            thread.join()
