"""Plans on 8 CPU devices: exact bytes, FLOPs of the formulas, and what is refused."""

import dataclasses
import json
import math
import re

import jax
import pytest

from alignjax.algorithms import dpo, ppo, pretrain, reward, sft
from alignjax.models.adapters import adapt, lora
from alignjax.models.config import TransformerConfig
from alignjax.parallel.mesh import MeshConfig
from alignjax.planning import analytic, memory, planner, report, topology
from alignjax.runs import experiment, train
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training import loop as loops
from alignjax.training import update
from alignjax.worlds import corpus as world_corpus
from tests.commands import cli
from tests.planning import table

METHODS = {
    "pretrain": pretrain.PretrainConfig(),
    "sft": sft.SftConfig(),
    "reward": reward.RewardConfig(),
    "dpo": dpo.DpoConfig(),
    "ppo": ppo.PpoConfig(sampling=SamplingConfig(max_new_tokens=8)),
}
SHAPE = {"layers": 3, "width": 64, "heads": 4, "kv_heads": 2, "head_dim": 32, "ff": 96}


def make(name, *, model=None, **options):
    options.setdefault("mesh", MeshConfig(data=4, model=2))
    return experiment.Experiment(
        algorithm=METHODS[name],
        model=TransformerConfig(**{**SHAPE, "vocab_size": 128, **(model or {})}),
        loop=loops.LoopConfig(steps=1, batch_size=16, micro_batches=1),
        **options,
    )


@pytest.fixture(scope="module")
def machine():
    return topology.find("cpu:8")


def plan(config, machine):
    return planner.plan(config, machine, lambda line: None)


def test_parameters_and_optimizer_are_the_formulas_bytes(machine):
    found = plan(make("sft", mesh=MeshConfig(data=8)), machine)
    shape = TransformerConfig(**SHAPE, vocab_size=128)
    count = analytic.parameters(shape)
    assert found.parameters == count
    # Norm scales are whole on every device, everything else is cut in 8.
    norms = (2 * shape.layers + 1) * shape.width
    held = 4 * ((count - norms) // 8 + norms)
    arguments = found.programs[-1].memory.arguments
    assert arguments["parameters"] == held
    assert arguments["optimizer"] - 2 * held in range(4, 17, 4)  # step counters


@pytest.mark.parametrize(
    ("name", "remat"),
    [
        ("sft", "full"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("reward", "none"),
                ("sft", "none"),
                ("sft", "dots"),
                ("reward", "dots"),
                ("reward", "full"),
            )
        ),
    ],
)
def test_flops_are_within_three_percent_of_the_formula(name, remat, machine):
    found = plan(make(name, model={"remat": remat}), machine).programs[-1]
    assert found.flops * 8 == pytest.approx(found.work.run, rel=0.03)
    assert found.work.useful < found.work.run


@pytest.mark.parametrize("name", ["dpo", pytest.param("ppo", marks=pytest.mark.slow)])
def test_every_program_of_a_method_is_planned(name, machine):
    found = plan(make(name), machine)
    names = {
        "dpo": ["init", "annotate", "update"],
        "ppo": ["init", "generate", "score", "experience", "take", "update"],
    }
    assert [each.name for each in found.programs] == names[name]
    for each in found.programs[1:]:
        assert each.flops * 8 == pytest.approx(each.work.run, rel=0.03), each.name
    # DPO's reference is let go of once its log-probabilities are known.
    assert (found.programs[-1].memory.arguments.get("frozen", 0) > 0) == (name == "ppo")
    assert json.loads(json.dumps(report.table(found)))["programs"][-1]["fits"]
    assert "verdict: compiles" in report.text(found)


@pytest.mark.slow
def test_losses_with_columns_or_a_collection_of_their_own_are_planned(machine):
    """SLiC reads which answer to imitate; BCO's shift is a pass of the policy before the update."""
    slic, bco = (
        plan(dataclasses.replace(make("dpo"), algorithm=dpo.DpoConfig(method=name)), machine)
        for name in ("slic", "bco_pair")
    )
    assert [each.name for each in slic.programs] == ["init", "update"]
    assert [each.name for each in bco.programs] == ["init", "annotate", "collect", "update"]
    for each in (*slic.programs[1:], *bco.programs[1:]):
        assert each.flops * 8 == pytest.approx(each.work.run, rel=0.03), each.name


@pytest.mark.parametrize(
    ("name", "judged"),
    [
        ("sft", ["likelihood"]),
        pytest.param("reward", ["pairs"], marks=pytest.mark.slow),
        pytest.param("dpo", ["pairs", "generate", "divergence"], marks=pytest.mark.slow),
        pytest.param("ppo", ["generate", "divergence"], marks=pytest.mark.slow),
    ],
)
def test_evaluation_is_planned_apart_from_the_run(name, judged, machine):
    whole = planner.plan(make(name), machine, lambda line: None, evaluation=True)
    found = [each for each in whole.programs if each.stage == "evaluation"]
    assert [each.name for each in found] == [f"evaluate {each}" for each in judged]
    assert whole.programs[-len(judged) - 1].name == "update"
    for each in found:
        assert each.flops * 8 == pytest.approx(each.work.run, rel=0.03), each.name
        assert not each.memory.resident  # another command runs it, without the optimizer
        assert each.per_step == 0


