"""The training loop: against a loop written out, step by step, resumed, and diverging."""

import contextlib
import math
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdrun.data import Augmentation, ImageSet, ResidentImages, TrainingViews
from kdrun.methods import Method, Needs, Objective, TeacherOutput
from kdrun.models import cnn
from kdrun.seeds import mix
from kdrun.store import checkpoint
from kdrun.training.optimisation import build_optimizer
from kdrun.training.step import Step
from kdrun.training.trainer import DivergedError, Member, Stage, Training, fit
from tests.training.owners import Collecting, Raising

PLAIN = contextlib.nullcontext()
NUM, CLASSES, BATCH_SIZE = 26, 4, 8  # 8, 8, 8 and 2 images
STEPS = 4


class CrossEntropy(Method):
    """Cross-entropy that keeps the batches it saw, the mode it saw them in, and the learning rate."""

    name = "test"

    def __init__(self, student: nn.Module) -> None:
        super().__init__(student)
        self.seen: list = []

    def objective(self, student, batch, teacher):
        self.seen.append((batch, self.training and all(module.training for module in self.student.modules())))
        logits = student.logits
        loss = F.cross_entropy(logits, batch.y)
        return Objective(loss, logits, {"twice": 2 * loss, "size": torch.tensor(len(batch.y))})


class Asking(CrossEntropy):
    """It asks a teacher, and makes nothing of the answer."""

    needs = Needs(logits=True)


class Noisy(CrossEntropy):
    """Its loss takes draws from the batch's own generator, the student's dropout from the global one."""

    def objective(self, student, batch, teacher):
        objective = super().objective(student, batch, teacher)
        noise = torch.randn(objective.logits.shape, generator=batch.generator)
        return Objective(F.cross_entropy(objective.logits + noise, batch.y), objective.logits, objective.terms)


@pytest.fixture
def images() -> ResidentImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (NUM, 8, 8, 1), dtype=torch.uint8, generator=generator)
    return ResidentImages(ImageSet(pixels, torch.arange(NUM) % CLASSES), mean=[0.5], std=[0.25], device="cpu")


def build(method: type[Method] = CrossEntropy, *, lr: float = 0.05, student: nn.Module | None = None) -> Training:
    torch.manual_seed(0)
    built = method(student or cnn(num_classes=CLASSES, in_channels=1, image_size=8))
    options = {"momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
    return Training(built, build_optimizer("sgd", built.parameters(), lr=lr, **options))


def never() -> Step:
    raise AssertionError("there is one stage")


def member(training: Training, images: ResidentImages, *, stop_epoch: int = 3, epochs: int = 3, **changes) -> Member:
    """A member with what the tests do not care about filled in; its failure is raised."""

    arguments = {
        "stages": [Stage(0, epochs, changes.pop("learning_rate", lambda step: 0.05))],
        "begin_stage2": never,
        "autocast": PLAIN,
        "splits": {"test": images},
        "on_epoch": lambda images_per_second: None,
        "owner": Raising(),
        **changes,
    }
    return Member(training, Step(training.method, training.optimizer, PLAIN), stop_epoch=stop_epoch, **arguments)


def train(training: Training, images: ResidentImages, *, epochs: int = 3, **changes) -> int:
    """`fit` of one member; returns the number of steps it took."""
    law, seed, steps = changes.pop("law", Augmentation()), changes.pop("seed", 0), []
    fit_options = {name: changes.pop(name, default) for name, default in {"teacher": None, "views_seed": seed}.items()}
    views = TrainingViews(images, law, batch_size=BATCH_SIZE, seed=fit_options.pop("views_seed"))
    alone = member(training, images, **{"stop_epoch": epochs, "epochs": epochs, **changes})
    fit([alone], views, **fit_options, seed=seed, on_step=lambda: steps.append(1))
    return len(steps)


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.method.student.state_dict().items()}


def assert_same_weights(one: Training, other: Training) -> None:
    pairs = zip(weights(one).items(), weights(other).values(), strict=True)
    different = [name for (name, tensor), twin in pairs if not torch.equal(tensor, twin)]
    assert not different


