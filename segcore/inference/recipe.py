"""Recipe: the models and views whose answers are averaged, and what becomes of them; config -> *recipe* -> network."""

import math
from collections.abc import Sequence
from dataclasses import replace

from segcore.config import PredictConfig
from segcore.errors import ConfigError
from segcore.geometry import rounded_up
from segcore.inference.contract import check_alike
from segcore.inference.decision import KINDS, Decision, ids_of
from segcore.inference.dropout import has_dropout
from segcore.inference.field import with_kept_field
from segcore.inference.job import ignore_of
from segcore.inference.numerics import Recipe
from segcore.inference.views import views_of
from segcore.models.package import ModelPackage, read_package
from segcore.store import Workspace


def recipe_of(ws: Workspace, config: PredictConfig, package: ModelPackage) -> Recipe:
    """Views, further models, samples and the decision that a config asks for.

    Raises:
        ConfigError: if it asks for what cannot be.
        ContractError: if a further model is not there, or not made for the same images and classes.
    """
    ensemble = tuple(with_kept_field(ws, read_package(ws, model), config.dry_run) for model in config.ensemble)
    for other in ensemble:
        check_alike(package, other)
    views = views_of(config.views, config.view_scales)
    names = [info.name for info in package.classes]
    unknown = [name for name in config.layer_classes if name not in names]
    if unknown:
        raise ConfigError(f"layer_classes: the model has the classes {', '.join(names)}, got '{unknown[0]}'")
    for model in (package, *ensemble) if config.samples else ():
        if not has_dropout(model.load_weights()):
            raise ConfigError(
                f"samples {config.samples}: expected a model with dropout, {model.model_id} has none; train one with "
                "--dropout 0.2, or leave samples out"
            )
    if set(config.thresholds) >= set(names):
        raise ConfigError("thresholds: leave out a class: what reaches no threshold takes the best of the rest")
    if config.layers and len(names) < 2:
        raise ConfigError(f"layers: need a model of several classes, got one, {names[0]}")
    if any(not 0.25 <= scale <= 4 for scale in config.view_scales):
        raise ConfigError(f"view_scales: expected scales from 0.25 to 4, got {config.view_scales}")
    asked = (*config.layers, *(("depth",) if package.info.instances is not None else ()))
    decision = Decision(
        num_classes=len(names),
        ignore=ignore_of(package),
        layers=tuple(kind for kind in KINDS if kind in asked),
        layer_classes=tuple(map(names.index, config.layer_classes or names)),
        layer_dtype=config.layer_dtype,
        thresholds=ids_of(config.thresholds, package.classes, "thresholds"),
        min_confidence=ids_of(config.min_confidence, package.classes, "min_confidence"),
    )
    recipe = Recipe(decision, ensemble, views, config.samples, can_compile=config.compile == "on")
    if decision.needs_variance and recipe.num_looks == 1:
        raise ConfigError(
            "layers: variance needs several views (`views`, `view_scales`), models (`ensemble`) or `samples`"
        )
    return recipe


def jointly(package: ModelPackage, ensemble: Sequence[ModelPackage]) -> ModelPackage:
    """The package, with a contract by which tiles suit all models of an ensemble: the widest halo, a common stride."""
    contracts = [each.contract for each in (package, *ensemble)]
    if len(contracts) == 1:
        return package
    stride = math.lcm(*(contract.stride for contract in contracts))
    stride_planes = math.lcm(*(contract.stride_planes for contract in contracts))
    fields = [contract.receptive_px for contract in contracts]
    planes = [contract.receptive_planes for contract in contracts]
    joint = package.contract.model_copy(
        update={
            "stride": stride,
            "stride_planes": stride_planes,
            "tile_px": rounded_up(package.contract.tile_px, stride),
            "halo_px": rounded_up(max(contract.halo_px for contract in contracts), stride),
            "tile_planes": rounded_up(package.contract.tile_planes, stride_planes),
            "halo_planes": rounded_up(max(contract.halo_planes for contract in contracts), stride_planes),
            "receptive_px": None if None in fields else max(px for px in fields if px is not None),
            "receptive_planes": max((n for n in planes if n is not None), default=None),
            "global_context": any(contract.global_context for contract in contracts),
        }
    )
    return replace(package, info=package.info.model_copy(update={"contract": joint}))
