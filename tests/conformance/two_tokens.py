"""A model of two tokens with given log-probabilities: trainers that want logits run unchanged."""

import types
from typing import Any

import torch

TOKEN = 1  # every token of every text; 0 is the other one


def logits(logprobs: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """[B, T, 2]: position t - 1 gives token t the log-probability logprobs[:, t] where known.

    The other token gets the rest, so the gradient of log softmax with respect to logprobs is 1.
    """
    said = torch.where(known.bool(), logprobs, -torch.ones_like(logprobs))
    both = torch.stack([torch.log(-torch.expm1(said)), said], dim=-1)
    return torch.cat([both[:, 1:], both[:, :1]], dim=1)


class Model(torch.nn.Module):
    """Answers every call with these logits, cut to the length of its input."""

    is_gradient_checkpointing = False

    def __init__(self, logprobs: torch.Tensor, known: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits(logprobs, known)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return types.SimpleNamespace(logits=self.logits[:, : input_ids.shape[1]])


def accelerator() -> Any:
    """One process on the CPU."""
    return types.SimpleNamespace(
        device=torch.device("cpu"),
        process_index=0,
        use_distributed=False,
        gather_for_metrics=lambda x: x,
        gather=lambda x: x,
        pad_across_processes=lambda x, **_: x,
        reduce=lambda x, **_: x,
        unwrap_model=lambda model: model,
    )
