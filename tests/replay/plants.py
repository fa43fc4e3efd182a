"""Changes to the pure functions, for a verification to find. Each is called in both of its processes."""

import asyncio
import atexit
import builtins
import contextlib
import ctypes
import decimal
import faulthandler
import importlib
import locale
import logging
import mmap
import multiprocessing.util
import os
import platform
import posix
import pwd
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from email.utils import formatdate
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid1, uuid4

import billing_service.decide
import notification_service.texts
import order_service.decide
from billing_service.commands import (
    DecidePayment,
    Deposit,
    InsufficientFunds,
    OpenAccount,
    UndoPayment,
    Withdraw,
)
from billing_service.state import Account, Billing
from choreo.message.decider import Command, Decision
from choreo.message.envelope import Event
from events.billing import AccountCreated, MoneyDeposited, PaymentConfirmed, PaymentRejected
from events.order import OrderCreated
from events.user import UserRegistered
from notification_service.state import Notifications, Recipient
from notification_service.texts import Text
from order_service.commands import PlaceOrder
from order_service.state import Orders

SetAttr = Callable[[Any, str, Any], None]


def amount_off_by_one(setattr: SetAttr = builtins.setattr) -> None:
    right = billing_service.decide._deposited

    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        fact = right(command, account)
        return fact.model_copy(update={"balance": fact.balance + 1})

    setattr(billing_service.decide, "_deposited", wrong)


def order_for_exactly_the_balance_is_not_paid(setattr: SetAttr = builtins.setattr) -> None:
    right = billing_service.decide._decide_payment

    def wrong(command: DecidePayment, state: Billing) -> Decision:
        account, payment = state.account, state.payments[command.order_id]
        if account and payment.outcome == "waiting" and account.balance <= payment.amount:
            return [billing_service.decide._rejected(payment, "insufficient_funds", account.balance)]
        return right(command, state)

    setattr(billing_service.decide, "_decide_payment", wrong)


def changed_text(setattr: SetAttr = builtins.setattr) -> None:
    right = notification_service.texts.order_confirmed

    def wrong(*arguments: Any) -> Text:
        text = right(*arguments)
        return replace(text, text=text.text + "!")

    setattr(notification_service.texts, "order_confirmed", wrong)


def swapped_field(setattr: SetAttr = builtins.setattr) -> None:
    right = billing_service.decide._account_created

    def wrong(command: OpenAccount, currency: str) -> AccountCreated:
        fact = right(command, currency)
        return fact.model_copy(update={"account_id": fact.user_id})

    setattr(billing_service.decide, "_account_created", wrong)


def clock_read_in_a_handler(setattr: SetAttr = builtins.setattr) -> None:
    right = order_service.decide._created

    def wrong(command: PlaceOrder, decide_by: datetime) -> OrderCreated:
        return right(command, decide_by=datetime.now(UTC))

    setattr(order_service.decide, "_created", wrong)


def iteration_over_a_set(setattr: SetAttr = builtins.setattr) -> None:
    import billing_service.service as service
    from billing_service.react import _decide, react

    def wrong(event: Event[Any], state: Billing) -> Sequence[Command]:
        if isinstance(event.data, AccountCreated):
            waiting = {str(one.order_id): one for one in state.payments.values() if one.outcome == "waiting"}
            return [_decide(waiting[id]) for id in set(waiting)]
        return react(event, state)

    setattr(service, "react", wrong)


def a_decision_less(setattr: SetAttr = builtins.setattr) -> None:
    def wrong(command: UndoPayment, state: Billing) -> Decision:
        return []

    setattr(billing_service.decide, "_undo_payment", wrong)


def a_decision_more(setattr: SetAttr = builtins.setattr) -> None:
    right = billing_service.decide._decide_payment

    def wrong(command: DecidePayment, state: Billing) -> Decision:
        decision = right(command, state)
        if isinstance(decision, list) and decision and isinstance(decision[0], PaymentRejected):
            return [*decision, decision[0]]
        return decision

    setattr(billing_service.decide, "_decide_payment", wrong)


