"""What the classes of a network are called.

A class has an identifier, such as the name of its folder or its synset, and
perhaps words for people. Who asks names a file, or the data set of the run
says it, where it is still there: as the manifest of a packed set, TensorFlow
Datasets, class folders, or the records themselves have it.
"""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Mapping

from hvd_imagenet import folders, imagenet, label_offset, packed_sets, splits
from hvd_imagenet.config import Config
from hvd_imagenet.framing import CorruptRecordError

_SYNSET = re.compile(r"(n\d{8})\b[\s,:]*(.*)")
# Lines of a synset and its words, which Kaggle gives out with ImageNet.
_SYNSET_WORDS = "LOC_synset_mapping.txt"
# Records that are looked at for what they call their classes.
_SAMPLE = 256

# Identifier and words by class number, as far as known.
_Known = dict[int, tuple[str, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassNames:
    """Names by class number.

    Attributes:
        ids: identifiers; "" where unknown.
        texts: words for people; "" where unknown.
        source: who says so, for people.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> str:
        """All that is known; the number where nothing is."""
        known = (self.ids[number], self.texts[number])
        return " ".join(dict.fromkeys(filter(None, known))) or str(number)


def find(config: Config, path: str | None = None) -> ClassNames:
    """The names of the classes of a run.

    Args:
        config: of the run; its data may be gone.
        path: a text file with a class per line, a name or a synset and words;
            None to look at the data.

    Raises:
        ValueError: the file cannot be read, or is of another number of
            classes.
    """
    count = config.model.num_classes
    if path is not None:
        return _made(count, _of_file(path, count), path)
    data_dir = config.data.local_data_dir
    known, source = {}, "unknown"
    if data_dir is not None and config.data.data_format != "synthetic":
        # Names are not worth an error: who needs the data will say it.
        with contextlib.suppress(ValueError, OSError):
            known, source = _of_data(config), data_dir
    if not known and count == imagenet.CLASSES:
        known = dict(enumerate((name, "") for name in _synsets()))
        source = "taken to be ImageNet's, in the order of their synsets"
    words = _words_beside(data_dir)
    known = {
        number: (name, text or words.get(name, ""))
        for number, (name, text) in known.items()
    }
    return _made(count, known, source if known else "unknown")


def _made(count: int, known: _Known, source: str) -> ClassNames:
    pairs = [known.get(number, ("", "")) for number in range(count)]
    ids, texts = zip(*pairs, strict=True)
    return ClassNames(ids=ids, texts=texts, source=source)


def _of_file(path: str, count: int) -> _Known:
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--class_names={path} cannot be read"
            f" ({getattr(error, 'strerror', None) or 'it is no text'}); name a"
            " text file with a class per line."
        ) from error
    if len(lines) != count:
        raise ValueError(
            f"--class_names={path} has {len(lines)} lines, and the network has"
            f" {count} classes; write one per class, in their order."
        )
    return dict(enumerate(map(_parsed, lines)))


def _parsed(line: str) -> tuple[str, str]:
    match = _SYNSET.fullmatch(line)
    return (match[1], match[2]) if match else (line, "")


def _of_data(config: Config) -> _Known:
    data_dir, data_format = config.data.data_dir, config.data.data_format
    if data_format == "auto":
        data_format = splits.detect_format(data_dir, config.data.tfds_name)
    if data_format == "folder":
        names = folders.class_names(data_dir, config.model.num_classes)
        return dict(enumerate((name, "") for name in names))
    if data_format == "tfds":
        # TensorFlow Datasets takes a quarter of a second to import.
        from hvd_imagenet import tfds_sets

        found = tfds_sets.find_split(config, "validation")
        names = found.info.features[found.features.label].names
        return dict(enumerate((name, "") for name in names))
    return _of_manifest(data_dir) or _of_records(config)


def _of_manifest(data_dir: str) -> _Known:
    path = os.path.join(data_dir, packed_sets.NAME)
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        return {
            int(each["label"]): (each["synset"], each["text"])
            for each in content["classes"]
        }
    return {}


def _of_records(config: Config) -> _Known:
    """What a sample of records says of its classes."""
    source = splits.open_split(config, "validation")
    offset = label_offset.settle((source,), config.model.num_classes)
    known: _Known = {}
    for index in source.sample(_SAMPLE):
        with contextlib.suppress(CorruptRecordError):
            record, _ = source.read(index)
            found = label_offset.class_of(record, source.features)
            if found is not None:
                number, synset, text = found
                known[number - offset] = (synset, text)
    names = {number: name for number, (name, _) in known.items()}
    if config.model.num_classes == imagenet.CLASSES and any(names.values()):
        synsets = _synsets()
        if all(synsets[number] == name for number, name in names.items()):
            # A sample does not have them all.
            known = {
                number: known.get(number, (name, ""))
                for number, name in enumerate(synsets)
            }
    return {number: pair for number, pair in known.items() if any(pair)}


def _words_beside(data_dir: str | None) -> Mapping[str, str]:
    """Words by synset, where a file in the directory of the data has them."""
    path = os.path.join(data_dir or "", _SYNSET_WORDS)
    try:
        with open(path, encoding="utf-8") as file:
            return dict(map(_parsed, map(str.strip, file)))
    except (OSError, UnicodeDecodeError):
        return {}


def _synsets() -> list[str]:
    # TensorFlow Datasets takes a quarter of a second to import.
    from hvd_imagenet import synsets

    return synsets.sorted_synsets()
