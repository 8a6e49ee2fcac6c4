"""Selection of images and sequences, and the checks on what a loader returns."""

import dataclasses
import itertools

import pytest
import torch

from kdrun.data import (
    DataError,
    ImageSet,
    SequenceSet,
    Splits,
    check_images,
    check_sequences,
    identity,
    relabelled,
    select,
    stratified_subset,
    synthetic,
)

COUNTS = (50, 7, 1, 200)  # images per class: unequal, one class with a single image
SHUFFLED = torch.randperm(258, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4).repeat_interleave(torch.tensor(COUNTS))[SHUFFLED]


@pytest.fixture
def splits() -> Splits:
    """Images that say their own position: image i has the two bytes of i as its pixels."""
    position = torch.arange(258)
    images = torch.stack([position // 256, position % 256], dim=1).to(torch.uint8).view(-1, 2, 1, 1)
    return Splits(ImageSet(images, LABELS), ImageSet(images[:9], LABELS[:9]), ("a", "b", "c", "d"))


def positions(image_set: ImageSet) -> list[int]:
    high, low = image_set.images.long().flatten(1).unbind(1)
    return (high * 256 + low).tolist()


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.77, 1.0])
def test_subset_has_the_same_share_of_every_class(fraction):
    index = stratified_subset(LABELS, fraction)
    expected = [max(1, int(fraction * count + 0.5)) for count in COUNTS]
    assert LABELS[index].bincount(minlength=4).tolist() == expected
    assert index.tolist() == sorted(set(index.tolist()))
    assert torch.equal(index, stratified_subset(LABELS, fraction))


def test_smaller_subset_lies_in_the_larger():
    subsets = [set(stratified_subset(LABELS, fraction).tolist()) for fraction in (0.05, 0.1, 0.3, 0.31, 0.9, 1.0)]
    assert all(small <= large for small, large in itertools.pairwise(subsets))


def test_subset_depends_on_the_seed_and_spreads_over_the_class():
    first, second = (stratified_subset(torch.zeros(10_000, dtype=torch.long), 0.1, seed) for seed in (0, 1))
    # Two independent choices of 1000 out of 10000 share 100 +- 9; the mean position is 5000 +- 87.
    assert 50 < len(set(first.tolist()) & set(second.tolist())) < 150
    assert abs(first.double().mean() - 5000) < 500


def test_selecting_nothing_gives_everything(splits):
    selected = select(splits)
    assert selected.train is splits.train
    assert selected.val is None
    assert selected.test is splits.test


def test_validation_is_disjoint_stratified_and_independent_of_the_rest(splits):
    selected = select(splits, val_fraction=0.2)
    train, val = positions(selected.train), positions(selected.val)
    assert sorted(train + val) == list(range(258))
    # Of the class with a single image nothing can be held out.
    assert selected.val.labels.bincount(minlength=4).tolist() == [10, 1, 0, 40]
    smaller = select(splits, val_fraction=0.2, train_fraction=0.1, classes=[0, 3])
    assert positions(smaller.val) == val
    assert set(positions(smaller.train)) < set(train)
    assert smaller.train.labels.bincount(minlength=4).tolist() == [4, 0, 0, 16]
    assert smaller.test is splits.test


def test_a_class_keeps_a_training_image_whatever_is_held_out(splits):
    selected = select(splits, val_fraction=0.99)
    assert selected.train.labels.bincount(minlength=4).tolist() == [1, 1, 1, 2]


def test_classes_restrict_only_the_training_images(splits):
    selected = select(splits, classes=[3, 1])
    assert positions(selected.train) == ((LABELS == 1) | (LABELS == 3)).nonzero().flatten().tolist()
    assert torch.equal(selected.train.labels, LABELS[(LABELS == 1) | (LABELS == 3)])


DESCRIPTION = {"num_classes": 3, "in_channels": 3, "image_size": 4}
GOOD = synthetic(**DESCRIPTION, train_size=6, test_size=6)


