"""Metrics of classification: tensors in, numbers out."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def classification_metrics(logits_WC: Tensor, labels_W: Tensor) -> dict[str, float]:
    """Judge classifications; the class with the highest logit, of equals the first, is what is predicted.

    torchmetrics counts; the shares are made of its counts here, in float64.

    Args:
        logits_WC: logits or log-probabilities, finite.
        labels_W: the classes that were right, 0 to C - 1, integers.

    Returns:
        accuracy: the share that is right.
        balanced_accuracy: the mean over the classes of the share found of each; over those that occur in the labels,
            as in scikit-learn (Brodersen and others 2010).
        f1: the mean over the classes of F1; over those that occur in the labels or the predictions.
        auroc: the area under the receiver operating characteristic; of more than two classes the mean of each against
            the rest. Left out where a class does not occur in the labels.
        log_loss: the mean negative log-likelihood, in nats.

    Raises:
        ValueError: if shapes don't fit, a logit is not finite, or a label is none of the classes.
    """
    from torchmetrics.functional.classification import binary_auroc, multiclass_stat_scores  # it takes seconds

    logits_WC, labels_W = _validate_classification(logits_WC, labels_W)
    C = logits_WC.size(1)
    counts_C5 = multiclass_stat_scores(logits_WC.argmax(1), labels_W, num_classes=C, average=None).double()
    right_C, false_C, _, missed_C, support_C = counts_C5.unbind(1)
    occurs_C = support_C + false_C > 0
    scores = {
        "accuracy": (right_C.sum() / len(labels_W)).item(),
        "balanced_accuracy": (right_C / support_C)[support_C > 0].mean().item(),
        "f1": (2 * right_C / (2 * right_C + false_C + missed_C))[occurs_C].mean().item(),
    }
    if support_C.all():
        judged = range(1, 2) if C == 2 else range(C)
        areas = [binary_auroc(_ranks(logits_WC, one), (labels_W == one).long()).item() for one in judged]
        scores["auroc"] = math.fsum(areas) / len(areas)
    scores["log_loss"] = functional.cross_entropy(logits_WC, labels_W).item()
    return scores


def confusion_matrix(logits_WC: Tensor, labels_W: Tensor) -> list[list[int]]:
    """How often a class (row) was taken for another (column); arguments and errors as of `label_scores`."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    logits_WC, labels_W = _validate_classification(logits_WC, labels_W)
    counts: list[list[int]] = multiclass_confusion_matrix(logits_WC.argmax(1), labels_W, logits_WC.size(1)).tolist()
    return counts


def _validate_classification(logits_WC: Tensor, labels_W: Tensor) -> tuple[Tensor, Tensor]:
    """Logits in float64 and labels, if they are what `label_scores` takes."""
    if logits_WC.dim() != 2 or labels_W.shape != logits_WC.shape[:1] or not len(labels_W) or logits_WC.size(1) < 2:
        raise ValueError(
            f"logits {tuple(logits_WC.shape)} and labels {tuple(labels_W.shape)} must be (sequences, classes) and "
            "(sequences), with one sequence and two classes or more"
        )
    if not logits_WC.isfinite().all():
        raise ValueError(f"the logits of sequence {_rank_of_first(~logits_WC.isfinite().all(1))} are not finite")
    wrong_W = (labels_W < 0) | (labels_W >= logits_WC.size(1)) | (labels_W != labels_W.long())
    if wrong_W.any():
        first = _rank_of_first(wrong_W)
        raise ValueError(
            f"the label of sequence {first} is {labels_W[first].item()}: with {logits_WC.size(1)} classes it must be "
            f"one of 0 to {logits_WC.size(1) - 1}"
        )
    return logits_WC.detach().double(), labels_W.long()


def _rank_of_first(true_W: Tensor) -> int:
    return int(true_W.nonzero()[0])


def _ranks(logits_WC: Tensor, one: int) -> Tensor:
    """Where each sequence stands by its odds for this class, (W) in 0 to 1, equals side by side.

    The area depends on their order only. Probabilities would not keep it: close to 1 they come out equal. Odds that are
    equal may come out a rounding apart, which is taken back.
    """
    rest = [other for other in range(logits_WC.size(1)) if other != one]
    odds_W = logits_WC[:, one] - logits_WC[:, rest].logsumexp(1)
    ranks_W = torch.unique(odds_W.round(decimals=12), return_inverse=True)[1]
    scaled_W: Tensor = ranks_W.double() / max(1, int(ranks_W.max()))
    return scaled_W
