"""A service is found by its entry point, whoever's package it is in; what cannot be is one sentence."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import reload
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from choreo.chaos.faults import nemesis
from choreo.chassis import installed, registry
from choreo.chassis.registry import all_topics, free_port_offset, own_port_of, port_of, service_names
from choreo.chassis.settings import Settings
from choreo.cli.main import app
from choreo.cli.programmes import docs
from choreo.errors import Unavailable
from choreo.message.catalog import FACT_OF_TYPE
from choreo.message.fact import Fact
from choreo.operations.reading.installation import running_system
from choreo.styles.composition import COLLABORATION, COMPOSITIONS, require_composition
from tests.installing import forget, installed_beside, installed_without
from tests.services import SERVICES

FREE = free_port_offset()
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
    yield
    forget()


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    with ExitStack() as stack:

        def beside(name: str, offset: int, told_as: str | None = None) -> None:
            files = {"__init__.py": "", "service.py": DESCRIBED.format(name=told_as or name, offset=offset)}
            stack.enter_context(installed_beside(tmp_path, f"{name} = parcels.service:service", files))

        yield beside


def test_the_shops_services_are_there_in_the_order_of_their_ports() -> None:
    settings = Settings(port_base=20000)
    assert service_names()[:4] == ("user", "order", "billing", "notification")
    assert [port_of(name, settings) for name in service_names()][:4] == [20001, 20002, 20003, 20004]
    assert own_port_of("billing", settings, 2) == 20203


def test_a_service_of_somebody_elses_package_joins_by_being_installed(install: Install) -> None:
    install("shipping", FREE)
    assert service_names() == (*SERVICES, "shipping")
    assert all_topics("x-")[-1] == "x-shipping-events"
    assert registry.services(Settings())["shipping"].group("") == "shipping-service"
    assert installed.package_of("shipping") == "parcels"
    assert tuple(docs._own()) == SERVICES, "which has documents of its own"


def test_documents_are_written_where_a_service_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unavailable, match=r"^No pyproject.toml here names a service: run this in the folder"):
        docs._own()


@pytest.mark.parametrize("package", ["parcels", ""])
def test_facts_may_lie_in_a_package_itself_or_in_a_module_alone(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    module = ModuleType("parcels")
    vars(module).update(__package__=package, **({"__path__": []} if package else {}))
    monkeypatch.setitem(sys.modules, "parcels", module)
    monkeypatch.setitem(FACT_OF_TYPE, "ParcelSent", type("ParcelSent", (Fact,), {"__module__": "parcels"}))
    assert "ParcelSent" not in registry.examples()


def test_an_entry_point_without_its_package_is_no_service_here(tmp_path: Path) -> None:
    with installed_beside(tmp_path, "shipping = nowhere_at_all.service:service", {}):
        assert service_names() == SERVICES
        with pytest.raises(Unavailable, match=r"^There is no shipping service here: install its package"):
            installed.package_of("shipping")


@pytest.mark.parametrize("offset", [0, 3, 5, 25])
def test_a_port_that_is_anothers_or_out_of_the_way_is_refused_and_a_free_one_named(
    install: Install, offset: int
) -> None:
    install("shipping", offset)
    with pytest.raises(
        Unavailable, match=rf"shipping .*cannot have port offset {offset}: .* port_offset={FREE} in"
    ):
        service_names()


def test_where_no_port_is_left_a_further_service_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_PORT_OFFSETS", frozenset(range(1, FREE)) - {5})
    with pytest.raises(Unavailable, match=r"^One system has ports for \d+ services, and all are taken"):
        free_port_offset()


def test_two_packages_with_a_service_of_one_name_are_told(install: Install) -> None:
    install("order", FREE)
    told = "Two packages have a service order, parcels.service:service and order_service.service:service"
    with pytest.raises(Unavailable, match=rf"^{told}: uninstall one"):
        service_names()


def test_a_service_that_calls_itself_otherwise_is_refused(install: Install) -> None:
    install("shipping", FREE, told_as="haulage")
    with pytest.raises(Unavailable, match=r"^The entry point shipping describes the haulage service: give"):
        service_names()


def test_metadata_older_than_the_checkout_is_told_with_the_command_that_renews_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(f'[project.entry-points."{installed.GROUP}"]\nshipping = "parcels.service:service"\n')
    monkeypatch.setattr(installed, "_CHECKOUT", project)
    forget()
    told = r"^The shipping service is not installed as pyproject.toml names it: run `make \.venv/installed`"
    with pytest.raises(Unavailable, match=told):
        service_names()
    with (
        installed_beside(tmp_path, "shipping = packages:service", {}),
        pytest.raises(Unavailable, match=told),
    ):
        service_names()


@pytest.mark.parametrize("entry", ["parcels.service:servcie", "parcels.service"])
def test_an_entry_point_that_names_no_function_is_told(tmp_path: Path, entry: str) -> None:
    files = {"__init__.py": "", "service.py": ""}
    with (
        installed_beside(tmp_path, f"shipping = {entry}", files),
        pytest.raises(Unavailable, match=rf"^The entry point shipping names {entry}, and there is no such"),
    ):
        service_names()


def test_where_no_service_is_installed_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "named", dict)
    forget()
    with pytest.raises(Unavailable, match=r"^There is no service here: install one beside choreo"):
        service_names()


def test_a_service_that_is_younger_than_the_system_that_runs_is_told(
    tmp_path: Path, install: Install
) -> None:
    ports = dict.fromkeys(service_names(), 0)
    (tmp_path / "run.json").write_text(json.dumps({"pid": os.getpid(), "ports": ports}))
    assert running_system(Settings(home=tmp_path))
    install("shipping", FREE)
    with pytest.raises(
        Unavailable, match=r"started before there was shipping: stop it, and start it again with"
    ):
        running_system(Settings(home=tmp_path))


def test_who_knows_the_shop_by_name_says_what_of_it_is_not_here() -> None:
    with installed_without("notification"):
        assert "notification" not in service_names()
        reload(nemesis)  # as if nobody had imported it before
        for arguments in (["demo"], ["chaos"], ["bench"], ["styles", "--outages"]):
            said = CliRunner().invoke(app, arguments).exception
            assert isinstance(said, Unavailable) and str(said).startswith(
                "There is no notification service here"
            )
        for style in COMPOSITIONS:
            with pytest.raises(Unavailable, match=r"^There is no notification service here: install"):
                require_composition(style)
        require_composition(COLLABORATION)


def test_a_style_takes_no_service_of_which_it_does_not_say_who_calls_it(install: Install) -> None:
    install("shipping", FREE)
    for style in COMPOSITIONS:
        with pytest.raises(
            Unavailable, match=rf"^Style {style} does not say who calls .*shipping, which would"
        ):
            require_composition(style)
    require_composition(COLLABORATION)


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


@pytest.mark.parametrize(
    ("currency", "has"), [("JPY", "none"), ("KWD", "three"), ("UYW", "four"), ("XAU", "none")]
)
def test_a_currency_without_two_decimals_is_refused_at_the_start_and_not_in_a_recording(
    monkeypatch: pytest.MonkeyPatch, currency: str, has: str
) -> None:
    monkeypatch.setenv("CHOREO_CURRENCY", currency)
    with pytest.raises(Unavailable) as refused:
        registry.service_of("billing", Settings())
    assert str(refused.value) == (
        f"CHOREO_CURRENCY is not usable: amounts have two decimals, and {currency} has {has} (ISO 4217); "
        "correct it or unset it."
    )
    monkeypatch.setenv("CHOREO_CURRENCY", "SEK")
    assert registry.own_settings(Settings())["billing"] == {"currency": "SEK"}
    recorded = Settings(own={"billing": {"currency": currency}})
    assert registry.own_settings(recorded)["billing"] == {"currency": currency}
