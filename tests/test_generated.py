"""Generated files are current: they follow from the losses, and nobody edits them."""

import json

import pytest

from losskit.registry import registry
from losskit.schema import catalogue
from scripts import generate

FILES = generate.generated()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_is_current(path):
    current = path.exists() and path.read_text("utf-8") == FILES[path]
    assert current, f"{path.name} is out of date: run `make generate`"


def test_check_says_what_is_out_of_date(monkeypatch, capsys, tmp_path):
    stale, left_over = tmp_path / "catalogue.json", tmp_path / "docs" / "losses" / "gone.md"
    left_over.parent.mkdir(parents=True)
    left_over.touch()
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "generated", lambda: {stale: "new"})
    assert generate.main(["--check"]) == 1
    told = capsys.readouterr().err
    assert "catalogue.json is out of date: run `make generate`" in told
    assert "gone.md is out of date" in told
    assert generate.main([]) == 0
    assert stale.read_text() == "new"
    assert not left_over.exists()
    assert generate.main(["--check"]) == 0


def test_catalogue_says_what_the_decorators_say():
    rows = {row["name"]: row for row in json.loads(catalogue.CATALOGUE.read_text("utf-8"))["losses"]}
    entries = [entry for entry in registry.entries() if entry.is_built_in]
    assert set(rows) == {entry.name for entry in entries}
    for entry in entries:
        assert list(entry.feature_types) == rows[entry.name]["feature_types"]
        assert entry.module.path == rows[entry.name]["module"]
