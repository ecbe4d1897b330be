"""Optimizers that torch does not have, of the CIFAR-10 speed records: a rate each for filters, matrices and biases."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.sgd import sgd

from cifar_lit.errors import UserError, check_not_negative
from cifar_lit.newton_schulz import EPSILON, orthogonalize_all
from cifar_lit.parameter_kinds import groups_by_kind, is_filters


def made(make: Callable[[list[dict[str, Any]]], Optimizer], groups: list[dict[str, Any]]) -> Optimizer:
    """An optimizer of groups of parameters.

    Raises:
        UserError: It refuses its settings, or parameters such as these.
    """
    try:
        return make(groups)
    except ValueError as error:
        raise UserError(f"The optimizer cannot be made ({error}): give other settings, or another one.") from error


def begin_momentum(optimizer: Optimizer) -> None:
    """Gives torch's fused SGD a momentum of zeros before its first step, which then does the same; others are left.

    Its own is what memory held, if gradients overflow in that step, and no parameter may get a first gradient later.
    """
    for group in optimizer.param_groups if isinstance(optimizer, SGD) else ():
        if group["fused"] and group["momentum"] and not group["dampening"]:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


class NesterovSGD(SGD):
    """SGD with Nesterov momentum of 0.9 and a weight decay of 5e-4: what a model is trained with unless told otherwise.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.1) -> None:
        super().__init__(params, lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)


