"""Records of runs: written, read by later code, compared when a run goes on."""

import copy
import dataclasses
import json
import pathlib
import types
import typing

import numpy as np
import pytest

from alignjax.algorithms import dpo, ppo, pretrain, reward, sft
from alignjax.core import source_file
from alignjax.data import corpus, hh, instructions, mixture
from alignjax.models import config as model_config
from alignjax.models.adapters import adapt, bottleneck, ia3, lora, prefix
from alignjax.parallel import mesh
from alignjax.runs import continuing, experiment, folder, kinds, records, upgrade
from alignjax.training import loop, method, optim
from alignjax.worlds import corpus as worlds

ADAPTERS = typing.get_args(adapt.AdapterConfig)
CONFIGS = (
    *kinds.methods(),
    *kinds.data_configs(),
    *ADAPTERS,
    model_config.TransformerConfig,
    mesh.MeshConfig,
    optim.OptimConfig,
    loop.LoopConfig,
    experiment.Training,
    experiment.Experiment,
)
# What `dataclasses.asdict` of release e8838e9 wrote: every method, data and adapter it had.
FORMAT_1 = json.loads((pathlib.Path(__file__).parent / "records_of_format_1.json").read_text())


@dataclasses.dataclass(kw_only=True)
class Part:
    size: int = 1
    weights: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(kw_only=True)
class OneConfig(corpus.DataConfig):
    """Data whose fields are of every kind."""

    file: str = "rows.jsonl"
    parts: tuple[Part, ...] = ()
    by_name: dict[str, Part] = dataclasses.field(default_factory=dict)
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)
    names: list[str] = dataclasses.field(default_factory=list)
    limit: int | None = None
    anything: typing.Any = None


@dataclasses.dataclass(kw_only=True)
class OtherConfig(OneConfig):
    """The same fields."""


class Outer:
    @dataclasses.dataclass(kw_only=True)
    class InnerConfig(corpus.DataConfig):
        rows: int = 1


def decoded(values, hint, notes=None):
    return records.decode(values, hint, [].append if notes is None else notes.append)


def there_and_back(config):
    return decoded(records.as_json(records.encode(config)), type(config), [])


def refused(values, hint) -> str:
    with pytest.raises(ValueError) as caught:
        decoded(values, hint)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# --- one configuration ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_what_is_written_is_read(kind):
    config = kind()
    notes = []
    back = decoded(records.as_json(records.encode(config)), kind, notes)
    assert back == config
    assert type(back) is kind
    assert not notes


def test_fields_that_differ_from_defaults_are_read_with_their_types():
    config = experiment.Experiment(
        algorithm=ppo.PpoConfig(clip=0.3),
        adapter=lora.LoraConfig(targets=("key",), ranks=("key=4",)),
        model=model_config.TransformerConfig(
            attention=("sliding", "full"), moe=model_config.MoeConfig(dense=(1, 2))
        ),
    )
    assert there_and_back(config) == config


def test_tuples_dicts_and_lists_of_configurations_are_read():
    part = Part(size=2, weights=(("a", 0.5), ("b", 1.0)))
    config = OneConfig(
        file="other.jsonl", parts=(part, Part()), by_name={"class": part}, limit=3,
        numbers={"class": 1.0, "from": 2.0}, names=["a"], anything={"list": [part]},
    )  # fmt: skip
    back = there_and_back(config)
    assert back.anything == {"list": (part,)}
    assert dataclasses.replace(back, anything=None) == dataclasses.replace(config, anything=None)
    assert isinstance(back.names, list)


def test_numbers_of_numpy_are_numbers():
    config = optim.OptimConfig(learning_rate=np.float32(1e-3), warmup_steps=np.int64(3))
    written = json.loads(json.dumps(records.encode(config)))
    assert written["learning_rate"] == float(np.float32(1e-3))
    assert written["warmup_steps"] == 3


