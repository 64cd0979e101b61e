"""What may be removed from a workspace, and its removal.

Kept are results that are pinned, champions, of the last run, not yet sent to MLflow, or needed by a half-made one, and
all that these are made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from longcat.artifact import SUMMARY, Workspace
from longcat.disk import disk_errors, remove_whole
from longcat.errors import ArtifactError, ConfigError
from longcat.inventory.entries import SHORT, Entry, Inventory, results_of
from longcat.inventory.pins import pins
from longcat.lease import check_lease
from longcat.unpacking import read_json

PINNED = "pinned"


@dataclass(frozen=True)
class Keeping:
    """Why results are kept, by name."""

    firm: Mapping[str, str]
    """Pinned ones and champions, and what they are made from: nothing removes these."""
    loose: Mapping[str, str]
    """Those that are kept by `collect` only."""

    def reason(self, name: str) -> str | None:
        """Return why a result is kept, in words; None if it may go."""
        return self.firm.get(name) or self.loose.get(name)


def keeping(inventory: Inventory, champions: Mapping[str, str], unsent: Iterable[str] = ()) -> Keeping:
    """Find out what is kept, and why.

    Args:
        inventory: the workspace.
        champions: names of what is a champion or its scores, with a reason in words.
        unsent: names of what MLflow is still to be sent.

    Raises:
        ArtifactError: what is pinned cannot be read.
    """
    firm = dict.fromkeys(pins(inventory.workspace), PINNED) | dict(champions)
    loose = dict.fromkeys(_last_run(inventory), "of the last run")
    loose |= dict.fromkeys(unsent, "not yet sent to MLflow")
    for one in inventory.entries.values():
        if one.half_made:
            loose |= {name: f"needed by {short(one.name)}, which is half made" for name in one.parents}
    return Keeping(_with_origins(inventory, firm), _with_origins(inventory, loose))


def removable(inventory: Inventory, kept: Keeping) -> list[Entry]:
    """List the finished results that nothing keeps, oldest first.

    Raises:
        ArtifactError: the manifest of a result is unreadable, so it cannot be known what that was made from.
    """
    for one in inventory.entries.values():
        if one.problem is not None:
            raise ArtifactError(
                f"{one.path} does not say what it was made from ({one.problem}); restore its manifest.json from a copy, or "
                f"remove it with longcat rm {one.name}"
            )
    return [one for one in inventory.entries.values() if not one.half_made and kept.reason(one.name) is None]


def refuse_what_is_needed(inventory: Inventory, chosen: Iterable[Entry], kept: Keeping, force: bool) -> None:
    """Refuse to remove what is kept for good, and what others are made from.

    Raises:
        ConfigError: one of those chosen is; says what to do instead.
    """
    names = {one.name for one in chosen}
    for one in chosen:
        if one.half_made:
            raise ConfigError(f"{short(one.name)} is half made; longcat clean removes what interrupted runs have left")
        if why := kept.firm.get(one.name):
            way = "; longcat unpin lets it go" if why.endswith(PINNED) else ""
            raise ConfigError(f"{short(one.name)} is not removed, as it is kept: {why}{way}")
        others = [name for name in inventory.made_of([one.name]) if name not in names]
        if others and not force:
            listed = ", ".join(map(short, others[:5])) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
            raise ConfigError(
                f"{listed} {'is' if len(others) == 1 else 'are'} made from {short(one.name)}; name these, too, or remove it "
                "from under them by --force"
            )


def remove_entries(workspace: Workspace, chosen: Iterable[Entry]) -> None:
    """Remove results, those first that are made from others; the caller holds the lease, and that of the pins.

    Raises:
        StorageError: the disk refuses.
    """
    left = {one.name: one for one in chosen}
    with disk_errors(workspace.path):
        while left:
            parents = {name for one in left.values() for name in one.parents if name != one.name}
            # what nothing left is made from; all, should manifests name each other in a circle
            leaves = [one for name, one in left.items() if name not in parents] or list(left.values())
            for one in leaves:
                check_lease()
                remove_whole(one.path)
                del left[one.name]


def short(name: str) -> str:
    """Return `KIND/DIGEST` with the beginning of the digest."""
    kind, _, digest = name.partition("/")
    return f"{kind}/{digest[:SHORT]}"


def _with_origins(inventory: Inventory, reasons: Mapping[str, str]) -> dict[str, str]:
    """Add to what is kept all that it is made from."""
    found = dict(reasons)
    for name in reasons:
        for origin in inventory.made_from([name]):
            found.setdefault(origin, f"{short(name)} is made from it, which is {reasons[name]}")
    return found


def _last_run(inventory: Inventory) -> list[str]:
    try:
        return results_of(read_json(inventory.workspace / SUMMARY))
    except (OSError, ValueError, KeyError, TypeError):  # nothing has been run to its end
        return []
