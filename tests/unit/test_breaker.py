"""The breaker: when a host is left alone, and for how long."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Lock

from workers.breaker import Breaker


class Clock:
    """Time that passes when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_host_that_fails_in_a_row_is_left_alone_and_then_probed() -> None:
    """After the cool-down one row asks for all; its success opens the host again."""
    clock = Clock()
    breaker = Breaker(max_failures=3, cooldown_s=30, clock=clock)
    for _ in range(3):
        assert breaker.admits("a")
        breaker.failed("a")

    closed = breaker.admits("a")
    clock.now = 31
    probes = [breaker.admits("a"), breaker.admits("a")]
    breaker.answered("a")
    after = [breaker.admits("a"), breaker.admits("a")]

    assert not closed
    assert probes == [True, False]
    assert after == [True, True]


def test_a_probe_that_fails_closes_the_host_again() -> None:
    """One failure is enough then; and a probe that never reports is followed by another."""
    clock = Clock()
    breaker = Breaker(max_failures=2, cooldown_s=30, clock=clock)
    breaker.failed("a")
    breaker.failed("a")

    clock.now = 31
    assert breaker.admits("a")
    breaker.failed("a")
    clock.now = 60
    early = breaker.admits("a")
    clock.now = 62
    probes = [breaker.admits("a"), breaker.admits("a")]
    clock.now = 93
    later = breaker.admits("a")

    assert not early
    assert probes == [True, False]
    assert later


def test_an_answer_in_between_starts_the_count_anew() -> None:
    """Only failures in a row count, and only those of the same host."""
    breaker = Breaker(max_failures=2)

    for _ in range(5):
        breaker.failed("a")
        breaker.answered("a")
        breaker.failed("b" + str(_))

    assert breaker.admits("a")


def test_no_host_is_asked_by_more_than_its_places() -> None:
    """Threads wait for their turn; another host's places are free."""
    breaker, together, seen, most = Breaker(max_connections=3), Barrier(3), [0], [0]
    lock = Lock()

    def ask(_: int) -> None:
        with breaker.turn("a", 60) as mine:
            assert mine
            with lock:
                seen[0] += 1
                most[0] = max(most[0], seen[0])
            together.wait(60)  # three are inside at once, or this breaks
            with lock:
                seen[0] -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, range(30)))

    assert most[0] == 3


def test_who_waits_too_long_is_told() -> None:
    """A place that does not come free in time is no place; the host's count is as before."""
    breaker, inside, over = Breaker(max_connections=1), Event(), Event()

    def hold() -> None:
        with breaker.turn("a", 60):
            inside.set()
            over.wait(60)

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(hold)
        inside.wait(60)
        with breaker.turn("a", 0.01) as mine, breaker.turn("b", 0.01) as others:
            pass
        over.set()
        holder.result(60)
    with breaker.turn("a", 60) as again:
        pass

    assert (mine, others, again) == (False, True, True)


def test_millions_of_hosts_are_not_all_remembered() -> None:
    """The breaker's memory is bounded, however many hosts fail."""
    breaker = Breaker(max_failures=1)

    for number in range(20_000):
        breaker.failed(f"host-{number}")

    assert breaker.admits("host-0")
    assert not breaker.admits("host-19999")
