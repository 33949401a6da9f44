"""A training that knows nothing of stantune: plain Python, a state folder, and JSON lines; see shell_command.py.

    python spirals.py --lr 0.1 --momentum 0.9 --hidden 16 --from 0 --until 9 --seed 1 --state somewhere

A small network learns which of two spirals a point belongs to.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path

TRAIN, VALIDATION = 120, 200


def spirals(count: int, seed: int) -> list[tuple[float, float, int]]:
    """Return points of two spirals, with the number of theirs."""
    choose = random.Random(seed)
    points = []
    for place in range(count):
        angle = 1 + 2 * math.pi * choose.random()
        turn = angle + math.pi * (place % 2)
        noise = choose.gauss(0, 0.15), choose.gauss(0, 0.15)
        points.append((angle * math.cos(turn) / 4 + noise[0], angle * math.sin(turn) / 4 + noise[1], place % 2))
    return points


class Network:
    """Two inputs, one hidden layer with tanh, one score; plain lists of numbers."""

    def __init__(self, hidden: int, seed: int) -> None:
        choose = random.Random(seed)
        self.weights = [[choose.gauss(0, 1), choose.gauss(0, 1), choose.gauss(0, 1), 0.0] for _ in range(hidden)]
        self.velocity = [[0.0] * 4 for _ in range(hidden)]

    def score(self, x: float, y: float) -> float:
        return sum(out * math.tanh(a * x + b * y + c) for a, b, c, out in self.weights)

    def learn(self, x: float, y: float, label: int, lr: float, momentum: float) -> None:
        score = self.score(x, y)
        wrong = 1 / (1 + math.exp(-max(min(score, 500), -500))) - label
        for row, speed in zip(self.weights, self.velocity, strict=True):
            a, b, c, out = row
            hidden = math.tanh(a * x + b * y + c)
            back = wrong * out * (1 - hidden * hidden)
            for place, gradient in enumerate((back * x, back * y, back, wrong * hidden)):
                speed[place] = momentum * speed[place] - lr * gradient
                row[place] += speed[place]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--lr", "--momentum"):
        parser.add_argument(name, type=float, required=True)
    for name in ("--hidden", "--from", "--until", "--seed"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--state", type=Path, required=True)
    asked = vars(parser.parse_args())

    network = Network(asked["hidden"], asked["seed"])
    file = asked["state"] / "network.json"
    if asked["from"]:
        vars(network).update(json.loads(file.read_text()))
    points = spirals(TRAIN, 0)
    for epoch in range(asked["from"], asked["until"]):
        # In an order that depends on the seed and the epoch alone: whoever is cut in two goes on as if he were not.
        order = random.Random(asked["seed"] * 1_000 + epoch).sample(points, TRAIN)
        for x, y, label in order:
            network.learn(x, y, label, asked["lr"], asked["momentum"])
        print(json.dumps({"resource": epoch + 1}))
    file.write_text(json.dumps(vars(network)))
    scores = [(network.score(x, y), label) for x, y, label in spirals(VALIDATION, 1)]
    wrong = sum((score > 0) != label for score, label in scores) / VALIDATION
    print(json.dumps({"error": 100 * wrong, "largest": max(abs(score) for score, _ in scores)}))


if __name__ == "__main__":
    main()