@pytest.mark.slow
def test_held_trees_count_once(machine):
    """While PPO samples, Adam's moments and the frozen models lie beside the policy."""
    by_name = {each.name: each.memory for each in plan(make("ppo"), machine).programs}
    held = by_name["update"]
    whole = {
        name: sum(part.get(name, 0) for part in (held.arguments, held.resident))
        for name in ("parameters", "optimizer", "frozen")
    }
    for name in ("generate", "score", "experience"):
        parts = (by_name[name].arguments, by_name[name].resident)
        for tree, size in whole.items():
            assert sum(part.get(tree, 0) for part in parts) == size, (name, tree)
    shape = TransformerConfig(**SHAPE)
    rows, slots = 16 // 4, tiny_prompt() + 8
    assert by_name["generate"].cache == (
        2 * shape.layers * rows * slots * (shape.kv_heads // 2) * shape.head_dim * 4
        + 2 * rows * slots * 4
        + 4
    )


def tiny_prompt():
    return make("ppo").data.outline().prompt_length


def test_adapters_are_all_that_the_optimizer_holds(machine):
    config = make("sft", policy="somewhere", adapter=lora.LoraConfig(rank=2))
    assert not isinstance(config.adapter, adapt.FullConfig)
    update = plan(config, machine).programs[-1].memory
    assert update.arguments["frozen"] > 4 * update.arguments["parameters"]
    assert update.arguments["optimizer"] < 2.2 * update.arguments["parameters"]


def given_bytes(tree):
    """Bytes of the first device's part of real arrays."""
    device = jax.devices()[0]

    def size(x):
        x = jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        return sum(s.data.nbytes for s in x.addressable_shards if s.device == device)

    return sum(map(size, jax.tree.leaves(tree)))


@pytest.mark.parametrize("name", ["sft", "ppo"])
@pytest.mark.slow
def test_argument_bytes_are_those_of_a_real_run(name, machine, tmp_path, monkeypatch):
    small = world_corpus.ReviewConfig(documents=64, demonstrations=64, prompts=64, eval_rows=8)
    chosen = dataclasses.replace(METHODS["ppo"], reward="gold")
    begun = make("sft", data=small, model={"vocab_size": 48})  # of the world whose reward it is
    if name == "ppo":
        train.train(begun, tmp_path / "sft", name="sft", log=lambda line: None)
        config = dataclasses.replace(begun, algorithm=chosen, policy=str(tmp_path / "sft"))
    else:
        config = begun
    real = []
    original = update.make_update

    def watched(*args, **kwargs):
        run = original(*args, **kwargs)

        def call(*arrays):
            real.append([given_bytes(part) for part in arrays])
            return run(*arrays)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(update, "make_update", watched)
        train.train(config, tmp_path / name, name=name, log=lambda line: None)
    planned = plan(config, machine).programs[-1].memory.arguments
    state, frozen, batch, key = real[0]
    assert planned["parameters"] + planned["optimizer"] + planned["other"] == state + key
    assert planned.get("frozen", 0) == frozen
    assert planned["batch"] == batch


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e:3x3", "v5e:, v6e: with 1x1, 2x2"),
        ("v5p:4x4", "must be one of"),
        ("v7:2x2", "cpu:N"),
        ("cpu:0", "cpu:N"),
        ("", "cuda:N"),
        ("cpu:9999", "must be one of"),
        ("cpu:999", "at most the 8 CPU devices"),
    ],
)
def test_unknown_machines_are_refused_with_the_legal_ones(name, said, machine):
    jax.devices()  # JAX has started: its devices are what there is
    with pytest.raises(ValueError, match="--topology") as caught:
        topology.find(name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_compiler_is_told(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"libtpu.*Install alignjax\[tpu-plan\]"):
        topology.find("v5e:2x4")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (make("sft", mesh=MeshConfig(data=3, model=2)), "must multiply to the number of devices"),
        (make("sft", mesh=MeshConfig(data=2, model=4)), "model.kv_heads must be a multiple"),
        (
            dataclasses.replace(
                make("sft", mesh=MeshConfig(data=8)), loop=loops.LoopConfig(batch_size=12)
            ),
            "must be a multiple of the mesh's batch axes",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_any_compile(config, said, machine, monkeypatch):
    monkeypatch.setattr(planner, "examine", lambda *args: pytest.fail("compiled"))
    with pytest.raises(ValueError, match=said):
        plan(config, machine)


def test_slices_need_a_tpu():
    with pytest.raises(ValueError, match="--slices must be 1 for cpu"):
        topology.find("cpu:8", 2)
    with pytest.raises(ValueError, match="--slices must be >= 1"):
        topology.find("cpu:8", 0)


def test_too_much_is_a_verdict(machine):
    """The same programs against a chip of 300 KiB: the largest arrays and what to change."""
    small = machine._replace(chip=topology.Chip("small", hbm=300 * 2**10))
    found = plan(make("sft"), small)
    assert not found.fits
    text = report.text(found)
    assert "verdict: does not fit; " in text
    assert "loop.micro_batches" in text or "more devices on mesh.data" in text
    assert "parameters blocks/0/attention/query float32[3x64x2x2x32]" in text


def test_options_of_the_chip_are_told(machine):
    found = plan(make("sft"), machine).programs[-1]
    chip = machine._replace(chip=topology.CHIPS["v5p"])
    text = report.text(planner.Plan(chip, "sft", 1, {"data": 8}, (found,)))
    assert (
        "LIBTPU_INIT_ARGS='--xla_tpu_enable_sparse_core_collective_offload_all_gather=true" in text
    )


def test_sampling_on_a_model_axis_of_its_own(machine):
    """The weights' copy in parts is read; the trained ones are held beside it."""
    config = make("ppo")
    config.algorithm.sampling.model_axis = 2
    by_name = {each.name: each for each in plan(config, machine).programs}
    drawn, plain = by_name["generate"], {e.name: e for e in plan(make("ppo"), machine).programs}
    assert drawn.memory.arguments["parameters"] == plain["generate"].memory.arguments["parameters"]
    assert drawn.memory.resident["parameters"] == by_name["update"].memory.arguments["parameters"]
    assert {total.axes for total in drawn.collectives} == {"data", "model"}


def test_an_overflow_at_compile_time_is_a_verdict(machine):
    over = memory.Overflow("hbm", 20 * 2**30, 16 * 2**30, [("jit(update)/dot f32[9]", 2**33)])
    found = planner.Compiled("update", 1, 8, over, 1.0, limit=1.0)
    chip = topology.CHIPS["v5e"]
    made = planner.Plan(machine._replace(chip=chip), "sft", 1, {"data": 8}, (found,))
    text = report.text(made)
    assert "20.00 GiB of hbm, the limit is 16.00 GiB" in text
    assert "8.00 GiB  jit(update)/dot f32[9]" in text
    assert "verdict: does not fit; update: raise loop.micro_batches" in text
    assert report.table(made)["programs"][0]["overflow"]["needed"] == 20 * 2**30


def command(*options):
    """(exit code, stdout, stderr) of a plan on a host with one device."""
    process = cli.start("plan", "--config=experiments/hh_sft.py:micro", *options)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def test_the_command_line():
    code, out, err = command("--topology=cpu:4", "--json")
    table = json.loads(out)
    assert (code, table["devices"], table["fits"]) == (0, 4, True)
    assert "update: compiling, 2 of 3, for cpu:4" in err
    code, out, err = command("--topology=v5e:5x5")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("alignjax: error: --topology must be one of v5e:")


def test_slices_are_named_as_they_are_rented(machine):
    page = (cli.ROOT / "docs" / "cloud_tpu.md").read_text()
    rows = re.findall(r"^\| (v\w+:[\dx]+) \| (\d+) \| \d+ \| (\S+) \|$", page, re.MULTILINE)
    assert len(rows) == 9
    for name, chips, rented in rows:
        slice_ = topology.Machine(name, 1, topology.CHIPS[name[:3]], "tpu", None)
        assert slice_.accelerator_type == rented, name
        assert math.prod(map(int, name[4:].split("x"))) == int(chips)
    assert machine.accelerator_type == ""
    assert topology.Machine("tpu7x:2x2x1", 1, None, "tpu", None).accelerator_type == ""


def keys_of(value):
    """Names of fields; trees by category and by axis have names of their own."""
    free = ("arguments", "resident", "mesh", "versions")
    found = set()
    if isinstance(value, dict):
        for name, inner in value.items():
            found |= {name} | (set() if name in free else keys_of(inner))
    elif isinstance(value, list | tuple):
        found = set().union(*map(keys_of, value))
    return found


def test_every_field_of_the_json_is_documented(machine):
    over = memory.Overflow("hbm", 2, 1, [])
    found = plan(make("sft"), machine)
    fields = keys_of(json.loads(json.dumps(report.table(found))))
    fields |= keys_of(report.table(found._replace(programs=(
        found.programs[-1]._replace(overflow=over, memory=None),
    ))))  # fmt: skip
    words = set(re.findall(r"`([\w ]+)`", table.TEXT))
    assert not fields - words
