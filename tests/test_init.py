"""`losskit init`: what it writes is right as it stands, and it overwrites nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import losskit
from losskit.cli import main
from losskit.cli.commands.init import INTEGRATIONS, TEMPLATES, template
from losskit.diagnostics import REPOSITORY
from losskit.schema import catalogue

OPTIONS = ["--github", "--gitlab", "--pre-commit"]
PLACES = [".github/workflows/losskit.yml", ".gitlab-ci.yml", ".pre-commit-config.yaml"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def files():
    return sorted(path.as_posix() for path in Path().rglob("*") if path.is_file())


def test_a_config_and_its_schema_are_written_and_validate_at_once(capsys):
    assert run(capsys, "init", "configs") == (
        0,
        "wrote configs/losskit.yaml\nwrote configs/losskit.schema.json\nnow: losskit validate configs\n",
        "",
    )
    assert files() == ["configs/losskit.schema.json", "configs/losskit.yaml"]
    assert run(capsys, "validate", "configs", "--strict") == (0, "", "1 file checked, no problems\n")
    assert Path("configs/losskit.schema.json").read_bytes() == catalogue.CONFIG_SCHEMA.read_bytes()
    assert run(capsys, "schema", "--check", "-o", "configs/losskit.schema.json")[0] == 0


def test_without_a_folder_files_go_to_the_current_one(capsys):
    assert run(capsys, "init")[1].endswith("now: losskit validate .\n")
    assert files() == ["losskit.schema.json", "losskit.yaml"]


def test_the_first_config_names_the_schema_beside_it_and_builds(capsys):
    run(capsys, "init")
    assert Path("losskit.yaml").read_text().startswith("# yaml-language-server: $schema=losskit.schema.json\n")
    criterion = losskit.build("losskit.yaml")
    predictions = {
        "price": torch.randn(4, requires_grad=True),
        "species": torch.randn(4, 3),
        "mask": torch.randn(4, 2, 8, 8),
    }
    targets = {"price": torch.randn(4), "species": torch.randint(3, (4,)), "mask": torch.randint(2, (4, 8, 8))}
    total, parts = criterion(predictions, targets)
    assert torch.isfinite(total)
    assert list(parts) == ["price/huber", "species/softmax_cross_entropy", "mask/dice", "mask/focal"]


def test_files_for_ci_go_where_their_tools_look(capsys):
    """That is the top of the repository, wherever the configs are."""
    code, out, _ = run(capsys, "init", "deep/configs", *OPTIONS)
    assert code == 0
    assert files() == sorted([*PLACES, "deep/configs/losskit.schema.json", "deep/configs/losskit.yaml"])
    assert all(f"wrote {place}\n" in out for place in PLACES)


def test_without_a_repository_files_for_ci_go_to_the_folder(capsys, folder, monkeypatch):
    (folder / ".git").rmdir()
    # The folder of the tests may itself lie in a repository.
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert run(capsys, "init", "project", "--gitlab")[0] == 0
    assert "project/.gitlab-ci.yml" in files()


def test_nothing_is_overwritten(capsys):
    run(capsys, "init", *OPTIONS)
    for name in files():
        Path(name).write_text("mine\n")
    code, out, err = run(capsys, "init", *OPTIONS)
    assert (code, err) == (2, "losskit: nothing was written: the files are there already\n")
    assert {Path(name).read_text() for name in files()} == {"mine\n"}
    for name in ("losskit.yaml", ".github/workflows/losskit.yml"):
        assert f"left {name} as it is\n" in out
    assert "left losskit.schema.json as it is, but it is out of date: run `losskit schema -o" in out


def test_what_is_missing_is_added_to_what_is_there(capsys):
    run(capsys, "init")
    code, out, _ = run(capsys, "init", "--github")
    assert code == 0
    assert out == (
        "left losskit.yaml as it is\n"
        "left losskit.schema.json as it is\n"
        "wrote .github/workflows/losskit.yml\n"
        "now: losskit validate .\n"
    )


@pytest.mark.parametrize(
    ("option", "place", "text"),
    [
        ("--pre-commit", ".pre-commit-config.yaml", "repos:\n  - repo: local\n    hooks: []\n"),
        ("--gitlab", ".gitlab-ci.yml", "test:\n  script: [make]\n"),
    ],
)
def test_for_files_of_others_the_lines_to_add_are_printed(capsys, option, place, text):
    Path(place).write_text(text)
    code, out, _ = run(capsys, "init", option)
    assert code == 0, "the config is new"
    assert Path(place).read_text() == text
    _, added = out.split(f"left {place} as it is; add these lines to it:\n\n")
    Path(place).write_text(text + added.removesuffix("now: losskit validate .\n"))
    both = yaml.safe_load(Path(place).read_text())
    ours = yaml.safe_load(template(INTEGRATIONS[option[2:].replace("-", "_")].template))
    if option == "--pre-commit":
        assert both["repos"][1:] == ours["repos"]
    else:
        assert both == {**yaml.safe_load(text), **ours}
    assert f"left {place} as it is\n" in run(capsys, "init", option)[1], "once added, they are not printed again"


def test_a_link_that_leads_nowhere_is_not_followed(capsys, folder):
    Path("losskit.yaml").symlink_to("elsewhere.yaml")
    code, out, _ = run(capsys, "init")
    assert (code, "left losskit.yaml as it is" in out) == (0, True)
    assert not Path("elsewhere.yaml").exists()


@pytest.mark.parametrize("place", ["taken", "taken/deeper"])
def test_a_file_in_the_place_of_the_folder_is_told(capsys, place):
    Path("taken").write_text("mine")
    code, out, err = run(capsys, "init", place)
    assert (code, out) == (2, "")
    assert err.startswith(f"losskit: cannot write '{place}/losskit.yaml': ")


def test_a_folder_that_may_not_be_written_is_told(capsys, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    # Tests may run as root, who may write everywhere.
    monkeypatch.setattr("builtins.open", refuse)
    code, out, err = run(capsys, "init")
    assert (code, out, err) == (2, "", "losskit: cannot write 'losskit.yaml': Permission denied\n")


def test_templates_are_filled_in():
    assert {path.name for path in TEMPLATES.iterdir()} == {"losskit.yaml"} | {i.template for i in INTEGRATIONS.values()}
    for path in TEMPLATES.iterdir():
        assert "<" not in template(path.name)
        assert len(template(path.name).splitlines()) <= 32, "short enough to be read"
    assert f"repo: {REPOSITORY}\n    rev: v{losskit.__version__}\n" in template("pre-commit.yaml")
    assert f"uses: losskit/losskit@v{losskit.__version__}\n" in template("github.yml")
    assert f"losskit=={losskit.__version__}\n" in template("gitlab.yml")


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("github.yml", ["vendor.github-workflows"]),
        ("gitlab.yml", ["vendor.gitlab-ci", "--data-transform", "gitlab-ci"]),
    ],
)
def test_templates_are_what_their_tools_read(name, schema):
    Path(name).write_text(template(name))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", *schema, name]
    subprocess.run(command, check=True, capture_output=True)
    broken = template(name).replace("runs-on:", "runs_on:").replace("script:", "scripts:")
    Path(name).write_text(broken)
    assert subprocess.run(command, check=False, capture_output=True).returncode == 1, "the schema looks at them"


def test_the_template_of_pre_commit_is_what_it_reads():
    Path("config.yaml").write_text(template("pre-commit.yaml"))
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-config", "config.yaml"], check=True)


def test_writing_imports_no_torch():
    code = """
import sys
from losskit.cli import main
assert main(["init", "--github", "--gitlab", "--pre-commit"]) == 0
assert not {"torch", "jsonschema", "marshmallow"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
