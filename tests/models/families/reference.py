"""The reference side, torch and transformers only: random models, and what they compute.

As a program it serves the live comparison: it reads a list of jobs, as JSON, from its input.
"""

import copy
import importlib.metadata
import json
import pathlib
import shutil
import sys
import tempfile
from typing import Any

import numpy as np
import safetensors.numpy
import torch
import transformers

LENGTH = 19  # tokens of the prompt, beyond every window
ROWS = (13, 7, 10)  # tokens of the rows of padded batches
COMPOSITES = ("gemma3", "gemma4", "llama4", "mistral3", "qwen3_5", "qwen3_5_moe")  # of images too
SEEING = (
    *("vision_tower.", "vision_model.", "multi_modal_projector.", "model.visual."),
    *(f"model.{part}." for part in ("vision_tower", "embed_vision", "audio_tower", "embed_audio")),
)
STILL = ("e_score_correction_bias", "layer_scalar")  # stored, and not trained by a gradient


def versions() -> dict[str, str]:
    """Of the packages that compute here."""
    return {
        name: importlib.metadata.version(name).split("+")[0] for name in ("torch", "transformers")
    }


def make(kind: str, fields: dict[str, Any], seed: int) -> Any:
    """A causal model of a family with its own initialisation, spread until logits differ by nats.

    Norms and biases, which start as constants, are made random too.
    """
    torch.manual_seed(seed)
    spread = {"initializer_range": 0.25}
    if "text_config" in fields:
        fields = {**fields, "text_config": {**spread, **fields["text_config"]}}
    config = transformers.AutoConfig.for_model(kind, **{**spread, **fields})
    model = _auto(kind).from_config(
        config, attn_implementation="eager", experts_implementation="eager", dtype=torch.float32
    )
    with torch.no_grad():
        for weight in [*model.parameters(), *_still(model)]:
            if weight.ndim == 1:
                weight += 0.3 * torch.randn_like(weight)
    return model.eval()


def _auto(kind: str) -> Any:
    if kind in COMPOSITES:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def _still(model: Any) -> list[Any]:
    """The biases that choose experts, and factors of layers."""
    return [x for name, x in model.named_buffers() if name.endswith(STILL)]


def prompts(vocab: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """(one prompt, the rows of the padded batches).

    The pad id 0 occurs within rows; not in the prompt, for torch gives its embedding no gradient.
    """
    rng = np.random.default_rng(seed)
    prompt = rng.integers(1, vocab, LENGTH)
    rows = [rng.integers(0, vocab, length) for length in ROWS]
    for row in rows:
        row[-1] = rng.integers(1, vocab)  # transformers finds a row's end by the pad id
    return prompt, rows


def padded(rows: list[np.ndarray], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, attention mask) of rows of several lengths."""
    width = max(map(len, rows))
    tokens, mask = (np.zeros((len(rows), width), np.int64) for _ in range(2))
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        tokens[i, at], mask[i, at] = row, 1
    return torch.tensor(tokens), torch.tensor(mask)


def computed(model: Any, seed: int) -> dict[str, np.ndarray]:
    """Logits of a prompt and of padded rows, the prompt's mean cross entropy and its gradients."""
    text = model.config.get_text_config()
    prompt, rows = prompts(text.vocab_size, seed)
    tokens = torch.tensor(prompt)[None]
    model.zero_grad()
    logits = model(tokens, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:])
    loss.backward()
    found = {
        "prompt": prompt,
        "logits": logits[0].detach().numpy(),
        "loss": loss.detach().numpy(),
        **{f"gradient/{n}": x for n, x in tensors(gradient_of(model)).items()},
    }
    for side in ("left", "right"):
        tokens, mask = padded(rows, left=side == "left")
        with torch.no_grad():
            # No position ids: on the left they count the padding, which must not matter.
            out = model(tokens, attention_mask=mask, use_cache=False).logits
        for i, row in enumerate(rows):
            found[f"row/{i}"] = row
            found[f"{side}/{i}"] = out[i][mask[i].bool()].numpy()
            moved = side == "left" and any(
                getattr(text, name, False) for name in ("attn_temperature_tuning", "conv_bias")
            )
            if moved or turned(text):
                # This version scales queries by the slot, which padding moves, convolves the biases
                # of padding, and turns all rows by the longest one: the row alone is right.
                found[f"{side}/{i}"] = alone(model, row)
    for i, row in enumerate([prompt, *rows] if turned(text) else []):
        found[f"cached/{i}"] = decoded(model, row)
    return found


def turned(text: Any) -> bool:
    """Whether positions turn by the length of a row."""
    return (text.rope_parameters or {}).get("rope_type") in ("dynamic", "longrope")


