"""peft's adapters of embeddings, unembeddings, experts one by one, and modules to save."""

import json

import jax
import numpy as np
import pytest

from alignjax.core import trees
from alignjax.models import transformer
from alignjax.models.adapters import adapt, lora, merge, peft_format
from alignjax.models.checkpoints import folder, safetensors_io
from tests.models.adapters import kinds, record_peft
from tests.models.adapters.test_peft_format import GOLDENS, tensors

PLACE = GOLDENS / "vocabulary"
BOTH = ("embed", "unembed")
# What each golden is here: targets, whole, tie.
MEANT = {
    "low_rank": (("query", *BOTH), ("norm", "attention_norm"), False),
    "whole": (("value",), BOTH, False),
    "tied_apart": (("query", "embed"), (), False),
    "tied_both": (("query", *BOTH), (), False),
    "tied_together": (("query", "embed"), (), True),
    "tied_whole": (("query",), ("embed",), False),
    "tied_head": (("query",), ("unembed",), False),
    "tied_whole_together": (("query",), ("embed",), True),
}
QUICK = ("low_rank", "tied_whole")
NAMES = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in record_peft.VOCABULARY
]


def read(name):
    """(stored model, base, configuration, adapters, what peft computed) of a golden."""
    tied = record_peft.VOCABULARY[name][0]
    stored = folder.open_model(PLACE / ("base_tied" if tied else "base"))
    base = stored.load()
    adapter, own = peft_format.load(PLACE / name, stored.config, base)
    return stored, base, adapter, own, np.load(PLACE / "logits.npz")


def places(arrays):
    mask = arrays["mask"]
    positions = np.broadcast_to(np.arange(mask.shape[1], dtype=np.int32), mask.shape)
    return arrays["tokens"], positions, mask


@pytest.mark.parametrize("name", NAMES)
def test_they_compute_what_peft_computes_and_are_written_as_they_were(name, tmp_path):
    stored, base, adapter, own, arrays = read(name)
    assert (set(adapter.targets), set(adapter.whole), adapter.tie) == (
        set(MEANT[name][0]),
        set(MEANT[name][1]),
        MEANT[name][2],
    )
    model = transformer.transformer(stored.config)
    bound = adapt.bind(own, {"base": base})
    run = jax.jit(lambda tree: kinds.logits(model, tree, *places(arrays)))
    found, kept = np.asarray(run(bound)), arrays["mask"] == 1
    assert np.abs(found - arrays[name])[kept].max() < 1e-5
    assert np.abs(found - np.asarray(run(base)))[kept].max() > 0.1
    np.testing.assert_allclose(run(merge.whole(bound)), found, atol=1e-5)
    peft_format.save(tmp_path / "out", adapter, own, stored.config)
    theirs, ours = tensors(PLACE / name), tensors(tmp_path / "out")
    theirs = {key: x for key, x in theirs.items() if "base_layer" not in key}
    assert theirs.keys() == ours.keys()
    for key, x in theirs.items():
        np.testing.assert_array_equal(ours[key], x, err_msg=key)
    fields = [
        json.loads((place / "adapter_config.json").read_text())
        for place in (PLACE / name, tmp_path / "out")
    ]
    for key in ("target_modules", "modules_to_save"):
        # peft lists a tied module by its short and by its whole name
        meant, found = ({m.rsplit(".", 1)[-1] for m in own.get(key) or ()} for own in fields)
        assert meant == found
    again, same = peft_format.load(tmp_path / "out", stored.config, base)
    assert again == adapter
    jax.tree.map(np.testing.assert_array_equal, own, same)


