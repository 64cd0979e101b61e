"""Environment variables that keep libraries quiet: no telemetry, no calls home, no progress bars but ours."""

from __future__ import annotations

NO_TELEMETRY = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""For every process of ours that loads Prefect, MLflow or a Hugging Face library."""

QUIET = {
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "MLFLOW_CONFIGURE_LOGGING": "false",  # its records go where ours go
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "TQDM_DISABLE": "1",
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",  # a torch_npu without CANN would end every import of torch
}
"""For the command line, beside `NO_TELEMETRY`; set before the libraries are imported."""


def server_environment(home: str, port: int) -> dict[str, str]:
    """Return the variables of a Prefect server that keeps its database in `home` and listens on a loopback port."""
    return {
        **NO_TELEMETRY,
        "PREFECT_HOME": home,
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),  # the option --port would not reach the pages
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }
