"""Recipe: the models and views whose answers are averaged, and what becomes of them; config -> *recipe* -> network."""

import math
from collections.abc import Sequence
from dataclasses import replace

from segcore.config import PredictConfig
from segcore.errors import ConfigError
from segcore.inference.contract import check_alike
from segcore.inference.decision import KINDS, Decision, ids_of
from segcore.inference.dropout import has_dropout
