"""Weight distillation: the generator against loops, its groups, and the student it writes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdrun import losses, models
from kdrun.methods import CE, Batch, TeacherOutput, WeightDistillation
from kdrun.methods.base import Pair
from kdrun.methods.weight_distillation import Generator, sources
from kdrun.models.resnet import basic_block, residual_network
from kdrun.taps import Outline, outline

N, K, IMAGE = 6, 5, (3, 8, 8)


def network(depth: int, width: int = 4) -> nn.Sequential:
    widths = (width, 2 * width)
    return residual_network(K, 3, stem=width, widths=widths, blocks=(depth, depth), block=basic_block)


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


@pytest.mark.parametrize(("option", "value"), [("stage1_epochs", 0), ("temperature", 0.0), ("alpha", 1.5)])
def test_wrong_options_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"^{option}="):
        build(network(3), network(5), **{option: value})


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


def test_alpha_0_is_cross_entropy_in_the_second_stage(batch, teacher):
    method = build(network(3), teacher[0], alpha=0.0)
    method.begin_stage2()
    plain = CE(network(3))
    plain.student.load_state_dict(method.student.state_dict())
    method(batch, teacher[1]).loss.backward()
    plain(batch, None).loss.backward()
    for ours, theirs in zip(student_parameters(method), plain.student.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize(("depth", "width"), [(3, 2), (5, 2), (1, 4), (4, 4)])
def test_shallower_and_narrower_students_learn_from_the_teachers_weights(batch, teacher, depth, width):
    torch.manual_seed(1)
    method = build(network(depth, width), teacher[0], alpha=0.0)
    optimizer = torch.optim.Adam(method.trained(), lr=1e-2)
    seen = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = method(batch, teacher[1]).loss
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.8 * seen[0]
