"""The pytest plugin, in runs of pytest within the test."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

# A run within the test forgets what it imported, and the compiled half of PyYAML must not be imported twice.
import losskit.cli.checking  # noqa: F401

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
GOOD = "output_features:\n  - {name: price, type: number, loss: huber}\n"
BAD = "output_features:\n  - {name: price, type: number, loss: {type: huber, detla: 0.5, weight: -1}}\n"
WARNED = "output_features:\n  - {name: price, type: number, loss: {type: huber, delta: 1e-3}}\n"
OTHER = "services:\n  web: {image: nginx}\n"
LOADED = ("-p", "losskit.pytest_plugin", "-p", "no:cacheprovider")


@pytest.fixture(autouse=True)
def project(pytester, monkeypatch):
    monkeypatch.delenv("CI", raising=False)  # pytest writes longer summaries there
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    # The plugin is loaded by name, whether losskit is installed or not, and those of others would cost time.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(test_code="def test_code():\n    pass\n")
    for name, text in (
        ("configs/good.yaml", GOOD),
        ("configs/deep/bad.yml", BAD),
        ("configs/warned.yaml", WARNED),
        ("configs/docker-compose.yml", OTHER),
        ("configs/losskit.schema.json", '{\n "properties": {\n  "output_features": {}}}'),
        ("configs/.hidden/bad.yaml", BAD),
    ):
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return pytester.path


def test_each_config_below_a_folder_is_a_test(pytester):
    result = pytester.runpytest(*LOADED, "-v", "--losskit", "configs")
    result.assert_outcomes(passed=3, failed=1, warnings=1)
    result.stdout.fnmatch_lines_random(
        [
            "configs/good.yaml::losskit PASSED*",
            "configs/deep/bad.yml::losskit FAILED*",
            "configs/warned.yaml::losskit PASSED*",
            "test_code.py::test_code PASSED*",
        ]
    )
    assert result.ret == 1


def test_a_wrong_config_fails_with_the_report_and_without_a_traceback(pytester):
    result = pytester.runpytest(*LOADED, "--losskit", "configs/deep/bad.yml")
    out = result.stdout.str()
    assert (
        "error[LK201]: `huber` has no setting `detla`\n"
        " --> configs/deep/bad.yml:2:53\n"
        "  |\n"
        "1 | output_features:\n"
        "2 |   - {name: price, type: number, loss: {type: huber, detla: 0.5, weight: -1}}\n"
        "  |                                                     ^^^^^ did you mean `delta`?\n"
        "  = help: settings of `huber`: delta, reduction, weight\n"
    ) in out
    assert "error[LK203]" in out, "all problems at once"
    assert "_ losskit: configs/deep/bad.yml _" in out
    assert "pytest_plugin.py" not in out
    assert "Traceback" not in out
    result.stdout.fnmatch_lines(["FAILED configs/deep/bad.yml::losskit - 2:53: error[[]LK201[]] `huber` has no*"])


def test_a_warning_is_one_of_pytest_with_the_line_of_the_config(pytester):
    result = pytester.runpytest(*LOADED, "--losskit", "configs/warned.yaml", "-k", "losskit")
    result.assert_outcomes(passed=1, warnings=1, deselected=1)
    result.stdout.fnmatch_lines(["*configs/warned.yaml:2: ConfigWarning: [[]LK302[]] `1e-3` is a number here*"])


def test_the_summary_names_the_first_error_also_behind_a_warning(pytester):
    (pytester.path / "both.yaml").write_text(WARNED + "  - {name: weight, type: number, loss: hubr}\n")
    result = pytester.runpytest(*LOADED, "--losskit", "both.yaml")
    result.stdout.fnmatch_lines(["FAILED both.yaml::losskit - 3:40: error[[]LK103[]] no loss named*"])


@pytest.mark.parametrize(
    "option", [["--losskit-strict"], ["-W", "error"], ["-W", "error::losskit.pytest_plugin.ConfigWarning"]], ids=str
)
def test_warnings_fail_where_that_is_asked_for(pytester, option):
    result = pytester.runpytest_subprocess(*LOADED, "--losskit", "configs/warned.yaml", *option, "-k", "losskit")
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(["warning[[]LK302[]]: *", "  = help: write 1.0e-3"])
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "the path 'missing' does not exist"),
        ("configs/*.yml.old", "the path 'configs/*.yml.old' matches nothing"),
        ("empty", "found no file with `output_features` or `losses` in empty"),
    ],
)
def test_paths_without_configs_are_usage_errors(pytester, path, message):
    pytester.mkdir("empty").joinpath("docker-compose.yml").write_text(OTHER)
    result = pytester.runpytest(*LOADED, "--losskit", path)
    assert result.ret == pytest.ExitCode.USAGE_ERROR == 4
    result.stderr.fnmatch_lines([f"ERROR: --losskit: {message}".replace("*", "[*]")])
    pytester.makeini(f"[pytest]\nlosskit_paths = {path}\n")
    result = pytester.runpytest(*LOADED)
    assert result.ret == 4
    assert "ERROR: losskit_paths: " in result.stderr.str()


def test_configs_that_pytest_comes_across_are_tests_once(pytester):
    """Also where it does not look by itself, and no other test is lost."""
    pytester.makeini("[pytest]\nnorecursedirs = deep\n")
    result = pytester.runpytest(*LOADED, "--collect-only", "-q", "--losskit", "configs")
    assert sorted(line for line in result.outlines if "::" in line) == [
        "configs/deep/bad.yml::losskit",
        "configs/good.yaml::losskit",
        "configs/warned.yaml::losskit",
        "test_code.py::test_code",
    ]
    result.stdout.fnmatch_lines(["4 tests collected*"])


def test_files_and_patterns_may_be_given_each_counts_once(pytester):
    paths = ["configs/*.yaml", "configs/good.yaml", "configs/deep"]
    arguments = [argument for path in paths for argument in ("--losskit", path)]
    result = pytester.runpytest(*LOADED, "--collect-only", "-q", *arguments, "test_code.py")
    # Without the order, which is that of the folders and differs between versions of pytest.
    assert sorted(line for line in result.outlines if "::" in line) == [
        "configs/deep/bad.yml::losskit",
        "configs/good.yaml::losskit",
        "configs/warned.yaml::losskit",
        "test_code.py::test_code",
    ]


def test_a_file_that_is_named_must_have_losses(pytester):
    result = pytester.runpytest(*LOADED, "--losskit", "configs/docker-compose.yml", "-m", "losskit")
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(["*neither `output_features` nor `losses`*"])


def test_a_file_that_cannot_be_read_fails(pytester, monkeypatch):
    def refuse(path, *arguments, open=open, **options):
        if path == "configs/good.yaml":
            raise PermissionError(13, "Permission denied")
        return open(path, *arguments, **options)

    # Tests may run as root, who may read everything.
    monkeypatch.setattr("builtins.open", refuse)
    result = pytester.runpytest(*LOADED, "--losskit", "configs/good.yaml", "-m", "losskit")
    result.assert_outcomes(failed=1, deselected=1)
    result.stdout.fnmatch_lines(["error[[]LK011[]]: the file cannot be read: Permission denied"])


def test_the_settings_of_the_project_count(pytester):
    """As they do for `losskit validate`."""
    (pytester.path / "configs" / "mmf.yaml").write_text("model:\n  losses: [plugged, {type: focal, gamma: -1}]\n")
    pytester.makepyfile(
        my_losses="from losskit import register_loss\n"
        "@register_loss('plugged')\n"
        "def plugged(predictions, targets):\n"
        "    '''A loss of the project.'''\n"
        "    return (predictions - targets).abs().mean()\n"
    )
    settings = 'exclude = ["deep"]\nplugins = ["my_losses"]\nignore = ["LK203"]\nat = "model.losses"\n'
    pytester.makepyprojecttoml(f"[tool.losskit]\n{settings}")
    result = pytester.runpytest_subprocess(*LOADED, "--losskit", "configs", "-m", "losskit", "-v")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["configs/mmf.yaml::losskit PASSED*"])
    pytester.makepyprojecttoml('[tool.losskit]\nplugins = ["no_such_module"]\n')
    result = pytester.runpytest_subprocess(*LOADED, "--losskit", "configs")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --losskit: the plugin 'no_such_module' failed: *"])


def test_a_comment_silences_a_problem(pytester):
    (pytester.path / "own.yaml").write_text(WARNED.rstrip() + "  # losskit: ignore[LK302]\n")
    result = pytester.runpytest(*LOADED, "--losskit", "own.yaml", "--losskit-strict", "-m", "losskit")
    result.assert_outcomes(passed=1, deselected=1)


def test_the_setting_is_for_runs_without_paths(pytester):
    """As with `testpaths`: whoever names a test gets that one."""
    pytester.makeini("[pytest]\ntestpaths = test_code.py\nlosskit_paths = configs\n")
    pytester.runpytest(*LOADED).assert_outcomes(passed=3, failed=1, warnings=1)
    pytester.runpytest(*LOADED, "test_code.py").assert_outcomes(passed=1)
    pytester.runpytest(*LOADED, "configs").assert_outcomes(passed=2, failed=1, warnings=1)
    pytester.runpytest(*LOADED, "configs/good.yaml::losskit").assert_outcomes(passed=1)
    pytester.runpytest(*LOADED, "test_code.py", "--losskit", "configs/good.yaml").assert_outcomes(passed=2)


def test_the_setting_is_relative_to_its_file(pytester, monkeypatch):
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nlosskit_paths = ["configs/good.yaml"]\n')
    monkeypatch.chdir(pytester.mkdir("elsewhere"))
    pytester.runpytest(*LOADED).assert_outcomes(passed=1)


def test_a_test_can_be_run_again_by_its_name(pytester):
    arguments = (*LOADED[:2], "--losskit", "configs")
    pytester.runpytest(*arguments).assert_outcomes(passed=3, failed=1, warnings=1)
    result = pytester.runpytest(*arguments, "--last-failed", "-v")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["configs/deep/bad.yml::losskit FAILED*"])


def test_losses_that_conftest_registers_are_known(pytester):
    pytester.makeconftest(
        "from losskit import register_loss\n"
        "@register_loss('from_conftest', ['number'])\n"
        "def from_conftest(predictions, targets):\n"
        "    '''A loss of the project.'''\n"
        "    return (predictions - targets).abs().mean()\n"
    )
    (pytester.path / "own.yaml").write_text(GOOD.replace("huber", "from_conftest"))
    pytester.runpytest_subprocess(*LOADED, "--losskit", "own.yaml").assert_outcomes(passed=2)


def test_reports_for_ci_hold_each_config_and_its_problems(pytester):
    pytester.runpytest(*LOADED, "--losskit", "configs", "--junitxml", "report.xml")
    cases = {case.get("classname"): case for case in ET.parse("report.xml").iter("testcase")}
    assert cases.keys() == {"configs.good.yaml", "configs.deep.bad.yml", "configs.warned.yaml", "test_code"}
    failure = cases["configs.deep.bad.yml"].find("failure")
    assert (
        failure.get("message")
        == "2:53: error[LK201] `huber` has no setting `detla`, did you mean `delta`? (and 1 more)"
    )
    assert failure.text.startswith("error[LK201]: `huber` has no setting `detla`\n --> configs/deep/bad.yml:2:53\n")
    assert cases["configs.good.yaml"].find("failure") is None


def test_several_processes_give_the_same(pytester):
    pytest.importorskip("xdist")
    result = pytester.runpytest_subprocess(*LOADED, "-p", "xdist.plugin", "--losskit", "configs", "-n", "2")
    result.assert_outcomes(passed=3, failed=1, warnings=1)
    out = result.stdout.str()
    assert " --> configs/deep/bad.yml:2:53\n" in out
    assert out.count("ConfigWarning: [LK302]") == 1


def test_a_run_without_configs_imports_nothing_of_losskit(pytester):
    pytester.makepyfile(
        test_code="import sys\n"
        "def test_code(pytestconfig):\n"
        "    ours = {name for name in sys.modules if name.partition('.')[0] == 'losskit'}\n"
        "    assert ours == {'losskit', 'losskit.pytest_plugin'}\n"
        "    assert not {'torch', 'yaml', 'jsonschema'} & sys.modules.keys()\n"
        "    assert not pytestconfig.pluginmanager.has_plugin('losskit-configs')\n"
    )
    pytester.runpytest_subprocess(*LOADED).assert_outcomes(passed=1)


def test_checking_imports_no_torch(pytester):
    pytester.makepyfile(test_code="import sys\ndef test_code():\n    assert 'torch' not in sys.modules\n")
    # The configs come first, in the order of their names.
    result = pytester.runpytest_subprocess(*LOADED, "--losskit", "configs", "-v")
    result.stdout.fnmatch_lines(["configs/*::losskit *", "test_code.py::test_code PASSED*"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which losskit is installed, as those who use it have it."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", folder, ROOT], check=True)
    return folder


def test_an_installed_losskit_brings_the_plugin(pytester, monkeypatch, site):
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    monkeypatch.setenv("PYTHONPATH", str(site))
    result = pytester.runpytest_subprocess("--losskit", "configs")
    result.assert_outcomes(passed=3, failed=1, warnings=1)
    assert re.search(r"^plugins: .*losskit-\d", result.stdout.str(), re.MULTILINE)
    result = pytester.runpytest_subprocess("-p", "no:losskit", "--losskit", "configs")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*unrecognized arguments: --losskit*"])


@pytest.mark.slow
def test_contracts_of_losses_read_the_same_where_pytest_rewrites_asserts(pytester, monkeypatch, site):
    """pytest does so to packages that bring a plugin, which must reach neither messages nor compiled losses."""
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    monkeypatch.setenv("PYTHONPATH", str(site))
    pytester.makepyfile(
        test_code="""
