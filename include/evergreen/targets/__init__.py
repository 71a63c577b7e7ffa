"""What is predicted: one file per kind of target, with all that is particular to it."""

# A use case holds a target, and a target is a part of a contract: the contract is loaded first.
import evergreen.contract  # noqa: F401
from evergreen.targets.base import TargetModel
from evergreen.targets.binary import BinaryTarget
from evergreen.targets.kinds import KINDS, Target
from evergreen.targets.number import NumberTarget

__all__ = ["KINDS", "BinaryTarget", "NumberTarget", "Target", "TargetModel"]