def other_refusal(setattr: SetAttr = builtins.setattr) -> None:
    right = billing_service.decide._decide_movement

    def wrong(command: Deposit | Withdraw, account: Account) -> Decision:
        decision = right(command, account)
        if isinstance(decision, InsufficientFunds):
            return replace(decision, balance=0)
        return decision

    setattr(billing_service.decide, "_decide_movement", wrong)


def a_bug(setattr: SetAttr = builtins.setattr) -> None:
    import order_service.service as service
    from order_service.evolve import evolve

    def wrong(state: Orders, event: Event[Any]) -> Orders:
        if isinstance(event.data, PaymentRejected):
            raise ZeroDivisionError("a bug")
        return evolve(state, event)

    setattr(service, "evolve", wrong)


# Races: the order of two topics matters. In the last one it does not.


def the_last_writer_wins(setattr: SetAttr = builtins.setattr) -> None:
    """Two topics write one row: whoever's payment is confirmed loses their address."""
    import notification_service.service as service
    from notification_service.evolve import evolve

    def wrong(state: Notifications, event: Event[Any]) -> Notifications:
        state = evolve(state, event)
        match event.data:
            case PaymentConfirmed(user_id=user_id):
                return replace(state, recipient=Recipient(user_id, "", ""))
        return state

    setattr(service, "evolve", wrong)


def a_gift_for_who_has_ordered_nothing(setattr: SetAttr = builtins.setattr) -> None:
    import billing_service.service as service
    from billing_service.evolve import evolve

    def wrong(state: Billing, event: Event[Any]) -> Billing:
        gift = 0 if state.payments else 5
        state = evolve(state, event)
        if isinstance(event.data, AccountCreated) and state.account:
            return replace(state, account=replace(state.account, balance=gift))
        return state

    setattr(service, "evolve", wrong)


def a_bug_before_the_address_is_known(setattr: SetAttr = builtins.setattr) -> None:
    import notification_service.service as service
    from notification_service.evolve import evolve

    def wrong(state: Notifications, event: Event[Any]) -> Notifications:
        if isinstance(event.data, PaymentRejected):
            assert state.recipient is not None
        return evolve(state, event)

    setattr(service, "evolve", wrong)


def the_order_of_one_topic_matters(setattr: SetAttr = builtins.setattr) -> None:
    """A registration and payments write the same row, and each its own column."""
    import notification_service.service as service
    from notification_service.evolve import evolve

    def right(state: Notifications, event: Event[Any]) -> Notifications:
        known = state.recipient or Recipient(UUID(event.key), "", "")
        match event.data:
            case UserRegistered(email=email):
                return replace(state, recipient=replace(known, email=email))
            case PaymentConfirmed(amount=amount) | PaymentRejected(amount=amount):
                return replace(evolve(state, event), recipient=replace(known, login=str(amount)))
        return evolve(state, event)

    setattr(service, "evolve", right)


# What no handler may do. Each hides it as well as it can.

TOUCHED = Path(os.environ.get("TMPDIR", "/tmp")) / f"choreo-touched-{os.getuid()}"
"""What `everything_that_is_refused` would write."""


def _touch() -> None:
    TOUCHED.write_text("")


def _write_to_what_is_open() -> None:
    os.write(1, b"beside all streams")


