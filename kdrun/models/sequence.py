"""The networks on sequences of tokens of Abnar et al. 2020: an LSTM, and Transformers of three kinds.

They map int64 `[N, L']`, L' at most `length`, to one row of logits per label: `[N, K]`, or with `per_token`
`[N * L', K]`, where row `n * L' + l` is what follows from tokens 0 to l of sequence n. Token 0 is padding. A sequence
with one label is padded on the left, and its logits do not depend on how far. With a label per token padding may stand
on the right, where no other token sees it; on the left it would be read as tokens.

From `pool` on, which returns what the classifier takes, `[N, D]` or `[N * L', D]`, the names are those of the other
networks; before it come `embedding`, `layers` and, in a Transformer, `norm`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.distributed import drawn_for_all
from kdrun.models.layers import MOST_LAYERS, check_count, check_dropout

PADDING = 0
STD = 0.05  # of the released code; GPT-2's own 0.02 is for networks 8 times as wide


def lstm(
    num_classes: int,
    num_tokens: int,
    length: int,
    per_token: bool = False,
    width: int = 128,
    embedding: int = 128,
    layers: int = 2,
    dropout: float = 0.2,
    input_dropout: float = 0.2,
) -> LSTM:
    """The LSTM of Abnar, Dehghani and Zuidema 2020: embedding, stacked LSTM layers, classifier of the last state.

    In the paper it has 2 layers of width 256 for classes (released code: `small_lstm_v4`, dropout 0.8) and of 512 for
    language models. There the dropout also acts within the recurrence; here on what each layer returns. Initialised by
    PyTorch's defaults, but embeddings from N(0, 0.1): from its N(0, 1) they train slowly.

    Args:
        num_classes: K, at least 2; of a language model `num_tokens`.
        num_tokens: V, of the vocabulary with the padding, at least 2.
        length: of the longest sequence, at least 1.
        per_token: whether there is a label for each token instead of one for the sequence.
        width: of the state of each layer.
        embedding: width of the embedding of a token.
        layers: how many, from 1 to `MOST_LAYERS`.
        dropout: probability that a value which a layer returns is dropped in training, in [0, 1).
        input_dropout: the same for a value of an embedding.

    Raises:
        ValueError: an argument outside these ranges.
    """
    _check_sequence(num_classes, num_tokens, length)
    for name, count in (("width", width), ("embedding", embedding)):
        check_count(name, count, 1)
    check_count("layers", layers, 1, MOST_LAYERS)
    check_dropout("dropout", dropout)
    check_dropout("input_dropout", input_dropout)
    return LSTM(num_classes, num_tokens, length, per_token, [embedding, *layers * [width]], dropout, input_dropout)


def transformer(
    num_classes: int,
    num_tokens: int,
    length: int,
    per_token: bool = False,
    causal: bool = False,
    shared: bool = False,
    width: int = 96,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.1,
    embedding_dropout: float = 0.1,
    attention_dropout: float = 0.0,
) -> Transformer:
    """The Transformers of Abnar, Dehghani and Zuidema 2020, with one of three inductive biases.

    As it is, every token attends to all, and the class is read from a CLS token in front (BERT's, the paper's
    Transformer). `causal`: a token attends to itself and those before it, and the class is read from the last (GPT's,
    Transformer-seq). `shared` with it: one block is applied `depth` times (UTransformer-seq).

    The blocks are GPT-2's, as in the released code: LayerNorm stands before attention and MLP, so that a deep one needs
    no warm-up to train (Xiong et al. 2020). So is the initialisation, but from N(0, 0.05). Positions are learned, and
    counted from the first token that is no padding. In the paper (released code: `small_gpt_v9`, `small_ugpt_v9`) there
    are 6 blocks of 8 heads, 128 wide, 256 where they are shared, the dropouts are 0.4, 0.2 and 0.6, and a language
    model has its embedding as its classifier; here they are two.

    Args:
        num_classes: K, at least 2; of a language model `num_tokens`.
        num_tokens: V, of the vocabulary with the padding, at least 2.
        length: of the longest sequence, at least 1.
        per_token: whether there is a label for each token instead of one for the sequence; only `causal`.
        causal: whether a token sees no later ones.
        shared: whether all blocks are the same one.
        width: of a token's representation, a multiple of `heads`; the MLPs within are 4 times as wide.
        depth: how many blocks a token goes through, from 1 to `MOST_LAYERS`.
        heads: of each attention.
        dropout: probability that a value which attention or MLP adds is dropped in training, in [0, 1).
        embedding_dropout: the same for a value of an embedding.
        attention_dropout: the same for the attention that one token pays another.

    Raises:
        ValueError: an argument outside these ranges.
    """
    _check_sequence(num_classes, num_tokens, length)
    for name, count in (("width", width), ("heads", heads)):
        check_count(name, count, 1)
    check_count("depth", depth, 1, MOST_LAYERS)
    if width % heads:
        raise ValueError(f"width={width}: must be a multiple of heads={heads}, which share it")
    rates = {"dropout": dropout, "embedding_dropout": embedding_dropout, "attention_dropout": attention_dropout}
    for name, rate in rates.items():
        check_dropout(name, rate)
    if per_token and not causal:
        raise ValueError(
            "causal=False: sees the tokens it would have to predict; with a label for each token it must be causal=True"
        )
    blocks = [Block(width, heads, dropout, attention_dropout) for _ in range(1 if shared else depth)]
    return Transformer(num_classes, num_tokens, length, per_token, causal, blocks, depth, width, embedding_dropout)


class LSTM(nn.Module):
    """The network that `lstm` describes; `widths` are those of the embedding and of each layer."""

    def __init__(
        self,
        num_classes: int,
        num_tokens: int,
        length: int,
        per_token: bool,
        widths: Sequence[int],
        dropout: float,
        input_dropout: float,
    ) -> None:
        super().__init__()
        self.length, self.per_token = length, per_token
        self.embedding = nn.Embedding(num_tokens, widths[0])
        self.input_dropout = nn.Dropout(input_dropout)
        # Not one nn.LSTM with a dropout of its own: on CUDA that does not follow from torch's seed.
        self.layers = nn.ModuleList(nn.LSTM(*pair, batch_first=True) for pair in itertools.pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.pool = Pool()
        self.classifier = nn.Linear(widths[-1], num_classes)
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        _check_tokens(tokens, self.length)
        tokens, last = (tokens, None) if self.per_token else right_padded(tokens)
        x = self.input_dropout(self.embedding(tokens))
        for layer in self.layers:
            x = self.dropout(layer(x)[0])
        logits: Tensor = self.classifier(self.pool(x, last))
        return logits


class Transformer(nn.Module):
    """The network that `transformer` describes; it goes through `blocks` in turn, `depth` times in all."""

    def __init__(
        self,
        num_classes: int,
        num_tokens: int,
        length: int,
        per_token: bool,
        causal: bool,
        blocks: Sequence[Block],
        depth: int,
        width: int,
        embedding_dropout: float,
    ) -> None:
        super().__init__()
        self.length, self.per_token, self.causal, self.depth = length, per_token, causal, depth
        self.cls = num_tokens  # one more token than the vocabulary has, and one position
        extra = 0 if causal else 1
        self.embedding = PositionedEmbedding(num_tokens + extra, length + extra, width, embedding_dropout)
        self.layers = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        self.pool = Pool()
        self.classifier = nn.Linear(width, num_classes)
        _init_as_gpt2(self, depth)

    def forward(self, tokens: Tensor) -> Tensor:
        _check_tokens(tokens, self.length)
        tokens, answer = (tokens, None) if self.per_token else right_padded(tokens)
        seen = None
        if not self.causal:
            assert answer is not None, "per_token is for causal ones"
            tokens, answer = F.pad(tokens, (1, 0), value=self.cls), torch.zeros_like(answer)
            seen = (tokens != PADDING)[:, None, None, :]  # to all heads and queries
        x = self.embedding(tokens)
        for i in range(self.depth):
            x = self.layers[i % len(self.layers)](x, seen)
        logits: Tensor = self.classifier(self.pool(self.norm(x), answer))
        return logits


class PositionedEmbedding(nn.Module):
    """Tokens int64 `[N, L']` to the sums of their embeddings and those of their positions, `[N, L', D]`."""

    def __init__(self, num_tokens: int, length: int, width: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(num_tokens, width)
        self.positions = nn.Embedding(length, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.dropout(self.tokens(tokens) + self.positions.weight[: tokens.shape[1]])
        return embedded


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and added to its input: `[N, L', D]` to the same.

    Args:
        width: D.
        heads: of the attention.
        dropout: of what is added.
        attention_dropout: of the attention.
    """

    def __init__(self, width: int, heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, attention_dropout
        self.norm1 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """`seen`: what a query attends to, bool, broadcastable to `[N, heads, L', L']`; None for all but later ones."""
        y = self.norm1(x)
        query, key, value = (
            layer(y).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        rate = self.attention_dropout if self.training else 0.0
        attend = functools.partial(F.scaled_dot_product_attention, dropout_p=rate, is_causal=seen is None)
        given = (query, key, value) if seen is None else (query, key, value, seen)
        y = drawn_for_all(attend, *given) if rate else attend(*given)
        x = x + self.dropout(self.output(y.transpose(1, 2).flatten(2)))
        added: Tensor = self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x)))))
        return x + added


