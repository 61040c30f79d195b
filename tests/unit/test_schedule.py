"""Schedules of faults: replayed by their seed, and with something of everything."""

from chaos.schedule import KINDS, Group, Kind, make_schedule, share_out


def test_a_seed_replays_its_schedule() -> None:
    """Order, kinds, victims and pauses are the same; another seed makes another schedule."""
    counts = {Group.KILLS: 20, Group.PAUSES: 3, Group.WIPES: 1}

    one, again, other = (make_schedule(counts, seed) for seed in (5, 5, 6))

    assert one == again
    assert one != other
    assert len(one) == 24


def test_every_kind_of_a_group_has_its_turn() -> None:
    """As many faults as a group has kinds do each of them."""
    counts = {group: len(kinds) for group, kinds in KINDS.items()}

    assert {strike.kind for strike in make_schedule(counts, 1)} == set(Kind)


def test_faults_are_shared_out_among_the_groups() -> None:
    """In all as many as were asked for, none of those left out, and something of all others."""
    shared = share_out(24, without=frozenset({Group.RESTARTS}))

    assert sum(shared.values()) == 24
    assert shared[Group.RESTARTS] == 0
    assert all(shared[group] for group in Group if group is not Group.RESTARTS)
