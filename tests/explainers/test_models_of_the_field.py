"""Models that write into their input, return containers, have no mode, or run in many threads.

Each test states the kind of fault and holds siblings of it, for all four classes where they differ.
"""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict, namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from xai_patchshap import InteractionShap, OwenBPT, PatchKernelShap, PatchMasker, PatchShapError
from xai_patchshap.models.outputs import as_scores

KINDS = [PatchKernelShap, OwenBPT, InteractionShap]
SIDE = 8
MASK = (torch.arange(SIDE) // 4)[:, None] * 2 + torch.arange(SIDE) // 4  # ids 0..3
X = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """Three scores; ``write`` says how the input is normalised."""

    def __init__(self, write=None, convolution=False):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.stem = nn.Conv2d(3, 3, 1) if convolution else nn.Identity()
        self.head = nn.Linear(3 * SIDE * SIDE, 3)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) / 4
        self.write = write

    def forward(self, x, *extra):
        x = (x - 0.5) / 0.25 if self.write is None else self.write(x)
        for e in extra:
            x = x + e.mul_(2).mean()
        return self.head(torch.tanh(self.stem(x).flatten(1)))


def subtract(x):
    return x.sub_(0.5).div_(0.25)


def index(x):
    x[:, :, 0] = x[:, :, 0] + 0.0
    x[...] = (x - 0.5) / 0.25
    return x


def data(x):
    x.data -= 0.5
    x.data /= 0.25
    return x


def out(x):
    torch.sub(x, 0.5, out=x)
    return torch.div(x, 0.25, out=x)


def memory(x):
    x.numpy()[...] = (x.numpy() - 0.5) / 0.25
    return x


WRITERS = [subtract, index, data, out, memory]


def attributed(kind, model, x, **options):
    explainer = kind(model)
    options = {"n_samples": 16, "perturbations_per_eval": 4, "feature_mask": MASK, **options}
    return explainer.attribute(x, target=1, **options)


def called(kind, model, x):
    return kind(model, PatchMasker((2, 2), 0.25))(x, max_evals=16, silent=True).values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("write", WRITERS)
def test_a_model_that_writes_into_its_input_gets_a_copy(kind, write):
    clean, writing = Net(), Net(write)
    for x in (X, X.to(memory_format=torch.channels_last), X.flip(0).clone()):
        given = x.clone(memory_format=torch.preserve_format)
        torch.testing.assert_close(attributed(kind, writing, given), attributed(kind, clean, x))
        np.testing.assert_allclose(called(kind, writing, given), called(kind, clean, x), atol=1e-6)
        assert torch.equal(given, x)


@pytest.mark.parametrize("as_function", [True, False])
def test_functions_get_copies_of_tensors_and_arrays(as_function):
    net, clean = Net(subtract), Net()
    model = (lambda x: net(x)) if as_function else net
    given = X.double().clone()
    net.double(), clean.double()
    values = attributed(PatchKernelShap, model, given)
    torch.testing.assert_close(values, attributed(PatchKernelShap, clean, X.double()))
    assert torch.equal(given, X.double())

    def of_arrays(x):
        x -= 0.5
        x /= 0.25
        return x.mean((1, 2))

    images = X.permute(0, 2, 3, 1).numpy().copy()
    got = called(PatchKernelShap, of_arrays, images)
    want = called(PatchKernelShap, lambda x: ((x - 0.5) / 0.25).mean((1, 2)), images.copy())
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert np.array_equal(images, X.permute(0, 2, 3, 1).numpy())


def test_a_batch_that_is_tried_again_is_a_fresh_copy():
    class Viewing(Net):
        """Wants contiguous memory, once its input is written to."""

        def forward(self, x):
            x = subtract(x)
            return self.head(torch.tanh(self.stem(x)).view(len(x), -1))

    torch.manual_seed(0)
    viewing = Viewing(convolution=True)
    clean = Net(convolution=True)
    clean.load_state_dict(viewing.state_dict())

    class Clean(Viewing):
        def forward(self, x):
            return self.head(torch.tanh(self.stem((x - 0.5) / 0.25)).flatten(1))

    clean = Clean(convolution=True)
    clean.load_state_dict(viewing.state_dict())
    given = X.clone()
    torch.testing.assert_close(
        attributed(PatchKernelShap, viewing, given), attributed(PatchKernelShap, clean, X)
    )
    assert torch.equal(given, X)


def test_further_arguments_baselines_and_the_delta_stay_as_they_are():
    net, extra, baseline = Net(subtract), torch.ones(2, 3, 1, 1), torch.full_like(X, 0.1)
    x, kept = X.clone(), (extra.clone(), baseline.clone())
    explainer = PatchKernelShap(net)
    options = {"target": 1, "additional_forward_args": (extra,), "feature_mask": MASK}
    values, delta = explainer.attribute(
        x, baseline, n_samples=16, return_convergence_delta=True, **options
    )
    again = explainer.compute_convergence_delta(values, baseline, x, **options)
    torch.testing.assert_close(again, torch.zeros(2, dtype=torch.double), atol=1e-4, rtol=0)
    torch.testing.assert_close(delta, torch.zeros(2), atol=1e-5, rtol=0)
    assert torch.equal(x, X)
    assert torch.equal(extra, kept[0])
    assert torch.equal(baseline, kept[1])


