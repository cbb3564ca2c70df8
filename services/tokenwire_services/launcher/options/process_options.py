"""A process's configuration as options of a command, and back.

An option has the name and the default of the field that it sets, unless its table says otherwise, so that
`serve` and the command that starts one process alone accept the same words and mean the same thing.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ConfigT = TypeVar("ConfigT", bound="DataclassInstance")
FunctionT = TypeVar("FunctionT", bound=Callable[..., int])


@dataclass(slots=True, frozen=True)
class ProcessOptions(Generic[ConfigT]):
    """The options of a command that set fields of a configuration.

    Attributes:
        config: the configuration's class.
        options: by name (with underscores), what typer makes an option of: an `Annotated` type.
        fields: the field that an option sets, where it is called otherwise.
    """

    config: type[ConfigT]
    options: Mapping[str, Any]
    fields: Mapping[str, str] = field(default_factory=dict)

    def without(self, *names: str) -> ProcessOptions[ConfigT]:
        """The other options: these fields keep their defaults, or are given to `build`."""
        kept = {name: option for name, option in self.options.items() if name not in names}
        return dataclasses.replace(self, options=kept)

    def renamed(self, **renamed: tuple[str, Any]) -> ProcessOptions[ConfigT]:
        """The same with some options under other names, and read otherwise."""
        options = dict(renamed.get(name, (name, option)) for name, option in self.options.items())
        fields = {new: self.field(name) for name, (new, _) in renamed.items()}
        return dataclasses.replace(self, options=options, fields={**self.fields, **fields})

    def field(self, name: str) -> str:
        """The field that an option sets."""
        return self.fields.get(name, name)

    def parameters(self) -> dict[str, inspect.Parameter]:
        """A function's parameters, of which typer makes the options."""
        defaults = {field.name: field.default for field in dataclasses.fields(self.config)}
        return {
            name: inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=option,
                # What is given several times is a tuple in the configuration, and a list for typer.
                default=None if isinstance(default := defaults[self.field(name)], tuple) else default,
            )
            for name, option in self.options.items()
        }

    def build(self, values: Mapping[str, Any], **fields: Any) -> ConfigT:
        """The configuration that options make, and fields that are none of them.

        Raises:
            ValueError: the configuration refuses one.
        """
        given = {self.field(name): values[name] for name in self.options if values[name] is not None}
        lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        return self.config(**{**given, **lists, **fields})


def takes(*processes: ProcessOptions[Any]) -> Callable[[FunctionT], FunctionT]:
    """Has a function, which takes any keywords, say that they are these options."""

    def decorate(function: FunctionT) -> FunctionT:
        own = inspect.signature(function, eval_str=True).parameters
        parameters = {
            name: parameter for name, parameter in own.items() if parameter.kind is not parameter.VAR_KEYWORD
        }
        for process in processes:
            parameters = process.parameters() | parameters
        vars(function)["__signature__"] = inspect.Signature(
            [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters.values()]
        )
        return function

    return decorate
