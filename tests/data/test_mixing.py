"""Erasing and mixing against torchvision: the same pixels and labels given the parameters, and their distribution."""

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from kdrun.data import Augmentation, ImageSet, ResidentImages, TrainingViews, epoch_order
from kdrun.data.mixing import draw_erasing, draw_mixing, erased, join_views, mixed_pairs
from kdrun.spec.augmentation import RandomErasing

CLASSES = 10
WHERE = {"seed": 3, "epoch": 1}
NUM = 3000
LEAST_P = 1e-3
"""Of a test of two samples of equal distribution: the draws are the same at every call of these tests."""

MIXTURES = [
    Augmentation(mixup_alpha=0.4),
    Augmentation(cutmix_alpha=1.0),
    Augmentation(mixup_alpha=0.2, cutmix_alpha=1.0),
]


def samples_agree(ours: torch.Tensor, theirs: list[float]) -> bool:
    return stats.ks_2samp(ours.tolist(), theirs, method="asymp").pvalue > LEAST_P


def images(num: int, height: int = 12, width: int = 12) -> torch.Tensor:
    """Normalised images in the layout that networks get."""
    x = torch.randn(num, 3, height, width, generator=torch.Generator().manual_seed(num))
    return x.contiguous(memory_format=torch.channels_last)


def test_erased_images_are_torchvisions():
    x, law = images(60, 12, 20), RandomErasing(p=0.7, scale=(0.02, 0.6))
    rows, columns = draw_erasing(law, torch.arange(60), 12, 20, **WHERE)
    made = erased(x.clone(), rows, columns)
    for image, view, (top, bottom), (left, right) in zip(x, made, rows.T.tolist(), columns.T.tolist(), strict=True):
        expected = functional.erase(image, top, left, bottom - top, right - left, torch.zeros(3, 1, 1))
        assert torch.equal(view, expected)
    assert made.stride() == x.stride()


@pytest.mark.parametrize(
    ("height", "width", "law"),
    [
        (40, 60, RandomErasing(p=1.0)),
        (32, 32, RandomErasing(p=0.25, scale=(0.1, 0.2), ratio=(0.5, 0.9))),
        (20, 40, RandomErasing(p=1.0, scale=(0.5, 1.0), ratio=(0.9, 1.1))),  # often none of ten fits
        (20, 40, RandomErasing(p=1.0, scale=(0.9, 1.0), ratio=(0.9, 1.1))),  # never
    ],
)
def test_rectangles_are_distributed_as_torchvisions(height, width, law):
    theirs = v2.RandomErasing(law.p, law.scale, law.ratio)
    image = torch.zeros(3, height, width)
    torch.manual_seed(0)
    drawn = [theirs.make_params([image]) for _ in range(NUM)]
    expected = [each for each in drawn if each["v"] is not None]
    rows, columns = draw_erasing(law, torch.arange(NUM), height, width, **WHERE)
    sizes = torch.stack([rows[1] - rows[0], columns[1] - columns[0]])
    erases = (sizes > 0).all(0)
    share = law.p * len(expected) / NUM
    assert (erases.float().mean() - share).abs() < 4 * (share * (1 - share) / NUM) ** 0.5 * 2**0.5 + 1e-9
    if expected:
        for ours, name in ((rows[0], "i"), (columns[0], "j"), (sizes[0], "h"), (sizes[1], "w")):
            assert samples_agree(ours[erases], [each[name] for each in expected]), name
        assert samples_agree((sizes[0].double() / sizes[1])[erases], [each["h"] / each["w"] for each in expected])
    assert torch.equal(rows.clamp(0, height), rows)
    assert torch.equal(columns.clamp(0, width), columns)


@pytest.mark.parametrize("law", MIXTURES)
def test_mixed_images_and_labels_are_torchvisions(law):
    """Each pair once with the parameters of its first image and once with those of its second."""
    x, y = images(40, 12, 20), torch.arange(40) % CLASSES
    made, *_, mixed = join_views([x], y, torch.arange(40), law, **WHERE)
    weights, own = draw_mixing(law, torch.arange(40), 12, 20, **WHERE)
    assert torch.equal(made, mixed_pairs(x, weights))
    assert made.stride() == x.stride()
    assert torch.equal(mixed.weight, own)
    ours, partners = (torch.nn.functional.one_hot(labels, CLASSES) for labels in (y, mixed.y))
    targets = ours * own[:, None] + partners * (1 - own[:, None])
    kinds = set()
    for row in range(40):
        pair = [row, row ^ 1]
        if weights[row].unique().numel() == 1 and law.mixup_alpha:
            theirs, params = v2.MixUp(num_classes=CLASSES), {"lam": float(own[row])}
            weight = params["lam"]
        else:
            black = (weights[row].expand(1, 12, 20)[0] == 0).nonzero()
            (y1, x1), (y2, x2) = (black.amin(0), black.amax(0) + 1) if len(black) else ((0, 0), (0, 0))
            weight = 1 - float((y2 - y1) * (x2 - x1)) / 240
            theirs, params = v2.CutMix(num_classes=CLASSES), {"box": (x1, y1, x2, y2), "lam_adjusted": weight}
        kinds.add(type(theirs))
        params |= {"labels": y[pair], "batch_size": 2}
        assert torch.equal(made[row], theirs.transform(x[pair], params)[0])
        expected = theirs._mixup_label(y[pair], lam=weight)[0]
        torch.testing.assert_close(targets[row], expected, rtol=0, atol=1e-7)
    assert len(kinds) == bool(law.mixup_alpha) + bool(law.cutmix_alpha)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_and_boxes_are_distributed_as_torchvisions(alpha):
    image, index = torch.zeros(2, 3, 24, 40), torch.arange(NUM)
    torch.manual_seed(0)
    mixup = [v2.MixUp(alpha=alpha).make_params([image])["lam"] for _ in range(NUM)]
    assert samples_agree(draw_mixing(Augmentation(mixup_alpha=alpha), index, 24, 40, **WHERE)[1], mixup)
    cutmix = [v2.CutMix(alpha=alpha).make_params([image]) for _ in range(NUM)]
    pixels, own = draw_mixing(Augmentation(cutmix_alpha=alpha), index, 24, 40, **WHERE)
    torch.testing.assert_close(own, pixels.mean((1, 2, 3)), rtol=0, atol=1e-6)
    assert samples_agree(own, [each["lam_adjusted"] for each in cutmix])
    for dim, (first, last) in ((3, (1, 3)), (2, (0, 2))):  # rows, columns of boxes that are not empty
        inside = (pixels == 0).any(dim)[:, 0]
        some = inside.any(1)
        ours = inside.int().argmax(1)[some]
        boxes = [each["box"] for each in cutmix if each["box"][3] > each["box"][1] and each["box"][2] > each["box"][0]]
        assert samples_agree(ours, [box[first] for box in boxes])
        assert samples_agree(inside.sum(1)[some], [box[last] - box[first] for box in boxes])
    both, _ = draw_mixing(Augmentation(mixup_alpha=alpha, cutmix_alpha=alpha), index, 24, 40, **WHERE)
    assert stats.binomtest(int((both != pixels).any(3).any(2).sum()), NUM).pvalue > LEAST_P


