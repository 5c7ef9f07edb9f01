"""RandAugment: magnitudes, draws, and purity as a function of the seed."""

import numpy as np
import pytest
import tensorflow as tf

import image_data
from hvd_imagenet import preprocessing
from hvd_imagenet.config import DataConfig
from hvd_imagenet.randaugment import OPERATIONS, RandAugment

_NAMES = list(OPERATIONS)
_KNOBS = {
    "randaugment_layers": 2,
    "randaugment_magnitude": 6.0,
    "randaugment_magnitude_std": 0.5,
}
_SIZE = 32


def _policy(layers=2, magnitude=6.0, magnitude_std=0.5):
    return RandAugment(
        layers=layers, magnitude=magnitude, magnitude_std=magnitude_std
    )


def _seed(*numbers):
    return tf.constant(numbers, tf.int64)


def _seeds(count):
    """As the pipeline makes them: seed and epoch, image."""
    numbers = np.arange(count, dtype=np.int64)
    return np.stack([(np.int64(5) << 32) + numbers % 3, numbers], axis=1)


def _draws(policy, seeds):
    """(choices, strengths, signs), each [seeds, layers]."""
    types = (tf.int32, tf.float32, tf.float32)
    return _map(policy.draw, seeds, types)


def _map(function, seeds, types):
    mapped = tf.function(
        lambda seeds: tf.map_fn(function, seeds, fn_output_signature=types)
    )(tf.constant(seeds))
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), mapped)


# --- Magnitudes: timm's increasing functions, by hand. ---


def test_the_operations_are_those_of_timms_increasing_set():
    assert _NAMES == [
        "AutoContrast",
        "Equalize",
        "Invert",
        "Rotate",
        "PosterizeIncreasing",
        "SolarizeIncreasing",
        "SolarizeAdd",
        "ColorIncreasing",
        "ContrastIncreasing",
        "BrightnessIncreasing",
        "SharpnessIncreasing",
        "ShearX",
        "ShearY",
        "TranslateXRel",
        "TranslateYRel",
    ]


@pytest.mark.parametrize(
    ("name", "magnitude", "plus", "minus"),
    [
        ("Rotate", 0, 0, 0),
        ("Rotate", 6, 18, -18),
        ("Rotate", 10, 30, -30),
        # 4 - int(0.4 magnitude).
        ("PosterizeIncreasing", 0, 4, 4),
        ("PosterizeIncreasing", 2.49, 4, 4),
        ("PosterizeIncreasing", 2.5, 3, 3),
        ("PosterizeIncreasing", 6, 2, 2),
        ("PosterizeIncreasing", 7.5, 1, 1),
        ("PosterizeIncreasing", 10, 0, 0),
        # 256 - int(25.6 magnitude).
        ("SolarizeIncreasing", 0, 256, 256),
        ("SolarizeIncreasing", 6, 103, 103),
        ("SolarizeIncreasing", 10, 0, 0),
        # int(11 magnitude).
        ("SolarizeAdd", 0, 0, 0),
        ("SolarizeAdd", 6.05, 66, 66),
        ("SolarizeAdd", 10, 110, 110),
        ("ColorIncreasing", 0, 1, 1),
        ("ColorIncreasing", 6, 1.54, 0.46),
        ("ContrastIncreasing", 6, 1.54, 0.46),
        ("BrightnessIncreasing", 6, 1.54, 0.46),
        ("SharpnessIncreasing", 10, 1.9, 0.1),
        ("ShearX", 6, 0.18, -0.18),
        ("ShearY", 10, 0.3, -0.3),
        ("TranslateXRel", 6, 0.27, -0.27),
        ("TranslateYRel", 10, 0.45, -0.45),
    ],
)
def test_magnitudes_mean_what_they_mean_in_timm(name, magnitude, plus, minus):
    _, argument = OPERATIONS[name]
    strength = tf.constant(magnitude / 10, tf.float32)
    for sign, expected in ((1.0, plus), (-1.0, minus)):
        (value,) = argument(strength, tf.constant(sign))
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("magnitude", [2.5, 5.0, 7.5, 10.0])
def test_a_move_by_whole_pixels_changes_no_grey_level(magnitude):
    # 18, 36, 54 or 72 of 160; in single precision 54 is less than that.
    image = image_data.pixels(20, 160)
    operation, argument = OPERATIONS["TranslateXRel"]
    strength = tf.constant(magnitude / 10, tf.float32)
    moved = operation(image, *argument(strength, tf.constant(1.0)))
    pixels = round(7.2 * magnitude)
    np.testing.assert_array_equal(moved[:, :-pixels], image[:, pixels:])


# --- Draws. ---


def test_draws_are_those_of_the_first_version():
    # Else a resumed run would see other images than an unbroken one.
    choices, strengths, signs = _policy(layers=4).draw(_seed(7 << 32, 123_456))
    assert choices.numpy().tolist() == [28, 14, 22, 21]
    np.testing.assert_allclose(
        strengths, [0.5705553, 0.5868733, 0.5866823, 0.6609799], rtol=1e-6
    )
    assert signs.numpy().tolist() == [-1.0, 1.0, -1.0, -1.0]


def test_operations_are_drawn_alike_and_done_half_the_time():
    count = 15_000
    choices, _, signs = _draws(_policy(), _seeds(count))
    for layer in range(2):
        counts = np.bincount(choices[:, layer], minlength=30)
        assert len(counts) == 30
        # 500 each; the standard deviation is 22.
        assert np.all(np.abs(counts[:15] - count / 30) < 100)
        # Half of all; the standard deviation is 61.
        assert abs(counts[15:].sum() - count / 2) < 250
        assert abs(signs[:, layer].sum()) < 2 * 250
    assert set(signs.ravel()) == {-1.0, 1.0}


