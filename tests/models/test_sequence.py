"""The networks on tokens against PyTorch's own layers, equations and counts; what they see, and what they refuse."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from kdrun import models
from kdrun.models.cost import num_macs, num_parameters
from kdrun.taps import outline

NUM_TOKENS, LENGTH = 20, 9
OPTIONS = {
    "lstm": {"width": 8, "embedding": 6, "layers": 2},
    "transformer": {"width": 8, "depth": 3, "heads": 2},
    "transformer_seq": {"width": 8, "depth": 3, "heads": 2, "causal": True},
    "utransformer_seq": {"width": 8, "depth": 3, "heads": 2, "causal": True, "shared": True},
}
KINDS = list(OPTIONS)
CAUSAL = [kind for kind in KINDS if kind != "transformer"]
TRANSFORMERS = [kind for kind in KINDS if kind != "lstm"]
BOTH = [(kind, per_token) for kind in KINDS for per_token in (False, True) if kind in CAUSAL or not per_token]


def build(kind, per_token=False, **options):
    torch.manual_seed(0)
    name = "lstm" if kind == "lstm" else "transformer"
    num_classes = NUM_TOKENS if per_token else 3
    network = getattr(models, name)(num_classes, NUM_TOKENS, LENGTH, per_token, **OPTIONS[kind] | options)
    if name == "transformer":  # its own weights would leave little to compare
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network.double().eval()


def sequences(*shape):
    return torch.randint(1, NUM_TOKENS, shape, generator=torch.Generator().manual_seed(1))


def padded(tokens, *num_pads):
    tokens = tokens.clone()
    for row, pads in zip(tokens, num_pads, strict=True):
        row[:pads] = 0
    return tokens


@pytest.mark.parametrize("length", [1, 2, LENGTH])
@pytest.mark.parametrize(("kind", "per_token"), BOTH)
def test_trains_on_any_length(kind, per_token, length):
    network = build(kind, per_token).float().train()
    logits = network(sequences(4, length))
    num_labels, num_classes = (4 * length, NUM_TOKENS) if per_token else (4, 3)
    assert logits.shape == (num_labels, num_classes)
    F.cross_entropy(logits, torch.arange(num_labels) % num_classes).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name.endswith("weight") and length == LENGTH:
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_later_token_changes_no_earlier_row(kind):
    network, tokens = build(kind, per_token=True), sequences(3, LENGTH)
    changed = tokens.clone()
    changed[:, 5] = tokens[:, 5] % (NUM_TOKENS - 1) + 1
    before, after = (network(x).view(3, LENGTH, NUM_TOKENS) for x in (tokens, changed))
    assert torch.equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().amax((0, 2)).min() > 1e-6
    assert_close(network(tokens[:, :5]).view(3, 5, NUM_TOKENS), before[:, :5])
    changed[:, 5:] = 0  # padding on the right
    assert_close(network(changed).view(3, LENGTH, NUM_TOKENS)[:, :5], before[:, :5])


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_is_that_of_the_sequence_without_its_padding(kind):
    network, tokens = build(kind), padded(sequences(4, LENGTH), 0, 2, 5, 8)
    together = network(tokens)
    alone = torch.cat([network(row[row > 0][None]) for row in tokens])
    assert_close(together, alone)
    assert (together[:, None] - together).abs().amax(2).fill_diagonal_(1).min() > 1e-6


@pytest.mark.parametrize("kind", CAUSAL)
def test_the_class_is_read_where_a_language_model_has_read_all(kind):
    classifier, language_model = build(kind), build(kind, per_token=True)
    shared = {name: value for name, value in classifier.state_dict().items() if "classifier" not in name}
    language_model.load_state_dict(shared, strict=False)
    language_model.classifier = classifier.classifier
    tokens = sequences(3, LENGTH)
    assert_close(classifier(tokens), language_model(tokens).view(3, LENGTH, 3)[:, -1])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_padding_is_one_token(kind):
    network = build(kind)
    expected = network(torch.zeros(1, 1, dtype=torch.int64))
    assert expected.isfinite().all()
    assert_close(network(torch.zeros(2, LENGTH, dtype=torch.int64)), expected.expand(2, 3))


def encoder_layer(state, prefix):
    """PyTorch's own layer with the weights of a block."""
    layer = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True).double().eval()
    pick = {
        "self_attn.in_proj_weight": torch.cat([state[f"{prefix}.{name}.weight"] for name in ("query", "key", "value")]),
        "self_attn.in_proj_bias": torch.cat([state[f"{prefix}.{name}.bias"] for name in ("query", "key", "value")]),
    }
    names = {"self_attn.out_proj": "output", "linear1": "fc1", "linear2": "fc2", "norm1": "norm1", "norm2": "norm2"}
    for theirs, ours in names.items():
        pick |= {f"{theirs}.{kind}": state[f"{prefix}.{ours}.{kind}"] for kind in ("weight", "bias")}
    layer.load_state_dict(pick)
    return layer


def finished(x, state):
    x = F.layer_norm(x, (8,), state["norm.weight"], state["norm.bias"])
    return x @ state["classifier.weight"].T + state["classifier.bias"]


