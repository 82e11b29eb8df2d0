"""Metrics of classification: tensors in, numbers out. W sequences, C classes."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def classification_metrics(logits_WC: Tensor, labels_W: Tensor) -> dict[str, float]:
    """Compute the metrics of a classification; the predicted class has the highest logit, the first one of a tie.

    The counts are torchmetrics'; the ratios are computed from them here, in float64.

    Args:
        logits_WC: Logits or log-probabilities, finite.
        labels_W: The true classes, integers from 0 to C - 1.

    Returns:
        accuracy: the share of correct predictions.
        balanced_accuracy: the mean recall over the classes that occur in the labels, as in scikit-learn (Brodersen and
            others 2010).
        f1: the mean F1 over the classes that occur in the labels or the predictions.
        auroc: the area under the receiver operating characteristic; for more than two classes the mean over the
            classes, one against the rest. Missing if a class does not occur in the labels.
        log_loss: the mean negative log-likelihood, in nats.

    Raises:
        ValueError: If the shapes don't match, a logit is not finite, or a label is not one of the classes.
    """
    from torchmetrics.functional.classification import binary_auroc, multiclass_stat_scores  # the import takes seconds

    logits_WC, labels_W = _validate_classification(logits_WC, labels_W)
    C = logits_WC.size(1)
    counts_C5 = multiclass_stat_scores(logits_WC.argmax(1), labels_W, num_classes=C, average=None).double()
    tp_C, fp_C, _, fn_C, support_C = counts_C5.unbind(1)
    occurs_C = support_C + fp_C > 0
    metrics = {
        "accuracy": (tp_C.sum() / len(labels_W)).item(),
        "balanced_accuracy": (tp_C / support_C)[support_C > 0].mean().item(),
        "f1": (2 * tp_C / (2 * tp_C + fp_C + fn_C))[occurs_C].mean().item(),
    }
    if support_C.all():
        positives = range(1, 2) if C == 2 else range(C)
        areas = [binary_auroc(_ranks(logits_WC, label), (labels_W == label).long()).item() for label in positives]
        metrics["auroc"] = math.fsum(areas) / len(areas)
    metrics["log_loss"] = functional.cross_entropy(logits_WC, labels_W).item()
    return metrics


def confusion_matrix(logits_WC: Tensor, labels_W: Tensor) -> list[list[int]]:
    """Return the counts by actual class (row) and predicted class (column).

    Arguments and errors are those of `classification_metrics`.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    logits_WC, labels_W = _validate_classification(logits_WC, labels_W)
    counts: list[list[int]] = multiclass_confusion_matrix(logits_WC.argmax(1), labels_W, logits_WC.size(1)).tolist()
    return counts


def _validate_classification(logits_WC: Tensor, labels_W: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits in float64 and the labels as integers, if they are valid."""
    if logits_WC.dim() != 2 or labels_W.shape != logits_WC.shape[:1] or not len(labels_W) or logits_WC.size(1) < 2:
        raise ValueError(
            f"logits {tuple(logits_WC.shape)} and labels {tuple(labels_W.shape)} must be (sequences, classes) and "
            "(sequences), with at least one sequence and two classes"
        )
    if not logits_WC.isfinite().all():
        raise ValueError(f"the logits of sequence {_first_index(~logits_WC.isfinite().all(1))} are not finite")
    invalid_W = (labels_W < 0) | (labels_W >= logits_WC.size(1)) | (labels_W != labels_W.long())
    if invalid_W.any():
        first = _first_index(invalid_W)
        raise ValueError(
            f"the label of sequence {first} is {labels_W[first].item()}: with {logits_WC.size(1)} classes it must be "
            f"one of 0 to {logits_WC.size(1) - 1}"
        )
    return logits_WC.detach().double(), labels_W.long()


def _first_index(mask_W: Tensor) -> int:
    return int(mask_W.nonzero()[0])


def _ranks(logits_WC: Tensor, label: int) -> Tensor:
    """Return each sequence's rank by its odds for this class, (W), scaled to 0 to 1; equal odds have equal ranks.

    The area depends on the order only, which probabilities would not preserve: close to 1 they round to the same
    number. Equal odds may differ by a rounding error, so they are rounded to 12 decimals.
    """
    others = [other for other in range(logits_WC.size(1)) if other != label]
    odds_W = logits_WC[:, label] - logits_WC[:, others].logsumexp(1)
    ranks_W = torch.unique(odds_W.round(decimals=12), return_inverse=True)[1]
    scaled_W: Tensor = ranks_W.double() / max(1, int(ranks_W.max()))
    return scaled_W
