"""Metrics of a classifier, computed from logits on their own device; accuracies are in percent."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ECE_BINS = 15
MOST_ONE_HOT_BINS = 1000


def num_correct(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """The number of labels `[N]` among the k most probable classes of `logits [N, K]`; a 0-d int64 tensor.

    With fewer than k classes every label counts. Ties are resolved as `torch.topk` does.
    """
    top = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (top == labels[:, None]).sum()


def expected_calibration_error(logits: Tensor, labels: Tensor, *, bins: int = ECE_BINS) -> Tensor:
    """Expected calibration error (Guo et al. 2017, eq. 3) with equally wide bins over (0, 1]; in [0, 1].

    The weighted mean over the bins of |accuracy - mean confidence|. The number of bins matters: state it.
    """
    confidence, prediction = F.softmax(_wide(logits), dim=1).max(dim=1)
    correct = (prediction == labels).to(confidence.dtype)
    bin_index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    if bins > MOST_ONE_HOT_BINS:
        sums = torch.zeros(bins, dtype=torch.float64)
        return sums.index_add_(0, bin_index.cpu(), (correct - confidence).double().cpu()).abs().sum() / len(labels)
    # A product with the one-hot bins, unlike a scatter, adds in the same order every time on a GPU too.
    gaps = (correct - confidence) @ F.one_hot(bin_index, bins).to(confidence.dtype)
    return gaps.abs().sum() / len(labels)


def classification_metrics(logits: Tensor, labels: Tensor, *, labels_each: int = 1) -> dict[str, float]:
    """`top1` and `top5` in percent, `nll` in nats per image, `ece` in [0, 1] with 15 bins, `confidence` in [0, 1].

    Confidence is the mean over the images of the largest probability. Of examples with several labels, such as the
    tokens of a sequence, also `top1_se` in percent: the standard error of `top1` over test examples, see
    `standard_error_by_example`; of one example alone there is none.

    Args:
        logits: `[N, K]`, N at least 1.
        labels: `[N]`, int64.
        labels_each: of an example; the labels of an example follow one another.
    """
    values = torch.stack(
        [
            num_correct(logits, labels, 1),
            num_correct(logits, labels, 5),
            F.cross_entropy(_wide(logits), labels),
            expected_calibration_error(logits, labels),
            F.softmax(_wide(logits), dim=1).amax(dim=1).mean(),
        ]
    )
    correct1, correct5, *others = values.tolist()  # one transfer from the device
    shares = {"top1": 100 * correct1 / len(labels), "top5": 100 * correct5 / len(labels)}
    metrics = {**shares, **dict(zip(("nll", "ece", "confidence"), others, strict=True))}
    if labels_each > 1 and len(labels) > labels_each:
        metrics["top1_se"] = 100 * standard_error_by_example(logits.argmax(dim=1) == labels, labels_each)
    return metrics


def standard_error_by_example(hits: Tensor, labels_each: int) -> float:
    """Standard error of the mean of `hits [N]` over independent examples of `labels_each` labels.

    The labels of one example are not independent, so the share of hits of each example is one observation:
    s / sqrt(N / labels_each) with the sample deviation s of these shares. With a single label each it is the binomial
    sqrt(p (1 - p) / (N - 1)).
    """
    shares = hits.double().view(-1, labels_each).mean(dim=1)
    return float(shares.std() / len(shares) ** 0.5)


def num_agreeing(logits: Tensor, other: Tensor) -> Tensor:
    """The number of images on which two networks' logits `[N, K]` agree in the top class; a 0-d int64 tensor."""
    return (logits.argmax(dim=1) == other.argmax(dim=1)).sum()


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
