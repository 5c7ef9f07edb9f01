"""Which number ImageNet-format records store for the first class.

Two ways are in use: N classes are 1 to N, where the well-known builder scripts
keep 0 for a background, or 0 to N - 1. Taken for the other one, every label is
off by one or outside the classes. Three things prove the way, and a record with
one of them is looked for in a sample:

- label 0: from 0;
- label N: from 1;
- of ImageNet's 1,000 classes, a label beside its synset
  (`image/class/synset`, which the well-known scripts write): the synset's place
  in the sorted list is the number of the class.

A sample without any proves nothing, and then who has the data must say it. With
1,000 classes that are equally frequent and no synsets, this happens to 1.7 % of
samples of 4,096 records.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent import futures

import tensorflow as tf
from google.protobuf.message import DecodeError

from hvd_imagenet import imagenet
from hvd_imagenet.examples import ExampleFeatures
from hvd_imagenet.framing import CorruptRecordError
from hvd_imagenet.sources import Source, TFRecordSource

_SYNSET_FEATURE = "image/class/synset"
_TEXT_FEATURE = "image/class/text"
# Records that are read before there is a look at what they prove, and in all.
_CHUNK = 64
_LIMIT = 4096
_READ_THREADS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Look:
    """What one record says.

    Attributes:
        where: its name.
        label: the number that it stores.
        synset: its synset; empty if it stores none.
    """

    where: str
    label: int
    synset: str


def settle(sources: Sequence[Source], num_classes: int) -> int | None:
    """Detects the number of the first class where a source needs it.

    Args:
        sources: all splits of a data set; those that need it are told it.
        num_classes: number of classes.

    Returns:
        The number; None if the labels are not in records.

    Raises:
        ValueError: the sample does not tell, or contradicts itself.
    """
    features = sources[0].features
    if features is None:
        return None
    if features.label_offset is not None:
        return features.label_offset
    offset, reason = _detect(sources, num_classes)
    for source in sources:
        source.count_labels_from(offset, reason)
    return offset


def _detect(
    sources: Sequence[TFRecordSource], num_classes: int
) -> tuple[int, str]:
    looks = []
    with futures.ThreadPoolExecutor(_READ_THREADS) as pool:
        for chunk in _chunks(sources):
            found = pool.map(lambda place: _look(*place), chunk)
            looks.extend(look for look in found if look is not None)
            proofs = _proofs(looks, num_classes)
            if len(proofs) == 1:
                return next(iter(proofs.items()))
            if proofs:
                raise ValueError(
                    f"{proofs[0]} and {proofs[1]}, which do not fit"
                    f" --num_classes={num_classes} together; set --num_classes"
                    " to what the records have, or say what they store for the"
                    " first class by --label_offset."
                )
    if not looks:
        raise ValueError(
            f"None of {_LIMIT} records, such as {sources[0].where(0)}, can be"
            f" read as a tf.train.Example with {sources[0].features.label};"
            " name a directory of ImageNet-format TFRecords by --data_dir."
        )
    raise ValueError(
        f"The labels of {len(looks)} records, {min(k.label for k in looks)} to"
        f" {max(k.label for k in looks)}, do not tell whether the"
        f" {num_classes} classes are counted from 0 or from 1; say it by"
        " --label_offset=0 or --label_offset=1."
    )


def _chunks(
    sources: Sequence[TFRecordSource],
) -> Iterator[list[tuple[TFRecordSource, int]]]:
    """Records to look at, of all sources in turn, without repetition."""
    limit, share = _LIMIT // len(sources), _CHUNK // len(sources)
    places = [source.sample(limit) for source in sources]
    for start in range(0, max(map(len, places)), share):
        yield [
            (source, index)
            for source, indices in zip(sources, places, strict=True)
            for index in indices[start : start + share]
        ]


def _look(source: TFRecordSource, index: int) -> _Look | None:
    """None if it cannot be read or has no label: found when it is needed."""
    try:
        found = class_of(source.read(index)[0], source.features)
    except CorruptRecordError:
        return None
    if found is None:
        return None
    label, synset, _ = found
    return _Look(where=source.where(index), label=label, synset=synset)


def class_of(
    record: bytes, features: ExampleFeatures
) -> tuple[int, str, str] | None:
    """What a record says of its class.

    Args:
        record: a tf.train.Example message.
        features: where its label is.

    Returns:
        (label as it is stored, synset, words), each "" if it is not there;
        None of a record without one label.
    """
    try:
        stored = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        return None
    labels = stored[features.label].int64_list.value
    if len(labels) != 1:
        return None
    synset, text = (
        b"".join(stored[name].bytes_list.value).decode(errors="replace")
        for name in (_SYNSET_FEATURE, _TEXT_FEATURE)
    )
    return labels[0], synset, text


def _proofs(looks: Sequence[_Look], num_classes: int) -> dict[int, str]:
    """A proof as half a sentence for every offset that is proved."""
    proofs = {}
    for look in looks:
        for offset, label in ((0, 0), (1, num_classes)):
            if look.label == label:
                proofs[offset] = f"{look.where} has label {label}"
    if num_classes != imagenet.CLASSES or not any(k.synset for k in looks):
        return proofs
    # TensorFlow Datasets takes a quarter of a second to import.
    from hvd_imagenet import synsets

    numbers = {name: i for i, name in enumerate(synsets.sorted_synsets())}
    known = [look for look in looks if look.synset in numbers]
    offsets = {look.label - numbers[look.synset] for look in known}
    # Classes in an order of one's own: their synsets tell nothing.
    if len(offsets) == 1 and offsets <= {0, 1}:
        look = known[0]
        proofs.setdefault(
            offsets.pop(),
            f"{look.where} has label {look.label} for {look.synset}",
        )
    return proofs
