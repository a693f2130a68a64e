"""Losses as pure functions of tensors, one per paper. No config, no model, no device."""

from kd.losses.contrast import crd_loss as crd_loss
from kd.losses.maps import ab_loss as ab_loss
from kd.losses.maps import at_loss as at_loss
from kd.losses.maps import cat_loss as cat_loss
from kd.losses.maps import fsp_loss as fsp_loss
from kd.losses.maps import hcl_loss as hcl_loss
from kd.losses.maps import hint_loss as hint_loss
from kd.losses.maps import mgd_loss as mgd_loss
from kd.losses.maps import nst_loss as nst_loss
from kd.losses.maps import vid_loss as vid_loss
from kd.losses.relations import cc_loss as cc_loss
from kd.losses.relations import pkt_loss as pkt_loss
from kd.losses.relations import rkd_angle_loss as rkd_angle_loss
from kd.losses.relations import rkd_distance_loss as rkd_distance_loss
from kd.losses.relations import sp_loss as sp_loss
from kd.losses.response import dist_loss as dist_loss
from kd.losses.response import dkd_loss as dkd_loss
from kd.losses.response import kd_loss as kd_loss
from kd.losses.response import nkd_loss as nkd_loss
from kd.losses.response import ofa_loss as ofa_loss
from kd.losses.response import soft_cross_entropy as soft_cross_entropy
from kd.losses.response import standardised as standardised
from kd.losses.response import ttm_loss as ttm_loss
from kd.losses.response import virtual_logits as virtual_logits
from kd.losses.response import wsld_loss as wsld_loss
