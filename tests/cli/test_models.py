import json

import pytest

from clipjax.cli.main import main
from clipjax.models.listing import list_models


def run(capsys, *flags):
    with pytest.raises(SystemExit) as ended:
        main(["models", *flags])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_a_line_for_each_model(capsys):
    code, out, _ = run(capsys, "--filter=ViT-?-32")
    head, *lines = out.splitlines()
    assert code == 0
    assert head.split()[:4] == ["model", "pixels", "tokens", "embed"]
    assert [line.split()[0] for line in lines] == ["ViT-S-32", "ViT-M-32", "ViT-B-32"]
    assert lines[2].split()[1:] == [
        *("224", "77", "512"),
        *("151.28", "87.85", "63.43"),
        *("14.78", "8.82", "5.96"),
    ]
    assert len({len(line) for line in [head, *lines]}) == 1  # one column under the other


def test_json_is_the_list_of_rows_and_nothing_else(capsys):
    code, out, err = run(capsys, "--filter", "*SigLIP-256", "--json", "-")
    assert code == 0
    rows = json.loads(out)
    assert rows == list_models("*SigLIP-256")
    assert rows[0]["name"] == "ViT-B-16-SigLIP-256"
    assert rows[0]["params"] == 203_202_050
    assert "ViT-B-16-SigLIP-256" in err  # the table


def test_no_match_is_one_line_with_the_nearest_name(capsys):
    code, out, err = run(capsys, "--filter", "ViT-B-23")
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: no preset matches 'ViT-B-23'. Did you mean 'ViT-B-32'?")


def test_a_row_is_printed_before_the_next_is_computed(capsys, monkeypatch):
    from clipjax.models import listing

    seen = []

    def describe(config):
        seen.append(capsys.readouterr().out.count("\n"))
        return found

    found = listing.describe(listing.PRESETS["ViT-B-32"])
    monkeypatch.setattr(listing, "describe", describe)
    with pytest.raises(SystemExit):
        main(["models", "--filter=ViT-?-32"])
    assert seen == [1, 1, 1]  # the head, then a line each
