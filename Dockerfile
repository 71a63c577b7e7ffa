# One image for every Airflow component and for the MLflow server.
FROM python:3.11-slim-bookworm

# XGBoost and scikit-learn need the OpenMP runtime.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

# A volume mounted at /data inherits this ownership when it is first used.
RUN useradd --uid 50000 --create-home evergreen \
    && install --directory --owner=evergreen --group=evergreen --mode=0700 /data

ENV PATH=/opt/venv/bin:$PATH \
    UV_PYTHON=/opt/venv/bin/python \
    PYTHONUNBUFFERED=1 \
    EVERGREEN_HOME=/data \
    AIRFLOW_HOME=/home/evergreen/airflow

# The lock alone first: a change of the code does not install every package again.
WORKDIR /app
COPY requirements.txt .
RUN python -m pip install --no-cache-dir 'uv>=0.9' \
    && python -m venv --without-pip /opt/venv \
    && uv pip sync --no-cache --compile-bytecode --require-hashes requirements.txt

COPY . .
# The code belongs to root: what runs in the container cannot change it.
RUN uv pip install --no-cache --no-deps --editable . \
    && python -m compileall -q include dags plugins feature_repo

USER evergreen
# Every component ends cleanly on it; `airflow standalone` orphans its children on SIGTERM.
STOPSIGNAL SIGINT
CMD ["evergreen", "--help"]