@pytest.mark.parametrize("kind", ["transformer_seq", "utransformer_seq"])
def test_causal_transformers_are_pytorchs_layers(kind):
    network, tokens = build(kind, per_token=True), sequences(3, LENGTH)
    state = network.state_dict()
    x = state["embedding.tokens.weight"][tokens] + state["embedding.positions.weight"][:LENGTH]
    later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    for i in range(3):
        x = encoder_layer(state, "layers.0" if kind == "utransformer_seq" else f"layers.{i}")(x, src_mask=later)
    assert_close(network(tokens), finished(x, state).reshape(3 * LENGTH, NUM_TOKENS))


def test_transformer_is_pytorchs_layers_behind_a_cls_token():
    network, tokens = build("transformer"), padded(sequences(3, LENGTH), 0, 4, 7)
    state = network.state_dict()
    on_the_right = torch.tensor([[NUM_TOKENS, *row[row > 0].tolist(), *row[row == 0].tolist()] for row in tokens])
    x = state["embedding.tokens.weight"][on_the_right] + state["embedding.positions.weight"]
    for i in range(3):
        x = encoder_layer(state, f"layers.{i}")(x, src_key_padding_mask=on_the_right == 0)
    assert_close(network(tokens), finished(x[:, 0], state))


@pytest.mark.parametrize("per_token", [False, True])
def test_lstm_recomputed_from_its_equations(per_token):
    network, tokens = build("lstm", per_token), sequences(2, LENGTH)
    state = network.state_dict()
    x = state["embedding.weight"][tokens]
    for layer in ("layers.0", "layers.1"):
        h, c, outputs = torch.zeros(2, 8).double(), torch.zeros(2, 8).double(), []
        for step in x.unbind(1):
            gates = step @ state[f"{layer}.weight_ih_l0"].T + h @ state[f"{layer}.weight_hh_l0"].T
            gates = gates + state[f"{layer}.bias_ih_l0"] + state[f"{layer}.bias_hh_l0"]
            input_gate, forget_gate, candidate, output_gate = gates.chunk(4, 1)
            c = forget_gate.sigmoid() * c + input_gate.sigmoid() * candidate.tanh()
            h = output_gate.sigmoid() * c.tanh()
            outputs.append(h)
        x = torch.stack(outputs, 1)
    logits = x @ state["classifier.weight"].T + state["classifier.bias"]
    assert_close(network(tokens), logits.flatten(0, 1) if per_token else logits[:, -1])


@pytest.mark.parametrize("width", [8, 96])
@pytest.mark.parametrize("per_token", [False, True])
def test_sizes_of_transformers_in_closed_form(per_token, width):
    num_classes = 500 if per_token else 2
    block = 4 * (width**2 + width) + 8 * width**2 + 5 * width + 2 * 2 * width
    ends = 2 * width + width * num_classes + num_classes
    of_class = {"width": width, "depth": 5, "heads": 4, "causal": True}
    rows = 32 if per_token else 1
    macs = 5 * (32 * 12 * width**2 + 2 * 32**2 * width) + rows * width * num_classes
    for shared, blocks in ((False, 5), (True, 1)):
        network = models.transformer(num_classes, 500, 32, per_token, shared=shared, **of_class)
        assert num_parameters(network) == (500 + 32) * width + blocks * block + ends
        assert num_macs(network, (32,), torch.int64) == macs  # the products with keys that are not seen are counted
    if not per_token:
        network = models.transformer(num_classes, 500, 32, **of_class | {"causal": False})
        assert num_parameters(network) == (501 + 33) * width + 5 * block + ends
        assert num_macs(network, (32,), torch.int64) == 5 * (33 * 12 * width**2 + 2 * 33**2 * width) + width * 2


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_sizes_of_lstms_in_closed_form(layers):
    network = models.lstm(500, 500, 32, per_token=True, width=12, embedding=7, layers=layers)
    products = 4 * 12 * (7 + 12) + (layers - 1) * 4 * 12 * (12 + 12)
    assert num_parameters(network) == 500 * 7 + products + layers * 2 * 4 * 12 + 12 * 500 + 500
    assert num_macs(network, (32,), torch.int64) == 32 * (products + 12 * 500)


