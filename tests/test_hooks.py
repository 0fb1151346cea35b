"""What runs losskit for others: the hooks of pre-commit, and the action of GitHub."""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from losskit.cli import main
from losskit.cli.commands.init import INTEGRATIONS, template
from losskit.cli.commands.validate import add_arguments

ROOT = Path(__file__).parent.parent
GOOD = "output_features:\n  - {name: price, type: number, loss: huber}\n"
BAD = "output_features:\n  - {name: price, type: number, loss: hubr}\n"
# What a repository holds besides: other tools' YAML, some of which is no plain YAML, and a JSON Schema of ours.
OTHERS = {
    "docker-compose.yml": "services:\n  web: {image: nginx}\n",
    ".gitlab-ci.yml": "job:\n  script: !reference [other, script]\n",
    "chart/template.yaml": "a: {{ .Values.x }}\n",
    "k8s.yaml": "kind: A\n---\nkind: B\n",
    "history.json": '{"losses": [0.1, 0.2]}\n',
    "losskit.schema.json": '{\n "properties": {\n  "output_features": {}}}\n',
    "empty.yaml": "",
}
MANIFEST = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
HOOKS = {hook["id"]: hook for hook in MANIFEST}
ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for variable in ("GITHUB_ACTIONS", "LOSSKIT_OUTPUT_FORMAT", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    for name, text in {"configs/good.yaml": GOOD, "configs/a bad.yaml": BAD, **OTHERS}.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    return tmp_path


def run_hook(capsys, name, *files):
    """What pre-commit does: the entry, then the names of files."""
    _, *arguments = shlex.split(HOOKS[name]["entry"])
    code = main([*arguments, *files])
    out, err = capsys.readouterr()
    return code, out, err


# Hooks of pre-commit


def test_files_of_others_are_left_out_although_they_are_named(capsys):
    assert run_hook(capsys, "losskit-validate", "configs/good.yaml", *OTHERS) == (
        0,
        "",
        "1 file checked, no problems\n",
    )
    code, out, err = run_hook(capsys, "losskit-validate", "configs/a bad.yaml", *OTHERS)
    assert (code, "--> configs/a bad.yaml:2:" in out, err) == (1, True, "1 file checked, 1 error in 1 file\n")


def test_a_commit_without_configs_passes(capsys):
    assert run_hook(capsys, "losskit-validate", *OTHERS)[0] == 0


def test_a_config_that_is_no_yaml_is_no_file_of_others(capsys):
    Path("broken.yaml").write_text(GOOD + "\tbroken")
    code, out, _ = run_hook(capsys, "losskit-validate", "broken.yaml")
    assert (code, "LK001" in out) == (1, True)


def test_the_fixing_hook_corrects_and_then_passes(capsys):
    run_hook(capsys, "losskit-fix", "configs/a bad.yaml", *OTHERS)
    assert Path("configs/a bad.yaml").read_text() == BAD.replace("hubr", "huber")
    assert {name: Path(name).read_text() for name in OTHERS} == OTHERS
    assert run_hook(capsys, "losskit-fix", "configs/a bad.yaml", *OTHERS)[0] == 0


@pytest.mark.parametrize("hook", MANIFEST, ids=lambda hook: hook["id"])
def test_hooks_ask_for_what_there_is(hook):
    command, subcommand, *arguments = shlex.split(hook["entry"])
    assert (command, subcommand) == ("losskit", "validate")
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    parser.parse_args(arguments)
    assert (hook["language"], hook["types_or"], hook["require_serial"]) == ("python", ["yaml", "json"], True)


def test_pre_commit_reads_the_manifest():
    command = [sys.executable, "-m", "pre_commit", "validate-manifest"]
    subprocess.run([*command, ROOT / ".pre-commit-hooks.yaml"], check=True)
    Path("wrong.yaml").write_text(yaml.safe_dump([{**hook, "entry": None} for hook in MANIFEST]))
    assert subprocess.run([*command, "wrong.yaml"], check=False, capture_output=True).returncode == 1


def git(*arguments, cwd="."):
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def copy_of_losskit(folder):
    """Puts what a checkout of this repository holds of the package into a folder."""
    shutil.copytree(ROOT / "losskit", folder / "losskit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".pre-commit-hooks.yaml"):
        shutil.copy(ROOT / name, folder)


@pytest.mark.slow
def test_pre_commit_installs_the_hook_without_torch_and_refuses_a_wrong_config(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PRE_COMMIT_HOME", str(tmp_path_factory.mktemp("pre-commit")))
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it would put another losskit before the one that is installed
    for variable in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(variable)  # set where the tests themselves run in a hook
    repository = tmp_path_factory.mktemp("repository")
    copy_of_losskit(repository)
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        assert git(*arguments, cwd=repository).returncode == 0
    rev = git("rev-parse", "HEAD", cwd=repository).stdout.strip()
    config = {"repos": [{"repo": repository.as_uri(), "rev": rev, "hooks": [{"id": "losskit-validate"}]}]}
    Path(".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    git("init", "-q")
    git("add", "-A")
    pre_commit = [sys.executable, "-m", "pre_commit"]
    subprocess.run([*pre_commit, "install", "--install-hooks"], check=True, capture_output=True)
    packages = {path.name for path in Path(os.environ["PRE_COMMIT_HOME"]).glob("repo*/py_env*/lib/*/site-packages/*")}
    assert "losskit" in packages
    assert not packages & {"torch", "numpy"}

    refused = git("commit", "-m", "wrong")
    assert refused.returncode == 1
    assert "--> configs/a bad.yaml:2:" in refused.stderr
    assert "2 files checked, 1 error in 1 file" in refused.stderr
    Path("configs/a bad.yaml").write_text(GOOD)
    git("add", "-A")
    assert git("commit", "-m", "right").returncode == 0
    Path("docker-compose.yml").write_text("services: {}\n")
    assert git("commit", "-am", "another's file alone").returncode == 0


# The action of GitHub


def test_the_action_is_what_github_reads():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-actions"]
    subprocess.run([*command, ROOT / "action.yml"], check=True, capture_output=True)
    Path("action.yml").write_text((ROOT / "action.yml").read_text("utf-8").replace("shell:", "shel:"))
    assert subprocess.run([*command, "action.yml"], check=False, capture_output=True).returncode == 1


def test_each_input_is_used_described_and_documented():
    text = yaml.safe_dump(ACTION["runs"])
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == ACTION["inputs"].keys()
    for name, given in ACTION["inputs"].items():
        assert given["description"]
        assert f"| `{name}` |" in PAGE


def test_no_input_becomes_text_of_a_script():
    """It would be run: `paths: $(rm -rf ~)`."""
    scripts = [step["run"] for step in ACTION["runs"]["steps"] if "run" in step]
    assert len(scripts) == 2
    assert not [script for script in scripts if "${{" in script]


class Runner:
    """Runs scripts of the action as GitHub does on Linux; the step that sets up Python is GitHub's own."""

    def __init__(self, folder, **inputs):
        self.folder = folder
        self.values = {f"inputs.{name}": given["default"] for name, given in ACTION["inputs"].items()}
        self.values |= {f"inputs.{name.replace('_', '-')}": value for name, value in inputs.items()}

    def run(self, name):
        """Runs the step of this name; its outputs are known to later ones."""
        (step,) = [step for step in ACTION["runs"]["steps"] if step.get("id") == name]
        output, script = self.folder / f"output of {name}", self.folder / f"{name}.sh"
        output.touch()
        script.write_text(step["run"])
        environment = {
            **{variable: value for variable, value in os.environ.items() if variable != "PYTHONPATH"},
            **{variable: self.expanded(value) for variable, value in step["env"].items()},
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(self.folder / "action"),
            "GITHUB_OUTPUT": str(output),
            "RUNNER_TEMP": str(self.folder),
        }
        command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", script]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        for line in output.read_text().splitlines():
            key, _, value = line.partition("=")
            self.values[f"steps.{name}.outputs.{key}"] = value
        return result

    def expanded(self, text):
        return re.sub(r"\$\{\{ (\S+) \}\}", lambda match: self.values.get(match[1], ""), text)


@pytest.fixture
def temporary(tmp_path_factory):
    """The runner's folder, with a space in its name, as there may be on a Mac."""
    folder = tmp_path_factory.mktemp("runner") / "its files"
    folder.mkdir()
    return folder


@pytest.fixture
def calls_for(temporary):
    """What `losskit` is given for certain inputs; in its place stands a program that writes that down."""
    fake, log = temporary / "bin" / "losskit", temporary / "calls"
    fake.parent.mkdir()
    fake.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        f"with open({str(log)!r}, 'a') as log:\n"
        "    print(json.dumps(sys.argv[1:]), file=log)\n"
    )
    fake.chmod(0o755)

    def calls(**inputs):
        log.unlink(missing_ok=True)
        runner = Runner(temporary, **inputs)
        runner.values["steps.install.outputs.bin"] = str(fake.parent)
        result = runner.run("validate")
        assert result.returncode == 0, result.stderr
        return [json.loads(line) for line in log.read_text().splitlines()]

    return calls


def test_without_inputs_everything_is_validated(calls_for):
    assert calls_for() == [["validate", "--output-format", "github", "--", "."]]


def test_paths_are_lines_and_options_are_quoted_as_in_a_shell(calls_for):
    (call,) = calls_for(
        paths="configs/a bad.yaml\n\n  configs/*.yml\n--plugin=evil.yaml\n",
        args="--strict --exclude 'old runs' --exclude \"it's\"\n--at a.b",
        output_format="concise",
    )
    assert call == [
        *["validate", "--strict", "--exclude", "old runs", "--exclude", "it's", "--at", "a.b"],
        *["--output-format", "concise", "--", "configs/a bad.yaml", "configs/*.yml", "--plugin=evil.yaml"],
    ]


@pytest.mark.parametrize("text", ["$(touch hacked)", "`touch hacked`", "; touch hacked", '"; touch hacked; "', "$HOME"])
def test_nothing_in_an_input_is_run_or_expanded(calls_for, text):
    (_, call) = calls_for(paths=text, args=shlex.quote(text), output_format=text, sarif_file=text)
    assert call == ["validate", text, "--output-format", text, "--", text]
    assert not Path("hacked").exists()


def test_options_that_are_quoted_wrongly_fail(temporary):
    runner = Runner(temporary, args="--exclude 'old runs")
    runner.values["steps.install.outputs.bin"] = "/bin"
    result = runner.run("validate")
    assert result.returncode == 1
    assert "unmatched single quote" in result.stderr


def test_a_sarif_file_is_written_before_what_fails(calls_for):
    assert calls_for(sarif_file="its results.sarif") == [
        ["validate", "--output-format", "sarif", "-o", "its results.sarif", "--exit-zero", "--", "."],
        ["validate", "--output-format", "github", "--", "."],
    ]


@pytest.mark.slow
def test_the_action_installs_itself_without_torch_and_tells_github(temporary):
    (temporary / "action").mkdir()
    copy_of_losskit(temporary / "action")
    runner = Runner(temporary, paths="configs/good.yaml\nconfigs/a bad.yaml", sarif_file="a.sarif")
    installed = runner.run("install")
    assert installed.returncode == 0, installed.stderr
    packages = {path.name for path in temporary.glob("losskit/lib/*/site-packages/*")}
    assert "losskit" in packages
    assert not packages & {"torch", "numpy"}
    result = runner.run("validate")
    assert result.returncode == 1
    assert re.search(r"^::error .*file=configs/a bad.yaml,line=2,.*::", result.stdout, re.MULTILINE)
    assert "2 files checked, 1 error in 1 file" in result.stderr
    (sarif,) = json.loads(Path("a.sarif").read_text())["runs"]
    assert [found["ruleId"] for found in sarif["results"]] == ["LK103"]


@pytest.mark.parametrize(("version", "asked"), [("", "{action}"), ("1.2.3", "losskit==1.2.3")])
def test_the_version_that_is_asked_for_is_installed(temporary, monkeypatch, version, asked):
    """By a `python3` that makes an environment whose Python only writes down what it is given."""
    fake = Path("bin/python3")
    fake.parent.mkdir()
    fake.write_text(
        "#!/bin/bash\n"
        'if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; else printf "%s\\n" "$@"; fi\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent.absolute()}:{os.environ['PATH']}")
    runner = Runner(temporary, version=version)
    result = runner.run("install")
    assert result.stdout.splitlines()[-1] == asked.format(action=temporary / "action"), result.stderr
    assert runner.values["steps.install.outputs.bin"] == str(temporary / "losskit" / "bin")


# The page about them

PAGE = (ROOT / "docs" / "ci.md").read_text("utf-8")
BLOCKS = re.findall(r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```", PAGE, re.DOTALL)
FILES = [(name, text) for name, language, text in BLOCKS if language == "yaml"]


def test_the_page_shows_what_init_writes():
    for integration in INTEGRATIONS.values():
        shown = [text for name, text in FILES if name == integration.place]
        assert shown[0] == template(integration.template), f"docs/ci.md has another {integration.place}"


@pytest.mark.parametrize(("name", "text"), FILES, ids=[name for name, _ in FILES])
def test_files_on_the_page_are_what_their_tools_read(name, text):
    Path("file.yml").write_text(text)
    commands = {
        ".pre-commit-config.yaml": ["pre_commit", "validate-config"],
        ".gitlab-ci.yml": [
            *["check_jsonschema", "--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"],
        ],
    }
    command = commands.get(name, ["check_jsonschema", "--builtin-schema", "vendor.github-workflows"])
    subprocess.run([sys.executable, "-m", *command, "file.yml"], check=True, capture_output=True)
    for job in yaml.safe_load(text).get("jobs", {}).values():
        for step in job["steps"]:
            if step.get("uses", "").startswith("losskit/"):
                assert step["with"].keys() <= ACTION["inputs"].keys()


def test_commands_on_the_page_have_the_options_that_there_are():
    commands = re.findall(r"losskit validate( -[^'`\n]*)", "".join(text for _, _, text in BLOCKS))
    assert len(commands) == 4
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    for command in commands:
        assert parser.parse_args(shlex.split(command)).paths == []


def test_hooks_are_all_on_the_page():
    assert set(re.findall(r"^\| `(losskit-[\w-]+)` \|", PAGE, re.MULTILINE)) == HOOKS.keys()
    (local,) = yaml.safe_load(FILES[1][1])["repos"][0]["hooks"]
    assert local["entry"] == HOOKS["losskit-validate"]["entry"]


def test_the_setting_on_the_page_makes_configs_tests():
    (setting,) = [text for _, language, text in BLOCKS if language == "toml"]
    Path("pyproject.toml").write_text(setting)
    command = [sys.executable, "-m", "pytest", "-p", "losskit.pytest_plugin", "--collect-only", "-q"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.startswith("configs/a bad.yaml::losskit\nconfigs/good.yaml::losskit\n")