def test_an_unknown_field_is_refused_by_name():
    values = records.encode(experiment.Experiment())
    values["loop"]["warp"] = 1
    message = refused(values, experiment.Experiment)
    assert "config.loop must have the fields of LoopConfig" in message
    assert "warp, which this release does not know" in message


def test_an_absent_field_takes_its_default_and_is_named():
    values = records.encode(experiment.Experiment(seed=4))
    del values["loop"]["batch_size"], values["mesh"], values["model"]["moe"]["active"]
    notes = []
    assert decoded(values, experiment.Experiment, notes) == experiment.Experiment(seed=4)
    assert len(notes) == 3
    assert any("config.loop.batch_size" in line and "default, 64" in line for line in notes)
    assert any("config.mesh" in line for line in notes)
    assert any("config.model.moe.active" in line for line in notes)


def test_an_absent_field_without_default_is_refused():
    values = {"class": f"{__name__}.Needy"}
    assert "config.rows must be in the record" in refused(values, Needy)


@dataclasses.dataclass(kw_only=True)
class Needy:
    rows: int


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"class": "alignjax.training.loop.LoopConfig"},
            "must be a Experiment; got alignjax",
        ),
        ({"class": "alignjax.nowhere.Config"}, "alignjax.nowhere.Config must be importable"),
        ({"class": "alignjax.training.loop.NoConfig"}, "must define NoConfig"),
        ({"class": "pathlib.Path"}, "must be the configuration of a known class; got pathlib.Path"),
        (None, "config must be the configuration of a known class; got None"),
        (7, "config must be the configuration of a known class; got 7"),
    ],
)
def test_what_is_no_configuration_is_refused(values, says):
    assert says in refused(values, experiment.Experiment)


def test_a_field_of_another_class_than_the_record_says_is_refused():
    values = records.encode(experiment.Experiment())
    values["algorithm"] = records.encode(worlds.ReviewConfig())
    assert "config.algorithm must be a MethodConfig; got alignjax.worlds" in refused(
        values, experiment.Experiment
    )
    del values["algorithm"]["class"]
    assert "config.algorithm must be the configuration of a known class; got no class" in refused(
        values, experiment.Experiment
    )


def test_look_alikes_keep_their_classes():
    one, other = (records.encode(kind()) for kind in (OneConfig, OtherConfig))
    assert one.keys() == other.keys()
    assert type(decoded(one, corpus.DataConfig)) is OneConfig
    assert type(decoded(other, corpus.DataConfig)) is OtherConfig
    assert records.flat(OneConfig()) != records.flat(OtherConfig())


def test_a_class_inside_a_function_or_class_is_refused():
    @dataclasses.dataclass
    class LocalConfig:
        rows: int = 1

    for config in (LocalConfig(), Outer.InnerConfig()):
        with pytest.raises(ValueError, match="must stand at the top of its file") as caught:
            records.encode(config)
        assert type(config).__qualname__ in str(caught.value)


# --- the record of a run ----------------------------------------------------------------------


def record_of(config=None, fingerprint="1", formula="a formula", **entries):
    config = config or experiment.Experiment()
    data = types.SimpleNamespace(fingerprints={"world": fingerprint})
    start = {"policy": "2"}
    return {**folder.describe(config, data, formula=formula, start=start), **entries}


def changed(config=None, **fields):
    """A configuration with fields by their paths: loop__steps=3."""
    config = copy.deepcopy(config or experiment.Experiment())
    for path, value in fields.items():
        *above, last = path.split("__")
        node = config
        for name in above:
            node = getattr(node, name)
        setattr(node, last, value)
    return config


def stored(workdir):
    return json.loads((workdir / "config.json").read_text())


def put(workdir, values):
    workdir.mkdir(exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(values))


