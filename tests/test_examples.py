"""Image and label are found in records as protobuf finds them."""

import hypothesis
import pytest
import tensorflow as tf
from hypothesis import strategies

import image_data
from hvd_imagenet import examples, preprocessing

_FEATURES = examples.imagenet(0)
_INT64 = strategies.integers(-(2**63), 2**63 - 1)


def _found(record, features=_FEATURES):
    """(image, label), or None."""
    place = examples.find(record, features)
    if place is None:
        return None
    start, length, label = place
    return record[start : start + length], label


@pytest.mark.parametrize("label", [0, 1, 999, 2**31, 2**63 - 1, -1, -(2**63)])
@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_every_length_and_label_is_found(length, label):
    encoded = b"\x0a" * length
    record = image_data.example(encoded, label, synset="n01440764")
    assert _found(record) == (encoded, label)


def test_other_names_are_found():
    features = examples.ExampleFeatures(
        image="image", label="label", label_offset=0
    )
    record = image_data.example(b"jpeg", 7, image="image", label="label")
    assert _found(record, features) == (b"jpeg", 7)
    assert _found(record) is None


def _bytes(*values):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _ints(*values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def _record(features):
    """One message after the other, in this order: together they are one."""
    return b"".join(
        tf.train.Example(
            features=tf.train.Features(feature={name: value})
        ).SerializeToString()
        for name, value in features
    )


_NAMES = strategies.sampled_from(
    ["image/encoded", "image/class/label", "image/class", "a", "n" * 200]
)
_VALUES = strategies.one_of(
    strategies.lists(strategies.binary(max_size=300), max_size=2).map(
        lambda values: _bytes(*values)
    ),
    strategies.lists(_INT64, max_size=2).map(lambda values: _ints(*values)),
    strategies.just(tf.train.Feature()),
)


@hypothesis.given(
    strategies.lists(
        strategies.tuples(_NAMES, _VALUES),
        max_size=6,
        unique_by=lambda feature: feature[0],
    )
)
def test_what_is_found_is_what_protobuf_finds(features):
    record = _record(features)
    found = _found(record)
    values = tf.train.Example.FromString(record).features.feature
    images = values["image/encoded"].bytes_list.value
    labels = values["image/class/label"].int64_list.value
    if len(images) == len(labels) == 1:
        assert found == (images[0], labels[0])
    else:
        assert found is None


@hypothesis.given(
    strategies.binary(max_size=40), strategies.binary(max_size=40)
)
def test_names_and_values_in_other_features_mislead_nobody(before, after):
    other = _bytes(before + image_data.example(b"inner", 1)[2:] + after)
    record = _record(
        [
            ("a", other),
            ("image/class/label", _ints(2)),
            ("b", other),
            ("image/encoded", _bytes(b"outer")),
        ]
    )
    assert _found(record) == (b"outer", 2)


@hypothesis.given(strategies.data())
def test_damage_is_found_out_or_gives_a_part_of_the_record(data):
    record = bytearray(image_data.example(b"jpeg" * 40, 5))
    places = strategies.integers(0, len(record) - 1)
    for place in data.draw(strategies.lists(places, max_size=4)):
        record[place] = data.draw(strategies.integers(0, 255))
    record = bytes(record[: data.draw(places)])
    place = examples.find(record, _FEATURES)
    if place is not None:
        assert 0 <= place.start <= place.start + place.length <= len(record)


@pytest.mark.parametrize(
    "record",
    [b"", b"image/encoded", b"\x0a\x0dimage/encoded\x12", b"\xff" * 50],
)
def test_what_is_no_record_is_not_found(record):
    assert examples.find(record, _FEATURES) is None


def test_a_label_that_is_not_packed_is_left_to_protobuf():
    value = b"\x12\x04\x1a\x02\x08\x03"
    entry = b"\x0a\x11image/class/label" + value
    feature = b"\x0a" + bytes([len(entry)]) + entry
    record = b"\x0a" + bytes([len(feature)]) + feature
    record += _record([("image/encoded", _bytes(b"jpeg"))])
    assert examples.find(record, _FEATURES) is None
    encoded, label = preprocessing.parse_example(record, _FEATURES)
    assert (encoded.numpy(), int(label)) == (b"jpeg", 3)
