"""Folders of peft 0.21, recorded: the same logits from them, the same files back."""

import functools
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from alignjax.models import params, transformer
from alignjax.models.adapters import adapt, bottleneck, lora, peft_config, peft_format, prefix
from alignjax.models.checkpoints import folder, safetensors_io
from alignjax.models.config import MlaConfig
from tests.models.adapters import kinds

GOLDENS = pathlib.Path(__file__).parent / "goldens"
NAMES = ("lora", "rslora", "dora", "ia3", "prefix")


@functools.cache
def golden():
    """(model, its weights, recorded arrays)."""
    stored = folder.open_model(GOLDENS / "base")
    with np.load(GOLDENS / "logits.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return stored.config, transformer.transformer(stored.config), stored.load(), arrays


def worst(params, name):
    """Largest difference of a logit on a real token."""
    _, model, _, arrays = golden()
    mask = arrays["mask"].astype(np.int32)
    positions = np.broadcast_to(np.arange(mask.shape[1], dtype=np.int32), mask.shape)
    found = kinds.logits(model, params, arrays["tokens"].astype(np.int32), positions, mask)
    return np.abs(np.asarray(found) - arrays[name])[mask == 1].max()


def loaded(name):
    config, model, base, _ = golden()
    adapter, own = peft_format.load(GOLDENS / name, config, base)
    return adapter, own, adapt.adapt(model, adapter).bind(own, {"base": base})


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_pefts(name):
    _, _, base, arrays = golden()
    assert worst(base, "base") < 1e-5
    moved = np.abs(arrays[name] - arrays["base"])[arrays["mask"] == 1].max()
    assert moved > 0.1
    assert worst(loaded(name)[2], name) < 1e-5


def tensors(path):
    held = safetensors_io.open_folder(path, "adapter_model")
    return {name: held.read(name) for name in held.tensors}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_what_peft_wrote(name, tmp_path):
    config, _, base, _ = golden()
    adapter, own, _ = loaded(name)
    peft_format.save(tmp_path / "out", adapter, own, config, base=base, base_name="some/base")
    wanted, found = tensors(GOLDENS / name), tensors(tmp_path / "out")
    assert wanted.keys() == found.keys()
    for key, x in wanted.items():
        assert (x.shape, x.dtype) == (found[key].shape, found[key].dtype), key
        np.testing.assert_allclose(found[key], x, rtol=1e-6, atol=1e-6, err_msg=key)
        if name in ("lora", "rslora", "ia3"):
            np.testing.assert_array_equal(found[key], x)
    theirs, ours = (
        json.loads((path / "adapter_config.json").read_text())
        for path in (GOLDENS / name, tmp_path / "out")
    )
    assert ours.pop("base_model_name_or_path") == "some/base"
    if name == "lora":  # the same numbers by fewer patterns
        assert theirs.pop("alpha_pattern") == {"down_proj": 9, "layers.[01].mlp.up_proj": 5}
        assert ours.pop("alpha_pattern") == {"down_proj": 9.0, "up_proj": 5.0}
    for key, value in ours.items():
        other = theirs[key]
        assert (sorted(other) == value) if isinstance(value, list) else (other == value), key
    again, same = peft_format.load(tmp_path / "out", config, base)
    assert again == adapter
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), own, same)


def test_configurations_are_read_as_peft_means_them():
    adapter = loaded("lora")[0]
    assert (adapter.rank, adapter.alpha) == (4, 6.0)
    assert adapter.scale_of("key") == 3.0
    assert adapter.scale_of("down") == 9 / 4
    assert adapter.scale_of("up") == 5 / 4
    assert loaded("rslora")[0].scale_of("query") == 3.0
    assert loaded("ia3")[0].inputs == ("down",)
    assert loaded("prefix")[0] == prefix.PrefixConfig(length=3, gated=False)


FAMILIES = [
    pytest.param(name, marks=[] if name in ("deepseek_v3", "llama4_text") else pytest.mark.slow)
    for name in ("deepseek_v3", "llama4_text", "mixtral", "qwen3_moe")
]


