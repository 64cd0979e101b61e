"""The peak that is reported is that of the process that has needed most."""

from dataclasses import dataclass

from longcat.parallel.axes import Degrees
from longcat.training.worker import Worker


@dataclass
class Needs:
    """An accelerator as far as its memory goes."""

    bytes: int

    def peak_memory_bytes(self):
        """Of this process."""
        return self.bytes


def reported(mesh):
    worker = Worker.__new__(Worker)
    worker.mesh, worker.accelerator = mesh, Needs(1000 + 7 * mesh.rank)
    return worker._peak_memory_bytes()


def test_every_process_reports_the_worst(ranks):
    assert ranks.on_mesh(Degrees(2), reported) == [1007, 1007]
