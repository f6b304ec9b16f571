"""Steps of training: Muon for matrices, AdamW for the rest, on float32 copies of the bfloat16 weights; knows no model and no data.

Muon turns a matrix's averaged gradient into the nearest orthogonal one before it steps; the 0.2 · √(larger side) makes such a step as long
as AdamW's (Liu et al., 2025), so that both share a rate and a decay. Matrices of one shape are turned together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch

Tensor = torch.Tensor

MOMENTUM = 0.95
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.05
CLIP_NORM = 1.0
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Optimizer:
    """For one model's parameters, which keep their own precision and are written after each step."""

    def __init__(self, named: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
        self._groups: dict[tuple[int, int], list[torch.nn.Parameter]] = defaultdict(list)
        self._others: list[torch.nn.Parameter] = []
        for name, parameter in named:
            is_matrix = parameter.ndim >= 2 and not any(part in name for part in ("embed_tokens", "gate.weight"))
            if is_matrix:
                self._groups[parameter.shape[-2], parameter.shape[-1]].append(parameter)
            else:
                self._others.append(parameter)
        self._matrices = {shape: _stack([p.detach().float() for p in group]) for shape, group in self._groups.items()}
        self._momenta = {shape: torch.zeros_like(masters) for shape, masters in self._matrices.items()}
        self._masters = [torch.nn.Parameter(p.detach().float().clone()) for p in self._others]
        decayed = [m for m in self._masters if m.ndim >= 2]
        plain = [m for m in self._masters if m.ndim < 2]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
        fused = self._masters[0].is_cuda
        self._adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=BETAS, fused=fused)

    @torch.no_grad()
    def step(self, rate: float) -> Tensor:
        """With the gradients that the parameters have, which are then dropped. Returns the gradients' norm."""
        parameters = [p for group in self._groups.values() for p in group] + self._others
        for parameter in parameters:
            if parameter.grad is None:  # a step without pictures leaves the tower out
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm([g.float() for g in gradients])))
        scale = (CLIP_NORM / (norm + 1e-6)).clamp(max=1.0)
        for (rows, columns), group in self._groups.items():
            gradient = _stack([p.grad for p in group if p.grad is not None]).float() * scale
            momentum = self._momenta[rows, columns]
            momentum.lerp_(gradient, 1 - MOMENTUM)
            update = orthogonalized(gradient.lerp(momentum, MOMENTUM))
            masters = self._matrices[rows, columns]
            masters.mul_(1 - rate * WEIGHT_DECAY).sub_(update, alpha=rate * 0.2 * max(rows, columns) ** 0.5)
        for master, parameter in zip(self._masters, self._others, strict=True):
            assert parameter.grad is not None
            master.grad = parameter.grad.float() * scale
        for options in self._adam.param_groups:
            options["lr"] = rate
        self._adam.step()
        self._write()
        for parameter in parameters:
            parameter.grad = None
        return norm

    def _write(self) -> None:
        """The float32 copies into the parameters, in these' own precision."""
        for (rows, columns), group in self._groups.items():
            split = self._matrices[rows, columns].split([p.numel() // (rows * columns) for p in group])
            torch._foreach_copy_([p.data for p in group], [part.view_as(p) for part, p in zip(split, group, strict=True)])
        torch._foreach_copy_([p.data for p in self._others], [m.data for m in self._masters])

    def state(self) -> dict[str, Tensor]:
        """Everything that a later run needs to go on."""
        found = {f"matrix {name}": masters for name, masters in self._by_shape(self._matrices)}
        found |= {f"momentum {name}": momenta for name, momenta in self._by_shape(self._momenta)}
        for i, master in enumerate(self._masters):
            found[f"master {i}"] = master.data
            found |= {f"adam {i} {name}": value for name, value in self._adam.state[master].items()}
        return found

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """What `state` gave; the parameters become those of then."""
        for kind, tensors in (("matrix", self._matrices), ("momentum", self._momenta)):
            for name, tensor in self._by_shape(tensors):
                tensor.copy_(state[f"{kind} {name}"])
        for i, master in enumerate(self._masters):
            master.data.copy_(state[f"master {i}"])
            begin = f"adam {i} "
            self._adam.state[master] = {name.removeprefix(begin): value.clone() for name, value in state.items() if name.startswith(begin)}
        self._write()

    @staticmethod
    def _by_shape(tensors: Mapping[tuple[int, int], Tensor]) -> list[tuple[str, Tensor]]:
        return [(f"{rows} {columns}", tensor) for (rows, columns), tensor in tensors.items()]


def _stack(tensors: list[Tensor]) -> Tensor:
    """Matrices, and stacks of experts' matrices, as one stack."""
    return torch.cat([t.reshape(-1, *t.shape[-2:]) for t in tensors])


def orthogonalized(matrices: Tensor) -> Tensor:
    """[n, rows, columns] → the same with all singular values near 1, by Newton and Schulz's iteration."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    turned = x.shape[1] > x.shape[2]
    if turned:
        x = x.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        product = x @ x.mT
        x = a * x + (b * product + c * product @ product) @ x
    return (x.mT if turned else x).float()