def claim_refused(workdir, record, **options) -> str:
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(ValueError) as caught:
        continuing.claim(workdir, record, **options)
    assert (workdir / "config.json").read_bytes() == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_newer_format_is_refused_in_one_line(tmp_path):
    put(tmp_path, record_of(format=records.FORMAT + 1))
    says = (
        f"must have a format up to {records.FORMAT}; got {records.FORMAT + 1}, of a newer release"
    )
    with pytest.raises(ValueError, match=says):
        folder.read(tmp_path)
    assert says in claim_refused(tmp_path, record_of())


def test_a_record_is_read_with_a_note_for_what_it_lacks(tmp_path):
    record = record_of()
    del record["config"]["loop"]["batch_size"]
    put(tmp_path, record)
    notes = []
    assert folder.read(tmp_path, notes.append).config == experiment.Experiment()
    assert len(notes) == 1
    assert str(tmp_path) in notes[0]
    assert "config.loop.batch_size" in notes[0]
    assert continuing.claim(tmp_path, record_of()) != []


def test_networks_of_roles_have_notes_and_refusals_too(tmp_path):
    network = {"model": model_config.TransformerConfig(), "adapter": adapt.FullConfig()}
    record = record_of(networks={"value": {n: records.encode(c) for n, c in network.items()}})
    complete = copy.deepcopy(record)
    del record["networks"]["value"]["model"]["width"]
    put(tmp_path, record)
    notes = []
    folder.read(tmp_path, notes.append)
    assert "networks.value.model.width" in notes[0]
    continuing.claim(tmp_path, complete)
    record["networks"]["value"]["model"]["depth"] = 3
    put(tmp_path, record)
    with pytest.raises(ValueError, match=r"networks\.value\.model must have the fields"):
        folder.read(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"loop__steps": 7},
        {"loop__evaluate_every": 3, "loop__evaluate_rows": 8, "loop__keep_best": "-nats"},
        {"mesh__data": 2, "model__remat": "full"},
        {"policy": "elsewhere", "weights": "model", "data__pairs": "pairs.npz"},
    ],
    ids=str,
)
def test_a_harmless_change_goes_through_and_is_written(tmp_path, fields):
    continuing.claim(tmp_path / "run", record_of())
    config = changed(**fields)
    continuing.claim(tmp_path / "run", record_of(config))
    assert folder.read(tmp_path / "run").config == config


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"loop__batch_size": 32}, "config.loop.batch_size: 64 there, 32 now"),
        ({"loop__micro_batches": 2}, "config.loop.micro_batches: 1 there, 2 now"),
        ({"seed": 3}, "config.seed: 0 there, 3 now"),
        ({"weights_layers": 3}, "config.weights_layers: 0 there, 3 now"),
        ({"data__documents": 9}, "config.data.documents"),
        ({"model__width": 48}, "config.model.width"),
        ({"algorithm": sft.SftConfig()}, "config.algorithm.class"),
    ],
    ids=str,
)
def test_another_change_is_refused_by_name(tmp_path, fields, name):
    continuing.claim(tmp_path / "run", record_of())
    message = claim_refused(tmp_path / "run", record_of(changed(**fields)))
    assert name in message
    assert "Use another --workdir" in message


def test_harmless_names_are_whole_names(tmp_path):
    """A field of a later release that begins like a harmless one is not harmless for that."""
    assert "log_every" in loop.HARMLESS
    assert set(loop.HARMLESS) <= {f.name for f in dataclasses.fields(loop.LoopConfig)}
    names = continuing.harmless(experiment.Experiment())
    for name in ("loop.log_every_extra", "loop.step", "policy_weight", "weights_layers", "mesh"):
        assert f"config.{name}" not in names
    config = {"policy": "a", "policy_weight": 1}
    record = {"format": records.FORMAT, "config": config}
    continuing.claim(tmp_path / "run", record, may_differ=frozenset({"config.policy"}))
    other = {**record, "config": {"policy": "b", "policy_weight": 2}}
    message = claim_refused(tmp_path / "run", other, may_differ=frozenset({"config.policy"}))
    assert "got config.policy_weight: 1 there, 2 now. " in message


