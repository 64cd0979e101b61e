"""The site is built with broken links as errors, holds every page, and fetches nothing from elsewhere."""

import re
from pathlib import Path

import pytest
import yaml

from docs import build
from docs.build import FROM_ROOT, GENERATED, PAGES, ROOT, links_of_site

ELSEWHERE = re.compile(r"""(?:src|href|url)\s*[=(]\s*["']?((?:https?:)?//[^"')\s>]+)""")


class Loader(yaml.SafeLoader):
    """YAML with names of Python objects, which are not looked up."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda *_: None)


def in_navigation(entry):
    if isinstance(entry, str):
        yield entry
    for inner in entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ():
        yield from in_navigation(inner)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "site"
    assert build.build(folder) is None
    return folder


def test_every_page_is_in_the_navigation_once():
    shown = list(in_navigation(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"]))
    pages = {path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*.md")}
    assert sorted(shown) == sorted(pages | set(FROM_ROOT.values()) | {f"reference/{name}.md" for name in GENERATED})


@pytest.mark.slow
def test_the_site_has_all_pages_and_fetches_nothing(site):
    pages = {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob("*.html")}
    assert {"index.html", "faq.html", "changelog.html", "reference/settings.html"} <= pages.keys()
    for name, text in pages.items():
        head, _, body = text.partition("<body")
        loaded = [*ELSEWHERE.findall(head), *re.findall(r'<(?:script|img|iframe)[^>]+src="((?:https?:)?//[^"]+)', body)]
        assert loaded == [], name
    for style in site.rglob("*.css"):
        assert ELSEWHERE.findall(style.read_text()) == [], style


@pytest.mark.slow
def test_diagrams_are_drawn_by_a_program_of_the_site(site):
    page = (site / "index.html").read_text()
    assert 'class="mermaid"' in page
    program = re.search(r'<script src="([^"]*mermaid[^"]*)"', page)[1]
    assert (site / program).stat().st_size > 1_000_000
    assert "mermaid.tiny.js" not in (site / "faq.html").read_text()  # large, and not needed


@pytest.mark.slow
@pytest.mark.parametrize("link", ["[a](nowhere.md)", "[a](pretrain.md#nowhere)", "![a](images/nowhere.png)"])
def test_a_broken_link_is_an_error_and_leaves_the_site_as_it_was(monkeypatch, tmp_path, link):
    write = build.write_pages

    def write_broken(target):
        write(target)
        with (target / "faq.md").open("a") as stream:
            stream.write(f"\n{link}\n")

    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("before")
    monkeypatch.setattr(build, "write_pages", write_broken)
    wrong = build.build(tmp_path / "site")
    assert wrong is not None and "faq.md" in wrong and "\x1b" not in wrong
    assert (tmp_path / "site/index.html").read_text() == "before"


def test_links_of_pages_at_the_top_lead_to_pages_of_the_site():
    text = "[a](docs/cluster.md#slurm) [b](README.md) [c](https://x.org/y.md) [d](CONTRIBUTING.md)"
    assert links_of_site(text, ROOT / "CHANGELOG.md") == (
        "[a](cluster.md#slurm) b (`README.md`) [c](https://x.org/y.md) [d](contributing.md)"
    )


def test_files_beside_the_site_are_named():
    text = "see [data/reference/README.md](../data/reference/README.md), [the change log](../CHANGELOG.md#unreleased)"
    assert links_of_site(text, PAGES / "benchmark.md") == (
        "see `data/reference/README.md`, [the change log](changelog.md#unreleased)"
    )


@pytest.mark.parametrize(
    "page",
    sorted([*ROOT.glob("*.md"), *PAGES.rglob("*.md"), *(ROOT / "data").rglob("*.md")]),
    ids=lambda path: path.name,
)
def test_relative_links_lead_to_files_of_the_repository_or_to_generated_pages(page):
    generated = {PAGES / "reference" / f"{name}.md" for name in GENERATED}
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for address in re.findall(r"\]\(([^()\s]+)\)", text):
        if "://" in address or address.startswith("#"):
            continue
        file = Path((page.parent / address.partition("#")[0]).resolve())
        assert file.exists() or file in generated, address
