"""Config: one frozen model per stage, shared by the command line, the YAML file and the Prefect form."""

from segcore.config.base import StageConfig, build_config, load_yaml, unknown_key
from segcore.config.clean import CleanConfig
from segcore.config.drift import DriftConfig
from segcore.config.explain import ExplainConfig
from segcore.config.ingest import IngestConfig, escaped, parse_shares
from segcore.config.measure import MeasureConfig
from segcore.config.nightly import NightlyConfig
from segcore.config.predict import RESERVED_NAMES, PredictConfig
from segcore.config.refine import RefineConfig, parse_radius, parse_size
from segcore.config.results import ExportConfig, ReportConfig, ScoreConfig
from segcore.config.retrain import RetrainConfig
from segcore.config.train import PreviewConfig, TrainConfig
from segcore.config.tune import TuneConfig
from segcore.config.view import ViewConfig

STAGES: dict[str, type[StageConfig]] = {
    "ingest": IngestConfig,
    "train": TrainConfig,
    "tune": TuneConfig,
    "predict": PredictConfig,
    "explain": ExplainConfig,
    "drift": DriftConfig,
    "refine": RefineConfig,
    "score": ScoreConfig,
    "measure": MeasureConfig,
    "report": ReportConfig,
    "export": ExportConfig,
    "clean": CleanConfig,
}

__all__ = [
    "RESERVED_NAMES",
    "STAGES",
    "CleanConfig",
    "DriftConfig",
    "ExplainConfig",
    "ExportConfig",
    "IngestConfig",
    "MeasureConfig",
    "NightlyConfig",
    "PredictConfig",
    "PreviewConfig",
    "RefineConfig",
    "ReportConfig",
    "RetrainConfig",
    "ScoreConfig",
    "StageConfig",
    "TrainConfig",
    "TuneConfig",
    "ViewConfig",
    "build_config",
    "escaped",
    "load_yaml",
    "parse_radius",
    "parse_shares",
    "parse_size",
    "unknown_key",
]