def changed(tmp_path, name, fields=None, drop="", **more):
    """A copy of a golden with other fields or tensors."""
    held = {n: x for n, x in tensors(PLACE / name).items() if not drop or drop not in n} | more
    about = json.loads((PLACE / name / "adapter_config.json").read_text()) | (fields or {})
    entries = [(n, x.shape, x.dtype, lambda x=x: x) for n, x in held.items()]
    files = {"adapter_config.json": json.dumps(about).encode()}
    safetensors_io.write_folder(tmp_path / "it", entries, stem="adapter_model", files=files)
    return tmp_path / "it"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("whole", {"fields": {"modules_to_save": ["lm_head"]}}, "must name all modules with"),
        ("whole", {"drop": "lm_head"}, r"modules_to_save must be .*; got 'lm_head'"),
        (
            "whole",
            {"fields": {"modules_to_save": ["lm_head", "embed_tokens", "score"]}},
            r"among embed_tokens, .*lm_head; got 'score'",
        ),
        ("low_rank", {"drop": "layers.1.input_layernorm"}, "all layers' tensors"),
        ("low_rank", {"drop": "lora_embedding_B"}, "lora_embedding_B is missing"),
        (
            "low_rank",
            {"base_model.model.model.embed_tokens.base_layer.weight": np.zeros((24, 12))},
            "tables stored with an adapter must be those of its base",
        ),
        (
            "tied_whole",
            {"base_model.model.model.embed_tokens.weight": np.zeros((25, 12), np.float32)},
            "must have the model's sizes",
        ),
    ],
)
def test_folders_that_do_not_fit_are_refused(name, changes, message, tmp_path):
    stored = folder.open_model(PLACE / ("base_tied" if record_peft.VOCABULARY[name][0] else "base"))
    with pytest.raises(ValueError, match=message):
        peft_format.load(changed(tmp_path, name, **changes), stored.config, stored.load())


EXPERTS = [
    pytest.param(kind, marks=[] if kind == "mixtral" else pytest.mark.slow)
    for kind in record_peft.EXPERTS
]


@pytest.mark.parametrize("kind", EXPERTS)
def test_experts_that_were_linears_keep_their_own_maps(kind, tmp_path):
    """Folders of transformers 4 and peft 0.17: gate and up have an A each."""
    place = GOLDENS / "experts" / kind
    stored, arrays = folder.open_model(place / "base"), np.load(place / "logits.npz")
    adapter, own = peft_format.load(place / "lora", stored.config)
    meant = {"mixtral": {"experts_gate", "experts_up", "experts_down", "query"}}
    meant["qwen3_moe"] = {"experts_gate", "experts_up", "experts_down", "out"}
    meant["deepseek_v3"] = {"experts_gate", "experts_down", "gate", "down"}
    assert set(adapter.targets) == meant[kind]
    assert adapter.rank_of("experts_down") == 3
    model, base = transformer.transformer(stored.config), stored.load()
    run = jax.jit(lambda tree: kinds.logits(model, tree, *places(arrays)))
    kept = arrays["mask"] == 1
    for tree, wanted in ((base, "base"), (adapt.bind(own, {"base": base}), "lora")):
        assert np.abs(np.asarray(run(tree)) - arrays[wanted])[kept].max() < 1e-5
    assert np.abs(arrays["lora"] - arrays["base"])[kept].max() > 0.1
    peft_format.save(tmp_path / "out", adapter, own, stored.config)
    theirs, ours = tensors(place / "lora"), tensors(tmp_path / "out")
    assert theirs.keys() == ours.keys()
    for key, x in theirs.items():
        np.testing.assert_array_equal(ours[key], x, err_msg=key)
    again, same = peft_format.load(tmp_path / "out", stored.config)
    assert again == adapter
    jax.tree.map(np.testing.assert_array_equal, own, same)


def test_all_linear_is_written_by_names(tmp_path):
    stored = folder.open_model(PLACE / "base")
    adapter = lora.LoraConfig(rank=2, targets=("all-linear",), ranks=("key=3",))
    declared = adapter.declare(transformer.declare(stored.config))
    own = jax.tree.map(
        lambda info: np.zeros(info.shape, np.float32),
        declared,
        is_leaf=lambda x: hasattr(x, "axes"),
    )
    assert len(trees.named_leaves(own)) == 14
    peft_format.save(tmp_path / "out", adapter, own, stored.config)
    fields = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert fields["target_modules"] == sorted(record_peft.EVERY)
    assert fields["rank_pattern"] == {"k_proj": 3}


@pytest.mark.slow
def test_a_live_peft_reads_what_is_written(tmp_path):
    pytest.importorskip("peft", reason="needs torch, transformers and peft beside jax")
    import peft

    for name, (tied, _) in record_peft.VOCABULARY.items():
        stored, base, adapter, own, arrays = read(name)
        peft_format.save(tmp_path / name, adapter, own, stored.config, base=base)
        model = record_peft.vocabulary_model(tied)
        model = peft.PeftModel.from_pretrained(model, tmp_path / name).eval()
        found = record_peft.logits(model, arrays["tokens"], arrays["mask"])
        kept = arrays["mask"] == 1
        np.testing.assert_allclose(found[kept], arrays[name][kept], atol=1e-5)
