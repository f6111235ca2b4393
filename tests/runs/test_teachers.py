"""Students of a run: a teacher of another shape is found by its folder, and must be named."""

import jax
import pytest

from alignjax.algorithms import distill, minillm, opd, sft
from alignjax.models import config as model_config
from alignjax.parallel import mesh as meshes
from alignjax.runs import train
from alignjax.sampling import transforms
from alignjax.worlds import corpus as worlds
from tests.commands import cli
from tests.runs import starts

DATA = worlds.ReviewConfig(documents=32, demonstrations=32, prompts=32, eval_rows=8)
SMALL = model_config.TransformerConfig(layers=1, width=16, heads=2, kv_heads=1, head_dim=8, ff=16)
SAMPLING = transforms.SamplingConfig(max_new_tokens=4)


@pytest.mark.parametrize("kind", [distill.DistillConfig, opd.OpdConfig, minillm.MiniLlmConfig])
def test_a_teacher_must_be_named(tmp_path, kind):
    with pytest.raises(
        ValueError, match=r"teacher must name the folder of .* for the teacher"
    ) as e:
        train.train(starts.make(kind(), data=DATA), tmp_path / "run", name="r", log=starts.quiet)
    assert "--config.teacher=RUN_FOLDER" in str(e.value)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


def test_a_method_without_a_teacher_refuses_one(tmp_path):
    config = starts.make(sft.SftConfig(), data=DATA, teacher="runs/large")
    with pytest.raises(ValueError, match=r"teacher must be empty for sft, .* got 'runs/large'"):
        train.train(config, tmp_path / "run", name="r", log=starts.quiet)


CONFIG = """
from alignjax.algorithms.distill import DistillConfig
from alignjax.runs.experiment import Experiment


def get_config(variant=""):
    return Experiment(algorithm=DistillConfig({options}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("on_policy=1.01", "algorithm.on_policy must"),
        ("beta=-0.5", "algorithm.beta must"),
        ("temperature=0.0", "algorithm.temperature must"),
        ("", "teacher must name"),
    ],
)
def test_the_command_refuses_in_a_line_and_writes_nothing(tmp_path, options, words):
    file = tmp_path / "own.py"
    file.write_text(CONFIG.format(options=options))
    process = cli.start("train", f"--config={file}", f"--workdir={tmp_path / 'run'}")
    _, printed = process.communicate(timeout=300)
    assert process.returncode == 2, printed
    assert printed.count("\n") == 1
    assert words in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_student_of_another_shape_learns_from_a_run(tmp_path, monkeypatch):
    """Its evaluation tells the exact KL to the teacher; its teacher's folder is in its record."""
    whole = meshes.make_mesh
    monkeypatch.setattr(meshes, "make_mesh", lambda config: whole(config, jax.devices()[:1]))
    big = starts.make(starts.PullConfig(), data=DATA)
    train.train(big, tmp_path / "teacher", name="teacher", log=starts.quiet)
    method = distill.DistillConfig(on_policy=0.25, beta=0.5, sampling=SAMPLING)
    student = starts.make(method, SMALL, data=DATA, teacher=str(tmp_path / "teacher"))
    lines = []
    train.train(student, tmp_path / "student", name="student", log=lines.append)
    (row,) = starts.rows_of(tmp_path / "student")
    assert row["policy_rows"] == 0.25
    assert row["divergence"] > 0
    assert any("round(0.25 B) rows answered by the student" in line for line in lines)
    from alignjax.runs import evaluation

    numbers = evaluation.evaluate(tmp_path / "student", rows=8, seed=0)
    assert numbers["KL to the teacher, nats"].value > 0
