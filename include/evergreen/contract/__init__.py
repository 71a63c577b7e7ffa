"""What a use case declares, validated: one declaration from which the rest follows.

Every DAG file imports this room each time Airflow parses it, so it imports nothing heavier than
pydantic and PyYAML.
"""

from evergreen.contract.base import KEY_DTYPES, Bounds, Day, Dtype, FeatureDtype, Identifier, Ratio
from evergreen.contract.days import Period, as_of, join_days, parse_day
from evergreen.contract.features import Daily, DailyColumn, Feature, Features, Label
from evergreen.contract.load import (
    broken_use_cases,
    list_use_cases,
    load_use_case,
    load_use_case_file,
    load_use_cases,
    require_whole_use_cases,
)
from evergreen.contract.policies import Booster, Gate, Monitoring, Scoring, Training
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
from evergreen.contract.tables import BatchRules, Column, Orders, RollUp, RowRule
from evergreen.contract.use_case import Entity, UseCase

__all__ = [
    "KEY_DTYPES",
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
    "Feature",
    "FeatureDtype",
    "Features",
    "FilesSource",
    "Gate",
    "GeneratorSource",
    "Identifier",
    "Label",
    "Monitoring",
    "Orders",
    "Period",
    "Ratio",
    "RegimeChange",
    "RollUp",
    "RowRule",
    "Scoring",
    "Segment",
    "Source",
    "SqlSource",
    "Training",
    "UseCase",
    "as_of",
    "broken_use_cases",
    "expand_variables",
    "join_days",
    "list_use_cases",
    "load_use_case",
    "load_use_case_file",
    "load_use_cases",
    "parse_day",
    "require_whole_use_cases",
]