class _SplitsGroups(Optimizer):
    """Splits every group of parameters by their kinds: see `cifar_lit.parameter_kinds`."""

    # Of each kind, as `groups_by_kind` takes them.
    _settings: tuple[Any, ...]

    def _by_kind(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        return groups_by_kind(group, *self._settings)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, or one for each kind of its parameters; its own rate and decay are as those in ``params``."""
        for group in self._by_kind(param_group):
            super().add_param_group(group)

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, which groups may be added to, too."""
        return {**super().__getstate__(), "_settings": self._settings}


class MuonSGD(_SplitsGroups):
    """Muon for the filters of convolutions, SGD with Nesterov momentum for everything else.

    The filters of a layer are the rows of a matrix. Their update is the momentum with its singular values brought near
    1, so that rare directions are learnt as fast as frequent ones. Before it the matrix is scaled to a Frobenius norm
    of √rows: the rate is relative to the weights, which need no decay (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/, in the form that set the CIFAR-10 record).

    Args:
        params: Parameters, or groups of them, whose own ``lr`` and, but for filters, ``weight_decay`` go before those
            below.
        lr: Learning rate of filters: see `cifar_lit.parameter_kinds`.
        momentum: Of filters, in [0, 1).
        steps: Of the iteration that orthogonalises.
        head_lr: Learning rate of matrices.
        bias_lr: Learning rate of biases, scales and norms.
        sgd_momentum: Of matrices and biases, in [0, 1).
        weight_decay: Of matrices and biases, not multiplied by their peak learning rate: a rate can be changed alone.

    Raises:
        UserError: An argument is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.24,
        momentum: float = 0.6,
        steps: int = 3,
        head_lr: float = 0.1,
        bias_lr: float = 0.1,
        sgd_momentum: float = 0.85,
        weight_decay: float = 0.0,
    ) -> None:
        check_not_negative(lr=lr, head_lr=head_lr, bias_lr=bias_lr, weight_decay=weight_decay, steps=steps)
        _check_momentum(momentum=momentum, sgd_momentum=sgd_momentum)
        rest = {"momentum": sgd_momentum, "weight_decay": weight_decay}
        filters = {"lr": lr, "momentum": momentum, "weight_decay": 0.0}
        self._settings = {**rest, "lr": bias_lr}, {**rest, "lr": head_lr}, filters
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "steps": steps})

    def _by_kind(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        groups = super()._by_kind(group)
        for of_kind in groups:
            if is_filters(of_kind["params"][0], of_kind):
                of_kind["weight_decay"] = 0.0
        return groups

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the parameters that have a gradient.

        Args:
            closure: Computes gradients and returns the loss.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            others: list[Tensor] = []
            filters: list[Tensor] = []
            for parameter in parameters:
                (filters if is_filters(parameter, group) else others).append(parameter)
            self._update_others(others, group)
            self._update_filters(filters, group)
        return loss

    def _update_filters(self, filters: list[Tensor], group: dict[str, Any]) -> None:
        """Muon's update, of all filters in few calls: on a GPU they are what a step costs."""
        if not filters:
            return
        gradients = [parameter.grad for parameter in filters if parameter.grad is not None]
        buffers = self._momentum_buffers(filters)
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        ahead = torch._foreach_add(gradients, buffers, alpha=group["momentum"])
        # Channels last, as filters lie in memory; the order of columns does not matter.
        moved = [one.movedim(1, -1) for one in ahead]
        orthogonal = orthogonalize_all([one.flatten(1) for one in moved], group["steps"])
        # In the filters' order in memory all are added in one go.
        updates = [one.view(like.shape).movedim(-1, 1) for one, like in zip(orthogonal, moved, strict=True)]
        norms, lengths = torch._foreach_norm(filters), [len(parameter) ** 0.5 for parameter in filters]
        torch._foreach_clamp_min_(norms, EPSILON)
        if any(parameter.dtype == torch.float16 for parameter in filters):
            # It ends at 65,504, which the inverse of a small norm goes beyond.
            torch._foreach_div_(filters, norms)
            torch._foreach_mul_(filters, lengths)
        else:
            torch._foreach_reciprocal_(norms)
            torch._foreach_mul_(norms, lengths)
            torch._foreach_mul_(filters, norms)
        torch._foreach_add_(filters, updates, alpha=-group["lr"])

    def _update_others(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        sgd(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [*self._momentum_buffers(parameters)],
            fused=all(parameter.device.type in ("cpu", "cuda", "mps") for parameter in parameters) or None,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0,
            nesterov=True,
            maximize=False,
        )

    def _momentum_buffers(self, parameters: list[Tensor]) -> list[Tensor]:
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
        return [state["momentum_buffer"] for state in states]


class DecoupledSGD(_SplitsGroups, SGD):
    """SGD with Nesterov momentum, each of whose settings does one thing.

    Rate and decay are those of all the steps together in which momentum uses a gradient, so that momentum changes
    neither; the rate does not change the decay. Biases learn faster than weights at the same decay (Page 2018,
    https://myrtle.ai/learn/how-to-train-your-resnet-5-hyperparameters/; Jordan 2024, arXiv:2404.00498, listing 4).

    Args:
        params: Parameters, or groups of them, whose own ``lr`` and ``weight_decay`` go before those below.
        lr: Learning rate for batches of 1,024; for others in proportion.
        momentum: In [0, 1).
        weight_decay: Not multiplied by the peak learning rate, for batches of 1,024; for others in proportion.
        bias_scaler: What the learning rate of biases, scales and norms is multiplied by. `SpeedNet`'s whitening bias is
            one of them, which has the rate of weights in listing 4.

    Raises:
        UserError: An argument is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 11.5,
        momentum: float = 0.85,
        weight_decay: float = 0.0153,
        bias_scaler: float = 64.0,
    ) -> None:
        check_not_negative(lr=lr, weight_decay=weight_decay, bias_scaler=bias_scaler)
        _check_momentum(momentum=momentum)
        # As published. The steps add up to 1 / (1 - momentum), which would do.
        unit = 1 + 1 / (1 - momentum)
        weights = {"lr": lr, "weight_decay": weight_decay}
        biases = {**weights, "lr": lr * bias_scaler}
        self._settings = biases, weights, weights, unit
        super().__init__(params, lr=lr / unit, momentum=momentum, nesterov=momentum > 0, fused=True)


def _check_momentum(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value < 1:
            raise UserError(f"{name} is {value}: give a number from 0 up to, but not, 1.")
