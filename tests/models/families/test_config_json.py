"""`config.json` field by field: what is understood, and what is refused before a weight is read."""

import json
import shutil

import numpy as np
import pytest

from alignjax.models.checkpoints import folder, safetensors_io
from alignjax.models.config import RopeScaling
from tests.models.families import golden

FAMILIES = ["llama", "smollm3", "mistral-window", "qwen2-sliding", "qwen3", "gemma2", "gemma3"]
FAMILIES += ["granite", "olmo2", "olmo3"]


def fields_of(name, **changes):
    """A golden's fields with others added; `...` takes one out."""
    fields = json.loads((golden.HERE / "goldens" / name / "config.json").read_text())
    return {k: v for k, v in {**fields, **changes}.items() if v is not ...}


def parse(name, **changes):
    return folder.parse_config(fields_of(name, **changes), "here")


LONG = {"rope_type": "longrope", "short_factor": [1, 2, 3.0], "long_factor": [4, 5, 6.0]}
LONG |= {"partial_rotary_factor": 0.75}


def test_older_names_of_longrope():
    """As Phi-3 was published: "su", the original length outside, no factor of cos and sin."""
    older = {"rope_scaling": {**LONG, "rope_type": None, "type": "su"}, "rope_parameters": ...}
    older["rope_scaling"].pop("partial_rotary_factor")
    found = parse("phi3-longrope", **older, rope_theta=50.0, partial_rotary_factor=0.75)
    rope, factor = found.rope, 64 / 12
    assert (rope.kind, rope.short, rope.long) == ("longrope", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert (rope.original_length, found.rope_theta, found.rope_dim) == (12, 50.0, 6)
    np.testing.assert_allclose(rope.factor, factor)
    np.testing.assert_allclose(rope.attention_factor, np.sqrt(1 + np.log(factor) / np.log(12)))
    assert parse("phi3-longrope", rope_parameters=LONG).rope == rope


def refused(rule, name, **changes):
    with pytest.raises(ValueError, match=rule) as caught:
        parse(name, **changes)
    assert "\n" not in str(caught.value)
    assert "here" in str(caught.value) or "(model)" in str(caught.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_field_that_nobody_knows(name):
    refused("fields that this family knows; got expert_choice", name, expert_choice=True)
    refused("got quantization_config", name, quantization_config={"bits": 4})
    parse(name, expert_choice=None)


@pytest.mark.parametrize("name", FAMILIES)
def test_fields_that_say_nothing(name):
    plain = parse(name)
    assert parse(name, torch_dtype="bfloat16", temperature=0.6, architectures=None) == plain
    assert parse(name, auto_map={"AutoModel": "evil.Model"}, _name_or_path="x") == plain


@pytest.mark.parametrize(
    "field",
    [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "head_dim",
    ],
)
@pytest.mark.parametrize("value", [-8, 0, 2.5, 1e12, 10**30, "24", [24], True, float("nan")])
def test_sizes_that_are_none(field, value):
    for name in FAMILIES:
        refused(f"{field} must be a", name, **{field: value})


@pytest.mark.parametrize(
    ("name", "changes", "rule"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act must be 'silu'"),
        ("llama", {"attention_bias": "no"}, "attention_bias must be true or false"),
        ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false"),
        ("llama", {"attention_dropout": 0.1}, "attention_dropout must be 0"),
        ("llama", {"rms_norm_eps": -1e-6}, "rms_norm_eps must be a number"),
        ("llama", {"rms_norm_eps": "1e-6"}, "rms_norm_eps must be a number"),
        ("llama", {"hidden_size": 25, "head_dim": ...}, "hidden_size must be a multiple of the 6"),
        ("llama", {"head_dim": 7}, "head_dim must be even"),
        ("llama", {"num_key_value_heads": 4}, "heads must be a multiple of model.kv_heads"),
        ("llama", {"vocab_size": ...}, "vocab_size must be given"),
        ("llama", {"hidden_size": None}, "hidden_size must be given"),
        ("llama", {"layer_types": ["sliding_attention"] * 3}, "knows; got layer_types"),
        ("llama", {"partial_rotary_factor": 0.5}, "knows; got partial_rotary_factor"),
        ("smollm3", {"use_sliding_window": True}, "use_sliding_window must be False"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers must say"),
        ("smollm3", {"no_rope_layers": 3}, "no_rope_layers must say"),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 1, 2]}, "no_rope_layers must say"),
        ("mistral-window", {"sliding_window": -5}, "sliding_window must be a number"),
        ("mistral-window", {"sliding_window": "5"}, "sliding_window must be a number"),
        ("mistral-window", {"layer_types": ["full_attention"] * 3}, "layer_types must all be"),
        ("qwen2-sliding", {"use_sliding_window": False}, "use_sliding_window must be true"),
        ("qwen2-sliding", {"sliding_window": None}, "sliding_window must be given"),
        ("qwen2-sliding", {"sliding_window": 2.5}, "sliding_window must be a whole number"),
        ("qwen3", {"layer_types": ["full_attention"]}, "layer_types must name"),
        ("qwen3", {"layer_types": [["full_attention"], 3]}, "layer_types must be among"),
        ("qwen3", {"layer_types": ["linear_attention"] * 2}, "layer_types must be among"),
        ("gemma2", {"hidden_activation": "gelu"}, "hidden_activation must be"),
        ("gemma2", {"final_logit_softcapping": -3.0}, "final_logit_softcapping must be a number"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar must be a number"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention must be"),
        ("qwen3", {"rope_parameters": {"type": "dynamic", "factor": 2.0}}, "be default, linear, l"),
        ("llama-dynamic", {"max_position_embeddings": "many"}, "max_position_embeddings must"),
        (
            "llama-dynamic",
            {"rope_parameters": {"type": "dynamic", "factor": 0.5}},
            "factor must be 1 or",
        ),
        ("phi3", {"rope_parameters": {"rope_type": "llama3"}}, "be default or longrope; got 'll"),
        ("phi3", {"resid_pdrop": 0.1}, "resid_pdrop must be 0"),
        ("phi3", {"lm_head_bias": True}, "lm_head_bias must be False"),
        (
            "phi3-longrope",
            {"rope_parameters": {**LONG, "short_factor": [1.0]}},
            "rope.short must h",
        ),
        ("phi3-longrope", {"rope_parameters": {**LONG, "long_factor": [0, 1]}}, "positive numbers"),
        ("phi3-longrope", {"rope_parameters": {"rope_type": "su"}}, "short_factor must be given"),
        ("glm4", {"partial_rotary_factor": 0.25}, "partial_rotary_factor must be the same where"),
        ("glm4", {"rope_parameters": {"partial_rotary_factor": 0.1}}, "turn an even number of a "),
        ("glm4", {"rope_parameters": {"partial_rotary_factor": 1.5}}, "must be a number in"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping must be 0"),
        ("gemma3", {"rope_parameters": {"full_attention": 3}}, "full_attention must hold"),
        ("gemma3", {"rope_parameters": {"rope_theta": 3.0}}, "knows; got rope_theta"),
        (
            "gemma3",
            {
                "rope_parameters": {
                    "full_attention": {
                        "rope_type": "yarn",
                        "factor": 2.0,
                        "original_max_position_embeddings": 16,
                        "truncate": False,
                    }
                }
            },
            "truncate must be true",
        ),
    ],
)
def test_fields_that_would_change_the_model(name, changes, rule):
    refused(rule, name, **changes)


ROPES = {
    "linear": ({"factor": 2.0}, RopeScaling(kind="linear", factor=2.0)),
    "llama3": (
        {
            "factor": 8.0,
            "low_freq_factor": 1.5,
            "high_freq_factor": 3.0,
            "original_max_position_embeddings": 32,
        },
        RopeScaling(
            kind="llama3", factor=8.0, low_frequency=1.5, high_frequency=3.0, original_length=32
        ),
    ),
    "yarn": (
        {"factor": 4.0, "original_max_position_embeddings": 16, "beta_slow": 2.0},
        RopeScaling(kind="yarn", factor=4.0, original_length=16, beta_slow=2.0),
    ),
}


@pytest.mark.parametrize("kind", ROPES)
def test_all_spellings_of_rotary_fields(kind):
    values, wanted = ROPES[kind]
    newer = {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **values}}
    older = {"rope_scaling": {"rope_type": kind, **values}, "rope_theta": 500}
    oldest = {"rope_scaling": {"type": kind, **values}, "rope_theta": 500.0}
    for given in (newer, {**older, "rope_parameters": ...}, {**oldest, "rope_parameters": ...}):
        config = parse("llama", **given)
        assert config.rope == wanted
        assert config.rope_theta == 500.0
    assert parse("llama", **newer, **older) == config
    for name in values:
        if name != "beta_slow":
            short = {k: v for k, v in values.items() if k != name}
            short = {"rope_scaling": {"type": kind, **short}, "rope_parameters": ...}
            refused(f"{name} must be given", "llama", **short)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"rope_parameters": {"type": "longrope", "factor": 2.0}}, "rope_type must be"),
        ({"rope_parameters": {"type": "dynamic"}}, "factor must be given for dynamic"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, r"must be as in the older fields"),
        ({"rope_theta": 7.0}, r"rope_parameters.rope_theta must be as in the older"),
        ({"rope_scaling": "linear"}, "rope_scaling must hold an object"),
        ({"rope_parameters": [1]}, "rope_parameters must hold an object"),
        ({"rope_parameters": {"rope_theta": -1}}, "rope_theta must be a number"),
        ({"rope_parameters": {"rope_theta": "1e4"}}, "rope_theta must be a number"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor must be 1"),
        ({"rope_parameters": {"short_factor": [1.0]}}, "knows; got short_factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor must be a number"),
        ({"rope_parameters": {"rope_type": "linear", "factor": "2"}}, "factor must be a number"),
        (
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 2.0,
                    "original_max_position_embeddings": 8,
                    "truncate": "no",
                }
            },
            "truncate must be true or false",
        ),
    ],
    ids=str,
)
def test_rotary_fields_that_are_refused(changes, rule):
    refused(rule, "llama", **changes)