import torch
import losskit
from losskit.testing import ContractError, check_loss

class Absolute(torch.nn.Module):
    "The mean error."
    def forward(self, predictions, targets):
        return (predictions - targets).abs().mean()

def test_messages():
    losskit.register_loss("absolute", ["number"])(Absolute)
    try:
        check_loss(Absolute)
    except ContractError as error:
        message = str(error)
    assert "an empty batch: the value is nan, not 0" in message
    assert "assert" not in message

def test_compiled():
    similar = {"class_similarities": [[1.0, 0.5], [0.5, 1.0]], "class_similarities_temperature": 1.0}
    loss = losskit.create_loss("softmax_cross_entropy", **similar)  # its function has an assert
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    assert torch.equal(compiled(logits, labels), loss(logits, labels))
"""
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_configs_may_be_trained_for_a_step(pytester):
    pytester.makeconftest(
        "from losskit import register_loss\n"
        "@register_loss('logarithmic', ['number'])\n"
        "def logarithmic(predictions, targets):\n"
        "    '''Takes the logarithm of what may be negative.'''\n"
        "    return (predictions.log() - targets).abs().mean()\n"
    )
    (pytester.path / "log.yaml").write_text(GOOD.replace("huber", "logarithmic"))
    arguments = ("--losskit", "log.yaml", "--losskit", "configs/good.yaml", "-m", "losskit")
    pytester.runpytest_subprocess(*LOADED, *arguments).assert_outcomes(passed=2, deselected=1)
    result = pytester.runpytest_subprocess(*LOADED, *arguments, "--losskit-smoke")
    result.assert_outcomes(passed=1, failed=1, deselected=1)
    result.stdout.fnmatch_lines(["*error?LK501?: `logarithmic` *"])
