"""Names of the regions that the training loop marks for a profiler (`torch.profiler.record_function`)."""

STEP, DATA, OPTIMIZER = "longcat.step", "longcat.data", "longcat.optimizer"
