"""Chooses the cause of a layer's error among all whose rules hold."""

from tfcompress.diagnosis import form_causes, kernel_causes, other_causes
from tfcompress.diagnosis.case import Case, Cause

# The first that holds is the cause.
CERTAIN = (
    other_causes.not_finite,
    other_causes.batch_norm_statistics,
    other_causes.other_activation,
    other_causes.clipped_activations,
)
# Repairs: the one that explains most is; of those that explain nearly as much, the first.
REPAIRS = (
    form_causes.unlike_channels,
    kernel_causes.dead_channels,
    kernel_causes.wrong_scale,
    kernel_causes.moved_weights,
    kernel_causes.clipped_weights,
    other_causes.wrong_bias,
    kernel_causes.wrong_channel_scales,
    form_causes.outlier_range,
)
# Forms, each of which says at most how much it could be: the first of those that explain most.
FORMS = (
    form_causes.hash_collisions,
    form_causes.low_rank,
    form_causes.few_bits,
    form_causes.removed_weights,
    form_causes.own_form,
)
# What is left.
OTHERS = (
    form_causes.narrow_chain,
    other_causes.changed_kernel,
    other_causes.changed_weights,
    other_causes.extra_layer,
)
NEARLY = 0.1


def cause_of(case: Case) -> Cause | None:
    """Why a layer computes something else than the float one; None if no rule holds."""
    for rule in CERTAIN:
        if found := rule(case):
            return found
    if case.product is not None:
        changed = case.product.error.any()
        for rules in (REPAIRS, FORMS) if changed else ([other_causes.wrong_bias],):
            if found := [cause for rule in rules if (cause := rule(case))]:
                most = max(cause.explained for cause in found)
                return next(cause for cause in found if cause.explained >= most - NEARLY)
    return next((cause for rule in OTHERS if (cause := rule(case))), None)
