import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st

from clipjax.data.tar_damage import Damage, DamageCounter, printable


def test_a_sound_tar_has_nothing_to_say():
    counter = DamageCounter()
    counter.add("directory", "a/")
    damage = counter.result()
    assert not damage
    assert damage.summary() == ""
    assert damage.counts == {"directory": 1}
    assert damage.harmful() == {}
    assert damage.first == ""


def test_the_summary_is_one_line_with_counts_bytes_and_the_first_place():
    counter = DamageCounter()
    counter.add("directory", "a/")
    counter.add("header checksum", 12288)
    counter.add("link", "x\n.jpg")
    for _ in range(1500):
        counter.add("link", "y.jpg")
    counter.lost_bytes += 2048
    assert counter.result().summary() == (
        "header checksum 1, link 1,501; 2,048 bytes passed over; first: byte 12,288"
    )


def test_the_first_place_may_be_a_name_and_is_printable():
    counter = DamageCounter()
    counter.add("link", "x\n\x1b[2J.jpg")
    assert counter.result().summary() == "link 1; first: x\\n\\x1b[2J.jpg"


def test_damage_survives_json():
    damage = Damage({"truncated": 2}, 7, "byte 5")
    assert Damage(**json.loads(json.dumps(dataclasses.asdict(damage)))) == damage


@given(st.binary(max_size=300))
def test_printable_names_steer_no_terminal_and_can_be_encoded(name):
    shown = printable(name.decode(errors="surrogateescape"))
    assert shown.isprintable()
    assert shown.encode().decode() == shown
    assert len(shown) <= 200 * 10 + 3


def test_what_is_printable_stays():
    assert printable("a/漢é 1.jpg") == "a/漢é 1.jpg"
    assert printable("caf\udce9") == "caf\\xe9"
    assert printable("a\u202eb") == "a\\u202eb"  # turns the direction of writing
    assert printable("x" * 201) == "x" * 200 + "..."
