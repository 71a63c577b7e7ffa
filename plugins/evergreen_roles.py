"""Roles of Airflow's FAB auth manager, and its administrator: `python plugins/evergreen_roles.py`.

Run at every deployment, after `airflow db migrate` and whenever a use case was added. Viewer and
Admin are Airflow's own. Operator and Releaser get exactly what is said here: what somebody gave
them by hand is taken away again.

The administrator's password is that of `AIRFLOW_ADMIN_PASSWORD`, also after it was changed there.
"""

from __future__ import annotations

import os
from typing import Any

from evergreen.contract import list_use_cases

ADMIN = "admin"
_OPERATED = ("ingest", "features", "labels", "history", "train", "score", "monitor")

# To start, clear, mark and backfill needs these and `can_edit` of the DAG, which is given for each.
_OF_RUNS = [
    ("can_create", "DAG Runs"),
    ("can_edit", "DAG Runs"),
    ("can_edit", "Task Instances"),
    ("can_create", "Backfills"),
    ("can_edit", "Backfills"),
]
# What waits for a person's approval is answered by those who may release.
_APPROVALS = [("can_edit", "HITL Detail"), ("menu_access", "HITL Detail")]


def permissions() -> dict[str, list[tuple[str, str]]]:
    """Return what each role may do beyond Viewer: pairs of an action and what it is done to."""
    names = list_use_cases()
    operated = [f"{name}_{stage}" for name in names for stage in _OPERATED]
    operator = [*_OF_RUNS, *(_edit(dag_id) for dag_id in [*operated, "maintenance"])]
    released = [_edit(f"{name}_release") for name in names]
    return {"Operator": operator, "Releaser": [*operator, *released, *_APPROVALS]}


def set_roles(manager: Any) -> None:
    """Give the roles what they may do, and nothing else; `manager` is FAB's security manager."""
    manager.sync_roles()
    for name, beyond in permissions().items():
        role = manager.add_role(name)
        role.permissions = [
            manager.create_permission(action, resource)
            for action, resource in dict.fromkeys([*manager.VIEWER_PERMISSIONS, *beyond])
        ]
        manager.session.commit()


def set_administrator(manager: Any, password: str, email: str) -> None:
    """Create the administrator, or give the one there is that password."""
    user = manager.find_user(username=ADMIN)
    if user is None:
        role = manager.find_role("Admin")
        manager.add_user(ADMIN, "Ever", "Green", email, role, password)
    elif not manager.check_password(ADMIN, password):
        # Only then: it ends the sessions of whoever is logged in.
        manager.reset_password(user.id, password)


def _edit(dag_id: str) -> tuple[str, str]:
    return "can_edit", f"DAG:{dag_id}"


def main() -> None:
    """Set roles and administrator up in Airflow's database."""
    password = os.environ.get("AIRFLOW_ADMIN_PASSWORD")
    if not password:
        raise SystemExit(
            "AIRFLOW_ADMIN_PASSWORD is not set. Set it to the password of Airflow's "
            "administrator; there is no default."
        )
    email = os.environ.get("AIRFLOW_ADMIN_EMAIL") or "admin@example.org"
    from airflow.configuration import conf

    if not (found := conf.get("core", "auth_manager")).endswith(".FabAuthManager"):
        raise SystemExit(
            f"Airflow's auth manager is {found}, which has roles of its own. These roles are for "
            "FAB: set AIRFLOW__CORE__AUTH_MANAGER to "
            "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager."
        )
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        set_roles(builder.sm)
        set_administrator(builder.sm, password, email)


if __name__ == "__main__":
    main()
