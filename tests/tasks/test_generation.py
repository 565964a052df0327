"""Tasks that make pictures: their losses by plain formulas, sampling, and a run as a user starts it."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import netbuild
from netbuild.data.images import read_image
from netbuild.tasks import find
from netbuild.tasks.codes import CodeSampler

QUICK = ("--device", "cpu", "-Oworkers=0", "--batch", "128")
VAE = """
task: vae
ch: 1
imgsz: 12
params: {latent: 2, likelihood: bernoulli}
layers:
  - [input, 1, nn.Flatten, []]
  - [-1, 1, nn.Linear, {out_features: 2 * latent}, moments]
  - [-1, 1, Reparameterize, [], code]
  - [-1, 1, nn.Linear, {out_features: 144}]
  - [-1, 1, nn.Unflatten, [1, [1, 12, 12]]]
  - [[-1, moments], 1, Variational, [likelihood]]
"""
PLAIN = """
task: autoencode
ch: 1
imgsz: 12
layers:
  - [-1, 1, nn.Conv2d, [1, 4, 12], code]
  - [-1, 1, nn.ConvTranspose2d, [4, 1, 12]]
"""
AROUND = PLAIN + "  - [[-1, input], 1, Add, []]\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {"vae": VAE, "plain": PLAIN, "around": AROUND, "codeless": PLAIN.replace(", code", "")}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    for name, value in {"dark": 20, "bright": 220}.items():
        Image.fromarray(np.full((12, 12), value, np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


# -- variational autoencoders -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_bound_is_the_papers(here, likelihood):
    torch.manual_seed(0)
    network = netbuild.build("vae.yaml", set=[f"likelihood={likelihood}"])
    images = torch.rand(3, 1, 12, 12)
    logits, moments = network.train()(images)
    total, parts = find("vae")(network.head, kl=2.0).loss((logits, moments), {"images": images})
    x, p, (mean, log_variance) = images.flatten(1), logits.sigmoid().flatten(1), moments.chunk(2, 1)
    if likelihood == "bernoulli":
        error = -(x * p.log() + (1 - x) * (1 - p).log()).sum(1)
    else:
        error = -torch.distributions.Normal(p, (p - x).square().mean().sqrt()).log_prob(x).sum(1)
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(
        normal(mean, (log_variance / 2).exp()), normal(torch.zeros(3, 2), torch.ones(3, 2))
    ).sum(1)
    assert float(parts["reconstruction"]) == pytest.approx(float(error.detach().mean()), rel=1e-5)
    assert float(parts["kl"]) == pytest.approx(float(divergence.detach().mean()), rel=1e-5)
    assert float(total.detach()) == pytest.approx(float((error + 2 * divergence).detach().mean()) / 144, rel=1e-5)


def test_codes_are_drawn_in_training_and_are_means_in_eval():

    from netbuild.layers import OneHot, Reparameterize

    torch.manual_seed(0)
    moments = torch.tensor([[1.0, -2.0, math.log(4.0), math.log(0.25)]]).repeat(20_000, 1)
    drawn, means = Reparameterize().train()(moments), Reparameterize().eval()(moments)
    assert torch.equal(means, moments[:, :2])
    torch.testing.assert_close(drawn.mean(0), torch.tensor([1.0, -2.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.tensor([2.0, 0.5]), atol=0.05, rtol=0)
    with pytest.raises(ValueError, match="even number of channels, not 3"):
        Reparameterize()(torch.zeros(1, 3))
    assert OneHot(3)(torch.tensor([2.0, 0.0, 3.0])).tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]


@pytest.mark.slow
def test_a_vae_trains_is_measured_sampled_and_predicted_with(cli, here):
    done = cli("train", "vae.yaml", "--epochs", 1, "-o", "run", *QUICK)
    assert done.code == 0, done.err
    for name in ("samples/epoch0001.png", "codes.png", "plane.png"):
        assert (here / "run" / name).is_file(), name
    measures = json.loads(cli("val", "run/best.safetensors", "--data", "digits", "--json").out)["measures"]
    assert measures["fitness"] == -measures["nats"]
    assert 0 < measures["kl"] < measures["nats"]
    done = cli("sample", "run/best.safetensors", "-n", 6, "-o", "six.png", "--single", "six", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["files"] == ["six.png", *(f"six/{i}.png" for i in range(6))]
    assert (document["task"], document["count"], document["classes"]) == ("vae", 6, None)
    assert cli("sample", "run/best.safetensors", "-n", 2, "--single", "two", "-o", "two.png").code == 0
    for number in range(2):  # a picture does not depend on how many there are
        assert np.array_equal(read_image(here / f"two/{number}.png"), read_image(here / f"six/{number}.png"))
    made = netbuild.Model("run/best.safetensors").sample(2, seed=1)
    assert not np.array_equal(made.pictures[0], read_image(here / "two/0.png"))
    assert cli("predict", "run/best.safetensors", "dark.png", "-o", "p").code == 0
    assert read_image(here / "p/dark.png").shape == (12, 24, 3)


def test_the_plane_is_that_of_the_normal_distributions_quantiles(here):
    network = netbuild.build("vae.yaml").eval()
    sampler = CodeSampler(network)
    plane = sampler.decode_plane(3)
    at = float(torch.distributions.Normal(0, 1).icdf(torch.tensor(5 / 6)))
    corner = sampler.coder.decode(torch.tensor([[at, -at]]))
    np.testing.assert_allclose(plane[8], corner[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("file", ["vae.yaml", "plain.yaml"])
def test_between_two_pictures_lie_their_reconstructions(cli, here, file):
    torch.manual_seed(0)
    netbuild.save(netbuild.build(file), "net.safetensors")
    network = netbuild.build("net.safetensors").eval()
    done = cli("sample", "net.safetensors", "--between", "dark.png", "bright.png", "-n", 3, "--single", "strip")
    assert done.code == 0, done.err
    for name, number in {"dark": 0, "bright": 2}.items():
        image = torch.from_numpy(read_image(here / f"{name}.png", 1).copy()).permute(2, 0, 1)[None] / 255
        found = network(image)
        expected = (found[0] if isinstance(found, tuple) else found).clamp(0, 1)[0, 0] * 255
        assert np.abs(read_image(here / f"strip/{number}.png")[..., 0] - expected.detach().numpy()).max() <= 0.51


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vae.yaml", "--steps", "5"], "--steps has no effect here: the network is a decoder of codes"),
        (["vae.yaml", "--animate", "way.gif"], "--animate has no effect: the network makes its pictures in one step"),
        (["vae.yaml", "--class", "3"], "--class has no effect: the network was trained without classes"),
        (["vae.yaml", "--animate", "way.mp4"], "an animation is a .gif, or a .png (APNG)"),
        (["vae.yaml", "-o", "grid.gif"], "a grid is written as .png or .jpg"),
        (["vae.yaml", "-o", "no/grid.png"], "no"),
        (["vae.yaml", "--between", "dark.png", "bright.png", "--class", "3"], "--class has no effect with --between"),
        (["vae.yaml", "--between", "dark.png", "bright.png", "-n", "1"], "needs at least the two pictures"),
        (["vae.yaml", "--between", "dark.png", "nothing.png"], "nothing.png"),
        (["plain.yaml"], "networks of the task 'autoencode' cannot be sampled"),
        (["codeless.yaml", "--between", "dark.png", "bright.png"], "no row of the network is named 'code'"),
        (["around.yaml", "--between", "dark.png", "bright.png"], "rows behind the code also read rows before it"),
        (["lenet5.yaml"], "networks of the task 'classify' cannot be sampled"),
        (["lenet5.yaml", "--between", "dark.png", "bright.png"], "have no codes of pictures"),
        (["net.onnx"], "an exported file cannot be sampled here"),
        (["vae.yaml", "--single", "."], "the folder is not empty"),
    ],
)
def test_what_cannot_be_sampled_is_an_error_with_a_hint(cli, here, words, message):
    before = sorted(here.rglob("*"))
    done = cli("sample", *words)
    assert (done.code, message in done.err) == (2, True), done.err
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("file", "setting", "message"),
    [
        ("plain.yaml", "kl=2", "kl has no effect for the task 'autoencode'"),
        ("vae.yaml", "predicts=noise", "predicts has no effect for the task 'vae'"),
    ],
)
def test_settings_of_other_tasks_are_refused(cli, here, file, setting, message):
    done = cli("train", file, "--epochs", 1, "-o", "run", *QUICK, "-O", setting)
    assert (done.code, message in done.err) == (2, True), done.err
