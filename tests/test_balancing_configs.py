"""How a config says that its losses are balanced: what is right, what is told, what is built, and who may add to it."""

import json
import subprocess
import sys
import typing

import pytest
import torch

import losskit
from losskit import register_loss_balancing
from losskit.cli import main
from losskit.fixing import fix
from losskit.modules import LossBalancing
from losskit.registry import RegistrationError
from losskit.schema import BaseBalancingConfig, catalogue, dataclass, fields
from losskit.strategies import Strategies, strategies

NAMES = ["dwa", "famo", "gradnorm", "log_transform", "nash_mtl", "none", "pareto_mtl", "pcgrad", "uncertainty"]
TWO = "output_features: [{name: a, type: number, loss: mse}, {name: b, type: number, loss: huber}]"

pytestmark = pytest.mark.usefixtures("losses")


def config(balancing, text=TWO):
    return f"loss_balancing: {balancing}\n{text}\n"


def told(text, **options):
    return [(d.code, d.path, d.text) for d in losskit.validate(text=text, **options)]


# What is right


def test_the_strategies_are_these():
    assert strategies.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_builds_from_its_name_and_from_a_mapping(name):
    for text in (config(name), config(f"{{type: {name}}}"), config(name, "losses: [mse, huber]")):
        assert told(text) == []
        assert losskit.load(text=text).loss_balancing.type == name
        balancing = losskit.build(text=text).balancing
        assert balancing is None if name == "none" else type(balancing) is strategies.get(name).module.load()


def test_settings_reach_the_strategy():
    criterion = losskit.build(text=config("{type: pareto_mtl, preference_vector: [3, 1], tchebycheff_weight: 1}"))
    assert criterion.balancing.preferences.tolist() == [0.75, 0.25]
    zeros, targets = ({name: torch.tensor([value]) for name in "ab"} for value in (0.0, 2.0))
    # The preferred squared error is 4, of which 3/4 count; the error beyond 1 is linear.
    assert criterion(zeros, targets).total.item() == 3.0


def test_without_it_there_is_none():
    assert losskit.load(text=TWO).loss_balancing is None
    assert losskit.build(text=TWO).balancing is None


def test_it_stands_beside_the_losses_wherever_they_stand():
    around = {"model": {"losses": ["mse", "huber"], "loss_balancing": "famo"}, "loss_balancing": "not ours"}
    for at in ("model", "model.losses"):
        assert losskit.load(around, at=at).loss_balancing.type == "famo"


def test_each_loss_is_a_task():
    text = config(
        "uncertainty", "output_features: [{name: a, type: number, loss: [mse, huber]}, {name: b, type: number}]"
    )
    assert losskit.build(text=text).balancing.num_tasks == 3


# What is told

