"""Each fast way to compute a step against the slow one: fp32, operation after operation, contiguous memory.

The oracle is written out here: a distillation step with the teacher as it is, in fp32, and plain SGD.
"""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.data import ImageSet, ResidentImages
from kdrun.methods import KD, Batch
from kdrun.models import mobilenetv2, resnet20
from kdrun.training.evaluation import evaluate
from kdrun.training.folding import folded
from kdrun.training.optimisation import build_optimizer
from kdrun.training.precision import autocast, on_device
from kdrun.training.step import Step
from kdrun.training.teacher import LiveTeacher

CPU = torch.device("cpu")
NUM_STEPS, BATCH_SIZE, CLASSES, SIDE, LR, TEMPERATURE = 6, 16, 10, 16, 0.002, 4.0
NETWORKS = {"mobilenetv2": mobilenetv2, "resnet20": resnet20}
BOTH = pytest.mark.parametrize("name", ["resnet20", pytest.param("mobilenetv2", marks=pytest.mark.slow)])


def settled(network: nn.Module) -> nn.Module:
    """With BatchNorm statistics of its own, and scales and shifts that are not 1 and 0."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.empty_like(module.weight).uniform_(0.8, 1.2, generator=generator)
            module.bias.data = torch.empty_like(module.bias).uniform_(-0.2, 0.2, generator=generator)
    network.train()
    with torch.no_grad():
        for _ in range(10):
            network(torch.randn(64, 3, SIDE, SIDE, generator=generator))
    return network


@pytest.fixture(scope="module")
def batches() -> list[tuple[Tensor, Tensor]]:
    """Images that show which class they are of."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randn(CLASSES, 3, SIDE, SIDE, generator=generator)
    labels = torch.randint(CLASSES, (NUM_STEPS, BATCH_SIZE), generator=generator)
    return [(patterns[y] + torch.randn(BATCH_SIZE, 3, SIDE, SIDE, generator=generator), y) for y in labels]


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(2)
    return settled(resnet20(CLASSES)).eval()


def oracle_loss(logits: Tensor, target: Tensor, y: Tensor) -> Tensor:
    kl = (target * (target.log() - F.log_softmax(logits / TEMPERATURE, dim=1))).sum(dim=1).mean()
    return 0.1 * F.cross_entropy(logits, y) + 0.9 * TEMPERATURE**2 * kl


class Fast:
    """kdrun's step on channels_last images, with its losses and gradients kept."""

    def __init__(self, student: nn.Module, teacher: nn.Module, precision: str, **options: Any) -> None:
        context = autocast(CPU, precision)
        self.method = KD(on_device(student, CPU), temperature=TEMPERATURE, alpha=0.9).train()
        optimizer = build_optimizer(
            "sgd", self.method.parameters(), lr=LR, momentum=0.9, nesterov=False, weight_decay=5e-4
        )
        self._step = Step(self.method, optimizer, context, **options)
        self._teacher = LiveTeacher(on_device(teacher, CPU), context, precision)
        self._taken = 0

    def __call__(self, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
        x = x.contiguous(memory_format=torch.channels_last)
        generator = torch.Generator()
        batch = Batch(x, y, torch.arange(len(y)), epoch=0, step=self._taken, progress=0.0, generator=generator)
        self._taken += 1
        self._step.set_lr(LR)
        self._step(batch, self._teacher(batch), first=batch.step == 0)
        return self._step.end_epoch().means["loss"], gradients(self.method.student)


def gradients(network: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.double().flatten() for parameter in network.parameters()])


def compare(name: str, precision: str, teacher: nn.Module, batches, **options: Any) -> tuple[list[float], list[float]]:
    """Relative differences of the losses, and cosines of the gradients, over some steps.

    The fast student takes its steps on its own; the cosine is of its gradients and the oracle's at the same weights.
    """
    torch.manual_seed(0)
    student = settled(NETWORKS[name](CLASSES))
    trained, fast = copy.deepcopy(student), Fast(copy.deepcopy(student), copy.deepcopy(teacher), precision, **options)
    slow = torch.optim.SGD(trained.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4, foreach=False)
    differences, cosines = [], []
    for x, y in batches:
        with torch.no_grad():
            target = F.softmax(teacher(x) / TEMPERATURE, dim=1)
        twin = copy.deepcopy(student)
        twin.load_state_dict(fast.method.student.state_dict())  # where the fast one is now
        oracle_loss(twin.train()(x), target, y).backward()
        loss, gradient = fast(x, y)
        cosines.append(F.cosine_similarity(gradient, gradients(twin), dim=0).item())
        expected = oracle_loss(trained(x), target, y)
        slow.zero_grad()
        expected.backward()
        slow.step()
        differences.append(abs(loss - expected.item()) / expected.item())
    return differences, cosines


