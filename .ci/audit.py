"""Looks up known vulnerabilities of the pinned packages; without an answer says so in a line, and that is no failure.

Usage: python .ci/audit.py constraints.txt
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

LIMIT_S = 60
ACCEPTED: dict[str, str] = {}
"""Vulnerabilities that are accepted, by their id, with the reason."""


def ask(constraints: str) -> dict[str, Any] | str:
    """Return pip-audit's report, or why there is none."""
    command = [
        sys.executable, "-m", "pip_audit", "--progress-spinner=off", "--timeout=5", "--no-deps", "--disable-pip",
        "--format=json", "-r", constraints,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {LIMIT_S} s"
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]
    return report


def judge(report: dict[str, Any] | str) -> tuple[str, int]:
    """Return what to say of a report, and the exit code."""
    if isinstance(report, str):
        return f"pip-audit could not look: {report}", 0
    known = [package for package in report["dependencies"] if "vulns" in package]
    if not known:
        return "pip-audit could not look: the index knows none of the packages", 0
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for package in known
        for found in package["vulns"]
        if not ACCEPTED.keys() & {found["id"], *found.get("aliases", ())}
    ]
    lines.append(
        f"pip-audit: {len(lines)} known vulnerabilities in {len(known)} of {len(report['dependencies'])} packages"
    )
    return "\n".join(lines), int(len(lines) > 1)


if __name__ == "__main__":
    text, code = judge(ask(sys.argv[1]))
    print(text)
    sys.exit(code)
