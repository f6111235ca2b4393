"""Rows that name peft folders in one command, answered as each adapter answers alone."""

import json

import jax
import numpy as np
import pytest

from alignjax.commands import sample
from alignjax.evals import adapted
from alignjax.models import transformer
from alignjax.models.adapters import adapt, ia3, lora, merge, peft_format
from alignjax.models.checkpoints import folder
from alignjax.runs import evaluation
from alignjax.sampling import transforms
from tests.commands import open_model
from tests.models.adapters import kinds

pytest.importorskip("tokenizers", reason="open weights need alignjax[hf]")

GREEDY = transforms.SamplingConfig(max_new_tokens=6, temperature=0.0)
ADAPTERS = {
    "wide": lora.LoraConfig(rank=5, alpha=9.0, targets=("query", "down")),
    "narrow": lora.LoraConfig(rank=2, stabilised=True, targets=("query", "down"), dropout=0.1),
    "dora": lora.LoraConfig(rank=2, dora=True, targets=("query", "down")),
    "other": lora.LoraConfig(rank=2, targets=("value",)),
    "ia3": ia3.Ia3Config(),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model with peft folders, and each LoRA merged into it as a model of its own."""
    path = tmp_path_factory.mktemp("adapted")
    open_model.write(path / "model")
    stored = folder.open_model(path / "model")
    base, model = stored.load(), transformer.transformer(stored.config)
    for seed, (name, config) in enumerate(ADAPTERS.items()):
        adapted_model = adapt.adapt(model, config)
        own = kinds.roughen(adapted_model.init(jax.random.key(seed)), seed=seed)
        peft_format.save(path / name, config, own, stored.config, base=base)
        if name in ("wide", "narrow"):
            whole = merge.whole(adapted_model.bind(own, {"base": base}))
            folder.save_model(path / f"{name}-merged", stored.config, whole, stored.fields)
            open_model.write_tokenizer(path / f"{name}-merged")
    return path


def given(place, *names):
    return ",".join(f"{name}={place / name}" for name in names)


def run(place, capsys, **options):
    defaults = {option.name: option.default for option in sample.OPTIONS}
    greedy = {"temperature": 0.0, "max_new_tokens": 6, "count": 1, "template": "chatml"}
    options = {**defaults, **greedy, "model": str(place / "model"), **options}
    sample.main(sample.flags.Parsed(options, None, "", "", {}, None))
    return capsys.readouterr().out


def test_each_row_is_answered_by_its_adapter(place, tmp_path, capsys):
    rows = [("what is 2 and 2?", "narrow"), ("the answer", "base"), ("what is this", "wide")]
    alone = []
    for prompt, name in rows:
        path = place / ("model" if name == "base" else f"{name}-merged")
        ((_, answer),) = evaluation.sample_weights(
            str(path), prompt=prompt, count=1, config=GREEDY, seed=0, template="chatml"
        )
        alone.append(answer)
    assert len(set(alone)) == 3
    lines = [json.dumps({"prompt": p} | ({} if n == "base" else {"adapter": n})) for p, n in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    printed = run(
        place, capsys, adapters=given(place, "wide", "narrow"), rows=str(tmp_path / "rows.jsonl")
    )
    assert printed == "".join(
        f"> [{name}] {prompt}\n{answer}\n\n"
        for (prompt, name), answer in zip(rows, alone, strict=True)
    )


@pytest.mark.slow
def test_a_prompt_is_answered_by_each(place, capsys):
    printed = run(place, capsys, adapters=given(place, "wide", "narrow"), prompt="the answer")
    heads = [line for line in printed.splitlines() if line.startswith("> ")]
    assert heads == [f"> [{name}] the answer" for name in ("base", "wide", "narrow")]


@pytest.mark.slow
def test_adapters_of_other_targets_answer_as_they_do_alone(place, capsys):
    alone = [run(place, capsys, adapters=given(place, n), prompt="hi") for n in ("wide", "other")]
    both = run(place, capsys, adapters=given(place, "wide", "other"), prompt="hi")
    base = alone[0].partition("> [wide]")[0]
    assert alone[1].startswith(base)
    assert both == alone[0] + alone[1].removeprefix(base)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("wide", "dora"), {}, "LoRA without DoRA, routed experts, embeddings, .*; got DoRA"),
        (("wide", "ia3"), {}, "must be LoRA to be used at once; got Ia3Config for ia3"),
        (("wide",), {"prompt": ""}, "--rows or --prompt must be given with --adapters"),
        (("wide",), {"model": ""}, "--adapters must be given with --model"),
        (("wide", "wide"), {}, "entries NAME=FOLDER with different names"),
        (("nowhere",), {}, "an adapter's folder must hold adapter_config.json"),
    ],
)
def test_what_cannot_be_used_at_once_is_refused(place, capsys, names, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        run(place, capsys, **{"adapters": given(place, *names), "prompt": "hi", **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--rows must hold a row"),
        ("nonsense", 'a row must be an object with "prompt"'),
        ('{"prompt": 3}', 'a row must be an object with "prompt"'),
        ('{"prompt": "a", "adaptor": "x"}', 'a row must be an object with "prompt"'),
        ('{"prompt": "a"}\n{"prompt": "b", "adapter": "x"}', r"one of base, y; got 'x' .*line 2"),
    ],
)
def test_rows_that_are_none(tmp_path, text, message):
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        adapted.read_rows(str(file), ("y",))
    with pytest.raises(ValueError, match="--rows must be a file"):
        adapted.read_rows(str(tmp_path / "none"), ())


def test_an_unnamed_adapter_is_the_base(tmp_path):
    (tmp_path / "rows").write_text('{"prompt": "a"}\n\n{"prompt": "b", "adapter": "y"}\n')
    rows = adapted.read_rows(str(tmp_path / "rows"), ("y",))
    assert rows == [adapted.Row("a"), adapted.Row("b", "y")]
    np.testing.assert_equal([row.adapter for row in rows], ["base", "y"])
