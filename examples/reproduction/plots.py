"""The two pictures: three seeds beside what was published, and the dropouts of the article's Figure 2."""

from chart import BLUE, INK, RAMP, VERMILION, Panel, Picture

NATS = "nats per token (logarithmic)"


def points(series):
    return sorted(series.items())


def epoch_ticks(last):
    """1 and the multiples of five, where the learning rate is halved after."""
    return [1] + [epoch for epoch in range(5, last + 1, 5 if last > 10 else 1)] if last > 5 else list(range(1, last + 1))


def whole(curves):
    """A range that holds all losses, with some room."""
    losses = [loss for curve in curves for part in (curve.train, curve.validation) for loss in part.values()]
    return min(losses) * 0.93, max(losses) * 1.05


def seeds(curves, means, pytorch, published, within):
    """SVG of train and validation loss by epoch: thin lines are seeds, thick ones their mean. `means` has the parts
    "train" and "validation" as epoch -> loss; `pytorch` is validation by epoch; `published` a level a part; `within`
    is how far off validation may be by epoch."""
    last = max(epoch for curve in curves for epoch in curve.validation)
    last = max(last, *pytorch)
    picture = Picture(
        940,
        560,
        "BachBot's best model, trained again",
        "3 x 256, embedding 32, T = 128, dropout 0.3, batch norm; thin lines are seeds, thick ones their mean",
        "Training and validation loss by epoch of several seeds and their mean, beside the published losses and the "
        "validation losses of the same model in PyTorch.",
    )
    low, high = whole(curves)
    shown = [*published.values(), *pytorch.values()]
    panel = Panel(picture, (66, 100, 710, 500), (1, last), (min(low, min(shown) * 0.93), max(high, *shown)), log=True)
    panel.axes(epoch_ticks(last), "epoch", f"{NATS}; bars: \u00b1{max(within.values())} around PyTorch")
    colours = {"train": VERMILION, "validation": BLUE}
    names = {"train": "training", "validation": "validation"}
    for part, level in published.items():
        panel.level(f"published: {names[part]} {level}", level, colours[part])
        panel.end_label(f"published, {names[part]} {level:.3f}", level, colours[part])
    for part, colour in colours.items():
        for curve in curves:
            panel.line(f"{names[part]}, seed {curve.config['seed']}", points(curve.part(part)), colour, 1.0, opacity=0.5)
        if means[part]:
            panel.line(f"{names[part]}, mean of {len(curves)} seeds", points(means[part]), colour, 2.6)
            end = points(means[part])[-1][1]
            panel.end_label(f"{names[part]}, mean {end:.3f}", end, colour, "bold")
    for epoch, loss in points(pytorch):
        name = f"PyTorch, validation after {epoch} epochs: {loss}"
        panel.diamond(name, (epoch, loss), within=within.get(epoch))
    end = pytorch[max(pytorch)]
    panel.end_label(f"\u25c7 PyTorch, validation {end:.3f}", end, INK)
    panel.place_labels()
    return picture.svg()


def dropout(curves):
    """SVG of the curves by dropout (train dashed, validation solid), and of where they ended by dropout."""
    last = max(epoch for curve in curves for epoch in curve.validation)
    shared = min(max(curve.validation) for curve in curves)
    picture = Picture(
        1060,
        560,
        "What dropout does",
        "3 x 256, embedding 32, T = 128, batch norm; validation solid, training dashed",
        "Training and validation loss by epoch for each dropout, and the losses after the last epoch by dropout.",
    )
    left = Panel(picture, (66, 100, 530, 500), (1, max(last, 2)), whole(curves), log=True)
    left.axes(epoch_ticks(last), "epoch", NATS)
    colours = [RAMP[round(i * (len(RAMP) - 1) / max(len(curves) - 1, 1))] for i in range(len(curves))]
    for curve, colour in zip(curves, colours):
        rate = curve.config["dropout"]
        left.line(f"training, dropout {rate}", points(curve.train), colour, 1.6, dash="5 4")
        left.line(f"validation, dropout {rate}", points(curve.validation), colour, 2.2)
        left.end_label(f"{rate} validation", curve.validation[max(curve.validation)], colour, "bold")
        left.end_label(f"{rate} training", curve.train[max(curve.train)], colour)
    left.place_labels()

    rates = [curve.config["dropout"] for curve in curves]
    wide = max(rates) - min(rates) or 0.1
    values = [curve.part(part)[shared] for curve in curves for part in ("train", "validation")]
    room = 0.08 * (max(values) - min(values) or 0.1)
    right = Panel(
        picture,
        (720, 100, 960, 500),
        (min(rates) - 0.08 * wide, max(rates) + 0.08 * wide),
        (min(values) - room, max(values) + room),
    )
    right.axes(rates, "dropout", f"nats per token after {shared} epochs")
    for part, name, dash in (("train", "training", "5 4"), ("validation", "validation", None)):
        series = [(curve.config["dropout"], curve.part(part)[shared]) for curve in curves]
        right.line(name, series, INK, 1.4, dash=dash)
        for (rate, loss), colour in zip(series, colours):
            right.dot(f"{name}, dropout {rate}: {loss:.4f}", (rate, loss), colour, 5.0, hollow=part == "train")
        right.end_label(name, series[-1][1], INK, "bold" if part == "validation" else "normal")
    right.place_labels()
    return picture.svg()