BOUNDS = {
    # Loss of each step, relative, at most; cosine of the gradients, at least. Rounding is magnified by 52 layers with
    # BatchNorm that have not been trained: what bf16 leaves of MobileNetV2's gradient in its first steps has a cosine
    # of about 0.5 (0.96 in its last layer), with torch's own autocast in contiguous memory as here.
    ("mobilenetv2", "fp32"): (0.05, 0.995),
    ("mobilenetv2", "bf16"): (0.05, 0.35),
    ("resnet20", "fp32"): (0.001, 0.9999),
    ("resnet20", "bf16"): (0.01, 0.97),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@BOTH
def test_fast_steps_follow_the_oracle(name, precision, teacher, batches):
    differences, cosines = compare(name, precision, teacher, batches)
    bound, low = BOUNDS[name, precision]
    assert max(differences) < bound
    assert min(cosines) > low


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_steps_follow_the_oracle(precision, teacher, batches):
    differences, cosines = compare("mobilenetv2", precision, teacher, batches, compiled="default")
    bound, low = BOUNDS["mobilenetv2", precision]
    assert max(differences) < bound
    assert min(cosines) > low


@pytest.mark.slow
def test_what_is_compiled_is_the_full_batch_alone(teacher, batches):
    """An epoch's smaller last batch, and evaluation, are not compiled."""
    torch.manual_seed(0)
    fast = Fast(settled(mobilenetv2(CLASSES)), teacher, "fp32", compiled="default")
    for x, y in batches[:2]:
        fast(x, y)
    frames = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    x, y = batches[2]
    fast(x[:5], y[:5])
    images = ImageSet(torch.zeros(5, SIDE, SIDE, 3, dtype=torch.uint8), y[:5])
    split = ResidentImages(images, mean=[0.5] * 3, std=[1.0] * 3, device=CPU)
    evaluate(fast.method.student, split, autocast(CPU, "fp32"))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == frames > 0


@BOTH
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-9), ("bf16", 1e-4)])
def test_a_folded_teacher_says_what_the_network_says(name, precision, bound, batches):
    """KL(network in fp32 || LiveTeacher) at T=1, in nats per image, of logits with a spread of several units."""
    torch.manual_seed(4)
    network = settled(NETWORKS[name](CLASSES)).eval()
    with torch.no_grad():
        spread = network(batches[0][0]).std()
        network.classifier.weight *= 2 / spread
        network.classifier.bias.zero_()
    live = LiveTeacher(on_device(copy.deepcopy(network), CPU), autocast(CPU, precision), precision)
    worst = 0.0
    for x, y in batches[:4]:
        batch = Batch(x, y, y, epoch=0, step=0, progress=0.0, generator=torch.Generator())
        said, expected = F.log_softmax(live(batch).logits.double(), dim=1), F.log_softmax(network(x).double(), dim=1)
        worst = max(worst, F.kl_div(said, expected, log_target=True, reduction="batchmean").item())
    assert abs(worst) < bound


@BOTH
def test_folding_leaves_no_batchnorm_and_the_network_as_it_was(name):
    torch.manual_seed(5)
    network = settled(NETWORKS[name](CLASSES))
    before = copy.deepcopy(network.state_dict())
    bare = folded(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in bare.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert network.training
    assert not bare.training
    assert not any(parameter.requires_grad for parameter in bare.parameters())


def test_batchnorm_that_stands_elsewhere_stays():
    """Only what an nn.Sequential calls one after the other is folded: elsewhere there may be something between."""

    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.bn = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(F.relu(self.conv(x)))

    network = nn.Sequential(settled(Between()), nn.BatchNorm2d(4)).eval()
    x = torch.randn(2, 3, SIDE, SIDE)
    assert torch.equal(folded(network)(x), network(x))
    assert len([module for module in folded(network).modules() if isinstance(module, nn.BatchNorm2d)]) == 2