WRONG = {
    "uncertanty": ("LK109", "", "did you mean `uncertainty`?"),
    "GradNorm": ("LK109", "", "did you mean `gradnorm`?"),
    "nashmtl": ("LK109", "", "did you mean `nash_mtl`?"),
    "dynamic_weight_average": ("LK109", "", "did you mean `dwa`?"),
    "zzz": ("LK109", "", 'no loss balancing named "zzz"'),
    "[famo]": ("LK101", "", "must be a name or a mapping with `type`, got a list of 1"),
    "": ("LK101", "", "must be a name or a mapping with `type`, got null"),
    "3": ("LK101", "", "got 3"),
    "{}": ("LK102", "", "`loss_balancing` has no `type`"),
    "{famo: {}}": ("LK102", "", "`loss_balancing` has no `type`"),
    "{tpye: famo}": ("LK102", ".tpye", "did you mean `type`?"),
    "{type: [famo]}": ("LK202", ".type", "must be the name of a strategy, got a list of 1"),
    "{type: famos}": ("LK109", ".type", "did you mean `famo`?"),
    "{type: famo, gama: 1}": ("LK201", ".gama", "did you mean `gamma`?"),
    "{type: famo, alpha: 1}": ("LK201", ".alpha", "`famo` has no setting `alpha`"),
    "{type: none, weight: 1}": ("LK201", ".weight", "`none` has no setting `weight`"),
    "{type: famo, params: {gamma: 1}}": ("LK201", ".params", "`famo` takes no `params`"),
    "{type: famo, gamma: -1}": ("LK203", ".gamma", "must be at least 0, got -1"),
    "{type: dwa, period: 2.5}": ("LK202", ".period", "must be an integer at least 1"),
    "{type: nash_mtl, normalize: 1}": ("LK202", ".normalize", "must be true or false, got 1"),
    "{type: dwa, temperature: 1e1}": ("LK302", ".temperature", "`1e1` is a number here"),
    "{type: pareto_mtl, preference_vector: [1]}": ("LK206", ".preference_vector", "has 1 number, but the config has 2"),
    "{type: pareto_mtl, preference_vector: [0, 0]}": ("LK207", ".preference_vector", "has only zeros"),
    "{type: pareto_mtl, preference_vector: [1, -1]}": ("LK203", ".preference_vector[1]", "must be at least 0"),
    "{type: famo, min_losses: [0, 0, 0]}": ("LK206", ".min_losses", "has 3 numbers, but the config has 2 losses"),
}


@pytest.mark.parametrize("balancing", WRONG)
def test_a_mistake_is_told_once_and_in_its_place(balancing):
    code, path, text = WRONG[balancing]
    ((found, where, message),) = told(config(balancing))
    assert (found, where) == (code, f"loss_balancing{path}")
    assert text in message


def test_numbers_per_loss_are_not_counted_where_a_loss_is_unknown():
    balancing = "{type: pareto_mtl, preference_vector: [1, 2, 3]}"
    text = config(balancing, "losses: [mse, huber, hubr]")
    assert [code for code, *_ in told(text)] == ["LK103"]


@pytest.mark.parametrize("key", ["loss_balance", "loss_balancer", "lossbalancing", "loss_weighting"])
def test_a_key_that_looks_like_it_is_warned_about(key):
    for text in (TWO, "losses: [mse, huber]"):
        ((code, path, message),) = told(f"{key}: famo\n{text}")
        assert (code, path) == ("LK107", key)
        assert "did you mean `loss_balancing`?" in message


def test_a_key_of_another_file_is_left_alone():
    assert [code for code, *_ in told("loss_balance: famo\n")] == ["LK101"]


def test_it_has_no_effect_on_a_feature():
    ((code, path, _),) = told("output_features: [{name: a, type: number, loss_balancing: famo}]")
    assert (code, path) == ("LK303", "output_features[0].loss_balancing")


def test_slips_are_cured():
    wrong = "loss_balance: {tpye: uncertanty}\n" + TWO
    assert fix(wrong, "c.yaml").text == wrong, "that something else was meant cannot be told from so many slips"
    for balancing, right in (("uncertanty", "uncertainty"), ("{type: famo, gama: 1}", "{type: famo, gamma: 1}")):
        assert fix(config(balancing), "c.yaml").text == config(right)
    assert fix(config("famo").replace("balancing", "balancin"), "c.yaml").text == config("famo")


