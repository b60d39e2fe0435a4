"""A linear price model: the smallest thing that loads a model from disk and answers from it."""

import json
import os
from pathlib import Path


def init():
    global weights
    weights = json.loads((Path(os.environ["AZUREML_MODEL_DIR"]) / "model" / "weights.json").read_text())


def run(raw_data):
    sizes = json.loads(raw_data)["square_metres"]
    return {"model": weights["name"], "prices": [weights["base"] + weights["per_square_metre"] * size for size in sizes]}
