"""Reads a model folder's `config.json` field by field: what is not understood is an error.

Handles the two spellings of rotary settings, `rope_parameters` and `rope_theta` with
`rope_scaling`, and the names of attention kinds, for all families.
"""

import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from alignjax.core import untrusted
from alignjax.models.config import RopeScaling

# Fields that do not change the function from tokens to logits.
HARMLESS = frozenset(
    # One word a field; a list of strings would take a page.
    re.findall(
        r"\S+",
        """
    _name_or_path add_cross_attention architectures attn_implementation auto_map bad_words_ids
    begin_suppress_tokens bos_token_id cache_implementation chunk_size_feed_forward
    classifier_dropout decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id id2label initializer_range is_llama_config label2id
    length_penalty max_length max_position_embeddings max_window_layers min_length model_type
    no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
    output_attentions output_hidden_states output_scores pad_token_id prefix pretraining_tp
    problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate
    sep_token_id suppress_tokens task_specific_params temperature tokenizer_class top_k top_p
    torch_dtype torchscript transformers.js_config transformers_version typical_p unsloth_fixed
    unsloth_version use_bfloat16 use_cache
        """,
    )
)
KINDS = {
    "full_attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
}
# Rotary fields by our names; the rest of a scaling's fields must be known too.
SCALED = {
    "factor": "factor",
    "original_max_position_embeddings": "original_length",
    "low_freq_factor": "low_frequency",
    "high_freq_factor": "high_frequency",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
    "truncate": "truncate",
}
LISTS = {"short_factor": "short", "long_factor": "long"}  # of longrope
# Without these a scaling means nothing.
NEEDED: dict[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": (
        "factor",
        "original_max_position_embeddings",
        "low_freq_factor",
        "high_freq_factor",
    ),
    "yarn": ("factor", "original_max_position_embeddings"),
    "dynamic": ("factor",),
    "longrope": ("short_factor", "long_factor", "original_max_position_embeddings"),
}
LIMIT = 1_000_000  # bytes of a config.json
_MISSING = object()


