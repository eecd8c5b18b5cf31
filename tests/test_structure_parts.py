"""Parts of models, with zeros: what goes, what stays, and the shrunk part gives the same."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparse_compiler as sc

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore::FutureWarning")]


class GatedMlp(nn.Module):
    """down(silu(gate(x)) up(x))"""

    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(8, 12, bias=False), nn.Linear(8, 12, bias=False)
        self.down = nn.Linear(12, 8)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Excited(nn.Module):
    """A convolution whose channels a squeeze-and-excite gate weighs."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.squeeze, self.excite = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)

    def forward(self, x):
        y = self.first(x)
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.last(y * gate)


class Shuffled(nn.Module):
    """Four channels become one of twice the size."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.last(F.pixel_shuffle(self.first(x), 2))


class Chunked(nn.Module):
    """Chunks and splits that change places in a concatenation."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x):
        a, b = torch.relu(self.first(x)).chunk(2, -1)
        c, d = b.split([2, 4], -1)
        return self.last(torch.cat((d, a, c), -1))


class Experts(nn.Module):
    """A gate weighs every expert's result for every token."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(8, 4)
        self.ups = nn.ModuleList(nn.Linear(8, 16) for _ in range(4))
        self.downs = nn.ModuleList(nn.Linear(16, 8, bias=False) for _ in range(4))

    def forward(self, x):
        gates = self.router(x).softmax(-1)
        parts = zip(self.ups, self.downs, strict=True)
        return sum(
            gates[..., i : i + 1] * down(torch.relu(up(x))) for i, (up, down) in enumerate(parts)
        )


class Embedded(nn.Module):
    """Columns of an embedding that a linear layer reads."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(20, 12), nn.Linear(12, 4)

    def forward(self, ids):
        return self.last(torch.relu(self.table(ids)))


def shrunk(model, x):
    """The shrunk model, whose results are checked."""
    model = model.eval().requires_grad_(False)
    small = sc.shrink(model, (x,))
    assert torch.allclose(small(x), model(x), atol=1e-5)
    return small


def shape(small, path):
    return tuple(small.get_submodule(path).weight.shape)


def seeded(kind):
    torch.manual_seed(0)
    return kind()


def test_neurons_of_a_gated_mlp_go_where_either_branch_is_zero():
    model = seeded(GatedMlp)
    model.gate.weight.data[:3] = 0.0
    model.up.weight.data[6:8] = 0.0
    small = shrunk(model, torch.randn(5, 8))
    assert shape(small, "gate") == shape(small, "up") == (7, 8)
    assert shape(small, "down") == (8, 7)


def test_a_zero_channel_leaves_its_gate_too():
    model = seeded(Excited)
    model.first.weight.data[[1, 5]] = 0.0
    model.first.bias.data[[1, 5]] = 0.0
    model.squeeze.weight.data[4] = 0.0
    small = shrunk(model, torch.randn(2, 3, 6, 6))
    assert shape(small, "first")[0] == shape(small, "last")[1] == 6
    assert shape(small, "excite") == (6, 5, 1, 1)
    assert shape(small, "squeeze")[:2] == (5, 6)


def test_a_channel_that_a_gate_of_data_weighs_stays():
    """A constant channel times a gate that depends on data is no constant."""
    model = seeded(Excited)
    model.first.weight.data[[1, 5]] = 0.0  # its bias is left
    small = shrunk(model, torch.randn(2, 3, 6, 6))
    assert shape(small, "last")[1] == 8


def test_a_shuffled_channel_goes_with_its_four():
    model = seeded(Shuffled)
    model.first.weight.data[4:8] = 0.0
    model.first.bias.data[4:8] = 0.0
    small = shrunk(model, torch.randn(1, 3, 5, 5))
    assert shape(small, "last")[1] == 3
    assert shape(small, "first")[0] == 12


def test_chunks_and_splits_keep_their_channels_apart():
    model = seeded(Chunked)
    model.first.weight.data[[0, 6, 9]] = 0.0
    small = shrunk(model, torch.randn(5, 8))
    assert shape(small, "first") == (9, 8)
    assert shape(small, "last") == (4, 9)


def test_an_expert_of_zeros_goes():
    model = seeded(Experts)
    model.downs[1].weight.data.zero_()
    model.ups[2].weight.data[:4] = 0.0
    small = shrunk(model, torch.randn(5, 8))
    names = {name.rpartition(".")[0] for name in small.state_dict()}
    assert not {"ups.1", "downs.1"} & names
    assert shape(small, "ups.2") == (12, 8)
    assert shape(small, "router") == (4, 8)  # the statistics of its softmax need every gate


def test_columns_of_an_embedding_go():
    model = seeded(Embedded)
    model.table.weight.data[:, [2, 7]] = 0.0
    model.table.weight.data[:, 9] = 0.5  # relu of it goes into the bias
    small = shrunk(model, torch.randint(0, 20, (2, 5)))
    assert shape(small, "table") == (20, 9)
    assert shape(small, "last") == (4, 9)
