"""Solutions of notebook 01."""


def place_of(column, start, rows, cols):
    frame, number = divmod(column - start, rows * cols)
    return frame, *divmod(number, cols)


def columns_of_frame(number, columns, frames):
    return columns[frames == number]
