"""The block forecast of scenario and cluster files: what it means, and what is wrong with it in one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import inf
from pathlib import Path

import pytest

from partita.controller.assembly import forecasters
from partita.controller.cluster_file import ClusterFile
from partita.controller.config import Scenario
from partita.controller.scenario_file import parse, parse_scenario
from partita.controller.whatif.check import check_runs
from partita.errors import ConfigError
from partita.forecasting import FAR, NEAR
from partita.forecasting.calendar import NO_CALENDAR, WEEK_S, Event
from partita.forecasting.per_service import PerService
from partita.hookspecs import hookimpl
from partita.model.load import Forecast, Load
from partita.model.plain import to_json
from partita.plugins.foreign_forecaster import ForeignForecaster
from partita.plugins.host import PluginHost
from partita.ports import Forecaster

BASE = """\
cluster: [{gpu: A100-80GB, count: 4}]
services:
  - {name: chat, slo_ms: 100, memory_gib: 1, latency: {alpha_ms: 1.0, beta_ms: 5.0}}
  - {name: shop-a, slo_ms: 100, memory_gib: 1, latency: {alpha_ms: 1.0, beta_ms: 5.0}}
"""
DRAWN = (
    BASE
    + """load:
  arrivals: {process: poisson, rate_rps: 200, duration_s: 90}
  share: {chat: 0.5, shop-a: 0.5}
