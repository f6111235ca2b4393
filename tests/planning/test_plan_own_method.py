"""Methods that a file outside the package defines are planned by their records alone."""

import json

import jax
import pytest

from alignjax import main

FILE = '''
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import mean
from alignjax.data import corpus
from alignjax.evals import evaluator, likelihood
from alignjax.models import scoring
from alignjax.models.config import TransformerConfig
from alignjax.parallel.mesh import MeshConfig
from alignjax.runs.experiment import Experiment
from alignjax.training import algorithm, method, program
from alignjax.training.loop import LoopConfig


@dataclasses.dataclass(kw_only=True)
class StairsConfig(corpus.DataConfig):
    """Numbers that count upwards; a plan reads none."""

    def outline(self):
        return corpus.Corpus(
            vocab_size=64, pad=0, eos=1, length=16, prompt_length=4, kinds=("demonstrations",),
            table=None, text=str, fingerprints={},
        )


@dataclasses.dataclass(kw_only=True)
class DistilConfig(method.MethodConfig):
    """Likelihood of answers, weighed by a teacher that stands in a folder or not."""

    host: str = ""  # what collecting does on the host
    listed: bool = True  # and then tells what it runs
    annotated: bool = False  # whether the teacher's column is made once, for all rows


# What arrays without values do not have, each told by an error of another kind.
HOST = {
    "": lambda x: None,
    "number": lambda x: float(jnp.max(x)),
    "branch": lambda x: 1 if jnp.max(x) > 0 else 2,
    "numpy": lambda x: np.asarray(x),
    "device": lambda x: x.addressable_data(0),
    "list": lambda x: x.tolist(),
}


def make_weights(model):
    @jax.jit
    def weights(teacher, batch):
        return jnp.exp(scoring.token_stats(model, teacher, batch).logprob)

    return weights


def distil(networks, config):
    model, teacher = networks["policy"], networks["teacher"]
    weights = make_weights(teacher)

    def loss(params, frozen, batch, key):
        bound, mask = model.bind(params, frozen, key), scoring.counted(batch)
        nll = -scoring.token_stats(model, bound, batch).logprob * batch["weights"]
        terms = {"pull": mean.masked(nll, mask)}
        return terms, terms

    def column(frozen, batch):
        return {"weights": weights(teacher.bind(frozen["teacher"], frozen), batch)}

    def collect(state, frozen, batch, key):
        more = column(frozen, batch)
        HOST[config.host](more["weights"])
        return {**batch, **more}, state.carry, {}

    def programs(shapes):
        made = make_weights(teacher)
        batch, tree = shapes.batch, shapes.bound["teacher"]
        column = jax.eval_shape(made, tree, batch)
        own = program.Program(
            "teach", made, (tree, batch), (("frozen", tree), ("batch", batch)),
            *batch["tokens"].shape, passes=(program.Pass("teacher"),),
        )
        return program.Collected((own,), {**batch, "weights": column})

    options = {"annotate": column, "only_annotate": ("teacher",)}
    if not config.annotated:
        listed = programs if config.host and config.listed else None
        options = {"collect": collect, "programs": listed}
    return algorithm.Algorithm(
        init=algorithm.from_policy(model), loss=loss,
        passes=(program.Pass("policy", trained=True),),
        annotate_passes=(program.Pass("teacher"),),
        collect_passes=(program.Pass("teacher"),),
        **options,
    )


def agreement(subject):
    return {}


def agreement_programs(subject):
    batch = program.batch("demonstrations", subject.rows, subject.corpus)
    tree = subject.trees["teacher"]
    return (
        program.Program(
            "evaluate teacher", make_weights(subject.networks["teacher"]), (tree, batch),
            (("frozen", tree), ("batch", batch)), subject.rows, subject.corpus.length,
            passes=(program.Pass("teacher"),),
        ),
    )


DistilConfig.METHOD = method.Method(
    name="distil-by-hand",
    make=lambda networks, config, task: distil(networks, config),
    table=lambda config: "demonstrations",
    roles=lambda config: {
        "policy": method.Role(trained=True, source="policy"),
        "teacher": method.Role(source="teacher", required=True),
    },
    evaluators=lambda config: (
        likelihood.of("demonstrations"),
        evaluator.Evaluator(
            "agreement", agreement, reads=("teacher",), programs=agreement_programs
        ),
    ),
)

def get_config(variant=""):
    model = TransformerConfig(layers=2, width=64, heads=4, kv_heads=2, head_dim=16, ff=96)
    return Experiment(
        algorithm=DistilConfig(
            host="number" if variant == "host" else variant if variant in HOST else "",
            listed=variant == "host", annotated=variant == "annotated",
        ),
        data=StairsConfig(), model=model, loop=LoopConfig(steps=4, batch_size=32),
        mesh=MeshConfig(data=8),
    )
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "mine.py"
    path.write_text(FILE)
    return path


def plan(file, variant, capsys, *options):
    """(exit code, JSON or None, lines of stderr)."""
    jax.devices()  # JAX has started
    named = (f"--config={file}:{variant}", "--config.teacher=RUN", "--topology=cpu:8")
    code = main.main(["plan", *named, *options])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err.splitlines()


@pytest.mark.parametrize(
    ("variant", "names"),
    [
        ("", ["init", "collect", "update"]),
        ("host", ["init", "teach", "update"]),
        ("annotated", ["init", "annotate", "update"]),
    ],
)
def test_a_method_of_a_file_is_planned(variant, names, file, capsys):
    code, found, _ = plan(file, variant, capsys, "--json")
    assert (code, found["fits"], found["method"]) == (0, True, "distil-by-hand")
    run = [each for each in found["programs"] if each["stage"] == "run"]
    assert [each["name"] for each in run] == names
    for each in found["programs"][1:]:
        assert each["flops"] * 8 == pytest.approx(each["work"]["run"], rel=0.03), each["name"]
    second, update = (each["memory"] for each in run[1:])
    # The teacher is as large as the policy, and is let go of where no step reads it.
    assert second["arguments"]["frozen"] == update["arguments"]["parameters"]
    held = sum(update[part].get("frozen", 0) for part in ("arguments", "resident"))
    assert held == (0 if variant == "annotated" else second["arguments"]["frozen"])
    assert [each["per_step"] for each in run] == [0, 0 if variant == "annotated" else 1, 1]
    judged = [each["name"] for each in found["programs"] if each["stage"] == "evaluation"]
    assert judged == ["evaluate likelihood", "evaluate teacher"]


@pytest.mark.parametrize("variant", ["number", "branch", "numpy", "device", "list"])
def test_a_collect_on_the_host_must_say_what_it_runs(variant, file, capsys):
    code, found, lines = plan(file, variant, capsys)
    assert (code, found) == (2, None)
    assert len(lines) == 1
    assert lines[0].startswith(
        "alignjax: error: the collect of distil-by-hand must be traceable, or list what it runs in "
        "Algorithm.programs; got "
    )
