"""Configuration: profiles, refusal of what cannot work, round trip."""

import dataclasses
import json

import pytest

from mssf_lite.config import Config


def test_profiles_differ_only_where_they_say():
    full, fast = Config.profile("full").to_dict(), Config.profile("fast").to_dict()
    assert {k for k in full if full[k] != fast[k]} == {"profile_name", "blocks", "learning_rate"}


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(ValueError, match="'paper': choose one of check, fast, full"):
        Config.profile("paper")


def test_unknown_field_is_refused():
    with pytest.raises(TypeError, match="epoch"):
        Config.profile("fast", epoch=3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", -1),
        ("learning_rate", 0),
        ("top_share", 1.5),
        ("zooms", ()),
        ("kernel", 2),
        ("hindering", "hard"),
        ("score", "z3"),
        ("image_size", (8, 256)),
        ("boundary_quantile", 1),
        ("ramp", 0),
        ("combine", "average"),
        ("components", 0),
        ("kinds", ()),
    ],
)
def test_values_that_cannot_work_are_named(field, value):
    with pytest.raises(ValueError, match=f"Config.{field} cannot be"):
        Config(**{field: value})


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().epochs = 3


def test_json_round_trip_gives_an_equal_config():
    config = Config.profile("fast", zooms=(1.0, 0.75), seed=4)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_dictionary_without_a_recipe_is_of_the_first_and_equals_no_config_of_today():
    values = Config().to_dict()
    del values["recipe"]
    assert Config.from_dict(values).recipe == 1
    assert Config.from_dict(values) != Config()
