"""The module whose parameters lie in a vector: their names, and whether it still has them."""

from __future__ import annotations

from torch import Tensor, nn

SHOWN = 3


class Owner:
    """A module as it was when the vector was made; None where only parameters are known."""

    def __init__(self, module: nn.Module | None = None):
        self.module = module
        self._parameters = [] if module is None else list(module.named_parameters())
        self._names = {id(p): name for name, p in self._parameters}

    def name(self, parameter: Tensor) -> str:
        """Its name in the module; "" for one that the module has not had."""
        return self._names.get(id(parameter), "")

    def check_kept(self) -> None:
        """Raise RuntimeError where the module has other parameters now in place of some that it had.

        They would not be trained, and nobody would say so: those of before just have no gradients any more.
        """
        if self.module is None:
            return
        now = {id(p) for p in self.module.parameters()}
        gone = [name for name, p in self._parameters if id(p) not in now]
        if gone and not now <= self._names.keys():
            names = ", ".join(gone[:SHOWN]) + (f" and {len(gone) - SHOWN} more" if len(gone) > SHOWN else "")
            raise RuntimeError(
                f"parameters of the model were replaced after the optimizer was made: {names}; it holds the old ones: "
                "load_state_dict without assign=True, or change layers before hvdclip.optimizer(...)"
            )