def test_yarn_magnitudes():
    """A quotient of two magnitudes; one alone says nothing of cos and sin."""
    given = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}

    def factor(**more):
        return parse("llama", rope_parameters={**given, **more}).rope.attention_factor

    assert factor() == factor(mscale=2.0) == 0.0
    by_hand = (0.2 * np.log(4.0) + 1) / (0.05 * np.log(4.0) + 1)
    assert factor(mscale=2.0, mscale_all_dim=0.5) == pytest.approx(by_hand)
    assert factor(mscale=2.0, mscale_all_dim=0.5, attention_factor=1.5) == 1.5
    assert factor(factor=1.0) == 1.0


def test_older_gemma_3():
    """The fields of its first release: a base of sliding layers, and a pattern instead of kinds."""
    older = {"rope_parameters": ..., "layer_types": ..., "sliding_window_pattern": 2}
    older |= {"rope_theta": 2000.0, "rope_local_base_freq": 50.0}
    older["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}
    config = parse("gemma3", **older)
    assert config == parse("gemma3")
    assert (config.local_rope_theta, config.rope_theta) == (50.0, 2000.0)
    assert config.attention == ("sliding", "full")
    scaled = {"rope_type": "linear", "factor": 2.0}
    refused(
        "rope_type must be default for sliding",
        "gemma3",
        rope_parameters={"sliding_attention": scaled},
    )
    plain = parse("gemma3", rope_parameters=None, layer_types=None)
    assert (plain.local_rope_theta, plain.rope_theta) == (10000.0, 1000000.0)
    assert plain.kinds() == ["sliding"] * 3


def test_absent_is_not_null():
    """What transformers takes where a field is absent, and what null means there."""
    for cap, ours in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)):
        name = "attention_softcap" if ours == 50.0 else "logit_softcap"
        assert getattr(parse("gemma2", **{cap: ...}), name) == ours
        assert getattr(parse("gemma2", **{cap: None}), name) == 0.0
    assert parse("mistral-window", sliding_window=...).window == 4096
    assert parse("mistral-window", sliding_window=None).attention == ("full",)
    assert parse("llama", num_key_value_heads=...).kv_heads == 6
    assert parse("mistral", num_key_value_heads=None).kv_heads == 6
    assert parse("mistral", num_key_value_heads=..., num_attention_heads=8).kv_heads == 8
    assert parse("llama", head_dim=None).head_dim == 4
    assert parse("qwen3", head_dim=...).head_dim == 128
    for name, tied in (("llama", False), ("qwen2", False), ("gemma2", True), ("smollm3", True)):
        assert parse(name, tie_word_embeddings=...).tied is tied
    assert parse("llama", rms_norm_eps=...).norm_eps == 1e-6


