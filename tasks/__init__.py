"""Prefect tasks: they call lstm_models and record what it did in MLflow."""