def test_loop_is_the_textbook_one(images):
    """A perceptron, trained by the loop and by SGD with momentum written out in tensors."""
    training = build(student=nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)))
    parameters = [parameter.detach().clone() for parameter in training.method.parameters()]
    velocity = [torch.zeros_like(parameter) for parameter in parameters]
    views = TrainingViews(images, Augmentation(crop_padding=1, flip=True), batch_size=BATCH_SIZE, seed=3)

    def learning_rate(step: int) -> float:
        return 0.1 / (step + 1)

    step = 0
    for epoch in range(2):
        for x, y, _, _ in views.epoch(epoch):
            weight, bias = (parameter.requires_grad_() for parameter in parameters)
            loss = F.cross_entropy(x.flatten(1) @ weight.T + bias, y)
            gradients = torch.autograd.grad(loss, [weight, bias])
            decayed = [g + 5e-4 * p.detach() for g, p in zip(gradients, parameters, strict=True)]
            velocity = [0.9 * v + g for v, g in zip(velocity, decayed, strict=True)]
            parameters = [(p - learning_rate(step) * v).detach() for p, v in zip(parameters, velocity, strict=True)]
            step += 1
    law = Augmentation(crop_padding=1, flip=True)
    steps = train(training, images, epochs=2, law=law, seed=3, learning_rate=learning_rate)
    for trained, expected in zip(training.method.parameters(), parameters, strict=True):
        torch.testing.assert_close(trained.detach(), expected, rtol=1e-4, atol=1e-6)
    assert [row["lr"] for row in training.rows] == [learning_rate(STEPS - 1), learning_rate(2 * STEPS - 1)]
    assert steps == 2 * STEPS


def test_student_is_in_train_mode_at_every_step_also_after_evaluations(images):
    training = build()
    evaluated = []
    training.method.student.register_forward_hook(
        lambda module, *_: evaluated.append(torch.is_grad_enabled()) if not module.training else None
    )
    training.method.eval()
    splits = {"val": images, "test": images}
    train(training, images, epochs=3, splits=splits, on_epoch=lambda _: training.method.eval())
    assert [mode for _, mode in training.method.seen] == [True] * 3 * STEPS
    assert evaluated == [False] * 6, "two splits after each of three epochs, without gradients"
    assert [set(row) for row in training.rows] == [{"epoch", "lr", "train", "val", "test"}] * 3


def test_batches_say_what_and_where_they_are(images):
    training = build()
    train(training, images, epochs=4, stop_epoch=2)
    batches = [batch for batch, _ in training.method.seen]
    assert [(batch.epoch, batch.step) for batch in batches] == [(e, s) for e in range(2) for s in range(STEPS)]
    # The progress is that of the whole schedule, which this run does not go to the end of.
    assert [batch.progress for batch in batches] == [position / (4 * STEPS) for position in range(2 * STEPS)]
    for batch in batches:
        assert torch.equal(batch.x, images.batch(batch.index))
        assert torch.equal(batch.y, images.labels[batch.index])
        assert batch.generator.initial_seed() == mix(0, "step", batch.epoch, batch.step)
    for epoch in range(2):
        index = torch.cat([batch.index for batch in batches if batch.epoch == epoch])
        assert torch.equal(index.sort().values, torch.arange(NUM))
    assert (training.images, training.rows[-1]["epoch"]) == (2 * NUM, 2)
    assert training.seconds > 0


class EveryOtherRight:
    """A teacher that is right about the images at even positions."""

    def __call__(self, batch):
        answer = torch.where(batch.index % 2 == 0, batch.y, (batch.y + 1) % CLASSES)
        return TeacherOutput(F.one_hot(answer, CLASSES).float())

    def end_epoch(self):
        pass


def test_means_are_over_images_not_over_batches(images):
    """With a learning rate of 0 an epoch's means are those of one pass; the last batch is a quarter of the others."""

    class Taught(CrossEntropy):
        needs = Needs(logits=True)

    training = build(Taught, lr=0.0, student=nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)))
    logits = training.method.student(images.batch(torch.arange(NUM))).detach()
    train(training, images, epochs=1, teacher=EveryOtherRight(), learning_rate=lambda step: 0.0)
    loss = F.cross_entropy(logits, images.labels).item()
    prediction, labels = logits.argmax(1).tolist(), images.labels.tolist()
    taught = [label if i % 2 == 0 else (label + 1) % CLASSES for i, label in enumerate(labels)]
    assert training.rows[0]["train"] == pytest.approx(
        {
            "loss": loss,
            "twice": 2 * loss,
            "size": (3 * 8 * 8 + 2 * 2) / NUM,
            "top1": 100 * sum(p == label for p, label in zip(prediction, labels, strict=True)) / NUM,
            "teacher_top1": 50.0,
            "agreement": 100 * sum(p == t for p, t in zip(prediction, taught, strict=True)) / NUM,
        },
        rel=1e-5,
    )