def with_train(images: torch.Tensor, labels: torch.Tensor) -> Splits:
    return dataclasses.replace(GOOD, train=ImageSet(images, labels))


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (dataclasses.replace(GOOD, class_names=("one", "two")), "dataset.num_classes=3, but the data has 2"),
        (with_train(GOOD.train.images[:, :, :3], GOOD.train.labels), "training images: .* dataset.image_size=4"),
        (with_train(GOOD.train.images.float(), GOOD.train.labels), "training images: torch.float32"),
        (with_train(GOOD.train.images, GOOD.train.labels[:5]), "with 5 labels"),
        (with_train(GOOD.train.images, GOOD.train.labels.int()), "training labels: torch.int32"),
        (with_train(GOOD.train.images, GOOD.train.labels + 1), "labels run from 1 to 3, .* allows 0 to 2"),
        (with_train(GOOD.train.images, GOOD.train.labels - 1), "labels run from -1 to 1"),
        (with_train(GOOD.train.images, GOOD.train.labels * 0), "one class"),
        (with_train(GOOD.train.images[:1], GOOD.train.labels[:1]), r"training set has 1 example\(s\)"),
        (dataclasses.replace(GOOD, test=ImageSet(GOOD.test.images[:0], GOOD.test.labels[:0])), "test set has 0"),
    ],
)
def test_check_names_what_is_wrong(splits, message):
    check_images(GOOD, **DESCRIPTION)  # accepts what is described
    with pytest.raises(DataError, match=message):
        check_images(splits, **DESCRIPTION)


def test_identity_covers_pixels_labels_and_names():
    changed_pixel = GOOD.test.images.clone()
    changed_pixel[-1, -1, -1, -1] ^= 1
    variants = [
        GOOD,
        dataclasses.replace(GOOD, test=ImageSet(changed_pixel, GOOD.test.labels)),
        with_train(GOOD.train.images, GOOD.train.labels.flip(0)),
        dataclasses.replace(GOOD, class_names=("x", "y", "z")),
    ]
    assert len({identity(splits) for splits in variants}) == len(variants)
    copy = dataclasses.replace(GOOD, train=ImageSet(GOOD.train.images.clone(), GOOD.train.labels.clone()))
    assert identity(copy) == identity(GOOD)


def test_a_specialist_trains_on_its_classes_and_as_many_others(splits):
    chosen = select(splits, special=(1, 0))
    counts = chosen.train.labels.bincount(minlength=4)
    assert counts[:2].tolist() == [50, 7]
    assert counts[2:].sum() == 57
    assert len(set(positions(chosen.train))) == 114
    assert positions(chosen.test) == positions(splits.test)
    assert select(splits, special=(3,)).train.labels.bincount().tolist() == list(COUNTS), "all of the rest, where few"
    half = select(splits, special=(1, 0), train_fraction=0.5)
    fraction = half.train.labels.bincount(minlength=4)
    assert (fraction[:2].tolist(), fraction[2:].sum()) == ([25, 4], 29)
    assert (chosen.rest, half.rest) == ((57, 201), (29, 101))
    assert select(splits, special=(3,)).rest == (sum(COUNTS[:3]),) * 2
    assert select(splits).rest is None


def test_the_others_of_a_specialist_are_drawn_by_its_seed(splits):
    first, again, other = (select(splits, special=(1, 0), special_seed=seed).train for seed in (3, 3, 4))
    assert positions(first) == positions(again) != positions(other)
    own = set(positions(select(splits, classes=(0, 1)).train))
    assert own <= set(positions(first)) & set(positions(other)), "of its classes it has all images"


@pytest.mark.parametrize(
    ("special", "counts"), [((3,), "0 training .* of these and 57 of"), ((0, 1), "57 .* and 0 of")]
)
def test_a_specialist_without_images_of_one_kind_is_refused(splits, special, counts):
    with pytest.raises(DataError, match=rf"specialist for classes \[.*\] has {counts}.* at least one of each"):
        select(splits, classes=(0, 1), special=special)


def test_labels_become_the_numbers_of_outputs():
    labels = torch.tensor([0, 1, 2, 3, 2])
    assert relabelled(labels, [(2,), (0,), (1, 3)]).tolist() == [1, 2, 0, 2, 0]
    assert torch.equal(relabelled(labels, [(0,), (1,), (2,), (3,)]), labels)


