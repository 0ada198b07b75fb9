"""Weights for tests: none is zero or one, since such weights hide errors."""

import torch
from torch import nn


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw weights, biases and running statistics anew, of a size that keeps signals near one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(generator=generator)
            if parameter.dim() > 1:
                parameter.mul_(parameter[0].numel() ** -0.5)
            elif name.endswith("weight"):
                parameter.mul_(0.3).add_(1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
