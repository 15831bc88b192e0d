"""What image models require of the shape of a sample."""


def check_images(shape: tuple[int, ...], least: int = 1, channels: int | None = None) -> tuple[int, int, int]:
    """The shape (channels, height, width); ValueError if it is not an image, too small, or has other channels."""
    fits = len(shape) == 3 and min(shape[1:]) >= least and channels in (None, shape[0])
    if not fits:
        allowed = f"({channels or 'channels'}, height, width)" + f" from {least} x {least}" * (least > 1)
        raise ValueError(f"the data's samples have the shape {tuple(shape)}; allowed: images {allowed}")
    return shape[0], shape[1], shape[2]
