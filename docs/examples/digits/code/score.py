"""Scores one picture of a digit (64 grey values) with whichever model the deployment mounts."""

import json
import os
from pathlib import Path

import joblib
import numpy as np


def init():
    global model
    model = joblib.load(Path(os.environ["AZUREML_MODEL_DIR"]) / "model" / "model.joblib")


def run(raw_data):
    pixels = np.asarray(json.loads(raw_data)["pixels"], dtype=float).reshape(1, -1)
    chances = model.predict_proba(pixels)[0]
    return {"digit": int(chances.argmax())}