class Fields:
    """A configuration's fields, each to be taken once; `done` refuses what nobody took."""

    def __init__(self, values: dict[str, Any], where: str):
        self.where = where
        self._left = dict(values)

    def has(self, name: str) -> bool:
        """Whether a field is there, not yet taken and not null."""
        return self._left.get(name) is not None

    def take(self, name: str, default: Any = _MISSING) -> Any:
        """A field's value; null is the same as absent.

        Raises:
          ValueError: it is absent and has no default.
        """
        value = self._left.pop(name, None)
        if value is None and default is _MISSING:
            raise self.error(name, "be given", "nothing")
        return default if value is None else value

    def nullable(self, name: str, absent: Any) -> Any:
        """The same where null has a meaning of its own: None for null, `absent` where not there."""
        return self._left.pop(name, absent)

    def number(self, name: str, default: Any = _MISSING, *, most: float = 1e9) -> Any:
        """A positive number, no larger than `most`."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise self.error(name, f"be a number in (0, {most:g}]", repr(value))
        return value

    def size(self, name: str, default: Any = _MISSING, *, most: float = 1e9) -> int:
        """A whole positive number, no larger than `most`: a count of things to allocate."""
        value = self.number(name, default, most=most)
        if value != int(value):
            raise self.error(name, "be a whole number", repr(value))
        return int(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "be true or false", repr(value))
        return value

    def only(self, name: str, *wanted: Any) -> None:
        """Takes a field that may be absent and otherwise must have one of these values."""
        value = self._left.pop(name, None)
        if value is not None and value not in wanted:
            raise self.error(name, f"be {' or '.join(map(repr, wanted))}", repr(value))

    def done(self) -> None:
        """Refuses fields that were not taken and that may change the model's function; null, which
        transformers writes for what is not used, changes nothing."""
        left = sorted(n for n, v in self._left.items() if v is not None and n not in HARMLESS)
        if left:
            raise ValueError(
                f"config.json must hold fields that this family knows; got {', '.join(left)} "
                f"({self.where}). A field that is not understood may change the model."
            )

    def error(self, name: str, rule: str, got: str) -> ValueError:
        return ValueError(f"config.json: {name} must {rule}; got {got:.200} ({self.where}).")


def read(path: pathlib.Path) -> dict[str, Any]:
    """The fields of a `config.json`; code that it names (`auto_map`) is never run.

    Raises:
      ValueError: the file is missing, too large, or not a JSON object.
    """
    try:
        values = untrusted.read_json(path, LIMIT)
    except (OSError, untrusted.Refused) as error:
        raise ValueError(
            f"config.json must be a readable JSON file; got {error!s:.200} ({path})."
        ) from None
    if not isinstance(values, dict):
        raise ValueError(f"config.json must hold an object; got {type(values).__name__} ({path}).")
    return values


def rope_fields(
    fields: Fields, theta: float, *, more: tuple[str, ...] = (), context: int = 0
) -> tuple[float, RopeScaling]:
    """(theta, scaling) of a model whose layers all turn alike.

    more: kinds of scaling that not all families have: proportional; dynamic or longrope, whose
    angles depend on a row's length; context: `max_position_embeddings` for these.

    Raises:
      ValueError: the two spellings are both there and differ.
    """
    new = table(fields, "rope_parameters")
    old = table(fields, "rope_scaling")
    base = fields.take("rope_theta", None)
    if base is not None:
        old["rope_theta"] = base
    for name in sorted(old) if new else ():
        # A rope_theta beside them stands for the one that they lack; nothing else may be added.
        alone = name == "rope_theta" and name not in new
        if not alone and old[name] != new.get(name):
            what = f"be as in the older fields, {old[name]!r:.80}"
            raise fields.error(f"rope_parameters.{name}", what, repr(new.get(name)))
    joined = Fields({**new, **old}, f"{fields.where}, rope_parameters")
    return scaling_of(joined, theta, more=more, context=context)


def table(fields: Fields, name: str) -> dict[str, Any]:
    """A field that holds fields; empty where absent."""
    value = fields.take(name, {})
    if not isinstance(value, dict):
        raise fields.error(name, "hold an object", repr(value))
    return dict(value)


def scaling_of(
    fields: Fields, theta: float, *, more: tuple[str, ...] = (), context: int = 0
) -> tuple[float, RopeScaling]:
    """(theta, scaling) from the fields of one kind of layer.

    Raises:
      ValueError: an unknown kind of scaling, or a field that it does not have.
    """
    theta = float(fields.number("rope_theta", theta, most=1e12))
    kind = fields.take("rope_type", None) or fields.take("type", "default")
    fields.take("type", None)
    if kind == "proportional" and kind in more:
        share = float(fields.number("partial_rotary_factor", 1.0, most=1))
        factor = float(fields.number("factor", 1.0))
        fields.done()
        return theta, RopeScaling(kind=kind, share=share, factor=factor)
    fields.only("partial_rotary_factor", 1.0, 1)
    if kind == "default":
        fields.done()
        return theta, RopeScaling()
    known = ("default", "linear", "llama3", "yarn", *more)
    if kind not in known:
        rule = f"be {', '.join(known[:-1])} or {known[-1]}"
        raise fields.error("rope_type", rule, repr(kind))
    for name in NEEDED[kind]:
        if not fields.has(name):
            raise fields.error(name, f"be given for {kind}", "nothing")
    values: dict[str, Any] = {"truncate": fields.flag("truncate", True)}
    if kind == "dynamic":
        own = Fields({"max_position_embeddings": context}, fields.where)
        values["original_length"] = own.size("max_position_embeddings")
        fields.only("original_max_position_embeddings", context)
    for name, ours in LISTS.items() if kind == "longrope" else ():
        values[ours] = _numbers(fields, name)
    values |= {ours: fields.number(name) for name, ours in SCALED.items() if fields.has(name)}
    scaling = RopeScaling(kind=kind, **values)
    if kind == "dynamic" and scaling.factor < 1:
        raise fields.error("factor", "be 1 or more for dynamic", repr(scaling.factor))
    if kind == "yarn":
        _yarn_factor(fields, scaling, explicit="attention_factor" in values)
    if kind == "longrope":
        _long_factor(scaling, values, context)
    fields.done()
    return theta, scaling


def _numbers(fields: Fields, name: str) -> tuple[float, ...]:
    """A list of positive numbers."""
    value = fields.take(name)
    numbers = isinstance(value, list) and all(type(x) in (int, float) and x > 0 for x in value)
    if not numbers:
        raise fields.error(name, "be a list of positive numbers", repr(value))
    return tuple(map(float, value))


def _long_factor(scaling: RopeScaling, given: Mapping[str, Any], context: int) -> None:
    """Longrope's factor is the quotient of the two lengths, that of cos and sin follows from it."""
    if "factor" not in given:
        scaling.factor = context / scaling.original_length
    if "attention_factor" not in given:
        longer = math.log(max(scaling.factor, 1.0))
        scaling.attention_factor = math.sqrt(1 + longer / math.log(scaling.original_length))


