"""The training loop."""

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from tqdm import tqdm

from mrcnn.checkpoint import save_checkpoint
from mrcnn.data.sample import DetectionDataset
from mrcnn.description import ModelDescription
from mrcnn.errors import MrcnnError
from mrcnn.evaluation import Evaluation, detect, evaluate_detections, found_kinds, map_labels
from mrcnn.predictor import TorchPredictor
from mrcnn.training.batches import Batch, load_batches, mix_seed
from mrcnn.training.distributed import World
from mrcnn.training.options import TrainingOptions
from mrcnn.training.report import write_report
from mrcnn.training.sampling import apply_sampling
from mrcnn.training.state import RunState

_LEAST_SCALE = 1.0  # a float16 loss scale below this means that gradients overflow at any scale
_ADVICE = "lower --lr, lengthen --warmup, or look for bad boxes in the data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What stays the same during a run.

    Attributes:
        output: the folder for `model.pth` (latest), `best.pth` (highest validation AP), `resume.pth`,
            `log.jsonl`, `metrics.json` and `curves.png`, written at each snapshot.
        facts: JSON-able, stored in the checkpoints beside options and metrics.
        half: store the weights of `model.pth` and `best.pth` as float16.
    """

    description: ModelDescription
    options: TrainingOptions
    world: World
    output: Path
    facts: Mapping[str, Any]
    half: bool = False


def train(
    model: GeneralizedRCNN,
    run: Run,
    *,
    data: DetectionDataset,
    validation: DetectionDataset | None,
    resume: bool = False,
) -> dict[str, Any]:
    """Trains `model` in place.

    Args:
        validation: evaluated at each snapshot; None for training without evaluation.
        resume: continue from `resume.pth` in the output folder.

    Returns:
        The content of `metrics.json`.

    Raises:
        MrcnnError: data that cannot be used, a state that does not fit, or a loss that diverged.
    """
    options, world = run.options, run.world
    if options.batch_size % world.size:
        raise MrcnnError(
            f"the batch size {options.batch_size} must be a multiple of the {world.size} processes"
        )
    state = _start(model, options, world)
    if resume:
        path = run.output / "resume.pth"
        state.restore(path, description=run.description, options=options)
        if state.iteration >= options.iterations:
            raise MrcnnError(f"{path}: the run has its {state.iteration} iterations; ask for more to go on")
    parallel = _parallel(model, world)
    batches = load_batches(
        data,
        batch_size=options.batch_size,
        seed=options.seed,
        start=state.iteration,
        stop=options.iterations,
        workers=options.workers,
        world=world,
    )
    metrics: dict[str, Any] = {}
    with tqdm(
        total=options.iterations,
        initial=state.iteration,
        desc="training",
        unit="it",
        disable=not world.is_leader,
    ) as bar:
        started = time.perf_counter()
        for batch in batches:
            losses = _step(parallel, state, batch, options, world)
            bar.update()
            bar.set_postfix_str(_shown(losses))
            if state.iteration % options.snapshot_every == 0 or state.iteration == options.iterations:
                _check_weights(state)
                state.seconds += time.perf_counter() - started
                evaluation = None
                if validation is not None:
                    evaluation = evaluate_model(model, run.description, validation, world=world)
                metrics = _snapshot(model, state, run, evaluation)
                started = time.perf_counter()
    return metrics


def evaluate_model(
    model: GeneralizedRCNN, description: ModelDescription, dataset: DetectionDataset, *, world: World
) -> Evaluation:
    """COCO AP of `model` as it is now, the images shared among the processes. Leaves it in training mode."""
    category_ids, _ = map_labels(description.class_names, dataset)
    indices = list(range(len(dataset)))
    model.eval()
    predictor = TorchPredictor(model, description, device=str(world.device))
    mine, _ = detect(
        predictor, dataset, indices[world.rank :: world.size], category_ids, progress=world.is_leader
    )
    model.train()
    results = [result for part in world.gather(mine) for result in part]
    kinds = ("bbox", *found_kinds(description))
    return evaluate_detections(dataset.ground_truth(indices), results, iou_types=kinds)


def _start(model: GeneralizedRCNN, options: TrainingOptions, world: World) -> RunState:
    model.to(world.device).train()
    apply_sampling(model, options.sampling)
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )
    on_gpu = world.device.type == "cuda"
    scaler = torch.amp.GradScaler(world.device.type, enabled=options.amp and on_gpu)
    return RunState(model=model, optimizer=optimizer, scaler=scaler)


def _parallel(model: GeneralizedRCNN, world: World) -> nn.Module:
    parallel: nn.Module = model
    if world.size > 1:
        devices = [world.device] if world.device.type == "cuda" else None
        parallel = DistributedDataParallel(model, device_ids=devices)
    return parallel


def _step(
    parallel: nn.Module, state: RunState, batch: Batch, options: TrainingOptions, world: World
) -> dict[str, float]:
    """One optimiser step. Returns the losses, one by one, as means over all processes."""
    rate = options.learning_rate_at(state.iteration)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    # torchvision draws proposals and anchors at random. A seed per iteration needs no saved generator
    # state, and gives each process its own draws.
    torch.manual_seed(mix_seed(options.seed, state.iteration, world.rank))
    images = [image.to(world.device, non_blocking=True) for image in batch[0]]
    targets = [{name: value.to(world.device) for name, value in target.items()} for target in batch[1]]
    dtype = torch.float16 if world.device.type == "cuda" else torch.bfloat16
    with torch.autocast(world.device.type, dtype=dtype, enabled=options.amp):
        losses: dict[str, Tensor] = parallel(images, targets)
    state.optimizer.zero_grad()
    total = torch.stack([loss.float() for loss in losses.values()]).sum()
    torch.autograd.backward(state.scaler.scale(total))
    means = world.mean(torch.stack([loss.detach().float() for loss in losses.values()]))
    values = dict(zip((name.removeprefix("loss_") for name in losses), means.tolist(), strict=True))
    _check_finite(state, values)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.iteration += 1
    state.history.append({"iteration": state.iteration, "learning_rate": rate, "losses": values})
    return values


def _check_finite(state: RunState, losses: Mapping[str, float]) -> None:
    where = f"training diverged at iteration {state.iteration + 1}"
    if not all(map(math.isfinite, losses.values())):
        raise MrcnnError(f"{where}: the loss is not finite ({_shown(losses)}); {_ADVICE}")
    if state.scaler.is_enabled():
        # Single overflows are expected in float16: the scaler skips the step and lowers the scale.
        if state.scaler.get_scale() < _LEAST_SCALE:
            raise MrcnnError(f"{where}: gradients overflow at any loss scale; {_ADVICE}, or leave out --amp")
        return
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    if not math.isfinite(float(torch.nn.utils.get_total_norm(gradients))):
        raise MrcnnError(f"{where}: the gradient is not finite ({_shown(losses)}); {_ADVICE}")


def _check_weights(state: RunState) -> None:
    """Finite gradients can still overflow the weights, which must not replace those of the last snapshot."""
    for name, values in state.model.state_dict().items():
        if not bool(values.isfinite().all()):
            raise MrcnnError(
                f"training diverged by iteration {state.iteration}: {name} is not finite; {_ADVICE}"
            )


def _snapshot(
    model: GeneralizedRCNN, state: RunState, run: Run, evaluation: Evaluation | None
) -> dict[str, Any]:
    """Records the evaluation and, on the leading process, writes all files."""
    kinds = dict.fromkeys(field.name for field in dataclasses.fields(Evaluation))
    scores = kinds if evaluation is None else dataclasses.asdict(evaluation)
    metrics = {
        "iteration": state.iteration,
        "iterations": run.options.iterations,
        "recipe": run.options.recipe,
        "losses": state.history[-1]["losses"],
        "seconds": round(state.seconds, 1),
        **scores,
    }
    is_best = False
    if evaluation is not None:
        state.history.append({"iteration": state.iteration, **scores})
        ap = evaluation.finest.AP
        if ap is not None and (state.best_ap is None or ap > state.best_ap):
            is_best, state.best_ap = True, ap
    if run.world.is_leader:
        training = {**run.facts, "options": dataclasses.asdict(run.options), "metrics": metrics}
        for name in ("model.pth", "best.pth") if is_best else ("model.pth",):
            save_checkpoint(
                run.output / name,
                model=model,
                description=run.description,
                training=training,
                half=run.half,
            )
        state.save(run.output / "resume.pth", description=run.description, options=run.options)
        write_report(run.output, history=state.history, metrics=metrics)
    return metrics


def _shown(losses: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in losses.items())
