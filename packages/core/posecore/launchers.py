"""Settings that a launcher has been given already, so that nobody has to say them twice."""

import os
from collections.abc import Mapping, Sequence

_OPTIONS = {
    "LT_ACCELERATOR": "--trainer.accelerator",
    "LT_STRATEGY": "--trainer.strategy",
    "LT_DEVICES": "--trainer.devices",
    "LT_NUM_NODES": "--trainer.num_nodes",
    "LT_PRECISION": "--trainer.precision",
}


def with_launcher_options(args: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Adds what ``fabric run`` (``lightning run`` in earlier versions) was told to a command line of a method.

    That launcher starts the processes and leaves its options in variables ``LT_*``. Lightning's Fabric reads them, its
    Trainer does not. They stand above YAML files here, as all of a command line does. Without that launcher nothing is
    added.

    Args:
        args: The command line without the program's name.
        environment: The variables.

    Returns:
        The command line, with ``--trainer.*`` options at its end.

    Raises:
        ValueError: The command line says another value than the launcher.
    """
    found = list(args)
    if environment.get("LT_CLI_USED") != "1":
        return found
    for variable, option in _OPTIONS.items():
        value = environment.get(variable)
        if value == "auto" and variable == "LT_DEVICES":
            value = environment.get("LOCAL_WORLD_SIZE", "1")  # as many as it has started
        given = _value(args, option)
        if value is None or given == value:
            continue
        if given is not None:
            raise ValueError(
                f"{option}: the command line says {given}, the launcher was told {value}; "
                f"leave the option away, `fabric run` hands it on"
            )
        found.append(f"{option}={value}")
    return found


def _value(args: Sequence[str], option: str) -> str | None:
    """The value of an option on a command line, the last one; None where it is not there."""
    for i in reversed(range(len(args))):
        if args[i].startswith(f"{option}="):
            return args[i].removeprefix(f"{option}=")
        if args[i] == option and i + 1 < len(args):
            return args[i + 1]
    return None
