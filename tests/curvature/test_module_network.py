import pytest
import torch
from torch import Tensor, nn

from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.tapped_network import Convolution
from codesign.errors import InputError


def _module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).eval()


def test_computes_what_the_module_computes_and_leaves_it_alone() -> None:
    module = _module()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    network = ModuleNetwork(module, torch.float64)
    inputs = torch.randn(4, 1, 4, 4)
    assert torch.allclose(network(inputs.double()).float(), module(inputs), atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in module.parameters())
    assert list(network.geometries) == ["0", "3"]


def test_taps_see_inputs_and_replace_outputs() -> None:
    network = ModuleNetwork(_module(), torch.float64)
    inputs = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    seen: dict[str, torch.Size] = {}

    def zero(name: str, entering: Tensor, leaving: Tensor) -> Tensor:
        seen[name] = entering.shape
        return torch.zeros_like(leaving) if name == "3" else leaving

    assert not network(inputs, zero).any()
    assert seen == {"0": torch.Size((4, 1, 4, 4)), "3": torch.Size((4, 8))}
    assert network(inputs).any()  # the taps are gone


def test_weights_can_be_exchanged() -> None:
    network = ModuleNetwork(_module(), torch.float64)
    inputs = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    weight = torch.zeros(3, 8, dtype=torch.float64, requires_grad=True)
    logits = network.with_weights(inputs, {"3.weight": weight})
    assert torch.allclose(logits, network.weights["3.bias"].expand(4, 3))
    assert logits.requires_grad


def test_a_shared_parameter_has_one_canonical_name() -> None:
    first, tied = nn.Linear(3, 3), nn.Linear(3, 3)
    tied.weight = first.weight
    module = _module().extend([first, tied])
    network = ModuleNetwork(module.eval(), torch.float64)
    assert network.canonical_name("5.weight") == "4.weight"
    assert network.canonical_name("4.weight") == "4.weight"
    assert network.canonical_name("nothing") is None
    assert network.canonical_name("") is None


def test_train_mode_is_refused() -> None:
    module = _module()
    module[1].train()
    with pytest.raises(InputError, match=r"1 is in train mode.*call eval\(\)"):
        ModuleNetwork(module, torch.float32)


def test_taps_see_what_a_convolution_is_given_and_not_its_padding() -> None:
    layer = nn.Conv2d(1, 2, 3, padding="same", padding_mode="reflect").eval()
    network = ModuleNetwork(layer, torch.float32)
    inputs, seen = torch.randn(2, 1, 4, 5), list[Tensor]()

    def remember(_: str, entering: Tensor, leaving: Tensor) -> Tensor:
        seen.append(entering)
        return leaving

    network(inputs, remember)
    assert seen[0] is inputs
    assert network.geometries[""] == Convolution(18, (3, 3), padding=(1, 1), padding_mode="reflect")


def test_other_results_than_a_tensor_are_refused() -> None:
    network = ModuleNetwork(nn.LSTM(3, 4).eval(), torch.float32)
    with pytest.raises(InputError, match="returns tuple"):
        network(torch.randn(2, 5, 3))