def test_validating_imports_neither_torch_nor_the_strategies():
    code = f"""
import losskit, sys
for balancing in ("famo", "{{type: famo, gamma: 0.5}}", "{{type: pareto_mtl, preference_vector: [1, 2]}}"):
    assert losskit.validate(text="loss_balancing: " + balancing + "\\n" + {TWO!r}) == []
assert losskit.load(text="loss_balancing: famo\\n" + {TWO!r}).loss_balancing.gamma == 0.01
print([name for name in sys.modules if name == "torch" or name.startswith("losskit.modules")])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "[]\n", result.stderr


def test_the_catalogue_says_what_the_decorators_say():
    rows = {row["name"]: row for row in json.loads(catalogue.CATALOGUE.read_text("utf-8"))["strategies"]}
    assert list(rows) == NAMES
    for entry in strategies.entries():
        assert entry.is_built_in
        assert entry.module.load().__name__.lower() == entry.name.replace("_", "") + "balancing"
        assert entry.config.load().__name__ == entry.module.load().__name__ + "Config"
        assert rows[entry.name]["has_rules"] == entry.config.load().has_rules()


# Own ones


def test_settings_come_from_the_constructor():
    @register_loss_balancing("largest")
    class Largest(LossBalancing):
        """The largest losses alone. More."""

        def __init__(self, num_tasks, *, how_many: int = 1, of: typing.Literal["losses", "weighted"] = "losses"):
            super().__init__(num_tasks)
            self.how_many = how_many

        def forward(self, losses, weights):
            return (weights * losses).topk(self.how_many).values.sum()

    assert told(config("{type: largest, how_many: 2, of: weighted}")) == []
    assert [code for code, *_ in told(config("{type: largest, how_many: x, off: losses}"))] == ["LK202", "LK201"]
    assert losskit.build(text=config("{type: largest, how_many: 2}")).balancing.how_many == 2
    assert strategies.get("largest").summary == "The largest losses alone"
    assert "did you mean `largest`?" in told(config("largst"))[0][2]


def test_settings_may_have_a_config_class_with_rules():
    @dataclass
    class FixedBalancingConfig(BaseBalancingConfig):
        factors: list[float] = fields.List(float, default=[1.0, 1.0], min=0, description="A factor per loss.")
        # A name that a loss has for itself is free here.
        weight: float = fields.PositiveFloat(default=2.0, description="A factor for all.")

        def problems(self, num_losses):
            yield from super().problems(num_losses)
            if num_losses is not None and len(self.factors) != num_losses:
                yield losskit.schema.Problem("factors", "has not a factor for each loss", "LK206")

    @register_loss_balancing("fixed", schema=FixedBalancingConfig)
    class FixedBalancing(LossBalancing):
        """Factors that never change."""

        def __init__(self, num_tasks, *, factors=(1.0, 1.0), weight=2.0):
            super().__init__(num_tasks)
            self.register_buffer("factors", weight * torch.tensor(factors))

        def forward(self, losses, weights):
            return (self.factors * weights * losses).sum()

    assert FixedBalancingConfig().type == "fixed"
    assert told(config("{type: fixed, factors: [1, 2], weight: 3}")) == []
    assert [code for code, *_ in told(config("{type: fixed, factors: [1]}"))] == ["LK206"]
    assert [code for code, *_ in told(config("{type: fixed, weight: 0}"))] == ["LK203"]
    assert losskit.build(text=config("{type: fixed, factors: [1, 2]}")).balancing.factors.tolist() == [2.0, 4.0]


class Right(LossBalancing):
    def forward(self, losses, weights):
        return (weights * losses).sum()


class WithoutTasks(Right):
    def __init__(self):
        super().__init__(2)


class WithoutWeights(LossBalancing):
    def forward(self, losses):
        return losses.sum()


class WithoutGram(Right):
    needs_gradients = True


class WithoutDefault(Right):
    def __init__(self, num_tasks, *, temperature: float):
        super().__init__(num_tasks)


@dataclass
class OfALossConfig(losskit.schema.BaseLossConfig):
    pass


REFUSED = {
    "no class": (lambda losses, weights: losses.sum(), {}, "is no subclass of losskit.modules.LossBalancing"),
    "another module": (torch.nn.Linear, {}, "Linear is no subclass of losskit.modules.LossBalancing"),
    "no number of tasks": (WithoutTasks, {}, "the first parameter of its constructor must be `num_tasks`, got none"),
    "no weights": (WithoutWeights, {}, "`forward` must take `losses` and `weights` first, got losses"),
    "no gradients": (WithoutGram, {}, "it needs gradients, but `forward` does not take `gram`"),
    "no default": (WithoutDefault, {}, "the parameter 'temperature' of type float has no default"),
    "the config of a loss": (Right, {"schema": OfALossConfig}, "no subclass of losskit.schema.BaseBalancingConfig"),
    "a name that is taken": (Right, {"name": "famo"}, "is taken by losskit.modules.balancing_by_value:FAMOBalancing"),
    "an empty name": (Right, {"name": ""}, "must be text, got ''"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_registered_is_told(case):
    cls, options, message = REFUSED[case]
    with pytest.raises(RegistrationError, match=message):
        register_loss_balancing(options.get("name", "mine"), schema=options.get("schema"))(cls)
    assert "mine" not in strategies.names()


def test_a_class_may_be_registered_again_as_a_notebook_does():
    for _ in range(2):
        register_loss_balancing("mine")(Right)
    other = Strategies()
    register_loss_balancing("mine", registry=other)(WithoutGram.__base__)
    assert other.names() == ["mine"]


def test_an_unknown_name_is_an_error_in_python_too():
    with pytest.raises(KeyError, match="no loss balancing named 'fam'; did you mean famo"):
        strategies.get("fam")


PLUGIN = """
from losskit import register_loss_balancing
from losskit.modules import LossBalancing

