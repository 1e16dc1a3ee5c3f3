from pathlib import Path

import pytest

from clipjax.config.errors import UsageError
from clipjax.data.annotations import bare, check_locales, known_locales, read_annotations

COMMON = Path("/usr/share/unicode/cldr/common")
CAT = "\U0001f431"


def write(folder, kind, locale, *entries):
    path = folder / kind / f"{locale}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(
        f'<annotation cp="{text}"{kind_}>{words}</annotation>' for text, kind_, words in entries
    )
    path.write_text(f"<ldml><annotations>{rows}</annotations></ldml>", encoding="utf-8")


NAME = ' type="tts"'


@pytest.fixture
def common(tmp_path):
    write(tmp_path, "annotations", "root")
    write(tmp_path, "annotations", "en", (CAT, "", "cat | face |"), (CAT, NAME, "cat face"))
    write(tmp_path, "annotationsDerived", "en", ("AB", NAME, "pair"))
    write(tmp_path, "annotations", "en_001", (CAT, "", "\u2191\u2191\u2191"), ("x", NAME, "tick"))
    write(tmp_path, "annotations", "en_AU", (CAT, NAME, "moggy"))
    write(tmp_path, "annotations", "zh", (CAT, NAME, "simple"))
    write(tmp_path, "annotations", "zh_Hant", ("x", NAME, "other"))
    (tmp_path / "supplemental").mkdir()
    (tmp_path / "supplemental" / "supplementalData.xml").write_text(
        '<parentLocale parent="root" locales="az_Cyrl zh_Hant"/>\n'
        '<parentLocale parent="en_001" locales="en_AU en_GB"/>\n'
    )
    return tmp_path


def test_names_and_keywords_are_told_apart_and_both_folders_are_read(common):
    found = read_annotations(common)
    assert found.names == {CAT: "cat face", "AB": "pair"}
    assert found.keywords == {CAT: ["cat", "face"]}


def test_what_a_locale_lacks_comes_from_its_parents(common):
    found = read_annotations(common, "en_AU")
    assert found.names == {CAT: "moggy", "AB": "pair", "x": "tick"}
    assert found.keywords == {CAT: ["cat", "face"]}  # arrows mean: what the parent has
    # Another script is no variant of the language that it is written in.
    assert read_annotations(common, "zh_Hant").names == {"x": "other"}


def test_without_files_there_is_nothing(tmp_path):
    assert read_annotations(tmp_path, "en_AU") == ({}, {})
    assert known_locales(tmp_path) == []


@pytest.mark.parametrize(
    ("locales", "message"),
    [
        (("en", "zh_Hans"), "'zh_Hans' has no annotations .* Did you mean 'zh_Hant'"),
        (("root",), "'root' has no annotations"),
        (("en", "zh", "en"), "'en' is there twice"),
    ],
)
def test_refuses_unknown_locales(common, locales, message):
    check_locales(("en", "en_AU"), common)
    with pytest.raises(UsageError, match=message):
        check_locales(locales, common)


def test_real_locales_name_a_cat():
    if not COMMON.exists():
        pytest.skip("no CLDR: apt-get install unicode-cldr-core")
    assert len(known_locales(COMMON)) > 100
    named = {locale: read_annotations(COMMON, locale).names for locale in ("de", "de_CH", "nn")}
    assert named["de"][CAT] == named["de_CH"][CAT] == "Katzengesicht"
    assert len(named["nn"]) > len(named["de"]) * 0.4
    assert bare("\u2764\ufe0f") == "\u2764"
