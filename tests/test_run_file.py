from pathlib import Path

import pytest

from codesign.architecture.space import variant_count
from codesign.architecture.space_file import space_of
from codesign.errors import InputError
from codesign.run_file import BudgetSection, RunFile, load_run_file
from codesign.search_file import SearchFile, load_search_file

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SEARCHES = {path.name for path in EXAMPLES.glob("search_*.toml")}
MINIMAL = 'name = "x"\n[model]\nsource = "net.onnx"\n[data]\ntrain = "digits"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "run.toml"
    file.write_text(MINIMAL)
    return file


def test_a_run_needs_a_name_a_model_and_data(path: Path) -> None:
    run = load_run_file(path)
    assert (run.name, run.target, run.seed, run.train) == ("x", "host-cpu", 0, None)
    assert run.search.budgets == (BudgetSection(average_bits=4.0),)
    assert run.quantization.weight_bits == (2, 3, 4, 5, 6, 8)
    assert run.measure.compilers == ("tvm", "onnxruntime")


@pytest.mark.parametrize("example", sorted(SEARCHES))
def test_examples_of_searches_are_valid(example: str) -> None:
    search = load_search_file(EXAMPLES / example)
    assert variant_count(space_of(search.space, EXAMPLES)) > 1
    assert SearchFile.model_validate(search.model_dump()) == search


@pytest.mark.parametrize("example", sorted({p.name for p in EXAMPLES.glob("*.toml")} - SEARCHES))
def test_examples_are_valid(example: str) -> None:
    run = load_run_file(EXAMPLES / example)
    assert run.name
    assert RunFile.model_validate(run.model_dump()) == run


def test_settings_change_values_add_tables_and_reach_into_lists(path: Path) -> None:
    path.write_text(MINIMAL + "[[search.budgets]]\naverage_bits = 3\n[[search.budgets]]\nlatency_s = 0.5\n")
    run = load_run_file(
        path,
        [
            "search.evaluations=7",
            "train.epochs=2",
            "search.budgets.1.latency_s=0.25",
            "data.also_test.rotated=rotated.npz",
            'target="host-cpu"',
            "model.source=path/with=sign.py:make",
            "quantization.weight_bits=[2, 8]",
            "quantization.bias_correction=false",
        ],
    )
    assert run.search.evaluations == 7
    assert run.train is not None
    assert run.train.epochs == 2
    assert run.search.budgets == (BudgetSection(average_bits=3), BudgetSection(latency_s=0.25))
    assert run.data.also_test == {"rotated": "rotated.npz"}
    assert run.model.source == "path/with=sign.py:make"
    assert run.quantization.weight_bits == (2, 8)
    assert run.quantization.bias_correction is False


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("evaluations", "got no 'key=value'"),
        ("=3", "got no 'key=value'"),
        ("name.first=3", "'name.first' does not lead to a value"),
        ("name.first.second=3", "'first' does not name a table"),
        ("search.budgets.3.latency_s=1", "search.budgets.3: |budgets: Input should be a valid"),
        ("search.evaluations=0", r"run.toml \(with --set\): search.evaluations: Input should be greater than 0, got 0"),
        ("quantization.weight_bits=[4, 4]", "names a width twice"),
        ("quantization.weight_bits=[]", "not supported"),
        ("quantization.activation_bits=7", "activation_bits 7 is not supported; choose from"),
        ("quantization.range_rule=mean", "quantization.range_rule: .*'min-max'"),
        ("quantization.percentile=50", "greater than 50"),
        ("search.sweep.points=1", "search.sweep.points: .*greater than or equal to 2"),
        ("search.sweep.metric=joules", "search.sweep.metric"),
        ("search.budgets=[{}]", "a budget must limit something, such as"),
        ("search.budgets=[{latency_s=-1}]", r"search.budgets.0.latency_s: .*greater than 0"),
        ("measure.compilers=[]", "at least 1"),
        ("name=.hidden", "name: String should match pattern"),
        ("name=a/b", "name: String should match pattern"),
        ("model.input_shape=[1,0]", r"model.input_shape.1: Input should be greater than 0"),
        ("train.epochs=2.5", "train.epochs"),
        ("data.preprocessing.std=[0.0]", "data.preprocessing.std.0: Input should be greater than 0"),
        ("data.preprocessing={mean=[1, 2], std=[1, 2, 3]}", "mean has 2 numbers and std has 3"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(path: Path, setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_run_file(path, [setting])


def test_sensitivity_by_traces_needs_traces(path: Path) -> None:
    with pytest.raises(InputError, match="needs hessian_samples above 0"):
        load_run_file(path, ["quantization.sensitivity=hawq-v2", "quantization.hessian_samples=0"])
