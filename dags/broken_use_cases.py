"""No DAG: fail to import while a use case cannot be loaded, so that Airflow's UI says which and why.

A file of its own, because Airflow drops every DAG of a file that raises.
"""

from evergreen.use_case import require_whole_use_cases

require_whole_use_cases()
