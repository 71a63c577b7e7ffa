"""The embedded services of one machine: Postgres and Airflow."""
