"""Without node the tests of this folder are skipped, but never in silence where it must be there."""

import pytest

from tests.editor import conftest


@pytest.mark.parametrize(
    ("path", "server", "reason"),
    [("", conftest.SERVER, "node is not installed"), (None, conftest.HERE / "missing", "run `npm ci")],
    ids=["no node", "no packages"],
)
def test_what_is_missing_is_told(monkeypatch, path, server, reason):
    if path is None and "node is not" in str(conftest.why_there_is_no_node()):
        pytest.skip("node is not installed")
    if path is not None:
        monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(conftest, "SERVER", server)
    monkeypatch.delenv("CI_REQUIRES_NODE", raising=False)
    with pytest.raises(pytest.skip.Exception, match=reason):
        conftest.require_node()
    monkeypatch.setenv("CI_REQUIRES_NODE", "1")
    with pytest.raises(pytest.fail.Exception, match=f"CI_REQUIRES_NODE is 1, but .*{reason}"):
        conftest.require_node()
