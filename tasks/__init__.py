"""Prefect tasks, which call lstm_models and record the results in MLflow."""
