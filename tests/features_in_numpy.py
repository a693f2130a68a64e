"""Reference implementation of the feature losses from their papers, in NumPy's float64, to test ``kd.losses``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]


def huber(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def hint(student: Array, teacher: Array) -> float:
    return float(np.mean((student - teacher) ** 2))


def attention(maps: Array) -> Array:
    """Return the attention of one sample's maps [C, H, W], a vector of unit length."""
    flat = (maps**2).sum(axis=0).ravel()
    return np.asarray(flat / np.sqrt((flat**2).sum()))


def at_code(student: Array, teacher: Array) -> float:
    differences = [attention(s) - attention(t) for s, t in zip(student, teacher, strict=True)]
    return float(np.mean(np.concatenate([d**2 for d in differences])))


def at_paper(student: Array, teacher: Array) -> float:
    differences = [attention(s) - attention(t) for s, t in zip(student, teacher, strict=True)]
    return float(np.mean([np.sqrt((d**2).sum()) for d in differences]))


def nst(student: Array, teacher: Array) -> float:
    def patterns(sample: Array) -> list[Array]:
        return [channel.ravel() / np.sqrt((channel**2).sum()) for channel in sample]

    def kernel(first: list[Array], second: list[Array]) -> float:
        return float(np.mean([(a @ b) ** 2 for a in first for b in second]))

    pairs = [(patterns(s), patterns(t)) for s, t in zip(student, teacher, strict=True)]
    return float(np.mean([kernel(s, s) + kernel(t, t) - 2 * kernel(s, t) for s, t in pairs]))


def layers(maps: Array) -> list[Array]:
    """Return three layers with two, two and one channels, of two sizes, from feature maps with three channels."""
    return [maps[:, :2], maps[:, 1:, :4, :3], maps[:, :1, :4, :3]]


def fsp(student: Array, teacher: Array) -> float:
    def flows(sample: Array) -> list[Array]:
        first, second, third = layers(sample)
        rows, columns = [slice(0, 2), slice(1, 3), slice(2, 4), slice(3, 5)], [slice(0, 2), slice(1, 4), slice(3, 5)]
        smaller = np.array([[first[..., r, c].mean(axis=(2, 3)) for c in columns] for r in rows]).transpose(2, 3, 0, 1)
        pairs = [(smaller, second), (second, third)]
        return [np.einsum("bihw,bjhw->bij", *pair) / (4 * 3) for pair in pairs]

    return sum(hint(s, t) for s, t in zip(flows(student), flows(teacher), strict=True))


def ab(student: Array, teacher: Array, margin: float = 1.0) -> float:
    total = 0.0
    for s, t in zip(student.ravel(), teacher.ravel(), strict=True):
        if t > 0 and s < margin:
            total += (s - margin) ** 2
        if t <= 0 and s > -margin:
            total += (s + margin) ** 2
    return total / len(student)


def ft(student: Array, teacher: Array) -> float:
    def scaled(sample: Array) -> Array:
        return sample.ravel() / np.sqrt((sample**2).sum())

    return float(np.mean([np.abs(scaled(s) - scaled(t)).mean() for s, t in zip(student, teacher, strict=True)]))


ATTENTION = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])  # of a student's two layers to a teacher's three


def semckd_layers(maps: Array) -> list[Array]:
    """Return maps for six pairs of layers, from feature maps with three channels."""
    return [maps, maps[:, :2], maps[:, 1:], maps[..., :3, :], maps[..., 1:], maps[:, :1]]


def semckd(student: Array, teacher: Array) -> float:
    total = 0.0
    for sample in range(len(student)):
        for index, weight in enumerate(ATTENTION.ravel()):
            s, t = (semckd_layers(maps[sample : sample + 1])[index] for maps in (student, teacher))
            total += weight * ((s - t) ** 2).mean()
    return float(total / (2 * len(student)))


def sdd(student: Array, teacher: Array, labels: NDArray[np.int64], temperature: float) -> float:
    def softmax(row: Array) -> Array:
        powers = np.exp((row - row.max()) / temperature)
        return np.asarray(powers / powers.sum())

    total = 0.0
    for student_rows, teacher_rows, label in zip(student, teacher, labels, strict=True):
        is_whole_correct = teacher_rows[0].argmax() == label
        for s, t in zip(student_rows, teacher_rows, strict=True):
            q, p = softmax(s), softmax(t)
            consistent = (t.argmax() == label) == is_whole_correct
            total += (1 if consistent else 2) * (p * np.log(p / q)).sum()
    return float(temperature**2 * total / (student.shape[0] * student.shape[1]))


def sp(student: Array, teacher: Array) -> float:
    def relation(rows: Array) -> Array:
        products = rows @ rows.T
        return np.array([row / np.sqrt((row**2).sum()) for row in products])

    return float(((relation(student) - relation(teacher)) ** 2).sum() / len(student) ** 2)


