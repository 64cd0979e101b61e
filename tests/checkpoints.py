"""Checkpoints that tests write without a run."""

from longcat.training.checkpoint import state_of, write_state


def write_checkpoint(path, step, model, optimizers):
    """Write the state to a folder, replacing what is there; collective."""
    write_state(path, state_of(step, model, optimizers), getattr(model, "config", None))
