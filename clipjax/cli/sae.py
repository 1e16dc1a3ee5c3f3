"""`clipjax sae`: trains sparse autoencoders on embeddings, judges and names what they find."""

import argparse
from typing import Any

from clipjax.cli.parser import Parser
from clipjax.cli.subcommands import Commands, add_commands, run_command

COMMANDS: Commands = {
    "train": ("clipjax.cli.sae_train", "train an autoencoder on paired embeddings", False),
    "eval": ("clipjax.cli.sae_eval", "say what latents keep and whether modalities share", False),
    "label": ("clipjax.cli.sae_label", "test what latents answer to, and name their atoms", False),
}


def configure(parser: Parser, name: str | None = None) -> None:
    """Adds the commands; only the one that is asked for is imported.

    Args:
        parser: of `clipjax sae`.
        name: of the command, if it is known.
    """
    add_commands(parser, COMMANDS, name)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs one command and returns its figures.

    Raises:
        UserError: of the command; for overrides where there is no config.
    """
    return run_command("sae", COMMANDS, args)
