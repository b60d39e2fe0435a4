"""Trains the three models of this example into ./models: blue, green and a candidate. Takes a few seconds.

Run it with any Python that has scikit-learn: python train.py [--out DIR]
"""

import argparse
import json
from pathlib import Path

import joblib
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

MODELS = {
    "blue": make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, C=0.01)),
    "green": RandomForestClassifier(n_estimators=40, random_state=0),
    "candidate": ExtraTreesClassifier(n_estimators=60, random_state=0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models")
    out = parser.parse_args().out
    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.25, random_state=0)
    for name, model in MODELS.items():
        model.fit(train_x, train_y)
        folder = out / name / "model"
        folder.mkdir(parents=True, exist_ok=True)
        joblib.dump(model, folder / "model.joblib")
        print(json.dumps({"model": name, "accuracy": round(float(model.score(test_x, test_y)), 4)}))
    samples = [{"pixels": [float(value) for value in image]} for image in test_x[:64]]
    (out / "samples.json").write_text(json.dumps(samples))


if __name__ == "__main__":
    main()