def test_players_of_a_function_that_writes_into_its_image():
    def cut(image):
        image *= 0
        return MASK.numpy()

    x = X.clone()
    model = Net()
    want = called(PatchKernelShap, model, x)
    explainer = PatchKernelShap(model, PatchMasker(cut, 0.25))
    explanation = explainer(x, max_evals=16, silent=True)
    np.testing.assert_allclose(explanation.values, want, atol=1e-6)
    np.testing.assert_allclose(explanation.data, X.permute(0, 2, 3, 1))
    assert torch.equal(x, X)


def test_a_model_may_reuse_the_memory_of_its_output():
    net, memory = Net().double(), torch.zeros(100, 3, dtype=torch.double)

    def reusing(x):
        memory[: len(x)] = net(x)
        return memory[: len(x)]

    x = X.double()
    torch.testing.assert_close(
        attributed(PatchKernelShap, reusing, x), attributed(PatchKernelShap, net, x)
    )


# ----- outputs ------------------------------------------------------------------------------

Named = namedtuple("Named", "features logits")
ROWS = torch.ones(2, 5)


class Output(OrderedDict):
    """As transformers' ModelOutput: entries are attributes too."""

    logits = ROWS


CONTAINERS = {
    "tuple": (lambda: (ROWS, None), "lambda x: model(x)[0]"),
    "tuple of one": (lambda: (ROWS,), "lambda x: model(x)[0]"),
    "namedtuple": (lambda: Named(torch.ones(2, 3, 4), ROWS), "lambda x: model(x).logits"),
    "dict": (lambda: {"aux": torch.ones(2, 3, 4), "out": ROWS}, 'lambda x: model(x)["out"]'),
    "dict by number": (lambda: {7: ROWS}, "lambda x: model(x)[7]"),
    "empty dict": (lambda: {}, "returns one row of scores"),
    "model output": (lambda: Output(logits=ROWS), "lambda x: model(x).logits"),
    "heads": (lambda: [torch.ones(2), torch.ones(2)], r"torch.stack(list(model(x)), 1)"),
    "heads of rows": (lambda: [ROWS, ROWS], "lambda x: model(x)[0]"),
    "arrays as heads": (lambda: [np.ones(2), np.ones(2)], "torch.stack"),
    "detections": (lambda: [{"boxes": ROWS, "scores": torch.ones(2)}] * 2, 'found["scores"]'),
    "sparse": (lambda: ROWS.to_sparse(), "to_dense()"),
    "complex": (lambda: ROWS + 0j, "abs()"),
    "complex array": (lambda: np.ones((2, 5)) + 0j, "abs(model(x))"),
    "quantised": (lambda: torch.quantize_per_tensor(ROWS, 0.1, 0, torch.quint8), "dequantize()"),
    "nested": (
        lambda: torch.nested.nested_tensor([ROWS[0], ROWS[0, :3]]),
        "to_padded_tensor",
    ),
    "meta": (lambda: torch.ones(2, 5, device="meta"), "meta device"),
    "None": (lambda: None, "return statement"),
    "text": (lambda: "cat", "got the text 'cat'"),
    "texts": (lambda: ["cat", "dog"], "got a list of 2"),
    "array of text": (lambda: np.array(["cat", "dog"]), "dtype <U3"),
    "objects": (lambda: np.array([None, 1]), "dtype object"),
    "varying widths": (lambda: [[1.0, 2.0], [3.0]], "rows of different lengths"),
    "masked array": (lambda: np.ma.masked_array(np.ones((2, 2)), np.eye(2)), "filled(0)"),
    "iterator": (lambda: iter([1, 2]), "object of type list_iterator"),
    "object": (lambda: type("Result", (), {"scores": ROWS})(), "lambda x: model(x).scores"),
}


@pytest.mark.filterwarnings("ignore")  # torch says of some kinds of tensors that they will go
@pytest.mark.parametrize("name", CONTAINERS)
def test_outputs_that_are_no_tensor_are_refused_with_the_line_that_wraps_the_model(name):
    make, line = CONTAINERS[name]
    output = make()
    masked = PatchKernelShap(lambda _: output, PatchMasker((2, 2)))
    for call in (
        lambda: masked(X, max_evals=16, silent=True),
        lambda: masked.attribute(X, target=1, n_samples=16),
        lambda: masked.attribute(X, n_samples=16),
    ):
        with pytest.raises(PatchShapError, match="model: got") as caught:
            call()
        assert line in str(caught.value)


