"""A search of a training loop of one's own: a network on a table of measurements, compared by F1.

    python examples/table.py
    stantune search examples/table.py --workers 2

All that a search needs is below: a function that trains, and a few lines above it that say which parameters it has and
what it is compared by. The table is a real one that comes with scikit-learn: 569 biopsies, 30 measurements of each,
benign or malignant. Copy the file, and put your own loop in place of this one.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stantune as st

EPOCHS = 27
TEST, VALIDATION = 114, 114


def splits() -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """Return the rows to train on, to compare settings by, and to test the best one with."""
    table = load_breast_cancer()
    features = torch.tensor(table.data, dtype=torch.float32)
    # Malignant is what is looked for.
    labels = 1 - torch.tensor(table.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, validation, train = order.split([TEST, VALIDATION, len(labels) - TEST - VALIDATION])
    mean, spread = features[train].mean(0), features[train].std(0)
    features = (features - mean) / spread
    train, validation, test = (TensorDataset(features[rows], labels[rows]) for rows in (train, validation, test))
    return train, validation, test


def network(width: int, layers: int, dropout: float) -> nn.Module:
    """Return a new network: rows (B, 30) to scores (B, 2)."""
    parts: list[nn.Module] = []
    for inputs in [30, *[width] * (layers - 1)]:
        parts += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*parts, nn.Linear(width, 2))


def f1(model: nn.Module, rows: TensorDataset) -> float:
    """Return the F1 of a model's guesses."""
    features, labels = rows.tensors
    model.eval()
    with torch.inference_mode():
        guesses: Tensor = model(features).argmax(1)
    model.train()
    return float(f1_score(labels, guesses, zero_division=0.0))


@st.objective(
    space=st.Space(
        {
            "lr": st.Float(1e-5, 1, log=True),
            "weight_decay": st.Float(1e-6, 1, log=True),
            "batch": st.Categorical((16, 32, 64, 128)),
            "width": st.Integer(4, 128, log=True),
            "layers": st.Integer(1, 3),
            "dropout": st.Float(0, 0.7),
        }
    ),
    maximize="f1",
    max_resource=EPOCHS,
)
def train(run: st.Run) -> dict[str, float]:
    """Train one setting for as long as this segment of its training is."""
    rows, validation, test = splits()
    model = network(run.params["width"], run.params["layers"], run.params["dropout"])
    optimizer = torch.optim.AdamW(model.parameters(), run.params["lr"], weight_decay=run.params["weight_decay"])
    # Of the whole training, however it is cut into segments.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    run.keep(model=model, optimizer=optimizer, schedule=schedule)
    loader = DataLoader(rows, batch_size=run.params["batch"], shuffle=True)
    for _ in run.steps():
        for features, labels in loader:
            loss = nn.functional.cross_entropy(model(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.loss(loss)
        schedule.step()
    metrics = {"f1": f1(model, validation)}
    if run.final:
        metrics["test f1"] = f1(model, test)
    return metrics


if __name__ == "__main__":
    result = st.tune(train, out="runs/table", workers=2, seed=0, say=print)
    print(result.summary.best)
    print(result.summary.final)
