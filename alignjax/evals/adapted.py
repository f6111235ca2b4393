"""Open weights under several LoRA adapters at once: every row of a batch names its adapter."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import untrusted
from alignjax.models import config as model_config
from alignjax.models import model as models
from alignjax.models import transformer
from alignjax.models.adapters import adapt, lora, many, peft_format
from alignjax.models.checkpoints import folder as stored_models
from alignjax.sampling import generate, transforms
from alignjax.text import chat, chat_format

BASE = "base"  # the name of the weights without any adapter
ROWS_LIMIT = 10_000_000  # bytes of a file of rows


class Row(NamedTuple):
    """A prompt and the name of the adapter that answers it."""

    prompt: str
    adapter: str = BASE


def read_rows(path: str, names: Sequence[str]) -> list[Row]:
    """Rows of a JSONL file, {"prompt": ..., "adapter": ...}; without an adapter, the base's.

    Raises:
      ValueError: no such file, or a line of it is no row or names an unknown adapter.
    """
    file = pathlib.Path(path)
    if not file.is_file() or file.stat().st_size > ROWS_LIMIT:
        raise ValueError(f"--rows must be a file of at most {ROWS_LIMIT} bytes; got {path}.")
    rows = []
    for number, line in untrusted.read_lines(file, ROWS_LIMIT):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            fields = untrusted.parse_json(line, where)
        except untrusted.Refused:
            fields = None
        row = fields if isinstance(fields, dict) else {}
        prompt, name = row.get("prompt"), row.get("adapter", BASE)
        if not isinstance(prompt, str) or not prompt or not row.keys() <= {"prompt", "adapter"}:
            raise ValueError(
                f'a row must be an object with "prompt" and "adapter"; got {line:.80} ({where}).'
            )
        if name not in (BASE, *names):
            raise ValueError(
                f"a row's adapter must be one of {', '.join((BASE, *names))}; got {name!r:.80} "
                f"({where}). Name its folder with --adapters=NAME=FOLDER."
            )
        rows.append(Row(prompt, name))
    if not rows:
        raise ValueError(f"--rows must hold a row; got none ({path}).")
    return rows


def parse_adapters(text: str) -> dict[str, str]:
    """{name: folder} from "NAME=FOLDER,NAME=FOLDER".

    Raises:
      ValueError: an entry is none, or a name is repeated or that of the base.
    """
    folders: dict[str, str] = {}
    for entry in text.split(","):
        name, _, path = entry.partition("=")
        if not name or not path or name in folders or name == BASE:
            raise ValueError(
                "--adapters must be entries NAME=FOLDER with different names, none of them "
                f"{BASE}; got {entry!r:.80} (sample)."
            )
        folders[name] = path
    return folders


def sample(
    path: str,
    adapters: Mapping[str, str],
    rows: Sequence[Row],
    *,
    config: transforms.SamplingConfig,
    seed: int,
    template: str = "",
    pad: str = "",
    date: str = "",
    skip: str = "",
) -> list[str]:
    """The answer to every row by its adapter, sampled as one batch over one base.

    Args:
      path: a model folder or GGUF file, with its tokenizer. adapters: peft folders by name.
      template, pad, date: as in `chat_format.load_chat_format`. skip: as in `folder.open_model`.

    Raises:
      ValueError: the model, its tokenizer or an adapter is not to be read, or adapters can't be
        used at once.
    """
    opened = stored_models.open_model(path, skip=skip)
    form = chat_format.load_chat_format(
        path, template=template, pad=pad, date=date, rows=opened.config.vocab_size
    )
    base = opened.load()
    trees = [_read(name, folder, opened.config, base) for name, folder in adapters.items()]
    stacked = many.stack([jax.tree.map(jnp.zeros_like, trees[0]), *trees])
    numbers = {name: number for number, name in enumerate((BASE, *adapters))}
    ids = jnp.asarray([numbers[row.adapter] for row in rows], jnp.int32)
    bound = adapt.bind(many.select(stacked, ids), {"base": base})
    pad_id = form.eos_id if form.tokenizer.pad_id is None else form.pad_id  # masks go by lengths
    tokens, lengths = _prompts(form, rows, pad_id)
    run = generate.make_generate(
        transformer.transformer(opened.config), config, eos=form.ends, pad=pad_id
    )
    samples = jax.device_get(run(bound, tokens, lengths, jax.random.key(seed)))
    return [
        chat.sampled_text(form, tokens[start:end])
        for tokens, start, end in zip(
            samples.tokens, samples.prompt_lengths, samples.lengths, strict=True
        )
    ]


def _read(
    name: str, folder: str, config: model_config.TransformerConfig, base: models.Params
) -> models.Params:
    """The tree of a LoRA adapter from a peft folder."""
    kind, tree = peft_format.load(folder, config, base)
    if not isinstance(kind, lora.LoraConfig):
        raise ValueError(
            f"--adapters must be LoRA to be used at once; got {type(kind).__name__} for {name} "
            f"({folder}). Run it by itself."
        )
    return tree


def _prompts(
    form: chat_format.ChatFormat, rows: Sequence[Row], pad: int
) -> tuple[np.ndarray, np.ndarray]:
    """(prompts [B, P] padded on the right, lengths [B]); each ends in the assistant's marker."""
    prompts = [
        chat.encode_chat(form, [chat.Turn("human", row.prompt)], generation_prompt=True)[0]
        for row in rows
    ]
    lengths = np.array([len(ids) for ids in prompts], np.int32)
    tokens = np.full((len(rows), lengths.max()), pad, np.int32)
    for i, ids in enumerate(prompts):
        tokens[i, : len(ids)] = ids
    return tokens, lengths
