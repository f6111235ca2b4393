"""Rows and answers longer than a model was trained for are told, and not refused."""

import json
import types

import pytest

from alignjax.models.checkpoints import folder
from alignjax.runs import evaluation, exchange, model_shape
from alignjax.sampling import transforms
from alignjax.serving import served
from tests.commands import open_model
from tests.models.families import golden


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Open weights that were trained for 24 tokens."""
    pytest.importorskip("tokenizers", reason="open weights need alignjax[hf]")
    path = open_model.write(tmp_path_factory.mktemp("context") / "model")
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_position_embeddings": 24}))
    return path


def test_rows_of_training_are_told(place):
    assert model_shape.context_lines(str(place), 24) == []
    (line,) = model_shape.context_lines(str(place), 25)
    assert line.startswith("rows of 25 tokens go beyond the 24 that the model was trained for")
    assert model_shape.context_lines("", 10**6) == []


def test_rows_by_whose_length_positions_turn_are_told():
    stored = folder.open_model(golden.HERE / "goldens" / "phi3-longrope")
    assert stored.beyond(12, "rows") == []
    (line,) = stored.beyond(13, "rows")
    assert "beyond the 12 from which on positions turn by a row's length (longrope)" in line


def test_adapters_of_matrices_that_stand_together_are_named(tmp_path):
    shape = folder.open_model(golden.HERE / "goldens" / "phi3").config
    run = types.SimpleNamespace(
        config=types.SimpleNamespace(weights="", weights_layers=0), folder=tmp_path
    )
    assert exchange._together(run, shape, ("query", "out", "down")) == "query"


@pytest.mark.parametrize("value", [None, 0, -1, "many", 2.5])
def test_a_model_that_does_not_say_is_not_held_to_anything(place, tmp_path, value):
    for file in place.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    fields = json.loads((tmp_path / "config.json").read_text())
    fields["max_position_embeddings"] = value
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert folder.open_model(tmp_path).beyond(10**6, "rows") == []


def test_answers_are_told(place):
    said = []
    for tokens in (4, 30):
        evaluation.sample_weights(
            str(place), prompt="hi", count=1, seed=0, template="chatml", log=said.append,
            config=transforms.SamplingConfig(max_new_tokens=tokens),
        )  # fmt: skip
    (line,) = said
    assert line.startswith("a prompt and its answer of ")
    assert served.load(str(place), template="chatml").context == 24
