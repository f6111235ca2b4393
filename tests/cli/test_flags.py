"""The command line: what is accepted, and one line with a suggestion for everything else."""

import pathlib
import sys

import pytest

from alignjax.cli import flags

OPTIONS = [
    flags.Option("workdir", pathlib.Path, None, "folder of the run"),
    flags.Option("debug", bool, False, "show tracebacks"),
    flags.Option("rate", float, 0.5, "a rate"),
    flags.Option("hosts", int, 1, "how many"),
    flags.Option("note", str, "", "any text"),
]
CONFIG = """
import dataclasses
import enum

class Color(enum.Enum):
    RED = 1
    BLUE = 2

@dataclasses.dataclass(kw_only=True)
class Optim:
    learning_rate: float = 1e-3  # the peak
    b1: float = 0.9
    warmup_steps: int = 20

@dataclasses.dataclass(kw_only=True)
class Dpo:
    beta: float = 0.1

@dataclasses.dataclass(kw_only=True)
class Ppo:
    clip: float = 0.2

@dataclasses.dataclass(kw_only=True)
class Config:
    seed: int = 0
    lr: float = 1.0
    tied: bool = True
    name: str = "a"  # free text, with "quotes"
    betas: tuple[float, float] = (0.9, 0.95)
    sizes: tuple[int, ...] = (1, 2)
    names: tuple[str, ...] = ()
    color: Color = Color.RED
    limit: float | None = None
    extra: Optim | None = None
    table: dict = dataclasses.field(default_factory=dict)
    either: int | str = 0
    optim: Optim = dataclasses.field(default_factory=Optim)
    algorithm: Dpo | Ppo = dataclasses.field(default_factory=Dpo)

    def validate(self):
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0;\\n got {self.seed}.")

def get_config(arg: str = ""):
    if arg not in ("", "ppo"):
        raise ValueError(f"variant must be one of full, ppo; got {arg!r}.")
    return Config(algorithm=Ppo()) if arg else Config()
"""


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    return write(tmp_path, CONFIG)


def write(folder: pathlib.Path, text: str | bytes, name: str = "x.py") -> pathlib.Path:
    path = folder / "experiments" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def parse(file: object, *argv: str) -> flags.Parsed:
    first = [f"--config={file}"] if file else []
    return flags.parse([*first, *argv], command="train", options=OPTIONS, needs_config=True)


def refusal(file: object, *argv: str) -> str:
    with pytest.raises(ValueError) as caught:
        parse(file, *argv)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_everything_is_read_and_typed(file):
    got = parse(
        f"{file}:ppo",
        "--config.optim.learning_rate=1e-4",
        "--config.algorithm.clip=1",
        "--config.seed=0x10",
        "--config.betas=(0.5,1)",
        "--config.sizes=3,4,5",
        "--config.names=a, b",
        "--config.color=blue",
        "--config.limit=2.5",
        "--config.name=x=y --z",
        "--noconfig.tied",
        "--workdir=/tmp/x",
        "--debug",
        "--hosts=-2",
    )
    config = got.config
    assert config.optim.learning_rate == 1e-4
    assert config.optim.b1 == 0.9
    assert (config.algorithm.clip, config.seed, config.limit) == (1.0, 16, 2.5)
    assert (config.betas, config.sizes, config.names) == ((0.5, 1), (3, 4, 5), ("a", "b"))
    assert (config.color.name, config.name, config.tied) == ("BLUE", "x=y --z", False)
    assert got.options == {
        "workdir": pathlib.Path("/tmp/x"),
        "debug": True,
        "rate": 0.5,
        "hosts": -2,
        "note": "",
    }
    assert (got.name, got.variant) == ("x", "ppo")
    assert got.overrides["optim.learning_rate"] == 1e-4
    assert got.overrides["sizes"] == (3, 4, 5)
    assert len(got.overrides) == 10
    assert got.module is not None
    assert callable(got.module.get_config)


def test_two_words_and_any_order(file):
    got = parse(
        None, "--config.seed", "3", "--config.lr", "-1", "--workdir", "w", "--config", str(file)
    )
    assert (got.config.seed, got.config.lr, got.options["workdir"].name) == (3, -1.0, "w")


def test_single_element_and_empty_tuples(file):
    assert parse(file, "--config.sizes=7").config.sizes == (7,)
    assert parse(file, "--config.sizes=()").config.sizes == ()
    assert parse(file, "--config.names=").config.names == ()
    assert parse(file, "--config.names=('a,b',)").config.names == ("a,b",)


def test_none_is_a_value_of_optional_fields_only(file):
    assert parse(file, "--config.limit=none").config.limit is None
    assert "an integer; got 'none'" in refusal(file, "--config.seed=none")


