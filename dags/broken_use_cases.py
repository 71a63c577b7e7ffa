"""No DAG: an import error, in Airflow's UI, while there are use cases that cannot be loaded.

A file of its own, because Airflow drops every DAG of a file that raises.
"""

from evergreen.contract import require_whole_use_cases

require_whole_use_cases()
