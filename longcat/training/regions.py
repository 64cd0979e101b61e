"""Names of the regions that the training loop marks for a profiler (`torch.profiler.record_function`) and in its heartbeat."""

STEP, DATA, OPTIMIZER = "longcat.step", "longcat.data", "longcat.optimizer"
FIRST_STEP, COMPUTE, CHECK = "longcat.first step", "longcat.compute", "longcat.check"
HELD_OUT, CHECKPOINT, LOADING, FINISH = (
    "longcat.held-out loss",
    "longcat.checkpoint",
    "longcat.loading",
    "longcat.finish",
)
