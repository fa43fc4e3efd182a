"""The first line of a recording, which says what the file holds. It may come from anybody."""

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from choreo.chassis.registry import all_topics, own_settings, service_names, service_of
from choreo.chassis.settings import Settings
from choreo.errors import Unavailable
from choreo.message.catalog import topic_of
from choreo.replay.sources.records import Cut, Span

_SERVICE = "[a-z][a-z0-9_]{0,40}"
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Told(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Partition(_Told):
    topic: str
    partition: Annotated[int, Field(ge=0, lt=2**31)]
    first: Count
    settled: Count
    last: Annotated[int, Field(ge=-1, lt=2**63)]


class _Row(_Told):
    name: str
    values: list[Any] | None


class Manifest(_Told):
    """Raises ValueError, as pydantic does, where one of these is not what `record` would have written."""

    services: list[str]
    topic_prefix: str
    settings: dict[str, dict[str, Any]]
    """By service, its own."""
    keys: list[str] | None
    until: str | None
    redacted: bool
    reduced: bool = False
    partitions: list[_Partition]
    counts: dict[str, Count]
    rows: dict[str, dict[str, str]]
    columns: dict[str, dict[str, list[str]]] = {}
    edited: dict[str, dict[str, list[_Row]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _as_today(cls, told: Any) -> Any:
        """Recordings of before have all services' settings beside everything else."""
        if not isinstance(told, dict) or "settings" in told:
            return told
        known = own_settings(Settings.model_construct())
        own = {
            name: {field: told[field] for field in there if field in told} for name, there in known.items()
        }
        return told | {"settings": own}

    @field_validator("settings")
    @classmethod
    def _are_usable(cls, own: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in set(own).intersection(service_names()):
            try:
                service_of(name, Settings.model_construct(own=own))
            except Unavailable as error:
                raise ValueError(str(error)) from error
        return own

    @field_validator("services")
    @classmethod
    def _are_names(cls, services: list[str]) -> list[str]:
        """Today's code need not know them all: the recording may be newer."""
        if wrong := [name for name in services if not re.fullmatch(_SERVICE, name)]:
            raise ValueError(f"no service can be called {wrong[0]}")
        return services

    @field_validator("partitions")
    @classmethod
    def _are_ours(cls, partitions: list[_Partition], told: ValidationInfo) -> list[_Partition]:
        prefix = told.data.get("topic_prefix", "")
        ours = {*all_topics(prefix), *(prefix + topic_of(name) for name in told.data.get("services", ()))}
        if foreign := {partition.topic for partition in partitions} - ours:
            raise ValueError(f"no service writes to the topic {min(foreign)}")
        return partitions

    @property
    def cut(self) -> Cut:
        known = set(all_topics(self.topic_prefix))
        return Cut(
            spans={
                (told.topic, told.partition): Span(told.first, told.settled, told.last + 1)
                for told in self.partitions
                if told.topic in known
            },
            services=tuple(name for name in self.services if name in service_names()),
            unknown_services=tuple(name for name in self.services if name not in service_names()),
            topic_prefix=self.topic_prefix,
            own_settings=self.settings,
            keys=None if self.keys is None else frozenset(self.keys),
            until=datetime.fromisoformat(self.until) if self.until else None,
            redacted=self.redacted,
            reduced=self.reduced,
            columns=self.columns,
        )
