"""The ways in which an editor finds the schema of a config, and the schemas of plugins."""

import json
import os
import subprocess
import sys
from typing import ClassVar

import jsonschema
import pytest

import losskit
from losskit import register_loss
from losskit.registry import registry
from losskit.schema import BaseLossConfig, dataclass, fields
from losskit.schema.document import dump
from tests.editor.conftest import MODELINE, document_schema

pytestmark = pytest.mark.xdist_group("editor")

FEATURE = "output_features:\n  - name: f\n    type: number\n    loss: "
WAYS = {
    "the comment of the language server": (MODELINE, "config.yaml"),
    "the same comment below another": (f"# Trained on Mondays.\n{MODELINE}", "config.yaml"),
    "the comment of JetBrains": ("# $schema: losskit.schema.json\n", "config.yaml"),
    "a key at the top": ("$schema: losskit.schema.json\n", "config.yaml"),
    "the settings of the editor": ("", "associated/config.yaml"),
    "the schema in the later draft": (MODELINE.replace("losskit.", "2020-12."), "config.yaml"),
}


@pytest.mark.parametrize(("head", "name"), WAYS.values(), ids=WAYS)
def test_schema_is_found_by(editor, head, name):
    offered = {item["label"] for item in editor.offers(head + FEATURE + "|", name)}
    assert offered == {n for e in registry.entries() if "number" in e.feature_types for n in e.names}
    line = head.count("\n") + 3
    ((start, end, message),) = editor.marks(editor.open(head + FEATURE + "{type: huber, detla: 1}", name))
    assert (start, end, message) == ((line, 24), (line, 29), "Property detla is not allowed.")
    assert "grows linearly" in editor.shows(head + FEATURE + "{type: huber, del|ta: 1}", name)


@pytest.mark.parametrize("head", [head for head, _ in WAYS.values()], ids=WAYS)
def test_the_command_line_takes_no_offence_at(head):
    assert losskit.validate(text=head + FEATURE + "huber") == []


def test_a_file_that_names_no_schema_is_left_alone(editor):
    assert editor.marks(editor.open("losses: [hubr]", "config.yaml")) == []


# Plugins

PLUGIN = """
from losskit import register_loss

@register_loss("from_plugin", ["anomaly"], aliases="of-plugin")
def from_plugin(predictions, targets, *, scale: float = 1.0, items: int = 3, kind: str = "a"):
    '''A loss of another package.'''
    return scale * (predictions - targets).abs().mean()
"""


@pytest.fixture(scope="module")
def plugin_schemas(editor):
    """The schema in both drafts, as the command writes it beside the configs."""
    (editor.folder / "my_losses.py").write_text(PLUGIN)
    path = os.pathsep.join(
        filter(None, [str(losskit.__path__[0]).removesuffix("losskit"), os.environ.get("PYTHONPATH")])
    )
    names = []
    for draft in ("7", "2020-12"):
        names.append(f"plugin-{draft}.schema.json")
        command = [
            sys.executable,
            "-m",
            "losskit",
            "schema",
            "--plugin",
            "my_losses",
            "--draft",
            draft,
            "-o",
            names[-1],
        ]
        subprocess.run(command, cwd=editor.folder, env={**os.environ, "PYTHONPATH": path}, check=True)
    return names


@pytest.mark.parametrize("draft", [0, 1], ids=["7", "2020-12"])
def test_a_plugin_s_loss_is_offered_explained_and_checked(editor, plugin_schemas, draft):
    head = MODELINE.replace("losskit.schema.json", plugin_schemas[draft])
    anomaly = head + FEATURE.replace("number", "anomaly")
    built_in = [n for e in registry.entries() if "anomaly" in e.feature_types for n in e.names]
    offered = [item["label"] for item in editor.offers(anomaly + "|", "config.yaml")]
    assert sorted(offered) == sorted([*built_in, "from_plugin", "of-plugin"])
    offered = {item["label"] for item in editor.offers(head + FEATURE + "|", "config.yaml")}
    assert "huber" in offered
    assert "from_plugin" not in offered
    offered = [item["label"] for item in editor.offers(anomaly + "{type: of-plugin, s|}", "config.yaml")]
    assert sorted(offered) == sorted(["scale", "items", "kind", "weight", "name", "inputs", "params"])
    assert "A loss of another package" in editor.shows(anomaly + "{type: from_|plugin}", "config.yaml")
    wrong = editor.open(anomaly + "{type: of-plugin, items: 2.5, scael: 1}", "config.yaml")
    assert [text for _, _, text in editor.marks(wrong)] == [
        'Incorrect type. Expected "integer".',
        "Property scael is not allowed.",
    ]


@pytest.mark.parametrize(
    ("schema", "validator"),
    [(0, jsonschema.Draft7Validator), (1, jsonschema.Draft202012Validator)],
    ids=["7", "2020-12"],
)
def test_a_plugin_s_schema_is_a_schema(editor, plugin_schemas, schema, validator):
    text = (editor.folder / plugin_schemas[schema]).read_text("utf-8")
    validator.check_schema(json.loads(text))


def test_old_names_of_settings_are_right_but_not_offered(editor, losses):
    @dataclass
    class RenamedLossConfig(BaseLossConfig):
        renamed_settings: ClassVar[dict[str, str]] = {"scael": "scale"}

        scale: float = fields.Float(default=1.0, description="How much it counts.")

    @register_loss("renamed", ["number"], schema=RenamedLossConfig)
    def renamed_loss(predictions, targets, *, scale: float = 1.0):
        return scale * (predictions - targets).mean()

    (editor.folder / "renamed.schema.json").write_text(dump(document_schema()), "utf-8")
    head = MODELINE.replace("losskit.", "renamed.") + FEATURE
    text = head + "{type: renamed, scael: 2.0}"
    assert [d.severity for d in losskit.validate(text=text)] == ["warning"]
    assert editor.marks(editor.open(text)) == []
    assert len(editor.marks(editor.open(head + "{type: renamed, scael: x}"))) == 1
    offered = [item["label"] for item in editor.offers(head + "{type: renamed, s|}", "config.yaml")]
    assert sorted(offered) == sorted(["scale", "weight", "name", "inputs", "params"])
    offered = [
        item["label"] for item in editor.offers(head + "\n      type: renamed\n      params:\n        |", "config.yaml")
    ]
    assert offered == ["scale"]
