"""Colours: a distinct one for each of hundreds of curves, none too light for white paper."""

from train.compare.colours import COLOURS, curve_colour


def test_hundreds_of_curves_have_colours_of_their_own() -> None:
    colours = [curve_colour(index) for index in range(400)]
    assert len(set(colours)) == 400
    assert colours[: len(COLOURS)] == list(COLOURS)
    for colour in colours:
        red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.85
