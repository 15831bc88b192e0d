"""The module whose parameters are in a vector: their names, and whether it still has them."""

from __future__ import annotations

from torch import Tensor, nn

SHOWN = 3


class Owner:
    """A module as it was when the vector was made; None if only parameters are known."""

    def __init__(self, module: nn.Module | None = None):
        self.module = module
        self._parameters = [] if module is None else list(module.named_parameters())
        self._names = {id(p): name for name, p in self._parameters}

    def name(self, parameter: Tensor) -> str:
        """The parameter's name in the module; "" if the module did not have it."""
        return self._names.get(id(parameter), "")

    def check_kept(self) -> None:
        """Raise RuntimeError if the module has replaced some of the parameters that it had.

        The new ones would not be trained, and nothing would show it: the old ones just get no gradients any more.
        """
        if self.module is None:
            return
        now = {id(p) for p in self.module.parameters()}
        gone = [name for name, p in self._parameters if id(p) not in now]
        if gone and not now <= self._names.keys():
            names = ", ".join(gone[:SHOWN]) + (f" and {len(gone) - SHOWN} more" if len(gone) > SHOWN else "")
            raise RuntimeError(
                f"parameters of the model were replaced after the optimizer was made: {names}; the optimizer has the "
                "old ones: use load_state_dict without assign=True, or change layers before hvdclip.optimizer(...)"
            )
