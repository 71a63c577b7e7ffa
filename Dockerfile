# One image for every Airflow component and for the MLflow server.
FROM python:3.11-slim-bookworm AS build

ENV UV_PYTHON=/opt/venv/bin/python
# The lock alone first: a change of the code does not install every package again.
WORKDIR /app
COPY requirements-image.txt .
RUN python -m pip install --no-cache-dir 'uv>=0.9' \
    && python -m venv --without-pip /opt/venv \
    && uv pip sync --no-cache --compile-bytecode --require-hashes requirements-image.txt
COPY . .
RUN uv pip install --no-cache --no-deps --editable . \
    && /opt/venv/bin/python -m compileall -q include dags plugins feature_repo


FROM python:3.11-slim-bookworm

# XGBoost and scikit-learn need the OpenMP runtime. Nothing is installed into a running container, so
# what installs is taken out.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && python -m pip uninstall --yes --quiet setuptools wheel pip

# A volume mounted at /data inherits this ownership when it is first used.
RUN useradd --uid 50000 --create-home evergreen \
    && install --directory --owner=evergreen --group=evergreen --mode=0700 /data

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    EVERGREEN_HOME=/data \
    AIRFLOW_HOME=/home/evergreen/airflow

# The code belongs to root: what runs in the container cannot change it.
WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app

USER evergreen
# Every component ends cleanly on it; `airflow standalone` orphans its children on SIGTERM.
STOPSIGNAL SIGINT
CMD ["evergreen", "--help"]
