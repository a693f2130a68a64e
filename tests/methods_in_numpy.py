"""Reference implementation of the logit methods from their papers, in NumPy's float64, to test ``kd.losses``.

Each function takes the student's and the teacher's logits [B, K], labels [B] and the method's settings, and returns its
whole loss. The functions are slow and not stable for extreme logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float64]
Labels = NDArray[np.int64]


def softmax(row: Logits, temperature: float = 1.0) -> Logits:
    powers = np.exp(row / temperature - np.max(row / temperature))
    return np.asarray(powers / powers.sum())


def kl(p: Logits, q: Logits) -> float:
    return float(sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True) if a > 0))


def cross_entropy(p: Logits, q: Logits) -> float:
    return float(-sum(a * np.log(b) for a, b in zip(p, q, strict=True)))


def hard(row: Logits, label: int) -> float:
    return float(-np.log(softmax(row)[label]))


def mean(row_loss: Callable[[Logits, Logits, int], float], student: Logits, teacher: Logits, labels: Labels) -> float:
    return float(np.mean([row_loss(s, t, int(y)) for s, t, y in zip(student, teacher, labels, strict=True)]))


def diverge(p: Logits, q: Logits, divergence: str) -> float:
    """Return the divergence from its definition; ``share`` is what follows the colon."""
    name, _, given = divergence.partition(":")
    share = float(given or {"js": 0.5}.get(name, 0.1))
    if name == "js":
        mixed = share * p + (1 - share) * q
        return share * kl(p, mixed) + (1 - share) * kl(q, mixed)
    return {
        "forward": lambda: kl(p, q),
        "reverse": lambda: kl(q, p),
        "skew": lambda: kl(p, share * p + (1 - share) * q),
        "skew-reverse": lambda: kl(q, share * q + (1 - share) * p),
    }[name]()


def kd(
    student: Logits, teacher: Logits, labels: Labels, temperature: float, alpha: float, divergence: str = "forward"
) -> float:
    def row_loss(s: Logits, t: Logits, y: int) -> float:
        soft = temperature**2 * diverge(softmax(t, temperature), softmax(s, temperature), divergence)
        return alpha * hard(s, y) + (1 - alpha) * soft

    return mean(row_loss, student, teacher, labels)


def ctkd(
    student: Logits, teacher: Logits, labels: Labels, start: float, span: float, warmup: float, hard: float, soft: float
) -> float:
    """Uses the initial temperature; ``warmup`` affects its gradient only."""
    temperature = start + span / (1 + np.exp(-1.0))
    labelled, taught = (kd(student, teacher, labels, temperature, alpha) for alpha in (1.0, 0.0))
    return hard * labelled + soft * taught


def soft_labels(student: Logits, teacher: Logits, labels: Labels, temperature: float, alpha: float) -> float:
    def row_loss(s: Logits, t: Logits, y: int) -> float:
        soft = temperature**2 * cross_entropy(softmax(t, temperature), softmax(s, temperature))
        return alpha * hard(s, y) + (1 - alpha) * soft

    return mean(row_loss, student, teacher, labels)


def decoupled(row: Logits, label: int, temperature: float) -> tuple[Logits, Logits]:
    """Return the probabilities of (label or not, each of the other classes)"""
    p = softmax(row, temperature)
    others = np.delete(p, label)
    return np.array([p[label], others.sum()]), others / others.sum()


def dkd(
    student: Logits, teacher: Logits, labels: Labels, temperature: float, alpha: float, beta: float, warmup: float
) -> float:
    def row_loss(s: Logits, t: Logits, y: int) -> float:
        (bs, os), (bt, ot) = decoupled(s, y, temperature), decoupled(t, y, temperature)
        return hard(s, y) + temperature**2 * (alpha * kl(bt, bs) + beta * kl(ot, os))

    return mean(row_loss, student, teacher, labels)


def rld(
    student: Logits,
    teacher: Logits,
    labels: Labels,
    temperature: float,
    confidence_temperature: float,
    alpha: float,
    beta: float,
    warmup: float,
) -> float:
    def row_loss(s: Logits, t: Logits, y: int) -> float:
        q, p = softmax(s, confidence_temperature)[y], softmax(t, confidence_temperature).max()
        confidence = confidence_temperature**2 * kl(np.array([p, 1 - p]), np.array([q, 1 - q]))
        below = t < t[y]
        ranks = kl(softmax(t[below], temperature), softmax(s[below], temperature)) if below.any() else 0.0
        return hard(s, y) + alpha * confidence + beta * temperature**2 * ranks

    return mean(row_loss, student, teacher, labels)


def nkd(student: Logits, teacher: Logits, labels: Labels, temperature: float, gamma: float) -> float:
    def row_loss(s: Logits, t: Logits, y: int) -> float:
        (_, os), (_, ot) = decoupled(s, y, temperature), decoupled(t, y, temperature)
        target = -softmax(t)[y] * np.log(softmax(s)[y])
        return float(hard(s, y) + target + gamma * temperature**2 * cross_entropy(ot, os))

    return mean(row_loss, student, teacher, labels)


def dist(student: Logits, teacher: Logits, labels: Labels, temperature: float, beta: float, gamma: float) -> float:
    q, p = (np.array([softmax(row, temperature) for row in logits]) for logits in (student, teacher))

    def far(a: Logits, b: Logits) -> float:
        a, b = a - a.mean(), b - b.mean()
        return 1 - float((a * b).sum() / (np.sqrt((a**2).sum()) * np.sqrt((b**2).sum()) + 1e-8))

    between = np.mean([far(a, b) for a, b in zip(q, p, strict=True)])
    within = np.mean([far(a, b) for a, b in zip(q.T, p.T, strict=True)])
    labelled = mean(lambda s, _, y: hard(s, y), student, teacher, labels)
    return float(labelled + temperature**2 * (beta * between + gamma * within))


def z_scores(logits: Logits) -> Logits:
    return np.array([(row - row.mean()) / (row.std(ddof=1) + 1e-7) for row in logits])


def lskd(student: Logits, teacher: Logits, labels: Labels, temperature: float, hard: float, soft: float) -> float:
    labelled = kd(student, teacher, labels, temperature=1, alpha=1)
    return hard * labelled + soft * kd(z_scores(student), z_scores(teacher), labels, temperature=temperature, alpha=0)


def lskd_dkd(
    student: Logits,
    teacher: Logits,
    labels: Labels,
    temperature: float,
    hard: float,
    alpha: float,
    beta: float,
    warmup: float,
) -> float:
    student_scores, teacher_scores = z_scores(student), z_scores(teacher)
    decoupled_alone = dkd(student_scores, teacher_scores, labels, temperature, alpha, beta, warmup) - kd(
        student_scores, teacher_scores, labels, 1, 1
    )
    return hard * kd(student, teacher, labels, 1, 1) + decoupled_alone


def ttm(student: Logits, teacher: Logits, labels: Labels, gamma: float, soft: float) -> float:
    def row_loss(s: Logits, t: Logits, y: int) -> float:
        power = softmax(t) ** gamma
        return hard(s, y) + soft * kl(power / power.sum(), softmax(s))

    return mean(row_loss, student, teacher, labels)


def wttm(student: Logits, teacher: Logits, labels: Labels, gamma: float, soft: float) -> float:
    def row_loss(s: Logits, t: Logits, y: int) -> float:
        power = softmax(t) ** gamma
        return float(hard(s, y) + soft * power.sum() * kl(power / power.sum(), softmax(s)))

    return mean(row_loss, student, teacher, labels)


def wsld(student: Logits, teacher: Logits, labels: Labels, temperature: float, soft: float) -> float:
    def row_loss(s: Logits, t: Logits, y: int) -> float:
        weight = 1 - np.exp(-hard(s, y) / (hard(t, y) + 1e-7))
        softened = temperature**2 * cross_entropy(softmax(t, temperature), softmax(s, temperature))
        return float(hard(s, y) + soft * weight * softened)

    return mean(row_loss, student, teacher, labels)


def label_smoothing(student: Logits, teacher: Logits, labels: Labels, smoothing: float) -> float:
    def row_loss(s: Logits, t: Logits, y: int) -> float:
        target = np.full(len(s), smoothing / len(s))
        target[y] += 1 - smoothing
        return cross_entropy(target, softmax(s))

    return mean(row_loss, student, teacher, labels)


def teacher_free(
    student: Logits, teacher: Logits, labels: Labels, correct: float, temperature: float, alpha: float
) -> float:
    def row_loss(s: Logits, t: Logits, y: int) -> float:
        virtual = np.full(len(s), (1 - correct) / (len(s) - 1))
        virtual[y] = correct
        softened = virtual ** (1 / temperature)
        soft = temperature**2 * kl(softened / softened.sum(), softmax(s, temperature))
        return alpha * hard(s, y) + (1 - alpha) * soft

    return mean(row_loss, student, teacher, labels)


def ofa(
    student: Logits, teacher: Logits, labels: Labels, gamma: float, soft: float, exits: float, student_layers: str
) -> float:
    """Covers students without exits only."""
    assert not student_layers

    def row_loss(s: Logits, t: Logits, y: int) -> float:
        weights = [(p + (k == y)) ** gamma - (k == y) for k, p in enumerate(softmax(t))]
        return hard(s, y) + soft * cross_entropy(np.array(weights), softmax(s))

    return mean(row_loss, student, teacher, labels)


REFERENCE: Mapping[str, Callable[..., float]] = {
    "kd": kd,
    "soft-labels": soft_labels,
    "dkd": dkd,
    "rld": rld,
    "nkd": nkd,
    "dist": dist,
    "lskd": lskd,
    "lskd-dkd": lskd_dkd,
    "ttm": ttm,
    "wttm": wttm,
    "wsld": wsld,
    "ctkd": ctkd,
    "ofa": ofa,
    "label-smoothing": label_smoothing,
    "teacher-free": teacher_free,
}
