"""Tasks that make pictures: their losses by plain formulas, sampling, and a run as a user starts it."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import netbuild
from netbuild import runtime
from netbuild.data.images import read_image
from netbuild.feed.noise import NoisySamples
from netbuild.runtime import Diffusion, Noise
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
DIFFUSION = """
task: diffuse
inputs: {image: [1, 12, 12], time: [], label: []}
nc: 10
layers:
  - [time, 1, TimeEmbedding, [8]]
  - [label, 1, OneHot, [nc]]
  - [[-2, -1], 1, Concat, []]
  - [-1, 1, nn.Linear, {out_features: 4}]
  - [-1, 1, nn.Unflatten, [1, [4, 1, 1]], told]
  - [image, 1, nn.Conv2d, [1, 4, 3, 1, 1]]
  - [[-1, told], 1, Add, []]
  - [-1, 1, nn.SiLU, []]
  - [-1, 1, nn.Conv2d, [4, 1, 3, 1, 1]]
"""
CLASSLESS = """
task: diffuse
inputs: {image: [1, 12, 12], time: []}
layers:
  - [time, 1, nn.Unflatten, [0, [-1, 1, 1, 1]]]
  - [[image, -1], 1, Add, []]
  - [-1, 1, nn.Conv2d, [1, 1, 3, 1, 1]]
