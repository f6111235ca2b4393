"""What recorders of torch code bases share: the tiny Llama of transformers and its state."""

from typing import Any

import numpy as np
import torch
import transformers

from tests.conformance import updates


def model(seed: int = 0) -> Any:
    """LlamaForCausalLM with `updates.weights(seed)`, fp32, on the CPU."""
    made = transformers.LlamaForCausalLM(config())
    tensors = {name: torch.tensor(x) for name, x in updates.weights(seed).items()}
    made.load_state_dict(tensors)
    return made


def config() -> Any:
    """Of that model."""
    shape: dict[str, Any] = dict(updates.SHAPE)
    rope = {"rope_type": "default", "rope_theta": shape.pop("rope_theta")}
    return transformers.LlamaConfig(
        **shape,
        rope_parameters=rope,
        pad_token_id=updates.PAD,
        eos_token_id=updates.EOS,
        bos_token_id=None,
        attn_implementation="eager",
    )


def params(made: Any) -> np.ndarray:
    """[n], its parameters now."""
    return updates.flat({k: x.detach().numpy().copy() for k, x in made.named_parameters()})


def old_logprobs(made: Any) -> np.ndarray:
    """[6, 6], of the answers' tokens, 0 behind them: row by row, without padding."""
    given = updates.samples()
    found = np.zeros(updates.mask().shape, np.float32)
    for row, answer in enumerate(given["answers"]):
        prompt = given["prompts"][row // updates.SAMPLES]
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            logprobs = torch.log_softmax(made(ids).logits[0, :-1], dim=-1)
        each = logprobs[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
        found[row, : len(answer)] = each[len(prompt) - 1 :].numpy()
    return found
