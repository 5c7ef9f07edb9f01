"""Learning rates: the golden vectors of Goyal et al. 2017, and their edges."""

import itertools

import pytest

from hvd_imagenet import schedule


# Goyal 2017, section 2.1 and Table 3a: 0.1 per 256 images.
@pytest.mark.parametrize(
    ("global_batch_size", "expected"),
    [
        (128, 0.05),
        (256, 0.1),
        (512, 0.2),
        (1024, 0.4),
        (2048, 0.8),
        (4096, 1.6),
        (8192, 3.2),
        (16384, 6.4),
        (32768, 12.8),
        (65536, 25.6),
    ],
)
def test_linear_scaling_gives_the_rates_of_the_paper(
    global_batch_size, expected
):
    rate = schedule.linear_scaling(0.1, 256, global_batch_size)
    assert rate == pytest.approx(expected, rel=1e-12)


def test_linear_scaling_of_another_base():
    # The two bases are not interchangeable: 17 per 8192 images is MLPerf's.
    assert schedule.linear_scaling(17.0, 8192, 4096) == 8.5


def _goyal(gradual=True, decay=None):
    """8,192 images per step, 156 steps per epoch, 5 epochs of warmup."""
    return schedule.Schedule(
        peak=3.2,
        warmup=schedule.Warmup(
            start=0.1, target=3.2, steps=780, gradual=gradual
        ),
        decay=decay or schedule.Constant(),
    )


# 0.1 + 3.1 x step / 780: the first step has the rate of a single server, not
# one increment more, and the first step after the warmup has the peak.
@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),
        (1, 0.103974359),
        (156, 0.72),
        (390, 1.65),
        (779, 3.196025641),
        (780, 3.2),
        (781, 3.2),
    ],
)
def test_gradual_warmup_golden_vector(step, expected):
    assert _goyal()(step) == pytest.approx(expected, rel=1e-9)


def test_gradual_warmup_rises_by_the_same_amount_at_every_step():
    rates = [_goyal()(step) for step in range(781)]
    increments = [b - a for a, b in itertools.pairwise(rates)]
    assert increments == pytest.approx([3.1 / 780] * 780, rel=1e-9)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.1), (390, 0.1), (779, 0.1), (780, 3.2)]
)
def test_constant_warmup_keeps_the_start_and_jumps(step, expected):
    assert _goyal(gradual=False)(step) == expected


def test_without_warmup_the_first_step_has_the_peak():
    rate = schedule.Schedule(
        peak=3.2,
        warmup=schedule.Warmup(start=0.1, target=3.2, steps=0),
        decay=schedule.Constant(),
    )
    assert rate(0) == 3.2


# Epochs 30, 60 and 80 of 156 steps. The boundary itself has the lower rate.
@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (780, 3.2),
        (4679, 3.2),
        (4680, 0.32),
        (9359, 0.32),
        (9360, 0.032),
        (12479, 0.032),
        (12480, 0.0032),
        (1_000_000, 0.0032),
    ],
)
def test_steps_lower_the_rate_at_the_boundary(step, expected):
    rate = _goyal(
        decay=schedule.Steps(boundaries=(4680, 9360, 12480), factor=0.1)
    )
    assert rate(step) == pytest.approx(expected, rel=1e-12)


def test_boundaries_within_the_warmup_count_from_the_start_of_the_run():
    rate = _goyal(decay=schedule.Steps(boundaries=(100,), factor=0.1))
    # The warmup does not know the decay; what follows it does.
    assert rate(100) == pytest.approx(0.1 + 3.1 * 100 / 780)
    assert rate(780) == pytest.approx(0.32)


# Half a cosine from the end of the warmup to the end of the run.
@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (780, 3.2),
        (780 + 3315, 0.5 * 3.2 * (1 + 2**-0.5)),  # A quarter: cos(pi / 4).
        (780 + 6630, 1.6),
        (780 + 9945, 0.5 * 3.2 * (1 - 2**-0.5)),
        (14040, 0.0),
        (20000, 0.0),
    ],
)
def test_cosine_golden_vector(step, expected):
    rate = _goyal(decay=schedule.Cosine(start=780, end=14040))
    assert rate(step) == pytest.approx(expected, abs=1e-12)


def test_cosine_falls_at_every_step():
    cosine = schedule.Cosine(start=100, end=400)
    values = [cosine(step) for step in range(100, 401)]
    assert values[0] == 1.0
    assert all(a > b for a, b in itertools.pairwise(values))


