"""Options as a run file gives them."""

import pytest

from codesign.config import validate
from codesign.errors import InputError
from codesign.training.options import Preprocessing, TrainingOptions


def test_arrays_and_integers_of_toml_are_taken() -> None:
    values = {"scale": 1, "mean": [0.5, 0.5, 0.5], "std": [0.25], "layout": "NCHW"}
    assert validate(Preprocessing, values, "r.toml").mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": 0.0}, "r.toml: scale"),
        ({"scale": float("nan")}, "r.toml: scale"),
        ({"mean": [float("nan")]}, "r.toml: mean"),
        ({"std": [0.0]}, "r.toml: std"),
        ({"mean": []}, "r.toml: mean"),
        ({"mean": [0.1, 0.2], "std": [1.0, 1.0, 1.0]}, "mean has 2 numbers and std has 3"),
        ({"layout": "nhwc"}, "r.toml: layout"),
        ({"means": [0.1]}, "did you mean 'mean'"),
    ],
)
def test_wrong_preprocessing_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate(Preprocessing, values, "r.toml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "epochs: missing"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"epochs": 1, "learning_rate": float("inf")}, "learning_rate"),
        ({"epochs": 1, "momentum": 1.0}, "momentum"),
        ({"epochs": 2, "warmup_epochs": 2.0}, "warmup_epochs is 2.0 of 2 epochs"),
        ({"epochs": 1, "optimizer": "adam"}, "optimizer"),
    ],
)
def test_wrong_training_options_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate(TrainingOptions, values, "r.toml")
