"""A small noisy quadratic that differs from rank to rank, for PyTorch; its numbers for NumPy."""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

SHAPES = ((3, 2), (4,))
SIZE = sum(int(np.prod(shape)) for shape in SHAPES)


@functools.cache
def drawn(shape: tuple[int, ...], *key: int) -> np.ndarray:
    """The same numbers for the same key; nobody changes them."""
    return np.random.default_rng(key).normal(size=shape)


@dataclass(frozen=True)
class Quadratic:
    """Rank i's gradient at x in step t (from 0) is A_i x - b_i + noise_it."""

    ranks: int
    seed: int = 0
    noise: float = 0.5
    spread: float = 1.0

    def matrix(self, rank: int) -> np.ndarray:
        m = drawn((SIZE, SIZE), self.seed, 1, rank)
        return m @ m.T / SIZE + 0.1 * np.eye(SIZE)

    def vector(self, rank: int) -> np.ndarray:
        return self.spread * drawn((SIZE,), self.seed, 2, rank)

    def draw(self, rank: int, step: int) -> np.ndarray:
        return self.noise * drawn((SIZE,), self.seed, 3, rank, step)

    def start(self) -> np.ndarray:
        return drawn((SIZE,), self.seed, 4).copy()

    def gradient(self, rank: int, step: int, x: np.ndarray) -> np.ndarray:
        return self.matrix(rank) @ x - self.vector(rank) + self.draw(rank, step)


class Model(nn.Module):
    """Parameters of the given shapes, set to x."""

    def __init__(self, x: np.ndarray, dtype: torch.dtype = torch.float64):
        super().__init__()
        pieces = np.split(x, np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1])
        self.weights = nn.ParameterList(
            nn.Parameter(torch.tensor(piece, dtype=dtype).view(shape))
            for piece, shape in zip(pieces, SHAPES, strict=True)
        )

    def forward(self) -> Tensor:
        return torch.cat([weight.flatten() for weight in self.weights])


def loss(problem: Quadratic, rank: int, step: int, model: Model) -> Tensor:
    """A loss whose gradient is the problem's."""
    x = model()
    a = torch.tensor(problem.matrix(rank), dtype=x.dtype)
    linear = torch.tensor(problem.draw(rank, step) - problem.vector(rank), dtype=x.dtype)
    return x @ a @ x / 2 + linear @ x


def parameters(model: Model) -> np.ndarray:
    return model().detach().numpy().copy()
