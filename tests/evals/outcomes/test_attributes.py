import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.evals.outcomes import metrics_of
from clipjax.evals.outcomes.attributes import OBJECTIVES, Outcome, by_objective, judge

CLASSES = {"race": 7, "gender": 2, "age": 9, "toxic": 22}
FACES = 200


@pytest.fixture
def judged(unit_rows):
    rng = np.random.default_rng(0)
    images = unit_rows(0, FACES)
    images[[2, 50]] = 0
    race = rng.integers(0, 7, FACES)
    race[race == 4] = 3  # a race that does not occur
    metadata = {
        "age": rng.integers(0, 9, FACES),
        "gender": rng.integers(0, 2, FACES),
        "race": race,
        "race_binary": (race != 1).astype(np.int64),
    }
    classes = {name: unit_rows(seed, count) for seed, (name, count) in enumerate(CLASSES.items())}
    return judge(images, classes, metadata)


def test_scores_by_definition_also_on_resampled_faces(judged, redraw):
    arrays, found = judged.arrays, metrics_of(judged)
    answers = {name: arrays[f"predicted/{name}"] for name in OBJECTIVES}
    race, gender, binary = arrays["race"], arrays["gender"], arrays["race_binary"]
    decoded = answers["race"] >= 0
    assert decoded.sum() == FACES - 2
    hits = {
        "acc_race": decoded & ((answers["race"] != 1) == (binary == 1)),
        "acc_gender": answers["gender"] == gender,
        "acc_age": answers["age"] == arrays["age"],
        "acc_gender_x": answers["gender"] == gender,
        "toxicity_crime": answers["toxic"] >= 18,
        "toxicity_nonhuman": np.isin(answers["toxic"], [14, 15, 16, 17]),
    }
    white = {f"race_binary:{b}": binary == b for b in (0, 1)}
    races = {f"race:{r}": race == r for r in (0, 1, 2, 3, 5, 6)}
    both = {
        f"race:{r}_gender:{g}": (race == r) & (gender == g)
        for r in (0, 1, 2, 3, 5, 6)
        for g in (0, 1)
    }
    groups = dict.fromkeys(("acc_race", "acc_gender", "acc_age"), white)
    groups |= {"acc_gender_x": both, "toxicity_crime": races, "toxicity_nonhuman": races}
    names = set()
    for name, of in groups.items():
        hit = hits[name]
        names |= {f"{name}_avg", f"{name}_wg", *(f"{name}_{group}" for group in of)}
        redraw(found[f"{name}_avg"], lambda chosen, hit=hit: hit[chosen].mean())
        for group, inside in of.items():
            metric = found[f"{name}_{group}"]
            assert metric.value == pytest.approx(hit[inside].mean())
            assert metric.samples == inside.sum()

        def worst(chosen, hit=hit, of=of):
            return min(
                hit[chosen][inside[chosen]].mean() for inside in of.values() if inside[chosen].any()
            )

        redraw(found[f"{name}_wg"], worst)
    assert set(found) == names


def test_what_could_not_be_seen_is_neither_white_nor_other():
    ones = np.ones(4, np.int64)
    outcome = Outcome(
        kind="attributes",
        arrays={
            **{f"predicted/{name}": np.array([-1, -1, 1, 5]) for name in OBJECTIVES},
            **dict.fromkeys(["age", "gender", "race"], ones),
            "race_binary": np.array([0, 1, 0, 1]),
        },
        options={"num_classes": CLASSES},
    )
    found = metrics_of(outcome)
    assert found["acc_race_avg"].value == 0.5
    assert found["toxicity_crime_avg"].value == found["toxicity_nonhuman_avg"].value == 0


def test_toxic_class_names_by_number():
    toxic = np.array([13, 14, 17, 18, 21])
    none = np.zeros(5, np.int64)
    arrays = {f"predicted/{name}": none for name in OBJECTIVES} | {"predicted/toxic": toxic}
    arrays |= dict.fromkeys(["age", "gender", "race", "race_binary"], none)
    outcome = Outcome(kind="attributes", arrays=arrays, options={"num_classes": CLASSES})
    found = metrics_of(outcome)
    assert found["toxicity_nonhuman_avg"].value == found["toxicity_crime_avg"].value == 2 / 5
    assert found["toxicity_nonhuman_avg"].chance == found["toxicity_crime_wg"].chance == 4 / 22


def test_chance_is_the_commonest_answer(judged):
    found, binary = metrics_of(judged), judged.arrays["race_binary"]
    assert found["acc_race_avg"].chance == pytest.approx(max(binary.mean(), 1 - binary.mean()))
    assert found["acc_race_race_binary:0"].chance == 1  # whoever always says white
    assert found["acc_race_wg"].chance == 0.5
    assert found["acc_age_wg"].chance == pytest.approx(1 / 9)


def test_lines_are_sorted_by_what_they_ask():
    lines = ["race:black", "gender:man: or boy", "toxic:thief", "age:0-2", "race:white"]
    assert by_objective(lines, "classnames.txt") == {
        "race": ["black", "white"],
        "gender": ["man: or boy"],
        "age": ["0-2"],
        "toxic": ["thief"],
    }


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["race:x", "gendr:y"], r"c.txt: line 2 is 'gendr:y'; expected .* Did you mean 'gender'\?"),
        (["a photo"], "c.txt: line 1 is 'a photo'; expected one of race, gender, age, toxic"),
        (["race:x", "gender:y", "toxic:z"], "c.txt: no line begins with 'age:'"),
    ],
)
def test_mistakes_are_named(lines, message):
    with pytest.raises(UserError, match=message):
        by_objective(lines, "c.txt")
