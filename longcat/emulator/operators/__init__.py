"""What the fused operators of torch_npu compute, in plain torch; one file a family."""