def _yarn_factor(fields: Fields, scaling: RopeScaling, *, explicit: bool) -> None:
    """DeepSeek states the factor of cos and sin as a quotient of two magnitudes."""
    one, all_dims = (
        fields.number(name) if fields.has(name) else None for name in ("mscale", "mscale_all_dim")
    )
    scaling.score_mscale = float(all_dims or 0.0)
    if explicit:
        return
    if not (one and all_dims):
        # 0 is 0.1 log(factor) + 1, which is meant for factors above 1 alone.
        scaling.attention_factor = 0.0 if scaling.factor > 1 else 1.0
        return

    def magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    scaling.attention_factor = magnitude(one) / magnitude(all_dims)


def described_rope(theta: float, scaling: RopeScaling) -> dict[str, Any]:
    """The `rope_parameters` that `scaling_of` reads as these."""
    kept = NEEDED.get(scaling.kind, ())
    lists = {n: list(getattr(scaling, o)) for n, o in LISTS.items() if scaling.kind == "longrope"}
    if lists:
        kept = ("factor", "original_max_position_embeddings", "attention_factor")
    if scaling.kind == "yarn":
        kept += ("beta_fast", "beta_slow", "attention_factor", "truncate")
    values = {name: getattr(scaling, SCALED[name]) for name in kept}
    if not values.get("attention_factor", 1.0):  # our 0 is their absence
        del values["attention_factor"]
    if scaling.score_mscale:
        values["mscale_all_dim"] = scaling.score_mscale
    if scaling.kind == "proportional":
        values = {"partial_rotary_factor": scaling.share, "factor": scaling.factor}
    kind = "default" if scaling.kind == "none" else scaling.kind
    return {"rope_type": kind, "rope_theta": theta, **values, **lists}


def spelled_twice(theta: float, scaling: RopeScaling) -> dict[str, Any]:
    """Rotary fields of a `config.json` that older and newer releases of transformers read."""
    rope = described_rope(theta, scaling)
    scaled = {k: v for k, v in rope.items() if k != "rope_theta"}
    older = {"rope_scaling": scaled} if scaling.kind != "none" else {}
    return {"rope_theta": theta, **older, "rope_parameters": rope}


def kinds(
    fields: Fields, default: list[str], layers: int, words: Mapping[str, str] = KINDS
) -> tuple[str, ...]:
    """Each layer's kind of attention, shortened to its period; words: the family's for our kinds.

    Raises:
      ValueError: an unknown kind, or not one for each layer.
    """
    types = fields.take("layer_types", None)
    if types is None:
        return period(default)
    if not isinstance(types, list) or len(types) != layers:
        raise fields.error("layer_types", f"name the kind of all {layers} layers", repr(types))
    for kind in types:
        if not isinstance(kind, str) or kind not in words:
            raise fields.error("layer_types", f"be among {', '.join(words)}", repr(kind))
    return period([words[kind] for kind in types])


def period(names: list[str]) -> tuple[str, ...]:
    """The shortest beginning that, repeated, gives all names."""
    for length in range(1, len(names)):
        if all(name == names[i % length] for i, name in enumerate(names)):
            return tuple(names[:length])
    return tuple(names)


def encode(values: Mapping[str, Any]) -> bytes:
    """The text of a `config.json`. Old names of the dtype go, and so does code that is not ours."""
    kept = {k: v for k, v in values.items() if k not in ("torch_dtype", "auto_map")}
    return (json.dumps(kept, indent=2) + "\n").encode()
