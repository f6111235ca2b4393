"""Open weights under several LoRA adapters at once: each row of a batch names its own."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
      ValueError: no such file, or a line of it is no row or names an adapter that is not given.
    """
    file = pathlib.Path(path)
    if not file.is_file() or file.stat().st_size > ROWS_LIMIT:
        raise ValueError(f"--rows must be a file of at most {ROWS_LIMIT} bytes; got {path}.")
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
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
        found.append(Row(prompt, name))
    if not found:
        raise ValueError(f"--rows must hold a row; got none ({path}).")
    return found


def parse_adapters(text: str) -> dict[str, str]:
    """{name: folder} from "NAME=FOLDER,NAME=FOLDER".

    Raises:
      ValueError: an entry is none, or a name stands twice or is that of the base.
    """
    found: dict[str, str] = {}
    for entry in text.split(","):
        name, _, path = entry.partition("=")
        if not name or not path or name in found or name == BASE:
            raise ValueError(
                "--adapters must be entries NAME=FOLDER with different names, none of them "
                f"{BASE}; got {entry!r:.80} (sample)."
            )
        found[name] = path
    return found


def sample(
    path: str,
    adapters: Mapping[str, str],
    rows: Sequence[Row],
    *,
    config: transforms.SamplingConfig,
    seed: int,
    template: str = "",
    pad: str = "",
) -> list[str]:
    """The answer to each row by its adapter, all drawn as one batch over one base.

    Args:
      path: a model folder or GGUF file, with its tokenizer. adapters: peft folders by name.
      template, pad: as in `chat_format.load_chat_format`.

    Raises:
      ValueError: the model, its tokenizer or an adapter is not to be read, or adapters can't be
        used at once.
    """
    opened = stored_models.open_model(path)
    form = chat_format.load_chat_format(path, template=template, pad=pad)
    base = opened.load()
    trees = [_read(name, folder, opened.config, base) for name, folder in adapters.items()]
    stacked = many.stack([jax.tree.map(jnp.zeros_like, trees[0]), *trees])
    numbers = {name: number for number, name in enumerate((BASE, *adapters))}
    ids = jnp.asarray([numbers[row.adapter] for row in rows], jnp.int32)
    bound = adapt.bind(many.select(stacked, ids), {"base": base})
    pad_id = form.eos_id if form.tokenizer.pad_id is None else form.pad_id  # masks go by lengths
    tokens, lengths = _asked(form, rows, pad_id)
    run = generate.make_generate(
        transformer.transformer(opened.config), config, eos=form.eos_id, pad=pad_id
    )
    drawn = jax.device_get(run(bound, tokens, lengths, jax.random.key(seed)))
    return [
        form.decode(int(i) for i in tokens[start:end])
        for tokens, start, end in zip(
            drawn.tokens, drawn.prompt_lengths, drawn.lengths, strict=True
        )
    ]


def _read(name: str, folder: str, config: Any, base: Any) -> Any:
    """A LoRA adapter of a peft folder."""
    kind, tree = peft_format.load(folder, config, base)
    if not isinstance(kind, lora.LoraConfig):
        raise ValueError(
            f"--adapters must be LoRA to be used at once; got {type(kind).__name__} for {name} "
            f"({folder}). Run it by itself."
        )
    return tree


def _asked(form: Any, rows: Sequence[Row], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [B, P] padded on the right, lengths [B]) up to where the assistant answers."""
    prompts = [
        chat.encode_chat(form, [chat.Turn("human", row.prompt)], generation_prompt=True)[0]
        for row in rows
    ]
    lengths = np.array([len(ids) for ids in prompts], np.int32)
    tokens = np.full((len(rows), lengths.max()), pad, np.int32)
    for i, ids in enumerate(prompts):
        tokens[i, : len(ids)] = ids
    return tokens, lengths
