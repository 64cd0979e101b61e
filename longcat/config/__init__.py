"""The one configuration tree, and how presets, files and `--set` make it.

Every field says what it does in the line below it. A field marked `RUNTIME` cannot change the bytes of any artifact
(paths, worker counts, intervals of logging); every other one is part of the identity of the stage that reads it, see
`identity`.
"""

from longcat.config.benchmark import BenchmarkConfig, SweepConfig
from longcat.config.corpus import (
    CorpusConfig,
    LongDocumentsConfig,
    NearDuplicateConfig,
    PersonalData,
    QualityConfig,
    SourceConfig,
)
from longcat.config.evaluation import EvaluationConfig
from longcat.config.identity import identity
from longcat.config.load import all_keys, load_config, preset_names
from longcat.config.model import ModelConfig, NgramConfig, RopeScalingConfig, SparseAttentionConfig
from longcat.config.parallel import ParallelConfig
from longcat.config.section import RUNTIME
from longcat.config.training import (
    BalanceConfig,
    LossConfig,
    OptimizerConfig,
    Phase,
    TrainingConfig,
    target_ffn_experts,
)
from longcat.config.tree import PipelineConfig

__all__ = [
    "RUNTIME",
    "BalanceConfig",
    "BenchmarkConfig",
    "CorpusConfig",
    "EvaluationConfig",
    "LongDocumentsConfig",
    "LossConfig",
    "ModelConfig",
    "NearDuplicateConfig",
    "NgramConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "PersonalData",
    "Phase",
    "PipelineConfig",
    "QualityConfig",
    "RopeScalingConfig",
    "SourceConfig",
    "SparseAttentionConfig",
    "SweepConfig",
    "TrainingConfig",
    "all_keys",
    "identity",
    "load_config",
    "preset_names",
    "target_ffn_experts",
]
