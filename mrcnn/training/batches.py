"""Which images make up which batch: a function of the seed and the iteration, and of nothing else.

So a run that is resumed sees what an uninterrupted one sees, whatever the number of workers.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mrcnn.data.sample import DetectionDataset, Target
from mrcnn.errors import MrcnnError
from mrcnn.training.distributed import World

Batch = tuple[list[Tensor], list[Target]]


class TrainingImages(Dataset[tuple[Tensor, Target] | MrcnnError]):
    """A dataset's training images, each also mirrored: number 2i is image i, 2i + 1 its mirror image.

    A bad image is returned as its error, since a DataLoader would turn a raised one into a long traceback.
    """

    def __init__(self, dataset: DetectionDataset) -> None:
        self._dataset = dataset
        self._indices = dataset.training_indices()

    def __len__(self) -> int:
        return 2 * len(self._indices)

    def __getitem__(self, number: int) -> tuple[Tensor, Target] | MrcnnError:
        try:
            sample = self._dataset.sample(self._indices[number // 2])
        except MrcnnError as error:
            return error
        return (sample.mirrored() if number % 2 else sample).tensors()


class BatchSampler(Sampler[list[int]]):
    """This process's share of the batches `start`…`stop`, as numbers of `TrainingImages`.

    Images come from one endless row of shuffled epochs, so that no image is left out where the batch size
    does not divide the epoch. Each is mirrored with probability 1/2.
    """

    def __init__(
        self,
        *,
        images: int,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self._images = images
        self._batch_size = batch_size
        self._seed = seed
        self._range = range(start, stop)
        self._rank = rank
        self._processes = processes

    def __len__(self) -> int:
        return len(self._range)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, numbers = -1, list[int]()
        for iteration in self._range:
            first = iteration * self._batch_size
            batch = []
            for position in range(first + self._rank, first + self._batch_size, self._processes):
                if position // self._images != epoch:
                    epoch = position // self._images
                    numbers = self._shuffled(epoch)
                batch.append(numbers[position % self._images])
            yield batch

    def _shuffled(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(mix_seed(self._seed, epoch))
        order = torch.randperm(self._images, generator=generator)
        mirrored = torch.randint(2, (self._images,), generator=generator)
        return cast(list[int], (order * 2 + mirrored).tolist())


def mix_seed(seed: int, *stream: int) -> int:
    """One 63-bit seed from several numbers (multiply and add in the manner of splitmix64)."""
    value = seed
    for number in stream:
        value = (value * 0x9E3779B97F4A7C15 + number + 0xBF58476D1CE4E5B9) % 2**64
        value ^= value >> 31
    return value % 2**63


def load_batches(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    workers: int,
    world: World,
) -> Iterator[Batch]:
    """The batches of the iterations `start`…`stop` for this process.

    Raises:
        MrcnnError: the dataset has nothing to train on, or an image of a batch cannot be used.
    """
    images = TrainingImages(dataset)
    if len(images) == 0:
        raise MrcnnError("no image of the training data has an object to learn from")
    sampler = BatchSampler(
        images=len(images) // 2,
        batch_size=batch_size,
        seed=seed,
        start=start,
        stop=stop,
        rank=world.rank,
        processes=world.size,
    )
    loader = DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=world.device.type == "cuda",
    )
    for batch in loader:
        if isinstance(batch, MrcnnError):
            raise batch
        yield batch


def _collate(items: list[tuple[Tensor, Target] | MrcnnError]) -> Batch | MrcnnError:
    images, targets = [], []
    for item in items:
        if isinstance(item, MrcnnError):
            return item
        images.append(item[0])
        targets.append(item[1])
    return images, targets