"""
AROUND = PLAIN + "  - [[-1, input], 1, Add, []]\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"vae": VAE, "plain": PLAIN, "around": AROUND, "codeless": PLAIN.replace(", code", "")}
    for name, text in {**files, "diffusion": DIFFUSION, "classless": CLASSLESS}.items():
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


# -- diffusion --------------------------------------------------------------------------------------------------------


def exact(diffusion, points):
    """A network that knows the pictures: its output for noisy pictures that belong to ``points``."""

    def predict(noisy, step):
        level = diffusion.levels()[step]
        noise = (noisy - level**0.5 * points) / (1 - level) ** 0.5
        return noise if diffusion.predicts == "noise" else level**0.5 * noise - (1 - level) ** 0.5 * points

    return predict


def test_the_schedules_are_the_papers():
    beta = 1e-4 + (0.02 - 1e-4) * 499 / 999
    linear, cosine = Diffusion("linear").levels(), Diffusion("cosine").levels()
    assert 1 - linear[499] / linear[498] == pytest.approx(beta, rel=1e-9)
    for step in (0, 500, 990):
        kept = [math.cos((time / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for time in (step + 1, 0)]
        assert cosine[step] == pytest.approx(kept[0] / kept[1], rel=1e-9)
    for schedule in runtime.SCHEDULES:
        for steps in (10, 1000):
            levels = Diffusion(schedule, steps).levels()
            assert (np.diff(levels) < 0).all()
            assert 0 < levels[-1] < 1e-3 < 0.5 < levels[0]


@pytest.mark.parametrize("method", runtime.METHODS)
@pytest.mark.parametrize("predicts", runtime.PREDICTIONS)
def test_an_exact_network_gives_its_pictures(predicts, method):
    points = np.random.default_rng(1).uniform(-1, 1, (3, 1, 2, 2)).astype(np.float32)
    for steps in (1, 7, 50):
        diffusion = Diffusion("cosine", 50, predicts)
        stages = list(diffusion.run(exact(diffusion, points), Noise(0, 0, 3), (1, 2, 2), steps, method))
        assert len(stages) == steps + 1
        np.testing.assert_allclose(stages[-1], points, atol=1e-5)


def test_ancestral_sampling_is_the_papers_posterior():
    diffusion = Diffusion("linear", 20, "noise")
    levels = diffusion.levels()
    output = np.full((1, 1, 1, 1), 0.3)
    stages = list(diffusion.run(lambda noisy, step: output, Noise(5, 0, 1), (1, 1, 1), 20, "ancestral"))
    noise = Noise(5, 0, 1)
    current = noise.draw((1, 1, 1))
    for number, step in enumerate(range(19, 0, -1)):
        level, before = levels[step], levels[step - 1]
        alpha = level / before
        clean = ((current - (1 - level) ** 0.5 * output) / level**0.5).clip(-1, 1)
        mean = before**0.5 * (1 - alpha) / (1 - level) * clean + alpha**0.5 * (1 - before) / (1 - level) * current
        deviation = ((1 - before) / (1 - level) * (1 - alpha)) ** 0.5
        current = mean + deviation * noise.draw((1, 1, 1))
        np.testing.assert_allclose(stages[number + 1], current, atol=1e-5)


def test_guidance_is_the_papers():
    def call(pictures, steps, labels):
        assert steps.tolist() == [7.0] * len(pictures)
        return labels[:, None, None, None] + 0 * pictures

    pictures, labels = np.zeros((2, 1, 1, 1), np.float32), np.array([1, 2])
    assert runtime.guide(call, labels, 10, 0.0)(pictures, 7).ravel().tolist() == [1, 2]
    found = runtime.guide(call, labels, 10, 0.5)(pictures, 7).ravel().tolist()
    assert found == [1.5 * 1 - 0.5 * 10, 1.5 * 2 - 0.5 * 10]


@pytest.mark.parametrize("predicts", runtime.PREDICTIONS)
def test_the_target_gives_back_the_picture(predicts):
    task = find("diffuse")(torch.nn.Identity(), diffusion=Diffusion("cosine", 100, predicts), nc=10)
    random = torch.Generator().manual_seed(0)
    batch = {
        "images": (torch.rand(4, 1, 5, 5, generator=random) * 255).byte(),
        "noise": torch.randn(4, 1, 5, 5, generator=random),
        "steps": torch.tensor([0, 20, 60, 90]),
        "classes": torch.tensor([0, 3, 10, 9]),
    }
    noisy, steps, classes = task.inputs(batch)
    assert (steps.tolist(), classes.tolist()) == ([0, 20, 60, 90], [0, 3, 10, 9])
    target = task.target(batch)
    for i, step in enumerate(steps.int().tolist()):
        found = task.diffusion.split(noisy[i].numpy(), target[i].numpy(), float(task.levels[step]))
        np.testing.assert_allclose(found, batch["images"][i] / 127.5 - 1, atol=2e-4)
    assert float(task.loss(target, batch)[0]) == 0


def test_noise_is_of_the_sample_and_the_epoch_and_classes_are_withheld():
    class Source:
        def __len__(self):
            return 1

        def get(self, index, rng, epoch):
            return torch.zeros(1, 2, 2), 3

    samples = NoisySamples(Source(), None, 100, 10, 0.25)
    drawn = [samples.get(0, np.random.default_rng(seed), 0) for seed in range(400)]
    again = samples.get(0, np.random.default_rng(7), 0)
    assert torch.equal(again[2], drawn[7][2])
    assert again[3] == drawn[7][3]
    assert 70 < sum(item[1] == 10 for item in drawn) < 130
    assert {item[1] for item in drawn} == {3, 10}
    assert max(item[3] for item in drawn) > 95


@pytest.mark.slow
def test_a_diffusion_model_trains_is_sampled_and_exported(cli, here):
    flags = ("-Oplots=false", "-Opredicts=noise", "-Onoise_steps=40")
    done = cli("train", "diffusion.yaml", "--epochs", 1, "-o", "run", *QUICK, *flags)
    assert done.code == 0, done.err
    assert "netbuild sample" in done.err
    one, two = (cli("val", "run/best.safetensors", "--data", "digits", "--json").out for _ in range(2))
    assert one == two
    assert 0 < json.loads(one)["measures"]["noise-error"] < 2
    options = ("-n", 12, "--steps", 5, "--guidance", 0.5, "--method", "ancestral", "--seed", 3)
    done = cli("sample", "run/best.safetensors", *options, "--single", "made", "--animate", "way.gif", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["classes"] == [*range(10), 0, 1]
    assert document["names"] == list("0123456789")
    with Image.open("way.gif") as way:
        assert way.n_frames == 6
    assert cli("export", "run/best.safetensors", "-o", "net.onnx", "--dynamic", "batch").code == 0
    assert cli("export", "run/best.safetensors", "-o", "three.onnx", "--batch", 5).code == 0
    for file in ("net.onnx", "three.onnx"):
        sampler = runtime.load_sampler(file)
        assert (sampler.kind, sampler.classes, sampler.names) == ("diffusion", 10, tuple("0123456789"))
        found = sampler.sample(12, seed=3, steps=5, method="ancestral", guidance=0.5)
        assert found.shape == (12, 12, 12, 1)
        for number, kind in enumerate(document["classes"]):
            difference = read_image(here / f"made/{number:02}-{kind}.png", 1).astype(int) - found[number]
            assert abs(difference).max() <= 1
    with pytest.raises(runtime.RunError, match="there is no class 10"):
        sampler.sample(1, classes=[10])
    netbuild.export("plain.yaml", "plain.onnx", seed=0)
    with pytest.raises(runtime.RunError, match="do not say how it is sampled"):
        runtime.load_sampler("plain.onnx")
    chosen = netbuild.sample("run/best.safetensors", 2, classes="7", steps=2)
    assert chosen.classes.tolist() == [7, 7]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "diffusion.yaml", "--class", "ten"], "--class ten: there is no such class"),
        (["sample", "diffusion.yaml", "--method", "euler"], "--method euler: there is no such way"),
        (["sample", "classless.yaml", "--guidance", "1"], "--guidance has no effect here: the network is a diffusion"),
        (["predict", "diffusion.yaml", "dark.png"], "predict nothing on pictures"),
        (["train", "diffusion.yaml", "--data", "digits-detect", "-o", "r"], "the network takes classes"),
        (["train", "classless.yaml", "-O", "class_dropout=0.5", "-o", "r"], "class_dropout has no effect"),
        (["train", "diffusion.yaml", "-O", "hsv_v=0.1", "-o", "r"], "hsv_v has no effect for the task 'diffuse'"),
        (["train", "diffusion.yaml", "-O", "noise_schedule=sine", "-o", "r"], "must be one of linear, cosine"),
    ],
)
def test_what_a_diffusion_model_cannot_do_is_an_error_with_a_hint(cli, here, words, message):
    done = cli(*words)
    assert (done.code, message in done.err) == (2, True), done.err
    assert not (here / "r").exists()


def test_a_network_without_classes_learns_pictures_of_any(cli, here):
    done = cli("train", "classless.yaml", "--epochs", 1, "-o", "run", *QUICK, "-Oplots=false")
    assert done.code == 0, done.err
    made = netbuild.sample("run/last.safetensors", 2, steps=2)
    assert made.classes is None


# -- refusals ---------------------------------------------------------------------------------------------------------


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
        (["vae.yaml", "--single", "new", "--columns", "3"], "--columns has no effect where no grid is written"),
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
