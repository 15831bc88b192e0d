"""A small LSTM language model: embedding, LSTM layers, linear decoder (Zaremba, Sutskever and Vinyals 2014)."""

from typing import Any

from torch import Tensor, nn


class LSTM(nn.Module):
    """An LSTM language model that one CPU core trains in minutes on bytes.

    `dropout` applies to the embeddings, between the layers and before the decoder. With `tied` the embedding matrix is
    also the decoder's, so hidden must equal embedding. ValueError for a setting out of range.
    """

    def __init__(
        self,
        vocabulary: int,
        embedding: int = 64,
        hidden: int = 256,
        layers: int = 1,
        dropout: float = 0.0,
        tied: bool = False,
    ):
        check_sizes(vocabulary=vocabulary, embedding=embedding, hidden=hidden, layers=layers)
        check_range(1, dropout=dropout)
        if tied and hidden != embedding:
            raise ValueError(f"hidden={hidden}, embedding={embedding}: must be equal when tied is true")
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Embedding(vocabulary, embedding)
        # nn.LSTM warns about a dropout without a second layer after it.
        self.lstm = nn.LSTM(embedding, hidden, layers, dropout=dropout if layers > 1 else 0.0)
        self.decoder = nn.Linear(hidden, vocabulary)
        if tied:
            # The embeddings' usual N(0, 1) suits bytes, but as the decoder it would start with huge logits.
            nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
            self.decoder.weight = self.embedding.weight

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Zeros (layers, batch, hidden) for the hidden and the cell state, on the model's device and in its dtype."""
        shape = self.lstm.num_layers, batch, self.lstm.hidden_size
        return self.embedding.weight.new_zeros(shape), self.embedding.weight.new_zeros(shape)

    def forward(self, tokens: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """tokens (time, batch) -> logits (time, batch, vocabulary), the state after them, a penalty of 0."""
        output, state = self.lstm(self.dropout(self.embedding(tokens)), state)
        logits = self.decoder(self.dropout(output))
        return logits, state, logits.new_zeros(())


def check_sizes(**sizes: Any) -> None:
    """ValueError for the first of the named sizes that is not a whole number of at least 1."""
    for name, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r}: must be a whole number of at least 1")


def check_range(limit: float, **values: Any) -> None:
    """ValueError for the first of the named values that is not a number in [0, limit)."""
    for name, value in values.items():
        if not isinstance(value, (int, float)) or not 0 <= value < limit:
            raise ValueError(f"{name}={value!r}: must be a number with 0 <= {name} < {limit}")
