"""Changes by which `make mutants` asks who notices."""

from pathlib import Path

from tests.mutants.__main__ import EACH, SEED, caught_before, page
from tests.mutants.changes import KINDS, ROOT, Change, changes, lot, sample, sources
from tests.mutants.equivalent import EQUIVALENT
from tests.mutants.trial import Verdict, files_about

KERNEL = "choreo/chassis/transaction/kernel.py"


def test_each_kind_of_change_is_found() -> None:
    assert {change.kind for change in sample(1, 1)} == set(KINDS)
    assert len(sample(EACH, SEED)) - len(EQUIVALENT) >= 30


def test_a_change_is_of_one_place_and_runs() -> None:
    for change in changes(KERNEL):
        source = (ROOT / KERNEL).read_text()
        changed = change.applied(source)
        assert changed != source
        assert len(source.splitlines()) - len(changed.splitlines()) in (0, 1)
        compile(changed, KERNEL, "exec")


def test_a_sample_is_the_same_whenever_it_is_drawn() -> None:
    assert sample(2, 7) == sample(2, 7)
    assert sample(2, 7) != sample(2, 8)


def test_only_what_keeps_the_promise_is_changed() -> None:
    rooms = {str(Path(path).parent) for path in sources()}
    assert rooms == {
        "choreo/chassis/transaction",
        "choreo/chassis/kafka",
        "billing_service",
        "notification_service",
        "order_service",
        "user_service",
    }


def test_a_lock_is_dropped_in_sql() -> None:
    dropped = {change.before.strip() for change in changes("choreo/chassis/transaction/keys.py")}
    assert any("FOR UPDATE" in line for line in dropped)


def test_what_is_done_after_the_commit_is_done_before_it() -> None:
    (early,) = (change for change in changes(KERNEL) if change.kind == "told before the commit")
    told, commit = (line.strip() for line in early.after.splitlines())
    assert early.function == "Kernel._transact"
    assert (told, commit) == ("self._tell(work)", "await store.commit()")


def test_statements_are_swapped_only_where_both_do_something() -> None:
    swapped = [one for path in sources() for one in changes(path) if one.kind == "statements swapped"]
    assert swapped
    assert not any('", ".join(' in line for one in swapped for line in one.before.splitlines())


def test_who_is_asked_about_a_module_knows_it() -> None:
    assert files_about(KERNEL, ("tests/component",))[0] == "tests/component/test_kernel.py"
    assert "tests/unit/test_billing.py" in files_about("billing_service/decide.py", ("tests/unit",))


def test_few_changes_are_told_to_be_nothing() -> None:
    assert len(EQUIVALENT) <= 5
    assert all(len(reason) > 20 for reason in EQUIVALENT.values())


def test_a_change_is_known_again_where_its_lines_have_moved() -> None:
    one = Change("a.py", 3, "not", "not a\n", "bool(a)\n")
    moved = Change("a.py", 9, "not", "not a\n", "bool(a)\n")
    assert one.id == moved.id
    assert lot(1, one) == lot(1, moved) != lot(2, one)


def test_the_page_says_who_is_asked_first_the_next_time() -> None:
    one, other, third = sample(1, 1)[:3]
    test = "tests/component/test_kernel.py::test_one[with a word]"
    verdicts = {one.id: Verdict(test, 0, 1.0), other.id: Verdict("simulation: I6", 7, 2.0)}
    told = page([one, other, third], verdicts, 1, 10)
    assert caught_before(told) == {one.id: test}
    assert "not tried yet" in told


def test_what_is_told_to_be_nothing_is_still_drawn() -> None:
    assert EQUIVALENT.keys() <= {change.id for change in sample(EACH, SEED)}
