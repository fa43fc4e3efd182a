"""Bugs to be found: each is an edit of a service's source, and what `choreo verify` has to say of it."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, ignore_patterns

ROOT = Path(__file__).parents[2]
_SERVICES = ("user_service", "order_service", "billing_service", "notification_service")

WITHOUT_PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""For a pytest that runs one small test: to import them takes longer."""

Edits = Mapping[str, Sequence[tuple[str, str]]]
"""By file: what stands there, once, and what instead. A file that is not there is made of the latter."""


@dataclass(frozen=True)
class Bug:
    name: str
    edits: Edits
    verdict: str
    """Empty where it depends on when modules are imported anew: changed, or not deterministic."""
    service: str
    type: str
    """Of the input, or of the fact that a row follows from."""
    line: str
    """What stands in one of the lines that are told."""
    kind: str = "step"
    column: str = ""
    """Of a row: `table.column`."""
    says: str = ""


def planted(where: Path, edits: Edits) -> Path:
    """Copies the services, unless they are there, and edits the copy."""
    for package in _SERVICES:
        if not (where / package).exists():
            copytree(ROOT / package, where / package, ignore=ignore_patterns("__pycache__"))
    for name, changes in edits.items():
        path = where / name
        text = path.read_text() if path.exists() else ""
        for before, after in changes:
            assert text.count(before) == 1 or not text, f"{name} has {text.count(before)} of {before}"
            text = text.replace(before, after) if text else after
        path.write_text(text)
    return where


