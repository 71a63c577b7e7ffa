"""What a use case declares, validated: one declaration from which the rest follows.

Every DAG file imports this room each time Airflow parses it, so it imports nothing heavier than
pydantic and PyYAML.
"""

from evergreen.contract.base import Bounds, Day, Identifier, Ratio, Zone
from evergreen.contract.days import Period, as_of, day_of, join_days, parse_day, parse_instant
from evergreen.contract.dtypes import KEY_DTYPES, NAMES, Dtype, FeatureDtype, arrow
from evergreen.contract.features import Feature, Features
from evergreen.contract.load import (
    list_use_cases,
    load_all,
    load_use_case,
    load_use_case_file,
    load_use_cases,
    require_whole_use_cases,
)
from evergreen.contract.policies import (
    Booster,
    Experiment,
    Gate,
    Monitoring,
    Rollout,
    Scoring,
    Training,
)
from evergreen.contract.sources import (
    CsvFormat,
    Dirt,
    FilesSource,
    GeneratorSource,
    RegimeChange,
    Segment,
    Source,
    SqlSource,
    expand_variables,
)
from evergreen.contract.tables import (
    AnyTable,
    Attributes,
    BatchRules,
    Column,
    Daily,
    DailyColumn,
    Events,
    References,
    RollUp,
    RowRule,
)
from evergreen.contract.use_case import Entity, UseCase

__all__ = [
    "KEY_DTYPES",
    "NAMES",
    "AnyTable",
    "Attributes",
    "BatchRules",
    "Booster",
    "Bounds",
    "Column",
    "CsvFormat",
    "Daily",
    "DailyColumn",
    "Day",
    "Dirt",
    "Dtype",
    "Entity",
    "Events",
    "Experiment",
    "Feature",
    "FeatureDtype",
    "Features",
    "FilesSource",
    "Gate",
    "GeneratorSource",
    "Identifier",
    "Monitoring",
    "Period",
    "Ratio",
    "References",
    "RegimeChange",
    "RollUp",
    "Rollout",
    "RowRule",
    "Scoring",
    "Segment",
    "Source",
    "SqlSource",
    "Training",
    "UseCase",
    "Zone",
    "arrow",
    "as_of",
    "day_of",
    "expand_variables",
    "join_days",
    "list_use_cases",
    "load_all",
    "load_use_case",
    "load_use_case_file",
    "load_use_cases",
    "parse_day",
    "parse_instant",
    "require_whole_use_cases",
]
