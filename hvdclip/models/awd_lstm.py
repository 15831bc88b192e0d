"""The AWD-LSTM of Merity, Keskar and Socher, "Regularizing and Optimizing LSTM Language Models" (ICLR 2018)."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .lstm import check_range, check_sizes

LayerState = tuple[Tensor, Tensor]


class AWDLSTM(nn.Module):
    """The word-level LSTM language model on which the local-clipping papers report PTB and WikiText-2.

    Dropout rates: `dropout` on the last layer's output, `dropout_hidden` between the layers, `dropout_input` on the
    embeddings (all three locked: one mask for all time steps), `dropout_embedding` of whole words, `weight_drop` of
    recurrent weights. `alpha` and `beta` weigh the penalties on the size of the last layer's output (AR) and on its
    change over time (TAR). With `tied` the embedding matrix is also the decoder's. ValueError for a setting out of
    range.
    """

    def __init__(
        self,
        vocabulary: int,
        embedding: int = 400,
        hidden: int = 1150,
        layers: int = 3,
        dropout: float = 0.4,
        dropout_hidden: float = 0.25,
        dropout_input: float = 0.4,
        dropout_embedding: float = 0.1,
        weight_drop: float = 0.5,
        alpha: float = 2.0,
        beta: float = 1.0,
        tied: bool = True,
    ):
        check_sizes(vocabulary=vocabulary, embedding=embedding, hidden=hidden, layers=layers)
        check_range(1, dropout=dropout, dropout_hidden=dropout_hidden, dropout_input=dropout_input)
        check_range(1, dropout_embedding=dropout_embedding, weight_drop=weight_drop)
        check_range(math.inf, alpha=alpha, beta=beta)
        super().__init__()
        self.dropout, self.dropout_hidden, self.dropout_input = dropout, dropout_hidden, dropout_input
        self.dropout_embedding, self.alpha, self.beta = dropout_embedding, alpha, beta
        sizes = [embedding] + [hidden] * (layers - 1) + [embedding if tied else hidden]
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.layers = nn.ModuleList(WeightDropLSTM(*pair, weight_drop) for pair in pairwise(sizes))
        self.sizes = sizes[1:]
        self.decoder = nn.Linear(sizes[-1], vocabulary)
        if tied:
            self.decoder.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def initial_state(self, batch: int) -> tuple[LayerState, ...]:
        """Zeros (1, batch, size) for each layer's hidden and cell state, on the model's device and in its dtype."""
        zeros = self.embedding.weight.new_zeros
        return tuple((zeros(1, batch, size), zeros(1, batch, size)) for size in self.sizes)

    def forward(self, tokens: Tensor, state: tuple[LayerState, ...]) -> tuple[Tensor, tuple[LayerState, ...], Tensor]:
        """tokens (time, batch) -> logits (time, batch, vocabulary), the state after them, AR + TAR (0 in eval mode)."""
        output = self._locked(self._embed(tokens), self.dropout_input)
        states = []
        for number, layer in enumerate(self.layers):
            if number > 0:
                output = self._locked(output, self.dropout_hidden)
            output, layer_state = layer(output, state[number])
            states.append(layer_state)
        dropped = self._locked(output, self.dropout)
        return self.decoder(dropped), tuple(states), self._penalty(output, dropped)

    def _embed(self, tokens: Tensor) -> Tensor:
        weight = self.embedding.weight
        kept = F.dropout(weight.new_ones(len(weight), 1), self.dropout_embedding, self.training)
        # Masking the rows that were looked up avoids a masked copy of the whole matrix.
        return F.embedding(tokens, weight) * F.embedding(tokens, kept)

    def _locked(self, inputs: Tensor, rate: float) -> Tensor:
        return inputs * F.dropout(inputs.new_ones(1, *inputs.shape[1:]), rate, self.training)

    def _penalty(self, output: Tensor, dropped: Tensor) -> Tensor:
        if not self.training:
            return output.new_zeros(())
        penalty = self.alpha * dropped.square().mean()
        if len(output) > 1:  # the mean over no change at all would be NaN
            penalty = penalty + self.beta * (output[1:] - output[:-1]).square().mean()
        return penalty


class WeightDropLSTM(nn.Module):
    """One LSTM layer that, in training, drops a fresh share `weight_drop` of its recurrent weights at every forward."""

    def __init__(self, inputs: int, size: int, weight_drop: float):
        super().__init__()
        self.weight_drop = weight_drop
        self.weight_ih = nn.Parameter(torch.empty(4 * size, inputs))
        self.weight_hh = nn.Parameter(torch.empty(4 * size, size))
        self.bias_ih = nn.Parameter(torch.empty(4 * size))
        self.bias_hh = nn.Parameter(torch.empty(4 * size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(size), 1 / math.sqrt(size))

    def forward(self, inputs: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        recurrent = F.dropout(self.weight_hh, self.weight_drop, self.training)
        weights = [self.weight_ih, recurrent, self.bias_ih, self.bias_hh]
        # The functional LSTM takes the dropped weight directly, so weight_hh stays an ordinary parameter.
        output, hidden, cell = torch.lstm(
            inputs,
            state,
            weights,
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=self.training,
            bidirectional=False,
            batch_first=False,
        )
        return output, (hidden, cell)
