"""Which users a batch needs. A registration concerns whoever has its login or its e-mail address, too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg.rows import class_row

from choreo.chassis.database.connection import Connection
from choreo.chassis.transaction.state_store import Memory, TableMapping, save
from user_service.commands import Register
from user_service.state import User, Users
from user_service.tables import users

_CONCERNED = """/* users.concerned: who has one of these ids, logins or e-mail addresses */
SELECT id, login, login_key, email, email_key, created_at, step FROM users
WHERE id = ANY(%b::uuid[]) OR login_key = ANY(%b::text[]) OR email_key = ANY(%b::text[])"""

_USERS = TableMapping("users", users, User, key="id")


@dataclass(frozen=True)
class UserStore:
    mappings: tuple[TableMapping, ...] = (_USERS,)

    async def load(self, conn: Connection, wanted: Mapping[str, Sequence[object]]) -> dict[str, Users]:
        registrations = {
            key: command
            for key, commands in wanted.items()
            for command in commands
            if isinstance(command, Register)
        }
        concerned = await self._concerned(conn, list(registrations.values())) if registrations else []
        return {
            key: Users({user.id: user for user in concerned if _concerns(registrations.get(key), user)})
            for key in wanted
        }

    async def save(self, conn: Connection, before: Mapping[str, Users], after: Mapping[str, Users]) -> None:
        await save(conn, self.mappings, before, after)

    def from_memory(self, memory: Memory, key: str, content: object) -> Users:
        concerned = []
        if isinstance(content, Register):
            concerned = [
                memory.by_id(_USERS, content.user_id),
                *memory.having(_USERS, "login_key", content.login_key),
                *memory.having(_USERS, "email_key", content.email_key),
            ]
        return Users({user.id: user for user in concerned if user})

    async def _concerned(self, conn: Connection, commands: Sequence[Register]) -> list[User]:
        async with conn.cursor(row_factory=class_row(User)) as cursor:
            await cursor.execute(
                _CONCERNED,
                [
                    [command.user_id for command in commands],
                    [command.login_key for command in commands],
                    [command.email_key for command in commands],
                ],
            )
            return await cursor.fetchall()


def _concerns(command: Register | None, user: User) -> bool:
    return command is not None and (
        user.id == command.user_id
        or user.login_key == command.login_key
        or user.email_key == command.email_key
    )


STORE = UserStore()
