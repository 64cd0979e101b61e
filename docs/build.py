"""Builds the site: the pages of this folder, the reference made from the code, and both as HTML with broken links as errors.

Usage: python -m docs.build [FOLDER], by default `site`
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs"
GENERATED = ("settings", "cli", "metrics", "artifacts", "presets", "hardware", "api")
"""Modules of `docs.reference`, and pages of the folder `reference` of the site."""
FROM_ROOT = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages that lie at the top of the repository, and their names in the site."""
MERMAID = "assets/mermaid.tiny.js"
LIMIT_S = 120
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PICTURE = re.compile(r'<img [^>]*?src="([^":]+)"')
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s]+)\)")


def write_pages(target: Path) -> None:
    """Write the Markdown that the site is made of: everything in `docs`, two pages of the top, and the generated ones.

    Args:
        target: folder, which does not exist yet.
    """
    shutil.copytree(PAGES, target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for page in target.rglob("*.md"):
        written = page.relative_to(target)
        text = links_of_site(page.read_text(encoding="utf-8"), PAGES / written)
        page.write_text(with_diagrams(text, depth=len(written.parts) - 1), encoding="utf-8")
    for name, page_name in FROM_ROOT.items():
        (target / page_name).write_text(links_of_site((ROOT / name).read_text(encoding="utf-8"), ROOT / name), "utf-8")
    for name in GENERATED:
        text = import_module(f"docs.reference.{name}").page()
        (target / "reference" / f"{name}.md").write_text(text, encoding="utf-8")


def links_of_site(text: str, page: Path) -> str:
    """Return a page with its links as the site has them: a file that is not part of the site is named, and not linked to.

    Args:
        text: Markdown.
        page: the file that it was read from.
    """

    def replace(link: re.Match[str]) -> str:
        words, address = link.groups()
        if "://" in address or address.startswith(("#", "mailto:")):
            return link[0]
        path, mark, anchor = address.partition("#")
        file = Path(os.path.normpath(page.parent / path))
        if file.parent == ROOT and file.name in FROM_ROOT:
            file = PAGES / FROM_ROOT[file.name]
        if not file.is_relative_to(PAGES):
            return (
                f"`{file.relative_to(ROOT)}`"
                if words.strip("`") in str(file)
                else f"{words} (`{file.relative_to(ROOT)}`)"
            )
        here = PAGES if page.parent == ROOT else page.parent
        return f"[{words}]({Path(os.path.relpath(file, here)).as_posix()}{mark}{anchor})"

    return _LINK.sub(replace, text)


def with_diagrams(text: str, depth: int) -> str:
    """Add the program that draws diagrams to a page that has one; it lies in the site, so that nothing is fetched."""
    if "```mermaid" not in text:
        return text
    return f'{text}\n<script src="{"../" * depth}{MERMAID}"></script>\n'


def build(site: Path) -> str | None:
    """Build the site in a folder, which is replaced when all is well.

    Args:
        site: the folder.

    Returns:
        What is wrong with it, or None.
    """
    with tempfile.TemporaryDirectory(prefix="longcat-docs-") as folder:
        work = Path(folder)
        write_pages(work / "docs")
        shutil.copy(ROOT / "mkdocs.yml", work)
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(
            command, cwd=work, capture_output=True, text=True, timeout=LIMIT_S, env={**os.environ, "NO_COLOR": "1"}
        )
        if done.returncode:
            return _COLOUR.sub("", done.stdout + done.stderr.partition("Traceback")[0]).strip()
        if missing := missing_pictures(work / "site"):
            return "\n".join(f"{page}: there is no picture {picture}" for page, picture in missing)
        if site.exists():
            shutil.rmtree(site)
        shutil.copytree(work / "site", site)
    return None


def missing_pictures(site: Path) -> list[tuple[str, str]]:
    """Return pages and the pictures that they want and that are not there, which the check of links does not see."""
    return [
        (page.relative_to(site).with_suffix(".md").as_posix(), picture)
        for page in sorted(site.rglob("*.html"))
        for picture in _PICTURE.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / picture).is_file()
    ]


def main(arguments: list[str]) -> int:
    """Build the site and say where it is; return the exit code."""
    site = Path(arguments[0]) if arguments else ROOT / "site"
    if wrong := build(site):
        print(wrong, file=sys.stderr)
        return 1
    print(f"documentation: {site / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