LAW = Augmentation(flip=True, random_erasing=RandomErasing(p=0.5), mixup_alpha=0.4, cutmix_alpha=1.0)


def resident(num: int) -> ResidentImages:
    pixels = torch.randint(0, 256, (num, 12, 12, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ResidentImages(ImageSet(pixels, torch.arange(num)), mean=(0.5,) * 3, std=(0.25,) * 3, device="cpu")


def test_partners_are_neighbours_in_the_order_of_the_epoch_whatever_the_batch():
    data = resident(22)
    seen = []
    for size in (4, 8, 22):
        steps = list(TrainingViews(data, LAW, batch_size=size, seed=3).epoch(1))
        x, y, index = (torch.cat(part) for part in list(zip(*steps, strict=True))[:3])
        partners, weight = (torch.cat(part) for part in zip(*(mixed for *_, mixed in steps), strict=True))
        order = epoch_order(22, seed=3, epoch=1)
        assert torch.equal(index, order)
        assert torch.equal(partners, data.labels[order.view(-1, 2).flip(1).flatten()])
        seen.append((x, y, weight))
    for other in seen[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(seen[0], other, strict=True))


def test_the_last_image_of_an_odd_batch_is_mixed_with_itself():
    x, y, index = images(5), torch.arange(5), torch.arange(5)
    made, _, _, mixed = join_views([x], y, index, Augmentation(mixup_alpha=0.4), **WHERE)
    assert mixed.y.tolist() == [1, 0, 3, 2, 4]
    torch.testing.assert_close(made[4], x[4])


def test_parts_of_a_batch_of_whole_pairs_are_made_as_in_the_batch():
    x, y, index = images(10), torch.arange(10), torch.arange(10) * 3
    whole, *_, mixed = join_views([x.clone()], y, index, LAW, **WHERE)
    part, *_, of_part = join_views([x[4:8].clone()], y[4:8], index[4:8], LAW, **WHERE)
    assert torch.equal(part, whole[4:8])
    assert torch.equal(of_part.y, mixed.y[4:8])
    assert torch.equal(of_part.weight, mixed.weight[4:8])


def test_each_view_of_an_image_is_erased_and_mixed_for_itself():
    x, y, index = images(10), torch.arange(10), torch.arange(10)
    alone, *_, first = join_views([x.clone()], y, index, LAW, **WHERE)
    both, labels, positions, mixed = join_views([x.clone(), x.clone()], y, index, LAW, **WHERE)
    assert torch.equal(both[:10], alone)
    assert not torch.equal(both[10:], alone)
    assert torch.equal(mixed.weight[:10], first.weight)
    assert not torch.equal(mixed.weight[10:], first.weight)
    assert torch.equal(mixed.y, first.y.repeat(2))
    assert torch.equal(labels, y.repeat(2))
    assert torch.equal(positions, index.repeat(2))


def test_without_erasing_and_mixing_a_batch_stays_as_it_is():
    x, y, index = images(4), torch.arange(4), torch.arange(4)
    made = join_views([x], y, index, Augmentation(flip=True, crop_scale=(0.5, 1.0)), **WHERE)
    assert made == (x, y, index, None)


@pytest.mark.gpu
def test_batches_are_the_same_on_the_gpu():
    x, y, index = images(301, 24, 40), torch.arange(301), torch.arange(301)
    expected = join_views([x.clone(), x.clone()], y, index, LAW, **WHERE)
    made = join_views([x.cuda(), x.cuda()], y.cuda(), index.cuda(), LAW, **WHERE)
    for here, there in zip((*expected[:3], *expected[3]), (*made[:3], *made[3]), strict=True):
        assert torch.equal(here, there.cpu())
