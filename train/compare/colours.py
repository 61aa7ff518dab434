"""The colours of the curves."""

from colorsys import hls_to_rgb

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # of Okabe and Ito: safe for colour-blind
GOLDEN_RATIO = 0.618034  # steps of it around the circle of hues stay far apart, however many there are


def curve_colour(index: int) -> str:
    """Colour `#rrggbb` of the curve at `index`, dark enough for white paper: the palette, then hues far apart."""
    if index < len(COLOURS):
        return COLOURS[index]
    hue, lightness = index * GOLDEN_RATIO % 1, (0.42, 0.54, 0.48)[index % 3]
    return "#" + "".join(f"{round(255 * part):02x}" for part in hls_to_rgb(hue, lightness, 0.62))
