"""Results of a few kinds in a workspace, quickly made."""

import json
import time

from longcat.artifact import Facts, Recipe, Workspace


class Figures(Facts):
    said: str = ""

    @property
    def headline(self):
        return self.said

    @property
    def figures(self):
        return {}


def make(space, kind, number, parents=(), size=1000, identity=None):
    """A finished result with one file, that says its kind and number."""

    def build(directory):
        (directory / "data.bin").write_bytes(bytes([number % 256]) * size)
        return Figures(said=f"{kind} {number}")

    return space.materialize(Recipe(kind, Figures, 1, identity or {"number": number}, tuple(parents)), build)


def name(artifact):
    return f"{artifact.kind}/{artifact.digest}"


def grown(path):
    """A workspace with documents, tokens, two checkpoints of which the second goes on from the first, and scores of each."""
    space = Workspace(path)
    made = {"documents": make(space, "documents", 0)}
    made["tokens"] = make(space, "tokens", 1, identity={"documents": made["documents"].digest})
    made["first"] = make(space, "checkpoint", 2, [made["tokens"]])
    made["second"] = make(space, "checkpoint", 3, [made["tokens"], made["first"]])
    for number, of in enumerate(("first", "second")):
        made[f"scores of {of}"] = make(space, "evaluation", 4 + number, [made["tokens"], made[of]])
    for age, artifact in enumerate(reversed(made.values())):  # as if made one after the other
        file = artifact.path / "manifest.json"
        manifest = json.loads(file.read_text())
        manifest["created"] = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() - 3600 * age - 60))
        file.write_text(json.dumps(manifest))
    return space, made


def half_made(space, kind, digest, parents=()):
    """The folder of a result whose making was interrupted."""
    folder = space.path / kind / f".{digest}.partial"
    folder.mkdir(parents=True)
    (folder / "data.bin").write_bytes(bytes(10_000))
    (folder / ".parents.json").write_text(json.dumps([{"kind": one.kind, "digest": one.digest} for one in parents]))
    return folder
