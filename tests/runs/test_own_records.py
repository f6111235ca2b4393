"""What a method of one's own may be: other names of roles, networks of its own fields, numbers of
its own beside a network, columns of its own in the data."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import mean
from alignjax.data import corpus, tables
from alignjax.lifecycles import lifecycle, listed, shared
from alignjax.parallel import mesh as meshes
from alignjax.planning import planner, programs, topology
from alignjax.runs import assembly, evaluation, experiment, sources, train
from alignjax.training import algorithm, method, program
from alignjax.training import loop as loops
from tests.runs import starts


@dataclasses.dataclass(kw_only=True)
class StudentConfig(method.MethodConfig):
    """A pull towards 1, by a learnt strength, of a student that a judge of its own has seen."""

    judge: str = ""  # folder of a scorer's run
    column: str = ""  # of the data, that the loss reads
    told: bool = True  # whether the record names the column
    flat: bool = False  # params are a tuple of both trees


def student(networks, config):
    model = networks["student"]

    def init(key, start):
        tree = algorithm.from_policy(model, role="student")(key, start)
        own = {"log": jnp.zeros((2,), jnp.float32), "deep": {"count": jnp.zeros((), jnp.float32)}}
        return {"student": tree, "strength": own}

    def loss(params, frozen, batch, key):
        tree, strength = params["student"], jnp.exp(params["strength"]["log"]).sum()
        square = sum(jnp.mean((w - 1.0) ** 2) for w in jax.tree.leaves(tree))
        weight = jnp.mean(batch[config.column]) if config.column else 1.0
        judged = sum(jnp.sum(w) * 0.0 for w in jax.tree.leaves(frozen["judge"]))
        return {"square": mean.of(strength * weight * square + judged)}, {}

    columns = (config.column,) if config.column and config.told else ()
    return algorithm.Algorithm(init=init, loss=loss, columns=columns)


StudentConfig.METHOD = method.Method(
    name="student",
    make=lambda networks, config, task: student(networks, config),
    table=lambda config: "scored",
    roles=lambda config: {
        "student": method.Role(trained=True, source="policy"),
        "judge": method.Role(source="judge", part=method.SCORER, head=True, required=True),
    },
    product=lambda config: {method.POLICY: method.entry("student")},
)


@dataclasses.dataclass(kw_only=True)
class TwoConfig(method.MethodConfig):
    """Two trained networks whose params are no mapping."""


TwoConfig.METHOD = method.Method(
    name="two",
    make=lambda networks, config, task: algorithm.Algorithm(
        init=lambda key, start: (networks["policy"].init(key), networks["other"].init(key)),
        loss=lambda params, frozen, batch, key: ({"one": mean.of(jnp.zeros(2))}, {}),
    ),
    table=lambda config: "scored",
    roles=lambda config: {
        "policy": method.Role(trained=True, source="policy"),
        "other": method.Role(trained=True),
    },
)


@dataclasses.dataclass(kw_only=True)
class OwnColumnsConfig(corpus.DataConfig):
    """Scored answers with a column that no method of the package knows."""

    described: bool = True
    width: int = 3
    kinds: tuple[str, ...] = ("scored", "demonstrations")

    def make(self, log):
        def table(kind, split):
            slot = np.tile(np.arange(6, dtype=np.int32), (16, 1))
            rows = {
                "tokens": slot + 2, "loss_mask": slot > 1,
                "segments": np.ones_like(slot), "positions": slot,
            }  # fmt: skip
            if kind == "demonstrations":
                return rows
            own = np.ones((16, self.width), np.float32)
            return {**rows, "scores": np.ones(16, np.float32), "trust": own}

        return corpus.Corpus(
            vocab_size=12, pad=0, eos=1, length=6, prompt_length=2, kinds=self.kinds, table=table,
            text=str, fingerprints={"rows": "16"}, answers=5,
            columns={"trust": tables.Column(np.float32, "N 3", "")} if self.described else {},
        )  # fmt: skip


def make(config, **options):
    return starts.make(config, data=OwnColumnsConfig(), **options)


# --- networks of its own fields ------------------------------------------------------------------


def test_a_network_of_an_own_field_is_asked_for_by_that_field():
    with pytest.raises(ValueError, match=r"judge must name the folder .* for the judge of student"):
        make(StudentConfig()).validate()
    with pytest.raises(ValueError, match=r"Set --config\.algorithm\.judge=RUN_FOLDER"):
        make(StudentConfig()).validate()


def test_a_plan_gives_an_absent_network_of_an_own_field_a_name():
    config = make(StudentConfig())
    planned = programs.without_data(config)
    assert (planned.algorithm.judge, config.algorithm.judge) == ("judge", "")
    planned.validate()


def test_a_source_that_no_network_reads_is_refused():
    config = make(TwoConfig(), teacher="runs/a")
    with pytest.raises(ValueError, match="teacher must be empty for two"):
        config.validate()
    anew = method.Role(trained=True)
    fresh = TwoConfig.METHOD._replace(roles=lambda config: {"policy": anew, "other": anew})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TwoConfig, "METHOD", fresh)
        with pytest.raises(ValueError, match="policy must be empty for two, which has no such"):
            make(TwoConfig(), policy="runs/a").validate()


def stages(**sources_of):
    training = experiment.Training(algorithm=StudentConfig(), loop=loops.LoopConfig(batch_size=8))
    scorer = experiment.Training(algorithm=starts.PullConfig(head=True))
    return listed.ListedLifecycle(
        data=OwnColumnsConfig(), model=starts.POLICY, eval_batch=8,
        stages=(
            lifecycle.Stage("scorer", scorer),
            lifecycle.Stage("mine", training, sources=sources_of),
        ),
    )  # fmt: skip


def test_a_stage_names_networks_of_own_fields(tmp_path):
    config = stages(judge="scorer")
    config.validate()
    space = lifecycle.Workspace(tmp_path, config, config.data.make(starts.quiet), starts.quiet)
    made = space.experiment(config.stages[1])
    assert made.algorithm.judge == str(tmp_path / "scorer")
    assert config.stages[1].training.algorithm.judge == ""
    with pytest.raises(ValueError, match="judge of the stage mine must be an earlier stage"):
        stages(judge="none").validate()
    with pytest.raises(ValueError, match="a source of the stage mine must be one of judge; got"):
        stages(jugde="scorer").validate()


def test_stages_are_shared_only_where_their_own_networks_are_the_same():
    one, other = (make(StudentConfig(judge=path)) for path in ("runs/a", "runs/b"))
    assert shared.content(one, {}, {}) != shared.content(other, {}, {})
    of_stages = [shared.content(each, {"judge": "12ab"}, {}) for each in (one, other)]
    assert of_stages[0] == of_stages[1]


# --- names of roles ------------------------------------------------------------------------------


def test_what_is_trained_never_begins_anew_beside_a_tree_of_another_role():
    init = algorithm.from_policy(starts.POLICY)
    with pytest.raises(ValueError, match=r"got 'policy', and trees of student .*role=\.\.\."):
        init(jax.random.key(0), {"student": {}})


def test_a_product_is_of_a_trained_role():
    record = StudentConfig.METHOD._replace(product=lambda config: {method.POLICY: method.whole()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudentConfig, "METHOD", record)
        with pytest.raises(ValueError, match="trained role of student's policy must be one of"):
            method.check(StudentConfig())


def test_a_frozen_network_is_not_called_like_what_a_run_hands_on():
    """An evaluation would read the frozen one in the trained one's place."""
    roles = {"student": method.Role(trained=True, source="policy"), "policy": method.Role()}
    record = StudentConfig.METHOD._replace(roles=lambda config: roles)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudentConfig, "METHOD", record)
        with pytest.raises(ValueError, match="frozen networks of student must have other names"):
            method.check(StudentConfig())


