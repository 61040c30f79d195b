"""Windows: how long sounds and films are cut."""

import numpy as np

from workers.content import Film, Sound
from workers.windows import cut_film, cut_sound

RATE = 1000


def sound(seconds: float) -> Sound:
    samples = np.arange(round(seconds * RATE), dtype=np.float32)
    return Sound(samples=samples, rate=RATE, seconds_in=seconds)


def film(frames: int) -> Film:
    pixels = np.arange(frames, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    times = tuple(float(n) for n in range(frames))
    return Film(
        frames=pixels, times_s=times, fps=1.0, start_s=0.0, end_s=float(frames), frames_in=frames, seconds_in=frames
    )


def test_a_short_sound_is_one_window() -> None:
    """What fits the model's window is not cut."""
    [(windows, start, end)] = cut_sound(sound(0.7), segment_s=0, window_s=1.0)

    assert [len(w.samples) for w in windows] == [700]
    assert (start, end) == (None, None)


def test_a_long_sound_is_cut_into_equal_windows_that_leave_nothing_out() -> None:
    """2.5 s in windows of at most 1 s are three of equal length, not two and a stub."""
    [(windows, _, _)] = cut_sound(sound(2.5), segment_s=0, window_s=1.0)

    assert [len(w.samples) for w in windows] == [833, 833, 834]
    assert np.concatenate([w.samples for w in windows]).tolist() == sound(2.5).samples.tolist()


def test_segments_begin_at_multiples_of_their_length() -> None:
    """The last one is shorter."""
    cuts = cut_sound(sound(2.5), segment_s=1.0, window_s=0)

    assert [(start, end) for _, start, end in cuts] == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.5)]


def test_a_stub_of_a_segment_is_left_out_where_there_are_others() -> None:
    """50 ms of a segment of 1 s say nothing; alone they are all there is."""
    cuts = cut_sound(sound(2.05), segment_s=1.0, window_s=0)
    alone = cut_sound(sound(0.05), segment_s=1.0, window_s=0)

    assert [end for _, _, end in cuts] == [1.0, 2.0]
    assert [end for _, _, end in alone] == [0.05]


def test_a_segment_longer_than_the_models_window_has_several_windows() -> None:
    """They are averaged into the segment's one vector."""
    cuts = cut_sound(sound(4.0), segment_s=2.0, window_s=1.0)

    assert [[len(w.samples) for w in windows] for windows, _, _ in cuts] == [[1000, 1000], [1000, 1000]]


def test_a_film_with_too_few_frames_repeats_its_own_in_order() -> None:
    """A model that takes eight frames gets eight of a film of three."""
    cut = cut_film(film(3), 8)

    assert cut.frames[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert cut.times_s == (0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0)
