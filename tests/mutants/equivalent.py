"""Changes that nobody can notice, each with the reason.

At most five: more are a sign of code that does nothing.
"""

EQUIVALENT: dict[str, str] = {
    "b496a24246": "a clock of nanoseconds does not stand at the deadline when it is looked at, and one more "
    "question would do no harm",
    "7ebf976781": "what is given back calls nobody before the loop's next turn, and by then the session has "
    "ended either way",
    "6f6a01c8ef": "three questions that Kafka answers one after the other: no two of the answers are "
    "compared, and the positions were read before all of them",
    "f9145148dd": "rows that are new and rows that are changed are different ones, and none that is changed "
    "gives up a unique value that a new one takes: logins and addresses never change",
    "4448fa10df": "what is parked and what goes out are rows of two tables that know nothing of each other, "
    "written in one transaction under locks that are held already",
}
"""By the change's id."""