def sequences(per_token: bool) -> Splits:
    """Sequences whose first token says their own position; of the classes of `LABELS`, or with a label a token."""
    tokens = torch.arange(258)[:, None] + torch.tensor([0, 300, 600])
    labels = tokens % 4 if per_token else LABELS
    return Splits(SequenceSet(tokens, labels), SequenceSet(tokens[:9], labels[:9]), ("a", "b", "c", "d"))


def test_sequences_are_chosen_as_images_of_the_same_labels_are(splits):
    options = {"val_fraction": 0.2, "train_fraction": 0.3}
    chosen, images = select(sequences(per_token=False), **options), select(splits, **options)
    for part, alike in ((chosen.train, images.train), (chosen.val, images.val)):
        assert part.tokens[:, 0].tolist() == positions(alike)
        assert torch.equal(part.labels, alike.labels)


def test_of_sequences_with_a_label_a_token_the_shares_are_of_all_together():
    text = sequences(per_token=True)
    chosen, smaller = (select(text, val_fraction=0.25, train_fraction=share) for share in (1.0, 0.5))
    assert (len(chosen.train), len(chosen.val), len(smaller.train)) == (258 - 65, 65, 97)  # 64.5 and 96.5, half up
    train, val, half = (set(part.tokens[:, 0].tolist()) for part in (chosen.train, chosen.val, smaller.train))
    assert (train | val, train & val) == (set(range(258)), set())
    assert half < train
    assert torch.equal(smaller.val.tokens, chosen.val.tokens)
    for part in (chosen.train, chosen.val, smaller.train):
        assert torch.equal(part.labels, part.tokens % 4), "each sequence keeps its labels"
    assert len(chosen.test) == 9


def of_tokens(**changes: torch.Tensor) -> Splits:
    """Four sequences of three tokens out of 1,000, of four classes."""
    whole = {"tokens": torch.arange(12).view(4, 3), "labels": torch.arange(4), **changes}
    part = SequenceSet(**whole)
    return Splits(part, part, ("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("splits", "changes", "message"),
    [
        (of_tokens(), {"num_classes": 5}, "dataset.num_classes=5, but the data has 4 class names"),
        (GOOD, {"num_classes": 3}, "training set has no sequences, but dataset.num_tokens=12 needs some"),
        (of_tokens(tokens=torch.zeros(4, 3)), {}, "training tokens: torch.float32"),
        (of_tokens(), {"length": 4}, r"training tokens: .*\[4, 3\], but dataset.length=4 .*\[4, 4\]"),
        (of_tokens(labels=torch.arange(3)), {}, "with 3 labels"),
        (of_tokens(labels=torch.arange(4).int()), {}, "training labels: torch.int32"),
        (of_tokens(), {"per_token": True}, r"labels: .*\[4\], but dataset.per_token=True means .*\[4, 3\]"),
        (of_tokens(labels=torch.zeros(4, 3).long()), {}, r"labels: .*\[4, 3\], but dataset.per_token=False"),
        (of_tokens(tokens=torch.zeros(1, 3).long(), labels=torch.zeros(1).long()), {}, r"has 1 example\(s\)"),
        (of_tokens(), {"num_tokens": 11}, "tokens run from 0 to 11, but dataset.num_tokens=11 allows 0 to 10"),
        (of_tokens(labels=torch.arange(4) - 1), {}, "labels run from -1 to 2, but dataset.num_classes=4"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_check_names_what_is_wrong_with_sequences(splits, changes, message):
    description = {"num_classes": 4, "num_tokens": 12, "length": 3, "per_token": False}
    check_sequences(of_tokens(), **description)  # accepts what is described, and per token
    check_sequences(of_tokens(labels=torch.zeros(4, 3).long()), **{**description, "per_token": True})
    with pytest.raises(DataError, match=message):
        check_sequences(splits, **{**description, **changes})


def test_images_and_sequences_are_told_apart_and_each_has_an_identity():
    with pytest.raises(DataError, match=r"training set has no images, but dataset.image_size=4 needs some"):
        check_images(dataclasses.replace(of_tokens(), class_names=("a", "b", "c")), **DESCRIPTION)
    later = torch.arange(12).view(4, 3) + 1
    variants = [of_tokens(), of_tokens(tokens=later), of_tokens(labels=torch.arange(4).flip(0))]
    assert len({identity(splits) for splits in variants}) == 3