def test_params_of_several_networks_are_by_role():
    config = make(TwoConfig())
    parts = assembly.Assembly(config, config.data.make(starts.quiet), sources.Shapes())
    says = "must return a mapping with the trees of its trained roles, policy, other; got tuple"
    with pytest.raises(ValueError, match=says):
        jax.eval_shape(parts.algorithm().init, jax.random.key(0), {})


# --- columns and sizes of its own ----------------------------------------------------------------


def test_a_plan_reads_sizes_and_columns_that_the_data_describe():
    data = OwnColumnsConfig().make(starts.quiet)
    batch = program.batch("scored", 4, data, ("trust",))
    assert (batch["trust"].shape, batch["trust"].dtype) == ((4, 3), np.float32)
    assert "trust" not in program.batch("scored", 4, data)
    assert program.batch("rankings", 4, data)["ranks"].shape == (4, 5)
    assert program.batch("pairs", 4, data, ("preferred",))["preferred"].shape == (4, 1, 2)


def test_described_columns_are_compared_with_what_is_there():
    OwnColumnsConfig().make(starts.quiet).read("scored", "train")
    OwnColumnsConfig(width=2, described=False).make(starts.quiet).read("scored", "train")
    says = r"column trust of a table of scored must be float32 \[N 3\]"
    with pytest.raises(ValueError, match=says):
        OwnColumnsConfig(width=2).make(starts.quiet).read("scored", "train")


@pytest.mark.parametrize("told", [True, False])
def test_a_plan_knows_the_columns_of_a_method_or_says_which_it_lacks(told):
    config = make(StudentConfig(column="trust", told=told))
    config.mesh = meshes.MeshConfig(data=8)

    def run():
        return planner.plan(config, topology.find("cpu:8"), starts.quiet)

    if told:
        assert [one.name for one in run().programs] == ["init", "update"]
        return
    with pytest.raises(ValueError, match=r"a plan must know every column .* got 'trust'") as caught:
        run()
    assert "\n" not in str(caught.value)


# --- all together --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_of_such_a_method_is_read_back_gone_on_with_and_started_from(tmp_path, monkeypatch):
    whole = meshes.make_mesh
    monkeypatch.setattr(meshes, "make_mesh", lambda config: whole(config, jax.devices()[:1]))

    def run(name, config):
        train.train(config, tmp_path / name, name=name, log=starts.quiet)
        return str(tmp_path / name)

    judge = run("judge", make(starts.PullConfig(head=True)))
    first = run("first", make(starts.PullConfig()))
    config = make(StudentConfig(judge=judge, column="trust"), policy=first)
    folder = run("mine", config)
    config.loop.steps = 2
    run("mine", config)
    assert len(starts.rows_of(folder)) == 2
    opened = evaluation.open_run(pathlib.Path(folder))
    model, tree = opened.model(method.POLICY), opened.joined(method.POLICY)
    before = starts.opened(first, "policy")[1]
    assert jax.tree.map(np.shape, tree) == jax.tree.map(np.shape, before)
    assert np.abs(np.asarray(tree.embed) - np.asarray(before.embed)).max() < 0.1
    tokens = np.full((2, 4), 3, np.int32)
    assert np.isfinite(starts.states((model, tree), tokens, np.array([4, 4]))).all()
    after = make(starts.PullConfig(), policy=folder)
    corpus_of = after.data.make(starts.quiet)
    start = assembly.Assembly(after, corpus_of, sources.Stored()).start()["policy"]
    np.testing.assert_array_equal(start.embed, tree.embed)
    shapes = assembly.Assembly(after, corpus_of, sources.Shapes()).start()["policy"]
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, start)