def test_kinds_of_layers_from_older_fields():
    turned = parse("smollm3", no_rope_layers=..., layer_types=..., no_rope_layer_interval=2)
    assert turned.kinds() == ["full", "nope", "full", "nope", "full"]
    qwen = parse("qwen2-sliding", layer_types=..., max_window_layers=2)
    assert qwen.kinds() == ["full", "full", "sliding"]
    none = parse("qwen2-sliding", layer_types=..., use_sliding_window=False)
    assert (none.kinds(), none.window) == (["full"] * 3, 0)
    assert parse("gemma2", layer_types=...).kinds() == ["sliding", "full", "sliding"]


def copied(tmp_path, name="llama", **changes):
    path = tmp_path / "model"
    shutil.copytree(golden.HERE / "goldens" / name, path)
    (path / "config.json").write_text(json.dumps(fields_of(name, **changes)))
    return path


@pytest.mark.parametrize("kind", ["bert", None, 3, ["llama"], "x" * 500])
def test_families_that_are_unknown(tmp_path, kind):
    with pytest.raises(ValueError, match="model_type must be one of deepseek_v3, gemma2") as caught:
        folder.open_model(copied(tmp_path, model_type=kind))
    assert "x" * 100 not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "nul", "[" * 100_000, '{"a": "' + "x" * 2_000_000 + '"}', "\x80"]
)
def test_files_that_are_no_configuration(tmp_path, text):
    path = copied(tmp_path)
    (path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"config\.json must") as caught:
        folder.open_model(path)
    assert len(str(caught.value).splitlines()) == 1


