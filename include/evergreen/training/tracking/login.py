"""The login of an MLflow server that is this deployment's: `python -m` this, before it starts.

MLflow creates its administrator at the first start and does not look at the configured password
again; this sets the one that is configured now, in MLflow's own store.
"""

from __future__ import annotations

import logging

from evergreen.errors import ConfigError

logger = logging.getLogger(__name__)


def set_password() -> None:
    """Give MLflow's administrator the configured password, unless MLflow still has to make him.

    Where the login is kept and what it is, MLflow reads from `MLFLOW_AUTH_CONFIG_PATH`,
    `MLFLOW_AUTH_ADMIN_USERNAME` and `MLFLOW_AUTH_ADMIN_PASSWORD`.

    Raises
    ------
    ConfigError
        User or password is not configured: there is no default.
    """
    from mlflow.server.auth.config import read_auth_config
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    config = read_auth_config()
    if not config.admin_username or not config.admin_password:
        raise ConfigError(
            "MLflow's login is not configured. Set MLFLOW_AUTH_ADMIN_USERNAME and "
            "MLFLOW_AUTH_ADMIN_PASSWORD; there is no default."
        )
    store = SqlAlchemyStore()
    store.init_db(config.database_uri)
    name, password = config.admin_username, config.admin_password
    if store.has_user(name) and not store.authenticate_user(name, password):
        store.update_user(name, password=password)
        logger.info("the password of MLflow's user %s was changed", name)


if __name__ == "__main__":
    set_password()