class Pool(nn.Module):
    """What the classifier takes of `[N, L', D]`: the vectors at `position` `[N]`, `[N, D]`; or all, `[N * L', D]`."""

    def forward(self, x: Tensor, position: Tensor | None) -> Tensor:
        if position is None:
            return x.flatten(0, 1)
        return x.gather(1, position[:, None, None].expand(-1, 1, x.shape[2])).squeeze(1)


def right_padded(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Moves the padding of sequences `[N, L']` from the left to the right; with the position `[N]` of each last token.

    So a network that reads from the left gives its answer before it meets the padding, and positions count from the
    first token. Of a sequence of nothing else the first padding counts as a token.
    """
    length = tokens.shape[1]
    num_pads = (tokens == PADDING).sum(1).clamp(max=length - 1)
    index = (torch.arange(length, device=tokens.device) + num_pads[:, None]) % length
    return tokens.gather(1, index), length - 1 - num_pads


def _init_as_gpt2(network: nn.Module, depth: int) -> None:
    """Weights of this deviation, those of layers that add to the residual divided by sqrt(2 depth); biases 0."""
    for name, module in network.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            adds = name.endswith((".output", ".fc2"))
            nn.init.normal_(module.weight, std=STD / math.sqrt(2 * depth) if adds else STD)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def _check_sequence(num_classes: int, num_tokens: int, length: int) -> None:
    check_count("num_classes", num_classes, 2)
    check_count("num_tokens", num_tokens, 2)
    check_count("length", length, 1)


def _check_tokens(tokens: Tensor, length: int) -> None:
    if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= length:
        raise ValueError(f"tokens {list(tokens.shape)}: must be [N, L'], L' from 1 to length={length}")