def test_draws_do_not_depend_on_each_other_or_on_the_crop():
    seeds = _seeds(4000)
    choices, strengths, signs = _draws(_policy(), seeds)
    crop = _map(
        lambda seed: tf.random.stateless_uniform([51], seed, alg="philox"),
        seeds,
        tf.float32,
    )
    drawn = np.column_stack([choices, strengths, signs])
    correlations = np.corrcoef(np.column_stack([drawn, crop]).T)[:6]
    np.fill_diagonal(correlations, 0)
    # Chance makes 0.016.
    assert np.abs(correlations).max() < 0.08


def test_strengths_are_normal():
    _, strengths, _ = _draws(_policy(), _seeds(5000))
    strengths = strengths.ravel()
    # Standard errors: 0.0005 and 0.0004.
    assert abs(strengths.mean() - 0.6) < 0.002
    assert abs(strengths.std() - 0.05) < 0.0016
    # 68.3 % within one standard deviation; its own is 0.5 %.
    assert abs(np.mean(np.abs(strengths - 0.6) < 0.05) - 0.683) < 0.02


@pytest.mark.parametrize(("magnitude", "limit"), [(0.0, 0.0), (10.0, 1.0)])
def test_strengths_are_clipped(magnitude, limit):
    policy = _policy(magnitude=magnitude, magnitude_std=3.0)
    _, strengths, _ = _draws(policy, _seeds(1000))
    assert strengths.min() >= 0.0 and strengths.max() <= 1.0
    # 1000 of 2000; the standard deviation is 22.
    assert abs(np.sum(strengths == limit) - 1000) < 100


def test_without_deviation_the_magnitude_is_the_same():
    _, strengths, _ = _draws(_policy(magnitude_std=0.0), _seeds(100))
    assert np.all(strengths == np.float32(0.6))


# --- Images. ---


@pytest.mark.parametrize("layers", [1, 2, 10])
def test_an_image_goes_through_what_was_drawn_one_after_another(layers):
    policy = _policy(layers=layers)
    original = tf.constant(image_data.pixels(_SIZE, 41))
    done = set()
    for number in range(40):
        seed = _seed(3, number)
        expected = original
        for choice, strength, sign in zip(*policy.draw(seed), strict=True):
            if choice < len(_NAMES):
                operation, argument = OPERATIONS[_NAMES[choice]]
                expected = operation(expected, *argument(strength, sign))
                done.add(_NAMES[choice])
        np.testing.assert_array_equal(policy(original, seed), expected)
    # Of 20 times the layers, so only many show all of them.
    assert len(done) == len(_NAMES) or layers < 10


def test_an_image_is_a_pure_function_of_the_seed():
    policy = _policy()
    original = tf.constant(image_data.pixels(_SIZE, _SIZE))
    augment = tf.function(lambda seed: policy(original, seed))
    images = {}
    # Either number matters, and 32 bits of each do not suffice.
    for seed in [(7, n) for n in range(200)] + [
        (8, 0),
        (7 + (1 << 32), 0),
        (7, 1 << 32),
        (0, 7),
    ]:
        images[seed] = augment(_seed(*seed)).numpy().tobytes()
    for seed in reversed(images):
        assert augment(_seed(*seed)).numpy().tobytes() == images[seed]
    # A quarter stays as it is, as nothing was done.
    same = list(images.values()).count(original.numpy().tobytes())
    assert 25 < same < 85
    # Five operations do not depend on the magnitude, or take whole numbers.
    assert len(set(images.values())) > 100


@pytest.fixture(scope="module")
def jpegs():
    return [
        image_data.encode(image_data.pixels(60, 80, seed)) for seed in range(8)
    ]


def _prepare(**knobs):
    return preprocessing.make_preprocessing(DataConfig(**knobs), _SIZE)


def test_crop_and_flip_stay_as_they_are(jpegs):
    plain, augmenting = _prepare(), _prepare(**_KNOBS)
    changed = 0
    for number in range(40):
        seed = _seed(11, number)
        jpeg = jpegs[number % len(jpegs)]
        image = plain.train_image(jpeg, seed)
        augmented = augmenting.train_image(jpeg, seed)
        np.testing.assert_array_equal(augmented, _policy()(image, seed))
        changed += not np.array_equal(augmented, image)
    # 30; the standard deviation is 3.
    assert 15 < changed < 40
    # Evaluation never augments.
    np.testing.assert_array_equal(
        plain.evaluation_image(jpegs[0]), augmenting.evaluation_image(jpegs[0])
    )


def test_threads_and_order_do_not_matter(jpegs):
    prepare = _prepare(**_KNOBS)
    count = 120
    seeds = _seeds(count)

    def images(order, threads):
        encoded = [jpegs[number % len(jpegs)] for number in order]
        dataset = tf.data.Dataset.from_tensor_slices((encoded, seeds[order]))
        dataset = dataset.map(
            prepare.train_image, num_parallel_calls=threads, deterministic=True
        )
        return np.stack(list(dataset.as_numpy_iterator()))

    order = np.arange(count)
    expected = images(order, 1)
    assert expected.shape == (count, _SIZE, _SIZE, 3)
    np.testing.assert_array_equal(images(order, 8), expected)
    np.testing.assert_array_equal(images(order[::-1], 8), expected[::-1])