@register_loss_balancing("from_plugin")
class FromPlugin(LossBalancing):
    '''A way of another package.'''
    def __init__(self, num_tasks, *, factor: float = 1.0):
        super().__init__(num_tasks)
        self.factor = factor
    def forward(self, losses, weights):
        return self.factor * (weights * losses).sum()
"""


def run_with_plugin(folder, *arguments):
    (folder / "my_ways.py").write_text(PLUGIN)
    environment = {
        "PYTHONPATH": f"{folder}:{':'.join(sys.path)}",
        "LOSSKIT_PLUGINS": "my_ways",
        "PATH": "/usr/bin:/bin",
    }
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_plugins_are_found_by_the_name_of_a_strategy(tmp_path):
    (tmp_path / "c.yaml").write_text(config("{type: from_plugin, factor: 2.0}"))
    (tmp_path / "wrong.yaml").write_text(config("{type: from_plugin, factr: 2.0}"))
    assert run_with_plugin(tmp_path, "-m", "losskit", "validate", "c.yaml").returncode == 0
    wrong = run_with_plugin(tmp_path, "-m", "losskit", "validate", "wrong.yaml")
    assert "did you mean `factor`?" in wrong.stdout, wrong.stderr
    schema = json.loads(run_with_plugin(tmp_path, "-m", "losskit", "schema").stdout)
    assert "from_plugin" in schema["definitions"]["balancing_name"]["enum"]
    assert "from_plugin" in run_with_plugin(tmp_path, "-m", "losskit", "list", "--balancing").stdout


# The command line


def test_the_command_line_lists_and_shows_strategies(capsys):
    assert main(["list", "--balancing"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line for line in listed if not line.startswith(" ")] == NAMES
    assert main(["list", "--balancing", "--format", "json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == NAMES
    assert main(["list", "--balancing", "--feature", "number"]) == 2
    assert "do not go together" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_is_shown_in_each_format(capsys, name):
    assert main(["show", name]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{name}\n")
    assert main(["show", name, "--format", "json"]) == 0
    properties = json.loads(capsys.readouterr().out)["schema"]["properties"]
    assert properties["type"] == {"enum": [name], "description": "The name of the strategy."}
    assert all(f"  {setting}: " in shown for setting in properties if setting != "type")
    assert main(["show", name, "--format", "yaml"]) == 0
    text = capsys.readouterr().out
    assert told(f"{text}{TWO}") == []
    assert losskit.load(text=f"{text}{TWO}").loss_balancing == strategies.get(name).config.load()()
