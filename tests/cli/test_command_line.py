"""Words of a command line: what they are read as, and what was probably meant."""

import pytest

from alignjax.cli import command_line

KINDS = {
    "config": str,
    "workdir": str,
    "debug": bool,
    "config.lr": float,
    "config.tied": bool,
    "config.optim.learning_rate": float,
    "config.optim.b1": float,
    "config.optim.warmup_steps": int,
}
TABLE = command_line.Table("train", KINDS, {}, "x.py")


def refusal(*argv: str) -> str:
    with pytest.raises(ValueError) as caught:
        command_line.read(argv, TABLE)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_forms():
    argv = ["--workdir", "a=b", "-debug", "--noconfig.tied", "--config.lr", "-1", "--config=a:b"]
    assert command_line.read(argv, TABLE) == {
        "workdir": "a=b",
        "debug": "true",
        "config.tied": "false",
        "config.lr": "-1",
        "config": "a:b",
    }


def test_config_spec():
    assert command_line.config_spec(["--x", "--config=a.py:b=c"]) == "a.py:b=c"
    assert command_line.config_spec(["-config", "a.py"]) == "a.py"
    assert command_line.config_spec(["--config", "--x"]) is None
    assert command_line.config_spec(["--config.lr=3", "--configs=x"]) is None
    assert command_line.config_spec([]) is None


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (
            "--config.optim.lr=1",
            "--config.optim.lr must|Did you mean --config.optim.learning_rate=1?",
        ),
        ("--config.optim.learning_rat=1", "mean --config.optim.learning_rate=1?"),
        ("--config.learning_rate=1", "mean --config.optim.learning_rate=1?"),
        ("--optim.warmup_steps=1", "mean --config.optim.warmup_steps=1?"),
        ("--config.warmup=1", "mean --config.optim.warmup_steps=1?"),
        ("--workdri=x", "mean --workdir=x?"),
        ("--debg", "mean --debug?"),
        ("--zzzz=1", "an option of alignjax train|got --zzzz=1|--help lists"),
        ("--config.optim.__class__=int", "must be an option"),
        ("--config.optim['b1']=1", "must be an option"),
        ("--flagfile=/etc/passwd", "must be an option"),
        ("config.lr=5", "options must begin with --; got 'config.lr=5'|mean --config.lr=5?"),
        ("–config.lr=5", "mean --config.lr=5?"),
        ("workdir=5", "mean --workdir=5?"),
        ("other.py:tiny", "mean --config=other.py:tiny?"),
        ("--debug false", "mean --debug=false?"),
        ("--config.tied no", "mean --config.tied=no?"),
        ("--", "must begin with --; got '--'"),
        ("stray", "must begin with --; got 'stray'"),
    ],
)
def test_unknown_and_stray_words(argv, parts):
    message = refusal(*argv.split(" "))
    for part in parts.split("|"):
        assert part in message
