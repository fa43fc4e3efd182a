"""What a notification says. Every text names its order and the money it is about."""

from dataclasses import dataclass

from events.billing import PaymentConfirmed, PaymentRefunded, PaymentRejected


@dataclass(frozen=True, slots=True)
class Text:
    subject: str
    text: str


def order_confirmed(fact: PaymentConfirmed) -> Text:
    amount, balance = money(fact.amount), money(fact.balance)
    return Text(
        subject=f"Good news: your order for {amount} is confirmed",
        text=f"We are glad to tell you that your order {fact.order_id} for {amount} is paid and confirmed.\n"
        f"Your account now holds {balance}. Thank you!\n",
    )


def order_rejected(fact: PaymentRejected) -> Text:
    """For too little money on the account."""
    amount, balance, missing = money(fact.amount), money(fact.balance), money(fact.amount - fact.balance)
    return Text(
        subject=f"Sorry: your order for {amount} could not be paid",
        text=f"We are sorry that your order {fact.order_id} for {amount} could not be paid: "
        f"your account holds {balance}, which is {missing} too little.\n"
        f"Nothing was taken from it. Once you have topped it up, please order again.\n",
    )


def order_cancelled(fact: PaymentRejected) -> Text:
    """Before it was paid, by the user or because its time was up."""
    amount, balance = money(fact.amount), money(fact.balance)
    return Text(
        subject=f"Your order for {amount} is cancelled",
        text=f"Your order {fact.order_id} for {amount} was cancelled before it was paid.\n"
        f"Nothing was taken from your account, which holds {balance}.\n",
    )


def order_refunded(fact: PaymentRefunded) -> Text:
    amount, balance = money(fact.amount), money(fact.balance)
    return Text(
        subject=f"Your order for {amount} is cancelled and refunded",
        text=f"Your order {fact.order_id} for {amount} was cancelled after it was paid.\n"
        f"The money is back: your account now holds {balance}.\n",
    )


def money(minor_units: int) -> str:
    return f"{minor_units // 100}.{minor_units % 100:02}"
