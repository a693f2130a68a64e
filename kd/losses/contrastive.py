"""Losses that tell a sample's own embedding from those of other samples, on rows [B, D] of length 1."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.checks import require
from kd.losses.precision import wide


def crd_loss(anchors: Tensor, positives: Tensor, negatives: Tensor, allowed: Tensor, *, temperature: float) -> Tensor:
    """``log(1 + e^−l⁺) + Σ log(1 + e^l⁻)``, averaged over the batch: are two of one sample, or met at random?

    One model's embedding is the anchor; the others are the other model's, and get no gradient. l is the pair's cosine
    divided by τ, less log m and log Z: m is the anchor's number of negatives, and Z what the exponential of the cosine
    over τ is on average for random directions in D dimensions. In float32 or better, inside autocast too.

    Args:
        anchors, positives: [B, D], rows of length 1; row i of both is of one sample.
        negatives: [M, D], rows of length 1.
        allowed: [B, M] bool, which negatives count for which anchor: those of other classes.
        temperature: τ > 0.

    Source: Tian et al. 2020, arXiv:1910.10699, equations 9 to 18, and the normalisation of the authors' code, where the
    size of the data set cancels out of the critic. They take for Z the mean of the first batch, among whose memory rows
    all directions are random: a constant of τ and D, up to chance, and here without it.
    """
    require(0 < temperature < math.inf, "temperature", temperature, "a finite number above 0", "the authors take 0.07")
    if anchors.shape != positives.shape or negatives.shape[1:] != anchors.shape[1:] or anchors.ndim != 2:
        raise ValueError(
            "anchors and positives must be [B, D] and negatives [M, D]. "
            f"Got {list(anchors.shape)}, {list(positives.shape)} and {list(negatives.shape)} instead."
        )
    expected = [len(anchors), len(negatives)]
    require(list(allowed.shape) == expected, "allowed", list(allowed.shape), f"{expected}, a row for each anchor")
    with torch.autocast(anchors.device.type, enabled=False):
        own, other, others = (wide(rows) for rows in (anchors, positives.detach(), negatives.detach()))
        noise = allowed.sum(dim=1).clamp(min=1).to(own.dtype).log() + log_partition(own.shape[1], temperature)
        same = (own * other).sum(dim=1) / temperature - noise
        different = own @ others.T / temperature - noise.unsqueeze(1)
        return (F.softplus(-same) + (F.softplus(different) * allowed).sum(dim=1)).mean()


@functools.cache
def log_partition(dimensions: int, temperature: float) -> float:
    """log Z = log E e^(cosine / τ) of two random directions in D dimensions; about 1 / 2Dτ² where D τ² is not small.

    Its power series, Σₖ (1 / 2τ)²ᵏ Γ(D / 2) / (k! Γ(k + D / 2)), whose terms are largest before k = 1 / 2τ.
    """
    half, terms = dimensions / 2, math.ceil(2 / temperature) + 100
    k = torch.arange(terms, dtype=torch.float64)
    logs = -2 * k * math.log(2 * temperature) + math.lgamma(half) - torch.lgamma(k + 1) - torch.lgamma(k + half)
    return float(logs.logsumexp(dim=0))
