"""`clipjax neurons`: finds, proves, shows and moves units of a model that mean something."""

import argparse
from typing import Any

from clipjax.cli.parser import Parser
from clipjax.cli.subcommands import Commands, add_commands, run_command

COMMANDS: Commands = {
    "scan": ("clipjax.cli.neurons_scan", "show a model stimuli, keep how each unit answers", False),
    "test": (
        "clipjax.cli.neurons_detect",
        "test which units of a scan answer to which concepts, beside controls",
        False,
    ),
    "report": (
        "clipjax.cli.neurons_report",
        "draw what was found as one page that needs no network",
        False,
    ),
    "search": ("clipjax.cli.neurons_search", "find the units that answer to something", False),
    "show": ("clipjax.cli.neurons_show", "show one unit: concepts, exemplars, histograms", False),
    "ablate": ("clipjax.cli.neurons_ablate", "hold found units still, beside others", False),
    "steer": ("clipjax.cli.neurons_steer", "add to a unit and see what the model says", False),
    "vis": ("clipjax.cli.neurons_vis", "draw what units would like to see", False),
    "dissect": (
        "clipjax.cli.neurons_dissect",
        "name the units of a scan after concepts, or leave them unlabelled",
        False,
    ),
    "textspan": (
        "clipjax.cli.neurons_textspan",
        "tell in texts what each attention head adds to the embedding",
        False,
    ),
    "second-order": (
        "clipjax.cli.neurons_second_order",
        "tell in texts what each neuron does through later heads",
        False,
    ),
    "match": (
        "clipjax.cli.neurons_match",
        "find units of two scans or facets that answer to the same stimuli",
        False,
    ),
    "rsa": (
        "clipjax.cli.neurons_rsa",
        "compare units with dissimilarities that are given, and with cells",
        False,
    ),
    "typographic": (
        "clipjax.cli.neurons_typographic",
        "write words on pictures and tell what they make a model say",
        False,
    ),
    "selftest": (
        "clipjax.cli.neurons_planted",
        "plant units in a network and tell whether they are found",
        True,
    ),
}


def configure(parser: Parser, name: str | None = None) -> None:
    """Adds the commands; only the one that is asked for is imported.

    Args:
        parser: of `clipjax neurons`.
        name: of the command, if it is known.
    """
    add_commands(parser, COMMANDS, name)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs one command and returns its figures.

    Raises:
        UserError: of the command; for overrides where there is no config.
    """
    return run_command("neurons", COMMANDS, args)
