"""Jobs that misbehave, each in a way of its own; run in workers by test_pool.py."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

GENERATIONS = 11  # of a fork bomb: 2048 processes, if nothing stops it


def spin(_):
    while True:
        pass


def sleep(_):
    time.sleep(1000)


def fork_bomb(_):
    for _ in range(GENERATIONS):
        os.fork()
    time.sleep(1000)


def scattered_fork_bomb(_):
    """Every process is the first of a session of its own, and nothing stops it."""
    for _ in range(GENERATIONS):
        try:
            if os.fork() == 0:
                os.setsid()
        except OSError:
            time.sleep(0.001)
    time.sleep(1000)


def segfault(_):
    ctypes.string_at(0)


def memory_hog(_):
    held = []
    while True:
        held.append(bytearray(1 << 26))


def output_flood(_):
    chunk = "x" * (1 << 20)
    for _ in range(200):
        print(chunk)
        os.write(2, chunk.encode())
    return 7


def endless_output_flood(_):
    while True:
        os.write(1, b"x" * (1 << 20))


def ignores_sigterm(_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    spin(_)


def child_ignores_sigterm(_):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    time.sleep(1000)


def grandchild_of_its_own_session(_):
    """A grandchild, orphaned and alone in a session, that outlives the job."""
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1000)
        os._exit(0)
    time.sleep(1000)


def program_of_its_own_session(_):
    """The same with another program, started by one that has ended."""
    code = "import subprocess, sys; subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    subprocess.run([sys.executable, "-c", code], check=True)
    time.sleep(1000)


def leaves_a_child_and_dies(_):
    if os.fork() == 0:
        os.setsid()
        time.sleep(1000)
    os.kill(os.getpid(), signal.SIGKILL)


def comes_back_twice(_):
    os.fork()
    return "once"


def many_threads(_):
    """As many as a library may start."""
    threads = [threading.Thread(target=time.sleep, args=(0.2,)) for _ in range(200)]
    for thread in threads:
        thread.start()
    return len(threads)


def exits(_):
    sys.exit(3)


def exits_at_once(_):
    os._exit(3)


def too_long(_):
    return "x" * (2 << 20)


def raises(_):
    raise ValueError("a message\nof two lines")


def no_json(_):
    return object()


def double(payload):
    return 2 * payload


def pid(_):
    return os.getpid()


def devices(_):
    return [os.environ["JAX_PLATFORMS"], os.environ["CUDA_VISIBLE_DEVICES"], "jax" in sys.modules]


def make(spec):
    """The handler of these names."""
    if spec["job"] == "unloadable":
        raise RuntimeError("no such thing")
    if spec["job"] == "hangs while loaded":
        time.sleep(1000)
    return globals()[spec["job"]]


def length(payload):
    return len(payload["text"])


def users(_):
    return os.getresuid()[:2]