def test_calls_do_not_leak(file, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--config.seed=9", "--config.nonsense=1"])
    before, modules = list(sys.path), set(sys.modules)
    cwd = pathlib.Path.cwd()
    first = parse(file, "--config.seed=1", "--config.sizes=9")
    assert first.config.seed == 1
    second = parse(file)
    assert (second.config.seed, second.config.sizes) == (0, (1, 2))
    assert first.config is not second.config
    write(tmp_path, "x = 1\n")
    assert "must define get_config" in refusal(file)
    assert sys.path == before
    assert pathlib.Path.cwd() == cwd
    assert not [m for m in set(sys.modules) - modules if m.startswith("experiments")]
    assert "alignjax_config_file" not in sys.modules


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ("--config.seed=1e3", "--config.seed must be an integer; got '1e3'. Write 1000."),
        ("--config.seed=5.0", "Write 5."),
        ("--config.seed=5.5", "an integer; got '5.5'."),
        ("--config.seed=abc", "an integer; got 'abc'"),
        ("--config.seed=", "an integer; got ''"),
        ("--config.lr=", "a finite number; got ''"),
        ("--config.lr=1,5", "a finite number; got '1,5'"),
        ("--config.lr=nan", "a finite number; got 'nan'"),
        ("--config.lr -inf", "a finite number; got '-inf'"),
        ("--config.lr=-inf", "a finite number; got '-inf'"),
        ("--config.lr=1e999", "a finite number; got '1e999'"),
        ("--config.tied=2", "true or false; got '2'"),
        ("--config.tied=", "true or false; got ''"),
        ("--config.color=green", "Color; got 'green'. Choose one of RED, BLUE."),
        ("--config.betas=1", "tuple[float, float]; got '1'|--config.betas=A,B."),
        ("--config.betas=1,2,3", "tuple[float, float]; got '1,2,3'"),
        ("--config.betas=1,x", "tuple[float, float]; got '1,x'"),
        ("--config.betas=1,1e999", "tuple[float, float]"),
        ("--config.betas=(1,", "tuple[float, float]; got '(1,'"),
        ("--config.betas=", "tuple[float, float]; got ''"),
        ("--config.sizes=1,2.5", "tuple[int, ...]; got '1,2.5'"),
        ("--config.sizes=1,True", "tuple[int, ...]"),
        ("--config.sizes=1,(2,3)", "tuple[int, ...]"),
        ("--config.names=(a,b)", "tuple[str, ...]; got '(a,b)'"),
        (
            "--config.optim=5",
            "--config.optim must be set by its fields|--config.optim.learning_rate",
        ),
        ("--config.algorithm=ppo", "--config.algorithm.beta; got 'ppo'"),
        ("--config.extra=build", "--config.extra must be set in the config file"),
        ("--config.extra.b1=1", "--config.extra must have fields|got None|in the config file"),
        ("--config.seed.x=1", "--config.seed must have fields"),
        ("--config.table={}", "--config.table, dict, must be set in the config file"),
        ("--config.either=1", "must be set in the config file"),
        ("--config.seed=-1", "seed must be >= 0; got -1."),
        ("--config.seed=1 --config.seed=2", "given once; got '1' and '2'"),
        ("--config.sizes=1 --config.sizes=2", "given once; got '1' and '2'"),
        ("--debug --nodebug", "--debug must be given once"),
        ("--workdir", "--workdir must have a value; got nothing"),
        ("--workdir --debug", "must have a value; got '--debug' after it"),
        ("--workdir=", "--workdir must be a path; got ''"),
        ("--rate=nan", "--rate must be a finite number; got 'nan'"),
        ("--hosts=x", "--hosts must be an integer; got 'x'"),
    ],
)
def test_wrong_values(file, argv, parts):
    message = refusal(file, *argv.split(" "))
    for part in parts.split("|"):
        assert part in message


def test_suggestions_come_from_the_config(file):
    assert "Did you mean --config.optim.learning_rate=1?" in refusal(file, "--config.optim.lr=1")
    assert "Did you mean --config.lr=5?" in refusal(file, "config.lr=5")
    assert "--config.algorithm.clip must be" in refusal(file, "--config.algorithm.clip=1")
    assert "must be an option" in refusal(file, "--config.optim.__class__=int")
    assert "must be an option" in refusal(file, "--flagfile=/etc/passwd")


def test_the_same_value_twice_is_one(file):
    got = parse(file, "--config.sizes=1,2", "--config.sizes=1,2", "--config.seed=4")
    assert (got.config.sizes, got.config.seed) == ((1, 2), 4)


def test_deep_nesting_is_refused(file):
    assert "--config.sizes must be" in refusal(file, "--config.sizes=" + "(" * 5000)


def test_missing_config(file):
    assert "--config must name a config file for alignjax train" in refusal(None)
    assert "Did you mean --config=y?" in refusal(None, "--confg=y")
    assert "--config=FILE must be given for --config.seed=1" in refusal(None, "--config.seed=1")
    assert "--config must have a value" in refusal(None, "--config")
    assert "given once" in refusal(file, "--config=other.py")
    with pytest.raises(ValueError, match="--config must be an option of alignjax report"):
        flags.parse([f"--config={file}"], command="report", options=OPTIONS, needs_config=False)
    got = flags.parse(["--note=a"], command="report", options=OPTIONS, needs_config=False)
    assert (got.config, got.options["note"], got.overrides) == (None, "a", {})


@pytest.mark.parametrize("name", ["workdir", "to"])
def test_a_bucket_is_no_place_of_this_machine(name):
    own = (flags.Option(name, str, "", "place"),)
    for text in ("gs://bucket/run", "s3://b"):
        with pytest.raises(
            ValueError, match=rf"^--{name} must be a folder or file of this machine"
        ):
            flags.parse([f"--{name}={text}"], command="train", options=own, needs_config=False)
    parsed = flags.parse([f"--{name}=runs/a"], command="train", options=own, needs_config=False)
    assert parsed.options[name] == "runs/a"
