import pytest

from clipjax.cli.parser import Parser, check_writable, reject_unknown_flags
from clipjax.config import UsageError, UserError


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


def test_a_file_that_cannot_be_written_is_found_before_the_work(tmp_path):
    check_writable("--out", str(tmp_path / "new.png"))
    check_writable("--out", "new.png")
    for path, why in (
        (tmp_path, "it is a folder"),
        (tmp_path / "none" / "a.png", f"there is no folder {tmp_path}/none"),
    ):
        with pytest.raises(UserError) as caught:
            check_writable("--out", str(path))
        assert str(caught.value) == f"--out={path}: cannot be written ({why})."
    assert list(tmp_path.iterdir()) == []


def test_the_choices_of_other_flags_are_not_told():
    parser = Parser(prog="p")
    parser.add_argument("--vs", choices=["open", "none"])
    parser.add_argument("-m", "--mode", choices=["fast", "slow"])
    parser.add_argument("place", choices=["here"], metavar="WHERE")
    for argv, message in (
        (["here", "--vs=opn"], "p: no --vs 'opn'. Did you mean 'open'? There are: open, none."),
        (["here", "-m", "x"], "p: no -m/--mode 'x'. There are: fast, slow."),
        (["there"], "p: no WHERE 'there'. Did you mean 'here'? There are: here."),
    ):
        with pytest.raises(UsageError) as caught:
            parser.parse_args(argv)
        assert str(caught.value) == message
