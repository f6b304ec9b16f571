"""What documents and tracked files may say: paths that exist, and nothing that belongs to one machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT, tracked_files

PATH_IN_BACKTICKS = re.compile(r"`([\w.*-]+(?:/[\w.*-]+)+/?|[\w-]+/)`")

OF_ONE_MACHINE = re.compile(
    r"(?<![\w/.])/(?:work|root|home/\w+|tmp/w)(?:/|\b)|\b(?:pypi|pythonhosted|conda|anaconda)\.org\b|\bdownload\.pytorch\b"
)
LEFT_OPEN = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
DOCUMENTS = [*(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "PERFORMANCE.md")), *sorted((ROOT / "docs").glob("*.md"))]
TEXT_SUFFIXES = {".py", ".md", ".toml", ".pbtxt", ".sh", ".jinja", ".json", ".txt", ".yml", ".yaml", ""}


def test_architecture_names_only_what_exists() -> None:
    named = PATH_IN_BACKTICKS.findall((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    assert len(named) > 20, "the pattern no longer finds the paths"
    missing = [path for path in named if not any(ROOT.glob(path.rstrip("/")))]
    assert not missing


def _anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    missing = []
    for path, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", document.read_text(encoding="utf-8")):
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            missing.append(f"{path}#{anchor}")
    assert not missing


def test_readme_says_where_the_command_is_before_it_is_used() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert 0 <= text.find("`.venv/bin`") < text.index("ernie-triton serve")


def test_every_input_of_the_ensemble_is_described() -> None:
    config = (ROOT / "model_repository" / "ernie" / "config.pbtxt").read_text(encoding="utf-8")
    inputs = re.findall(r'name: "(\w+)"', config.partition("input [")[2].partition("output [")[0])
    assert "chat" in inputs, "the pattern no longer finds them"
    text = (ROOT / "docs" / "REQUESTS.md").read_text(encoding="utf-8")
    assert not [name for name in inputs if f"\n| `{name}` |" not in text.partition("\n| input | |")[2].partition("\n\n")[0]]


def _texts() -> list[Path]:
    return [path for path in tracked_files() if path.suffix in TEXT_SUFFIXES and path != Path(__file__).resolve()]


@pytest.mark.parametrize("pattern", [OF_ONE_MACHINE, LEFT_OPEN], ids=["of one machine", "left open"])
def test_nothing_that_belongs_elsewhere(pattern: re.Pattern[str]) -> None:
    found = []
    for path in _texts():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found
