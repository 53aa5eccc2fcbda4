"""Named recipes: how the papers train each family, in one place.

A recipe is for a number of images a step and a number of steps. It is fitted to others by two rules:

- The learning rate is proportional to the images a step, the linear scaling rule of Goyal et al. 2017
  (arXiv:1706.02677): 0.02 for 16 images is 0.005 for 4. An explicit `--lr` is taken as it is.
- The rate falls at the same fractions of a run, whatever its length: at 120k of 160k steps is at 375 of 500.

What `mrcnn train` does otherwise than the papers, with every recipe:

- It begins with random weights, or those of a detector (`--init`); the papers with a classifier of ImageNet.
- The rate rises over the first 500 steps, as in the authors' later code; the papers start with the full rate.
- RPN and heads learn together in each step, what Faster R-CNN's authors call approximate joint training. The
  paper of Faster R-CNN trains them by turns in four steps (section 3.2), those of the pyramid (section 5) and
  of Mask R-CNN (section 3.1) the RPN by itself.
- Anchors that cross the image's border learn too, as in the pyramid's paper (section 5.1); Faster R-CNN
  leaves them out (section 3.3).
- A proposal below IoU 0.5 is background, as in Mask R-CNN; Fast R-CNN, so also Faster R-CNN, leaves out those
  below 0.1 (section 2.3 of arXiv:1504.08083).
- The box losses are smooth L1 that turns at 1/9, torchvision's; at 1 in Fast R-CNN, eqn. 3.
- Images have the sizes of the model's description: 800 to 1333 pixels; Faster R-CNN's shorter side is 600.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from mrcnn.errors import MrcnnError
from mrcnn.training.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a family is trained. The defaults are those of Mask R-CNN on a pyramid.

    Attributes:
        source: where the numbers are from.
        fits: patterns of the architectures that it is the default of.
        batch_size: images a step, over all GPUs.
        learning_rate: for that many images.
        iterations: steps of the whole run, with that many images.
        steps: of these, those at which the learning rate falls to a tenth.
    """

    name: str
    source: str
    fits: tuple[str, ...]
    batch_size: int = 16
    learning_rate: float = 0.02
    iterations: int = 160_000
    steps: tuple[int, ...] = (120_000,)
    momentum: float = 0.9
    weight_decay: float = 1e-4
    sampling: Sampling = field(default_factory=Sampling)

    def learning_rate_for(self, batch_size: int) -> float:
        """The linear scaling rule."""
        return self.learning_rate * batch_size / self.batch_size

    def iterations_for(self, batch_size: int) -> int:
        """Steps that show as many images as the recipe's do."""
        return max(1, round(self.iterations * self.batch_size / batch_size))

    def steps_for(self, iterations: int) -> tuple[int, ...]:
        """Where the rate falls in a run of that length; steps that fall onto its start are left out."""
        return tuple(sorted({iterations * step // self.iterations for step in self.steps} - {0}))


# The best 2000 anchors are few where there is but one level. The papers keep all; this is their code's limit.
_ONE_LEVEL = 12_000

RECIPES = (
    Recipe(
        name="keypoint",
        source="Mask R-CNN (arXiv:1703.06870), section 5",
        fits=("keypointrcnn_*",),
        iterations=90_000,
        steps=(60_000, 80_000),
        sampling=Sampling(smallest_scale=640 / 800),
    ),
    Recipe(
        name="resnext",
        source="Mask R-CNN (arXiv:1703.06870), section 3.1: one image a GPU, half the rate, as many steps",
        fits=("*_resnext*",),
        batch_size=8,
        learning_rate=0.01,
    ),
    Recipe(
        name="c4",
        source="Mask R-CNN (arXiv:1703.06870), section 3.1: 64 RoIs an image on conv4",
        fits=("*_c4",),
        sampling=Sampling(rois_per_image=64, pre_nms_top_n=_ONE_LEVEL),
    ),
    Recipe(
        name="vgg16",
        source="Faster R-CNN (arXiv:1506.01497), section 3.1.3, in joint training of one image a step; "
        "128 RoIs of Fast R-CNN (arXiv:1504.08083), section 2.3",
        fits=("*_vgg16",),
        batch_size=1,
        learning_rate=0.001,
        iterations=80_000,
        steps=(60_000,),
        weight_decay=5e-4,
        sampling=Sampling(rois_per_image=128, pre_nms_top_n=_ONE_LEVEL),
    ),
    Recipe(
        name="mobilenet",
        source="no paper: rate and decay of torchvision's tutorial on detection models; 12 epochs of COCO",
        fits=("*_mobilenet_v2",),
        batch_size=2,
        learning_rate=0.005,
        iterations=720_000,
        steps=(480_000, 640_000),
        weight_decay=5e-4,
    ),
    Recipe(
        name="mobilenet-fpn",
        source="no paper: the rate of torchvision's tutorial on detection models; 12 epochs of COCO",
        fits=("*_mobilenet_v2_fpn",),
        batch_size=8,
        iterations=180_000,
        steps=(120_000, 160_000),
    ),
    Recipe(
        name="fpn",
        source="Mask R-CNN (arXiv:1703.06870), section 3.1; anchors as in the paper of the pyramid "
        "(arXiv:1612.03144), section 5.1",
        fits=("*",),
    ),
)


def misfit(recipe: Recipe, architecture: str) -> str | None:
    """A line where a recipe is used for an architecture of another family."""
    if any(fnmatchcase(architecture, pattern) for pattern in recipe.fits):
        return None
    own = recipe_for(architecture).name
    return f"recipe {recipe.name} is made for {', '.join(recipe.fits)}; that of {architecture} is {own}"


def recipe_for(architecture: str) -> Recipe:
    """The one that fits best: the first in `RECIPES`."""
    return next(r for r in RECIPES if any(fnmatchcase(architecture, pattern) for pattern in r.fits))


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        MrcnnError: there is none.
    """
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    known = ", ".join(recipe.name for recipe in RECIPES)
    raise MrcnnError(f"--recipe {name}: no such recipe (known: {known}); --list-recipes tells what they are")


def recipe_table(recipes: Sequence[Recipe] = RECIPES) -> str:
    """What `mrcnn train --list-recipes` prints."""
    return "\n\n".join(map(_told, recipes))


def _told(recipe: Recipe) -> str:
    sampling = recipe.sampling
    plural = "s" if recipe.batch_size > 1 else ""
    size = f" at {sampling.smallest_scale:.0%} to 100% of their size" if sampling.smallest_scale < 1 else ""
    falls = " and ".join(f"{step:,}" for step in recipe.steps)
    lines = (
        f"for {', '.join(recipe.fits)}",
        f"{recipe.iterations:,} steps of {recipe.batch_size} image{plural}{size}; learning rate "
        f"{recipe.learning_rate:g}, a tenth from {falls} on; momentum {recipe.momentum:g}, weight decay "
        f"{recipe.weight_decay:g}",
        f"RPN: {sampling.anchors_per_image} anchors an image, positive from IoU "
        f"{sampling.anchor_positive_iou:g}, negative below {sampling.anchor_negative_iou:g}; "
        f"{sampling.post_nms_top_n} proposals of the best {sampling.pre_nms_top_n} a level",
        f"heads: {sampling.rois_per_image} RoIs an image, at most {sampling.roi_positive_fraction:.0%} "
        f"positive, from IoU {sampling.roi_positive_iou:g}",
        f"source: {recipe.source}",
    )
    wrapped = (textwrap.fill(line, 100, initial_indent="  ", subsequent_indent="    ") for line in lines)
    return "\n".join((recipe.name, *wrapped))
