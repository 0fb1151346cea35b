"""What every loss config has, and the typed form of a whole config file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from losskit.constants import RESERVED
from losskit.diagnostics import ERROR, cut, listing
from losskit.schema import fields as schema_utils
from losskit.spelling import Speller

if TYPE_CHECKING:
    import marshmallow

    from losskit.schema.balancing import BaseBalancingConfig

T = TypeVar("T")


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 - exported
else:

    def dataclass(cls: type[T] | None = None, /, **options: Any) -> Any:
        """Makes a loss config of a class: `dataclasses.dataclass` with fields that take keywords only."""
        decorate = dataclasses.dataclass(kw_only=True, **options)
        return decorate if cls is None else decorate(cls)


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a config's own rules object to: a setting and a message that ends a sentence which starts with its name."""

    setting: str
    message: str
    code: str = "LK207"
    severity: str = ERROR
    help: str | None = None
    suggestion: str | None = None
    # What should stand in place of the key at `steps`, where that is safe to say.
    cure: str | None = None
    # From the setting to the key inside it that is wrong, where one is.
    steps: tuple[str | int, ...] = ()


@dataclasses.dataclass(frozen=True)
class FeatureContext:
    """What a config says about the feature that a loss is for; None where it says nothing."""

    type: str | None = None
    num_classes: int | None = None
    classes: tuple[str, ...] | None = None
    # Finds what misspelt names were meant to be; one for a whole config.
    speller: Speller = dataclasses.field(default_factory=Speller, compare=False, repr=False)


@dataclass
class BaseConfig:
    """What is chosen by its `type` and has settings: a loss, or a way of balancing losses."""

    # What a config may say that is no setting.
    reserved: ClassVar[tuple[str, ...]] = ("type",)
    registered_name: ClassVar[str | None] = None
    # Names that settings once had, each with the one that it has now: they work with a warning.
    renamed_settings: ClassVar[dict[str, str]] = {}
    _schema: ClassVar[Any] = None

    type: str = ""

    def __post_init__(self) -> None:
        self.type = self.type or type(self).default_name()

    @classmethod
    def default_name(cls) -> str:
        """The name under which it is registered; before that, the one that follows from the class's name."""
        stem = cls.__name__.removesuffix("Config").removesuffix("Loss").removesuffix("Balancing")
        return cls.registered_name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", stem).lower()

    @classmethod
    def setting_fields(cls) -> list[dataclasses.Field[Any]]:
        """The fields that become keyword arguments of the constructor."""
        return [field for field in dataclasses.fields(cls) if field.name not in cls.reserved]

    @classmethod
    def schema(cls) -> marshmallow.Schema:
        """The marshmallow schema that loads a mapping of settings into this class."""
        if cls._schema is None or "_schema" not in vars(cls):
            from losskit.schema.loading import marshmallow_schema  # Here, because marshmallow costs 60 ms.

            cls._schema = marshmallow_schema(cls)
        schema: marshmallow.Schema = cls._schema
        return schema


@dataclass
class BaseLossConfig(BaseConfig):
    """The settings of a loss. Subclasses add their own; `type` and those below are there for every loss."""

    reserved: ClassVar[tuple[str, ...]] = RESERVED
    # Settings without which a loss cannot be used and for which no default can stand, such as the size of a layer,
    # with values that fit examples of 3 classes and 5 dimensions.
    example_settings: ClassVar[dict[str, Any]] = {}

    # A number, also where a subclass declares it anew, or the schedule of one that changes: schedules.py.
    weight: float | dict[str, Any] = schema_utils.NonNegativeFloat(
        default=1.0,
        description="How much the loss counts in the weighted sum of all losses; a schedule lets it change over the "
        "steps of training.",
        examples=[0.5],
    )
    name: str | None = schema_utils.String(
        default=None,
        allow_none=True,
        min_length=1,
        description="What the loss is called in the results, in place of its type.",
    )
    inputs: dict[str, str] = schema_utils.Roles(
        description="Where the loss finds what it takes, if it is called otherwise: its role, then a key of this "
        "feature's predictions, or targets, or `feature.key` for another feature's."
    )

    def settings(self, feature: FeatureContext | None = None) -> dict[str, Any]:
        """The keyword arguments of the loss, with mappings of class names put in the order of the feature's classes."""
        settings = {field.name: getattr(self, field.name) for field in self.setting_fields()}
        for name in self.class_settings():
            if isinstance(settings[name], Mapping) and feature and feature.classes:
                settings[name] = [settings[name][label] for label in feature.classes]
        return settings

    @classmethod
    def class_settings(cls) -> list[str]:
        """The settings that hold one value per class."""
        return [field.name for field in cls.setting_fields() if field.metadata.get("per_class")]

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        """What is wrong across settings, or between a setting and the feature.

        A subclass that has rules of its own yields these too: `yield from super().problems(feature)`.
        """
        for name in self.class_settings():
            yield from _class_problems(name, getattr(self, name), feature)

    @classmethod
    def has_rules(cls) -> bool:
        """Whether `problems` can find anything, so that a validator need not load the class otherwise."""
        return bool(cls.class_settings()) or cls.problems is not BaseLossConfig.problems


