import pytest

from clipjax.cli.parser import Parser, reject_unknown_flags
from clipjax.config import UsageError


@pytest.fixture
def parser():
    parser = Parser(prog="tool")
    makers = parser.add_subparsers(dest="maker")
    makers.add_parser("emoji").add_argument("--size")
    makers.add_parser("digits").add_argument("--seed")
    return parser


def test_leaves_are_the_parsers_of_the_sub_commands(parser):
    assert [leaf.prog for leaf in parser.leaves()] == ["tool emoji", "tool digits"]
    alone = Parser(prog="alone")
    assert list(alone.leaves()) == [alone]


def test_the_flags_of_sub_commands_are_known(parser):
    assert {"--size", "--seed", "--help"} <= set(parser.flags())
    reject_unknown_flags(parser, ["emoji", "--size=3", "--seed", "--size", "-x", "--"[:1]])


def test_an_unknown_flag_is_named_without_its_value(parser):
    with pytest.raises(UsageError, match=r"^tool: no flag --sise\. Did you mean '--size'\?"):
        reject_unknown_flags(parser, ["--sise=secret"])


def test_abbreviations_are_not_completed(parser):
    with pytest.raises(UsageError, match="unrecognized arguments: --siz"):
        parser.parse_args(["emoji", "--siz=3"])


def test_a_choice_that_does_not_exist_gets_the_nearest(parser):
    with pytest.raises(
        UsageError, match=r"'digit'\. Did you mean 'digits'\? There are: emoji, digits\."
    ):
        parser.parse_args(["digit"])
