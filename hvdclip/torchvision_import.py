"""Lets `import torchvision` succeed beside a torch without CUDA.

torchvision's wheel is built for CUDA. Beside another torch its C++ operators cannot be loaded, and it leaves them out;
but its import then fails, since it registers shapes for two of them. So these two are declared, without an
implementation, at the moment when torchvision is imported: a program that does not import it pays nothing.

Only sys is imported here: jobs/setup.sh copies this file into .venv, where each Python imports it when it starts.
"""

import sys


class MissingOperators:
    """A finder that finds nothing: it declares the operators when torchvision is about to register their shapes."""

    library: object = None  # torch forgets the operators with it

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "torchvision._meta_registrations" and self.library is None:
            self.declare()

    def declare(self) -> None:
        if sys.modules["torchvision.extension"]._has_ops():
            return
        from torch.library import Library

        self.library = library = Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


# that of the copy in .venv may be there
if not any(type(finder).__name__ == MissingOperators.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, MissingOperators())
