"""Table of all distillation methods; the command line, the tests and the docs are derived from it.

Does not import torch: factories are dotted names, which ``kd.methods`` resolves at first use.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

Setting = float | int | str


class Method(NamedTuple):
    """Description of a method.

    Attributes:
        factory: ``module:function`` with signature ``(student, teacher, example_batch, **settings) -> Objective``. It
            builds the method's parameters, if any, from the two models and the shapes of one batch.
        needs: inputs besides the samples: ``labels``; ``logits`` (the teacher's cached logits, third in the batch);
            ``teacher`` (the model itself, for its features); ``ids`` (of samples, last in the batch).
        settings: keyword arguments of the factory, with the authors' defaults.
        paper: authors, year and arXiv number, or the DOI if there is no arXiv number.
        reference: public implementation for comparison, and its licence.
        unlabelled: whether unlabelled samples are supported, because the method's own loss reads no labels.
    """

    factory: str
    needs: tuple[str, ...]
    settings: Mapping[str, Setting]
    paper: str
    reference: str
    unlabelled: bool = True


_LOGITS, _FEATURES = ("labels", "logits"), ("labels", "teacher")
_LAYERS: Mapping[str, Setting] = {"student_layers": "", "teacher_layers": ""}  # "" selects layers automatically

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "kd": Method(
            factory="kd.methods.response:kd",
            needs=_LOGITS,
            settings={"temperature": 5.0, "alpha": 0.5, "divergence": "forward"},
            paper="Hinton, Vinyals, Dean 2015, arXiv:1503.02531",
            reference="RepDistiller distiller_zoo/KD.py (BSD-2-Clause)",
        ),
        "soft-labels": Method(
            factory="kd.methods.response:soft_labels",
            needs=_LOGITS,
            settings={"temperature": 1.0, "alpha": 0.0},
            paper="Hinton, Vinyals, Dean 2015, arXiv:1503.02531",
            reference="big_vision trainers/proj/distill/distill.py (Apache-2.0), whose loss is the divergence",
        ),
        "dkd": Method(
            factory="kd.methods.response:dkd",
            needs=_LOGITS,
            settings={"temperature": 4.0, "alpha": 1.0, "beta": 8.0, "warmup": 1 / 12},
            paper="Zhao et al. 2022, arXiv:2203.08679",
            reference="mdistiller distillers/DKD.py (MIT)",
            unlabelled=False,
        ),
        "rld": Method(
            factory="kd.methods.response:rld",
            needs=_LOGITS,
            settings={"temperature": 4.0, "confidence_temperature": 1.0, "alpha": 1.0, "beta": 8.0, "warmup": 1 / 12},
            paper="Sun et al. 2024, arXiv:2408.07703",
            reference="none: the authors' code has no licence",
            unlabelled=False,
        ),
        "nkd": Method(
            factory="kd.methods.response:nkd",
            needs=_LOGITS,
            settings={"temperature": 1.0, "gamma": 1.5},
            paper="Yang et al. 2023, arXiv:2303.13005",
            reference="cls_KD mmcls/models/dis_losses/nkd.py (Apache-2.0)",
            unlabelled=False,
        ),
        "dist": Method(
            factory="kd.methods.response:dist",
            needs=_LOGITS,
            settings={"temperature": 4.0, "beta": 2.0, "gamma": 2.0},
            paper="Huang et al. 2022, arXiv:2205.10536",
            reference="`DIST_KD` segmentation/losses/dist_kd.py, mmrazor losses/dist_loss.py (Apache-2.0)",
        ),
        "lskd": Method(
            factory="kd.methods.response:lskd",
            needs=_LOGITS,
            settings={"temperature": 2.0, "hard": 0.1, "soft": 9.0},
            paper="Sun et al. 2024, arXiv:2403.01427",
            reference="torchdistill losses/mid_level.py (MIT); the authors' code has no licence",
        ),
        "lskd-dkd": Method(
            factory="kd.methods.response:lskd_dkd",
            needs=_LOGITS,
            settings={"temperature": 2.0, "hard": 1.0, "alpha": 9.0, "beta": 72.0, "warmup": 1 / 12},
            paper="Sun et al. 2024, arXiv:2403.01427",
            reference="the authors' code has no licence",
            unlabelled=False,
        ),
        "ttm": Method(
            factory="kd.methods.response:ttm",
            needs=_LOGITS,
            settings={"gamma": 0.1, "soft": 45.0},
            paper="Zheng, Yang 2024, arXiv:2402.11148",
            reference="TTM distiller_zoo/ttm.py (MIT)",
        ),
        "wttm": Method(
            factory="kd.methods.response:wttm",
            needs=_LOGITS,
            settings={"gamma": 0.2, "soft": 4.0},
            paper="Zheng, Yang 2024, arXiv:2402.11148",
            reference="TTM distiller_zoo/wttm.py (MIT)",
        ),
        "wsld": Method(
            factory="kd.methods.response:wsld",
            needs=_LOGITS,
            settings={"temperature": 2.0, "soft": 2.5},
            paper="Zhou et al. 2021, arXiv:2102.00650",
            reference="mmrazor losses/weighted_soft_label_distillation.py (Apache-2.0)",
            unlabelled=False,
        ),
        "ctkd": Method(
            factory="kd.methods.ctkd:ctkd",
            needs=_LOGITS,
            settings={"start": 1.0, "span": 20.0, "warmup": 1 / 24, "hard": 0.1, "soft": 0.9},
            paper="Li et al. 2023, arXiv:2211.16231",
            reference="CTKD models/temp_global.py, helper/loops.py (Apache-2.0)",
        ),
        "ofa": Method(
            factory="kd.methods.ofa:ofa",
            needs=_LOGITS,
            settings={"gamma": 1.0, "soft": 1.0, "exits": 1.0, "student_layers": ""},
            paper="Hao et al. 2023, arXiv:2310.19444",
            reference="none: the authors' code has no licence",
            unlabelled=False,
        ),
        "fitnet": Method(
            factory="kd.methods.fitnet:fitnet",
            needs=_FEATURES,
            settings={"weight": 100.0, **_LAYERS},
            paper="Romero et al. 2015, arXiv:1412.6550",
            reference="RepDistiller distiller_zoo/FitNet.py, models/util.py (BSD-2-Clause)",
        ),
        "at": Method(
            factory="kd.methods.feature:at",
            needs=_FEATURES,
            settings={"weight": 1000.0, "form": "code", **_LAYERS},
            paper="Zagoruyko, Komodakis 2017, arXiv:1612.03928",
            reference="RepDistiller distiller_zoo/AT.py (BSD-2-Clause)",
        ),
        "nst": Method(
            factory="kd.methods.feature:nst",
            needs=_FEATURES,
            settings={"weight": 50.0, **_LAYERS},
            paper="Huang, Wang 2017, arXiv:1707.01219",
            reference="RepDistiller distiller_zoo/NST.py (BSD-2-Clause)",
        ),
        "fsp": Method(
            factory="kd.methods.staged:fsp",
            needs=_FEATURES,
            settings={"weight": 50.0, "alone": 1 / 9, **_LAYERS},
            paper="Yim et al. 2017, doi:10.1109/CVPR.2017.754",
            reference="RepDistiller distiller_zoo/FSP.py (BSD-2-Clause)",
        ),
        "ab": Method(
            factory="kd.methods.staged:ab",
            needs=_FEATURES,
            settings={"weight": 0.003, "margin": 1.0, "alone": 1 / 9, **_LAYERS},
            paper="Heo et al. 2019, arXiv:1811.03233",
            reference="RepDistiller distiller_zoo/AB.py (BSD-2-Clause)",
        ),
        "ft": Method(
            factory="kd.methods.ft:ft",
            needs=_FEATURES,
            settings={"weight": 500.0, "rate": 0.5, "alone": 1 / 9, **_LAYERS},
            paper="Kim, Park, Kwak 2018, arXiv:1802.04977",
            reference="trailmet algorithms/distill/factor_transfer.py (MIT)",
        ),
        "sp": Method(
            factory="kd.methods.feature:sp",
            needs=_FEATURES,
            settings={"weight": 3000.0, **_LAYERS},
            paper="Tung, Mori 2019, arXiv:1907.09682",
            reference="RepDistiller distiller_zoo/SP.py (BSD-2-Clause)",
        ),
        "rkd": Method(
            factory="kd.methods.feature:rkd",
            needs=_FEATURES,
            settings={"distance": 25.0, "angle": 50.0, **_LAYERS},
            paper="Park et al. 2019, arXiv:1904.05068",
            reference="RepDistiller distiller_zoo/RKD.py (BSD-2-Clause)",
        ),
        "pkt": Method(
            factory="kd.methods.feature:pkt",
            needs=_FEATURES,
            settings={"weight": 30000.0, **_LAYERS},
            paper="Passalis, Tefas 2018, arXiv:1803.10837",
            reference="RepDistiller distiller_zoo/PKT.py (BSD-2-Clause)",
        ),
        "cc": Method(
            factory="kd.methods.feature:cc",
            needs=_FEATURES,
            settings={"weight": 100.0, "gamma": 0.4, "order": 2, **_LAYERS},
            paper="Peng et al. 2019, arXiv:1904.01802",
            reference="torchdistill losses/mid_level.py (MIT); RepDistiller distiller_zoo/CC.py is another loss",
        ),
        "vid": Method(
            factory="kd.methods.feature:vid",
            needs=_FEATURES,
            settings={"weight": 1.0, **_LAYERS},
            paper="Ahn et al. 2019, arXiv:1904.05835",
            reference="RepDistiller distiller_zoo/VID.py (BSD-2-Clause)",
        ),
        "reviewkd": Method(
            factory="kd.methods.reviewkd:reviewkd",
            needs=_FEATURES,
            settings={"weight": 5.0, "warmup": 1 / 12, **_LAYERS},
            paper="Chen et al. 2021, arXiv:2104.09044",
            reference="mdistiller distillers/ReviewKD.py (MIT)",
        ),
        "crd": Method(
            factory="kd.methods.crd:crd",
            needs=(*_FEATURES, "ids"),
            settings={"weight": 0.8, "temperature": 0.07, "momentum": 0.5, "negatives": 16384, "dim": 128, **_LAYERS},
            paper="Tian, Krishnan, Isola 2020, arXiv:1910.10699",
            reference="RepDistiller crd/criterion.py, crd/memory.py (BSD-2-Clause)",
            unlabelled=False,
        ),
        "embedding": Method(
            factory="kd.methods.embedding:embedding",
            needs=_FEATURES,
            settings={"distance": "cosine", **_LAYERS},
            paper="Navaneet et al. 2022, arXiv:2201.05131; Alain, Bengio 2016, arXiv:1610.01644",
            reference="probe: lightning-bolts callbacks/ssl_online.py (Apache-2.0), a perceptron with steps of its own",
        ),
        "mgd": Method(
            factory="kd.methods.feature:mgd",
            needs=_FEATURES,
            settings={"weight": 7e-5, "mask": 0.15, **_LAYERS},
            paper="Yang et al. 2022, arXiv:2205.01529",
            reference="cls_KD mmcls/models/dis_losses/mgd.py (Apache-2.0)",
        ),
        "semckd": Method(
            factory="kd.methods.semckd:semckd",
            needs=_FEATURES,
            settings={"weight": 400.0, **_LAYERS},
            paper="Chen et al. 2021, arXiv:2012.03236",
            reference="SimKD distiller_zoo/SemCKD.py, models/util.py (no licence file found)",
        ),
        "sdd": Method(
            factory="kd.methods.sdd:sdd",
            needs=_FEATURES,
            settings={"temperature": 4.0, "scales": "1,2,4", "hard": 0.1, "soft": 0.9, **_LAYERS},
            paper="Wei, Luo, Luo 2024, arXiv:2403.13512",
            reference="SDD-CVPR2024 mdistiller/distillers/KD.py, mdistiller/models/cifar/utils.py (MIT)",
            unlabelled=False,
        ),
        "cat-kd": Method(
            factory="kd.methods.cat_kd:cat_kd",
            needs=_FEATURES,
            settings={"weight": 15.0, "side": 2, **_LAYERS},
            paper="Guo et al. 2023, arXiv:2304.12777",
            reference="none: the authors' code has no licence",
        ),
        "label-smoothing": Method(
            factory="kd.methods.response:label_smoothing",
            needs=("labels",),
            settings={"smoothing": 0.1},
            paper="Szegedy et al. 2016, arXiv:1512.00567",
            reference="torch.nn.functional.cross_entropy (BSD-3-Clause)",
            unlabelled=False,
        ),
        "teacher-free": Method(
            factory="kd.methods.response:teacher_free",
            needs=("labels",),
            settings={"correct": 0.99, "temperature": 20.0, "alpha": 0.5},
            paper="Yuan et al. 2020, arXiv:1909.11723",
            reference="none: Teacher-free-Knowledge-Distillation my_loss_function.py (MIT) is another regulariser",
            unlabelled=False,
        ),
    }
)
