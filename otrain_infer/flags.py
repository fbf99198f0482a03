"""What may be the matter with a cutout."""

from enum import IntFlag


class CutoutFlag(IntFlag):
    """One bit for each thing that may be the matter with a cutout; 0 where nothing is.

    The first three make a cutout unusable: its score is NaN. With the others it is scored.
    """

    UNREADABLE = 1
    """Not a FITS file, truncated, corrupt, or not to be opened."""
    MISSING_PLANE = 2
    """A plane that the model needs is not in the file."""
    BLANK = 4
    """A plane without a finite pixel, or with the same value everywhere."""
    EDGE = 8
    """The header says that the cutout touches the edge of its image."""
    PADDED = 16
    """Smaller than the model's cutouts: padded."""
    CROPPED = 32
    """Larger than the model's cutouts: cropped about its centre."""
    NAN_PIXELS = 64
    """Some pixels of the cutout itself are not finite."""
    MISSING_KEYWORD = 128
    """A keyword of the cutout format is missing from the header."""


# A plain number: numpy takes long over each operation with an IntFlag.
UNUSABLE = int(CutoutFlag.UNREADABLE | CutoutFlag.MISSING_PLANE | CutoutFlag.BLANK)
