"""The losses of a run as a picture."""

import io
import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recurra.checkpoint import write_atomically
from recurra.learn.log import read_log


def plot_losses(log: Path, picture: Path) -> None:
    """Draw training and validation loss, in bits a token, against the step.

    Raises:
        OSError: the picture cannot be written.
    """
    rows = read_log(log)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for column, label, style in (("train_loss", "training", "-"), ("validation_loss", "validation", "o-")):
        points = [(row["step"], row[column] / math.log(2)) for row in rows if column in row]
        if points:
            axes.plot(*zip(*points, strict=True), style, markersize=4, linewidth=1.2, label=label)
    axes.set_xlabel("updates of the weights")
    axes.set_ylabel("loss, bits a token")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    write_atomically(picture, image.getvalue())