ATTEMPTS: dict[str, Callable[[], object]] = {
    "open a socket": lambda: socket.create_connection(("127.0.0.1", 1)),
    "write the file": _touch,
    "start a process": lambda: subprocess.run(["touch", str(TOUCHED)], check=False),
    "start a thread": lambda: threading.Thread(target=_touch).start(),
    "start a process (os.fork)": lambda: os.fork(),
    "start a process (_posixsubprocess": lambda: multiprocessing.util.spawnv_passfds(
        b"/usr/bin/touch", [b"touch", bytes(TOUCHED)], []
    ),
    "start a process (os.posix_spawn)": lambda: os.posix_spawn("/usr/bin/touch", ["touch", str(TOUCHED)], {}),
    "write the file HERE": lambda: os.open(TOUCHED, os.O_CREAT | os.O_WRONLY),
    "write the file LOG": lambda: logging.FileHandler(f"{TOUCHED}.log"),
    "make a file": lambda: os.mkfifo(TOUCHED),
    "open a database": lambda: sqlite3.connect(TOUCHED),
    "call a library": lambda: ctypes.pythonapi["system"],
    "map a file": lambda: mmap.mmap(-1, 1),
    "write to an open file": _write_to_what_is_open,
    "change the environment": lambda: os.environ.update(CHOREO_HOME="elsewhere"),
    "change the directory": lambda: os.chdir("/"),
    "leave something to be done": lambda: atexit.register(_touch),
    "send or catch a signal (signal.signal)": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    "send or catch a signal (signal.raise": lambda: signal.raise_signal(signal.SIGUSR1),
    "end the program": lambda: os._exit(0),
    "close an open file (os.close)": lambda: os.close(1),
    "close an open file (os.dup2)": lambda: os.dup2(2, 1),
    "write to an open file (os.write)": lambda: posix.write(1, b"beside os"),
    "write to an open file (faulthandler": lambda: faulthandler.dump_traceback(),
    "change the process (os.umask)": lambda: os.umask(0),
    "change the process (os.setsid)": lambda: os.setsid(),
    "change the locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "make a file (os.memfd_create)": lambda: os.memfd_create("mine"),
    "wait for a process": lambda: os.waitpid(-1, os.WNOHANG),
    "share memory": lambda: shared_memory.SharedMemory(create=True, size=1),
    "leave something to be done later": lambda: asyncio.get_running_loop().call_later(0, _touch),
    "watch the program": lambda: sys.setprofile(None),
}
"""By what is said of each."""


def everything_that_is_refused(setattr: SetAttr = builtins.setattr) -> None:
    """Sockets, files, processes and threads, from a helper, and whatever comes of it is caught."""
    right = billing_service.decide._deposited

    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        for act in ATTEMPTS.values():
            with contextlib.suppress(Exception):
                act()
        return right(command, account)

    setattr(billing_service.decide, "_deposited", wrong)


def everything_that_is_read(setattr: SetAttr = builtins.setattr) -> None:
    right = billing_service.decide._deposited

    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        for read in (*READS.values(), *NO_READS):
            with contextlib.suppress(Exception):
                read()
        return right(command, account)

    setattr(billing_service.decide, "_deposited", wrong)


class Day(date):
    """A class of one's own."""


READS: dict[str, Callable[[], object]] = {
    "reads the clock (time.time)": lambda: formatdate(),
    "reads the clock (date.today)": lambda: Day.today(),
    "reads the clock or the time zone (time.gmtime)": lambda: time.gmtime(),
    "asks for chance (uuid._generate_time_safe)": lambda: uuid1(),
    "asks for chance": lambda: random.Random().random(),
    "asks for chance (os.getrandom)": lambda: os.getrandom(1),
    "asks who runs it (os.getlogin)": lambda: os.getlogin(),
    "asks who runs it (os.getppid)": lambda: os.getppid(),
    "asks who runs it (pwd.getpwuid)": lambda: pwd.getpwuid(0),
    "asks what it runs on (os.cpu_count)": lambda: os.cpu_count(),
    "asks what it runs on (platform.uname)": lambda: platform.node(),
    "reads the locale (locale.localeconv)": lambda: locale.currency(1),
    "reads the file FILE": lambda: Path("/etc/hosts").read_text(),
    "looks at a file (os.stat)": lambda: Path(__file__).exists(),
    "looks at a file (os.listdir)": lambda: os.listdir("/"),
    "asks where something lies in memory (builtins.id)": lambda: id(READS),
    "waits (time.sleep)": lambda: time.sleep(0),
    "changes how decimal calculates from now on": lambda: setattr(decimal.getcontext(), "prec", 27),
}
"""By what is said of each."""
NO_READS: Sequence[Callable[[], object]] = (
    lambda: random.Random(5).random(),
    lambda: datetime.fromtimestamp(0, UTC),
    lambda: decimal.Decimal(1) / 3,
    lambda: importlib.import_module("colorsys"),
    lambda: Path(__file__).read_text(),
)
"""What comes out is the same wherever that runs, and whenever."""


