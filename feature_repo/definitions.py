"""Every use case's Feast objects, for the `feast` command.

Nothing is declared here: the objects follow from each `use_case.yaml`. Feast collects what it
finds under the names of this module, each object once.
"""

from evergreen.contract import load_use_cases
from evergreen.features.store.definitions import definitions

for _use_case in load_use_cases():
    for _object in definitions(_use_case):
        globals()[f"{type(_object).__name__.lower()}_{_object.name}"] = _object
