import pytest

from layerfit.files.sizes import show, show_both

GIB = 2**30


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 * 2**20, "3.0 MiB"),
        (GIB - 1, "1.0 GiB"),
        (int(2.5 * GIB), "2.5 GiB"),
        (2**61, "2048.0 PiB"),
    ],
)
def test_a_size_is_shown_in_a_unit_in_which_it_is_seen(number, text):
    assert show(number) == text


@pytest.mark.parametrize(
    ("needed", "free"), [(9, 10), (GIB + 1, GIB), (16000, 100), (2**40 + 2**20, 2**40), (2**59 + 1, 2**59)]
)
def test_two_sizes_are_told_apart(needed, free):
    one, other = show_both(needed, free)
    assert one != other


def test_equal_sizes_are_shown_alike():
    assert show_both(GIB, GIB) == ("1.0 GiB", "1.0 GiB")