def test_numbers_in_every_form_are_scores():
    for output in ([1.0, 2.0], (1, 2), np.float32([1, 2]), [torch.tensor(1.0), np.float64(2)]):
        assert as_scores(output).tolist() == [1.0, 2.0]
    assert as_scores(np.arange(4, dtype=">f4")[::-1]).tolist() == [3.0, 2.0, 1.0, 0.0]
    assert as_scores(np.longdouble(0.5)).tolist() == 0.5
    assert as_scores([[True, False]]).tolist() == [[1.0, 0.0]]
    assert as_scores(ROWS) is ROWS


def test_heads_are_never_read_as_images():
    net = Net()

    def heads(x):
        return [net(x)[:, 0], net(x)[:, 1]]

    for kind in KINDS:
        with pytest.raises(PatchShapError, match="a list of 2 tensors or arrays of shape"):
            kind(heads, PatchMasker((2, 2)))(X, max_evals=16, batch_size=2, silent=True)


def test_scores_of_maps_and_volumes_say_what_to_do():
    seg = nn.Conv2d(3, 5, 3, padding=1)
    with pytest.raises(PatchShapError, match=r"target=\(class, row, column\).*mean\(\(2, 3\)\)"):
        PatchKernelShap(seg).attribute(X, target=2, n_samples=16)
    with pytest.raises(PatchShapError, match=r"Score each class.*mean\(\(2, 3\)\)"):
        PatchKernelShap(seg, PatchMasker((2, 2)))(X, max_evals=16, silent=True)
    with pytest.raises(PatchShapError, match=r"attribute\(x, feature_mask=...\), which takes any"):
        PatchKernelShap(seg)(torch.rand(1, 3, 4, 8, 8), silent=True)
    values = PatchKernelShap(seg).attribute(X, target=(2, 3, 3), n_samples=16, feature_mask=MASK)
    assert values.shape == X.shape


@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_is_traced_to_the_image_or_to_the_background():
    class Standardised(nn.Module):
        def forward(self, z):
            z = z - z.mean((1, 2, 3), keepdim=True)
            return (z / z.std((1, 2, 3), keepdim=True)).amax((2, 3))

    for call in (
        lambda: PatchKernelShap(Standardised(), PatchMasker((2, 2)))(X, max_evals=16, silent=True),
        lambda: attributed(PatchKernelShap, Standardised(), X),
    ):
        message = "4 of 4 players are hidden.*Choose another background"
        with pytest.raises(PatchShapError, match=message):
            call()
    with pytest.raises(PatchShapError, match=r"for the whole image.*Check the weights"):
        attributed(PatchKernelShap, lambda x: x[:, :, 0, 0] / 0, X)


def test_an_error_of_the_model_says_what_the_model_was_given():
    with pytest.raises(RuntimeError, match="channels") as caught:
        attributed(PatchKernelShap, nn.Conv2d(4, 2, 1), X)
    assert "(2, 3, 8, 8) of torch.float32" in caught.value.__notes__[0]


# ----- modules without a mode, and in many threads -------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_modules_without_a_mode(kind):
    net = Net()
    want = attributed(kind, net, X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript announces its end
        frozen = torch.jit.freeze(torch.jit.trace(net.eval(), X))
    assert not hasattr(frozen, "training")
    bare = Net()
    del bare.training
    for model in (frozen, nn.Sequential(frozen), bare):
        torch.testing.assert_close(attributed(kind, model, X), want)
        np.testing.assert_allclose(called(kind, model, X), called(kind, net, X), atol=1e-6)
    assert not hasattr(bare, "training")


def test_a_compiled_module_is_a_module():
    net = Net().train()
    compiled = torch.compile(net, backend="eager")
    torch.testing.assert_close(
        attributed(PatchKernelShap, compiled, X), attributed(PatchKernelShap, net, X)
    )
    assert called(PatchKernelShap, compiled, X).shape == (2, SIDE, SIDE, 3, 3)
    assert net.training
    assert compiled.training


class InTraining(nn.Module):
    """Wrong in train mode: dropout draws, and batch normalisation writes its statistics."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
            nn.Linear(64, 3),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("kind", KINDS)
def test_eight_threads_share_a_module_in_train_mode(kind):
    torch.manual_seed(0)
    net = InTraining().train()
    net.net[1].eval()  # modes may differ from module to module
    want = [attributed(kind, copy.deepcopy(net).eval(), X[i : i + 1]) for i in range(2)]
    before = copy.deepcopy(net.state_dict())
    explainer, wrapped = kind(net), kind(nn.Sequential(net))

    def explain(i):
        one = (explainer, wrapped)[i % 4 // 2]
        return i % 2, one.attribute(
            X[i % 2][None], target=1, n_samples=16, perturbations_per_eval=4, feature_mask=MASK
        )

    with ThreadPoolExecutor(8) as pool:
        for i, values in pool.map(explain, range(24)):
            torch.testing.assert_close(values, want[i])
    assert [m.training for m in net.modules()] == [m is not net.net[1] for m in net.modules()]
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_mode_comes_back_after_an_error_of_the_model():
    class Failing(InTraining):
        def forward(self, x):
            raise KeyError("no such class")

    net = Failing().train()
    with pytest.raises(KeyError):
        attributed(PatchKernelShap, net, X)
    assert all(m.training for m in net.modules())
