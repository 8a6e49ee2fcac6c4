"""Weight distillation: the generator against loops, its groups, and the student it writes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdrun import losses, models
from kdrun.methods import Batch, TeacherOutput, WeightDistillation
from kdrun.methods.base import Pair
from kdrun.methods.weight_distillation import Generator, sources
from kdrun.models.resnet import basic_block, residual_network
from kdrun.taps import Outline, outline

N, K, IMAGE = 6, 5, (3, 8, 8)
V, L = 7, 6  # tokens, and how many of them a sequence has


def network(depth: int, width: int = 4) -> nn.Sequential:
    widths = (width, 2 * width)
    return residual_network(K, 3, stem=width, widths=widths, blocks=(depth, depth), block=basic_block)


def transformer(depth: int, width: int = 8) -> nn.Module:
    """int64 `[N, L]` to logits `[N, K]`; without dropout."""
    options = {"dropout": 0.0, "embedding_dropout": 0.0, "causal": True, "heads": 1}
    return models.transformer(K, V, L, depth=depth, width=width, **options)


def parameters_of(net: nn.Module, name: str) -> Outline:
    return Outline(name, parameters={path: tuple(tensor.shape) for path, tensor in net.named_parameters()})


def shape_of(name: str) -> Outline:
    with torch.device("meta"):
        return outline(getattr(models, name)(K), IMAGE, name)


def build(student: nn.Module, teacher: nn.Module, **options) -> WeightDistillation:
    with torch.device("meta"):
        meta = [network(depth_of(net), net.stem.conv.out_channels) for net in (student, teacher)]
    pair = Pair(outline(meta[0], IMAGE, "small"), outline(meta[1], IMAGE, "large"), fresh=lambda: None)
    return WeightDistillation(student, pair, **{"stage1_epochs": 1, **options})


def depth_of(net: nn.Module) -> int:
    return len(net.layer1)


@pytest.fixture
def batch() -> Batch:
    x = torch.randn(N, *IMAGE, generator=torch.Generator().manual_seed(0))
    return Batch(x, torch.arange(N) % K, torch.arange(N), epoch=0, step=0, progress=0.0, generator=torch.Generator())


@pytest.fixture
def teacher(batch) -> tuple[nn.Module, TeacherOutput]:
    torch.manual_seed(0)
    net = network(5)
    for parameter in net.parameters():  # BatchNorm too
        nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        logits = net.eval()(batch.x)
    return net, TeacherOutput(logits, weights=dict(net.state_dict()))


def reference(generator: Generator, group: list[np.ndarray]) -> np.ndarray:
    """The formula element by element: `A tanh(sum_l w_l sum T W_O W_I W_L) + B`."""
    w_o, w_i, w_l, w = (
        None if parameter is None else parameter.detach().numpy()
        for parameter in (generator.output, generator.input, generator.layer, generator.layer_weights)
    )
    a, b = generator.scale.detach().numpy(), generator.shift.detach().numpy()
    result = np.zeros(a.shape)
    for place in np.ndindex(*a.shape):
        total = 0.0
        for layer, weights in enumerate(group):
            by_layer = sum(w_l[layer, last] * w[last] for last in range(len(group)))
            for o in range(weights.shape[0]):
                if weights.ndim == 1:
                    total += by_layer * weights[o] * w_o[o, place[0]]
                    continue
                for i in range(weights.shape[1]):
                    total += by_layer * weights[(o, i, *place[2:])] * w_o[o, place[0]] * w_i[i, place[1]]
        result[place] = a[place] * np.tanh(total) + b[place]
    return result


@pytest.mark.parametrize(
    ("shape", "teacher_shape"),
    [((2, 3, 3, 3), (4, 5, 3, 3)), ((3, 3, 1, 1), (3, 3, 1, 1)), ((2, 3), (4, 5)), ((3,), (4,))],
)
def test_a_generated_parameter_equals_an_independent_computation(shape, teacher_shape):
    torch.manual_seed(0)
    generator = Generator(shape, teacher_shape, 3, bounded=True).double()
    assert_close(generator.layer_weights, torch.full((3,), 1 / 3).double())
    assert generator.scale.min() == generator.scale.max() == 1
    assert not generator.shift.any()
    for parameter in (generator.scale, generator.shift, generator.layer_weights):
        nn.init.normal_(parameter)
    group = [torch.randn(teacher_shape, dtype=torch.float64) for _ in range(3)]
    expected = reference(generator, [weights.numpy() for weights in group])
    assert_close(generator(group).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_a_group_of_one_mixes_only_what_has_another_size():
    weights = torch.randn(4, 3, 3, 3)
    assert torch.equal(Generator((4, 3, 3, 3), (4, 3, 3, 3), 1, bounded=True)([weights]), weights.tanh())
    assert torch.equal(Generator((4, 3, 3, 3), (4, 3, 3, 3), 1, bounded=False)([weights]), weights)
    narrow = Generator((2, 3, 3, 3), (4, 3, 3, 3), 1, bounded=False)
    assert {name for name, _ in narrow.named_parameters()} == {"output", "scale", "shift"}
    expected = torch.stack([(weights * narrow.output[:, o, None, None, None]).sum(0) for o in range(2)])
    assert_close(narrow([weights]), expected)


@pytest.mark.parametrize(
    ("teacher", "groups"),
    [
        ("resnet56", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ("resnet32", [[1, 2], [3, 4]]),
        ("resnet110", [list(range(1, 9)), list(range(9, 18))]),  # 17 blocks: 8 and 9
        ("resnet20", [[1], [2]]),
    ],
)
def test_blocks_take_from_consecutive_groups_and_everything_else_from_its_namesake(teacher, groups):
    student = shape_of("resnet20")
    found = sources(student, shape_of(teacher))
    assert found.keys() == student.parameters.keys()
    for number, group in enumerate(groups):
        for inner in ("branch.0.conv.weight", "branch.1.bn.bias"):
            assert found[f"layer2.{number + 1}.{inner}"] == [f"layer2.{block}.{inner}" for block in group]
    for name in ("stem.conv.weight", "layer2.0.shortcut.conv.weight", "layer1.0.branch.0.bn.weight", "classifier.bias"):
        assert found[name] == [name]


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ("resnet56", "resnet20", "^teacher=resnet20: its layer1 has 3 blocks, that of the student resnet56 9"),
        ("resnet20", "mobilenetv2", "^teacher=mobilenetv2: has no counterpart of stem.conv.weight"),
        ("resnet18", "resnet50", "^teacher=resnet50: has no counterpart of layer1.0"),
    ],
)
def test_networks_that_do_not_correspond_are_refused(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        sources(shape_of(student), shape_of(teacher))


def test_the_first_stage_trains_the_generator_through_the_students_forward_pass(batch, teacher):
    method = build(network(3), teacher[0])
    before = {name: tensor.clone() for name, tensor in method.student.state_dict().items()}
    found = method(batch, teacher[1])
    found.loss.backward()
    assert all(parameter.grad is None for parameter in method.student.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in method.trained())
    assert sum(parameter.grad.abs().sum() > 0 for parameter in method.trained()) > 0.9 * len(list(method.trained()))
    assert {id(parameter) for parameter in method.trained()} == {id(it) for it in method.generators.parameters()}
    assert all(tensor.grad is None for tensor in teacher[1].weights.values())
    # The student's parameters rest; its running means go on as in an ordinary pass with the generated ones.
    plain = network(3)
    plain.load_state_dict(before)
    with torch.no_grad():
        for name, tensor in method.generated(teacher[1].weights).items():
            plain.get_parameter(name).copy_(tensor)
    logits = plain(batch.x)
    assert torch.equal(found.logits, logits)
    parameters = dict(plain.named_parameters())
    for name, tensor in method.student.state_dict().items():
        assert torch.equal(tensor, before[name] if name in parameters else plain.state_dict()[name]), name
    kd = losses.kd_loss(logits, teacher[1].logits, batch.y, temperature=4.0, alpha=0.9)
    assert torch.equal(found.loss, kd)


def test_delivered_and_the_second_stage_have_what_was_generated_last(batch, teacher):
    method = build(network(3), teacher[0])
    optimizer = torch.optim.SGD(method.trained(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        method(batch, teacher[1]).loss.backward()
        optimizer.step()
    generated = method.generated(teacher[1].weights)
    student = method.delivered()
    assert all(torch.equal(student.get_parameter(name), tensor) for name, tensor in generated.items())
    assert student.state_dict().keys() == network(3).state_dict().keys()
    resumed = build(network(3), teacher[0])  # a process that begins with the second stage has seen no teacher
    resumed.load_state_dict(method.state_dict())
    unseen = build(network(3), teacher[0])  # nobody asked for what it delivers
    unseen.generators.load_state_dict(method.generators.state_dict())
    unseen(batch, teacher[1])
    for going_on in (method, resumed, unseen):
        going_on.begin_stage2()
        found = going_on(batch, teacher[1])
        found.loss.backward()
        assert all(torch.equal(going_on.student.get_parameter(name), it) for name, it in generated.items())
        assert {id(parameter) for parameter in going_on.trained()} == {id(it) for it in student_parameters(going_on)}
        assert all(parameter.grad is not None for parameter in student_parameters(going_on))
    assert not {name for name in method.state_dict() if not name.startswith(("student.", "generators."))}


def student_parameters(method: WeightDistillation) -> list[nn.Parameter]:
    return list(method.student.parameters())


def test_of_equal_shapes_the_classifier_is_the_teachers_and_the_rest_squashed(teacher):
    weights = teacher[1].weights
    generated = build(network(3), teacher[0]).generated(weights)
    for name in ("classifier.weight", "classifier.bias"):
        assert torch.equal(generated[name], weights[name])
    for name in ("stem.conv.weight", "stem.bn.bias", "layer2.0.shortcut.conv.weight"):
        assert torch.equal(generated[name], weights[name].tanh())


@pytest.mark.parametrize(
    ("teacher", "student", "groups"),
    [
        (6, 2, [[0, 1, 2], [3, 4, 5]]),
        (6, 4, [[0], [1, 2], [3], [4, 5]]),
        (6, 1, [[0, 1, 2, 3, 4, 5]]),
        (3, 3, [[0], [1], [2]]),
    ],
)
def test_all_layers_of_a_transformer_are_in_consecutive_groups(teacher, student, groups):
    network = parameters_of(transformer(student, 4), "small")
    found = sources(network, parameters_of(transformer(teacher), "large"))
    assert found.keys() == network.parameters.keys()
    for name, group in found.items():
        if not name.startswith("layers."):
            assert group == [name]
    for number, group in enumerate(groups):
        for inner in dict(transformer(1).layers[0].named_parameters()):
            assert found[f"layers.{number}.{inner}"] == [f"layers.{layer}.{inner}" for layer in group]


def test_encoder_and_decoder_have_groups_of_their_own():
    student = parameters_of(nn.ModuleDict({"encoder": transformer(2), "decoder": transformer(1)}), "small")
    teacher = parameters_of(nn.ModuleDict({"encoder": transformer(2), "decoder": transformer(3)}), "large")
    found = sources(student, teacher)
    assert found["encoder.layers.1.fc1.weight"] == ["encoder.layers.1.fc1.weight"]
    assert found["decoder.layers.0.fc1.weight"] == [f"decoder.layers.{layer}.fc1.weight" for layer in range(3)]


@pytest.mark.parametrize("odd", ["student", "teacher"])
def test_first_blocks_of_another_kind_in_one_section_of_one_network_stay_apart_in_all(odd):
    def shapes(num_blocks: int, *, widens: bool) -> dict[str, tuple[int, ...]]:
        plain = {f"one.{i}.weight": (4, 4) for i in range(num_blocks)}
        other = {f"two.{i}.weight": (4, 2 if widens and i == 0 else 4) for i in range(num_blocks)}
        return {**plain, **other, "classifier.weight": (K, 4)}

    student = Outline("small", parameters=shapes(2, widens=odd == "student"))
    teacher = Outline("large", parameters=shapes(5, widens=odd == "teacher"))
    found = sources(student, teacher)
    for section in ("one", "two"):
        assert found[f"{section}.0.weight"] == [f"{section}.0.weight"]
        assert found[f"{section}.1.weight"] == [f"{section}.{i}.weight" for i in range(1, 5)]
    either = Outline("large", parameters=shapes(5, widens=False))
    assert sources(Outline("small", parameters=shapes(2, widens=False)), either)["one.0.weight"] == [
        "one.0.weight",
        "one.1.weight",
    ]


def test_transformers_that_do_not_correspond_are_refused():
    small, large = parameters_of(transformer(2), "small"), parameters_of(transformer(6), "large")
    with pytest.raises(
        ValueError, match=r"^teacher=small: its layers has 2 blocks, .* student large 6: .*Transformers"
    ):
        sources(large, small)
    with pytest.raises(ValueError, match=r"^teacher=resnet20: has no counterpart of embedding"):
        sources(small, shape_of("resnet20"))


def transformer_method(student: nn.Module, teacher: nn.Module, **options) -> WeightDistillation:
    pair = Pair(parameters_of(student, "small"), parameters_of(teacher, "large"), fresh=lambda: None)
    return WeightDistillation(student, pair, **{"stage1_epochs": 1, **options})


def test_the_rows_of_an_embedding_stay_its_tokens_where_only_its_width_changes():
    generators = transformer_method(transformer(2, 4), transformer(6)).generators
    by_name = dict(zip(dict(transformer(2).named_parameters()), generators, strict=True))
    for name in ("embedding.tokens.weight", "embedding.positions.weight", "classifier.weight"):
        assert by_name[name].output is None
        assert by_name[name].input.shape == (8, 4)


def learned(method: WeightDistillation, batch: Batch, teacher: TeacherOutput, steps: int) -> list[float]:
    """The loss before each step."""
    optimizer = torch.optim.Adam(method.trained(), lr=1e-2)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = method(batch, teacher).loss
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


def test_a_shallower_and_narrower_student_learns_from_the_teachers_weights(batch, teacher):
    torch.manual_seed(1)
    seen = learned(build(network(3, 2), teacher[0], alpha=0.0), batch, teacher[1], 15)
    assert seen[-1] < 0.8 * seen[0]


def test_a_transformer_learns_in_both_stages():
    torch.manual_seed(0)
    x = torch.randint(1, V, (32, L))
    net = transformer(6)
    batch = Batch(x, x[:, 0] % K, torch.arange(32), epoch=0, step=0, progress=0.0, generator=torch.Generator())
    with torch.no_grad():
        teacher = TeacherOutput(net(x), weights=dict(net.state_dict()))
    method = transformer_method(transformer(2, 4), net, alpha=0.0)
    first = learned(method, batch, teacher, 25)
    assert first[-1] < 0.8 * first[0]
    generated = method.generated(teacher.weights)
    method.begin_stage2()
    assert all(torch.equal(method.student.get_parameter(name), tensor) for name, tensor in generated.items())
    second = learned(method, batch, teacher, 25)
    assert second[0] < 1.05 * first[-1]
    assert second[-1] < 0.8 * second[0]