def test_cosine_of_no_steps_is_defined():
    # A run that is all warmup asks for it at its end.
    assert schedule.Cosine(start=780, end=780)(780) == 1.0


_BEGINNING = [
    (0, 0.00915781944),
    (1, 0.0136618612),
    (2, 0.0203811020),
    (5, 0.0676676416),
    (8, 0.224664482),
    (9, 0.335160023),
    (9.5, 0.409365377),
    (10, 0.5),
]


@pytest.mark.parametrize(
    ("slope", "epoch", "expected"),
    [
        *(("continuous", *row) for row in _BEGINNING),
        ("continuous", 10.5, 0.6),
        ("continuous", 11, 0.7),
        ("continuous", 12, 0.9),
        ("continuous", 12.5, 1.0),
        ("continuous", 90, 1.0),
        *(("printed", *row) for row in _BEGINNING),
        ("printed", 10.5, 0.7),
        ("printed", 11, 0.9),
        ("printed", 12, 1.3),
        ("printed", 12.5, 1.0),
        ("printed", 90, 1.0),
    ],
)
def test_golden_shares_of_akibas_transition(slope, epoch, expected):
    share = schedule.rmsprop_transition(epoch, slope=slope)
    assert share == pytest.approx(expected, rel=1e-8)


def test_the_default_transition_has_no_jump_in_value_or_slope():
    shares = [schedule.rmsprop_transition(0.001 * n) for n in range(14_000)]
    rises = [after - before for before, after in itertools.pairwise(shares)]
    assert min(rises) >= 0.0
    assert max(rises) == pytest.approx(0.001 / 5, rel=1e-6)
    # The slope jumps where the line ends, and nowhere before.
    changes = [abs(b - a) for a, b in itertools.pairwise(rises[:12_499])]
    assert max(changes) < 1e-7


def test_another_center_and_period():
    transition = schedule.rmsprop_transition
    assert transition(4, 4, 2) == 0.5
    assert transition(3, 4, 2) == pytest.approx(0.5 / 2.718281828)
    assert transition(4.5, 4, 2) == pytest.approx(0.75)
    assert transition(5, 4, 2) == 1.0


@pytest.mark.parametrize(
    "arguments", [{"slope": "steep"}, {"period_epochs": 0.0}]
)
def test_impossible_transitions_are_refused(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        schedule.rmsprop_transition(1.0, **arguments)


def test_polynomial_decay_has_mlperfs_golden_value():
    # MLPerf's reference: base 10, end 1e-4, power 2, 11,582 decay steps.
    decay = schedule.Polynomial(
        start=100, end=100 + 11582, power=2.0, end_share=1e-5
    )
    assert 10 * decay(100 + 5791) == pytest.approx(2.500075, rel=1e-9)
    assert 10 * decay(100) == pytest.approx(10)
    assert 10 * decay(100 + 11582) == pytest.approx(1e-4)
    assert decay(99) == 1.0 and decay(20000) == pytest.approx(1e-5)


def test_polynomial_decay_is_yous():
    # gamma0 * (1 - t/T)^2.
    decay = schedule.Polynomial(start=0, end=80, power=2.0)
    for step in (0, 1, 20, 79, 80):
        assert decay(step) == pytest.approx((1 - step / 80) ** 2)


_KNOTS = ((0, 10, 20, 20, 40), (0.0, 1.0, 1.0, 0.5, 0.1))


@pytest.mark.parametrize(
    ("step", "on_a_line", "constant"),
    [
        (0, 0.0, 0.0),
        (5, 0.5, 0.0),
        (10, 1.0, 1.0),
        (19, 1.0, 1.0),
        (20, 0.5, 0.5),
        (30, 0.3, 0.5),
        (39, 0.12, 0.5),
        (40, 0.1, 0.1),
        (99, 0.1, 0.1),
    ],
)
def test_piecewise_values_at_knots_between_and_beyond(
    step, on_a_line, constant
):
    steps, shares = _KNOTS
    for is_linear, expected in ((True, on_a_line), (False, constant)):
        decay = schedule.Piecewise(
            steps=steps, shares=shares, is_linear=is_linear
        )
        assert decay(step) == pytest.approx(expected, abs=1e-12)


def test_piecewise_begins_with_its_first_value():
    decay = schedule.Piecewise(steps=(5, 10), shares=(3.0, 1.0), is_linear=True)
    assert decay(0) == 3.0
