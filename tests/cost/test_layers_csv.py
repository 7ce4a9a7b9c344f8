from pathlib import Path

import pytest

from codesign.cost.layers_csv import read_layers
from codesign.errors import InputError

NETWORKS = "net,name,H,W,C,K,R,S,sh,sw,ph,pw,groups,OH,OW,fc\nA,conv1,227,227,3,96,11,11,4,4,0,0,1,55,55,0\n"
SCALESIM = "uid,net,layer,OH,OW,C,K,R,S,stride,df,arr,cycles\n7,A,conv1,55,55,3,96,11,11,4,os,16,93\n"


def _file(folder: Path, text: str) -> Path:
    path = folder / "layers.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", [NETWORKS, SCALESIM])
def test_both_published_headers_are_read(tmp_path: Path, text: str) -> None:
    (layer,) = read_layers(_file(tmp_path, text))
    assert (layer.name, layer.network) == ("A/conv1", "A")
    assert layer.geometry.input_size == (227, 227)
    assert layer.geometry.output_size == (55, 55)
    assert layer.geometry.stride == (4, 4)
    assert (layer.geometry.input_channels, layer.geometry.output_channels) == (3, 96)


def test_without_networks_a_layer_has_its_own_name(tmp_path: Path) -> None:
    text = "layer,OH,OW,C,K,R,S,stride,groups\none,4,4,8,8,3,3,1,8\n"
    (layer,) = read_layers(_file(tmp_path, text))
    assert (layer.name, layer.network, layer.geometry.groups) == ("one", "", 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no column C, K, R, S, OH, OW, layer \(or name\), stride \(or sh and sw\); it has none"),
        (SCALESIM.replace(",stride", ",step"), r"has no column stride \(or sh and sw\)"),
        (SCALESIM.replace("conv1,55", "conv1,-55"), r"line 2: OH: got '-55', allowed are whole numbers above 0"),
        (SCALESIM.replace("conv1,55", "conv1,0"), r"line 2: OH: got '0'"),
        (SCALESIM.replace("conv1,55", "conv1,5.5"), r"line 2: OH: got '5.5'"),
        (SCALESIM.replace("conv1,55", "conv1,1000001"), r"line 2: OH: got '1000001', .* above 0, at most 1000000;"),
        (SCALESIM.replace("conv1,55", "conv1," + "9" * 5000), r"line 2: OH: got '9999"),
        (SCALESIM + "8,A,conv2,5\n", r"line 3: S: got None|line 3: stride: got None"),
        (SCALESIM + "8,A,conv2,5,5,3,3,1,1,1,os,16,9,9\n", r"line 3: holds more values than there are columns"),
        (SCALESIM.replace("conv1", ""), r"line 2: the layer has no name"),
        (NETWORKS.replace(",groups,", ",group,"), r"line 1: column 'group' is unknown; did you mean 'groups'\?"),
        (NETWORKS.replace(",fc", ",dilation"), r"line 1: column 'dilation' is unknown; .*; rename or remove it"),
        (NETWORKS.replace(",fc", ",C"), r"line 1: column 'C' is there twice"),
        (NETWORKS.replace(",W,", ",pw,"), r"has no column W \(beside H\)"),
        (NETWORKS.replace(",1,55,55", ",2,55,55"), r"line 2: groups: got 2, which does not divide C = 3 and K = 96"),
        (NETWORKS.splitlines()[0] + "\n", r"holds no layers"),
    ],
)
def test_bad_files_are_refused_with_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_layers(_file(tmp_path, text))


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "layers.csv"
    path.write_text(NETWORKS, encoding="utf-8-sig")
    assert [layer.name for layer in read_layers(path)] == ["A/conv1"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.csv: cannot be read"):
        read_layers(tmp_path / "nowhere.csv")