def test_same_seed_same_bits_whatever_else_draws_random_numbers(images):
    one, other = build(Noisy), build(Noisy)
    train(one, images)
    torch.manual_seed(99)
    train(other, images, on_epoch=lambda _: torch.rand(7))
    assert one.rows == other.rows
    assert_same_weights(one, other)


def test_another_seed_gives_other_dropout_and_other_draws(images):
    """Same order and views, so that the difference comes from the step's randomness alone."""
    trained = []
    for seed in (0, 1):
        for method in (CrossEntropy, Noisy):
            training = build(method)
            train(training, images, epochs=1, seed=seed, views_seed=0)
            trained.append(weights(training)["classifier.weight"])
    assert all(not torch.equal(a, b) for i, a in enumerate(trained) for b in trained[:i])


def test_every_step_has_its_own_randomness(images):
    draws = []

    class Drawing(CrossEntropy):
        def objective(self, student, batch, teacher):
            draws.append((torch.rand((), generator=batch.generator).item(), torch.rand(()).item()))
            return super().objective(student, batch, teacher)

    train(build(Drawing), images, epochs=2)
    assert len({own for own, _ in draws}) == len({shared for _, shared in draws}) == 2 * STEPS


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_resumed_training_is_the_uninterrupted_one_bit_for_bit(images, tmp_path, optimizer):
    def fresh() -> Training:
        training = build(Noisy)
        options = {"lr": 0.01, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
        return Training(training.method, build_optimizer(optimizer, training.method.parameters(), **options))

    law, path = Augmentation(crop_padding=1, rotation=10.0), tmp_path / "last.pt"
    whole, first, second = fresh(), fresh(), fresh()
    options = {"law": law, "epochs": 4, "learning_rate": lambda step: 0.01 / (step + 1)}
    train(whole, images, **options)
    train(first, images, stop_epoch=2, on_epoch=lambda _: checkpoint.save(path, first.state_dict()), **options)
    second.load_state_dict(checkpoint.load(path, torch.device("cpu")))
    assert len(second.rows) == 2
    assert train(second, images, **options) == 2 * STEPS
    assert [row["epoch"] for row in second.rows] == [1, 2, 3, 4]
    assert second.rows == whole.rows
    assert second.images == whole.images
    assert_same_weights(whole, second)


def test_divergence_in_the_last_step_of_an_epoch_shows_in_the_evaluation(images):
    """All the losses of the epoch are finite; the weights that the last step leaves are not."""
    training, saved = build(student=nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))), []
    with pytest.raises(DivergedError, match=r"diverged in the last step of epoch 1 .* nll nan"):
        train(
            training,
            images,
            learning_rate=lambda step: math.inf if step == STEPS - 1 else 0.05,
            on_epoch=lambda _: saved.append(True),
        )
    assert (training.rows, saved) == ([], [])


def lockstep(trainings: list[Training], images: ResidentImages, *, epochs: int = 2, **changes) -> list[Exception]:
    """Trains them together, each with a dropout of its own; returns what went wrong."""
    failures: list[Exception] = []
    views = TrainingViews(images, Augmentation(crop_padding=1, rotation=10.0), batch_size=BATCH_SIZE, seed=0)
    stops = changes.pop("stops", [epochs] * len(trainings))
    members = [
        member(training, images, stop_epoch=stop, owner=Collecting(failures), **changes)
        for training, stop in zip(trainings, stops, strict=True)
    ]
    fit(members, views, EveryOtherRight(), seed=0)
    return failures


def test_what_fails_for_all_is_raised(images):
    class Silent(EveryOtherRight):
        def __call__(self, batch):
            raise RuntimeError("the teacher has gone")

    views = TrainingViews(images, Augmentation(), batch_size=BATCH_SIZE, seed=0)
    with pytest.raises(RuntimeError, match="the teacher has gone"):
        fit([member(build(Asking), images)], views, Silent(), seed=0)


def test_each_member_has_its_own_time_and_an_even_share_of_the_rest(images, monkeypatch):
    elapsed = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: elapsed[0])
    monkeypatch.setattr(EveryOtherRight, "__call__", lambda self, batch: elapsed.append(elapsed.pop() + 1.0))

    class Slow(Asking):
        def objective(self, student, batch, teacher):
            elapsed.append(elapsed.pop() + 5.0)
            return super().objective(student, batch, teacher)

    two = [build(), build(Slow)]
    lockstep(two, images, epochs=1)
    assert [training.seconds for training in two] == [STEPS * 0.5, STEPS * 5.5]