def choreo(*arguments: str, tree: Path, home: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Runs a verb with the services that lie there, from nowhere in particular."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    if home:
        environment["CHOREO_HOME"] = str(home)
    command = [sys.executable, "-P", "-m", "choreo.cli.main", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


DECIDE, EVOLVE, REACT = (f"billing_service/{room}.py" for room in ("decide", "evolve", "react"))
TEXTS, TELL = "notification_service/texts.py", "notification_service/evolve.py"
ORDER, PLACE, STATUS = "order_service/evolve.py", "order_service/decide.py", "order_service/state.py"

_PAID = "            balance=account.balance - payment.amount,"
_TOO_LITTLE = "if account.balance < payment.amount:"
_SERVICE = 'SERVICE = "billing"\n'
_TEXTS = "\n\n@dataclass(frozen=True, slots=True)\nclass Text:"
_CONFIRMED = "def order_confirmed(fact: PaymentConfirmed) -> Text:\n"

EMOJI = {
    EVOLVE: [
        (
            "        case OrderCreated() as fact:\n",
            '        case OrderCreated() as fact:\n            (fact.description or "").encode("cp1252")\n',
        )
    ]
}
CACHE = {
    DECIDE: [
        (_SERVICE, _SERVICE + "\n_DEPOSITED: dict[int, MoneyDeposited] = {}\n"),
        (
            "            return [_deposited(command, account)]",
            "            fact = _deposited(command, account)\n"
            "            balance = _DEPOSITED.setdefault(command.amount, fact).balance\n"
            '            return [fact.model_copy(update={"balance": balance})]',
        ),
    ]
}
ROUNDING = {
    DECIDE: [
        (
            "                    amount=payment.amount,\n"
            "                    balance=balance + payment.amount,",
            "                    amount=round(payment.amount, -1),\n"
            "                    balance=balance + round(payment.amount, -1),",
        )
    ]
}

BUGS = [
    Bug(
        "a refund forgets the outcome",
        {
            EVOLVE: [
                (
                    "            state = _with_payment(state, replace(state.payments[fact.order_id], "
                    'outcome="refunded"))\n',
                    "",
                )
            ]
        },
        "changed",
        "billing",
        "PaymentRefunded",
        "",
        "state",
        "payments.outcome",
    ),
    Bug(
        "<= at the balance",
        {DECIDE: [(_TOO_LITTLE, _TOO_LITTLE.replace("<", "<="))]},
        "changed",
        "billing",
        "OrderCreated",
        'return [_rejected(payment, "insufficient_funds"',
    ),
    Bug(
        "float rounding in billing",
        {DECIDE: [(_PAID, "            balance=int((account.balance / 100 - payment.amount / 100) * 100),")]},
        "changed",
        "billing",
        "OrderCreated",
        "return [",
    ),
    Bug(
        "emoji in billing",
        EMOJI,
        "changed",
        "billing",
        "OrderCreated",
        'encode("cp1252")',
        says="raises UnicodeEncodeError",
    ),
    Bug(
        "emoji in order",
        {
            PLACE: [
                (
                    "        description=command.description,",
                    '        description=(command.description or "").encode("cp1252").decode() or None,',
                )
            ]
        },
        "changed",
        "order",
        "PlaceOrder",
        'encode("cp1252")',
        says="raises UnicodeEncodeError",
    ),
    Bug(
        "a status that forgets a combination",
        {
            STATUS: [
                (
                    "        if self.cancel_reason is not None:",
                    '        if self.cancel_reason is not None and self.payment != "rejected":',
                )
            ]
        },
        "changed",
        "order",
        "PaymentRejected",
        "",
        "state",
        "orders.status",
    ),
    Bug(
        "wrong balance in a text",
        {
            TEXTS: [
                (
                    _CONFIRMED + "    amount, balance = money(fact.amount), money(fact.balance)",
                    _CONFIRMED
                    + "    amount, balance = money(fact.amount), money(fact.balance + fact.amount)",
                )
            ]
        },
        "changed",
        "notification",
        "PaymentConfirmed",
        "texts.order_confirmed(fact)",
        "state",
        "notifications.text",
    ),
    Bug(
        "stale module cache",
        {
            DECIDE: [
                (_SERVICE, _SERVICE + "\n_BALANCES: dict[UUID, int] = {}\n"),
                (
                    "    account, payment = state.account, state.payments[command.order_id]\n"
                    "    if account is None or",
                    "    account, payment = state.account, state.payments[command.order_id]\n"
                    "    balance = _BALANCES.setdefault(payment.user_id, account.balance if account else 0)\n"
                    "    if account is None or",
                ),
                (_PAID, "            balance=balance - payment.amount,"),
            ]
        },
        "not deterministic",
        "billing",
        "OrderCreated",
        "return [",
    ),
    Bug(
        "a dict changed in place",
        {
            EVOLVE: [
                (
                    "    return replace(state, payments={**state.payments, payment.order_id: payment})",
                    "    state.payments[payment.order_id] = payment\n    return state",
                )
            ]
        },
        "not deterministic",
        "billing",
        "OrderCreated",
        "state.payments[payment.order_id] = payment",
        "effect",
        says="changes payments of the state it was given in place",
    ),
    Bug(
        "uuid4",
        {
            DECIDE: [
                ("from uuid import UUID\n", "from uuid import UUID, uuid4\n"),
                ('    return derived_id("payment", payment.order_id)', "    return uuid4()"),
            ]
        },
        "not deterministic",
        "billing",
        "OrderCreated",
        "return uuid4()",
        "effect",
        says="asks for chance (os.urandom)",
    ),
    Bug(
        "a reaction in the order of a set",
        {
            REACT: [
                (
                    "for payment in sorted(waiting, key=lambda payment: payment.step)]",
                    "for payment in set(waiting)]",
                )
            ]
        },
        "not deterministic",
        "billing",
        "UserRegistered",
        "",
    ),
    Bug(
        "the hour of UTC, through a helper",
        {
            "billing_service/hours.py": [
                (
                    "",
                    "from datetime import UTC, datetime\n\n\ndef is_open():\n"
                    "    return 0 <= datetime.now(UTC).hour\n",
                )
            ],
            DECIDE: [
                (_SERVICE, "from billing_service.hours import is_open\n\n" + _SERVICE),
                (_TOO_LITTLE, "if account.balance < payment.amount or not is_open():"),
            ],
        },
        "not deterministic",
        "billing",
        "OrderCreated",
        "datetime.now(UTC).hour",
        "effect",
        says="reads the clock (datetime.now)",
    ),
    Bug(
        "the local hour, through a helper",
        {
            "billing_service/hours.py": [
                ("", "import time\n\n\ndef is_open():\n    return 0 <= time.localtime().tm_hour\n")
            ],
            DECIDE: [
                (_SERVICE, "from billing_service.hours import is_open\n\n" + _SERVICE),
                (_TOO_LITTLE, "if account.balance < payment.amount or not is_open():"),
            ],
        },
        "not deterministic",
        "billing",
        "OrderCreated",
        "time.localtime().tm_hour",
        "effect",
        says="reads the clock (time.localtime)",
    ),
    Bug(
        "an HTTP call, and what comes of it caught",
        {
            "billing_service/rates.py": [
                (
                    "",
                    "from urllib.request import urlopen\n\n\ndef look_up():\n    try:\n"
                    '        urlopen("http://127.0.0.1:9/")\n'
                    "    except Exception:\n        pass\n",
                )
            ],
            EVOLVE: [
                ("\nConsumed = ", "\nfrom billing_service.rates import look_up\n\nConsumed = "),
                (
                    "        case MoneyDeposited() as fact:\n",
                    "        case MoneyDeposited() as fact:\n            look_up()\n",
                ),
            ],
        },
        "not deterministic",
        "billing",
        "Deposit",
        "urlopen(",
        "effect",
        says="tries to open a socket",
    ),
    Bug(
        "a list appended in place",
        {
            ORDER: [
                (
                    "        order = replace(order, changes=[*order.changes, change])",
                    "        if not order.changes:\n            order = replace(order, changes=[])\n"
                    "        order.changes.append(change)",
                )
            ]
        },
        "not deterministic",
        "order",
        "PaymentConfirmed",
        "order.changes.append(change)",
        "effect",
        says="of the state it was given in place",
    ),
    Bug(
        "a mutable default",
        {
            ORDER: [
                (
                    "def _with_order(state: Orders, event: Event[Applied], order: Order) -> Orders:",
                    "def _with_order(state: Orders, event: Event[Applied], order: Order, changes: list = []) "
                    "-> Orders:",
                ),
                (
                    "        order = replace(order, changes=[*order.changes, change])",
                    "        changes.append(change)\n        order = replace(order, changes=changes)",
                ),
            ]
        },
        "not deterministic",
        "order",
        "PaymentConfirmed",
        "return _with_order(",
        "effect",
        says="changes orders of the state it was given in place",
    ),
    Bug(
        "LANG",
        {
            TEXTS: [
                (_TEXTS, '\n\nGERMAN = "de"' + _TEXTS),
                ("from dataclasses import dataclass\n", "import os\nfrom dataclasses import dataclass\n"),
                (
                    _CONFIRMED,
                    _CONFIRMED + '    if os.environ.get("LANG", "").startswith(GERMAN):\n'
                    '        return Text("Gute Nachricht", "")\n',
                ),
            ]
        },
        "not deterministic",
        "notification",
        "PaymentConfirmed",
        'os.environ.get("LANG", "")',
        "effect",
        says="reads the environment (os.environ)",
    ),
    Bug(
        "the local time zone in a text",
        {
            TELL: [
                ("        text=text.text,", "        text=text.text + event.time.astimezone().isoformat(),")
            ]
        },
        "not deterministic",
        "notification",
        "PaymentConfirmed",
        "return Notification(",
        "state",
        "notifications.text",
    ),
    Bug(
        "the clock in a text, through a helper",
        {
            "notification_service/clock.py": [
                ("", "from datetime import datetime\n\n\ndef today():\n    return datetime.now().date()\n")
            ],
            TEXTS: [
                (_TEXTS, "\nfrom notification_service.clock import today\n" + _TEXTS),
                ('{balance}. Thank you!\\n",', '{balance}. Thank you! {today()}\\n",'),
            ],
        },
        "not deterministic",
        "notification",
        "PaymentConfirmed",
        "datetime.now().date()",
        "effect",
        says="reads the clock (datetime.now)",
    ),
    Bug(
        "a module cache by amount",
        CACHE,
        "",
        "billing",
        "Deposit",
        "return [fact.model_copy",
    ),
]