"""
)
FROM_LOG = BASE + "load: {log: {speed: 2}}\n"
LIVE = BASE + "executor: {local: {}}\n"


def scenario(block: str, base: str = DRAWN) -> Scenario:
    return parse_scenario(f"{base}forecast:\n  {block}\n", name="s.yaml", folder=Path())


def live(block: str) -> ClusterFile:
    return parse(ClusterFile, f"{LIVE}forecast:\n  {block}\n", name="c.yaml", folder=Path())


class Mine:
    """A model of a plugin."""

    name = "mine"

    def forecast(self, history: Load, *, steps: int, levels: Sequence[float]) -> Forecast:
        raise AssertionError("nobody asks it here")


class Brings:
    @hookimpl
    def register_forecasters(self) -> Sequence[Forecaster]:
        return [Mine()]


HOST = PluginHost.of({"p": Brings()})


def test_without_the_block_all_is_as_built_in() -> None:
    for file in (parse_scenario(DRAWN, name="s.yaml", folder=Path()), live("calendar: []")):
        assert forecasters(file, ["chat"], HOST) == (NEAR, FAR)
        assert file.forecast.calendar_of() == NO_CALENDAR


def test_models_are_named_and_services_may_have_their_own() -> None:
    file = scenario("{near: blend-near, far: mine, services: {chat: {far: day}, '*-a': {near: mine}}}")
    near, far = forecasters(file, ["chat", "shop-a"], HOST)
    assert isinstance(near, PerService)
    assert isinstance(far, PerService)
    assert near.default.name == "blend-near"
    assert {name: model.name for name, model in near.by_service.items()} == {"shop-a": "mine"}
    assert {name: model.name for name, model in far.by_service.items()} == {"chat": "day"}
    assert isinstance(far.default, ForeignForecaster)  # asked where the plugin runs
    assert forecasters(scenario("near: last"), ["chat"], HOST)[1] is FAR


def test_a_model_that_nobody_knows_is_told_with_its_place() -> None:
    for block, key in (
        ("near: smothing", "near"),
        ("far: smothing", "far"),
        ("services: {chat: {far: smothing}}", "services.chat.far"),
    ):
        with pytest.raises(ConfigError) as problem:
            forecasters(scenario(block), ["chat"], HOST)
        assert str(problem.value).startswith(f"s.yaml: forecast.{key}: no model is called 'smothing'; there are: ")
    with pytest.raises(ConfigError, match="no model is called 'mine'"):
        check_runs([], [], [scenario("near: mine")])  # its plugin is not installed


def test_instants_are_times_after_the_start_or_dates() -> None:
    [event] = scenario("calendar: [{name: e, from: 1.5h, to: 7200, factor: 2}]").forecast.calendar_of().events
    assert event == Event("e", ("*",), 5400.0, 7200.0, 2.0)
    dated = "calendar: [{name: e, services: [shop-*], from: 2026-11-27T00:00:00+01:00, to: 2026-11-28, factor: 2}]"
    origin_ns = 1_795_734_000_000_000_000  # 2026-11-26T23:00:00Z, which is midnight an hour to the east
    log = scenario(dated, FROM_LOG)
    [event] = log.forecast.calendar_of(origin_ns=origin_ns, speed=2.0).events
    assert (event.from_s, event.to_s) == (0.0, 25 * 3600 / 2.0)
    [event] = live(dated).forecast.calendar_of().events
    assert event.from_s == origin_ns / 1e9


def test_a_holiday_is_a_day_like_another() -> None:
    # The first of January 2027 is a Friday.
    for text, back_days in (("", 5), (", like: sunday", 5), (", like: friday", 7), (", like: saturday", 6)):
        file = live(f"calendar: [{{name: new year, holiday: 2027-01-01{text}, ceiling_rps: 9}}]")
        [event] = file.forecast.calendar_of().events
        assert event.to_s - event.from_s == 86_400.0
        assert (event.back_s, event.week_s) == (back_days * 86_400.0, WEEK_S)
        assert (event.floor_rps, event.ceiling_rps) == (0.0, 9.0)


def test_bounds_always_hold_unless_they_say_when() -> None:
    [event] = live("calendar: [{name: keep some, floor_rps: 5}]").forecast.calendar_of().events
    assert (event.from_s, event.to_s, event.factor, event.floor_rps, event.ceiling_rps) == (-inf, inf, 1.0, 5.0, inf)


def test_a_file_written_out_and_read_again_means_the_same() -> None:
    block = "{near: mine, calendar: [{name: n, holiday: 2027-01-01}, {name: e, from: 2026-11-27T06:00:00Z, factor: 2}]}"
    file = live(block)
    again = parse(ClusterFile, to_json(file.document()), name="again", folder=Path())
    assert again.forecast == file.forecast
    assert again.forecast.calendar_of() == file.forecast.calendar_of()


def test_a_number_for_an_instant_is_written_out_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        document = scenario("calendar: [{name: a, from: 100, to: 2h, factor: 2}]").model_dump(by_alias=True)
    assert document["forecast"]["calendar"][0]["from"] == 100
    assert document["forecast"]["calendar"][0]["to"] == "2h"


def test_services_that_ask_for_the_same_model_of_a_plugin_are_forecast_together() -> None:
    found, _ = forecasters(scenario("services: {chat: {near: mine}, '*-a': {near: mine}}"), ["chat", "shop-a"], HOST)
    assert isinstance(found, PerService)
    assert len({id(model) for model in found.by_service.values()}) == 1


def test_a_model_that_must_be_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"forecast.far: global must be trained, and the loop trains no models"):
        forecasters(scenario("far: global"), ["chat"], HOST)


PROBLEMS = {
    "calendar: [{name: a}]": "calendar[0]: 'a' changes nothing: give factor, floor_rps, ceiling_rps or holiday",
    "calendar: [{name: a, factor: 3}]": "calendar[0].factor: 3 needs from or to",
    "calendar: [{name: a, factor: 0, from: 3}]": "calendar[0].factor: 0 should be greater than 0",
    "calendar: [{name: a, floor: 3}]": "calendar[0].floor: unknown key 'floor': did you mean 'floor_rps'?",
    "calendar: [{name: a, floor_rps: 5, ceiling_rps: 2}]": "calendar[0].floor_rps: 5 is above ceiling_rps, 2",
    "calendar: [{name: a, floor_rps: 5, services: [ship-*]}]": "calendar[0].services[0]: there is no service 'ship-*'",
    "calendar: [{name: a, factor: 2, from: 9, to: 3}]": "calendar[0].to: 3 must be after from, 9",
    "calendar: [{name: a, factor: 2, from: soon}]": "calendar[0].from: 'soon' should be a time after the start like",
    "calendar: [{name: a, holiday: 3h}]": "calendar[0].holiday: '3h' should be a date like 2027-01-01",
    "calendar: [{name: a, factor: 2, from: 2026-11-27}]": "calendar[0].from: '2026-11-27' is a date, and requests",
    "calendar: [{name: a, floor_rps: 2, like: monday}]": "calendar[0].like: 'monday' belongs to a holiday",
    "calendar: [{name: a, floor_rps: 2, like: montag}]": "calendar[0].like: 'montag' should be 'monday', 'tuesday'",
    "calendar: [{name: a, floor_rps: 2}, {name: a, floor_rps: 3}]": "calendar[1].name: there are two entries 'a'",
    "services: {caht: {far: day}}": "services.caht: there is no service 'caht': did you mean 'chat'?",
    "neer: day": "neer: unknown key 'neer': did you mean 'near'?",
    "near: 3": "near: 3 should be a valid string",
}


@pytest.mark.parametrize("block", PROBLEMS)
def test_what_is_wrong_is_one_sentence(block: str) -> None:
    with pytest.raises(ConfigError) as problem:
        scenario(block)
    assert str(problem.value).startswith(f"s.yaml: forecast.{PROBLEMS[block]}")
    assert "(line " in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_live_cluster_has_dates_only() -> None:
    with pytest.raises(ConfigError, match=r"forecast.calendar\[0\].to: 3600 should be a date like 2026-11-27"):
        live("calendar: [{name: a, factor: 2, to: 3600}]")
