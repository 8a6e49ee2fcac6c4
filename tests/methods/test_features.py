"""Methods of features and relations: what they compare by default, and whom their gradient moves."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kdrun import losses, models
from kdrun.methods import AT, FSP, RKD, Batch, FitNet, SimilarityPreserving, TeacherOutput
from kdrun.methods.base import Pair
from kdrun.taps import Outline, tapped
from tests.methods.small import LABELS, K, N, X, answer, network, outline_of

STAGES = ["layer1", "layer2", "layer3"]


def pair_of(student: nn.Module, teacher: nn.Module) -> Pair:
    return Pair(outline_of(student, "the_student"), outline_of(teacher, "the_teacher"), fresh=lambda: None)


PAIR = pair_of(network(0, 4, 6, 8), network(0, 4, 6, 8, depth=2))
WIDE = pair_of(network(0, 4, 6, 8), network(0, 8, 6, 12, depth=2))
VECTORS = pair_of(models.mlp(K, 3, image_size=8), models.mlp(K, 3, image_size=8))


@pytest.fixture
def batch() -> Batch:
    return Batch(X, LABELS, torch.arange(N), epoch=0, step=0, progress=0.0, generator=torch.Generator())


@pytest.fixture
def teacher() -> TeacherOutput:
    return answer(network(1, 4, 6, 8, depth=2).eval())


def build(kind: type, pair: Pair = PAIR, **options):
    student = network(0, 4, 6, 8)
    with torch.random.fork_rng():
        torch.manual_seed(2)  # of what else is learned
        return kind(student, pair, **options)


def features_of(method, batch: Batch) -> dict[str, torch.Tensor]:
    with tapped(method.student, ["stem", *STAGES, "pool"]) as features:
        method.student(batch.x)
    return features


def fsp_reference(ours, theirs) -> torch.Tensor:
    total = 0.0
    for first, last in (("stem", "layer1"), ("layer1", "layer2"), ("layer2", "layer3")):
        one, other = (losses.fsp_matrix(features[first], features[last]) for features in (ours, theirs))
        total = total + losses.fsp_loss(one, other)
    return total


EXPECTED = {
    AT: lambda m, s, t: 1000 * sum(losses.attention_transfer_loss(s[tap], t[tap]) for tap in STAGES),
    RKD: lambda m, s, t: (
        25 * losses.rkd_distance_loss(s["pool"], t["pool"]) + 50 * losses.rkd_angle_loss(s["pool"], t["pool"])
    ),
    SimilarityPreserving: lambda m, s, t: 3000 * losses.similarity_loss(s["layer3"], t["layer3"]),
    FitNet: lambda m, s, t: 100 * losses.hint_loss(m.regressor(s["layer2"]), t["layer2"]),
    FSP: lambda m, s, t: 0.001 * fsp_reference(s, t),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_objective_is_cross_entropy_and_the_weighed_term_at_the_default_taps(batch, teacher, kind):
    method = build(kind)
    found = method(batch, teacher)
    ce = losses.cross_entropy(found.logits, batch.y)
    term = EXPECTED[kind](method, features_of(method, batch), teacher.features)
    assert term > 1e-4
    assert_close(found.loss, ce + term)
    assert set(method.needs.features) <= set(teacher.features)
    assert found.terms.keys() == {"ce", method.term or method.name}


@pytest.mark.parametrize("kind", EXPECTED)
def test_gradients_reach_the_student_and_what_is_learned_with_it_alone(batch, teacher, kind):
    features = {name: tensor.clone().requires_grad_() for name, tensor in teacher.features.items()}
    method = build(kind, WIDE if kind is FSP else PAIR, **({"adapt": True} if kind is FSP else {}))
    if kind is FSP:
        features = answer(network(1, 8, 6, 12, depth=2).eval()).features
        features = {name: tensor.clone().requires_grad_() for name, tensor in features.items()}
    method(batch, TeacherOutput(teacher.logits, features)).loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.trained() if parameter.ndim > 1)
    assert all(tensor.grad is None for tensor in features.values())
    extra = {name.partition(".")[0] for name, _ in method.named_parameters()} - {"student"}
    assert extra == {FitNet: {"regressor"}, FSP: {"adapters"}}.get(kind, set())
    assert method.delivered().state_dict().keys() == network(0, 4, 6, 8).state_dict().keys()


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_taps_named_for_one_network_are_their_namesakes_in_the_other(side):
    other = {"student": "teacher", "teacher": "student"}[side]
    for kind in (AT, FSP):
        method = build(kind, **{f"{side}_taps": ("stem", "layer2")})
        assert method.taps == method.needs.features == ("stem", "layer2"), "not the last two"
    for kind in (RKD, SimilarityPreserving, FitNet):
        method = build(kind, **{f"{side}_tap": "layer1"})
        assert method.taps == method.needs.features == ("layer1",), "not the default"
    deep = "layer1.1.branch"  # where there is a second block
    swapped = dataclasses.replace(PAIR, student=PAIR.teacher, teacher=PAIR.student)
    pair = PAIR if side == "teacher" else swapped
    with pytest.raises(
        ValueError, match=rf"^{other}_taps: say them too, since the_student has no '{deep}' that is a fea"
    ):
        build(AT, pair, **{f"{side}_taps": ("stem", deep)})
    with pytest.raises(
        ValueError, match=rf"^{other}_tap: say it too, since the_student has no '{deep}' that is a feat"
    ):
        build(RKD, pair, **{f"{side}_tap": deep})


def test_a_namesake_is_of_the_same_kind():
    """A vector for a vector, a feature map for a feature map."""
    vectors = Outline("flat", {"layer1": (8,), "out": (K,)}, output=frozenset({"out"}))
    pair = dataclasses.replace(PAIR, teacher=vectors)
    with pytest.raises(ValueError, match=r"^teacher_tap: say it too, since flat has no 'layer1' that is a feature map"):
        build(RKD, pair, student_tap="layer1")
    assert build(RKD, pair, student_tap="layer1", teacher_tap="layer1").needs.features == ("layer1",)


def test_taps_named_for_both_networks_are_as_many(batch, teacher):
    with pytest.raises(ValueError, match="each tap needs its counterpart, got 1 and 2"):
        build(AT, student_taps=("layer1",), teacher_taps=("layer1", "layer2"))
    with pytest.raises(ValueError, match="an even number"):
        build(FSP, student_taps=("stem", "layer1", "layer2"), teacher_taps=("stem", "layer1", "layer2"))


def test_networks_of_other_depths_are_matched_by_the_sizes_of_their_maps():
    """Stages of 8, 4 and 2 pixels against 8, 4, 2 and 1, and against 4 and 2."""
    short, long = network(0, 4, 6, 8), network(0, 4, 6, 8, 10)
    pair = pair_of(short, long)
    assert build(AT, pair).needs.features == build(AT, pair).taps == ("layer1", "layer2", "layer3")
    assert build(AT, Pair(pair.teacher, pair.student, pair.fresh)).taps == ("layer1", "layer2", "layer3")
    assert build(FSP, pair).needs.features == ("stem", "layer1", "layer2", "layer3")
    assert build(FitNet, pair).needs.features == ("layer2",)
    assert build(SimilarityPreserving, pair).needs.features == ("layer4",), "the last, of any size"
    small = Outline("small", {"block1": (4, 4, 4), "block2": (6, 2, 2), "out": (K,)}, output=frozenset({"out"}))
    method = build(AT, dataclasses.replace(pair, teacher=small))
    assert (method.taps, method.needs.features) == (("layer2", "layer3"), ("block1", "block2"))
    assert not method.notices


def test_maps_of_different_sizes_are_told_and_maps_of_one_position_refused():
    assert not build(AT).notices
    assert not build(FitNet).notices
    method = build(AT, student_taps=("layer1", "layer2"), teacher_taps=("layer2", "layer2"))
    (notice,) = method.notices
    assert "layer1 8 x 8 with the teacher's layer2 4 x 4" in notice
    assert "layer2 4 x 4" not in notice.replace("teacher's layer2 4 x 4", "")
    (notice,) = build(FitNet, student_tap="layer1", teacher_tap="layer3").notices
    assert "layer1 8 x 8 with the teacher's layer3 2 x 2" in notice
    deep = pair_of(network(0, 4, 6, 8, 10), network(0, 4, 6, 8, 10))
    for taps in (("layer4", "layer4"), ("layer1", "layer4"), ("layer4", "layer3")):
        with pytest.raises(ValueError, match=r"^student_taps=\['layer\d'\]: .* 1 x 1 positions.* the loss is constant"):
            build(AT, deep, student_taps=taps[:1], teacher_taps=taps[1:])


def test_the_regressor_of_rep_distiller_has_a_relu(batch, teacher):
    """Its ConvReg: 1x1 convolution, BatchNorm, ReLU; of vectors there is none to choose."""
    method = build(FitNet, regressor_relu=True)
    convolution, norm, _ = method.regressor
    features = features_of(method, batch)["layer2"]
    regressed = nn.functional.relu(norm(nn.functional.conv2d(features, convolution.weight)))
    assert_close(method(batch, teacher).terms["hint"], (regressed - teacher.features["layer2"]).square().mean())
    with pytest.raises(ValueError, match=r"^regressor_relu=True: is of feature maps"):
        build(FitNet, VECTORS, regressor_relu=True)


def test_networks_without_feature_maps_give_vectors_or_are_refused():
    for kind in (RKD, SimilarityPreserving, FitNet):
        assert build(kind, VECTORS).taps == (VECTORS.student.vector,)
    for kind in (AT, FSP):
        with pytest.raises(
            ValueError, match=r"^student=the_student: has no feature maps .*; fitnet, rkd and sp take vectors"
        ):
            build(kind, VECTORS)
        with pytest.raises(ValueError, match=r"^teacher=the_teacher: has no feature maps"):
            build(kind, dataclasses.replace(VECTORS, student=PAIR.student))
    with pytest.raises(ValueError, match=r"^student_tap='pool', teacher_tap='layer2': must be two feature maps"):
        build(FitNet, student_tap="pool", teacher_tap="layer2")
    blind = dataclasses.replace(PAIR, teacher=Outline("one_layer", {"only": (K,)}, output=frozenset({"only"})))
    with pytest.raises(ValueError, match=r"^teacher_tap=None: one_layer has no tap of one vector"):
        build(RKD, blind)


@pytest.mark.parametrize("teacher_tap", ["layer1", "layer3"])
def test_hints_of_another_size_and_width_are_pooled_and_regressed(batch, teacher, teacher_tap):
    method = build(FitNet, student_tap="layer2", teacher_tap=teacher_tap)
    ours, theirs = losses.same_size(features_of(method, batch)["layer2"], teacher.features[teacher_tap])
    hint = method(batch, teacher).terms["hint"]
    assert_close(hint, (method.regressor(ours) - theirs).square().mean())


def test_channels_that_differ_are_refused_or_adapted_once_a_tap(batch):
    differing = r"layer1 has 4, the teacher's layer1 8; layer3 has 8, the teacher's layer3 12"
    with pytest.raises(ValueError, match=rf"^adapt=False: .*{differing}.*; adapt=true"):
        build(FSP, WIDE)
    method = build(FSP, WIDE, adapt=True)
    assert [type(adapter) for adapter in method.adapters] == [nn.Identity, nn.Conv2d, nn.Identity, nn.Conv2d]
    wide = answer(network(1, 8, 6, 12, depth=2).eval())
    ours = features_of(method, batch)
    adapted = {tap: adapter(ours[tap]) for tap, adapter in zip(["stem", *STAGES], method.adapters, strict=True)}
    assert_close(method(batch, wide).terms["fsp"], fsp_reference(adapted, wide.features))


def test_a_shuffled_teacher_is_the_teacher_with_its_channels_permuted(batch, teacher):
    method = build(FSP, shuffle_teacher=3)
    generator = torch.Generator().manual_seed(3)
    permuted = {
        tap: teacher.features[tap][:, torch.randperm(teacher.features[tap].shape[1], generator=generator)]
        for tap in ["stem", *STAGES]
    }
    term = method(batch, teacher).terms["fsp"]
    assert_close(term, build(FSP)(batch, TeacherOutput(teacher.logits, permuted)).terms["fsp"])
    assert term != build(FSP, shuffle_teacher=4)(batch, teacher).terms["fsp"]
    assert method.state_dict().keys() == build(FSP).state_dict().keys()


def gradients(method, objective) -> set[str]:
    """The modules that the objective moves."""
    method.zero_grad()
    objective.loss.backward()
    moved = (name.removeprefix("student.") for name, tensor in method.named_parameters() if tensor.grad is not None)
    return {name.partition(".")[0] for name in moved}


def test_fitnet_in_two_stages_first_moves_the_student_up_to_the_hint_then_all_of_it(batch, teacher):
    method = build(FitNet, stage1_epochs=2)
    found = method(batch, teacher)
    regressed = method.regressor(features_of(method, batch)["layer2"])
    assert_close(found.loss, (regressed - teacher.features["layer2"]).square().sum() / (2 * N))
    assert found.terms.keys() == {"hint"}
    assert gradients(method, found) == {"stem", "layer1", "layer2", "regressor"}
    assert method.stage1_recipe() == {"lr": 1e-4, "milestones": (0.714,), "gamma": 0.1}

    method.begin_stage2()
    for progress, weight in ((0.0, 4.0), (0.5, 2.5), (0.9, 1.3)):
        found = method(dataclasses.replace(batch, progress=progress), teacher)
        soft = nn.functional.kl_div(
            (found.logits / 3).log_softmax(1), (teacher.logits / 3).softmax(1), reduction="batchmean"
        )
        assert_close(found.loss, losses.cross_entropy(found.logits, batch.y) + weight * soft)
        assert found.terms.keys() == {"ce", "kd"}
    assert gradients(method, found) == {"stem", *STAGES, "classifier"}


def test_fsp_in_two_stages_is_first_the_matrices_alone_then_the_labels_alone(batch, teacher):
    method = build(FSP, stage1_epochs=2, stage1_lr=0.01, stage1_milestones=(0.2,), stage1_gamma=0.5, weight=3.0)
    found = method(batch, teacher)
    assert_close(found.loss, 3 * fsp_reference(features_of(method, batch), teacher.features))
    assert found.terms.keys() == {"fsp"}
    assert gradients(method, found) == {"stem", *STAGES}
    assert method.stage1_recipe() == {"lr": 0.01, "milestones": (0.2,), "gamma": 0.5}

    method.begin_stage2()
    found = method(batch, TeacherOutput(teacher.logits))  # whose features no longer matter
    assert torch.equal(found.loss, losses.cross_entropy(found.logits, batch.y))
    assert found.terms == {"ce": found.loss}
    assert gradients(method, found) == {"stem", *STAGES, "classifier"}