def test_places_that_hold_no_model(tmp_path):
    with pytest.raises(ValueError, match=r"model must be a folder with config\.json"):
        folder.open_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"config\.json must be a readable"):
        folder.open_model(tmp_path)


def test_code_of_others_is_never_run(tmp_path):
    """`auto_map` names code in the folder: it is neither run nor written on."""
    path = copied(tmp_path, auto_map={"AutoModelForCausalLM": "modeling.Model"})
    (path / "modeling.py").write_text("raise SystemExit('run')")
    stored = folder.open_model(path)
    folder.save_model(tmp_path / "out", stored.config, stored.load(), stored.fields)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_pickled_weights_are_refused(tmp_path):
    path = copied(tmp_path)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        folder.open_model(path)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"num_hidden_layers": 4}, r"missing: model\.layers\.3"),
        ({"num_hidden_layers": 2}, r"not of the model: model\.layers\.2"),
        ({"tie_word_embeddings": True}, r"lm_head\.weight must equal model\.embed_tokens\.weight"),
        ({"attention_bias": True}, r"missing: .*self_attn\.k_proj\.bias"),
        ({"vocab_size": 60}, r"tensor .* must have shape \[60, 24\]"),
        ({"vocab_size": 99_999_999, "hidden_size": 600_000_000, "head_dim": 4}, "must have shape"),
        ({"num_key_value_heads": 1}, r"tensor .* must have shape"),
        ({"head_dim": 8}, r"tensor .* must have shape"),
    ],
    ids=str,
)
def test_tensors_that_do_not_fit(tmp_path, changes, rule):
    stored = folder.open_model(copied(tmp_path, **changes))
    with pytest.raises(ValueError, match=rule) as caught:
        stored.load()
    assert "\n" not in str(caught.value)


def test_a_tied_model_with_a_copy(tmp_path):
    """Files may hold the embedding twice; a second matrix of its own would be another model."""
    path = golden.HERE / "goldens" / "mistral"
    held = safetensors_io.open_folder(path)
    tensors = {name: held.read(name) for name in held.tensors}
    config = (path / "config.json").read_bytes()
    copy = tensors["model.embed_tokens.weight"]
    more = {"lm_head.weight": copy, "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4)}
    golden.write(tmp_path / "copy", {**tensors, **more}, config)
    stored = folder.open_model(tmp_path / "copy")
    folder.save_model(tmp_path / "out", stored.config, stored.load(), stored.fields)
    golden.assert_same_tensors(tmp_path / "out", path)
    golden.write(tmp_path / "other", {**tensors, "lm_head.weight": copy + 1}, config)
    golden.write(tmp_path / "short", {**tensors, "lm_head.weight": copy[:3]}, config)
    for name in ("other", "short"):
        with pytest.raises(ValueError, match=r"lm_head\.weight must equal"):
            folder.open_model(tmp_path / name).load()
    golden.write(tmp_path / "extra", {**tensors, "model.adapter": copy}, config)
    with pytest.raises(ValueError, match=r"not of the model: model\.adapter"):
        folder.open_model(tmp_path / "extra").load()
