"""Links in the documents lead somewhere in a clone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_packaging import ROOT, repository_files
from tests.test_readme import DOCUMENTS, without_code


def list_anchors(path: Path) -> set[str]:
    """Return the anchors of a document: its headings, and ids that are given."""
    text = path.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}
    return {*anchors, *re.findall(r'<a id="([\w-]+)"></a>', text)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_and_image_exists_in_a_clone(document: Path) -> None:
    files = {ROOT / name for name in repository_files()}
    present = files | {parent for path in files for parent in path.parents}
    broken = []
    for link in re.findall(r"\]\(<?([^)>\s]+)>?(?: \"[^\"]*\")?\)", without_code(document)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if target not in present or (anchor and target.suffix == ".md" and anchor not in list_anchors(target)):
            broken.append(link)
    assert broken == []
