"""The knobs of the run itself: seed, work directory, what is written when."""

import dataclasses

from hvd_imagenet.knobs import Checked, recipe, site, value_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Checked):
    """Seed, work directory and what is written when."""

    seed: int = recipe(
        0,
        "Seed of weights, data order and augmentation.",
        minimum=0,
        maximum=2**31 - 1,
    )
    workdir: str | None = site(
        None,
        "Directory of the run: recipe, plan, metrics, checkpoints,"
        " TensorBoard. A run found there is resumed.",
    )
    init_from: str | None = recipe(
        None,
        "Begin with the weights of another run: a checkpoint file, or a run"
        " directory, of which the newest is taken. Averaged weights, if it has"
        " them (--ema_decay). Of another number of classes, all but the last"
        " layer. A run that is resumed has its own.",
    )
    evaluation_every_epochs: int = site(
        1,
        "Evaluate after every so many epochs; the last is always evaluated.",
        unit="epochs",
        minimum=1,
    )
    evaluation_batch_size_per_process: int | None = site(
        None,
        "Images that one process evaluates at once. Default:"
        " batch_size_per_process.",
        unit="images",
        minimum=1,
    )
    checkpoint_steps: int = site(
        0,
        "Write a checkpoint every so many steps, besides those at epoch ends."
        " 0: only at epoch ends.",
        unit="steps",
        minimum=0,
    )
    elastic: bool = site(
        False,
        "Go on when processes fail, leave or join, with as many as there are;"
        " under horovodrun with --min-np, --max-np and --host-discovery-script."
        " Where they cannot share the global batch, steps have the largest"
        " smaller one that they can (at least one micro-batch each), and the"
        " learning rate follows by the linear scaling rule. Of horovodrun:"
        " --elastic-timeout (600) is how many seconds it waits for enough"
        " hosts; --gloo-timeout-seconds (30) how soon a host that does not"
        " answer is noticed, and in how many a process that joins must have"
        " started; and with --blacklist-cooldown-range 2 8 a host is used"
        " again, after 2 to 8 seconds, where a process failed.",
    )
    commit_steps: int = site(
        20,
        "With --elastic, every process copies weights and optimizer state to"
        " its host's memory, and looks for new hosts, every so many steps and"
        " at epoch ends. A failure costs the steps since. The copy of"
        " ResNet-50 with momentum has 205 MB.",
        unit="steps",
        minimum=1,
    )
    keep_checkpoints: int = site(
        3, "Newest checkpoints to keep.", unit="files", minimum=1
    )
    check_replicas_steps: int = site(
        100,
        "Compare weights and optimizer state of all ranks, to the bit, every so"
        " many steps and before every checkpoint; the run ends where they"
        " differ, as a bit flipped in the memory of one. 0: never.",
        unit="steps",
        minimum=0,
    )
    log_steps: int = site(
        20,
        "Log loss, accuracy and speed every so many steps.",
        unit="steps",
        minimum=1,
    )
    layer_norm_steps: int = site(
        100,
        "Show the norms of weights and gradients of every layer, and LARS's"
        " trust ratios, in TensorBoard every so many steps and at epoch ends."
        " 0: only at epoch ends.",
        unit="steps",
        minimum=0,
    )
    profile_steps: tuple[int, ...] | None = site(
        None,
        "First and last step, counted from 1, of a profile of rank 0 for"
        " TensorBoard (with tensorboard-plugin-profile).",
        unit="steps",
        minimum=1,
    )
    stall_timeout_seconds: float = site(
        900.0,
        "End the job, naming who is missing, where a process says nothing or"
        " no process makes progress for so long. A step, and what is done"
        " between steps, must be shorter. 0: wait for ever.",
        unit="seconds",
        minimum=0.0,
    )
    dry_run: bool = site(
        False, "Print the plan of the run as one JSON object and exit."
    )
    world_size: int | None = site(
        None,
        "Number of processes to plan for, with --dry_run only. Default: those"
        " that were started.",
        unit="processes",
        minimum=1,
    )

    def __post_init__(self):
        super().__post_init__()
        steps = self.profile_steps
        if steps is not None and (len(steps) != 2 or steps[0] > steps[1]):
            said = value_text(steps)
            raise ValueError(
                f"--profile_steps={said} must be two numbers, the first step"
                " and the last, as in --profile_steps=101,110."
            )