def _class_problems(name: str, value: Any, feature: FeatureContext) -> Iterator[Problem]:
    numbers = list(value.values()) if isinstance(value, Mapping) else value
    if isinstance(numbers, list) and numbers and not any(numbers):
        yield Problem(name, "has only zeros, so nothing would count", "LK207")
    if isinstance(value, list) and feature.num_classes is not None and len(value) != feature.num_classes:
        yield Problem(name, f"has {len(value)} values, but the feature has {feature.num_classes} classes", "LK206")
    if not isinstance(value, Mapping):
        return
    if feature.classes is None:
        cure = "add `classes: [...]` to the feature, or write a list in the order of the class ids"
        yield Problem(name, "names classes, but the feature does not say which it has", "LK206", help=cure)
        return
    labels = set(feature.classes)
    # In order, and quick to take one out of.
    missing = dict.fromkeys(label for label in feature.classes if label not in value)
    allowed = f"classes of the feature: {listing(map(cut, feature.classes), 20)}"
    for label in value:
        if label in labels:
            continue
        message = f"names the class {cut(label)}, which the feature does not have"
        suggestion, only = feature.speller.suggested(label, missing)
        yield Problem(name, message, "LK206", steps=(label,), suggestion=suggestion, cure=only, help=allowed)
        # A misspelt class is one mistake, not a class too many and another too few.
        missing.pop(suggestion or "", None)
    if missing:
        noun = "class" if len(missing) == 1 else "classes"
        yield Problem(name, f"has no value for the {noun} {listing(map(cut, missing))}", "LK206")


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
    """An output feature and its losses. `name` and `type` are None for MMF's form, a bare list of losses."""

    name: str | None
    type: str | None
    losses: tuple[BaseLossConfig, ...]
    num_classes: int | None = None
    classes: tuple[str, ...] | None = None
    # "mask" where targets that are NaN are missing labels.
    missing: str | None = None

    @property
    def context(self) -> FeatureContext:
        return FeatureContext(self.type, self.num_classes, self.classes)


@dataclasses.dataclass(frozen=True)
class LossesConfig:
    """The losses of a config file, each with its settings and defaults, and how they are balanced."""

    features: tuple[FeatureConfig, ...]
    loss_balancing: BaseBalancingConfig | None = None

    @property
    def keys(self) -> list[str]:
        """What the losses are called in the results, in order: `feature/loss`, or `loss` where there is no feature."""
        return keys_of([(feature.name, loss.name or loss.type) for feature in self.features for loss in feature.losses])


def keys_of(losses: Iterable[tuple[str | None, str]]) -> list[str]:
    """What results call the losses of features, with a number behind those that stand there already: `a/b_2`."""
    names = [name if feature is None else f"{feature}/{name}" for feature, name in losses]
    taken = set(names)
    last: dict[str, int] = {}
    found: list[str] = []
    for name in names:
        key = name
        if name in last:
            while key in taken:
                last[name] += 1
                key = f"{name}_{last[name]}"
            taken.add(key)
        last.setdefault(name, 1)
        found.append(key)
    return found
