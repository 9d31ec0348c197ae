"""Solutions of notebook 01."""

import math


def place_of(column, start, rows, cols):
    frame, number = divmod(column - start, rows * cols)
    return frame, *divmod(number, cols)


def column_of(frame, row, col, start, rows, cols):
    return start + (frame * rows + row) * cols + col


def video_columns(frames, image_size, patch_size):
    side = math.ceil(image_size // patch_size / 2)
    return frames * side**2 + 1


def columns_of_frame(number, columns, frames):
    return columns[frames == number]
