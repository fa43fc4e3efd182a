"""A service is found by its entry point, whoever's package it is in; what cannot be is one sentence."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from choreo.chassis import installed, registry
from choreo.chassis.registry import all_topics, own_port_of, port_of, service_names
from choreo.chassis.settings import Settings
from choreo.errors import Unavailable

OURS = ("user", "order", "billing", "notification")
DESCRIBED = """
from dataclasses import replace
from order_service.service import service as order
from choreo.chassis.transaction.step import Decider

def service(settings):
    there = order(settings)
    return replace(there, decider=replace(there.decider, service={name!r}), port_offset={offset})
"""
Install = Callable[..., None]


@pytest.fixture(autouse=True)
def _forgets() -> Iterator[None]:
    """What is found is found once in the life of a process, and here more is installed in between."""
    yield
    for module in ("parcels.service", "parcels"):
        sys.modules.pop(module, None)
    installed.named.cache_clear()
    service_names.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a distribution with a service in it beside what is installed, as pip would."""

    def beside(name: str, package: str, offset: int, told_as: str | None = None) -> None:
        folder = tmp_path / package
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "service.py").write_text(DESCRIBED.format(name=told_as or name, offset=offset))
        _names(tmp_path, f"{name} = {package}.service:service")
        monkeypatch.syspath_prepend(tmp_path)
        installed.named.cache_clear()
        service_names.cache_clear()

    return beside


def _names(place: Path, entry: str) -> None:
    told = place / "somebodys-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(f"[{installed.GROUP}]\n{entry}\n")


def test_the_shops_services_are_there_in_the_order_of_their_ports() -> None:
    settings = Settings(port_base=20000)
    assert service_names() == OURS
    assert [port_of(name, settings) for name in OURS] == [20001, 20002, 20003, 20004]
    assert own_port_of("billing", settings, 2) == 20203


def test_a_service_of_somebody_elses_package_joins_by_being_installed(install: Install) -> None:
    install("shipping", "parcels", 7)
    assert service_names() == (*OURS, "shipping")
    assert all_topics("x-")[-1] == "x-shipping-events"
    assert registry.services(Settings())["shipping"].group("") == "shipping-service"
    assert installed.package_of("shipping") == "parcels"


def test_an_entry_point_without_its_package_is_no_service_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _names(tmp_path, "shipping = nowhere_at_all.service:service")
    monkeypatch.syspath_prepend(tmp_path)
    installed.named.cache_clear()
    assert service_names() == OURS
    with pytest.raises(Unavailable, match=r"^There is no shipping service here: install its package beside"):
        installed.package_of("shipping")


@pytest.mark.parametrize("offset", [0, 3, 5, 25])
def test_a_port_that_is_anothers_or_out_of_the_way_is_refused_and_a_free_one_named(
    install: Install, offset: int
) -> None:
    install("shipping", "parcels", offset)
    with pytest.raises(
        Unavailable, match=rf"shipping .*cannot have port offset {offset}: .* port_offset=6 in"
    ):
        service_names()


def test_a_service_that_calls_itself_otherwise_is_refused(install: Install) -> None:
    install("shipping", "parcels", 7, told_as="haulage")
    with pytest.raises(Unavailable, match=r"^The entry point shipping describes the haulage service: give"):
        service_names()


def test_metadata_older_than_the_checkout_is_told_with_the_command_that_renews_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(f'[project.entry-points."{installed.GROUP}"]\nshipping = "parcels.service:service"\n')
    monkeypatch.setattr(installed, "_CHECKOUT", project)
    installed.named.cache_clear()
    with pytest.raises(Unavailable, match=r"^The shipping service is named .* run `make \.venv/installed`"):
        service_names()


def test_where_no_service_is_installed_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "named", dict)
    service_names.cache_clear()
    with pytest.raises(Unavailable, match=r"^There is no service here: install one beside choreo"):
        service_names()


def test_what_is_a_services_own_is_read_from_variables_that_begin_with_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHIPPING_DATABASE_URL", "postgresql://somewhere")
    monkeypatch.setenv("BILLING_DATABASE_URL", "")
    assert Settings().database_urls == {"shipping": "postgresql://somewhere"}


def test_a_services_own_settings_come_from_its_variables_or_those_for_all_or_from_what_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHOREO_DECIDE_WITHIN", "7")
    assert registry.own_settings(Settings()) == {
        "order": {"decide_within": 7.0},
        "billing": {"currency": "EUR"},
    }
    monkeypatch.setenv("ORDER_DECIDE_WITHIN", "8")
    assert registry.own_settings(Settings())["order"] == {"decide_within": 8.0}
    told = Settings(own={"order": {"decide_within": 9}})
    assert registry.own_settings(told)["order"] == {"decide_within": 9.0}
    for variable in ("CHOREO_CURRENCY", "BILLING_CURRENCY"):
        monkeypatch.setenv(variable, "shells")
        with pytest.raises(Unavailable, match=rf"^{variable} is not usable: .*; correct it or unset it\.$"):
            registry.service_of("billing", Settings())