@pytest.mark.parametrize("name", FAMILIES)
def test_latents_and_experts_are_pefts(name, tmp_path):
    """`target_parameters` for stacks of experts, one module for what we keep as two weights."""
    path = GOLDENS / "families" / name
    stored = folder.open_model(path / "base")
    base, model = stored.load(), transformer.transformer(stored.config)
    with np.load(path / "logits.npz", allow_pickle=False) as file:
        arrays = {n: file[n] for n in file.files}
    mask, tokens = arrays["mask"].astype(np.int32), arrays["tokens"].astype(np.int32)
    positions = np.broadcast_to(np.arange(mask.shape[1], dtype=np.int32), mask.shape)
    adapter, own = peft_format.load(path / "lora", stored.config, base)
    assert adapter.targets[-2:] == ("experts_in", "experts_down")
    assert adapter.ranks == ("out=3", "experts_down=4")
    bound = adapt.adapt(model, adapter).bind(own, {"base": base})
    for tree, wanted in ((base, "base"), (bound, "lora")):
        found = np.asarray(kinds.logits(model, tree, tokens, positions, mask))
        assert np.abs(found - arrays[wanted])[mask == 1].max() < 1e-5
    assert np.abs(arrays["lora"] - arrays["base"])[mask == 1].max() > 1
    peft_format.save(tmp_path / "out", adapter, own, stored.config)
    wanted, found = tensors(path / "lora"), tensors(tmp_path / "out")
    assert wanted.keys() == found.keys()
    for key, x in wanted.items():
        np.testing.assert_array_equal(found[key], x, err_msg=key)
    theirs, ours = (
        json.loads((where / "adapter_config.json").read_text())
        for where in (path / "lora", tmp_path / "out")
    )
    for key in ("target_modules", "target_parameters"):
        assert sorted(ours[key]) == sorted(theirs[key])
    again, _ = peft_format.load(tmp_path / "out", stored.config)
    assert again == adapter


def test_one_parameter_of_experts_is_wrapped_once(tmp_path):
    path = GOLDENS / "families" / "mixtral"
    config = folder.open_model(path / "base").config
    adapter = lora.LoraConfig(rank=2, targets=("experts_in",))
    declared = adapter.declare(transformer.declare(config))
    own = kinds.roughen(params.init(declared, jax.random.key(0), np.float32))
    peft_format.save(tmp_path / "out", adapter, own, config)
    start = "base_model.model.model.layers.{}.mlp.experts.lora_{}.weight"
    assert sorted(tensors(tmp_path / "out")) == [start.format(n, x) for n in (0, 1) for x in "AB"]
    again, same = peft_format.load(tmp_path / "out", config)
    assert again == adapter
    jax.tree.map(np.testing.assert_array_equal, own, same)
    about = tmp_path / "out" / "adapter_config.json"
    fields = json.loads(about.read_text())
    about.write_text(json.dumps({**fields, "target_parameters": ["mlp.experts.gate_up_proj", "x"]}))
    with pytest.raises(ValueError, match=r"target_parameters must be .* among mlp.experts.down"):
        peft_format.load(tmp_path / "out", config)


def copied(tmp_path, name, **changes):
    shutil.copytree(GOLDENS / name, tmp_path / name)
    file = tmp_path / name / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lora", {"bias": "all"}),
        ("lora", {"fan_in_fan_out": True}),
        ("lora", {"modules_to_save": ["lm_head"]}),
        ("lora", {"init_lora_weights": "pissa"}),
        ("lora", {"lora_bias": True}),
        ("lora", {"layers_to_transform": [0]}),
        ("lora", {"layer_replication": [[0, 2], [1, 2]]}),
        ("lora", {"use_qalora": True}),
        ("lora", {"trainable_token_indices": [1]}),
        ("lora", {"target_parameters": ["experts"]}),
        ("lora", {"alora_invocation_tokens": [1]}),
        ("lora", {"use_something_new": True}),
        ("lora", {"rank_pattern": {"layers.0.self_attn.q_proj": 2}}),
        ("lora", {"peft_type": "ADALORA"}),
        ("prefix", {"prefix_projection": True}),
        ("ia3", {"modules_to_save": ["lm_head"]}),
    ],
)
def test_fields_that_change_the_maths_are_refused_by_name(name, changes, tmp_path):
    config, _, base, _ = golden()
    with pytest.raises(ValueError, match=next(iter(changes))):
        peft_format.load(copied(tmp_path, name, **changes), config, base)


