"""One file of hvdclip has all private names of torch."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import optimizer as torchs

import hvdclip

LIBRARY = Path(hvdclip.__file__).parent
PRIVATE = re.compile(r"_[^_]\w*")


def private(*samples: object) -> set[str]:
    return {name for sample in samples for name in dir(sample) if PRIVATE.fullmatch(name)}


# of classes from which hvdclip's derive; what an Optimizer may have for a GradScaler is in none of torch's own
BASES = private(nn.BatchNorm1d(1), torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)) | {
    "_step_supports_amp_scaling"
}
TORCHS = BASES | private(torch.ones(1), torch.amp.GradScaler("cpu"), torchs)


def private_names(source: str) -> Iterator[str]:
    """Those of torch's that a source text uses; what it has defined under such a name is its own."""
    tree = ast.parse(source)
    own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)} - BASES
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            module = (getattr(node, "module", None) or "") + "."
            for name in (module * isinstance(node, ast.ImportFrom) + alias.name for alias in node.names):
                if name.startswith("torch.") and any(PRIVATE.fullmatch(part) for part in name.split(".")):
                    yield name
        elif isinstance(node, ast.Attribute) and PRIVATE.fullmatch(node.attr):
            whole = ast.unparse(node)
            if whole.startswith("torch.") or (node.attr in TORCHS and node.attr not in own):
                yield whole
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in BASES:
            yield node.value
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in BASES:
            yield node.id
        elif isinstance(node, ast.FunctionDef) and node.name in BASES:
            yield node.name


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("torch._foreach_add_(a, b)", ["torch._foreach_add_"]),
        ("from torch._utils import flatten", ["torch._utils.flatten"]),
        (
            "from torch.nn.modules.module import _global_forward_hooks",
            ["torch.nn.modules.module._global_forward_hooks"],
        ),
        ("import torch.utils._pytree", ["torch.utils._pytree"]),
        ("scaler._scale + model._buffers['mean'] + p._version", ["scaler._scale", "model._buffers", "p._version"]),
        ("getattr(module, '_modules')", ["_modules"]),
        ("class A:\n    _step_supports_amp_scaling = True", ["_step_supports_amp_scaling"]),
        ("class A(B):\n    def _check_input_dim(self): ...", ["_check_input_dim"]),
        ("self._buffers = 1\nself._buffers", []),
        ("from torch import nn\nself._mine(os._exit)", []),
    ],
)
def test_they_are_found(source, found):
    assert sorted(private_names(source)) == sorted(found)


def test_they_are_all_in_one_file():
    uses = {file: list(private_names(file.read_text())) for file in LIBRARY.rglob("*.py")}
    assert len(uses.pop(LIBRARY / "torch_private.py")) > 20
    assert not {str(file.relative_to(LIBRARY)): names for file, names in uses.items() if names}
