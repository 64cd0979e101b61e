"""longcat: pre-train LongCat mixture-of-experts models on Ascend NPUs, and say how that compares with A100s.

Importing this package loads neither torch_npu, mlflow nor prefect.
"""

__version__ = "0.1.0"