def test_tensors_that_do_not_fit_are_refused(tmp_path):
    config, _, base, _ = golden()
    wrong = {"r": 5, "rank_pattern": {}}
    with pytest.raises(ValueError, match="must have the model's sizes"):
        peft_format.load(copied(tmp_path, "rslora", **wrong), config, base)
    held = tensors(GOLDENS / "rslora")
    first = next(iter(held))
    about = (GOLDENS / "rslora" / "adapter_config.json").read_bytes()
    cases = {
        "missing": {k: x for k, x in held.items() if k != first},
        "not_a_layer": {**held, first.replace("layers.0", "layers.7"): held[first]},
        "other": {**held, "base_model.model.lm_head.lora_A.weight": held[first]},
    }
    for case, parts in cases.items():
        entries = [(k, x.shape, x.dtype, lambda x=x: x) for k, x in parts.items()]
        files = {"adapter_config.json": about}
        safetensors_io.write_folder(tmp_path / case, entries, stem="adapter_model", files=files)
        with pytest.raises(ValueError, match="an adapter"):
            peft_format.load(tmp_path / case, config, base)
    with pytest.raises(ValueError, match="needs the base's weights"):
        peft_format.load(GOLDENS / "dora", config)
    with pytest.raises(ValueError, match="must hold adapter_config"):
        peft_format.load(tmp_path / "nowhere", config)


def test_what_peft_has_not_is_refused(tmp_path):
    config, model, _, _ = golden()
    for adapter, message in (
        (prefix.PrefixConfig(length=3), "must have no gate"),
        (bottleneck.BottleneckConfig(), "must be LoRA, IA3 or a prefix"),
    ):
        own = adapt.adapt(model, adapter).init(jax.random.key(0))
        with pytest.raises(ValueError, match=message):
            peft_format.save(tmp_path / "out", adapter, own, config)
    adapter = lora.LoraConfig()
    own = model.with_scalar(adapt.adapt(model, adapter).init(jax.random.key(0)))
    for tree, message in ((own, "for scalar, not nothing"), (adapt.empty(own), "got nothing for")):
        with pytest.raises(ValueError, match=message):
            peft_format.save(tmp_path / "out", adapter, tree, config)
    latents = transformer.TransformerConfig(mla=MlaConfig(kv_rank=8))
    with pytest.raises(ValueError, match="a prefix needs keys and values of its own"):
        peft_format.load(GOLDENS / "prefix", latents)
    assert not any(tmp_path.iterdir())


def test_patterns_match_as_in_peft():
    """A pattern is a regular expression for the end of a module's name, after a dot."""
    config = golden()[0]
    values = {"peft_type": "LORA", "r": 8, "rank_pattern": {"roj": 2, "v_proj": 4}}
    adapter = peft_config.parse(values, {"q_proj", "v_proj"}, config, "here")
    assert adapter == lora.LoraConfig(
        rank=8, alpha=8.0, targets=("query", "value"), ranks=("value=4",)
    )


def test_a_live_peft_reads_what_is_written(tmp_path):
    pytest.importorskip("peft", reason="needs torch, transformers and peft beside jax")
    import peft

    from tests.models.adapters import record_peft

    config, _, base, arrays = golden()
    for name in NAMES:
        adapter, own, _ = loaded(name)
        peft_format.save(tmp_path / name, adapter, own, config, base=base)
        model = peft.PeftModel.from_pretrained(record_peft.base_model(), tmp_path / name).eval()
        found = record_peft.logits(model, arrays["tokens"], arrays["mask"])
        np.testing.assert_allclose(
            found[arrays["mask"] == 1], arrays[name][arrays["mask"] == 1], atol=1e-5
        )
    for kind in record_peft.FAMILIES:
        path = GOLDENS / "families" / kind
        stored = folder.open_model(path / "base")
        adapter, own = peft_format.load(path / "lora", stored.config)
        peft_format.save(tmp_path / kind, adapter, own, stored.config)
        model = peft.PeftModel.from_pretrained(record_peft.family_model(kind), tmp_path / kind)
        arrays = np.load(path / "logits.npz")
        found = record_peft.logits(model.eval(), arrays["tokens"], arrays["mask"])
        kept = arrays["mask"] == 1
        np.testing.assert_allclose(found[kept], arrays["lora"][kept], atol=1e-5)
