"""Who may see and start what: Airflow's own permissions on the DAGs that it is about."""

from __future__ import annotations

from collections.abc import Callable

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import (
    AccessView,
    DagAccessEntity,
    DagDetails,
)
from airflow.api_fastapi.core_api.security import (
    GetUserDep,
    requires_access_dag,
    requires_access_view,
)
from airflow.models.dag import DagModel
from fastapi import Depends, HTTPException, Request

from evergreen.contract import UseCase, list_use_cases, load_use_case

may_open_the_ui = Depends(requires_access_view(AccessView.WEBSITE))
"""Asked of everybody, first of all."""


def reading(stage: str) -> Callable[..., UseCase]:
    """Make a dependency that gives the use case of a route to those who may read a DAG of it.

    Parameters
    ----------
    stage
        Of the DAG that makes what the route shows.

    Returns
    -------
    Callable
        Answers 404 for a use case that does not exist, and 403 to whoever may not read the DAG.
    """

    def allowed(use_case: str, request: Request, user: GetUserDep) -> UseCase:
        if use_case not in list_use_cases():
            known = ", ".join(list_use_cases()) or "none"
            raise HTTPException(404, f"There is no use case {use_case!r}; there are: {known}.")
        found = load_use_case(use_case)
        owner = found.base or found.name if stage in ("ingest", "features") else found.name
        require_read(f"{owner}_{stage}", request, user)
        return found

    return allowed


def require_read(dag_id: str, request: Request, user: GetUserDep) -> None:
    """Answer 403 to whoever may not read a DAG."""
    try:
        requires_access_dag("GET", param_dag_id=dag_id)(request, user)
    except HTTPException as error:
        if error.status_code == 403:
            raise HTTPException(
                403, f"You may not read the DAG {dag_id}. Ask whoever gives you rights in Airflow."
            ) from error
        raise


def may_read(dag_id: str, user: GetUserDep) -> bool:
    """Return whether a user may read a DAG."""
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    return get_auth_manager().is_authorized_dag(method="GET", details=details, user=user)


def may_trigger(dag_id: str, user: GetUserDep) -> bool:
    """Return whether a user may start runs of a DAG."""
    return get_auth_manager().is_authorized_dag(
        method="POST",
        access_entity=DagAccessEntity.RUN,
        details=DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id)),
        user=user,
    )
