"""A decoder-only transformer: GPT-2 (Radford et al. 2019), with learned or rotary positions (Su et al. 2021)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .lstm import check_range, check_sizes

SCALE = 0.02  # deviation of GPT-2's initial weights


class GPT(nn.Module):
    """A language model without a state: it reads (batch, time) tokens at once; the defaults are GPT-2's 124 M.

    `context` is the longest sequence, for learned positions. The embedding matrix is also the output's. `dropout`
    applies to the embeddings, to attention and to what each branch adds. With `checkpointing` the activations inside a
    block are computed again in the backward pass instead of stored. ValueError for a setting out of range.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int = 1024,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        positions: Literal["learned", "rotary"] = "learned",
        dropout: float = 0.0,
        checkpointing: bool = False,
    ):
        check_sizes(vocabulary=vocabulary, context=context, width=width, layers=layers, heads=heads)
        check_range(1, dropout=dropout)
        if width % heads:
            raise ValueError(f"heads={heads}, width={width}: heads must divide width")
        if positions == "rotary" and width // heads % 2:
            raise ValueError(f"heads={heads}, width={width}: width / heads must be even for rotary positions")
        super().__init__()
        self.context, self.checkpointing = context, checkpointing
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width) if positions == "learned" else None
        self.dropout = nn.Dropout(dropout)
        self.angles = width // heads // 2 if positions == "rotary" else 0
        blocks = [Block(width, heads, dropout) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=SCALE)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for block in blocks:  # so that the sum of all branches has the same size for any number of layers
            for end in block.ends:
                nn.init.normal_(end.weight, std=SCALE / (2 * layers) ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (batch, time) -> logits (batch, time, vocabulary); ValueError for more time steps than positions."""
        x = self.tokens(tokens)
        if self.positions is not None:
            if tokens.shape[1] > self.context:
                raise ValueError(f"a sequence of {tokens.shape[1]} tokens; allowed: up to context, {self.context}")
            x = x + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        x, turns = self.dropout(x), turns_of(tokens, self.angles) if self.angles else None
        for block in self.blocks:
            again = self.checkpointing and self.training
            x = checkpoint(block, x, turns, use_reentrant=False) if again else block(x, turns)
        return F.linear(self.norm(x), self.tokens.weight)


class Block(nn.Module):
    """Attention, then an MLP, each on normalised inputs and added to what comes in."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.norm_mlp = nn.LayerNorm(width)
        gelu = nn.GELU(approximate="tanh")
        wide, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(wide, gelu, narrow, nn.Dropout(dropout))
        self.ends = self.attention.out, narrow  # the last matrices of both branches

    def forward(self, x: Tensor, turns: Tensor | None) -> Tensor:
        x = x + self.attention(self.norm_attention(x), turns)
        return x + self.mlp(self.norm_mlp(x))


class Attention(nn.Module):
    """Causal attention of several heads."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, turns: Tensor | None) -> Tensor:
        # three of (batch, heads, time, width / heads)
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if turns is not None:
            query, key = rotated(query, turns), rotated(key, turns)
        rate = self.dropout.p if self.training else 0.0
        heads = F.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
        return self.dropout(self.out(heads.transpose(1, 2).flatten(2)))


def turns_of(tokens: Tensor, angles: int) -> Tensor:
    """Cosines and sines (2, time, angles) of t / 10000^(k/angles), the angle k at time t."""
    frequencies = 10_000 ** -(torch.arange(angles, device=tokens.device) / angles)
    turned = torch.arange(tokens.shape[1], device=tokens.device)[:, None] * frequencies
    return torch.stack([turned.cos(), turned.sin()])


def rotated(x: Tensor, turns: Tensor) -> Tensor:
    """(..., time, 2 angles): the pairs (x_k, x_{k + angles}) rotated by their angles."""
    cos, sin = turns.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
