"""What the nodes of a cluster have, in what they differ, and how fast the links between them are (`longcat doctor --nodes`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from longcat.config import PipelineConfig
from longcat.processes.agreement import disagreements
from longcat.processes.folder_check import check_folder
from longcat.processes.head import Member
from longcat.training.launchers import open_cluster

SLOW_LINK = 0.5
"""Fraction of the median speed below which a link is named."""
_LIMIT_S = 60.0


def examine_nodes(config: PipelineConfig, workspace: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Gather the nodes that the configuration asks for, through its launcher, and compare them.

    Args:
        config: sections `training` and `accelerator`.
        workspace: folder that all of them share.
        say: hears what is waited for.

    Returns:
        `nodes` (facts of each, by name), `links_bytes_per_second` (by "from -> to", each node to the next one), and
        `problems`, sentences that name the odd one.

    Raises:
        ConfigError: nodes are missing, or do not share the workspace.
    """
    with open_cluster(config, workspace, unlike=True) as cluster:
        members = cluster.gather(say)
        facts = {member.name: member.facts for member in members}
        problems = disagreements(facts) + crowded(config, facts)
        if len(members) > 1:
            say("trying out the shared file system")
            problems += check_folder(members)
            say("trying out the links")
        links, broken = _links(members)
        problems += broken + [
            f"node {member.name} was lost ({member.lost})"
            for member in members
            if member.lost is not None and not any(f"node {member.name} did not answer" in said for said in problems)
        ]
    shown = {name: {fact: value for fact, value in of.items() if fact != "instance"} for name, of in facts.items()}
    return {"nodes": shown, "links_bytes_per_second": links, "problems": problems + slow_links(links)}


def crowded(config: PipelineConfig, facts: dict[str, dict[str, Any]]) -> list[str]:
    """Say which nodes have fewer devices than processes are wanted on each."""
    each = config.training.processes // config.training.nodes
    return [
        f"node {name} has {of['devices']} {of['accelerator']} devices, training.processes={config.training.processes} "
        f"on training.nodes={config.training.nodes} needs {each}"
        for name, of in facts.items()
        if of["accelerator"] != "cpu" and of["devices"] < each
    ]


def slow_links(links: dict[str, float]) -> list[str]:
    """Name the links that are far slower than most."""
    usual = median(links.values()) if len(links) > 2 else 0.0
    return [
        f"the link {link} has {speed / 1e9:.2f} GB/s, the median is {usual / 1e9:.2f}"
        for link, speed in links.items()
        if speed < SLOW_LINK * usual
    ]


def _links(members: Sequence[Member]) -> tuple[dict[str, float], list[str]]:
    """Measure the link from each node to the next one, in a ring, one after the other."""
    speeds, problems = {}, []
    for place, sender in enumerate(members if len(members) > 1 else ()):
        receiver = members[(place + 1) % len(members)]
        link, sent = f"{sender.name} -> {receiver.name}", None
        receiver.tell(word="listen", address=receiver.address)
        at = receiver.answer("listening", _LIMIT_S)
        if at is not None and "problem" not in at:
            sender.tell(word="send", host=receiver.address, port=at["port"], say=at["say"])
            sent = sender.answer("sent", _LIMIT_S)
        if sender.lost is not None or receiver.lost is not None:
            continue  # that is told as what it is
        if at is not None and "problem" in at:
            problems.append(f"node {receiver.name} cannot listen at {receiver.address}: {at['problem']}")
        elif sent is None or "problem" in sent:
            why = "no answer" if sent is None else sent["problem"]
            problems.append(f"node {sender.name} does not reach node {receiver.name} at {receiver.address}: {why}")
        else:
            speeds[link] = float(sent["bytes_per_second"])
    return speeds, problems
