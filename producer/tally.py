"""The tally: what a coordinator counts of its own doing, for those who watch."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Counts since the coordinator began, and what it saw at its last tick."""

    sent: int = 0  # messages
    resent: int = 0  # shards that nobody held and nobody published
    errors: int = 0  # attempts that failed for cause
    unfit: int = 0  # attempts of workers that could not do the job
    leased: int = 0  # shards in work
    left: dict[str, int] = field(default_factory=dict)  # shards that are not published, by queue, at the last listing
    depths: dict[str, int] = field(default_factory=dict)  # messages that wait, by queue
    ages_s: dict[str, float] = field(default_factory=dict)  # of the oldest message that nobody has taken, by queue
    published_at: float = 0.0  # by the coordinator's clock: when a shard was last published, or it began