def a_print(setattr: SetAttr = builtins.setattr) -> None:
    right = billing_service.decide._deposited

    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        for stream in (sys.stdout, sys.__stdout__):
            print("so far", account.balance, file=stream)
        return right(command, account)

    setattr(billing_service.decide, "_deposited", wrong)


def an_exit(setattr: SetAttr = builtins.setattr) -> None:
    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        sys.exit(0)

    setattr(billing_service.decide, "_deposited", wrong)


def an_interrupt(setattr: SetAttr = builtins.setattr) -> None:
    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        raise asyncio.CancelledError

    setattr(billing_service.decide, "_deposited", wrong)


def no_end_whatever_comes(setattr: SetAttr = builtins.setattr) -> None:
    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        while True:  # what comes between two turns of the inner loop the outer one catches
            try:
                while True:
                    try:
                        for _ in range(1000):
                            account = replace(account, balance=account.balance)
                    except BaseException:
                        continue
            except BaseException:
                continue

    setattr(billing_service.decide, "_deposited", wrong)


def no_end(setattr: SetAttr = builtins.setattr) -> None:
    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        while True:
            with contextlib.suppress(Exception):
                account = replace(account, balance=account.balance)

    setattr(billing_service.decide, "_deposited", wrong)


def no_bottom(setattr: SetAttr = builtins.setattr) -> None:
    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        return wrong(command, account)

    setattr(billing_service.decide, "_deposited", wrong)


# What a decision must not depend on, and what a traffic of one hour, one machine and one user never shows.


def the_day_of_a_clock(setattr: SetAttr = builtins.setattr) -> None:
    right = billing_service.decide._deposited

    def day() -> int:
        return datetime.now(UTC).year // 1000

    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        day()
        return right(command, account)

    setattr(billing_service.decide, "_deposited", wrong)


def the_environment(setattr: SetAttr = builtins.setattr) -> None:
    right = billing_service.decide._deposited

    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        os.environ.get("LANG")
        return right(command, account)

    setattr(billing_service.decide, "_deposited", wrong)


def chance(setattr: SetAttr = builtins.setattr) -> None:
    right = billing_service.decide._deposited

    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        uuid4()
        return right(command, account)

    setattr(billing_service.decide, "_deposited", wrong)


_AMOUNTS: dict[int, int] = {}


def what_a_module_remembers(setattr: SetAttr = builtins.setattr) -> None:
    """The balance after a deposit is that after the first deposit of this amount."""
    right = billing_service.decide._deposited

    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        fact = right(command, account)
        return fact.model_copy(update={"balance": _AMOUNTS.setdefault(fact.amount, fact.balance)})

    setattr(billing_service.decide, "_deposited", wrong)


def the_order_of_a_set_of_two(setattr: SetAttr = builtins.setattr) -> None:
    """As a service's own module would: its `set` is what the second replay turns round."""
    right = billing_service.decide._deposited
    billing_service.decide.__dict__.setdefault("set", set)

    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        first, _ = billing_service.decide.__dict__["set"]([1, 2])
        return right(replace(command, amount=command.amount + first), account)

    setattr(billing_service.decide, "_deposited", wrong)


def the_time_zone_decides(setattr: SetAttr = builtins.setattr) -> None:
    """In the one that the second replay has; nobody is asked for it, so nobody sees it read."""
    right = billing_service.decide._deposited

    def wrong(command: Deposit, account: Account) -> MoneyDeposited:
        fact = right(command, account)
        if time.timezone == -14 * 3600:
            return fact.model_copy(update={"balance": fact.balance + 1})
        return fact

    setattr(billing_service.decide, "_deposited", wrong)


def a_state_changed_in_place(setattr: SetAttr = builtins.setattr) -> None:
    import billing_service.service as service
    from billing_service.evolve import evolve

    def wrong(state: Billing, event: Event[Any]) -> Billing:
        if isinstance(event.data, MoneyDeposited):
            cast(dict[Any, Any], state.ledger)["seen", "before"] = event.id
        return evolve(state, event)

    setattr(service, "evolve", wrong)
