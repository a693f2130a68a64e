"""Contrastive losses of embeddings [B, D], rows of unit length."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.checks import require, require_samples
from kd.losses.precision import widen


def crd_loss(anchors: Tensor, positives: Tensor, negatives: Tensor, allowed: Tensor, *, temperature: float) -> Tensor:
    """Contrastive loss ``log(1 + e^−l⁺) + Σ log(1 + e^l⁻)``, averaged over the batch.

    It classifies pairs of embeddings as from the same sample or from different samples. One model provides the anchors;
    the other provides positives and negatives, which get no gradient. The logit of a pair is
    ``l = cosine / τ − log m − log Z``, with m the anchor's number of negatives and Z the expectation of e^(cosine / τ)
    for random directions in D dimensions. Computed in float32 or better, also inside autocast.

    Args:
        anchors, positives: [B, D], rows of unit length; row i of both belongs to the same sample.
        negatives: [M, D], rows of unit length.
        allowed: [B, M] bool, true for the negatives of each anchor: samples of other classes.
        temperature: τ > 0.

    Source: Tian et al. 2020, arXiv:1910.10699, equations 9 to 18, with the normalisation of the authors' code, where
    the size of the data set cancels out of the critic. The authors estimate Z as the mean over the first batch, while
    the memory is still random. Up to sampling noise this is a function of τ and D, which is computed exactly here.
    """
    require(0 < temperature < math.inf, "temperature", temperature, "a finite number above 0", "the authors use 0.07")
    if anchors.shape != positives.shape or negatives.shape[1:] != anchors.shape[1:] or anchors.ndim != 2:
        raise ValueError(
            "anchors and positives must have shape [B, D], and negatives [M, D]. "
            f"Got {list(anchors.shape)}, {list(positives.shape)} and {list(negatives.shape)} instead."
        )
    require_samples(len(anchors))
    expected = [len(anchors), len(negatives)]
    require(list(allowed.shape) == expected, "allowed", list(allowed.shape), f"of shape {expected}, one row per anchor")
    with torch.autocast(anchors.device.type, enabled=False):
        anchors, positives, negatives = (widen(rows) for rows in (anchors, positives.detach(), negatives.detach()))
        offsets = allowed.sum(dim=1).clamp(min=1).to(anchors.dtype).log() + log_partition(anchors.shape[1], temperature)
        positive_logits = (anchors * positives).sum(dim=1) / temperature - offsets
        negative_logits = anchors @ negatives.T / temperature - offsets.unsqueeze(1)
        return (F.softplus(-positive_logits) + (F.softplus(negative_logits) * allowed).sum(dim=1)).mean()


@functools.cache
def log_partition(dimensions: int, temperature: float) -> float:
    """Return log Z = log E e^(cosine / τ) for random directions in D dimensions; about 1 / 2Dτ² unless Dτ² is small.

    Computed by the power series Σₖ (1 / 2τ)²ᵏ Γ(D / 2) / (k! Γ(k + D / 2)); its terms peak before k = 1 / 2τ.
    """
    half, terms = dimensions / 2, math.ceil(2 / temperature) + 100
    k = torch.arange(terms, dtype=torch.float64)
    log_terms = -2 * k * math.log(2 * temperature) + math.lgamma(half) - torch.lgamma(k + 1) - torch.lgamma(k + half)
    return float(log_terms.logsumexp(dim=0))
