"""Images that workers read, decode and augment: the bits of resident data, whatever the number of workers."""

import os
import signal

import pytest
import torch
from PIL import Image

from kdrun import stopping
from kdrun.data import (
    Augmentation,
    DataError,
    EncodedSet,
    Form,
    ImageSet,
    ResidentImages,
    StreamedImages,
    TrainingViews,
    Workers,
    augment,
    encoded_splits,
)
from kdrun.data import streamed as module
from kdrun.data.encoded import Files
from kdrun.data.image_views import view
from kdrun.spec.augmentation import ColorJitter, RandAugment

NUM, SIZE = 22, 12
LABELS = torch.arange(NUM) % 4
NORM = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.3], "device": "cpu"}
MOVES = Augmentation(crop_padding=2, flip=True, rotation=20.0)
LAWS = {
    "none": Augmentation(),
    "moves": MOVES,
    "randaugment": Augmentation(flip=True, rand_augment=RandAugment(num_ops=2)),
    "crop": Augmentation(flip=True, crop_scale=(0.2, 1.0), color_jitter=ColorJitter(brightness=0.4)),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> EncodedSet:
    """JPEGs and PNGs of many sizes, one of them grey."""
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for number in range(NUM):
        height, width = torch.randint(10, 40, (2,), generator=generator).tolist()
        pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
        image = Image.fromarray(pixels.numpy()).convert("L" if number == 3 else "RGB")
        image.save(root / f"{number}.{'jpg' if number % 2 else 'png'}")
    names = sorted((path.name for path in root.iterdir()), key=lambda name: int(name.split(".")[0]))
    return encoded_splits(Files(root, names), LABELS.tolist(), NUM, (), Form(SIZE, 3)).train


@pytest.fixture(scope="module")
def squares(images) -> torch.Tensor:
    return torch.stack([images.pixels(position) for position in range(NUM)])


@pytest.fixture(scope="module", params=[0, 2])
def pool(request, images, squares):
    """Workers for the files and for the decoded images."""
    workers = Workers([images, ImageSet(squares, LABELS)], request.param, pinned=False)
    yield workers
    workers.close()


def streamed(workers: Workers, number: int = 0) -> StreamedImages:
    return StreamedImages(workers.sets[number], workers, LABELS, **NORM)


def expected_view(images: EncodedSet, squares: torch.Tensor, position: int, law: Augmentation, **where: int):
    """One view by the definition of its law."""
    if law.per_image:
        image = images.pixels(position, whole=True) if law.crop_scale else squares[position]
        return view(image, law, position, size=SIZE, **where)
    return augment(squares, torch.tensor([position]), law, **where)[0]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("count", [1, 2])
def test_a_batch_has_the_views_of_its_images(images, squares, pool, law, count, monkeypatch):
    """Also where a batch is cut into pieces for several workers."""
    monkeypatch.setattr(module, "PIECE_BYTES", 3 * SIZE**2 * 3 * count)
    parts = (torch.tensor([5, 3, 21, 0, 8, 8, 13]), torch.tensor([1, 2]))
    found = list(streamed(pool).views(parts, LAWS[law], seed=7, epoch=2, count=count))
    assert [index.tolist() for _, _, index in found] == [part.tolist() for part in parts]
    for gathered, labels, index in found:
        assert labels.tolist() == LABELS[index].tolist()
        for number, pixels in enumerate(gathered):
            for position, pixel in zip(index.tolist(), pixels, strict=True):
                where = {"seed": 7, "epoch": 2, "number": number}
                assert torch.equal(pixel, expected_view(images, squares, position, LAWS[law], **where))


def test_epochs_and_evaluation_have_the_bits_of_resident_images(squares, pool):
    """In any order, also after an epoch that was not read to its end; the global generator is not used."""
    resident = ResidentImages(ImageSet(squares, LABELS), **NORM)
    options = {"batch_size": 5, "seed": 3, "views": 2}
    ours, theirs = (TrainingViews(each, MOVES, **options) for each in (streamed(pool), resident))
    state = torch.random.get_rng_state()
    next(ours.epoch(1))
    for epoch in (0, 4):
        for own, other in zip(ours.epoch(epoch), theirs.epoch(epoch), strict=True):
            assert all(torch.equal(*pair) for pair in zip(own[:3], other[:3], strict=True))
        parts = torch.arange(NUM).split(9)
        for number in (0, 1):
            found = list(streamed(pool, number).batches(parts))
            assert torch.equal(torch.cat(found), resident.batch(torch.arange(NUM)))
            assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_two_streams_at_once_are_a_defect(pool):
    first = streamed(pool).batches([torch.tensor([0]), torch.tensor([1])])
    next(first)
    next(streamed(pool).batches([torch.tensor([2])]))
    with pytest.raises(AssertionError):
        next(first)


def processes(workers: Workers) -> list:
    return workers._loader._iterator._workers


def test_workers_ignore_signals_to_the_group_and_end_with_the_pool(images):
    workers = Workers([images], 2, pinned=False)
    batches = streamed(workers).batches(torch.arange(NUM).split(2))
    next(batches)
    ours = processes(workers)
    for process in ours:
        for number in stopping.SIGNALS:
            os.kill(process.pid, number)
    assert sum(map(len, batches)) == NUM - 2
    workers.close()
    assert [process.exitcode for process in ours] == [0, 0]


def test_a_killed_worker_ends_the_stream_with_an_error(images):
    workers = Workers([images], 2, pinned=False)
    batches = streamed(workers).batches(torch.arange(NUM).split(1))
    next(batches)
    ours = processes(workers)
    os.kill(ours[0].pid, signal.SIGKILL)
    with pytest.raises(DataError, match="a process that reads images ended"):
        list(batches)
    workers.close()
    assert all(process.exitcode is not None for process in ours)


@pytest.mark.parametrize("number", [0, 1])
def test_an_image_that_changes_after_it_was_listed_is_an_error(tmp_path, data_home, number):
    for name, colour in (("0.png", 10), ("1.png", 20)):
        Image.new("RGB", (SIZE, SIZE), (colour, 0, 0)).save(tmp_path / name)
    found = encoded_splits(Files(tmp_path, ["0.png", "1.png"]), [0, 1], 2, (), Form(SIZE, 3)).train
    workers = Workers([found], number, pinned=False)
    batches = StreamedImages(found, workers, torch.arange(2), **NORM)
    assert len(found.content) == 2  # which lists them
    for _ in range(2):
        assert len(list(batches.batches([torch.tensor([0, 1])]))) == 1
        Image.new("RGB", (SIZE, SIZE), (20, 0, 0)).save(tmp_path / "1.png")  # the same
    Image.new("RGB", (SIZE, SIZE), (21, 0, 0)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match=r"1\.png: has changed"):
        list(batches.batches([torch.tensor([0, 1])]))
    workers.close()


def test_an_unreadable_image_is_named(images, tmp_path):
    for name, content in (("0.png", b"no image"), ("1.jpg", images.read(1)[:-200])):
        (tmp_path / name).write_bytes(content)
    damaged = encoded_splits(Files(tmp_path, ["0.png", "1.jpg", "gone.png"]), [0, 1, 2], 3, (), Form(SIZE, 3)).train
    workers = Workers([damaged], 2, pinned=False)
    for position in range(3):
        for law in (LAWS["none"], LAWS["crop"]):
            found = StreamedImages(damaged, workers, torch.arange(3), **NORM)
            with pytest.raises(DataError, match=rf"{damaged.name(position)}: cannot be read"):
                list(found.views([torch.tensor([position])], law, seed=0, epoch=0))
    workers.close()
