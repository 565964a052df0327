"""Samples of a network in training, drawn into the run's folder after each epoch."""

from collections.abc import Mapping

from netbuild.drawing.encoding import save
from netbuild.drawing.grids import make_grid
from netbuild.prediction.sampling import make_samples
from netbuild.tasks.codes import CodeSampler
from netbuild.tasks.sampling import SampleOptions, to_pictures
from netbuild.training.loop import Trainer
from netbuild.training.tolerant import TolerantCallback
from netbuild.weights import checkpoint

COUNT, PER_CLASS = 16, 2  # samples of an epoch, of networks without and with classes
STEPS = 20  # of a sampler that makes samples in steps
PLANE = 20  # pictures along each side of the plane of codes
MAX_CLASSES = 20  # of which samples are drawn


class SampleCallback(TolerantCallback):
    """Draws samples from the same random numbers after each epoch, and at the end the plane of codes.

    The files are ``samples/epoch0001.png``, ... and ``plane.png``. An error is printed once and does not end the run.
    """

    def on_epoch_end(self, run: Trainer, measures: Mapping[str, float], best: bool) -> None:
        """Draw the samples of the averaged weights."""
        if run.learner.main.sharded:  # gathering the weights needs every rank
            return
        with self.tolerate_errors():
            sampler = run.task.sampler(run.learner.main.averaged())
            if sampler is None:
                return
            classes = min(sampler.class_count, MAX_CLASSES)
            count = PER_CLASS * classes or COUNT
            options = SampleOptions(steps=STEPS if "steps" in sampler.takes else None)
            made = make_samples(sampler, count, options, range(classes), run.settings.seed)
            name = f"epoch{run.progress.epoch:04}.png"
            save(make_grid(made.pictures, classes), run.folder / "samples" / name)

    def on_run_end(self, run: Trainer, error: BaseException | None) -> None:
        """Draw what the best weights decode from the plane of codes, if a code has two numbers."""
        if error is not None or not run.progress.history:
            return
        with self.tolerate_errors():
            network = checkpoint.load_weights(run.unsharded_network(), run.folder / "best.safetensors")
            sampler = run.task.sampler(network.to(run.device).eval())
            if isinstance(sampler, CodeSampler) and sampler.coder.code_shape.numel() == 2:
                save(make_grid(to_pictures(sampler.decode_plane(PLANE)), PLANE), run.folder / "plane.png")
