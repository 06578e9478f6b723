"""What policies say of their options before anything runs."""

import pytest

from partita.errors import ConfigError
from partita.plugins import reactive, static, symphony
from partita.plugins.host import PluginHost
from partita.plugins.kit import example_services

HOST = PluginHost.of({"static": static, "reactive": reactive, "symphony": symphony})


@pytest.mark.parametrize(
    ("policy", "options", "problem"),
    [
        ("symphony", {"quantle": 0.9}, "quantle"),
        ("symphony", {"quantile": 1.5}, "1.5"),
        ("symphony", {"utilisation": 0}, "0"),
        ("reactive", {"target": "high"}, "'high'"),
        ("static", {"peak_rps.nobody": 3.0}, "peak_rps.nobody"),
        ("static", {"utilisation": 2}, "2"),
    ],
)
def test_wrong_options_are_refused_by_name(policy: str, options: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"policies.{policy}.options.*{problem}"):
        HOST.refuse_options(example_services(), {policy: options}, [policy])


def test_right_options_pass_and_others_are_not_asked() -> None:
    HOST.refuse_options(example_services(), {"symphony": {"quantile": 0.8}, "static": {"no": 1}}, ["symphony"])
