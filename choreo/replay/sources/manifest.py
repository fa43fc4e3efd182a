"""The first line of a recording, which says what the file holds. It may come from anybody."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from choreo.chassis.registry import all_topics, own_settings, service_names, service_of
from choreo.chassis.settings import Settings
from choreo.errors import Unavailable
from choreo.replay.sources.records import Cut, Span

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
        for name in own:
            try:
                service_of(name, Settings.model_construct(own=own))
            except Unavailable as error:
                raise ValueError(str(error)) from error
        return own

    @field_validator("services")
    @classmethod
    def _are_known(cls, services: list[str]) -> list[str]:
        if unknown := set(services) - set(service_names()):
            raise ValueError(f"nobody knows a service {min(unknown)}")
        return services

    @field_validator("partitions")
    @classmethod
    def _are_ours(cls, partitions: list[_Partition], told: ValidationInfo) -> list[_Partition]:
        ours = set(all_topics(told.data.get("topic_prefix", "")))
        if foreign := {partition.topic for partition in partitions} - ours:
            raise ValueError(f"no service writes to the topic {min(foreign)}")
        return partitions

    @property
    def cut(self) -> Cut:
        return Cut(
            spans={
                (told.topic, told.partition): Span(told.first, told.settled, told.last + 1)
                for told in self.partitions
            },
            services=tuple(self.services),
            topic_prefix=self.topic_prefix,
            own_settings=self.settings,
            keys=None if self.keys is None else frozenset(self.keys),
            until=datetime.fromisoformat(self.until) if self.until else None,
            redacted=self.redacted,
            reduced=self.reduced,
            columns=self.columns,
        )