@pytest.mark.parametrize(("kind", "per_token"), BOTH)
def test_goes_through_what_networks_go_through(kind, per_token):
    network, tokens = build(kind, per_token), padded(sequences(3, LENGTH), 0, 0 if per_token else 3, 0)
    logits = network(tokens)
    assert torch.equal(copy.deepcopy(network)(tokens), logits)
    other = {name: value + 0.1 for name, value in network.named_parameters()}
    called = torch.func.functional_call(network, other, (tokens,))
    loaded = copy.deepcopy(network)
    loaded.load_state_dict(other)
    assert_close(called, loaded(tokens))
    assert torch.equal(network(tokens), logits)
    gradients = torch.autograd.grad(called.sum(), list(other.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    narrow = copy.deepcopy(network).to(torch.bfloat16)(tokens)
    assert narrow.dtype == torch.bfloat16
    assert_close(narrow.double(), logits, rtol=0.1, atol=0.1)
    meta = copy.deepcopy(network).to("meta")(torch.empty(3, LENGTH, dtype=torch.int64, device="meta"))
    assert meta.shape == logits.shape


@pytest.mark.parametrize(("kind", "per_token"), BOTH)
def test_taps(kind, per_token):
    network, tokens = build(kind, per_token), sequences(2, LENGTH)
    seen = {}
    for name in ("pool", "classifier"):
        network.get_submodule(name).register_forward_hook(lambda _m, _i, output, name=name: seen.update({name: output}))
    logits = network(tokens)
    assert seen["classifier"] is logits
    assert seen["pool"].shape == (len(logits), 8)
    assert list(network.state_dict())[-2:] == ["classifier.weight", "classifier.bias"]
    if not per_token:
        with torch.device("meta"):
            found = outline(copy.deepcopy(network).to("meta"), (LENGTH,), dtype=torch.int64)
        assert found.vector == "pool"
        assert found.output == {"classifier"}


@pytest.mark.parametrize(
    ("kind", "option", "tap"),
    [
        ("lstm", "input_dropout", "input_dropout"),
        ("lstm", "dropout", "dropout"),
        ("transformer", "embedding_dropout", "embedding"),
        ("transformer_seq", "dropout", "layers.1.dropout"),
    ],
)
def test_drops_at_its_rate(kind, option, tap):
    torch.manual_seed(0)
    options = {"lstm": {"width": 300, "embedding": 300}}.get(kind, {"width": 300, "depth": 2})
    network = getattr(models, kind.removesuffix("_seq"))(3, NUM_TOKENS, LENGTH, **options, **{option: 0.3})
    dropped = []
    network.get_submodule(tap).register_forward_hook(lambda _m, _i, output: dropped.append((output == 0).float()))
    network(sequences(8, LENGTH))
    assert all(zeros.mean().item() == pytest.approx(0.3, abs=0.02) for zeros in dropped)
    network.eval()(sequences(8, LENGTH))
    assert not dropped[-1].any()


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_attention_is_dropped_in_training_alone(kind):
    options = {"dropout": 0.0, "embedding_dropout": 0.0}
    network, tokens = build(kind, attention_dropout=0.5, **options), sequences(4, LENGTH)
    without = build(kind, attention_dropout=0.0, **options)
    assert_close(network(tokens), without(tokens))
    assert_close(without.train()(tokens), without.eval()(tokens))
    network.train()
    assert (network(tokens) - network(tokens)).abs().amax(1).min() > 1e-6


def test_transformer_is_initialised_as_gpt2():
    torch.manual_seed(0)
    network = models.transformer(500, 500, 128, per_token=True, causal=True, width=96, depth=8)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" not in name:
            adds = "output" in name or "fc2" in name
            assert parameter.std().item() == pytest.approx(0.05 / math.sqrt(16) if adds else 0.05, rel=0.05), name
            assert abs(parameter.mean().item()) < 0.002


@pytest.mark.parametrize("name", models.sequence_networks())
@pytest.mark.parametrize("wrong", [1, True, 10.0])
def test_refuses_numbers_of_classes_and_of_tokens(name, wrong):
    with pytest.raises(ValueError, match=r"num_classes=.*at least 2"):
        getattr(models, name)(wrong, NUM_TOKENS, LENGTH)
    with pytest.raises(ValueError, match=r"num_tokens=.*at least 2"):
        getattr(models, name)(2, wrong, LENGTH)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lstm", {"length": 0}, "length=0.*at least 1"),
        ("lstm", {"width": 0}, "width=0.*at least 1"),
        ("lstm", {"embedding": 0}, "embedding=0.*at least 1"),
        ("lstm", {"layers": 0}, "layers=0.*at least 1"),
        ("lstm", {"dropout": 1.0}, "dropout=1.0.*less than 1"),
        ("lstm", {"input_dropout": -0.1}, "input_dropout=-0.1.*at least 0"),
        ("transformer", {"length": True}, "length=True.*integer"),
        ("transformer", {"depth": 0}, "depth=0.*at least 1"),
        ("transformer", {"heads": 0}, "heads=0.*at least 1"),
        ("transformer", {"width": 10, "heads": 4}, "width=10.*multiple of heads=4"),
        ("transformer", {"dropout": 1.0}, "dropout=1.0.*less than 1"),
        ("transformer", {"embedding_dropout": math.nan}, "embedding_dropout=nan"),
        ("transformer", {"attention_dropout": 2}, "attention_dropout=2"),
        ("transformer", {"per_token": True}, "causal=False.*must be causal=True"),
    ],
)
def test_refuses_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(models, name)(2, **{"num_tokens": NUM_TOKENS, "length": LENGTH} | options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, LENGTH + 1), (2, 0), (LENGTH,)])
def test_refuses_sequences(kind, shape):
    with pytest.raises(ValueError, match=rf"tokens .*L' from 1 to length={LENGTH}"):
        build(kind)(sequences(*shape))
