"""`alignjax methods`."""

import json

import pytest

from alignjax import compat, main
from tests.commands import cli


def test_all_methods_by_kind_of_rows():
    out = cli.run("methods")
    heads = [line.partition(":")[0] for line in out.splitlines() if line[:1].isalpha()]
    assert heads[:-1] == list(compat.TABLES)
    assert heads[-1] == "alignjax methods NAME tells how presets compute one."
    (dpo,) = [line for line in out.splitlines() if line.startswith("  dpo ")]
    assert "Rafailov et al. 2023" in dpo
    assert "[openrlhf-0.11, paper, trl-0.28, trl-1.16, tunix-0.1.7]" in dpo


def test_one_method(capsys):
    assert main.main(["methods", "--name=ipo"]) == 0
    out = capsys.readouterr().out
    assert main.main(["methods", "ipo"]) == 0
    assert capsys.readouterr().out == out
    assert "sum of log-ratios over an answer's tokens (openrlhf-0.11, paper); mean of" in out
    assert "(trl-1.16)" in out
    assert main.main(["methods", "--name", "ipo", "--preset=paper"]) == 0
    out = capsys.readouterr().out
    assert "Azar et al. 2023" in out
    assert "trl-1.16" not in out


def test_json(capsys):
    assert main.main(["methods", "--name=kto", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert list(data["presets"]) == ["paper", "trl-1.16"]
    assert data["presets"]["paper"]["needs"] == ["desirable", "mismatched", "reference"]
    assert main.main(["methods", "--json", "--table=rankings"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in data["rankings"]] == ["all_pairs", "plackett_luce"]


@pytest.mark.parametrize(
    ("name", "trains", "losses"),
    [("sft", "demonstrations", "demonstrations"), ("ppo", "prompts", None)],
)
def test_a_method_of_training_that_is_no_loss_tells_its_record(name, trains, losses, capsys):
    assert main.main(["methods", name, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["trains"], data["losses"]) == (trains, losses)
    assert data["networks"]["policy"] == "trained"
    assert main.main(["methods", name]) == 0
    out = capsys.readouterr().out
    assert f"trains on   {trains}" in out
    assert data["formula"] in out
    assert ("alignjax methods --table=demonstrations lists" in out) == (losses is not None)


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (("Kto",), "'kto'"),
        (("bradley-Terry",), "'bradley_terry'"),
        (("--name=ipoo",), "'ipo'"),
        (("ipoo",), "'ipo'"),
        (("name=ipo",), "--name=ipo"),
        (("--table=pair",), "'pairs'"),
        (("--preset=trl-1.61",), "'trl-1.16'"),
        (("--nme=ipo",), "--name=ipo"),
    ],
)
def test_unknown_names_are_one_line_with_the_nearest_and_exit_2(words, nearest, capsys):
    assert main.main(["methods", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    assert f"Did you mean {nearest}?" in said.err
