"What came of the year of `make story`: quiet weeks are quiet, what moves is found, worse is held, better goes live"

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from scripts.story import YEARS, live

RECORD = json.loads((Path(__file__).parent / "story.json").read_text())
TIMES = ("rounds", "seconds of the longest")


def phases(name):
    "The weeks of each phase"
    year, weeks = YEARS[name], RECORD[name]["weeks"]
    assert [week["week"] for week in weeks] == list(year.weeks)
    assert [week["drift"] for week in weeks] == [year.drift(week) for week in year.weeks]
    return weeks[: year.quiet], weeks[year.quiet : -year.turned], weeks[-year.turned :]


@pytest.fixture(params=YEARS)
def name(request):
    return request.param


def test_quiet_weeks_raise_no_alarm(name):
    quiet, _, _ = phases(name)
    assert RECORD[name]["first"]["version"] == "1.0.0" and RECORD[name]["first"]["live"]
    for week in quiet:
        assert (week["triggers"], week["result"], week["answered by"]) == ([], "nothing to do", ["1.0.0"])


def test_a_worse_model_is_held(name):
    worse = RECORD[name]["worse"]
    assert (worse["result"], worse["version"], worse["live"]) == ("hold", "", False) and "worse" in worse["why"]


def test_what_moved_is_found_and_named(name):
    _, older, turned = phases(name)
    first = next(week for week in older if week["triggers"])
    assert first["week"] - older[0]["week"] < 3 and first["triggers"][0].startswith("drift: covariate: ")
    assert "age is at most" in first["triggers"][0]
    first = next(week for week in turned if week["triggers"])
    assert first["week"] - turned[0]["week"] < 3 and {t.split(":")[0] for t in first["triggers"]} <= {"drift", "live"}
    assert not any("covariate" in t for week in turned[2:] for t in week["triggers"])


def test_what_is_released_answers_from_the_next_week_on(name):
    weeks = RECORD[name]["weeks"]
    for week, following in pairwise(weeks):
        was = week["answered by"]
        assert following["answered by"] == ([week["version"]] if week["live"] else was) and len(was) == 1
        assert week["result"] in ("released", "hold", "not enough data", "nothing to do")


def test_answers_are_ranked_better_again(name):
    _, _, turned = phases(name)
    said = [re.match(r"live: roc_auc is ([\d.]+)", trigger) for week in turned for trigger in week["triggers"]]
    areas = [float(found[1]) for found in said if found]
    assert any(week["live"] for week in turned) and sum(areas[-2:]) > sum(areas[:2]) + 0.04


def test_a_round_takes_less_than_90_seconds(name):
    assert RECORD[name]["seconds of the longest"] < 90


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # of a library that DVC uses
def test_the_story_of_a_small_model_is_as_recorded(monkeypatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")
    told, _ = live(YEARS["tiny"])
    assert told == {key: value for key, value in RECORD["tiny"].items() if key not in TIMES}
