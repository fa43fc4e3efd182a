"""Which users a batch needs. A registration concerns whoever has its login or its e-mail address, too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from choreo.chassis.database.round_trip import Later, RoundTrip, Statement
from choreo.chassis.transaction.state_store import Memory, TableMapping, save
from user_service.commands import Register
from user_service.state import User, Users
from user_service.tables import users

_CONCERNED = Statement("""/* users.concerned: who has one of these ids, logins or e-mail addresses */
SELECT id, login, login_key, email, email_key, created_at, step FROM users
WHERE id = ANY($1::uuid[]) OR login_key = ANY($2::text[]) OR email_key = ANY($3::text[])""")

_USERS = TableMapping("users", users, User, key="id")


@dataclass(frozen=True)
class UserStore:
    mappings: tuple[TableMapping, ...] = (_USERS,)

    def load(self, trip: RoundTrip, wanted: Mapping[str, Sequence[object]]) -> Later[dict[str, Users]]:
        registrations = {
            key: command
            for key, commands in wanted.items()
            for command in commands
            if isinstance(command, Register)
        }
        concerned = self._concerned(trip, list(registrations.values())) if registrations else []
        return lambda: {
            key: Users({user.id: user for user in concerned if _concerns(registrations.get(key), user)})
            for key in wanted
        }

    def save(self, trip: RoundTrip, before: Mapping[str, Users], after: Mapping[str, Users]) -> None:
        save(trip, self.mappings, before, after)

    def from_memory(self, memory: Memory, key: str, content: object) -> Users:
        concerned = []
        if isinstance(content, Register):
            concerned = [
                memory.by_id(_USERS, content.user_id),
                *memory.having(_USERS, "login_key", content.login_key),
                *memory.having(_USERS, "email_key", content.email_key),
            ]
        return Users({user.id: user for user in concerned if user})

    def _concerned(self, trip: RoundTrip, commands: Sequence[Register]) -> list[User]:
        """There once it is sent."""
        return trip.add(
            _CONCERNED,
            [command.user_id for command in commands],
            [command.login_key for command in commands],
            [command.email_key for command in commands],
            row=User,
        )


def _concerns(command: Register | None, user: User) -> bool:
    return command is not None and (
        user.id == command.user_id
        or user.login_key == command.login_key
        or user.email_key == command.email_key
    )


STORE = UserStore()