def test_other_data_or_another_start_are_refused(tmp_path):
    continuing.claim(tmp_path / "run", record_of())
    message = claim_refused(tmp_path / "run", record_of(fingerprint="9", start={"policy": "8"}))
    assert "fingerprints.world: '1' there, '9' now" in message
    assert "start.policy: '2' there, '8' now" in message


def test_another_wording_of_the_formula_is_a_note(tmp_path):
    continuing.claim(tmp_path / "run", record_of())
    (line,) = continuing.claim(tmp_path / "run", record_of(formula="in other words"))
    assert "'a formula'" in line


def test_the_same_run_changes_nothing(tmp_path):
    continuing.claim(tmp_path / "run", record_of())
    before = (tmp_path / "run/config.json").stat().st_mtime_ns
    assert continuing.claim(tmp_path / "run", record_of()) == []
    assert (tmp_path / "run/config.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("content", ["{}", "[1]", '{"model_type": "llama"}', '{"config": {}}'])
def test_a_folder_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert "--workdir must be a new folder" in claim_refused(tmp_path, record_of())


def test_a_record_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert "must be JSON" in claim_refused(tmp_path, record_of())


# --- places of sources ------------------------------------------------------------------------


def test_sources_that_moved_with_the_run_are_read_where_they_are(tmp_path):
    home = tmp_path / "home"
    (home / "base").mkdir(parents=True)
    base = {"kind": "policy", "folder": str(home / "base"), "identity": "3"}
    continuing.claim(home / "run", record_of(changed(policy=str(home / "base")), base=base))
    assert stored(home / "run")["places"] == {"base.folder": "../base", "config.policy": "../base"}
    moved = home.rename(tmp_path / "moved")
    notes = []
    record = folder.read(moved / "run", notes.append)
    assert record.config.policy == record.values["base"]["folder"] == str(moved / "base")
    assert len(notes) == 2
    assert all("any more and is read at" in line for line in notes)


def test_a_source_at_its_place_stays(tmp_path):
    (tmp_path / "base").mkdir()
    config = changed(policy=str(tmp_path / "base"))
    continuing.claim(tmp_path / "run", record_of(config))
    copied = tmp_path / "far" / "run"
    put(copied.parent, {})
    put(copied, stored(tmp_path / "run"))
    assert folder.read(copied).config == config


# --- classes of users' files ------------------------------------------------------------------

OWN = """
import dataclasses

from alignjax.training import method


@dataclasses.dataclass(kw_only=True)
class OwnConfig(method.MethodConfig):
    strength: float = 1.0
    judge: str = ""


OwnConfig.METHOD = method.Method(
    name="own",
    make=lambda networks, config, task: None,
    table=lambda config: "documents",
    roles=lambda config: {
        "policy": method.Role(trained=True, source="policy"),
        "judge": method.Role(source="judge"),
    },
)
"""


def own_config(file, text=OWN):
    """A configuration whose method a user's file defines."""
    file.write_text(text)
    with source_file.running(file, text.encode()) as module:
        return experiment.Experiment(algorithm=module.OwnConfig())


def test_a_method_of_a_file_is_read_and_its_own_source_may_move(tmp_path):
    config = own_config(tmp_path / "mine.py")
    continuing.claim(tmp_path / "run", record_of(config))
    tag = stored(tmp_path / "run")["config"]["algorithm"]
    assert tag["class"].endswith(".OwnConfig")
    assert tag["from"] == str(tmp_path / "mine.py")
    continuing.claim(tmp_path / "run", record_of(changed(config, algorithm__judge="there")))
    message = claim_refused(tmp_path / "run", record_of(changed(config, algorithm__strength=2.0)))
    assert "config.algorithm.strength: 1.0 there, 2.0 now" in message


def test_a_field_that_a_file_adds_takes_its_default(tmp_path):
    continuing.claim(tmp_path / "run", record_of(own_config(tmp_path / "mine.py")))
    text = OWN.replace("judge: str", "extra: int = 3\n    judge: str")
    config = own_config(tmp_path / "mine.py", text)
    notes = continuing.claim(tmp_path / "run", record_of(config, formula="extra=3"))
    assert "config.algorithm.extra is not in the record and takes its default, 3." in notes[0]
    assert stored(tmp_path / "run")["config"]["algorithm"]["extra"] == 3


def test_a_file_that_moved_is_the_same_and_another_one_is_not(tmp_path):
    continuing.claim(tmp_path / "run", record_of(own_config(tmp_path / "mine.py")))
    copied = record_of(own_config(tmp_path / "copy.py"))
    continuing.claim(tmp_path / "run", copied)
    # Another method with a class of the same name and fields.
    other = record_of(own_config(tmp_path / "other.py", OWN + "\nSIGN = -1\n"))
    message = claim_refused(tmp_path / "run", other)
    assert f"config.algorithm.from: '{tmp_path / 'copy.py'}' there" in message
    (tmp_path / "copy.py").unlink()
    continuing.claim(tmp_path / "run", other)
    assert stored(tmp_path / "run")["config"]["algorithm"]["from"] == str(tmp_path / "other.py")


# --- lifecycles, and older formats ------------------------------------------------------------


def test_a_lifecycle_gets_defaults_for_what_its_record_lacks(tmp_path):
    config = records.as_json(records.encode(experiment.Training()))
    old = copy.deepcopy(config)
    del old["loop"]["batch_size"]
    put(tmp_path, {"format": 2, "config": old})
    record = {"format": records.FORMAT, "config": config}
    (line,) = continuing.claim(tmp_path, record, may_differ=frozenset())
    assert "config.loop.batch_size" in line
    assert stored(tmp_path) == record


def test_a_lifecycle_of_format_1_takes_the_classes_of_today(tmp_path):
    put(tmp_path, {"config": dataclasses.asdict(experiment.Training())})
    config = records.as_json(records.encode(experiment.Training()))
    record = {"format": records.FORMAT, "config": config}
    continuing.claim(tmp_path, record, may_differ=frozenset({"format"}))
    assert stored(tmp_path) == record


@pytest.mark.parametrize("format", [2, records.FORMAT])
@pytest.mark.parametrize("kind", [ppo.PpoConfig, sft.SftConfig])
def test_a_run_whose_samples_had_other_keys_is_told_once(tmp_path, kind, format):
    put(tmp_path, record_of(changed(algorithm=kind()), format=format))
    notes = continuing.claim(tmp_path, record_of(changed(algorithm=kind())))
    told = [line for line in notes if "drew samples with other keys" in line]
    assert len(told) == (format == 2 and kind is ppo.PpoConfig)
    assert stored(tmp_path)["format"] == records.FORMAT
    assert not continuing.claim(tmp_path, record_of(changed(algorithm=kind())))


UPGRADED = {
    "pretrain": (
        pretrain.PretrainConfig(z_loss=0.1), worlds.ReviewConfig(documents=7), adapt.FullConfig()
    ),
    "sft": (
        sft.SftConfig(label_smoothing=0.2),
        instructions.InstructConfig(question="q", tokenizer="model"),
        lora.LoraConfig(rank=3, targets=("key",), dora=True),
    ),
    "reward": (
        reward.RewardConfig(centering=0.3),
        hh.HhConfig(vocab_size=99),
        ia3.Ia3Config(targets=("key",), inputs=()),
    ),
    "dpo": (
        dpo.DpoConfig(method="ipo", beta=0.4),
        hh.HhConfig(on_bad_row="skip"),
        bottleneck.BottleneckConfig(width=5),
    ),
    "ppo": (
        ppo.PpoConfig(shared_critic=True),
        worlds.ReviewConfig(pairs="pairs.npz"),
        prefix.PrefixConfig(gated=False),
    ),
}  # fmt: skip


@pytest.mark.parametrize("values", FORMAT_1, ids=lambda values: values["method"])
def test_records_of_format_1_are_upgraded(values):
    assert "format" not in values
    notes = []
    record = folder.parse(values, "here", notes.append)
    algorithm, data, adapter = UPGRADED[values["method"]]
    if isinstance(algorithm, ppo.PpoConfig):
        algorithm.sampling.top_p = 0.6
    assert record.config.algorithm == algorithm
    assert record.config.data == data
    assert record.config.adapter == adapter
    assert record.config.model.attention == ("sliding", "full")
    assert record.config.model.moe.dense == (1, 2)
    assert (record.config.policy, record.config.reward, record.config.seed) == (
        "runs/base", "runs/reward", 5,
    )  # fmt: skip
    assert record.values["format"] == records.FORMAT
    assert any("config.teacher" in line for line in notes)


@pytest.mark.parametrize("values", FORMAT_1, ids=lambda values: values["method"])
def test_runs_of_format_1_go_on_and_their_records_are_of_today_then(tmp_path, values):
    put(tmp_path, values)
    config = folder.parse(values, "here").config
    start, base = {"policy": "2", "value": "7"}, values.get("base")
    entries = {"start": start, **({"base": base} if base else {})}
    continuing.claim(tmp_path, record_of(config, **entries))
    assert stored(tmp_path)["format"] == records.FORMAT
    assert stored(tmp_path)["start"] == start
    put(tmp_path, values)  # a merged start was told by its own bits then
    continuing.claim(tmp_path, record_of(config, **{**entries, "start": {"policy": "5 over 3"}}))
    put(tmp_path, values)
    assert "start.policy" in claim_refused(
        tmp_path, record_of(config, **{**entries, "start": {"policy": "8"}})
    )


def test_the_names_of_format_1_are_those_of_the_package(tmp_path):
    """A user's class with the name of a method, or a corpus's fields, is not taken for it."""
    text = OWN.replace('name="own"', 'name="pretrain"').replace("strength", "z_loss")
    config = own_config(tmp_path / "mine.py", text)
    assert config.algorithm.METHOD in [kind.METHOD for kind in method.all_configs()]
    record = upgrade.upgraded(FORMAT_1[0])
    assert record["config"]["algorithm"]["class"] == "alignjax.algorithms.pretrain.PretrainConfig"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "none_such"}, "the method of a record of format 1 must be one of"),
        ({"data": {"colour": 1}}, "the fields of one known class; got colour, which fit none"),
    ],
)  # fmt: skip
def test_a_record_of_format_1_that_nothing_fits_is_refused(change, says):
    values = copy.deepcopy(FORMAT_1[0])
    values["method"] = change.get("method", values["method"])
    values["config"]["data"] = change.get("data", values["config"]["data"])
    with pytest.raises(ValueError, match=says):
        folder.parse(values, "here")


def test_a_source_of_several_folders_moves_as_one_of_one_does(tmp_path):
    home = tmp_path / "home"
    folders = [str(home / name) for name in ("one", "other")]
    for each in folders:
        pathlib.Path(each).mkdir(parents=True)
    sources = {"config.data.paths": folders, "config.policy": None, "config.data.path": [],
               "config.data.mixed": [folders[0], "gone"]}  # fmt: skip
    assert folder.places(sources, home / "run") == {"config.data.paths": ["../one", "../other"]}
    config = changed(data=mixture.CorporaConfig(paths=tuple(folders), weights=(1.0, 2.0)))
    continuing.claim(home / "run", record_of(config))
    moved = home.rename(tmp_path / "moved")
    notes = []
    read = folder.read(moved / "run", notes.append).config
    assert read.data.paths == tuple(str(moved / name) for name in ("one", "other"))
    assert len(notes) == 2
