"""References of torch_npu's fused operators in plain torch; one file per family."""