def anew(model: Any) -> None:
    """Forgets the longest row that was seen, by which later ones would turn."""
    for part in model.modules():
        if hasattr(part, "original_inv_freq"):
            part.inv_freq = part.original_inv_freq.clone()
            part.max_seq_len_cached = part.original_max_seq_len


def alone(model: Any, row: np.ndarray) -> np.ndarray:
    """Logits of a row by itself."""
    anew(model)
    with torch.no_grad():
        return model(torch.tensor(row)[None], use_cache=False).logits[0].numpy()


def decoded(model: Any, row: np.ndarray) -> np.ndarray:
    """The same by a cache, as `golden.decoded_error` reads it: some tokens at once, then one by
    one."""
    anew(model)
    first, cache, found = max(len(row) - 14, 1), None, []
    with torch.no_grad():
        for start, stop in [(0, first), *((n, n + 1) for n in range(first, len(row)))]:
            tokens = torch.tensor(row[start:stop])[None]
            out = model(tokens, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits[0].numpy())
    return np.concatenate(found)


def gradient_of(model: Any) -> Any:
    """A copy of the model whose weights are their gradients, 0 where nothing came."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for weight, own in zip(copied.parameters(), model.parameters(), strict=True):
            weight.copy_(torch.zeros_like(own) if own.grad is None else own.grad)
        for still in _still(copied):
            still.zero_()
    return copied


def tensors(model: Any) -> dict[str, np.ndarray]:
    """The model's tensors under the names of `save_pretrained`, which cuts experts apart; of a
    model of text and images those of its text part, as one of text alone names them."""
    with tempfile.TemporaryDirectory() as made:
        model.save_pretrained(made)
        found = safetensors.numpy.load_file(f"{made}/model.safetensors")
    return {
        name.removeprefix("language_model.").replace("model.language_model.", "model.", 1): x
        for name, x in found.items()
        if not name.startswith(SEEING)
    }


def record(model: Any, folder: pathlib.Path, seed: int) -> None:
    """The model as transformers saves it, beside what it computes."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(
        folder / "computed.npz",
        versions=np.array(json.dumps(versions())),
        **computed(model, seed),
    )


def scored(model: Any, seed: int) -> Any:
    """The model's body under a random head that scores sequences."""
    torch.manual_seed(1000 + seed)
    fields = {k: v for k, v in model.config.to_dict().items() if k not in ("id2label", "label2id")}
    config = transformers.AutoConfig.for_model(**fields, num_labels=1)
    head = transformers.AutoModelForSequenceClassification.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    missing, more = head.model.load_state_dict(model.model.state_dict(), strict=False)
    assert not [*missing, *more]
    return head.eval()


def record_scores(
    head: Any, folder: pathlib.Path, seed: int, whole: pathlib.Path | None = None
) -> None:
    """The head's weight and scores of ragged rows; the whole folder where `whole` is given."""
    _, rows = prompts(head.config.vocab_size, seed)
    weight = head.score.weight.detach().numpy()
    np.savez_compressed(folder / "scores.npz", weight=weight, scores=scores_of(head, rows))
    if whole is not None:
        shutil.rmtree(whole, ignore_errors=True)
        head.save_pretrained(whole)


def scores_of(head: Any, rows: list[np.ndarray]) -> np.ndarray:
    """[B] of rows padded on the right."""
    tokens, mask = padded(rows, left=False)
    with torch.no_grad():
        return head(tokens, attention_mask=mask, use_cache=False).logits[:, 0].numpy()


def load(kind: Any, folder: str) -> Any:
    """A folder as transformers loads it; anything that it misses or adds is an error."""
    model, report = kind.from_pretrained(
        folder,
        attn_implementation="eager",
        experts_implementation="eager",
        dtype=torch.float32,
        output_loading_info=True,
    )
    assert not any(report.values()), report
    for weight in model.parameters():  # products round by where their inputs lie in a file's memory
        weight.data = weight.data.clone()
    return model.eval()


def job(command: str, *argv: Any) -> None:
    """make KIND FIELDS SEED FOLDER: a new model. load FOLDER SEED OUT: what a folder computes.
    score FOLDER ROWS OUT: the scores of rows."""
    if command == "make":
        kind, fields, seed, folder = argv
        record(make(kind, fields, seed), pathlib.Path(folder), seed)
    elif command == "load":
        folder, seed, out = argv
        model = load(transformers.AutoModelForCausalLM, folder)
        state = {f"tensor/{n}": x for n, x in tensors(model).items()}
        np.savez(out, **computed(model, seed), **state)
    else:
        folder, rows, out = argv
        head = load(transformers.AutoModelForSequenceClassification, folder)
        np.savez(out, scores=scores_of(head, [np.array(row) for row in rows]))


if __name__ == "__main__":
    for argv in json.load(sys.stdin):
        job(*argv)