def rkd_distance(student: Array, teacher: Array) -> float:
    def relation(rows: Array) -> Array:
        count = len(rows)
        distances = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in rows] for a in rows])
        pairs = [distances[i, j] for i, j in itertools.permutations(range(count), 2)]
        return np.asarray(distances / np.mean(pairs))

    return float(np.mean([huber(d) for d in (relation(student) - relation(teacher)).ravel()]))


def rkd_angle(student: Array, teacher: Array) -> float:
    def cosine(rows: Array, i: int, j: int, k: int) -> float:
        if i in (j, k):
            return 0.0
        a, b = rows[j] - rows[i], rows[k] - rows[i]
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    triples = itertools.product(range(len(student)), repeat=3)
    return float(np.mean([huber(cosine(student, *t) - cosine(teacher, *t)) for t in triples]))


def pkt(student: Array, teacher: Array) -> float:
    def relation(rows: Array) -> Array:
        unit = [row / np.sqrt((row**2).sum()) for row in rows]
        near = np.array([[(a @ b + 1) / 2 for b in unit] for a in unit])
        return np.array([row / row.sum() for row in near])

    q, p = relation(student), relation(teacher)
    return float(np.mean(p * np.log((p + 1e-7) / (q + 1e-7))))


def cc(student: Array, teacher: Array) -> float:
    gamma = 0.4

    def kernel(rows: Array) -> Array:
        unit = [row / np.sqrt((row**2).sum()) for row in rows]
        series = [[1 + 2 * gamma * (a @ b) + 2 * gamma**2 * (a @ b) ** 2 for b in unit] for a in unit]
        return np.exp(-2 * gamma) * np.array(series)

    return float(((kernel(student) - kernel(teacher)) ** 2).sum() / len(student) ** 2)


def vid(means: Array, teacher: Array, variances: tuple[float, ...] = (0.5, 1.0, 2.0)) -> float:
    terms = [
        0.5 * ((teacher[i] - means[i]) ** 2 / variances[i[1]] + np.log(variances[i[1]]))
        for i in np.ndindex(means.shape)
    ]
    return float(np.mean(terms))


def mgd(generated: Array, teacher: Array) -> float:
    return float(np.mean([((g - t) ** 2).sum() for g, t in zip(generated, teacher, strict=True)]))


def fields(maps: Array, side: int) -> Array:
    """Return [B, C, side, side], average-pooled; windows overlap if ``side`` does not divide the size."""
    height, width = maps.shape[2:]

    def field(at: int, pixels: int) -> slice:
        return slice(at * pixels // side, -(-(at + 1) * pixels // side))

    rows = [[maps[:, :, field(i, height), field(j, width)].mean(axis=(2, 3)) for j in range(side)] for i in range(side)]
    return np.asarray(rows).transpose(2, 3, 0, 1)


def hcl(student: Array, teacher: Array) -> float:
    sides = [side for side in (4, 2, 1) if side < min(student.shape[2:])]
    levels = [hint(student, teacher), *(hint(fields(student, side), fields(teacher, side)) for side in sides)]
    weights = [0.5**level for level in range(len(levels))]
    return float(np.average(levels, weights=weights))


def cat(student: Array, teacher: Array) -> float:
    return hint(fields(student, 2), fields(teacher, 2))


def cat_normalised(student: Array, teacher: Array) -> float:
    def scaled(maps: Array) -> Array:
        pooled = fields(maps, 2)
        return np.array([[channel / np.sqrt((channel**2).sum()) for channel in sample] for sample in pooled])

    return hint(scaled(student), scaled(teacher))


def crd(anchors: Array, positives: Array, negatives: Array, allowed: NDArray[np.bool_], *, temperature: float) -> float:
    order, kappa = anchors.shape[1] / 2 - 1, 1 / temperature
    partition = special.gamma(order + 1) * (2 / kappa) ** order * special.iv(order, kappa)
    losses = []
    for anchor, positive, mask in zip(anchors, positives, allowed, strict=True):

        def probability(row: Array, anchor: Array = anchor, count: int = int(mask.sum())) -> float:
            """Return the probability that the row and the anchor belong to the same sample."""
            density = np.exp(anchor @ row / temperature) / partition
            return float(density / (density + count))

        negative_terms = [np.log(1 - probability(row)) for row, used in zip(negatives, mask, strict=True) if used]
        losses.append(-np.log(probability(positive)) - sum(negative_terms))
    return float(np.mean(losses))


MAPS: Mapping[str, Callable[[Array, Array], float]] = {
    "hint": hint,
    "at code": at_code,
    "at paper": at_paper,
    "vid": vid,
    "hcl": hcl,
    "nst": nst,
    "fsp": fsp,
    "ft": ft,
    "semckd": semckd,
    "cat": cat,
    "cat normalised": cat_normalised,
    "mgd": mgd,
}
ROWS: Mapping[str, Callable[[Array, Array], float]] = {
    "sp": sp,
    "rkd distance": rkd_distance,
    "rkd angle": rkd_angle,
    "pkt": pkt,
    "cc": cc,
}
